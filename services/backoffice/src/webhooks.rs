//! All webhooks: what each is for, how it does, and what waits for it.

use std::collections::HashMap;

use axum::Router;
use axum::extract::RawQuery;
use axum::response::Response;
use axum::routing::get;
use maud::{Markup, html};
use url::form_urlencoded::parse;

use crate::App;
use crate::api::{List, Metrics, Tally, Webhook, Window};
use crate::layout::{Room, command, page};
use crate::moment::moment;
use crate::texts::Texts;
use crate::visitor::{NoPage, Visitor, html as answer};

pub(crate) const STATES: [&str; 3] = ["active", "paused", "disabled"];

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/webhooks", get(list))
}

/// What is asked for in the URL.
#[derive(Debug, Default)]
struct Asked {
    text: String,
    state: String,
}

impl Asked {
    fn read(query: Option<&str>) -> Self {
        let mut asked = Self::default();
        for (name, value) in parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "q" => asked.text = value.trim().to_owned(),
                "state" if STATES.contains(&&*value) => asked.state = value.into_owned(),
                _ => {}
            }
        }
        asked
    }

    fn wants(&self, webhook: &Webhook) -> bool {
        let text = self.text.to_lowercase();
        let has = |of: &str| of.to_lowercase().contains(&text);
        let is_found = has(&webhook.name) || has(&webhook.url) || webhook.events.iter().any(|event| has(event));
        is_found && (self.state.is_empty() || self.state == webhook.state)
    }
}

async fn list(visitor: Visitor, RawQuery(query): RawQuery) -> Result<Response, NoPage> {
    let texts = visitor.texts;
    let asked = Asked::read(query.as_deref());
    let all: List<Webhook> = visitor.get(&["company", "webhooks"], &[("limit", "200".to_owned())]).await?;
    let metrics: List<Metrics> = visitor.get(&["company", "webhooks", "metrics"], &[]).await?;
    let metrics: HashMap<_, _> = metrics.data.into_iter().map(|one| (one.webhook_id.clone(), one)).collect();
    let content = html! {
        @if all.data.is_empty() {
            div.card {
                h2 { (texts.no_webhooks) }
                p { (texts.no_webhooks_why) }
                @if visitor.session.may_write() { a.button href="/webhooks/new" { (texts.create_webhook) } }
            }
        } @else {
            div.actions {
                @if visitor.session.may_write() { a.button href="/webhooks/new" { (texts.create_webhook) } }
            }
            (search(texts, &asked))
            @let found: Vec<_> = all.data.iter().filter(|webhook| asked.wants(webhook)).collect();
            @if found.is_empty() { p { (texts.no_match) } } @else { (table(texts, &found, &metrics)) }
        }
        (command(texts, "shopery webhooks list; shopery metrics --each"))
    };
    Ok(answer(page(&visitor, Room::Webhooks, texts.webhooks, &content)))
}

fn search(texts: &Texts, asked: &Asked) -> Markup {
    html! {
        form.row role="search" method="get" action="/webhooks" {
            div { label for="q" { (texts.search) } br; input #q type="search" name="q" value=(asked.text); }
            div {
                label for="state" { (texts.state) } br;
                select #state name="state" {
                    option value="" { (texts.any_state) }
                    @for state in STATES {
                        option value=(state) selected[asked.state == state] { (state_name(texts, state)) }
                    }
                }
            }
            button.quiet { (texts.filter) }
        }
    }
}

