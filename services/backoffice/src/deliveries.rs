//! The history: deliveries by what tells them apart, and one of them with its attempts, what was sent and what was answered.

use axum::Router;
use axum::extract::{Path, RawQuery};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use maud::{Markup, html};
use shopery_client::Request;
use url::form_urlencoded::{Serializer, parse};

use crate::App;
use crate::api::{Answered, Attempt, Delivery, List, Sent, Webhook};
use crate::clouds::is_cloud;
use crate::copy;
use crate::form::Form;
use crate::layout::{Room, command, key, page, pretty, quoted};
use crate::live;
use crate::moment::moment;
use crate::texts::Texts;
use crate::visitor::{NoPage, Visitor, html as answer};

const STATES: [&str; 9] =
    ["pending", "parked", "delivered", "failed", "expired", "discarded", "filtered", "duplicate", "superseded"];
/// Filters of the API that the page hands on.
const FILTERS: [&str; 7] = ["webhook", "status", "event", "resource", "reason", "response_status", "cursor"];
/// Attempts that are shown with their bodies: the last ones.
const SHOWN: usize = 10;
/// The part of the list that says what has come meanwhile.
const NEWS: &str = "news";

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/deliveries", get(list))
        .route("/deliveries/news", get(news))
        .route("/deliveries/{id}", get(one))
        .route("/deliveries/{id}/resend", post(resend))
}

/// The filters that have a value, in the order of the API's names.
fn asked(query: Option<&str>) -> Vec<(&'static str, String)> {
    let given: Vec<_> = parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let of = |name: &'static str| {
        let values: Vec<_> = given.iter().filter(|(known, value)| known == name && !value.trim().is_empty()).collect();
        let value = values.iter().map(|(_, value)| value.trim()).collect::<Vec<_>>().join(",");
        (name, value)
    };
    FILTERS.map(of).into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

