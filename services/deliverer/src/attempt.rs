//! One attempt of one job, and what follows from it. Whoever attempts, a fresh job, a retry or a probe, does it here.

use std::time::Duration;

use anyhow::Context;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use shopery_model::{
    Answer, Attempt, AttemptId, DeliveryState, Fault, Job, JobMeta, Outcome, Posted, RetrySchedule, StateVersion,
    Verdict, Webhook,
};
use shopery_queue::{Outgoing, Progress, PublishError, Queue, SentState, newest, subject, trace};
use shopery_runtime::{Runtime, latency_buckets, telemetry};
use shopery_sender::{Message, Sender, Target, fitting};
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::ended::End;
use crate::payload::{self, Choice};

/// Delay before we write a schedule again that another deliverer was changing; it doubles each time.
const WRITE_DELAY: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct Attempter {
    queue: Queue,
    sender: Sender,
    schedule: RetrySchedule,
    metrics: Metrics,
}

#[derive(Debug)]
struct Metrics {
    attempts: Family<[(&'static str, &'static str); 1], Counter>,
    duration: Histogram,
    under_way: Gauge,
}

/// What came of the wish to attempt a job.
#[derive(Debug)]
pub(crate) enum Tried {
    Attempted(Box<Attempted>),
    /// There was nothing left to tell.
    Ended(End),
}

/// An attempt that was made.
#[derive(Debug)]
pub(crate) struct Attempted {
    pub(crate) answer: Answer,
    pub(crate) posted: Posted,
    /// Of the state that was sent.
    pub(crate) version: StateVersion,
    started_at: OffsetDateTime,
    url: String,
    bytes: usize,
    span: Span,
}

impl Attempted {
    pub(crate) fn is_success(&self) -> bool {
        self.answer.fault.is_none()
    }

    /// Whether the next attempts would fail too.
    pub(crate) fn is_lasting_failure(&self) -> bool {
        self.answer.fault.as_ref().is_some_and(|(fault, _)| fault.is_lasting())
    }
}

impl Attempter {
    pub(crate) fn new(queue: Queue, sender: Sender, schedule: RetrySchedule, runtime: &Runtime) -> Self {
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
        Self { queue, sender, schedule, metrics }
    }

    /// Posts a job to its webhook as that is now. `sent`: what an ordered webhook has accepted last of the resource.
    pub(crate) async fn attempt(
        &self,
        job: &Job,
        webhook: &Webhook,
        sent: Option<SentState>,
        parent: Option<&str>,
    ) -> anyhow::Result<Tried> {
        let meta = &job.meta;
        let span = tracing::info_span!(
            target: telemetry::TRACE,
            "deliver",
            otel.kind = "client",
            tenant = meta.tenant.as_str(),
            webhook.id = %meta.webhook,
            delivery.id = %meta.delivery,
            attempt = meta.attempt,
            server.address = webhook.destination.host(),
            http.response.status_code = tracing::field::Empty,
            error.r#type = tracing::field::Empty,
        );
        trace::adopt(&span, parent);
        let started_at = shopery_queue::now();
        let payload = match payload::choose(&self.queue, job, webhook, sent, started_at).await? {
            Choice::Send(payload) => payload,
            Choice::End(end) => return Ok(Tried::Ended(end)),
        };
        let credentials = webhook.credentials.as_deref().context("the webhook's credentials are not open")?;
        let signature = webhook.rules.signature;
        let target = Target { destination: &webhook.destination, credentials, signature };
        let format = webhook.rules.format;
        let named = payload::named(meta, &webhook.rules);
        let body = named.body(format, &payload.data, &payload.of, &meta.extensions);
        let (changed, changed_omitted) = fitting(&meta.changed);
        let event = meta.event_type.to_string();
        let message = Message {
            webhook_id: meta.delivery.to_string(),
            event: &event,
            event_id: named.id,
            event_source: named.source,
            webhook: Some(meta.webhook.to_string()),
            tenant: meta.tenant.as_str(),
            triggered_at: named.at,
            payload_of: Some(&payload.of),
            changed,
            changed_omitted,
            ordering_key: webhook.rules.ordered.then_some(meta.resource.as_str()),
            attempt: meta.attempt,
            is_test: false,
            format,
            payload: body.clone(),
        };
        self.metrics.under_way.inc();
        let answer = self.sender.send(target, &message, started_at).instrument(span.clone()).await;
        self.metrics.under_way.dec();
        // A fault of ours says nothing of the endpoint: the job is attempted again, and its attempts are as many as before.
        let answer = answer.context("the attempt was not made")?;
        self.note(&answer, &span);
        let url = webhook.destination.to_string();
        let version = payload.of.version;
        let posted = payload::posted(meta, webhook, payload, &body);
        Ok(Tried::Attempted(Box::new(Attempted { answer, posted, version, started_at, url, bytes: body.len(), span })))
    }

    pub(crate) fn verdict(&self, meta: &JobMeta, attempted: &Attempted) -> Verdict {
        Verdict::of(&attempted.answer, meta.attempt_of_round(), meta.delivery, &self.schedule)
    }

