//! Messages that share a request: group commit, as databases write their logs.
//!
//! A message goes at once if few requests of its route are under way, so a lone one is never delayed; whatever comes meanwhile makes
//! the next request. There is no timer and nothing to tune: the busier a route, the fuller its requests.
//!
//! - A *route* is what a request can carry: messages for one address, sent by one principal.
//! - An *account* is whose limit the cloud counts them by. One that is throttled is [paced](super::pace), with all its routes and no other;
//!   its routes take turns.
//!
//! Invariants: an entry is in one request at most, but for a request that was refused as a whole, whose parts are sent again. Each
//! entry has an answer of its own. Requests outlive those who wait for them: a caller that goes away takes no other entry with it,
//! and its own is left out if it has not gone yet.

mod queue;

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use shopery_model::Fault;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::queue::{Account, Accounts, Batch, Waiting};
use super::TIMEOUT;
use super::pace::Met;
use super::refusal::{Refusal, Sent};
use crate::failure::SenderFault;

/// How long an entry may wait for its turn, and for that of an account that is throttled. The rest of its time is its request's: all
/// of it is no more than an HTTPS endpoint has, since whoever sends repeats what has taken longer.
const MAX_WAIT: Duration = Duration::from_secs(3);
const MAX_THROTTLED_WAIT: Duration = Duration::from_secs(2);
/// When those that wait are told to come again if there are too many.
const FULL_RETRY: Duration = Duration::from_secs(1);

/// How requests of a kind are made.
pub(crate) trait Requests: Send + Sync + 'static {
    type Route: Clone + Eq + Hash + Send + Sync + 'static;
    type Account: Clone + Eq + Hash + Send + Sync + 'static;
    type Entry: Send + Sync + 'static;

    /// Of one request.
    const MAX_ENTRIES: usize;
    const MAX_BYTES: usize;

    fn account(route: &Self::Route) -> Self::Account;

    /// One request at a time, because order counts.
    fn is_serial(route: &Self::Route) -> bool;

    fn size(entry: &Self::Entry) -> usize;

    /// Sends entries, within the bounds, in one request. Each has its answer, in their order; an error is that of them all, none of
    /// which was accepted, or of which that is not known.
    fn send(
        &self,
        route: &Self::Route,
        entries: &[Self::Entry],
        deadline: Instant,
    ) -> impl Future<Output = Result<Vec<Sent>, Refusal>> + Send;
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    pub(crate) requests: Counter,
    pub(crate) entries: Counter,
    pub(crate) throttles: Counter,
}

pub(crate) struct Batcher<R: Requests>(Arc<Shared<R>>);

impl<R: Requests> Clone for Batcher<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: Requests> fmt::Debug for Batcher<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher").finish_non_exhaustive()
    }
}

struct Shared<R: Requests> {
    requests: R,
    counters: Counters,
    accounts: Mutex<Accounts<R>>,
    /// Of random numbers.
    spread: RandomState,
}

impl<R: Requests> Batcher<R> {
    pub(crate) fn new(requests: R, counters: Counters) -> Self {
        let accounts = Mutex::new(Accounts::new());
        Self(Arc::new(Shared { requests, counters, accounts, spread: RandomState::new() }))
    }

    pub(crate) fn requests(&self) -> &R {
        &self.0.requests
    }

    /// Sends an entry, whose time began at `since`, with others of its route.
    pub(crate) async fn send(&self, route: R::Route, entry: R::Entry, since: Instant) -> Sent {
        let (ticket, mut answered) = self.0.push(&route, entry, since)?;
        for wait in [MAX_THROTTLED_WAIT, MAX_WAIT] {
            if let Ok(answered) = tokio::time::timeout_at(since + wait, &mut answered).await {
                return answered.unwrap_or_else(|_| Err(interrupted()));
            }
            if let Some(refusal) = self.0.withdraw(&route, ticket, wait == MAX_WAIT) {
                return Err(refusal);
            }
        }
        // It is on its way.
        answered.await.unwrap_or_else(|_| Err(interrupted()))
    }

