//! Times as they are typed: RFC 3339, or so long ago.

use shopery_model::parse_time;
use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime};

/// `2026-11-24T10:00:00Z`, `2026-11-24`, or `2h`, `30m`, `7d` before `now`; returns RFC 3339.
pub fn parse(text: &str, now: OffsetDateTime) -> Result<String, String> {
    let form = || {
        "must be RFC 3339 such as 2026-11-24T10:00:00Z, a day such as 2026-11-24, or so long ago, such as 2h".to_owned()
    };
    match parse_time(text) {
        Ok(_) => return Ok(text.to_owned()),
        // It is a time, and one that the API refuses.
        Err(why) if read(text).is_some() => return Err(why.to_owned()),
        Err(_) => {}
    }
    let is_day = text.len() == 10 && Date::parse(text, &time::format_description::well_known::Iso8601::DATE).is_ok();
    if is_day {
        return Ok(format!("{text}T00:00:00Z"));
    }
    let ago = humantime::parse_duration(text.trim_start_matches('-')).map_err(|_| form())?;
    let ago = time::Duration::try_from(ago).map_err(|_| form())?;
    now.checked_sub(ago).and_then(show).ok_or_else(form)
}

/// For clap.
pub fn argument(text: &str) -> Result<String, String> {
    parse(text, OffsetDateTime::now_utc())
}

/// To the millisecond, as the API has it.
pub fn show(at: OffsetDateTime) -> Option<String> {
    at.replace_millisecond(at.millisecond()).ok()?.format(&Rfc3339).ok()
}

pub fn read(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_given_as_such_or_as_so_long_ago() {
        let now = read("2026-11-24T10:00:00.123456Z").unwrap();
        for (typed, meant) in [
            ("2026-11-24T08:00:00+01:00", Some("2026-11-24T08:00:00+01:00")),
            ("2026-11-24", Some("2026-11-24T00:00:00Z")),
            ("2h", Some("2026-11-24T08:00:00.123Z")),
            ("-90s", Some("2026-11-24T09:58:30.123Z")),
            ("1h 30m", Some("2026-11-24T08:30:00.123Z")),
            ("yesterday", None),
            ("", None),
            ("99999999y", None),
            ("9999-12-31T23:59:59-01:00", None),
        ] {
            assert_eq!(parse(typed, now).ok().as_deref(), meant, "{typed}");
        }
    }
}
