//! A look at RETRY: what is scheduled on a subject, and what is scheduled at all.
//!
//! The second is a batched direct get (ADR-31), which any replica of the stream answers. One that lags behind the leader
//! may still show what has fired, so whoever acts on an answer lets the leader check it ([`Outgoing::only_after`]).

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{DeleteMessageError, DeleteMessageErrorKind, LastRawMessageErrorKind, Stream};
use async_nats::{HeaderMap, Message, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{Outgoing, PublishError, Queue, topology, trace};

/// Schedules, and about so many bytes, that are read at a time.
const PAGE: usize = 256;
const PAGE_BYTES: usize = 4 * 1024 * 1024;
const NEVER: OffsetDateTime = time::macros::datetime!(9999-12-31 0:00 UTC);
/// Schedules that are removed at a time.
const REMOVALS: usize = 64;
/// What a broken connection has swallowed never comes.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A scheduled message that has not fired.
#[derive(Debug)]
pub struct Schedule {
    pub sequence: u64,
    pub stored_at: OffsetDateTime,
    pub due_at: OffsetDateTime,
    message: Outgoing,
}

impl Schedule {
    /// The job that is scheduled; nothing for a timer.
    pub fn frame(&self) -> &Bytes {
        &self.message.body
    }
}

impl Queue {
    /// The schedule on this subject of RETRY, or `None` if it has fired. The leader answers, so what was acknowledged is
    /// seen.
    pub async fn scheduled(&self, subject: &str) -> anyhow::Result<Option<Schedule>> {
        let retry = self.jetstream.get_stream_no_info(topology::RETRY).await?;
        match retry.get_last_raw_message_by_subject(subject).await {
            Ok(StreamMessage { sequence, time, payload, headers, .. }) => {
                schedule(subject, (sequence, time), payload, &headers).map(Some)
            }
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(error).context("cannot read RETRY"),
        }
    }

    /// Some schedules on these subjects, which may hold wildcards, from this place of RETRY on, in the order in which they were stored; none if there are no more.
    pub async fn schedules(&self, subjects: &str, from: u64) -> anyhow::Result<Vec<Schedule>> {
        tokio::time::timeout(READ_TIMEOUT, self.read_schedules(subjects, from))
            .await
            .context("RETRY does not answer")?
    }

    async fn read_schedules(&self, subjects: &str, from: u64) -> anyhow::Result<Vec<Schedule>> {
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.context("cannot read RETRY")?;
        let wanted = serde_json::json!({
            "seq": from.max(1), "next_by_subj": subjects, "batch": PAGE, "max_bytes": PAGE_BYTES,
        });
        let subject = format!("$JS.API.DIRECT.GET.{}", topology::RETRY);
        self.client.publish_with_reply(subject, inbox, wanted.to_string().into()).await.context("cannot read RETRY")?;
        let mut schedules = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer.status {
                None => schedules.push(read(answer)?),
                // 204 ends a page.
                Some(StatusCode::NOT_FOUND) => return Ok(schedules),
                Some(status) if status.as_u16() == 204 => return Ok(schedules),
                Some(status) => bail!("RETRY answers {status}: {}", answer.description.unwrap_or_default()),
            }
        }
        bail!("the connection was closed")
    }

    /// Removes schedules. One that has fired meanwhile is gone already.
    pub async fn remove_schedules(&self, schedules: &[Schedule]) -> anyhow::Result<()> {
        let stream = self.jetstream.get_stream_no_info(topology::RETRY).await.context("cannot open RETRY")?;
        for part in schedules.chunks(REMOVALS) {
            for removed in join_all(part.iter().map(|schedule| delete(&stream, schedule.sequence))).await {
                removed.context("cannot delete from RETRY")?;
            }
        }
        Ok(())
    }

    /// Publishes a schedule again, for the time that it had; one that is overdue fires at once. False if it has fired,
    /// or was replaced, in the meantime.
    pub async fn reschedule(&self, schedule: Schedule) -> Result<bool, PublishError> {
        match self.publish(&schedule.message.only_after(schedule.sequence)).await {
            Ok(_) => Ok(true),
            Err(PublishError::Overtaken(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Deletes a message that may be gone already.
pub(crate) async fn delete(stream: &Stream<()>, sequence: u64) -> Result<(), DeleteMessageError> {
    match stream.delete_message(sequence).await {
        Err(error) => match error.kind() {
            DeleteMessageErrorKind::JetStream(why) if why.error_code() == ErrorCode::SEQUENCE_NOT_FOUND => Ok(()),
            _ => Err(error),
        },
        Ok(_) => Ok(()),
    }
}

fn read(answer: Message) -> anyhow::Result<Schedule> {
    let headers = answer.headers.unwrap_or_default();
    let sequence = header(&headers, "Nats-Sequence")?.parse().context("RETRY gave no sequence")?;
    let stored_at = OffsetDateTime::parse(header(&headers, "Nats-Time-Stamp")?, &Rfc3339)?;
    schedule(header(&headers, "Nats-Subject")?, (sequence, stored_at), answer.payload, &headers)
}

fn schedule(
    subject: &str,
    (sequence, stored_at): (u64, OffsetDateTime),
    body: Bytes,
    headers: &HeaderMap,
) -> anyhow::Result<Schedule> {
    let due = headers.get("Nats-Schedule").and_then(|due| due.as_str().strip_prefix("@at "));
    // We write no other form; what has another is never overdue.
    let due_at = due.and_then(|due| OffsetDateTime::parse(due, &Rfc3339).ok()).unwrap_or(NEVER);
    let target = headers.get("Nats-Schedule-Target").map(|target| target.as_str().to_owned()).unwrap_or_default();
    let mut message = Outgoing::new(subject.to_owned(), body).scheduled(due_at, target);
    let traceparent = headers.get(trace::TRACEPARENT).map(|value| (trace::TRACEPARENT, value.as_str().to_owned()));
    message.headers.extend(traceparent);
    Ok(Schedule { sequence, stored_at, due_at, message })
}

fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> anyhow::Result<&'a str> {
    Ok(headers.get(name).with_context(|| format!("a message of RETRY has no {name}"))?.as_str())
}
