//! Notifies a tenant's other webhooks of what one of them meets: that its endpoint fails, that it works again, and that a delivery
//! has failed. Where nobody subscribes to that, nothing is published.
//!
//! - `webhook-failing`: a circuit is open for [`NOTIFY_AFTER`]. What opens and closes within that is not worth a word.
//! - `webhook-recovered`: after that its circuit is closed, and something was delivered. That a circuit is not there says nothing
//!   alone: the bucket may be lost, or all that waited was discarded.
//! - `delivery-failed`: the recorder leaves a row of what somebody wants to know.
//!
//! That a webhook is disabled, or about to be, [`ConfigWriter`](shopery_control::ConfigWriter) publishes.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::join_all;
use shopery_control::notification::{
    self, DELIVERY_FAILED, WEBHOOK_FAILING, WEBHOOK_RECOVERED, delivery_failed, webhook_failing, webhook_recovered,
};
use shopery_model::{Circuit, DeliveryState, EventType, TenantId, WebhookId};
use shopery_queue::{Circuits, Queue};
use shopery_runtime::Shutdown;
use shopery_store::{
    CircuitNotice, DeliveryFilter, PendingFailure, PendingFailures, Store, StoreError, Times, WebhookRecord,
    WebhookState,
};
use tokio::time::Instant;

/// How often it is looked what there is to publish.
const INTERVAL: Duration = Duration::from_secs(1);
/// Of an endpoint that fails for less long nobody is notified.
const NOTIFY_AFTER: time::Duration = time::Duration::seconds(10);
/// Webhooks that are looked at in one go.
const MAX_WEBHOOKS: usize = 200;
/// A webhook of which nothing can be published now is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Time after the end of a circuit by which something must have been delivered for others to be notified of a recovery.
const FORGET_AFTER: Duration = Duration::from_secs(30);
const MAX_CONCURRENT_PUBLISHES: usize = 32;

#[derive(Debug)]
pub(crate) struct Notifier {
    queue: Queue,
    store: Store,
    circuits: Circuits,
    /// Those that fail, and of which this leader has seen to it that others are notified.
    notified: HashSet<WebhookId>,
    /// Those that fail, and of which nobody is to be notified now.
    passed_over: HashMap<WebhookId, Instant>,
    /// Since when the circuits are closed of those of which others know that they have failed.
    closed: HashMap<WebhookId, Instant>,
    /// The last notice that was looked at, and the last tenant whose failures were. They take turns.
    cursor: String,
    failures_cursor: String,
}

impl Notifier {
    pub(crate) fn new(queue: Queue, store: Store, circuits: Circuits) -> Self {
        let (notified, passed_over, closed) = (HashSet::new(), HashMap::new(), HashMap::new());
        Self {
            queue,
            store,
            circuits,
            notified,
            passed_over,
            closed,
            cursor: String::new(),
            failures_cursor: String::new(),
        }
    }

    /// Runs until the drain begins.
    pub(crate) async fn run(mut self, shutdown: &Shutdown) {
        while !shutdown.is_draining() {
            // One that cannot be done holds up no other.
            let circuits = self.notify_of_circuits().await.map(|()| false);
            let (mut is_more, mut is_delayed) = (false, false);
            for done in [circuits, self.notify_of_failures(shutdown).await] {
                match done {
                    Ok(more) => is_more |= more,
                    Err(error) => {
                        tracing::warn!("tenants are notified later: {error:#}");
                        is_delayed = true;
                    }
                }
            }
            if is_more && !is_delayed {
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = shutdown.draining() => {}
            }
        }
    }

