//! The config reconciler: keeps CONFIG true to the database.
//!
//! - What the outbox names is brought in line within seconds, whatever has kept the api or the recorder from it.
//! - All webhooks are compared with CONFIG at the start, whenever the bucket is another one, and otherwise a little at a time:
//!   a safety net for what no outbox tells, such as a database that was restored. Nobody waits for that, unless the bucket
//!   is not complete.
//! - A bucket that is new is filled, then marked as complete: routers and deliverers wait for that mark, and go on with
//!   what they know until then. Its tombstones are written again, so that deliveries which wait for a webhook that was
//!   deleted come to their end.
//!
//! A row that does not read is left alone, in CONFIG too, and stands in no other's way.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use shopery_control::ConfigWriter;
use shopery_model::{Webhook, WebhookId};
use shopery_queue::{COMPLETE, Queue, WebhookCache};
use shopery_runtime::{Shutdown, Starting};
use shopery_store::{Store, StoreError};
use tokio::time::Instant;

/// How often the outbox is read.
const OUTBOX_INTERVAL: Duration = Duration::from_secs(1);
/// A change that is younger is still being published by whoever made it.
const OUTBOX_DELAY: time::Duration = time::Duration::seconds(2);
/// How often all webhooks are compared, from the end of one comparison to the start of the next.
const COMPARE_INTERVAL: Duration = Duration::from_secs(300);
/// Webhooks read from the database at a time.
const PAGE: usize = 500;
/// The pages of a comparison that nobody waits for, and the delay between two of them: a thousand webhooks take less than a minute, a
/// hundred thousand an hour, and a thousandth of a core.
const SMALL_PAGE: usize = 25;
const PAGE_DELAY: Duration = Duration::from_secs(1);
/// Delay before what failed is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Tombstones are written again for what was deleted within this time: nothing waits longer for a webhook.
const TOMBSTONES_KEPT: time::Duration = time::Duration::days(14);

pub(crate) struct Reconciler {
    pub(crate) queue: Queue,
    pub(crate) store: Store,
    pub(crate) writer: ConfigWriter,
    /// What CONFIG has.
    pub(crate) published: WebhookCache,
}

impl Reconciler {
    /// Runs until the drain begins. `starting` is over once CONFIG is complete, which it mostly is before.
    pub(crate) async fn run(&self, starting: &Starting, shutdown: &Shutdown) -> anyhow::Result<()> {
        tokio::select! {
            () = self.keep_comparing(starting) => {}
            () = self.follow_outbox() => {}
            () = shutdown.draining() => {}
        }
        Ok(())
    }

    async fn follow_outbox(&self) {
        loop {
            if let Err(error) = self.work_off_outbox().await {
                tracing::warn!("cannot publish changes of webhooks; trying again: {error:#}");
            }
            tokio::time::sleep(OUTBOX_INTERVAL).await;
        }
    }

