//! One webhook: how it does, what waits for it, its secret, who has changed it, and what can be done with it.

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use maud::{Markup, html};
use serde_json::json;
use shopery_client::{JSON, Method, Request};
use time::OffsetDateTime;

use crate::App;
use crate::api::{Change, List, Metrics, Now, Secret, TestReport, Webhook};
use crate::charts::{Range, charts, ranges};
use crate::clouds;
use crate::copy;
use crate::form::Form;
use crate::layout::{Room, command, key, page};
use crate::live;
use crate::moment::moment;
use crate::texts::Texts;
use crate::visitor::{NoPage, Visitor, html as answer};
use crate::webhook_form::passed;
use crate::webhooks::{latency, state, success};

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/webhooks/{id}", get(show).post(act))
        .route("/webhooks/{id}/secret", post(secret))
        .route("/webhooks/{id}/changes", get(changes))
}

async fn show(visitor: Visitor, Path(id): Path<String>) -> Result<Response, NoPage> {
    page_of(&visitor, &id, html! {}).await
}

async fn page_of(visitor: &Visitor, id: &str, said: Markup) -> Result<Response, NoPage> {
    page_with(visitor, id, said, false).await
}

/// `is_shut_out`: a bus or topic was just found not to let us in.
async fn page_with(visitor: &Visitor, id: &str, said: Markup, is_shut_out: bool) -> Result<Response, NoPage> {
    let texts = visitor.texts;
    let range = Range::read(visitor.here.split_once('?').map(|(_, query)| query));
    // Of a part of the page nobody sees the charts.
    let counted = if visitor.is_part { Range::Hour } else { range };
    let asked = counted.query(OffsetDateTime::now_utc());
    let (itself, counts) = (["company", "webhooks", id], ["company", "webhooks", id, "metrics"]);
    let (webhook, metrics) =
        tokio::try_join!(visitor.get::<Webhook>(&itself, &[]), visitor.get::<Metrics>(&counts, &asked))?;
    // With credentials of their own nobody has to let the platform in.
    let has_setup = !visitor.is_part && webhook.credentials.is_empty();
    let setup = if has_setup { clouds::setup_of(visitor, &webhook.url).await } else { None };
    // What is asked for by a form is an answer to it, and stays.
    let is_live = visitor.sent.is_none();
    let shown = html! { div.card { (facts(texts, &webhook, &metrics)) } };
    if let Some(unchanged) = live::unchanged(visitor, &shown) {
        return Ok(unchanged);
    }
    let content = html! {
        (said)
        @if visitor.session.may_write() { (actions(visitor, &webhook)) }
        (live::calm_part("facts", &visitor.here, is_live, &shown))
        @if let Some(setup) = &setup { (clouds::setup(texts, &webhook.url, setup, is_shut_out)) }
        p.links {
            a href={ "/deliveries?webhook=" (webhook.id) } { (texts.deliveries) }
            a href={ "/webhooks/" (webhook.id) "/verify" } { (texts.verify) }
            a href={ "/webhooks/" (webhook.id) "/changes" } { (texts.changes) }
        }
        h2 #metrics { (texts.metrics) }
        (ranges(texts, &webhook.id, range))
        div.card { (numbers(texts, &metrics)) }
        @if !visitor.is_part { (charts(texts, &webhook.id, range, &metrics)) }
        (command(texts, &format!("shopery webhooks get {id}; shopery metrics {id} --since {}", range.name())))
    };
    Ok(answer(page(visitor, Room::Webhooks, &webhook.name, &content)))
}

