//! An attempt as it was: what was sent and what was answered. `/company/deliveries/{id}/attempts/{attempt}` has the body too,
//! rebuilt from the state that EVENTS holds, and shown only if its hash is that of what was sent.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use bytes::Bytes;
use serde::Serialize;
use shopery_http::{Permission, Problem};
use shopery_model::{
    DestinationKind, EventType, Extensions, NamedEvent, PayloadEvent, PayloadFormat, Posted, StateVersion, TenantId,
};
use shopery_sender::Message;
use shopery_store::{AttemptRecord, DeliveryRecord};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::deliveries::{Reason, find, reason};
use crate::{App, queue_problem};

/// Maximum length of the answer's body in a list of attempts.
const MAX_LISTED_BODY: usize = 1024;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(one))
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attempt {
    id: String,
    number: u32,
    #[serde(with = "shopery_control::timestamp")]
    started_at: OffsetDateTime,
    duration_ms: u32,
    request: Request,
    response: Option<ResponsePart>,
    error: Option<Reason>,
    /// What was odd about the exchange and did not decide, in a sentence: a body that broke off, a request that was sent
    /// again because the endpoint had not processed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AttemptRequest)]
struct Request {
    method: &'static str,
    /// The address of the webhook then.
    url: String,
    bytes: u32,
    /// As they were sent, but for what is secret, which is `***`; without those of every HTTP request, such as `Host`. To a bus they
    /// are in `metadata`, to a topic they are attributes. Absent in attempts of older versions.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(example = json!({ "webhook-id": "dlv_01HA4XCG60CT4G3EWF4CKYM1MF", "x-shopery-secret": "***" }))]
    headers: BTreeMap<String, String>,
    /// SHA-256 of the body, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    /// Byte for byte as it was sent. Only where one attempt is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// Why there is no `body`, where one attempt is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_unavailable: Option<&'static str>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AttemptResponse)]
pub(crate) struct ResponsePart {
    /// Of an HTTPS endpoint alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// What a cloud calls what it met.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "AccessDeniedException")]
    code: Option<String>,
    /// What a cloud calls the message that it has accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    /// Those that fit in 4 KiB.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<ResponseHeader>,
    /// Its start: up to 1 KiB, and up to 16 KiB where one attempt is asked for. What the endpoint has repeated of the webhook's
    /// secrets is `***`.
    body: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct ResponseHeader {
    name: String,
    value: String,
}

/// What an HTTPS endpoint has answered with, or a cloud.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: Option<u16>,
    pub(crate) code: Option<String>,
    pub(crate) message_id: Option<String>,
}

impl ResponsePart {
    /// `None` if nothing came back.
    pub(crate) fn of(answered: Answered, headers: &str, body: String) -> Option<Self> {
        let Answered { status, code, message_id } = answered;
        let is_any = status.is_some() || code.is_some() || message_id.is_some();
        is_any.then(|| Self { status, code, message_id, headers: response_headers(headers), body })
    }
}

impl Attempt {
    /// As one of the attempts of a delivery, of which there may be hundreds.
    pub(crate) fn of(mut record: AttemptRecord, delivery: &DeliveryRecord, tenant: &TenantId) -> Self {
        let end = record.response_body.floor_char_boundary(MAX_LISTED_BODY);
        record.response_body.truncate(end);
        Self::whole(record, delivery, tenant)
    }

    fn whole(record: AttemptRecord, delivery: &DeliveryRecord, tenant: &TenantId) -> Self {
        let headers = record.posted.as_ref().map(|posted| sent_headers(&record, posted, delivery, tenant));
        let answered = Answered { status: record.status, code: record.code, message_id: record.message_id };
        let response = ResponsePart::of(answered, &record.response_headers, record.response_body);
        Self {
            id: record.id,
            number: record.number,
            started_at: record.started_at,
            duration_ms: record.duration_ms,
            request: Request {
                method: "POST",
                url: record.url,
                bytes: record.request_bytes,
                headers: headers.unwrap_or_default(),
                sha256: record.posted.and_then(|posted| posted.hash_in_hexadecimal()),
                body: None,
                body_unavailable: None,
            },
            response,
            error: record.fault.map(reason),
            note: record.note,
        }
    }
}

fn response_headers(text: &str) -> Vec<ResponseHeader> {
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    lines.map(|(name, value)| ResponseHeader { name: name.to_owned(), value: value.to_owned() }).collect()
}

/// The event whose state was sent; `None` if that was not kept, or not in a form that this version knows.
fn payload_of(posted: &Posted, delivery: &DeliveryRecord) -> Option<PayloadEvent> {
    if let Some(of) = &posted.payload_of {
        return Some(of.clone());
    }
    let stored_at = OffsetDateTime::from_unix_timestamp_nanos(posted.stored_ns?.into()).ok()?;
    let (source, id) = (delivery.source.clone().unwrap_or_default(), delivery.event_id.clone());
    let at = posted.triggered_at.unwrap_or(delivery.triggered_at);
    Some(PayloadEvent { source, id, version: StateVersion::of(at, stored_at, delivery.event_sequence) })
}

/// The event that the headers named.
fn named<'a>(posted: &'a Posted, delivery: &'a DeliveryRecord, event_type: EventType) -> NamedEvent<'a> {
    let resource = delivery.resource.as_str();
    if let Some(PayloadEvent { source, id, version }) = &posted.named {
        return NamedEvent { source, id, event_type, resource, at: version.at() };
    }
    let source = delivery.source.as_deref().unwrap_or_default();
    let at = posted.triggered_at.unwrap_or(delivery.triggered_at);
    NamedEvent { source, id: &delivery.event_id, event_type, resource, at }
}

/// By the code that sends them.
fn sent_headers(
    record: &AttemptRecord,
    posted: &Posted,
    delivery: &DeliveryRecord,
    tenant: &TenantId,
) -> BTreeMap<String, String> {
    let known = EventType::of_stored(&delivery.event_type).ok().zip(posted.format());
    let Some(((event_type, format), payload_of)) = known.zip(payload_of(posted, delivery)) else {
        return BTreeMap::new();
    };
    let named = named(posted, delivery, event_type);
    let message = Message {
        webhook_id: delivery.id.clone(),
        event: &delivery.event_type,
        event_id: named.id,
        event_source: named.source,
        webhook: Some(delivery.webhook_id.clone()),
        tenant: tenant.as_str(),
        triggered_at: named.at,
        payload_of: Some(&payload_of),
        changed: &posted.changed,
        changed_omitted: usize::try_from(posted.changed_omitted).unwrap_or(usize::MAX),
        ordering_key: None,
        attempt: record.number,
        is_test: false,
        format,
        payload: Bytes::new(),
    };
    message.masked_headers(DestinationKind::of(&record.url), &posted.headers, record.started_at).into_iter().collect()
}

/// Shows an attempt with the body that was sent.
///
/// Bodies are not kept: one is rebuilt from the event, as long as that is held (up to 7 days), and shown if its SHA-256 is
/// that of what was sent. Otherwise `bodyUnavailable` says why it is not.
#[utoipa::path(
    get, path = "/company/deliveries/{id}/attempts/{attempt}",
    tag = "deliveries", operation_id = "getAttempt",
    security(("bearer" = ["webhooks:read"])),
    params(
        ("id" = String, Path, description = "Of the delivery", example = "dlv_01HA4XCG60CT4G3EWF4CKYM1MF"),
        ("attempt" = String, Path, description = "Of the attempt", example = "att_01HA4XCG60CT4G3EWF4CKYM1MF"),
    ),
    responses((status = 200, description = "The attempt, with the body", body = Attempt)),
)]
async fn one(
    State(app): State<App>,
    headers: HeaderMap,
    Path((id, attempt)): Path<(String, String)>,
) -> Result<Json<Attempt>, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksRead)?;
    let _admitted = app.event_pages.enter(&tenant).await?;
    let (delivery, attempts) = find(&app, &tenant, &id).await?;
    let record = attempts.into_iter().find(|record| record.id == attempt);
    let record = record.ok_or_else(|| Problem::not_found("this delivery has no attempt with this id"))?;
    let body = match &record.posted {
        Some(posted) => body(&app, &tenant, posted, &delivery).await?,
        None => Err("this attempt was made before request bodies could be rebuilt"),
    };
    let mut shown = Attempt::whole(record, &delivery, &tenant);
    match body {
        Ok(body) => shown.request.body = Some(body),
        Err(why) => shown.request.body_unavailable = Some(why),
    }
    Ok(Json(shown))
}

