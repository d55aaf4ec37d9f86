//! Encryption at rest: what of a webhook is secret is stored sealed, in SQL and in CONFIG alike, and only whoever has
//! the key can open it.
//!
//! Sealed is AES-256-GCM under a random nonce, written as `v1.<key id>.<base64 of nonce, ciphertext and tag>`. Tenant,
//! webhook and key id are authenticated with it, so what was sealed for one webhook does not open for another.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Credentials, EndpointSecret, TenantId, WebhookId};

const VERSION: &str = "v1";
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const MAX_KEYS: usize = 16;
const MAX_ID_BYTES: usize = 32;

/// The keys of this installation. The first one seals, every one opens. Clones are cheap; `Debug` shows the ids alone.
#[derive(Clone)]
pub struct Keyring(Arc<[Key]>);

struct Key {
    id: String,
    cipher: RandomizedNonceKey,
}

/// What is secret of a webhook, as it is stored. Before there were keys that was the endpoint secret itself, so it is
/// handled as a secret.
#[derive(Clone)]
pub struct Sealed(SecretString);

/// Why something sealed stays closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    #[error("it is sealed with the key {0}, which SHOPERY_ENCRYPTION_KEYS does not have")]
    UnknownKey(String),
    #[error(
        "the key {0} of SHOPERY_ENCRYPTION_KEYS does not open it: it was sealed with another key, or for another webhook"
    )]
    WrongKey(String),
    #[error("it is malformed")]
    Malformed,
}

/// Why a variable holds no keyring. It may hold a part of one, so nothing of it is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKeyring {
    #[error("key {0} is not <id>:<base64 of 32 random bytes>")]
    Shape(usize),
    #[error("the id of key {0} is not 1 to {MAX_ID_BYTES} lowercase letters, digits and hyphens")]
    Id(usize),
    #[error("key {0} has the id of another one")]
    Twice(usize),
    #[error("it must have 1 to {MAX_KEYS} keys, separated by commas")]
    Count,
}

/// There was no randomness to be had, which no system of today denies.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NotSealed;

impl Keyring {
    pub fn seal(&self, tenant: &TenantId, webhook: WebhookId, credentials: &Credentials) -> Result<Sealed, NotSealed> {
        self.seal_text(&owner(tenant, webhook), credentials.encode())
    }

    /// Seals a text that opens for the same owner alone. None of what names an owner can contain a NUL.
    pub fn seal_text(&self, owner: &str, text: Vec<u8>) -> Result<Sealed, NotSealed> {
        let Some(key) = self.0.first() else { return Err(NotSealed) };
        let mut text = Zeroizing::new(text);
        let aad = Aad::from(format!("{owner}\0{}", key.id));
        let nonce = key.cipher.seal_in_place_append_tag(aad, &mut *text).map_err(|_| NotSealed)?;
        let sealed = STANDARD.encode([nonce.as_ref().as_slice(), &text].concat());
        Ok(Sealed(format!("{VERSION}.{}.{sealed}", key.id).into()))
    }

    pub fn open(&self, tenant: &TenantId, webhook: WebhookId, sealed: &Sealed) -> Result<Credentials, Unopened> {
        if sealed.is_plain() {
            let secret = EndpointSecret::parse(sealed.stored()).map_err(|_| Unopened::Malformed)?;
            return Ok(Credentials::new(secret));
        }
        Credentials::decode(&self.open_text(&owner(tenant, webhook), sealed)?).ok_or(Unopened::Malformed)
    }

    /// What [`Keyring::seal_text`] has sealed.
    pub fn open_text(&self, owner: &str, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        let (id, text) = sealed.parts().ok_or(Unopened::Malformed)?;
        let Some(key) = self.0.iter().find(|key| key.id == id) else { return Err(Unopened::UnknownKey(id.to_owned())) };
        let mut text = Zeroizing::new(STANDARD.decode(text).map_err(|_| Unopened::Malformed)?);
        let (nonce, text) = text.split_at_mut_checked(NONCE_BYTES).ok_or(Unopened::Malformed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unopened::Malformed)?;
        let aad = Aad::from(format!("{owner}\0{id}"));
        let text = key.cipher.open_in_place(nonce, aad, text).map_err(|_| Unopened::WrongKey(id.to_owned()))?;
        Ok(Zeroizing::new(text.to_vec()))
    }