    async fn keep_comparing(&self, starting: &Starting) {
        let mut applied = self.published.applied();
        // `None`: CONFIG was never compared in this term.
        let mut next = None;
        loop {
            let is_complete = applied.borrow_and_update().is_complete;
            if is_complete {
                starting.over();
            }
            let compare = async {
                match next {
                    Some(next) if is_complete => {
                        tokio::time::sleep_until(next).await;
                        self.compare_all(SMALL_PAGE, PAGE_DELAY).await
                    }
                    _ => self.compare_all(PAGE, Duration::ZERO).await,
                }
            };
            let compared = tokio::select! {
                compared = compare => compared,
                // Another bucket, which is not complete: everybody waits.
                Ok(_) = applied.wait_for(|applied| !applied.is_complete), if is_complete => continue,
            };
            match compared {
                Ok(changed) => {
                    next = Some(Instant::now() + COMPARE_INTERVAL);
                    starting.over();
                    if changed > 0 {
                        tracing::info!(changed, "CONFIG was brought in line with the database");
                    }
                    // The mark comes back to us.
                    let marked = applied.wait_for(|applied| applied.is_complete);
                    let _ = tokio::time::timeout(RETRY_DELAY, marked).await;
                }
                Err(error) => {
                    tracing::warn!("cannot compare CONFIG with the database; trying again: {error:#}");
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    async fn work_off_outbox(&self) -> anyhow::Result<()> {
        loop {
            let pending = self.store.pending_changes(shopery_queue::now() - OUTBOX_DELAY).await?;
            if pending.is_empty() {
                return Ok(());
            }
            let mut failed = None;
            for change in &pending {
                // One that cannot be published now holds up no other.
                match self.writer.repair(&change.tenant, change.webhook).await {
                    Ok(_) => {}
                    // It never will be. The comparison goes on telling of it.
                    Err(error) if matches!(error.downcast_ref(), Some(StoreError::Corrupt(_))) => {
                        tracing::error!(webhook = %change.webhook, "a change cannot be published: {error:#}");
                    }
                    Err(error) => {
                        failed = Some(error.context(format!("webhook {}", change.webhook)));
                        continue;
                    }
                }
                self.store.changes_published(std::slice::from_ref(change)).await?;
            }
            if let Some(error) = failed {
                return Err(error);
            }
        }
    }

    /// Brings all of CONFIG in line; returns how many entries had to be changed.
    async fn compare_all(&self, page_size: usize, delay: Duration) -> anyhow::Result<usize> {
        // Read before the database: what is newer there is then written again, to no harm.
        let began = *self.published.applied().borrow();
        let mut known: HashMap<WebhookId, Arc<Webhook>> =
            self.published.all().into_iter().map(|webhook| (webhook.id, webhook)).collect();
        let (mut after, mut changed, mut failed) = (None::<String>, 0, None);
        loop {
            let page = self.store.all_webhooks(after.as_deref(), page_size as u64).await?;
            for row in &page {
                let record = match row {
                    Ok(record) => record,
                    Err(unreadable) => {
                        tracing::error!(webhook = unreadable.id, error = %unreadable.error, "a webhook does not read");
                        // It is there, whatever it says.
                        if let Ok(id) = unreadable.id.parse() {
                            known.remove(&id);
                        }
                        continue;
                    }
                };
                let compared = if known.remove(&record.id).as_deref() != Some(&record.config()) {
                    self.writer.repair(&record.tenant, record.id).await.map(|written| written.was_changed)
                } else {
                    self.writer.notify(record).await.map(|()| false)
                };
                // One that fails holds up no other: a comparison may take an hour.
                match compared {
                    Ok(was_changed) => changed += usize::from(was_changed),
                    Err(error) => failed = Some(error.context(format!("webhook {}", record.id))),
                }
            }
            after = match page.last() {
                Some(Ok(last)) => Some(last.id.to_string()),
                Some(Err(last)) => Some(last.id.clone()),
                None => None,
            };
            if page.len() < page_size {
                break;
            }
            tokio::time::sleep(delay).await;
        }
        if let Some(error) = failed {
            return Err(error);
        }
        for (id, deleted) in known {
            changed += usize::from(self.writer.repair(&deleted.tenant, id).await?.was_changed);
        }
        if !began.is_complete {
            self.leave_tombstones().await?;
            // What was filled may be gone, and another bucket be in its place.
            ensure!(self.queue.config_created().await? == began.bucket, "CONFIG was made anew meanwhile");
            let marked = self.queue.buckets.config.put(COMPLETE, began.bucket.to_string().into()).await;
            marked.context("cannot mark CONFIG as complete")?;
            tracing::info!("CONFIG is complete");
        }
        Ok(changed)
    }

    async fn leave_tombstones(&self) -> anyhow::Result<()> {
        let (since, mut before) = (shopery_queue::now() - TOMBSTONES_KEPT, None);
        loop {
            let deleted = self.store.deleted_webhooks(since, before).await?;
            let Some(last) = deleted.last() else { return Ok(()) };
            before = Some(last.id);
            for webhook in &deleted {
                self.writer.leave_tombstone(&webhook.tenant, webhook.webhook).await?;
            }
        }
    }
}
