//! When an endpoint gets work, and when it is left alone.
//!
//! Two decisions, both without I/O. A [`Gate`] is one deliverer's view of one endpoint: how many attempts may be under
//! way, how many jobs may wait for one. A [`Circuit`] is what all deliverers know of an endpoint that does not keep up:
//! its jobs are parked, and one of them probes and drains.
//!
//! Invariant: an endpoint that answers nothing holds a bounded share of a deliverer, whatever is queued for it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{DeliveryId, WebhookId};

/// Attempts under way to an endpoint that has not answered yet.
const FIRST_LIMIT: u32 = 16;
/// How long an endpoint that was silent is taken for one that is about to answer.
const GRACE: Duration = Duration::from_millis(250);
/// An endpoint keeps up while its last success is no older.
const FRESH: Duration = Duration::from_secs(1);
/// Jobs that may wait for an endpoint whatever it does.
const FEW: usize = 32;
/// As many jobs may wait for an endpoint as it is likely to take within this time.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Seconds between the successes of an endpoint that is as quick as we are.
const QUICK: f64 = 0.005;
/// Time after which a circuit whose probe or heartbeat is due counts as stale: a crash has lost its timer.
const STALE_AFTER: Duration = Duration::from_secs(60);
/// How much of what is known of an endpoint's pace a new success replaces.
const NEWS: f64 = 0.1;

/// One endpoint, as one deliverer sees it. Times are since some fixed moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    under_way: u32,
    /// Grows by one with each success, is halved by each failure: it finds what the endpoint can take.
    limit: u32,
    last_success: Option<Duration>,
    /// Since when something is under way without any success.
    silent_since: Option<Duration>,
    /// Seconds from one success to the next, on average, while there was work.
    interval: Option<f64>,
    /// The deliveries that have failed in a row; the same one twice says nothing new.
    failed: Vec<DeliveryId>,
}

/// What is to be done with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Attempt it now.
    Start,
    /// Attempt it when an attempt to this endpoint has ended.
    Wait,
    /// It would wait too long: it must not hold what others need.
    Park,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            under_way: 0,
            limit: FIRST_LIMIT,
            last_success: None,
            silent_since: None,
            interval: None,
            failed: Vec::new(),
        }
    }
}

impl Gate {
    /// `waiting` jobs wait for this endpoint already; the deliverer has `slots` free for attempts, and `room` for jobs
    /// that wait. No endpoint takes more than a quarter of the free slots, so there are always some left for the next.
    pub fn admit(&self, waiting: usize, slots: usize, room: usize, now: Duration) -> Admission {
        if waiting == 0 && self.may_start(slots) {
            return Admission::Start;
        }
        let bound = match self.interval {
            _ if !self.keeps_up(now) => FEW,
            // It is new: it may turn out to be quick.
            None => (room / 4).max(FEW),
            // What waits for it is gone in no time, so it holds nothing up.
            Some(interval) if interval < QUICK => usize::MAX,
            Some(interval) => ((MAX_WAIT.as_secs_f64() / interval) as usize).max(FEW),
        };
        if room > 0 && waiting < bound { Admission::Wait } else { Admission::Park }
    }

    pub fn may_start(&self, slots: usize) -> bool {
        let share = u32::try_from(slots.div_ceil(4)).unwrap_or(u32::MAX);
        self.under_way < self.limit.min(share)
    }

    pub fn start(&mut self, now: Duration) {
        if self.under_way == 0 {
            self.silent_since = Some(now);
        }
        self.under_way += 1;
    }

    /// An attempt has ended.
    pub fn finish(&mut self, delivery: DeliveryId, success: bool, now: Duration) {
        self.under_way = self.under_way.saturating_sub(1);
        if success {
            self.limit = self.limit.saturating_add(1);
            let took = now.saturating_sub(self.silent_since.unwrap_or(now)).as_secs_f64();
            let known = self.interval.unwrap_or(took);
            self.interval = Some(known + NEWS * (took - known));
            self.last_success = Some(now);
            self.silent_since = Some(now);
            self.failed.clear();
        } else {
            self.limit = (self.limit / 2).max(1);
            if !self.failed.contains(&delivery) && self.failed.len() < 64 {
                self.failed.push(delivery);
            }
        }
    }

