use std::sync::Arc;

use async_nats::jetstream::publish::PublishAck;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use shopery_model::{Event, Invalid, TenantId};
use shopery_queue::{Outgoing, PublishError, Queue, Sent, subject, trace};
use shopery_runtime::{Runtime, telemetry};
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::recent_acks::{Accepted, NotAccepted, RecentAcks, Task};
use crate::validate::{Purpose, Validation};

/// Stored events that are in memory at the same time to be compared with repeats, at 256 KiB each: a batch of a thousand
/// small repeats of large events would otherwise bring all of these in at once.
const MAX_COMPARISONS: usize = 32;

/// Stores events. Both ways in, HTTP and NATS, end here.
#[derive(Debug, Clone)]
pub(crate) struct Acceptor {
    queue: Queue,
    /// Of events that came over NATS.
    recent_acks: RecentAcks,
    comparisons: Arc<Semaphore>,
    /// `None` if the data of events is not compared with the catalogue.
    validation: Option<Arc<Validation>>,
    accepted: Family<[(&'static str, &'static str); 1], Counter>,
    refused: Family<[(&'static str, &'static str); 2], Counter>,
}

/// The way in that an event took.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    Http,
    Nats,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Nats => "nats",
        }
    }
}

impl Acceptor {
    pub(crate) fn new(queue: Queue, validation: Option<Validation>, runtime: &Runtime) -> Self {
        let metrics = &runtime.metrics;
        Self {
            queue,
            recent_acks: RecentAcks::new(),
            comparisons: Arc::new(Semaphore::new(MAX_COMPARISONS)),
            validation: validation.map(Arc::new),
            accepted: metrics.register(
                "events_accepted",
                "Events stored in EVENTS, repeats included",
                Family::default(),
            ),
            refused: metrics.register("events_refused", "Events refused, by reason", Family::default()),
        }
    }

    /// What of an event's data is not as the catalogue says, if that is asked for.
    pub(crate) fn validate(&self, tenant: &TenantId, event: &Event, purpose: Purpose) -> Result<(), Vec<Invalid>> {
        self.validation.as_ref().map_or(Ok(()), |validation| validation.check(tenant, event, purpose))
    }

    /// Stores one event. After an error it may be stored or not: the publisher repeats it with the same id.
    pub(crate) async fn store(
        &self,
        tenant: &TenantId,
        event: &Event,
        traceparent: Option<&str>,
        source: Source,
    ) -> Result<Accepted, NotAccepted> {
        let sent = self.send(tenant, event, traceparent).await;
        self.stored(tenant, event, sent, source).await
    }

    /// Hands an event to EVENTS, in the order of the calls.
    pub(crate) async fn send(&self, tenant: &TenantId, event: &Event, traceparent: Option<&str>) -> Sent {
        let parent = traceparent.or(event.traceparent());
        let span = tracing::info_span!(
            target: telemetry::TRACE,
            "accept event",
            otel.kind = "producer",
            tenant = tenant.as_str(),
            event.id = event.id,
            event.r#type = %event.event_type,
        );
        trace::adopt(&span, parent);
        let mut message = Outgoing::event(tenant, event);
        trace::inject(&span, parent, &mut message.headers);
        self.queue.send(message).instrument(span).await
    }

    /// Waits for an event to be stored.
    pub(crate) async fn stored(
        &self,
        tenant: &TenantId,
        event: &Event,
        sent: Sent,
        source: Source,
    ) -> Result<Accepted, NotAccepted> {
        let stored = match sent.acked().await {
            Ok(ack) if ack.duplicate => self.compare(tenant, event, ack).await,
            Ok(ack) => Ok(Accepted { ack, is_repeat: false }),
            Err(error) => Err(NotAccepted::Unavailable(error)),
        };
        match &stored {
            Ok(_) => {
                self.accepted.get_or_create(&[("source", source.name())]).inc();
            }
            // Whoever refuses it counts it.
            Err(NotAccepted::Conflict) => {}
            Err(NotAccepted::Unavailable(error)) => {
                tracing::warn!(%error, "an event could not be stored; its publisher is told");
                self.refuse(source, "unavailable");
            }
        }
        stored
    }

    /// EVENTS has an event of this source and id: whether that says the same. One that EVENTS no longer holds is taken
    /// for the same, since nothing speaks against it.
    async fn compare(&self, tenant: &TenantId, event: &Event, ack: PublishAck) -> Result<Accepted, NotAccepted> {
        let unavailable = |why: String| NotAccepted::Unavailable(PublishError::Unavailable(why));
        let _permit = self.comparisons.acquire().await.map_err(|error| unavailable(error.to_string()))?;
        let known = self.queue.acknowledged_state_at(ack.sequence).await;
        let known = known.map_err(|error| unavailable(format!("a repeat cannot be compared: {error:#}")))?;
        let is_other = known.is_some_and(|known| {
            let is_of_this_id =
                (&known.tenant, &known.event.source, &known.event.id) == (tenant, &event.source, &event.id);
            is_of_this_id && !known.event.says_the_same_as(event)
        });
        if is_other { Err(NotAccepted::Conflict) } else { Ok(Accepted { ack, is_repeat: true }) }
    }

    /// As [`store`](Self::store), for an event of NATS, which this process is shown twice: whoever comes first stores it
    /// for both.
    pub(crate) async fn store_once(
        &self,
        tenant: &TenantId,
        event: &Event,
        traceparent: Option<&str>,
        task: Task,
    ) -> Result<Accepted, Arc<NotAccepted>> {
        let id = subject::event_id(tenant, &event.source, &event.id);
        let store = || self.store(tenant, event, traceparent, Source::Nats);
        match self.recent_acks.get_or_store(id, event.content_digest(), task, store()).await? {
            Some(accepted) => Ok(accepted),
            None => store().await.map_err(Arc::new),
        }
    }

    pub(crate) fn refuse(&self, source: Source, reason: &'static str) {
        self.refused.get_or_create(&[("source", source.name()), ("reason", reason)]).inc();
    }
}