    /// Sends an entry alone, and at once.
    pub(crate) async fn send_alone(&self, route: &R::Route, entry: R::Entry, deadline: Instant) -> Sent {
        let mut sents = self.0.send_in_parts(route, &[entry], deadline).await;
        sents.pop().unwrap_or_else(|| Err(interrupted()))
    }
}

/// The task of a request has panicked, or the process ends.
fn interrupted() -> Refusal {
    Refusal::ours(SenderFault::Interrupted)
}

fn throttled(pause: Duration) -> Refusal {
    Refusal::new(Fault::Throttled, "the account takes no more for now, and what waits for it is too much")
        .after(Some(pause.max(FULL_RETRY)))
}

impl<R: Requests> Shared<R> {
    fn accounts(&self) -> MutexGuard<'_, Accounts<R>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(
        self: &Arc<Self>,
        route: &R::Route,
        entry: R::Entry,
        since: Instant,
    ) -> Result<(u64, oneshot::Receiver<Sent>), Refusal> {
        let (size, name, now) = (R::size(&entry), R::account(route), Instant::now());
        let mut accounts = self.accounts();
        let (account, ticket) = accounts.enter(&name, now);
        if let Some(pause) = account.pace.paused(now).filter(|pause| *pause > MAX_THROTTLED_WAIT) {
            return Err(throttled(pause));
        }
        if !account.has_room(size) {
            return Err(throttled(FULL_RETRY));
        }
        let (reply, answered) = oneshot::channel();
        account.push(route, Waiting { ticket, entry, size, since, reply });
        let launched = self.launch(&name, account, now);
        drop(accounts);
        self.spawn(&name, launched);
        Ok((ticket, answered))
    }

    /// Takes an entry back that has waited for too long, if its account is throttled or it `is_last_chance`; `None` if it stays, or
    /// has gone.
    fn withdraw(&self, route: &R::Route, ticket: u64, is_last_chance: bool) -> Option<Refusal> {
        let mut accounts = self.accounts();
        let account = accounts.all.get_mut(&R::account(route))?;
        let is_throttled = account.pace.is_throttled();
        if !(is_throttled || is_last_chance) || !account.withdraw(route, ticket) {
            return None;
        }
        if is_throttled {
            return Some(throttled(account.pace.paused(Instant::now()).unwrap_or_default()));
        }
        let why = format!("the cloud is slow: its turn did not come within {} s", MAX_WAIT.as_secs());
        Some(Refusal::new(Fault::Timeout, why))
    }

    /// As many requests as may begin, and the pause to wait for if there is one.
    fn launch(self: &Arc<Self>, name: &R::Account, account: &mut Account<R>, now: Instant) -> Launched<R> {
        let mut requests = Vec::new();
        while let Some((route, batch)) = account.begin(now) {
            let (shared, name) = (self.clone(), name.clone());
            requests.push(UnderWay { shared, name, route, batch, begun: now, met: None });
        }
        Launched { requests, pause: account.set_timer(now) }
    }

    /// Begins them. Without the lock: a task that cannot run is dropped here, and what it drops takes the lock.
    fn spawn(self: &Arc<Self>, name: &R::Account, launched: Launched<R>) {
        for under_way in launched.requests {
            tokio::spawn(under_way.run());
        }
        let Some(pause) = launched.pause else { return };
        let (shared, name, until) = (self.clone(), name.clone(), Instant::now() + pause);
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            let launched = shared.accounts().all.get_mut(&name).map(|account| {
                account.timer_is_over();
                shared.launch(&name, account, Instant::now())
            });
            if let Some(launched) = launched {
                shared.spawn(&name, launched);
            }
        });
    }

    /// Sends a batch. One that the cloud refuses as a whole for one of its messages is halved until that is found.
    async fn send_in_parts(&self, route: &R::Route, entries: &[R::Entry], deadline: Instant) -> Vec<Sent> {
        let mut sents = Vec::with_capacity(entries.len());
        let mut parts: Vec<Range<usize>> = std::iter::once(0..entries.len()).collect();
        while let Some(part) = parts.pop() {
            self.counters.requests.inc();
            self.counters.entries.inc_by(part.len() as u64);
            match self.requests.send(route, &entries[part.clone()], deadline).await {
                Ok(each) => {
                    sents.extend(each);
                    sents.resize_with(part.end, || Err(Refusal::unreadable("the cloud")));
                }
                Err(refusal) if part.len() > 1 && refusal.fault() == Some(Fault::MessageRejected) => {
                    let middle = part.start + part.len() / 2;
                    parts.extend([middle..part.end, part.start..middle]);
                }
                Err(refusal) => {
                    // One that takes no more takes no more of its parts either.
                    let is_throttled = refusal.fault() == Some(Fault::Throttled);
                    let end = if is_throttled { entries.len() } else { part.end };
                    sents.resize(end, Err(refusal));
                    if is_throttled {
                        break;
                    }
                }
            }
        }
        sents
    }

    fn random(&self, begun: Instant) -> f64 {
        f64::from((self.spread.hash_one(begun) >> 32) as u32) / f64::from(u32::MAX)
    }
}

