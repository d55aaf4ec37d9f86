//! Outcomes, gathered into batches: one message on OUTCOMES for many deliveries.
//!
//! Invariant: a message is acknowledged after the batch with its outcomes is in OUTCOMES. While OUTCOMES takes nothing
//! (it is full, or NATS is away), the messages of the batch are kept from being handed to others, and new work waits:
//! what is delivered must not be delivered again for want of a record.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use shopery_model::{DeliveryId, DeliveryState, Outcome};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::{Message, Outgoing, PublishError, Queue, subject};

/// Maximum time an outcome waits for its batch to fill.
const LINGER: Duration = Duration::from_millis(50);
const MAX_OUTCOMES: usize = 256;
/// A message is begun anew before it grows beyond this: half of what a NATS message may have by default.
const MAX_BYTES: usize = 512 * 1024;

/// Maximum number of outcomes that wait to be stored. A caller with more of them waits.
const MAX_WAITING: usize = 8 * MAX_OUTCOMES;
/// Batches that are published at a time.
const PUBLISHING: usize = 8;

/// Where a service hands in what has become of deliveries.
#[derive(Debug, Clone)]
pub struct Outcomes {
    sender: mpsc::Sender<Report>,
    room: Arc<Semaphore>,
    queue: Queue,
}

/// Outcomes, the message that is acknowledged when they are stored, and a permit for each outcome.
struct Report {
    outcomes: Vec<Outcome>,
    message: Message,
    permit: OwnedSemaphorePermit,
}

/// Outcomes on their way to OUTCOMES, in as many messages as their bytes need: what one message could not hold, NATS
/// would refuse for ever.
#[derive(Debug, Default)]
struct Batch {
    /// JSON arrays without their closing bracket.
    bodies: Vec<Vec<u8>>,
    outcomes: usize,
    bytes: usize,
    messages: Vec<Message>,
    permits: Vec<OwnedSemaphorePermit>,
    /// What has ended without its endpoint having been told.
    undelivered: Vec<DeliveryId>,
}

impl Outcomes {
    /// Starts the gathering. It ends, all outcomes published, after the last `Outcomes` is dropped.
    pub fn start(queue: Queue, service: &'static str) -> (Self, JoinHandle<()>) {
        // Never full, because each report has a permit by then.
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let room = Arc::new(Semaphore::new(MAX_WAITING));
        (Self { sender, room, queue: queue.clone() }, tokio::spawn(gather(queue, service, receiver)))
    }

    /// Hands outcomes over, with the message to acknowledge for them.
    pub async fn add(&self, outcomes: Vec<Outcome>, message: Message) {
        let count = u32::try_from(outcomes.len().clamp(1, MAX_WAITING)).unwrap_or(1);
        let room = self.room.clone().acquire_many_owned(count);
        let Ok(permit) = while_kept(&self.queue, std::slice::from_ref(&message), room).await else { return };
        if self.sender.send(Report { outcomes, message, permit }).await.is_err() {
            tracing::error!("outcomes found nobody to publish them; their message comes again");
        }
    }
}

/// Stores outcomes that belong to no message, before it returns. Each message of them is published again for up to `timeout`.
pub async fn store_outcomes(
    queue: &Queue,
    service: &str,
    outcomes: &[Outcome],
    timeout: Duration,
) -> Result<(), PublishError> {
    for part in outcomes.chunks(MAX_OUTCOMES) {
        let mut batch = Batch::default();
        batch.write(part, queue.max_payload());
        batch.store(queue, service, timeout).await?;
    }
    Ok(())
}

async fn gather(queue: Queue, service: &'static str, mut reports: mpsc::Receiver<Report>) {
    let (tasks, publishing) = (TaskTracker::new(), Arc::new(Semaphore::new(PUBLISHING)));
    while let Some(first) = reports.recv().await {
        let max_payload = queue.max_payload();
        let mut batch = Batch { messages: Vec::with_capacity(MAX_OUTCOMES), ..Batch::default() };
        batch.add(first, max_payload);
        let end = Instant::now() + LINGER;
        while batch.outcomes < MAX_OUTCOMES && batch.bytes < MAX_BYTES {
            match tokio::time::timeout_at(end, reports.recv()).await {
                Ok(Some(next)) => batch.add(next, max_payload),
                Ok(None) | Err(_) => break,
            }
        }
        let queue = queue.clone();
        let publishing = publishing.clone();
        tasks.spawn(async move { batch.publish(&queue, service, &publishing).await });
    }
    tasks.close();
    tasks.wait().await;
}

/// Waits for something, however long it takes, and keeps messages from being given to others meanwhile.
async fn while_kept<T>(queue: &Queue, messages: &[Message], awaited: impl Future<Output = T>) -> T {
    let mut awaited = pin!(awaited);
    loop {
        match tokio::time::timeout(queue.limits.ack_wait / 3, &mut awaited).await {
            Ok(done) => return done,
            Err(_) => {
                for message in messages {
                    message.progress().await;
                }
            }
        }
    }
}

impl Batch {
    fn add(&mut self, Report { outcomes, message, permit }: Report, max_payload: usize) {
        self.write(&outcomes, max_payload);
        self.messages.push(message);
        self.permits.push(permit);
    }

