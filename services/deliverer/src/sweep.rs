//! Looking after parked jobs that no timer looks after: a crash may have lost it, a webhook may have been enabled,
//! disabled or deleted.

use std::time::Duration;

use shopery_model::{TenantId, WebhookId};
use shopery_queue::{Circuits, Lookup, Parked, Queue, WebhookCache};
use shopery_runtime::Shutdown;

use crate::breaker::Breaker;
use crate::ended::End;

#[derive(Debug)]
pub(crate) struct Sweeper {
    pub(crate) queue: Queue,
    pub(crate) webhooks: WebhookCache,
    pub(crate) circuits: Circuits,
    pub(crate) breaker: Breaker,
    pub(crate) interval: Duration,
}

impl Sweeper {
    /// Sweeps every so often until the drain begins. Every replica does; a timer that is set twice is set once.
    pub(crate) async fn run(self, shutdown: &Shutdown) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.interval) => {}
                () = shutdown.draining() => return,
            }
            if let Err(error) = self.sweep().await {
                tracing::warn!("cannot look after parked jobs: {error:#}");
            }
        }
    }

    async fn sweep(&self) -> anyhow::Result<()> {
        for (tenant, id) in self.circuits.stale() {
            self.breaker.set_timer(&tenant, id, Duration::ZERO).await?;
        }
        for ((tenant, id), _) in Parked::counts(&self.queue).await? {
            // Where it cannot be told, a timer does no harm.
            if !self.circuits.is_broken(id) && self.is_to_be_drained(&tenant, id).await.unwrap_or(true) {
                self.breaker.set_timer(&tenant, id, Duration::ZERO).await?;
            }
        }
        Ok(())
    }

    /// What is parked of a webhook that cannot be sent to is only looked at: a timer for each, each minute, would be work that
    /// leads to nothing.
    async fn is_to_be_drained(&self, tenant: &TenantId, id: WebhookId) -> anyhow::Result<bool> {
        let Some(webhook) = self.webhooks.get_cached(tenant, id).filter(|webhook| !webhook.can_be_sent_to()) else {
            return Ok(true);
        };
        let (known, max_age) = (Lookup::Found(webhook), self.queue.limits.parked_max_age);
        let end = |at| End::of_parked(&known, at, shopery_queue::now(), max_age);
        Ok(Parked::oldest(&self.queue, tenant, id).await?.and_then(end).is_some())
    }
}
