//! The tenant's events, and what became of one at each webhook.

use axum::Router;
use axum::extract::{Path, RawQuery};
use axum::response::Response;
use axum::routing::get;
use maud::html;
use url::form_urlencoded::parse;

use crate::App;
use crate::api::{Event, EventReport, List};
use crate::copy;
use crate::deliveries::escaped;
use crate::layout::{Room, command, page, pretty, quoted};
use crate::moment::moment;
use crate::visitor::{NoPage, Visitor, html as answer};

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/events", get(list)).route("/events/{id}", get(one))
}

async fn list(visitor: Visitor, RawQuery(query): RawQuery) -> Result<Response, NoPage> {
    let texts = visitor.texts;
    let query = query.unwrap_or_default();
    let cursor = parse(query.as_bytes()).find(|(name, _)| name == "cursor").map(|(_, value)| value.into_owned());
    let is_newest = cursor.is_none();
    let order = ("order", "newest".to_owned());
    let asked: Vec<_> = [order].into_iter().chain(cursor.map(|cursor| ("cursor", cursor))).collect();
    let found: List<Event> = visitor.get(&["company", "events"], &asked).await?;
    let content = html! {
        @if found.data.is_empty() { p { (texts.no_events) } } @else {
            div.wide tabindex="0" role="region" aria-label=(texts.events) {
                table {
                    thead {
                        tr {
                            th scope="col" { (texts.event) }
                            th scope="col" { (texts.resource) }
                            th scope="col" { "id" }
                            th scope="col" { (texts.at) " (" (texts.utc) ")" }
                        }
                    }
                    tbody {
                        @for event in &found.data {
                            @let resource = escaped(&event.subject);
                            tr {
                                td { a href={ "/events/" (escaped(&event.id)) "?resource=" (resource) "&source=" (escaped(&event.source)) } { (event.event_type) } }
                                td { (event.subject) }
                                td { (event.id) }
                                td { (moment(texts, &event.time)) }
                            }
                        }
                    }
                }
            }
        }
        div.actions {
            @if !is_newest { a.button.quiet href="/events" { (texts.newer) } }
            @if let Some(cursor) = &found.next_cursor {
                a.button.quiet href={ "/events?cursor=" (cursor) } { (texts.older_events) }
            }
        }
        (command(texts, "shopery events publish order-created --subject order/ord_123 @order.json; shopery events list --newest-first"))
    };
    Ok(answer(page(&visitor, Room::Events, texts.events, &content)))
}

async fn one(visitor: Visitor, Path(id): Path<String>, RawQuery(query): RawQuery) -> Result<Response, NoPage> {
    let texts = visitor.texts;
    let query = query.unwrap_or_default();
    let asked: Vec<_> = ["resource", "source"]
        .into_iter()
        .filter_map(|name| Some((name, parse(query.as_bytes()).find(|(known, _)| known == name)?.1.into_owned())))
        .collect();
    let report: EventReport = visitor.get(&["company", "events", &id], &asked).await?;
    let content = html! {
        h2 { (texts.became) }
        div.wide tabindex="0" role="region" aria-label=(texts.became) {
            table {
                thead {
                    tr { th scope="col" { (texts.webhooks) } th scope="col" { (texts.outcome) } th scope="col" { (texts.deliveries) } }
                }
                tbody {
                    @for at in &report.webhooks {
                        tr {
                            td { a href={ "/webhooks/" (at.webhook_id) } { (at.name.as_deref().unwrap_or(&at.webhook_id)) } }
                            td {
                                (at.outcome)
                                ul { @for objection in &at.objections { li { b { (objection.rule) } ": " (objection.detail) } } }
                            }
                            td { @if let Some(delivery) = &at.delivery { a href={ "/deliveries/" (delivery.id) } { (delivery.id) } } }
                        }
                    }
                }
            }
        }
        h2 { (texts.event) }
        dl {
            dt { "id" } dd { (copy::inline(texts, "copy-event", texts.event_id, &id)) }
            dt { (texts.at) } dd { (moment(texts, &report.stored_at)) }
        }
        (copy::block(texts, texts.event, &pretty(report.event.get())))
        (command(texts, &format!("shopery events get {}", quoted(&id))))
    };
    Ok(answer(page(&visitor, Room::Events, &id, &content)))
}
