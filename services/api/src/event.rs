//! `GET /company/events/{id}`: one event, and what became of it at each of the tenant's webhooks, those included that it did not
//! concern: "why did I not get this?" in one request.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use serde::Serialize;
use serde_json::value::RawValue;
use shopery_http::{Permission, Problem};
use shopery_model::{DeliveryState, Objection, StateChange, TenantId, WebhookId, objections};
use shopery_queue::{FeedStart, StoredEvent};
use shopery_store::{DeliveryRecord, Times, WebhookRecord};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::deliveries::{self, resource};
use crate::events::show;
use crate::matching::ObjectionShown;
use crate::openapi::schemas;
use crate::query::Query;
use crate::{App, database_problem, queue_problem};

/// States of a resource that are looked at, the newest first.
const MAX_STATES: usize = 200;
/// Events that are looked at where the resource is not said.
const MAX_EVENTS: usize = 2000;
/// Events in one read: the last one of a part may hold events that were looked at before.
const BATCH: usize = 200;
/// If no time is said either: in how many of the last places of EVENTS, those of other tenants among them, they are looked for.
const LOOKED_BACK: [u64; 5] = [MAX_EVENTS as u64, 20_000, 200_000, 2_000_000, u64::MAX];
/// Bytes of events that one request reads.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// More than a tenant may have.
const MAX_WEBHOOKS: u64 = 1000;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(one))
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventReport)]
struct Report {
    #[schema(value_type = schemas::CloudEvent)]
    event: Box<RawValue>,
    #[serde(with = "shopery_control::timestamp")]
    stored_at: OffsetDateTime,
    /// Every webhook that the tenant has, and those that were deleted since and had a delivery.
    webhooks: Vec<AtWebhook>,
}

/// What became of an event at a webhook.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventAtWebhook)]
struct AtWebhook {
    #[schema(value_type = String)]
    webhook_id: WebhookId,
    /// Absent if the webhook was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<deliveries::Resource>,
    /// What in the webhook, as it is now, is against a delivery.
    objections: Vec<ObjectionShown>,
    /// In a sentence.
    outcome: String,
}

/// Shows an event, and what became of it at each webhook.
///
/// An event is found at once if its `resource` is said; otherwise the events since `created_at_min` are looked through, at
/// most 2,000 of them (about the last ones, if that is absent). Of a webhook without a delivery it says which of its rules are
/// against one.
#[utoipa::path(
    get, path = "/company/events/{id}",
    tag = "events", operation_id = "getEvent",
    security(("bearer" = ["webhooks:read"])),
    params(
        ("id" = String, Path, description = "Of the event, as its publisher gave it", example = "evt_1"),
        schemas::OfEvent,
    ),
    responses((status = 200, description = "The event, and what became of it", body = Report)),
)]
async fn one(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Report>, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksRead)?;
    let mut query = Query::read(query.as_deref());
    let asked = Asked {
        id,
        source: query.take("source", |text| Ok(text.to_owned())),
        resource: query.take("resource", resource),
        since: query.time("created_at_min"),
    };
    query.finish()?;
    let _admitted = app.event_pages.enter(&tenant).await?;
    let found = asked.find(&app, &tenant).await.map_err(|error| queue_problem(&error))?;
    let found = found.ok_or_else(|| Problem::not_found(asked.advice()))?;
    report(&app, &tenant, found).await.map(Json)
}

/// Which event is asked for.
struct Asked {
    id: String,
    source: Option<String>,
    resource: Option<String>,
    since: Option<OffsetDateTime>,
}

impl Asked {
    fn is(&self, event: &StoredEvent) -> bool {
        event.event.id == self.id && self.source.as_ref().is_none_or(|source| event.event.source == *source)
    }

    async fn find(&self, app: &App, tenant: &TenantId) -> anyhow::Result<Option<StoredEvent>> {
        match &self.resource {
            Some(resource) => self.find_among_states(app, tenant, resource).await,
            None => self.find_among_all(app, tenant).await,
        }
    }

    /// From the newest state of the resource back.
    async fn find_among_states(
        &self,
        app: &App,
        tenant: &TenantId,
        resource: &str,
    ) -> anyhow::Result<Option<StoredEvent>> {
        // The newest one of the leader: a replica may not have it yet. If it does not read, as a newer version may have written
        // it, it hides none of those before it.
        let mut state = app.queue.latest_state_of_leader(tenant, resource).await.unwrap_or_default();
        let (mut before, mut bytes) = (u64::MAX, 0);
        for _ in 0..MAX_STATES {
            if let Some(state) = state {
                before = state.sequence;
                bytes += state.event.data.len();
                // One that was published again, since a late one came behind it, is found at its own place.
                let is_repeated = state.version.sequence() != state.sequence;
                let event = StoredEvent { sequence: before, stored_at: state.stored_at, event: state.event };
                if !is_repeated && state.tenant == *tenant && self.is(&event) {
                    return Ok(Some(event));
                }
            }
            let place = app.queue.previous_place(tenant, resource, before).await?;
            let Some(place) = place.filter(|_| bytes <= MAX_BYTES) else { break };
            before = place;
            state = app.queue.state_at(place).await?;
        }
        Ok(None)
    }

