//! What is secret of a webhook, and what a delivery proves itself with.
//!
//! A rotation puts a new secret in place of the present one, which stays valid beside it for an overlap: until its end a
//! delivery has the signatures of both, newest first, so that a receiver may change over at any time in between.
//! Invariant: there is always a signature, and never more than [`MAX_FORMER`] rotations' beside the newest.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{CloudKey, EndpointSecret, Headers, Invalid, SignatureKind, SigningKey};

/// Former secrets that are valid beside the present one. A further rotation ends the oldest.
const MAX_FORMER: usize = 2;
/// Shorter header values are not looked for in answers.
const LEAST_HIDDEN: usize = 8;
const MAX_OVERLAP: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// In memory where it is used, sealed where it is stored. `Debug` shows none of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Credentials {
    pub secret: EndpointSecret,
    /// From when an asymmetric signature was first asked for.
    pub key: Option<SigningKey>,
    /// Newest first; some may have ended.
    former: Vec<Former>,
    /// Sent with every delivery.
    pub headers: Headers,
    /// The merchant's own, for a bus or topic; the platform's if there is none.
    pub cloud: Option<CloudKey>,
}

/// What was in use before a rotation, and signs until the overlap ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Former {
    pub secret: EndpointSecret,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<SigningKey>,
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
}

/// As it is sealed.
#[derive(Serialize, Deserialize)]
struct Text {
    secret: EndpointSecret,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<SigningKey>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    former: Vec<Former>,
    #[serde(default, skip_serializing_if = "Headers::is_empty")]
    headers: Headers,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cloud: Option<CloudKey>,
}

impl Credentials {
    pub fn new(secret: EndpointSecret) -> Self {
        Self { secret, key: None, former: Vec::new(), headers: Headers::default(), cloud: None }
    }

    /// Puts a secret in place of the present one, and a key of its own in place of the key if there is one. An overlap
    /// of nothing ends all former ones at once. A repeat with the secret that is there already changes nothing else.
    pub fn rotate(&mut self, secret: EndpointSecret, overlap: Overlap, now: OffsetDateTime) -> Result<(), Invalid> {
        self.former.retain(|former| former.until > now);
        if secret != self.secret {
            let key = self.key.as_ref().map(|_| SigningKey::generate()).transpose()?;
            let former = Former {
                secret: std::mem::replace(&mut self.secret, secret),
                key: std::mem::replace(&mut self.key, key),
                until: now + overlap.0,
            };
            self.former.insert(0, former);
        }
        if overlap.0.is_zero() {
            self.former.clear();
        }
        self.former.retain(|former| former.secret != self.secret);
        self.former.truncate(MAX_FORMER);
        Ok(())
    }

    /// Puts a secret in place of all there are, at once.
    pub fn replace(&mut self, secret: EndpointSecret) {
        self.secret = secret;
        self.former.clear();
    }

    /// What is still valid of former rotations, newest first.
    pub fn former(&self, now: OffsetDateTime) -> impl Iterator<Item = &Former> {
        self.former.iter().filter(move |former| former.until > now)
    }

    /// The value of `webhook-signature`: one signature, or several with spaces between, newest first. `now` in seconds
    /// since the Unix epoch is what they sign as `webhook-timestamp`.
    pub fn signatures(&self, kind: SignatureKind, webhook_id: &str, now: OffsetDateTime, body: &[u8]) -> String {
        let timestamp = now.unix_timestamp();
        let symmetric = |secret: &EndpointSecret| secret.sign(webhook_id, timestamp, body);
        let asymmetric = |key: &SigningKey| key.sign(webhook_id, timestamp, body);
        let present = (&self.secret, self.key.as_ref());
        let former = self.former(now).map(|former| (&former.secret, former.key.as_ref()));
        let mut signatures = Vec::with_capacity(1);
        for (secret, key) in std::iter::once(present).chain(former) {
            let key = key.filter(|_| kind.is_asymmetric());
            signatures.extend(kind.is_symmetric().then(|| symmetric(secret)));
            signatures.extend(key.map(asymmetric));
        }
        if signatures.is_empty() {
            // There is no key: whoever asked for it has none to verify with either.
            signatures.push(symmetric(&self.secret));
        }
        signatures.join(" ")
    }