    async fn notify_of_circuits(&mut self) -> anyhow::Result<()> {
        let (now, mut failed) = (shopery_queue::now(), None);
        self.passed_over.retain(|_, at| at.elapsed() < LOOK_AGAIN);
        self.closed.retain(|_, at| at.elapsed() < 2 * FORGET_AFTER);
        self.notified.retain(|id| self.circuits.is_broken(*id));
        let (notified, passed_over) = (&self.notified, &self.passed_over);
        let is_new = |id: &WebhookId, circuit: &Circuit| {
            // One without an error was written by a deliverer of before.
            let is_due = now - circuit.since >= NOTIFY_AFTER && circuit.error.is_some();
            is_due && !passed_over.contains_key(id) && !notified.contains(id)
        };
        for (tenant, id, circuit) in self.circuits.open(MAX_WEBHOOKS, is_new) {
            match self.notify_failing(&tenant, id, circuit).await {
                Ok(true) => drop(self.notified.insert(id)),
                Ok(false) => drop(self.passed_over.insert(id, Instant::now())),
                // Others have their turn first.
                Err(error) => {
                    self.passed_over.insert(id, Instant::now());
                    failed = Some(error);
                }
            }
        }
        let notices = self.store.circuit_notices(&self.cursor, MAX_WEBHOOKS as u64).await?;
        self.cursor = notices.last().map(|notice| notice.webhook.to_string()).unwrap_or_default();
        for notice in notices.iter().filter(|notice| !self.circuits.is_broken(notice.webhook)) {
            let closed_at = *self.closed.entry(notice.webhook).or_insert_with(Instant::now);
            match self.notify_recovered(notice, closed_at).await {
                Ok(true) => drop(self.closed.remove(&notice.webhook)),
                Ok(false) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// False if there is nothing to publish of it now. A leader that takes over does this again for every circuit that is open:
    /// the one before may have died between the row and the event.
    async fn notify_failing(&self, tenant: &TenantId, id: WebhookId, circuit: Circuit) -> anyhow::Result<bool> {
        let Some(record) = self.active(tenant, id).await? else { return Ok(false) };
        // The row first: whoever is notified that it fails will be notified that it works again.
        let since = self.store.note_circuit(tenant, id, circuit.since).await?;
        if self.is_wanted(tenant, WEBHOOK_FAILING, id).await? {
            let event = webhook_failing(&record, since, shopery_queue::now(), circuit.error)?;
            notification::publish_once(&self.queue, tenant, &event).await?;
        }
        Ok(true)
    }

    /// False if it is not over yet. `closed_at`: since when its circuit is known to be closed.
    async fn notify_recovered(&self, notice: &CircuitNotice, closed_at: Instant) -> anyhow::Result<bool> {
        let CircuitNotice { tenant, webhook, since } = notice;
        // What the watch says may be incomplete.
        if self.queue.circuit(tenant, *webhook).await?.is_some() {
            return Ok(false);
        }
        // Of one that was disabled, paused or deleted there is nothing more to say.
        if let Some(record) = self.active(tenant, *webhook).await? {
            if !self.has_delivered(notice).await? {
                // The history comes later than the circuit's end. If it stays so, what had waited was discarded.
                if closed_at.elapsed() < FORGET_AFTER {
                    return Ok(false);
                }
            } else if self.is_wanted(tenant, WEBHOOK_RECOVERED, *webhook).await? {
                let event = webhook_recovered(&record, *since, shopery_queue::now())?;
                notification::publish_once(&self.queue, tenant, &event).await?;
            }
        }
        self.store.forget_circuit_notice(notice).await?;
        Ok(true)
    }

    /// Whether something was delivered since the circuit was opened.
    async fn has_delivered(&self, CircuitNotice { tenant, webhook, since }: &CircuitNotice) -> anyhow::Result<bool> {
        let times = Times { updated_at_min: Some(*since), ..Times::default() };
        let states = vec![DeliveryState::Delivered];
        let filter = DeliveryFilter { webhook: Some(*webhook), states, times, ..DeliveryFilter::default() };
        Ok(!self.store.deliveries(tenant, &filter, None, 1).await?.items.is_empty())
    }

    async fn active(&self, tenant: &TenantId, id: WebhookId) -> anyhow::Result<Option<WebhookRecord>> {
        let found = read(id, self.store.webhook(tenant, id).await)?;
        Ok(found.filter(|record| record.state == WebhookState::Active))
    }

    async fn is_wanted(&self, tenant: &TenantId, event_type: &str, subject: WebhookId) -> anyhow::Result<bool> {
        Ok(self.store.has_listener(tenant, event_type.parse::<EventType>()?, subject).await?)
    }

    /// Whether there may be more to publish at once.
    async fn notify_of_failures(&mut self, shutdown: &Shutdown) -> anyhow::Result<bool> {
        let PendingFailures { failures, cursor, is_more } = self.store.pending_failures(&self.failures_cursor).await?;
        self.failures_cursor = cursor;
        let mut failed = None;
        for part in failures.chunks(MAX_CONCURRENT_PUBLISHES) {
            if shutdown.is_draining() {
                break;
            }
            let notified = join_all(part.iter().map(|failure| self.notify_failed(failure))).await;
            let mut done = Vec::new();
            for (failure, notified) in part.iter().zip(notified) {
                match notified {
                    Ok(()) => done.push(failure.clone()),
                    // Those of other tenants may be published all the same.
                    Err(error) => failed = Some(error.context(format!("{DELIVERY_FAILED} of {}", failure.delivery))),
                }
            }
            self.store.failures_notified(&done).await?;
        }
        failed.map_or(Ok(is_more), Err)
    }

    async fn notify_failed(&self, PendingFailure { tenant, delivery, round }: &PendingFailure) -> anyhow::Result<()> {
        let Some((record, _)) = read(delivery, self.store.delivery(tenant, *delivery).await)? else { return Ok(()) };
        // Somebody may have sent it again meanwhile.
        if record.round != *round || record.state != DeliveryState::Failed.name() {
            return Ok(());
        }
        notification::publish_once(&self.queue, tenant, &delivery_failed(&record)?).await
    }
}

/// What does not read never will, and others are notified all the same.
fn read<T>(id: impl std::fmt::Display, found: Result<Option<T>, StoreError>) -> anyhow::Result<Option<T>> {
    match found {
        Err(StoreError::Corrupt(why)) => {
            tracing::error!(%id, why, "what tenants are to be notified of does not read");
            Ok(None)
        }
        found => Ok(found?),
    }
}