    /// The outcome of an attempt; the next one is scheduled first, if there is to be one.
    pub(crate) async fn follow_up(
        &self,
        job: Job,
        attempted: Attempted,
        parent: Option<&str>,
    ) -> anyhow::Result<Outcome> {
        let verdict = self.verdict(&job.meta, &attempted);
        if verdict == Verdict::Delivered {
            self.note_accepted(&job.meta, attempted.version).await?;
        }
        let next_attempt_at = match verdict {
            Verdict::RetryAfter(delay) => Some(self.schedule_retry(&job, delay, &attempted.span, parent).await?),
            Verdict::Delivered | Verdict::GiveUp | Verdict::Disable => None,
        };
        let state = match verdict {
            Verdict::Delivered => DeliveryState::Delivered,
            Verdict::RetryAfter(_) => DeliveryState::Pending,
            Verdict::GiveUp | Verdict::Disable => DeliveryState::Failed,
        };
        Ok(outcome(job.meta, attempted, state, next_attempt_at))
    }

    /// Keeps what has to be known of a delivery that was accepted: that a deletion was makes it final.
    async fn note_accepted(&self, meta: &JobMeta, version: StateVersion) -> anyhow::Result<()> {
        if version != meta.payload_event().version {
            // Of what the router decided about, the endpoint was told something newer in its place.
            self.queue.announce_undelivered(&[meta.delivery]).await;
        }
        if meta.event_type.is_deletion() {
            let sent = SentState { version, delivery: meta.delivery };
            let deletion = |progress: &mut Progress| progress.deletion = Some(newest(progress.deletion, sent));
            self.queue.update_progress(meta, deletion).await?;
        }
        Ok(())
    }

    /// Puts the next attempt on RETRY as a message that the server publishes on `due.` when its time has come.
    ///
    /// A delivery has one schedule, which is that of its latest attempt: a crash may have made two jobs of it, and the one
    /// that is behind ends here. Were it to replace the other's schedule, it could end on the way: PARKED takes what it was
    /// given before for a repeat.
    async fn schedule_retry(
        &self,
        job: &Job,
        delay: Duration,
        span: &Span,
        parent: Option<&str>,
    ) -> anyhow::Result<OffsetDateTime> {
        let (queue, timeout) = (&self.queue, self.queue.limits.ack_wait / 2);
        let now = shopery_queue::now();
        let meta = JobMeta { attempt: job.meta.attempt + 1, failed_at: Some(now), ..job.meta.clone() };
        let due_at = now + delay;
        let place = subject::retry(&meta.tenant, meta.webhook, meta.delivery);
        let due = subject::due(&meta.tenant, meta.webhook);
        let next = (meta.round(), meta.attempt);
        let mut message = Outgoing::new(place.clone(), Job { payload: job.payload.clone(), meta }.encode());
        message = message.scheduled(due_at, due);
        trace::inject(span, parent, &mut message.headers);
        let (deadline, mut pause, mut last) = (Instant::now() + timeout, WRITE_DELAY, 0);
        while Instant::now() < deadline {
            match queue.publish_until_stored(&message.clone().only_after(last), timeout).await {
                Ok(_) => return Ok(due_at),
                Err(PublishError::Overtaken(_)) => {}
                Err(error) => return Err(error.into()),
            }
            let Some(pending) = queue.scheduled(&place).await? else {
                // It has fired, or is being written.
                last = 0;
                tokio::time::sleep(pause).await;
                pause *= 2;
                continue;
            };
            // One that does not decode is of a later release.
            let is_ahead = |job: Job| (job.meta.round(), job.meta.attempt) >= next;
            if Job::decode(pending.frame()).map_or(true, is_ahead) {
                return Ok(pending.due_at);
            }
            last = pending.sequence;
        }
        anyhow::bail!("others change the schedule on {place} all the time")
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
}

/// The outcome of an attempt.
pub(crate) fn outcome(
    job: JobMeta,
    attempted: Attempted,
    state: DeliveryState,
    next_attempt_at: Option<OffsetDateTime>,
) -> Outcome {
    let Attempted { answer, posted, started_at, url, bytes, .. } = attempted;
    Outcome {
        job: job.for_history(),
        state,
        next_attempt_at,
        attempt: Some(Attempt {
            id: AttemptId::generate(),
            started_at,
            duration_ms: u32::try_from(answer.duration.as_millis()).unwrap_or(u32::MAX),
            url,
            request_bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            status: answer.status,
            code: answer.code,
            message_id: answer.message_id,
            response_body: answer.body,
            response_headers: answer.headers,
            posted: Some(posted),
            note: answer.note,
        }),
        fault: answer.fault,
        carried_by: None,
        at: shopery_queue::now(),
    }
}

/// The outcome of a job that ends, or waits, without an attempt.
pub(crate) fn without_attempt(job: JobMeta, state: DeliveryState, fault: Option<(Fault, &str)>) -> Outcome {
    Outcome {
        job: job.for_history(),
        state,
        next_attempt_at: None,
        attempt: None,
        fault: fault.map(|(fault, detail)| (fault, detail.to_owned())),
        carried_by: None,
        at: shopery_queue::now(),
    }
}
