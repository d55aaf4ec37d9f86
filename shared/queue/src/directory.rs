//! Every tenant's webhooks, in memory: the CONFIG bucket, watched. The data plane asks nobody else.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::jetstream::kv::{Entry, Operation, Store};
use futures_util::StreamExt;
use shopery_model::{EventType, TenantId, Webhook, WebhookId};
use shopery_runtime::Runtime;
use tokio::sync::watch;

use crate::{Queue, subject, topology};

/// A watch that has said nothing for this long while it owes us entries is started anew.
const SNAPSHOT_STALL: Duration = Duration::from_secs(10);

/// Clones are the same directory.
#[derive(Debug, Clone)]
pub struct Directory {
    table: Arc<RwLock<Table>>,
    store: Store,
    /// Up to where CONFIG is in the table.
    revision: Arc<watch::Sender<u64>>,
}

/// A tenant has few webhooks, so a scan of its own beats an index.
type Table = HashMap<TenantId, Vec<Arc<Webhook>>>;

impl Directory {
    /// Loads the webhooks and follows their changes from then on. Returns when they are all here.
    pub async fn follow(queue: &Queue, runtime: &Runtime) -> anyhow::Result<Self> {
        let store = queue.jetstream.get_key_value(topology::CONFIG).await.context("cannot open CONFIG")?;
        let directory = Self { table: Arc::default(), store, revision: Arc::default() };
        let (loaded, mut is_loaded) = watch::channel(false);
        let follower = directory.clone();
        let shutdown = runtime.shutdown.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    followed = follower.watch(&loaded) => {
                        let error = followed.err().map(|error| format!("{error:#}")).unwrap_or_default();
                        tracing::warn!(error, "the watch of CONFIG ended; starting it anew");
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                    () = shutdown.draining() => return,
                }
            }
        });
        let ready = is_loaded.clone();
        runtime.health.check("webhooks", move || {
            if *ready.borrow() { Ok(()) } else { Err("the webhooks are still being loaded".to_owned()) }
        });
        tokio::select! {
            done = is_loaded.wait_for(|loaded| *loaded) => drop(done?),
            () = runtime.shutdown.draining() => bail!("stopped while loading the webhooks"),
        }
        Ok(directory)
    }

    /// The tenant's webhooks that want an event of this type.
    pub fn wanting(&self, tenant: &TenantId, event_type: EventType) -> Vec<Arc<Webhook>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let webhooks = table.get(tenant).map(Vec::as_slice).unwrap_or_default();
        webhooks.iter().filter(|webhook| webhook.wants(event_type)).cloned().collect()
    }

    /// One webhook. What is not in memory is asked for once: a job may overtake the news of its webhook.
    pub async fn get(&self, tenant: &TenantId, id: WebhookId) -> anyhow::Result<Option<Arc<Webhook>>> {
        if let Some(webhook) = self.known(tenant, id) {
            return Ok(Some(webhook));
        }
        match self.store.get(subject::config_key(tenant, id)).await.context("cannot read CONFIG")? {
            Some(value) => {
                Ok(Some(Arc::new(serde_json::from_slice(&value).context("a webhook in CONFIG is malformed")?)))
            }
            None => Ok(None),
        }
    }

    /// Every webhook of every tenant.
    pub fn all(&self) -> Vec<Arc<Webhook>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).values().flatten().cloned().collect()
    }

    /// One webhook, if it is in memory.
    pub fn known(&self, tenant: &TenantId, id: WebhookId) -> Option<Arc<Webhook>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.get(tenant)?.iter().find(|webhook| webhook.id == id).cloned()
    }

    pub(crate) fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Reads a snapshot, puts it in place whole, and applies the changes that follow until the watch breaks.
    async fn watch(&self, loaded: &watch::Sender<bool>) -> anyhow::Result<()> {
        let is_empty = self.store.status().await?.values() == 0;
        let mut entries = self.store.watch_with_history(">").await?;
        let (mut snapshot, mut revision) = (Table::new(), 0);
        if !is_empty {
            loop {
                let Ok(entry) = tokio::time::timeout(SNAPSHOT_STALL, entries.next()).await else {
                    bail!("the snapshot stalled");
                };
                let entry = entry.context("the watch was closed")??;
                apply(&mut snapshot, &entry);
                revision = entry.revision.max(revision);
                if entry.delta == 0 {
                    break;
                }
            }
        }
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
        self.revision.send_replace(revision);
        loaded.send_replace(true);
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            apply(&mut self.table.write().unwrap_or_else(PoisonError::into_inner), &entry);
            self.revision.send_replace(entry.revision);
        }
        Ok(())
    }
}

fn apply(table: &mut Table, entry: &Entry) {
    let Some((tenant, id)) = subject::parse_config_key(&entry.key) else {
        tracing::error!(key = entry.key, "CONFIG has a key that is not ours; ignored");
        return;
    };
    let webhook = match entry.operation {
        Operation::Delete | Operation::Purge => None,
        Operation::Put => match serde_json::from_slice::<Webhook>(&entry.value) {
            // The key decides whose a webhook is.
            Ok(webhook) if webhook.tenant == tenant && webhook.id == id => Some(Arc::new(webhook)),
            Ok(_) => {
                tracing::error!(key = entry.key, "CONFIG has a webhook under another's key; ignored");
                None
            }
            Err(error) => {
                tracing::error!(key = entry.key, %error, "CONFIG has a malformed webhook; ignored");
                None
            }
        },
    };
    let webhooks = table.entry(tenant).or_default();
    webhooks.retain(|known| known.id != id);
    webhooks.extend(webhook);
}
