//! Every tenant's webhooks, in memory: the CONFIG bucket, followed. The data plane asks nobody else.
//!
//! - Absence is not deletion. A bucket that was made anew is empty until the controller has filled it, and then marks it as
//!   complete. Until that mark is there, a process goes on with what it knows, and one that starts waits.
//! - A lost connection costs no snapshot: the changes go on from the last one that was applied. Only another bucket is read
//!   from its beginning.
//! - Whoever sends has the keys and decrypts the credentials of a webhook as its entry is read, once. A webhook whose
//!   credentials stay encrypted is still here, so what comes for it waits and is not lost.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::jetstream::kv::{Entry, Operation, Store, Watch};
use async_nats::jetstream::stream::Info;
use futures_util::StreamExt;
use prometheus_client::metrics::gauge::Gauge;
use shopery_model::{Keyring, TenantId, Unopened, Webhook, WebhookId};
use shopery_runtime::{Env, Runtime};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::connection::LEADER_TIMEOUT;
use crate::topology::CONFIG;
use crate::{Queue, subject};

/// The key by which the controller marks CONFIG as complete. A webhook's key has two tokens.
pub const COMPLETE: &str = "complete";

/// A snapshot that has sent nothing for this long while it owes us entries is begun anew.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often we compare with the bucket itself: whether it is another one, and whether its changes arrive here.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// When CONFIG could not be followed for this long after a connection was lost, events are routed by what is known.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Delay before following is begun anew after it failed.
const RESTART_DELAY: Duration = Duration::from_millis(200);
/// A process that could not compare for this long does not know whether it knows all changes, and is not ready.
const STALE_AFTER: time::Duration = time::Duration::seconds(30);

/// Clones are the same cache.
#[derive(Debug, Clone)]
pub struct WebhookCache {
    table: Arc<RwLock<Table>>,
    store: Store,
    applied: Arc<watch::Sender<Applied>>,
    /// The number of the connection since which no change was missed.
    current: Arc<watch::Sender<u64>>,
    connections: watch::Receiver<u64>,
    keys: Option<Keys>,
    use_of: UseOf,
}

/// Up to where CONFIG is in the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// The bucket, by the time at which it was made, in nanoseconds: revisions begin anew with another one.
    pub bucket: i128,
    pub revision: u64,
    /// Whether the bucket is marked as complete.
    pub is_complete: bool,
}

/// Whose webhooks these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UseOf {
    /// Those to route and deliver by: what the bucket lacks is kept until it is complete.
    DataPlane,
    /// What the bucket has, for whoever compares it with the database.
    Mirror,
}

/// What decrypts credentials, and how many it could not.
#[derive(Debug, Clone)]
struct Keys {
    keyring: Keyring,
    unopened: Gauge,
}

/// A tenant has few webhooks, so a scan of its own beats an index.
type Table = HashMap<TenantId, Vec<Arc<Webhook>>>;

/// What is known of a webhook.
#[derive(Debug, Clone)]
pub enum Lookup {
    Found(Arc<Webhook>),
    /// CONFIG has its tombstone.
    Deleted,
    /// CONFIG says nothing of it, or what this version cannot read. It may come, so what is for it waits.
    Unknown,
}

impl Lookup {
    pub fn found(self) -> Option<Arc<Webhook>> {
        match self {
            Self::Found(webhook) => Some(webhook),
            Self::Deleted | Self::Unknown => None,
        }
    }
}

/// The keys of whoever encrypts or decrypts credentials.
pub fn read_keyring(env: &mut Env) -> Option<Keyring> {
    env.required(
        "SHOPERY_ENCRYPTION_KEYS",
        "Keys of the secrets at rest: <id>:<base64 of 32 random bytes>, comma-separated. The first one seals, all open",
    )
}

