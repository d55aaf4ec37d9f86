//! Keeps CONFIG true to the database, and tells of what has become of a webhook.
//!
//! The database is the truth. A change is written there first, then [`Publicist::publish`] brings the one entry in line
//! by reading the truth and writing it with compare-and-set, so whoever comes last, replicas included, leaves the
//! newest state. What a crash or an outage left undone is found by [`Publicist::reconcile`]. That a webhook was disabled
//! is in the database too, until EVENTS has the event that tells of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::jetstream::kv::{Operation, Store as Bucket};
use shopery_model::{TenantId, Webhook, WebhookId};
use shopery_queue::{Directory, Followers, Outgoing, Parked, Queue, subject};
use shopery_runtime::Shutdown;
use shopery_store::{Store, WebhookRecord};
use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::disabled;

/// How often everything is compared.
const INTERVAL: Duration = Duration::from_secs(30);
/// How soon a comparison that failed, or that somebody asked for, is made.
const SOON: Duration = Duration::from_secs(1);
/// Webhooks read from the database at a time.
const PAGE: u64 = 1000;
/// Times that a compare-and-set may lose against others.
const TRIES: usize = 10;

/// By then every deliverer knows of a change.
const NEWS_SPREADS: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub(crate) struct Publicist {
    queue: Queue,
    store: Store,
    bucket: Bucket,
    directory: Directory,
    followers: Followers,
    unpublished: Arc<Notify>,
}

/// An entry that says what the database does.
struct Line {
    revision: u64,
    was_changed: bool,
}

impl Publicist {
    pub(crate) fn start(queue: &Queue, store: Store, directory: Directory, shutdown: &Shutdown) -> Self {
        let (bucket, followers) = (queue.buckets.config.clone(), Followers::start(queue, shutdown));
        Self { queue: queue.clone(), store, bucket, directory, followers, unpublished: Arc::new(Notify::new()) }
    }

    /// Makes a change of a webhook known, and waits until routers and deliverers have it: what is published from then on
    /// finds it. If that fails now it is made up for soon; the change itself is safe.
    pub(crate) async fn publish(&self, tenant: &TenantId, id: WebhookId) {
        match self.bring_in_line(tenant, id).await {
            Ok(Line { revision, .. }) => self.followers.have(revision).await,
            Err(error) => {
                tracing::warn!(%tenant, webhook = %id, "a webhook's change is published later: {error:#}");
                self.unpublished.notify_one();
            }
        }
    }

    /// What waits is sent to a webhook that works again, or ends with one that was deleted. If this fails the deliverers
    /// find out by themselves, later.
    pub(crate) async fn see_to_waiting(&self, tenant: &TenantId, id: WebhookId) {
        if let Err(error) = Parked::set_timer(&self.queue, tenant, id, OffsetDateTime::now_utc() + NEWS_SPREADS).await {
            tracing::warn!(%tenant, webhook = %id, %error, "what waits is seen to later");
        }
    }

    /// Makes known that a webhook was disabled: to the data plane, and to the tenant's other webhooks.
    pub(crate) async fn publish_disabled(&self, tenant: &TenantId, id: WebhookId) {
        self.publish(tenant, id).await;
        let told = async {
            match self.store.webhook(tenant, id).await? {
                Some(record) => self.tell(&record).await,
                None => Ok(()),
            }
        };
        if let Err(error) = told.await {
            tracing::warn!(%tenant, webhook = %id, "that a webhook was disabled is told later: {error:#}");
            self.unpublished.notify_one();
        }
    }

    /// Publishes the event that is still to be told of a webhook, then notes that it was.
    async fn tell(&self, record: &WebhookRecord) -> anyhow::Result<()> {
        let Some(event) = disabled::untold(record)? else { return Ok(()) };
        let (tenant, resource) = (&record.tenant, event.resource.to_string());
        // EVENTS knows a repeat for minutes only.
        let last = self.queue.latest_state(tenant, &resource).await?;
        if last.is_none_or(|last| last.event.id != event.id) {
            self.queue.publish(&Outgoing::event(tenant, &event)).await.context("cannot publish webhook-disabled")?;
        }
        Ok(self.store.told(tenant, record.id, event.time, OffsetDateTime::now_utc()).await?)
    }

