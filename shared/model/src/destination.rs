//! Where a webhook is sent: one address, of one of three kinds.
//!
//! An address is all that a tenant says of a cloud. The hosts that we connect to are formed from what was validated here, a
//! region or nothing, so no address leads anywhere else.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

use crate::Invalid;
use crate::webhook::endpoint_url;

/// Of an account: letters, digits and some punctuation, as Amazon's model of PutEvents has it.
const MAX_BUS_NAME: usize = 256;
const TOPIC_NAME: std::ops::RangeInclusive<usize> = 3..=255;
const PROJECT_ID: std::ops::RangeInclusive<usize> = 6..=30;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Destination {
    /// An HTTPS endpoint.
    Https(Url),
    /// An event bus of Amazon EventBridge.
    EventBridge(EventBus),
    /// A topic of Google Cloud Pub/Sub.
    PubSub(Topic),
}

/// The names are part of the API: `destination.kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DestinationKind {
    Https,
    EventBridge,
    PubSub,
}

impl DestinationKind {
    pub const ALL: [Self; 3] = [Self::Https, Self::EventBridge, Self::PubSub];

    pub fn name(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::EventBridge => "eventbridge",
            Self::PubSub => "pubsub",
        }
    }

    /// Of an address that the history has, whatever version wrote it.
    pub fn of(address: &str) -> Self {
        match address.split(':').next() {
            Some("arn") => Self::EventBridge,
            Some("pubsub") => Self::PubSub,
            _ => Self::Https,
        }
    }
}

/// `arn:aws:events:eu-west-1:123456789012:event-bus/orders`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventBus {
    pub partition: Partition,
    pub region: String,
    pub account: String,
    pub name: String,
}

/// A part of Amazon's cloud, with accounts and host names of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Partition {
    Standard,
    China,
    GovCloud,
}

impl Partition {
    const ALL: [Self; 3] = [Self::Standard, Self::China, Self::GovCloud];

    /// As an ARN names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "aws",
            Self::China => "aws-cn",
            Self::GovCloud => "aws-us-gov",
        }
    }

    /// What its host names end with.
    pub fn domain(self) -> &'static str {
        match self {
            Self::Standard | Self::GovCloud => "amazonaws.com",
            Self::China => "amazonaws.com.cn",
        }
    }
}

/// `pubsub://shop-analytics/orders`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Topic {
    pub project: String,
    pub name: String,
}

impl Destination {
    /// The address of a webhook as its owner writes it. What the host of an HTTPS one resolves to is judged when we connect.
    pub fn parse(text: &str, allow_http: bool) -> Result<Self, Invalid> {
        match DestinationKind::of(text) {
            DestinationKind::Https => endpoint_url(text, allow_http).map(Self::Https),
            DestinationKind::EventBridge => text.parse().map(Self::EventBridge),
            DestinationKind::PubSub => text.parse().map(Self::PubSub),
        }
    }

    pub fn kind(&self) -> DestinationKind {
        match self {
            Self::Https(_) => DestinationKind::Https,
            Self::EventBridge(_) => DestinationKind::EventBridge,
            Self::PubSub(_) => DestinationKind::PubSub,
        }
    }

    /// The host that is connected to, for traces.
    pub fn host(&self) -> Option<String> {
        match self {
            Self::Https(url) => url.host_str().map(str::to_owned),
            Self::EventBridge(bus) => Some(bus.host()),
            Self::PubSub(_) => Some(Topic::HOST.to_owned()),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Https(url) => url.fmt(f),
            Self::EventBridge(bus) => bus.fmt(f),
            Self::PubSub(topic) => topic.fmt(f),
        }
    }
}

/// Reads an address that was stored, by whatever the rules were when it was saved.
impl FromStr for Destination {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match DestinationKind::of(text) {
            DestinationKind::Https => {
                let url = Url::parse(text).map_err(|error| Invalid::new("url", format!("is no URL: {error}")))?;
                Ok(Self::Https(url))
            }
            DestinationKind::EventBridge => text.parse().map(Self::EventBridge),
            DestinationKind::PubSub => text.parse().map(Self::PubSub),
        }
    }
}

impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl EventBus {
    /// `events.eu-west-1.amazonaws.com`
    pub fn host(&self) -> String {
        format!("events.{}.{}", self.region, self.partition.domain())
    }
}

