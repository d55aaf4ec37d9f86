//! `POST /company/webhooks/match`: whether an event would make a delivery of a webhook with these rules, why it would not, and
//! what would be sent. It looks at what the request says alone: nothing is stored, and nothing is sent.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use shopery_http::{Permission, Problem};
use shopery_model::{EventPattern, Invalid, Objection, Rules, StateChange, catalogue, objections};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::body::Fields;
use crate::openapi::schemas;
use crate::rules::RulesChange;
use crate::sample::{self, Sample};
use crate::webhooks::bounded;

pub(crate) const PATH: &str = "/company/webhooks/match";

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(matches))
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MatchReport)]
struct Report {
    /// The event would make a delivery.
    matches: bool,
    /// What is against it.
    objections: Vec<ObjectionShown>,
    /// Which of the paths of `changed` have changed.
    changed: Vec<String>,
    /// The body that would be sent, whether the event matches or not.
    #[schema(value_type = Object)]
    payload: Box<RawValue>,
}

/// A rule of a webhook that an event does not meet.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Objection)]
pub(crate) struct ObjectionShown {
    /// The field of the webhook.
    #[schema(example = "filter")]
    rule: &'static str,
    /// Where in the resource, if it is one place.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "total_price")]
    path: Option<String>,
    #[schema(example = "total_price is 50, which does not match [{\"numeric\":[\">\",50]}]")]
    detail: String,
}

impl From<Objection> for ObjectionShown {
    fn from(objection: Objection) -> Self {
        Self { rule: objection.rule, path: objection.path, detail: objection.detail }
    }
}

/// Shows whether an event would make a delivery of a webhook with these rules, why not, and what would be sent.
///
/// Nothing is stored and nothing is sent. Without `data` the example of the event type is taken.
#[utoipa::path(
    post, path = "/company/webhooks/match",
    tag = "webhooks", operation_id = "matchRules",
    security(("bearer" = ["webhooks:read"])),
    request_body = schemas::MatchRequest,
    responses((status = 200, description = "What would follow", body = Report)),
)]
async fn matches(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Json<Report>, Problem> {
    app.access.tenant(&headers, Permission::WebhooksRead)?;
    let mut fields = Fields::read(&headers, body).await?;
    let event_type = sample::event_type(&mut fields);
    let event_type = fields.require("eventType", event_type);
    let data = object(&mut fields, "data");
    let previous = object(&mut fields, "previous");
    let events = fields.list("events", str::parse::<EventPattern>);
    let events = events.and_then(|events| fields.check(bounded(events)));
    let rules = RulesChange::read(&mut fields).apply(Rules::default(), &mut fields).unwrap_or_default();
    let data = data.or_else(|| {
        let example = event_type.and_then(|event_type| catalogue().example(event_type));
        example.map(|example| Bytes::from_static(example.get().as_bytes()))
    });
    let data = if event_type.is_some() { fields.require("data", data) } else { data };
    fields.finish()?;
    let (Some(event_type), Some(data)) = (event_type, data) else { return Err(Problem::internal()) };
    let events = events.unwrap_or_else(|| vec![EventPattern::One(event_type)]);
    let state = StateChange { before: previous.as_deref(), after: &data };
    let objections: Vec<_> =
        objections(&events, &rules, event_type, state).into_iter().map(ObjectionShown::from).collect();
    let changed = rules.changed.as_ref().map(|changed| changed.between(state.before, state.after)).unwrap_or_default();
    Ok(Json(Report {
        matches: objections.is_empty(),
        changed: changed.into_iter().map(str::to_owned).collect(),
        payload: payload(&Sample::made_up(event_type, data.clone(), &rules))?,
        objections,
    }))
}

/// A resource, as it was written.
fn object(fields: &mut Fields, name: &'static str) -> Option<Bytes> {
    let json = fields.raw(name)?;
    let is_object = json.get().trim_start().starts_with('{');
    let not_one = || Invalid::new(name, "must be a JSON object: the resource, as an event carries it");
    fields.check(if is_object { Ok(Bytes::from(json.get().to_owned())) } else { Err(not_one()) })
}

fn payload(sample: &Sample) -> Result<Box<RawValue>, Problem> {
    let body = sample.body("evt_example", shopery_queue::now());
    let text = String::from_utf8(body.into()).map_err(|_| Problem::internal())?;
    RawValue::from_string(text).map_err(|_| Problem::internal())
}
