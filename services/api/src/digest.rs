//! `/company/webhooks/{id}/digest`: what a receiver compares its own list with, to find what it misses.
//!
//! The `webhook-id` of a delivery begins with its time, so a receiver can cut what it has into the same windows of time
//! and work out the same digests. The data plane has no part in this: no counter, no order between deliverers.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use serde::Serialize;
use shopery_http::{Permission, Problem};
use shopery_model::{DeliveryId, DeliveryState, Digest, Invalid};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::deliveries::with_history;
use crate::openapi::schemas;
use crate::query::Query;
use shopery_control::timestamp;

use crate::{App, database_problem};

const DEFAULT_STEP: Duration = Duration::from_secs(60 * 60);
const SHORTEST_STEP: Duration = Duration::from_secs(1);
const MAX_WINDOWS: usize = 1000;
/// Deliveries that one request may look at.
const MAX_ROWS: usize = 200_000;
/// Of these, read at a time.
const PAGE: u64 = 5000;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(digest))
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Digest)]
struct Answer {
    data: Vec<Window>,
}

/// The deliveries of a window of time, oldest window first. `from` and `to` are within it, to the millisecond, as
/// `created_at_min` and `created_at_max` of a list are.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = DigestWindow)]
struct Window {
    #[serde(with = "shopery_control::timestamp")]
    from: OffsetDateTime,
    #[serde(with = "shopery_control::timestamp")]
    to: OffsetDateTime,
    delivered: usize,
    /// Of the delivered ones.
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String)]
    digest: Digest,
    /// Pending or parked.
    open: usize,
    /// At another end, by state.
    #[schema(value_type = BTreeMap<String, usize>)]
    other: BTreeMap<&'static str, usize>,
}

fn as_text<S: serde::Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

/// The windows that were asked for, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Windows {
    from: i128,
    to: i128,
    step: i128,
}

impl Windows {
    fn of(from: OffsetDateTime, to: OffsetDateTime, step: Duration) -> Result<Self, Invalid> {
        let step_millis = i128::try_from(step.as_millis()).unwrap_or(i128::MAX);
        let windows = Self { from: millis(from), to: millis(to), step: step_millis };
        if windows.to < windows.from {
            return Err(Invalid::new("created_at_max", "must not be before created_at_min"));
        }
        if windows.count() > MAX_WINDOWS {
            let needed = (windows.to - windows.from) / i128::from(MAX_WINDOWS as u32 * 1000) + 1;
            let detail = format!(
                "makes {} windows of this time, and the limit is {MAX_WINDOWS}: use {needed}s or more, \
                 or a shorter time",
                windows.count()
            );
            return Err(Invalid::new("step", detail));
        }
        Ok(windows)
    }

    fn count(self) -> usize {
        usize::try_from((self.to - self.from) / self.step.max(1) + 1).unwrap_or(usize::MAX)
    }

    fn empty(self) -> Vec<Window> {
        let window = |index: usize| {
            let from = self.from + index as i128 * self.step;
            Window {
                from: time_of(from),
                to: time_of((from + self.step - 1).min(self.to)),
                delivered: 0,
                digest: Digest::default(),
                open: 0,
                other: BTreeMap::new(),
            }
        };
        (0..self.count()).map(window).collect()
    }

    fn index(self, id: DeliveryId) -> usize {
        usize::try_from((millis(id.created_at()) - self.from) / self.step.max(1)).unwrap_or(usize::MAX)
    }
}

impl Window {
    fn add(&mut self, id: DeliveryId, state: DeliveryState) {
        match state {
            DeliveryState::Delivered => {
                self.delivered += 1;
                self.digest.add(id);
            }
            open if open.is_open() => self.open += 1,
            ended => *self.other.entry(ended.name()).or_default() += 1,
        }
    }
}

fn millis(time: OffsetDateTime) -> i128 {
    time.unix_timestamp_nanos().div_euclid(1_000_000)
}

