//! Shares in EVENTS: before it gives up the oldest events of all tenants, the tenant that has most of it gives up its own.
//! So one that publishes little keeps its events while others publish much, until EVENTS has no room at all.
//!
//! EVENTS counts by tenant, but does not say who the tenants are. So events are drawn from many places in it, and the
//! tenants that have most of those are counted.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::stream::State;
use futures_util::{StreamExt, TryStreamExt, stream};
use shopery_model::TenantId;
use shopery_queue::{HeldEvent, Queue};
use tokio::time::Instant;

/// Places that are drawn: of a tenant that has a tenth of EVENTS, they miss all events once in a thousand times.
const PLACES: u32 = 64;
/// Events that are read at each: the server has their block in memory then.
const IN_A_ROW: usize = 16;
const AT_ONCE: usize = 4;
/// Tenants that are counted.
const LARGEST: usize = 8;
/// Interval between draws.
const DRAW_INTERVAL: Duration = Duration::from_secs(60);
/// In percent of EVENTS: nobody who has less gives up events for others.
const SHARE: u64 = 10;
/// Events that are given up within one check of the room.
const MAX_GIVEN_UP: u64 = 5000;

/// The tenants that have most, as far as is known, and what they have.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    largest: Vec<Candidate>,
    drawn_at: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq)]
struct Candidate {
    tenant: TenantId,
    /// Of all its events; at first of those that were drawn.
    bytes: u64,
    /// Of one of its events, on average.
    size: u64,
}

impl Shares {
    /// Gives up the oldest events of the tenant that has most, about this number of bytes at most, and none from the
    /// place `before` on. Returns how many events; 0 if nobody has much more than others.
    pub(crate) async fn give_up(
        &mut self,
        queue: &Queue,
        events: &State,
        bytes: u64,
        before: u64,
    ) -> anyhow::Result<usize> {
        if self.drawn_at.is_none_or(|at| at.elapsed() > DRAW_INTERVAL) {
            self.drawn_at = Some(Instant::now());
            let mut largest = largest(&draw(queue, events).await?);
            for candidate in &mut largest {
                candidate.bytes = queue.count_events(&candidate.tenant).await? * candidate.size;
            }
            self.largest = largest;
        }
        let Some((place, bytes)) =
            excess(&self.largest, events.bytes / 100 * SHARE).map(|(place, excess)| (place, excess.min(bytes)))
        else {
            return Ok(0);
        };
        let candidate = &mut self.largest[place];
        let count = (bytes / candidate.size.max(1)).clamp(1, MAX_GIVEN_UP);
        let given_up = queue.give_up_events(&candidate.tenant, before, count as usize).await?;
        candidate.bytes = candidate.bytes.saturating_sub(given_up as u64 * candidate.size);
        if given_up > 0 {
            let tenant = &candidate.tenant;
            tracing::warn!(%tenant, events = given_up, "a tenant that has much of EVENTS gave up its oldest events");
        }
        Ok(given_up)
    }
}

/// Who has most, and how much more than both its share and whoever comes second. Of two that have the same, one gives up
/// something all the same.
fn excess(largest: &[Candidate], share: u64) -> Option<(usize, u64)> {
    let (place, most) = largest.iter().enumerate().max_by_key(|(_, candidate)| candidate.bytes)?;
    let others = largest.iter().enumerate().filter(|(other, _)| *other != place);
    let second = others.map(|(_, candidate)| candidate.bytes).max().unwrap_or_default();
    (most.bytes > share).then(|| (place, most.bytes - share.max(second)))
}

async fn draw(queue: &Queue, events: &State) -> anyhow::Result<Vec<HeldEvent>> {
    let (last, messages) = (events.last_sequence, events.messages);
    // A tenant that has given up events leaves a hole, in which the few of others would be drawn for many; behind it the
    // events lie close together.
    let dense = (last + 1).saturating_sub(messages).max(events.first_sequence);
    let places = places(events.first_sequence, last).chain(places(dense, last));
    let drawn = stream::iter(places).map(|place| queue.events_from(place, IN_A_ROW)).buffer_unordered(AT_ONCE);
    drawn.try_concat().await
}

/// Places that lie evenly between two, both included.
fn places(first: u64, last: u64) -> impl Iterator<Item = u64> {
    let span = last.saturating_sub(first) + 1;
    (0..u64::from(PLACES / 2)).map(move |number| first + span * number / u64::from(PLACES / 2))
}

/// The tenants that have most of what was drawn.
fn largest(drawn: &[HeldEvent]) -> Vec<Candidate> {
    let mut by_tenant: BTreeMap<&TenantId, (u64, u64)> = BTreeMap::new();
    for held in drawn {
        let (bytes, events) = by_tenant.entry(&held.tenant).or_default();
        *bytes += held.bytes;
        *events += 1;
    }
    let candidate = |(tenant, (bytes, events)): (&TenantId, (u64, u64))| Candidate {
        tenant: tenant.clone(),
        bytes,
        size: bytes / events,
    };
    let mut all: Vec<_> = by_tenant.into_iter().map(candidate).collect();
    all.sort_by_key(|candidate| std::cmp::Reverse(candidate.bytes));
    all.truncate(LARGEST);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_most_of_the_bytes_that_were_drawn_comes_first() {
        let held = |tenant: &str, bytes| HeldEvent { tenant: tenant.parse().unwrap(), bytes };
        let drawn = [held("many", 10), held("large", 70), held("many", 20), held("small", 5), held("many", 30)];
        let largest: Vec<_> =
            largest(&drawn).into_iter().map(|found| (found.tenant.to_string(), found.bytes, found.size)).collect();
        assert_eq!(largest, [("large".to_owned(), 70, 70), ("many".to_owned(), 60, 20), ("small".to_owned(), 5, 5)]);
        let many: Vec<_> = (0..100).map(|number| held(&format!("tnt_{number}"), number)).collect();
        assert_eq!(super::largest(&many).len(), LARGEST);
        assert_eq!(super::largest(&[]), []);
    }

    #[test]
    fn places_lie_evenly_and_within() {
        assert_eq!(places(7, 7).collect::<Vec<_>>(), vec![7; 32]);
        let places: Vec<_> = places(101, 420).collect();
        assert_eq!((places[0], places[1], places[31]), (101, 111, 411));
    }

    #[test]
    fn who_has_most_keeps_its_share_and_no_less_than_the_second() {
        let of = |bytes: &[u64]| -> Vec<Candidate> {
            bytes.iter().map(|bytes| Candidate { tenant: "t".parse().unwrap(), bytes: *bytes, size: 1 }).collect()
        };
        for (bytes, excess) in [
            (vec![], None),
            (vec![10], None),
            (vec![50], Some((0, 40))),
            (vec![5, 50, 30], Some((1, 20))),
            (vec![20, 20], Some((1, 0))),
        ] {
            assert_eq!(super::excess(&of(&bytes), 10), excess, "{bytes:?}");
        }
    }
}
