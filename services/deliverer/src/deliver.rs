//! One job, from its message to its outcome.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use shopery_model::{
    Answer, Attempt, AttemptId, DeliveryState, Fault, Job, JobMeta, MalformedJob, Outcome, RetrySchedule, Verdict,
    Webhook,
};
use shopery_queue::{Dead, Directory, Message as Received, Outcomes, Outgoing, Queue, Taken, subject, trace};
use shopery_runtime::{Runtime, latency_buckets, telemetry};
use shopery_sender::{Endpoint, Message, Sender};
use time::OffsetDateTime;
use tracing::{Instrument, Span};

#[derive(Debug)]
pub(crate) struct Deliverer {
    queue: Queue,
    directory: Directory,
    sender: Sender,
    schedule: RetrySchedule,
    outcomes: Outcomes,
    metrics: Metrics,
}

#[derive(Debug)]
struct Metrics {
    attempts: Family<[(&'static str, &'static str); 1], Counter>,
    duration: Histogram,
    under_way: Gauge,
}

impl Deliverer {
    pub(crate) fn new(
        queue: Queue,
        directory: Directory,
        sender: Sender,
        schedule: RetrySchedule,
        outcomes: Outcomes,
        runtime: &Runtime,
    ) -> Self {
        let of = &runtime.metrics;
        let metrics = Metrics {
            attempts: of.register(
                "delivery_attempts",
                "Attempts by result: delivered, or the reason",
                Family::default(),
            ),
            duration: of.register(
                "delivery_attempt_seconds",
                "Duration of an attempt in seconds",
                Histogram::new(latency_buckets()),
            ),
            under_way: of.register("deliveries_under_way", "Attempts under way", Gauge::default()),
        };
        Self { queue, directory, sender, schedule, outcomes, metrics }
    }

    /// Works a job off. If that cannot be finished, the message stays unacknowledged and comes again.
    pub(crate) async fn deliver(&self, job: Taken) {
        let Taken { message, slot } = job;
        let finished = match Job::decode(message.payload()) {
            Ok(job) => self.attempt(job, &message).await,
            Err(error) => match self.bury(&message, &error).await {
                Ok(()) => {
                    message.ack().await;
                    return;
                }
                Err(error) => Err(error),
            },
        };
        match finished {
            // The slot is free once the outcome is handed over: a batch that is full holds back new work.
            Ok(outcome) => self.outcomes.add(vec![outcome], message).await,
            Err(error) => tracing::warn!(subject = message.subject(), "a job is repeated later: {error:#}"),
        }
        drop(slot);
    }

    /// One attempt, and what follows from it; the outcome is for the history.
    async fn attempt(&self, job: Job, message: &Received) -> anyhow::Result<Outcome> {
        let meta = &job.meta;
        let webhook = match self.directory.get(&meta.tenant, meta.webhook).await? {
            Some(webhook) if webhook.is_enabled => webhook,
            Some(_) => {
                return Ok(given_up(job.meta, Fault::WebhookDisabled, "the webhook was disabled before the attempt"));
            }
            None => return Ok(given_up(job.meta, Fault::WebhookDeleted, "the webhook was deleted before the attempt")),
        };
        let parent = trace::incoming(message.headers());
        let span = tracing::info_span!(
            target: telemetry::TRACE,
            "deliver",
            otel.kind = "client",
            tenant = meta.tenant.as_str(),
            webhook.id = %meta.webhook,
            delivery.id = %meta.delivery,
            attempt = meta.attempt,
            server.address = webhook.url.host_str(),
            http.response.status_code = tracing::field::Empty,
            error.r#type = tracing::field::Empty,
        );
        trace::adopt(&span, parent);

        let started_at = OffsetDateTime::now_utc();
        self.metrics.under_way.inc();
        let answer = self.post(&job, &webhook, started_at).instrument(span.clone()).await;
        self.metrics.under_way.dec();
        self.note(&answer, &span);

        let verdict = Verdict::of(&answer, meta.attempt, meta.delivery, &self.schedule);
        let next_attempt_at = match verdict {
            Verdict::RetryAfter(delay) => Some(self.schedule_retry(&job, delay, &span, parent).await?),
            Verdict::Delivered | Verdict::GiveUp | Verdict::Disable => None,
        };
        Ok(outcome(job, &webhook, answer, verdict, started_at, next_attempt_at))
    }

