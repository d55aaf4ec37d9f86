//! An event on its way: read, matched with the tenant's webhooks, decided for each of them, and acknowledged.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use shopery_model::{DeliveryId, DeliveryState, Event, Fault, Job, JobMeta, Lane, Outcome, PayloadMode, Way, Webhook};
use shopery_queue::{
    Disposition, Message, Meter, NewerStates, Outcomes, Outgoing, Pacer, Parked, PublishError, Queue, REPUBLISHED,
    Sent, State, Taken, WebhookCache, republished, subject, trace,
};
use shopery_runtime::{Runtime, telemetry};

use crate::arrived::{Arrived, EventPlace};
use crate::debounce::{Debounced, Debouncing};
use crate::decide::{Decision, States, decide};
use crate::duplicates::Since;
use crate::memory::Memory;

/// An event that waited so long in EVENTS tells that others wait behind it.
const BEHIND: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Router {
    queue: Queue,
    pub(crate) webhooks: WebhookCache,
    outcomes: Outcomes,
    debouncing: Debouncing,
    meter: Meter,
    pacer: Pacer,
    metrics: Metrics,
}

#[derive(Debug)]
struct Metrics {
    routed: Counter,
    deferred: Counter,
    jobs: Counter,
    decided: Family<[(&'static str, &'static str); 1], Counter>,
}

/// An event that is being routed.
#[derive(Debug)]
pub(crate) struct Routed {
    event: Taken,
    step: anyhow::Result<Step>,
}

#[derive(Debug)]
enum Step {
    /// There is nothing to do for it.
    Over,
    /// It does not read.
    Bury(anyhow::Error),
    /// It is beyond its tenant's rate: it goes to DEFERRED, to be routed when there is time.
    Defer(Sent, Box<Arrived>),
    /// Other states of its resource have to be looked at first.
    LookUp(Box<Arrived>),
    /// All is decided, and on its way.
    Decided(Decided),
}

/// What follows from an event.
#[derive(Debug, Default)]
struct Decided {
    sent: Vec<Sent>,
    /// Jobs of ordered webhooks, on their way to PARKED.
    queued: Vec<(JobMeta, DeliveryState, Sent)>,
    outcomes: Vec<Outcome>,
}

impl Router {
    pub(crate) fn new(
        queue: Queue,
        webhooks: WebhookCache,
        outcomes: Outcomes,
        meter: Meter,
        pacer: Pacer,
        runtime: &Runtime,
    ) -> Self {
        let of = &runtime.metrics;
        let metrics = Metrics {
            routed: of.register("events_routed", "Events matched with webhooks, repeats included", Counter::default()),
            deferred: of.register(
                "events_deferred",
                "Events beyond their tenant's rate that were put off, repeats included",
                Counter::default(),
            ),
            jobs: of.register("jobs_published", "Jobs handed to the deliverer, repeats included", Counter::default()),
            decided: of.register(
                "deliveries_decided",
                "Events times matching webhooks by what followed, repeats included",
                Family::default(),
            ),
        };
        Self { queue, webhooks, outcomes, debouncing: Debouncing::default(), meter, pacer, metrics }
    }

    /// Begins with an event. Its jobs are handed to the connection here, in the order of the calls, unless it needs a
    /// look at other states; that, and the wait for acknowledgements, is left to [`Router::finish`].
    pub(crate) async fn begin(&self, event: Taken, memory: &Arc<Memory>) -> Routed {
        let step = match self.read(&event.message, memory) {
            Ok(None) => Ok(Step::Over),
            Ok(Some(arrived)) => self.set_out(&event.message, arrived).await,
            Err(error) => Ok(Step::Bury(error)),
        };
        Routed { event, step }
    }

    async fn set_out(&self, message: &Message, mut arrived: Arrived) -> anyhow::Result<Step> {
        let (tenant, jobs) = (&arrived.tenant, arrived.webhooks.len());
        if arrived.place.was_deferred {
            arrived.lane = Lane::Bulk;
            self.pacer.turns(tenant, jobs).await;
        } else if jobs > 0 {
            let is_alone = self.pacer.is_alone(tenant);
            let is_behind = shopery_queue::now() - arrived.place.at > BEHIND;
            match self.meter.way(tenant, jobs, is_alone, is_behind) {
                Way::Fast => self.pacer.note_fast(tenant),
                Way::Straight => arrived.lane = Lane::Bulk,
                // One that is put off counts as routed, and an ordered webhook must not take it for that.
                Way::PutOff if arrived.webhooks.iter().any(|webhook| webhook.rules.ordered) => {
                    arrived.lane = Lane::Bulk;
                }
                Way::PutOff => {
                    self.note_undecided(&arrived);
                    (arrived.lane, arrived.place.is_overtaken) = (Lane::Bulk, !is_alone);
                    return Ok(Step::Defer(self.defer(message, &arrived).await, Box::new(arrived)));
                }
            }
        }
        self.go_on(message, arrived).await
    }

