//! The history: `/company/deliveries`, and the same of one webhook.

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use serde::Serialize;
use shopery_http::{Permission, Problem};
use shopery_model::{DeliveryState, EventType, Fault, TenantId, WebhookId};
use shopery_store::{AttemptRecord, DeliveryFilter, DeliveryRecord, SortOrder, Times};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::attempts::Attempt;
use crate::openapi::schemas;
use crate::query::{List, Query};
use crate::webhooks::no_such_webhook;
use crate::{App, database_problem};

const MAX_KIND_CHARS: usize = 100;
const MAX_ID_CHARS: usize = 255;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(all)).routes(routes!(of_webhook)).routes(routes!(one))
}

/// A delivery, as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Delivery)]
pub(crate) struct Resource {
    id: String,
    webhook_id: String,
    event_id: String,
    /// The `source` of the event: an event is known by it together with its id. Absent where the history does not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_source: Option<String>,
    event: String,
    resource: String,
    #[schema(value_type = schemas::DeliveryState)]
    state: String,
    attempt_count: i32,
    #[serde(with = "shopery_control::timestamp")]
    triggered_at: OffsetDateTime,
    #[serde(with = "shopery_control::timestamp")]
    created_at: OffsetDateTime,
    #[serde(with = "shopery_control::timestamp")]
    updated_at: OffsetDateTime,
    #[serde(with = "shopery_control::timestamp::option")]
    next_attempt_at: Option<OffsetDateTime>,
    /// What the endpoint has answered to the last attempt; absent if it has not answered, or the history does not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<u16>,
    /// Why the last attempt failed, or why there was none.
    error: Option<Reason>,
    /// The delivery that tells the endpoint the same (duplicate), or newer (superseded); one that is `carrier_failed` relied on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    carried_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<Vec<Attempt>>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeliveryError)]
pub(crate) struct Reason {
    #[schema(value_type = schemas::FaultName)]
    reason: String,
    detail: String,
}

impl Resource {
    pub(crate) fn of(record: DeliveryRecord, attempts: Option<Vec<Attempt>>) -> Self {
        Self {
            id: record.id,
            webhook_id: record.webhook_id,
            event_id: record.event_id,
            event_source: record.source,
            event: record.event_type,
            resource: record.resource,
            state: record.state,
            attempt_count: record.attempt_count,
            triggered_at: record.triggered_at,
            created_at: record.created_at,
            updated_at: record.updated_at,
            next_attempt_at: record.next_attempt_at,
            response_status: record.response_status,
            error: record.fault.map(reason),
            carried_by: record.carried_by,
            attempts,
        }
    }
}

pub(crate) fn reason((reason, detail): (String, String)) -> Reason {
    Reason { reason, detail }
}

/// Lists the deliveries of the tenant.
#[utoipa::path(
    get, path = "/company/deliveries",
    tag = "deliveries", operation_id = "listDeliveries",
    security(("bearer" = ["webhooks:read"])),
    params(schemas::OfWebhook, schemas::OfDeliveries, schemas::Part, schemas::Times),
    responses((status = 200, description = "In the order that is asked for", body = List<Resource>)),
)]
async fn all(
    State(app): State<App>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Json<List<Resource>>, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksRead)?;
    list(&app, &tenant, None, query.as_deref()).await
}

/// Lists the deliveries of a webhook.
///
/// Also of a webhook that was deleted: its history stays.
#[utoipa::path(
    get, path = "/company/webhooks/{id}/deliveries",
    tag = "deliveries", operation_id = "listDeliveriesOfWebhook",
    security(("bearer" = ["webhooks:read"])),
    params(
        ("id" = String, Path, description = "Of the webhook", example = "wbh_01HA4XCG60CT4G3EWF4CKYM1MF"),
        schemas::OfDeliveries,
        schemas::Part,
        schemas::Times,
    ),
    responses((status = 200, description = "In the order that is asked for", body = List<Resource>)),
)]
async fn of_webhook(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<List<Resource>>, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksRead)?;
    let id = with_history(&app, &tenant, &id).await?;
    list(&app, &tenant, Some(id), query.as_deref()).await
}

/// A webhook of the tenant that there is, or was: one that was deleted is known by its changes, or its history.
pub(crate) async fn with_history(app: &App, tenant: &TenantId, id: &str) -> Result<WebhookId, Problem> {
    let id: WebhookId = id.parse().map_err(|_| no_such_webhook())?;
    if app.store.webhook(tenant, id).await.map_err(database_problem)?.is_some() {
        return Ok(id);
    }
    let changes = app.store.changes(tenant, id, &Times::default(), None, 1).await.map_err(database_problem)?;
    if changes.items.is_empty() {
        let of_deleted = DeliveryFilter { webhook: Some(id), ..DeliveryFilter::default() };
        let history = app.store.deliveries(tenant, &of_deleted, None, 1).await.map_err(database_problem)?;
        if history.items.is_empty() {
            return Err(no_such_webhook());
        }
    }
    Ok(id)
}

