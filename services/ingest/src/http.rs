//! `POST /events`: one CloudEvent, or a batch of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::json;
use serde_json::value::RawValue;
use shopery_http::fair::{Admitted, Door, Doors, Rule};
use shopery_http::{Access, Permission, Problem, read_body};
use shopery_model::{BinaryAttributes, Event, Invalid, Lane, MAX_EVENT_BYTES, TenantId};
use shopery_queue::{Meter, Pacer, PublishError, trace};

use crate::accept::{Acceptor, Source};
use crate::encoding::Encoding;
use crate::mode::Mode;
use crate::recent_acks::NotAccepted;
use crate::validate::Purpose;

pub(crate) const MAX_BATCH: usize = 1000;
const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;
/// Events of a batch that are worked on before others get their turn.
const AT_A_TIME: usize = 32;
/// After how many seconds a publisher should try again when a stream is full or away.
const RETRY_AFTER: u32 = 1;

/// Bytes of bodies in memory, packed and unpacked.
const BODIES: Rule = Rule {
    name: "bodies",
    what: "bytes of events",
    all: 512 * 1024 * 1024,
    share: 64 * 1024 * 1024,
    max_wait: Duration::from_secs(1),
};
/// Batches that are worked on. Others, which are there already, wait.
const BATCHES: Rule = Rule { name: "batches", what: "batches", all: 16, share: 4, max_wait: Duration::from_secs(20) };

struct Publishing {
    acceptor: Acceptor,
    access: Access,
    bodies: Door,
    batches: Door,
    meter: Meter,
    pacer: Pacer,
}

pub(crate) fn routes(acceptor: Acceptor, access: Access, doors: &Doors, meter: Meter, pacer: Pacer) -> Router {
    let (bodies, batches) = (doors.open(BODIES), doors.open(BATCHES));
    let publishing = Publishing { acceptor, access, bodies, batches, meter, pacer };
    Router::new().route("/events", post(publish)).with_state(Arc::new(publishing))
}

async fn publish(
    State(publishing): State<Arc<Publishing>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let published = publishing.publish(&headers, body).await;
    if let Err(problem) = &published {
        let reason = match problem.status {
            401 | 403 => "access",
            409 => "conflict",
            // Nothing is wrong with what was sent.
            408 | 429 | 503 => return published,
            _ => "invalid",
        };
        publishing.acceptor.refuse(Source::Http, reason);
    }
    published
}

impl Publishing {
    async fn publish(&self, headers: &HeaderMap, body: Body) -> Result<Response, Problem> {
        let tenant = self.access.tenant(headers, Permission::EventsWrite)?;
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let has_attributes = BinaryAttributes::REQUIRED.iter().any(|name| headers.contains_key(*name));
        let mode = Mode::of(content_type, has_attributes).ok_or_else(|| unsupported(has_attributes))?;
        let encoding = content_encoding(headers)?;
        let traceparent = headers.get(trace::TRACEPARENT).and_then(|value| value.to_str().ok());
        let mut memory = self.bodies.begin(&tenant);
        match mode {
            Mode::Structured => {
                let body = unpacked(body, encoding, MAX_EVENT_BYTES, &mut memory).await?;
                let event = Event::parse(&body, shopery_queue::now()).map_err(Problem::invalid)?;
                self.one(&tenant, &event, traceparent).await
            }
            Mode::Binary => {
                let body = unpacked(body, encoding, MAX_EVENT_BYTES, &mut memory).await?;
                let event = Event::parse_binary(attributes(headers), &body, shopery_queue::now());
                self.one(&tenant, &event.map_err(Problem::invalid)?, traceparent).await
            }
            Mode::Batch => {
                let body = unpacked(body, encoding, MAX_BATCH_BYTES, &mut memory).await?;
                let _admitted = self.batches.enter(&tenant).await?;
                self.batch(&tenant, &body, traceparent).await
            }
        }
    }

    async fn one(&self, tenant: &TenantId, event: &Event, traceparent: Option<&str>) -> Result<Response, Problem> {
        self.acceptor.validate(tenant, event, Purpose::Accept).map_err(Problem::invalid)?;
        self.turn(tenant, 1).await;
        match self.acceptor.store(tenant, event, traceparent, Source::Http).await {
            Ok(accepted) => {
                let answer = json!({ "id": event.id, "duplicate": accepted.is_repeat });
                Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
            }
            Err(NotAccepted::Conflict) => Err(conflict(event)),
            Err(NotAccepted::Unavailable(error)) => Err(unavailable(&error)),
        }
    }

    /// What is beyond a tenant's rate goes at the pace that leaves others undisturbed; its publisher waits for the answer.
    async fn turn(&self, tenant: &TenantId, events: usize) {
        match self.meter.lane(tenant, events) {
            Lane::Fast => self.pacer.note_fast(tenant),
            Lane::Bulk => self.pacer.turns(tenant, events).await,
        }
    }

