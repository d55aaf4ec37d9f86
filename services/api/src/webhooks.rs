//! `/company/webhooks`: create, list, get, change, delete, and the secret.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use shopery_control::{Backlog, WebhookResource};
use shopery_http::{Caller, Permission, Problem};
use shopery_model::{
    CloudKey, Credentials, DestinationKind, EndpointSecret, EventPattern, Invalid, MaskedChange, Rules, TenantId,
    WebhookId, validate_description, validate_metadata, validate_name,
};
use shopery_sender::{Egress, Target};
use shopery_store::{Author, Resealed, WebhookChange, WebhookRecord, WebhookState};
use time::OffsetDateTime;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::body::Fields;
use crate::credentials::{self, CredentialsChange};
use crate::openapi::schemas;
use crate::query::{List, Query};
use crate::rules::RulesChange;
use crate::waiting;
use crate::{App, clouds, database_problem, idempotency, version};

const MAX_EVENTS: usize = 50;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(one, change, delete))
}

/// A webhook with what of it is not in the clear. One that cannot be opened is shown without.
fn resource(app: &App, record: WebhookRecord, waiting: Option<Backlog>) -> WebhookResource {
    let (headers, credentials) = match credentials::open(app, &record) {
        Ok(opened) => (opened.headers.masked(), opened.cloud.as_ref().map(CloudKey::masked)),
        Err(_) => Default::default(),
    };
    WebhookResource { headers, credentials, waiting, ..WebhookResource::from(record) }
}

/// Times have the precision that the database keeps.
pub(crate) fn now() -> OffsetDateTime {
    let now = shopery_queue::now();
    now.replace_millisecond(now.millisecond()).unwrap_or(now)
}

/// Creates a webhook.
#[utoipa::path(
    post, path = "/company/webhooks",
    tag = "webhooks", operation_id = "createWebhook",
    security(("bearer" = ["webhooks:write"])),
    request_body = schemas::WebhookCreate,
    responses((status = 201, description = "It is made, and known wherever events are routed", body = schemas::Made)),
)]
async fn create(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let (tenant, by) = author(&app, &headers)?;
    let mut fields = Fields::read(&headers, body).await?;
    let change = read_change(&mut fields, &app.egress);
    let asked = CredentialsChange::read(&mut fields);
    let name = fields.require("name", change.name);
    let destination = fields.require("url", change.destination);
    let events = fields.require("events", change.events);
    let rules = RulesChange::read(&mut fields).apply(Rules::default(), &mut fields);
    fields.finish()?;
    let (Some(name), Some(destination), Some(events)) = (name, destination, events) else {
        return Err(Problem::internal());
    };
    let generated = EndpointSecret::generate().map_err(|_| Problem::internal())?;
    let rules = rules.unwrap_or_default();
    let now = now();
    let state = change.state.unwrap_or(WebhookState::Active);
    let id = WebhookId::generate();
    let mut credentials = Credentials::new(generated);
    asked.apply(&mut credentials, rules.signature)?;
    let target = Target { destination: &destination, credentials: &credentials, signature: rules.signature };
    clouds::judge(&app, target)?;
    if state == WebhookState::Active
        && let Err(problem) = clouds::try_out(&app, &tenant, target, None).await
    {
        // Once the cloud lets us in, the same request is answered otherwise.
        return Ok(idempotency::not_final(problem));
    }
    let sealed = credentials::seal(&app, &tenant, id, &credentials)?;
    let record = WebhookRecord {
        id,
        tenant: tenant.clone(),
        name,
        description: change.description.flatten(),
        metadata: change.metadata.unwrap_or_default(),
        destination,
        events,
        state,
        sealed,
        rules,
        created_at: now,
        updated_at: now,
        failing_since: None,
        warned_at: None,
        is_warning_notified: false,
        disabled: None,
        is_told: false,
        discard_before: None,
        endpoint_since: None,
        version: 1,
    };
    let told = MaskedChange::between(None, &credentials, now);
    app.store.create_webhook(&record, &told, &by).await.map_err(database_problem)?;
    app.config.publish(&tenant, id).await;
    let headers = [(header::LOCATION, format!("/company/webhooks/{id}")), (header::ETAG, version::tag(record.version))];
    Ok((StatusCode::CREATED, headers, Json(json!({ "id": id }))).into_response())
}

/// Lists the webhooks of the tenant.
#[utoipa::path(
    get, path = "/company/webhooks",
    tag = "webhooks", operation_id = "listWebhooks",
    security(("bearer" = ["webhooks:read"])),
    params(schemas::Part, schemas::Times),
    responses((status = 200, description = "Newest first", body = List<WebhookResource>)),
)]
async fn list(
    State(app): State<App>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Json<List<WebhookResource>>, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksRead)?;
    let mut query = Query::read(query.as_deref());
    let times = query.times();
    let (limit, cursor) = (query.limit(), query.cursor());
    query.finish()?;
    let page = app.store.webhooks(&tenant, &times, cursor.as_ref(), limit).await.map_err(database_problem)?;
    Ok(List::of(page, |record| resource(&app, record, None)))
}

