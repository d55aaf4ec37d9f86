//! `/company/metrics`, and the same of one webhook: what was attempted and what came of it, from counts that the recorder
//! keeps, and what waits now.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use futures_util::future::try_join_all;
use serde::Serialize;
use shopery_http::{Permission, Problem};
use shopery_model::{Circuit, CircuitState, Invalid, TenantId, WebhookId};
use shopery_store::{Counts, Times, Windows};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::deliveries::{Reason, reason, webhook_id, with_history};
use crate::openapi::schemas;
use crate::query::Query;
use crate::{App, database_problem, queue_problem};

const DEFAULT_TIME: time::Duration = time::Duration::DAY;
const DEFAULT_STEP: Duration = Duration::from_secs(60 * 60);
const MAX_WINDOWS: u32 = 1000;
/// Webhooks that are told of at once: all that a tenant may have.
const MAX_AT_ONCE: usize = 100;
const MAX_WINDOWS_OF_EACH: u32 = 100;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(of_tenant)).routes(routes!(of_webhooks)).routes(routes!(of_webhook))
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Metrics {
    total: Tally,
    /// Oldest window first.
    data: Vec<Window>,
    now: Now,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MetricsWindow)]
struct Window {
    #[serde(with = "shopery_control::timestamp")]
    from: OffsetDateTime,
    /// Without it.
    #[serde(with = "shopery_control::timestamp")]
    to: OffsetDateTime,
    #[serde(flatten)]
    #[schema(inline)]
    tally: Tally,
}

/// What was counted.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Tally {
    /// POSTs to endpoints.
    attempts: u64,
    /// Attempts that failed, by reason.
    failed_attempts: BTreeMap<&'static str, u64>,
    /// Deliveries that came to an end or were parked, by their state. Each round of a delivery is counted.
    deliveries: BTreeMap<&'static str, u64>,
    latency: Option<Latency>,
}

/// How long attempts took, in milliseconds; up to 19 % too much.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Latency {
    p50: f64,
    p95: f64,
    p99: f64,
    max: f64,
}

/// How things are at this moment.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Now {
    /// When the oldest delivery was made that is pending or parked.
    #[serde(with = "shopery_control::timestamp::option")]
    oldest_waiting_at: Option<OffsetDateTime>,
    /// Of a webhook: `closed` if its endpoint works, `open` if it is left alone, `draining` while what was parked is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    circuit: Option<&'static str>,
    /// When an open circuit's endpoint is tried again; absent while it is being tried.
    #[serde(with = "shopery_control::timestamp::option", skip_serializing_if = "Option::is_none")]
    next_probe_at: Option<OffsetDateTime>,
    /// What the endpoint did when it was found to fail, or last tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Reason>,
}

impl Now {
    fn of(self, circuit: Option<Circuit>) -> Self {
        let Some(circuit) = circuit else { return Self { circuit: Some("closed"), ..self } };
        match circuit.state {
            CircuitState::Draining => Self { circuit: Some("draining"), ..self },
            CircuitState::Open => Self {
                circuit: Some("open"),
                next_probe_at: circuit.probe_at,
                error: circuit.error.map(|error| reason((error.reason, error.detail))),
                ..self
            },
        }
    }
}

impl From<&Counts> for Tally {
    fn from(counts: &Counts) -> Self {
        let round = |millis: f64| (millis * 10.0).round() / 10.0;
        let latency = |per_mille| counts.latency(per_mille).map(round);
        Self {
            attempts: counts.attempts(),
            failed_attempts: counts.failed(),
            deliveries: counts.states(),
            latency: latency(500)
                .zip(latency(950))
                .zip(latency(990).zip(latency(1000)))
                .map(|((p50, p95), (p99, max))| Latency { p50, p95, p99, max }),
        }
    }
}

/// Windows of whole minutes.
fn read_windows(mut query: Query, now: OffsetDateTime) -> Result<Windows, Problem> {
    let to = query.time("created_at_max").unwrap_or(now).min(now);
    let from = query.time("created_at_min").unwrap_or_else(|| to.saturating_sub(DEFAULT_TIME));
    let step = query.take("step", step).unwrap_or(DEFAULT_STEP);
    query.finish()?;
    windows(from, to, step).map_err(|invalid| Problem::invalid(vec![invalid]))
}