    /// All events of a batch are checked before the first is stored.
    async fn batch(&self, tenant: &TenantId, body: &Bytes, traceparent: Option<&str>) -> Result<Response, Problem> {
        let events = self.read_batch(tenant, body).await?;
        let originals = originals(&events).await?;
        // EVENTS has them in the order of the batch.
        let mut sent = Vec::with_capacity(events.len());
        let numbered: Vec<_> = events.iter().enumerate().collect();
        for part in numbered.chunks(AT_A_TIME) {
            self.turn(tenant, part.len()).await;
            for (index, event) in part {
                // A repeat within the batch is not sent: its original is on the way already.
                if originals[*index] == *index {
                    sent.push((*index, self.acceptor.send(tenant, event, traceparent).await));
                }
            }
        }
        let stored = join_all(sent.into_iter().map(async |(index, sent)| {
            (index, self.acceptor.stored(tenant, &events[index], sent, Source::Http).await)
        }));
        let stored: HashMap<_, _> = stored.await.into_iter().collect();
        let (mut answers, mut conflicts) = (Vec::with_capacity(events.len()), Vec::new());
        for (index, event) in events.iter().enumerate() {
            let is_original = originals[index] == index;
            match stored.get(&originals[index]) {
                Some(Ok(accepted)) => {
                    answers.push(json!({ "id": event.id, "duplicate": accepted.is_repeat || !is_original }));
                }
                Some(Err(NotAccepted::Conflict)) => conflicts.push(used_before(event).within(format!("[{index}]"))),
                Some(Err(NotAccepted::Unavailable(error))) => return Err(unavailable(error)),
                // Every original was sent.
                None => return Err(Problem::internal()),
            }
        }
        if !conflicts.is_empty() {
            let detail = format!(
                "{} of {} events were stored; the others (errors names them) have ids that were used for other events of \
                 their source within ten minutes. Give those new ids, and send the batch again: what is stored is not \
                 stored twice",
                answers.len(),
                events.len(),
            );
            return Err(Problem::conflicts(detail, conflicts));
        }
        let ids: Vec<_> = events.iter().map(|event| &event.id).collect();
        Ok((StatusCode::ACCEPTED, Json(json!({ "ids": ids, "events": answers }))).into_response())
    }

    async fn read_batch(&self, tenant: &TenantId, body: &Bytes) -> Result<Vec<Event>, Problem> {
        let raw = split(body).map_err(|invalid| Problem::invalid(vec![invalid]))?;
        if raw.is_empty() || raw.len() > MAX_BATCH {
            return Err(Problem::invalid(vec![Invalid::new(
                "batch",
                format!("must have 1 to {MAX_BATCH} events; it has {}", raw.len()),
            )]));
        }
        let now = shopery_queue::now();
        let (mut events, mut wrong) = (Vec::with_capacity(raw.len()), Vec::new());
        for (index, raw) in raw.iter().enumerate() {
            if index % AT_A_TIME == 0 {
                tokio::task::yield_now().await;
            }
            let event = Event::parse(&body.slice_ref(raw.get().as_bytes()), now).and_then(|event| {
                self.acceptor.validate(tenant, &event, Purpose::Accept)?;
                Ok(event)
            });
            match event {
                Ok(event) => events.push(event),
                Err(invalid) => wrong.extend(invalid.into_iter().map(|invalid| invalid.within(format!("[{index}]")))),
            }
        }
        if wrong.is_empty() {
            return Ok(events);
        }
        wrong.truncate(100);
        Err(Problem::invalid(wrong))
    }
}

/// The events of a batch, each as it was written. No error names a type of ours or of serde's.
fn split(body: &[u8]) -> Result<Vec<&RawValue>, Invalid> {
    if body.starts_with(b"\xef\xbb\xbf") {
        return Err(Invalid::new("body", "begins with a byte order mark (BOM): send UTF-8 without it"));
    }
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    serde_json::from_slice(body).map_err(|error| match first {
        Some(b'{') => Invalid::new(
            "body",
            "is a JSON object: a batch is a JSON array; send one event as application/cloudevents+json",
        ),
        _ if error.is_data() => Invalid::new("body", "must be a JSON array of events"),
        _ => Invalid::new("body", format!("is not valid JSON: {error}")),
    })
}

/// Of each event of a batch, the place of the first one with the same source and id, which is its own for all but
/// repeats. 409 if one of them says something else than the first.
async fn originals(events: &[Event]) -> Result<Vec<usize>, Problem> {
    let mut first: HashMap<(&str, &str), usize> = HashMap::with_capacity(events.len());
    let (mut originals, mut conflicts) = (Vec::with_capacity(events.len()), Vec::new());
    for (index, event) in events.iter().enumerate() {
        // Each comparison may read 256 KiB twice.
        if index % AT_A_TIME == 0 {
            tokio::task::yield_now().await;
        }
        let original = *first.entry((&event.source, &event.id)).or_insert(index);
        if original != index && !events[original].says_the_same_as(event) {
            let detail = format!(
                "{} is the id of [{original}] too, which is another event of this source: give this one a new id",
                shown(&event.id)
            );
            conflicts.push(Invalid::new(format!("[{index}].id"), detail));
        }
        originals.push(original);
    }
    if conflicts.is_empty() {
        return Ok(originals);
    }
    let detail = "nothing was stored: ids are used for more than one event of their source in this batch (errors names \
                  them). Give each event an id of its own";
    Err(Problem::conflicts(detail, conflicts))
}

