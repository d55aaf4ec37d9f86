//! What a service must never say, in a log, a metric, a trace or an error. Every stack is searched for it when it ends,
//! so the whole suite is one search.

use std::sync::LazyLock;

use regex::bytes::RegexSet;

use crate::{stack, token};

/// What to look for, and what it is.
static FORBIDDEN: LazyLock<(Vec<&str>, RegexSet)> = LazyLock::new(|| {
    let of_the_suite = [
        ("the secret of tokens", token::SECRET),
        ("an encryption key", stack::KEYS.split_once(':').unwrap().1),
        ("the password of the services", stack::PASSWORD),
        ("the password of a publisher", stack::PUBLISHERS_PASSWORD),
        ("the platform's secret key of Amazon", "platforms+secret"),
        ("a merchant's secret key of Amazon", "merchants+own"),
        ("a payload", "Grüße aus Göteborg"),
        ("a payload", "Łukasz Żak"),
        ("a payload", "山田 太郎"),
    ];
    let of_this_form = [
        ("a secret of a webhook", "whsec_[A-Za-z0-9+/]{24}"),
        ("a signing key", "whsk_[A-Za-z0-9+/]{24}"),
        ("a private key", r"-----BEGIN PRIVATE KEY-----(\\n|\s)*[A-Za-z0-9+/]{8}"),
        ("a token", r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\."),
        ("a signature", "v1a?,[A-Za-z0-9+/]{40}"),
        ("a signature of Amazon", "Signature=[0-9a-f]{64}"),
        ("sealed credentials", r"v1\.[a-z]+\.[A-Za-z0-9+/_-]{40}"),
    ];
    let literal = of_the_suite.map(|(what, text)| (what, regex::escape(text)));
    let all = literal.into_iter().chain(of_this_form.map(|(what, form)| (what, form.to_owned())));
    let (names, forms): (Vec<_>, Vec<_>) = all.unzip();
    (names, RegexSet::new(forms).unwrap())
});

/// What of it is in here, and the line that has it.
pub fn find(said: &[u8]) -> Option<String> {
    let (names, forms) = &*FORBIDDEN;
    let which = forms.matches(said).into_iter().next()?;
    let line = said.split(|byte| *byte == b'\n').find(|line| forms.is_match(line)).unwrap_or_default();
    Some(format!("{}: {}", names[which], String::from_utf8_lossy(&line[..line.len().min(2000)])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud;

    #[test]
    fn what_must_not_be_said_is_found() {
        let token = token::mint(&["t"], token::ALL);
        for said in [
            "a log\nsecret=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n",
            &format!("Authorization: Bearer {token}"),
            &format!("Authorization: AWS4-HMAC-SHA256 Credential=A, Signature={}", "0a".repeat(32)),
            cloud::PLATFORM_KEY,
            cloud::OWN_KEY,
            r#"{"note":"Grüße aus Göteborg"}"#,
            "webhook-signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
            "the-services-nats-password",
            r#"{"private_key":"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADAN\n"}"#,
        ] {
            assert!(find(said.as_bytes()).is_some(), "{said}");
        }
        assert_eq!(find(b"whsec_ and 32 bytes, eyJ, v1, wbh_01HA4XCG60CT4G3EWF4CKYM1MF"), None);
        assert_eq!(find(b"must be PEM, -----BEGIN PRIVATE KEY-----"), None);
    }
}
