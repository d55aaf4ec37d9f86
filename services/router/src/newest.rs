//! Events that arrive out of order: the time of an event says which of two states of a resource is newer.
//!
//! The memory is this process's own and bounded: it knows the last [`MAX_RESOURCES`] resources that it has routed an
//! event of. What is late beyond that, or was routed by another replica, passes for the newest state.

use shopery_queue::Recent;
use time::OffsetDateTime;

const MAX_RESOURCES: usize = 100_000;

/// The newest state of each resource, by the resource's subject.
#[derive(Debug)]
pub(crate) struct Newest(Recent<String, Place>);

/// A state: its time, and where EVENTS has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Place {
    pub time: OffsetDateTime,
    pub sequence: u64,
}

impl Newest {
    pub(crate) fn new() -> Self {
        Self(Recent::new(MAX_RESOURCES))
    }

    /// Takes note of a state. If it is late, that is, a newer one lies before it in EVENTS, returns where.
    pub(crate) fn note(&self, subject: &str, this: Place) -> Option<u64> {
        self.0.update(subject.to_owned(), |known| match known {
            // One that is routed again has the newer one behind it.
            Some(known) if known.time > this.time => ((known.sequence < this.sequence).then_some(known.sequence), None),
            Some(known) if known.time == this.time && known.sequence >= this.sequence => (None, None),
            _ => (None, Some(this)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let newest = Newest::new();
            for (seconds, sequence, newer) in row {
                let time = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(*seconds);
                assert_eq!(newest.note("a", Place { time, sequence: *sequence }), *newer, "{sequence} of {row:?}");
            }
            assert_eq!(newest.note("b", Place { time: OffsetDateTime::UNIX_EPOCH, sequence: 100 }), None);
        }
    }
}
