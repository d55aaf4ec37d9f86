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

use crate::deliveries::named;
use crate::openapi::schemas;
use crate::query::Query;
use crate::{App, queue_problem};

/// A page is short rather than longer than this.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Events looked at for one page; fewer may be of the type that is asked for.
const MAX_SEEN: usize = 2000;
/// Events read at a time from the newest back: as many more may be passed over to find them.
const STEP: usize = 50;
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
    /// CloudEvents, oldest first unless another order is asked for.
    #[schema(value_type = Vec<schemas::CloudEvent>)]
    data: Vec<Box<RawValue>>,
    /// Where the next page begins; `null` if there is nothing more now.
    next_cursor: Option<String>,
    /// Where to go on later, oldest first, whether there is more now or not. Of newest first only the first page has one.
    position: Option<String>,
    /// When the oldest of the tenant's events that are held was taken in.
    #[serde(with = "shopery_control::timestamp::option")]
    oldest_available: Option<OffsetDateTime>,
    /// Events between what was asked for and the first of the page may be missing: they are no longer held.
    gap: bool,
}

/// Which events come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Oldest,
    Newest,
}

/// Where a tenant's next page begins: at a place, or before it if the newest come first. It is sealed: the place in EVENTS
/// tells how many events all tenants together have.
struct Cursors<'a> {
    keys: &'a Keyring,
    tenant: &'a TenantId,
}

impl Cursors<'_> {
    fn seal(&self, order: Order, place: u64) -> anyhow::Result<String> {
        let sealed = self.keys.seal_text(&self.owner(order), place.to_be_bytes().to_vec())?;
        Ok(format!("{CURSOR}{}", URL_SAFE_NO_PAD.encode(sealed.stored())))
    }

    fn open(&self, order: Order, cursor: &str) -> Option<u64> {
        let cursor = cursor.strip_prefix(CURSOR)?;
        let sealed = Sealed::of_stored(String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?);
        let place = self.keys.open_text(&self.owner(order), &sealed).ok()?;
        Some(u64::from_be_bytes(place.as_slice().try_into().ok()?))
    }

    /// A cursor of one order is none of the other: it would lead the other way.
    fn owner(&self, order: Order) -> String {
        let of_order = match order {
            Order::Oldest => "",
            Order::Newest => " newest",
        };
        format!("shopery event cursor{of_order}\0{}", self.tenant.as_str())
    }
}

/// What is asked for.
struct Asked {
    since: Option<OffsetDateTime>,
    until: Option<OffsetDateTime>,
    event_type: Option<EventType>,
    order: Order,
    limit: usize,
    cursor: Option<Cursor>,
}

/// Where a page begins, and the text of that.
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
            order: match query.take("order", |text| named(text, ["newest", "oldest"], |name| name)) {
                Some("newest") => Order::Newest,
                _ => Order::Oldest,
            },
            limit: usize::try_from(query.limit()).unwrap_or(usize::MAX),
            cursor: None,
        };
        query.finish()?;
        let Some(text) = cursor else { return Ok(asked) };
        let unknown = || {
            Problem::not_found(
                "no page of this tenant in this order has this cursor, or its key is gone: use created_at_min",
            )
        };
        let place = cursors.open(asked.order, &text).ok_or_else(unknown)?;
        Ok(Self { cursor: Some(Cursor { place, text }), ..asked })
    }

    fn wants(&self, event: &StoredEvent) -> bool {
        self.event_type.is_none_or(|wanted| event.event.event_type == wanted)
            // A cursor may lie beyond the times.
            && self.since.is_none_or(|since| event.stored_at >= since)
            && self.until.is_none_or(|until| event.stored_at <= until)
    }
}

