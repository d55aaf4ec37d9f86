//! The Test button: sends a message to an endpoint now, by the same code and under the same rules as a delivery.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use shopery_http::{Permission, Problem};
use shopery_model::{Answer, AttemptId, Credentials, EndpointSecret, PayloadFormat, SignatureKind, TenantId};
use shopery_sender::{Endpoint, Message};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::body::Fields;
use crate::credentials::{self, CredentialsChange};
use crate::openapi::schemas;
use crate::webhooks::find;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(unsaved)).routes(routes!(saved))
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TestReport)]
struct Report {
    /// The endpoint answered 200.
    success: bool,
    /// It answered with a 2xx status: a delivery would have been accepted.
    would_deliver: bool,
    status: Option<u16>,
    duration_ms: u64,
    error: Option<Reason>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TestError)]
struct Reason {
    #[schema(value_type = schemas::FaultName)]
    reason: &'static str,
    detail: String,
}

/// Tests a URL that is not saved yet: `{"url", "secret"?, "headers"?}`.
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
    let url = url.and_then(|url| fields.check(app.egress.endpoint(&url)));
    let asked = CredentialsChange::read(&mut fields);
    let url = fields.require("url", url);
    fields.finish()?;
    let Some(url) = url else { return Err(Problem::internal()) };
    let mut credentials = Credentials::new(EndpointSecret::generate().map_err(|_| Problem::internal())?);
    asked.apply(&mut credentials, SignatureKind::Symmetric)?;
    let endpoint = Endpoint { url: &url, credentials: &credentials, signature: SignatureKind::Symmetric };
    send(&app, &tenant, endpoint, None).await
}

/// Sends a test to the endpoint of a webhook, as a delivery is sent.
///
/// Whatever the endpoint answers, the webhook stays as it is.
#[utoipa::path(
    post, path = "/company/webhooks/{id}/test",
    tag = "webhooks", operation_id = "testWebhook",
    security(("bearer" = ["webhooks:write"])),
    params(
        ("id" = String, Path, description = "Of the webhook", example = "wbh_01HA4XCG60CT4G3EWF4CKYM1MF"),
    ),
    request_body = Option<schemas::Nothing>,
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
    // A field would be taken for something that the test looks at, such as another URL.
    Fields::read_any(&headers, body).await?.finish()?;
    let credentials = credentials::open(&app, &record)?;
    let endpoint = Endpoint { url: &record.url, credentials: &credentials, signature: record.rules.signature };
    send(&app, &tenant, endpoint, Some(record.id.to_string())).await
}

async fn send(
    app: &App,
    tenant: &TenantId,
    endpoint: Endpoint<'_>,
    webhook: Option<String>,
) -> Result<Json<Report>, Problem> {
    let _admitted = app.test_calls.enter(tenant).await?;
    let now = shopery_queue::now();
    let payload = json!({ "test": true, "message": "This is a test of your webhook by Shopery." }).to_string();
    let id = AttemptId::generate().to_string();
    let message = Message {
        webhook_id: id.clone(),
        event: "webhook-test",
        event_id: &id,
        event_source: "",
        webhook,
        tenant: tenant.as_str(),
        triggered_at: now,
        payload_of: None,
        changed: &[],
        changed_omitted: 0,
        attempt: 1,
        format: PayloadFormat::Resource,
        payload: Bytes::from(payload),
    };
    match app.sender.send(endpoint, &message, now).await {
        Ok(answer) => Ok(Json(report(answer))),
        Err(fault) => Err(Problem::unavailable(format!("the test was not made: {fault}"), 5)),
    }
}

fn report(answer: Answer) -> Report {
    let would_deliver = answer.fault.is_none();
    let success = would_deliver && answer.status == Some(200);
    let error = match answer.fault {
        Some((fault, detail)) => Some(Reason { reason: fault.name(), detail }),
        None if success => None,
        None => Some(Reason {
            reason: "http_status",
            detail:
                "it answered with a 2xx status other than 200: a delivery would be delivered, but a test expects 200"
                    .to_owned(),
        }),
    };
    Report {
        success,
        would_deliver,
        status: answer.status,
        duration_ms: u64::try_from(answer.duration.as_millis()).unwrap_or(u64::MAX),
        error,
    }
}
