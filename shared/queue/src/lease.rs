//! Leadership by lease: of the replicas of a service, one at a time does what must be done once.
//!
//! The lease is a key of the bucket LEASES that expires unless its holder renews it. A holder that cannot renew it stops
//! before it expires for others, by the same clock: the time since the renewal was begun. What a leader writes is guarded by
//! compare-and-set all the same, so that two of them, for the time in which a clock lies, do nothing wrong.

use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream::kv::{CreateErrorKind, Store};
use async_nats::jetstream::{self, kv};
use shopery_runtime::Shutdown;
use tokio::time::Instant;

use crate::Link;
use crate::topology::LEASES;

/// A lease that nobody renews ends after this long.
const TTL: Duration = Duration::from_secs(5);
const RENEW_INTERVAL: Duration = Duration::from_secs(1);
/// A holder that has not renewed it for this long stops.
const GIVE_UP_AFTER: Duration = Duration::from_secs(4);
/// Delay between two attempts to take it.
const ACQUIRE_INTERVAL: Duration = Duration::from_millis(500);

/// The bucket LEASES.
pub(crate) fn bucket(replicas: usize) -> kv::Config {
    kv::Config { bucket: LEASES.to_owned(), history: 1, max_age: TTL, num_replicas: replicas, ..kv::Config::default() }
}

/// The bucket LEASES, whose entries end unless they are written again.
pub(crate) async fn open(jetstream: &jetstream::Context, replicas: usize) -> anyhow::Result<Store> {
    if let Ok(store) = jetstream.get_key_value(LEASES).await {
        return Ok(store);
    }
    jetstream.create_key_value(bucket(replicas)).await.context("cannot create the bucket LEASES; is JetStream enabled?")
}

/// A lease that is held.
#[derive(Debug)]
pub struct Lease {
    store: Store,
    name: &'static str,
    revision: u64,
    renewed_at: Instant,
}

impl Lease {
    /// Waits until the lease of this name is ours; `None` if the drain begins before. `waiting` is told whenever another
    /// replica has it.
    pub async fn acquire(link: &Link, name: &'static str, shutdown: &Shutdown, waiting: impl Fn()) -> Option<Self> {
        let mut said = String::new();
        loop {
            match Self::try_acquire(link, name).await {
                Ok(Some(lease)) => return Some(lease),
                Ok(None) => waiting(),
                Err(error) => {
                    let why = format!("{error:#}");
                    if why != said {
                        tracing::warn!(lease = name, "cannot take the lease; trying again: {why}");
                        said = why;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(ACQUIRE_INTERVAL) => {}
                () = shutdown.draining() => return None,
            }
        }
    }

    async fn try_acquire(link: &Link, name: &'static str) -> anyhow::Result<Option<Self>> {
        let store = open(&link.jetstream, link.limits.replicas).await?;
        let renewed_at = Instant::now();
        match store.create(name, link.client.new_inbox().into()).await {
            Ok(revision) => Ok(Some(Self { store, name, revision, renewed_at })),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error).context("cannot write to LEASES"),
        }
    }

    /// Renews the lease for as long as it is ours; returns when it is not, or may not be.
    pub async fn hold(&mut self) {
        loop {
            tokio::time::sleep(RENEW_INTERVAL).await;
            let began = Instant::now();
            let left = GIVE_UP_AFTER.saturating_sub(self.renewed_at.elapsed());
            let renewal = self.store.update(self.name, self.name.into(), self.revision);
            match tokio::time::timeout(left, renewal).await {
                Ok(Ok(revision)) => (self.revision, self.renewed_at) = (revision, began),
                Ok(Err(error)) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => return,
                _ if self.renewed_at.elapsed() >= GIVE_UP_AFTER => return,
                Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "cannot renew the lease; trying again"),
                Err(_) => {}
            }
        }
    }

    /// Gives it up, so that another replica need not wait for its end.
    pub async fn release(self) {
        let released = self.store.delete_expect_revision(self.name, Some(self.revision));
        if let Ok(Err(error)) = tokio::time::timeout(RENEW_INTERVAL, released).await {
            tracing::debug!(lease = self.name, %error, "the lease ends by itself");
        }
    }
}