/// Gives the events of the tenant, for whoever would rather pull them.
#[utoipa::path(
    get, path = "/company/events",
    tag = "events", operation_id = "listEvents",
    security(("bearer" = ["webhooks:read"])),
    params(schemas::OfEvents, schemas::Times),
    responses(
        (status = 200, description = "In the order that is asked for", body = Page),
        (status = 404, description = "The cursor is of no page"),
    ),
)]
async fn list(State(app): State<App>, headers: HeaderMap, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let tenant = app.access.tenant(&headers, Permission::WebhooksRead)?;
    let cursors = Cursors { keys: &app.keys, tenant: &tenant };
    let asked = Asked::read(query.as_deref(), &cursors)?;
    let admitted = app.event_pages.enter(&tenant).await?;
    let page = match asked.order {
        Order::Oldest => oldest_first(&app, &tenant, &asked, &cursors).await,
        Order::Newest => newest_first(&app, &tenant, &asked, &cursors).await,
    };
    let page = page.map_err(|error| queue_problem(&error))?;
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

async fn oldest_first(app: &App, tenant: &TenantId, asked: &Asked, cursors: &Cursors<'_>) -> anyhow::Result<Page> {
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
        _ => cursors.seal(Order::Oldest, place),
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

async fn newest_first(app: &App, tenant: &TenantId, asked: &Asked, cursors: &Cursors<'_>) -> anyhow::Result<Page> {
    let from = asked.since.map_or(FeedStart::At(1), FeedStart::Since);
    let end = match &asked.cursor {
        Some(cursor) => cursor.place,
        None => end(app, tenant, asked.until).await?,
    };
    let kind = asked.event_type.map(EventType::resource);
    let mut feed = app.queue.reverse_feed(tenant, kind, from, end).await?;
    let (mut data, mut bytes, mut next, mut newest) = (Vec::new(), 0, end, None);
    'page: for _ in 0..MAX_SEEN / STEP {
        // Without a type all are wanted: not one more than the page can take.
        let count = if kind.is_some() { STEP } else { STEP.min(asked.limit - data.len()) };
        for event in feed.read(count, MAX_BYTES - bytes).await? {
            let place = event.sequence;
            if asked.wants(&event) {
                let json = show(event.event)?;
                let is_too_large = bytes > 0 && bytes + json.get().len() > MAX_BYTES;
                if is_too_large || data.len() == asked.limit {
                    break 'page;
                }
                bytes += json.get().len();
                data.push(json);
            }
            next = place;
            newest = newest.or(Some(place));
        }
        next = feed.end();
        if feed.is_over() || data.len() >= asked.limit || bytes >= MAX_BYTES {
            break;
        }
    }
    let is_end = feed.is_over() && next == feed.end();
    // Whatever comes later lies behind the newest that was seen.
    let newest = newest.filter(|_| asked.cursor.is_none());
    // After the events were read: what was removed meanwhile is missing among them.
    let held = app.queue.held(tenant).await?;
    let since = asked.since.map(FeedStart::Since);
    let before = asked.cursor.as_ref().map(|cursor| FeedStart::At(cursor.place.saturating_sub(1)));
    Ok(Page {
        data,
        next_cursor: (!is_end).then(|| cursors.seal(Order::Newest, next)).transpose()?,
        position: newest.map(|place| cursors.seal(Order::Oldest, place + 1)).transpose()?,
        oldest_available: app.queue.oldest_event(tenant).await?,
        gap: since.into_iter().chain(before).any(|bound| held.is_short_of(bound)),
    })
}

/// The place behind the last event that is asked for.
async fn end(app: &App, tenant: &TenantId, until: Option<OffsetDateTime>) -> anyhow::Result<u64> {
    // The time itself belongs to what is asked for.
    if let Some(after) = until.and_then(|until| until.checked_add(time::Duration::NANOSECOND)) {
        let behind = app.queue.feed(tenant, None, FeedStart::Since(after), 1, 1).await?;
        if let Some(next) = behind.next {
            return Ok(next - 1);
        }
    }
    Ok(app.queue.held(tenant).await?.last() + 1)
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
        let order = Order::Oldest;
        let cursor = cursors.seal(order, 4711).unwrap();
        assert_eq!(cursors.open(order, &cursor), Some(4711));
        assert_ne!(cursors.seal(order, 4711).unwrap(), cursor);
        assert!(cursor.len() < 120 && cursor.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)));
        assert_eq!(Cursors { keys: &keys, tenant: &other }.open(order, &cursor), None);
        // Nor is it one of the other order.
        assert_eq!(cursors.open(Order::Newest, &cursor), None);
        let newest = cursors.seal(Order::Newest, 4711).unwrap();
        assert_eq!((cursors.open(Order::Newest, &newest), cursors.open(order, &newest)), (Some(4711), None));
        // A place that anybody can name would be found by asking.
        for bad in
            ["", "4711", "evp_", "evp_4711", "evp_x", "evp_-1", "evp_1234567890123456", &cursor[..cursor.len() - 4]]
        {
            assert_eq!(cursors.open(order, bad), None, "{bad}");
        }
    }
}
