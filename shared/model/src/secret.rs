//! Endpoint secrets and the Standard Webhooks signature made with them.

use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Invalid;

const PREFIX: &str = "whsec_";

/// The secret that a merchant and Shopery share: `whsec_` and the base64 of 24 to 64 bytes.
///
/// `Debug` does not show it. It is serialised only to be sealed, and in the answer of the secret call.
#[derive(Debug, Clone)]
pub struct EndpointSecret(SecretString);

impl EndpointSecret {
    /// 32 bytes from the operating system.
    pub fn generate() -> Result<Self, Invalid> {
        let mut key = [0; 32];
        rand::fill(&mut key)
            .map_err(|_| Invalid::new("secret", "the operating system gave no random bytes; try again"))?;
        Ok(Self(format!("{PREFIX}{}", STANDARD.encode(key)).into()))
    }

    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let key = text.strip_prefix(PREFIX).and_then(|key| STANDARD.decode(key).ok());
        match key {
            Some(key) if (24..=64).contains(&key.len()) => Ok(Self(text.to_owned().into())),
            // The text stays out of the error: it is, or was meant to be, a secret.
            _ => Err(Invalid::new("secret", "must be whsec_ and the base64 of 24 to 64 random bytes; or leave it out")),
        }
    }

    /// The whole secret, as the merchant knows it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// A signature of Standard Webhooks: HMAC-SHA256 over `<webhook-id>.<webhook-timestamp>.<body>`, version `v1`.
    /// `timestamp` is in seconds since the Unix epoch.
    pub fn sign(&self, webhook_id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.key()));
        mac.update(webhook_id.as_bytes());
        mac.update(format!(".{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.sign()))
    }

    fn key(&self) -> Vec<u8> {
        self.expose().strip_prefix(PREFIX).and_then(|key| STANDARD.decode(key).ok()).unwrap_or_default()
    }
}

impl PartialEq for EndpointSecret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Serialize for EndpointSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for EndpointSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_one_of_the_specification() {
        // The example of the Standard Webhooks specification.
        let secret = EndpointSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert_eq!(
            secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn a_generated_secret_reads_back_and_debug_hides_it() {
        let secret = EndpointSecret::generate().unwrap();
        assert_eq!(EndpointSecret::parse(secret.expose()), Ok(secret.clone()));
        assert!(!format!("{secret:?}").contains(&secret.expose()[6..]));
    }

    #[test]
    fn a_bad_secret_is_refused_and_not_repeated() {
        for text in
            ["", "whsec_", "whsec_AAAA", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS!"]
        {
            let error = EndpointSecret::parse(text).unwrap_err().to_string();
            assert!(text.len() < 7 || !error.contains(text));
        }
    }
}
