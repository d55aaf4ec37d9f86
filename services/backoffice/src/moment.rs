//! Times, as a person reads them: how long ago, and exactly.

use maud::{Markup, html};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The exact time of the API, shown to the second, with all of it where a machine looks.
pub(crate) fn moment(text: &str) -> Markup {
    html! { time datetime=(text) title=(text) { (short(text)) } }
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

    #[test]
    fn a_time_is_shown_to_the_second() {
        let shown = moment("2026-11-24T10:00:01.234Z").into_string();
        assert!(shown.contains(">2026-11-24 10:00:01<") && shown.contains("datetime=\"2026-11-24T10:00:01.234Z\""));
        assert!(moment("<b>").into_string().contains(">&lt;b&gt;<"));
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
