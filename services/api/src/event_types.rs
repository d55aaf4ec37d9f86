//! `/company/event-types`: what a webhook may subscribe to.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Serialize;
use serde_json::value::RawValue;
use shopery_http::{Permission, Problem};
use shopery_model::{EventType, catalogue};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::query::List;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventType)]
struct Entry {
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    event_type: EventType,
    resource: &'static str,
    description: &'static str,
    /// A JSON Schema of the payload, and such a payload; of a type that the platform has added they may be absent. A
    /// deletion has a schema of its own: it carries what identifies the resource, and when it was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    schema: Option<&'static RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    example: Option<&'static RawValue>,
}

/// Lists what a webhook may subscribe to.
///
/// All of them: there are few.
#[utoipa::path(
    get, path = "/company/event-types",
    tag = "events", operation_id = "listEventTypes",
    security(("bearer" = ["webhooks:read"])),
    responses((status = 200, description = "All of them", body = List<Entry>)),
)]
async fn list(State(app): State<App>, headers: HeaderMap) -> Result<Json<List<Entry>>, Problem> {
    app.access.tenant(&headers, Permission::WebhooksRead)?;
    let entries = catalogue().resources().flat_map(|resource| {
        resource.types().map(|(event_type, description)| Entry {
            event_type,
            resource: resource.name,
            description,
            schema: catalogue().schema(event_type),
            example: catalogue().example(event_type),
        })
    });
    Ok(Json(List::whole(entries.collect())))
}
