//! `/company/events`: the tenant's events, for whoever would rather pull them than be called. Straight from EVENTS.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use serde_json::value::RawValue;
use shopery_http::fair::Admitted;
use shopery_http::{Permission, Problem};
use shopery_model::{Event, EventType, Keyring, Sealed, TenantId};
use shopery_queue::{FeedStart, StoredEvent};
use shopery_store::Times;
use time::OffsetDateTime;
use tokio::sync::oneshot;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::openapi::schemas;
use crate::query::Query;
use crate::{App, queue_problem};

/// A page is short rather than longer than this.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Events looked at for one page; fewer may be of the type that is asked for.
const MAX_SEEN: usize = 2000;
/// What stands before the place of an event in EVENTS.
const CURSOR: &str = "evp_";
/// A page is written in parts of this size.
const PART: usize = 64 * 1024;
/// For how long a client may take to read a page before its room is given to others.
const TIME_TO_READ: Duration = Duration::from_secs(60);

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventPage)]
struct Page {
    /// CloudEvents, oldest first.
    #[schema(value_type = Vec<schemas::CloudEvent>)]
    data: Vec<Box<RawValue>>,
    /// Where the next page begins; `null` if there is nothing more now.
    next_cursor: Option<String>,
    /// Where to go on later, whether there is more now or not.
    position: Option<String>,
    /// When the oldest of the tenant's events that are held was taken in.
    #[serde(with = "shopery_control::timestamp::option")]
    oldest_available: Option<OffsetDateTime>,
    /// Events between what was asked for and the first of the page may be missing: they are no longer held.
    gap: bool,
}

/// Where a tenant's next page begins. It is sealed: the place in EVENTS tells how many events all tenants together have.
struct Cursors<'a> {
    keys: &'a Keyring,
    tenant: &'a TenantId,
}

impl Cursors<'_> {
    fn seal(&self, place: u64) -> anyhow::Result<String> {
        let sealed = self.keys.seal_text(&self.owner(), place.to_be_bytes().to_vec())?;
        Ok(format!("{CURSOR}{}", URL_SAFE_NO_PAD.encode(sealed.stored())))
    }

    fn open(&self, cursor: &str) -> Option<u64> {
        let cursor = cursor.strip_prefix(CURSOR)?;
        let sealed = Sealed::of_stored(String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?);
        let place = self.keys.open_text(&self.owner(), &sealed).ok()?;
        Some(u64::from_be_bytes(place.as_slice().try_into().ok()?))
    }

    fn owner(&self) -> String {
        format!("shopery event cursor\0{}", self.tenant.as_str())
    }
}

/// What is asked for.
struct Asked {
    since: Option<OffsetDateTime>,
    until: Option<OffsetDateTime>,
    event_type: Option<EventType>,
    limit: usize,
    cursor: Option<Cursor>,
}

/// Where a page begins, and what that is called.
struct Cursor {
    place: u64,
    text: String,
}

fn is_url_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-".contains(&byte)
}

impl Asked {
    fn read(query: Option<&str>, cursors: &Cursors<'_>) -> Result<Self, Problem> {
        let mut query = Query::read(query);
        // An event is never updated: a change of its resource is another event.
        let Times { created_at_min, created_at_max, updated_at_min, updated_at_max } = query.times();
        let cursor = query.take("cursor", |text| {
            let is_one =
                text.strip_prefix(CURSOR).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(is_url_safe));
            let wrong = || "must be the nextCursor or position of an earlier page, unchanged".to_owned();
            is_one.then(|| text.to_owned()).ok_or_else(wrong)
        });
        let asked = Self {
            since: created_at_min.max(updated_at_min),
            until: [created_at_max, updated_at_max].into_iter().flatten().min(),
            event_type: query
                .take("event", |text| text.parse::<EventType>().map_err(|invalid| invalid.detail.into_owned())),
            limit: usize::try_from(query.limit()).unwrap_or(usize::MAX),
            cursor: None,
        };
        query.finish()?;
        let Some(text) = cursor else { return Ok(asked) };
        let unknown =
            || Problem::not_found("no page of this tenant has this cursor, or its key is gone: use created_at_min");
        let place = cursors.open(&text).ok_or_else(unknown)?;
        Ok(Self { cursor: Some(Cursor { place, text }), ..asked })
    }

    fn wants(&self, event: &StoredEvent) -> bool {
        self.event_type.is_none_or(|wanted| event.event.event_type == wanted)
            // A cursor may be older than the time.
            && self.since.is_none_or(|since| event.stored_at >= since)
    }
}

