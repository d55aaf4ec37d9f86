//! The keys that tokens are verified with, and which of them verifies which token.
//!
//! Invariant: a key verifies by the one algorithm that it is for. A token says which key it wants, by `kid`; what it
//! says of its algorithm can only be right or wrong. So no public key is ever taken for an HS256 secret.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Keys of a set that are looked at; those beyond are ignored.
const MAX_KEYS: usize = 64;

/// What a token must say of itself, whichever key it is signed with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checks {
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<String>,
    /// How far the clocks of the issuer and of this machine may be apart.
    pub(crate) leeway: Duration,
}

impl Checks {
    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.validate_nbf = true;
        validation.leeway = self.leeway.as_secs();
        let mut required = vec!["exp"];
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        match &self.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);
        validation
    }
}

/// A key with its algorithm.
#[derive(Clone)]
pub(crate) struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    pub(crate) key: DecodingKey,
    pub(crate) validation: Validation,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key {:?} {:?}", self.kid, self.algorithm)
    }
}

impl Key {
    pub(crate) fn of_secret(secret: &[u8], checks: &Checks) -> Self {
        Self::new(None, Algorithm::HS256, DecodingKey::from_secret(secret), checks)
    }

    fn new(kid: Option<String>, algorithm: Algorithm, key: DecodingKey, checks: &Checks) -> Self {
        Self { kid, algorithm, key, validation: checks.validation(algorithm) }
    }
}

/// The key of a set that a token wants. Without a `kid` there must be no choice.
pub(crate) fn wanted<'a>(keys: &'a [Key], header: &Header) -> Option<&'a Key> {
    let mut fitting = keys.iter().filter(|key| key.algorithm == header.alg);
    match &header.kid {
        Some(kid) => fitting.find(|key| key.kid.as_ref() == Some(kid)),
        None => fitting.next().filter(|_| fitting.next().is_none()),
    }
}

/// The members of a JWK (RFC 7517, 7518, 8037) that matter here.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// The keys of a JWKS that can verify tokens of ours, and how many others there are: those for encryption, for other
/// algorithms, malformed. A secret (`oct`) is one of those: what is public cannot be one.
pub(crate) fn parse(jwks: &[u8], checks: &Checks) -> Result<(Vec<Key>, usize), serde_json::Error> {
    #[derive(Deserialize)]
    struct Set<'a> {
        #[serde(borrow)]
        keys: Vec<&'a RawValue>,
    }
    let set: Set<'_> = serde_json::from_slice(jwks)?;
    let keys = set.keys.iter().take(MAX_KEYS).filter_map(|raw| read(raw, checks));
    let keys: Vec<_> = keys.collect();
    let others = set.keys.len() - keys.len();
    Ok((keys, others))
}

fn read(raw: &RawValue, checks: &Checks) -> Option<Key> {
    let jwk: Jwk = serde_json::from_str(raw.get()).ok()?;
    let is_for_signatures = jwk.usage.as_ref().is_none_or(|usage| usage == "sig")
        && jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    if !is_for_signatures {
        return None;
    }
    let (algorithm, key) = match (jwk.kty.as_str(), jwk.crv.as_deref(), jwk.alg.as_deref()) {
        ("RSA", _, None | Some("RS256")) => {
            (Algorithm::RS256, DecodingKey::from_rsa_components(jwk.n.as_ref()?, jwk.e.as_ref()?))
        }
        ("EC", Some("P-256"), None | Some("ES256")) => {
            (Algorithm::ES256, DecodingKey::from_ec_components(jwk.x.as_ref()?, jwk.y.as_ref()?))
        }
        ("OKP", Some("Ed25519"), None | Some("EdDSA" | "Ed25519")) => {
            (Algorithm::EdDSA, DecodingKey::from_ed_components(jwk.x.as_ref()?))
        }
        _ => return None,
    };
    Some(Key::new(jwk.kid, algorithm, key.ok()?, checks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read_all(keys: &Value) -> (Vec<Key>, usize) {
        parse(json!({ "keys": keys }).to_string().as_bytes(), &Checks::default()).unwrap()
    }

    fn ec(kid: &str) -> Value {
        json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": "AA", "y": "AA" })
    }

    #[test]
    fn a_key_that_is_not_for_our_tokens_is_left_out() {
        for (what, key) in [
            ("a secret", json!({ "kty": "oct", "k": "c2VjcmV0", "alg": "HS256" })),
            ("RSA said to be a secret", json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "HS256" })),
            ("another hash", json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "RS512" })),
            ("encryption", json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB", "use": "enc" })),
            ("signing alone", json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB", "key_ops": ["sign"] })),
            ("another curve", json!({ "kty": "EC", "crv": "P-384", "x": "AA", "y": "AA" })),
            ("Ed448", json!({ "kty": "OKP", "crv": "Ed448", "x": "AA" })),
            ("no modulus", json!({ "kty": "RSA", "e": "AQAB" })),
            ("no base64", json!({ "kty": "OKP", "crv": "Ed25519", "x": "!" })),
            ("no type", json!({ "n": "AQAB" })),
            ("no object", json!(7)),
        ] {
            let (keys, others) = read_all(&json!([key, ec("a")]));
            assert_eq!((keys.len(), others), (1, 1), "{what}");
        }
        assert!(parse(b"{}", &Checks::default()).is_err());
        assert!(parse(b"[]", &Checks::default()).is_err());
        assert_eq!(read_all(&json!([])).0.len(), 0);
    }

    #[test]
    fn a_token_gets_the_key_that_it_names_if_that_is_for_its_algorithm() {
        let (keys, _) = read_all(&json!([
            ec("a"),
            ec("b"),
            { "kty": "RSA", "kid": "r", "n": "AQAB", "e": "AQAB" },
            { "kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "AA" },
        ]));
        for (algorithm, kid, found) in [
            (Algorithm::ES256, Some("a"), true),
            (Algorithm::ES256, Some("b"), true),
            (Algorithm::EdDSA, Some("a"), true),
            (Algorithm::RS256, Some("r"), true),
            (Algorithm::RS256, Some("a"), false),
            (Algorithm::ES256, Some("c"), false),
            (Algorithm::HS256, Some("r"), false),
            (Algorithm::RS512, Some("r"), false),
            (Algorithm::PS256, Some("r"), false),
            // Without a name: only where there is no choice.
            (Algorithm::RS256, None, true),
            (Algorithm::ES256, None, false),
            (Algorithm::HS256, None, false),
        ] {
            let mut header = Header::new(algorithm);
            header.kid = kid.map(str::to_owned);
            let key = wanted(&keys, &header);
            assert_eq!(key.is_some(), found, "{algorithm:?} {kid:?}");
            assert!(key.is_none_or(|key| key.algorithm == algorithm));
        }
    }
}