    /// An attempt was not made after all.
    pub fn abandon(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Deliveries that have failed in a row.
    pub fn failures(&self) -> usize {
        self.failed.len()
    }

    /// Nothing is under way, so it may be forgotten: a new gate learns the same again.
    pub fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    fn keeps_up(&self, now: Duration) -> bool {
        let within = |since: Option<Duration>, bound| since.is_some_and(|since| now.saturating_sub(since) <= bound);
        within(self.last_success, FRESH) || within(self.silent_since, GRACE)
    }
}

/// An endpoint whose jobs are parked; all deliverers know it. A closed circuit is the absence of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Circuit {
    pub state: CircuitState,
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Probes that have failed since then.
    pub probes: u32,
    /// The deliverer that drains, and when it last said so.
    pub drainer: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub seen_at: OffsetDateTime,
    /// When the next probe is due, while it is open and nobody is at it.
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub probe_at: Option<OffsetDateTime>,
    /// What the endpoint did when it was found to fail; `None` if it only does not keep up, or an older deliverer wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<FailureReason>,
}

/// Why an endpoint's circuit is open. The name is text: a later release may know more of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureReason {
    /// The name of a [`Fault`](crate::Fault).
    pub reason: String,
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CircuitState {
    /// The endpoint fails: one probe at a time.
    Open,
    /// The endpoint works; what is parked is sent, oldest first.
    Draining,
}

impl Circuit {
    pub fn new(state: CircuitState, now: OffsetDateTime) -> Self {
        Self { state, since: now, probes: 0, drainer: None, seen_at: now, probe_at: None, error: None }
    }

    /// Whether it is open until a probe that a timer is set for.
    pub fn waits_for_probe(&self, now: OffsetDateTime) -> bool {
        self.state == CircuitState::Open && self.probe_at.is_some_and(|at| now < at)
    }

    /// Whether its probe, or the next heartbeat of its drainer, is overdue: a crash has lost its timer.
    pub fn is_stale(&self, now: OffsetDateTime) -> bool {
        now - self.probe_at.map_or(self.seen_at, |due| due.max(self.seen_at)) > STALE_AFTER
    }

    /// Whether another deliverer than `me` is at it: it has said so within `lease`.
    pub fn is_drained_by_another(&self, me: &str, now: OffsetDateTime, lease: Duration) -> bool {
        self.drainer.as_deref().is_some_and(|drainer| drainer != me) && now - self.seen_at < lease
    }
}

