//! What this router knows of the states of each resource: which is the newest, whether it changes often, and when it was
//! last deleted.
//!
//! The memory is of one partition, while this process has it, and bounded: it knows the last [`MAX_RESOURCES`] resources
//! that an event was routed of. It also knows since when it would know: of a resource that it does not, an event that is
//! from before that may be late, and EVENTS is looked at. The deliverer looks again at every attempt but a first one soon
//! after the event, so what is missed here is a first payload, not a promise.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shopery_model::StateVersion;
use shopery_queue::Recent;
use time::OffsetDateTime;

const MAX_RESOURCES: usize = 50_000;
/// A resource that has changed within this time may change again before its delivery is attempted.
const CHANGES_OFTEN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct LatestStates {
    /// By the resource's subject.
    known: Recent<String, Known>,
    began: Mutex<Option<Began>>,
}

/// Since when the two generations that are remembered know everything that was stored.
#[derive(Debug, Clone, Copy)]
struct Began {
    elder: OffsetDateTime,
    younger: OffsetDateTime,
    generation: u64,
    /// The latest time of storing that was seen. An event may be redelivered long after those that were stored behind it.
    newest: OffsetDateTime,
}

impl Began {
    fn at(at: OffsetDateTime) -> Self {
        Self { elder: at, younger: at, generation: 0, newest: at }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Known {
    newest: StateVersion,
    /// The last event in the order of EVENTS, and when it was stored.
    last_sequence: u64,
    last_stored_at: OffsetDateTime,
    deletion: Option<u64>,
}

/// What is known of a resource when an event of it is routed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Observed {
    /// A newer state lies before it in EVENTS, or may lie there.
    pub(crate) may_be_late: bool,
    /// The newest state that lies before it, if that is known to be newer.
    pub(crate) newer: Option<StateVersion>,
    /// Others have changed the resource just before, or may have, or already after.
    pub(crate) changes_often: bool,
    /// Where the last deletion before it lies.
    pub(crate) deletion: Option<u64>,
}

impl LatestStates {
    /// `last_before`: when the last event was stored that another router may have routed, if there is any.
    pub(crate) fn since(last_before: Option<OffsetDateTime>) -> Self {
        Self { known: Recent::new(MAX_RESOURCES), began: Mutex::new(last_before.map(Began::at)) }
    }

    pub(crate) fn observe(&self, subject: &str, this: StateVersion, is_deletion: bool) -> Observed {
        let (sequence, stored_at) = (this.sequence(), this.stored_at());
        self.known.update_in_generation(subject.to_owned(), |known, generation| {
            let began = self.began(stored_at, generation);
            // What was stored before that may be newer, and is not known.
            let is_from_before = this.is_before_storing() && this.at() < began;
            let own_deletion = is_deletion.then_some(sequence);
            let Some(known) = known else {
                let observed = Observed {
                    may_be_late: is_from_before,
                    newer: None,
                    changes_often: stored_at - began <= CHANGES_OFTEN,
                    deletion: None,
                };
                let known =
                    Known { newest: this, last_sequence: sequence, last_stored_at: stored_at, deletion: own_deletion };
                return (observed, Some(known));
            };
            let newer = Some(known.newest).filter(|newest| *newest > this);
            // Of an event that is routed again, the newest state may lie behind it. Whether a newer one lies before it is not
            // remembered.
            let may_be_late = is_from_before || newer.is_some();
            let newer = newer.filter(|newest| newest.sequence() < sequence);
            let observed = Observed {
                may_be_late,
                newer,
                changes_often: known.last_sequence > sequence
                    || (known.last_sequence < sequence && stored_at - known.last_stored_at <= CHANGES_OFTEN),
                deletion: known.deletion.filter(|deletion| *deletion < sequence),
            };
            let is_last = sequence > known.last_sequence;
            let next = Known {
                newest: known.newest.max(this),
                last_sequence: known.last_sequence.max(sequence),
                last_stored_at: if is_last { stored_at } else { known.last_stored_at },
                deletion: known.deletion.max(own_deletion),
            };
            (observed, (next != *known).then_some(next))
        })
    }

