//! What becomes of parked jobs: probing an endpoint that failed, and sending what is parked once it works.
//!
//! An endpoint whose circuit is not closed has one timer. When it fires, one deliverer takes the circuit (it writes its
//! name into it) and attempts the oldest parked job. While the endpoint fails, that is all: the next timer is set, later
//! each time. When it succeeds, the backlog is sent in its order, at a growing pace, until nothing is left.
//!
//! Invariant: a parked job is removed only after its outcome is stored. A crash repeats attempts and loses none.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::future::join_all;
use shopery_model::{
    AttemptId, Circuit, CircuitState, DeliveryState, Fault, Job, MalformedJob, Outcome, TenantId, Webhook, WebhookId,
};
use shopery_queue::{
    Circuits, Dead, Disposition, Lookup, Message, Pacer, Parked, ParkedJob, PublishError, Queue, Taken, WebhookCache,
    store_outcomes, subject,
};
use shopery_runtime::Shutdown;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::attempt::{Attempted, Attempter, Tried, outcome};
use crate::breaker::Breaker;
use crate::ended::End;

const TAKEN: &str = "another deliverer has taken the circuit";
/// A drainer says so often that it is at it, and is given up on after so long.
const HEARTBEAT: Duration = Duration::from_secs(3);
const LEASE: Duration = Duration::from_secs(12);
/// A probe chooses among so many of the oldest jobs, another one each time: one that is never taken holds up no others.
pub(crate) const CHOICE: usize = 8;
/// Attempts under way at a time while a backlog is sent: they begin together, so whoever else is here waits for all.
const MAX_PACE: usize = 64;
const MAX_PACE_BESIDE_OTHERS: usize = 24;
/// Failed probes that the history shows: the first ones, and then one in so many, so that it can be seen that the
/// endpoint still fails.
const SHOWN_PROBES: u32 = 5;
const SHOWN_LATER: u32 = 12;
/// How long a drain goes on while there is no place for others here, and how long those wait before they ask again.
const TURN: Duration = Duration::from_secs(60);
const NO_PLACE: Duration = Duration::from_secs(30);
/// Others may park a job just as the circuit closes: somebody looks once more.
const LAST_LOOK: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub(crate) struct Drainer {
    pub(crate) queue: Queue,
    pub(crate) webhooks: WebhookCache,
    pub(crate) circuits: Circuits,
    pub(crate) breaker: Breaker,
    pub(crate) attempter: Arc<Attempter>,
    pub(crate) pacer: Pacer,
    /// Attempts that drains may have under way.
    pub(crate) slots: Arc<Semaphore>,
    /// Drains that there may be here.
    pub(crate) drains: Arc<Semaphore>,
}

/// A circuit that this deliverer has taken.
pub(crate) struct Drain<'a> {
    pub(crate) drainer: &'a Drainer,
    pub(crate) tenant: TenantId,
    pub(crate) webhook: Arc<Webhook>,
    pub(crate) circuit: Circuit,
    revision: u64,
    message: Message,
    begun: Instant,
    lease_renewed: Instant,
    /// Attempts that may begin together.
    pace: usize,
    /// Something was delivered, or taken on by its retry.
    pub(crate) removed: bool,
    /// Attempts since the last success.
    failed_in_row: usize,
    /// How long the endpoint asked to be left alone when it failed last.
    pub(crate) asked: Option<Duration>,
    /// When the webhook's rate limit lets it go on.
    pub(crate) next: Instant,
}

/// How a round ended.
enum Round {
    /// There may be more.
    More,
    Empty,
    /// The endpoint fails.
    Failed,
}

impl Drainer {
    /// Processes the timer of an endpoint that has fired. If that cannot be finished, the timer is redelivered.
    ///
    /// A drain can take hours, at the pace of its webhook, so it gives its slot back: the slots are for retries.
    pub(crate) async fn drain(&self, mut taken: Taken, shutdown: &Shutdown) {
        let done = match self.drains.clone().try_acquire_owned() {
            Ok(slot) => {
                taken.slot = slot;
                self.process(taken.message.clone(), shutdown).await
            }
            Err(_) => self.postpone(&taken.message).await,
        };
        if let Err(error) = done {
            taken.settle(Disposition::Retry(error.context("cannot send what is parked"))).await;
        }
    }

    /// There are as many drains here as there may be. The timer is set again: it would be pending if it were redelivered, and
    /// what is pending is bounded for all.
    async fn postpone(&self, message: &Message) -> anyhow::Result<()> {
        let (tenant, id) = parse_drain(message)?;
        let (circuit, _) = self.circuits.read(&tenant, id).await?;
        if !is_early_wake(message, circuit.as_ref()) {
            self.breaker.set_timer(&tenant, id, NO_PLACE).await?;
        }
        message.ack().await;
        Ok(())
    }

