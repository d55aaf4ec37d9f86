//! `POST /company/deliveries/{id}/resend`: sends a delivery again, and `POST /company/deliveries/resend`: several.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde_json::json;
use shopery_control::redelivery::{MAX_ROUNDS, is_under_way, message, redelivery_job, requested};
use shopery_http::{Permission, Problem};
use shopery_model::{DeliveryId, Invalid, TenantId};
use shopery_queue::PublishError;
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::body::Fields;
use crate::idempotency::not_final;
use crate::openapi::schemas;
use crate::{App, database_problem, queue_problem};

/// How long JOBS may be full before the request fails.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(3);
/// Deliveries that one request may name.
const MAX_AT_ONCE: usize = 100;
const CONCURRENCY: usize = 4;
/// How long a request for many may take.
const LONGEST: Duration = Duration::from_secs(20);
/// For those that were begun by then.
const GRACE: Duration = Duration::from_secs(5);
const UNAVAILABLE: u16 = StatusCode::SERVICE_UNAVAILABLE.as_u16();
/// What another request may be answered otherwise.
const PASSING: [u16; 2] = [StatusCode::CONFLICT.as_u16(), UNAVAILABLE];

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(resend)).routes(routes!(resend_all))
}

/// Sends a delivery again.
#[utoipa::path(
    post, path = "/company/deliveries/{id}/resend",
    tag = "recovery", operation_id = "resendDelivery",
    security(("bearer" = ["webhooks:write"])),
    params(
        ("id" = String, Path, description = "Of the delivery", example = "dlv_01HA4XCG60CT4G3EWF4CKYM1MF"),
    ),
    responses(
        (status = 202, description = "It will be sent again, under its id", body = schemas::Made),
        (status = 410, description = "What it would carry is no longer held"),
    ),
)]
async fn resend(State(app): State<App>, headers: HeaderMap, Path(id): Path<String>) -> Result<Response, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksWrite)?;
    let id = send_again(&app, &tenant, &id).await?;
    let location = format!("/company/deliveries/{id}");
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(json!({ "id": id }))).into_response())
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ResendReport)]
struct Report {
    /// In the order of the request.
    data: Vec<Resent>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Resent {
    id: String,
    /// It will be sent again, under its id.
    resent: bool,
    /// Why it will not be.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Refused>,
}

/// What the request for this one delivery alone would have been answered with.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ResendProblem)]
struct Refused {
    #[schema(example = 409)]
    status: u16,
    detail: String,
}

/// Sends up to 100 deliveries again.
///
/// Each by itself: one that cannot be sent again stands in no other's way.
#[utoipa::path(
    post, path = "/company/deliveries/resend",
    tag = "recovery", operation_id = "resendDeliveries",
    security(("bearer" = ["webhooks:write"])),
    request_body = schemas::ResendRequest,
    responses((status = 200, description = "What becomes of each", body = Report)),
)]
async fn resend_all(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksWrite)?;
    let mut fields = Fields::read(&headers, body).await?;
    let ids = fields.list("ids", |id| Ok(id.to_owned()));
    let ids = ids.and_then(|mut ids| {
        let mut seen = HashSet::new();
        ids.retain(|id| seen.insert(id.clone()));
        let wrong = || Invalid::new("ids", format!("must name 1 to {MAX_AT_ONCE} deliveries"));
        fields.check(if (1..=MAX_AT_ONCE).contains(&ids.len()) { Ok(ids) } else { Err(wrong()) })
    });
    let ids = fields.require("ids", ids);
    fields.finish()?;
    let _admitted = app.resends.enter(&tenant).await?;
    // What comes too late, or after the queue was full, is not tried: whoever asks again is answered as if it were the first time.
    let (deadline, is_over) = (Instant::now() + LONGEST, AtomicBool::new(false));
    let each = ids.unwrap_or_default().into_iter().map(async |id| {
        let tried = if is_over.load(Ordering::Relaxed) || Instant::now() >= deadline {
            Err(Problem::unavailable("it was not tried: ask for it again", 10))
        } else {
            let in_time = tokio::time::timeout_at(deadline + GRACE, send_again(&app, &tenant, &id)).await;
            let doubt = "it took too long, and may be on its way: ask for it again, it will not be sent twice";
            in_time.unwrap_or_else(|_| Err(Problem::unavailable(doubt, 10)))
        };
        let problem = tried.err().map(|problem| Refused { status: problem.status, detail: problem.detail });
        if problem.as_ref().is_some_and(|problem| problem.status == UNAVAILABLE) {
            is_over.store(true, Ordering::Relaxed);
        }
        Resent { id, resent: problem.is_none(), problem }
    });
    // Not all of them at once: each takes a connection to the database.
    let data: Vec<_> = stream::iter(each).buffered(CONCURRENCY).collect().await;
    let is_passing = |resent: &Resent| resent.problem.as_ref().is_some_and(|problem| PASSING.contains(&problem.status));
    // What was sent must not be sent again for what was not.
    let passes = data.iter().any(is_passing) && !data.iter().any(|resent| resent.resent);
    let report = Json(Report { data });
    Ok(if passes { not_final(report) } else { report.into_response() })
}

async fn send_again(app: &App, tenant: &TenantId, id: &str) -> Result<DeliveryId, Problem> {
    let missing = || Problem::not_found("there is no delivery with this id");
    let id: DeliveryId = id.parse().map_err(|_| missing())?;
    let (delivery, _) = app.store.delivery(tenant, id).await.map_err(database_problem)?.ok_or_else(missing)?;
    if is_under_way(&delivery) {
        let state = &delivery.state;
        return Err(Problem::conflict(format!(
            "the delivery is {state}: an attempt is still to come; wait for its end"
        )));
    }
    if delivery.round >= MAX_ROUNDS {
        return Err(Problem::conflict(format!(
            "the delivery has been sent again {MAX_ROUNDS} times, which is the limit"
        )));
    }
    let webhook = delivery.webhook_id.parse().map_err(|_| Problem::internal())?;
    let webhook = app.store.webhook(tenant, webhook).await.map_err(database_problem)?;
    let Some(webhook) = webhook else {
        return Err(Problem::conflict("the webhook of this delivery was deleted; there is nowhere to send it"));
    };
    let job = redelivery_job(&app.queue, &webhook, &delivery, None).await.map_err(|error| queue_problem(&error))?;
    let Some(job) = job else {
        return Err(Problem::gone(
            "the event of this delivery is no longer held; fetch the resource itself to have its state",
        ));
    };
    app.queue.publish_until_stored(&message(&job), PUBLISH_TIMEOUT).await.map_err(publish_problem)?;
    // If this fails the request is repeated, and its job is the one that JOBS has already.
    app.store.record(&[requested(job.meta)]).await.map_err(database_problem)?;
    Ok(id)
}

fn publish_problem(error: PublishError) -> Problem {
    tracing::warn!(%error, "a delivery cannot be sent again now");
    match error {
        PublishError::Full(_) => Problem::unavailable("the queue of deliveries is full; nothing was sent", 10),
        _ => Problem::unavailable("the queue cannot be reached; ask again, it will not be sent twice", 2),
    }
}
