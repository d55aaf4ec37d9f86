//! Room in the streams: how full each is, as metrics, and that EVENTS gives up the oldest events that are routed before it
//! refuses new ones.
//!
//! EVENTS keeps events for retries, which send the latest state, for recoveries, and for `GET /company/events`. All of these
//! go on with what is left; a publisher that is refused does not. What is not routed yet is never given up.

use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream::stream::Info;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use shopery_queue::{Queue, topology};
use shopery_runtime::{Runtime, Shutdown};

/// Interval between checks while there is much room everywhere, and while there is not.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(1));
/// In percent.
const MUCH_ROOM: u64 = 50;
/// Events are given up once EVENTS is fuller than the first of these, in percent, until it is as full as the second.
const FULL: u64 = 90;
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
        let mut interval = INTERVALS.1;
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = shutdown.draining() => return,
            }
            interval = match self.check(queue).await {
                Ok(fullest) if fullest <= MUCH_ROOM => INTERVALS.0,
                Ok(_) => INTERVALS.1,
                Err(error) => {
                    tracing::warn!("cannot check the room in streams: {error:#}");
                    INTERVALS.1
                }
            };
        }
    }

    /// Returns how full the fullest stream is, in percent.
    async fn check(&self, queue: &Queue) -> anyhow::Result<u64> {
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
            if name == topology::EVENTS
                && let Some(wanted) = first_to_keep(info)
            {
                // Of what is routed alone.
                let keep_from = wanted.min(queue.first_unrouted().await?.unwrap_or(wanted));
                if keep_from <= info.state.first_sequence {
                    // Nothing of it is routed. Servers before 2.14.2 take a purge up to the first place for one of everything.
                    continue;
                }
                let purged = stream.purge().sequence(keep_from).await.context("cannot purge EVENTS")?;
                if purged.purged > 0 {
                    self.given_up.inc_by(purged.purged);
                    tracing::warn!(events = purged.purged, "EVENTS was full; the oldest routed events were given up");
                }
            }
        }
        Ok(fullest)
    }
}

/// From which place on EVENTS is kept, if it is too full. Events are taken to be of one size.
fn first_to_keep(events: &Info) -> Option<u64> {
    let (state, max) = (&events.state, u64::try_from(events.config.max_bytes).ok().filter(|max| *max > 0)?);
    let (full, enough) = (max / 100 * FULL, max / 100 * ENOUGH_ROOM);
    if state.bytes <= full || state.messages == 0 {
        return None;
    }
    let places = state.last_sequence + 1 - state.first_sequence;
    let share = (state.bytes - enough) as f64 / state.bytes as f64;
    Some(state.first_sequence + (places as f64 * share).ceil() as u64)
}
