use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::publish::PublishAck;
use moka::future::Cache;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use shopery_model::{Event, TenantId};
use shopery_queue::{Outgoing, PublishError, Queue, Sent, subject, trace};
use shopery_runtime::{Runtime, telemetry};
use tracing::Instrument;

/// How many events that came over NATS are remembered, and for how long: both are bounds on memory, no promise.
const REMEMBERED: u64 = 64 * 1024;
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// Stores events. Both ways in, HTTP and NATS, end here.
#[derive(Debug, Clone)]
pub(crate) struct Acceptor {
    queue: Queue,
    /// What EVENTS said of events that came over NATS lately.
    lately: Cache<String, PublishAck>,
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
    pub(crate) fn new(queue: Queue, runtime: &Runtime) -> Self {
        let metrics = &runtime.metrics;
        Self {
            queue,
            lately: Cache::builder().max_capacity(REMEMBERED).time_to_live(REMEMBERED_FOR).build(),
            accepted: metrics.register(
                "events_accepted",
                "Events stored in EVENTS, repeats included",
                Family::default(),
            ),
            refused: metrics.register("events_refused", "Events refused, by reason", Family::default()),
        }
    }

    /// Stores one event. After an error it may be stored or not: the publisher repeats it with the same id.
    pub(crate) async fn store(
        &self,
        tenant: &TenantId,
        event: &Event,
        traceparent: Option<&str>,
        source: Source,
    ) -> Result<PublishAck, PublishError> {
        let sent = self.send(tenant, event, traceparent).await;
        self.stored(sent, source).await
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
    pub(crate) async fn stored(&self, sent: Sent, source: Source) -> Result<PublishAck, PublishError> {
        let stored = sent.acked().await;
        match &stored {
            Ok(_) => {
                self.accepted.get_or_create(&[("source", source.name())]).inc();
            }
            Err(error) => {
                tracing::warn!(%error, "an event could not be stored; its publisher is told");
                self.refuse(source, "unavailable");
            }
        }
        stored
    }

    /// As [`store`](Self::store), for an event that this process is shown twice: whoever comes first stores it for both.
    pub(crate) async fn store_once(
        &self,
        tenant: &TenantId,
        event: &Event,
        traceparent: Option<&str>,
        source: Source,
    ) -> Result<PublishAck, Arc<PublishError>> {
        let id = subject::event_id(tenant, &event.source, &event.id);
        self.lately.try_get_with(id, self.store(tenant, event, traceparent, source)).await
    }

    pub(crate) fn refuse(&self, source: Source, reason: &'static str) {
        self.refused.get_or_create(&[("source", source.name()), ("reason", reason)]).inc();
    }
}