    /// What an endpoint has answered, without the secrets that it was sent: some answer with the request. A header value
    /// of fewer than [`LEAST_HIDDEN`] bytes is left, as it would blot out words.
    pub fn hide_in(&self, text: String) -> String {
        let secrets = std::iter::once(&self.secret).chain(self.former.iter().map(|former| &former.secret));
        let secrets = secrets.map(|secret| secret.expose().trim_start_matches("whsec_"));
        let values = self.headers.iter().map(|(_, value)| value).filter(|value| value.len() >= LEAST_HIDDEN);
        let keys = self.cloud.iter().flat_map(CloudKey::secrets);
        secrets.chain(values).chain(keys).fold(text, |text, hidden| {
            let text = if text.contains(hidden) { text.replace(hidden, Headers::MASK) } else { text };
            // As some write JSON.
            let escaped = if hidden.contains('/') { hidden.replace('/', "\\/") } else { return text };
            if text.contains(&escaped) { text.replace(&escaped, Headers::MASK) } else { text }
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { secret, key, former, headers, cloud } = self.clone();
        // Strings and times always serialise.
        serde_json::to_vec(&Text { secret, key, former, headers, cloud }).unwrap_or_default()
    }

    pub(crate) fn decode(text: &[u8]) -> Option<Self> {
        let Text { secret, key, former, headers, cloud } = serde_json::from_slice(text).ok()?;
        Some(Self { secret, key, former, headers, cloud })
    }
}

/// How long a former secret stays valid: up to 7 days, 24 hours unless it is said, written as `24h`; `0s` is not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap(Duration);

impl Default for Overlap {
    fn default() -> Self {
        Self(Duration::from_secs(24 * 60 * 60))
    }
}

impl FromStr for Overlap {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let overlap = humantime::parse_duration(text).ok().filter(|overlap| *overlap <= MAX_OVERLAP);
        overlap.map(Self).ok_or_else(|| Invalid::new("overlap", "must be a duration from 0s to 7d, such as 24h"))
    }
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const START: OffsetDateTime = datetime!(2026-11-24 10:00 UTC);
    const HOUR: Duration = Duration::from_secs(60 * 60);

    fn secret(number: u8) -> EndpointSecret {
        use base64::Engine;
        let key = base64::engine::general_purpose::STANDARD.encode([number; 32]);
        EndpointSecret::parse(&format!("whsec_{key}")).unwrap()
    }

    fn former(credentials: &Credentials, now: OffsetDateTime) -> Vec<(EndpointSecret, OffsetDateTime)> {
        credentials.former(now).map(|former| (former.secret.clone(), former.until)).collect()
    }

    fn signatures(credentials: &Credentials, kind: SignatureKind, now: OffsetDateTime) -> Vec<String> {
        credentials.signatures(kind, "msg_1", now, b"{}").split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn both_sign_until_the_overlap_ends() {
        let mut credentials = Credentials::new(secret(1));
        let sign = |number, now: OffsetDateTime| secret(number).sign("msg_1", now.unix_timestamp(), b"{}");
        credentials.rotate(secret(2), Overlap(HOUR), START).unwrap();
        for (now, signers) in [(START, [2, 1].as_slice()), (START + HOUR * 59 / 60, &[2, 1]), (START + HOUR, &[2])] {
            let expected: Vec<_> = signers.iter().map(|number| sign(*number, now)).collect();
            assert_eq!(signatures(&credentials, SignatureKind::Symmetric, now), expected, "{now}");
        }
    }

    #[test]
    fn a_further_rotation_ends_the_oldest() {
        let mut credentials = Credentials::new(secret(1));
        for number in 2..=5 {
            credentials.rotate(secret(number), Overlap(HOUR * u32::from(number)), START).unwrap();
        }
        assert_eq!(credentials.secret, secret(5));
        assert_eq!(former(&credentials, START), [(secret(4), START + HOUR * 5), (secret(3), START + HOUR * 4)]);
        // A repeat changes nothing, a way back leaves each secret once, and an overlap of nothing ends them all.
        let before = credentials.clone();
        credentials.rotate(secret(5), Overlap(HOUR), START).unwrap();
        assert_eq!(credentials, before);
        credentials.rotate(secret(4), Overlap(HOUR), START).unwrap();
        assert_eq!(former(&credentials, START), [(secret(5), START + HOUR), (secret(3), START + HOUR * 4)]);
        credentials.rotate(secret(4), "0s".parse().unwrap(), START).unwrap();
        assert_eq!((&credentials.secret, former(&credentials, START)), (&secret(4), vec![]));
    }

    #[test]
    fn each_kind_has_its_signatures_and_there_is_always_one() {
        let versions = |credentials: &Credentials, kind| {
            let all = signatures(credentials, kind, START);
            all.iter().map(|one| one.split_once(',').unwrap().0.to_owned()).collect::<Vec<_>>()
        };
        let mut credentials = Credentials::new(secret(1));
        use SignatureKind::{Asymmetric, Both, Symmetric};
        for kind in [Symmetric, Asymmetric, Both] {
            assert_eq!(versions(&credentials, kind), ["v1"], "{kind:?}");
        }
        let key = SigningKey::generate().unwrap();
        credentials.key = Some(key.clone());
        credentials.rotate(secret(2), Overlap::default(), START).unwrap();
        assert_ne!(credentials.key, Some(key.clone()), "the key is rotated with the secret");
        assert_eq!(versions(&credentials, Symmetric), ["v1", "v1"]);
        assert_eq!(versions(&credentials, Asymmetric), ["v1a", "v1a"]);
        assert_eq!(versions(&credentials, Both), ["v1", "v1a", "v1", "v1a"]);
        assert_eq!(signatures(&credentials, Asymmetric, START)[1], key.sign("msg_1", START.unix_timestamp(), b"{}"));
        credentials.replace(secret(3));
        assert_eq!(versions(&credentials, Both), ["v1", "v1a"]);
    }

    #[test]
    fn credentials_read_back_and_debug_hides_them() {
        let mut credentials = Credentials::new(secret(1));
        credentials.key = Some(SigningKey::generate().unwrap());
        let given = vec![("X-A".to_owned(), "a value".into())];
        credentials.headers = crate::HeadersChange::parse(given).unwrap().apply(&Headers::default()).unwrap();
        credentials.rotate(secret(2), Overlap::default(), START).unwrap();
        assert_eq!(Credentials::decode(&credentials.encode()), Some(credentials.clone()));
        for number in [1, 2] {
            assert!(!format!("{credentials:?}").contains(&secret(number).expose()[6..]));
        }
        assert_eq!(Credentials::decode(b"{}"), None);
    }

    #[test]
    fn what_an_endpoint_repeats_is_hidden() {
        let given = [("Authorization", "Bearer a/b-token"), ("X-Short", "of")];
        let given = given.map(|(name, value)| (name.to_owned(), value.into())).to_vec();
        let mut credentials =
            Credentials::new(EndpointSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2L/LaSw").unwrap());
        credentials.headers = crate::HeadersChange::parse(given).unwrap().apply(&Headers::default()).unwrap();
        credentials.rotate(secret(2), Overlap::default(), START).unwrap();
        let answer = format!(
            r#"{{"a":"{}","b":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2L\/LaSw","c":"Bearer a\/b-token of Bearer a/b-token"}}"#,
            secret(2).expose()
        );
        let hidden = r#"{"a":"whsec_***","b":"whsec_***","c":"*** of ***"}"#;
        assert_eq!(credentials.hide_in(answer), hidden);
        assert_eq!(credentials.hide_in("ok".to_owned()), "ok");
    }

    #[test]
    fn an_overlap_is_within_bounds() {
        for (text, read) in [
            ("0s", Some(Duration::ZERO)),
            ("24h", Some(HOUR * 24)),
            ("7d", Some(HOUR * 168)),
            ("7d 1s", None),
            ("", None),
            ("-1h", None),
            ("24", None),
        ] {
            assert_eq!(text.parse().ok(), read.map(Overlap), "{text}");
        }
        assert_eq!(Overlap::default(), "24h".parse().unwrap());
    }
}