async fn list(
    app: &App,
    tenant: &TenantId,
    webhook: Option<WebhookId>,
    query: Option<&str>,
) -> Result<Json<List<Resource>>, Problem> {
    let mut query = Query::read(query);
    let webhook = match webhook {
        Some(webhook) => Some(webhook),
        None => query.take("webhook", webhook_id),
    };
    let filter = DeliveryFilter {
        webhook,
        states: query.all("status", |text| named(text, DeliveryState::ALL, DeliveryState::name)),
        event_type: query.take("event", |text| {
            text.parse::<EventType>().map(String::from).map_err(|invalid| invalid.detail.into_owned())
        }),
        resource: query.take("resource", resource),
        fault: query.take("reason", |text| named(text, Fault::ALL, Fault::name)),
        response_status: query.take("response_status", response_status),
        order: match query.take("order", |text| named(text, ["newest", "oldest"], |name| name)) {
            Some("oldest") => SortOrder::OldestFirst,
            _ => SortOrder::NewestFirst,
        },
        times: query.times(),
    };
    let (limit, cursor) = (query.limit(), query.cursor());
    query.finish()?;
    // There is no index of it: a list of a rare status looks through all deliveries.
    let _admitted = if filter.response_status.is_some() { Some(app.sums.enter(tenant).await?) } else { None };
    let page = app.store.deliveries(tenant, &filter, cursor.as_ref(), limit).await.map_err(database_problem)?;
    Ok(List::of(page, |record| Resource::of(record, None)))
}

/// The one of these that has this name.
pub(crate) fn named<T: Copy, const N: usize>(
    text: &str,
    all: [T; N],
    name: impl Fn(T) -> &'static str,
) -> Result<T, String> {
    let found = all.into_iter().find(|one| name(*one) == text);
    found.ok_or_else(|| format!("must be one of {}", all.map(name).join(", ")))
}

pub(crate) fn webhook_id(text: &str) -> Result<WebhookId, String> {
    text.parse().map_err(|_| "must be the id of a webhook, such as wbh_01HA4XCG60CT4G3EWF4CKYM1MF".to_owned())
}

/// A resource as deliveries name it: its kind and its id.
pub(crate) fn resource(text: &str) -> Result<String, String> {
    let fits = |part: &str, max: usize| (1..=max).contains(&part.chars().count());
    let is_one = text.split_once('/').is_some_and(|(kind, id)| fits(kind, MAX_KIND_CHARS) && fits(id, MAX_ID_CHARS));
    let is_one = is_one && !text.chars().any(char::is_control);
    is_one.then(|| text.to_owned()).ok_or_else(|| "must be a kind and an id, such as order/ord_123".to_owned())
}

fn response_status(text: &str) -> Result<u16, String> {
    let status = text.parse().ok().filter(|status| (100..=599).contains(status));
    status.ok_or_else(|| "must be an HTTP status, from 100 to 599".to_owned())
}

/// Shows a delivery with its attempts.
#[utoipa::path(
    get, path = "/company/deliveries/{id}",
    tag = "deliveries", operation_id = "getDelivery",
    security(("bearer" = ["webhooks:read"])),
    params(
        ("id" = String, Path, description = "Of the delivery", example = "dlv_01HA4XCG60CT4G3EWF4CKYM1MF"),
    ),
    responses((status = 200, description = "The delivery, with its attempts", body = Resource)),
)]
async fn one(State(app): State<App>, headers: HeaderMap, Path(id): Path<String>) -> Result<Json<Resource>, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksRead)?;
    let (record, attempts) = find(&app, &tenant, &id).await?;
    let attempts = attempts.into_iter().map(|attempt| Attempt::of(attempt, &record, &tenant)).collect();
    Ok(Json(Resource::of(record, Some(attempts))))
}

/// A delivery of the tenant, with its attempts.
pub(crate) async fn find(
    app: &App,
    tenant: &TenantId,
    id: &str,
) -> Result<(DeliveryRecord, Vec<AttemptRecord>), Problem> {
    let missing = || Problem::not_found("there is no delivery with this id");
    let id = id.parse().map_err(|_| missing())?;
    app.store.delivery(tenant, id).await.map_err(database_problem)?.ok_or_else(missing)
}
