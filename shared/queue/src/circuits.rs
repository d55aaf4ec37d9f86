//! The circuits that are not closed, known to every deliverer: the bucket CIRCUITS, watched.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream::kv::{Entry, Operation, Store};
use futures_util::StreamExt;
use shopery_model::{Circuit, CircuitState, TenantId, WebhookId};
use shopery_runtime::Runtime;

use crate::{Queue, subject};

/// Clones are the same circuits.
#[derive(Debug, Clone)]
pub struct Circuits {
    table: Arc<RwLock<HashMap<WebhookId, Known>>>,
    store: Store,
}

#[derive(Debug, Clone)]
struct Known {
    tenant: TenantId,
    circuit: Circuit,
    revision: u64,
}

impl Queue {
    /// The circuit of a webhook as it is now; `None` if it is closed.
    pub async fn circuit(&self, tenant: &TenantId, id: WebhookId) -> anyhow::Result<Option<Circuit>> {
        let circuits = Circuits { table: Arc::default(), store: self.buckets.circuits.clone() };
        Ok(circuits.read(tenant, id).await?.0)
    }
}

impl Circuits {
    /// Follows the changes from now on. A circuit that is not known yet costs an attempt, no more, so nobody waits.
    pub fn follow(queue: &Queue, runtime: &Runtime) -> Self {
        let circuits = Self { table: Arc::default(), store: queue.buckets.circuits.clone() };
        let follower = circuits.clone();
        let mut connections = queue.connections();
        runtime.spawn("circuits-follower", async move {
            loop {
                tokio::select! {
                    followed = follower.watch() => {
                        let error = followed.err().map(|error| format!("{error:#}")).unwrap_or_default();
                        tracing::warn!(error, "the watch of CIRCUITS ended; starting it anew");
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                    // The client would notice seconds later that its consumer is gone.
                    Ok(()) = connections.changed() => {}
                }
            }
        });
        circuits
    }

    /// Whether the webhook's jobs are parked.
    pub fn is_broken(&self, id: WebhookId) -> bool {
        self.table.read().unwrap_or_else(PoisonError::into_inner).contains_key(&id)
    }

    /// Circuits of endpoints that fail, as far as they are wanted; at most `limit`.
    pub fn open(
        &self,
        limit: usize,
        is_wanted: impl Fn(&WebhookId, &Circuit) -> bool,
    ) -> Vec<(TenantId, WebhookId, Circuit)> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let is_open = |circuit: &Circuit| circuit.state == CircuitState::Open;
        let open = table.iter().filter(|(id, known)| is_open(&known.circuit) && is_wanted(id, &known.circuit));
        open.take(limit).map(|(id, known)| (known.tenant.clone(), *id, known.circuit.clone())).collect()
    }

    /// The circuits whose timer a crash has lost.
    pub fn stale(&self) -> Vec<(TenantId, WebhookId)> {
        let now = crate::now();
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let stale = table.iter().filter(|(_, known)| known.circuit.is_stale(now));
        stale.map(|(id, known)| (known.tenant.clone(), *id)).collect()
    }

    /// The circuit as the bucket has it, and the revision to write it back with; 0 if there is none.
    pub async fn read(&self, tenant: &TenantId, id: WebhookId) -> anyhow::Result<(Option<Circuit>, u64)> {
        let key = subject::config_key(tenant, id);
        let Some(entry) = self.store.entry(key).await.context("cannot read CIRCUITS")? else { return Ok((None, 0)) };
        let circuit = match entry.operation {
            // A circuit that does not read is as good as none: it is written anew.
            Operation::Put => serde_json::from_slice(&entry.value).ok(),
            Operation::Delete | Operation::Purge => None,
        };
        Ok((circuit, entry.revision))
    }

    /// Writes a circuit if nobody else has since `revision`: the new revision, or `None` if somebody has.
    pub async fn write(
        &self,
        tenant: &TenantId,
        id: WebhookId,
        circuit: Circuit,
        revision: u64,
    ) -> anyhow::Result<Option<u64>> {
        let value = serde_json::to_vec(&circuit)?;
        match self.store.update(subject::config_key(tenant, id), value.into(), revision).await {
            Ok(revision) => {
                self.note(id, Some(Known { tenant: tenant.clone(), circuit, revision }), revision);
                Ok(Some(revision))
            }
            Err(error) if error.to_string().contains("wrong last") => Ok(None),
            Err(error) => Err(error).context("cannot write CIRCUITS"),
        }
    }

    /// Closes a circuit if nobody else has changed it since `revision`; false if somebody has.
    pub async fn close(&self, tenant: &TenantId, id: WebhookId, revision: u64) -> anyhow::Result<bool> {
        match self.store.purge_expect_revision(subject::config_key(tenant, id), Some(revision)).await {
            Ok(()) => {
                self.note(id, None, revision + 1);
                Ok(true)
            }
            Err(error) if error.to_string().contains("wrong last") => Ok(false),
            Err(error) => Err(error).context("cannot write CIRCUITS"),
        }
    }

    async fn watch(&self) -> anyhow::Result<()> {
        self.table.write().unwrap_or_else(PoisonError::into_inner).clear();
        let mut entries = self.store.watch_with_history(">").await?;
        while let Some(entry) = entries.next().await {
            self.apply(&entry?);
        }
        Ok(())
    }

    fn apply(&self, entry: &Entry) {
        let Some((tenant, id)) = subject::parse_config_key(&entry.key) else { return };
        let circuit = match entry.operation {
            Operation::Put => serde_json::from_slice(&entry.value).ok(),
            Operation::Delete | Operation::Purge => None,
        };
        let known = circuit.map(|circuit| Known { tenant, circuit, revision: entry.revision });
        self.note(id, known, entry.revision);
    }

    /// Whatever is older than what is known comes too late.
    fn note(&self, id: WebhookId, known: Option<Known>, revision: u64) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.get(&id).is_some_and(|old| old.revision > revision) {
            return;
        }
        match known {
            Some(known) => {
                tracing::debug!(webhook = %id, state = ?known.circuit.state, "a circuit is not closed");
                table.insert(id, known)
            }
            None => table.remove(&id),
        };
    }
}