fn table(texts: &Texts, found: &[&Webhook], metrics: &HashMap<String, Metrics>) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label=(texts.webhooks) {
            table {
                thead {
                    tr {
                        th scope="col" { (texts.name) }
                        th scope="col" { (texts.state) }
                        th scope="col" { (texts.subscribed) }
                        th scope="col" { (texts.success_24h) }
                        th.number scope="col" { (texts.p95) }
                        th scope="col" { (texts.waiting) }
                    }
                }
                tbody {
                    @for webhook in found {
                        @let of = metrics.get(&webhook.id);
                        tr {
                            td { a href={ "/webhooks/" (webhook.id) } { (webhook.name) } br; span.faint { (webhook.url) } }
                            td {
                                (state(texts, webhook))
                                @if let Some(circuit) = of.and_then(|of| of.now.circuit.as_deref()).filter(|circuit| *circuit != "closed") {
                                    br;
                                    span.wait { (texts.circuit) ": " (circuit) }
                                }
                            }
                            td { (webhook.events.join(", ")) }
                            td { @if let Some(of) = of { (success(&of.total)) (trend(texts, &of.data)) } }
                            td.number { (latency(of)) }
                            td {
                                @if let Some(at) = of.and_then(|of| of.now.oldest_waiting_at.as_deref()) {
                                    span.wait { (texts.oldest_since) " " (moment(at)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(crate) fn latency(metrics: Option<&Metrics>) -> String {
    let latency = metrics.and_then(|of| of.total.latency.as_ref());
    latency.map_or_else(String::new, |latency| format!("{} ms", latency.p95))
}

pub(crate) fn state_name(texts: &Texts, state: &str) -> &'static str {
    match state {
        "active" => texts.active,
        "paused" => texts.paused,
        _ => texts.disabled,
    }
}

/// The state in words, with since when and why.
pub(crate) fn state(texts: &Texts, webhook: &Webhook) -> Markup {
    let class = match webhook.state.as_str() {
        "active" if webhook.failing_since.is_none() => "good",
        "disabled" => "bad",
        _ => "wait",
    };
    html! {
        span class=(class) { (state_name(texts, &webhook.state)) }
        @if let Some(reason) = &webhook.disabled_reason {
            br;
            span.faint { @if reason == "gone" { (texts.disabled_gone) } @else { (texts.disabled_failing) } }
            @if let Some(at) = &webhook.disabled_at { " " (moment(at)) }
        } @else if let Some(since) = &webhook.failing_since {
            br;
            span.bad { (texts.failing_since) " " (moment(since)) }
        }
    }
}

/// How many of what has ended was delivered.
pub(crate) fn success(total: &Tally) -> String {
    let all = total.deliveries.delivered.saturating_add(total.missed());
    match all {
        0 => "–".to_owned(),
        all => {
            // Never rounded up to all of them.
            let percent = (total.deliveries.delivered as f64 / all as f64 * 1000.0).floor() / 10.0;
            format!("{percent} % / {all}")
        }
    }
}

/// Bars of what was delivered and what was not, window by window.
fn trend(texts: &Texts, windows: &[Window]) -> Markup {
    const HEIGHT: u64 = 20;
    let delivered = |one: &Window| one.tally.deliveries.delivered;
    let missed = |one: &Window| one.tally.missed();
    let most = windows.iter().map(|one| delivered(one) + missed(one)).max().unwrap_or_default().max(1);
    let height = |count: u64| (count * HEIGHT).div_ceil(most);
    let label = format!(
        "{}: {}, {}: {}",
        texts.delivered,
        windows.iter().map(delivered).sum::<u64>(),
        texts.failed,
        windows.iter().map(missed).sum::<u64>()
    );
    html! {
        svg.trend role="img" aria-label=(label) viewBox={ "0 0 " (windows.len() * 4) " " (HEIGHT) } preserveAspectRatio="none" {
            @for (place, one) in windows.iter().enumerate() {
                @let (good, bad) = (height(delivered(one)), height(missed(one)));
                @if good > 0 { rect.delivered x=(place * 4) y=(HEIGHT.saturating_sub(good)) width="3" height=(good) {} }
                @if bad > 0 {
                    rect.failed x=(place * 4) y=(HEIGHT.saturating_sub(good + bad)) width="3" height=(bad) {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Ends;

    fn tally(delivered: u64, failed: u64) -> Tally {
        let deliveries = Ends { delivered, failed, expired: 0 };
        Tally { attempts: 0, failed_attempts: Default::default(), deliveries, latency: None }
    }

    #[test]
    fn a_rate_is_never_rounded_up_to_all() {
        for (delivered, failed, told) in
            [(0, 0, "–"), (7, 0, "100 % / 7"), (99_999, 1, "99.9 % / 100000"), (1, 2, "33.3 % / 3"), (0, 4, "0 % / 4")]
        {
            assert_eq!(success(&tally(delivered, failed)), told);
        }
    }

    #[test]
    fn a_trend_says_in_words_what_it_shows() {
        let windows = [tally(3, 0), tally(0, 0), tally(0, 1)].map(|tally| Window { from: String::new(), tally });
        let shown = trend(crate::texts::Language::English.texts(), &windows);
        let shown = shown.into_string();
        assert!(shown.contains("aria-label=\"Delivered: 3, Failed: 1\""), "{shown}");
        assert_eq!((shown.matches("delivered\" x=").count(), shown.matches("failed\" x=").count()), (1, 1), "{shown}");
    }
}