fn facts(texts: &Texts, webhook: &Webhook, metrics: &Metrics) -> Markup {
    html! {
        dl {
            dt { (texts.state) } dd { (state(texts, webhook)) }
            dt { (texts.url) } dd { (webhook.url) }
            dt { (texts.kind) } dd { (clouds::kind(&webhook.url)) }
            @if !webhook.credentials.is_empty() {
                dt { (texts.cloud_credentials) }
                dd { @for (name, value) in &webhook.credentials { div { (name) ": " (value) } } }
            }
            dt { (texts.subscribed) } dd { (webhook.events.join(", ")) }
            @if let Some(description) = &webhook.description { dt { (texts.description) } dd { (description) } }
            @if let Some(name) = &metrics.now.circuit { dt { (texts.circuit) } dd { (circuit(texts, name, &metrics.now)) } }
            @if let Some(waiting) = webhook.waiting.as_ref().filter(|waiting| waiting.parked > 0) {
                dt { (texts.waiting) }
                dd {
                    (waiting.parked) " " (texts.parked)
                    @if let Some(at) = &waiting.oldest_at { ", " (texts.oldest_since) " " (moment(texts, at)) }
                }
            }
            dt { "id" } dd { (copy::inline(texts, "copy-webhook", "id", &webhook.id)) }
            dt { (texts.created) } dd { (moment(texts, &webhook.created_at)) }
        }
    }
}

/// Whether the endpoint is sent anything, in words.
fn circuit(texts: &Texts, name: &str, now: &Now) -> Markup {
    let (class, means) = match name {
        "closed" => ("good", texts.circuit_closed),
        "open" => ("bad", texts.circuit_open),
        "draining" => ("wait", texts.circuit_draining),
        _ => ("faint", ""),
    };
    html! {
        span class=(class) { (name) } @if !means.is_empty() { ": " (means) }
        @if let Some(error) = &now.error { br; (error.detail) }
        @if let Some(at) = &now.next_probe_at { br; (texts.next_probe) " " (moment(texts, at)) }
    }
}

fn numbers(texts: &Texts, metrics: &Metrics) -> Markup {
    let total = &metrics.total;
    html! {
        dl {
            dt { (texts.delivered) } dd { (success(total)) }
            dt { (texts.attempts) } dd { (total.attempts) }
            dt { (texts.p95) } dd { (latency(Some(metrics))) }
        }
    }
}

fn actions(visitor: &Visitor, webhook: &Webhook) -> Markup {
    let texts = visitor.texts;
    let path = format!("/webhooks/{}", webhook.id);
    html! {
        div.actions {
            a.button.quiet href={ (path) "/edit" } { (texts.edit) }
            form method="post" action=(path) {
                (key(visitor))
                div.actions {
                    button.quiet name="action" value="test" { (texts.test_url) }
                    @if webhook.state == "active" {
                        button.quiet name="action" value="pause" { (texts.pause) }
                    } @else {
                        button name="action" value="send" { (texts.enable_send) }
                        button.quiet name="action" value="discard" { (texts.enable_discard) }
                    }
                    button.quiet name="action" value="rotate" title=(texts.rotate_hint) { (texts.secret) ": " (texts.rotate) }
                    button.danger name="action" value="delete" { (texts.delete) }
                }
            }
            form method="post" action={ (path) "/secret" } {
                (key(visitor))
                button.quiet { (texts.secret) ": " (texts.reveal) }
            }
            form method="get" action={ (path) "/recover" } { button.quiet { (texts.recover) } }
        }
    }
}

async fn act(Path(id): Path<String>, form: Form) -> Result<Response, NoPage> {
    let (visitor, here) = (&form.visitor, format!("/webhooks/{id}"));
    let patch = |body: serde_json::Value| {
        Request::new(Method::PATCH, &["company", "webhooks", &id]).body(JSON, body.to_string())
    };
    match form.text("action") {
        "test" => return tested(visitor, &id).await,
        "delete" if form.given("sure").is_none() => {
            return ask(visitor, &id, "delete", visitor.texts.delete_sure, visitor.texts.delete).await;
        }
        "rotate" if form.given("sure").is_none() => {
            return ask(visitor, &id, "rotate", visitor.texts.rotate_sure, visitor.texts.rotate).await;
        }
        "delete" => {
            visitor.send(Request::new(Method::DELETE, &["company", "webhooks", &id])).await?;
            return Ok(Redirect::to("/webhooks").into_response());
        }
        "pause" => drop(visitor.send(patch(json!({ "isEnabled": false }))).await?),
        waiting @ ("send" | "discard") => {
            drop(visitor.send(patch(json!({ "isEnabled": true, "waiting": waiting }))).await?);
        }
        "rotate" => {
            visitor.send(Request::post(&["company", "webhooks", &id, "rotate-secret"]).body(JSON, "{}")).await?;
            return page_of(visitor, &id, html! { p.done role="status" { (visitor.texts.rotated) } }).await;
        }
        _ => return Err(NoPage::Malformed { texts: visitor.texts }),
    }
    Ok(Redirect::to(&here).into_response())
}

