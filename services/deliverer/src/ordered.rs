//! Sending what an ordered webhook has waiting: the deliveries of a resource one after the other, those of different
//! resources side by side.
//!
//! All jobs of such a webhook are in PARKED: routers put them there, and whatever else comes for it is parked too. One
//! deliverer at a time has the lease of the webhook's [`Drain`], reads all of its jobs, and attempts of each resource the
//! one whose event was stored first. One that fails stays where it is until its next attempt is due, and so do those behind it.
//!
//! What correctness rests on:
//! - The lease: there is one drain of a webhook, and it attempts one job of a resource at a time.
//! - Nothing is overtaken that is still on its way. Routers work side by side, so a job may reach PARKED before the one of
//!   an earlier event. Hence the barrier: first it is asked up to where all events are routed, then all of PARKED is read,
//!   and only what has no unrouted event of its resource before it is attempted.
//! - The entry in PROGRESS: what was sent last survives the drain, so nothing older follows it.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::time::Duration;

use futures_util::future::join_all;
use shopery_model::{CircuitState, DeliveryId, DeliveryState, Job, Outcome, Verdict};
use shopery_queue::{Lookup, OrderedRetry, Parked, ParkedJob, Progress, SentState, newest};
use shopery_runtime::Shutdown;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::attempt::{Attempted, Tried, outcome};
use crate::backlog::{Backlog, Head};
use crate::drain::{CHOICE, Drain, is_gone};
use crate::drainer::dead_letter;
use crate::ended::End;

/// Jobs read at a time.
const PAGE: usize = 500;
/// How long a drain without work waits for more: opening and closing one costs a dozen requests.
const LINGER: Duration = Duration::from_millis(500);
/// Delay before it is asked again whether earlier events are routed; it doubles each time, up to the second one. Routers lag
/// when NATS is overloaded, and drains that ask all the time would keep it so.
const BARRIER_DELAY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
/// A drain that has nothing to do for longer goes, and comes again when something is due.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// What came of a turn.
enum Turn {
    /// An earlier event of the resource may still be on its way.
    Unrouted,
    /// It has failed, and its next attempt is not due yet.
    NotDue(OffsetDateTime),
    /// It was delivered by a drain that ended before it could remove it.
    Repeat,
    Ended(End),
    Attempted(Box<Attempted>),
    /// Something that it needs could not be read.
    Untried(anyhow::Error),
}

/// What came of a round.
enum Round {
    Sent,
    /// Nothing could be sent before then; `None`: there is nothing.
    Nothing(Option<Instant>),
    /// The endpoint fails.
    Failed,
    Gone,
}

fn barrier_delay(barriers: u32) -> Duration {
    let (first, longest) = BARRIER_DELAY;
    first.saturating_mul(1 << barriers.min(16)).min(longest)
}

