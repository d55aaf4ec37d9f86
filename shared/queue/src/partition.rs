//! Partitions of the tenants. Each tenant belongs to one partition, so one router has all the state of a tenant.
//! [`Partitions`](crate::Partitions) decides which process owns which partition.

use std::fmt;

use shopery_model::{TenantId, stable_hash};

/// A fixed share of the tenants. The number is part of every subject of EVENTS, so the count never changes; it is the maximum
/// number of routers that work at the same time. Rejected: more partitions, because each costs idle pulls on two consumers, and
/// eight routers take more than one NATS cluster stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(u8);

const OF_TENANTS: u8 = 8;

impl Partition {
    /// All partitions, [`Self::NONE`] included.
    pub const COUNT: usize = OF_TENANTS as usize + 1;
    /// The events that a version without partitions has stored.
    pub const NONE: Self = Self(OF_TENANTS);

    pub fn of(tenant: &TenantId) -> Self {
        let number = (u64::from(stable_hash(tenant.as_str().as_bytes())) * u64::from(OF_TENANTS)) >> 32;
        Self(u8::try_from(number).unwrap_or_default())
    }

    pub fn all() -> impl Iterator<Item = Self> {
        (0..=OF_TENANTS).map(Self)
    }

    /// Less than [`Self::COUNT`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(crate) fn from_index(index: usize) -> Option<Self> {
        Self::all().nth(index)
    }
}

/// As it stands in subjects.
impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{ROUTER, ROUTER_DEFERRED};

    #[test]
    fn tenants_keep_their_partition_and_are_spread_evenly() {
        // EVENTS holds events under these subjects.
        for (tenant, partition) in TENANTS {
            assert_eq!(Partition::of(&tenant.parse().unwrap()), Partition(partition), "{tenant}");
        }
        let mut counts = [0; Partition::COUNT];
        for number in 0..8000 {
            counts[Partition::of(&format!("tnt_{number}").parse().unwrap()).index()] += 1;
        }
        assert!(counts[..8].iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        assert_eq!(counts[Partition::NONE.index()], 0);
    }

    const TENANTS: [(&str, u8); 3] = [("tnt_a", 4), ("tnt_b", 6), ("Zo\u{eb}. > *", 0)];

    #[test]
    fn each_partition_has_its_consumers() {
        for partition in Partition::all() {
            let (fresh, deferred) = (ROUTER[partition.index()], ROUTER_DEFERRED[partition.index()]);
            let tokens = if partition == Partition::NONE { String::new() } else { format!(".{partition}") };
            assert_eq!(fresh.filter, format!("events{tokens}.*.*.*"));
            assert_eq!(deferred.filter, format!("deferred{tokens}.*.*.*"));
            assert_eq!(Partition::from_index(partition.index()), Some(partition));
        }
        assert_eq!(Partition::from_index(Partition::COUNT), None);
    }
}
