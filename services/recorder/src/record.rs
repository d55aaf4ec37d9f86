//! Outcomes on their way into the history, many at a time.
//!
//! What the database refuses is told apart from what passes: only a row that it will never take goes to DEAD, alone; a
//! database that is away, full, read-only or silent is waited for.

use std::convert::Infallible;
use std::slice;
use std::time::Duration;

use anyhow::anyhow;
use prometheus_client::metrics::counter::Counter;
use serde_json::value::RawValue;
use shopery_control::ConfigWriter;
use shopery_model::{Outcome, TenantId, WebhookId};
use shopery_queue::{Dead, Disposition, Intake, Queue, Taken};
use shopery_runtime::{Runtime, Shutdown};
use shopery_store::{Noted, Recorded, Store, StoreError};
use time::OffsetDateTime;
use tokio::time::Instant;

/// Messages that may wait here; each has up to 256 outcomes.
pub(crate) const SLOTS: usize = 32;
/// Outcomes in one transaction.
const BATCH: usize = 2000;
/// How long a transaction waits for more outcomes.
const LINGER: Duration = Duration::from_millis(5);
/// A transaction that takes longer is given up: its connection may have gone silent, and nobody would ever say so. The next one
/// may take twice as long, up to the second value: it may have been slow.
const LONGEST_TRANSACTION: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(80));
/// Delay before a transaction is tried again, from and up to.
const RETRY_DELAY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

struct Recorder {
    queue: Queue,
    store: Store,
    writer: ConfigWriter,
    recorded: Counter,
    /// How long every attempt of a webhook may fail until it is disabled; `None`: for ever.
    disable_after: Option<Duration>,
}

/// Why outcomes were not written.
#[derive(Clone)]
enum NotWritten {
    /// The drain began before the database took them.
    Stopped,
    /// The database will never take a row of them.
    Refused(String),
}

struct Arrived {
    message: Taken,
    sequence: u64,
    /// When OUTCOMES has stored it.
    at: OffsetDateTime,
    outcomes: Vec<Outcome>,
}

/// Runs until the drain begins; what is not recorded by then is kept by OUTCOMES.
pub(crate) async fn run(
    mut intake: Intake,
    queue: &Queue,
    store: Store,
    writer: ConfigWriter,
    disable_after: Option<Duration>,
    runtime: &Runtime,
) -> anyhow::Result<()> {
    let recorded = runtime.metrics.register("outcomes_recorded", "Outcomes written to the history", Counter::default());
    let recorder = Recorder { queue: queue.clone(), store, writer, recorded, disable_after };
    while let Some(first) = intake.next(&runtime.shutdown).await {
        let mut arrived = Vec::new();
        arrived.extend(recorder.read(first).await);
        let end = Instant::now() + LINGER;
        while arrived.len() < SLOTS && arrived.iter().map(|part| part.outcomes.len()).sum::<usize>() < BATCH {
            match tokio::time::timeout_at(end, intake.next(&runtime.shutdown)).await {
                Ok(Some(message)) => arrived.extend(recorder.read(message).await),
                Ok(None) | Err(_) => break,
            }
        }
        recorder.record(arrived, &runtime.shutdown).await;
    }
    intake.close().await;
    queue.client.flush().await.ok();
    Ok(())
}

impl Recorder {
    async fn read(&self, message: Taken) -> Option<Arrived> {
        match self.try_read(&message).await {
            Ok((sequence, at, outcomes)) => Some(Arrived { message, sequence, at, outcomes }),
            Err(disposition) => {
                message.settle(disposition).await;
                None
            }
        }
    }

