use std::collections::BTreeMap;

use time::format_description::well_known::Rfc3339;

use super::*;
use crate::api::{Ends, Now, Tally};
use crate::texts::Language;

fn window(delivered: u64, failed: u64, latency: Option<f64>) -> Window {
    let latency = latency.map(|p50| Latency { p50, p95: p50 * 2.0, p99: p50 * 3.0, max: p50 * 4.0 });
    let deliveries = Ends { delivered, failed, expired: 0 };
    let tally = Tally { attempts: delivered, failed_attempts: BTreeMap::new(), deliveries, latency };
    Window { from: "2026-11-24T10:00:00.000Z".to_owned(), tally }
}

fn shown(windows: Vec<Window>, failed: &[(&str, u64)]) -> String {
    let mut total =
        window(windows.iter().map(|one| one.tally.deliveries.delivered).fold(0, u64::saturating_add), 0, None);
    total.tally.failed_attempts = failed.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
    total.tally.latency = windows.iter().any(|one| one.tally.latency.is_some()).then(|| latency(9.0));
    let now = Now { oldest_waiting_at: None, circuit: None, next_probe_at: None, error: None };
    let metrics = Metrics { webhook_id: "wbh_1".to_owned(), total: total.tally, data: windows, now };
    charts(Language::English.texts(), "wbh_1", Range::Day, &metrics).into_string()
}

fn latency(p50: f64) -> Latency {
    Latency { p50, p95: p50, p99: p50, max: p50 }
}

#[test]
fn an_axis_ends_at_a_round_number_above_all_values() {
    for (most, end) in [
        (0.0, 1.0),
        (-3.0, 1.0),
        (f64::NAN, 1.0),
        (1.0, 1.0),
        (3.0, 4.0),
        (7.0, 8.0),
        (8.1, 10.0),
        (99.0, 100.0),
        (100.0, 100.0),
        (1000.0, 1000.0),
        (1001.0, 2000.0),
        (f64::MAX, f64::MAX),
    ] {
        assert_eq!(top(most), end, "{most}");
    }
    assert!((top(0.3) - 0.4).abs() < 1e-9 && top(f64::MIN_POSITIVE / 4.0) > 0.0);
}

#[test]
fn heights_stay_within_the_drawing() {
    for (value, top, is) in [
        (0.0, 10.0, 0.0),
        (5.0, 10.0, 50.0),
        (10.0, 10.0, 100.0),
        (20.0, 10.0, 100.0),
        (-1.0, 10.0, 0.0),
        (u64::MAX as f64, u64::MAX as f64, 100.0),
    ] {
        assert_eq!(height(value, top), is, "{value} of {top}");
    }
}

#[test]
fn numbers_of_an_axis_are_short() {
    for (number, text) in [
        (0.0, "0"),
        (2.5, "2.5"),
        (999.0, "999"),
        (1500.0, "1.5k"),
        (2e6, "2M"),
        (4e9, "4G"),
        (1e12, "1T"),
        (u64::MAX as f64, "1.8e19"),
    ] {
        assert_eq!(short(number), text);
    }
    assert_eq!((millis(2.5), millis(999.0), millis(1500.0)), ("2.5 ms".into(), "999 ms".into(), "1.5 s".into()));
    assert_eq!((percent(1, 3), percent(0, 0)), ("33.3 %".into(), "–".into()));
}

#[test]
fn a_line_breaks_where_there_is_no_value_and_one_alone_is_a_dot() {
    for (values, path) in [
        (&[][..], ""),
        (&[None, None], ""),
        (&[Some(5.0)], "M5 50.0h0"),
        (&[Some(0.0), Some(10.0)], "M5 100.0h0L15 0.0"),
        (&[Some(10.0), None, Some(5.0), Some(5.0), None], "M5 0.0h0M25 50.0h0L35 50.0"),
    ] {
        assert_eq!(line(values, 10.0), path, "{values:?}");
    }
}

#[test]
fn what_is_there_has_a_bar_however_small_and_what_is_not_has_none() {
    let drawn = bars(&[(0, 0), (1_000_000, 1), (0, 3)], 1_000_000.0).into_string();
    assert_eq!((drawn.matches("delivered").count(), drawn.matches("failed").count()), (1, 2), "{drawn}");
    assert!(drawn.contains(r#"<rect class="failed" x="11" y="0.0" width="8" height="1.5">"#), "{drawn}");
    let huge = bars(&[(u64::MAX, u64::MAX)], top(u64::MAX as f64)).into_string();
    assert!(!huge.contains("inf") && !huge.contains("NaN") && !huge.contains("\"-"), "{huge}");
}

#[test]
fn charts_say_in_words_and_in_a_table_what_they_show() {
    let windows = vec![window(4, 1, Some(2.0)), window(0, 0, None), window(1, 0, Some(3.0))];
    let shown = shown(windows, &[("timeout", 1), ("http_status", 4), ("gone", 0)]);
    assert!(shown.contains("aria-label=\"Delivered: 5. Failed: 1. At most in one window: 5.\""), "{shown}");
    assert!(shown.contains("aria-label=\"p50: 9 ms. p95: 9 ms. p99: 9 ms. Longest: 9 ms.\""), "{shown}");
    assert_eq!(shown.matches("<details>").count(), 2);
    assert_eq!(shown.matches("<th scope=\"row\">").count(), 6, "a row for each window in each table");
    assert!(shown.contains("<td class=\"number\">–</td>"), "a window without attempts has no latency");
    // The most frequent reason is first, and leads to its deliveries.
    assert!(shown.find("http_status").unwrap() < shown.find("timeout").unwrap(), "{shown}");
    assert!(shown.contains("/deliveries?webhook=wbh_1&amp;reason=timeout") && !shown.contains("gone"), "{shown}");
    assert!(!shown.contains(" style=") && !shown.contains("<script"), "{shown}");
}

#[test]
fn charts_of_nothing_say_so_and_huge_ones_stay_numbers() {
    for windows in [vec![], vec![window(0, 0, None), window(0, 0, None)]] {
        let shown = shown(windows, &[]);
        assert!(!shown.contains("<svg"), "{shown}");
        for says in ["No delivery has ended", "Nothing was attempted", "No attempt has failed"] {
            assert!(shown.contains(says), "{says}: {shown}");
        }
    }
    let shown = shown(vec![window(u64::MAX, u64::MAX, Some(1e300))], &[("timeout", u64::MAX)]);
    assert!(shown.contains("<svg") && !shown.contains("inf") && !shown.contains("NaN"), "{shown}");
}

#[test]
fn windows_begin_with_whole_steps_and_the_last_one_has_now() {
    let now = OffsetDateTime::parse("2026-11-24T10:17:30Z", &Rfc3339).unwrap();
    for (range, from, step) in [
        (Range::Hour, "2026-11-24T09:18:00Z", "1m"),
        (Range::Day, "2026-11-23T10:30:00Z", "30m"),
        (Range::Week, "2026-11-17T12:00:00Z", "240m"),
        (Range::Month, "2026-10-26T00:00:00Z", "1440m"),
    ] {
        assert_eq!(range.query(now), [("created_at_min", from.to_owned()), ("step", step.to_owned())]);
        assert_eq!(Range::read(Some(&format!("a=b&range={}", range.name()))), range);
    }
    for query in [None, Some(""), Some("range=2h"), Some("range")] {
        assert_eq!(Range::read(query), Range::Day, "{query:?}");
    }
    let links = ranges(Language::English.texts(), "wbh_1", Range::Week).into_string();
    assert_eq!(links.matches("aria-current=\"true\"").count(), 1);
}
