//! The states of a resource: EVENTS keeps them in order under the resource's subject.
//!
//! They are read with direct gets, which any replica of the stream answers. One that lags behind the leader may not
//! have the newest messages yet, so an answer is the latest state that this replica knows.

use anyhow::{Context as _, bail};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageError, LastRawMessageErrorKind};
use async_nats::{Message, StatusCode};
use bytes::Bytes;
use serde::Serialize;
use shopery_model::{Event, PayloadEvent, StateVersion, TenantId};
use shopery_runtime::Shutdown;
use time::OffsetDateTime;

use crate::connection::{LEADER_TIMEOUT, retry_until_deadline};
use crate::feed::{header, place};
use crate::{Queue, subject, topology};

/// Marks a state that the router has published again behind a late one; it is no event of its own. It says where EVENTS
/// had it before, and since when in nanoseconds, so that it keeps its version.
pub const REPUBLISHED: &str = "Shopery-Restated";

/// The value of [`REPUBLISHED`].
pub fn republished(version: StateVersion) -> String {
    format!("{} {}", version.sequence(), version.stored_at().unix_timestamp_nanos())
}

fn parse_republished(text: &str) -> Option<(u64, OffsetDateTime)> {
    let (sequence, nanos) = text.split_once(' ')?;
    Some((sequence.parse().ok()?, OffsetDateTime::from_unix_timestamp_nanos(nanos.parse().ok()?).ok()?))
}

/// Messages that are read of a subject to find its newest states, from the last one back. What lies further back than so
/// many late events and deletions is not worth the requests.
const MAX_STEPS_BACK: usize = 32;

/// One state of a resource.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Whose it is.
    pub tenant: TenantId,
    /// Where EVENTS holds it, and since when.
    pub sequence: u64,
    pub stored_at: OffsetDateTime,
    /// Where it stands among the states of its resource.
    pub version: StateVersion,
    pub event: Event,
}

impl State {
    /// Whose state it is, as a delivery says it.
    pub fn payload_event(&self) -> PayloadEvent {
        PayloadEvent { source: self.event.source.clone(), id: self.event.id.clone(), version: self.version }
    }

    /// No state that was stored before this one is newer than that: none counts as being of later than it was stored.
    fn newest_before(&self) -> StateVersion {
        StateVersion::of(self.stored_at, self.stored_at, self.sequence)
    }

    /// Whether a router has published it again, because it was the newest of all that came before.
    fn is_republished(&self) -> bool {
        self.version.sequence() != self.sequence
    }
}

/// The states that are newer than a given one, in no order.
#[derive(Debug, Default)]
pub struct NewerStates(Vec<State>);

impl NewerStates {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn newest(&self) -> Option<&State> {
        self.newest_that(|_| true)
    }

    pub fn newest_that(&self, is: impl Fn(&Event) -> bool) -> Option<&State> {
        self.0.iter().filter(|state| is(&state.event)).max_by_key(|state| state.version)
    }

    /// Adds a state that was found otherwise.
    pub fn add(&mut self, state: State) {
        if self.0.iter().all(|known| known.version != state.version) {
            self.0.push(state);
        }
    }
}

impl From<Vec<State>> for NewerStates {
    fn from(states: Vec<State>) -> Self {
        Self(states)
    }
}

