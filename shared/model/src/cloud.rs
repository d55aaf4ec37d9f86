//! Keys of the merchant's own for a bus or a topic, in place of the platform's.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{DestinationKind, Headers, Invalid};

/// Characters of an unknown member's name that an error shows.
const MAX_SHOWN: usize = 60;
const MAX_ID: usize = 128;
const MAX_SECRET: usize = 256;
/// A private key of 4,096 bits takes 3,300 bytes as PEM.
const MAX_PRIVATE_KEY: usize = 8 * 1024;
const MAX_EMAIL: usize = 320;

/// Text that `Debug` does not show. It is serialised only to be sealed.
#[derive(Debug, Clone)]
pub struct SecretText(SecretString);

impl SecretText {
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl PartialEq for SecretText {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CloudKey {
    Aws(AwsKey),
    Google(GoogleKey),
}

/// An access key, and the role to assume with it if there is one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AwsKey {
    pub access_key_id: String,
    pub secret_access_key: SecretText,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_arn: Option<String>,
    /// What the role's trust policy may ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
}

/// What is needed of the key file of a service account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GoogleKey {
    pub client_email: String,
    pub private_key_id: String,
    /// PEM, of an RSA key.
    pub private_key: SecretText,
}

impl CloudKey {
    /// What it is good for.
    pub fn kind(&self) -> DestinationKind {
        match self {
            Self::Aws(_) => DestinationKind::EventBridge,
            Self::Google(_) => DestinationKind::PubSub,
        }
    }

    /// What is looked for in answers, to be masked there.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let secret = match self {
            Self::Aws(key) => key.secret_access_key.expose(),
            Self::Google(key) => key.private_key.expose(),
        };
        std::iter::once(secret)
    }

    /// What may be told of it: an id, which tells two keys apart, and never the key.
    pub fn id(&self) -> &str {
        match self {
            Self::Aws(key) => &key.access_key_id,
            Self::Google(key) => &key.client_email,
        }
    }

    /// By the names that a request gives its members, with a mask in place of the secret: what is shown can be sent back.
    pub fn masked(&self) -> BTreeMap<&'static str, String> {
        let mask = || Headers::MASK.to_owned();
        match self {
            Self::Aws(AwsKey { access_key_id, secret_access_key: _, role_arn, external_id }) => {
                let mut members = BTreeMap::from([("accessKeyId", access_key_id.clone()), ("secretAccessKey", mask())]);
                members.extend(role_arn.clone().map(|arn| ("roleArn", arn)));
                members.extend(external_id.clone().map(|id| ("externalId", id)));
                members
            }
            Self::Google(GoogleKey { client_email, private_key_id, private_key: _ }) => BTreeMap::from([
                ("client_email", client_email.clone()),
                ("private_key_id", private_key_id.clone()),
                ("private_key", mask()),
            ]),
        }
    }
}

/// A key as a request gives it. A secret that is `***` is that of the same key before, which is looked at when it is applied.
#[derive(Debug, Clone, PartialEq)]
pub struct CloudKeyChange(CloudKey);

impl CloudKeyChange {
    /// Reads `{"accessKeyId", "secretAccessKey", "roleArn"?, "externalId"?}`, or the key file of a service account as it is. What is
    /// wrong names the member, and does not repeat its value.
    pub fn parse(json: &RawValue) -> Result<Self, Vec<Invalid>> {
        let form = || {
            let detail = "must be {\"accessKeyId\", \"secretAccessKey\"} for an event bus, or, for a topic, the JSON of a service \
                          account's key file; null for none";
            vec![Invalid::new("credentials", detail)]
        };
        let given = serde_json::from_str(json.get()).map_err(|_| form())?;
        let members = Members { given, wrong: Vec::new() };
        if ["client_email", "private_key"].iter().any(|name| members.has(name)) {
            return members.google();
        }
        if ["accessKeyId", "secretAccessKey"].iter().any(|name| members.has(name)) {
            return members.aws();
        }
        Err(form())
    }

    /// The key as it will be.
    pub fn apply(&self, before: Option<&CloudKey>) -> Result<CloudKey, Invalid> {
        match &self.0 {
            CloudKey::Aws(AwsKey { access_key_id, secret_access_key, role_arn, external_id }) => {
                let (role, external) = (role_arn.as_deref(), external_id.as_deref());
                AwsKey::parse(access_key_id, secret_access_key.expose(), role, external, before).map(CloudKey::Aws)
            }
            CloudKey::Google(GoogleKey { client_email, private_key_id, private_key }) => {
                GoogleKey::parse(client_email, private_key_id, private_key.expose(), before).map(CloudKey::Google)
            }
        }
    }
}

