//! What the deliverer tells the history about each attempt. A message on OUTCOMES is a JSON array of these.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{AttemptId, DeliveryId, Fault, JobMeta, Posted};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub job: JobMeta,
    pub state: DeliveryState,
    /// When the next attempt is due, while the delivery is pending.
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_attempt_at: Option<OffsetDateTime>,
    /// `None` if the delivery ended without an attempt.
    pub attempt: Option<Attempt>,
    /// Why the delivery is not delivered, and a sentence for the merchant.
    pub fault: Option<(Fault, String)>,
    /// The delivery that has told the receiver the same (duplicate) or newer (superseded).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carried_by: Option<DeliveryId>,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

impl Outcome {
    /// Whether what the delivery was to tell its endpoint, for itself and for those that it carries, remains untold. A
    /// delivery that a router filters has never carried anything; one whose state no longer matched at the attempt has.
    pub fn is_end_of_a_carrier(&self) -> bool {
        self.state.is_undelivered_end() || (self.state == DeliveryState::Filtered && self.fault.is_some())
    }
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// The last attempt failed and another one is scheduled.
    Pending,
    Delivered,
    /// Given up.
    Failed,
    /// The webhook's `filter` or `changed` let it pass by.
    Filtered,
    /// The same payload was on its way to the same webhook for the same resource and event.
    Duplicate,
    /// Another delivery has told the endpoint newer, or is about to.
    Superseded,
    /// Waits, without an attempt, until the endpoint works again or the webhook is enabled.
    Parked,
    /// Waited until its age limit.
    Expired,
    /// Waited when whoever enabled the webhook wanted nothing of what had waited.
    Discarded,
}

impl DeliveryState {
    /// Whether it may still change by itself.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Parked)
    }

    /// Whether the endpoint has been told nothing and will not be: what such a delivery carried for others is lost too.
    pub fn is_undelivered_end(self) -> bool {
        matches!(self, Self::Failed | Self::Expired | Self::Discarded)
    }

    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Delivered,
        Self::Failed,
        Self::Filtered,
        Self::Duplicate,
        Self::Superseded,
        Self::Parked,
        Self::Expired,
        Self::Discarded,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Filtered => "filtered",
            Self::Duplicate => "duplicate",
            Self::Superseded => "superseded",
            Self::Parked => "parked",
            Self::Expired => "expired",
            Self::Discarded => "discarded",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    pub id: AttemptId,
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    pub duration_ms: u32,
    /// The address of the [`Destination`](crate::Destination), which tells its kind.
    pub url: String,
    pub request_bytes: u32,
    pub status: Option<u16>,
    /// Of a cloud: the name of what it met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Of a cloud: the name of the message that it has accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The start of the response body.
    pub response_body: String,
    /// `name: value`, a line each: one text, since hardly anybody reads them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub response_headers: String,
    /// `None` in outcomes of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posted: Option<Posted>,
    /// What was odd about the exchange, for the merchant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
