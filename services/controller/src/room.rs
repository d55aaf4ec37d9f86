//! Room in the streams: how full each is, as metrics, and that EVENTS gives up events that are routed before it refuses new
//! ones: first those of the tenant that has most ([`shares`](crate::shares)), then the oldest of all.
//!
//! EVENTS keeps events for retries, which send the latest state, for recoveries, and for `GET /company/events`. All of these
//! go on with what is left; a publisher that is refused does not. What is not routed yet is never given up.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream::stream::Stream;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use shopery_queue::{Queue, topology};
use shopery_runtime::{Runtime, Shutdown};
use tokio::time::Instant;

use crate::shares::Shares;

/// Interval between checks while there is much room everywhere, and while there is not.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(1));
/// Interval between looks for messages that were acknowledged and are still there.
const LEFTOVERS_INTERVAL: Duration = Duration::from_secs(15);
/// In percent.
const MUCH_ROOM: u64 = 50;
/// Once EVENTS is fuller than this, in percent, the tenant that has most gives up events.
const NEARLY_FULL: u64 = 85;
/// Once it is fuller than this, all tenants do, unless one of them has more than its share.
const FULL: u64 = 90;
/// Once it is fuller than this, they do in any case.
const NO_ROOM: u64 = 95;
/// Until it is as full as this.
const ENOUGH_ROOM: u64 = 80;

type ByStream = Family<[(&'static str, &'static str); 1], Gauge>;

#[derive(Debug, Clone)]
pub(crate) struct Room {
    bytes: ByStream,
    max_bytes: ByStream,
    messages: ByStream,
    given_up: Counter,
}

impl Room {
    pub(crate) fn new(runtime: &Runtime) -> Self {
        let of = &runtime.metrics;
        Self {
            bytes: of.register("stream_bytes", "Bytes that each stream holds", ByStream::default()),
            max_bytes: of.register(
                "stream_max_bytes",
                "Bytes that each stream may hold; 0: no limit",
                ByStream::default(),
            ),
            messages: of.register("stream_messages", "Messages that each stream holds", ByStream::default()),
            given_up: of.register(
                "events_given_up",
                "Routed events that EVENTS gave up before their time, to have room for new ones",
                Counter::default(),
            ),
        }
    }

    /// Runs until the drain begins.
    pub(crate) async fn run(&self, queue: &Queue, shutdown: &Shutdown) {
        let (mut interval, mut shares) = (INTERVALS.1, Shares::default());
        let (mut looked_at, mut floors) = (Instant::now(), HashMap::new());
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = shutdown.draining() => return,
            }
            interval = match self.check(queue, &mut shares).await {
                Ok(fullest) if fullest <= MUCH_ROOM => INTERVALS.0,
                Ok(_) => INTERVALS.1,
                Err(error) => {
                    tracing::warn!("cannot check the room in streams: {error:#}");
                    INTERVALS.1
                }
            };
            if looked_at.elapsed() > LEFTOVERS_INTERVAL {
                looked_at = Instant::now();
                self.remove_leftovers(queue, &mut floors).await;
            }
        }
    }

    /// `floors`: up to where each consumer had acknowledged at the last look.
    async fn remove_leftovers(&self, queue: &Queue, floors: &mut HashMap<&'static str, u64>) {
        for consumer in topology::Consumer::of_work_queues() {
            // Most of the time there is none, and nothing is asked.
            if self.messages.get_or_create(&[("stream", consumer.stream)]).get() == 0 {
                floors.remove(consumer.name);
                continue;
            }
            let before = floors.remove(consumer.name);
            match queue.remove_leftovers(consumer, before).await {
                Ok((floor, removed)) => {
                    floors.insert(consumer.name, floor);
                    if removed > 0 {
                        tracing::warn!(
                            consumer = consumer.name,
                            removed,
                            "messages that were acknowledged long ago are removed"
                        );
                    }
                }
                Err(error) => {
                    tracing::warn!(consumer = consumer.name, "cannot look for acknowledged messages: {error:#}");
                }
            }
        }
    }

    /// Returns how full the fullest stream is, in percent.
    async fn check(&self, queue: &Queue, shares: &mut Shares) -> anyhow::Result<u64> {
        let mut fullest = 0;
        for name in topology::STREAMS {
            let stream = queue.jetstream.get_stream(name).await.with_context(|| format!("cannot look at {name}"))?;
            let info = stream.cached_info();
            let label = [("stream", name)];
            let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            self.bytes.get_or_create(&label).set(gauge(info.state.bytes));
            self.max_bytes.get_or_create(&label).set(info.config.max_bytes.max(0));
            self.messages.get_or_create(&label).set(gauge(info.state.messages));
            let max = u64::try_from(info.config.max_bytes).ok().filter(|max| *max > 0);
            fullest = fullest.max(max.map_or(0, |max| info.state.bytes.saturating_mul(100) / max));
            if name == topology::EVENTS {
                self.given_up.inc_by(make_room(queue, &stream, shares).await?);
            }
        }
        Ok(fullest)
    }
}

/// Gives up events, of those that are routed alone, if EVENTS is too full. Returns how many.
async fn make_room(queue: &Queue, events: &Stream, shares: &mut Shares) -> anyhow::Result<u64> {
    let (info, state) = (events.cached_info(), &events.cached_info().state);
    let max = u64::try_from(info.config.max_bytes).ok().filter(|max| *max > 0);
    let Some(max) = max.filter(|max| state.bytes > max / 100 * NEARLY_FULL && state.messages > 0) else { return Ok(0) };
    // What has come since this state is kept: it may not be routed either.
    let first_unrouted = queue.first_unrouted().await?.unwrap_or(u64::MAX).min(state.last_sequence + 1);
    let excess = state.bytes - max / 100 * ENOUGH_ROOM;
    let given_up = shares.give_up(queue, state, excess, first_unrouted).await? as u64;
    if state.bytes <= max / 100 * if given_up > 0 { NO_ROOM } else { FULL } {
        return Ok(given_up);
    }
    // Events are taken to be of one size.
    let places = state.last_sequence + 1 - state.first_sequence;
    let share = excess as f64 / state.bytes as f64;
    let keep_from = first_unrouted.min(state.first_sequence + (places as f64 * share).ceil() as u64);
    if keep_from <= state.first_sequence {
        // Nothing of it is routed. Servers before 2.14.2 take a purge up to the first place for one of everything.
        return Ok(given_up);
    }
    let purged = events.purge().sequence(keep_from).await.context("cannot purge EVENTS")?.purged;
    if purged > 0 {
        tracing::warn!(events = purged, "EVENTS was full; the oldest routed events were given up");
    }
    Ok(given_up + purged)
}
