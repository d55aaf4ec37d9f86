//! What the deliverer tells the history about each attempt. A message on OUTCOMES is a JSON array of these.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{AttemptId, Fault, JobMeta};

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
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
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
}

impl DeliveryState {
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Failed];

    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
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
    pub url: String,
    pub request_bytes: u32,
    pub status: Option<u16>,
    /// The start of the response body.
    pub response_body: String,
}
