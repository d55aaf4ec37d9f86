//! Recoveries: `POST /company/webhooks/{id}/recover`, and how they get on. The controller works on them.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shopery_http::{Permission, Problem};
use shopery_model::{DeliveryId, DeliveryState, Invalid, PayloadMode, RecoveryId, TenantId, WebhookId, parse_time};
use shopery_store::{RecoveryRecord, RecoveryState};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::body::Fields;
use crate::deliveries::with_history;
use crate::openapi::schemas;
use crate::query::{List, Query};
use crate::webhooks::find;
use crate::{App, database_problem, queue_problem};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(recover))
        .routes(routes!(of_webhook))
        .routes(routes!(one))
        .routes(routes!(cancel))
}

/// A recovery, as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Recovery)]
struct Resource {
    #[schema(value_type = String)]
    id: RecoveryId,
    #[schema(value_type = String)]
    webhook_id: WebhookId,
    #[schema(value_type = schemas::RecoveryState)]
    state: &'static str,
    #[serde(with = "shopery_control::timestamp")]
    since: OffsetDateTime,
    #[serde(with = "shopery_control::timestamp")]
    until: OffsetDateTime,
    #[schema(value_type = Vec<schemas::DeliveryState>)]
    statuses: Vec<&'static str>,
    #[schema(value_type = schemas::PayloadMode)]
    mode: &'static str,
    /// `null` until they have been counted.
    total: Option<u64>,
    resent: u64,
    skipped: u64,
    unavailable: u64,
    error: Option<String>,
    #[serde(with = "shopery_control::timestamp")]
    created_at: OffsetDateTime,
    #[serde(with = "shopery_control::timestamp")]
    updated_at: OffsetDateTime,
    #[serde(with = "shopery_control::timestamp::option")]
    finished_at: Option<OffsetDateTime>,
}

impl From<RecoveryRecord> for Resource {
    fn from(record: RecoveryRecord) -> Self {
        Self {
            id: record.id,
            webhook_id: record.webhook,
            state: record.state.name(),
            since: record.since,
            until: record.until,
            statuses: record.statuses.into_iter().map(DeliveryState::name).collect(),
            mode: record.mode.name(),
            total: record.total,
            resent: record.resent,
            skipped: record.skipped,
            unavailable: record.unavailable,
            error: record.error,
            created_at: record.created_at,
            updated_at: record.updated_at,
            finished_at: record.finished_at,
        }
    }
}

/// What a recovery would be about.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RecoveryPlan)]
struct Plan {
    /// Always true: nothing was sent.
    dry_run: bool,
    #[serde(with = "shopery_control::timestamp")]
    since: OffsetDateTime,
    #[serde(with = "shopery_control::timestamp")]
    until: OffsetDateTime,
    #[schema(value_type = Vec<schemas::DeliveryState>)]
    statuses: Vec<&'static str>,
    #[schema(value_type = schemas::PayloadMode)]
    mode: &'static str,
    /// Deliveries that it would go through; `null`, as all that is counted, if they are more than 200,000, or take more than 10 s to
    /// count. With the mode `latest` those of one resource are one message.
    total: Option<u64>,
    /// When the first and the last of them were made.
    #[serde(with = "shopery_control::timestamp::option")]
    oldest_at: Option<OffsetDateTime>,
    #[serde(with = "shopery_control::timestamp::option")]
    newest_at: Option<OffsetDateTime>,
    /// Those of them whose own event is no longer held. With the mode `latest`, a newer state of the
    /// resource may stand in.
    not_held: Option<u64>,
}

