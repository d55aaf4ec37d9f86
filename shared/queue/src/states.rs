//! The states of a resource: EVENTS keeps them in order under the resource's subject.
//!
//! They are read with direct gets, which any replica of the stream answers. One that lags behind the leader may not
//! have the newest messages yet, so an answer is the latest state that this replica knows.

use anyhow::{Context as _, bail};
use async_nats::{Message, StatusCode};
use bytes::Bytes;
use serde::Serialize;
use shopery_model::{Event, TenantId};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{Queue, subject, topology};

/// Marks a state that the router has published again behind a late one; it is no event of its own.
pub const RESTATED: &str = "Shopery-Restated";

/// One state of a resource.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Whose it is.
    pub tenant: TenantId,
    /// Where EVENTS holds it.
    pub sequence: u64,
    pub event: Event,
}

/// What a direct get asks for (ADR-31).
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Wanted<'a> {
    Sequence { seq: u64 },
    Last { last_by_subj: &'a str },
    LastUpTo { multi_last: [&'a str; 1], up_to_seq: u64 },
}

impl Queue {
    /// The most recent state of a resource, named as [`shopery_model::JobMeta`] has it: `order/ord_123`. `None` if
    /// EVENTS no longer has any.
    pub async fn latest_state(&self, tenant: &TenantId, resource: &str) -> anyhow::Result<Option<State>> {
        let subject = subject::states(tenant, resource).context("the resource has no subject")?;
        self.state(&Wanted::Last { last_by_subj: &subject }).await
    }

    /// The state that a resource had before the event at `sequence`.
    pub async fn previous_state(
        &self,
        tenant: &TenantId,
        resource: &str,
        sequence: u64,
    ) -> anyhow::Result<Option<State>> {
        // The server takes an `up_to_seq` of 0 for none at all, and would answer with the latest state.
        if sequence <= 1 {
            return Ok(None);
        }
        let subject = subject::states(tenant, resource).context("the resource has no subject")?;
        // The answer is a batch of at most one message; what ends the batch finds nobody waiting any more.
        self.state(&Wanted::LastUpTo { multi_last: [&subject], up_to_seq: sequence - 1 }).await
    }

    /// The state at a place in EVENTS.
    pub async fn state_at(&self, sequence: u64) -> anyhow::Result<Option<State>> {
        self.state(&Wanted::Sequence { seq: sequence }).await
    }

    async fn state(&self, wanted: &Wanted<'_>) -> anyhow::Result<Option<State>> {
        let request = Bytes::from(serde_json::to_vec(wanted)?);
        let subject = format!("$JS.API.DIRECT.GET.{}", topology::EVENTS);
        // The connection's own timeout bounds the wait.
        let answer = self.client.request(subject, request).await.context("cannot read EVENTS")?;
        match answer.status {
            None => read(&answer).map(Some),
            Some(StatusCode::NOT_FOUND) => Ok(None),
            Some(status) => bail!("EVENTS answers {status}: {}", answer.description.as_deref().unwrap_or_default()),
        }
    }
}

fn read(answer: &Message) -> anyhow::Result<State> {
    let header = |name| answer.headers.as_ref().and_then(|headers| headers.get(name)).map(|value| value.as_str());
    let sequence = header("Nats-Sequence").and_then(|text| text.parse().ok()).context("EVENTS gave no sequence")?;
    let stored_at = header("Nats-Time-Stamp").and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    let tenant = header("Nats-Subject").and_then(subject::parse_event).context("EVENTS gave no tenant")?;
    let event = Event::parse_stored(&answer.payload, stored_at.context("EVENTS gave no time")?);
    match event {
        Ok(event) => Ok(State { tenant, sequence, event }),
        Err(wrong) => bail!("the event at {sequence} does not read: {wrong:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direct_get_is_asked_for_as_adr_31_has_it() {
        for (wanted, json) in [
            (Wanted::Sequence { seq: 7 }, r#"{"seq":7}"#),
            (Wanted::Last { last_by_subj: "events.t.order.1" }, r#"{"last_by_subj":"events.t.order.1"}"#),
            (
                Wanted::LastUpTo { multi_last: ["events.t.order.1"], up_to_seq: 6 },
                r#"{"multi_last":["events.t.order.1"],"up_to_seq":6}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&wanted).unwrap(), json);
        }
    }
}
