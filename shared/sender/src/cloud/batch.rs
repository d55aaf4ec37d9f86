//! Messages that share a request: group commit, as databases write their logs.
//!
//! A message goes at once if few requests of its route are under way, so a lone one is never delayed; whatever comes meanwhile makes
//! the next request. There is no timer and nothing to tune: the busier a route, the fuller its requests.
//!
//! - A *route* is what a request can carry: messages for one address, sent by one principal.
//! - An *account* is whose limit the cloud counts them by. One that is throttled is [paced](Pace), with all its routes and no other;
//!   its routes take turns.
//!
//! Invariants: an entry is in one request at most, but for a request that was refused as a whole, whose parts are sent again. Each
//! entry has an answer of its own. Requests outlive those who wait for them: a caller that goes away takes no other entry with it,
//! and its own is left out if it has not gone yet.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use shopery_model::Fault;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::TIMEOUT;
use super::pace::{Met, Pace};
use super::refusal::{Refusal, Sent};
use crate::failure::SenderFault;

/// How long an entry may wait for its turn.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Requests of a route that may be under way without being full.
const PARTIAL_REQUESTS: usize = 4;
/// Requests of an account that may be under way.
const MAX_REQUESTS: usize = 32;
/// Of one account. All accounts together wait for as many entries as there are callers.
const MAX_WAITING: usize = 10_000;
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;
/// When those that wait are told to come again if there are too many.
const FULL_RETRY: Duration = Duration::from_secs(1);
/// Accounts beyond which those that are only remembered for having been throttled are forgotten.
const MAX_REMEMBERED: usize = 1024;

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
    state: Mutex<State<R>>,
    /// Of random numbers.
    spread: RandomState,
}

struct State<R: Requests> {
    accounts: HashMap<R::Account, Account<R>>,
    next_ticket: u64,
    /// How many accounts there are when they are looked through next.
    sweep_at: usize,
}

struct Account<R: Requests> {
    routes: HashMap<R::Route, Queue<R::Entry>>,
    /// Those that may send, in turn.
    ready: VecDeque<R::Route>,
    pace: Pace,
    waiting: usize,
    waiting_bytes: usize,
    /// Somebody comes back when its pause is over.
    has_timer: bool,
}

/// What waits for a route.
struct Queue<E> {
    entries: VecDeque<Waiting<E>>,
    bytes: usize,
    under_way: usize,
    is_ready: bool,
}

struct Waiting<E> {
    ticket: u64,
    entry: E,
    size: usize,
    since: Instant,
    reply: oneshot::Sender<Sent>,
}

impl<R: Requests> Batcher<R> {
    pub(crate) fn new(requests: R, counters: Counters) -> Self {
        let state = State { accounts: HashMap::new(), next_ticket: 0, sweep_at: MAX_REMEMBERED };
        Self(Arc::new(Shared { requests, counters, state: Mutex::new(state), spread: RandomState::new() }))
    }

    pub(crate) fn requests(&self) -> &R {
        &self.0.requests
    }

