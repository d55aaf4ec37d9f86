//! What EVENTS gives up of one tenant before its time, so that there is room for what others publish.
//!
//! The bucket GIVEN_UP says of a tenant from which place on EVENTS still has all of its events. Without it nobody could
//! tell an event that was given up from one that never was: other tenants' events lie around it.

use std::future::ready;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use shopery_model::{TenantId, escape};
use time::OffsetDateTime;

use crate::feed::{Wanted, header, place};
use crate::{Outgoing, Queue, states, subject, topology};

/// Events that are deleted at the same time.
const AT_ONCE: usize = 64;
/// Of the events that are read to be deleted, at a time.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// That EVENTS holds an event, of whatever tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldEvent {
    pub tenant: TenantId,
    /// About what EVENTS needs for it: its body, subject and headers.
    pub bytes: u64,
}

/// From where on EVENTS has all that it ever stored of a tenant, as far as age and size of the whole allow.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct GivenUp {
    /// Events before this place may be missing.
    pub(crate) before: u64,
    /// So may those that were stored before this time.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) stored_before: OffsetDateTime,
}

#[derive(Debug, Serialize)]
struct Delete {
    seq: u64,
    /// Otherwise the server writes random bytes over it first.
    no_erase: bool,
}

#[derive(Debug, Deserialize)]
struct Deleted {}

impl Queue {
    /// Events that follow one another in EVENTS, of all tenants, from a place on.
    ///
    /// They are asked for one by one: of a batch the server would count what is behind it, of all subjects.
    pub async fn events_from(&self, mut sequence: u64, count: usize) -> anyhow::Result<Vec<HeldEvent>> {
        let mut held = Vec::with_capacity(count);
        for _ in 0..count {
            let Some(answer) = self.get(&states::Wanted::NextFrom { seq: sequence, next_by_subj: "events.>" }).await?
            else {
                break;
            };
            let tenant = header(&answer, "Nats-Subject").and_then(subject::parse_event);
            held.extend(tenant.map(|tenant| HeldEvent { tenant, bytes: answer.length as u64 }));
            sequence = place(&answer)?.0 + 1;
        }
        Ok(held)
    }

    /// How many events EVENTS holds of a tenant; it counts them by subject, and reads one.
    pub async fn count_events(&self, tenant: &TenantId) -> anyhow::Result<u64> {
        let filter = subject::events(tenant, None);
        let (mut first, wanted) = (0, Wanted { seq: Some(1), ..Wanted::of(&filter) });
        let behind = self.batch(&wanted, |_| {
            first += 1;
            Ok(())
        });
        let behind = behind.await?;
        Ok(first + behind)
    }

    /// Deletes the oldest events of a tenant, about `count` of them and none from the place `before` on. Returns how many.
    pub async fn give_up_events(&self, tenant: &TenantId, before: u64, count: usize) -> anyhow::Result<usize> {
        let mut given_up = 0;
        while given_up < count {
            match self.give_up_some(tenant, before, count - given_up).await? {
                0 => break,
                more => given_up += more,
            }
        }
        Ok(given_up)
    }

    async fn give_up_some(&self, tenant: &TenantId, before: u64, count: usize) -> anyhow::Result<usize> {
        let filter = subject::events(tenant, None);
        let wanted = Wanted { seq: Some(1), batch: count, max_bytes: Some(MAX_BYTES), ..Wanted::of(&filter) };
        let (mut places, mut last_at) = (Vec::new(), None);
        self.batch(&wanted, |answer| {
            let (sequence, stored_at) = place(answer)?;
            if sequence < before {
                places.push(sequence);
                last_at = Some(stored_at);
            }
            Ok(())
        })
        .await?;
        let (Some(last), Some(last_at)) = (places.last(), last_at) else { return Ok(0) };
        // First, so that whoever misses one of them is told.
        self.note_given_up(tenant, GivenUp { before: last + 1, stored_before: last_at + Duration::from_nanos(1) })
            .await?;
        let deleted = stream::iter(places.clone())
            .map(|place| self.delete_message(topology::EVENTS, place))
            .buffer_unordered(AT_ONCE);
        let counted = deleted.try_fold(0, |count, deleted| ready(Ok(count + usize::from(deleted))));
        counted.await
    }

    /// Whoever led before, and does not know that it does not lead any more, may have noted more.
    async fn note_given_up(&self, tenant: &TenantId, given_up: GivenUp) -> anyhow::Result<()> {
        let (known, revision) = self.given_up_entry(tenant).await?;
        if known.is_some_and(|known| known.before >= given_up.before) {
            return Ok(());
        }
        let entry = Outgoing::new(key(tenant), serde_json::to_vec(&given_up)?.into()).only_after(revision);
        self.publish(&entry).await.context("cannot write to GIVEN_UP").map(drop)
    }

    /// Returns whether the message was there.
    pub(crate) async fn delete_message(&self, stream: &str, sequence: u64) -> anyhow::Result<bool> {
        let delete = Delete { seq: sequence, no_erase: true };
        let answer = self.jetstream.request(format!("STREAM.MSG.DELETE.{stream}"), &delete).await;
        match answer.with_context(|| format!("cannot delete a message of {stream}"))? {
            Response::Ok(Deleted {}) => Ok(true),
            // The second one is said of what lies before the first message of the stream.
            Response::Err { error }
                if [ErrorCode::SEQUENCE_NOT_FOUND, ErrorCode::STREAM_MESSAGE_DELETE_FAILED]
                    .contains(&error.error_code()) =>
            {
                Ok(false)
            }
            Response::Err { error } => Err(error).with_context(|| format!("cannot delete a message of {stream}")),
        }
    }

    /// What was given up of a tenant, if anything was.
    pub(crate) async fn given_up(&self, tenant: &TenantId) -> anyhow::Result<Option<GivenUp>> {
        Ok(self.given_up_entry(tenant).await?.0)
    }

    /// The same with its revision; 0 if there is none. The leader is asked: a replica may not have the latest.
    async fn given_up_entry(&self, tenant: &TenantId) -> anyhow::Result<(Option<GivenUp>, u64)> {
        let bucket = format!("KV_{}", topology::GIVEN_UP);
        let stream = self.jetstream.get_stream_no_info(bucket).await.context("cannot open GIVEN_UP")?;
        match stream.get_last_raw_message_by_subject(&key(tenant)).await {
            Ok(entry) => {
                let given_up = serde_json::from_slice(&entry.payload).context("an entry of GIVEN_UP does not read")?;
                Ok((Some(given_up), entry.sequence))
            }
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok((None, 0)),
                // A controller of before does not make the bucket, and gives up nothing of one tenant.
                LastRawMessageErrorKind::JetStream(cause) if cause.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    Ok((None, 0))
                }
                _ => Err(error).context("cannot read GIVEN_UP"),
            },
        }
    }
}

fn key(tenant: &TenantId) -> String {
    format!("$KV.{}.{}", topology::GIVEN_UP, escape(tenant.as_str()))
}
