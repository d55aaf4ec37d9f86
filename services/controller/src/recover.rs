//! The work on recoveries: each is a row in the database, and is worked on in turns of one page.
//!
//! Of the recoveries that wait, the one that has waited longest has the next turn: a long one does not hold up a short one.
//! What is sent goes to the bulk lane, a page at a time, and the next page waits until JOBS has it.
//!
//! Invariant: a delivery is superseded only by one that JOBS has. A crash repeats at most one page, under the same ids.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::future::join_all;
use prometheus_client::metrics::counter::Counter;
use shopery_control::redelivery::{
    MAX_ROUNDS, is_under_way, message, redelivery_job, redelivery_meta, requested, superseded,
};
use shopery_model::{DeliveryId, Outcome};
use shopery_queue::{PublishError, Queue};
use shopery_runtime::Shutdown;
use shopery_store::{
    DeliveryRecord, ItemState, RecoveryItem, RecoveryPage, RecoveryState, RecoveryTurn, Store, WebhookRecord,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Recoveries that are worked on at a time.
const TURNS: u32 = 4;
/// Deliveries in a page.
const PAGE: u64 = 100;
/// A turn is over after so long; what it has left undone is for the next one. Below the lease.
const LONGEST_TURN: Duration = Duration::from_secs(12);
/// How long the deliveries of a recovery may take to be counted.
const LONGEST_COUNT: Duration = Duration::from_secs(3);
/// How often we look for recoveries that were asked for, or that another leader has left behind.
const LOOK: Duration = Duration::from_secs(1);
/// How often what cancelled recoveries have left behind is removed.
const SWEEP: Duration = Duration::from_secs(60);
/// The next turn after one that failed: JOBS is full, or NATS or the database is away.
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub(crate) struct Recoverer {
    pub(crate) queue: Queue,
    pub(crate) store: Store,
    pub(crate) resent: Counter,
}

/// Whether there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    More,
    /// The recovery has ended, or is another's now.
    Over,
}

/// An item with the delivery that it sends.
type Planned = (RecoveryItem, DeliveryRecord);

