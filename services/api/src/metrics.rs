//! `/company/metrics`, and the same of one webhook: what was attempted and what came of it, from counts that the recorder
//! keeps, and what waits now.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use serde::Serialize;
use shopery_http::{Permission, Problem};
use shopery_model::{CircuitState, Invalid, TenantId, WebhookId};
use shopery_store::Counts;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::deliveries::with_history;
use crate::openapi::schemas;
use crate::query::Query;
use crate::{App, database_problem, queue_problem};

const DEFAULT_TIME: time::Duration = time::Duration::DAY;
const DEFAULT_STEP: Duration = Duration::from_secs(60 * 60);
const MINUTE: i64 = 60_000;
const MAX_WINDOWS: i64 = 1000;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(of_tenant)).routes(routes!(of_webhook))
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
    #[serde(with = "crate::timestamp")]
    from: OffsetDateTime,
    /// Without it.
    #[serde(with = "crate::timestamp")]
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
    failed_attempts: BTreeMap<String, u64>,
    /// Deliveries that came to an end or were parked, by their state. Each round of a delivery is counted.
    deliveries: BTreeMap<String, u64>,
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
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Now {
    /// When the oldest delivery was made that is pending or parked.
    #[serde(with = "crate::timestamp::option")]
    oldest_waiting_at: Option<OffsetDateTime>,
    /// Of a webhook: `closed` if its endpoint works, `open` if it is left alone, `draining` while what was parked is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    circuit: Option<&'static str>,
}

impl From<&Counts> for Tally {
    fn from(counts: &Counts) -> Self {
        let round = |millis: f64| (millis * 10.0).round() / 10.0;
        let latency = |per_mille| counts.latency(per_mille).map(round);
        Self {
            attempts: counts.attempts,
            failed_attempts: counts.failed.clone(),
            deliveries: counts.states.clone(),
            latency: latency(500)
                .zip(latency(950))
                .zip(latency(990).zip(latency(1000)))
                .map(|((p50, p95), (p99, max))| Latency { p50, p95, p99, max }),
        }
    }
}

/// Windows of whole minutes, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Windows {
    from: i64,
    step: i64,
    count: i64,
}

impl Windows {
    fn read(query: Option<&str>, now: OffsetDateTime) -> Result<Self, Problem> {
        let mut query = Query::read(query);
        let to = query.time("created_at_max").unwrap_or(now).min(now);
        let from = query.time("created_at_min").unwrap_or_else(|| to.saturating_sub(DEFAULT_TIME));
        let step = query.take("step", step).unwrap_or(DEFAULT_STEP);
        query.finish()?;
        Self::of(from, to, step).map_err(|invalid| Problem::invalid(vec![invalid]))
    }

    fn of(from: OffsetDateTime, to: OffsetDateTime, step: Duration) -> Result<Self, Invalid> {
        if to < from {
            return Err(Invalid::new("created_at_max", "must not be before created_at_min, nor this before now"));
        }
        let millis = |time: OffsetDateTime| i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        let step = i64::try_from(step.as_millis()).unwrap_or(i64::MAX);
        let from = millis(from).div_euclid(MINUTE) * MINUTE;
        let count = (millis(to) - from) / step + 1;
        if count > MAX_WINDOWS {
            let detail = format!("makes {count} windows of this time, and the limit is {MAX_WINDOWS}");
            return Err(Invalid::new("step", detail));
        }
        Ok(Self { from, step, count })
    }

    fn start(self, index: i64) -> OffsetDateTime {
        let millis = self.from.saturating_add(self.step.saturating_mul(index));
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    fn index(self, time: OffsetDateTime) -> usize {
        let millis = i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        usize::try_from((millis - self.from) / self.step).unwrap_or(usize::MAX)
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
    let windows = Windows::read(query.as_deref(), OffsetDateTime::now_utc())?;
    metrics(&app, &tenant, None, windows).await.map(Json)
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
    let windows = Windows::read(query.as_deref(), OffsetDateTime::now_utc())?;
    let mut metrics = metrics(&app, &tenant, Some(webhook), windows).await?;
    let circuit = app.queue.circuit(&tenant, webhook).await.map_err(|error| queue_problem(&error))?;
    metrics.now.circuit = Some(circuit.map_or("closed", |circuit| match circuit.state {
        CircuitState::Open => "open",
        CircuitState::Draining => "draining",
    }));
    Ok(Json(metrics))
}

async fn metrics(
    app: &App,
    tenant: &TenantId,
    webhook: Option<WebhookId>,
    windows: Windows,
) -> Result<Metrics, Problem> {
    let (from, until) = (windows.start(0), windows.start(windows.count));
    let counts = app.store.counts(tenant, webhook, from, until).await.map_err(database_problem)?;
    let (mut total, mut of_windows) = (Counts::default(), BTreeMap::<usize, Counts>::new());
    for (at, counts) in &counts {
        total.merge(counts);
        of_windows.entry(windows.index(*at)).or_default().merge(counts);
    }
    let none = Counts::default();
    let window = |index: i64| Window {
        from: windows.start(index),
        to: windows.start(index + 1),
        tally: usize::try_from(index).ok().and_then(|index| of_windows.get(&index)).unwrap_or(&none).into(),
    };
    let oldest_waiting_at = app.store.oldest_waiting(tenant, webhook).await.map_err(database_problem)?;
    Ok(Metrics {
        total: (&total).into(),
        data: (0..windows.count).map(window).collect(),
        now: Now { oldest_waiting_at, circuit: None },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn windows_begin_with_a_minute_and_are_bounded() {
        let (from, to) = (datetime!(2026-11-24 10:00:30 UTC), datetime!(2026-11-24 12:30 UTC));
        let windows = Windows::of(from, to, Duration::from_secs(3600)).unwrap();
        assert_eq!(windows.count, 3);
        assert_eq!(windows.start(0), datetime!(2026-11-24 10:00 UTC));
        for (time, index) in [(from, 0), (datetime!(2026-11-24 11:00 UTC), 1), (to, 2)] {
            assert_eq!(windows.index(time), index, "{time}");
        }
        assert_eq!(Windows::of(to, from, Duration::from_secs(60)).unwrap_err().field, "created_at_max");
        let long = Windows::of(datetime!(2026-01-01 0:00 UTC), to, Duration::from_secs(60));
        assert_eq!(long.unwrap_err().field, "step");
        for (text, is_good) in [("1m", true), ("1h", true), ("1d", true), ("30s", false), ("90s", false), ("x", false)]
        {
            assert_eq!(step(text).is_ok(), is_good, "{text}");
        }
    }
}
