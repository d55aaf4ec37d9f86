//! Charts of a webhook: what was delivered and what failed, how long attempts took, and why they failed. The server
//! draws them as SVG from the API's metrics, without script or style attributes, so the content security policy can
//! forbid both.
//!
//! Labels are HTML around a drawing, never in it: a drawing is stretched to the width of the screen, and its text would
//! be too. Each chart says its numbers in words (`aria-label`) and has them in a table.

use std::cmp::Reverse;

use maud::{Markup, html};
use time::OffsetDateTime;
use url::form_urlencoded::parse;

use crate::api::{Latency, Metrics, Window};
use crate::moment::{exact, parameter, tick};
use crate::texts::Texts;
use crate::visitor::escaped;

/// Height of a drawing, and width of a window in it, in units of its view box.
const HEIGHT: f64 = 100.0;
const WIDTH: f64 = 10.0;
/// The least height of a bar: one failure among a million deliveries is still seen.
const MIN_BAR: f64 = 1.5;

/// How much time the charts are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Range {
    Hour,
    Day,
    Week,
    Month,
}

impl Range {
    const ALL: [Self; 4] = [Self::Hour, Self::Day, Self::Week, Self::Month];

    /// The parameter `range` of a query; a day if it has none that we know.
    pub(crate) fn read(query: Option<&str>) -> Self {
        let asked = parse(query.unwrap_or_default().as_bytes()).find(|(name, _)| name == "range");
        let known = |range: &Self| asked.as_ref().is_some_and(|(_, value)| value == range.name());
        Self::ALL.into_iter().find(known).unwrap_or(Self::Day)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hour => "1h",
            Self::Day => "24h",
            Self::Week => "7d",
            Self::Month => "30d",
        }
    }

    /// Minutes of a window, and the number of windows.
    fn windows(self) -> (i64, i64) {
        match self {
            Self::Hour => (1, 60),
            Self::Day => (30, 48),
            Self::Week => (4 * 60, 42),
            Self::Month => (24 * 60, 30),
        }
    }

    /// What to ask the API for.
    pub(crate) fn query(self, now: OffsetDateTime) -> [(&'static str, String); 2] {
        query(self.windows(), now)
    }

    /// Whether its axis shows days rather than times of day.
    fn has_days(self) -> bool {
        matches!(self, Self::Week | Self::Month)
    }
}