    async fn defer(&self, message: &Message, arrived: &Arrived) -> Sent {
        let deferred = arrived.place.deferred(message);
        self.metrics.deferred.inc();
        self.queue.send(deferred).await
    }

    async fn go_on(&self, message: &Message, arrived: Arrived) -> anyhow::Result<Step> {
        if arrived.needs_look_up() {
            self.note_undecided(&arrived);
            return Ok(Step::LookUp(Box::new(arrived)));
        }
        let states = States { own: &arrived.event, newer: &NewerStates::default(), previous: None };
        self.follow(message, &arrived, states).await.map(Step::Decided)
    }

    /// Waits until all that follows from the event is stored, then acknowledges it. Without that it is routed again.
    pub(crate) async fn finish(self: Arc<Self>, routed: Routed) {
        let Routed { event, step } = routed;
        let disposition = self.dispose(&event.message, step).await;
        event.settle(disposition).await;
    }

    async fn dispose(&self, message: &Message, step: anyhow::Result<Step>) -> Disposition<'_> {
        let decided = match step {
            Ok(Step::Over) => return Disposition::Done,
            // It cannot have come through ingest; an operator has to see it.
            Ok(Step::Bury(error)) => {
                let tenant = subject::parse_event(message.subject());
                return Disposition::Dead { reason: "undecodable-event", tenant, why: format!("{error:#}") };
            }
            Ok(Step::Decided(decided)) => Ok(decided),
            Ok(Step::LookUp(arrived)) => self.look_up(message, &arrived).await,
            Ok(Step::Defer(sent, arrived)) => self.deferred(message, sent, &arrived).await,
            Err(error) => Err(error),
        };
        let stored = match decided {
            Ok(decided) => self.stored(decided).await,
            Err(error) => Err(error),
        };
        stored.map_or_else(Disposition::Retry, |outcomes| Disposition::Outcomes(outcomes, &self.outcomes))
    }

    async fn deferred(&self, message: &Message, sent: Sent, arrived: &Arrived) -> anyhow::Result<Decided> {
        match sent.acked().await {
            Ok(_) => Ok(Decided::default()),
            // There is no room for more: it goes on as if nobody else were here.
            Err(PublishError::Full(_)) => self.look_up(message, arrived).await,
            Err(error) => Err(error).context("cannot put the event off"),
        }
    }

    /// The event of a message; `None` if it is not to be routed.
    fn read(&self, message: &Message, memory: &Arc<Memory>) -> anyhow::Result<Option<Arrived>> {
        if message.headers().is_some_and(|headers| headers.get(REPUBLISHED).is_some()) {
            return Ok(None);
        }
        let place = EventPlace::of(message)?;
        let tenant = subject::parse_event(&place.subject).context("the subject names no tenant")?;
        let event =
            Event::parse_stored(message.payload(), place.at).map_err(|wrong| match wrong.into_iter().next() {
                Some(invalid) => anyhow!(invalid),
                None => anyhow!("malformed event"),
            })?;
        let version = event.version(place.at, place.sequence);
        let observed = memory.latest_states.observe(&place.subject, version, event.event_type.is_deletion());
        let is_concerned = |webhook: &Webhook| webhook.wants(event.event_type) || webhook.rules.drops_duplicates();
        let mut webhooks = self.webhooks.of_tenant(&tenant, is_concerned);
        webhooks.retain(|webhook| !event.is_about(webhook.id));
        let (webhooks, others) = webhooks.into_iter().partition(|webhook| webhook.wants(event.event_type));
        self.metrics.routed.inc();
        let span = tracing::info_span!(
            target: telemetry::TRACE,
            "route event",
            otel.kind = "consumer",
            tenant = tenant.as_str(),
            event.id = event.id,
            jobs = tracing::field::Empty,
        );
        trace::adopt(&span, trace::incoming(message.headers()));
        let (lane, memory) = (Lane::Fast, memory.clone());
        let arrived = Arrived { place, tenant, event, webhooks, others, lane, observed, memory, span };
        self.note_other(&arrived, arrived.others.iter().filter(|webhook| is_sent_others(webhook)));
        Ok(Some(arrived))
    }

    /// Gathers the states that the rules need, then goes on.
    async fn look_up(&self, message: &Message, arrived: &Arrived) -> anyhow::Result<Decided> {
        let resource = arrived.event.resource.to_string();
        let EventPlace { sequence, at, .. } = arrived.place;
        let newer = if arrived.observed.may_be_late {
            let version = arrived.event.version(at, sequence);
            let is_alive = |newer: &Event| !newer.event_type.is_deletion();
            let newer = self.queue.newer_states(&arrived.tenant, &resource, version, 0, Some(sequence), is_alive);
            let mut newer = newer.await?;
            // It may lie behind more late events than are read.
            if let Some(known) = arrived.observed.newer
                && let Some(state) = self.queue.state_at(known.sequence()).await?
                && state.version == known
                && state.tenant == arrived.tenant
            {
                newer.add(state);
            }
            newer
        } else {
            NewerStates::default()
        };
        let previous = if arrived.webhooks.iter().any(|webhook| webhook.rules.changed.is_some()) {
            self.queue.previous_state(&arrived.tenant, &resource, sequence).await?
        } else {
            None
        };
        let states =
            States { own: &arrived.event, newer: &newer, previous: previous.as_ref().map(|state| &state.event.data) };
        // Before there is a job: whoever attempts it takes the last message of the subject for the newest state.
        if let Some(newest) = newer.newest() {
            self.republish_latest(&arrived.place.subject, newest, sequence).await?;
        }
        self.follow(message, arrived, states).await
    }

    /// Publishes a state again behind a late one, so that the last message of the subject is the newest state. If yet
    /// another has come behind the late one, that one sees to it.
    async fn republish_latest(&self, subject: &str, newest: &State, late: u64) -> anyhow::Result<()> {
        // Its time stays what it was, whoever gave it.
        let event = Event { time_is_given: true, ..newest.event.clone() };
        let id = format!("=restated:{late}");
        let mut message = Outgoing::new(subject.to_owned(), event.encode()).only_after(late).with_id(id);
        message.headers.push((REPUBLISHED, republished(newest.version)));
        match self.queue.publish_until_stored(&message, self.patience()).await {
            Ok(_) | Err(PublishError::Overtaken(_)) => Ok(()),
            Err(error) => Err(error).context("the newest state cannot be published again"),
        }
    }

    /// Decides for each webhook, and does what follows.
    async fn follow(&self, message: &Message, arrived: &Arrived, states: States<'_>) -> anyhow::Result<Decided> {
        let mut decided = Decided::default();
        let mut headers = Vec::new();
        trace::inject(&arrived.span, trace::incoming(message.headers()), &mut headers);
        let mut jobs = 0;
        for webhook in &arrived.webhooks {
            let meta = arrived.meta(webhook, !states.newer.is_empty());
            let (payload, payload_of, changed) = match decide(&webhook.rules, states) {
                Decision::Send { payload, payload_of, changed } => (payload, payload_of, changed),
                Decision::Filtered => {
                    self.note_other(arrived, Some(webhook).filter(|webhook| is_sent_others(webhook)));
                    decided.outcomes.push(self.ended(meta, DeliveryState::Filtered, None));
                    continue;
                }
            };
            let job = Job { meta: JobMeta { changed, payload_of, ..meta }, payload };
            if let Some(window) = webhook.rules.debounce {
                if let Debounced::SupersededBy(carrier) =
                    self.debouncing.debounce(&self.queue, &job, window, &headers).await?
                {
                    decided.outcomes.push(self.ended(job.meta, DeliveryState::Superseded, Some(carrier)));
                    continue;
                }
            } else if let Some(carrier) = self.duplicate_of(webhook, &job, arrived, states) {
                decided.outcomes.push(self.ended(job.meta, DeliveryState::Duplicate, Some(carrier)));
                continue;
            } else if webhook.rules.ordered {
                let mut message = Parked::message(&job);
                message.headers.clone_from(&headers);
                let sent = self.queue.send(message).await;
                let state = if webhook.is_enabled { DeliveryState::Pending } else { DeliveryState::Parked };
                decided.queued.push((job.meta, state, sent));
            } else {
                let subject = subject::job(arrived.lane, &job.meta.tenant, job.meta.webhook);
                let mut message = Outgoing::new(subject, job.encode()).with_id(job.meta.delivery.to_string());
                message.headers.clone_from(&headers);
                decided.sent.push(self.queue.send(message).await);
            }
            jobs += 1;
            self.metrics.decided.get_or_create(&[("decision", "sent")]).inc();
        }
        self.metrics.jobs.inc_by(jobs);
        arrived.span.record("jobs", jobs);
        Ok(decided)
    }

    /// The delivery that has told the endpoint, as it is now, what this job would, or is about to.
    fn duplicate_of(&self, webhook: &Webhook, job: &Job, arrived: &Arrived, states: States<'_>) -> Option<DeliveryId> {
        let duplicates = arrived.memory.duplicates.as_ref().filter(|_| webhook.rules.drops_duplicates())?;
        if states.newer.newest().is_some_and(|newest| newest.version != job.meta.payload_event().version) {
            // It carries less than the newest state, and if that is a deletion it may never be sent.
            duplicates.forget(job.meta.delivery);
        }
        // Before a deletion it was another resource, and before a change of its URL another endpoint. Before this router took
        // the partition over, others may have routed what lies between.
        let since = Since {
            sequence: arrived.observed.deletion.unwrap_or_default(),
            at: webhook.endpoint_since.max(webhook.discard_before).max(arrived.memory.since),
        };
        duplicates.carrier(job, arrived.place.at, since)
    }

    /// Later events may be decided before this one.
    fn note_undecided(&self, arrived: &Arrived) {
        self.note_other(arrived, &arrived.webhooks);
    }

    /// The event has no delivery for these webhooks, or none yet, but a retry of an older delivery may send its state.
    fn note_other<'a>(&self, arrived: &Arrived, webhooks: impl IntoIterator<Item = &'a Arc<Webhook>>) {
        let Some(duplicates) = &arrived.memory.duplicates else { return };
        let EventPlace { sequence, at, .. } = arrived.place;
        for webhook in webhooks.into_iter().filter(|webhook| webhook.rules.drops_duplicates()) {
            duplicates.note_other(webhook, &arrived.event, sequence, at);
        }
    }

    /// The outcome of a delivery that ends here.
    fn ended(&self, job: JobMeta, state: DeliveryState, carried_by: Option<DeliveryId>) -> Outcome {
        self.metrics.decided.get_or_create(&[("decision", state.name())]).inc();
        without_attempt(job, state, None, carried_by)
    }

    /// Waits until jobs are stored; returns the outcomes that are to be. Jobs of ordered webhooks wait in PARKED, so the
    /// history shows them from now on, and a deliverer is called for them.
    async fn stored(&self, decided: Decided) -> anyhow::Result<Vec<Outcome>> {
        let Decided { sent, queued, mut outcomes } = decided;
        for job in sent {
            job.stored(self.patience()).await?;
        }
        for (meta, state, job) in queued {
            match job.stored(self.patience()).await {
                Ok(_) => {
                    Parked::wake(&self.queue, &meta.tenant, meta.webhook).await?;
                    let due = Some(shopery_queue::now()).filter(|_| state == DeliveryState::Pending);
                    outcomes.push(Outcome { next_attempt_at: due, ..without_attempt(meta, state, None, None) });
                }
                Err(PublishError::SubjectFull(_)) => {
                    let why = "the webhook has as many deliveries parked as it may have";
                    let fault = Some((Fault::ParkingFull, why.to_owned()));
                    outcomes.push(without_attempt(meta, DeliveryState::Expired, fault, None));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(outcomes)
    }

    /// After this it is time to let another router try.
    fn patience(&self) -> Duration {
        self.queue.limits.ack_wait * 2 / 3
    }
}

/// The outcome of a delivery without an attempt.
fn without_attempt(
    job: JobMeta,
    state: DeliveryState,
    fault: Option<(Fault, String)>,
    carried_by: Option<DeliveryId>,
) -> Outcome {
    let at = shopery_queue::now();
    Outcome { job: job.for_history(), state, next_attempt_at: None, attempt: None, fault, carried_by, at }
}

/// Whether a delivery of this webhook may carry another event's state.
fn is_sent_others(webhook: &Webhook) -> bool {
    webhook.rules.payload == PayloadMode::Latest
}