/// Sends again what a webhook has missed, or, with `dryRun`, says what that would be.
#[utoipa::path(
    post, path = "/company/webhooks/{id}/recover",
    tag = "recovery", operation_id = "recoverWebhook",
    security(("bearer" = ["webhooks:write"])),
    params(
        ("id" = String, Path, description = "Of the webhook", example = "wbh_01HA4XCG60CT4G3EWF4CKYM1MF"),
    ),
    request_body = schemas::RecoverRequest,
    responses(
        (status = 202, description = "It runs", body = Resource),
        (status = 200, description = "With `dryRun`: what it would be about", body = Plan),
    ),
)]
async fn recover(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksWrite)?;
    let webhook = find(&app, &tenant, &id).await?;
    let mut fields = Fields::read(&headers, body).await?;
    let is_dry_run = fields.bool("dryRun").unwrap_or_default();
    let from = since_delivery(&app, &mut fields, &tenant, webhook.id).await?;
    let recovery = read(fields, tenant, webhook.id, from)?;
    if is_dry_run {
        return plan(&app, recovery).await.map(|plan| Json(plan).into_response());
    }
    app.store.create_recovery(&recovery).await.map_err(database_problem)?;
    let location = format!("/company/recoveries/{}", recovery.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(Resource::from(recovery))).into_response())
}

async fn plan(app: &App, recovery: RecoveryRecord) -> Result<Plan, Problem> {
    let _admitted = app.sums.enter(&recovery.tenant).await?;
    let held = app.queue.held(&recovery.tenant).await.map_err(|error| queue_problem(&error))?;
    let counted = app.store.recoverable(&recovery, held.first()).await;
    let counted = counted.map_err(database_problem)?;
    Ok(Plan {
        dry_run: true,
        since: recovery.since,
        until: recovery.until,
        statuses: recovery.statuses.into_iter().map(DeliveryState::name).collect(),
        mode: recovery.mode.name(),
        total: counted.map(|counted| counted.total),
        oldest_at: counted.and_then(|counted| counted.oldest_at),
        newest_at: counted.and_then(|counted| counted.newest_at),
        not_held: counted.map(|counted| counted.not_held),
    })
}

/// When the delivery was made that is named in place of a time.
async fn since_delivery(
    app: &App,
    fields: &mut Fields,
    tenant: &TenantId,
    webhook: WebhookId,
) -> Result<Option<OffsetDateTime>, Problem> {
    let Some(text) = fields.string("sinceDelivery") else { return Ok(None) };
    let unknown = || Invalid::new("sinceDelivery", "must be the id of a delivery of this webhook");
    let Some(id) = fields.check(text.parse::<DeliveryId>().map_err(|_| unknown())) else { return Ok(None) };
    let found = app.store.delivery(tenant, id).await.map_err(database_problem)?;
    let is_its = found.is_some_and(|(delivery, _)| delivery.webhook_id == webhook.to_string());
    Ok(fields.check(if is_its { Ok(id.created_at()) } else { Err(unknown()) }))
}

/// `from`: since when, if the request has named a delivery.
fn read(
    mut fields: Fields,
    tenant: TenantId,
    webhook: WebhookId,
    from: Option<OffsetDateTime>,
) -> Result<RecoveryRecord, Problem> {
    let since = match (time(&mut fields, "since"), from) {
        (Some(_), Some(_)) => {
            fields.check(Err(Invalid::new("sinceDelivery", "cannot go with since: give one of them")))
        }
        (since, from) => since.or(from),
    };
    let since = if fields.has_refused("sinceDelivery") { since } else { fields.require("since", since) };
    let until = time(&mut fields, "until");
    let statuses = fields.list("statuses", status);
    let statuses = statuses.and_then(|mut statuses| {
        statuses.sort_by_key(|state| state.name());
        statuses.dedup();
        let nothing = || Invalid::new("statuses", "must name at least one status, such as failed");
        fields.check(if statuses.is_empty() { Err(nothing()) } else { Ok(statuses) })
    });
    let mode = fields.string("mode");
    let mode = mode.and_then(|text| {
        let parsed = text.parse::<PayloadMode>();
        fields.check(parsed.map_err(|_| Invalid::new("mode", "must be latest or original")))
    });
    let now = shopery_queue::now();
    // What is yet to come is no part of it.
    let until = until.map_or(now, |until| until.min(now));
    let since = since.and_then(|since| {
        let nothing = || Invalid::new("since", "must be a time before until, and before now");
        fields.check(if since < until { Ok(since) } else { Err(nothing()) })
    });
    fields.finish()?;
    let mut recovery = RecoveryRecord::new(tenant, webhook, (since.ok_or_else(Problem::internal)?, until), now);
    recovery.statuses = statuses.unwrap_or(recovery.statuses);
    recovery.mode = mode.unwrap_or(recovery.mode);
    Ok(recovery)
}

