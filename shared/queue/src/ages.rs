//! How long the oldest message of a queue has waited: the figure that grows when something stands still.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::consumer;
use async_nats::jetstream::context::{ConsumerInfoError, ConsumerInfoErrorKind};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use prometheus_client::metrics::gauge::Gauge;
use shopery_model::TenantId;
use shopery_runtime::Shutdown;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::topology::{self, Consumer};
use crate::{Parked, Partition, Queue};

/// How often ages are looked at: two small requests for each.
const INTERVAL: Duration = Duration::from_secs(10);

/// In seconds.
pub type Age = Gauge<f64, AtomicU64>;

/// What may wait.
#[derive(Debug, Clone, Copy)]
pub enum Waiting {
    /// Messages that consumers have not acknowledged.
    At(&'static [Consumer]),
    Parked,
}

/// Keeps gauges true until the drain begins. While NATS does not answer they stay as they are.
pub async fn watch_ages(queue: &Queue, gauges: &[(Waiting, Age)], shutdown: &Shutdown) {
    tokio::select! {
        () = watch(queue, gauges) => {}
        () = shutdown.draining() => {}
    }
}

async fn watch(queue: &Queue, gauges: &[(Waiting, Age)]) {
    loop {
        for (waiting, gauge) in gauges {
            match waiting.age(queue).await {
                Ok(age) => drop(gauge.set(age.as_secs_f64())),
                Err(error) => tracing::debug!(?waiting, "the age of the oldest message is not known: {error:#}"),
            };
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

impl Waiting {
    /// Zero if nothing waits.
    async fn age(self, queue: &Queue) -> anyhow::Result<Duration> {
        let since = match self {
            Self::At(consumers) => {
                let mut oldest = None;
                for consumer in consumers {
                    oldest = oldest.into_iter().chain(consumer.oldest(queue).await?).min();
                }
                oldest
            }
            Self::Parked => Parked::oldest_of_all(queue).await?,
        };
        let age = since.map(|since| crate::now() - since);
        // The clocks of two machines may differ.
        Ok(age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default())
    }
}

impl Queue {
    /// Up to which place of its stream a consumer has acknowledged all: none of it comes again.
    pub async fn acknowledged(&self, consumer: Consumer) -> anyhow::Result<u64> {
        let is_missing = |error: &ConsumerInfoError| error.kind() == ConsumerInfoErrorKind::NotFound;
        match consumer.info(self).await {
            Ok(info) => Ok(info.ack_floor.stream_sequence),
            // The service that works on it creates it.
            Err(error) if error.downcast_ref().is_some_and(is_missing) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Up to which place of EVENTS all events of a tenant are routed. One look serves all who asked before it was begun: the
    /// drain of every ordered webhook asks all the time, and NATS works such questions off one after the other.
    pub async fn routed(&self, tenant: &TenantId) -> anyhow::Result<u64> {
        let asked = Instant::now();
        let partition = Partition::of(tenant);
        let mut last = self.routed[partition.index()].lock().await;
        if let Some((_, routed)) = last.filter(|(began, _)| *began >= asked) {
            return Ok(routed);
        }
        let began = Instant::now();
        let of = |partition: Partition| self.acknowledged(topology::ROUTER[partition.index()]);
        let (own, before) = tokio::try_join!(of(partition), of(Partition::NONE))?;
        // Events that a version without partitions has stored lie before all others.
        let routed = own.max(before);
        *last = Some((began, routed));
        Ok(routed)
    }

    /// The sequence of the first event that may not be routed yet; `None` if all events are routed.
    pub async fn first_unrouted(&self) -> anyhow::Result<Option<u64>> {
        let mut first = None;
        for consumer in topology::ROUTER {
            let info = consumer.info(self).await?;
            if info.num_pending > 0 || info.num_ack_pending > 0 {
                first = first.into_iter().chain(Some(info.ack_floor.stream_sequence + 1)).min();
            }
        }
        Ok(first)
    }
}

impl Consumer {
    pub(crate) async fn info(&self, queue: &Queue) -> anyhow::Result<consumer::Info> {
        let stream = queue.jetstream.get_stream_no_info(self.stream).await?;
        stream.consumer_info(self.name).await.with_context(|| format!("cannot look at {}", self.name))
    }

    /// Since when the oldest message that is not acknowledged is in the stream.
    async fn oldest(&self, queue: &Queue) -> anyhow::Result<Option<OffsetDateTime>> {
        let stream = queue.jetstream.get_stream_no_info(self.stream).await?;
        let info = self.info(queue).await?;
        if info.num_pending == 0 && info.num_ack_pending == 0 {
            return Ok(None);
        }
        // All up to the floor are acknowledged.
        let from = info.ack_floor.stream_sequence + 1;
        match stream.get_first_raw_message_by_subject(self.filter, from).await {
            Ok(message) => Ok(Some(message.time)),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", self.stream)),
        }
    }
}

impl Parked {
    /// Since when the oldest job is parked.
    async fn oldest_of_all(queue: &Queue) -> anyhow::Result<Option<OffsetDateTime>> {
        let parked = queue.jetstream.get_stream(topology::PARKED).await.context("cannot look at PARKED")?;
        let state = &parked.cached_info().state;
        Ok((state.messages > 0).then_some(state.first_timestamp))
    }
}