    /// Since when all that was routed here is known.
    fn began(&self, stored_at: OffsetDateTime, generation: u64) -> OffsetDateTime {
        let mut began = self.began.lock().unwrap_or_else(PoisonError::into_inner);
        let began = began.get_or_insert(Began::at(stored_at));
        began.newest = began.newest.max(stored_at);
        if began.generation != generation {
            *began = Began { elder: began.younger, younger: began.newest, generation, newest: began.newest };
        }
        began.elder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> OffsetDateTime {
        time::macros::datetime!(2026-11-24 10:00 UTC) + time::Duration::seconds(seconds)
    }

    fn version(time: i64, stored: i64, sequence: u64) -> StateVersion {
        StateVersion::of(at(time), at(stored), sequence)
    }

    /// Each row: seconds and places of the states of a resource as they are routed, and whether a newer one may lie before
    /// it.
    #[test]
    fn a_state_may_be_late_if_a_newer_one_is_known() {
        let rows: [&[(i64, u64, bool)]; _] = [
            &[(10, 1, false), (11, 2, false), (12, 3, false)],
            &[(10, 1, false), (10, 2, false), (9, 3, true)],
            &[(10, 1, false), (12, 2, false), (11, 3, true), (9, 4, true), (13, 5, false), (12, 6, true)],
            // Routed again.
            &[(10, 1, false), (12, 2, false), (12, 2, false), (11, 3, true), (11, 3, true)],
            &[(12, 1, false), (11, 2, true), (13, 3, false), (11, 2, true)],
            // Only the newest one is remembered, so another may lie before it.
            &[(10, 1, false), (12, 2, false), (10, 1, true)],
        ];
        for row in rows {
            let states = LatestStates::since(None);
            states.observe("first", version(0, 0, 0), false);
            for (seconds, sequence, is_late) in row {
                let version = version(*seconds, 100 + i64::try_from(*sequence).unwrap(), *sequence);
                assert_eq!(states.observe("a", version, false).may_be_late, *is_late, "{sequence} of {row:?}");
            }
            assert_eq!(states.observe("b", version(100, 100, 100), false), Observed::default());
        }
    }

    #[test]
    fn a_state_may_be_late_if_it_is_from_before_what_is_known() {
        let states = LatestStates::since(None);
        states.observe("first", version(100, 100, 1), false);
        for (name, time, stored, may_be_late) in [
            ("of the time of its storing", 101, 101, false),
            ("from before", 99, 101, true),
            ("from since", 100, 101, false),
            ("routed again, of the time of its storing", 98, 98, false),
            ("from before", 102, 102, false),
            ("from before", 99, 103, true),
        ] {
            let sequence = u64::try_from(stored).unwrap();
            let observed = states.observe(name, version(time, stored, sequence), false);
            assert_eq!(observed.may_be_late, may_be_late, "{name}");
        }
        // What is forgotten was routed before this.
        for number in 0..2 * u64::try_from(MAX_RESOURCES).unwrap() {
            states.observe(&number.to_string(), version(200, 200, number), false);
        }
        assert!(states.observe("from before the elder generation", version(199, 300, 3), false).may_be_late);
        assert!(!states.observe("from since then", version(200, 300, 4), false).may_be_late);
    }

    /// Another router has routed some of the events from before, and what it left is redelivered.
    #[test]
    fn a_state_may_be_late_if_it_is_from_before_the_partition_was_taken_over() {
        let states = LatestStates::since(Some(at(105)));
        states.observe("left", version(100, 100, 1), false);
        assert!(states.observe("a", version(103, 106, 7), false).may_be_late);
        assert!(!states.observe("b", version(105, 107, 8), false).may_be_late);
    }

    #[test]
    fn a_resource_changes_often_if_others_came_just_before_or_already_after() {
        let states = LatestStates::since(None);
        states.observe("first", version(-10, -10, 0), false);
        for (stored, sequence, often) in
            [(0, 1, false), (1, 2, true), (2, 3, true), (10, 4, false), (3, 3, true), (10, 4, false), (14, 5, true)]
        {
            let version = version(stored, stored, sequence);
            assert_eq!(states.observe("a", version, false).changes_often, often, "{sequence} at {stored}");
        }
        // Nobody knows what came just before the first.
        let states = LatestStates::since(None);
        for (name, stored, often) in [("a", 0, true), ("b", 5, true), ("c", 6, false)] {
            assert_eq!(states.observe(name, version(stored, stored, 1), false).changes_often, often, "{name}");
        }
    }

    #[test]
    fn the_last_deletion_before_an_event_is_known() {
        let states = LatestStates::since(None);
        for (sequence, is_deletion, deletion) in
            [(1, false, None), (2, true, None), (3, false, Some(2)), (4, true, Some(2)), (5, false, Some(4))]
        {
            assert_eq!(states.observe("a", version(0, 0, sequence), is_deletion).deletion, deletion, "{sequence}");
        }
    }
}
