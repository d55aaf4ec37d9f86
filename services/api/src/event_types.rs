//! `/company/event-types`: what a webhook may subscribe to.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::value::RawValue;
use shopery_http::{Permission, Problem};
use shopery_model::{EventType, catalogue};

use crate::App;
use crate::query::List;

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/company/event-types", get(list))
}

#[derive(Debug, Serialize)]
struct Entry {
    #[serde(rename = "type")]
    event_type: EventType,
    resource: &'static str,
    description: &'static str,
    /// A JSON Schema of the payload, and such a payload; of a resource that the platform has added they may be absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<&'static RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    example: Option<&'static RawValue>,
}

/// All of them: there are few.
async fn list(State(app): State<App>, headers: HeaderMap) -> Result<Json<List<Entry>>, Problem> {
    app.access.tenant(&headers, Permission::WebhooksRead)?;
    let entries = catalogue().resources().flat_map(|resource| {
        resource.types().map(|(event_type, description)| Entry {
            event_type,
            resource: resource.name,
            description,
            schema: resource.shape.schema.as_deref(),
            example: resource.shape.example.as_deref(),
        })
    });
    Ok(Json(List::whole(entries.collect())))
}