impl fmt::Display for EventBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, region, account, name } = self;
        write!(f, "arn:{}:events:{region}:{account}:event-bus/{name}", partition.name())
    }
}

impl FromStr for EventBus {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |detail: &'static str| Invalid::new("url", detail);
        let form = || {
            invalid(
                "must be the ARN of an event bus: arn:aws:events:<region>:<account>:event-bus/<name>, such as \
                 arn:aws:events:eu-west-1:123456789012:event-bus/orders",
            )
        };
        let parts: Vec<_> = text.splitn(6, ':').collect();
        let &[_, partition, service, region, account, resource] = parts.as_slice() else { return Err(form()) };
        if service != "events" {
            return Err(form());
        }
        if resource.starts_with("event-source/") || resource.starts_with("event-bus/aws.partner/") {
            return Err(invalid(
                "names a partner event source, which is for partners of Amazon; create an event bus of your own, and give its \
                 ARN: arn:aws:events:<region>:<account>:event-bus/<name>",
            ));
        }
        let Some(name) = resource.strip_prefix("event-bus/") else {
            return Err(invalid(
                "names no event bus of the classic kind, which is the only one that can be sent to: \
                 arn:aws:events:<region>:<account>:event-bus/<name>",
            ));
        };
        let partition = Partition::ALL.into_iter().find(|one| one.name() == partition);
        let partition = partition.ok_or_else(|| invalid("names a partition other than aws, aws-cn and aws-us-gov"))?;
        if !is_region(region) {
            return Err(invalid("names no region, such as eu-west-1, in its fourth part"));
        }
        if account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid("names no account, 12 digits, in its fifth part"));
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
        if name.is_empty() || name.len() > MAX_BUS_NAME || !name.bytes().all(is_plain) {
            return Err(invalid("has no name of an event bus: 1 to 256 letters, digits, and / . _ -"));
        }
        let (region, account, name) = (region.to_owned(), account.to_owned(), name.to_owned());
        Ok(Self { partition, region, account, name })
    }
}

/// `eu-west-1`, `us-gov-east-1`: it becomes a part of a host name.
fn is_region(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    let [first, middle @ .., last] = parts.as_slice() else { return false };
    let is_word = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    let is_number = last.len() <= 2 && !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    text.len() <= 32
        && first.len() == 2
        && is_word(first)
        && !middle.is_empty()
        && middle.iter().all(is_word)
        && is_number
}

impl Topic {
    pub const HOST: &str = "pubsub.googleapis.com";

    /// As Google's API names it.
    pub fn path(&self) -> String {
        format!("projects/{}/topics/{}", self.project, self.name)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pubsub://{}/{}", self.project, self.name)
    }
}

/// With `:` between project and topic too, as others write it.
impl FromStr for Topic {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |detail: &'static str| Invalid::new("url", detail);
        let form =
            "must name a project and a topic: pubsub://<project>/<topic>, such as pubsub://shop-analytics/orders";
        let rest = text.strip_prefix("pubsub://").ok_or_else(|| invalid(form))?;
        // The project of a domain has a colon of its own: example.com:shop-analytics.
        let at = rest.find('/').or_else(|| rest.rfind(':')).ok_or_else(|| invalid(form))?;
        let (project, name) = (&rest[..at], &rest[at + 1..]);
        if !is_project(project) {
            return Err(invalid(
                "names no project: its id has 6 to 30 lower-case letters, digits and hyphens, and begins with a letter",
            ));
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~+%".contains(&byte);
        let begins_well = name.starts_with(|first: char| first.is_ascii_alphabetic()) && !name.starts_with("goog");
        if !TOPIC_NAME.contains(&name.len()) || !begins_well || !name.bytes().all(is_plain) {
            return Err(invalid(
                "names no topic: 3 to 255 letters, digits and - _ . ~ + %, a letter first, and not goog",
            ));
        }
        Ok(Self { project: project.to_owned(), name: name.to_owned() })
    }
}

