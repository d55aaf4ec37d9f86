//! The Test button: sends a message to an endpoint now, by the same code and under the same rules as a delivery.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde::Serialize;
use shopery_http::{Permission, Problem};
use shopery_model::{
    Answer, AttemptId, Credentials, DestinationKind, EndpointSecret, Fault, Rules, SignatureKind, StateChange,
    TenantId, Timing, objections,
};
use shopery_sender::{Message, SenderFault, Target};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::attempts::{Answered, ResponsePart};
use crate::body::Fields;
use crate::credentials::{self, CredentialsChange};
use crate::matching::ObjectionShown;
use crate::openapi::schemas;
use crate::sample::{self, Sample};
use crate::setup::Setup;
use crate::webhooks::find;
use crate::{App, clouds};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(unsaved)).routes(routes!(saved))
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TestReport)]
struct Report {
    /// The endpoint answered 200, or the bus or topic has accepted it.
    success: bool,
    /// It answered with a 2xx status, or accepted it: a delivery would have been accepted.
    would_deliver: bool,
    /// Of an HTTPS endpoint alone.
    status: Option<u16>,
    duration_ms: u64,
    timing: Timings,
    error: Option<Reason>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    /// Where a bus or topic does not let the platform publish: what its owner does there.
    #[serde(skip_serializing_if = "Option::is_none")]
    setup: Option<Setup>,
    /// What was odd about the exchange and did not decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    request: Request,
    /// What the endpoint has answered; `null` if it has not.
    response: Option<ResponsePart>,
    /// Of the test of a webhook with an event type: what in the webhook is against a delivery of this example. It was sent all
    /// the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    objections: Vec<ObjectionShown>,
}

/// How long the parts of the exchange took, in milliseconds; `null` where it did not come so far, or there was no such part. A test
/// has a connection of its own.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TestTiming)]
struct Timings {
    /// Of a host that is a name.
    dns_ms: Option<f64>,
    connect_ms: Option<f64>,
    tls_ms: Option<f64>,
    /// From the request until the headers of the answer were there.
    first_byte_ms: Option<f64>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TestSent)]
struct Request {
    method: &'static str,
    url: String,
    /// As they were sent, but for what is secret, which is `***`.
    headers: BTreeMap<String, String>,
    body: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TestError)]
struct Reason {
    #[schema(value_type = schemas::FaultName)]
    reason: &'static str,
    detail: String,
}

/// Tests a URL that is not saved yet: `{"url", "secret"?, "headers"?, "credentials"?, "eventType"?}`.
#[utoipa::path(
    post, path = "/company/webhooks/test",
    tag = "webhooks", operation_id = "testUrl",
    security(("bearer" = ["webhooks:write"])),
    request_body = schemas::TestRequest,
    responses((status = 200, description = "What the endpoint answered", body = Report)),
)]
async fn unsaved(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Json<Report>, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksWrite)?;
    let mut fields = Fields::read(&headers, body).await?;
    let url = fields.string("url");
    let url = url.and_then(|url| fields.check(app.egress.destination(&url)));
    let asked = CredentialsChange::read(&mut fields);
    let event_type = sample::with_example(&mut fields);
    let url = fields.require("url", url);
    fields.finish()?;
    let Some(destination) = url else { return Err(Problem::internal()) };
    let mut credentials = Credentials::new(EndpointSecret::generate().map_err(|_| Problem::internal())?);
    asked.apply(&mut credentials, SignatureKind::Symmetric)?;
    let target = Target { destination: &destination, credentials: &credentials, signature: SignatureKind::Symmetric };
    clouds::judge(&app, target)?;
    send(&app, &tenant, target, None, Sample::of(event_type, &Rules::default())).await.map(Json)
}

/// Sends a test to the endpoint of a webhook, as a delivery is sent.
///
/// With an event type it sends the example of that, through the webhook's own `fields` and `format`, with the header
/// `X-Shopery-Test`. Whatever the endpoint answers, the webhook stays as it is.
#[utoipa::path(
    post, path = "/company/webhooks/{id}/test",
    tag = "webhooks", operation_id = "testWebhook",
    security(("bearer" = ["webhooks:write"])),
    params(
        ("id" = String, Path, description = "Of the webhook", example = "wbh_01HA4XCG60CT4G3EWF4CKYM1MF"),
    ),
    request_body = Option<schemas::TestOfWebhook>,
    responses((status = 200, description = "What the endpoint answered", body = Report)),
)]
async fn saved(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Report>, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksWrite)?;
    let record = find(&app, &tenant, &id).await?;
    let mut fields = Fields::read_any(&headers, body).await?;
    let event_type = sample::with_example(&mut fields);
    // Another field would be taken for something that the test looks at, such as another URL.
    fields.finish()?;
    let credentials = credentials::open(&app, &record)?;
    let target =
        Target { destination: &record.destination, credentials: &credentials, signature: record.rules.signature };
    let sample = Sample::of(event_type, &record.rules);
    let objections = sample.event_type.map(|event_type| {
        let state = StateChange { before: None, after: &sample.data };
        objections(&record.events, &record.rules, event_type, state)
    });
    let report = send(&app, &tenant, target, Some(record.id.to_string()), sample).await?;
    let objections = objections.unwrap_or_default().into_iter().map(ObjectionShown::from).collect();
    Ok(Json(Report { objections, ..report }))
}

/// A test without an event, for a webhook that is to be saved. An error of the sender is ours, and says nothing of what was tried.
pub(crate) async fn try_plain(
    app: &App,
    tenant: &TenantId,
    target: Target<'_>,
    webhook: Option<String>,
) -> Result<Result<Answer, SenderFault>, Problem> {
    let (answer, _) = exchange(app, tenant, target, webhook, Sample::of(None, &Rules::default())).await?;
    Ok(answer)
}

