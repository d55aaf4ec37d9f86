//! A tenant's events in the order of EVENTS, for whoever pulls them.
//!
//! They are read in batches of direct gets (ADR-31), which need no consumer and are answered by any replica of the
//! stream. One that lags behind the leader ends sooner: what is missing comes with the next look.

mod reverse;

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::Message;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Serialize;
use shopery_model::{Event, TenantId};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use self::reverse::ReverseFeed;
use crate::states::REPUBLISHED;
use crate::{Queue, subject, topology};

/// The answer to a batch that a broken connection has swallowed never comes.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FeedStart {
    /// At this place of EVENTS, or at the first one behind it.
    At(u64),
    /// At the first event that was stored at this time or later.
    Since(OffsetDateTime),
}

/// A part of a tenant's events.
#[derive(Debug)]
pub struct Feed {
    pub events: Vec<StoredEvent>,
    /// When the first that was looked at was stored.
    pub first_at: Option<OffsetDateTime>,
    /// The place behind what was looked at; `None` if there was nothing.
    pub next: Option<u64>,
    /// Nothing is left behind it now.
    pub is_end: bool,
}

#[derive(Debug)]
pub struct StoredEvent {
    pub sequence: u64,
    pub stored_at: OffsetDateTime,
    pub event: Event,
}

/// What EVENTS holds of all that it ever had of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The oldest place from which on it holds everything, or the next one that it will give.
    first: u64,
    last: u64,
    /// The time before which events have been removed; `None` if none ever was.
    removed_before: Option<OffsetDateTime>,
}

impl Held {
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The last place that it has given, to whichever tenant.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Whether events at or behind this start may have been removed.
    pub fn is_short_of(&self, start: FeedStart) -> bool {
        match start {
            FeedStart::At(sequence) => sequence < self.first,
            FeedStart::Since(time) => self.removed_before.is_some_and(|removed| time < removed),
        }
    }
}

/// A batch, as ADR-31 asks for it.
#[derive(Debug, Serialize)]
pub(crate) struct Wanted<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<u64>,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub(crate) start_time: Option<OffsetDateTime>,
    pub(crate) next_by_subj: &'a str,
    pub(crate) batch: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_bytes: Option<usize>,
}

impl<'a> Wanted<'a> {
    /// One message of these subjects.
    pub(crate) fn of(subjects: &'a str) -> Self {
        Self { seq: None, start_time: None, next_by_subj: subjects, batch: 1, max_bytes: None }
    }

    /// The first message of these subjects from there on.
    fn from_start(start: FeedStart, subjects: &'a str) -> Self {
        let wanted = Self::of(subjects);
        match start {
            FeedStart::At(sequence) => Self { seq: Some(sequence.max(1)), ..wanted },
            FeedStart::Since(time) => Self { start_time: Some(time), ..wanted },
        }
    }
}

impl Queue {
    /// The tenant's next events, of one kind of resource if that is given: at most `count` of them, and few more than
    /// `bytes`.
    pub async fn feed(
        &self,
        tenant: &TenantId,
        kind: Option<&str>,
        start: FeedStart,
        count: usize,
        bytes: usize,
    ) -> anyhow::Result<Feed> {
        let filter = subject::events(tenant, kind);
        let wanted = Wanted { batch: count, max_bytes: Some(bytes), ..Wanted::from_start(start, &filter) };
        let mut feed = Feed { events: Vec::new(), first_at: None, next: None, is_end: false };
        let behind = self.batch(&wanted, |answer| {
            let (sequence, stored_at, event) = read(answer, tenant)?;
            feed.first_at.get_or_insert(stored_at);
            feed.next = Some(sequence + 1);
            feed.events.extend(event.map(|event| StoredEvent { sequence, stored_at, event }));
            Ok(())
        });
        let behind = behind.await?;
        Ok(Feed { is_end: behind == 0, ..feed })
    }

    /// Reads a batch; returns how many of these messages EVENTS holds behind it.
    pub(crate) async fn batch(
        &self,
        wanted: &Wanted<'_>,
        mut each: impl FnMut(&Message) -> anyhow::Result<()>,
    ) -> anyhow::Result<u64> {
        let read = async {
            let inbox = self.client.new_inbox();
            // Dropping it ends the subscription.
            let mut answers = self.client.subscribe(inbox.clone()).await.context("cannot hear EVENTS")?;
            let subject = format!("$JS.API.DIRECT.GET.{}", topology::EVENTS);
            let request = Bytes::from(serde_json::to_vec(wanted)?);
            self.client.publish_with_reply(subject, inbox, request).await.context("cannot ask EVENTS")?;
            while let Some(answer) = answers.next().await {
                if let Some(behind) = end(&answer)? {
                    return Ok(behind);
                }
                each(&answer)?;
            }
            bail!("the connection ended while EVENTS answered")
        };
        tokio::time::timeout(TIMEOUT, read).await.context("EVENTS does not answer")?
    }

