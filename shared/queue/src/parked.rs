//! Jobs that are parked, each webhook's in their order.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use shopery_model::{Job, TenantId, WebhookId};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::schedules::delete;
use crate::{Message, Outgoing, PublishError, Queue, Sent, subject, topology, version};

/// A reader that a crash has left behind is forgotten by the server.
const INACTIVE: Duration = Duration::from_secs(60);

/// The body of a call for a drain that is for new jobs.
const WAKE: &[u8] = b"wake";

/// The answer to a read that a broken connection has swallowed never comes.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The parked jobs of one webhook.
#[derive(Debug)]
pub struct Parked {
    queue: Queue,
    stream: Stream<()>,
    subject: String,
    reader: Consumer<pull::Config>,
}

/// A job as PARKED holds it.
#[derive(Debug)]
pub struct ParkedJob {
    pub sequence: u64,
    pub at: OffsetDateTime,
    pub frame: Bytes,
}

/// The server looks at every reader of PARKED with every job that comes or goes: hundreds that nobody uses any more made it
/// answer in seconds.
impl Drop for Parked {
    fn drop(&mut self) {
        let (stream, reader) = (self.stream.clone(), self.reader.cached_info().name.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Without the answer: should it get lost, the server forgets the reader by itself.
            runtime.spawn(async move { stream.delete_consumer(&reader).await });
        }
    }
}

impl Parked {
    /// Parks a job, in the order of the calls; [`Sent::stored`] waits for PARKED to have it. A repeat is stored once.
    pub async fn park(queue: &Queue, job: &Job) -> Sent {
        queue.send(Self::message(job)).await
    }

    /// The message that parks a job.
    pub fn message(job: &Job) -> Outgoing {
        let meta = &job.meta;
        let id = format!("{}:{}", meta.key(), meta.attempt);
        Outgoing::new(subject::parked(&meta.tenant, meta.webhook), job.encode()).with_id(id)
    }

