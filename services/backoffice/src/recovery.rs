//! Sending again what a webhook has missed: first how many that would be, then how it gets on.

use axum::Router;
use axum::extract::{Path, RawQuery};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use maud::html;
use serde_json::{Value, json};
use shopery_client::{JSON, Request};
use time::{Duration, OffsetDateTime};
use url::form_urlencoded::parse;

use crate::App;
use crate::api::{Plan, Recovery};
use crate::form::Form;
use crate::layout::{Room, command, key, page};
use crate::live;
use crate::moment::{moment, parameter};
use crate::visitor::{NoPage, Visitor, html as answer};

/// How far back it goes where no delivery is named: as long as events are held.
const BACK: Duration = Duration::days(7);

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/webhooks/{id}/recover", get(plan).post(start))
        .route("/recoveries/{id}", get(show))
        .route("/recoveries/{id}/cancel", post(cancel))
}

/// From a delivery on, or of the last days.
fn since(from: &str) -> Value {
    if from.is_empty() {
        json!({ "since": parameter(OffsetDateTime::now_utc() - BACK) })
    } else {
        json!({ "sinceDelivery": from })
    }
}

async fn plan(visitor: Visitor, Path(id): Path<String>, RawQuery(query): RawQuery) -> Result<Response, NoPage> {
    let texts = visitor.texts;
    let query = query.unwrap_or_default();
    let from = parse(query.as_bytes()).find(|(name, _)| name == "from").map(|(_, value)| value.into_owned());
    let from = from.unwrap_or_default();
    let mut body = since(&from);
    body["dryRun"] = Value::Bool(true);
    let request = Request::post(&["company", "webhooks", &id, "recover"]).body(JSON, body.to_string());
    let planned = visitor.send(request).await?;
    let plan: Plan = planned.read().map_err(|error| visitor.failed(error))?;
    let count = plan.total.map_or_else(|| texts.recover_many.to_owned(), |total| total.to_string());
    let content = html! {
        @if plan.total == Some(0) {
            p { (texts.recover_none) }
            div.actions { a.button.quiet href={ "/webhooks/" (id) } { (texts.back_to_webhook) } }
        } @else {
            div.card {
                p { (texts.recover_plan) ": " b { (count) } }
                @if let (Some(oldest), Some(newest)) = (&plan.oldest_at, &plan.newest_at) {
                    p { (moment(texts, oldest)) " – " (moment(texts, newest)) }
                }
                @if let Some(gone) = plan.not_held.filter(|gone| *gone > 0) { p.wait { (gone) " " (texts.recover_not_held) } }
            }
            form method="post" {
                (key(&visitor))
                input type="hidden" name="from" value=(from);
                div.actions {
                    button { (texts.recover) }
                    a.button.quiet href={ "/webhooks/" (id) } { (texts.cancel) }
                }
            }
        }
        (command(texts, &format!("shopery recover {id} --since 7d --dry-run")))
    };
    Ok(answer(page(&visitor, Room::Webhooks, texts.recover, &content)))
}

async fn start(Path(id): Path<String>, form: Form) -> Result<Response, NoPage> {
    let visitor = &form.visitor;
    let body = since(form.text("from")).to_string();
    let started = visitor.send(Request::post(&["company", "webhooks", &id, "recover"]).body(JSON, body)).await?;
    let recovery: Recovery = started.read().map_err(|error| visitor.failed(error))?;
    Ok(Redirect::to(&format!("/recoveries/{}", recovery.id)).into_response())
}

async fn show(visitor: Visitor, Path(id): Path<String>) -> Result<Response, NoPage> {
    let texts = visitor.texts;
    let recovery: Recovery = visitor.get(&["company", "recoveries", &id], &[]).await?;
    let is_running = recovery.state == "running";
    let progress = html! {
        div.card {
            dl {
                dt { (texts.state) } dd { (recovery.state) @if let Some(error) = &recovery.error { ": " (error) } }
                dt { (texts.resent) } dd { (recovery.resent) @if let Some(total) = recovery.total { " / " (total) } }
                dt { (texts.skipped) } dd { (recovery.skipped) }
                dt { (texts.unavailable_count) } dd { (recovery.unavailable) }
            }
        }
    };
    if let Some(unchanged) = live::unchanged(&visitor, &progress) {
        return Ok(unchanged);
    }
    let content = html! {
        div role="status" { (live::part("progress", &format!("/recoveries/{id}"), is_running, &progress)) }
        div.actions {
            @if is_running {
                a.button.quiet href={ "/recoveries/" (id) } { (texts.refresh) }
                @if visitor.session.may_write() {
                    form method="post" action={ "/recoveries/" (id) "/cancel" } {
                        (key(&visitor))
                        button.danger { (texts.cancel) }
                    }
                }
            }
            a.button.quiet href={ "/webhooks/" (recovery.webhook_id) } { (texts.back_to_webhook) }
        }
        (command(texts, &format!("shopery recoveries get {id} --follow")))
    };
    Ok(answer(page(&visitor, Room::Webhooks, texts.recovery, &content)))
}

async fn cancel(Path(id): Path<String>, form: Form) -> Result<Response, NoPage> {
    form.visitor.send(Request::post(&["company", "recoveries", &id, "cancel"])).await?;
    Ok(Redirect::to(&format!("/recoveries/{id}")).into_response())
}
