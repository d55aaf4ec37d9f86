//! A drain: probing an endpoint that failed, and sending what is parked once it works. [`crate::drainer`] begins it.
//!
//! While the endpoint fails, the oldest parked job is attempted, and the next timer is set, later each time. When it succeeds, the
//! backlog is sent in its order, at a growing pace, until nothing is left.
//!
//! Invariant: a parked job is removed only after its outcome is stored. A crash repeats attempts and loses none.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use futures_util::future::join_all;
use shopery_model::{Circuit, CircuitState, DeliveryState, Fault, Job, Outcome, TenantId, Webhook, WebhookId};
use shopery_queue::{Lookup, Message, Parked, ParkedJob, PublishError, store_outcomes};
use shopery_runtime::Shutdown;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::attempt::{Attempted, Tried, outcome};
use crate::drainer::{Drainer, POSTPONED, dead_letter};
use crate::ended::End;

const TAKEN: &str = "another deliverer has taken the circuit";
/// A drainer says so often that it is at it, and is given up on after so long.
const HEARTBEAT: Duration = Duration::from_secs(3);
pub(crate) const LEASE: Duration = Duration::from_secs(12);
/// A probe chooses among so many of the oldest jobs, another one each time: one that is never taken holds up no others.
pub(crate) const CHOICE: usize = 8;
/// Attempts under way at a time while a backlog is sent: they begin together, so whoever else is here waits for all.
const MAX_PACE: usize = 64;
const MAX_PACE_BESIDE_OTHERS: usize = 24;
/// Failed probes that the history shows: the first ones, and then one in so many, so that it can be seen that the
/// endpoint still fails.
const SHOWN_PROBES: u32 = 5;
const SHOWN_LATER: u32 = 12;
/// How long a drain goes on while this deliverer admits no others.
const TURN: Duration = Duration::from_secs(60);
/// Others may park a job just as the circuit closes: somebody looks once more.
const LAST_LOOK: Duration = Duration::from_secs(2);

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

impl<'a> Drain<'a> {
    pub(crate) fn new(
        drainer: &'a Drainer,
        tenant: TenantId,
        webhook: Arc<Webhook>,
        circuit: Circuit,
        revision: u64,
        message: Message,
    ) -> Self {
        let now = Instant::now();
        Self {
            drainer,
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
        }
    }

    pub(crate) async fn run(mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
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
        Ok((is_crowded && self.begun.elapsed() > TURN).then_some(POSTPONED))
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
            CircuitState::Draining => {
                let open = Circuit::new(CircuitState::Open, shopery_queue::now());
                Circuit { probes: 1, error: self.circuit.error, ..open }
            }
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
        self.circuit.error = attempted.answer.failure_reason();
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
            self.circuit.error = attempted.iter().find_map(|attempted| attempted.answer.failure_reason());
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
                    dead_letter(&self.drainer.queue, &self.tenant, self.webhook.id, sequence, &frame, &error).await?;
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