async fn tested(visitor: &Visitor, id: &str) -> Result<Response, NoPage> {
    let texts = visitor.texts;
    let tested = visitor.send(Request::post(&["company", "webhooks", id, "test"]).body(JSON, "{}")).await?;
    let report: TestReport = tested.read().map_err(|error| visitor.failed(error))?;
    let said = html! {
        @if report.success { p.done role="status" { (passed(texts, &report)) } } @else {
            div.problem role="alert" {
                b { (texts.test_failed) } ": "
                @if let Some(error) = &report.error { (error.detail) }
                @if let Some(advice) = &report.advice { p { (advice) } }
            }
        }
    };
    page_with(visitor, id, said, report.setup.is_some()).await
}

/// Before something is done that cannot be taken back.
async fn ask(visitor: &Visitor, id: &str, action: &str, question: &str, does: &str) -> Result<Response, NoPage> {
    let texts = visitor.texts;
    let said = html! {
        form.notice method="post" action={ "/webhooks/" (id) } {
            (key(visitor))
            input type="hidden" name="sure" value="yes";
            p { (question) }
            button.danger name="action" value=(action) { (does) }
            " " a.button.quiet href={ "/webhooks/" (id) } { (texts.cancel) }
        }
    };
    page_of(visitor, id, said).await
}

/// A secret is asked for by a form, so that it is in no page that a link leads to.
async fn secret(Path(id): Path<String>, form: Form) -> Result<Response, NoPage> {
    let (visitor, texts) = (&form.visitor, form.visitor.texts);
    let secret: Secret = visitor.get(&["company", "webhooks", &id, "secret"], &[]).await?;
    let said = html! {
        div.card {
            dl {
                dt { (texts.secret) } dd { (copy::inline(texts, "copy-secret", texts.secret, &secret.secret)) }
                @for previous in &secret.previous {
                    dt { (texts.previous_until) } dd { (moment(texts, &previous.until)) }
                }
            }
        }
    };
    page_of(visitor, &id, said).await
}

async fn changes(visitor: Visitor, Path(id): Path<String>) -> Result<Response, NoPage> {
    let texts = visitor.texts;
    let list: List<Change> = visitor.get(&["company", "webhooks", &id, "changes"], &[]).await?;
    let json = |value: &Option<Box<serde_json::value::RawValue>>| {
        value.as_ref().map_or_else(|| "–".to_owned(), |value| value.get().to_owned())
    };
    let content = html! {
        div.wide tabindex="0" role="region" aria-label=(texts.changes) {
            table {
                thead {
                    tr { th scope="col" { (texts.at) } th scope="col" { (texts.by) } th scope="col" { (texts.changes) } }
                }
                tbody {
                    @for change in &list.data {
                        tr {
                            td { (moment(texts, &change.created_at)) }
                            td { @match &change.by { Some(by) => (by), None => { (texts.us) } } }
                            td {
                                b { (change.action) }
                                @for (field, change) in &change.changes {
                                    div { code { (field) } ": " (json(&change.from)) " → " (json(&change.to)) }
                                }
                            }
                        }
                    }
                }
            }
        }
        p { a href={ "/webhooks/" (id) } { (texts.back_to_webhook) } }
        (command(texts, &format!("shopery webhooks changes {id}")))
    };
    Ok(answer(page(&visitor, Room::Webhooks, texts.changes, &content)))
}