impl Recoverer {
    /// Runs until the drain begins; what is unfinished by then goes on where it was.
    pub(crate) async fn run(self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let places = Arc::new(Semaphore::new(TURNS as usize));
        // Dropped with the lease, and with it every turn.
        let mut turns = JoinSet::new();
        let mut swept = Instant::now();
        while !shutdown.is_draining() {
            while turns.try_join_next().is_some() {}
            let Ok(place) = places.clone().acquire_owned().await else { break };
            let claimed = self.store.claim_recovery(shopery_queue::now()).await;
            if let Ok(Some(turn)) = claimed {
                let recoverer = self.clone();
                turns.spawn(async move {
                    recoverer.take(turn).await;
                    drop(place);
                });
                continue;
            }
            drop(place);
            if swept.elapsed() > SWEEP {
                swept = Instant::now();
                if let Err(error) = self.store.sweep_recoveries(shopery_queue::now()).await {
                    tracing::warn!(%error, "what recoveries have left behind is swept later");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = shutdown.draining() => {}
            }
        }
        turns.join_all().await;
        Ok(())
    }

    async fn take(&self, turn: RecoveryTurn) {
        let id = turn.recovery.id;
        let taken = tokio::time::timeout(LONGEST_TURN, self.step(&turn)).await;
        let now = shopery_queue::now();
        let next = match taken.context("it took too long").flatten() {
            Ok(Step::Over) => return,
            Ok(Step::More) => now,
            Err(error) => {
                tracing::warn!(recovery = %id, "a recovery goes on later: {error:#}");
                now + PAUSE
            }
        };
        if let Err(error) = self.store.end_turn(&turn, now, next).await {
            tracing::warn!(recovery = %id, %error, "a recovery goes on when its lease is over");
        }
    }

    async fn step(&self, turn: &RecoveryTurn) -> anyhow::Result<Step> {
        let recovery = &turn.recovery;
        let Some(webhook) = self.store.webhook(&recovery.tenant, recovery.webhook).await? else {
            return self.finish(turn, RecoveryState::Failed, Some("the webhook was deleted")).await;
        };
        if recovery.total.is_none() && !recovery.has_begun() {
            // A history that is too large to be counted is recovered all the same.
            let _ = tokio::time::timeout(LONGEST_COUNT, self.store.count_recovery(turn)).await;
        }
        // What a turn that did not end has left.
        let mut planned = self.store.planned_items(turn).await?;
        if !planned.is_empty() && self.send(turn, &webhook, &mut planned).await? == Step::Over {
            return Ok(Step::Over);
        }
        let RecoveryPage { deliveries: page, end } = self.store.recovery_page(turn, PAGE).await?;
        let Some(end) = end else { return self.finish(turn, RecoveryState::Completed, None).await };
        let names = page.iter().map(|delivery| turn.item_of(delivery)).collect();
        let mut items = self.store.recovery_items(turn, names).await?;
        let mut planned = plan(turn, &page, &items)?;
        if !planned.is_empty() {
            let new: Vec<_> = planned.iter().map(|(item, _)| item.clone()).collect();
            if !self.store.plan_items(turn, &new, shopery_queue::now()).await?
                || self.send(turn, &webhook, &mut planned).await? == Step::Over
            {
                return Ok(Step::Over);
            }
            items.extend(planned.into_iter().map(|(item, _)| (item.item.clone(), item)));
        }
        let (outcomes, unavailable) = carried(turn, &webhook, &page, &items)?;
        let passed = self.store.pass_recovery(turn, &end, &outcomes, unavailable, shopery_queue::now()).await?;
        Ok(if passed { Step::More } else { Step::Over })
    }

    /// Sends what is planned, and notes in each item what has become of it.
    async fn send(
        &self,
        turn: &RecoveryTurn,
        webhook: &WebhookRecord,
        planned: &mut [Planned],
    ) -> anyhow::Result<Step> {
        let mode = Some(turn.recovery.mode);
        let jobs = planned.iter().map(async |(item, delivery)| {
            // Somebody has begun this round: an earlier turn of ours, or a person who has asked for the delivery.
            let is_sent = delivery.round >= item.round || is_under_way(delivery);
            if is_sent { Ok(None) } else { redelivery_job(&self.queue, webhook, delivery, mode).await.map(Some) }
        });
        let jobs = join_all(jobs).await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let mut sent = Vec::new();
        for (place, job) in jobs.into_iter().enumerate() {
            let item = &mut planned[place].0;
            match job {
                None => item.state = ItemState::Sent,
                Some(Some(job)) if item.round <= MAX_ROUNDS => {
                    let message = self.queue.send(message(&job)).await;
                    sent.push(async move { (place, message.acked().await, requested(job.meta)) });
                }
                Some(_) => item.state = ItemState::Unavailable,
            }
        }
        let (mut outcomes, mut refused) = (Vec::new(), None);
        for (place, acked, outcome) in join_all(sent).await {
            match acked {
                Ok(_) => {
                    planned[place].0.state = ItemState::Sent;
                    outcomes.push(outcome);
                }
                Err(error) => refused = Some(error),
            }
        }
        self.settle(turn, planned, &outcomes, refused).await
    }

    async fn settle(
        &self,
        turn: &RecoveryTurn,
        planned: &[Planned],
        outcomes: &[Outcome],
        refused: Option<PublishError>,
    ) -> anyhow::Result<Step> {
        let settled: Vec<_> = planned.iter().map(|(item, _)| item.clone()).collect();
        if !self.store.settle_items(turn, &settled, outcomes, shopery_queue::now()).await? {
            return Ok(Step::Over);
        }
        self.resent.inc_by(outcomes.len() as u64);
        match refused {
            // What was refused is still planned.
            Some(error) => bail!(error),
            None => Ok(Step::More),
        }
    }

    async fn finish(&self, turn: &RecoveryTurn, state: RecoveryState, error: Option<&str>) -> anyhow::Result<Step> {
        self.store.finish_recovery(turn, state, error, shopery_queue::now()).await?;
        tracing::info!(recovery = %turn.recovery.id, state = state.name(), error, "a recovery has ended");
        Ok(Step::Over)
    }
}

/// The items that the page brings: the first delivery of each resource that has none yet, or every delivery.
fn plan(
    turn: &RecoveryTurn,
    page: &[DeliveryRecord],
    known: &HashMap<String, RecoveryItem>,
) -> anyhow::Result<Vec<Planned>> {
    let mut new = HashSet::new();
    let mut planned = Vec::new();
    for delivery in page {
        let name = turn.item_of(delivery);
        if known.contains_key(&name) || !new.insert(name.clone()) {
            continue;
        }
        let item = RecoveryItem {
            item: name,
            delivery: delivery.id.parse().context("a delivery's id")?,
            round: delivery.round + 1,
            state: ItemState::Planned,
        };
        planned.push((item, delivery.clone()));
    }
    Ok(planned)
}

/// What becomes of the deliveries of the page that others carry, and how many have nothing that could carry them.
fn carried(
    turn: &RecoveryTurn,
    webhook: &WebhookRecord,
    page: &[DeliveryRecord],
    items: &HashMap<String, RecoveryItem>,
) -> anyhow::Result<(Vec<Outcome>, usize)> {
    let (mut outcomes, mut unavailable) = (Vec::new(), 0);
    for delivery in page {
        let item = items.get(&turn.item_of(delivery)).context("a delivery without an item")?;
        let id: DeliveryId = delivery.id.parse().context("a delivery's id")?;
        match item.state {
            _ if item.delivery == id => {}
            ItemState::Sent => outcomes.push(superseded(redelivery_meta(webhook, delivery, None)?, item.delivery)),
            ItemState::Unavailable => unavailable += 1,
            ItemState::Planned => bail!("the item of {id} is still to be sent"),
        }
    }
    Ok((outcomes, unavailable))
}
