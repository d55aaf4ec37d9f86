//! A webhook as people and programs see it: in the API, and in the notification that it was disabled.

use std::collections::BTreeMap;

use serde::Serialize;
use shopery_model::{Destination, EventPattern, Rules, WebhookId};
use shopery_store::{WebhookRecord, WebhookState};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// A webhook, as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Webhook)]
pub struct WebhookResource {
    #[schema(value_type = String)]
    pub id: WebhookId,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The owner's own labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// `https://…`, the ARN of an event bus, or `pubsub://<project>/<topic>`.
    #[serde(rename = "url")]
    #[schema(value_type = String)]
    pub destination: Destination,
    /// Of the `url`.
    #[schema(value_type = DestinationKindName)]
    pub kind: &'static str,
    #[schema(value_type = Vec<String>)]
    pub events: Vec<EventPattern>,
    pub is_enabled: bool,
    #[serde(flatten)]
    #[schema(ignore)]
    pub rules: Rules,
    /// Names, with a mask in place of each value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, &'static str>,
    /// The owner's own at the cloud of the bus or topic, with a mask in place of the secret; absent where the platform's are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    pub credentials: Option<BTreeMap<&'static str, String>>,
    #[schema(value_type = WebhookStateName)]
    pub state: &'static str,
    #[serde(with = "crate::timestamp")]
    pub created_at: OffsetDateTime,
    #[serde(with = "crate::timestamp")]
    pub updated_at: OffsetDateTime,
    /// The first attempt that failed after the last one that did not.
    #[serde(with = "crate::timestamp::option", skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<OffsetDateTime>,
    #[serde(with = "crate::timestamp::option", skip_serializing_if = "Option::is_none")]
    pub disabled_at: Option<OffsetDateTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DisabledReasonName>)]
    pub disabled_reason: Option<&'static str>,
    /// Of one webhook; absent while nobody can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Backlog>,
}

impl From<WebhookRecord> for WebhookResource {
    fn from(record: WebhookRecord) -> Self {
        Self {
            id: record.id,
            name: record.name,
            description: record.description,
            metadata: record.metadata,
            kind: record.destination.kind().name(),
            destination: record.destination,
            events: record.events,
            is_enabled: record.state == WebhookState::Active,
            rules: record.rules,
            headers: BTreeMap::new(),
            credentials: None,
            state: record.state.name(),
            created_at: record.created_at,
            updated_at: record.updated_at,
            failing_since: record.failing_since,
            disabled_at: record.disabled.map(|(at, _)| at),
            disabled_reason: record.disabled.map(|(_, reason)| reason.name()),
            waiting: None,
        }
    }
}

/// Deliveries that are parked.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Waiting)]
pub struct Backlog {
    pub parked: usize,
    #[serde(with = "crate::timestamp::option", skip_serializing_if = "Option::is_none")]
    pub oldest_at: Option<OffsetDateTime>,
}

/// Describes a field.
#[derive(ToSchema)]
#[schema(as = DestinationKind, rename_all = "lowercase")]
pub enum DestinationKindName {
    /// An endpoint.
    Https,
    /// An event bus of Amazon EventBridge.
    EventBridge,
    /// A topic of Google Cloud Pub/Sub.
    PubSub,
}

/// Describes a field.
#[derive(ToSchema)]
#[schema(as = WebhookState, rename_all = "snake_case")]
pub enum WebhookStateName {
    Active,
    /// `isEnabled` is false.
    Paused,
    /// By us.
    Disabled,
}

/// Describes a field.
#[derive(ToSchema)]
#[schema(as = DisabledReason, rename_all = "snake_case")]
pub enum DisabledReasonName {
    Failing,
    Gone,
}
