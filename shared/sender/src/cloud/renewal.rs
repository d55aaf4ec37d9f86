//! Something that expires and that others give us: keys of Amazon, a token of Google, the word of a topic's owner.
//!
//! It is renewed ahead of its end, beside those who use it. Who finds none waits for one that is being fetched. One fetch is
//! under way at a time, whoever goes away meanwhile, and after one that failed there is a pause, which grows.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long before its end it is renewed; half of its life, if that is less.
const AHEAD: Duration = Duration::from_secs(5 * 60);
/// Pauses after fetches that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// One that is refused sooner than this after it was fetched will not be another one if it is fetched again.
const SETTLED: Duration = Duration::from_secs(10);

pub(crate) trait Source: Send + Sync + 'static {
    type Value: Clone + Send + Sync + 'static;
    type Error: Clone + Send + Sync + 'static;

    /// A value, and when it ends.
    fn fetch(&self) -> impl Future<Output = Result<(Self::Value, Instant), Self::Error>> + Send;
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Fetches {
    pub(crate) done: Counter,
    pub(crate) failed: Counter,
}

/// Why there is none.
#[derive(Debug)]
pub(crate) enum Missing<E> {
    Failed(E),
    /// The fetch is still under way.
    Late,
}

pub(crate) struct Renewing<S: Source>(Arc<Inner<S>>);

struct Inner<S: Source> {
    source: S,
    fetches: Fetches,
    state: Mutex<State<S>>,
}

struct State<S: Source> {
    held: Option<Held<S::Value>>,
    /// Its sender lives as long as the fetch.
    under_way: Option<watch::Receiver<()>>,
    failed: Option<Failed<S::Error>>,
}

struct Held<V> {
    value: V,
    since: Instant,
    renew_at: Instant,
    until: Instant,
}

struct Failed<E> {
    error: E,
    pause: Duration,
    until: Instant,
}

impl<S: Source> Clone for Renewing<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Source> fmt::Debug for Renewing<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewing").finish_non_exhaustive()
    }
}

impl<S: Source> Renewing<S> {
    pub(crate) fn new(source: S, fetches: Fetches) -> Self {
        let state = Mutex::new(State { held: None, under_way: None, failed: None });
        Self(Arc::new(Inner { source, fetches, state }))
    }

    pub(crate) fn source(&self) -> &S {
        &self.0.source
    }

    /// The value; waits for one until `deadline` if there is none.
    pub(crate) async fn get(&self, deadline: Instant) -> Result<S::Value, Missing<S::Error>> {
        let mut fetched = {
            let (mut state, now) = (self.0.state(), Instant::now());
            if let Some(held) = state.held.as_ref().filter(|held| now < held.until) {
                let (value, is_due) = (held.value.clone(), now >= held.renew_at);
                if is_due {
                    self.renew(&mut state, now);
                }
                return Ok(value);
            }
            match self.renew(&mut state, now) {
                Some(fetched) => fetched,
                None => return Err(state.missing()),
            }
        };
        // An error says that the fetch has ended, well or not.
        if tokio::time::timeout_at(deadline, fetched.changed()).await.is_err() {
            return Err(Missing::Late);
        }
        let state = self.0.state();
        let held = state.held.as_ref().filter(|held| Instant::now() < held.until);
        held.map(|held| held.value.clone()).ok_or_else(|| state.missing())
    }

    /// Has it renewed, since it was refused when it was used at `used`. It stays in use until there is another one: it may be
    /// good elsewhere.
    pub(crate) fn refused(&self, used: Instant) {
        let (mut state, now) = (self.0.state(), Instant::now());
        if state.held.as_ref().is_some_and(|held| held.since <= used && now - held.since >= SETTLED) {
            self.renew(&mut state, now);
        }
    }

    /// Sees to a fetch; `None` if it is too soon after one that failed.
    fn renew(&self, state: &mut State<S>, now: Instant) -> Option<watch::Receiver<()>> {
        // One whose sender is gone has ended.
        if let Some(under_way) = state.under_way.as_ref().filter(|under_way| under_way.has_changed().is_ok()) {
            return Some(under_way.clone());
        }
        if state.failed.as_ref().is_some_and(|failed| now < failed.until) {
            return None;
        }
        let (ends, under_way) = watch::channel(());
        state.under_way = Some(under_way.clone());
        let inner = self.0.clone();
        tokio::spawn(async move {
            let fetched = inner.source.fetch().await;
            let counter = if fetched.is_ok() { &inner.fetches.done } else { &inner.fetches.failed };
            counter.inc();
            inner.state().settle(fetched, Instant::now());
            drop(ends);
        });
        Some(under_way)
    }
}

