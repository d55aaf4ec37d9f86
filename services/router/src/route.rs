use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use prometheus_client::metrics::counter::Counter;
use shopery_model::{DeliveryId, Event, Job, JobMeta, TenantId, Webhook};
use shopery_queue::{Dead, Directory, Message, Outgoing, Queue, Sent, Stored, Taken, subject, trace};
use shopery_runtime::{Runtime, telemetry};

/// Routes events. It is one per process; the work of an event goes on in the [`Routed`] that it returns.
#[derive(Debug)]
pub(crate) struct Router {
    queue: Queue,
    directory: Directory,
    routed: Counter,
    jobs: Counter,
}

/// An event whose jobs are on their way to JOBS.
#[derive(Debug)]
pub(crate) struct Routed {
    queue: Queue,
    event: Taken,
    jobs: anyhow::Result<Vec<Sent>>,
}

impl Router {
    pub(crate) fn new(queue: Queue, directory: Directory, runtime: &Runtime) -> Self {
        let metrics = &runtime.metrics;
        Self {
            queue,
            directory,
            routed: metrics.register(
                "events_routed",
                "Events matched with webhooks, repeats included",
                Counter::default(),
            ),
            jobs: metrics.register("jobs_published", "Jobs handed to JOBS, repeats included", Counter::default()),
        }
    }

    pub(crate) async fn route(&self, event: Taken) -> Routed {
        let jobs = match read(&event.message) {
            Ok((tenant, stored, read)) => Ok(self.publish(&event.message, &tenant, stored, read).await),
            Err(error) => Err(error),
        };
        Routed { queue: self.queue.clone(), event, jobs }
    }

    async fn publish(&self, message: &Message, tenant: &TenantId, stored: Stored<'_>, event: Event) -> Vec<Sent> {
        let parent = trace::incoming(message.headers());
        let span = tracing::info_span!(
            target: telemetry::TRACE,
            "route event",
            otel.kind = "consumer",
            tenant = tenant.as_str(),
            event.id = event.id,
            jobs = tracing::field::Empty,
        );
        trace::adopt(&span, parent);
        let webhooks = self.directory.wanting(tenant, event.event_type);
        self.routed.inc();
        self.jobs.inc_by(webhooks.len() as u64);
        span.record("jobs", webhooks.len());
        let mut sent = Vec::with_capacity(webhooks.len());
        for job in jobs(&event, tenant, stored, &webhooks) {
            let mut message = Outgoing::new(subject::job(tenant, job.meta.webhook), job.encode())
                .with_id(job.meta.delivery.to_string());
            trace::inject(&span, parent, &mut message.headers);
            sent.push(self.queue.send(message).await);
        }
        sent
    }
}

impl Routed {
    /// Waits for the jobs, then acknowledges the event. Without an acknowledgement the event comes again.
    pub(crate) async fn finish(self) {
        let done = match self.jobs {
            Ok(jobs) => stored(jobs, self.queue.limits.ack_wait * 2 / 3).await,
            Err(ref error) => bury(&self.queue, &self.event.message, error).await,
        };
        if let Err(error) = done {
            tracing::warn!(subject = self.event.message.subject(), "an event is routed again later: {error:#}");
        } else {
            self.event.message.ack().await;
        }
        drop(self.event.slot);
    }
}

async fn stored(jobs: Vec<Sent>, patience: Duration) -> anyhow::Result<()> {
    for job in jobs {
        job.stored(patience).await?;
    }
    Ok(())
}

/// An event that does not read cannot have come through ingest; an operator has to see it.
async fn bury(queue: &Queue, message: &Message, error: &anyhow::Error) -> anyhow::Result<()> {
    let sequence = message.stored()?.sequence;
    let dead = Dead::new(message.subject(), format!("{error:#}"), message.payload());
    let tenant = subject::parse_event(message.subject());
    Ok(queue.bury("undecodable-event", tenant.as_ref(), format!("event:{sequence}"), &dead).await?)
}

fn read(message: &Message) -> anyhow::Result<(TenantId, Stored<'_>, Event)> {
    let stored = message.stored()?;
    let tenant = subject::parse_event(message.subject()).context("the subject names no tenant")?;
    let event = Event::parse(message.payload(), stored.at).map_err(|wrong| match wrong.into_iter().next() {
        Some(invalid) => anyhow!(invalid),
        None => anyhow!("malformed event"),
    })?;
    Ok((tenant, stored, event))
}

/// The jobs of an event: one for each webhook.
fn jobs(event: &Event, tenant: &TenantId, stored: Stored<'_>, webhooks: &[Arc<Webhook>]) -> impl Iterator<Item = Job> {
    webhooks.iter().map(move |webhook| Job {
        meta: JobMeta {
            delivery: DeliveryId::of(tenant, &event.id, stored.at, webhook.id),
            tenant: tenant.clone(),
            webhook: webhook.id,
            event: event.id.clone(),
            event_type: event.event_type,
            resource: event.resource.to_string(),
            triggered_at: event.time,
            event_sequence: stored.sequence,
            changed: Vec::new(),
            attempt: 1,
        },
        payload: event.data.clone(),
    })
}