fn is_project(text: &str) -> bool {
    let (domain, id) = text.rsplit_once(':').map_or((None, text), |(domain, id)| (Some(domain), id));
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_domain = |text: &str| {
        (3..=100).contains(&text.len()) && text.split('.').all(|label| !label.is_empty() && label.bytes().all(is_plain))
    };
    PROJECT_ID.contains(&id.len())
        && id.starts_with(|first: char| first.is_ascii_lowercase())
        && !id.ends_with('-')
        && id.bytes().all(is_plain)
        && domain.is_none_or(is_domain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUS: &str = "arn:aws:events:eu-west-1:123456789012:event-bus/orders";

    #[test]
    fn an_address_says_its_kind_and_reads_back() {
        for (text, kind, shown, host) in [
            ("https://test.com/wh", DestinationKind::Https, "https://test.com/wh", "test.com"),
            (BUS, DestinationKind::EventBridge, BUS, "events.eu-west-1.amazonaws.com"),
            (
                "arn:aws-cn:events:cn-north-1:123456789012:event-bus/default",
                DestinationKind::EventBridge,
                "arn:aws-cn:events:cn-north-1:123456789012:event-bus/default",
                "events.cn-north-1.amazonaws.com.cn",
            ),
            ("pubsub://shop-analytics/orders", DestinationKind::PubSub, "pubsub://shop-analytics/orders", Topic::HOST),
            ("pubsub://shop-analytics:orders", DestinationKind::PubSub, "pubsub://shop-analytics/orders", Topic::HOST),
            (
                "pubsub://example.com:shop-analytics/orders",
                DestinationKind::PubSub,
                "pubsub://example.com:shop-analytics/orders",
                Topic::HOST,
            ),
            (
                "pubsub://example.com:shop-analytics:orders",
                DestinationKind::PubSub,
                "pubsub://example.com:shop-analytics/orders",
                Topic::HOST,
            ),
        ] {
            let destination = Destination::parse(text, false).unwrap();
            assert_eq!((destination.kind(), destination.to_string().as_str()), (kind, shown));
            assert_eq!(destination.host().as_deref(), Some(host));
            assert_eq!(DestinationKind::of(shown), kind);
            let json = serde_json::to_string(&destination).unwrap();
            assert_eq!(serde_json::from_str::<Destination>(&json).unwrap(), destination);
        }
    }

    #[test]
    fn what_is_no_address_is_told_what_is() {
        for (text, told) in [
            ("arn:aws:events:us-east-1::event-source/aws.partner/shopify.com/1/orders", "partner"),
            ("arn:aws:events:us-east-1:123456789012:event-bus/aws.partner/x/1", "partner"),
            ("arn:aws:events:us-east-1:123456789012:event-bus-v2/orders", "classic"),
            ("arn:aws:events:us-east-1:123456789012:rule/orders", "classic"),
            ("arn:aws:sns:us-east-1:123456789012:orders", "must be the ARN"),
            ("arn:aws:events", "must be the ARN"),
            ("arn:azure:events:us-east-1:123456789012:event-bus/orders", "partition"),
            ("arn:aws:events:evil.example/:123456789012:event-bus/orders", "region"),
            ("arn:aws:events:us-east:123456789012:event-bus/orders", "region"),
            ("arn:aws:events:us-east-1:12345678901:event-bus/orders", "account"),
            ("arn:aws:events:us-east-1:123456789012:event-bus/", "name"),
            ("arn:aws:events:us-east-1:123456789012:event-bus/a b", "name"),
            ("pubsub:shop-analytics/orders", "pubsub://<project>/<topic>"),
            ("pubsub://shop-analytics", "pubsub://<project>/<topic>"),
            ("pubsub://Shop/orders", "project"),
            ("pubsub://shop-analytics/../orders", "topic"),
            ("pubsub://shop-analytics/or", "topic"),
            ("pubsub://shop-analytics/google-orders", "topic"),
            ("pubsub://shop-analytics/orders/x", "topic"),
            ("pubsub://evil.example/a:shop-analytics/orders", "project"),
            ("http://test.com/wh", "https://"),
        ] {
            let error = Destination::parse(text, false).unwrap_err();
            assert_eq!(error.field, "url", "{text}");
            assert!(error.detail.contains(told), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_address_leads_to_a_host_of_its_own(text in "(arn:aws:events|pubsub://)[ -~]{0,60}") {
            if let Ok(destination) = Destination::parse(&text, false) {
                let host = destination.host().unwrap();
                let is_ours = host == Topic::HOST
                    || host.strip_prefix("events.").and_then(|host| host.strip_suffix(".amazonaws.com")).is_some_and(is_region);
                prop_assert!(is_ours, "{}", host);
                prop_assert_eq!(destination.to_string().parse::<Destination>().unwrap(), destination);
            }
        }
    }
}
