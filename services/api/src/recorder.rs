//! The recorder: moves outcomes from OUTCOMES into the history, many at a time.
//!
//! Invariant: a message is acknowledged after its outcomes are committed. While the database is away they stay in
//! OUTCOMES; deliveries go on without it.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use shopery_model::{Outcome, TenantId, WebhookId};
use shopery_queue::{Dead, Intake, Queue, Taken};
use shopery_runtime::{Runtime, Shutdown};
use shopery_store::{DisabledReason, Recorded, Store, StoreError};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::publicist::Publicist;

/// Messages that may wait here; each has up to 256 outcomes.
pub(crate) const SLOTS: usize = 32;
/// Outcomes in one transaction.
const BATCH: usize = 2000;
/// How long a transaction waits for more outcomes.
const LINGER: Duration = Duration::from_millis(5);
/// Tries before a message that a working database does not take is put aside.
const TRIES: usize = 3;

struct Recorder {
    queue: Queue,
    store: Store,
    publicist: Publicist,
    recorded: Counter,
    /// How long every attempt of a webhook may fail until it is disabled; `None`: for ever.
    patience: Option<Duration>,
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
    publicist: Publicist,
    patience: Option<Duration>,
    runtime: &Runtime,
) -> anyhow::Result<()> {
    let recorded = runtime.metrics.register("outcomes_recorded", "Outcomes written to the history", Counter::default());
    let recorder = Recorder { queue: queue.clone(), store, publicist, recorded, patience };
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
    queue.client.flush().await.ok();
    Ok(())
}

impl Recorder {
    async fn read(&self, message: Taken) -> Option<Arrived> {
        let (sequence, at) = match message.message.stored() {
            Ok(stored) => (stored.sequence, stored.at),
            Err(error) => {
                tracing::warn!(%error, "outcomes came from nowhere; they come again");
                return None;
            }
        };
        match serde_json::from_slice(message.message.payload()) {
            Ok(outcomes) => Some(Arrived { message, sequence, at, outcomes }),
            Err(error) => {
                self.bury("undecodable-outcomes", &message, &error.to_string()).await;
                None
            }
        }
    }

    /// Records everything together; if the database works but does not take it, message by message.
    async fn record(&self, arrived: Vec<Arrived>, shutdown: &Shutdown) {
        let Err(error) = self.write(&arrived, shutdown).await else { return };
        tracing::warn!(error, "the history does not take a batch of outcomes; trying its messages one by one");
        for part in arrived {
            let part = [part];
            if let Err(error) = self.write(&part, shutdown).await {
                self.bury("unrecordable-outcomes", &part[0].message, &error).await;
            }
        }
    }

    /// Writes outcomes, waiting for the database as long as it takes, and acknowledges. Fails if the database answers
    /// but refuses the rows.
    async fn write(&self, arrived: &[Arrived], shutdown: &Shutdown) -> Result<(), String> {
        let outcomes: usize = arrived.iter().map(|part| part.outcomes.len()).sum();
        let (mut refusals, mut pause) = (0, Duration::from_millis(100));
        let disabled = loop {
            let error = match self.keep(arrived).await {
                Ok(disabled) => break disabled,
                Err(error) => error,
            };
            if self.store.ping().await.is_ok() {
                refusals += 1;
                if refusals == TRIES {
                    return Err(error.to_string());
                }
            } else {
                tracing::warn!(%error, outcomes, "the history waits for the database");
            }
            if shutdown.is_draining() {
                return Ok(());
            }
            for part in arrived {
                part.message.message.progress().await;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        };
        self.recorded.inc_by(outcomes as u64);
        for (tenant, id, reason) in disabled {
            tracing::info!(%tenant, webhook = %id, reason = reason.name(), "a webhook is disabled");
            self.publicist.publish_disabled(&tenant, id).await;
        }
        for part in arrived {
            part.message.message.ack().await;
        }
        Ok(())
    }

    /// The history, and what it says of the webhooks.
    async fn keep(&self, arrived: &[Arrived]) -> Result<Vec<(TenantId, WebhookId, DisabledReason)>, StoreError> {
        let messages: Vec<_> = arrived
            .iter()
            .map(|Arrived { sequence, at, outcomes, .. }| Recorded { sequence: *sequence, at: *at, outcomes })
            .collect();
        self.store.record_messages(&messages).await?;
        let outcomes = arrived.iter().flat_map(|part| &part.outcomes);
        self.store.note_attempts(outcomes, self.patience, OffsetDateTime::now_utc()).await
    }

    async fn bury(&self, reason: &str, message: &Taken, why: &str) {
        let message = &message.message;
        let buried = async {
            let sequence = message.stored()?.sequence;
            let dead = Dead::new(message.subject(), why, message.payload());
            self.queue.bury(reason, None, format!("outcomes:{sequence}"), &dead).await?;
            message.ack().await;
            anyhow::Ok(())
        };
        if let Err(error) = buried.await {
            tracing::warn!("cannot put outcomes on DEAD; they come again: {error:#}");
        }
    }
}