    /// Some deliverer sees to the webhook's parked jobs now, unless one is at it or is called already. What it is called
    /// for must be in PARKED.
    pub async fn wake(queue: &Queue, tenant: &TenantId, webhook: WebhookId) -> Result<(), PublishError> {
        let wake = Outgoing::new(subject::drain(tenant, webhook), Bytes::from_static(WAKE)).only_after(0);
        match queue.publish_until_stored(&wake, queue.limits.ack_wait / 2).await {
            Ok(_) | Err(PublishError::Overtaken(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether a call for a drain came from [`wake`](Self::wake), not from a timer.
    pub fn is_wake(message: &Message) -> bool {
        message.payload().as_ref() == WAKE
    }

    /// Some deliverer sees to the webhook's parked jobs at `due`. A webhook has one timer: setting it again replaces it.
    pub async fn set_timer(
        queue: &Queue,
        tenant: &TenantId,
        webhook: WebhookId,
        due: OffsetDateTime,
    ) -> Result<(), PublishError> {
        let timer = Outgoing::new(subject::drain_timer(tenant, webhook), Bytes::new())
            .scheduled(due, subject::drain(tenant, webhook));
        queue.publish_until_stored(&timer, queue.limits.ack_wait / 2).await.map(drop)
    }

    /// Reads from the oldest on.
    pub async fn open(queue: &Queue, tenant: &TenantId, webhook: WebhookId) -> anyhow::Result<Self> {
        let subject = subject::parked(tenant, webhook);
        let stream = queue.jetstream.get_stream_no_info(topology::PARKED).await.context("cannot open PARKED")?;
        let config = pull::Config {
            filter_subject: subject.clone(),
            ack_policy: AckPolicy::None,
            deliver_policy: DeliverPolicy::All,
            inactive_threshold: INACTIVE,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let reader = stream.create_consumer(config).await.context("cannot read PARKED")?;
        Ok(Self { queue: queue.clone(), stream, subject, reader })
    }

    /// The next jobs, at most `count`; none if there are none now.
    pub async fn next(&self, count: usize) -> anyhow::Result<Vec<ParkedJob>> {
        tokio::time::timeout(READ_TIMEOUT, self.read(count)).await.context("PARKED does not answer")?
    }

    /// The next job, as soon as there is one, or none after `wait`.
    pub async fn wait(&self, wait: Duration) -> anyhow::Result<Vec<ParkedJob>> {
        let batch = self.reader.batch().max_messages(1).expires(wait).messages();
        let read = async { self.collect(batch.await.context("cannot read PARKED")?).await };
        tokio::time::timeout(wait + READ_TIMEOUT, read).await.context("PARKED does not answer")?
    }

    async fn read(&self, count: usize) -> anyhow::Result<Vec<ParkedJob>> {
        let batch = self.reader.fetch().max_messages(count).messages().await.context("cannot read PARKED")?;
        self.collect(batch).await
    }

    async fn collect(&self, batch: pull::Batch) -> anyhow::Result<Vec<ParkedJob>> {
        let jobs = batch.map(|message| {
            let message = Message {
                message: message.map_err(|error| anyhow!(error))?.into(),
                queue: self.queue.clone(),
                received: Instant::now(),
            };
            let stored = message.stored()?;
            if version::is_too_new(message.headers()) {
                // The whole backlog waits, because its jobs are in order.
                bail!("a parked job has a newer version; a newer deliverer has to send it");
            }
            anyhow::Ok(ParkedJob { sequence: stored.sequence, at: stored.at, frame: message.payload().clone() })
        });
        jobs.try_collect().await
    }

    /// Removes the jobs up to and with this one.
    pub async fn remove_through(&self, sequence: u64) -> anyhow::Result<()> {
        self.stream.purge().filter(&self.subject).sequence(sequence + 1).await.context("cannot purge PARKED")?;
        Ok(())
    }

    /// Removes a job from among those that stay. It may be gone already: whoever enables a webhook to start anew ends what
    /// has waited, while a drain is at it.
    pub async fn remove(&self, sequence: u64) -> anyhow::Result<()> {
        delete(&self.stream, sequence).await.context("cannot delete from PARKED")
    }

    /// Since when the webhook's oldest job is parked, if there is one.
    pub async fn oldest(
        queue: &Queue,
        tenant: &TenantId,
        webhook: WebhookId,
    ) -> anyhow::Result<Option<OffsetDateTime>> {
        let stream = queue.jetstream.get_stream_no_info(topology::PARKED).await.context("cannot open PARKED")?;
        match stream.get_first_raw_message_by_subject(subject::parked(tenant, webhook), 1).await {
            Ok(message) => Ok(Some(message.time)),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(error).context("cannot read PARKED"),
        }
    }

    /// How many jobs each webhook has parked.
    pub async fn counts(queue: &Queue) -> anyhow::Result<HashMap<(TenantId, WebhookId), usize>> {
        Self::counts_of(queue, "parked.>").await
    }

    /// How many jobs this webhook has parked.
    pub async fn count(queue: &Queue, tenant: &TenantId, webhook: WebhookId) -> anyhow::Result<usize> {
        let counts = Self::counts_of(queue, &subject::parked(tenant, webhook)).await?;
        Ok(counts.into_values().sum())
    }

    async fn counts_of(queue: &Queue, filter: &str) -> anyhow::Result<HashMap<(TenantId, WebhookId), usize>> {
        let stream = queue.jetstream.get_stream_no_info(topology::PARKED).await.context("cannot open PARKED")?;
        let subjects = stream.info_with_subjects(filter).await.context("cannot look at PARKED")?;
        let known = subjects.try_filter_map(|(subject, count)| {
            std::future::ready(Ok(subject::parse_parked(&subject).map(|webhook| (webhook, count))))
        });
        Ok(known.try_collect().await?)
    }
}