/// Shows a webhook.
#[utoipa::path(
    get, path = "/company/webhooks/{id}",
    tag = "webhooks", operation_id = "getWebhook",
    security(("bearer" = ["webhooks:read"])),
    params(
        ("id" = String, Path, description = "Of the webhook", example = "wbh_01HA4XCG60CT4G3EWF4CKYM1MF"),
    ),
    responses((status = 200, description = "The webhook, and what waits for it", body = WebhookResource)),
)]
async fn one(State(app): State<App>, headers: HeaderMap, Path(id): Path<String>) -> Result<Response, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksRead)?;
    let record = find(&app, &tenant, &id).await?;
    let waiting = waiting::look(&app.queue, &tenant, record.id).await;
    Ok(show(&app, record, waiting))
}

/// The answer that shows a webhook.
fn show(app: &App, record: WebhookRecord, waiting: Option<Backlog>) -> Response {
    ([(header::ETAG, version::tag(record.version))], Json(resource(app, record, waiting))).into_response()
}

/// Changes a webhook.
#[utoipa::path(
    patch, path = "/company/webhooks/{id}",
    tag = "webhooks", operation_id = "updateWebhook",
    security(("bearer" = ["webhooks:write"])),
    params(
        ("id" = String, Path, description = "Of the webhook", example = "wbh_01HA4XCG60CT4G3EWF4CKYM1MF"),
        schemas::IfMatch,
    ),
    request_body = schemas::WebhookUpdate,
    responses((status = 200, description = "The webhook as it is now", body = WebhookResource)),
)]
async fn change(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let (tenant, by) = author(&app, &headers)?;
    let found = find(&app, &tenant, &id).await?;
    let (id, of_version) = (found.id, version::wanted(&headers, found.version)?);
    let mut fields = Fields::read(&headers, body).await?;
    let mut change = read_change(&mut fields, &app.egress);
    let asked = CredentialsChange::read(&mut fields);
    // Of two changes of the rules at once, the later one decides about all of them.
    change.rules = RulesChange::read(&mut fields).apply(found.rules.clone(), &mut fields);
    let is_enabled = change.state == Some(WebhookState::Active);
    let wish = waiting::Wish::read(&mut fields, is_enabled);
    fields.finish()?;
    // Of a bus or topic that let nobody in, other credentials are as good a reason to try again as another address.
    let (now, is_new_chance) = (now(), is_enabled || change.destination.is_some() || asked.cloud.is_some());
    (change.discard_before, change.of_version) = ((wish == waiting::Wish::Discard).then_some(now), of_version);
    update(&app, found, change, &asked, &by, now).await?;
    let waiting = if is_enabled { waiting::look(&app.queue, &tenant, id).await } else { None };
    app.config.publish(&tenant, id).await;
    if is_new_chance {
        app.config.resume_backlog(&tenant, id).await;
    }
    let record = app.store.webhook(&tenant, id).await.map_err(database_problem)?.ok_or_else(no_such_webhook)?;
    Ok(show(&app, record, waiting))
}

/// Changes a webhook, and what of its credentials the change is about. What was judged is what is changed: if somebody else has
/// changed where it is sent meanwhile, or with which credentials, it is judged again.
async fn update(
    app: &App,
    mut found: WebhookRecord,
    change: WebhookChange,
    asked: &CredentialsChange,
    by: &Author,
    now: OffsetDateTime,
) -> Result<(), Problem> {
    for _ in 0..credentials::TRIES {
        let (tenant, id) = (found.tenant.clone(), found.id);
        let judged = judge(app, &found, change.clone(), asked, now).await?;
        if app.store.update_webhook(&tenant, id, judged, by, now).await.map_err(database_problem)? {
            return Ok(());
        }
        // Whoever asks for a version that is gone may ask for a webhook that is.
        found = app.store.webhook(&tenant, id).await.map_err(database_problem)?.ok_or_else(no_such_webhook)?;
        if change.of_version.is_some_and(|version| version != found.version) {
            return Err(version::changed());
        }
    }
    Err(Problem::conflict("others change this webhook at the same time; try again"))
}

