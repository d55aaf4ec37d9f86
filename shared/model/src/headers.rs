//! Headers that the owner of a webhook wants its deliveries to have, such as the `Authorization` of a gateway. Their
//! values are secrets.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Invalid;

const MAX_HEADERS: usize = 16;
const MAX_NAME_BYTES: usize = 64;
const MAX_VALUE_BYTES: usize = 1024;
const MAX_BYTES: usize = 4096;

/// Those that the connection, the HTTP client or the body decide about.
const RESERVED: [&str; 14] = [
    "connection",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];
/// Those that a delivery has of its own.
const RESERVED_PREFIXES: [&str; 3] = ["x-shopery-", "webhook-", "content-"];

/// By name, as its owner wrote it; no two names differ in case alone. `Debug` shows no value.
#[derive(Debug, Clone, Default)]
pub struct Headers(BTreeMap<String, SecretString>);

/// Headers in place of those that there are. `None` is for a value that is to stay: it was sent back as we show it.
#[derive(Debug, Clone, Default)]
pub struct HeadersChange(Vec<(String, Option<SecretString>)>);

impl Headers {
    /// What is shown in place of a value.
    pub const MASK: &str = "***";

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.expose_secret()))
    }

    /// The names, each with the mask.
    pub fn masked(&self) -> BTreeMap<String, &'static str> {
        self.0.keys().map(|name| (name.clone(), Self::MASK)).collect()
    }

    fn value(&self, name: &str) -> Option<&SecretString> {
        self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl HeadersChange {
    /// What is wrong names the header, and does not repeat its value.
    pub fn parse(given: Vec<(String, SecretString)>) -> Result<Self, Vec<Invalid>> {
        if given.len() > MAX_HEADERS {
            return Err(vec![Invalid::new("headers", format!("must be at most {MAX_HEADERS}"))]);
        }
        let mut wrong = Vec::new();
        for (index, (name, value)) in given.iter().enumerate() {
            let is_repeated = given[..index].iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
            let fault = check_name(name).or(is_repeated.then_some("is there twice: case makes no difference"));
            if let Some(fault) = fault.or_else(|| check_value(value.expose_secret())) {
                wrong.push(invalid(name, fault));
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let kept = |value: &SecretString| value.expose_secret() == Headers::MASK;
        Ok(Self(given.into_iter().map(|(name, value)| (name, (!kept(&value)).then_some(value))).collect()))
    }

    /// The headers as they will be.
    pub fn apply(&self, stored: &Headers) -> Result<Headers, Invalid> {
        let mut headers = BTreeMap::new();
        for (name, value) in &self.0 {
            let Some(value) = value.as_ref().or_else(|| stored.value(name)) else {
                return Err(invalid(name, "is *** in place of a value that is to stay, but there is none"));
            };
            headers.insert(name.clone(), value.clone());
        }
        let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.expose_secret().len()).sum();
        if bytes > MAX_BYTES {
            return Err(Invalid::new(
                "headers",
                format!("must have at most {MAX_BYTES} bytes, names and values together"),
            ));
        }
        Ok(Headers(headers))
    }
}

/// A name is user's text: the error shows no more of it than helps to find it.
fn invalid(name: &str, fault: &'static str) -> Invalid {
    let shown: String = name.chars().take(MAX_NAME_BYTES).collect();
    Invalid::new(format!("headers.{shown}"), fault)
}

fn check_name(name: &str) -> Option<&'static str> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let lower = name.to_ascii_lowercase();
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(is_token) {
        Some("is no header name: 1 to 64 letters, digits and hyphens")
    } else if RESERVED_PREFIXES.iter().any(|prefix| lower.starts_with(prefix)) {
        Some("is reserved: X-Shopery-…, webhook-… and Content-… are ours to set")
    } else if RESERVED.contains(&lower.as_str()) {
        Some("is reserved: it belongs to the connection")
    } else {
        None
    }
}

fn check_value(value: &str) -> Option<&'static str> {
    let is_plain = value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && value.trim() == value;
    let is_good = is_plain && (1..=MAX_VALUE_BYTES).contains(&value.len());
    (!is_good).then_some("must be 1 to 1024 visible ASCII characters, with spaces only between them")
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[(&str, &str)]) -> Result<HeadersChange, Vec<Invalid>> {
        HeadersChange::parse(given.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect())
    }

    fn headers(given: &[(&str, &str)]) -> Headers {
        parse(given).unwrap().apply(&Headers::default()).unwrap()
    }

    #[test]
    fn reserved_and_impossible_names_are_refused_by_name() {
        for name in [
            "X-Shopery-Secret",
            "x-shopery-anything",
            "Webhook-Id",
            "Content-Type",
            "content-length",
            "Host",
            "Connection",
            "Transfer-Encoding",
            "TE",
            "Upgrade",
            "User-Agent",
            "Proxy-Authorization",
            "",
            "a b",
            "a:",
            "ä",
            "a\r\nb",
            &"x".repeat(65),
        ] {
            let wrong = parse(&[("X-Good", "1"), (name, "the-secret-value")]).unwrap_err();
            let shown: String = name.chars().take(64).collect();
            assert_eq!(wrong.len(), 1, "{name}");
            assert_eq!(wrong[0].field, format!("headers.{shown}"));
            assert!(!wrong[0].to_string().contains("the-secret-value"));
        }
        for name in ["Authorization", "X-Api-Key", "x_1", "Cookie"] {
            assert!(parse(&[(name, "a value, with = and spaces")]).is_ok(), "{name}");
        }
        assert_eq!(parse(&[("X-A", "1"), ("x-a", "2")]).unwrap_err()[0].field, "headers.x-a");
    }

    #[test]
    fn values_and_their_number_are_bounded() {
        let long = "x".repeat(MAX_VALUE_BYTES + 1);
        for value in ["", " a", "a ", "a\nb", "a\0b", "ä", "\t", &long] {
            let wrong = parse(&[("X-A", value)]).unwrap_err();
            assert_eq!(wrong[0].field, "headers.X-A", "{value:?}");
        }
        let full = &long[1..];
        let names: Vec<_> = (0..=MAX_HEADERS).map(|number| format!("X-{number}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
        assert!(parse(&many[1..]).is_ok());
        assert_eq!(parse(&many).unwrap_err()[0].field, "headers");
        let large: Vec<_> = names.iter().take(4).map(|name| (name.as_str(), full)).collect();
        assert_eq!(parse(&large).unwrap().apply(&Headers::default()).unwrap_err().field, "headers");
        // Nor by values that stay.
        let stored = headers(&large[..3]);
        let kept = [(large[0].0, "***"), (large[1].0, "***"), (large[2].0, "***"), ("X-More", full)];
        assert_eq!(parse(&kept).unwrap().apply(&stored).unwrap_err().field, "headers");
    }

    #[test]
    fn a_change_replaces_all_and_a_mask_keeps_a_value() {
        let stored = headers(&[("Authorization", "Bearer one"), ("X-Old", "old")]);
        let changed = parse(&[("authorization", "***"), ("X-New", "new")]).unwrap().apply(&stored).unwrap();
        assert_eq!(changed, headers(&[("authorization", "Bearer one"), ("X-New", "new")]));
        let shown = changed.masked();
        assert_eq!(
            shown.into_iter().collect::<Vec<_>>(),
            [("X-New".to_owned(), "***"), ("authorization".to_owned(), "***")]
        );
        let unknown = parse(&[("X-Other", "***")]).unwrap().apply(&stored).unwrap_err();
        assert_eq!(unknown.field, "headers.X-Other");
        assert!(parse(&[]).unwrap().apply(&stored).unwrap().is_empty());
    }

    #[test]
    fn headers_read_back_and_debug_hides_their_values() {
        let headers = headers(&[("Authorization", "Bearer one"), ("X-Old", "old")]);
        let json = serde_json::to_string(&headers).unwrap();
        assert_eq!(serde_json::from_str::<Headers>(&json).unwrap(), headers);
        assert!(!format!("{headers:?}").contains("Bearer"), "{headers:?}");
        let change = parse(&[("X-A", "secretive")]).unwrap();
        assert!(!format!("{change:?}").contains("secretive"), "{change:?}");
    }
}
