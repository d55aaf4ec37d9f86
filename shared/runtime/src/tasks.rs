use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Runtime;

/// Why the process must end though nobody told it to, once that is so.
#[derive(Debug, Clone)]
pub(crate) struct Failure(Arc<watch::Sender<Option<String>>>);

impl Default for Failure {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Runtime {
    /// Runs a task in the background until the drain begins. One that ends or panics before that ends the process, with its name:
    /// a service that goes on without a part of it would be "ready" and do half of its work. Whoever watches the process
    /// starts it again.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let runtime = self.clone();
        tokio::spawn(async move {
            // Dropped at the drain, and the task with it.
            let mut tasks = JoinSet::new();
            tasks.spawn(task);
            let ended = tokio::select! {
                ended = tasks.join_next() => ended,
                () = runtime.shutdown.draining() => return,
            };
            if runtime.shutdown.is_draining() {
                return;
            }
            let how = match ended {
                Some(Err(error)) if error.is_panic() => "panicked",
                _ => "ended by itself",
            };
            runtime.fail(name, format!("the background task {name} {how}"));
        });
    }

    /// Makes `/readyz` say why, and the process end.
    fn fail(&self, name: &'static str, why: String) {
        tracing::error!("{why}");
        let told = why.clone();
        self.health.check(name, move || Err(told.clone()));
        self.failure.0.send_if_modified(|failure| {
            let is_first = failure.is_none();
            failure.get_or_insert(why);
            is_first
        });
    }

    /// Completes, with the reason, when a background task has ended that must not.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.0.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(error) => error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_before_the_drain_ends_the_service_and_is_named() {
        for (name, panics, how) in [("ends", false, "ended by itself"), ("panics", true, "panicked")] {
            let runtime = Runtime::default();
            runtime.spawn("stays", std::future::pending());
            assert!(runtime.health.obstacles().is_empty());
            runtime.spawn(name, async move { assert!(!panics, "as this test wants it") });
            let why = runtime.failed().await;
            assert_eq!(why, format!("the background task {name} {how}"));
            assert_eq!(runtime.health.obstacles().get(name), Some(&why));
        }
    }

    #[tokio::test]
    async fn a_task_is_dropped_at_the_drain() {
        let runtime = Runtime::default();
        let (held, mut dropped) = tokio::sync::mpsc::channel::<()>(1);
        runtime.spawn("waits", async move {
            let _held = held;
            std::future::pending().await
        });
        runtime.shutdown.begin();
        assert_eq!(dropped.recv().await, None);
        assert!(runtime.health.obstacles().is_empty());
    }
}
