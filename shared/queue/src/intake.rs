//! Pulling work from a stream, never more than there are free slots.
//!
//! A slot is reserved before a message is asked for, so no message waits in this process while its `ack_wait` runs
//! down. Three counts tell all: `slots` are free, `reserved` are asked for and not yet here, the rest is at work.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::consumer::pull;
use async_nats::{StatusCode, Subject, Subscriber};
use futures_util::StreamExt;
use shopery_runtime::Shutdown;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::connection::retry_until_deadline;
use crate::topology::{Consumer, INBOUND};
use crate::{Message, Queue, Taken, version};

/// How long the server keeps a pull that it cannot fill. It also bounds how long a process that is paused, but still connected,
/// is sent work that another process has to repeat.
const EXPIRES: Duration = Duration::from_secs(5);
/// How often the server says, during a pull, that it is still there. Twice that without a word, and we ask again. A message each
/// second is nothing.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Expiry of a pull while nobody answers, such as after the death of the node that led the consumer. Work continues within a
/// second of the election, and the new leader has no older pulls of ours.
const PROBE_EXPIRES: Duration = Duration::from_secs(1);
/// Delay before the next pull when the consumer has no leader.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// Maximum time to return messages. The rest is redelivered after `ack_wait`.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

pub struct Intake {
    queue: Queue,
    declared: Consumer,
    consumer: pull_consumer::Handle,
    inbox: Subject,
    messages: Subscriber,
    slots: Arc<Semaphore>,
    reserved: Option<OwnedSemaphorePermit>,
    /// Fewer free slots than this are not worth a pull while one is outstanding.
    worthwhile: usize,
    connections: watch::Receiver<u64>,
    heard: Instant,
    /// Nobody has answered the last pull.
    is_lost: bool,
    /// Creates the consumer again if it was deleted. It runs beside the pulls: while the cluster has no leader, the request
    /// takes seconds to fail.
    creation: Option<JoinHandle<anyhow::Result<pull_consumer::Handle>>>,
    /// We have logged that messages of a newer version came.
    has_warned: bool,
}

mod pull_consumer {
    pub(super) type Handle = async_nats::jetstream::consumer::Consumer<super::pull::Config>;
}

impl Intake {
    /// Opens the consumer, which is created or brought up to date, for at most `slots` messages at a time.
    pub async fn open(queue: &Queue, declared: Consumer, slots: usize, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let consumer = retry_until_deadline(shutdown, || create(queue, declared)).await?;
        let inbox: Subject = queue.client.new_inbox().into();
        let messages = queue.client.subscribe(inbox.clone()).await?;
        let mut connections = queue.connections.clone();
        connections.mark_unchanged();
        Ok(Self {
            queue: queue.clone(),
            declared,
            consumer,
            inbox,
            messages,
            slots: Arc::new(Semaphore::new(slots)),
            reserved: None,
            worthwhile: (slots / 4).max(1),
            connections,
            heard: Instant::now(),
            is_lost: false,
            creation: None,
            has_warned: false,
        })
    }

    /// The next message, or `None` once the drain has begun.
    pub async fn next(&mut self, shutdown: &Shutdown) -> Option<Taken> {
        loop {
            self.ask().await;
            let silent = self.heard + if self.is_lost { PROBE_EXPIRES } else { 2 * HEARTBEAT };
            tokio::select! {
                biased;
                () = shutdown.draining() => return None,
                // What was asked of the old connection will not come.
                Ok(()) = self.connections.changed() => self.forget(),
                // Before the messages. While the consumer is missing, each failed pull is followed by another, so an answer
                // may always be ready, and nothing below would ever run.
                created = created(&mut self.creation) => match created {
                    Ok(consumer) => self.consumer = consumer,
                    Err(error) => tracing::warn!(consumer = self.declared.name, "{error:#}"),
                },
                Some(message) = self.messages.next() => {
                    self.heard = Instant::now();
                    match message.status {
                        None => {
                            self.is_lost = false;
                            let slot = self.take_slot().await?;
                            let message = Message { message, queue: self.queue.clone(), received: Instant::now() };
                            if self.declared.stream != INBOUND && version::is_too_new(message.headers()) {
                                self.reject_too_new(&message).await;
                                continue;
                            }
                            return Some(Taken { message, slot });
                        }
                        Some(StatusCode::IDLE_HEARTBEAT) => self.is_lost = false,
                        Some(_) => self.ended(&message).await,
                    }
                }
                // Work has ended and its slot is free: ask for more.
                Ok(freed) = self.slots.clone().acquire_owned(), if self.reserved.is_none() => drop(freed),
                () = tokio::time::sleep_until(silent), if self.reserved.is_some() => {
                    if !self.is_lost {
                        tracing::warn!(consumer = self.declared.name, "NATS is silent; asking again");
                    }
                    self.is_lost = true;
                    self.forget();
                }
            }
        }
    }