/// The last day by the hour, for a list: of hours the API has far fewer counts to sum than of minutes.
pub(crate) fn day_by_hours(now: OffsetDateTime) -> [(&'static str, String); 2] {
    query((60, 24), now)
}

/// Windows begin with whole steps, because of older times the API has whole hours alone. The last one is not over yet.
fn query((minutes, count): (i64, i64), now: OffsetDateTime) -> [(&'static str, String); 2] {
    let (step, now) = (minutes * 60, now.unix_timestamp());
    let from = now - now.rem_euclid(step) - step * (count - 1);
    let from = OffsetDateTime::from_unix_timestamp(from).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    [("created_at_min", parameter(from)), ("step", format!("{minutes}m"))]
}

/// The links to the other times.
pub(crate) fn ranges(texts: &Texts, webhook: &str, shown: Range) -> Markup {
    let label = |range| match range {
        Range::Hour => texts.range_hour,
        Range::Day => texts.range_day,
        Range::Week => texts.range_week,
        Range::Month => texts.range_month,
    };
    html! {
        nav.tabs aria-label=(texts.range) {
            @for range in Range::ALL {
                a href={ "/webhooks/" (webhook) "?range=" (range.name()) "#metrics" }
                    aria-current=[(range == shown).then_some("true")] { (label(range)) }
            }
        }
    }
}

pub(crate) fn charts(texts: &Texts, webhook: &str, range: Range, metrics: &Metrics) -> Markup {
    html! {
        (deliveries(texts, range, &metrics.data))
        (latencies(texts, range, metrics))
        (reasons(texts, webhook, metrics))
    }
}

fn deliveries(texts: &Texts, range: Range, windows: &[Window]) -> Markup {
    let counts: Vec<_> = windows.iter().map(|one| (one.tally.deliveries.delivered, one.tally.missed())).collect();
    let most = counts.iter().map(|(good, bad)| good.saturating_add(*bad)).max().unwrap_or_default();
    if most == 0 {
        return without(texts.chart_deliveries, texts.chart_no_deliveries);
    }
    let sum = |of: fn(&(u64, u64)) -> u64| counts.iter().map(of).fold(0, u64::saturating_add);
    let label = format!(
        "{}: {}. {}: {}. {}: {most}.",
        texts.delivered,
        sum(|count| count.0),
        texts.failed,
        sum(|count| count.1),
        texts.chart_most
    );
    // At least 2, so that the middle of the axis is a whole number.
    let top = top((most as f64).max(2.0));
    let chart = Chart { title: texts.chart_deliveries, label, range, windows, top, unit: short };
    let legend = html! {
        (key(html! { rect.delivered width="24" height="12" {} })) (texts.delivered)
        (key(html! { rect.failed width="24" height="12" {} })) (texts.failed)
    };
    let heads = [texts.attempts, texts.delivered, texts.failed];
    let row = |one: &Window| {
        [one.tally.attempts, one.tally.deliveries.delivered, one.tally.missed()].map(|count| count.to_string()).to_vec()
    };
    chart.figure(texts, &legend, &bars(&counts, top), &table(texts, texts.chart_deliveries, &heads, windows, row))
}

/// The class of its line, and where it is read.
type Percentile = (&'static str, fn(&Latency) -> f64);
/// Those that are shown.
const PERCENTILES: [Percentile; 3] =
    [("p50", |latency| latency.p50), ("p95", |latency| latency.p95), ("p99", |latency| latency.p99)];

fn latencies(texts: &Texts, range: Range, metrics: &Metrics) -> Markup {
    let (title, windows) = (texts.chart_latency, &metrics.data);
    let Some(total) = &metrics.total.latency else {
        return without(title, texts.chart_no_attempts);
    };
    let mut label: String = PERCENTILES.iter().map(|(name, of)| format!("{name}: {}. ", millis(of(total)))).collect();
    label.push_str(&format!("{}: {}.", texts.max, millis(total.max)));
    let all = windows.iter().filter_map(|one| one.tally.latency.as_ref());
    let top = top(all.flat_map(|latency| PERCENTILES.map(|(_, of)| of(latency))).fold(0.0, f64::max));
    let chart = Chart { title, label, range, windows, top, unit: millis };
    let values =
        |of: fn(&Latency) -> f64| -> Vec<_> { windows.iter().map(|one| one.tally.latency.as_ref().map(of)).collect() };
    let drawing = html! {
        @for (name, of) in PERCENTILES { path class=(name) vector-effect="non-scaling-stroke" d=(line(&values(of), top)) {} }
    };
    let legend = html! {
        @for (name, _) in PERCENTILES { (key(html! { path class=(name) d="M2 6H22" {} })) (name) }
    };
    let row = |one: &Window| match &one.tally.latency {
        Some(latency) => [latency.p50, latency.p95, latency.p99, latency.max].map(millis).to_vec(),
        None => vec!["–".to_owned(); 4],
    };
    let heads = ["p50", "p95", "p99", texts.max];
    chart.figure(texts, &legend, &drawing, &table(texts, title, &heads, windows, row))
}

/// Why attempts have failed: a table by itself, with a bar for each reason.
fn reasons(texts: &Texts, webhook: &str, metrics: &Metrics) -> Markup {
    let mut reasons: Vec<_> = metrics.total.failed_attempts.iter().filter(|(_, count)| **count > 0).collect();
    reasons.sort_by_key(|(reason, count)| (Reverse(**count), *reason));
    let Some((_, most)) = reasons.first() else {
        return without(texts.chart_reasons, texts.chart_no_failures);
    };
    let (most, attempts) = (**most as f64, metrics.total.attempts);
    html! {
        figure.chart {
            figcaption { h3 { (texts.chart_reasons) } }
            div.wide role="region" tabindex="0" aria-label=(texts.chart_reasons) {
                table {
                    thead {
                        tr {
                            th scope="col" { (texts.reason) }
                            th.number scope="col" { (texts.attempts) }
                            th.number scope="col" { (texts.share) }
                        }
                    }
                    tbody {
                        @for (reason, count) in reasons {
                            tr {
                                td {
                                    a href={ "/deliveries?webhook=" (webhook) "&reason=" (escaped(reason)) } { code { (reason) } }
                                    svg.bar aria-hidden="true" viewBox="0 0 100 10" preserveAspectRatio="none" {
                                        rect.failed width=(point(height(*count as f64, most).max(MIN_BAR))) height="10" {}
                                    }
                                }
                                td.number { (count) }
                                td.number { (percent(*count, attempts)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What the drawings over time have in common.
struct Chart<'a> {
    title: &'a str,
    /// What it shows, in words.
    label: String,
    range: Range,
    windows: &'a [Window],
    /// The end of its axis.
    top: f64,
    unit: fn(f64) -> String,
}

impl Chart<'_> {
    fn figure(&self, texts: &Texts, legend: &Markup, drawing: &Markup, table: &Markup) -> Markup {
        let width = self.windows.len() as f64 * WIDTH;
        let last = self.windows.len().saturating_sub(1);
        let times = [0, last / 2, last].map(|place| self.windows.get(place).map(|one| one.from.as_str()));
        html! {
            figure.chart {
                figcaption { h3 { (self.title) } }
                p.legend aria-hidden="true" { (legend) }
                div.plot {
                    div.axis aria-hidden="true" {
                        @for part in [1.0, 0.5, 0.0] { span { ((self.unit)(self.top * part)) } }
                    }
                    svg role="img" aria-label=(self.label) viewBox={ "0 0 " (width) " " (HEIGHT) } preserveAspectRatio="none" {
                        path.grid vector-effect="non-scaling-stroke" d={ "M0 0H" (width) "M0 50H" (width) "M0 100H" (width) } {}
                        (drawing)
                    }
                    div.times aria-hidden="true" {
                        @for time in times.into_iter().flatten() { span { (tick(time, self.range.has_days())) } }
                    }
                }
                details {
                    summary { (texts.as_table) span.unseen { ": " (self.title) } }
                    (table)
                }
            }
        }
    }
}

/// A chart of nothing says so.
fn without(title: &str, why: &str) -> Markup {
    html! { figure.chart { figcaption { h3 { (title) } } p.faint { (why) } } }
}

/// The numbers of a chart. Who has no mouse can scroll it too.
fn table(
    texts: &Texts,
    title: &str,
    heads: &[&str],
    windows: &[Window],
    row: impl Fn(&Window) -> Vec<String>,
) -> Markup {
    html! {
        div.wide role="region" tabindex="0" aria-label=(title) {
            table {
                thead {
                    tr {
                        th scope="col" { (texts.at) " (" (texts.utc) ")" }
                        @for head in heads { th.number scope="col" { (head) } }
                    }
                }
                tbody {
                    @for one in windows {
                        tr { th scope="row" { (exact(&one.from)) } @for cell in row(one) { td.number { (cell) } } }
                    }
                }
            }
        }
    }
}

fn key(mark: Markup) -> Markup {
    html! { svg.key viewBox="0 0 24 12" { (mark) } }
}

/// A bar for each window: what was delivered, and upon it what failed.
fn bars(counts: &[(u64, u64)], top: f64) -> Markup {
    let bar = |count: u64| if count == 0 { 0.0 } else { height(count as f64, top).max(MIN_BAR) };
    html! {
        @for (place, (delivered, failed)) in counts.iter().enumerate() {
            @let (x, good, bad) = (place as f64 * WIDTH + 1.0, bar(*delivered), bar(*failed));
            @if good > 0.0 { rect.delivered x=(x) y=(point(HEIGHT - good)) width="8" height=(point(good)) {} }
            @if bad > 0.0 { rect.failed x=(x) y=(point((HEIGHT - good - bad).max(0.0))) width="8" height=(point(bad)) {} }
        }
    }
}

/// A line through the values, broken where there is none. A value that stands alone is a line of no length, which round
/// ends make a dot.
fn line(values: &[Option<f64>], top: f64) -> String {
    let (mut path, mut goes_on) = (String::new(), false);
    for (place, value) in values.iter().enumerate() {
        if let Some(value) = value {
            let (x, y) = (place as f64 * WIDTH + WIDTH / 2.0, point(HEIGHT - height(*value, top)));
            path.push_str(&if goes_on { format!("L{x} {y}") } else { format!("M{x} {y}h0") });
        }
        goes_on = value.is_some();
    }
    path
}

/// How high a value is in a drawing whose axis ends at `top`.
fn height(value: f64, top: f64) -> f64 {
    (value / top * HEIGHT).clamp(0.0, HEIGHT)
}

fn point(number: f64) -> String {
    format!("{number:.1}")
}

/// Where an axis ends: the next round number, whose half is round too.
fn top(most: f64) -> f64 {
    if most.is_nan() || most <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(most.log10().floor());
    let factor = [1.0, 2.0, 4.0, 6.0, 8.0].into_iter().find(|factor| factor * power >= most).unwrap_or(10.0);
    (factor * power).clamp(f64::MIN_POSITIVE, f64::MAX)
}

/// A number as an axis has it: `950`, `1.5k`, `2M`.
fn short(number: f64) -> String {
    let rounded = |number: f64| (number * 10.0).round() / 10.0;
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.into_iter().find(|(size, _)| number >= *size) {
        _ if number >= 1e15 => format!("{number:.1e}"),
        Some((size, name)) => format!("{}{name}", rounded(number / size)),
        None => rounded(number).to_string(),
    }
}

fn millis(number: f64) -> String {
    if number < 1000.0 { format!("{} ms", short(number)) } else { format!("{} s", short(number / 1000.0)) }
}

fn percent(part: u64, all: u64) -> String {
    if all == 0 { "–".to_owned() } else { format!("{:.1} %", part as f64 / all as f64 * 100.0) }
}

#[cfg(test)]
mod tests;
