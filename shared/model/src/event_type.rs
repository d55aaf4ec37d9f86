//! Event types, `<resource>-<action>`, and the patterns a webhook may subscribe with.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::Invalid;
use crate::catalogue::{OPERATIONAL, catalogue};

/// An entry of the catalogue, such as `order-created`. `orders-created` reads as the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "String")]
pub struct EventType {
    pub(crate) resource: &'static str,
    pub(crate) action: &'static str,
}

impl EventType {
    pub fn resource(self) -> &'static str {
        self.resource
    }

    /// Whether the resource is gone after it. The action of that name means so for every resource of the catalogue.
    pub fn is_deletion(self) -> bool {
        self.action == "deleted"
    }

    /// Whether Shopery Webhooks alone publishes it.
    pub fn is_operational(self) -> bool {
        self.resource == OPERATIONAL
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

impl<'de> Deserialize<'de> for EventType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
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
    pub fn matches(self, event_type: EventType) -> bool {
        match self {
            Self::All => true,
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
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
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
            ("order-*", "webhook-disabled", false),
        ] {
            let pattern: EventPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(event_type.parse().unwrap()), matches, "{pattern} {event_type}");
        }
    }
}
