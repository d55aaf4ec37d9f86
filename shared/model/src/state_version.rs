//! Where a state of a resource stands among the other states of that resource.
//!
//! Invariant: this is the one place that decides which of two states is newer. Router, deliverer and api compare
//! versions; none of them compares times.

use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Orders states by the time of their event, in milliseconds and taken as no later than the time of storing; then by
/// the time of storing; then by their place in EVENTS.
///
/// An event's time cannot be trusted beyond the time of storing: a publisher whose clock runs ahead would make all that
/// follows late. It prints as `X-Shopery-Sequence`, 32 digits that compare as text. The place in EVENTS is no part of
/// that: it would tell every receiver how much the whole platform publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StateVersion {
    #[serde(rename = "at")]
    effective_ms: i64,
    #[serde(rename = "stored")]
    stored_ns: i64,
    #[serde(rename = "seq")]
    sequence: u64,
}

impl StateVersion {
    /// Of the event of this time that EVENTS stored then and there.
    pub fn of(time: OffsetDateTime, stored_at: OffsetDateTime, sequence: u64) -> Self {
        let effective_ms = time.min(stored_at).unix_timestamp_nanos().div_euclid(1_000_000);
        Self { effective_ms: clamp(effective_ms), stored_ns: clamp(stored_at.unix_timestamp_nanos()), sequence }
    }

    /// The time that the state counts as being of.
    pub fn at(self) -> OffsetDateTime {
        from_nanos(i128::from(self.effective_ms) * 1_000_000)
    }

    /// Whether it is of an earlier time than its storing: only then can a newer state lie before it in EVENTS.
    pub fn is_before_storing(self) -> bool {
        self.effective_ms < self.stored_ns.div_euclid(1_000_000)
    }

    /// When EVENTS stored its event.
    pub fn stored_at(self) -> OffsetDateTime {
        from_nanos(self.stored_ns.into())
    }

    /// Where EVENTS holds its event.
    pub fn sequence(self) -> u64 {
        self.sequence
    }
}

impl fmt::Display for StateVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:013}{:019}", self.effective_ms, self.stored_ns)
    }
}

/// Times before 1970 are as old as it: the number has no sign.
fn clamp(number: i128) -> i64 {
    i64::try_from(number.max(0)).unwrap_or(i64::MAX)
}

fn from_nanos(nanos: i128) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    const T: OffsetDateTime = datetime!(2026-11-24 10:00 UTC);

    fn version(time_ms: i64, stored_ms: i64, sequence: u64) -> StateVersion {
        let at = |ms| T + time::Duration::milliseconds(ms);
        StateVersion::of(at(time_ms), at(stored_ms), sequence)
    }

    #[test]
    fn states_are_ordered_by_time_but_none_is_from_the_future() {
        for (older, newer) in [
            (version(0, 10, 1), version(5, 20, 2)),
            // Late: stored after what it is older than.
            (version(0, 20, 2), version(5, 10, 1)),
            // The same time: by storing.
            (version(0, 10, 1), version(0, 20, 2)),
            // A clock that is 2 s ahead.
            (version(2000, 10, 1), version(20, 20, 2)),
            // Stored within the same nanosecond.
            (version(0, 10, 1), version(0, 10, 2)),
        ] {
            assert!(older < newer, "{older} {newer}");
            assert!(older.to_string() <= newer.to_string(), "{older} {newer}");
        }
    }

    #[test]
    fn it_tells_what_it_is_of() {
        let ahead = version(2000, 10, 7);
        assert_eq!(ahead.at(), T + time::Duration::milliseconds(10));
        assert_eq!((ahead.stored_at(), ahead.sequence()), (ahead.at(), 7));
        assert_eq!(ahead.to_string().len(), 32);
        let read: StateVersion = serde_json::from_str(&serde_json::to_string(&ahead).unwrap()).unwrap();
        assert_eq!(read, ahead);
        assert_eq!(StateVersion::of(datetime!(0001-01-01 0:00 UTC), T, 1).at(), OffsetDateTime::UNIX_EPOCH);
    }

    proptest! {
        #[test]
        fn the_number_never_contradicts_the_order(a in (0i64..5, 0i64..5, 0u64..4), b in (0i64..5, 0i64..5, 0u64..4)) {
            let [a, b] = [a, b].map(|(time, stored, sequence)| version(time, stored, sequence));
            if a < b {
                prop_assert!(a.to_string() <= b.to_string());
            }
        }
    }
}
