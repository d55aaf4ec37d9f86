//! Batches in memory: so many in all, and of one tenant a part of them. A tenant whose batches wait for their turn
//! holds back its own next ones, not those of others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use shopery_model::TenantId;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// At 16 MiB each; further ones wait to be read.
const BATCHES: usize = 16;
const OF_A_TENANT: usize = 4;
/// Tenants that are remembered, beyond those that have a batch here or waiting.
const IDLE: usize = 1024;

#[derive(Debug)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    tenants: Mutex<HashMap<TenantId, Weak<Semaphore>>>,
}

/// Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _of_tenant: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Places {
    pub(crate) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(BATCHES)), tenants: Mutex::default() }
    }

    pub(crate) async fn take(&self, tenant: &TenantId) -> Result<Place, AcquireError> {
        let _of_tenant = self.of(tenant).acquire_owned().await?;
        Ok(Place { _of_tenant, _of_all: self.all.clone().acquire_owned().await? })
    }

    fn of(&self, tenant: &TenantId) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tenants.get(tenant).and_then(Weak::upgrade) {
            return known;
        }
        if tenants.len() > IDLE {
            tenants.retain(|_, places| places.strong_count() > 0);
        }
        let places = Arc::new(Semaphore::new(OF_A_TENANT));
        tenants.insert(tenant.clone(), Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_tenant_that_holds_its_places_holds_back_itself_alone() {
        let places = Places::new();
        let (loud, quiet) = ("loud".parse().unwrap(), "quiet".parse().unwrap());
        let mut held = Vec::new();
        for _ in 0..OF_A_TENANT {
            held.push(places.take(&loud).await.unwrap());
        }
        assert!(places.take(&loud).now_or_never().is_none());
        assert!(places.take(&quiet).now_or_never().is_some());
        held.pop();
        assert!(places.take(&loud).now_or_never().is_some());
    }

    #[tokio::test]
    async fn no_more_batches_are_here_than_there_are_places() {
        let places = Places::new();
        let mut held = Vec::new();
        for number in 0..BATCHES {
            held.push(places.take(&format!("t{number}").parse().unwrap()).await.unwrap());
        }
        assert!(places.take(&"late".parse().unwrap()).now_or_never().is_none());
    }
}
