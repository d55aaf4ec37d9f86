//! Which lane a tenant's work takes.

use std::time::{Duration, Instant};

use shopery_model::{Allowance, Credit, Lane, TenantId, Way};
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

    /// The lane of work that costs so much.
    pub fn lane(&self, tenant: &TenantId, cost: usize) -> Lane {
        self.with_credit(tenant, |credit, now| credit.spend(cost, self.allowance, now))
    }

    /// The way of an event with so many jobs, as [`Credit::way`] has it.
    pub fn way(&self, tenant: &TenantId, jobs: usize, is_alone: bool, is_behind: bool) -> Way {
        self.with_credit(tenant, |credit, now| credit.way(jobs, is_alone, is_behind, self.allowance, now))
    }

    fn with_credit<T>(&self, tenant: &TenantId, spend: impl FnOnce(&mut Credit, Duration) -> T) -> T {
        let now = self.began.elapsed();
        self.credits.update(tenant.clone(), |known| {
            let mut credit = known.copied().unwrap_or_else(|| Credit::new(self.allowance, now));
            (spend(&mut credit, now), Some(credit))
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
        let fast = |tenant| meter.lane(tenant, 1) == Lane::Fast;
        // The last one may be paid with what a moment earns.
        assert!((10..=11).contains(&(0..100).filter(|_| fast(&loud)).count()));
        assert!(fast(&quiet));
    }
}
