//! Keys of the merchant's own for a bus or a topic, in place of the platform's.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{DestinationKind, Headers, Invalid};

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
}
