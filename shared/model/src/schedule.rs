//! When a failed delivery is tried again.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::{DeliveryId, Invalid};

/// The delays before the second, third, … attempt. A delivery that fails after the last of them is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule(Vec<Duration>);

/// Every delay is spread by this share to both sides, so that what failed together does not come back together.
const JITTER: f64 = 0.2;

/// No receiver may put us off for longer than this.
const MAX_DELAY: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_RETRIES: usize = 50;

impl RetrySchedule {
    /// The delay after attempt number `attempt` (the first is 1) failed, or `None` if it was the last one.
    ///
    /// `at_least` is what the receiver asked for (`Retry-After`): it can make a delay longer, never shorter.
    pub fn delay_after(&self, attempt: u32, id: DeliveryId, at_least: Option<Duration>) -> Option<Duration> {
        let planned = *self.0.get(usize::try_from(attempt.checked_sub(1)?).ok()?)?;
        let spread = 1.0 + JITTER * (2.0 * id.fraction(attempt) - 1.0);
        Some(planned.mul_f64(spread).max(at_least.unwrap_or_default()).min(MAX_DELAY))
    }
}

impl Default for RetrySchedule {
    /// 8 attempts in about 4 hours.
    fn default() -> Self {
        Self([10, 60, 5 * 60, 15 * 60, 30 * 60, 60 * 60, 2 * 60 * 60].map(Duration::from_secs).to_vec())
    }
}

impl FromStr for RetrySchedule {
    type Err = Invalid;

    /// `10s,1m,5m,2h`; also `500ms`. Empty: no retries.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let delays: Option<Vec<_>> =
            text.split(',').map(str::trim).filter(|delay| !delay.is_empty()).map(parse_delay).collect();
        match delays {
            Some(delays) if delays.len() <= MAX_RETRIES => Ok(Self(delays)),
            _ => Err(Invalid::new(
                "schedule",
                format!("must be at most {MAX_RETRIES} delays of 24 hours or less, such as 10s,1m,5m,1h"),
            )),
        }
    }
}

fn parse_delay(text: &str) -> Option<Duration> {
    let delay = humantime::parse_duration(text).ok()?;
    (!delay.is_zero() && delay <= MAX_DELAY).then_some(delay)
}

impl fmt::Display for RetrySchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, delay) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "," };
            write!(f, "{separator}{}", humantime::format_duration(*delay))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WebhookId;
    use proptest::prelude::*;

    fn id(event: &str) -> DeliveryId {
        let webhook: WebhookId = "wbh_01HA4XCG60CT4G3EWF4CKYM1MF".parse().unwrap();
        DeliveryId::of(&"t".parse().unwrap(), "orders", event, time::OffsetDateTime::UNIX_EPOCH, webhook)
    }

    #[test]
    fn eight_attempts_by_default() {
        let schedule = RetrySchedule::default();
        assert_eq!(schedule.to_string(), "10s,1m,5m,15m,30m,1h,2h");
        assert_eq!(schedule.to_string().parse(), Ok(schedule.clone()));
        assert!(schedule.delay_after(7, id("e"), None).is_some());
        assert_eq!(schedule.delay_after(8, id("e"), None), None);
        assert_eq!(schedule.delay_after(0, id("e"), None), None);
    }

    #[test]
    fn what_is_not_a_schedule_is_refused() {
        for text in ["10", "s", "10x", "0s", "25h", "99999999999999999999s", "-1s", "10s;1m"] {
            assert!(text.parse::<RetrySchedule>().is_err(), "{text}");
        }
        assert_eq!("".parse::<RetrySchedule>().unwrap().delay_after(1, id("e"), None), None);
    }

    proptest! {
        #[test]
        fn a_delay_is_within_a_fifth_of_the_plan(event in "\\PC{1,20}", attempt in 1u32..=7) {
            let planned = [10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0][attempt as usize - 1];
            let delay = RetrySchedule::default().delay_after(attempt, id(&event), None).unwrap().as_secs_f64();
            prop_assert!((planned * 0.8..=planned * 1.2).contains(&delay), "{} {}", planned, delay);
        }

        #[test]
        fn a_receiver_can_only_ask_for_more(seconds in 0u64..1_000_000) {
            let asked = Duration::from_secs(seconds);
            let schedule = RetrySchedule::default();
            let delay = schedule.delay_after(1, id("e"), Some(asked)).unwrap();
            let planned = schedule.delay_after(1, id("e"), None).unwrap();
            prop_assert_eq!(delay, planned.max(asked).min(MAX_DELAY));
        }
    }
}
