//! What PARKED holds, and in which order.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::bail;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures_util::TryStreamExt;
use shopery_model::Job;

use crate::ledger::Sheet;
use crate::payload;
use crate::stack::Stack;

/// Nothing more is parked when nothing has been for so long: longer than a first retry waits.
const SILENCE: Duration = Duration::from_secs(45);
const BATCH: usize = 1000;

/// Waits until so many jobs are parked.
pub async fn hold(stack: &mut Stack, count: usize) -> anyhow::Result<()> {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        stack.check_alive()?;
        let held = usize::try_from(stack.held("PARKED").await?)?;
        if held >= count {
            return Ok(());
        }
        if held > seen {
            (seen, since) = (held, Instant::now());
        } else if since.elapsed() > SILENCE {
            bail!("{held} of {count} jobs are parked");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The numbers of a sheet's events in the order in which their jobs lie there.
pub async fn order(stack: &Stack, sheet: &Sheet) -> anyhow::Result<Vec<usize>> {
    let config = pull::Config {
        ack_policy: AckPolicy::None,
        memory_storage: true,
        inactive_threshold: Duration::from_secs(60),
        ..pull::Config::default()
    };
    let reader = stack.admin.get_stream_no_info("PARKED").await?.create_consumer(config).await?;
    let mut order = vec![];
    loop {
        let batch = reader.fetch().max_messages(BATCH).messages().await?;
        let jobs: Vec<_> = batch.try_collect().await.map_err(|error| anyhow::anyhow!(error))?;
        if jobs.is_empty() {
            return Ok(order);
        }
        for message in jobs {
            let event = payload::parse_event_id(Job::decode(&message.payload)?.meta.event.as_bytes());
            order.extend(event.filter(|(of, _)| *of == sheet.id).map(|(_, number)| number));
        }
    }
}

/// How many have arrived although more than `unordered` later ones had come before them.
pub fn displaced(lay: &[usize], arrived: &[usize], unordered: usize) -> usize {
    let places: HashMap<_, _> = lay.iter().enumerate().map(|(place, number)| (*number, place)).collect();
    let mut furthest = 0;
    let is_late = |number: &&usize| {
        let Some(place) = places.get(*number) else { return true };
        furthest = furthest.max(*place);
        place + unordered < furthest
    };
    arrived.iter().filter(is_late).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrival_is_out_of_order_if_it_comes_late_by_more_than_is_under_way() {
        let lay: Vec<_> = (100..200).collect();
        assert_eq!(displaced(&lay, &lay, 0), 0);
        assert_eq!(displaced(&[1, 2, 3, 4], &[2, 1, 4, 3], 1), 0);
        assert_eq!(displaced(&[1, 2, 3, 4], &[3, 1, 2, 4], 1), 1);
        assert_eq!(displaced(&[1, 2], &[1, 2, 3], 9), 1);
    }
}