    /// When EVENTS stored the oldest event that it holds of this tenant.
    pub async fn oldest_event(&self, tenant: &TenantId) -> anyhow::Result<Option<OffsetDateTime>> {
        Ok(self.feed(tenant, None, FeedStart::At(1), 1, 1).await?.first_at)
    }

    /// What EVENTS holds of a tenant's events.
    pub async fn held(&self, tenant: &TenantId) -> anyhow::Result<Held> {
        let stream = self.jetstream.get_stream(topology::EVENTS).await.context("cannot look at EVENTS")?;
        let state = &stream.cached_info().state;
        let removed_before = match state.first_sequence {
            0 | 1 => None,
            // All of it has been removed.
            _ if state.messages == 0 => Some(state.last_timestamp + Duration::from_nanos(1)),
            _ => Some(state.first_timestamp),
        };
        let given_up = self.given_up(tenant).await?;
        Ok(Held {
            last: state.last_sequence,
            first: state.first_sequence.max(given_up.map_or(0, |given_up| given_up.before)),
            removed_before: removed_before.max(given_up.map(|given_up| given_up.stored_before)),
        })
    }
}

/// If the batch ends here: how many messages are behind it.
fn end(answer: &Message) -> anyhow::Result<Option<u64>> {
    match answer.status.map(|status| status.as_u16()) {
        None => Ok(None),
        Some(204) => {
            let behind = header(answer, "Nats-Num-Pending").and_then(|text| text.parse().ok());
            behind.context("EVENTS does not say what is left").map(Some)
        }
        Some(404) => Ok(Some(0)),
        Some(status) => bail!("EVENTS answers {status}: {}", answer.description.as_deref().unwrap_or_default()),
    }
}

/// The event of a message, with its place and time; `None` for what is no event to show.
fn read(answer: &Message, tenant: &TenantId) -> anyhow::Result<(u64, OffsetDateTime, Option<Event>)> {
    let header = |name| header(answer, name);
    let (sequence, stored_at) = place(answer)?;
    if header("Nats-Subject").and_then(subject::parse_event).as_ref() != Some(tenant) {
        bail!("EVENTS gave an event at {sequence} that is another tenant's");
    }
    if header(REPUBLISHED).is_some() {
        return Ok((sequence, stored_at, None));
    }
    let event = Event::parse_stored(&answer.payload, stored_at);
    // What does not read cannot have come through ingest; the router has put it on DEAD.
    Ok((sequence, stored_at, event.ok()))
}

/// Where EVENTS holds it, and since when.
pub(crate) fn place(answer: &Message) -> anyhow::Result<(u64, OffsetDateTime)> {
    let sequence = header(answer, "Nats-Sequence").and_then(|text| text.parse().ok());
    let stored_at = header(answer, "Nats-Time-Stamp").and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    Ok((sequence.context("EVENTS gave no sequence")?, stored_at.context("EVENTS gave no time")?))
}

pub(crate) fn header<'a>(answer: &'a Message, name: &str) -> Option<&'a str> {
    answer.headers.as_ref()?.get(name).map(|value| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn a_batch_is_asked_for_as_adr_31_has_it() {
        let wanted = Wanted {
            start_time: Some(datetime!(2026-11-24 10:00 UTC)),
            batch: 7,
            max_bytes: Some(9),
            ..Wanted::of("events.t.>")
        };
        assert_eq!(
            serde_json::to_string(&wanted).unwrap(),
            r#"{"start_time":"2026-11-24T10:00:00Z","next_by_subj":"events.t.>","batch":7,"max_bytes":9}"#
        );
    }

    #[test]
    fn what_is_no_longer_held_is_known() {
        let removed = datetime!(2026-11-24 10:00 UTC);
        let (before, after) = (removed - Duration::from_secs(1), removed);
        let held = Held { first: 7, last: 9, removed_before: Some(removed) };
        for (start, is_short) in [
            (FeedStart::At(6), true),
            (FeedStart::At(7), false),
            (FeedStart::Since(before), true),
            (FeedStart::Since(after), false),
        ] {
            assert_eq!(held.is_short_of(start), is_short, "{start:?}");
        }
        let all = Held { first: 1, last: 9, removed_before: None };
        assert!(!all.is_short_of(FeedStart::Since(before)) && !all.is_short_of(FeedStart::At(1)));
    }
}