    /// How everything that the first key has sealed begins.
    pub fn prefix(&self) -> String {
        format!("{VERSION}.{}.", self.first_id())
    }

    /// The id of the key that seals.
    pub fn first_id(&self) -> &str {
        self.0.first().map_or("", |key| key.id.as_str())
    }
}

fn owner(tenant: &TenantId, webhook: WebhookId) -> String {
    format!("shopery webhook credentials\0{}\0{webhook}", tenant.as_str())
}

impl Sealed {
    /// From the database.
    pub fn of_stored(text: String) -> Self {
        Self(text.into())
    }

    /// As it is stored.
    pub fn stored(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether this is a secret of before there were keys.
    pub fn is_plain(&self) -> bool {
        self.stored().starts_with("whsec_")
    }

    fn parts(&self) -> Option<(&str, &str)> {
        self.stored().strip_prefix(VERSION)?.strip_prefix('.')?.split_once('.')
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sealed").field(&self.parts().map_or("", |(id, _)| id)).finish()
    }
}

impl PartialEq for Sealed {
    fn eq(&self, other: &Self) -> bool {
        self.stored() == other.stored()
    }
}

impl Serialize for Sealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.stored())
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::of_stored)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

impl FromStr for Keyring {
    type Err = BadKeyring;

    fn from_str(text: &str) -> Result<Self, BadKeyring> {
        let mut keys = Vec::<Key>::new();
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        for (number, part) in (1..).zip(parts) {
            let (id, key) = part.split_once(':').ok_or(BadKeyring::Shape(number))?;
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if id.is_empty() || id.len() > MAX_ID_BYTES || !id.bytes().all(is_plain) {
                return Err(BadKeyring::Id(number));
            }
            if keys.iter().any(|known| known.id == id) {
                return Err(BadKeyring::Twice(number));
            }
            let key = Zeroizing::new(STANDARD.decode(key).map_err(|_| BadKeyring::Shape(number))?);
            if key.len() != KEY_BYTES {
                return Err(BadKeyring::Shape(number));
            }
            let cipher = RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| BadKeyring::Shape(number))?;
            keys.push(Key { id: id.to_owned(), cipher });
        }
        if keys.is_empty() || keys.len() > MAX_KEYS { Err(BadKeyring::Count) } else { Ok(Self(keys.into())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn key(byte: u8) -> String {
        STANDARD.encode([byte; KEY_BYTES])
    }

    fn keyring(keys: &[(&str, u8)]) -> Keyring {
        let keys: Vec<_> = keys.iter().map(|(id, byte)| format!("{id}:{}", key(*byte))).collect();
        keys.join(",").parse().unwrap()
    }

    fn credentials() -> Credentials {
        Credentials::new(EndpointSecret::parse(SECRET).unwrap())
    }

    #[test]
    fn the_first_key_seals_and_every_key_opens() {
        let (tenant, webhook) = ("t".parse().unwrap(), WebhookId::generate());
        let old = keyring(&[("a", 1)]);
        let sealed = old.seal(&tenant, webhook, &credentials()).unwrap();
        assert!(sealed.stored().starts_with("v1.a.") && sealed.stored().starts_with(&old.prefix()), "{sealed:?}");
        assert!(!sealed.stored().contains("MfKQ9r8"));
        let both = keyring(&[("b", 2), ("a", 1)]);
        assert_eq!(both.open(&tenant, webhook, &sealed), Ok(credentials()));
        let again = both.seal(&tenant, webhook, &credentials()).unwrap();
        assert!(again.stored().starts_with("v1.b."));
        assert_eq!(keyring(&[("b", 2)]).open(&tenant, webhook, &again), Ok(credentials()));
        assert_eq!(keyring(&[("b", 2)]).open(&tenant, webhook, &sealed), Err(Unopened::UnknownKey("a".to_owned())));
        assert_eq!(keyring(&[("a", 3)]).open(&tenant, webhook, &sealed), Err(Unopened::WrongKey("a".to_owned())));
        // Two that seal the same do not look alike.
        assert_ne!(both.seal(&tenant, webhook, &credentials()).unwrap(), again);
    }

    #[test]
    fn what_is_sealed_opens_for_its_own_webhook_alone() {
        let (tenant, webhook) = ("t".parse::<TenantId>().unwrap(), WebhookId::generate());
        let keys = keyring(&[("a", 1), ("b", 1)]);
        let sealed = keys.seal(&tenant, webhook, &credentials()).unwrap();
        let wrong = Err(Unopened::WrongKey("a".to_owned()));
        assert_eq!(keys.open(&"other".parse().unwrap(), webhook, &sealed), wrong);
        assert_eq!(keys.open(&tenant, WebhookId::generate(), &sealed), wrong);
        // Nor under another name of the same key, nor changed anywhere.
        let renamed = Sealed::of_stored(sealed.stored().replacen("v1.a.", "v1.b.", 1));
        assert_eq!(keys.open(&tenant, webhook, &renamed), Err(Unopened::WrongKey("b".to_owned())));
        let (head, text) = sealed.stored().rsplit_once('.').unwrap();
        let bytes = STANDARD.decode(text).unwrap();
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            let changed = Sealed::of_stored(format!("{head}.{}", STANDARD.encode(changed)));
            assert_eq!(keys.open(&tenant, webhook, &changed), wrong, "byte {index}");
        }
        for text in ["", "v1", "v1.a", "v1.a.", "v1.a.AAAA", "v1.a.!", "v2.a.AAAA", "whsec_"] {
            let opened = keys.open(&tenant, webhook, &Sealed::of_stored(text.to_owned()));
            assert_eq!(opened, Err(Unopened::Malformed), "{text:?}");
        }
    }

    #[test]
    fn a_secret_of_before_there_were_keys_opens() {
        let plain = Sealed::of_stored(SECRET.to_owned());
        let opened = keyring(&[("a", 1)]).open(&"t".parse().unwrap(), WebhookId::generate(), &plain);
        assert_eq!(opened, Ok(credentials()));
        assert!(plain.is_plain() && !format!("{plain:?}").contains("MfKQ9r8"), "{plain:?}");
    }

    #[test]
    fn a_bad_keyring_is_named_and_not_repeated() {
        let good = key(1);
        for (text, error) in [
            (String::new(), BadKeyring::Count),
            (" , ".to_owned(), BadKeyring::Count),
            (good.clone(), BadKeyring::Shape(1)),
            (format!("a:{good},b:{}", &good[4..]), BadKeyring::Shape(2)),
            (format!("a:{good},b:no base64"), BadKeyring::Shape(2)),
            (format!("A:{good}"), BadKeyring::Id(1)),
            (format!(":{good}"), BadKeyring::Id(1)),
            (format!("a_b:{good}"), BadKeyring::Id(1)),
            (format!("{}:{good}", "a".repeat(33)), BadKeyring::Id(1)),
            (format!("a:{good},a:{good}"), BadKeyring::Twice(2)),
            ((0..17).map(|id| format!("{id}:{good},")).collect(), BadKeyring::Count),
        ] {
            assert_eq!(text.parse::<Keyring>().unwrap_err(), error, "{text}");
            assert!(!error.to_string().contains(&good[4..]), "{error}");
        }
        assert_eq!(format!("{:?}", keyring(&[("a", 1), ("b", 2)])), r#"["a", "b"]"#);
    }
}
