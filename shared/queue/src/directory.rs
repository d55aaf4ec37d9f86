//! Every tenant's webhooks, in memory: the CONFIG bucket, watched. The data plane asks nobody else.
//!
//! Whoever sends has the keys and opens the credentials of a webhook as its entry is read, once. Invariant: a webhook
//! whose credentials stay closed is still in the directory, so what comes for it waits and is not lost.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::jetstream::kv::{Entry, Operation, Store};
use futures_util::StreamExt;
use prometheus_client::metrics::gauge::Gauge;
use shopery_model::{EventType, Keyring, TenantId, Unopened, Webhook, WebhookId};
use shopery_runtime::{Env, Runtime};
use tokio::sync::watch;

use crate::{Queue, subject};

/// A watch that has said nothing for this long while it owes us entries is started anew.
const SNAPSHOT_STALL: Duration = Duration::from_secs(10);

/// Clones are the same directory.
#[derive(Debug, Clone)]
pub struct Directory {
    table: Arc<RwLock<Table>>,
    store: Store,
    /// Up to where CONFIG is in the table.
    revision: Arc<watch::Sender<u64>>,
    keys: Option<Keys>,
}

/// What opens credentials, and how many it could not open.
#[derive(Debug, Clone)]
struct Keys {
    keyring: Keyring,
    unopened: Gauge,
}

/// A tenant has few webhooks, so a scan of its own beats an index.
type Table = HashMap<TenantId, Vec<Arc<Webhook>>>;

/// The keys of whoever seals or opens credentials.
pub fn read_keyring(env: &mut Env) -> Option<Keyring> {
    env.required(
        "SHOPERY_ENCRYPTION_KEYS",
        "Keys of the secrets at rest: <id>:<base64 of 32 random bytes>, comma-separated. The first one seals, all open",
    )
}

impl Directory {
    /// Loads the webhooks and follows their changes from then on. Returns when they are all here. Without keys their
    /// credentials stay closed; with keys that open none of them, this fails.
    pub async fn follow(queue: &Queue, keyring: Option<&Keyring>, runtime: &Runtime) -> anyhow::Result<Self> {
        let keys = keyring.map(|keyring| Keys {
            keyring: keyring.clone(),
            unopened: runtime.metrics.register(
                "unopened_webhooks",
                "Webhooks whose credentials no key of this service opens; what comes for them is parked",
                Gauge::default(),
            ),
        });
        let directory =
            Self { table: Arc::default(), store: queue.buckets.config.clone(), revision: Arc::default(), keys };
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
        directory.check_keys()?;
        Ok(directory)
    }

    /// Keys that open nothing are the wrong ones: better not to start than to park everything.
    fn check_keys(&self) -> anyhow::Result<()> {
        let Some(keys) = &self.keys else { return Ok(()) };
        let all = self.all();
        let Some(closed) = all.iter().find(|webhook| webhook.credentials.is_none()) else { return Ok(()) };
        let why = Webhook::clone(closed).open(&keys.keyring).err().map(|why| why.to_string()).unwrap_or_default();
        let count = all.iter().filter(|webhook| webhook.credentials.is_none()).count();
        if count == all.len() {
            bail!("none of the {count} webhooks in CONFIG can be opened; of {}: {why}", closed.id);
        }
        tracing::error!(count, webhook = %closed.id, %why, "webhooks cannot be opened; what comes for them is parked");
        Ok(())
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
                let mut webhook = serde_json::from_slice(&value).context("a webhook in CONFIG is malformed")?;
                // The watch will say so.
                let _ = self.open(&mut webhook);
                Ok(Some(Arc::new(webhook)))
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
                let _ = self.apply(&mut snapshot, &entry);
                revision = entry.revision.max(revision);
                if entry.delta == 0 {
                    break;
                }
            }
        }
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
        self.count_unopened();
        self.revision.send_replace(revision);
        loaded.send_replace(true);
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            let opened = self.apply(&mut self.table.write().unwrap_or_else(PoisonError::into_inner), &entry);
            self.revision.send_replace(entry.revision);
            if let Err(why) = &opened {
                tracing::error!(key = entry.key, %why, "a webhook cannot be opened; what comes for it is parked");
            }
            if opened.is_err() || self.keys.as_ref().is_some_and(|keys| keys.unopened.get() > 0) {
                self.count_unopened();
            }
        }
        Ok(())
    }

    fn count_unopened(&self) {
        if let Some(keys) = &self.keys {
            let count = self.all().iter().filter(|webhook| webhook.credentials.is_none()).count();
            keys.unopened.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    fn open(&self, webhook: &mut Webhook) -> Result<(), Unopened> {
        self.keys.as_ref().map_or(Ok(()), |keys| webhook.open(&keys.keyring))
    }

    /// Puts an entry into the table. The error is that it stays closed there.
    fn apply(&self, table: &mut Table, entry: &Entry) -> Result<(), Unopened> {
        let Some((tenant, id)) = subject::parse_config_key(&entry.key) else {
            tracing::error!(key = entry.key, "CONFIG has a key that is not ours; ignored");
            return Ok(());
        };
        let mut opened = Ok(());
        let webhook = match entry.operation {
            Operation::Delete | Operation::Purge => None,
            Operation::Put => match serde_json::from_slice::<Webhook>(&entry.value) {
                // The key decides whose a webhook is.
                Ok(mut webhook) if webhook.tenant == tenant && webhook.id == id => {
                    opened = self.open(&mut webhook);
                    Some(Arc::new(webhook))
                }
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
        opened
    }
}
