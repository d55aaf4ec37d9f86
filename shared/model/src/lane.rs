//! The two ways that work can take, and what decides between them.
//!
//! A tenant's events go through the fast lane at the tenant's rate ([`Credit`]). What is beyond it goes through the bulk
//! lane, which takes what others leave of the machine ([`Pace`]). So one tenant's burst delays itself.
//!
//! Invariant: whatever others do, a tenant gets its rate through the fast lane; but for a second after a burst that met
//! nobody else, which it may not overtake.

use std::fmt;
use std::time::Duration;

/// Deliverers take from the fast lane first, and always leave the bulk lane a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// What a tenant's events cause within its rate.
    Fast,
    /// The excess of a burst, an import, a recovery: it takes what the fast lane leaves.
    Bulk,
}

impl Lane {
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Bulk => "bulk",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a tenant's event goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Within the tenant's rate: its jobs take the fast lane.
    Fast,
    /// Beyond it, with nobody else here: its jobs take the bulk lane, where who comes next goes ahead of them.
    Straight,
    /// Beyond it: it is put off, so that nobody waits behind it while its jobs are made.
    PutOff,
}

/// An event with so many jobs is put off much sooner than they are made.
const DEAR: usize = 4;

/// What each tenant may send through the fast lane.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// In a second, in the long run.
    pub rate: f64,
    /// At once, after a pause.
    pub burst: f64,
}

/// How much of its allowance a tenant has left. Times are since some fixed moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Credit {
    left: f64,
    at: Duration,
    /// Until then nothing may go past what went [`Way::Straight`] ...
    not_fast_until: Duration,
    /// ... and nothing past what was put off.
    not_straight_until: Duration,
}

impl Credit {
    pub fn new(allowance: Allowance, now: Duration) -> Self {
        Self { left: allowance.burst, at: now, not_fast_until: Duration::ZERO, not_straight_until: Duration::ZERO }
    }

    /// The lane of work that costs so much. What is dearer than all that is left still passes if anything is: a tenant
    /// whose every event causes more jobs than its burst is slowed down, not locked out.
    pub fn spend(&mut self, cost: usize, allowance: Allowance, now: Duration) -> Lane {
        let gained = now.saturating_sub(self.at).as_secs_f64() * allowance.rate;
        self.left = (self.left + gained).min(allowance.burst);
        self.at = self.at.max(now);
        if self.left <= 0.0 {
            return Lane::Bulk;
        }
        self.left -= cost as f64;
        Lane::Fast
    }

    /// The way of an event with so many jobs. Alone: no other tenant is here; behind: others would wait while its jobs
    /// are made.
    ///
    /// A tenant that is alone keeps its order: while jobs may carry the state that they were made with, nothing of the
    /// tenant takes a faster way than what came before. Beside others, what is put off is overtaken, and has to carry the
    /// latest state.
    pub fn way(&mut self, jobs: usize, is_alone: bool, is_behind: bool, allowance: Allowance, now: Duration) -> Way {
        let lane = self.spend(jobs, allowance, now);
        if is_alone && lane == Lane::Bulk {
            self.not_fast_until = now + FRESH;
            if is_behind && jobs >= DEAR {
                self.not_straight_until = now + FRESH;
            }
        }
        if lane == Lane::Fast && now >= self.not_fast_until {
            Way::Fast
        } else if is_alone && now >= self.not_straight_until {
            Way::Straight
        } else {
            Way::PutOff
        }
    }
}

/// A job carries the state that it was made with while its event was stored no longer ago; then, the latest one.
pub const FRESH: Duration = Duration::from_secs(1);

/// The bulk lane's speed: it grows while the queue answers as quickly as it does at rest, and falls when it does not.
/// The answer's delay tells of the server, of the connection and of this process alike, whichever is short.
#[derive(Debug, Clone, PartialEq)]
pub struct Pace {
    per_second: f64,
    /// Seconds that an answer takes at rest.
    at_rest: Option<f64>,
}

/// Whatever the queue does, the bulk lane moves on.
const SLOWEST: f64 = 500.0;
const FASTEST: f64 = 100_000.0;
const FIRST: f64 = 1_000.0;
/// An answer that comes so many seconds later than at rest tells of a queue that others wait in.
const TOLERATED: f64 = 0.000_7;
const GROWTH: f64 = 1.02;
const FALL: f64 = 0.8;
/// How quickly it is forgotten that answers were once quicker.
const FORGETS: f64 = 1.000_1;

impl Default for Pace {
    fn default() -> Self {
        Self { per_second: FIRST, at_rest: None }
    }
}

