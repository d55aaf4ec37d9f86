//! Times that outsiders write.

use time::OffsetDateTime;
use time::UtcOffset;
use time::format_description::well_known::Rfc3339;

/// An RFC 3339 timestamp. The error is a sentence for whoever wrote it, without the name of the field.
///
/// The year must be one of 0000 to 9999 in UTC too: `9999-12-31T23:59:59-01:00` would come out as a year that RFC 3339
/// cannot write, and `0000-01-01T00:00:00+01:00` as one before there were any.
pub fn parse_time(text: &str) -> Result<OffsetDateTime, &'static str> {
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
        if is_short_of_its_plus(text) {
            "has a space where its offset should begin: a + in a query must be written as %2B"
        } else {
            "must be an RFC 3339 timestamp, such as 2026-11-24T10:00:00Z"
        }
    })?;
    match time.checked_to_offset(UtcOffset::UTC).map(OffsetDateTime::year) {
        Some(0..=9999) => Ok(time),
        _ => Err("is in no year from 0000 to 9999 when it is written in UTC"),
    }
}

/// `2026-11-24T10:00:00 02:00`: what a `+` becomes in a query.
fn is_short_of_its_plus(text: &str) -> bool {
    text.rsplit_once(' ').is_some_and(|(before, after)| {
        before.contains('T') && OffsetDateTime::parse(&format!("{before}+{after}"), &Rfc3339).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_year_that_can_be_written() {
        for good in ["2026-11-24T10:00:00Z", "2026-11-24T10:00:00.123456789+05:30", "0000-01-01T00:00:00Z"] {
            assert!(parse_time(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("yesterday", "RFC 3339"),
            ("2026-11-24", "RFC 3339"),
            ("9999-12-31T23:59:59-01:00", "year"),
            ("0000-01-01T00:00:00+01:00", "year"),
            ("2026-11-24T10:00:00 02:00", "%2B"),
        ] {
            assert!(parse_time(bad).unwrap_err().contains(why), "{bad}");
        }
    }
}