    /// Sends an entry with others of its route.
    pub(crate) async fn send(&self, route: R::Route, entry: R::Entry) -> Sent {
        let since = Instant::now();
        let (ticket, mut answered) = self.0.push(&route, entry, since)?;
        match tokio::time::timeout_at(since + MAX_WAIT, &mut answered).await {
            Ok(answered) => answered.unwrap_or_else(|_| Err(interrupted())),
            Err(_) => match self.0.withdraw(&route, ticket) {
                Some(refusal) => Err(refusal),
                // It is on its way.
                None => answered.await.unwrap_or_else(|_| Err(interrupted())),
            },
        }
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
    fn state(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(
        self: &Arc<Self>,
        route: &R::Route,
        entry: R::Entry,
        since: Instant,
    ) -> Result<(u64, oneshot::Receiver<Sent>), Refusal> {
        let (size, name) = (R::size(&entry), R::account(route));
        let mut state = self.state();
        state.next_ticket += 1;
        let ticket = state.next_ticket;
        let account = state.account(&name, since);
        if let Some(pause) = account.pace.paused(since).filter(|pause| *pause > MAX_WAIT) {
            return Err(throttled(pause));
        }
        if account.waiting >= MAX_WAITING || account.waiting_bytes + size > MAX_WAITING_BYTES {
            return Err(throttled(FULL_RETRY));
        }
        let (reply, answered) = oneshot::channel();
        account.waiting += 1;
        account.waiting_bytes += size;
        let queue = account.routes.entry(route.clone()).or_insert_with(Queue::new);
        queue.bytes += size;
        queue.entries.push_back(Waiting { ticket, entry, size, since, reply });
        account.note_ready(route);
        let launched = self.launch(&name, account, since);
        drop(state);
        self.spawn(&name, launched);
        Ok((ticket, answered))
    }

    /// Takes an entry back that has waited for too long; `None` if it has gone.
    fn withdraw(&self, route: &R::Route, ticket: u64) -> Option<Refusal> {
        let mut state = self.state();
        let account = state.accounts.get_mut(&R::account(route))?;
        let queue = account.routes.get_mut(route)?;
        let place = queue.entries.iter().position(|waiting| waiting.ticket == ticket)?;
        let size = queue.entries.remove(place)?.size;
        queue.bytes -= size;
        if queue.is_over() {
            account.routes.remove(route);
        }
        account.waiting -= 1;
        account.waiting_bytes -= size;
        if account.pace.is_throttled() {
            return Some(throttled(account.pace.paused(Instant::now()).unwrap_or_default()));
        }
        let why = format!("requests before it have had no answer for {} s", MAX_WAIT.as_secs());
        Some(Refusal::new(Fault::Timeout, why))
    }

    /// Begins what may begin. Without the lock: a task that cannot run is dropped here, and what it drops takes the lock.
    fn spawn(self: &Arc<Self>, name: &R::Account, launched: Launched<R>) {
        for under_way in launched.requests {
            tokio::spawn(under_way.run());
        }
        let Some(pause) = launched.pause else { return };
        let (shared, name, until) = (self.clone(), name.clone(), Instant::now() + pause);
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            let launched = shared.state().accounts.get_mut(&name).map(|account| {
                account.has_timer = false;
                shared.launch(&name, account, Instant::now())
            });
            if let Some(launched) = launched {
                shared.spawn(&name, launched);
            }
        });
    }

