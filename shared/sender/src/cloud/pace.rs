//! How many requests one account has under way: AIMD, as TCP does it. A cloud that throttles halves them and is left alone for a
//! while, which grows; each request that it takes allows one more.

use std::time::Duration;

use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Pace {
    max: usize,
    limit: usize,
    under_way: usize,
    pause: Duration,
    paused_until: Option<Instant>,
    /// When it was throttled last.
    lowered_at: Option<Instant>,
}

/// What a request has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// The cloud took it, whatever it thinks of the messages.
    Taken,
    /// The cloud takes no more for now, and may say for how long.
    Throttled(Option<Duration>),
    /// It did not come so far.
    Neither,
}

impl Pace {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, limit: max, under_way: 0, pause: Duration::ZERO, paused_until: None, lowered_at: None }
    }

    pub(crate) fn may_begin(&self, now: Instant) -> bool {
        self.under_way < self.limit && self.paused(now).is_none()
    }

    /// How long the account is left alone from now.
    pub(crate) fn paused(&self, now: Instant) -> Option<Duration> {
        self.paused_until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    pub(crate) fn is_throttled(&self) -> bool {
        self.limit < self.max
    }

    /// There is nothing to remember.
    pub(crate) fn is_settled(&self, now: Instant) -> bool {
        self.under_way == 0 && self.paused(now).is_none() && !self.is_throttled()
    }

    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        self.under_way == 0 && self.paused(now).is_none()
    }

    pub(crate) fn begin(&mut self) {
        self.under_way += 1;
    }

    /// `begun`: when the request was. `spread`: from 0 to 1, so that processes do not go on all at once.
    pub(crate) fn end(&mut self, begun: Instant, met: Met, now: Instant, spread: f64) {
        let before = self.under_way;
        self.under_way = before.saturating_sub(1);
        // It tells of the time before.
        let is_old = self.lowered_at.is_some_and(|at| begun <= at);
        match met {
            Met::Throttled(_) if is_old => {}
            Met::Throttled(asked) => {
                self.limit = (before / 2).clamp(1, self.max);
                self.pause = (self.pause * 2).clamp(FIRST_PAUSE, MAX_PAUSE);
                let pause = self.pause.mul_f64(0.5 + spread / 2.0).max(asked.unwrap_or_default()).min(MAX_PAUSE);
                self.paused_until = Some(now + pause);
                self.lowered_at = Some(now);
            }
            Met::Taken => {
                self.limit = (self.limit + 1).min(self.max);
                if !is_old {
                    self.pause = Duration::ZERO;
                }
            }
            Met::Neither => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn it_is_halved_once_however_many_are_throttled_and_comes_back_one_by_one() {
        let (mut pace, begun) = (Pace::new(8), Instant::now());
        for _ in 0..8 {
            assert!(pace.may_begin(begun));
            pace.begin();
        }
        assert!(!pace.may_begin(begun));
        let now = begun + 20 * MS;
        for _ in 0..4 {
            pace.end(begun, Met::Throttled(None), now, 1.0);
        }
        assert_eq!((pace.limit, pace.paused(now)), (4, Some(100 * MS)));
        let now = now + 100 * MS;
        assert!(!pace.may_begin(now), "four are under way");
        for limit in 5..=8 {
            pace.end(begun, Met::Taken, now, 1.0);
            assert_eq!(pace.limit, limit);
        }
        assert!(pace.may_begin(now) && pace.is_settled(now));
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_doubles_until_the_cloud_takes_one_again() {
        let (mut pace, mut now) = (Pace::new(8), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            now += MAX_PAUSE + MS;
            pace.begin();
            pace.end(now, Met::Throttled(None), now, 0.0);
            pauses.push(pace.paused(now).unwrap().as_millis());
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 2500, 2500]);
        assert_eq!(pace.limit, 1);
        now += MAX_PAUSE;
        pace.begin();
        pace.end(now, Met::Neither, now, 0.0);
        assert_eq!(pace.limit, 1);
        pace.begin();
        pace.end(now, Met::Taken, now, 0.0);
        pace.begin();
        pace.end(now, Met::Throttled(Some(3 * MAX_PAUSE)), now, 0.0);
        assert_eq!(pace.paused(now), Some(MAX_PAUSE), "what a cloud asks for is bounded");
    }
}
