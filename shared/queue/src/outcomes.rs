//! Outcomes, gathered into batches: one message on OUTCOMES for many deliveries.
//!
//! Invariant: a message is acknowledged after the batch with its outcomes is in OUTCOMES. While OUTCOMES takes nothing
//! (it is full, or NATS is away), the messages of the batch are kept from being handed to others, and new work waits:
//! what is delivered must not be delivered again for want of a record.

use std::time::Duration;

use shopery_model::Outcome;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::{Message, Outgoing, PublishError, Queue, subject};

/// An outcome waits so long for company.
const LINGER: Duration = Duration::from_millis(50);
const MAX_OUTCOMES: usize = 256;
/// Half of what a NATS message may have.
const MAX_BYTES: usize = 512 * 1024;
/// Batches that wait for their acknowledgement at a time.
const UNACKNOWLEDGED: usize = 8;

/// Where a service hands in what has become of deliveries.
#[derive(Debug, Clone)]
pub struct Outcomes(mpsc::Sender<Report>);

/// Outcomes, and the message that is done when they are stored.
type Report = (Vec<Outcome>, Message);

#[derive(Debug)]
struct Batch {
    body: Vec<u8>,
    outcomes: usize,
    messages: Vec<Message>,
}

impl Outcomes {
    /// Starts the gathering. It ends, all outcomes published, after the last `Outcomes` is dropped.
    pub fn start(queue: Queue, service: &'static str) -> (Self, JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(MAX_OUTCOMES);
        (Self(sender), tokio::spawn(gather(queue, service, receiver)))
    }

    /// Hands outcomes over, with the message to acknowledge for them.
    pub async fn add(&self, outcomes: Vec<Outcome>, message: Message) {
        if self.0.send((outcomes, message)).await.is_err() {
            tracing::error!("outcomes found nobody to publish them; their message comes again");
        }
    }
}

/// Stores outcomes that belong to no message, before it returns.
pub async fn store_outcomes(queue: &Queue, service: &str, outcomes: &[Outcome]) -> Result<(), PublishError> {
    for part in outcomes.chunks(MAX_OUTCOMES) {
        let mut batch = Batch { body: Vec::with_capacity(16 * 1024), outcomes: 0, messages: Vec::new() };
        batch.write(part);
        batch.body.push(b']');
        let message = Outgoing::new(subject::outcomes(service), batch.body.into());
        queue.publish_until_stored(&message, queue.limits.ack_wait / 3).await?;
    }
    Ok(())
}

async fn gather(queue: Queue, service: &'static str, mut reports: mpsc::Receiver<Report>) {
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(UNACKNOWLEDGED));
    let tasks = TaskTracker::new();
    while let Some(first) = reports.recv().await {
        let mut batch =
            Batch { body: Vec::with_capacity(16 * 1024), outcomes: 0, messages: Vec::with_capacity(MAX_OUTCOMES) };
        batch.add(first);
        let end = Instant::now() + LINGER;
        while batch.outcomes < MAX_OUTCOMES && batch.body.len() < MAX_BYTES {
            match tokio::time::timeout_at(end, reports.recv()).await {
                Ok(Some(next)) => batch.add(next),
                Ok(None) | Err(_) => break,
            }
        }
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        let queue = queue.clone();
        tasks.spawn(async move {
            batch.publish(&queue, service).await;
            drop(slot);
        });
    }
    tasks.close();
    tasks.wait().await;
}

impl Batch {
    fn add(&mut self, (outcomes, message): Report) {
        self.write(&outcomes);
        self.messages.push(message);
    }

    fn write(&mut self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            self.body.push(if self.body.is_empty() { b'[' } else { b',' });
            if let Err(error) = serde_json::to_writer(&mut self.body, outcome) {
                tracing::error!(%error, delivery = %outcome.job.delivery, "an outcome cannot be written");
            }
        }
        self.outcomes += outcomes.len();
    }

    async fn publish(mut self, queue: &Queue, service: &str) {
        self.body.push(b']');
        let message = Outgoing::new(subject::outcomes(service), self.body.into());
        let patience = queue.limits.ack_wait / 3;
        while let Err(error) = queue.publish_until_stored(&message, patience).await {
            tracing::warn!(%error, outcomes = self.outcomes, "outcomes cannot be stored; holding back new work");
            for message in &self.messages {
                message.progress().await;
            }
        }
        for message in &self.messages {
            message.ack().await;
        }
    }
}
