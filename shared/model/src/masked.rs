//! What may be told of a change of credentials: which of them were changed, never what they are.

use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::{Credentials, Headers, SigningKey};

/// One of the credentials, before and after; `None` where there was or is none. Secrets are masked.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskedChange {
    pub field: String,
    pub from: Option<Value>,
    pub to: Option<Value>,
}

impl MaskedChange {
    /// `before` is `None` for a webhook that is created.
    pub fn between(before: Option<&Credentials>, after: &Credentials, now: OffsetDateTime) -> Vec<Self> {
        let mut changes = Vec::new();
        let mask = || Some(Value::from(Headers::MASK));
        if before.is_none_or(|before| before.secret != after.secret) {
            changes.push(Self { field: "secret".to_owned(), from: before.and_then(|_| mask()), to: mask() });
        }
        // A public key is no secret.
        let public =
            |credentials: &Credentials| credentials.key.as_ref().map(|key| Value::from(SigningKey::public(key)));
        changes.extend(Self::of("publicKey", before.and_then(public), public(after)));
        let former = |credentials: &Credentials| Some(credentials.former(now).count()).filter(|count| *count > 0);
        let former = |credentials: &Credentials| former(credentials).map(Value::from);
        changes.extend(Self::of("previousSecrets", before.and_then(former), former(after)));
        // The ids of a key are no secrets, and tell which one it is.
        let key = |credentials: &Credentials| credentials.cloud.as_ref().map(|key| json!(key.masked()));
        let is_same_key = before.is_some_and(|before| before.cloud == after.cloud);
        match (before.and_then(key), key(after)) {
            (None, None) => {}
            _ if is_same_key => {}
            (from, to) => changes.push(Self { field: "credentials".to_owned(), from, to }),
        }
        changes.extend(Self::of_headers(before.map_or(&Headers::default(), |before| &before.headers), &after.headers));
        changes
    }

    fn of_headers(before: &Headers, after: &Headers) -> Vec<Self> {
        let mask = |_| Value::from(Headers::MASK);
        let value_in = |headers: &Headers, name: &str| {
            headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
        };
        let names: std::collections::BTreeSet<_> = before.iter().chain(after.iter()).map(|(name, _)| name).collect();
        let changed = names.into_iter().filter_map(|name| {
            let (from, to) = (value_in(before, name), value_in(after, name));
            let field = format!("headers.{name}");
            (from != to).then(|| Self { field, from: from.map(mask), to: to.map(mask) })
        });
        changed.collect()
    }

    fn of(field: &str, from: Option<Value>, to: Option<Value>) -> Option<Self> {
        (from != to).then(|| Self { field: field.to_owned(), from, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AwsKey, CloudKey, EndpointSecret, HeadersChange, Overlap};

    fn headers(given: &[(&str, &str)]) -> Headers {
        let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        HeadersChange::parse(given).unwrap().apply(&Headers::default()).unwrap()
    }

    #[test]
    fn what_was_changed_is_named_and_masked() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut before = Credentials::new(EndpointSecret::generate().unwrap());
        before.headers = headers(&[("A", "same"), ("B", "value b"), ("C", "gone")]);
        let told = |before, after: &Credentials| {
            let changes = MaskedChange::between(before, after, now);
            changes.into_iter().map(|change| json!([change.field, change.from, change.to])).collect::<Vec<_>>()
        };
        assert_eq!(told(Some(&before), &before), Vec::<Value>::new());
        let made = json!([
            ["secret", null, "***"],
            ["headers.A", null, "***"],
            ["headers.B", null, "***"],
            ["headers.C", null, "***"]
        ]);
        assert_eq!(Value::from(told(None, &before)), made);

        let mut after = before.clone();
        after.rotate(EndpointSecret::generate().unwrap(), Overlap::default(), now).unwrap();
        after.headers = headers(&[("A", "same"), ("B", "other"), ("D", "new")]);
        let changed = json!([
            ["secret", "***", "***"],
            ["previousSecrets", null, 1],
            ["headers.B", "***", "***"],
            ["headers.C", "***", null],
            ["headers.D", null, "***"],
        ]);
        assert_eq!(Value::from(told(Some(&before), &after)), changed);
    }

    #[test]
    fn a_key_of_a_cloud_is_told_apart_without_its_secret() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let without = Credentials::new(EndpointSecret::generate().unwrap());
        let key = |id: &str, secret: &str| {
            let mut credentials = without.clone();
            credentials.cloud = AwsKey::parse(id, secret, None, None, None).map(CloudKey::Aws).ok();
            credentials
        };
        let (first, rotated) = (key("AKIAIOSFODNN7EXAMPLE", "one"), key("AKIAIOSFODNN7EXAMPLE", "two"));
        let shown = json!({ "accessKeyId": "AKIAIOSFODNN7EXAMPLE", "secretAccessKey": "***" });
        for (before, after, from, to) in [
            (&without, &first, None, Some(&shown)),
            (&first, &rotated, Some(&shown), Some(&shown)),
            (&rotated, &without, Some(&shown), None),
        ] {
            let changes = MaskedChange::between(Some(before), after, now);
            let (from, to) = (from.cloned(), to.cloned());
            assert_eq!(changes, [MaskedChange { field: "credentials".to_owned(), from, to }]);
        }
        assert!(MaskedChange::between(Some(&first), &first.clone(), now).is_empty());
    }
}
