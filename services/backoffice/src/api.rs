//! What the API answers, as far as pages show it. What is absent or new does not matter here.

use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct List<T> {
    pub(crate) data: Vec<T>,
    #[serde(default)]
    pub(crate) next_cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Webhook {
    pub(crate) id: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) description: Option<String>,
    pub(crate) url: String,
    pub(crate) events: Vec<String>,
    pub(crate) state: String,
    pub(crate) created_at: String,
    #[serde(default)]
    pub(crate) failing_since: Option<String>,
    #[serde(default)]
    pub(crate) disabled_at: Option<String>,
    #[serde(default)]
    pub(crate) disabled_reason: Option<String>,
    #[serde(default)]
    pub(crate) waiting: Option<Waiting>,
    #[serde(default)]
    pub(crate) fields: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) filter: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) changed: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) debounce: Option<String>,
    #[serde(default)]
    pub(crate) rate_limit: Option<u16>,
    /// How its deliveries are signed.
    #[serde(default)]
    pub(crate) signature: Option<String>,
    /// Of its owner's own, for a bus or topic; what is secret is masked.
    #[serde(default)]
    pub(crate) credentials: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Waiting {
    pub(crate) parked: u64,
    #[serde(default)]
    pub(crate) oldest_at: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metrics {
    #[serde(default)]
    pub(crate) webhook_id: String,
    pub(crate) total: Tally,
    pub(crate) data: Vec<Window>,
    pub(crate) now: Now,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Window {
    pub(crate) from: String,
    #[serde(flatten)]
    pub(crate) tally: Tally,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tally {
    pub(crate) attempts: u64,
    #[serde(default)]
    pub(crate) failed_attempts: std::collections::BTreeMap<String, u64>,
    pub(crate) deliveries: Ends,
    #[serde(default)]
    pub(crate) latency: Option<Latency>,
}

impl Tally {
    /// Deliveries that the endpoint never accepted.
    pub(crate) fn missed(&self) -> u64 {
        self.deliveries.failed.saturating_add(self.deliveries.expired)
    }
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Ends {
    #[serde(default)]
    pub(crate) delivered: u64,
    #[serde(default)]
    pub(crate) failed: u64,
    #[serde(default)]
    pub(crate) expired: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Now {
    #[serde(default)]
    pub(crate) oldest_waiting_at: Option<String>,
    #[serde(default)]
    pub(crate) circuit: Option<String>,
    #[serde(default)]
    pub(crate) next_probe_at: Option<String>,
    #[serde(default)]
    pub(crate) error: Option<Reason>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Type {
    #[serde(rename = "type")]
    pub(crate) name: String,
    pub(crate) resource: String,
    pub(crate) description: String,
    #[serde(default)]
    pub(crate) example: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Delivery {
    pub(crate) id: String,
    pub(crate) webhook_id: String,
    pub(crate) event_id: String,
    pub(crate) event: String,
    pub(crate) resource: String,
    pub(crate) state: String,
    pub(crate) attempt_count: u64,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
    #[serde(default)]
    pub(crate) next_attempt_at: Option<String>,
    #[serde(default)]
    pub(crate) response_status: Option<u16>,
    #[serde(default)]
    pub(crate) error: Option<Reason>,
    #[serde(default)]
    pub(crate) carried_by: Option<String>,
    #[serde(default)]
    pub(crate) attempts: Vec<Attempt>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Reason {
    pub(crate) reason: String,
    pub(crate) detail: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attempt {
    pub(crate) id: String,
    pub(crate) number: u64,
    pub(crate) started_at: String,
    pub(crate) duration_ms: u64,
    pub(crate) request: Sent,
    #[serde(default)]
    pub(crate) response: Option<Answered>,
    #[serde(default)]
    pub(crate) error: Option<Reason>,
    #[serde(default)]
    pub(crate) note: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sent {
    pub(crate) method: String,
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) headers: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) body: Option<String>,
    #[serde(default)]
    pub(crate) body_unavailable: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answered {
    #[serde(default)]
    pub(crate) status: Option<u16>,
    /// Of a bus or topic.
    #[serde(default)]
    pub(crate) code: Option<String>,
    #[serde(default)]
    pub(crate) message_id: Option<String>,
    #[serde(default)]
    pub(crate) headers: Vec<Header>,
    pub(crate) body: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Header {
    pub(crate) name: String,
    pub(crate) value: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct TestReport {
    pub(crate) success: bool,
    /// Of an HTTPS endpoint.
    #[serde(default)]
    pub(crate) status: Option<u16>,
    #[serde(default)]
    pub(crate) error: Option<Reason>,
    #[serde(default)]
    pub(crate) advice: Option<String>,
    /// Where a bus or topic does not let us in.
    #[serde(default)]
    pub(crate) setup: Option<Setup>,
}

/// How the owner of a bus or a topic lets us publish there.
#[derive(Debug, Deserialize)]
pub(crate) struct Setup {
    pub(crate) instructions: String,
    #[serde(default)]
    pub(crate) policy: Option<Box<RawValue>>,
    pub(crate) commands: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct MatchReport {
    pub(crate) matches: bool,
    pub(crate) objections: Vec<Objection>,
    pub(crate) payload: Box<RawValue>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Objection {
    pub(crate) rule: String,
    pub(crate) detail: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Made {
    pub(crate) id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Secret {
    pub(crate) secret: String,
    /// Of a webhook with asymmetric signatures.
    #[serde(default)]
    pub(crate) public_key: Option<String>,
    #[serde(default)]
    pub(crate) previous: Vec<PreviousSecret>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PreviousSecret {
    pub(crate) until: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Change {
    pub(crate) action: String,
    #[serde(default)]
    pub(crate) by: Option<String>,
    pub(crate) created_at: String,
    pub(crate) changes: std::collections::BTreeMap<String, FieldChange>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct FieldChange {
    #[serde(default)]
    pub(crate) from: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) to: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) source: String,
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    pub(crate) subject: String,
    pub(crate) time: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventReport {
    pub(crate) event: Box<RawValue>,
    pub(crate) stored_at: String,
    pub(crate) webhooks: Vec<AtWebhook>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AtWebhook {
    pub(crate) webhook_id: String,
    #[serde(default)]
    pub(crate) name: Option<String>,
    #[serde(default)]
    pub(crate) delivery: Option<Made>,
    pub(crate) objections: Vec<Objection>,
    pub(crate) outcome: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Plan {
    #[serde(default)]
    pub(crate) total: Option<u64>,
    #[serde(default)]
    pub(crate) oldest_at: Option<String>,
    #[serde(default)]
    pub(crate) newest_at: Option<String>,
    #[serde(default)]
    pub(crate) not_held: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Recovery {
    pub(crate) id: String,
    pub(crate) webhook_id: String,
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) total: Option<u64>,
    pub(crate) resent: u64,
    pub(crate) skipped: u64,
    pub(crate) unavailable: u64,
    #[serde(default)]
    pub(crate) error: Option<String>,
}
