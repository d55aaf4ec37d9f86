//! Room in PARKED once it is full. Whoever fills it pays: the webhook that has the most jobs parked loses its oldest, which end
//! as `expired`, and what comes for it ends at once. So a job of any other webhook finds room, and no job waits for room while it
//! holds a place that others need.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use shopery_model::{DeliveryState, Fault, Job, JobMeta, Outcome, TenantId, WebhookId};
use shopery_queue::{Parked, ParkedJob, PublishError, Queue, store_outcomes};
use tokio::time::Instant;

use crate::attempt::without_attempt;
use crate::drainer::dead_letter;

/// Jobs that give way at a time.
const BATCH: usize = 256;
/// Times that room is made for one job; a batch of small ones may not be enough for a large one.
const MAX_ROUNDS: usize = 20;
/// How long the webhook that was found to have the most is taken for it.
const LARGEST_KEPT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Room {
    queue: Queue,
    /// One makes room at a time.
    turn: tokio::sync::Mutex<()>,
    largest: Mutex<Option<(Instant, TenantId, WebhookId)>>,
}

/// What became of a job for which there was no room.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Parked,
    /// Its own webhook has the most.
    None,
}

impl Room {
    pub(crate) fn new(queue: Queue) -> Self {
        Self { queue, turn: tokio::sync::Mutex::default(), largest: Mutex::default() }
    }

    /// Parks a job for which PARKED had no room.
    pub(crate) async fn park(&self, job: &Job) -> anyhow::Result<Found> {
        let own = (&job.meta.tenant, job.meta.webhook);
        if self.known_largest().is_some_and(|(tenant, id)| (&tenant, id) == own) {
            return Ok(Found::None);
        }
        let _turn = self.turn.lock().await;
        for _ in 0..MAX_ROUNDS {
            // Another may have made room by now.
            match self.queue.publish(&Parked::message(job)).await {
                Ok(_) => return Ok(Found::Parked),
                Err(PublishError::SubjectFull(_)) => return Ok(Found::None),
                Err(PublishError::Full(_)) => {}
                Err(error) => return Err(error.into()),
            }
            let (tenant, id) = match self.known_largest() {
                Some(largest) => largest,
                None => self.look_for_largest().await?,
            };
            if (&tenant, id) == own {
                return Ok(Found::None);
            }
            self.end_oldest(&tenant, id).await?;
        }
        bail!("PARKED is full, and no room can be made in it")
    }

    fn known_largest(&self) -> Option<(TenantId, WebhookId)> {
        let largest = self.largest.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, tenant, id) = largest.as_ref().filter(|(at, ..)| at.elapsed() < LARGEST_KEPT)?;
        Some((tenant.clone(), *id))
    }

    async fn look_for_largest(&self) -> anyhow::Result<(TenantId, WebhookId)> {
        let counts = Parked::counts(&self.queue).await?;
        let ((tenant, id), count) =
            counts.into_iter().max_by_key(|(_, count)| *count).context("PARKED is full of nothing")?;
        tracing::warn!(%tenant, webhook = %id, count, "PARKED is full; the oldest jobs of the webhook that has the most give way");
        *self.largest.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), tenant.clone(), id));
        Ok((tenant, id))
    }

    async fn end_oldest(&self, tenant: &TenantId, id: WebhookId) -> anyhow::Result<()> {
        let parked = Parked::open(&self.queue, tenant, id).await?;
        let jobs = parked.next(BATCH).await?;
        let Some(last) = jobs.last().map(|job| job.sequence) else {
            *self.largest.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return Ok(());
        };
        let mut outcomes = Vec::with_capacity(jobs.len());
        for ParkedJob { sequence, frame, .. } in jobs {
            match Job::decode(&frame) {
                Ok(job) => outcomes.push(no_room(job.meta)),
                Err(error) => dead_letter(&self.queue, tenant, id, sequence, &frame, &error).await?,
            }
        }
        store_outcomes(&self.queue, "deliverer", &outcomes, self.queue.limits.ack_wait / 3).await?;
        parked.remove_through(last).await
    }
}

/// The end of a job for which there is no room.
pub(crate) fn no_room(job: JobMeta) -> Outcome {
    let why = "the webhook has as many deliveries parked as there is room for";
    without_attempt(job, DeliveryState::Expired, Some((Fault::ParkingFull, why)))
}
