//! Times, as a person reads them: how long ago, and exactly.

use maud::{Markup, html};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::texts::Texts;

/// The exact time of the API, and how long ago that was, or in how long it will be.
pub(crate) fn moment(texts: &Texts, text: &str) -> Markup {
    let since = OffsetDateTime::parse(text, &Rfc3339).ok().map(|time| OffsetDateTime::now_utc() - time);
    html! {
        (exact(text))
        @if let Some(since) = since { " " span.ago { (ago(texts, since.whole_seconds())) } }
    }
}

/// To the second, with all of it where a machine looks.
pub(crate) fn exact(text: &str) -> Markup {
    html! { time datetime=(text) title=(text) { (short(text)) } }
}

/// In the largest unit of which it has at least one, rounded down.
fn ago(texts: &Texts, seconds: i64) -> String {
    let size = seconds.unsigned_abs();
    let size = match size {
        0..60 => {
            return if seconds < -1 {
                texts.in_time.replace("{}", &format!("{size} s"))
            } else {
                texts.just_now.to_owned()
            };
        }
        60..3600 => format!("{} min", size / 60),
        3600..86_400 => format!("{} h", size / 3600),
        _ => format!("{} d", size / 86_400),
    };
    if seconds < 0 { texts.in_time.replace("{}", &size) } else { texts.ago.replace("{}", &size) }
}

/// The same for the axis of a chart: the day, or the time of day.
pub(crate) fn tick(text: &str, is_day: bool) -> String {
    let whole = short(text);
    whole.get(if is_day { 5..10 } else { 11..16 }).unwrap_or(&whole).to_owned()
}

/// `2026-11-24 10:00:00` of an RFC 3339 time in UTC.
fn short(text: &str) -> String {
    match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(time) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
            time.year(),
            u8::from(time.month()),
            time.day(),
            time.hour(),
            time.minute(),
            time.second()
        ),
        Err(_) => text.to_owned(),
    }
}

/// A time as a parameter of the API.
pub(crate) fn parameter(time: OffsetDateTime) -> String {
    time.replace_nanosecond(0).ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::texts::Language;

    #[test]
    fn a_time_is_shown_to_the_second() {
        let shown = exact("2026-11-24T10:00:01.234Z").into_string();
        assert!(shown.contains(">2026-11-24 10:00:01<") && shown.contains("datetime=\"2026-11-24T10:00:01.234Z\""));
        assert!(moment(Language::English.texts(), "<b>").into_string().contains(">&lt;b&gt;<"));
    }

    #[test]
    fn it_is_said_how_long_ago_that_was() {
        let texts = Language::English.texts();
        for (seconds, says) in [
            (0, "just now"),
            (59, "just now"),
            (-30, "in 30 s"),
            (60, "1 min ago"),
            (3599, "59 min ago"),
            (-3600, "in 1 h"),
            (86_399, "23 h ago"),
            (40 * 86_400, "40 d ago"),
            (i64::MIN, "in 106751991167300 d"),
        ] {
            assert_eq!(ago(texts, seconds), says);
        }
        assert_eq!(ago(Language::Spanish.texts(), 7200), "hace 2 h");
    }

    #[test]
    fn an_axis_has_the_day_or_the_time_of_day() {
        let time = "2026-11-24T10:05:01.234Z";
        assert_eq!(
            (tick(time, true), tick(time, false), tick("soon", true)),
            ("11-24".into(), "10:05".into(), "soon".into())
        );
    }
}