impl<S: Source> Inner<S> {
    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Source> State<S> {
    fn settle(&mut self, fetched: Result<(S::Value, Instant), S::Error>, now: Instant) {
        match fetched {
            Ok((value, until)) => {
                let ahead = AHEAD.min(until.saturating_duration_since(now) / 2);
                self.held = Some(Held { value, since: now, renew_at: until - ahead, until });
                self.failed = None;
            }
            Err(error) => {
                let pause = self.failed.as_ref().map_or(FIRST_PAUSE, |failed| (failed.pause * 2).min(MAX_PAUSE));
                self.failed = Some(Failed { error, pause, until: now + pause });
            }
        }
    }

    fn missing(&self) -> Missing<S::Error> {
        // A fetch that has neither brought nor failed has panicked.
        self.failed.as_ref().map_or(Missing::Late, |failed| Missing::Failed(failed.error.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Gives the number of the fetch, for a life; takes its time; fails when told to.
    #[derive(Default)]
    struct Numbers {
        fetched: AtomicU32,
        fails: std::sync::atomic::AtomicBool,
        takes: Duration,
        life: Duration,
    }

    impl Source for Numbers {
        type Value = u32;
        type Error = &'static str;

        async fn fetch(&self) -> Result<(u32, Instant), &'static str> {
            let number = self.fetched.fetch_add(1, Ordering::Relaxed) + 1;
            tokio::time::sleep(self.takes).await;
            if self.fails.load(Ordering::Relaxed) {
                return Err("away");
            }
            Ok((number, Instant::now() + self.life))
        }
    }

    const HOUR: Duration = Duration::from_secs(60 * 60);
    const MINUTE: Duration = Duration::from_secs(60);

    fn numbers(takes: Duration, life: Duration) -> Renewing<Numbers> {
        Renewing::new(Numbers { takes, life, ..Numbers::default() }, Fetches::default())
    }

    async fn get(numbers: &Renewing<Numbers>) -> Result<u32, &'static str> {
        numbers.get(Instant::now() + Duration::from_secs(5)).await.map_err(|missing| match missing {
            Missing::Failed(error) => error,
            Missing::Late => "late",
        })
    }

    #[tokio::test(start_paused = true)]
    async fn many_wait_for_one_fetch_and_it_goes_on_if_they_go_away() {
        let numbers = numbers(Duration::from_secs(2), HOUR);
        {
            let gone = get(&numbers);
            assert!(tokio::time::timeout(Duration::from_secs(1), gone).await.is_err());
        }
        let all = futures_util::future::join_all((0..100).map(|_| get(&numbers))).await;
        assert!(all.iter().all(|it| *it == Ok(1)), "{all:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_renewed_ahead_while_the_old_one_is_used() {
        let numbers = numbers(Duration::from_secs(2), HOUR);
        assert_eq!(get(&numbers).await, Ok(1));
        tokio::time::advance(HOUR - AHEAD - Duration::from_secs(3)).await;
        assert_eq!(get(&numbers).await, Ok(1));
        assert_eq!(numbers.source().fetched.load(Ordering::Relaxed), 1);
        tokio::time::advance(Duration::from_secs(4)).await;
        for _ in 0..3 {
            assert_eq!(get(&numbers).await, Ok(1));
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(get(&numbers).await, Ok(2));
        assert_eq!(numbers.0.fetches.done.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_is_away_is_asked_less_and_less_and_the_old_one_works_to_its_end() {
        let numbers = numbers(Duration::from_millis(10), HOUR);
        assert_eq!(get(&numbers).await, Ok(1));
        numbers.source().fails.store(true, Ordering::Relaxed);
        tokio::time::advance(HOUR - Duration::from_secs(60)).await;
        // Of the last minute: after 0, 1, 3, 7, 15 and 31 s, and then every 30 s.
        for second in 0..180 {
            let expected = if second < 58 { Ok(1) } else { Err("away") };
            let met = get(&numbers).await;
            assert!(met == expected || (58..62).contains(&second), "{second}: {met:?}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let asked = numbers.source().fetched.load(Ordering::Relaxed);
        assert!((9..=12).contains(&asked), "{asked}");
        numbers.source().fails.store(false, Ordering::Relaxed);
        tokio::time::sleep(MAX_PAUSE).await;
        assert_eq!(get(&numbers).await, Ok(asked + 1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_wait_is_told_that_it_is_late() {
        assert_eq!(get(&numbers(Duration::from_secs(6), HOUR)).await, Err("late"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_refused_is_renewed_but_not_over_and_over() {
        let numbers = numbers(Duration::ZERO, HOUR);
        assert_eq!(get(&numbers).await, Ok(1));
        for (after, expected) in [(Duration::from_secs(1), 1), (MINUTE, 2), (Duration::from_secs(1), 2), (MINUTE, 3)] {
            tokio::time::sleep(after).await;
            let used = Instant::now();
            numbers.refused(used);
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(get(&numbers).await, Ok(expected));
            // The same, from a request that was under way.
            numbers.refused(used);
        }
    }
}