fn windows(from: OffsetDateTime, to: OffsetDateTime, step: Duration) -> Result<Windows, Invalid> {
    if to < from {
        return Err(Invalid::new("created_at_max", "must not be before created_at_min, nor this before now"));
    }
    let from = from - Duration::new(from.second().into(), from.nanosecond());
    let count = (to - from).whole_seconds() / i64::try_from(step.as_secs()).unwrap_or(i64::MAX) + 1;
    match u32::try_from(count) {
        Ok(count) if count <= MAX_WINDOWS => Ok(Windows { from, step, count }),
        _ => {
            let detail = format!("makes {count} windows of this time, and the limit is {MAX_WINDOWS}");
            Err(Invalid::new("step", detail))
        }
    }
}

fn step(text: &str) -> Result<Duration, String> {
    let step = humantime::Duration::from_str(text).ok().map(Duration::from);
    let step = step.filter(|step| *step >= Duration::from_secs(60) && step.as_secs().is_multiple_of(60));
    let step = step.filter(|step| step.subsec_nanos() == 0 && *step <= Duration::from_secs(366 * 86_400));
    step.ok_or_else(|| "must be a duration of whole minutes, 1m or more, such as 1h".to_owned())
}

/// Tells what was attempted for the tenant, and what came of it.
#[utoipa::path(
    get, path = "/company/metrics",
    tag = "deliveries", operation_id = "getMetrics",
    security(("bearer" = ["webhooks:read"])),
    params(schemas::MetricsWindows),
    responses((status = 200, description = "In all, and window by window", body = Metrics)),
)]
async fn of_tenant(
    State(app): State<App>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Json<Metrics>, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksRead)?;
    let now = shopery_queue::now();
    let windows = read_windows(Query::read(query.as_deref()), now)?;
    metrics(&app, &tenant, None, windows, now).await.map(Json)
}

/// Tells what was attempted for a webhook, what came of it, and how its endpoint is.
///
/// Also of a webhook that was deleted.
#[utoipa::path(
    get, path = "/company/webhooks/{id}/metrics",
    tag = "deliveries", operation_id = "getMetricsOfWebhook",
    security(("bearer" = ["webhooks:read"])),
    params(
        ("id" = String, Path, description = "Of the webhook", example = "wbh_01HA4XCG60CT4G3EWF4CKYM1MF"),
        schemas::MetricsWindows,
    ),
    responses((status = 200, description = "In all, and window by window", body = Metrics)),
)]
async fn of_webhook(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Metrics>, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksRead)?;
    let webhook = with_history(&app, &tenant, &id).await?;
    let now = shopery_queue::now();
    let windows = read_windows(Query::read(query.as_deref()), now)?;
    let mut metrics = metrics(&app, &tenant, Some(webhook), windows, now).await?;
    metrics.now = metrics.now.of(circuit(&app, &tenant, webhook).await?);
    Ok(Json(metrics))
}

async fn circuit(app: &App, tenant: &TenantId, webhook: WebhookId) -> Result<Option<Circuit>, Problem> {
    app.queue.circuit(tenant, webhook).await.map_err(|error| queue_problem(&error))
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MetricsOfWebhook)]
struct OfWebhook {
    #[schema(value_type = String)]
    webhook_id: WebhookId,
    #[serde(flatten)]
    #[schema(inline)]
    metrics: Metrics,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MetricsOfWebhooks)]
struct OfWebhooks {
    data: Vec<OfWebhook>,
}

