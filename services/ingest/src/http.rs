//! `POST /events`: one CloudEvent, or a batch of them.

use std::sync::Arc;

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
use shopery_http::{Access, Permission, Problem, read_body};
use shopery_model::{Event, Invalid, Lane, MAX_EVENT_BYTES, TenantId};
use shopery_queue::{Meter, Pacer, PublishError, trace};
use time::OffsetDateTime;

use crate::accept::{Acceptor, Source};
use crate::places::Places;

pub(crate) const MAX_BATCH: usize = 1000;
const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;
/// Events of a batch that are worked on before others get their turn.
const AT_A_TIME: usize = 32;
/// After how many seconds a publisher should try again when a stream is full or away.
const RETRY_AFTER: u32 = 1;

struct Door {
    acceptor: Acceptor,
    access: Access,
    places: Places,
    meter: Meter,
    pacer: Pacer,
}

pub(crate) fn routes(acceptor: Acceptor, access: Access, meter: Meter, pacer: Pacer) -> Router {
    let door = Door { acceptor, access, places: Places::new(), meter, pacer };
    Router::new().route("/events", post(publish)).with_state(Arc::new(door))
}

async fn publish(State(door): State<Arc<Door>>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let published = door.publish(&headers, body).await;
    if let Err(problem) = &published {
        let reason = match problem.status {
            401 | 403 => "access",
            503 => return published,
            _ => "invalid",
        };
        door.acceptor.refuse(Source::Http, reason);
    }
    published
}

impl Door {
    async fn publish(&self, headers: &HeaderMap, body: Body) -> Result<Response, Problem> {
        let tenant = self.access.tenant(headers, Permission::EventsWrite)?;
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let traceparent = headers.get(trace::TRACEPARENT).and_then(|value| value.to_str().ok());
        match essence.as_str() {
            "application/cloudevents+json" | "application/json" => {
                let body = read_body(body, MAX_EVENT_BYTES).await?;
                self.one(&tenant, &body, traceparent).await
            }
            "application/cloudevents-batch+json" => {
                let _place = self.places.take(&tenant).await.map_err(|_| Problem::internal())?;
                let body = read_body(body, MAX_BATCH_BYTES).await?;
                self.batch(&tenant, &body, traceparent).await
            }
            _ => Err(Problem::unsupported_media_type(
                "send application/cloudevents+json for one event, application/cloudevents-batch+json for an array",
            )),
        }
    }

    async fn one(&self, tenant: &TenantId, body: &Bytes, traceparent: Option<&str>) -> Result<Response, Problem> {
        let event = Event::parse(body, OffsetDateTime::now_utc()).map_err(Problem::invalid)?;
        self.turn(tenant, 1).await;
        self.acceptor.store(tenant, &event, traceparent, Source::Http).await.map_err(|error| unavailable(&error))?;
        Ok((StatusCode::ACCEPTED, Json(json!({ "id": event.id }))).into_response())
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
        let raw: Vec<&RawValue> = serde_json::from_slice(body)
            .map_err(|error| Problem::malformed(format!("the body is not a JSON array of events: {error}")))?;
        if raw.is_empty() || raw.len() > MAX_BATCH {
            return Err(Problem::invalid(vec![Invalid::new(
                "batch",
                format!("must have 1 to {MAX_BATCH} events; it has {}", raw.len()),
            )]));
        }
        let now = OffsetDateTime::now_utc();
        let (mut events, mut wrong) = (Vec::with_capacity(raw.len()), Vec::new());
        for (index, raw) in raw.iter().enumerate() {
            if index % AT_A_TIME == 0 {
                tokio::task::yield_now().await;
            }
            match Event::parse(&body.slice_ref(raw.get().as_bytes()), now) {
                Ok(event) => events.push(event),
                Err(invalid) => wrong.extend(invalid.into_iter().map(|invalid| invalid.within(format!("[{index}]")))),
            }
        }
        if !wrong.is_empty() {
            wrong.truncate(100);
            return Err(Problem::invalid(wrong));
        }
        // EVENTS has them in the order of the batch.
        let mut sent = Vec::with_capacity(events.len());
        for part in events.chunks(AT_A_TIME) {
            self.turn(tenant, part.len()).await;
            for event in part {
                sent.push(self.acceptor.send(tenant, event, traceparent).await);
            }
        }
        let stored = join_all(sent.into_iter().map(|sent| self.acceptor.stored(sent, Source::Http))).await;
        if let Some(error) = stored.iter().find_map(|stored| stored.as_ref().err()) {
            return Err(unavailable(error));
        }
        let ids: Vec<_> = events.into_iter().map(|event| event.id).collect();
        Ok((StatusCode::ACCEPTED, Json(json!({ "ids": ids }))).into_response())
    }
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