impl WebhookCache {
    /// Loads the webhooks and follows their changes from then on. Returns when CONFIG is complete and all of it is here.
    /// Without keys the credentials stay encrypted; with keys that decrypt none of them, this fails.
    pub async fn follow(queue: &Queue, keyring: Option<&Keyring>, runtime: &Runtime) -> anyhow::Result<Self> {
        let keys = keyring.map(|keyring| Keys {
            keyring: keyring.clone(),
            unopened: runtime.metrics.register(
                "unopened_webhooks",
                "Webhooks whose credentials no key of this service opens; what comes for them is parked",
                Gauge::default(),
            ),
        });
        let (cache, seen) = Self::start(queue, keys, UseOf::DataPlane, runtime);
        let mut applied = cache.applied.subscribe();
        let loaded = applied.clone();
        runtime.health.check("webhooks", move || {
            if !loaded.borrow().is_complete {
                return Err("CONFIG is not complete: the controller has still to write all webhooks to it".to_owned());
            }
            let silence = OffsetDateTime::now_utc() - *seen.borrow();
            match silence > STALE_AFTER {
                true => Err(format!("CONFIG cannot be read since {} s", silence.whole_seconds())),
                false => Ok(()),
            }
        });
        tokio::select! {
            done = applied.wait_for(|applied| applied.is_complete) => drop(done?),
            () = runtime.shutdown.draining() => bail!("stopped while loading the webhooks"),
        }
        cache.check_keys()?;
        Ok(cache)
    }

    /// Follows what the bucket has, complete or not. Returns when it is here.
    pub async fn mirror(queue: &Queue, runtime: &Runtime) -> anyhow::Result<Self> {
        let (cache, _) = Self::start(queue, None, UseOf::Mirror, runtime);
        let mut applied = cache.applied.subscribe();
        tokio::select! {
            done = applied.wait_for(|applied| applied.bucket != 0) => drop(done?),
            () = runtime.shutdown.draining() => bail!("stopped while reading CONFIG"),
        }
        Ok(cache)
    }

    /// Begins to follow; the second value is when the bucket was last heard of.
    fn start(
        queue: &Queue,
        keys: Option<Keys>,
        use_of: UseOf,
        runtime: &Runtime,
    ) -> (Self, watch::Receiver<OffsetDateTime>) {
        let (heard, seen) = watch::channel(OffsetDateTime::now_utc());
        let (table, store) = (Arc::default(), queue.buckets.config.clone());
        let (applied, current, connections) = (Arc::default(), Arc::default(), queue.connections());
        let cache = Self { table, store, applied, current, connections, keys, use_of };
        let mut follower = Follower::new(cache.clone(), queue, heard);
        runtime.spawn("config-follower", async move { follower.run().await });
        (cache, seen)
    }

    /// Keys that decrypt nothing are the wrong ones: better not to start than to park everything.
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