fn time_of(millis: i128) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(millis * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn step(text: &str) -> Result<Duration, String> {
    let step = humantime::Duration::from_str(text).ok().map(Duration::from);
    // Whole seconds, so that the windows of a wider step are cut at the same times.
    let step = step.filter(|step| *step >= SHORTEST_STEP && step.subsec_nanos() == 0);
    step.ok_or_else(|| "must be a duration of whole seconds, 1s or more, such as 1h".to_owned())
}

/// Says of each window of time what was delivered, so that a receiver can find what it misses.
///
/// Also of a webhook that was deleted: its history stays.
#[utoipa::path(
    get, path = "/company/webhooks/{id}/digest",
    tag = "deliveries", operation_id = "getDigest",
    security(("bearer" = ["webhooks:read"])),
    params(
        ("id" = String, Path, description = "Of the webhook", example = "wbh_01HA4XCG60CT4G3EWF4CKYM1MF"),
        schemas::Windows,
    ),
    responses((status = 200, description = "Oldest window first", body = Answer)),
)]
async fn digest(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Answer>, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksRead)?;
    let mut query = Query::read(query.as_deref());
    let from = query.time("created_at_min");
    let from = query.require("created_at_min", from);
    let to = query.time("created_at_max").unwrap_or_else(shopery_queue::now);
    let step = query.take("step", step).unwrap_or(DEFAULT_STEP);
    query.finish()?;
    let Some(from) = from else { return Err(Problem::internal()) };
    let windows = Windows::of(from, to, step).map_err(|invalid| Problem::invalid(vec![invalid]))?;
    let webhook = with_history(&app, &tenant, &id).await?;
    let _admitted = app.sums.enter(&tenant).await?;

    let mut data = windows.empty();
    let (mut after, last) = (DeliveryId::first_at(from), DeliveryId::last_at(to));
    let mut rows = 0;
    loop {
        let page = app.store.states(&tenant, webhook, (after, last), PAGE).await.map_err(database_problem)?;
        for (id, state) in &page {
            if let Some(window) = data.get_mut(windows.index(*id)) {
                window.add(*id, *state);
            }
        }
        rows += page.len();
        let Some((end, _)) = page.last().filter(|_| page.len() as u64 == PAGE) else {
            return Ok(Json(Answer { data }));
        };
        after = *end;
        if rows >= MAX_ROWS {
            let reached = timestamp::text(after.created_at());
            let detail = format!(
                "there are more than {MAX_ROWS} deliveries until then, the limit: ask for less, up to {reached}"
            );
            return Err(Problem::invalid(vec![Invalid::new("created_at_max", detail)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn windows_cover_the_time_without_gap_or_overlap() {
        let (from, to) = (datetime!(2026-11-24 10:00 UTC), datetime!(2026-11-24 12:30 UTC));
        let windows = Windows::of(from, to, HOUR).unwrap();
        let empty = windows.empty();
        assert_eq!(empty.len(), 3);
        assert_eq!((empty[0].from, empty[2].to), (from, to));
        for pair in empty.windows(2) {
            assert_eq!(pair[1].from - pair[0].to, time::Duration::MILLISECOND);
        }
        for (index, window) in empty.iter().enumerate() {
            for time in [window.from, window.to] {
                assert_eq!(windows.index(DeliveryId::last_at(time)), index, "{time}");
            }
        }
        let moment = Windows::of(from, from, HOUR).unwrap().empty();
        assert_eq!((moment.len(), moment[0].from, moment[0].to), (1, from, from));
    }

    #[test]
    fn windows_are_bounded() {
        let from = datetime!(2026-11-24 10:00 UTC);
        assert_eq!(Windows::of(from, from - HOUR, HOUR).unwrap_err().field, "created_at_max");
        let refused = Windows::of(from, from + HOUR, Duration::from_secs(1)).unwrap_err();
        assert_eq!(refused.field, "step");
        assert!(refused.detail.contains("use 4s or more"), "{refused}");
        assert!(Windows::of(from, from + HOUR, Duration::from_secs(4)).is_ok());
        for (text, seconds) in [("1s", Some(1)), ("1h", Some(3600)), ("0s", None), ("1500ms", None), ("x", None)] {
            assert_eq!(step(text).ok(), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