impl Drain<'_> {
    pub(crate) async fn run_ordered(mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let parked = Parked::open(&self.drainer.queue, &self.tenant, self.webhook.id).await?;
        let (mut backlog, mut failed) = (Backlog::default(), HashSet::new());
        let mut idle_until = Instant::now() + LINGER;
        loop {
            if let Some(delay) = self.is_over(shutdown).await? {
                return self.hand_over(delay).await;
            }
            if !self.webhook.rules.ordered {
                return self.hand_over(Duration::ZERO).await;
            }
            self.renew_lease_in_time().await?;
            match self.ordered_round(&parked, &mut backlog, &mut failed).await? {
                Round::Sent => {
                    self.circuit.state = CircuitState::Draining;
                    self.removed = true;
                    idle_until = Instant::now() + LINGER;
                }
                Round::Failed => return self.fail().await,
                Round::Gone => return self.close().await,
                Round::Nothing(None) if Instant::now() >= idle_until => return self.close().await,
                // The next job is read as soon as it comes.
                Round::Nothing(None) => self.read_ordered(&parked, &mut backlog, Some(LINGER)).await?,
                Round::Nothing(Some(next)) => {
                    let wait = next.saturating_duration_since(Instant::now());
                    if wait > LONGEST_WAIT {
                        return self.leave_until_due(wait, backlog.jobs).await;
                    }
                    // What comes for other resources meanwhile does not wait for this one.
                    self.read_ordered(&parked, &mut backlog, Some(wait.max(BARRIER_DELAY.0))).await?;
                }
            }
        }
    }

    /// Leaves `known` jobs, of which none is due sooner. A job that has come by now found this drain at work, and called for
    /// no other one.
    async fn leave_until_due(self, wait: Duration, known: usize) -> anyhow::Result<()> {
        let (drainer, tenant, id) = (self.drainer, self.tenant.clone(), self.webhook.id);
        self.hand_over(wait).await?;
        if Parked::count(&drainer.queue, &tenant, id).await? > known {
            Parked::wake(&drainer.queue, &tenant, id).await?;
        }
        Ok(())
    }

    /// Attempts what may be attempted now. While the circuit is open that is one job, due or not: a probe.
    async fn ordered_round(
        &mut self,
        parked: &Parked,
        backlog: &mut Backlog,
        failed: &mut HashSet<DeliveryId>,
    ) -> anyhow::Result<Round> {
        let is_probe = self.circuit.state == CircuitState::Open;
        // Before PARKED is read: what is routed by then is in what is read.
        let routed = self.drainer.queue.routed(&self.tenant).await?;
        self.read_ordered(parked, backlog, None).await?;
        if is_probe && let Some(turns) = NonZeroUsize::new(backlog.turns.len()) {
            // Another one each time, as for any backlog: a resource that is never taken holds up no others.
            backlog.turns.rotate_left(usize::try_from(self.circuit.probes)? % turns.get().min(CHOICE));
        }
        if backlog.turns.is_empty() {
            return Ok(Round::Nothing(None));
        }
        let Some(count) = self.turn().await else { return Ok(Round::Nothing(Some(self.next))) };
        let (mut wait_until, mut is_any_unrouted) = (None, false);
        let mut left = backlog.turns.len();
        // Those that cannot go now have had their turn: the others are looked at in the same round.
        while left > 0 {
            let turns = backlog.take_turns(if is_probe { 1 } else { count }.min(left));
            left -= turns.len();
            if turns.is_empty() {
                break;
            }
            let heads = self.heads(backlog, turns).await?;
            let slots = self.slots(heads.len()).await?;
            let tried = self.try_heads(heads, routed, is_probe).await;
            drop(slots);
            let is_any_over = tried.iter().any(|(_, turn)| !matches!(turn, Turn::Unrouted | Turn::NotDue(_)));
            let now = (Instant::now(), shopery_queue::now());
            for (_, turn) in &tried {
                let at = match turn {
                    Turn::Unrouted => {
                        is_any_unrouted = true;
                        now.0 + barrier_delay(backlog.barriers)
                    }
                    Turn::NotDue(due) => now.0 + Duration::try_from(*due - now.1).unwrap_or_default(),
                    _ => continue,
                };
                wait_until = Some(wait_until.map_or(at, |until: Instant| until.min(at)));
            }
            if !is_any_over {
                tried.into_iter().for_each(|(head, _)| backlog.put_back(head, false));
                continue;
            }
            backlog.barriers = 0;
            return self.settle(parked, backlog, tried, failed, is_probe).await;
        }
        backlog.barriers = if is_any_unrouted { backlog.barriers + 1 } else { 0 };
        Ok(Round::Nothing(wait_until))
    }

    /// Reads what PARKED has; with `wait`, waits so long for a first job.
    async fn read_ordered(&self, parked: &Parked, backlog: &mut Backlog, wait: Option<Duration>) -> anyhow::Result<()> {
        let mut wait = wait;
        while !backlog.is_full() {
            let jobs = match wait.take() {
                Some(wait) => parked.wait(wait).await?,
                None => parked.next(PAGE).await?,
            };
            if jobs.is_empty() {
                break;
            }
            for ParkedJob { sequence, at, frame } in jobs {
                match Job::decode(&frame) {
                    Ok(job) => backlog.add(sequence, at, job),
                    Err(error) => {
                        dead_letter(&self.drainer.queue, &self.tenant, self.webhook.id, sequence, &frame, &error)
                            .await?;
                        parked.remove(sequence).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The next job of each of these resources.
    async fn heads(&self, backlog: &Backlog, names: Vec<String>) -> anyhow::Result<Vec<Head>> {
        let heads = names.into_iter().map(async |name| {
            let resource = backlog.resources.get(&name)?;
            let (_, any) = resource.waiting.first_key_value()?;
            let progress = match &resource.progress {
                Some(progress) => Ok(progress.clone()),
                None => self.drainer.queue.progress(&any.job.meta).await.map(|(progress, _)| progress),
            };
            Some(progress.map(|progress| {
                let (place, waiting) = resource.next(&progress)?;
                Some(Head { resource: name, place, waiting: waiting.clone(), progress })
            }))
        });
        let heads = join_all(heads).await.into_iter().flatten().collect::<anyhow::Result<Vec<_>>>()?;
        Ok(heads.into_iter().flatten().collect())
    }

    async fn try_heads(&self, mut heads: Vec<Head>, routed: u64, is_probe: bool) -> Vec<(Head, Turn)> {
        let turns = join_all(heads.iter_mut().map(|head| self.try_head(head, routed, is_probe))).await;
        heads.into_iter().zip(turns.into_iter().map(|turn| turn.unwrap_or_else(Turn::Untried))).collect()
    }

    async fn try_head(&self, head: &mut Head, routed: u64, is_probe: bool) -> anyhow::Result<Turn> {
        let queue = &self.drainer.queue;
        let meta = &mut head.waiting.job.meta;
        let progress = &head.progress;
        if let Some(retry) = progress.retry.as_ref().filter(|_| progress.is_retry(meta)) {
            if retry.due_at > shopery_queue::now() && !is_probe {
                return Ok(Turn::NotDue(retry.due_at));
            }
            (meta.attempt, meta.failed_at) = (retry.attempt, Some(retry.failed_at));
        }
        let max_age = queue.limits.parked_max_age;
        let known = Lookup::Found(self.webhook.clone());
        let end = End::of_parked(&known, head.waiting.parked_at, shopery_queue::now(), max_age);
        if let Some(end) = end {
            return Ok(Turn::Ended(end));
        }
        if meta.resend.is_none() && progress.sent.is_some_and(|sent| sent.delivery == meta.delivery) {
            return Ok(Turn::Repeat);
        }
        // An event that is stored after a newer state was, and that one is sent: it comes too late for an order.
        let is_late = |sent: &SentState| meta.version() < sent.version && meta.event_sequence > sent.version.sequence();
        if let Some(sent) = progress.sent.filter(|sent| meta.resend.is_none() && is_late(sent)) {
            return Ok(Turn::Ended(End::Superseded(sent.delivery)));
        }
        if meta.event_sequence > routed {
            // Only events of the same resource count: one that is stuck elsewhere holds up nobody here.
            let before = queue.previous_place(&meta.tenant, &meta.resource, meta.event_sequence).await?;
            if before.is_some_and(|before| before > routed) {
                return Ok(Turn::Unrouted);
            }
        }
        let sent = progress.sent;
        Ok(match self.drainer.attempter.attempt(&head.waiting.job, &self.webhook, sent, None).await? {
            Tried::Attempted(attempted) => Turn::Attempted(attempted),
            Tried::Ended(end) => Turn::Ended(end),
        })
    }

    /// Stores what came of the turns: outcomes first, then how far the resource got, then the jobs go. A crash in between
    /// repeats an attempt, and no other job of the resource has been attempted by then.
    async fn settle(
        &mut self,
        parked: &Parked,
        backlog: &mut Backlog,
        tried: Vec<(Head, Turn)>,
        failed: &mut HashSet<DeliveryId>,
        is_probe: bool,
    ) -> anyhow::Result<Round> {
        let attempts = tried.iter().filter_map(|(head, turn)| match turn {
            Turn::Attempted(attempted) => Some((head.waiting.job.meta.delivery, attempted.as_ref())),
            _ => None,
        });
        let attempts: Vec<_> = attempts.collect();
        if attempts.iter().any(|(_, attempted)| attempted.is_success()) {
            failed.clear();
        } else {
            failed.extend(attempts.iter().map(|(delivery, _)| *delivery));
        }
        if !attempts.is_empty() {
            let failed = attempts.iter().filter(|(_, attempted)| !attempted.is_success()).count();
            self.adapt_pace(attempts.len(), failed);
        }
        let is_gone = attempts.iter().any(|(_, attempted)| is_gone(attempted));
        let has_attempts = !attempts.is_empty();
        let is_broken = !is_gone && has_attempts && (is_probe || self.drainer.breaker.is_reached(failed.len()));
        // In a round of a broken endpoint nothing was accepted: its jobs stay, and their attempts are shown.
        let is_broken = is_broken && !failed.is_empty();
        self.asked = attempts.iter().filter_map(|(_, attempted)| attempted.answer.retry_after).max();
        if let Some(error) = attempts.iter().find_map(|(_, attempted)| attempted.answer.failure_reason()) {
            self.circuit.error = Some(error);
        }
        let (mut outcomes, mut done, mut kept, mut untried) = (Vec::new(), Vec::new(), Vec::new(), None);
        for (head, turn) in tried {
            match turn {
                Turn::Unrouted | Turn::NotDue(_) => kept.push(head),
                Turn::Untried(error) => {
                    untried = Some(error);
                    kept.push(head);
                }
                Turn::Repeat => done.push(without_retry(head)),
                Turn::Ended(end) => {
                    outcomes.push(end.outcome(head.waiting.job.meta.clone()));
                    done.push(without_retry(head));
                }
                Turn::Attempted(attempted) if is_broken => {
                    if !is_probe || self.is_shown() {
                        outcomes.push(outcome(head.waiting.job.meta.clone(), *attempted, DeliveryState::Parked, None));
                    }
                    kept.push(head);
                }
                Turn::Attempted(attempted) => {
                    let (outcome, update) = self.follow(&head, *attempted);
                    match &update.retry {
                        Some(_) => kept.push(Head { progress: self.write_progress(&head, update).await?, ..head }),
                        None => done.push((head, Some(update))),
                    }
                    outcomes.push(outcome);
                }
            }
        }
        self.store(&outcomes).await?;
        self.announce_replaced(&done).await;
        let written = join_all(done.iter().map(async |(head, update)| match update {
            Some(update) => self.write_progress(head, update.clone()).await.map(Some),
            None => Ok(None),
        }));
        let written = written.await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let removed = join_all(done.iter().map(|(head, _)| parked.remove(head.place.sequence))).await;
        removed.into_iter().collect::<anyhow::Result<()>>()?;
        for ((mut head, _), progress) in done.into_iter().zip(written) {
            head.progress = progress.unwrap_or(head.progress);
            backlog.put_back(head, true);
        }
        kept.into_iter().for_each(|head| backlog.put_back(head, false));
        if let Some(error) = untried {
            return Err(error);
        }
        if is_broken {
            return Ok(Round::Failed);
        }
        Ok(if is_gone { Round::Gone } else { Round::Sent })
    }

    /// Of what a router decided about, the endpoint was told something newer in its place: that carries no other payload.
    async fn announce_replaced(&self, done: &[(Head, Option<Update>)]) {
        let replaced = done.iter().filter_map(|(head, update)| {
            let (meta, sent) = (&head.waiting.job.meta, update.as_ref()?.sent?);
            (sent.version != meta.payload_event().version).then_some(meta.delivery)
        });
        self.drainer.queue.announce_undelivered(&replaced.collect::<Vec<_>>()).await;
    }

    /// What follows from an attempt: its outcome, and what PROGRESS is to know.
    fn follow(&self, head: &Head, attempted: Attempted) -> (Outcome, Update) {
        let meta = head.waiting.job.meta.clone();
        let verdict = self.drainer.attempter.verdict(&meta, &attempted);
        let now = shopery_queue::now();
        let mut update = Update::default();
        let (state, due_at) = match verdict {
            Verdict::Delivered => {
                let sent = SentState { version: attempted.version, delivery: meta.delivery };
                update.sent = Some(sent);
                update.deletion = Some(sent).filter(|_| meta.event_type.is_deletion());
                (DeliveryState::Delivered, None)
            }
            Verdict::RetryAfter(delay) => {
                let due_at = now + delay;
                let attempt = meta.attempt + 1;
                update.retry = Some(OrderedRetry { job: meta.key(), attempt, failed_at: now, due_at });
                (DeliveryState::Pending, Some(due_at))
            }
            Verdict::GiveUp | Verdict::Disable => (DeliveryState::Failed, None),
        };
        (outcome(meta, attempted, state, due_at), update)
    }

    async fn write_progress(&self, head: &Head, update: Update) -> anyhow::Result<Progress> {
        let Update { sent, deletion, retry } = update;
        let change = |progress: &mut Progress| {
            progress.sent = sent.map(|sent| newest(progress.sent, sent)).or(progress.sent);
            progress.deletion = deletion.map(|deletion| newest(progress.deletion, deletion)).or(progress.deletion);
            progress.retry.clone_from(&retry);
        };
        self.drainer.queue.update_progress(&head.waiting.job.meta, change).await
    }
}

/// A head that ends without an attempt, and what PROGRESS is to know: a retry that was to come does not.
fn without_retry(head: Head) -> (Head, Option<Update>) {
    let update = head.progress.is_retry(&head.waiting.job.meta).then(Update::default);
    (head, update)
}

/// A change of an entry in PROGRESS.
#[derive(Debug, Clone, Default)]
struct Update {
    sent: Option<SentState>,
    deletion: Option<SentState>,
    retry: Option<OrderedRetry>,
}