    async fn post(&self, job: &Job, webhook: &Arc<Webhook>, now: OffsetDateTime) -> Answer {
        let meta = &job.meta;
        let event = meta.event_type.to_string();
        let message = Message {
            webhook_id: meta.delivery.to_string(),
            event: &event,
            event_id: &meta.event,
            webhook: Some(meta.webhook.to_string()),
            tenant: meta.tenant.as_str(),
            triggered_at: meta.triggered_at,
            attempt: meta.attempt,
            payload: job.payload.clone(),
        };
        self.sender.send(Endpoint { url: &webhook.url, secret: &webhook.secret }, &message, now).await
    }

    /// Puts the next attempt on RETRY as a message that the server publishes on `due.` when its time has come. A
    /// delivery has one schedule: a repeat of this attempt replaces it.
    async fn schedule_retry(
        &self,
        job: &Job,
        delay: Duration,
        span: &Span,
        parent: Option<&str>,
    ) -> anyhow::Result<OffsetDateTime> {
        let meta = JobMeta { attempt: job.meta.attempt + 1, ..job.meta.clone() };
        let due_at = OffsetDateTime::now_utc() + delay;
        let mut message = Outgoing::new(
            subject::retry(&meta.tenant, meta.webhook, meta.delivery),
            Job { payload: job.payload.clone(), meta: meta.clone() }.encode(),
        )
        .scheduled(due_at, subject::due(&meta.tenant, meta.webhook));
        trace::inject(span, parent, &mut message.headers);
        self.queue.publish_until_stored(&message, self.queue.limits.ack_wait / 2).await?;
        Ok(due_at)
    }

    fn note(&self, answer: &Answer, span: &Span) {
        let result = answer.fault.as_ref().map_or("delivered", |(fault, _)| fault.name());
        self.metrics.attempts.get_or_create(&[("result", result)]).inc();
        self.metrics.duration.observe(answer.duration.as_secs_f64());
        if let Some(status) = answer.status {
            span.record("http.response.status_code", status);
        }
        if answer.fault.is_some() {
            span.record("error.type", result);
        }
    }

    async fn bury(&self, message: &Received, error: &MalformedJob) -> anyhow::Result<()> {
        let stored = message.stored()?;
        let id = format!("{}:{}", stored.stream, stored.sequence);
        let dead = Dead::new(message.subject(), error.to_string(), message.payload());
        Ok(self.queue.bury("undecodable-job", None, id, &dead).await?)
    }
}

fn given_up(job: JobMeta, fault: Fault, detail: &str) -> Outcome {
    Outcome {
        job,
        state: DeliveryState::Failed,
        next_attempt_at: None,
        attempt: None,
        fault: Some((fault, detail.to_owned())),
        carried_by: None,
        at: OffsetDateTime::now_utc(),
    }
}

fn outcome(
    job: Job,
    webhook: &Webhook,
    answer: Answer,
    verdict: Verdict,
    started_at: OffsetDateTime,
    next_attempt_at: Option<OffsetDateTime>,
) -> Outcome {
    Outcome {
        job: job.meta,
        state: match verdict {
            Verdict::Delivered => DeliveryState::Delivered,
            Verdict::RetryAfter(_) => DeliveryState::Pending,
            Verdict::GiveUp | Verdict::Disable => DeliveryState::Failed,
        },
        next_attempt_at,
        attempt: Some(Attempt {
            id: AttemptId::generate(),
            started_at,
            duration_ms: u32::try_from(answer.duration.as_millis()).unwrap_or(u32::MAX),
            url: webhook.url.to_string(),
            request_bytes: u32::try_from(job.payload.len()).unwrap_or(u32::MAX),
            status: answer.status,
            response_body: answer.body,
        }),
        fault: answer.fault,
        carried_by: None,
        at: OffsetDateTime::now_utc(),
    }
}