    /// Among what came last, then further and further back.
    async fn find_among_all(&self, app: &App, tenant: &TenantId) -> anyhow::Result<Option<StoredEvent>> {
        let starts = match self.since {
            Some(since) => vec![FeedStart::Since(since)],
            None => {
                let last = app.queue.held(tenant).await?.last();
                LOOKED_BACK.map(|places| FeedStart::At(last.saturating_sub(places) + 1)).to_vec()
            }
        };
        let (mut left, mut bytes_left, mut until) = (MAX_EVENTS, MAX_BYTES, None::<u64>);
        for first in starts {
            let mut start = first;
            'part: while left > 0 && bytes_left > 0 {
                let feed = app.queue.feed(tenant, None, start, left.min(BATCH), bytes_left).await?;
                left -= usize::from(feed.events.is_empty());
                for event in feed.events {
                    // From here on they were looked at before.
                    if until.is_some_and(|until| event.sequence >= until) {
                        break 'part;
                    }
                    left = left.saturating_sub(1);
                    bytes_left = bytes_left.saturating_sub(event.event.data.len());
                    if self.is(&event) {
                        return Ok(Some(event));
                    }
                }
                match feed.next {
                    Some(next) if !feed.is_end => start = FeedStart::At(next),
                    _ => break,
                }
            }
            until = match first {
                FeedStart::At(place) if place > 1 => Some(place),
                _ => break,
            };
        }
        Ok(None)
    }

    fn advice(&self) -> String {
        match &self.resource {
            Some(resource) => format!(
                "no event of {resource} that is still held has this id; events are held for up to 7 days, and of a resource \
                 the {MAX_STATES} latest are looked at"
            ),
            None => format!(
                "no event with this id is among the {MAX_EVENTS} that came from created_at_min on, or last: say \
                 its resource, such as ?resource=order/ord_123, or when it came"
            ),
        }
    }
}

async fn report(app: &App, tenant: &TenantId, found: StoredEvent) -> Result<Report, Problem> {
    let StoredEvent { sequence, stored_at, event } = found;
    let resource = event.resource.to_string();
    let times = Times::default();
    let webhooks = app.store.webhooks(tenant, &times, None, MAX_WEBHOOKS);
    let rows = app.store.deliveries_of_event(tenant, stored_at, &event.id, &event.source);
    let (webhooks, rows) = tokio::try_join!(webhooks, rows).map_err(database_problem)?;
    let mut rows: HashMap<String, DeliveryRecord> = rows.into_iter().map(|row| (row.webhook_id.clone(), row)).collect();
    let previous = if webhooks.items.iter().any(|webhook| webhook.rules.changed.is_some()) {
        let state = app.queue.previous_state(tenant, &resource, sequence).await;
        state.map_err(|error| queue_problem(&error))?.map(|state| state.event.data)
    } else {
        None
    };
    let state = StateChange { before: previous.as_deref(), after: &event.data };
    let mut shown = Vec::new();
    for webhook in webhooks.items {
        let row = rows.remove(&webhook.id.to_string());
        let mut against = objections(&webhook.events, &webhook.rules, event.event_type, state);
        if event.is_about(webhook.id) {
            let detail = "an event about a webhook is never sent to that webhook".to_owned();
            against.push(Objection { rule: "events", path: None, detail });
        }
        let outcome = outcome(&webhook, row.as_ref(), stored_at, !against.is_empty());
        shown.push(AtWebhook {
            webhook_id: webhook.id,
            name: Some(webhook.name),
            delivery: row.map(|row| deliveries::Resource::of(row, None)),
            objections: against.into_iter().map(ObjectionShown::from).collect(),
            outcome,
        });
    }
    for (id, row) in rows {
        let outcome = format!("{}; the webhook was deleted since", state_in_words(&row));
        let Ok(webhook_id) = id.parse() else { continue };
        let delivery = Some(deliveries::Resource::of(row, None));
        shown.push(AtWebhook { webhook_id, name: None, delivery, objections: Vec::new(), outcome });
    }
    let event = show(event).map_err(|_| Problem::internal())?;
    Ok(Report { event, stored_at, webhooks: shown })
}

/// What became of the event at a webhook, for people.
fn outcome(
    webhook: &WebhookRecord,
    row: Option<&DeliveryRecord>,
    stored_at: OffsetDateTime,
    has_against: bool,
) -> String {
    let is_newer = webhook.created_at > stored_at;
    let is_changed = webhook.updated_at > stored_at;
    match row {
        Some(row) if row.state == DeliveryState::Filtered.name() && !has_against => {
            let why = match is_changed {
                true => "it was changed after the event, and its rules may have been others then",
                false => "a newer state of the resource had come, or the one before is no longer held",
            };
            format!("filtered; the webhook as it is now would match: {why}")
        }
        Some(row) => state_in_words(row),
        None if is_newer => "the webhook was made after the event".to_owned(),
        None if has_against && is_changed => {
            "no delivery; the webhook was changed after the event, and as it is now it does not match".to_owned()
        }
        None if has_against => "no delivery: the webhook does not match".to_owned(),
        None if is_changed => {
            "no delivery in the history; the webhook was changed after the event, and as it is now it would match"
                .to_owned()
        }
        None => "no delivery in the history: it is not routed or recorded yet, or no longer kept".to_owned(),
    }
}

fn state_in_words(row: &DeliveryRecord) -> String {
    match (&row.fault, &row.carried_by) {
        (_, Some(carrier)) if row.state == DeliveryState::Duplicate.name() => {
            format!("duplicate: {carrier} tells the endpoint the same")
        }
        (_, Some(carrier)) if row.state == DeliveryState::Superseded.name() => {
            format!("superseded: {carrier} tells the endpoint this state or a newer one")
        }
        (Some((_, detail)), _) => format!("{}: {detail}", row.state),
        (None, _) => row.state.clone(),
    }
}
