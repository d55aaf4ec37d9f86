//! `GET /company/webhooks/{id}/changes`: who has changed a webhook, when, and from what to what.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use serde::Serialize;
use shopery_http::{Permission, Problem};
use shopery_model::{ChangeId, WebhookId};
use shopery_store::{ChangeRecord, FieldChange};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::deliveries::with_history;
use crate::openapi::schemas;
use crate::query::{List, Query};
use crate::{App, database_problem};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(of_webhook))
}

/// A change, as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Change)]
struct Resource {
    #[schema(value_type = String)]
    id: ChangeId,
    #[schema(value_type = String)]
    webhook_id: WebhookId,
    #[schema(value_type = schemas::ChangeAction)]
    action: String,
    /// `null` if it was us, or a token without a `sub`.
    by: Option<String>,
    #[serde(with = "shopery_control::timestamp")]
    created_at: OffsetDateTime,
    #[schema(value_type = BTreeMap<String, schemas::FieldChange>)]
    changes: BTreeMap<String, FieldChange>,
}

impl From<ChangeRecord> for Resource {
    fn from(record: ChangeRecord) -> Self {
        Self {
            id: record.id,
            webhook_id: record.webhook,
            action: record.action,
            by: record.by,
            created_at: record.at,
            changes: record.fields,
        }
    }
}

/// Says who has changed a webhook.
///
/// Also of a webhook that was deleted.
#[utoipa::path(
    get, path = "/company/webhooks/{id}/changes",
    tag = "webhooks", operation_id = "listChanges",
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
    let page = app.store.changes(&tenant, id, &times, cursor.as_ref(), limit).await.map_err(database_problem)?;
    Ok(List::of(page, Resource::from))
}
