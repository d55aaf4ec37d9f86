//! How many requests one account has under way: AIMD, as TCP does it.
//!
//! It begins with few. A request that is taken soon allows one more, one that is slow or gets no answer halves them: a cloud that is
//! behind would answer what we add when nobody waits for it any more, and get it again. A cloud that throttles halves them too, and
//! is left alone for a while, which grows.

use std::time::Duration;

use tokio::time::Instant;

const FIRST_LIMIT: usize = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A request that takes less allows one more.
const SOON: Duration = Duration::from_millis(500);
/// One that takes more is slow: a fifth of what it may take.
const SLOW: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Pace {
    max: usize,
    limit: usize,
    under_way: usize,
    pause: Duration,
    paused_until: Option<Instant>,
    /// When the limit was halved last.
    lowered_at: Option<Instant>,
    /// The cloud has throttled it, and has taken nothing since.
    is_throttled: bool,
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
        Self {
            max,
            limit: FIRST_LIMIT.min(max),
            under_way: 0,
            pause: Duration::ZERO,
            paused_until: None,
            lowered_at: None,
            is_throttled: false,
        }
    }

    pub(crate) fn may_begin(&self, now: Instant) -> bool {
        self.under_way < self.limit && self.paused(now).is_none()
    }

    /// How long the account is left alone from now.
    pub(crate) fn paused(&self, now: Instant) -> Option<Duration> {
        self.paused_until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    pub(crate) fn is_throttled(&self) -> bool {
        self.is_throttled
    }

    /// There is nothing that has to be remembered.
    pub(crate) fn is_settled(&self, now: Instant) -> bool {
        self.is_idle(now) && !self.is_throttled && self.limit >= FIRST_LIMIT.min(self.max)
    }

    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        self.under_way == 0 && self.paused(now).is_none()
    }

    pub(crate) fn begin(&mut self) {
        self.under_way += 1;
    }

    /// `begun`: when the request was. `spread`: from 0 to 1, so that processes do not go on all at once.
    pub(crate) fn end(&mut self, begun: Instant, met: Met, now: Instant, spread: f64) {
        let (before, took) = (self.under_way, now - begun);
        self.under_way = before.saturating_sub(1);
        // It tells of the time before.
        let is_old = self.lowered_at.is_some_and(|at| begun <= at);
        if met == Met::Taken {
            if took < SOON {
                self.limit = (self.limit + 1).min(self.max);
            }
            if !is_old {
                (self.is_throttled, self.pause) = (false, Duration::ZERO);
            }
        }
        let is_behind = took >= SLOW || matches!(met, Met::Throttled(_));
        if is_old || !is_behind {
            return;
        }
        self.limit = (before / 2).max(1);
        self.lowered_at = Some(now);
        if let Met::Throttled(asked) = met {
            self.is_throttled = true;
            self.pause = (self.pause * 2).clamp(FIRST_PAUSE, MAX_PAUSE);
            let pause = self.pause.mul_f64(0.5 + spread / 2.0).max(asked.unwrap_or_default()).min(MAX_PAUSE);
            self.paused_until = Some(now + pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// With so many requests under way.
    fn pace(under_way: usize, now: Instant) -> Pace {
        let mut pace = Pace { limit: under_way, ..Pace::new(8) };
        for _ in 0..under_way {
            assert!(pace.may_begin(now));
            pace.begin();
        }
        assert!(!pace.may_begin(now));
        pace
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_halved_once_however_many_are_throttled_and_comes_back_one_by_one() {
        let begun = Instant::now();
        let mut pace = pace(8, begun);
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
        assert!(pace.may_begin(now) && !pace.is_settled(now), "what was begun before says nothing of now");
        pace.begin();
        pace.end(now, Met::Taken, now, 1.0);
        assert!(pace.is_settled(now));
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
        assert!(pace.limit == 1 && pace.is_throttled());
        pace.begin();
        pace.end(now, Met::Taken, now, 0.0);
        assert!(pace.limit == 2 && !pace.is_throttled());
        pace.begin();
        pace.end(now, Met::Throttled(Some(3 * MAX_PAUSE)), now, 0.0);
        assert_eq!(pace.paused(now), Some(MAX_PAUSE), "what a cloud asks for is bounded");
    }

    #[tokio::test(start_paused = true)]
    async fn it_begins_with_few_and_a_cloud_that_is_behind_gets_no_more() {
        let mut now = Instant::now();
        assert_eq!(Pace::new(8).limit, FIRST_LIMIT);
        let mut pace = pace(8, now);
        for (met, took, limit) in [
            (Met::Taken, SOON, 8),
            (Met::Taken, SLOW, 3),
            (Met::Neither, Duration::ZERO, 3),
            (Met::Neither, 5 * SLOW, 2),
            (Met::Taken, MS, 3),
        ] {
            let begun = now + MS;
            now = begun + took;
            pace.end(begun, met, now, 0.0);
            assert_eq!(pace.limit, limit, "{met:?} after {took:?}");
            assert_eq!(pace.paused(now), None);
        }
    }
}
