//! Forgets what is too old, all the time and a little at a time.

use std::time::Duration;

use shopery_queue::{Queue, topology};
use shopery_runtime::{Env, Shutdown};
use shopery_store::Store;
use time::OffsetDateTime;

/// How often it is looked for.
const SWEEP: Duration = Duration::from_secs(600);
/// Between two bites, so that whoever writes comes in between.
const PAUSE: Duration = Duration::from_millis(20);
const COUNTS_KEPT: time::Duration = time::Duration::days(400);
/// Within this time a POST with an `Idempotency-Key` is done once.
const IDEMPOTENCY_KEYS_KEPT: time::Duration = time::Duration::days(1);
/// A message of a stream OUTCOMES that was lost and made anew; others are known to be done with.
const RECORDED_KEPT: time::Duration = time::Duration::days(3);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    history: time::Duration,
    changes: time::Duration,
}

impl Retention {
    pub(crate) fn read(env: &mut Env) -> Option<Self> {
        let history = env.duration("SHOPERY_HISTORY_MAX_AGE", "30d", "How long deliveries and recoveries are kept");
        let changes =
            env.duration("SHOPERY_CHANGES_MAX_AGE", "365d", "How long it is kept who has changed which webhook");
        let age = |duration: Duration| time::Duration::try_from(duration).unwrap_or(time::Duration::MAX);
        Some(Self { history: age(history?), changes: age(changes?) })
    }

    /// Runs until the drain begins.
    pub(crate) async fn run(self, queue: &Queue, store: &Store, shutdown: &Shutdown) {
        loop {
            if let Err(error) = self.sweep(queue, store, shutdown).await {
                tracing::warn!("what is too old is removed later: {error:#}");
            }
            tokio::select! {
                () = tokio::time::sleep(SWEEP) => {}
                () = shutdown.draining() => return,
            }
        }
    }

    async fn sweep(self, queue: &Queue, store: &Store, shutdown: &Shutdown) -> anyhow::Result<()> {
        let now = shopery_queue::now();
        // Before the calendar begins there is nothing to forget.
        let before = |age| now.checked_sub(age).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (history, changes) = (before(self.history), before(self.changes));
        store.prepare_history(now, self.history).await?;
        while store.forget_deliveries(history).await? && go_on(shutdown).await {}
        while store.forget_recoveries(history).await? && go_on(shutdown).await {}
        while store.forget_changes(changes).await? && go_on(shutdown).await {}
        while store.fold_minutes(now).await? && go_on(shutdown).await {}
        while store.forget_minutes(now).await? && go_on(shutdown).await {}
        while store.forget_counts(before(COUNTS_KEPT)).await? && go_on(shutdown).await {}
        while store.forget_keys(now - IDEMPOTENCY_KEYS_KEPT).await? && go_on(shutdown).await {}
        let (done, long_ago) = (queue.acknowledged(topology::RECORDER).await?, before(RECORDED_KEPT));
        while store.forget_recorded(done, long_ago).await? && go_on(shutdown).await {}
        Ok(())
    }
}

async fn go_on(shutdown: &Shutdown) -> bool {
    tokio::time::sleep(PAUSE).await;
    !shutdown.is_draining()
}