/// Tells of several webhooks at once what was attempted and what came of it, as for a table of them.
///
/// Of those that are named, which may have been deleted, in that order; else of all that the tenant has, newest first. One
/// of which nothing was counted has zeros.
#[utoipa::path(
    get, path = "/company/webhooks/metrics",
    tag = "deliveries", operation_id = "getMetricsOfWebhooks",
    security(("bearer" = ["webhooks:read"])),
    params(schemas::OfWebhooks, schemas::MetricsWindows),
    responses((status = 200, description = "Of each, in all and window by window", body = OfWebhooks)),
)]
async fn of_webhooks(
    State(app): State<App>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Json<OfWebhooks>, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksRead)?;
    let mut query = Query::read(query.as_deref());
    let mut webhooks = query.all("webhook", webhook_id);
    query.at_most("webhook", webhooks.len(), MAX_AT_ONCE);
    let now = shopery_queue::now();
    let windows = read_windows(query, now)?;
    if windows.count > MAX_WINDOWS_OF_EACH {
        let detail = format!("makes {} windows of each webhook, and the limit is {MAX_WINDOWS_OF_EACH}", windows.count);
        return Err(Problem::invalid(vec![Invalid::new("step", detail)]));
    }
    if webhooks.is_empty() {
        let all = app.store.webhooks(&tenant, &Times::default(), None, MAX_AT_ONCE as u64).await;
        webhooks = all.map_err(database_problem)?.items.into_iter().map(|webhook| webhook.id).collect();
    }
    let _admitted = app.sums.enter(&tenant).await?;
    let counts = app.store.counts_of(&tenant, &webhooks, windows, now);
    let (mut counts, waiting) =
        tokio::try_join!(counts, app.store.oldest_waiting_of(&tenant, &webhooks)).map_err(database_problem)?;
    let circuits = try_join_all(webhooks.iter().map(|webhook| circuit(&app, &tenant, *webhook))).await?;
    let each = webhooks.into_iter().zip(circuits).map(|(webhook, circuit)| {
        let now = Now { oldest_waiting_at: waiting.get(&webhook).copied(), ..Now::default() }.of(circuit);
        OfWebhook {
            webhook_id: webhook,
            metrics: Metrics::of(&counts.remove(&webhook).unwrap_or_default(), windows, now),
        }
    });
    Ok(Json(OfWebhooks { data: each.collect() }))
}

async fn metrics(
    app: &App,
    tenant: &TenantId,
    webhook: Option<WebhookId>,
    windows: Windows,
    now: OffsetDateTime,
) -> Result<Metrics, Problem> {
    let _admitted = app.sums.enter(tenant).await?;
    let counts = app.store.counts(tenant, webhook, windows, now);
    let asked = tokio::try_join!(counts, app.store.oldest_waiting(tenant, webhook));
    let (counts, oldest_waiting_at) = asked.map_err(database_problem)?;
    Ok(Metrics::of(&counts, windows, Now { oldest_waiting_at, ..Now::default() }))
}

impl Metrics {
    /// Of what was counted in some of the windows, by their number.
    fn of(counts: &BTreeMap<u64, Counts>, windows: Windows, now: Now) -> Self {
        let mut total = Counts::default();
        counts.values().for_each(|counts| total.merge(counts));
        let none = Counts::default();
        let start = |number: u32| {
            windows.from.saturating_add(time::Duration::try_from(windows.step * number).unwrap_or_default())
        };
        let window = |number: u32| Window {
            from: start(number),
            to: start(number + 1),
            tally: counts.get(&number.into()).unwrap_or(&none).into(),
        };
        Self { total: (&total).into(), data: (0..windows.count).map(window).collect(), now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn windows_begin_with_a_minute_and_are_bounded() {
        let (from, to) = (datetime!(2026-11-24 10:00:30.5 UTC), datetime!(2026-11-24 12:30 UTC));
        let hours = windows(from, to, Duration::from_secs(3600)).unwrap();
        assert_eq!((hours.from, hours.count), (datetime!(2026-11-24 10:00 UTC), 3));
        let minutes = |to| windows(to, to, Duration::from_secs(60)).unwrap().count;
        assert_eq!(minutes(from), 1);
        assert_eq!(windows(to, from, Duration::from_secs(60)).unwrap_err().field, "created_at_max");
        for (from, to) in [
            (datetime!(2026-01-01 0:00 UTC), to),
            (OffsetDateTime::UNIX_EPOCH, to),
            (datetime!(-9999-01-01 0:00 UTC), datetime!(9999-12-31 23:59 UTC)),
        ] {
            assert_eq!(windows(from, to, Duration::from_secs(60)).unwrap_err().field, "step", "{from}");
        }
        for (text, is_good) in [("1m", true), ("1h", true), ("1d", true), ("30s", false), ("90s", false), ("x", false)]
        {
            assert_eq!(step(text).is_ok(), is_good, "{text}");
        }
    }
}
