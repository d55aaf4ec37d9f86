//! Which lane an event takes: its tenant's allowance, and whether anybody else would notice.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use shopery_model::{Allowance, Credit, Lane, TenantId};

use crate::recent::Recent;

const MAX_TENANTS: usize = 100_000;
/// A tenant is here while its last event is no older.
const HERE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Meter {
    allowance: Allowance,
    credits: Recent<TenantId, Credit>,
    present: Mutex<Present>,
    began: Instant,
}

/// The last tenant, and when any other was here: all that it takes to know whether a tenant is alone.
#[derive(Debug, Default)]
struct Present {
    last: Option<(TenantId, Duration)>,
    another_at: Option<Duration>,
}

impl Meter {
    pub(crate) fn new(allowance: Allowance) -> Self {
        Self { allowance, credits: Recent::new(MAX_TENANTS), present: Mutex::default(), began: Instant::now() }
    }

    /// The lane of an event that causes so many jobs. A tenant that is alone has all of the fast lane.
    pub(crate) fn lane(&self, tenant: &TenantId, jobs: usize) -> Lane {
        let now = self.began.elapsed();
        let is_alone = self.present.lock().unwrap_or_else(PoisonError::into_inner).note(tenant, now);
        let lane = self.credits.update(tenant.clone(), |known| {
            let mut credit = known.copied().unwrap_or_else(|| Credit::new(self.allowance, now));
            (credit.spend(jobs, self.allowance, now), Some(credit))
        });
        if is_alone { Lane::Fast } else { lane }
    }
}

impl Present {
    /// Takes note of a tenant; says whether it is the only one here.
    fn note(&mut self, tenant: &TenantId, now: Duration) -> bool {
        match &mut self.last {
            Some((last, at)) if last == tenant => *at = now,
            last => {
                self.another_at = last.as_ref().map(|(_, at)| *at);
                *last = Some((tenant.clone(), now));
            }
        }
        self.another_at.is_none_or(|at| now.saturating_sub(at) > HERE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row: seconds, a tenant, whether it is alone.
    #[test]
    fn a_tenant_is_alone_until_another_comes_and_when_it_has_gone() {
        let mut present = Present::default();
        for (seconds, tenant, is_alone) in [
            (0, "a", true),
            (1, "a", true),
            (1, "b", false),
            (1, "a", false),
            (2, "a", false),
            (4, "a", true),
            (9, "b", true),
            (9, "c", false),
            (10, "b", false),
        ] {
            let alone = present.note(&tenant.parse().unwrap(), Duration::from_secs(seconds));
            assert_eq!(alone, is_alone, "{tenant} at {seconds}");
        }
    }

    #[test]
    fn beside_another_a_burst_takes_the_bulk_lane() {
        let meter = Meter::new(Allowance { rate: 1.0, burst: 10.0 });
        let (quiet, loud) = ("quiet".parse().unwrap(), "loud".parse().unwrap());
        let fast = |tenant| meter.lane(tenant, 1) == Lane::Fast;
        assert!((0..100).all(|_| fast(&loud)), "it is alone");
        assert!(fast(&quiet));
        assert!(!(0..100).any(|_| fast(&loud)));
        assert!(fast(&quiet));
    }
}
