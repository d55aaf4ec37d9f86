//! All webhooks: what each is for, how it does, and what waits for it.

use std::collections::HashMap;

use axum::Router;
use axum::extract::RawQuery;
use axum::response::Response;
use axum::routing::get;
use maud::{Markup, html};
use time::OffsetDateTime;
use url::form_urlencoded::{Serializer, parse};

use crate::App;
use crate::api::{List, Metrics, Tally, Webhook, Window};
use crate::charts::day_by_hours;
use crate::clouds;
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
    sort: Option<Sort>,
}

/// By what comes first; otherwise the newest do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Name,
    /// Of which the smallest part was delivered.
    Delivered,
    Slowest,
    LongestWaiting,
}

impl Sort {
    const ALL: [Self; 4] = [Self::Name, Self::Delivered, Self::Slowest, Self::LongestWaiting];

    fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Delivered => "delivered",
            Self::Slowest => "p95",
            Self::LongestWaiting => "waiting",
        }
    }

    /// As a screen reader says it.
    fn direction(self) -> &'static str {
        if self == Self::Slowest { "descending" } else { "ascending" }
    }

    fn sort(self, webhooks: &mut [&Webhook], metrics: &HashMap<String, Metrics>) {
        let of = |webhook: &Webhook| metrics.get(&webhook.id);
        match self {
            Self::Name => webhooks.sort_by_key(|webhook| webhook.name.to_lowercase()),
            Self::Delivered => {
                let part = |webhook: &&Webhook| of(webhook).and_then(|of| delivered(&of.total)).unwrap_or(2.0);
                webhooks.sort_by(|a, b| part(a).total_cmp(&part(b)));
            }
            Self::Slowest => {
                let p95 = |webhook: &&Webhook| {
                    of(webhook).and_then(|of| of.total.latency.as_ref()).map_or(-1.0, |latency| latency.p95)
                };
                webhooks.sort_by(|a, b| p95(b).total_cmp(&p95(a)));
            }
            Self::LongestWaiting => {
                // Nothing waits for those that have no time.
                let since = |webhook: &Webhook| of(webhook).and_then(|of| of.now.oldest_waiting_at.clone());
                webhooks.sort_by_key(|webhook| (since(webhook).is_none(), since(webhook)));
            }
        }
    }
}

impl Asked {
    fn read(query: Option<&str>) -> Self {
        let mut asked = Self::default();
        for (name, value) in parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "q" => asked.text = value.trim().to_owned(),
                "state" if STATES.contains(&&*value) => asked.state = value.into_owned(),
                "sort" => asked.sort = Sort::ALL.into_iter().find(|sort| sort.name() == value),
                _ => {}
            }
        }
        asked
    }

    fn sorted_by(&self, sort: Sort) -> String {
        let mut pairs = Serializer::new("/webhooks?".to_owned());
        pairs.append_pair("q", &self.text).append_pair("state", &self.state).append_pair("sort", sort.name());
        pairs.finish()
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
    let limit = [("limit", "200".to_owned())];
    let all = visitor.get::<List<Webhook>>(&["company", "webhooks"], &limit);
    let day = day_by_hours(OffsetDateTime::now_utc());
    let metrics = visitor.get::<List<Metrics>>(&["company", "webhooks", "metrics"], &day);
    let (all, metrics) = tokio::try_join!(all, metrics)?;
    let metrics: HashMap<_, _> = metrics.data.into_iter().map(|one| (one.webhook_id.clone(), one)).collect();
    let mut found: Vec<_> = all.data.iter().filter(|webhook| asked.wants(webhook)).collect();
    if let Some(sort) = asked.sort {
        sort.sort(&mut found, &metrics);
    }
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
            @if found.is_empty() { p { (texts.no_match) } } @else { (table(texts, &asked, &found, &metrics)) }
        }
        (command(texts, "shopery webhooks list; shopery metrics --each"))
    };
    Ok(answer(page(&visitor, Room::Webhooks, texts.webhooks, &content)))
}