/// What the lock is given back before.
struct Launched<R: Requests> {
    requests: Vec<UnderWay<R>>,
    pause: Option<Duration>,
}

/// A request, which is accounted for until it is dropped, however it ends.
struct UnderWay<R: Requests> {
    shared: Arc<Shared<R>>,
    name: R::Account,
    route: R::Route,
    batch: Batch<R::Entry>,
    begun: Instant,
    /// Once it is over.
    met: Option<Met>,
}

impl<R: Requests> UnderWay<R> {
    async fn run(mut self) {
        let batch = std::mem::take(&mut self.batch);
        let first = batch.iter().map(|waiting| waiting.since).min();
        let (entries, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|it| (it.entry, it.reply)).unzip();
        let deadline = first.unwrap_or(self.begun) + TIMEOUT;
        let sents = self.shared.send_in_parts(&self.route, &entries, deadline).await;
        self.met = Some(met(&sents));
        for (reply, sent) in replies.into_iter().zip(sents) {
            // Who has gone away does not want to know.
            let _gone = reply.send(sent);
        }
    }
}

impl<R: Requests> Drop for UnderWay<R> {
    fn drop(&mut self) {
        if self.met.is_none() && !std::thread::panicking() {
            // The process ends, and nothing can begin any more.
            return;
        }
        let (shared, now) = (self.shared.clone(), Instant::now());
        let met = self.met.unwrap_or(Met::Neither);
        if matches!(met, Met::Throttled(_)) {
            shared.counters.throttles.inc();
        }
        let mut accounts = shared.accounts();
        let Some(account) = accounts.all.get_mut(&self.name) else { return };
        account.end(&self.route, self.begun, met, now, shared.random(self.begun));
        let launched = shared.launch(&self.name, account, now);
        accounts.leave(&self.name, now);
        drop(accounts);
        shared.spawn(&self.name, launched);
    }
}

fn met(sents: &[Sent]) -> Met {
    let throttles = sents.iter().filter_map(|sent| sent.as_ref().err());
    let mut throttles = throttles.filter(|refusal| refusal.fault() == Some(Fault::Throttled)).peekable();
    if throttles.peek().is_some() {
        return Met::Throttled(throttles.filter_map(|refusal| refusal.retry_after).max());
    }
    let is_taken = |sent: &Sent| sent.as_ref().map_or_else(Refusal::is_of_the_message, |_| true);
    if sents.iter().any(is_taken) { Met::Taken } else { Met::Neither }
}

#[cfg(test)]
mod tests;