async fn send(
    app: &App,
    tenant: &TenantId,
    target: Target<'_>,
    webhook: Option<String>,
    sample: Sample,
) -> Result<Report, Problem> {
    let (answer, request) = exchange(app, tenant, target, webhook, sample).await?;
    let answer = answer.map_err(|fault| Problem::unavailable(format!("the test was not made: {fault}"), 5))?;
    // With credentials of their own it is those that have to be let in.
    let is_shut_out = answer.fault.as_ref().is_some_and(|(fault, _)| *fault == Fault::AccessDenied);
    let has_own = target.credentials.cloud.is_some();
    let setup = if is_shut_out && !has_own { Setup::of(&app.clouds, tenant, target.destination) } else { None };
    Ok(Report { setup, ..report(target.destination.kind(), answer, request) })
}

async fn exchange(
    app: &App,
    tenant: &TenantId,
    target: Target<'_>,
    webhook: Option<String>,
    sample: Sample,
) -> Result<(Result<Answer, SenderFault>, Request), Problem> {
    let _admitted = app.test_calls.enter(tenant).await?;
    let now = shopery_queue::now();
    let id = AttemptId::generate().to_string();
    let event = sample.event_type.map(|event_type| event_type.to_string());
    let message = Message {
        webhook_id: id.clone(),
        event: event.as_deref().unwrap_or("webhook-test"),
        event_id: &id,
        event_source: if event.is_some() { sample::SOURCE } else { "" },
        webhook,
        tenant: tenant.as_str(),
        triggered_at: now,
        payload_of: None,
        changed: &[],
        changed_omitted: 0,
        ordering_key: None,
        attempt: 1,
        is_test: true,
        format: sample.format,
        payload: sample.body(&id, now),
    };
    let answer = app.sender.send_on_new_connection(target, &message, now).await;
    let own: Vec<_> = target.credentials.headers.iter().map(|(name, _)| name.to_owned()).collect();
    let request = Request {
        method: "POST",
        url: target.destination.to_string(),
        headers: message.masked_headers(target.destination.kind(), &own, now).into_iter().collect(),
        body: String::from_utf8_lossy(&message.payload).into_owned(),
    };
    Ok((answer, request))
}

fn report(kind: DestinationKind, answer: Answer, request: Request) -> Report {
    let would_deliver = answer.fault.is_none();
    // A cloud says yes or no; an endpoint may say yes in many ways.
    let success = would_deliver && (kind != DestinationKind::Https || answer.status == Some(200));
    let mut advice = answer.fault.as_ref().map(|(fault, _)| fault.advice().to_owned());
    let error = match answer.fault {
        Some((fault, detail)) => Some(Reason { reason: fault.name(), detail }),
        None if success => None,
        None => {
            advice = Some("Nothing has to be done: any status from 200 to 299 is taken for a delivery.".to_owned());
            Some(Reason {
                reason: "http_status",
                detail:
                    "it answered with a 2xx status other than 200: a delivery would be delivered, but a test expects 200"
                        .to_owned(),
            })
        }
    };
    let millis = |time: Option<Duration>| time.map(|time| (time.as_secs_f64() * 10_000.0).round() / 10.0);
    let Timing { dns, connect, tls, first_byte } = answer.timing;
    let answered = Answered { status: answer.status, code: answer.code, message_id: answer.message_id };
    Report {
        success,
        would_deliver,
        status: answer.status,
        duration_ms: u64::try_from(answer.duration.as_millis()).unwrap_or(u64::MAX),
        timing: Timings {
            dns_ms: millis(dns),
            connect_ms: millis(connect),
            tls_ms: millis(tls),
            first_byte_ms: millis(first_byte),
        },
        error,
        advice,
        setup: None,
        note: answer.note,
        request,
        response: ResponsePart::of(answered, &answer.headers, answer.body),
        objections: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn shown(kind: DestinationKind, answer: Answer) -> Value {
        let request = Request { method: "POST", url: String::new(), headers: BTreeMap::new(), body: String::new() };
        serde_json::to_value(report(kind, answer, request)).unwrap()
    }

    #[test]
    fn a_test_succeeds_by_what_its_kind_answers() {
        let accepted = Answer::accepted;
        let status = |status| Answer { status: Some(status), ..accepted() };
        let put = Answer { message_id: Some("11710aed-b79e".to_owned()), ..accepted() };
        let denied = Answer {
            code: Some("AccessDeniedException".to_owned()),
            ..Answer::failed(Fault::AccessDenied, "it says no".to_owned())
        };
        let lost = Answer::failed(Fault::Timeout, "no answer".to_owned());
        use DestinationKind::{EventBridge, Https, PubSub};
        for (kind, answer, success, would_deliver, response) in [
            (Https, status(200), true, true, json!({ "status": 200, "body": "" })),
            (Https, status(204), false, true, json!({ "status": 204, "body": "" })),
            (EventBridge, put, true, true, json!({ "messageId": "11710aed-b79e", "body": "" })),
            (PubSub, denied, false, false, json!({ "code": "AccessDeniedException", "body": "" })),
            (PubSub, lost, false, false, Value::Null),
        ] {
            let shown = shown(kind, answer);
            assert_eq!(
                (&shown["success"], &shown["wouldDeliver"]),
                (&success.into(), &would_deliver.into()),
                "{shown}"
            );
            assert_eq!(shown["response"], response);
            assert_eq!(shown["error"].is_null(), success, "{shown}");
        }
    }
}