    async fn process(&self, message: Message, shutdown: &Shutdown) -> anyhow::Result<()> {
        let (tenant, id) = parse_drain(&message)?;
        let (circuit, revision) = self.circuits.read(&tenant, id).await?;
        if is_early_wake(&message, circuit.as_ref()) {
            message.ack().await;
            return Ok(());
        }
        let webhook = match self.webhooks.get(&tenant, id).await? {
            Lookup::Found(webhook) if webhook.can_be_sent_to() => webhook,
            other => {
                // What is parked of a webhook that is disabled, unknown, or stays closed, waits for that to end, or expires.
                self.end_waiting(&tenant, id, &other, &message).await?;
                if circuit.is_some() {
                    self.circuits.close(&tenant, id, revision).await?;
                }
                message.ack().await;
                return Ok(());
            }
        };
        if webhook.discard_before.is_some() {
            self.end_waiting(&tenant, id, &Lookup::Found(webhook.clone()), &message).await?;
        }
        let now = shopery_queue::now();
        if circuit.is_none() && Parked::count(&self.queue, &tenant, id).await? == 0 {
            message.ack().await;
            return Ok(());
        }
        // Names this drain in the circuit that it has taken.
        let me = AttemptId::generate().to_string();
        let mut circuit = circuit.unwrap_or_else(|| Circuit::new(CircuitState::Draining, now));
        let taken = if circuit.is_drained_by_another(&me, now, LEASE) {
            None
        } else {
            (circuit.drainer, circuit.seen_at) = (Some(me), now);
            self.circuits.write(&tenant, id, circuit.clone(), revision).await?
        };
        let Some(revision) = taken else {
            // Another deliverer is at it. Should it be gone, somebody has to see to it when its claim has run out.
            self.breaker.set_timer(&tenant, id, LEASE).await?;
            message.ack().await;
            return Ok(());
        };
        let now = Instant::now();
        let drain = Drain {
            drainer: self,
            tenant,
            webhook,
            circuit,
            revision,
            message,
            begun: now,
            lease_renewed: now,
            pace: 1,
            removed: false,
            failed_in_row: 0,
            asked: None,
            next: now,
        };
        if drain.webhook.rules.ordered { drain.run_ordered(shutdown).await } else { drain.run(shutdown).await }
    }

    pub(crate) async fn dead_letter(
        &self,
        tenant: &TenantId,
        id: WebhookId,
        sequence: u64,
        frame: &[u8],
        error: &MalformedJob,
    ) -> anyhow::Result<()> {
        dead_letter_parked(&self.queue, tenant, id, sequence, frame, error).await
    }
}

/// New work is no reason to probe sooner; the timer will come.
fn is_early_wake(message: &Message, circuit: Option<&Circuit>) -> bool {
    Parked::is_wake(message) && circuit.is_some_and(|circuit| circuit.waits_for_probe(shopery_queue::now()))
}

fn parse_drain(message: &Message) -> anyhow::Result<(TenantId, WebhookId)> {
    subject::parse_drain(message.subject()).context("the subject names no webhook")
}

/// Puts a parked job that does not decode on DEAD.
pub(crate) async fn dead_letter_parked(
    queue: &Queue,
    tenant: &TenantId,
    id: WebhookId,
    sequence: u64,
    frame: &[u8],
    error: &MalformedJob,
) -> anyhow::Result<()> {
    let subject = subject::parked(tenant, id);
    let dead = Dead::whole(&subject, error.to_string(), frame);
    Ok(queue.dead_letter("undecodable-job", Some(tenant), format!("PARKED:{sequence}"), &dead).await?)
}