fn value<'a>(asked: &'a [(&'static str, String)], name: &str) -> &'a str {
    asked.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
}

async fn list(visitor: Visitor, RawQuery(query): RawQuery) -> Result<Response, NoPage> {
    let texts = visitor.texts;
    let asked = asked(query.as_deref());
    let found = visitor.get::<List<Delivery>>(&["company", "deliveries"], &asked);
    let limit = [("limit", "200".to_owned())];
    let webhooks = visitor.get::<List<Webhook>>(&["company", "webhooks"], &limit);
    let (found, webhooks) = tokio::try_join!(found, webhooks)?;
    let without_cursor = || asked.iter().filter(|(name, _)| *name != "cursor");
    let link = |path: &str, more: Option<(&str, &str)>| {
        let mut pairs = Serializer::new(format!("{path}?"));
        pairs.extend_pairs(without_cursor());
        pairs.extend_pairs(more);
        pairs.finish()
    };
    // The newest deliveries may be looked at as they come; what is older stays as it is.
    let is_newest = value(&asked, "cursor").is_empty();
    let is_live = is_newest && parse(query.as_deref().unwrap_or_default().as_bytes()).any(|(name, _)| name == "live");
    let shown = html! {
        @if found.data.is_empty() { p { (texts.no_deliveries) } } @else { (table(texts, &found.data, &webhooks.data)) }
    };
    if let Some(unchanged) = live::unchanged(&visitor, &shown) {
        return Ok(unchanged);
    }
    let options: String =
        without_cursor().map(|(name, value)| format!(" --{} {}", name.replace('_', "-"), quoted(value))).collect();
    let content = html! {
        (filters(texts, &asked, &webhooks.data))
        @if is_newest {
            p {
                @if is_live { a href=(link("/deliveries", None)) { (texts.stop_following) } }
                @else { a href=(link("/deliveries", Some(("live", "1")))) { (texts.follow) } }
            }
        }
        @if is_newest && !is_live {
            @let path = link("/deliveries/news", found.data.first().map(|newest| ("after", newest.id.as_str())));
            div role="status" { (live::part(NEWS, &path, true, &html! {})) }
        }
        (live::part("deliveries", &visitor.here, is_live, &shown))
        div.actions {
            @if !is_newest { a.button.quiet href=(link("/deliveries", None)) { (texts.newer) } }
            @if let Some(cursor) = &found.next_cursor {
                a.button.quiet href=(link("/deliveries", Some(("cursor", cursor)))) { (texts.older) }
            }
        }
        (command(texts, &format!("shopery deliveries list{options}; shopery deliveries tail")))
    };
    Ok(answer(page(&visitor, Room::Deliveries, texts.deliveries, &content)))
}

/// How many deliveries have come since the newest one that is shown, and how those that are shown stand.
async fn news(visitor: Visitor, RawQuery(query): RawQuery) -> Result<Response, NoPage> {
    let (texts, query) = (visitor.texts, query.unwrap_or_default());
    let asked = asked(Some(&query));
    let found: List<Delivery> = visitor.get(&["company", "deliveries"], &asked).await?;
    let after = parse(query.as_bytes()).find(|(name, _)| name == "after");
    // Ids are in the order in which deliveries were made.
    let is_new = |delivery: &&Delivery| after.as_ref().is_none_or(|(_, after)| delivery.id.as_str() > after.as_ref());
    let new = found.data.iter().filter(is_new).count();
    let more = if new == found.data.len() && found.next_cursor.is_some() { "+" } else { "" };
    let news = html! {
        @if new > 0 {
            p.notice { (new) (more) " " (texts.new_deliveries) " " a #show-new href=(visitor.here) { (texts.show) } }
        }
        @for delivery in found.data.iter().skip(new) {
            span id={ "state-" (delivery.id) } class=(class(&delivery.state)) hx-swap-oob="true" { (delivery.state) }
        }
    };
    if let Some(unchanged) = live::unchanged(&visitor, &news) {
        return Ok(unchanged);
    }
    Ok(answer(live::part(NEWS, &format!("/deliveries/news?{query}"), true, &news).into_string()))
}

fn filters(texts: &Texts, asked: &[(&'static str, String)], webhooks: &[Webhook]) -> Markup {
    let states: Vec<_> = value(asked, "status").split(',').collect();
    let of = value(asked, "webhook");
    html! {
        // It is long, and mostly not needed.
        details open[!asked.is_empty()] {
            summary { (texts.filter) }
            form.row role="search" method="get" action="/deliveries" {
                div {
                    label for="webhook" { (texts.webhook) } br;
                    select #webhook name="webhook" {
                        option value="" { (texts.any_webhook) }
                        @for webhook in webhooks { option value=(webhook.id) selected[webhook.id == of] { (webhook.name) } }
                        // One that was deleted has no name any more.
                        @if !of.is_empty() && webhooks.iter().all(|webhook| webhook.id != of) { option value=(of) selected { (of) } }
                    }
                }
                @for (name, label) in [("event", texts.event), ("resource", texts.resource), ("reason", texts.reason), ("response_status", texts.response)] {
                    div { label for=(name) { (label) } br; input id=(name) type="text" name=(name) value=(value(asked, name)) size="14"; }
                }
                div {
                    label for="status" { (texts.state) } br;
                    select #status name="status" multiple size="3" {
                        @for state in STATES { option value=(state) selected[states.contains(&state)] { (state) } }
                    }
                }
                button.quiet { (texts.filter) }
            }
        }
    }
}

fn class(state: &str) -> &'static str {
    match state {
        "delivered" => "good",
        "failed" | "expired" => "bad",
        "pending" | "parked" => "wait",
        _ => "faint",
    }
}

fn table(texts: &Texts, deliveries: &[Delivery], webhooks: &[Webhook]) -> Markup {
    // One that was deleted has no name any more.
    let name = |id: &str| webhooks.iter().find(|webhook| webhook.id == id).map_or(id.to_owned(), |it| it.name.clone());
    html! {
        div.wide #delivery-table tabindex="0" role="region" aria-label=(texts.deliveries) {
            table {
                thead {
                    tr {
                        th scope="col" { (texts.event) }
                        th scope="col" { (texts.resource) }
                        th scope="col" { (texts.webhook) }
                        th scope="col" { (texts.state) }
                        th.number scope="col" { (texts.attempts) }
                        th scope="col" { (texts.response) }
                        th scope="col" { (texts.at) " (" (texts.utc) ")" }
                    }
                }
                tbody {
                    @for delivery in deliveries {
                        tr {
                            td { a id={ "to-" (delivery.id) } href={ "/deliveries/" (delivery.id) } { (delivery.event) } }
                            td { (delivery.resource) }
                            td { (name(&delivery.webhook_id)) }
                            td { span id={ "state-" (delivery.id) } class=(class(&delivery.state)) { (delivery.state) } }
                            td.number { (delivery.attempt_count) }
                            td {
                                @if let Some(status) = delivery.response_status { (status) " " }
                                @if let Some(error) = &delivery.error { code { (error.reason) } }
                            }
                            td { (moment(texts, &delivery.updated_at)) }
                        }
                    }
                }
            }
        }
    }
}

async fn one(visitor: Visitor, Path(id): Path<String>) -> Result<Response, NoPage> {
    let texts = visitor.texts;
    let delivery: Delivery = visitor.get(&["company", "deliveries", &id], &[]).await?;
    let left = delivery.attempts.len().saturating_sub(SHOWN);
    let mut attempts = Vec::new();
    for attempt in delivery.attempts.iter().skip(left).rev() {
        let path = ["company", "deliveries", &id, "attempts", &attempt.id];
        attempts.push(visitor.get::<Attempt>(&path, &[]).await?);
    }
    let event = format!("/events/{}?resource={}", escaped(&delivery.event_id), escaped(&delivery.resource));
    let content = html! {
        div.card {
            dl {
                dt { (texts.state) } dd { span class=(class(&delivery.state)) { (delivery.state) }
                    @if let Some(error) = &delivery.error { ": " (error.detail) } }
                dt { "id" } dd { (copy::inline(texts, "copy-delivery", "id", &delivery.id)) }
                dt { (texts.event) }
                dd {
                    a href=(event) { (delivery.event) } " "
                    (copy::inline(texts, "copy-event", texts.event_id, &delivery.event_id))
                }
                dt { (texts.resource) } dd { (delivery.resource) }
                dt { (texts.webhook) } dd { a href={ "/webhooks/" (delivery.webhook_id) } { (delivery.webhook_id) } }
                dt { (texts.at) } dd { (moment(texts, &delivery.created_at)) }
                @if let Some(next) = &delivery.next_attempt_at { dt { (texts.waiting) } dd { (moment(texts, next)) } }
                @if let Some(carrier) = &delivery.carried_by {
                    dt { (if delivery.state == "duplicate" { texts.duplicate_of } else { texts.superseded_by }) }
                    dd { a href={ "/deliveries/" (carrier) } { (carrier) } }
                }
            }
        }
        @if visitor.session.may_write() { (actions(&visitor, &delivery)) }
        h2 { (texts.attempts) }
        @if attempts.is_empty() { p { (texts.no_attempts) } }
        @for attempt in &attempts { (timeline(texts, attempt)) }
        @if left > 0 { p.faint { "+ " (left) } }
        (command(texts, &format!("shopery deliveries get {id}; shopery deliveries attempt {id}")))
    };
    let title = format!("{} · {}", delivery.event, delivery.resource);
    Ok(answer(page(&visitor, Room::Deliveries, &title, &content)))
}

pub(crate) fn escaped(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

fn actions(visitor: &Visitor, delivery: &Delivery) -> Markup {
    let texts = visitor.texts;
    html! {
        div.actions {
            form method="post" action={ "/deliveries/" (delivery.id) "/resend" } {
                (key(visitor))
                button.quiet { (texts.resend) }
            }
            a.button.quiet href={ "/webhooks/" (delivery.webhook_id) "/recover?from=" (delivery.id) } { (texts.resend_since) }
        }
    }
}

fn timeline(texts: &Texts, attempt: &Attempt) -> Markup {
    html! {
        section.card {
            h3 {
                (attempt.number) " · " (moment(texts, &attempt.started_at)) " · " (attempt.duration_ms) " ms"
                @if let Some(error) = &attempt.error { " · " span.bad { (error.detail) } }
            }
            @if let Some(note) = &attempt.note { p.hint { (note) } }
            div.pair {
                div { h4 { (texts.request) } (sent(texts, attempt.number, &attempt.request)) }
                div { h4 { (texts.response) } (answered(texts, attempt.number, attempt.response.as_ref())) }
            }
        }
    }
}

/// What a button copies, of which a page has one for each attempt.
fn of_attempt(texts: &Texts, what: &str, number: u64) -> String {
    format!("{what}, {} {number}", texts.attempt)
}

fn sent(texts: &Texts, number: u64, request: &Sent) -> Markup {
    html! {
        pre { code {
            (request.method) " " (request.url) "\n"
            @for (name, value) in &request.headers { (name) ": " (value) "\n" }
        } }
        @match (&request.body, &request.body_unavailable) {
            (Some(body), _) => {
                (copy::block(texts, &of_attempt(texts, texts.request_body, number), &pretty(body)))
                // Of a bus or topic the request has a signature of our own principal, which nobody can repeat.
                @if !is_cloud(&request.url) {
                    details {
                        summary { (texts.as_curl) }
                        (copy::block(texts, &of_attempt(texts, texts.curl_command, number), &curl(request, body)))
                    }
                }
            }
            (None, Some(why)) => { p.hint { (texts.body_missing) " " (why) } }
            (None, None) => {}
        }
    }
}

/// The same request at a prompt. What is secret is masked in it, as above.
fn curl(request: &Sent, body: &str) -> String {
    let mut line = format!("curl --globoff -X {} {}", request.method, quoted(&request.url));
    for (name, value) in &request.headers {
        line += &format!(" \\\n  -H {}", quoted(&format!("{name}: {value}")));
    }
    line + &format!(" \\\n  --data-raw {}", quoted(body))
}

fn answered(texts: &Texts, number: u64, response: Option<&Answered>) -> Markup {
    html! {
        @if let Some(response) = response {
            pre { code {
                @if let Some(status) = response.status { (status) "\n" }
                @if let Some(code) = &response.code { (code) "\n" }
                @if let Some(id) = &response.message_id { "message id: " (id) "\n" }
                @for header in &response.headers { (header.name) ": " (header.value) "\n" }
            } }
            @if !response.body.is_empty() {
                (copy::block(texts, &of_attempt(texts, texts.response_body, number), &pretty(&response.body)))
            }
        } @else { p { (texts.no_response) } }
    }
}

async fn resend(Path(id): Path<String>, form: Form) -> Result<Response, NoPage> {
    form.visitor.send(Request::post(&["company", "deliveries", &id, "resend"])).await?;
    Ok(Redirect::to(&format!("/deliveries/{id}")).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_handed_on_and_nothing_else() {
        let asked = asked(Some("status=failed&status=parked&event=&resource=order%2F1&x=1&response_status= 503 "));
        assert_eq!(
            asked,
            [
                ("status", "failed,parked".to_owned()),
                ("resource", "order/1".to_owned()),
                ("response_status", "503".to_owned())
            ]
        );
        assert_eq!(escaped("a b/ö?"), "a%20b%2F%C3%B6%3F");
    }

    #[test]
    fn a_request_is_one_command_whatever_is_in_it() {
        let headers = [("x-note".to_owned(), "it's $HOME".to_owned())].into();
        let (method, url) = ("POST".to_owned(), "https://a.example/?a=1&b=2".to_owned());
        let request = Sent { method, url, headers, body: None, body_unavailable: None };
        assert_eq!(
            curl(&request, "{\"a\":\"'`id`\"}"),
            "curl --globoff -X POST 'https://a.example/?a=1&b=2' \\\n  -H 'x-note: it'\\''s $HOME' \\\n  --data-raw '{\"a\":\"'\\''`id`\"}'"
        );
    }
}
