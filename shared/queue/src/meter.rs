//! Which lane a tenant's work takes.

use std::time::Instant;

use shopery_model::{Allowance, Credit, Lane, TenantId};
use shopery_runtime::Env;

use crate::Recent;

const MAX_TENANTS: usize = 100_000;

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
    began: Instant,
}

impl Meter {
    pub fn new(allowance: Allowance) -> Self {
        Self { allowance, credits: Recent::new(MAX_TENANTS), began: Instant::now() }
    }

    /// The lane of work that costs so much. What is beyond the rate may go `straight` into the bulk lane: then the tenant
    /// stays there while a job of this one is fresh.
    pub fn lane(&self, tenant: &TenantId, cost: usize, straight: bool) -> Lane {
        let now = self.began.elapsed();
        self.credits.update(tenant.clone(), |known| {
            let mut credit = known.copied().unwrap_or_else(|| Credit::new(self.allowance, now));
            let lane = credit.spend(cost, self.allowance, now);
            if lane == Lane::Bulk && straight {
                credit.bar();
            }
            (if credit.is_barred() { Lane::Bulk } else { lane }, Some(credit))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_beyond_the_allowance_takes_the_bulk_lane() {
        let meter = Meter::new(Allowance { rate: 1.0, burst: 10.0 });
        let (quiet, loud) = ("quiet".parse().unwrap(), "loud".parse().unwrap());
        let fast = |tenant| meter.lane(tenant, 1, true) == Lane::Fast;
        assert_eq!((0..100).filter(|_| fast(&loud)).count(), 10);
        assert!(fast(&quiet));
    }
}
