//! What waits for which account and route, and whose turn it is. Nothing here waits itself.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{MAX_THROTTLED_WAIT, Requests, throttled};
use crate::cloud::pace::{Met, Pace};
use crate::cloud::refusal::Sent;

/// Requests of a route that may be under way without being full.
pub(super) const PARTIAL_REQUESTS: usize = 4;
/// Requests of an account that may be under way.
pub(super) const MAX_REQUESTS: usize = 32;
/// Of one account. All accounts together wait for as many entries as there are callers.
const MAX_WAITING: usize = 10_000;
pub(super) const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;
/// Accounts beyond which those are forgotten that have nothing to send, and are known for having been throttled or slow.
const MAX_REMEMBERED: usize = 1024;

pub(super) struct Accounts<R: Requests> {
    pub(super) all: HashMap<R::Account, Account<R>>,
    last_ticket: u64,
    /// How many there are when they are looked through next.
    sweep_at: usize,
}

pub(super) struct Account<R: Requests> {
    pub(super) pace: Pace,
    pub(super) routes: HashMap<R::Route, Queue<R::Entry>>,
    /// Those that may send, in turn.
    ready: VecDeque<R::Route>,
    pub(super) waiting: Amount,
    /// Somebody comes back when its pause is over.
    has_timer: bool,
}

/// What waits for a route.
pub(super) struct Queue<E> {
    entries: VecDeque<Waiting<E>>,
    bytes: usize,
    under_way: usize,
    is_ready: bool,
}

pub(super) struct Waiting<E> {
    pub(super) ticket: u64,
    pub(super) entry: E,
    pub(super) size: usize,
    pub(super) since: Instant,
    pub(super) reply: oneshot::Sender<Sent>,
}

/// What goes together.
pub(super) type Batch<E> = Vec<Waiting<E>>;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Amount {
    entries: usize,
    bytes: usize,
}

impl Amount {
    fn add(&mut self, bytes: usize) {
        self.entries += 1;
        self.bytes += bytes;
    }

    fn take(&mut self, bytes: usize) {
        self.entries -= 1;
        self.bytes -= bytes;
    }
}

impl<R: Requests> Accounts<R> {
    pub(super) fn new() -> Self {
        Self { all: HashMap::new(), last_ticket: 0, sweep_at: MAX_REMEMBERED }
    }

    /// The account of this name, and a ticket for an entry.
    pub(super) fn enter(&mut self, name: &R::Account, now: Instant) -> (&mut Account<R>, u64) {
        self.last_ticket += 1;
        if self.all.len() >= self.sweep_at && !self.all.contains_key(name) {
            self.all.retain(|_, account| !account.routes.is_empty() || !account.pace.is_idle(now));
            self.sweep_at = MAX_REMEMBERED.max(self.all.len() * 2);
        }
        (self.all.entry(name.clone()).or_insert_with(Account::new), self.last_ticket)
    }

    /// Forgets an account that has nothing to send, and of which there is nothing to remember.
    pub(super) fn leave(&mut self, name: &R::Account, now: Instant) {
        let is_over = |account: &Account<R>| account.routes.is_empty() && account.pace.is_settled(now);
        if self.all.get(name).is_some_and(is_over) {
            self.all.remove(name);
        }
    }
}

impl<R: Requests> Account<R> {
    fn new() -> Self {
        Self {
            pace: Pace::new(MAX_REQUESTS),
            routes: HashMap::new(),
            ready: VecDeque::new(),
            waiting: Amount::default(),
            has_timer: false,
        }
    }

    pub(super) fn has_room(&self, size: usize) -> bool {
        self.waiting.entries < MAX_WAITING && self.waiting.bytes + size <= MAX_WAITING_BYTES
    }

    pub(super) fn push(&mut self, route: &R::Route, waiting: Waiting<R::Entry>) {
        self.waiting.add(waiting.size);
        let queue = self.routes.entry(route.clone()).or_insert_with(Queue::new);
        queue.bytes += waiting.size;
        queue.entries.push_back(waiting);
        self.note_ready(route);
    }

    /// Takes an entry out; whether it was still there.
    pub(super) fn withdraw(&mut self, route: &R::Route, ticket: u64) -> bool {
        let Some(queue) = self.routes.get_mut(route) else { return false };
        let place = queue.entries.iter().position(|waiting| waiting.ticket == ticket);
        let Some(waiting) = place.and_then(|place| queue.entries.remove(place)) else { return false };
        queue.bytes -= waiting.size;
        self.waiting.take(waiting.size);
        if queue.is_over() {
            self.routes.remove(route);
        }
        true
    }

    /// Begins a request, if one may begin: of the route whose turn it is.
    pub(super) fn begin(&mut self, now: Instant) -> Option<(R::Route, Batch<R::Entry>)> {
        while self.pace.may_begin(now) {
            let route = self.ready.pop_front()?;
            let batch = self.take(&route);
            if !batch.is_empty() {
                self.pace.begin();
                self.note_ready(&route);
                return Some((route, batch));
            }
        }
        None
    }

    /// A request has ended that began at `begun`.
    pub(super) fn end(&mut self, route: &R::Route, begun: Instant, met: Met, now: Instant, spread: f64) {
        self.pace.end(begun, met, now, spread);
        if let (Met::Throttled(_), Some(pause)) = (met, self.pace.paused(now)) {
            self.turn_away(pause, now);
        }
        if let Some(queue) = self.routes.get_mut(route) {
            queue.under_way -= 1;
            if queue.is_over() {
                self.routes.remove(route);
            }
        }
        self.note_ready(route);
    }

    /// How long somebody has to wait until requests may begin again, if nobody does yet.
    pub(super) fn set_timer(&mut self, now: Instant) -> Option<Duration> {
        let pause = self.pace.paused(now).filter(|_| self.waiting.entries > 0 && !self.has_timer);
        self.has_timer |= pause.is_some();
        pause
    }

    pub(super) fn timer_is_over(&mut self) {
        self.has_timer = false;
    }

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

    /// The next batch of a route, which counts as under way unless it is empty. Entries whose callers have gone away are left out.
    fn take(&mut self, route: &R::Route) -> Batch<R::Entry> {
        let mut batch = Vec::new();
        let Some(queue) = self.routes.get_mut(route) else { return batch };
        queue.is_ready = false;
        let mut bytes = 0;
        while let Some(next) = queue.entries.front() {
            let is_gone = next.reply.is_closed();
            let is_full = batch.len() >= R::MAX_ENTRIES || bytes + next.size > R::MAX_BYTES;
            if !is_gone && is_full && !batch.is_empty() {
                break;
            }
            let Some(next) = queue.entries.pop_front() else { break };
            queue.bytes -= next.size;
            self.waiting.take(next.size);
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
            while queue.entries.front().is_some_and(|next| next.since + MAX_THROTTLED_WAIT < until) {
                let Some(next) = queue.entries.pop_front() else { break };
                queue.bytes -= next.size;
                self.waiting.take(next.size);
                // Who has gone away does not want to know.
                let _gone = next.reply.send(Err(throttled(pause)));
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
