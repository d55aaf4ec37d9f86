//! Which lane a tenant's work takes: the tenant's allowance, and whether anybody else would notice.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use shopery_model::{Allowance, Credit, Lane, TenantId};
use shopery_runtime::Env;

use crate::Recent;

const MAX_TENANTS: usize = 100_000;
/// A tenant is here while its last event is no older.
const HERE: Duration = Duration::from_secs(2);

/// What each tenant may have ahead of others' bursts, as an operator sets it.
pub fn read_allowance(env: &mut Env) -> Option<Allowance> {
    let rate = env.number(
        "SHOPERY_TENANT_RATE",
        "200",
        1..=1_000_000,
        "Events (ingest) or jobs (router) a second and tenant that go ahead of others' bursts; what is beyond waits \
         while others have work",
    );
    let burst = env.number(
        "SHOPERY_TENANT_BURST",
        "400",
        1..=1_000_000,
        "So many of a tenant may come at once within its rate",
    );
    Some(Allowance { rate: rate? as f64, burst: burst? as f64 })
}

#[derive(Debug)]
pub struct Meter {
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
    pub fn new(allowance: Allowance) -> Self {
        Self { allowance, credits: Recent::new(MAX_TENANTS), present: Mutex::default(), began: Instant::now() }
    }

    /// The lane of work that costs so much. A tenant that is alone has all of the fast lane.
    pub fn lane(&self, tenant: &TenantId, cost: usize) -> Lane {
        let now = self.began.elapsed();
        let is_alone = self.present.lock().unwrap_or_else(PoisonError::into_inner).note(tenant, now);
        let lane = self.credits.update(tenant.clone(), |known| {
            let mut credit = known.copied().unwrap_or_else(|| Credit::new(self.allowance, now));
            (credit.spend(cost, self.allowance, now), Some(credit))
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
