//! Who gives up events when EVENTS is too full: those tenants that have most of it, each its oldest, until all that give up
//! have as much. So a tenant that publishes little keeps its events for as long as EVENTS keeps any, whatever others publish.
//!
//! EVENTS does not count by tenant, and its subjects are too many to be asked for. So some of its events are drawn, and
//! stand for all.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use futures_util::stream;
use shopery_model::TenantId;
use shopery_queue::{HeldEvent, Queue};

/// Events that are drawn: enough to tell a tenant's share to within a few percent.
const DRAWN: usize = 400;
/// Fewer say nothing.
const FEWEST: usize = 40;
/// Places that are looked at for them, since there may be no event any more.
const TRIES: usize = 8 * DRAWN;
const AT_ONCE: usize = 16;

/// Draws events between two places, both included.
pub(crate) async fn draw(queue: &Queue, first: u64, last: u64) -> anyhow::Result<Vec<HeldEvent>> {
    let places = places(first, last).take(TRIES);
    // Whoever took the next event behind an empty place would draw those behind long gaps most of all.
    let mut looks = stream::iter(places).map(|place| queue.held_at(place)).buffer_unordered(AT_ONCE);
    let mut drawn = Vec::with_capacity(DRAWN);
    while drawn.len() < DRAWN
        && let Some(held) = looks.next().await
    {
        drawn.extend(held?);
    }
    Ok(drawn)
}

/// Places that lie evenly between two, however many of them are taken: multiples of the golden ratio do.
fn places(first: u64, last: u64) -> impl Iterator<Item = u64> {
    let span = (last - first + 1) as f64;
    (1..).map(move |number| first + ((f64::from(number) * std::f64::consts::GOLDEN_RATIO).fract() * span) as u64)
}

/// From which place on each tenant that has too much keeps its events, so that this share of all bytes stays. Of the others
/// everything is kept; empty if the events that were drawn are too few to tell.
pub(crate) fn keep_from(drawn: Vec<HeldEvent>, share: f64) -> Vec<(TenantId, u64)> {
    if drawn.len() < FEWEST {
        return Vec::new();
    }
    let mut by_tenant: BTreeMap<TenantId, Vec<(u64, u64)>> = BTreeMap::new();
    for held in drawn {
        by_tenant.entry(held.tenant).or_default().push((held.sequence, held.bytes));
    }
    let sizes: Vec<u64> = by_tenant.values().map(|events| events.iter().map(|(_, bytes)| bytes).sum()).collect();
    let most = largest_part(&sizes, share);
    let mut kept = Vec::new();
    for ((tenant, mut events), size) in by_tenant.into_iter().zip(sizes) {
        if (size as f64) <= most {
            continue;
        }
        events.sort_unstable_by(|one, other| other.cmp(one));
        let mut sum = 0.0;
        let first = events.iter().take_while(|(_, bytes)| {
            sum += *bytes as f64;
            sum <= most
        });
        let next = events[0].0 + 1;
        let first = first.last().map_or(next, |(sequence, _)| *sequence);
        kept.push((tenant, first));
    }
    kept
}

/// What nobody may have more of, so that no more than this share of the whole is left.
fn largest_part(sizes: &[u64], share: f64) -> f64 {
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable();
    let mut left = sizes.iter().sum::<u64>() as f64 * share;
    for (place, size) in sizes.iter().enumerate() {
        let part = left / (sizes.len() - place) as f64;
        if *size as f64 > part {
            return part;
        }
        left -= *size as f64;
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_than_the_part_that_leaves_the_share() {
        for (sizes, share, part) in [
            (vec![100], 0.9, 90.0),
            (vec![50, 50], 0.8, 40.0),
            (vec![10, 90], 0.8, 70.0),
            (vec![10, 30, 60], 0.7, 30.0),
            (vec![10, 40, 50], 0.5, 20.0),
            (vec![10, 90], 1.0, f64::INFINITY),
            (vec![], 0.5, f64::INFINITY),
        ] {
            assert_eq!(largest_part(&sizes, share), part, "{sizes:?} {share}");
        }
    }

    fn held(tenant: &str, sequence: u64) -> HeldEvent {
        HeldEvent { tenant: tenant.parse().unwrap(), sequence, bytes: 1000 }
    }

    #[test]
    fn who_has_most_gives_up_its_oldest_events_and_the_others_keep_theirs() {
        let small = (1..=10).map(|sequence| held("small", sequence));
        let large = (11..=100).map(|sequence| held("large", sequence));
        let kept = keep_from(small.chain(large).collect(), 0.8);
        // 70 of its 90.
        assert_eq!(kept, [("large".parse().unwrap(), 31)]);
        let both = (1..=100).map(|sequence| held(if sequence % 2 == 0 { "a" } else { "b" }, sequence));
        let kept = keep_from(both.collect(), 0.5);
        assert_eq!(kept, [("a".parse().unwrap(), 52), ("b".parse().unwrap(), 51)]);
    }

    #[test]
    fn places_lie_evenly() {
        for (first, last) in [(1, 1), (100, 1_000_000)] {
            let places: Vec<_> = places(first, last).take(100).collect();
            assert!(places.iter().all(|place| (first..=last).contains(place)), "{places:?}");
            let early = places.iter().filter(|place| **place - first < (last - first) / 4).count();
            assert!(first == last || (20..=30).contains(&early), "{early}");
        }
    }

    #[test]
    fn too_few_events_say_nothing() {
        assert_eq!(keep_from((1..FEWEST as u64).map(|sequence| held("a", sequence)).collect(), 0.5), []);
    }
}
