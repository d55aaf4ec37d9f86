//! Recoveries: `POST /company/webhooks/{id}/recover`, and how they get on. What they do is in [`crate::recover`].

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use shopery_http::{Permission, Problem};
use shopery_model::{DeliveryState, Invalid, PayloadMode, RecoveryId, TenantId, WebhookId};
use shopery_store::{RecoveryRecord, RecoveryState};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::body::Fields;
use crate::deliveries::with_history;
use crate::query::{List, Query};
use crate::webhooks::find;
use crate::{App, database_problem};

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/company/webhooks/{id}/recover", post(recover))
        .route("/company/webhooks/{id}/recoveries", get(of_webhook))
        .route("/company/recoveries/{id}", get(one))
        .route("/company/recoveries/{id}/cancel", post(cancel))
}

/// A recovery, as the API shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    id: RecoveryId,
    webhook_id: WebhookId,
    state: &'static str,
    #[serde(with = "crate::timestamp")]
    since: OffsetDateTime,
    #[serde(with = "crate::timestamp")]
    until: OffsetDateTime,
    statuses: Vec<&'static str>,
    mode: &'static str,
    /// `null` until they have been counted.
    total: Option<u64>,
    resent: u64,
    skipped: u64,
    unavailable: u64,
    error: Option<String>,
    #[serde(with = "crate::timestamp")]
    created_at: OffsetDateTime,
    #[serde(with = "crate::timestamp")]
    updated_at: OffsetDateTime,
    #[serde(with = "crate::timestamp::option")]
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

async fn recover(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksWrite)?;
    let webhook = find(&app, &tenant, &id).await?;
    let recovery = read(Fields::read(&headers, body).await?, tenant, webhook.id)?;
    app.store.create_recovery(&recovery).await.map_err(database_problem)?;
    app.recoveries.notify_one();
    let location = format!("/company/recoveries/{}", recovery.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(Resource::from(recovery))).into_response())
}

fn read(mut fields: Fields, tenant: TenantId, webhook: WebhookId) -> Result<RecoveryRecord, Problem> {
    let since = time(&mut fields, "since");
    let since = fields.require("since", since);
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
    let now = OffsetDateTime::now_utc();
    // What is yet to come is no part of it.
    let until = until.map_or(now, |until| until.min(now));
    let since = since.and_then(|since| {
        let nothing = || Invalid::new("since", "must be a time before until, and before now");
        fields.check(if since < until { Ok(since) } else { Err(nothing()) })
    });
    fields.finish()?;
    let mut recovery = RecoveryRecord::new(tenant, webhook, since.ok_or_else(Problem::internal)?, until);
    recovery.statuses = statuses.unwrap_or(recovery.statuses);
    recovery.mode = mode.unwrap_or(recovery.mode);
    Ok(recovery)
}

fn time(fields: &mut Fields, name: &'static str) -> Option<OffsetDateTime> {
    let text = fields.string(name)?;
    let parsed = OffsetDateTime::parse(&text, &Rfc3339);
    let form = "must be an RFC 3339 timestamp, such as 2026-11-24T10:00:00Z";
    fields.check(parsed.map_err(|_| Invalid::new(name, form)))
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

/// Also of a webhook that was deleted.
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

async fn one(State(app): State<App>, headers: HeaderMap, Path(id): Path<String>) -> Result<Json<Resource>, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksRead)?;
    let id = id.parse().map_err(|_| no_such_recovery())?;
    known(&app, &tenant, id).await.map(Resource::from).map(Json)
}

/// What has been handed to the deliverers by then is sent all the same.
async fn cancel(State(app): State<App>, headers: HeaderMap, Path(id): Path<String>) -> Result<Json<Resource>, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksWrite)?;
    let id = id.parse().map_err(|_| no_such_recovery())?;
    app.store.cancel_recovery(&tenant, id, OffsetDateTime::now_utc()).await.map_err(database_problem)?;
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
