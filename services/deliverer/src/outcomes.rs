//! Outcomes, gathered into batches: one message on OUTCOMES for many attempts.
//!
//! Invariant: a job is acknowledged after the batch with its outcome is in OUTCOMES. While OUTCOMES takes nothing (it
//! is full, or NATS is away), the jobs of the batch are kept from being handed to others, and new work waits: what is
//! delivered must not be delivered again for want of a record.

use std::time::Duration;

use shopery_model::Outcome;
use shopery_queue::{Message, Outgoing, Queue, subject};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// An outcome waits so long for company.
const LINGER: Duration = Duration::from_millis(50);
const MAX_OUTCOMES: usize = 256;
/// Half of what a NATS message may have.
const MAX_BYTES: usize = 512 * 1024;
/// Batches that wait for their acknowledgement at a time.
const UNACKNOWLEDGED: usize = 8;

#[derive(Debug, Clone)]
pub(crate) struct Outcomes(mpsc::Sender<(Outcome, Message)>);

#[derive(Debug)]
struct Batch {
    body: Vec<u8>,
    jobs: Vec<Message>,
}

impl Outcomes {
    /// Starts the gathering. It ends, all outcomes published, after the last `Outcomes` is dropped.
    pub(crate) fn start(queue: Queue) -> (Self, JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(MAX_OUTCOMES);
        (Self(sender), tokio::spawn(gather(queue, receiver)))
    }

    /// Hands an outcome over, with the message to acknowledge for it.
    pub(crate) async fn add(&self, outcome: Outcome, job: Message) {
        if self.0.send((outcome, job)).await.is_err() {
            tracing::error!("an outcome found nobody to publish it; its job will be repeated");
        }
    }
}

async fn gather(queue: Queue, mut outcomes: mpsc::Receiver<(Outcome, Message)>) {
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(UNACKNOWLEDGED));
    let tasks = TaskTracker::new();
    while let Some(first) = outcomes.recv().await {
        let mut batch = Batch { body: Vec::with_capacity(16 * 1024), jobs: Vec::with_capacity(MAX_OUTCOMES) };
        batch.add(first);
        let end = Instant::now() + LINGER;
        while batch.jobs.len() < MAX_OUTCOMES && batch.body.len() < MAX_BYTES {
            match tokio::time::timeout_at(end, outcomes.recv()).await {
                Ok(Some(next)) => batch.add(next),
                Ok(None) | Err(_) => break,
            }
        }
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        let queue = queue.clone();
        tasks.spawn(async move {
            batch.publish(&queue).await;
            drop(slot);
        });
    }
    tasks.close();
    tasks.wait().await;
}

impl Batch {
    fn add(&mut self, (outcome, job): (Outcome, Message)) {
        self.body.push(if self.body.is_empty() { b'[' } else { b',' });
        if let Err(error) = serde_json::to_writer(&mut self.body, &outcome) {
            tracing::error!(%error, delivery = %outcome.job.delivery, "an outcome cannot be written");
        }
        self.jobs.push(job);
    }

    async fn publish(mut self, queue: &Queue) {
        self.body.push(b']');
        let message = Outgoing::new(subject::outcomes("deliverer"), self.body.into());
        let patience = queue.limits.ack_wait / 3;
        while let Err(error) = queue.publish_until_stored(&message, patience).await {
            tracing::warn!(%error, outcomes = self.jobs.len(), "outcomes cannot be stored; holding back new work");
            for job in &self.jobs {
                job.progress().await;
            }
        }
        for job in &self.jobs {
            job.ack().await;
        }
    }
}
