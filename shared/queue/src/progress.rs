//! What a webhook was sent of a resource, where that has to be known for longer than a job lives: the bucket PROGRESS.
//!
//! Two need it. A deletion that was delivered is final, so whoever retries an older delivery of the resource asks whether
//! there was one: only deletions write an entry for that. And a webhook that is `ordered` has an entry for each resource:
//! how far it got, and which attempt is next. Webhooks and events that ask for neither pay nothing.
//!
//! An entry is kept for longer than anything of the resource can wait; then it is forgotten.

use anyhow::Context;
use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use serde::{Deserialize, Serialize};
use shopery_model::{DeliveryId, JobMeta, StateVersion};
use time::OffsetDateTime;

use crate::{Queue, subject};

/// How often a compare-and-set may lose against others.
const MAX_WRITE_ATTEMPTS: usize = 10;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// The newest state that the endpoint has accepted, of an ordered webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<SentState>,
    /// The newest deletion that the endpoint has accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<SentState>,
    /// The delivery that is next, if an attempt of it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<OrderedRetry>,
}

/// A state that the endpoint has accepted, and by which delivery.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SentState {
    pub version: StateVersion,
    pub delivery: DeliveryId,
}

/// The next attempt of an ordered delivery. Its job stays where it is, so that nothing goes ahead of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderedRetry {
    /// As [`JobMeta::key`] names it.
    pub job: String,
    pub attempt: u32,
    #[serde(with = "time::serde::rfc3339")]
    pub failed_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub due_at: OffsetDateTime,
}

impl Progress {
    /// Whether the endpoint has accepted a deletion that is newer than this state.
    pub fn deletion_after(&self, version: StateVersion) -> Option<SentState> {
        self.deletion.filter(|deletion| deletion.version > version)
    }

    /// Whether the next attempt of this job is the one that the entry tells of.
    pub fn is_retry(&self, job: &JobMeta) -> bool {
        self.retry.as_ref().is_some_and(|retry| retry.job == job.key())
    }
}

impl Queue {
    fn progress_bucket(&self) -> &Store {
        &self.buckets.progress
    }

    /// What the webhook of this job was sent of its resource, and the revision of that; nothing if nothing is kept.
    pub async fn progress(&self, job: &JobMeta) -> anyhow::Result<(Progress, u64)> {
        let key = subject::progress_key(&job.tenant, job.webhook, &job.resource);
        let entry = self.progress_bucket().entry(key).await.context("cannot read PROGRESS")?;
        let Some(entry) = entry else { return Ok((Progress::default(), 0)) };
        Ok(match entry.operation {
            Operation::Put => {
                let progress = serde_json::from_slice(&entry.value).context("an entry of PROGRESS does not read")?;
                (progress, entry.revision)
            }
            Operation::Delete | Operation::Purge => (Progress::default(), entry.revision),
        })
    }

    /// Changes the entry of this job's webhook and resource by compare-and-set, so that two deliverers lose nothing of
    /// each other's.
    pub async fn update_progress(&self, job: &JobMeta, change: impl Fn(&mut Progress)) -> anyhow::Result<Progress> {
        let key = subject::progress_key(&job.tenant, job.webhook, &job.resource);
        for _ in 0..MAX_WRITE_ATTEMPTS {
            let (before, revision) = self.progress(job).await?;
            let mut after = before.clone();
            change(&mut after);
            if after == before {
                return Ok(after);
            }
            let value = serde_json::to_vec(&after)?;
            match self.progress_bucket().update(key.as_str(), value.into(), revision).await {
                Ok(_) => return Ok(after),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
                Err(error) => return Err(error).context("cannot write PROGRESS"),
            }
        }
        anyhow::bail!("others change the entry {key} of PROGRESS all the time")
    }
}

/// The newer of two.
pub fn newest(known: Option<SentState>, state: SentState) -> SentState {
    known.filter(|known| known.version > state.version).unwrap_or(state)
}
