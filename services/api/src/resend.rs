//! Sending a delivery again: what is put into its job, and `POST /company/deliveries/{id}/resend`.
//!
//! The delivery keeps its id, which is the receiver's `webhook-id`. Its attempts are numbered on, its retry schedule
//! begins anew, and its state is that of the new round.

use std::time::Duration;

use anyhow::Context;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use shopery_http::{Permission, Problem};
use shopery_model::{DeliveryId, DeliveryState, Extensions, Job, JobMeta, Lane, Outcome, PayloadMode, Resend};
use shopery_queue::{Outgoing, PublishError, Queue, subject};
use shopery_store::{DeliveryRecord, WebhookRecord};
use time::OffsetDateTime;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::openapi::schemas;
use crate::{App, database_problem, queue_problem};

/// Rounds of one delivery: its row grows with each.
pub(crate) const MAX_ROUNDS: u32 = 50;
/// How long JOBS may be full before the request fails.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(resend))
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
    let missing = || Problem::not_found("there is no delivery with this id");
    let id: DeliveryId = id.parse().map_err(|_| missing())?;
    let (delivery, _) = app.store.delivery(&tenant, id).await.map_err(database_problem)?.ok_or_else(missing)?;
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
    let webhook = app.store.webhook(&tenant, webhook).await.map_err(database_problem)?;
    let Some(webhook) = webhook else {
        return Err(Problem::conflict("the webhook of this delivery was deleted; there is nowhere to send it"));
    };
    let job = job_again(&app.queue, &webhook, &delivery, None).await.map_err(|error| queue_problem(&error))?;
    let Some(job) = job else {
        return Err(Problem::gone(
            "the event of this delivery is no longer held; fetch the resource itself to have its state",
        ));
    };
    app.queue.publish_until_stored(&message(&job), PATIENCE).await.map_err(publish_problem)?;
    // If this fails the request is repeated, and its job is the one that JOBS has already.
    app.store.record(&[asked(job.meta)]).await.map_err(database_problem)?;
    let location = format!("/company/deliveries/{id}");
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(json!({ "id": id }))).into_response())
}

fn publish_problem(error: PublishError) -> Problem {
    tracing::warn!(%error, "a delivery cannot be sent again now");
    match error {
        PublishError::Full(_) => Problem::unavailable("the queue of deliveries is full; nothing was sent", 10),
        _ => Problem::unavailable("the queue cannot be reached; ask again, it will not be sent twice", 2),
    }
}

/// Whether a job of the delivery is somewhere, so that another one would be one too many.
pub(crate) fn is_under_way(delivery: &DeliveryRecord) -> bool {
    [DeliveryState::Pending, DeliveryState::Parked].iter().any(|state| state.name() == delivery.state)
}

/// The job that begins the next round of a delivery; `None` if EVENTS no longer holds what it would carry. `asked` is
/// in place of the webhook's `payload`.
pub(crate) async fn job_again(
    queue: &Queue,
    webhook: &WebhookRecord,
    delivery: &DeliveryRecord,
    asked: Option<PayloadMode>,
) -> anyhow::Result<Option<Job>> {
    let tenant = &webhook.tenant;
    // Were EVENTS made anew, another event would be at this place.
    let own = queue
        .state_at(delivery.event_sequence)
        .await?
        .filter(|state| state.tenant == *tenant && state.event.id == delivery.event_id);
    let latest = match asked.unwrap_or(webhook.rules.payload) {
        PayloadMode::Latest => queue.latest_state(tenant, &delivery.resource).await?,
        PayloadMode::Original => None,
    };
    let latest = latest.filter(|state| state.event.time >= delivery.triggered_at);
    let Some(state) = latest.as_ref().or(own.as_ref()) else { return Ok(None) };
    let mut changed = Vec::new();
    if let (Some(paths), Some(own)) = (&webhook.rules.changed, &own) {
        let previous = queue.previous_state(tenant, &delivery.resource, own.sequence).await?;
        let previous = previous.as_ref().map(|state| state.event.data.as_ref());
        changed.extend(paths.between(previous, &state.event.data).into_iter().map(str::to_owned));
    }
    let mut meta = meta_again(webhook, delivery, asked)?;
    meta.changed = changed;
    if let Some(own) = &own {
        // The history keeps milliseconds.
        meta.triggered_at = own.event.time;
    }
    Ok(Some(Job { meta, payload: webhook.rules.project(&state.event.data) }))
}

/// The next round of a delivery.
pub(crate) fn meta_again(
    webhook: &WebhookRecord,
    delivery: &DeliveryRecord,
    asked: Option<PayloadMode>,
) -> anyhow::Result<JobMeta> {
    let round = delivery.round + 1;
    Ok(JobMeta {
        delivery: delivery.id.parse().context("a delivery's id")?,
        tenant: webhook.tenant.clone(),
        webhook: webhook.id,
        source: String::new(),
        event: delivery.event_id.clone(),
        event_type: delivery.event_type.parse().context("a delivery's event type")?,
        resource: delivery.resource.clone(),
        triggered_at: delivery.triggered_at,
        event_sequence: delivery.event_sequence,
        changed: Vec::new(),
        stored_ns: None,
        payload_of: None,
        extensions: Extensions::default(),
        may_be_stale: false,
        attempt: delivery.last_attempt + 1,
        failed_at: None,
        resend: Some(Resend { round, attempts_before: delivery.last_attempt, payload: asked }),
    })
}

/// Its id is that of the round: whoever asks twice before the history knows of the first is not sent it twice.
pub(crate) fn message(job: &Job) -> Outgoing {
    let subject = subject::job(Lane::Bulk, &job.meta.tenant, job.meta.webhook);
    Outgoing::new(subject, job.encode()).with_id(job.meta.key())
}

/// What the history says until the first attempt of the new round.
pub(crate) fn asked(job: JobMeta) -> Outcome {
    let now = OffsetDateTime::now_utc();
    Outcome { next_attempt_at: Some(now), ..without_attempt(job, DeliveryState::Pending, None) }
}

/// What the history says of a delivery that another one carries from now on.
pub(crate) fn superseded(job: JobMeta, carrier: DeliveryId) -> Outcome {
    without_attempt(job, DeliveryState::Superseded, Some(carrier))
}

fn without_attempt(job: JobMeta, state: DeliveryState, carried_by: Option<DeliveryId>) -> Outcome {
    let at = OffsetDateTime::now_utc();
    Outcome { job, state, next_attempt_at: None, attempt: None, fault: None, carried_by, at }
}