    /// Returns the messages that were not taken to the consumer, so that another process gets them at once. Otherwise they would
    /// wait for `ack_wait`.
    pub async fn close(mut self) {
        if self.messages.drain().await.is_err() {
            return;
        }
        let nak_all = async {
            while let Some(message) = self.messages.next().await {
                if message.status.is_none() {
                    Message { message, queue: self.queue.clone(), received: Instant::now() }.nak().await;
                }
            }
        };
        // A lost connection never ends the drain.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, nak_all).await;
    }

    async fn reject_too_new(&mut self, message: &Message) {
        self.queue.too_new.get_or_create(&[("consumer", self.declared.name.to_owned())]).inc();
        if !mem::replace(&mut self.has_warned, true) {
            let (consumer, subject) = (self.declared.name, message.subject());
            tracing::warn!(consumer, subject, "a message has a newer version; it waits for a service that supports it");
        }
        message.nak_too_new().await;
    }

    /// Reserves the free slots and asks for as many messages, if it is worth it.
    async fn ask(&mut self) {
        let free = self.slots.available_permits();
        if free == 0 || (self.reserved.is_some() && free < self.worthwhile) {
            return;
        }
        let Ok(permits) = self.slots.clone().try_acquire_many_owned(u32::try_from(free).unwrap_or(u32::MAX)) else {
            return;
        };
        let (expires, idle_heartbeat) =
            if self.is_lost { (PROBE_EXPIRES, PROBE_EXPIRES / 3) } else { (EXPIRES, HEARTBEAT) };
        let batch = permits.num_permits();
        let pull = pull::BatchConfig { batch, expires: Some(expires), idle_heartbeat, ..pull::BatchConfig::default() };
        self.heard = Instant::now();
        match self.consumer.request_batch(pull, self.inbox.clone()).await {
            Ok(()) => match &mut self.reserved {
                Some(reserved) => reserved.merge(permits),
                none => *none = Some(permits),
            },
            Err(error) => {
                drop(permits);
                tracing::warn!(consumer = self.declared.name, %error, "cannot ask for work");
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }

    /// The slot of a message that has come: a reserved one. A message that was not counted on (its pull was thought
    /// lost) waits for a free one.
    async fn take_slot(&mut self) -> Option<OwnedSemaphorePermit> {
        let slot = self.reserved.as_mut().and_then(|reserved| reserved.split(1));
        if self.reserved.as_ref().is_some_and(|reserved| reserved.num_permits() == 0) {
            self.reserved = None;
        }
        match slot {
            Some(slot) => Some(slot),
            None => self.slots.clone().acquire_owned().await.ok(),
        }
    }

    /// A pull ended. The server says how many of its messages will not come.
    async fn ended(&mut self, status: &async_nats::Message) {
        let unfilled = status.headers.as_ref().and_then(|headers| headers.get("Nats-Pending-Messages"));
        match unfilled.and_then(|count| count.as_str().parse().ok()) {
            Some(count) => {
                if let Some(reserved) = &mut self.reserved {
                    let rest = reserved.num_permits();
                    drop(reserved.split(rest.min(count)));
                    if count >= rest {
                        self.reserved = None;
                    }
                }
            }
            None => self.forget(),
        }
        if matches!(status.status, Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND)) {
            return;
        }
        // No responders, a new leader, a deleted consumer: create it if it is missing, and continue to pull.
        if !self.is_lost {
            let why = status.description.as_deref().unwrap_or("no description");
            tracing::warn!(consumer = self.declared.name, why, "NATS ended a pull");
        }
        self.is_lost = true;
        if self.creation.is_none() {
            let (queue, declared) = (self.queue.clone(), self.declared);
            self.creation = Some(tokio::spawn(async move { create(&queue, declared).await }));
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }

    fn forget(&mut self) {
        self.reserved = None;
    }
}

/// The result of the creation; pending if none runs.
async fn created(
    creation: &mut Option<JoinHandle<anyhow::Result<pull_consumer::Handle>>>,
) -> anyhow::Result<pull_consumer::Handle> {
    let Some(running) = creation else { return std::future::pending().await };
    let created = running.await;
    *creation = None;
    created.context("the creation of a consumer ended")?
}

async fn create(queue: &Queue, declared: Consumer) -> anyhow::Result<pull_consumer::Handle> {
    queue
        .jetstream
        .create_consumer_on_stream(declared.config(&queue.limits), declared.stream)
        .await
        .with_context(|| format!("cannot create consumer {} of stream {}", declared.name, declared.stream))
}
