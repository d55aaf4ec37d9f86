//! A job on its way to an attempt: one line of JSON about it, then the payload as it will be posted.
//!
//! The frame keeps the payload out of JSON, so it is neither escaped nor copied on the way.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{DeliveryId, EventType, Extensions, PayloadMode, StateVersion, TenantId, WebhookId};

/// One event for one webhook.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub meta: JobMeta,
    /// The body of the POST.
    pub payload: Bytes,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobMeta {
    pub delivery: DeliveryId,
    pub tenant: TenantId,
    pub webhook: WebhookId,
    /// The event's `source`; empty in jobs of before deliveries told it.
    #[serde(default)]
    pub source: String,
    pub event: String,
    pub event_type: EventType,
    /// `order/ord_123`
    pub resource: String,
    /// The time of the event, not of the attempt.
    #[serde(with = "time::serde::rfc3339")]
    pub triggered_at: OffsetDateTime,
    /// Where EVENTS holds the event.
    pub event_sequence: u64,
    /// When EVENTS stored it, in nanoseconds; `None` in jobs of before states had versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_ns: Option<i64>,
    /// Whose state the payload is, if it is another event's: the last one of a debounced burst.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_of: Option<PayloadEvent>,
    /// The paths of that state that the payload has; all of it if absent. Text, since nobody but a reader of the history parses
    /// them again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Vec<String>>,
    /// The event's extension attributes, for a webhook that is sent CloudEvents.
    #[serde(default, skip_serializing_if = "Extensions::is_empty")]
    pub extensions: Extensions,
    /// Which of the webhook's `changed` paths have changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    /// The resource may have a newer state by now, although the event is fresh: others went ahead, or it changes often.
    #[serde(rename = "deferred", default, skip_serializing_if = "std::ops::Not::not")]
    pub may_be_stale: bool,
    /// The number of the attempt that this job waits for; the first is 1.
    pub attempt: u32,
    /// `None` for what an event has caused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resend: Option<Resend>,
    /// When the attempt before it failed, if there was one.
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<OffsetDateTime>,
}

/// The event whose state a payload is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PayloadEvent {
    pub source: String,
    pub id: String,
    pub version: StateVersion,
}

/// A delivery that is sent again because somebody asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resend {
    /// 1 for the first time that it is sent again.
    pub round: u32,
    /// Attempts of the rounds before. Their numbers go on; the retry schedule begins anew.
    pub attempts_before: u32,
    /// In place of the webhook's `payload`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<PayloadMode>,
}

impl JobMeta {
    /// How often the delivery had been asked for again when this job was made.
    pub fn round(&self) -> u32 {
        self.resend.map_or(0, |resend| resend.round)
    }

    /// The number of the attempt within its round, which the retry schedule goes by.
    pub fn attempt_of_round(&self) -> u32 {
        self.attempt - self.resend.map_or(0, |resend| resend.attempts_before).min(self.attempt.saturating_sub(1))
    }

    /// The version of the state that the event carries.
    pub fn version(&self) -> StateVersion {
        let stored_at = self.stored_ns.and_then(|ns| OffsetDateTime::from_unix_timestamp_nanos(ns.into()).ok());
        // The id keeps the time of storing to the millisecond.
        let stored_at = stored_at.unwrap_or_else(|| self.delivery.created_at());
        StateVersion::of(self.triggered_at, stored_at, self.event_sequence)
    }

    /// The event whose state the payload of the job is.
    pub fn payload_event(&self) -> PayloadEvent {
        self.payload_of.clone().unwrap_or_else(|| PayloadEvent {
            source: self.source.clone(),
            id: self.event.clone(),
            version: self.version(),
        })
    }

    /// What the history needs of it. The rest may be long, and is of use to an attempt alone.
    pub fn for_history(self) -> Self {
        Self { changed: Vec::new(), extensions: Extensions::default(), payload_of: None, fields: None, ..self }
    }

    /// Names the delivery and its round, so that a stream knows a repeat from a resend.
    pub fn key(&self) -> String {
        match self.resend {
            None => self.delivery.to_string(),
            Some(Resend { round, .. }) => format!("{}+{round}", self.delivery),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("malformed job: {0}")]
pub struct MalformedJob(String);

impl Job {
    pub fn encode(&self) -> Bytes {
        let mut frame = Vec::with_capacity(self.payload.len() + 384);
        // Plain strings, numbers and a time that was parsed from RFC 3339 always serialise.
        let _ = serde_json::to_writer(&mut frame, &self.meta);
        frame.push(b'\n');
        frame.extend_from_slice(&self.payload);
        frame.into()
    }

    pub fn decode(frame: &Bytes) -> Result<Self, MalformedJob> {
        let end = frame
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or_else(|| MalformedJob("there is no line break after the metadata".into()))?;
        let meta = serde_json::from_slice(&frame[..end]).map_err(|error| MalformedJob(error.to_string()))?;
        Ok(Self { meta, payload: frame.slice(end + 1..) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_job_survives_its_frame(event in "\\PC{1,40}", payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (tenant, webhook): (TenantId, _) = ("t\u{e9}".parse().unwrap(), WebhookId::generate());
            let meta = JobMeta {
                delivery: DeliveryId::of(&tenant, "orders", &event, OffsetDateTime::UNIX_EPOCH, webhook),
                tenant,
                webhook,
                source: "orders".into(),
                event,
                event_type: "order-paid".parse().unwrap(),
                resource: "order/1\n2".into(),
                triggered_at: time::macros::datetime!(2026-11-24 10:00:00.123456789 UTC),
                event_sequence: u64::MAX,
                stored_ns: Some(1_795_592_800_123_456_789),
                payload_of: Some(PayloadEvent {
                    source: "orders".into(),
                    id: "e2".into(),
                    version: StateVersion::of(OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH, 3),
                }),
                extensions: serde_json::from_str(r#"{"partitionkey":"a","sequence":7,"sampled":true}"#).unwrap(),
                fields: Some(vec!["id".into()]),
                changed: vec!["a.b".into()],
                may_be_stale: true,
                attempt: 3,
                resend: Some(Resend { round: 2, attempts_before: 2, payload: Some(PayloadMode::Original) }),
                failed_at: Some(time::macros::datetime!(2026-11-24 10:00:01 UTC)),
            };
            prop_assert_eq!(meta.attempt_of_round(), 1);
            let job = Job { meta, payload: payload.into() };
            prop_assert_eq!(Job::decode(&job.encode()).unwrap(), job);
        }

        #[test]
        fn no_frame_panics(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Job::decode(&frame.into());
        }
    }
}