/// The members of what a request gives as a key, taken out one by one.
struct Members {
    given: BTreeMap<String, Box<RawValue>>,
    wrong: Vec<Invalid>,
}

impl Members {
    fn has(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    fn text(&mut self, name: &'static str) -> Option<String> {
        let read = serde_json::from_str(self.given.remove(name)?.get());
        if read.is_err() {
            self.wrong.push(Invalid::new(format!("credentials.{name}"), "must be a string"));
        }
        read.ok()
    }

    fn needed(&mut self, name: &'static str) -> String {
        if !self.has(name) {
            self.wrong.push(Invalid::new(format!("credentials.{name}"), "is missing"));
        }
        self.text(name).unwrap_or_default()
    }

    /// Other members of a key file are left: where it says that tokens are to be had, above all.
    fn google(mut self) -> Result<CloudKeyChange, Vec<Invalid>> {
        let (client_email, private_key_id) = (self.needed("client_email"), self.needed("private_key_id"));
        let private_key = self.needed("private_key");
        if !self.wrong.is_empty() {
            return Err(self.wrong);
        }
        // For now a mask stands for itself.
        let mask = SecretText::from(Headers::MASK.to_owned());
        let (email, id) = (client_email.clone(), private_key_id.clone());
        let masked = CloudKey::Google(GoogleKey { client_email, private_key_id, private_key: mask });
        let key = GoogleKey::parse(&email, &id, &private_key, Some(&masked)).map_err(|wrong| vec![wrong])?;
        Ok(CloudKeyChange(CloudKey::Google(key)))
    }

    fn aws(mut self) -> Result<CloudKeyChange, Vec<Invalid>> {
        let (access_key_id, secret_access_key) = (self.needed("accessKeyId"), self.needed("secretAccessKey"));
        let (role_arn, external_id) = (self.text("roleArn"), self.text("externalId"));
        for name in self.given.keys() {
            let shown: String = name.chars().take(MAX_SHOWN).collect();
            self.wrong.push(Invalid::new(format!("credentials.{shown}"), "is not a known field"));
        }
        if !self.wrong.is_empty() {
            return Err(self.wrong);
        }
        let (id, mask) = (access_key_id.clone(), SecretText::from(Headers::MASK.to_owned()));
        let masked = AwsKey { access_key_id, secret_access_key: mask, role_arn: None, external_id: None };
        let masked = CloudKey::Aws(masked);
        let (role, external) = (role_arn.as_deref(), external_id.as_deref());
        let key = AwsKey::parse(&id, &secret_access_key, role, external, Some(&masked)).map_err(|wrong| vec![wrong])?;
        Ok(CloudKeyChange(CloudKey::Aws(key)))
    }
}

impl AwsKey {
    /// Reads `{"accessKeyId", "secretAccessKey", "roleArn"?, "externalId"?}`. A secret that is `***` is that of `before`.
    pub fn parse(
        access_key_id: &str,
        secret_access_key: &str,
        role_arn: Option<&str>,
        external_id: Option<&str>,
        before: Option<&CloudKey>,
    ) -> Result<Self, Invalid> {
        let is_id = (16..=MAX_ID).contains(&access_key_id.len())
            && access_key_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_id {
            return Err(Invalid::new(
                "credentials.accessKeyId",
                "must be an access key id, such as AKIAIOSFODNN7EXAMPLE",
            ));
        }
        let secret_access_key = if secret_access_key == Headers::MASK {
            match before {
                Some(CloudKey::Aws(before)) if before.access_key_id == access_key_id => {
                    before.secret_access_key.clone()
                }
                _ => return Err(no_secret("credentials.secretAccessKey")),
            }
        } else {
            let is_secret = (1..=MAX_SECRET).contains(&secret_access_key.len())
                && secret_access_key.bytes().all(|byte| byte.is_ascii_graphic());
            if !is_secret {
                return Err(Invalid::new(
                    "credentials.secretAccessKey",
                    "must be the secret of the access key: 1 to 256 visible ASCII characters",
                ));
            }
            secret_access_key.to_owned().into()
        };
        if role_arn.is_some_and(|arn| !is_role(arn)) {
            return Err(Invalid::new(
                "credentials.roleArn",
                "must be the ARN of a role: arn:aws:iam::<account>:role/<name>",
            ));
        }
        let is_external_id = |id: &str| {
            (2..=1224).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@:/-_".contains(&byte))
        };
        if external_id.is_some_and(|id| !is_external_id(id)) {
            return Err(Invalid::new(
                "credentials.externalId",
                "must have 2 to 1224 letters, digits and + = , . @ : / - _",
            ));
        }
        if external_id.is_some() && role_arn.is_none() {
            return Err(Invalid::new("credentials.externalId", "is for a role: give roleArn too, or leave it out"));
        }
        Ok(Self {
            access_key_id: access_key_id.to_owned(),
            secret_access_key,
            role_arn: role_arn.map(str::to_owned),
            external_id: external_id.map(str::to_owned),
        })
    }
}

/// `arn:aws:iam::123456789012:role/shopery`
fn is_role(arn: &str) -> bool {
    let parts: Vec<_> = arn.splitn(6, ':').collect();
    let &["arn", "aws" | "aws-cn" | "aws-us-gov", "iam", "", account, resource] = parts.as_slice() else {
        return false;
    };
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    let name = resource.strip_prefix("role/").unwrap_or_default();
    is_account
        && (1..=576).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@-_/".contains(&byte))
}

impl GoogleKey {
    /// Reads the members of a key file. A private key that is `***` is that of `before`. Where the file says that tokens are to be
    /// had is left: we would connect to whatever host a tenant names there.
    pub fn parse(
        client_email: &str,
        private_key_id: &str,
        private_key: &str,
        before: Option<&CloudKey>,
    ) -> Result<Self, Invalid> {
        let is_email = client_email.len() <= MAX_EMAIL
            && client_email.contains('@')
            && client_email.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_email {
            return Err(Invalid::new(
                "credentials.client_email",
                "must be that of a service account: take the members of its key file as they are",
            ));
        }
        let is_id = (1..=MAX_ID).contains(&private_key_id.len())
            && private_key_id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_id {
            return Err(Invalid::new("credentials.private_key_id", "must be that of the key file: letters and digits"));
        }
        let private_key = if private_key == Headers::MASK {
            match before {
                Some(CloudKey::Google(before)) if before.private_key_id == private_key_id => before.private_key.clone(),
                _ => return Err(no_secret("credentials.private_key")),
            }
        } else {
            if private_key.len() > MAX_PRIVATE_KEY || !private_key.starts_with("-----BEGIN PRIVATE KEY-----") {
                return Err(Invalid::new(
                    "credentials.private_key",
                    "must be that of the key file: PEM, -----BEGIN PRIVATE KEY-----",
                ));
            }
            private_key.to_owned().into()
        };
        Ok(Self { client_email: client_email.to_owned(), private_key_id: private_key_id.to_owned(), private_key })
    }
}

fn no_secret(field: &'static str) -> Invalid {
    Invalid::new(field, "is *** in place of a value that is to stay, but there is none of this key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ID: &str = "AKIAIOSFODNN7EXAMPLE";
    const SECRET: &str = "a+secret/of/forty+characters";
    const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n";

    #[test]
    fn a_key_reads_back_and_debug_hides_it() {
        let aws =
            AwsKey::parse(ID, SECRET, Some("arn:aws:iam::123456789012:role/shopery"), Some("tnt_8w2k"), None).unwrap();
        let google = GoogleKey::parse("shop@shop-analytics.iam.gserviceaccount.com", "0a1b2c", PEM, None).unwrap();
        for key in [CloudKey::Aws(aws), CloudKey::Google(google)] {
            let json = serde_json::to_string(&key).unwrap();
            assert_eq!(serde_json::from_str::<CloudKey>(&json).unwrap(), key);
            for secret in key.secrets() {
                assert!(!format!("{key:?}").contains(secret) && json.contains(&secret[..6]));
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_not_repeated() {
        let role = "arn:aws:iam::123456789012:role/shopery";
        for (id, secret, role, external, field) in [
            ("short", SECRET, None, None, "accessKeyId"),
            ("AKIA IOSFODNN7EXAMPLE", SECRET, None, None, "accessKeyId"),
            (ID, "", None, None, "secretAccessKey"),
            (ID, "has a space", None, None, "secretAccessKey"),
            (ID, SECRET, Some("shopery"), None, "roleArn"),
            (ID, SECRET, Some("arn:aws:iam::1:role/shopery"), None, "roleArn"),
            (ID, SECRET, Some("arn:aws:iam::123456789012:user/shopery"), None, "roleArn"),
            (ID, SECRET, Some(role), Some("a b"), "externalId"),
            (ID, SECRET, None, Some("tnt_8w2k"), "externalId"),
            (ID, "***", None, None, "secretAccessKey"),
        ] {
            let error = AwsKey::parse(id, secret, role, external, None).unwrap_err();
            assert_eq!(error.field, format!("credentials.{field}"));
            assert!(secret.len() < 5 || !error.to_string().contains(secret));
        }
        for (email, id, key, field) in [
            ("shop", "0a1b", PEM, "client_email"),
            ("a@b", "", PEM, "private_key_id"),
            ("a@b", "0a1b", "MIIE", "private_key"),
            ("a@b", "0a1b", "***", "private_key"),
        ] {
            let error = GoogleKey::parse(email, id, key, None).unwrap_err();
            assert_eq!(error.field, format!("credentials.{field}"));
        }
    }

    #[test]
    fn a_mask_keeps_the_secret_of_the_same_key_alone() {
        let before = AwsKey::parse(ID, SECRET, None, None, None).map(CloudKey::Aws).unwrap();
        let role = "arn:aws:iam::123456789012:role/shopery";
        let kept = AwsKey::parse(ID, "***", Some(role), None, Some(&before)).unwrap();
        assert_eq!(kept.secret_access_key.expose(), SECRET);
        assert!(AwsKey::parse("AKIAIOSFODNN7ANOTHER", "***", None, None, Some(&before)).is_err());
        let before = GoogleKey::parse("a@b", "0a1b", PEM, None).map(CloudKey::Google).unwrap();
        assert_eq!(GoogleKey::parse("a@b", "0a1b", "***", Some(&before)).unwrap().private_key.expose(), PEM);
        assert!(GoogleKey::parse("a@b", "0a1c", "***", Some(&before)).is_err());
    }

    fn change(json: &serde_json::Value) -> Result<CloudKeyChange, Vec<Invalid>> {
        CloudKeyChange::parse(&RawValue::from_string(json.to_string()).unwrap())
    }

    #[test]
    fn what_is_shown_of_a_key_can_be_sent_back() {
        let role = "arn:aws:iam::123456789012:role/shopery";
        let aws = json!({ "accessKeyId": ID, "secretAccessKey": SECRET, "roleArn": role, "externalId": "tnt_8w2k" });
        // A key file, with members that we have no use for.
        let google = json!({
            "type": "service_account", "project_id": "shop-analytics", "private_key_id": "0a1b2c", "private_key": PEM,
            "client_email": "shop@shop-analytics.iam.gserviceaccount.com", "client_id": "1", "universe_domain": "evil.example",
            "token_uri": "https://evil.example/token",
        });
        for (given, kind, shown) in [
            (
                &aws,
                DestinationKind::EventBridge,
                json!({ "accessKeyId": ID, "secretAccessKey": "***", "roleArn": role, "externalId": "tnt_8w2k" }),
            ),
            (
                &google,
                DestinationKind::PubSub,
                json!({ "client_email": google["client_email"], "private_key_id": "0a1b2c", "private_key": "***" }),
            ),
        ] {
            let given = change(given).unwrap();
            let key = given.apply(None).unwrap();
            assert_eq!(key.kind(), kind);
            assert_eq!(json!(key.masked()), shown);
            assert_eq!(change(&shown).unwrap().apply(Some(&key)), Ok(key.clone()));
            // Of a key that there is not, there is nothing to keep.
            assert!(change(&shown).unwrap().apply(None).is_err());
            assert!(!format!("{given:?} {:?}", key.masked()).contains(&key.secrets().next().unwrap()[..20]));
        }
    }

    #[test]
    fn all_that_is_wrong_with_a_key_is_said_by_member() {
        for (given, fields) in [
            (json!(null), ["credentials"].as_slice()),
            (json!("AKIA"), &["credentials"]),
            (json!({}), &["credentials"]),
            (json!({ "type": "authorized_user", "refresh_token": "x" }), &["credentials"]),
            (json!({ "accessKeyId": ID }), &["credentials.secretAccessKey"]),
            (json!({ "secretAccessKey": 7 }), &["credentials.accessKeyId", "credentials.secretAccessKey"]),
            (
                json!({ "accessKeyId": ID, "secretAccessKey": SECRET, "sessionToken": "x" }),
                &["credentials.sessionToken"],
            ),
            (json!({ "accessKeyId": "short", "secretAccessKey": "***" }), &["credentials.accessKeyId"]),
            (json!({ "accessKeyId": ID, "secretAccessKey": "***", "roleArn": "x" }), &["credentials.roleArn"]),
            (json!({ "private_key": PEM }), &["credentials.client_email", "credentials.private_key_id"]),
            (json!({ "private_key": "x", "client_email": "a@b", "private_key_id": "1" }), &["credentials.private_key"]),
            (
                json!({ "private_key": "***", "client_email": "a", "private_key_id": "1" }),
                &["credentials.client_email"],
            ),
        ] {
            let wrong = change(&given).unwrap_err();
            let named: Vec<_> = wrong.iter().map(|invalid| invalid.field.as_ref()).collect();
            assert_eq!(named, fields, "{given}");
        }
    }
}
