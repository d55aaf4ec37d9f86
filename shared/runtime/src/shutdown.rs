use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How a process stops: softly at first (take no new work, finish what is in flight), hard when the drain takes too
/// long or the operator asks a second time. Hard is safe at any moment; it only makes work repeat.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Stop softly.
    pub fn begin(&self) {
        self.draining.cancel();
        self.tasks.close();
    }

    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Completes when the drain begins.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Runs work that the drain waits for.
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Completes when all spawned work is done, or false after `deadline`.
    pub async fn drained(&self, deadline: Duration) -> bool {
        tokio::time::timeout(deadline, self.tasks.wait()).await.is_ok()
    }
}
