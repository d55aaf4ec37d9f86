//! The asymmetric signature of Standard Webhooks: Ed25519, whose public key a receiver may show to anybody.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Invalid;

const PRIVATE: &str = "whsk_";
const PUBLIC: &str = "whpk_";
const SEED_BYTES: usize = 32;

/// An Ed25519 key: `whsk_` and the base64 of its seed. We alone have it; receivers are shown [`SigningKey::public`].
///
/// `Debug` does not show it. It is serialised only to be sealed.
#[derive(Clone)]
pub struct SigningKey {
    text: SecretString,
    pair: Arc<Ed25519KeyPair>,
}

impl SigningKey {
    pub fn generate() -> Result<Self, Invalid> {
        let mut seed = Zeroizing::new([0; SEED_BYTES]);
        let made = rand::fill(&mut *seed).ok().and_then(|()| Self::of_seed(&*seed));
        made.ok_or_else(|| Invalid::new("signature", "the operating system gave no random bytes; try again"))
    }

    /// As it is given to receivers: `whpk_` and the base64 of 32 bytes.
    pub fn public(&self) -> String {
        format!("{PUBLIC}{}", STANDARD.encode(self.pair.public_key()))
    }

    /// A signature of Standard Webhooks over `<webhook-id>.<webhook-timestamp>.<body>`, version `v1a`.
    pub fn sign(&self, webhook_id: &str, timestamp: i64, body: &[u8]) -> String {
        let text = [format!("{webhook_id}.{timestamp}.").as_bytes(), body].concat();
        format!("v1a,{}", STANDARD.encode(self.pair.sign(&text)))
    }

    fn of_seed(seed: &[u8]) -> Option<Self> {
        let pair = Arc::new(Ed25519KeyPair::from_seed_unchecked(seed).ok()?);
        Some(Self { text: format!("{PRIVATE}{}", STANDARD.encode(seed)).into(), pair })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public()).finish()
    }
}

impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        self.text.expose_secret() == other.text.expose_secret()
    }
}

impl Serialize for SigningKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text.expose_secret())
    }
}

impl<'de> Deserialize<'de> for SigningKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let seed = text.strip_prefix(PRIVATE).and_then(|seed| STANDARD.decode(seed).ok()).map(Zeroizing::new);
        seed.and_then(|seed| Self::of_seed(&seed)).ok_or_else(|| serde::de::Error::custom("not a signing key"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    #[test]
    fn the_public_key_that_is_shown_verifies_what_was_signed() {
        let key = SigningKey::generate().unwrap();
        let signature = key.sign("msg_1", 1_614_265_330, b"{}");
        let signature = STANDARD.decode(signature.strip_prefix("v1a,").unwrap()).unwrap();
        let public = STANDARD.decode(key.public().strip_prefix("whpk_").unwrap()).unwrap();
        let public = UnparsedPublicKey::new(&ED25519, public);
        assert!(public.verify(b"msg_1.1614265330.{}", &signature).is_ok());
        assert!(public.verify(b"msg_1.1614265330.{} ", &signature).is_err());
    }

    /// The first test of RFC 8032, section 7.1.
    #[test]
    fn the_key_is_the_one_of_its_seed() {
        let key: SigningKey = serde_json::from_str("\"whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=\"").unwrap();
        assert_eq!(key.public(), "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
    }

    #[test]
    fn a_key_reads_back_and_debug_hides_it() {
        let key = SigningKey::generate().unwrap();
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<SigningKey>(&json).unwrap(), key);
        assert!(!format!("{key:?}").contains(&json[6..json.len() - 1]));
        for bad in ["\"\"", "\"whsk_\"", "\"whsk_AAAA\"", "\"whsk_!\"", "7"] {
            let error = serde_json::from_str::<SigningKey>(bad).unwrap_err().to_string();
            assert!(!error.contains("AAAA"), "{error}");
        }
    }
}
