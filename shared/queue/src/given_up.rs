//! What EVENTS gives up of one tenant before its time, so that there is room for what others publish.
//!
//! The bucket GIVEN_UP says of a tenant from which place on EVENTS still has all of its events. Without it nobody could
//! tell an event that was given up from one that never was: other tenants' events lie around it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::client::RequestErrorKind;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::response::Response;
use async_nats::{Message, StatusCode};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use shopery_model::{TenantId, escape};
use time::OffsetDateTime;

use crate::feed::{Wanted, header, place};
use crate::{Outgoing, Queue, subject, topology};

/// Events that are deleted at the same time.
const AT_ONCE: usize = 64;

/// That EVENTS holds an event, of whatever tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldEvent {
    pub tenant: TenantId,
    /// Of its message.
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
    pub async fn events_from(&self, sequence: u64, count: usize) -> anyhow::Result<Vec<HeldEvent>> {
        let wanted = Wanted { seq: Some(sequence), batch: count, ..Wanted::of("events.>") };
        let mut held = Vec::with_capacity(count);
        self.batch(&wanted, |answer| {
            let tenant = header(answer, "Nats-Subject").and_then(subject::parse_event);
            held.extend(tenant.map(|tenant| HeldEvent { tenant, bytes: answer.payload.len() as u64 }));
            Ok(())
        })
        .await?;
        Ok(held)
    }

    /// How many events EVENTS holds of a tenant; it counts them by subject, and reads none.
    pub async fn count_events(&self, tenant: &TenantId) -> anyhow::Result<u64> {
        let filter = subject::events(tenant, None);
        let (mut first, wanted) = (0, Wanted { seq: Some(1), batch: 1, ..Wanted::of(&filter) });
        let behind = self.batch(&wanted, |_| {
            first += 1;
            Ok(())
        });
        let behind = behind.await?;
        Ok(first + behind)
    }

    /// Deletes the oldest events of a tenant, at most `count` of them and none from the place `before` on. Returns how
    /// many.
    pub async fn give_up_events(&self, tenant: &TenantId, before: u64, count: usize) -> anyhow::Result<usize> {
        let filter = subject::events(tenant, None);
        let wanted = Wanted { seq: Some(1), batch: count, ..Wanted::of(&filter) };
        let (mut places, mut last_at) = (Vec::with_capacity(count), None);
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
        let given_up = GivenUp { before: last + 1, stored_before: last_at + Duration::from_nanos(1) };
        let entry = Outgoing::new(key(tenant), serde_json::to_vec(&given_up)?.into());
        self.publish(&entry).await.context("cannot write to GIVEN_UP")?;
        let deleted = stream::iter(places.clone())
            .map(|place| self.delete_message(topology::EVENTS, place))
            .buffer_unordered(AT_ONCE);
        deleted.try_for_each(|()| std::future::ready(Ok(()))).await?;
        Ok(places.len())
    }

    pub(crate) async fn delete_message(&self, stream: &str, sequence: u64) -> anyhow::Result<()> {
        let delete = Delete { seq: sequence, no_erase: true };
        let answer = self.jetstream.request(format!("STREAM.MSG.DELETE.{stream}"), &delete).await;
        match answer.with_context(|| format!("cannot delete a message of {stream}"))? {
            Response::Ok(Deleted {}) => Ok(()),
            // It was deleted meanwhile.
            Response::Err { error } if error.error_code() == ErrorCode::SEQUENCE_NOT_FOUND => Ok(()),
            Response::Err { error } => Err(error).with_context(|| format!("cannot delete a message of {stream}")),
        }
    }

    /// What was given up of a tenant, if anything was.
    pub(crate) async fn given_up(&self, tenant: &TenantId) -> anyhow::Result<Option<GivenUp>> {
        let request = Bytes::from(serde_json::to_vec(&serde_json::json!({ "last_by_subj": key(tenant) }))?);
        let answer = self.client.request(format!("$JS.API.DIRECT.GET.KV_{}", topology::GIVEN_UP), request).await;
        let answer: Message = match answer {
            Ok(answer) => answer,
            // A controller of before does not make the bucket, and gives up nothing of one tenant.
            Err(error) if error.kind() == RequestErrorKind::NoResponders => return Ok(None),
            Err(error) => return Err(error).context("cannot read GIVEN_UP"),
        };
        match answer.status {
            None => serde_json::from_slice(&answer.payload).map(Some).context("an entry of GIVEN_UP does not read"),
            Some(StatusCode::NOT_FOUND) => Ok(None),
            Some(status) => bail!("GIVEN_UP answers {status}"),
        }
    }
}

fn key(tenant: &TenantId) -> String {
    format!("$KV.{}.{}", topology::GIVEN_UP, escape(tenant.as_str()))
}
