//! Shares in EVENTS: before it gives up the oldest events of all tenants, the tenant that has most of it gives up its own.
//! So one that publishes little keeps its events for as long as they may be kept, whatever others publish.
//!
//! EVENTS counts by tenant, but does not say who the tenants are. So events are drawn from many places in it, and the
//! tenants that have most of those are counted. Drawing singly would be more exact, but the server reads a block of up to
//! 8 MiB for each place.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::stream::State;
use futures_util::{StreamExt, TryStreamExt, stream};
use shopery_model::TenantId;
use shopery_queue::{HeldEvent, Queue};
use tokio::time::Instant;

/// Places that are drawn: of a tenant that has a tenth of EVENTS, they miss all events once in a thousand times.
const PLACES: u32 = 64;
/// Events that are read at each.
const IN_A_ROW: usize = 16;
const AT_ONCE: usize = 4;
/// Tenants that are counted.
const LARGEST: usize = 8;
/// How long they are taken for the largest ones.
const DRAW_INTERVAL: Duration = Duration::from_secs(60);
/// In percent of EVENTS: nobody who has less gives up events for others.
const SHARE: u64 = 10;
/// Events that are given up within one check, which other work of the controller waits for.
const MAX_GIVEN_UP: u64 = 5000;

/// The tenants that have most, as far as is known.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    largest: Vec<Candidate>,
    drawn_at: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq)]
struct Candidate {
    tenant: TenantId,
    /// Of its events that were drawn.
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
            self.largest = largest(&draw(queue, events.first_sequence, events.last_sequence).await?);
            self.drawn_at = Some(Instant::now());
        }
        let mut most: Option<(u64, &Candidate)> = None;
        for candidate in &self.largest {
            let held = queue.count_events(&candidate.tenant).await? * candidate.size;
            if most.is_none_or(|(most, _)| held > most) {
                most = Some((held, candidate));
            }
        }
        let Some((_, candidate)) = most.filter(|(held, _)| *held > events.bytes / 100 * SHARE) else { return Ok(0) };
        let count = (bytes / candidate.size.max(1)).clamp(1, MAX_GIVEN_UP);
        let given_up = queue.give_up_events(&candidate.tenant, before, count as usize).await?;
        if given_up > 0 {
            let tenant = &candidate.tenant;
            tracing::warn!(%tenant, events = given_up, "a tenant that has much of EVENTS gave up its oldest events");
        }
        Ok(given_up)
    }
}

/// Draws events between two places of EVENTS, both included.
async fn draw(queue: &Queue, first: u64, last: u64) -> anyhow::Result<Vec<HeldEvent>> {
    let places = places(first, last);
    let drawn = stream::iter(places).map(|place| queue.events_from(place, IN_A_ROW)).buffer_unordered(AT_ONCE);
    drawn.try_concat().await
}

/// Places that lie evenly between two.
fn places(first: u64, last: u64) -> impl Iterator<Item = u64> {
    let span = last.saturating_sub(first) + 1;
    (0..PLACES.into()).map(move |number: u64| first + span * number / u64::from(PLACES))
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
        assert_eq!(places(7, 7).collect::<Vec<_>>(), vec![7; 64]);
        let places: Vec<_> = places(101, 740).collect();
        assert_eq!((places[0], places[1], places[63]), (101, 111, 731));
    }
}
