//! Notifies tenants of what their webhooks meet: that an endpoint fails, that it works again, and that a delivery was given up.
//!
//! - `webhook-failing`: a circuit is open for [`GRACE`]. Who opens and closes it within that is not worth a word.
//! - `webhook-recovered`: after that, its circuit is closed, and an attempt has succeeded. A circuit that is not there alone says
//!   nothing: the bucket may be lost.
//! - `delivery-failed`: the recorder leaves a row of what somebody wants to know.
//!
//! That a webhook is disabled, or about to be, [`ConfigWriter`](shopery_control::ConfigWriter) tells.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::join_all;
use shopery_control::notification::{delivery_failed, publish_once, webhook_failing, webhook_recovered};
use shopery_model::{Circuit, DeliveryState, TenantId, WebhookId};
use shopery_queue::{Circuits, Queue};
use shopery_runtime::Shutdown;
use shopery_store::{PendingFailure, Store, StoreError, WebhookRecord, WebhookState};
use time::OffsetDateTime;

/// How often it is looked what there is to tell.
const INTERVAL: Duration = Duration::from_secs(1);
/// An endpoint that fails for less long is not told of.
const GRACE: time::Duration = time::Duration::seconds(10);
/// Events that are published at a time.
const AT_A_TIME: usize = 32;
/// Webhooks that are looked at in one go, so that many of them hold up no failures.
const MANY: usize = 200;

#[derive(Debug)]
pub(crate) struct Notifier {
    pub(crate) queue: Queue,
    pub(crate) store: Store,
    pub(crate) circuits: Circuits,
}

/// The webhooks of which it was told that they fail, and since when.
type Told = HashMap<WebhookId, (TenantId, OffsetDateTime)>;

impl Notifier {
    /// Runs until the drain begins.
    pub(crate) async fn run(&self, shutdown: &Shutdown) {
        let mut told = None;
        while !shutdown.is_draining() {
            if let Err(error) = self.notify(&mut told).await {
                tracing::warn!("tenants are notified later: {error:#}");
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = shutdown.draining() => {}
            }
        }
    }

    async fn notify(&self, told: &mut Option<Told>) -> anyhow::Result<()> {
        let told = match told {
            Some(told) => told,
            None => {
                let rows = self.store.webhooks_told_failing().await?;
                told.insert(rows.into_iter().map(|(tenant, id, since)| (id, (tenant, since))).collect())
            }
        };
        self.tell_of_circuits(told).await?;
        while self.tell_of_failures().await? {}
        Ok(())
    }

    async fn tell_of_circuits(&self, told: &mut Told) -> anyhow::Result<()> {
        let now = shopery_queue::now();
        let open = self.circuits.open();
        let is_new =
            |(_, id, circuit): &&(TenantId, WebhookId, Circuit)| now - circuit.since >= GRACE && !told.contains_key(id);
        let new: Vec<_> = open.iter().filter(is_new).take(MANY).collect();
        for (tenant, id, circuit) in new {
            if self.tell_failing(tenant, *id, circuit).await? {
                told.insert(*id, (tenant.clone(), circuit.since));
            }
        }
        let closed: Vec<_> = told.iter().filter(|(id, _)| !self.circuits.is_broken(**id)).take(MANY).collect();
        let mut over = Vec::new();
        for (id, (tenant, since)) in closed {
            if self.tell_recovered(tenant, *id, *since).await? {
                over.push(*id);
            }
        }
        for id in over {
            told.remove(&id);
        }
        Ok(())
    }

    /// False if it cannot be told now.
    async fn tell_failing(&self, tenant: &TenantId, id: WebhookId, circuit: &Circuit) -> anyhow::Result<bool> {
        let Some(record) = self.active(tenant, id).await? else { return Ok(false) };
        let event = webhook_failing(&record, circuit.since, circuit.error.clone())?;
        publish_once(&self.queue, tenant, &event).await?;
        self.store.told_failing(tenant, id, circuit.since).await?;
        Ok(true)
    }

    /// False if it cannot be told yet.
    async fn tell_recovered(&self, tenant: &TenantId, id: WebhookId, since: OffsetDateTime) -> anyhow::Result<bool> {
        // What the watch says may be incomplete.
        if self.queue.circuit(tenant, id).await?.is_some() {
            return Ok(false);
        }
        if let Some(record) = self.active(tenant, id).await? {
            if record.failing_since.is_some() {
                return Ok(false);
            }
            let event = webhook_recovered(&record, since, shopery_queue::now())?;
            publish_once(&self.queue, tenant, &event).await?;
        }
        // Of one that was disabled or deleted there is nothing more to tell.
        self.store.told_recovered(id).await?;
        Ok(true)
    }

    async fn active(&self, tenant: &TenantId, id: WebhookId) -> anyhow::Result<Option<WebhookRecord>> {
        let found = match self.store.webhook(tenant, id).await {
            Ok(found) => found,
            // It never will read, and the others are told of all the same.
            Err(StoreError::Corrupt(why)) => {
                tracing::error!(webhook = %id, why, "a webhook does not read");
                None
            }
            Err(error) => return Err(error.into()),
        };
        Ok(found.filter(|record| record.state == WebhookState::Active))
    }

    /// Whether there may be more.
    async fn tell_of_failures(&self) -> anyhow::Result<bool> {
        let pending = self.store.pending_failures().await?;
        for part in pending.chunks(AT_A_TIME) {
            let told = join_all(part.iter().map(|failure| self.tell_of_failure(failure))).await;
            let told = told.into_iter().collect::<anyhow::Result<()>>();
            // Those that were told are told again with the next try, to no harm: the event is known by its id.
            told.context("a delivery that was given up")?;
            self.store.failures_notified(part).await?;
        }
        Ok(!pending.is_empty())
    }

    async fn tell_of_failure(&self, PendingFailure { delivery, round, tenant }: &PendingFailure) -> anyhow::Result<()> {
        let found = match self.store.delivery(tenant, *delivery).await {
            Ok(found) => found,
            Err(StoreError::Corrupt(why)) => {
                tracing::error!(%delivery, why, "a delivery does not read");
                None
            }
            Err(error) => return Err(error.into()),
        };
        let Some((record, _)) = found else { return Ok(()) };
        // Somebody may have sent it again meanwhile.
        if record.round != *round || record.state != DeliveryState::Failed.name() {
            return Ok(());
        }
        publish_once(&self.queue, tenant, &delivery_failed(&record)?).await
    }
}
