//! Keeps CONFIG true to the database, one webhook at a time, and notifies of what has become of one.
//!
//! The database is the truth. A change is written there first, with a row in the outbox, then [`ConfigWriter::publish`]
//! brings the one entry in line by reading the truth and writing it with compare-and-set, so whoever comes last, replicas
//! included, leaves the newest state. What a crash or an outage left undone the controller finds in the outbox. That a
//! webhook was disabled is in the database too, until EVENTS has the event that notifies of it.

use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::jetstream::kv::{Operation, Store as Bucket, UpdateErrorKind};
use shopery_model::{TenantId, WebhookId};
use shopery_queue::{ConfigSubscribers, Parked, Queue, Revision, subject};
use shopery_runtime::Runtime;
use shopery_store::{Store, WebhookRecord, WebhookState};
use tokio::time::Instant;

use crate::notification::{pending_notification, publish_once};

/// Times that a compare-and-set may lose against others.
const MAX_WRITE_ATTEMPTS: usize = 10;
/// Maximum time that an author of a change waits for NATS, which may restart or elect a leader. If we answered before CONFIG
/// has the change, the events published next would be routed by the old webhook.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// By then every deliverer knows of a change.
const PROPAGATION_TIME: Duration = Duration::from_millis(500);

/// Clones are the same.
#[derive(Debug, Clone)]
pub struct ConfigWriter {
    queue: Queue,
    store: Store,
    bucket: Bucket,
    subscribers: ConfigSubscribers,
}

/// An entry that says what the database does.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    revision: u64,
    pub was_changed: bool,
}

impl ConfigWriter {
    pub fn start(queue: &Queue, store: Store, runtime: &Runtime) -> Self {
        let subscribers = ConfigSubscribers::start(queue, runtime);
        Self { queue: queue.clone(), store, bucket: queue.buckets.config.clone(), subscribers }
    }

    /// Makes a change of a webhook known, and waits until routers and deliverers have it: what is published from then on
    /// finds it. If NATS is away for longer the controller makes up for it soon; the change itself is safe.
    pub async fn publish(&self, tenant: &TenantId, id: WebhookId) {
        if let Err(error) = self.try_publish(tenant, id).await {
            tracing::warn!(%tenant, webhook = %id, "a webhook's change is published later: {error:#}");
        }
    }

    async fn try_publish(&self, tenant: &TenantId, id: WebhookId) -> anyhow::Result<()> {
        // Those that are there now are in what is read afterwards.
        let pending = self.store.pending_changes_of(id).await?;
        let deadline = Instant::now() + PUBLISH_TIMEOUT;
        while let Err(error) = self.write_and_wait(tenant, id).await {
            if Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
        self.notify_of(tenant, id).await?;
        Ok(self.store.changes_published(&pending).await?)
    }

    async fn write_and_wait(&self, tenant: &TenantId, id: WebhookId) -> anyhow::Result<()> {
        let written = self.reconcile_one(tenant, id).await?;
        let bucket = self.queue.config_created().await?;
        self.subscribers.wait_until_applied(Revision { bucket, number: written.revision }).await;
        Ok(())
    }

    /// Makes up for what whoever changed a webhook could not do.
    pub async fn repair(&self, tenant: &TenantId, id: WebhookId) -> anyhow::Result<Written> {
        let written = self.reconcile_one(tenant, id).await?;
        if written.was_changed {
            self.resume_backlog(tenant, id).await;
        }
        self.notify_of(tenant, id).await?;
        Ok(written)
    }

    /// What waits is sent to a webhook that works again, or ends with one that was deleted. If this fails the deliverers
    /// find out by themselves, later.
    pub async fn resume_backlog(&self, tenant: &TenantId, id: WebhookId) {
        let due = shopery_queue::now() + PROPAGATION_TIME;
        if let Err(error) = Parked::set_timer(&self.queue, tenant, id, due).await {
            tracing::warn!(%tenant, webhook = %id, %error, "what waits is seen to later");
        }
    }

    async fn notify_of(&self, tenant: &TenantId, id: WebhookId) -> anyhow::Result<()> {
        match self.store.webhook(tenant, id).await? {
            Some(record) => self.notify(&record).await,
            None => Ok(()),
        }
    }

    /// Publishes the notification of a webhook, if one is pending, then notes that it was.
    pub async fn notify(&self, record: &WebhookRecord) -> anyhow::Result<()> {
        let Some(event) = pending_notification(record)? else { return Ok(()) };
        let tenant = &record.tenant;
        publish_once(&self.queue, tenant, &event).await?;
        let now = shopery_queue::now();
        match record.state {
            WebhookState::Disabled => self.store.told(tenant, record.id, event.time, now).await?,
            _ => self.store.warning_notified(tenant, record.id, event.time, now).await?,
        }
        Ok(())
    }

    /// Leaves a tombstone of a webhook that the database does not have, where CONFIG knows nothing of it.
    pub async fn leave_tombstone(&self, tenant: &TenantId, id: WebhookId) -> anyhow::Result<()> {
        let key = subject::config_key(tenant, id);
        if self.bucket.entry(key.as_str()).await.context("cannot read CONFIG")?.is_some() {
            return Ok(());
        }
        match self.bucket.purge_expect_revision(key.as_str(), Some(0)).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(()),
            Err(error) => Err(error).context("cannot write CONFIG"),
        }
    }

    /// Brings the entry of one webhook in line with the database.
    pub async fn reconcile_one(&self, tenant: &TenantId, id: WebhookId) -> anyhow::Result<Written> {
        let key = subject::config_key(tenant, id);
        let mut was_changed = false;
        for _ in 0..MAX_WRITE_ATTEMPTS {
            // The entry first: if the truth changes after it was read, the entry's revision has moved on as well, or
            // whoever changed the truth will come after us.
            let entry = self.bucket.entry(key.as_str()).await.context("cannot read CONFIG")?;
            let wanted = self.store.webhook(tenant, id).await?.map(|record| record.config());
            let revision = entry.as_ref().map_or(0, |entry| entry.revision);
            let published = entry.filter(|entry| entry.operation == Operation::Put).map(|entry| entry.value);
            let written = match (published, wanted) {
                (None, None) => return Ok(Written { revision, was_changed }),
                (Some(_), None) => {
                    let purged = self.bucket.purge_expect_revision(key.as_str(), Some(revision)).await;
                    // At which revision it left its mark, only another look tells.
                    purged.map(|()| None).map_err(|error| (is_overtaken(error.kind()), anyhow::Error::from(error)))
                }
                (published, Some(wanted)) => {
                    let value = serde_json::to_vec(&wanted)?;
                    if published.is_some_and(|published| published == value) {
                        return Ok(Written { revision, was_changed });
                    }
                    let update = self.bucket.update(key.as_str(), value.into(), revision).await;
                    update.map(Some).map_err(|error| (is_overtaken(error.kind()), anyhow::Error::from(error)))
                }
            };
            match written {
                Ok(Some(revision)) => return Ok(Written { revision, was_changed: true }),
                Ok(None) => was_changed = true,
                Err((true, _)) => {}
                Err((false, error)) => return Err(error).context("cannot write CONFIG"),
            }
        }
        bail!("others change the entry {key} all the time")
    }
}

fn is_overtaken(kind: UpdateErrorKind) -> bool {
    kind == UpdateErrorKind::WrongLastRevision
}
