//! What this router knows of the states of each resource: which is the newest, whether it changes often, and when it was
//! last deleted.
//!
//! The memory is this process's own and bounded: it knows the last [`MAX_RESOURCES`] resources that it has routed an
//! event of. What is late beyond that, or was routed by another replica, passes for the newest state. The deliverer looks
//! again at every attempt but a first one soon after the event, so what is missed here is a payload, not a promise.

use std::time::Duration;

use shopery_model::StateVersion;
use shopery_queue::Recent;
use time::OffsetDateTime;

const MAX_RESOURCES: usize = 100_000;
/// A resource that has changed within this time may change again before its delivery is attempted.
const CHANGES_OFTEN: Duration = Duration::from_secs(5);

/// By the resource's subject.
#[derive(Debug)]
pub(crate) struct LatestStates(Recent<String, Known>);

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
    /// The event is late: a newer state lies before it in EVENTS, at this place.
    pub(crate) newer: Option<u64>,
    /// Others have changed the resource just before, or already after.
    pub(crate) changes_often: bool,
    /// Where the last deletion before it lies.
    pub(crate) deletion: Option<u64>,
}

impl LatestStates {
    pub(crate) fn new() -> Self {
        Self(Recent::new(MAX_RESOURCES))
    }

    pub(crate) fn observe(&self, subject: &str, this: StateVersion, is_deletion: bool) -> Observed {
        let (sequence, stored_at) = (this.sequence(), this.stored_at());
        self.0.update(subject.to_owned(), |known| {
            let own_deletion = is_deletion.then_some(sequence);
            let Some(known) = known else {
                let known =
                    Known { newest: this, last_sequence: sequence, last_stored_at: stored_at, deletion: own_deletion };
                return (Observed::default(), Some(known));
            };
            let observed = Observed {
                // One that is routed again has the newer one behind it.
                newer: (known.newest > this && known.newest.sequence() < sequence).then(|| known.newest.sequence()),
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> OffsetDateTime {
        time::macros::datetime!(2026-11-24 10:00 UTC) + time::Duration::seconds(seconds)
    }

    /// Each row: seconds and places of the states of a resource as they are routed, each with the newer one before it.
    #[test]
    fn a_state_is_late_if_a_newer_one_lies_before_it() {
        let rows: [&[(i64, u64, Option<u64>)]; _] = [
            &[(10, 1, None), (11, 2, None), (12, 3, None)],
            &[(10, 1, None), (10, 2, None), (10, 1, None), (9, 3, Some(2))],
            &[(10, 1, None), (12, 2, None), (11, 3, Some(2)), (9, 4, Some(2)), (13, 5, None), (12, 6, Some(5))],
            // Routed again.
            &[(10, 1, None), (12, 2, None), (10, 1, None), (12, 2, None), (11, 3, Some(2)), (11, 3, Some(2))],
        ];
        for row in rows {
            let states = LatestStates::new();
            for (seconds, sequence, newer) in row {
                let version = StateVersion::of(at(*seconds), at(100 + i64::try_from(*sequence).unwrap()), *sequence);
                assert_eq!(states.observe("a", version, false).newer, *newer, "{sequence} of {row:?}");
            }
            assert_eq!(states.observe("b", StateVersion::of(at(0), at(0), 100), false), Observed::default());
        }
    }

    #[test]
    fn a_resource_changes_often_if_others_came_just_before_or_already_after() {
        let states = LatestStates::new();
        for (stored, sequence, often) in
            [(0, 1, false), (1, 2, true), (2, 3, true), (10, 4, false), (3, 3, true), (10, 4, false), (14, 5, true)]
        {
            let version = StateVersion::of(at(stored), at(stored), sequence);
            assert_eq!(states.observe("a", version, false).changes_often, often, "{sequence} at {stored}");
        }
    }

    #[test]
    fn the_last_deletion_before_an_event_is_known() {
        let states = LatestStates::new();
        for (sequence, is_deletion, deletion) in
            [(1, false, None), (2, true, None), (3, false, Some(2)), (4, true, Some(2)), (5, false, Some(4))]
        {
            let version = StateVersion::of(at(0), at(0), sequence);
            assert_eq!(states.observe("a", version, is_deletion).deletion, deletion, "{sequence}");
        }
    }
}
