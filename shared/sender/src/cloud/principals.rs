//! Who sends to a cloud: the platform, or a merchant with a key of its own.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use moka::sync::Cache;
use shopery_model::Fault;
use tokio::time::Instant;

use super::refusal::Refusal;
use super::renewal::{Fetches, Missing, Renewing, Source};
use crate::failure::SenderFault;

/// Merchants' principals that are remembered with what was fetched for them, and for how long after their last use.
const MAX_OWN: u64 = 10_000;
const IDLE: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PrincipalId {
    Platform,
    /// The hash of all that there is of a key. A name that its tenant has given it would do for another tenant's key too.
    Own([u8; 32]),
}

impl PrincipalId {
    pub(crate) fn of(parts: &[&str]) -> Self {
        let mut hash = Context::new(&SHA256);
        for part in parts {
            // With their lengths, "ab" and "c" are not "a" and "bc".
            hash.update(&part.len().to_be_bytes());
            hash.update(part.as_bytes());
        }
        let mut id = [0; 32];
        id.copy_from_slice(hash.finish().as_ref());
        Self::Own(id)
    }
}

/// A principal, with what it proves itself with.
pub(crate) struct Principal<S: Source> {
    pub(crate) id: PrincipalId,
    proof: Renewing<S>,
}

impl<S: Source<Error = Refusal>> Principal<S> {
    pub(crate) fn platform(source: S, fetches: Fetches) -> Self {
        Self { id: PrincipalId::Platform, proof: Renewing::new(source, fetches) }
    }

    /// What it proves itself with, by `deadline`.
    pub(crate) async fn proof(&self, deadline: Instant) -> Result<S::Value, Refusal> {
        self.proof.get(deadline).await.map_err(|missing| match (missing, self.id) {
            (Missing::Failed(refusal), _) => refusal,
            (Missing::Late, PrincipalId::Platform) => Refusal::ours(SenderFault::CloudCredentials),
            (Missing::Late, PrincipalId::Own(_)) => {
                Refusal::new(Fault::Timeout, "there were no keys for the credentials in time")
            }
        })
    }

    /// Has it renewed, as the cloud did not want it at `used`.
    pub(crate) fn refused(&self, used: Instant) {
        self.proof.refused(used);
    }

    pub(crate) fn source(&self) -> &S {
        self.proof.source()
    }
}

impl<S: Source> Clone for Principal<S> {
    fn clone(&self) -> Self {
        Self { id: self.id, proof: self.proof.clone() }
    }
}

impl<S: Source> PartialEq for Principal<S> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl<S: Source> Eq for Principal<S> {}

impl<S: Source> Hash for Principal<S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl<S: Source> fmt::Debug for Principal<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Principal").field(&self.id).finish()
    }
}

/// Those of merchants.
#[derive(Clone)]
pub(crate) struct OwnPrincipals<S: Source>(Cache<PrincipalId, Principal<S>>);

impl<S: Source<Error = Refusal>> OwnPrincipals<S> {
    pub(crate) fn new() -> Self {
        Self(Cache::builder().max_capacity(MAX_OWN).time_to_idle(IDLE).build())
    }

    /// The one with this id, which `source` is made for if it is new.
    pub(crate) fn get(&self, id: PrincipalId, source: impl FnOnce() -> (S, Fetches)) -> Principal<S> {
        self.0.get_with(id, || {
            let (source, fetches) = source();
            Principal { id, proof: Renewing::new(source, fetches) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_is_all_of_its_key() {
        let id = |parts: &[&str]| PrincipalId::of(parts);
        assert_eq!(id(&["a", "b"]), id(&["a", "b"]));
        for other in [&["a", "c"][..], &["a"], &["ab", ""], &["", "ab"], &["a", "b", ""]] {
            assert_ne!(id(&["a", "b"]), id(other), "{other:?}");
        }
    }
}