fn search(texts: &Texts, asked: &Asked) -> Markup {
    html! {
        form.row role="search" method="get" action="/webhooks" {
            @if let Some(sort) = asked.sort { input type="hidden" name="sort" value=(sort.name()); }
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

/// The head of a column by which the list may be sorted.
fn head(asked: &Asked, sort: Sort, name: &str) -> Markup {
    let direction = asked.sort.filter(|by| *by == sort).map(Sort::direction);
    html! {
        th.number[sort == Sort::Slowest] scope="col" aria-sort=[direction] { a href=(asked.sorted_by(sort)) { (name) } }
    }
}

fn table(texts: &Texts, asked: &Asked, found: &[&Webhook], metrics: &HashMap<String, Metrics>) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label=(texts.webhooks) {
            table {
                thead {
                    tr {
                        (head(asked, Sort::Name, texts.name))
                        th scope="col" { (texts.state) }
                        th scope="col" { (texts.subscribed) }
                        (head(asked, Sort::Delivered, texts.success_24h))
                        (head(asked, Sort::Slowest, texts.p95))
                        (head(asked, Sort::LongestWaiting, texts.waiting))
                    }
                }
                tbody {
                    @for webhook in found {
                        @let of = metrics.get(&webhook.id);
                        tr {
                            td {
                                a href={ "/webhooks/" (webhook.id) } { (webhook.name) } br;
                                span.faint { (clouds::kind(&webhook.url)) " · " (webhook.url) }
                            }
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
                                    span.wait { (texts.oldest_since) " " (moment(texts, at)) }
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
            @if let Some(at) = &webhook.disabled_at { " " (moment(texts, at)) }
        } @else if let Some(since) = &webhook.failing_since {
            br;
            span.bad { (texts.failing_since) " " (moment(texts, since)) }
        }
    }
}

/// The part of what has ended that was delivered; `None` if nothing has.
fn delivered(total: &Tally) -> Option<f64> {
    let all = total.deliveries.delivered.saturating_add(total.missed());
    (all > 0).then(|| total.deliveries.delivered as f64 / all as f64)
}

/// How many of what has ended was delivered.
pub(crate) fn success(total: &Tally) -> String {
    let Some(part) = delivered(total) else { return "–".to_owned() };
    // Never rounded up to all of them.
    let percent = (part * 1000.0).floor() / 10.0;
    format!("{percent} % / {}", total.deliveries.delivered.saturating_add(total.missed()))
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
    // One path for each kind, of strokes: where there are many webhooks, a rectangle in each window would be half of the page.
    let (mut good, mut bad) = (String::new(), String::new());
    for (place, one) in windows.iter().enumerate() {
        let (middle, delivered, missed) = (place * 4 + 2, height(delivered(one)), height(missed(one)));
        let top = HEIGHT.saturating_sub(delivered);
        if delivered > 0 {
            good += &format!("M{middle} {HEIGHT}v-{delivered}");
        }
        if missed > 0 {
            bad += &format!("M{middle} {top}v-{missed}");
        }
    }
    html! {
        svg.trend role="img" aria-label=(label) viewBox={ "0 0 " (windows.len() * 4) " " (HEIGHT) } preserveAspectRatio="none" {
            @for (class, bars) in [("delivered", good), ("failed", bad)] {
                @if !bars.is_empty() { path class=(class) d=(bars) {} }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Ends, Latency, Now};

    fn tally(delivered: u64, failed: u64) -> Tally {
        let deliveries = Ends { delivered, failed, expired: 0 };
        Tally { attempts: 0, failed_attempts: Default::default(), deliveries, latency: None }
    }

    fn webhook(id: &str, name: &str) -> Webhook {
        let json = serde_json::json!({
            "id": id, "name": name, "url": "https://a.example/", "events": [], "state": "active",
            "createdAt": "2026-11-24T10:00:00Z", "updatedAt": "2026-11-24T10:00:00Z",
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn what_needs_a_look_comes_first() {
        let webhooks = [webhook("1", "b"), webhook("2", "A"), webhook("3", "c")];
        let metrics = [
            ("1", tally(3, 0), Some(5.0), None),
            ("2", tally(1, 1), Some(9.0), Some("2026-11-24T10:00:01.000Z")),
            ("3", tally(0, 0), None, Some("2026-11-24T10:00:00.000Z")),
        ];
        let metrics: HashMap<_, _> = metrics
            .into_iter()
            .map(|(id, mut total, p95, waiting)| {
                total.latency = p95.map(|p95| Latency { p50: 1.0, p95, p99: 10.0, max: 10.0 });
                let now = Now { oldest_waiting_at: waiting.map(str::to_owned), ..Now::default() };
                (id.to_owned(), Metrics { webhook_id: id.to_owned(), total, data: Vec::new(), now })
            })
            .collect();
        for (sort, order) in [("name", "213"), ("delivered", "213"), ("p95", "213"), ("waiting", "321")] {
            let mut found: Vec<_> = webhooks.iter().collect();
            Asked::read(Some(&format!("sort={sort}"))).sort.unwrap().sort(&mut found, &metrics);
            assert_eq!(found.iter().map(|webhook| &*webhook.id).collect::<String>(), order, "{sort}");
        }
        assert_eq!(Asked::read(Some("sort=x")).sort, None);
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
        assert!(shown.contains("class=\"delivered\" d=\"M2 20v-20\""), "{shown}");
        assert!(shown.contains("class=\"failed\" d=\"M10 20v-7\""), "{shown}");
    }
}
