//! Looking after parked jobs that no timer looks after: a crash may have lost it, a webhook may have been enabled,
//! disabled or deleted.

use std::time::Duration;

use shopery_queue::{Circuits, Parked, Queue};
use shopery_runtime::Shutdown;

use crate::breaker::Breaker;

#[derive(Debug)]
pub(crate) struct Sweeper {
    pub(crate) queue: Queue,
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
        for ((tenant, id), _) in Parked::counts(&self.queue).await? {
            if !self.circuits.is_broken(id) {
                self.breaker.set_timer(&tenant, id, Duration::ZERO).await?;
            }
        }
        for (tenant, id) in self.circuits.stale() {
            self.breaker.set_timer(&tenant, id, Duration::ZERO).await?;
        }
        Ok(())
    }
}
