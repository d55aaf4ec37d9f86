//! What a webhook asks for beyond the events it names.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Changed, EventType, Fields, Filter, Invalid};

/// Each rule is off unless it is given, but for the dropping of duplicates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rules {
    /// What of the resource is sent; all of it if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<Fields>,
    /// What the resource must look like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// What must have changed since the resource's previous state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<Changed>,
    pub payload: PayloadMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debounce: Option<Debounce>,
    /// Deliveries a second, at most. What is beyond waits; nothing is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<NonZeroU16>,
    /// Of a webhook with `fields`: drop what tells the receiver nothing new.
    pub drop_duplicates: bool,
    pub signature: SignatureKind,
    pub format: PayloadFormat,
    /// The deliveries of one resource are made one after the other.
    pub ordered: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            fields: None,
            filter: None,
            changed: None,
            payload: PayloadMode::Latest,
            debounce: None,
            rate_limit: None,
            drop_duplicates: true,
            signature: SignatureKind::Symmetric,
            format: PayloadFormat::Resource,
            ordered: false,
        }
    }
}

impl Rules {
    /// Whether a payload that was just sent is dropped. The whole resource rarely repeats itself, and where it does the
    /// repeat is a happening of its own (a second payment, say); a few `fields` of it repeat all the time.
    pub fn drops_duplicates(&self) -> bool {
        self.drop_duplicates && self.fields.is_some()
    }

    /// Whether a delivery of an event of type `own` may carry the state of a newer event. A deletion has its own name, and
    /// what it deleted no longer has any; a debounced delivery has the name and the state of one event type.
    pub fn may_carry(&self, own: EventType, newer: EventType) -> bool {
        !own.is_deletion() && !newer.is_deletion() && (self.debounce.is_none() || own == newer)
    }

    /// What of a state of the resource is sent.
    pub fn project(&self, data: &Bytes) -> Bytes {
        match &self.fields {
            Some(fields) => fields.project(data),
            None => data.clone(),
        }
    }
}

/// Which state of the resource a delivery that was not sent at once carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadMode {
    /// The most recent one.
    #[default]
    Latest,
    /// The one of its event.
    Original,
}

impl PayloadMode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::Original => "original",
        }
    }
}

impl FromStr for PayloadMode {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "latest" => Ok(Self::Latest),
            "original" => Ok(Self::Original),
            _ => Err(Invalid::new("payload", "must be latest or original")),
        }
    }
}

/// What the body of a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadFormat {
    /// The resource itself.
    #[default]
    Resource,
    /// A CloudEvent in structured JSON, with the resource as its `data`.
    CloudEvent,
}

impl PayloadFormat {
    pub fn name(self) -> &'static str {
        match self {
            Self::Resource => "resource",
            Self::CloudEvent => "cloudevent",
        }
    }
}

impl FromStr for PayloadFormat {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "resource" => Ok(Self::Resource),
            "cloudevent" => Ok(Self::CloudEvent),
            _ => Err(Invalid::new("format", "must be resource or cloudevent")),
        }
    }
}

/// How a delivery is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignatureKind {
    /// `v1`: by the secret that the receiver has too.
    #[default]
    Symmetric,
    /// `v1a`: by a key that we alone have; the receiver has its public key.
    Asymmetric,
    Both,
}

impl SignatureKind {
    pub fn is_symmetric(self) -> bool {
        self != Self::Asymmetric
    }

    pub fn is_asymmetric(self) -> bool {
        self != Self::Symmetric
    }
}

impl FromStr for SignatureKind {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "symmetric" => Ok(Self::Symmetric),
            "asymmetric" => Ok(Self::Asymmetric),
            "both" => Ok(Self::Both),
            _ => Err(Invalid::new("signature", "must be symmetric, asymmetric or both")),
        }
    }
}

/// How long a burst of changes to one resource is gathered into one delivery: 1 second to 1 hour, written as `5s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Debounce(Duration);

impl Debounce {
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Debounce {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bounds = Duration::from_secs(1)..=Duration::from_secs(3600);
        humantime::parse_duration(text)
            .ok()
            .filter(|duration| bounds.contains(duration))
            .map(Self)
            .ok_or_else(|| Invalid::new("debounce", "must be a duration from 1s to 1h, such as 5s"))
    }
}

impl TryFrom<String> for Debounce {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Debounce> for String {
    fn from(debounce: Debounce) -> Self {
        debounce.to_string()
    }
}

impl fmt::Display for Debounce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_back_as_they_were_written() {
        let json = r#"{"fields":["id"],"filter":{"total_price":[{"numeric":[">",50.00]}]},"changed":["total_price"],"payload":"original","debounce":"5s","rateLimit":50,"dropDuplicates":false,"signature":"both","format":"cloudevent","ordered":true}"#;
        let rules: Rules = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&rules).unwrap(), json);
        assert_eq!(serde_json::from_str::<Rules>("{}").unwrap(), Rules::default());
    }

    #[test]
    fn a_deletion_and_another_event_are_not_mixed() {
        let event_type = |text: &str| text.parse::<EventType>().unwrap();
        let debounced = Rules { debounce: "1s".parse().ok(), ..Rules::default() };
        for (own, newer, may, may_debounced) in [
            ("order-created", "order-created", true, true),
            ("order-created", "order-paid", true, false),
            ("order-paid", "order-deleted", false, false),
            ("order-deleted", "order-created", false, false),
            ("order-deleted", "order-deleted", false, false),
        ] {
            let (own, newer) = (event_type(own), event_type(newer));
            let carries = (Rules::default().may_carry(own, newer), debounced.may_carry(own, newer));
            assert_eq!(carries, (may, may_debounced), "{own} {newer}");
        }
    }

    #[test]
    fn a_debounce_is_within_bounds() {
        for (text, read) in [("1s", Some(1)), ("90s", Some(90)), ("1h", Some(3600)), ("1h 1s", None), ("999ms", None)] {
            assert_eq!(text.parse().ok(), read.map(|seconds| Debounce(Duration::from_secs(seconds))), "{text}");
        }
        assert_eq!("90s".parse::<Debounce>().unwrap().to_string(), "1m 30s");
        assert_eq!("1m 30s".parse::<Debounce>(), "90s".parse());
    }
}