fn time(fields: &mut Fields, name: &'static str) -> Option<OffsetDateTime> {
    let text = fields.string(name)?;
    fields.check(parse_time(&text).map_err(|wrong| Invalid::new(name, wrong)))
}

/// A status that a delivery can end in.
fn status(text: &str) -> Result<DeliveryState, Invalid> {
    let is_end = |state: &DeliveryState| !matches!(state, DeliveryState::Pending | DeliveryState::Parked);
    let ends: Vec<_> = DeliveryState::ALL.into_iter().filter(is_end).collect();
    ends.iter().find(|state| state.name() == text).copied().ok_or_else(|| {
        let names: Vec<_> = ends.iter().map(|state| state.name()).collect();
        Invalid::new("statuses", format!("must be one of {}", names.join(", ")))
    })
}

/// Lists the recoveries of a webhook.
///
/// Also of a webhook that was deleted.
#[utoipa::path(
    get, path = "/company/webhooks/{id}/recoveries",
    tag = "recovery", operation_id = "listRecoveries",
    security(("bearer" = ["webhooks:read"])),
    params(
        ("id" = String, Path, description = "Of the webhook", example = "wbh_01HA4XCG60CT4G3EWF4CKYM1MF"),
        schemas::Part,
        schemas::Times,
    ),
    responses((status = 200, description = "Newest first", body = List<Resource>)),
)]
async fn of_webhook(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<List<Resource>>, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksRead)?;
    let id = with_history(&app, &tenant, &id).await?;
    let mut query = Query::read(query.as_deref());
    let times = query.times();
    let (limit, cursor) = (query.limit(), query.cursor());
    query.finish()?;
    let page = app.store.recoveries(&tenant, id, &times, cursor.as_ref(), limit).await.map_err(database_problem)?;
    Ok(List::of(page, Resource::from))
}

/// Shows a recovery.
#[utoipa::path(
    get, path = "/company/recoveries/{id}",
    tag = "recovery", operation_id = "getRecovery",
    security(("bearer" = ["webhooks:read"])),
    params(
        ("id" = String, Path, description = "Of the recovery", example = "rcv_01HA4XCG60CT4G3EWF4CKYM1MF"),
    ),
    responses((status = 200, description = "How it gets on", body = Resource)),
)]
async fn one(State(app): State<App>, headers: HeaderMap, Path(id): Path<String>) -> Result<Json<Resource>, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksRead)?;
    let id = id.parse().map_err(|_| no_such_recovery())?;
    known(&app, &tenant, id).await.map(Resource::from).map(Json)
}

/// Cancels a recovery.
///
/// What has been handed to the deliverers by then is sent all the same.
#[utoipa::path(
    post, path = "/company/recoveries/{id}/cancel",
    tag = "recovery", operation_id = "cancelRecovery",
    security(("bearer" = ["webhooks:write"])),
    params(
        ("id" = String, Path, description = "Of the recovery", example = "rcv_01HA4XCG60CT4G3EWF4CKYM1MF"),
    ),
    responses((status = 200, description = "It is cancelled", body = Resource)),
)]
async fn cancel(State(app): State<App>, headers: HeaderMap, Path(id): Path<String>) -> Result<Json<Resource>, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksWrite)?;
    let id = id.parse().map_err(|_| no_such_recovery())?;
    app.store.cancel_recovery(&tenant, id, shopery_queue::now()).await.map_err(database_problem)?;
    let recovery = known(&app, &tenant, id).await?;
    match recovery.state {
        RecoveryState::Cancelled => Ok(Json(Resource::from(recovery))),
        state => Err(Problem::conflict(format!("the recovery is {} already", state.name()))),
    }
}

async fn known(app: &App, tenant: &TenantId, id: RecoveryId) -> Result<RecoveryRecord, Problem> {
    app.store.recovery(tenant, id).await.map_err(database_problem)?.ok_or_else(no_such_recovery)
}

fn no_such_recovery() -> Problem {
    Problem::not_found("there is no recovery with this id")
}