    async fn try_read(&self, message: &Taken) -> Result<(u64, OffsetDateTime, Vec<Outcome>), Disposition<'static>> {
        let stored = message.message.stored().map_err(|error| Disposition::Retry(error.into()))?;
        let parts: Vec<&RawValue> = serde_json::from_slice(message.message.payload()).map_err(|error| {
            Disposition::Dead { reason: "undecodable-outcomes", tenant: None, why: error.to_string() }
        })?;
        let mut outcomes = Vec::with_capacity(parts.len());
        for (place, part) in parts.into_iter().enumerate() {
            match serde_json::from_str(part.get()) {
                Ok(outcome) => outcomes.push(outcome),
                // One that does not read takes none of the others with it.
                Err(error) => {
                    let dead = Dead::whole(message.message.subject(), error.to_string(), part.get().as_bytes());
                    let id = format!("outcome:{}:{place}", stored.sequence);
                    let stored = self.queue.dead_letter("undecodable-outcome", None, id, &dead).await;
                    stored.map_err(|error| Disposition::Retry(anyhow!("cannot put an outcome on DEAD: {error}")))?;
                }
            }
        }
        Ok((stored.sequence, stored.at, outcomes))
    }

    /// Records everything together; if the database refuses a row of it, message by message.
    async fn record(&self, arrived: Vec<Arrived>, shutdown: &Shutdown) {
        let together = self.write(&arrived, shutdown).await;
        let is_refused = matches!(together, Err(NotWritten::Refused(_)));
        for part in arrived {
            let written =
                if is_refused { self.write(slice::from_ref(&part), shutdown).await } else { together.clone() };
            part.message.settle(disposition(written)).await;
        }
    }

    /// Writes outcomes, waiting for the database for as long as it takes.
    async fn write(&self, arrived: &[Arrived], shutdown: &Shutdown) -> Result<(), NotWritten> {
        let outcomes: usize = arrived.iter().map(|part| part.outcomes.len()).sum();
        let (mut delay, mut longest) = (RETRY_DELAY.0, LONGEST_TRANSACTION.0);
        let noted = loop {
            let kept = tokio::select! {
                kept = tokio::time::timeout(longest, self.keep(arrived)) => kept,
                never = self.hold(arrived) => match never {},
            };
            let error = match kept {
                Ok(Ok(noted)) => break noted,
                Ok(Err(error)) if error.is_of_the_row() => {
                    tracing::warn!(%error, outcomes, "the history refuses outcomes");
                    return Err(NotWritten::Refused(error.to_string()));
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => {
                    let why = format!("no answer within {} s", longest.as_secs());
                    longest = (longest * 2).min(LONGEST_TRANSACTION.1);
                    why
                }
            };
            tracing::warn!(error, outcomes, "the history waits for the database");
            if shutdown.is_draining() {
                return Err(NotWritten::Stopped);
            }
            progress(arrived).await;
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RETRY_DELAY.1);
        };
        self.recorded.inc_by(outcomes as u64);
        for (tenant, id, what) in noted {
            match what {
                Noted::Warned => tracing::info!(%tenant, webhook = %id, "a webhook is about to be disabled"),
                Noted::Disabled(reason) => {
                    tracing::info!(%tenant, webhook = %id, reason = reason.name(), "a webhook is disabled");
                }
            }
            self.writer.publish(&tenant, id).await;
        }
        Ok(())
    }

    /// Keeps messages from being given to others while a transaction takes its time; never ends.
    async fn hold(&self, arrived: &[Arrived]) -> Infallible {
        loop {
            tokio::time::sleep(self.queue.limits.ack_wait / 3).await;
            progress(arrived).await;
        }
    }

    /// The history, and what it says of the webhooks.
    async fn keep(&self, arrived: &[Arrived]) -> Result<Vec<(TenantId, WebhookId, Noted)>, StoreError> {
        let messages: Vec<_> = arrived
            .iter()
            .map(|Arrived { sequence, at, outcomes, .. }| Recorded { sequence: *sequence, at: *at, outcomes })
            .collect();
        self.store.record_messages(&messages).await?;
        let outcomes = arrived.iter().flat_map(|part| &part.outcomes);
        self.store.note_attempts(outcomes, self.disable_after, shopery_queue::now()).await
    }
}

fn disposition(written: Result<(), NotWritten>) -> Disposition<'static> {
    match written {
        Ok(()) => Disposition::Done,
        Err(NotWritten::Stopped) => Disposition::Retry(anyhow!("the recorder stops")),
        Err(NotWritten::Refused(why)) => Disposition::Dead { reason: "unrecordable-outcomes", tenant: None, why },
    }
}

/// Begins the messages' `ack_wait` anew.
async fn progress(arrived: &[Arrived]) {
    for part in arrived {
        part.message.message.progress().await;
    }
}