/// The change, with what it makes of the credentials, once the webhook that it makes was judged.
async fn judge(
    app: &App,
    found: &WebhookRecord,
    mut change: WebhookChange,
    asked: &CredentialsChange,
    now: OffsetDateTime,
) -> Result<WebhookChange, Problem> {
    let destination = change.destination.clone().unwrap_or_else(|| found.destination.clone());
    let signature = change.rules.as_ref().map_or(found.rules.signature, |rules| rules.signature);
    let is_enabled = change.state.unwrap_or(found.state) == WebhookState::Active;
    let is_edited = asked.is_any() || signature != found.rules.signature;
    if !is_edited && change.destination.is_none() && change.state != Some(WebhookState::Active) {
        return Ok(change);
    }
    change.of_endpoint = Some((found.destination.clone(), found.sealed.clone()));
    let is_https = [&destination, &found.destination].iter().all(|one| one.kind() == DestinationKind::Https);
    if !is_edited && is_https {
        // Also one whose credentials cannot be opened can be moved and enabled.
        return Ok(change);
    }
    let before = credentials::open(app, found)?;
    let mut credentials = before.clone();
    if is_edited {
        asked.apply(&mut credentials, signature)?;
    }
    let target = Target { destination: &destination, credentials: &credentials, signature };
    clouds::judge(app, target)?;
    let is_tried =
        destination == found.destination && credentials.cloud == before.cloud && found.state == WebhookState::Active;
    if is_enabled && !is_tried {
        clouds::try_out(app, &found.tenant, target, Some(found.id.to_string())).await?;
    }
    if is_edited {
        let told = MaskedChange::between(Some(&before), &credentials, now);
        let is_new_secret = credentials.secret != before.secret;
        let after = credentials::seal(app, &found.tenant, found.id, &credentials)?;
        change.sealed = Some(Resealed { before: found.sealed.clone(), after, is_new_secret, told });
    }
    Ok(change)
}

/// Deletes a webhook.
#[utoipa::path(
    delete, path = "/company/webhooks/{id}",
    tag = "webhooks", operation_id = "deleteWebhook",
    security(("bearer" = ["webhooks:write"])),
    params(
        ("id" = String, Path, description = "Of the webhook", example = "wbh_01HA4XCG60CT4G3EWF4CKYM1MF"),
    ),
    responses((status = 204, description = "It is gone; its history stays")),
)]
async fn delete(State(app): State<App>, headers: HeaderMap, Path(id): Path<String>) -> Result<Response, Problem> {
    let (tenant, by) = author(&app, &headers)?;
    let id = id.parse().map_err(|_| no_such_webhook())?;
    if !app.store.delete_webhook(&tenant, id, &by, now()).await.map_err(database_problem)? {
        return Err(no_such_webhook());
    }
    app.config.publish(&tenant, id).await;
    app.config.resume_backlog(&tenant, id).await;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The tenant whose webhook is to be changed, and who asks for it.
pub(crate) fn author(app: &App, headers: &HeaderMap) -> Result<(TenantId, Author), Problem> {
    let Caller { tenant, subject } = app.access.caller(headers, Permission::WebhooksWrite)?;
    Ok((tenant, Author::of(subject.as_deref())))
}

/// The tenant's webhook. An id that is malformed, unknown or another tenant's gives the same answer.
pub(crate) async fn find(app: &App, tenant: &TenantId, id: &str) -> Result<WebhookRecord, Problem> {
    let id = id.parse().map_err(|_| no_such_webhook())?;
    app.store.webhook(tenant, id).await.map_err(database_problem)?.ok_or_else(no_such_webhook)
}

pub(crate) fn no_such_webhook() -> Problem {
    Problem::not_found("there is no webhook with this id")
}

/// As many events as a webhook may name.
pub(crate) fn bounded(events: Vec<EventPattern>) -> Result<Vec<EventPattern>, Invalid> {
    if events.is_empty() || events.len() > MAX_EVENTS {
        return Err(Invalid::new("events", format!("must name 1 to {MAX_EVENTS} events, such as order-created")));
    }
    Ok(events)
}

/// The fields that a webhook is created and changed with, but for its rules.
fn read_change(fields: &mut Fields, egress: &Egress) -> WebhookChange {
    let name = fields.string("name");
    let description = fields.clearable("description", |fields| {
        let text = fields.string("description")?;
        fields.check(validate_description(&text).map(|()| text))
    });
    let metadata = fields.clearable("metadata", |fields| {
        let pairs = fields.texts("metadata")?;
        fields.check(validate_metadata(&pairs).map(|()| pairs))
    });
    let url = fields.string("url");
    let events = fields.list("events", str::parse::<EventPattern>).map(|mut events| {
        let mut seen = std::collections::HashSet::new();
        events.retain(|event| seen.insert(*event));
        events
    });
    WebhookChange {
        name: name.and_then(|name| fields.check(validate_name(&name).map(|()| name))),
        // An empty one is none.
        description: description.map(|text| text.filter(|text| !text.trim().is_empty())),
        metadata: metadata.map(Option::unwrap_or_default),
        destination: url.and_then(|url| fields.check(egress.destination(&url))),
        events: events.and_then(|events| fields.check(bounded(events))),
        state: fields.bool("isEnabled").map(WebhookState::of),
        ..WebhookChange::default()
    }
}