/// The pause before the next probe: doubled with each that failed, spread by a fifth to both sides.
pub fn probe_delay(probes: u32, id: WebhookId, first: Duration, longest: Duration) -> Duration {
    let planned = first.saturating_mul(1 << probes.min(20)).min(longest);
    planned.mul_f64(0.8 + 0.4 * id.fraction(probes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn delivery(event: u32) -> DeliveryId {
        let webhook = "wbh_01HA4XCG60CT4G3EWF4CKYM1MF".parse().unwrap();
        DeliveryId::of(&"t".parse().unwrap(), "orders", &event.to_string(), OffsetDateTime::UNIX_EPOCH, webhook)
    }

    #[test]
    fn a_silent_endpoint_gets_a_few_attempts_and_then_its_jobs_are_parked() {
        let mut gate = Gate::default();
        let (mut started, mut waiting, mut parked) = (0, 0, 0);
        for number in 0..5000 {
            match gate.admit(waiting, 512 - started, 2048 - waiting, MS * number / 10) {
                Admission::Start => {
                    gate.start(MS * number / 10);
                    started += 1;
                }
                Admission::Wait => waiting += 1,
                Admission::Park => parked += 1,
            }
        }
        assert_eq!(started, FIRST_LIMIT as usize);
        assert!(waiting < 2048 / 4 && parked > 4000, "{waiting} {parked}");
        // Once it has been silent for a while, hardly anything waits for it.
        assert_eq!(gate.admit(FEW, 400, 2000, GRACE + MS), Admission::Park);
    }

    #[test]
    fn an_endpoint_that_answers_gets_more_and_more() {
        let mut gate = Gate::default();
        for number in 0..1000 {
            assert!(gate.may_start(512));
            gate.start(MS * number);
            gate.finish(delivery(number), true, MS * number);
        }
        assert!(gate.limit > 1000);
        assert_eq!(gate.admit(1900, 0, 100, MS * 1001), Admission::Wait);
    }

    #[test]
    fn no_more_waits_for_a_slow_endpoint_than_it_takes_in_a_second() {
        let mut gate = Gate::default();
        for number in 0..100 {
            gate.start(MS * 10 * number);
            gate.finish(delivery(number), true, MS * 10 * (number + 1));
        }
        assert_eq!(gate.admit(90, 0, 2000, MS * 1001), Admission::Wait);
        assert_eq!(gate.admit(110, 0, 2000, MS * 1001), Admission::Park);
    }

    #[test]
    fn the_same_delivery_failing_again_says_nothing_new() {
        let mut gate = Gate::default();
        for _ in 0..9 {
            gate.start(MS);
            gate.finish(delivery(1), false, MS);
        }
        assert_eq!(gate.failures(), 1);
        gate.finish(delivery(2), false, MS);
        assert_eq!(gate.failures(), 2);
        gate.finish(delivery(3), true, MS);
        assert_eq!(gate.failures(), 0);
    }

    #[test]
    fn a_circuit_is_stale_when_what_is_due_does_not_come() {
        let now = time::macros::datetime!(2026-11-24 10:00 UTC);
        let seconds = |seconds: i64| now + time::Duration::seconds(seconds);
        for (seen_at, probe_at, is_stale) in [
            (seconds(-3), None, false),
            (seconds(-61), None, true),
            // It waits for a probe.
            (seconds(-200), Some(seconds(90)), false),
            (seconds(-200), Some(seconds(-59)), false),
            (seconds(-200), Some(seconds(-61)), true),
            // Somebody is at it.
            (seconds(-3), Some(seconds(-61)), false),
        ] {
            let circuit = Circuit { seen_at, probe_at, ..Circuit::new(CircuitState::Open, now) };
            assert_eq!(circuit.is_stale(now), is_stale, "{seen_at} {probe_at:?}");
        }
    }

    proptest! {
        #[test]
        fn however_many_silent_endpoints_there_are_one_more_can_start(endpoints in 1usize..200) {
            let (mut slots, mut room) = (512usize, 2048usize);
            for _ in 0..endpoints {
                let (mut gate, mut waiting) = (Gate::default(), 0);
                for _ in 0..3000 {
                    match gate.admit(waiting, slots, room, MS) {
                        Admission::Start => { gate.start(MS); slots -= 1; }
                        Admission::Wait => { waiting += 1; room -= 1; }
                        Admission::Park => break,
                    }
                }
            }
            // Sixteen each until the slots are scarce, then one each: about forty endpoints fill 512.
            prop_assert!(slots > 0 || endpoints > 30);
        }

        #[test]
        fn a_gate_never_counts_below_zero(steps in proptest::collection::vec((0u8..3, any::<bool>()), 0..200)) {
            let mut gate = Gate::default();
            for (index, (step, success)) in steps.into_iter().enumerate() {
                match step {
                    0 => gate.start(MS * index as u32),
                    1 => gate.finish(delivery(index as u32), success, MS * index as u32),
                    _ => gate.abandon(),
                }
                prop_assert!(gate.limit >= 1);
            }
        }

        #[test]
        fn probes_grow_rarer_within_bounds(probes in 0u32..100) {
            let id = WebhookId::generate();
            let (first, longest) = (Duration::from_secs(5), Duration::from_secs(300));
            let delay = probe_delay(probes, id, first, longest);
            prop_assert!(delay >= first.mul_f64(0.8) && delay <= longest.mul_f64(1.2));
        }
    }
}