impl Drain<'_> {
    async fn run(mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let (queue, id) = (&self.drainer.queue, self.webhook.id);
        while self.circuit.state == CircuitState::Open {
            // From the oldest on: what the last probe has left.
            let parked = Parked::open(queue, &self.tenant, id).await?;
            match self.probe(&parked).await? {
                Round::Failed => return self.fail().await,
                Round::Empty => return self.close().await,
                Round::More => {}
            }
        }
        let parked = Parked::open(queue, &self.tenant, id).await?;
        loop {
            if let Some(delay) = self.is_over(shutdown).await? {
                return self.hand_over(delay).await;
            }
            if self.webhook.rules.ordered {
                return self.hand_over(Duration::ZERO).await;
            }
            self.renew_lease_in_time().await?;
            match self.round(&parked).await? {
                Round::More => {}
                Round::Empty => return self.close().await,
                Round::Failed => return self.fail().await,
            }
        }
    }

    /// Takes the webhook as it is now. If this deliverer has to stop, the delay after which another goes on: it shuts down, the
    /// webhook cannot be sent to, which is for whoever takes the next timer, or others wait for a place.
    pub(crate) async fn is_over(&mut self, shutdown: &Shutdown) -> anyhow::Result<Option<Duration>> {
        let webhook = self.drainer.webhooks.get(&self.tenant, self.webhook.id).await?;
        let Some(webhook) = webhook.found().filter(|webhook| webhook.can_be_sent_to()) else {
            return Ok(Some(Duration::ZERO));
        };
        self.webhook = webhook;
        if shutdown.is_draining() {
            return Ok(Some(Duration::ZERO));
        }
        let is_crowded = self.drainer.drains.available_permits() == 0;
        Ok((is_crowded && self.begun.elapsed() > TURN).then_some(NO_PLACE))
    }

    /// Another deliverer goes on, after a delay.
    pub(crate) async fn hand_over(mut self, delay: Duration) -> anyhow::Result<()> {
        self.circuit.drainer = None;
        self.renew_lease().await?;
        self.drainer.breaker.set_timer(&self.tenant, self.webhook.id, delay).await?;
        self.message.ack().await;
        Ok(())
    }

    /// The endpoint fails, once more or for the first time: it is left alone until the next probe.
    pub(crate) async fn fail(mut self) -> anyhow::Result<()> {
        self.circuit = match self.circuit.state {
            CircuitState::Open => Circuit { probes: self.circuit.probes + 1, ..self.circuit },
            CircuitState::Draining => Circuit { probes: 1, ..Circuit::new(CircuitState::Open, shopery_queue::now()) },
        };
        self.wait_for_probe().await
    }

    /// One attempt, of one of the oldest jobs. If it fails the job stays where it is.
    async fn probe(&mut self, parked: &Parked) -> anyhow::Result<Round> {
        let mut oldest = Vec::new();
        while oldest.is_empty() {
            let jobs = parked.next(CHOICE).await?;
            if jobs.is_empty() {
                return Ok(Round::Empty);
            }
            oldest = self.without_ended(parked, jobs).await?;
        }
        let choice = usize::try_from(self.circuit.probes)? % oldest.len().max(1);
        let Some((sequence, job)) = oldest.into_iter().nth(choice) else { return Ok(Round::Empty) };
        let attempted = match self.drainer.attempter.attempt(&job, &self.webhook, None, None).await? {
            Tried::Attempted(attempted) => *attempted,
            Tried::Ended(end) => {
                self.store(&[end.outcome(job.meta)]).await?;
                parked.remove(sequence).await?;
                return Ok(Round::More);
            }
        };
        if attempted.is_success() || is_gone(&attempted) {
            let is_gone = is_gone(&attempted);
            let outcome = self.drainer.attempter.follow_up(job, attempted, None).await?;
            self.store(&[outcome]).await?;
            parked.remove(sequence).await?;
            self.removed = true;
            self.circuit.state = CircuitState::Draining;
            return Ok(if is_gone { Round::Empty } else { Round::More });
        }
        self.asked = attempted.answer.retry_after;
        if self.is_shown() {
            self.store(&[outcome(job.meta, attempted, DeliveryState::Parked, None)]).await?;
        }
        Ok(Round::Failed)
    }

    /// Waits for as many slots, and for the pace, and keeps the claim meanwhile: other drains may have the slots for long.
    pub(crate) async fn slots(&mut self, count: usize) -> anyhow::Result<OwnedSemaphorePermit> {
        let (drainer, tenant) = (self.drainer, self.tenant.clone());
        let mut slots = pin!(async {
            drainer.pacer.turns(&tenant, count).await;
            anyhow::Ok(drainer.slots.clone().acquire_many_owned(u32::try_from(count)?).await?)
        });
        loop {
            match tokio::time::timeout(HEARTBEAT, &mut slots).await {
                Ok(slots) => return slots,
                Err(_) => self.renew_lease().await?,
            }
        }
    }

    /// Whether the history shows the present probe if it fails.
    pub(crate) fn is_shown(&self) -> bool {
        self.circuit.probes < SHOWN_PROBES || self.circuit.probes.is_multiple_of(SHOWN_LATER)
    }

    /// Attempts the next jobs at once. Those that fail among others that do not are retried as any job is; if all fail,
    /// they stay and the endpoint is left alone.
    async fn round(&mut self, parked: &Parked) -> anyhow::Result<Round> {
        let Some(count) = self.turn().await else { return Ok(Round::More) };
        let jobs = parked.next(count).await?;
        let Some(last) = jobs.last().map(|job| job.sequence) else { return Ok(Round::Empty) };
        let (sequences, jobs): (Vec<_>, Vec<_>) = self.without_ended(parked, jobs).await?.into_iter().unzip();
        let slots = self.slots(jobs.len()).await?;
        let attempts = jobs.iter().map(|job| self.drainer.attempter.attempt(job, &self.webhook, None, None));
        let tried = join_all(attempts).await;
        drop(slots);
        let mut outcomes = Vec::with_capacity(sequences.len());
        let (mut attempted, mut attempted_jobs, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        // What could not be tried or followed up stays where it is, and the others must not be sent again for it.
        let (mut done, mut unfinished) = (Vec::with_capacity(sequences.len()), None);
        for ((sequence, job), tried) in sequences.into_iter().zip(jobs).zip(tried) {
            match tried {
                Ok(Tried::Attempted(made)) => {
                    attempted.push(*made);
                    attempted_jobs.push((sequence, job));
                }
                Ok(Tried::Ended(end)) => {
                    outcomes.push(end.outcome(job.meta));
                    ended.push(sequence);
                    done.push(sequence);
                }
                Err(error) => unfinished = Some(error),
            }
        }
        let jobs = attempted_jobs;
        let failed = attempted.iter().filter(|attempted| !attempted.is_success()).count();
        let (made, is_gone) = (attempted.len(), attempted.iter().any(is_gone));
        if !attempted.is_empty() {
            self.failed_in_row = if failed == attempted.len() { self.failed_in_row + failed } else { 0 };
        }
        // A job that alone fails, after others did not, is retried as any job is: it holds up nobody.
        let is_broken = self.drainer.breaker.is_reached(self.failed_in_row);
        if failed > 0 && failed == attempted.len() && is_broken && !is_gone {
            self.asked = attempted.iter().filter_map(|attempted| attempted.answer.retry_after).max();
            let failed = jobs.into_iter().zip(attempted);
            outcomes
                .extend(failed.map(|((_, job), attempted)| outcome(job.meta, attempted, DeliveryState::Parked, None)));
            self.store(&outcomes).await?;
            for sequence in ended {
                parked.remove(sequence).await?;
            }
            return Ok(Round::Failed);
        }
        for ((sequence, job), attempted) in jobs.into_iter().zip(attempted) {
            match self.drainer.attempter.follow_up(job, attempted, None).await {
                Ok(outcome) => {
                    outcomes.push(outcome);
                    done.push(sequence);
                }
                Err(error) => unfinished = Some(error),
            }
        }
        self.store(&outcomes).await?;
        if let Some(error) = unfinished {
            for sequence in done {
                parked.remove(sequence).await?;
            }
            return Err(error);
        }
        parked.remove_through(last).await?;
        if is_gone {
            // Its webhook is about to be disabled; the rest stays parked.
            self.removed = false;
            return Ok(Round::Empty);
        }
        self.removed = true;
        self.adapt_pace(made, failed);
        Ok(Round::More)
    }

    /// After a round of attempts, some of which have failed. A few that fail among many are no reason to go slower: they are
    /// retried, and the endpoint is not overwhelmed.
    pub(crate) fn adapt_pace(&mut self, attempts: usize, failed: usize) {
        self.pace = match failed {
            0 => (self.pace * 2).min(MAX_PACE),
            _ if failed * 4 < attempts => self.pace,
            _ => (self.pace / 2).max(1),
        };
    }

    /// How many jobs may go now. A webhook with a rate limit gets a tenth of a second's worth at a time; `None`: not yet.
    pub(crate) async fn turn(&mut self) -> Option<usize> {
        let max = if self.drainer.pacer.is_alone(&self.tenant) { MAX_PACE } else { MAX_PACE_BESIDE_OTHERS };
        let most = self.pace.min(max).min(self.drainer.slots.available_permits().max(1));
        let Some(limit) = self.webhook.rules.rate_limit else { return Some(most) };
        let now = Instant::now();
        if self.next > now {
            tokio::time::sleep_until(self.next.min(now + HEARTBEAT)).await;
            return None;
        }
        let count = most.min((usize::from(limit.get()) / 10).max(1));
        self.next = now + Duration::from_secs(1).mul_f64(count as f64 / f64::from(limit.get()));
        Some(count)
    }

    /// The jobs that are still to be sent. The others end; what does not decode goes to DEAD.
    async fn without_ended(&mut self, parked: &Parked, jobs: Vec<ParkedJob>) -> anyhow::Result<Vec<(u64, Job)>> {
        let (now, max_age) = (shopery_queue::now(), self.drainer.queue.limits.parked_max_age);
        let known = Lookup::Found(self.webhook.clone());
        let (mut waiting, mut outcomes, mut ended) = (Vec::with_capacity(jobs.len()), Vec::new(), Vec::new());
        for ParkedJob { sequence, at, frame } in jobs {
            match (Job::decode(&frame), End::of_parked(&known, at, now, max_age)) {
                (Ok(job), None) => waiting.push((sequence, job)),
                (Ok(job), Some(end)) => {
                    outcomes.push(end.outcome(job.meta));
                    ended.push(sequence);
                }
                (Err(error), _) => {
                    self.drainer.dead_letter(&self.tenant, self.webhook.id, sequence, &frame, &error).await?;
                    ended.push(sequence);
                }
            }
        }
        self.store(&outcomes).await?;
        for sequence in ended {
            parked.remove(sequence).await?;
        }
        Ok(waiting)
    }

    /// Stores outcomes, however long that takes: what was sent must not be sent again for want of a record. Fails if another
    /// deliverer has taken over meanwhile.
    pub(crate) async fn store(&mut self, outcomes: &[Outcome]) -> anyhow::Result<()> {
        let queue = &self.drainer.queue;
        while let Err(error) = store_outcomes(queue, "deliverer", outcomes, HEARTBEAT).await {
            if !matches!(error, PublishError::Full(_) | PublishError::Unavailable(_)) {
                return Err(error.into());
            }
            tracing::warn!(%error, outcomes = outcomes.len(), "outcomes cannot be stored; a drain waits");
            match self.claim().await {
                Ok(is_ours) => ensure!(is_ours, TAKEN),
                // Nor can another one take it.
                Err(error) => tracing::debug!("cannot renew the claim on a circuit: {error:#}"),
            }
        }
        Ok(())
    }

    pub(crate) async fn renew_lease_in_time(&mut self) -> anyhow::Result<()> {
        if self.lease_renewed.elapsed() > HEARTBEAT { self.renew_lease().await } else { Ok(()) }
    }

    /// Renews the claim on the circuit, and on the message. Fails if another deliverer has taken over.
    async fn renew_lease(&mut self) -> anyhow::Result<()> {
        ensure!(self.claim().await?, TAKEN);
        Ok(())
    }

    /// False if another deliverer has taken over.
    async fn claim(&mut self) -> anyhow::Result<bool> {
        self.circuit.seen_at = shopery_queue::now();
        let written =
            self.drainer.circuits.write(&self.tenant, self.webhook.id, self.circuit.clone(), self.revision).await?;
        let revision = match written {
            Some(revision) => revision,
            // NATS may have had a claim of ours without our hearing of it.
            None => match self.drainer.circuits.read(&self.tenant, self.webhook.id).await? {
                (Some(found), revision) if found.drainer.is_some() && found.drainer == self.circuit.drainer => revision,
                _ => return Ok(false),
            },
        };
        (self.revision, self.lease_renewed) = (revision, Instant::now());
        self.message.progress().await;
        Ok(true)
    }

    async fn wait_for_probe(mut self) -> anyhow::Result<()> {
        let delay = self.drainer.breaker.probe_delay(self.webhook.id, self.circuit.probes, self.asked);
        self.circuit.drainer = None;
        self.circuit.probe_at = Some(shopery_queue::now() + delay);
        self.renew_lease().await?;
        self.drainer.breaker.set_timer(&self.tenant, self.webhook.id, delay).await?;
        self.message.ack().await;
        Ok(())
    }

    pub(crate) async fn close(self) -> anyhow::Result<()> {
        let (drainer, id): (&Drainer, WebhookId) = (self.drainer, self.webhook.id);
        // A new drain knows nothing of this one's pace.
        tokio::time::sleep_until(self.next).await;
        if !drainer.circuits.close(&self.tenant, id, self.revision).await? {
            bail!(TAKEN);
        }
        if self.removed {
            tracing::info!(tenant = %self.tenant, webhook = %id, "what was parked has been sent");
            drainer.breaker.set_timer(&self.tenant, id, LAST_LOOK).await?;
        }
        self.message.ack().await;
        // A job that came by then found this drain at work, and called for no other one.
        if self.webhook.rules.ordered && Parked::count(&drainer.queue, &self.tenant, id).await? > 0 {
            Parked::wake(&drainer.queue, &self.tenant, id).await?;
        }
        Ok(())
    }
}

pub(crate) fn is_gone(attempted: &Attempted) -> bool {
    matches!(attempted.answer.fault, Some((Fault::Gone, _)))
}