    /// Compares all webhooks with CONFIG, at the start and then periodically.
    pub(crate) async fn reconcile(&self, shutdown: &Shutdown) -> anyhow::Result<()> {
        loop {
            let pause = match self.compare_all().await {
                Ok(0) => INTERVAL,
                Ok(mended) => {
                    tracing::info!(mended, "CONFIG was brought in line with the database");
                    INTERVAL
                }
                Err(error) => {
                    tracing::warn!("cannot compare CONFIG with the database: {error:#}");
                    SOON
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.unpublished.notified() => tokio::time::sleep(SOON).await,
                () = shutdown.draining() => return Ok(()),
            }
        }
    }

    /// Brings all of CONFIG in line; returns how many entries had to be changed.
    pub(crate) async fn compare_all(&self) -> anyhow::Result<usize> {
        // Read before the database: what is newer there is then written again, to no harm.
        let mut known: HashMap<WebhookId, Arc<Webhook>> =
            self.directory.all().into_iter().map(|webhook| (webhook.id, webhook)).collect();
        let (mut after, mut mended) = (None, 0);
        loop {
            let page = self.store.all_webhooks(after, PAGE).await?;
            for record in &page {
                let published = known.remove(&record.id);
                if published.as_deref() != Some(&record.config()) {
                    mended += usize::from(self.mend(&record.tenant, record.id).await?);
                }
                self.tell(record).await?;
            }
            after = page.last().map(|record| record.id);
            if page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
                break;
            }
        }
        for (id, deleted) in known {
            mended += usize::from(self.mend(&deleted.tenant, id).await?);
        }
        Ok(mended)
    }

    /// Makes up for what whoever changed the webhook could not do. True if the entry had to be changed.
    async fn mend(&self, tenant: &TenantId, id: WebhookId) -> anyhow::Result<bool> {
        let Line { was_changed, .. } = self.bring_in_line(tenant, id).await?;
        if was_changed {
            self.see_to_waiting(tenant, id).await;
        }
        Ok(was_changed)
    }

    async fn bring_in_line(&self, tenant: &TenantId, id: WebhookId) -> anyhow::Result<Line> {
        let key = subject::config_key(tenant, id);
        let mut was_changed = false;
        for _ in 0..TRIES {
            // The entry first: if the truth changes after it was read, the entry's revision has moved on as well, or
            // whoever changed the truth will come after us.
            let entry = self.bucket.entry(key.as_str()).await.context("cannot read CONFIG")?;
            let wanted = self.store.webhook(tenant, id).await?.map(|record| record.config());
            let revision = entry.as_ref().map_or(0, |entry| entry.revision);
            let published = entry.filter(|entry| entry.operation == Operation::Put).map(|entry| entry.value);
            let written = match (published, wanted) {
                (None, None) => return Ok(Line { revision, was_changed }),
                (Some(_), None) => {
                    let purged = self.bucket.purge_expect_revision(key.as_str(), Some(revision)).await;
                    // At which revision it left its mark, only another look tells.
                    purged.map(|()| None).map_err(anyhow::Error::from)
                }
                (published, Some(wanted)) => {
                    let value = serde_json::to_vec(&wanted)?;
                    if published.is_some_and(|published| published == value) {
                        return Ok(Line { revision, was_changed });
                    }
                    let update = self.bucket.update(key.as_str(), value.into(), revision).await;
                    update.map(Some).map_err(anyhow::Error::from)
                }
            };
            match written {
                Ok(Some(revision)) => return Ok(Line { revision, was_changed: true }),
                Ok(None) => was_changed = true,
                Err(error) if error.to_string().contains("wrong last") => {}
                Err(error) => return Err(error).context("cannot write CONFIG"),
            }
        }
        bail!("others change the entry {key} all the time")
    }
}
