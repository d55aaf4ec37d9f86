//! Event types, `<resource>-<action>`, and the patterns a webhook may subscribe with.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize};

use crate::Invalid;
use crate::catalogue::{OPERATIONAL, catalogue};

/// An entry of the catalogue, such as `order-created`. `orders-created` reads as the same one.
///
/// What another service has stored may name a type that this one does not know yet, while an installation is updated: that
/// stays what it is ([`EventType::of_stored`]), so that it is routed, sent and recorded all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "String")]
pub struct EventType {
    pub(crate) resource: &'static str,
    pub(crate) action: &'static str,
}

/// Names of resources and actions that are in no catalogue of ours, for as long as the process lives: few, and bounded.
static UNKNOWN_NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
const MAX_UNKNOWN_NAMES: usize = 4096;
const MAX_NAME_BYTES: usize = 64;

/// A name that lives for as long as the process; `None` if it is none, or there are too many.
fn intern(name: &str) -> Option<&'static str> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(is_plain) {
        return None;
    }
    let mut names = UNKNOWN_NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return Some(known);
    }
    if names.len() >= MAX_UNKNOWN_NAMES {
        return None;
    }
    let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.insert(name);
    Some(name)
}

/// The resource of the catalogue, or a name that it does not have.
fn resource_of_stored(name: &str) -> Option<&'static str> {
    catalogue().resource(name).map(|resource| resource.name).or_else(|| intern(name))
}

impl EventType {
    /// A type that a service of ours has stored, whether this one knows it or not.
    pub fn of_stored(text: &str) -> Result<Self, Invalid> {
        if let Some(known) = catalogue().read(text) {
            return Ok(known);
        }
        let unknown = text.split_once('-').and_then(|(resource, action)| {
            Some(Self { resource: resource_of_stored(resource)?, action: intern(action)? })
        });
        unknown.ok_or_else(|| Invalid::new("type", format!("{text:?} is no event type")))
    }

    pub fn resource(self) -> &'static str {
        self.resource
    }

    /// Whether the resource is gone after it. The action of that name means so for every resource of the catalogue.
    pub fn is_deletion(self) -> bool {
        self.action == "deleted"
    }

    fn is_delivery_failed(self) -> bool {
        self.resource == "delivery" && self.action == "failed"
    }

    /// Whether Shopery Webhooks alone publishes it.
    pub fn is_operational(self) -> bool {
        self.resource == OPERATIONAL || self.is_delivery_failed()
    }
}

impl FromStr for EventType {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        catalogue().read(text).ok_or_else(|| {
            let published = catalogue().types().filter(|known| !known.is_operational());
            Invalid::new("type", unknown(text, published.map(|known| known.to_string())))
        })
    }
}

/// What is read of messages was stored by a service of ours.
impl<'de> Deserialize<'de> for EventType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::of_stored(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl From<EventType> for String {
    fn from(event_type: EventType) -> Self {
        event_type.to_string()
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.resource, self.action)
    }
}

/// What a webhook subscribes to: one event type, `order-*` for all of a resource, or `*` for all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "String")]
pub enum EventPattern {
    All,
    Resource(&'static str),
    One(EventType),
}

impl EventPattern {
    /// A pattern that a service of ours has stored, whether this one knows what it names or not.
    pub fn of_stored(text: &str) -> Result<Self, Invalid> {
        if text == "*" {
            return Ok(Self::All);
        }
        let resource = text.strip_suffix("-*").and_then(resource_of_stored);
        resource.map_or_else(|| EventType::of_stored(text).map(Self::One), |resource| Ok(Self::Resource(resource)))
    }

    pub fn matches(self, event_type: EventType) -> bool {
        match self {
            // There are as many of these as there are failures. Who wants them says so.
            Self::All => !event_type.is_delivery_failed(),
            Self::Resource(resource) => resource == event_type.resource,
            Self::One(one) => one == event_type,
        }
    }
}

impl FromStr for EventPattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "*" {
            return Ok(Self::All);
        }
        if let Some(resource) = text.strip_suffix("-*").and_then(|name| catalogue().resource(name)) {
            return Ok(Self::Resource(resource.name));
        }
        text.parse().map(Self::One).map_err(|_| {
            let wildcards = catalogue().resources().map(|resource| format!("{}-*", resource.name));
            Invalid::new("events", unknown(text, catalogue().types().map(|known| known.to_string()).chain(wildcards)))
        })
    }
}

impl<'de> Deserialize<'de> for EventPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::of_stored(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl From<EventPattern> for String {
    fn from(pattern: EventPattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for EventPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Resource(resource) => write!(f, "{resource}-*"),
            Self::One(event_type) => event_type.fmt(f),
        }
    }
}

fn unknown(text: &str, known: impl Iterator<Item = String>) -> String {
    let shown: String = text.chars().take(60).collect();
    format!("{shown:?} is not a known event; use one of {}", known.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plural_reads_as_the_singular() {
        for (written, read) in [
            ("order-created", "order-created"),
            ("orders-created", "order-created"),
            ("inventories-updated", "inventory-updated"),
            ("orders-*", "order-*"),
            ("*", "*"),
        ] {
            assert_eq!(written.parse::<EventPattern>().unwrap().to_string(), read);
        }
    }

    #[test]
    fn what_another_service_has_stored_stays_what_it_is() {
        for text in ["order-created", "order-shipped", "shipment-sent", "gift_card-sent-back"] {
            assert_eq!(EventType::of_stored(text).unwrap().to_string(), text);
            assert_eq!(serde_json::from_value::<EventType>(text.into()).unwrap(), EventType::of_stored(text).unwrap());
            assert!(text == "order-created" || text.parse::<EventType>().is_err(), "{text} was published");
        }
        for text in ["*", "order-*", "shipment-*", "shipment-sent", "order-created"] {
            assert_eq!(EventPattern::of_stored(text).unwrap().to_string(), text);
        }
        let (shipped, sent) =
            (EventType::of_stored("order-shipped").unwrap(), EventType::of_stored("shipment-sent").unwrap());
        assert!("order-*".parse::<EventPattern>().unwrap().matches(shipped));
        assert!(EventPattern::of_stored("shipment-*").unwrap().matches(sent));
        assert!(!EventPattern::of_stored("shipment-*").unwrap().matches(shipped));
        for text in ["", "order", "-", "order-", "-sent", "Order-sent", "order-\u{7}", &"x-".repeat(99)] {
            assert!(EventType::of_stored(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_in_the_catalogue_is_refused_with_the_catalogue() {
        for text in ["", "order", "order-", "order-eaten", "Order-created", "*-created", "order-created ", "-*"] {
            let detail = text.parse::<EventPattern>().unwrap_err().detail;
            assert!(detail.contains("order-created, order-updated"), "{text}: {detail}");
        }
    }

    #[test]
    fn a_pattern_matches_what_it_says() {
        for (pattern, event_type, matches) in [
            ("order-created", "order-created", true),
            ("order-created", "order-updated", false),
            ("order-*", "order-paid", true),
            ("order-*", "product-created", false),
            ("*", "inventory-deleted", true),
            ("*", "webhook-disabled", true),
            ("webhook-*", "webhook-disabled", true),
            ("webhook-*", "delivery-failed", false),
            ("delivery-*", "delivery-failed", true),
            ("*", "delivery-failed", false),
            ("delivery-failed", "delivery-failed", true),
            ("order-*", "webhook-disabled", false),
        ] {
            let pattern: EventPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(event_type.parse().unwrap()), matches, "{pattern} {event_type}");
        }
    }
}
