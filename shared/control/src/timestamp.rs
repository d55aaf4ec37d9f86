//! Times as the API shows them: RFC 3339 in UTC, always with three digits of a second, so that they also sort as text.

use serde::{Serialize, Serializer};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

const FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

pub fn text(time: OffsetDateTime) -> String {
    // A time that was read from the history always has this form.
    time.to_offset(UtcOffset::UTC).format(FORMAT).unwrap_or_default()
}

pub fn serialize<S: Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(*time))
}

pub mod option {
    use super::*;

    pub fn serialize<S: Serializer>(time: &Option<OffsetDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
        time.map(text).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn every_time_has_the_same_length_and_sorts_as_text() {
        assert_eq!(text(datetime!(2026-11-24 10:00:00 +2)), "2026-11-24T08:00:00.000Z");
        assert_eq!(text(datetime!(2026-11-24 10:00:00.6549 UTC)), "2026-11-24T10:00:00.654Z");
    }
}
