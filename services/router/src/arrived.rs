//! An event as it came out of EVENTS, at once or by way of DEFERRED.

use std::sync::Arc;

use anyhow::Context;
use shopery_model::{DeliveryId, Event, Extensions, JobMeta, Lane, PayloadFormat, TenantId, Webhook};
use shopery_queue::{Message, Outgoing, subject, trace};
use time::OffsetDateTime;
use tracing::Span;

use crate::latest_states::Observed;
use crate::memory::Memory;

/// Where EVENTS holds an event that was deferred, and since when, in nanoseconds.
const SEQUENCE: &str = "Shopery-Event-Sequence";
const STORED_AT: &str = "Shopery-Event-Stored-At";
const OVERTAKEN: &str = "Shopery-Event-Overtaken";

/// An event as it came out of EVENTS.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) place: EventPlace,
    pub(crate) tenant: TenantId,
    pub(crate) event: Event,
    /// Those that want it.
    pub(crate) webhooks: Vec<Arc<Webhook>>,
    /// Webhooks that do not want it, but drop duplicates: a retry may send them its state.
    pub(crate) others: Vec<Arc<Webhook>>,
    /// Which its jobs take.
    pub(crate) lane: Lane,
    pub(crate) observed: Observed,
    pub(crate) memory: Arc<Memory>,
    pub(crate) span: Span,
}

/// Where EVENTS holds an event.
#[derive(Debug)]
pub(crate) struct EventPlace {
    pub(crate) subject: String,
    pub(crate) sequence: u64,
    pub(crate) at: OffsetDateTime,
    /// It has come from there by way of DEFERRED.
    pub(crate) was_deferred: bool,
    /// What came after it may have gone ahead.
    pub(crate) is_overtaken: bool,
}

impl Arrived {
    pub(crate) fn needs_look_up(&self) -> bool {
        let asks = |webhook: &Arc<Webhook>| webhook.rules.changed.is_some() || webhook.rules.debounce.is_some();
        self.observed.may_be_late || self.webhooks.iter().any(asks)
    }

    pub(crate) fn meta(&self, webhook: &Webhook, is_late: bool) -> JobMeta {
        JobMeta {
            delivery: DeliveryId::of(&self.tenant, &self.event.source, &self.event.id, self.place.at, webhook.id),
            tenant: self.tenant.clone(),
            webhook: webhook.id,
            source: self.event.source.clone(),
            event: self.event.id.clone(),
            event_type: self.event.event_type,
            resource: self.event.resource.to_string(),
            triggered_at: self.event.time,
            event_sequence: self.place.sequence,
            changed: Vec::new(),
            stored_ns: i64::try_from(self.place.at.unix_timestamp_nanos()).ok(),
            payload_of: None,
            fields: webhook.rules.fields.as_ref().map(|fields| fields.paths().to_vec()),
            // Carried where they are asked for alone: a job is read and written many times.
            extensions: match webhook.rules.format {
                PayloadFormat::CloudEvent => self.event.extensions.clone(),
                PayloadFormat::Resource => Extensions::default(),
            },
            may_be_stale: self.place.is_overtaken || self.observed.changes_often || is_late,
            attempt: 1,
            resend: None,
            failed_at: None,
        }
    }
}

impl EventPlace {
    /// Of the event of a message, which may have come by way of DEFERRED.
    pub(crate) fn of(message: &Message) -> anyhow::Result<Self> {
        let stored = message.stored()?;
        let Some(subject) = subject::parse_deferred(message.subject()) else {
            return Ok(Self {
                subject: message.subject().to_owned(),
                sequence: stored.sequence,
                at: stored.at,
                was_deferred: false,
                is_overtaken: false,
            });
        };
        let header = |name| message.headers().and_then(|headers| headers.get(name)).map(|value| value.as_str());
        let sequence = header(SEQUENCE).and_then(|text| text.parse().ok()).context("it names no place in EVENTS")?;
        let at = header(STORED_AT)
            .and_then(|text| OffsetDateTime::from_unix_timestamp_nanos(text.parse().ok()?).ok())
            .context("it does not say since when EVENTS has it")?;
        Ok(Self { subject, sequence, at, was_deferred: true, is_overtaken: header(OVERTAKEN).is_some() })
    }

    /// The message on DEFERRED that brings the event back when there is time.
    pub(crate) fn deferred(&self, message: &Message) -> Outgoing {
        let Self { subject, sequence, at, is_overtaken, .. } = self;
        let mut deferred =
            Outgoing::new(subject::deferred(subject), message.payload().clone()).with_id(format!("event:{sequence}"));
        deferred.headers.push((SEQUENCE, sequence.to_string()));
        deferred.headers.push((STORED_AT, at.unix_timestamp_nanos().to_string()));
        if *is_overtaken {
            deferred.headers.push((OVERTAKEN, "1".to_owned()));
        }
        deferred
            .headers
            .extend(trace::incoming(message.headers()).map(|parent| (trace::TRACEPARENT, parent.to_owned())));
        deferred
    }
}
