//! Whether a request is sent again, and when: a decision, without I/O.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// How often a request is sent at most.
pub const TRIES: u32 = 5;
/// Who asks us to wait longer than this is not waited for.
pub const LONGEST: Duration = Duration::from_secs(60);
const FIRST: Duration = Duration::from_millis(200);

/// What came of sending a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Met {
    Answer {
        status: u16,
        retry_after: Option<Duration>,
    },
    /// No connection: nobody has the request.
    Unsent,
    /// The connection or the time ended before the answer came: it may have been done.
    Lost,
}

/// How long to wait before the request is sent again; `None` if it is not.
///
/// `is_repeatable`: doing it twice is doing it once, as with a GET, or a POST under a key. `was_lost`: an earlier answer to
/// this request was lost, so a 409 may say that the first one is still being worked on.
pub fn pause(met: Met, tries: u32, is_repeatable: bool, was_lost: bool) -> Option<Duration> {
    if tries >= TRIES {
        return None;
    }
    let (again, asked) = match met {
        Met::Unsent => (true, None),
        Met::Lost => (is_repeatable, None),
        // These say that nothing was done.
        Met::Answer { status: 429 | 503, retry_after } => (true, retry_after),
        Met::Answer { status: 408 | 502 | 504, retry_after } => (is_repeatable, retry_after),
        Met::Answer { status: 409, .. } => (is_repeatable && was_lost, None),
        Met::Answer { .. } => (false, None),
    };
    let backoff = FIRST * 2u32.pow(tries.saturating_sub(1));
    let pause = asked.unwrap_or_default().max(backoff);
    (again && pause <= LONGEST).then_some(pause)
}

/// `Retry-After`: seconds, or a date of HTTP.
pub fn retry_after(value: &str, now: OffsetDateTime) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = OffsetDateTime::parse(value.trim(), &Rfc2822).ok()?;
    Some(Duration::try_from(at - now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_do_harm_is_repeated() {
        let answer = |status| Met::Answer { status, retry_after: None };
        for (met, is_repeatable, was_lost, again) in [
            (Met::Unsent, false, false, true),
            (Met::Lost, true, false, true),
            (Met::Lost, false, false, false),
            (answer(429), false, false, true),
            (answer(503), false, false, true),
            (answer(502), true, false, true),
            (answer(504), false, false, false),
            (answer(409), true, true, true),
            (answer(409), true, false, false),
            (answer(409), false, true, false),
            (answer(400), true, true, false),
            (answer(401), true, true, false),
            (answer(500), true, false, false),
        ] {
            assert_eq!(pause(met, 1, is_repeatable, was_lost).is_some(), again, "{met:?} {is_repeatable} {was_lost}");
        }
    }

    #[test]
    fn tries_and_waits_are_bounded_and_retry_after_is_honoured() {
        let busy = |seconds| Met::Answer { status: 429, retry_after: Some(Duration::from_secs(seconds)) };
        assert_eq!(pause(busy(7), 1, true, false), Some(Duration::from_secs(7)));
        assert_eq!(pause(busy(0), 3, true, false), Some(Duration::from_millis(800)));
        assert_eq!(pause(busy(61), 1, true, false), None);
        assert_eq!(pause(Met::Unsent, TRIES, true, false), None);
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = OffsetDateTime::from_unix_timestamp(1_445_412_470).unwrap();
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT", now), Some(Duration::from_secs(10)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }
}