    /// Those of the tenant's webhooks that are so.
    pub fn of_tenant(&self, tenant: &TenantId, is_so: impl Fn(&Webhook) -> bool) -> Vec<Arc<Webhook>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let webhooks = table.get(tenant).map(Vec::as_slice).unwrap_or_default();
        webhooks.iter().filter(|webhook| is_so(webhook)).cloned().collect()
    }

    /// One webhook. What is not in memory is asked for once: a job may overtake the news of its webhook.
    pub async fn get(&self, tenant: &TenantId, id: WebhookId) -> anyhow::Result<Lookup> {
        if let Some(webhook) = self.get_cached(tenant, id) {
            return Ok(Lookup::Found(webhook));
        }
        let entry = self.store.entry(subject::config_key(tenant, id)).await.context("cannot read CONFIG")?;
        let Some(entry) = entry else { return Ok(Lookup::Unknown) };
        if entry.operation != Operation::Put {
            return Ok(Lookup::Deleted);
        }
        let Ok(mut webhook) = serde_json::from_slice(&entry.value) else { return Ok(Lookup::Unknown) };
        // That it stays closed is said where its entry is followed.
        let _ = self.open(&mut webhook);
        Ok(Lookup::Found(Arc::new(webhook)))
    }

    /// Every webhook of every tenant.
    pub fn all(&self) -> Vec<Arc<Webhook>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).values().flatten().cloned().collect()
    }

    /// One webhook, if it is in memory.
    pub fn get_cached(&self, tenant: &TenantId, id: WebhookId) -> Option<Arc<Webhook>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.get(tenant)?.iter().find(|webhook| webhook.id == id).cloned()
    }

    /// Waits, after a connection was lost, until the changes of meanwhile are here: who changed a webhook while we were away did
    /// not wait for us, and what was published after that must find it.
    pub async fn wait_until_current(&self) {
        let connection = *self.connections.borrow();
        if *self.current.borrow() < connection {
            // Ends with the cache alone.
            let _ = self.current.subscribe().wait_for(|current| *current >= connection).await;
        }
    }

    /// Up to where CONFIG is here, and every change of that.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    fn open(&self, webhook: &mut Webhook) -> Result<(), Unopened> {
        self.keys.as_ref().map_or(Ok(()), |keys| webhook.open(&keys.keyring))
    }

    fn count_unopened(&self) {
        if let Some(keys) = &self.keys {
            let count = self.all().iter().filter(|webhook| webhook.credentials.is_none()).count();
            keys.unopened.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// What an entry says, for [`put`].
    fn read(&self, entry: &Entry) -> Option<Change> {
        let Some((tenant, id)) = subject::parse_config_key(&entry.key) else {
            tracing::error!(key = entry.key, "CONFIG has a key that is not ours; ignored");
            return None;
        };
        let webhook = match entry.operation {
            Operation::Delete | Operation::Purge => None,
            Operation::Put => match serde_json::from_slice::<Webhook>(&entry.value) {
                // The key decides whose a webhook is.
                Ok(mut webhook) if webhook.tenant == tenant && webhook.id == id => {
                    if let Err(why) = self.open(&mut webhook) {
                        tracing::error!(key = entry.key, %why, "a webhook cannot be opened; what comes for it is parked");
                    }
                    Some(Arc::new(webhook))
                }
                Ok(_) => {
                    tracing::error!(key = entry.key, "CONFIG has a webhook under another's key; ignored");
                    return None;
                }
                Err(error) => {
                    tracing::error!(key = entry.key, %error, "CONFIG has a malformed webhook; it stays as it was");
                    return None;
                }
            },
        };
        Some(Change { tenant, id, webhook })
    }
}

/// A webhook as it is now, or that it is gone.
#[derive(Debug, Clone)]
struct Change {
    tenant: TenantId,
    id: WebhookId,
    webhook: Option<Arc<Webhook>>,
}

fn put(table: &mut Table, Change { tenant, id, webhook }: Change) {
    let webhooks = table.entry(tenant).or_default();
    webhooks.retain(|known| known.id != id);
    webhooks.extend(webhook);
}

impl Queue {
    /// The stream of CONFIG as it is now. (The status of a key-value store tells what it was when the store was opened.)
    async fn config_bucket(&self) -> anyhow::Result<Info> {
        let stream = self.jetstream.get_stream(format!("KV_{CONFIG}")).await;
        Ok(stream.context("cannot look at CONFIG")?.cached_info().clone())
    }

    /// When CONFIG was made, as in [`Applied::bucket`].
    pub async fn config_created(&self) -> anyhow::Result<i128> {
        Ok(self.config_bucket().await?.created.unix_timestamp_nanos())
    }
}

/// Keeps a cache up to date.
struct Follower {
    cache: WebhookCache,
    queue: Queue,
    connections: watch::Receiver<u64>,
    /// When the bucket was last heard of.
    heard: watch::Sender<OffsetDateTime>,
    /// What a bucket has that is not complete yet. Once it is, this takes the place of all that was known before.
    incomplete: Option<Table>,
}

impl Follower {
    fn new(cache: WebhookCache, queue: &Queue, heard: watch::Sender<OffsetDateTime>) -> Self {
        Self { cache, queue: queue.clone(), connections: queue.connections(), heard, incomplete: None }
    }

    async fn run(&mut self) {
        let mut failing_since = None;
        loop {
            let Err(error) = self.follow().await else {
                failing_since = None;
                continue;
            };
            tracing::warn!("cannot follow CONFIG; trying again: {error:#}");
            if failing_since.get_or_insert_with(Instant::now).elapsed() > MAX_WAIT {
                self.cache.current.send_replace(*self.connections.borrow());
            }
            tokio::time::sleep(RESTART_DELAY).await;
        }
    }

    /// Follows the changes until following has to be begun anew: after a connection was lost (the client would notice that
    /// its consumer is gone seconds later), because there is another bucket, or because changes do not arrive.
    async fn follow(&mut self) -> anyhow::Result<()> {
        let connection = *self.connections.borrow_and_update();
        let info = self.look().await?;
        let bucket = info.created.unix_timestamp_nanos();
        let applied = *self.cache.applied.borrow();
        let mut entries = if applied.bucket == bucket && applied.revision <= info.state.last_sequence {
            let watch = self.cache.store.watch_from_revision(">", applied.revision + 1);
            tokio::time::timeout(LEADER_TIMEOUT, watch).await.context("CONFIG cannot be watched")??
        } else {
            self.load(bucket, info.state.messages).await?
        };
        let mut checks = tokio::time::interval_at(Instant::now() + CHECK_INTERVAL, CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut behind_at = None;
        loop {
            if self.cache.applied.borrow().revision >= info.state.last_sequence {
                self.cache.current.send_if_modified(|current| std::mem::replace(current, connection) != connection);
            }
            tokio::select! {
                // What has come by now is applied before we compare.
                biased;
                Ok(()) = self.connections.changed() => return Ok(()),
                entry = entries.next() => self.apply(&entry.context("the watch was closed")??),
                _ = checks.tick() => {
                    // However that may be: nobody waits for longer.
                    self.cache.current.send_replace(connection);
                    let info = self.look().await?;
                    let applied = *self.cache.applied.borrow();
                    if info.created.unix_timestamp_nanos() != applied.bucket || info.state.last_sequence < applied.revision {
                        tracing::info!("CONFIG was made anew");
                        return Ok(());
                    }
                    let is_behind = info.state.last_sequence > applied.revision;
                    if is_behind && behind_at == Some(applied.revision) {
                        bail!("its changes do not arrive");
                    }
                    behind_at = is_behind.then_some(applied.revision);
                }
            }
        }
    }

    /// The bucket's stream as it is now.
    async fn look(&self) -> anyhow::Result<Info> {
        let info = tokio::time::timeout(LEADER_TIMEOUT, self.queue.config_bucket());
        let info = info.await.context("NATS does not answer")??;
        self.heard.send_replace(OffsetDateTime::now_utc());
        Ok(info)
    }

    /// Reads a bucket from its beginning; `messages` are the entries that it has at least.
    async fn load(&mut self, bucket: i128, messages: u64) -> anyhow::Result<Watch> {
        let watch = self.cache.store.watch_with_history(">");
        let mut entries = tokio::time::timeout(LEADER_TIMEOUT, watch).await.context("CONFIG cannot be watched")??;
        let (mut table, mut changes, mut revision, mut is_complete, mut read) = (Table::new(), Vec::new(), 0, false, 0);
        while read < messages {
            let Ok(entry) = tokio::time::timeout(SNAPSHOT_TIMEOUT, entries.next()).await else {
                bail!("the snapshot stalled");
            };
            let entry = entry.context("the watch was closed")??;
            (read, revision) = (read + 1, entry.revision.max(revision));
            if entry.key == COMPLETE {
                is_complete = entry.operation == Operation::Put;
            } else if let Some(change) = self.cache.read(&entry) {
                changes.push(change.clone());
                put(&mut table, change);
            }
            if entry.delta == 0 && read < messages {
                // Seen right after a restart of the server. A table that lacks webhooks would route events to nobody.
                bail!("the snapshot ended after {read} of {messages} entries");
            }
        }
        if is_complete || self.cache.use_of == UseOf::Mirror {
            self.replace(table);
        } else {
            tracing::warn!(
                entries = read,
                "CONFIG is not complete; waiting for the controller to write all webhooks to it"
            );
            let mut known = self.cache.table.write().unwrap_or_else(PoisonError::into_inner);
            changes.into_iter().for_each(|change| put(&mut known, change));
            self.incomplete = Some(table);
        }
        self.cache.count_unopened();
        self.cache.applied.send_modify(|applied| {
            // What was complete once is good to go on with.
            let is_complete = is_complete || (applied.is_complete && self.cache.use_of == UseOf::DataPlane);
            *applied = Applied { bucket, revision, is_complete };
        });
        Ok(entries)
    }

    fn replace(&mut self, table: Table) {
        *self.cache.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        self.incomplete = None;
    }

    fn apply(&mut self, entry: &Entry) {
        self.heard.send_replace(OffsetDateTime::now_utc());
        let mut is_complete = false;
        let unopened = self.cache.keys.as_ref().map_or(0, |keys| keys.unopened.get());
        if entry.key == COMPLETE {
            is_complete = entry.operation == Operation::Put;
            if is_complete && let Some(table) = self.incomplete.take() {
                self.replace(table);
            }
        } else if let Some(change) = self.cache.read(entry) {
            if let Some(incomplete) = &mut self.incomplete {
                put(incomplete, change.clone());
            }
            let is_closed = change.webhook.as_ref().is_some_and(|webhook| webhook.credentials.is_none());
            put(&mut self.cache.table.write().unwrap_or_else(PoisonError::into_inner), change);
            if is_closed || unopened > 0 {
                self.cache.count_unopened();
            }
        }
        self.cache.applied.send_modify(|applied| {
            applied.revision = entry.revision;
            applied.is_complete |= is_complete;
        });
    }
}
