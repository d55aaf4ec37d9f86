use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use ulid::Ulid;

use crate::Invalid;

/// A merchant. The platform gives the id; it is 1 to 64 characters, none of them a control character.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct TenantId(Arc<str>);

impl TenantId {
    pub const MAX_CHARS: usize = 64;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TenantId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let chars = text.chars().count();
        if chars == 0 || chars > Self::MAX_CHARS || text.chars().any(char::is_control) {
            return Err(Invalid::new("tenant", "must be 1 to 64 characters without control characters"));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for TenantId {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Ids of ours: a prefix that says what it names, and 26 characters of Crockford base 32 that sort by time of creation.
macro_rules! prefixed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Ulid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0; ulid::ULID_LEN];
                write!(f, concat!($prefix, "_{}"), self.0.array_to_str(&mut text))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(|ulid| Ulid::from_string(ulid).ok())
                    .map(Self)
                    // One spelling only: Crockford's alphabet also reads lower case, and an id is a key elsewhere.
                    .filter(|id| id.to_string() == text)
                    .ok_or_else(|| Invalid::new("id", concat!("must be ", $prefix, "_ and 26 characters of base 32")))
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;

            fn try_from(text: String) -> Result<Self, Invalid> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

prefixed_id!(
    /// A webhook: `wbh_01HA4XCG60CT4G3EWF4CKYM1MF`.
    WebhookId,
    "wbh"
);
prefixed_id!(
    /// One event for one webhook, in all its attempts: the `webhook-id` that the receiver sees.
    DeliveryId,
    "dlv"
);
prefixed_id!(
    /// One attempt of a delivery.
    AttemptId,
    "att"
);
prefixed_id!(
    /// A recovery: what a webhook missed in some time, sent again.
    RecoveryId,
    "rcv"
);
prefixed_id!(
    /// A change of a webhook, as the record of them has it.
    ChangeId,
    "chg"
);

impl WebhookId {
    pub fn generate() -> Self {
        Self(Ulid::generate())
    }

    /// A number in 0..1 that belongs to this webhook and `round`.
    pub fn fraction(self, round: u32) -> f64 {
        fraction(self.0, round)
    }
}

impl AttemptId {
    pub fn generate() -> Self {
        Self(Ulid::generate())
    }
}

impl ChangeId {
    pub fn generate() -> Self {
        Self(Ulid::generate())
    }

    /// The lowest id of this millisecond.
    pub fn first_at(time: OffsetDateTime) -> Self {
        Self(Ulid::from_parts(unix_millis(time), 0))
    }
}

impl RecoveryId {
    pub fn generate() -> Self {
        Self(Ulid::generate())
    }
}

impl DeliveryId {
    /// Invariant: the id follows from the stored event (its identity is source and id) and the webhook alone, so a repeat
    /// after a crash, in whatever service, is recognised as one by the streams, the history and the receiver.
    ///
    /// It begins with the time when EVENTS stored the event, to the millisecond: deliveries sort by their age, and the
    /// history is written where it was written last. The rest is a hash.
    pub fn of(tenant: &TenantId, source: &str, event_id: &str, stored_at: OffsetDateTime, webhook: WebhookId) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        // A separator that neither a tenant id nor a source contains keeps the parts apart.
        hash.update(tenant.as_str().as_bytes());
        hash.update(b"\0");
        hash.update(&webhook.0.to_bytes());
        hash.update(source.as_bytes());
        hash.update(b"\0");
        hash.update(event_id.as_bytes());
        let mut random = [0; 16];
        random.copy_from_slice(&hash.finish().as_ref()[..16]);
        Self(Ulid::from_parts(unix_millis(stored_at), u128::from_be_bytes(random)))
    }

    /// The lowest id of this millisecond; no delivery has it.
    pub fn first_at(time: OffsetDateTime) -> Self {
        Self(Ulid::from_parts(unix_millis(time), 0))
    }

    /// The highest id of this millisecond; no delivery has it.
    pub fn last_at(time: OffsetDateTime) -> Self {
        Self(Ulid::from_parts(unix_millis(time), u128::MAX))
    }

    /// When EVENTS stored the event.
    pub fn created_at(self) -> OffsetDateTime {
        let nanos = i128::from(self.0.timestamp_ms()) * 1_000_000;
        OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// A number in 0..1 that belongs to this delivery and `attempt`: jitter without a random generator.
    pub fn fraction(self, attempt: u32) -> f64 {
        fraction(self.0, attempt)
    }
}

fn fraction(id: Ulid, round: u32) -> f64 {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&id.to_bytes());
    hash.update(&round.to_be_bytes());
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&hash.finish().as_ref()[..4]);
    f64::from(u32::from_be_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

fn unix_millis(time: OffsetDateTime) -> u64 {
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_id_follows_from_event_and_webhook() {
        let tenant: TenantId = "t".parse().unwrap();
        let (a, b) = (WebhookId::generate(), WebhookId::generate());
        let at = time::macros::datetime!(2026-11-24 10:00:00.123456 UTC);
        let id = |tenant: &TenantId, event, webhook| DeliveryId::of(tenant, "orders", event, at, webhook);
        assert_ne!(DeliveryId::of(&tenant, "products", "e1", at, a), id(&tenant, "e1", a));
        assert_ne!(DeliveryId::of(&tenant, "order", "se1", at, a), id(&tenant, "e1", a));
        assert_eq!(id(&tenant, "e1", a), id(&tenant, "e1", a));
        assert_ne!(id(&tenant, "e1", a), id(&tenant, "e1", b));
        assert_ne!(id(&tenant, "e1", a), id(&tenant, "e2", a));
        assert_ne!(id(&tenant, "e1", a), id(&"u".parse().unwrap(), "e1", a));
        assert_eq!(id(&tenant, "e1", a).created_at(), time::macros::datetime!(2026-11-24 10:00:00.123 UTC));
    }

    #[test]
    fn deliveries_sort_by_the_time_of_their_events() {
        let tenant: TenantId = "t".parse().unwrap();
        let (webhook, at) = (WebhookId::generate(), time::macros::datetime!(2026-11-24 10:00 UTC));
        let id = DeliveryId::of(&tenant, "orders", "e1", at, webhook);
        assert!(DeliveryId::first_at(at) < id && id < DeliveryId::last_at(at));
        assert!(
            DeliveryId::last_at(at).to_string() < DeliveryId::first_at(at + time::Duration::MILLISECOND).to_string()
        );
    }

    #[test]
    fn ids_have_one_spelling() {
        let id = WebhookId::generate();
        assert_eq!(id.to_string().parse::<WebhookId>(), Ok(id));
        assert!(id.to_string().to_lowercase().parse::<WebhookId>().is_err());
        for text in ["", "wbh_", "wbh_1", "dlv_01HA4XCG60CT4G3EWF4CKYM1MF", "wbh_81HA4XCG60CT4G3EWF4CKYM1MF"] {
            assert!(text.parse::<WebhookId>().is_err(), "{text}");
        }
    }

    #[test]
    fn tenant_ids_are_bounded() {
        for text in ["", "a\nb", &"x".repeat(65)] {
            assert!(text.parse::<TenantId>().is_err(), "{text:?}");
        }
        assert!("Zoë's shop.*>".parse::<TenantId>().is_ok());
    }
}