    fn write(&mut self, outcomes: &[Outcome], max_payload: usize) {
        // One outcome has some 60 KiB at most, as JSON: 16 of an answer's body and 8 of its headers, 20 of `fields`, and texts.
        let most = MAX_BYTES.min(max_payload / 2);
        for outcome in outcomes {
            if self.bodies.last().is_none_or(|body| body.len() >= most) {
                self.bodies.push(Vec::with_capacity(16 * 1024));
            }
            let Some(body) = self.bodies.last_mut() else { continue };
            let start = body.len();
            body.push(if body.is_empty() { b'[' } else { b',' });
            if let Err(error) = serde_json::to_writer(&mut *body, outcome) {
                body.truncate(start);
                tracing::error!(%error, delivery = %outcome.job.delivery, "an outcome cannot be written");
            }
            self.bytes += body.len() - start;
            // What another one superseded has told its own payload to nobody either.
            if outcome.is_end_of_a_carrier() || outcome.state == DeliveryState::Superseded {
                self.undelivered.push(outcome.job.delivery);
            }
        }
        self.outcomes += outcomes.len();
    }

    /// Stores all of it, or fails; a part that is stored by then is stored again with the next try, to no harm.
    async fn store(&mut self, queue: &Queue, service: &str, timeout: Duration) -> Result<(), PublishError> {
        for body in &mut self.bodies {
            if body.is_empty() {
                continue;
            }
            let mut whole = std::mem::take(body);
            whole.push(b']');
            let message = Outgoing::new(subject::outcomes(service), whole.into());
            if let Err(error) = queue.publish_until_stored(&message, timeout).await {
                *body = message.body.into();
                body.pop();
                return Err(error);
            }
        }
        queue.announce_undelivered(&self.undelivered).await;
        Ok(())
    }

    async fn publish(mut self, queue: &Queue, service: &str, publishing: &Semaphore) {
        let messages = std::mem::take(&mut self.messages);
        let timeout = queue.limits.ack_wait / 3;
        let stored = async {
            // The semaphore is never closed. A batch that cannot be stored lets others try before it tries again.
            while let Ok(_turn) = publishing.acquire().await {
                let Err(error) = self.store(queue, service, timeout).await else { break };
                tracing::warn!(%error, outcomes = self.outcomes, "outcomes cannot be stored; holding back new work");
            }
        };
        while_kept(queue, &messages, stored).await;
        for message in &messages {
            message.ack().await;
        }
    }
}

impl Queue {
    /// Tells the routers which deliveries carry nothing any more. Plain NATS: who misses it drops a payload as a duplicate
    /// once more, and the recorder then says of that one that its carrier has failed.
    pub async fn announce_undelivered(&self, deliveries: &[DeliveryId]) {
        if deliveries.is_empty() {
            return;
        }
        let Ok(body) = serde_json::to_vec(deliveries) else { return };
        if let Err(error) = self.client.publish(subject::UNDELIVERED, body.into()).await {
            tracing::debug!(%error, "routers are not told of undelivered deliveries");
        }
    }

    /// Those announcements, as they come.
    pub async fn undelivered(&self) -> anyhow::Result<impl Stream<Item = Vec<DeliveryId>> + use<>> {
        let messages = self.client.subscribe(subject::UNDELIVERED).await?;
        Ok(messages.map(|message| serde_json::from_slice(&message.payload).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shopery_model::{Fault, JobMeta, WebhookId};
    use time::OffsetDateTime;

    fn outcome(detail: String) -> Outcome {
        let (tenant, webhook): (shopery_model::TenantId, _) = ("t".parse().unwrap(), WebhookId::generate());
        let at = OffsetDateTime::UNIX_EPOCH;
        let job = JobMeta {
            delivery: DeliveryId::of(&tenant, "orders", "e", at, webhook),
            tenant,
            webhook,
            source: "orders".to_owned(),
            event: "e".to_owned(),
            event_type: "order-paid".parse().unwrap(),
            resource: "order/1".to_owned(),
            triggered_at: at,
            event_sequence: 1,
            stored_ns: None,
            payload_of: None,
            fields: None,
            extensions: shopery_model::Extensions::default(),
            changed: Vec::new(),
            may_be_stale: false,
            attempt: 1,
            resend: None,
            failed_at: None,
        };
        let fault = Some((Fault::HttpStatus, detail));
        Outcome { job, state: DeliveryState::Failed, next_attempt_at: None, attempt: None, fault, carried_by: None, at }
    }

    #[test]
    fn no_message_grows_beyond_what_nats_takes() {
        for max_payload in [64 * 1024, 1024 * 1024] {
            let mut batch = Batch::default();
            let outcomes: Vec<_> = (0..200).map(|_| outcome("x".repeat(10_000))).collect();
            batch.write(&outcomes, max_payload);
            assert!(batch.bodies.len() > 1 && batch.bodies.iter().all(|body| body.len() < max_payload));
            let read: usize = batch
                .bodies
                .iter()
                .map(|body| serde_json::from_slice::<Vec<Outcome>>(&[body, &b"]"[..]].concat()).unwrap().len())
                .sum();
            assert_eq!((read, batch.outcomes, batch.undelivered.len()), (200, 200, 200));
        }
    }
}