/// What a direct get asks for (ADR-31).
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Wanted<'a> {
    Sequence { seq: u64 },
    Last { last_by_subj: &'a str },
    NextFrom { seq: u64, next_by_subj: &'a str },
    LastUpTo { multi_last: [&'a str; 1], up_to_seq: u64 },
}

impl Queue {
    /// The last state of a resource, named as [`shopery_model::JobMeta`] has it: `order/ord_123`. That is the newest one,
    /// unless a late event came just now. `None` if EVENTS no longer has any.
    pub async fn latest_state(&self, tenant: &TenantId, resource: &str) -> anyhow::Result<Option<State>> {
        let subject = subject::states(tenant, resource).context("the resource has no subject")?;
        self.state(&Wanted::Last { last_by_subj: &subject }).await
    }

    /// The same, asked of the leader of the stream: a replica may not have the newest yet.
    pub async fn latest_state_of_leader(&self, tenant: &TenantId, resource: &str) -> anyhow::Result<Option<State>> {
        let subject = subject::states(tenant, resource).context("the resource has no subject")?;
        let events = self.jetstream.get_stream_no_info(topology::EVENTS).await.context("cannot open EVENTS")?;
        read_of_leader(events.get_last_raw_message_by_subject(&subject).await)
    }

    /// The state that a resource had before the event at `sequence`.
    pub async fn previous_state(
        &self,
        tenant: &TenantId,
        resource: &str,
        sequence: u64,
    ) -> anyhow::Result<Option<State>> {
        let subject = subject::states(tenant, resource).context("the resource has no subject")?;
        Ok(self.previous(&subject, sequence).await?.and_then(|answer| readable(&answer)))
    }

    /// Where EVENTS holds what came for a resource before the place `sequence`, whether it reads or not.
    pub async fn previous_place(
        &self,
        tenant: &TenantId,
        resource: &str,
        sequence: u64,
    ) -> anyhow::Result<Option<u64>> {
        let subject = subject::states(tenant, resource).context("the resource has no subject")?;
        Ok(self
            .previous(&subject, sequence)
            .await?
            .map(|answer| place(&answer))
            .transpose()?
            .map(|(sequence, _)| sequence))
    }

    /// The server walks back through the blocks of EVENTS for it, all of them if there is none: milliseconds where EVENTS
    /// has a few hundred megabytes. So it is asked for the first message before, which it finds at once.
    async fn previous(&self, subject: &str, sequence: u64) -> anyhow::Result<Option<Message>> {
        let first = self.get(&Wanted::NextFrom { seq: 1, next_by_subj: subject }).await?;
        if first.as_ref().map(place).transpose()?.is_none_or(|(first, _)| first >= sequence) {
            return Ok(None);
        }
        // The answer is a batch of at most one message; what ends the batch finds nobody waiting any more.
        self.get(&Wanted::LastUpTo { multi_last: [subject], up_to_seq: sequence - 1 }).await
    }

    /// The states of a resource that are newer than a given one, as far as they matter: from the last one back, until there
    /// can be none before that is newer, and is wanted. Only what lies in EVENTS after the place `after` is looked at, and
    /// before the place `before` if there is one.
    ///
    /// As a rule that is one request where nothing came after, and three where something did: no state is newer than the
    /// time of its storing. Behind late ones lies the newest one, published again, once a router has processed them;
    /// correctness does not depend on when that happens.
    pub async fn newer_states(
        &self,
        tenant: &TenantId,
        resource: &str,
        than: StateVersion,
        after: u64,
        before: Option<u64>,
        is_wanted: impl Fn(&Event) -> bool,
    ) -> anyhow::Result<NewerStates> {
        let subject = subject::states(tenant, resource).context("the resource has no subject")?;
        let mut next = match before {
            Some(sequence) => self.previous(&subject, sequence).await?,
            None => self.get(&Wanted::Last { last_by_subj: &subject }).await?,
        };
        let (mut newer, mut newest) = (Vec::new(), than);
        for step in 1..=MAX_STEPS_BACK {
            let Some(answer) = next.take() else { break };
            let (sequence, _) = place(&answer)?;
            if let Some(state) = readable(&answer) {
                let is_wanted = is_wanted(&state.event);
                let is_newest = state.is_republished() && (state.version <= than || is_wanted);
                let newest_before = state.newest_before();
                if state.version > than {
                    if is_wanted {
                        newest = newest.max(state.version);
                    }
                    newer.push(state);
                }
                if is_newest || newest_before <= newest {
                    break;
                }
            }
            if sequence <= after || step == MAX_STEPS_BACK {
                break;
            }
            next = self.previous(&subject, sequence).await?;
        }
        Ok(NewerStates(newer))
    }

    /// When the last event was stored, by the clock of NATS; `None` if there never was one.
    pub async fn last_stored_at(&self, shutdown: &Shutdown) -> anyhow::Result<Option<OffsetDateTime>> {
        let mut jetstream = self.jetstream.clone();
        jetstream.set_timeout(LEADER_TIMEOUT);
        let look = || async {
            let events = jetstream.get_stream(topology::EVENTS).await.context("cannot look at EVENTS")?;
            let state = &events.cached_info().state;
            Ok((state.last_sequence > 0).then_some(state.last_timestamp))
        };
        retry_until_deadline(shutdown, look).await
    }

    /// The state at a place in EVENTS.
    pub async fn state_at(&self, sequence: u64) -> anyhow::Result<Option<State>> {
        self.state(&Wanted::Sequence { seq: sequence }).await
    }

    /// The state at a place in EVENTS that has been acknowledged: a replica that does not have it yet is not believed,
    /// the stream's leader is asked then. `None` if EVENTS no longer holds it.
    pub async fn acknowledged_state_at(&self, sequence: u64) -> anyhow::Result<Option<State>> {
        if let Some(state) = self.state_at(sequence).await? {
            return Ok(Some(state));
        }
        let events = self.jetstream.get_stream_no_info(topology::EVENTS).await.context("cannot open EVENTS")?;
        read_of_leader(events.get_raw_message(sequence).await)
    }

    async fn state(&self, wanted: &Wanted<'_>) -> anyhow::Result<Option<State>> {
        Ok(self.get(wanted).await?.and_then(|answer| readable(&answer)))
    }

    pub(crate) async fn get(&self, wanted: &Wanted<'_>) -> anyhow::Result<Option<Message>> {
        let request = Bytes::from(serde_json::to_vec(wanted)?);
        let subject = format!("$JS.API.DIRECT.GET.{}", topology::EVENTS);
        // The connection's own timeout bounds the wait.
        let answer = self.client.request(subject, request).await.context("cannot read EVENTS")?;
        match answer.status {
            None => Ok(Some(answer)),
            Some(StatusCode::NOT_FOUND) => Ok(None),
            Some(status) => bail!("EVENTS answers {status}: {}", answer.description.as_deref().unwrap_or_default()),
        }
    }
}

/// Whoever stored it may be of a newer version, and what came before still holds. If nobody can read it, it is on DEAD by
/// then: a router has met it.
fn readable(answer: &Message) -> Option<State> {
    read(answer).inspect_err(|error| tracing::debug!("a state is passed over: {error:#}")).ok()
}

fn read(answer: &Message) -> anyhow::Result<State> {
    let subject = header(answer, "Nats-Subject").unwrap_or_default();
    State::read(subject, place(answer)?, header(answer, REPUBLISHED), &answer.payload)
}

/// A message that the leader of EVENTS was asked for.
fn read_of_leader(answer: Result<StreamMessage, LastRawMessageError>) -> anyhow::Result<Option<State>> {
    match answer {
        Ok(message) => {
            let republished = message.headers.get(REPUBLISHED).map(|value| value.as_str());
            let place = (message.sequence, message.time);
            State::read(&message.subject, place, republished, &message.payload).map(Some)
        }
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(error).context("cannot read EVENTS"),
    }
}

impl State {
    fn read(
        subject: &str,
        (sequence, stored_at): (u64, OffsetDateTime),
        republished: Option<&str>,
        payload: &Bytes,
    ) -> anyhow::Result<Self> {
        let tenant = subject::parse_event(subject).context("EVENTS gave no tenant")?;
        // One that says no place was published again by a router of before.
        let (of, at) = republished.and_then(parse_republished).unwrap_or((sequence, stored_at));
        match Event::parse_stored(payload, at) {
            Ok(event) => Ok(Self { tenant, sequence, stored_at, version: event.version(at, of), event }),
            Err(wrong) => bail!("the event at {sequence} does not read: {wrong:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_is_published_again_keeps_its_version() {
        let at = time::macros::datetime!(2026-11-24 10:00:00.123456789 UTC);
        let event =
            br#"{"specversion":"1.0","id":"e1","source":"orders","type":"order-paid","subject":"order/1","data":{}}"#;
        let event = Bytes::from_static(event);
        let own = State::read("events.t.order.1", (7, at), None, &event).unwrap();
        let later = (9, at + std::time::Duration::from_secs(5));
        let again = State::read("events.t.order.1", later, Some(&republished(own.version)), &event).unwrap();
        assert_eq!((again.version, again.sequence), (own.version, 9));
        assert!(State::read("events.t.order.1", later, Some("1"), &event).unwrap().version > own.version);
    }

    #[test]
    fn a_direct_get_is_asked_for_as_adr_31_has_it() {
        for (wanted, json) in [
            (Wanted::Sequence { seq: 7 }, r#"{"seq":7}"#),
            (Wanted::Last { last_by_subj: "events.t.order.1" }, r#"{"last_by_subj":"events.t.order.1"}"#),
            (
                Wanted::NextFrom { seq: 1, next_by_subj: "events.t.order.1" },
                r#"{"seq":1,"next_by_subj":"events.t.order.1"}"#,
            ),
            (
                Wanted::LastUpTo { multi_last: ["events.t.order.1"], up_to_seq: 6 },
                r#"{"multi_last":["events.t.order.1"],"up_to_seq":6}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&wanted).unwrap(), json);
        }
    }
}
