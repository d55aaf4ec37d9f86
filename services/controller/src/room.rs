//! Room in the streams: how full each is, as metrics, and that EVENTS gives up events that are routed before it refuses new
//! ones; whose, [`shares`] says.
//!
//! EVENTS keeps events for retries, which send the latest state, for recoveries, and for `GET /company/events`. All of these
//! go on with what is left; a publisher that is refused does not. What is not routed yet is never given up.

use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream::stream::{Info, Stream};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use shopery_queue::{Queue, subject, topology};
use shopery_runtime::{Runtime, Shutdown};

use crate::shares;

const INTERVAL: Duration = Duration::from_secs(1);
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
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = shutdown.draining() => return,
            }
            if let Err(error) = self.look(queue).await {
                tracing::warn!("cannot look after the room in streams: {error:#}");
            }
        }
    }

    async fn look(&self, queue: &Queue) -> anyhow::Result<()> {
        for name in topology::STREAMS {
            let stream = queue.jetstream.get_stream(name).await.with_context(|| format!("cannot look at {name}"))?;
            let info = stream.cached_info();
            let label = [("stream", name)];
            let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            self.bytes.get_or_create(&label).set(gauge(info.state.bytes));
            self.max_bytes.get_or_create(&label).set(info.config.max_bytes.max(0));
            self.messages.get_or_create(&label).set(gauge(info.state.messages));
            if name == topology::EVENTS
                && let Some(too_full) = TooFull::of(info)
            {
                let given_up = make_room(queue, &stream, &too_full).await?;
                if given_up > 0 {
                    self.given_up.inc_by(given_up);
                    tracing::warn!(events = given_up, "EVENTS was full; routed events were given up");
                }
            }
        }
        Ok(())
    }
}

/// Gives up routed events; returns how many.
async fn make_room(queue: &Queue, events: &Stream, too_full: &TooFull) -> anyhow::Result<u64> {
    let first_unrouted = queue.first_unrouted().await?.unwrap_or(u64::MAX);
    let mut given_up = 0;
    let drawn = shares::draw(queue, too_full.first, too_full.last).await?;
    for (tenant, keep_from) in shares::keep_from(drawn, too_full.share_to_keep) {
        let purge = events.purge().filter(subject::events(&tenant, None)).sequence(keep_from.min(first_unrouted));
        given_up += purge.await.context("cannot purge EVENTS")?.purged;
    }
    if given_up == 0 {
        // What is routed of those who have most is gone already, or is on subjects of before partitions.
        let purge = events.purge().sequence(too_full.middle().min(first_unrouted));
        given_up = purge.await.context("cannot purge EVENTS")?.purged;
    }
    Ok(given_up)
}

/// EVENTS, if events are to be given up.
#[derive(Debug, PartialEq)]
struct TooFull {
    first: u64,
    last: u64,
    share_to_keep: f64,
}

impl TooFull {
    fn of(events: &Info) -> Option<Self> {
        let (state, max) = (&events.state, u64::try_from(events.config.max_bytes).ok().filter(|max| *max > 0)?);
        let (full, enough) = (max / 100 * FULL, max / 100 * ENOUGH_ROOM);
        let is_too_full = state.bytes > full && state.messages > 0;
        let share_to_keep = enough as f64 / state.bytes as f64;
        is_too_full.then_some(Self { first: state.first_sequence, last: state.last_sequence, share_to_keep })
    }

    /// From where on all events are the share to keep, if all are of one size.
    fn middle(&self) -> u64 {
        let places = (self.last + 1 - self.first) as f64;
        self.first + (places * (1.0 - self.share_to_keep)).ceil() as u64
    }
}
