//! How many requests a tenant, a client and an address may make: token buckets, and what is said of them in headers
//! (`RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-10).

use std::fmt::Write;
use std::hash::Hash;
use std::str::FromStr;
use std::time::{Duration, Instant};

use shopery_runtime::Recent;

/// Of each kind, so many are remembered at least, and twice as many at most. Who is forgotten begins anew.
const MAX_REMEMBERED: usize = 50_000;

/// So many requests in so much time: `600/1m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) requests: u32,
    pub(crate) window: Duration,
}

impl Quota {
    /// In which one request is regained.
    fn interval(self) -> Duration {
        self.window / self.requests
    }
}

/// A quota, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<Quota>);

impl FromStr for Limit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "must be requests/time, such as 600/1m, or off; 1 to 10000000 requests in 1s to 1h";
        if text == "off" {
            return Ok(Self(None));
        }
        let (requests, window) = text.split_once('/').ok_or(WRONG)?;
        let requests = requests.trim().parse().map_err(|_| WRONG)?;
        let window = window.trim().parse::<humantime::Duration>().map_err(|_| WRONG)?.into();
        let is_sane = (1..=10_000_000).contains(&requests)
            && (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&window);
        if is_sane { Ok(Self(Some(Quota { requests, window }))) } else { Err(WRONG) }
    }
}

/// What is left of a quota. Times are since some fixed moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Bucket {
    /// When it will be full again: so one number tells all, and a bucket that is full is as good as none.
    full_at: Duration,
}

/// What a request was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// So many more may come now; all of the quota is there again after so long.
    Passed { left: u32, full_in: Duration },
    /// Another may come after so long.
    Refused { wait: Duration },
}

impl Bucket {
    /// Takes one request off, if there is one.
    fn spend(self, quota: Quota, now: Duration) -> (Turn, Self) {
        let full_at = self.full_at.max(now) + quota.interval();
        let full_in = full_at - now;
        if full_in > quota.window {
            return (Turn::Refused { wait: full_in - quota.window }, self);
        }
        let left = (quota.window - full_in).as_nanos() / quota.interval().as_nanos().max(1);
        (Turn::Passed { left: u32::try_from(left).unwrap_or(u32::MAX), full_in }, Self { full_at })
    }
}

/// The buckets of one kind.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    pub(crate) name: &'static str,
    pub(crate) quota: Quota,
    known: Recent<K, Bucket>,
    began: Instant,
}

impl<K: Eq + Hash> Buckets<K> {
    pub(crate) fn new(name: &'static str, quota: Quota) -> Self {
        Self { name, quota, known: Recent::new(MAX_REMEMBERED), began: Instant::now() }
    }

    pub(crate) fn spend(&self, key: K) -> Turn {
        let now = self.began.elapsed();
        self.known.update(key, |known| {
            let (turn, bucket) = known.copied().unwrap_or_default().spend(self.quota, now);
            (turn, Some(bucket))
        })
    }

    /// What [`Self::spend`] would say; nothing is taken off.
    pub(crate) fn look(&self, key: K) -> Turn {
        let now = self.began.elapsed();
        self.known.update(key, |known| (known.copied().unwrap_or_default().spend(self.quota, now).0, None))
    }
}

/// An item of `RateLimit-Policy`.
pub(crate) fn policy(name: &str, quota: Quota) -> String {
    format!("\"{name}\";q={};w={}", quota.requests, quota.window.as_secs())
}

/// Adds an item to `RateLimit`, which every answer has.
pub(crate) fn write_state(header: &mut String, name: &str, turn: Turn) {
    let (left, time) = match turn {
        Turn::Passed { left, full_in } => (left, full_in),
        Turn::Refused { wait } => (0, wait),
    };
    let comma = if header.is_empty() { "" } else { ", " };
    // Writing to a String cannot fail.
    let _ = write!(header, "{comma}\"{name}\";r={left};t={}", time.as_millis().div_ceil(1000));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUOTA: Quota = Quota { requests: 10, window: Duration::from_secs(5) };
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_limit_is_written_as_requests_and_time() {
        let quota = |requests, seconds| Ok(Limit(Some(Quota { requests, window: Duration::from_secs(seconds) })));
        assert_eq!("600/1m".parse(), quota(600, 60));
        assert_eq!("50000/1s".parse(), quota(50_000, 1));
        assert_eq!("off".parse(), Ok(Limit(None)));
        for bad in ["", "600", "600/", "/1m", "0/1m", "-1/1m", "600/0s", "600/100ms", "600/1d", "99999999/1s", "x/1m"] {
            assert!(bad.parse::<Limit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_quota_may_be_spent_at_once_and_comes_back_bit_by_bit() {
        let mut bucket = Bucket::default();
        let mut spend = |now| {
            let (turn, next) = bucket.spend(QUOTA, now);
            bucket = next;
            turn
        };
        let now = MS * 7000;
        for left in (0..10).rev() {
            assert_eq!(spend(now), Turn::Passed { left, full_in: MS * 500 * (10 - left) });
        }
        assert_eq!(spend(now), Turn::Refused { wait: MS * 500 });
        assert_eq!(spend(now + MS * 499), Turn::Refused { wait: MS });
        assert_eq!(spend(now + MS * 500), Turn::Passed { left: 0, full_in: MS * 5000 });
        assert_eq!(spend(now + MS * 60_000), Turn::Passed { left: 9, full_in: MS * 500 });
    }

    #[test]
    fn keys_have_buckets_of_their_own_and_a_look_takes_nothing() {
        let buckets = Buckets::new("k", Quota { requests: 1, window: Duration::from_secs(3600) });
        for _ in 0..3 {
            assert!(matches!(buckets.look("a"), Turn::Passed { .. }));
        }
        assert!(matches!(buckets.spend("a"), Turn::Passed { left: 0, .. }));
        assert!(matches!(buckets.spend("a"), Turn::Refused { .. }));
        assert!(matches!(buckets.look("a"), Turn::Refused { .. }));
        assert!(matches!(buckets.spend("b"), Turn::Passed { .. }));
    }

    #[test]
    fn the_headers_are_those_of_the_draft() {
        assert_eq!(policy("tenant", QUOTA), "\"tenant\";q=10;w=5");
        let mut header = String::new();
        write_state(&mut header, "tenant", Turn::Passed { left: 9, full_in: MS * 500 });
        write_state(&mut header, "client", Turn::Refused { wait: MS * 1001 });
        assert_eq!(header, "\"tenant\";r=9;t=1, \"client\";r=0;t=2");
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_a_quota_at_once_and_its_rate(pauses in proptest::collection::vec(0u32..2000, 1..300)) {
            let (mut bucket, mut now, mut passed) = (Bucket::default(), Duration::ZERO, 0u32);
            for pause in pauses {
                now += MS * pause;
                let (turn, next) = bucket.spend(QUOTA, now);
                bucket = next;
                match turn {
                    Turn::Passed { .. } => passed += 1,
                    // Whoever waits as he is told gets through.
                    Turn::Refused { wait } => {
                        let (turn, _) = bucket.spend(QUOTA, now + wait);
                        let passes = matches!(turn, Turn::Passed { .. });
                        prop_assert!(passes);
                    }
                }
            }
            prop_assert!(f64::from(passed) <= 10.0 + now.as_secs_f64() * 2.0);
        }
    }
}
