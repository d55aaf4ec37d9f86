//! Pulling work from a stream, never more than there are free slots.
//!
//! A slot is reserved before a message is asked for, so no message waits in this process while its `ack_wait` runs
//! down. Three counts tell all: `slots` are free, `reserved` are asked for and not yet here, the rest is at work.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::consumer::pull::{self, BatchConfig};
use async_nats::{StatusCode, Subject, Subscriber};
use futures_util::StreamExt;
use shopery_runtime::Shutdown;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::connection::{LEADER_TIMEOUT, retry_until_deadline};
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
    /// Creates the consumer, or brings it up to date, when we open it and whenever it may have been deleted. It runs beside
    /// the pulls, which mostly need not wait for it: the consumer is there, and the cluster may elect another leader for
    /// seconds.
    creation: Option<Creation>,
    /// We have logged that messages of a newer version came.
    has_warned: bool,
}

type Creation = AbortOnDropHandle<anyhow::Result<()>>;

impl Intake {
    /// Opens the consumer, which is created or brought up to date, for at most `slots` messages at a time.
    pub async fn open(queue: &Queue, declared: Consumer, slots: usize, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let inbox: Subject = queue.client.new_inbox().into();
        let messages = queue.client.subscribe(inbox.clone()).await?;
        let mut connections = queue.connections.clone();
        connections.mark_unchanged();
        Ok(Self {
            queue: queue.clone(),
            declared,
            inbox,
            messages,
            slots: Arc::new(Semaphore::new(slots)),
            reserved: None,
            worthwhile: (slots / 4).max(1),
            connections,
            heard: Instant::now(),
            is_lost: false,
            creation: Some(create(queue, declared, shutdown)),
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
                created = created(&mut self.creation) => if let Err(error) = created {
                    tracing::warn!(consumer = self.declared.name, "{error:#}");
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
                        Some(_) => self.ended(&message, shutdown).await,
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
        let pull = BatchConfig { batch, expires: Some(expires), idle_heartbeat, ..BatchConfig::default() };
        self.heard = Instant::now();
        match self.pull(&pull).await {
            Ok(()) => match &mut self.reserved {
                Some(reserved) => reserved.merge(permits),
                none => *none = Some(permits),
            },
            Err(error) => {
                drop(permits);
                tracing::warn!(consumer = self.declared.name, "cannot ask for work: {error:#}");
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }

    /// By the name of the consumer alone. The client's own way needs the consumer's description, which only its leader gives.
    async fn pull(&self, pull: &BatchConfig) -> anyhow::Result<()> {
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.declared.stream, self.declared.name);
        let request = serde_json::to_vec(pull)?.into();
        Ok(self.queue.client.publish_with_reply(subject, self.inbox.clone(), request).await?)
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
    async fn ended(&mut self, status: &async_nats::Message, shutdown: &Shutdown) {
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
        if !self.is_lost && self.creation.is_none() {
            let why = status.description.as_deref().unwrap_or("no description");
            tracing::warn!(consumer = self.declared.name, why, "NATS ended a pull");
        }
        self.is_lost = true;
        if self.creation.is_none() {
            self.creation = Some(create(&self.queue, self.declared, shutdown));
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }

    fn forget(&mut self) {
        self.reserved = None;
    }
}

/// The end of the creation; pending if none runs.
async fn created(creation: &mut Option<Creation>) -> anyhow::Result<()> {
    let Some(running) = creation else { return std::future::pending().await };
    let created = running.await;
    *creation = None;
    created.context("the creation of a consumer ended")?
}

fn create(queue: &Queue, declared: Consumer, shutdown: &Shutdown) -> Creation {
    let (mut jetstream, shutdown) = (queue.jetstream.clone(), shutdown.clone());
    jetstream.set_timeout(LEADER_TIMEOUT);
    let config = declared.config(&queue.limits);
    AbortOnDropHandle::new(tokio::spawn(async move {
        let create = || async {
            let created = jetstream.create_consumer_on_stream::<pull::Config, _>(config.clone(), declared.stream).await;
            created
                .map(drop)
                .with_context(|| format!("cannot create consumer {} of stream {}", declared.name, declared.stream))
        };
        retry_until_deadline(&shutdown, create).await
    }))
}