/// The body, or why there is none.
async fn body(
    app: &App,
    tenant: &TenantId,
    posted: &Posted,
    delivery: &DeliveryRecord,
) -> Result<Result<String, &'static str>, Problem> {
    const NOT_KEPT: &str = "what this attempt has sent was recorded by another version";
    const NOT_HELD: &str = "the event whose state was sent is no longer held";
    let Ok(event_type) = EventType::of_stored(&delivery.event_type) else {
        return Ok(Err("the event type is not known to this version"));
    };
    let named = named(posted, delivery, event_type);
    let Some(of) = payload_of(posted, delivery) else { return Ok(Err(NOT_KEPT)) };
    let read = async |sequence: u64, id: &str| {
        let state = app.queue.acknowledged_state_at(sequence).await.map_err(|error| queue_problem(&error))?;
        Ok::<_, Problem>(state.filter(|state| state.tenant == *tenant && state.event.id == id))
    };
    let Some(state) = read(of.version.sequence(), &of.id).await? else { return Ok(Err(NOT_HELD)) };
    // Extension attributes are those of the delivery's own event, and of use to CloudEvents alone.
    let own = if posted.format() != Some(PayloadFormat::CloudEvent) {
        Some(Extensions::default())
    } else if of.version.sequence() == delivery.event_sequence {
        Some(state.event.extensions.clone())
    } else {
        read(delivery.event_sequence, &delivery.event_id).await?.map(|own| own.event.extensions)
    };
    let is_own_held = own.is_some();
    let body = posted.body(named, &of, &state.event.data, &own.unwrap_or_default());
    Ok(match body.map(|body| String::from_utf8(body.into())) {
        Some(Ok(body)) => Ok(body),
        _ if is_own_held => Err("the rebuilt body differs from what was sent"),
        _ => Err(NOT_HELD),
    })
}