/// Gives the events of the tenant, for whoever would rather pull them.
#[utoipa::path(
    get, path = "/company/events",
    tag = "events", operation_id = "listEvents",
    security(("bearer" = ["webhooks:read"])),
    params(schemas::OfEvents, schemas::Times),
    responses(
        (status = 200, description = "Oldest first", body = Page),
        (status = 404, description = "The cursor is of no page"),
    ),
)]
async fn list(State(app): State<App>, headers: HeaderMap, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksRead)?;
    let cursors = Cursors { keys: &app.keys, tenant: &tenant };
    let asked = Asked::read(query.as_deref(), &cursors)?;
    let admitted = app.event_pages.enter(&tenant).await?;
    let page = page(&app, &tenant, &asked, &cursors).await.map_err(|error| queue_problem(&error))?;
    let json = serde_json::to_vec(&page).map_err(|_| Problem::internal())?;
    Ok(([(header::CONTENT_TYPE, "application/json")], until_read(json.into(), admitted)).into_response())
}

/// A body that is counted until the client has it, or has had time enough: one that opens many streams and takes nothing would have us
/// hold a page for each.
fn until_read(page: Bytes, admitted: Admitted) -> Body {
    let (unread, is_read) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let _ = tokio::time::timeout(TIME_TO_READ, is_read).await;
        drop(admitted);
    });
    let parts = stream::unfold((page, unread), async |(mut rest, unread)| {
        let part = rest.split_to(rest.len().min(PART));
        (!part.is_empty()).then(|| (Ok::<_, Infallible>(part), (rest, unread)))
    });
    Body::from_stream(parts)
}

async fn page(app: &App, tenant: &TenantId, asked: &Asked, cursors: &Cursors<'_>) -> anyhow::Result<Page> {
    let cursor = asked.cursor.as_ref().map(|cursor| cursor.place);
    let mut start = match (cursor, asked.since) {
        (Some(place), _) => FeedStart::At(place),
        (None, Some(since)) => FeedStart::Since(since),
        (None, None) => FeedStart::At(1),
    };
    let is_from_somewhere = asked.cursor.is_some() || asked.since.is_some();
    let asked_from = start;
    let (mut data, mut next, mut bytes, mut seen) = (Vec::new(), cursor, 0, 0);
    let is_end = loop {
        // Not one more than the page can take, so that nothing is read twice.
        let count = asked.limit - data.len();
        let kind = asked.event_type.map(EventType::resource);
        let feed = app.queue.feed(tenant, kind, start, count, MAX_BYTES - bytes).await?;
        seen += feed.events.len();
        let mut is_over = false;
        for event in feed.events {
            if asked.until.is_some_and(|until| event.stored_at > until) {
                is_over = true;
                break;
            }
            next = Some(event.sequence + 1);
            if asked.wants(&event) {
                let json = show(event.event)?;
                bytes += json.get().len();
                data.push(json);
            }
        }
        if is_over || feed.is_end {
            // Behind what was left out as well, unless it is later than asked for.
            next = if is_over { next } else { feed.next.or(next) };
            break true;
        }
        let Some(behind) = feed.next else { break true };
        (start, next) = (FeedStart::At(behind), Some(behind));
        if data.len() >= asked.limit || bytes >= MAX_BYTES || seen >= MAX_SEEN {
            break false;
        }
    };
    // Where nothing has come, it is the same cursor.
    let named = |place| match &asked.cursor {
        Some(cursor) if cursor.place == place => Ok(cursor.text.clone()),
        _ => cursors.seal(place),
    };
    let cursor = next.map(named).transpose()?;
    // After the events were read: what was removed meanwhile is missing among them.
    let gap = is_from_somewhere && app.queue.held(tenant).await?.is_short_of(asked_from);
    Ok(Page {
        data,
        next_cursor: cursor.clone().filter(|_| !is_end),
        position: cursor,
        oldest_available: app.queue.oldest_event(tenant).await?,
        gap,
    })
}

/// The event with the time that it has for everybody, its resource byte for byte.
pub(crate) fn show(event: Event) -> anyhow::Result<Box<RawValue>> {
    let json = Event { time_is_given: true, ..event }.encode();
    Ok(RawValue::from_string(String::from_utf8(json.to_vec())?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_tells_nothing_and_is_for_its_tenant_alone() {
        let keys: Keyring =
            format!("k1:{}", base64::engine::general_purpose::STANDARD.encode([7; 32])).parse().unwrap();
        let [mine, other] = ["a", "b"].map(|tenant| tenant.parse::<TenantId>().unwrap());
        let cursors = Cursors { keys: &keys, tenant: &mine };
        let cursor = cursors.seal(4711).unwrap();
        assert_eq!(cursors.open(&cursor), Some(4711));
        assert_ne!(cursors.seal(4711).unwrap(), cursor);
        assert!(cursor.len() < 120 && cursor.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)));
        assert_eq!(Cursors { keys: &keys, tenant: &other }.open(&cursor), None);
        // A place that anybody can name would be found by asking.
        for bad in
            ["", "4711", "evp_", "evp_4711", "evp_x", "evp_-1", "evp_1234567890123456", &cursor[..cursor.len() - 4]]
        {
            assert_eq!(cursors.open(bad), None, "{bad}");
        }
    }
}