/// The headers of binary mode.
fn attributes(headers: &HeaderMap) -> BinaryAttributes {
    let mut attributes = BinaryAttributes::default();
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix(BinaryAttributes::PREFIX) {
            attributes.add(name, value.as_bytes());
        }
    }
    attributes
}

fn content_encoding(headers: &HeaderMap) -> Result<Encoding, Problem> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    let values: Vec<_> = values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    Encoding::read(&values.join(", "))
}

/// The body, of at most `limit` bytes when it is unpacked.
async fn unpacked(body: Body, encoding: Encoding, limit: usize, memory: &mut Admitted) -> Result<Bytes, Problem> {
    let body = read_body(body, encoding.limit(limit), Some(&mut *memory)).await?;
    encoding.decode(body, limit, Some(memory)).await
}

fn unsupported(has_attributes: bool) -> Problem {
    Problem::unsupported_media_type(if has_attributes {
        "in binary mode, with ce- headers, the content type is that of the data: send application/json"
    } else {
        "send application/cloudevents+json for one event, application/cloudevents-batch+json for an array"
    })
}

/// 409 for an event whose id belongs to another one.
pub(crate) fn conflict(event: &Event) -> Problem {
    let invalid = used_before(event);
    Problem::conflicts(invalid.to_string(), vec![invalid])
}

fn used_before(event: &Event) -> Invalid {
    let (id, source) = (shown(&event.id), shown(&event.source));
    let detail = format!(
        "{id} was used for another event of the source {source} within ten minutes: give a new event a new id; a repeat \
         has the same type, subject and data",
    );
    Invalid::new("id", detail)
}

/// Ids are of any characters, so they are quoted. They have at most 128.
fn shown(id: &str) -> String {
    format!("{id:?}")
}

pub(crate) fn unavailable(error: &PublishError) -> Problem {
    let detail = match error {
        PublishError::Full(_) | PublishError::SubjectFull(_) => {
            "events cannot be stored now because the stream is full"
        }
        PublishError::Unavailable(_) | PublishError::Overtaken(_) => {
            "events cannot be stored now because the stream cannot be reached"
        }
        PublishError::TooLarge(_) => return Problem::too_large("the event is larger than the queue takes"),
    };
    Problem::unavailable(format!("{detail}; send the request again, with the same event ids"), RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn event(id: &str, source: &str, data: &Value) -> Event {
        let event = json!({
            "specversion": "1.0", "id": id, "source": source, "type": "order-created", "subject": "order/1", "data": data,
        });
        Event::parse(&Bytes::from(event.to_string()), time::OffsetDateTime::now_utc()).unwrap()
    }

    #[test]
    fn what_is_no_batch_is_named_without_a_word_of_rust() {
        for (body, named) in [
            ("\u{feff}[]", "BOM"),
            ("{}", "application/cloudevents+json"),
            (" {\"id\":", "application/cloudevents+json"),
            ("7", "JSON array"),
            ("null", "JSON array"),
            ("\"a\"", "JSON array"),
            ("", "not valid JSON"),
            ("[{}", "not valid JSON"),
            ("[{},]", "not valid JSON"),
            ("[\"\\ud800\"", "not valid JSON"),
        ] {
            let invalid = split(body.as_bytes()).unwrap_err();
            assert!(invalid.field == "body" && invalid.detail.contains(named), "{body}: {invalid}");
            for word in ["struct", "sequence", "map", "RawValue", "tuple", "unit"] {
                assert!(!invalid.detail.contains(word), "{body}: {invalid}");
            }
        }
        assert_eq!(split(b" [{}, 7] ").unwrap().len(), 2);
        assert!(split(b"[\"\xff\"]").unwrap_err().detail.contains("not valid JSON"));
    }

    #[tokio::test]
    async fn a_repeat_within_a_batch_has_an_original_and_another_event_of_its_id_a_conflict() {
        let (one, same, other) = (json!({ "a": 1, "b": 2 }), json!({ "b": 2, "a": 1 }), json!({ "a": 2 }));
        let events = [event("1", "s", &one), event("2", "s", &other), event("1", "s", &same), event("1", "t", &other)];
        assert_eq!(originals(&events).await.unwrap(), [0, 1, 0, 3]);
        let problem = originals(&[&events[..], &[event("1", "s", &other)]].concat()).await.unwrap_err();
        assert_eq!((problem.status, problem.errors.len()), (409, 1));
        assert_eq!(problem.errors[0].field, "[4].id");
        assert!(problem.errors[0].detail.contains("[0]"), "{problem:?}");
    }
}