impl Pace {
    /// The queue took so long to answer.
    pub fn note(&mut self, answer: Duration) {
        let took = answer.as_secs_f64();
        let at_rest = self.at_rest.map_or(took, |known| (known * FORGETS).min(took));
        self.at_rest = Some(at_rest);
        let change = if took > at_rest + TOLERATED { FALL } else { GROWTH };
        self.per_second = (self.per_second * change).clamp(SLOWEST, FASTEST);
    }

    /// How long so much work takes at this pace.
    pub fn time_for(&self, count: usize) -> Duration {
        Duration::from_secs_f64(count as f64 / self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALLOWANCE: Allowance = Allowance { rate: 200.0, burst: 400.0 };
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_beyond_the_allowance_goes_through_the_bulk_lane() {
        let mut credit = Credit::new(ALLOWANCE, Duration::ZERO);
        let lanes: Vec<_> = (0..1000).map(|_| credit.spend(1, ALLOWANCE, MS)).collect();
        assert_eq!(lanes.iter().filter(|lane| **lane == Lane::Fast).count(), 400);
        assert_eq!(credit.spend(1, ALLOWANCE, MS * 2), Lane::Fast, "it gains while it waits");
    }

    #[test]
    fn an_event_dearer_than_the_burst_passes_and_is_paid_for() {
        let mut credit = Credit::new(ALLOWANCE, Duration::ZERO);
        assert_eq!(credit.spend(1000, ALLOWANCE, MS), Lane::Fast);
        assert_eq!(credit.spend(1000, ALLOWANCE, MS * 2999), Lane::Bulk);
        assert_eq!(credit.spend(1000, ALLOWANCE, MS * 3011), Lane::Fast);
    }

    /// Each row: milliseconds, jobs, whether the tenant is alone and others would wait, and the way.
    #[test]
    fn a_lone_tenant_keeps_its_order_and_one_beside_others_its_rate() {
        let mut credit = Credit::new(ALLOWANCE, Duration::ZERO);
        for (now, jobs, is_alone, is_behind, way) in [
            (0, 500, true, false, Way::Fast),
            (1, 5, true, false, Way::Straight),
            (2, 5, true, true, Way::PutOff),
            (3, 1, true, false, Way::PutOff),
            // It has its rate again, and stays behind its burst all the same.
            (900, 1, true, false, Way::PutOff),
            (999, 1, false, false, Way::PutOff),
            (1002, 1, true, false, Way::Straight),
            (1003, 1, true, false, Way::Fast),
            (1003, 500, true, false, Way::Fast),
            (1004, 1, true, true, Way::Straight),
            (1005, 500, false, false, Way::PutOff),
            // After a second its rate goes ahead of what waits.
            (4000, 1, false, true, Way::Fast),
        ] {
            let found = credit.way(jobs, is_alone, is_behind, ALLOWANCE, MS * now);
            assert_eq!(found, way, "at {now}");
        }
    }

    #[test]
    fn the_pace_falls_when_answers_are_late_and_recovers() {
        let mut pace = Pace::default();
        (0..200).for_each(|_| pace.note(MS / 5));
        assert!(pace.time_for(1000) < MS * 100, "{pace:?}");
        (0..50).for_each(|_| pace.note(MS * 5));
        assert_eq!(pace.time_for(500), Duration::from_secs(1));
        (0..200).for_each(|_| pace.note(MS / 5));
        assert!(pace.time_for(1000) < MS * 300, "{pace:?}");
    }

    proptest! {
        #[test]
        fn a_tenant_that_keeps_its_rate_stays_in_the_fast_lane(pauses in proptest::collection::vec(5u32..50, 1..300)) {
            let (mut credit, mut now) = (Credit::new(ALLOWANCE, Duration::ZERO), Duration::ZERO);
            for pause in pauses {
                now += MS * pause;
                prop_assert_eq!(credit.spend(1, ALLOWANCE, now), Lane::Fast);
            }
        }

        #[test]
        fn nobody_gets_more_than_rate_and_burst(events in proptest::collection::vec((0u32..20, 1usize..30), 1..500)) {
            let (mut credit, mut now, mut passed) = (Credit::new(ALLOWANCE, Duration::ZERO), Duration::ZERO, 0.0);
            for (pause, cost) in events {
                now += MS * pause;
                if credit.spend(cost, ALLOWANCE, now) == Lane::Fast {
                    passed += cost as f64;
                }
            }
            prop_assert!(passed <= ALLOWANCE.burst + ALLOWANCE.rate * now.as_secs_f64() + 30.0);
        }

        #[test]
        fn the_pace_stays_within_bounds(answers in proptest::collection::vec(0u64..1_000_000, 0..500)) {
            let mut pace = Pace::default();
            for micros in answers {
                pace.note(Duration::from_micros(micros));
            }
            prop_assert!(pace.time_for(1000) >= Duration::from_millis(10) && pace.time_for(100) <= Duration::from_secs(1));
        }
    }
}