    /// As many requests as may be under way, and the pause to wait for if there is one.
    fn launch(self: &Arc<Self>, name: &R::Account, account: &mut Account<R>, now: Instant) -> Launched<R> {
        let mut requests = Vec::new();
        while account.pace.may_begin(now) {
            let Some(route) = account.ready.pop_front() else { break };
            let batch = account.take(&route);
            if batch.is_empty() {
                continue;
            }
            account.pace.begin();
            account.note_ready(&route);
            let (shared, name) = (self.clone(), name.clone());
            requests.push(UnderWay { shared, name, route, batch, begun: now, met: None });
        }
        let pause = account.pace.paused(now).filter(|_| account.waiting > 0 && !account.has_timer);
        account.has_timer |= pause.is_some();
        Launched { requests, pause }
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

impl<R: Requests> State<R> {
    fn account(&mut self, name: &R::Account, now: Instant) -> &mut Account<R> {
        if self.accounts.len() >= self.sweep_at && !self.accounts.contains_key(name) {
            self.accounts.retain(|_, account| !account.routes.is_empty() || !account.pace.is_idle(now));
            self.sweep_at = MAX_REMEMBERED.max(self.accounts.len() * 2);
        }
        self.accounts.entry(name.clone()).or_insert_with(|| Account {
            routes: HashMap::new(),
            ready: VecDeque::new(),
            pace: Pace::new(MAX_REQUESTS),
            waiting: 0,
            waiting_bytes: 0,
            has_timer: false,
        })
    }
}

impl<R: Requests> Account<R> {
    fn note_ready(&mut self, route: &R::Route) {
        let Some(queue) = self.routes.get_mut(route) else { return };
        let is_full = queue.entries.len() >= R::MAX_ENTRIES || queue.bytes >= R::MAX_BYTES;
        let allowed = match (R::is_serial(route), is_full) {
            (true, _) => 1,
            (false, true) => MAX_REQUESTS,
            (false, false) => PARTIAL_REQUESTS,
        };
        if !queue.is_ready && !queue.entries.is_empty() && queue.under_way < allowed {
            queue.is_ready = true;
            self.ready.push_back(route.clone());
        }
    }

    /// The next batch of a route whose turn it is, which counts as under way unless it is empty.
    fn take(&mut self, route: &R::Route) -> Vec<Waiting<R::Entry>> {
        let mut batch = Vec::new();
        let Some(queue) = self.routes.get_mut(route) else { return batch };
        queue.is_ready = false;
        let mut bytes = 0;
        while let Some(next) = queue.entries.front() {
            let is_gone = next.reply.is_closed();
            if !is_gone && !batch.is_empty() && (batch.len() >= R::MAX_ENTRIES || bytes + next.size > R::MAX_BYTES) {
                break;
            }
            let Some(next) = queue.entries.pop_front() else { break };
            queue.bytes -= next.size;
            self.waiting -= 1;
            self.waiting_bytes -= next.size;
            if !is_gone {
                bytes += next.size;
                batch.push(next);
            }
        }
        if !batch.is_empty() {
            queue.under_way += 1;
        } else if queue.is_over() {
            self.routes.remove(route);
        }
        batch
    }

    /// Answers what would wait for longer than it may.
    fn turn_away(&mut self, pause: Duration, now: Instant) {
        let until = now + pause;
        self.routes.retain(|_, queue| {
            while let Some(next) = queue.entries.front().filter(|next| next.since + MAX_WAIT < until) {
                let size = next.size;
                queue.bytes -= size;
                self.waiting -= 1;
                self.waiting_bytes -= size;
                if let Some(next) = queue.entries.pop_front() {
                    let _gone = next.reply.send(Err(throttled(pause)));
                }
            }
            !queue.is_over()
        });
    }
}

impl<E> Queue<E> {
    fn new() -> Self {
        Self { entries: VecDeque::new(), bytes: 0, under_way: 0, is_ready: false }
    }

    fn is_over(&self) -> bool {
        self.entries.is_empty() && self.under_way == 0
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
    batch: Vec<Waiting<R::Entry>>,
    begun: Instant,
    /// Once it is over.
    met: Option<Met>,
}

impl<R: Requests> UnderWay<R> {
    async fn run(mut self) {
        let batch = std::mem::take(&mut self.batch);
        let (entries, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|it| (it.entry, it.reply)).unzip();
        let sents = self.shared.send_in_parts(&self.route, &entries, self.begun + TIMEOUT).await;
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
        let mut state = shared.state();
        let Some(account) = state.accounts.get_mut(&self.name) else { return };
        account.pace.end(self.begun, met, now, shared.random(self.begun));
        if matches!(met, Met::Throttled(_)) {
            shared.counters.throttles.inc();
            account.turn_away(account.pace.paused(now).unwrap_or_default(), now);
        }
        if let Some(queue) = account.routes.get_mut(&self.route) {
            queue.under_way -= 1;
            if queue.is_over() {
                account.routes.remove(&self.route);
            }
        }
        account.note_ready(&self.route);
        let launched = shared.launch(&self.name, account, now);
        if account.routes.is_empty() && account.pace.is_settled(now) {
            state.accounts.remove(&self.name);
        }
        drop(state);
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
