//! Who may send to which endpoint now: the gates of all endpoints, and the jobs that wait at them.
//!
//! A tenant, however many endpoints it has, takes no more than half of the slots: others can always start.
//!
//! Invariant: a [`Pass`] is one attempt, counted at its gate and in the deliverer's slots until it is dropped.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shopery_model::{Admission, DeliveryId, Gate, TenantId, WebhookId};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A job that has waited so long for its turn is parked.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Gates that are kept, some 200 bytes each. Beyond, a sixteenth of them is forgotten: the idle ones that were used least
/// recently.
const MAX_GATES: usize = 1 << 20;
const FORGOTTEN: usize = MAX_GATES / 16;
/// Endpoints that are offered a slot that another one has left, at a time.
const OFFERS: usize = 8;

#[derive(Debug)]
pub(crate) struct Endpoints {
    state: Mutex<State>,
    began: Instant,
}

#[derive(Debug)]
struct State {
    gates: HashMap<WebhookId, Entry>,
    /// What the tenants hold that hold anything.
    shares: HashMap<TenantId, Share>,
    /// What a tenant may hold.
    cap: Share,
    /// Attempts that may begin.
    slots: usize,
    /// Jobs that may wait.
    room: usize,
    /// Endpoints that somebody waits for, in turn.
    queue: VecDeque<WebhookId>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Share {
    under_way: usize,
    waiting: usize,
}

#[derive(Debug)]
struct Entry {
    tenant: TenantId,
    gate: Gate,
    /// When the last attempt began or ended.
    used_at: Duration,
    waiting: VecDeque<oneshot::Sender<Pass>>,
}

/// The right to make one attempt.
#[derive(Debug)]
pub(crate) struct Pass {
    endpoints: Arc<Endpoints>,
    id: WebhookId,
    is_finished: bool,
}

impl Endpoints {
    pub(crate) fn new(slots: usize, room: usize) -> Arc<Self> {
        let cap = Share { under_way: slots.div_ceil(2), waiting: room };
        let (gates, shares, queue) = (HashMap::new(), HashMap::new(), VecDeque::new());
        let state = State { gates, shares, cap, slots, room, queue };
        Arc::new(Self { state: Mutex::new(state), began: Instant::now() })
    }

    /// The right to attempt a job of this endpoint, or `None` if the job is to be parked.
    pub(crate) async fn enter(self: &Arc<Self>, tenant: &TenantId, id: WebhookId) -> Option<Pass> {
        let turn = {
            let now = self.began.elapsed();
            let mut state = self.lock();
            let State { gates, shares, cap, slots, room, queue } = &mut *state;
            let entry = gates.entry(id).or_insert_with(|| Entry::new(tenant.clone()));
            let share = shares.entry(tenant.clone()).or_default();
            let admission = match entry.gate.admit(entry.waiting.len(), *slots, *room, now) {
                Admission::Start if share.under_way >= cap.under_way => Admission::Wait,
                admission => admission,
            };
            match admission {
                Admission::Start => {
                    entry.gate.start(now);
                    entry.used_at = now;
                    *slots -= 1;
                    share.under_way += 1;
                    return Some(self.pass(id));
                }
                Admission::Wait if *room > 0 && share.waiting < cap.waiting => {
                    let (sender, turn) = oneshot::channel();
                    if entry.waiting.is_empty() {
                        queue.push_back(id);
                    }
                    entry.waiting.push_back(sender);
                    *room -= 1;
                    share.waiting += 1;
                    turn
                }
                Admission::Wait | Admission::Park => return None,
            }
        };
        match tokio::time::timeout(MAX_WAIT, turn).await {
            Ok(Ok(pass)) => Some(pass),
            Ok(Err(_)) => None,
            Err(_) => {
                self.forget_waiting(id, oneshot::Sender::is_closed);
                None
            }
        }
    }

    /// Turns away everybody who waits for this endpoint.
    pub(crate) fn turn_away(&self, id: WebhookId) {
        self.forget_waiting(id, |_| true);
    }

    fn forget_waiting(&self, id: WebhookId, is_gone: impl Fn(&oneshot::Sender<Pass>) -> bool) {
        let mut state = self.lock();
        let State { gates, shares, room, .. } = &mut *state;
        let Some(entry) = gates.get_mut(&id) else { return };
        let before = entry.waiting.len();
        entry.waiting.retain(|waiting| !is_gone(waiting));
        let gone = before - entry.waiting.len();
        *room += gone;
        change(shares, &entry.tenant, |share| share.waiting -= gone);
    }

    /// Gives the slot of an attempt that has ended to whoever waits, and returns how many deliveries have failed in a row.
    fn leave(self: &Arc<Self>, id: WebhookId, result: Option<(DeliveryId, bool)>) -> usize {
        let now = self.began.elapsed();
        let mut turns = Vec::new();
        let failures = {
            let mut state = self.lock();
            let State { gates, shares, slots, .. } = &mut *state;
            *slots += 1;
            let failures = gates.get_mut(&id).map_or(0, |entry| {
                change(shares, &entry.tenant, |share| share.under_way -= 1);
                match result {
                    Some((delivery, success)) => entry.gate.finish(delivery, success, now),
                    None => entry.gate.abandon(),
                }
                entry.used_at = now;
                entry.gate.failures()
            });
            state.admit_waiting(id, now, &mut turns);
            for _ in 0..state.queue.len().min(OFFERS) {
                let Some(next) = state.queue.pop_front() else { break };
                state.admit_waiting(next, now, &mut turns);
                if state.gates.get(&next).is_some_and(|entry| !entry.waiting.is_empty()) {
                    state.queue.push_back(next);
                }
            }
            if state.gates.len() > MAX_GATES {
                state.forget_least_recent(FORGOTTEN);
            }
            failures
        };
        for (id, turn) in turns {
            // Who does not wait any more drops the pass, and with that gives it back.
            drop(turn.send(self.pass(id)));
        }
        failures
    }

    fn pass(self: &Arc<Self>, id: WebhookId) -> Pass {
        Pass { endpoints: self.clone(), id, is_finished: false }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Forgets up to `count` idle gates: those that were used least recently.
    fn forget_least_recent(&mut self, count: usize) {
        let is_idle = |entry: &Entry| entry.gate.is_idle() && entry.waiting.is_empty();
        let mut idle: Vec<_> = self.gates.values().filter(|entry| is_idle(entry)).map(|entry| entry.used_at).collect();
        let Some(last) = idle.len().min(count).checked_sub(1) else { return };
        let (_, &mut used_at, _) = idle.select_nth_unstable(last);
        self.gates.retain(|_, entry| entry.used_at > used_at || !is_idle(entry));
    }

    fn admit_waiting(&mut self, id: WebhookId, now: Duration, turns: &mut Vec<(WebhookId, oneshot::Sender<Pass>)>) {
        let Some(entry) = self.gates.get_mut(&id) else { return };
        let Some(share) = self.shares.get_mut(&entry.tenant) else { return };
        while self.slots > 0
            && share.under_way < self.cap.under_way
            && entry.gate.may_start(self.slots)
            && let Some(turn) = entry.waiting.pop_front()
        {
            entry.gate.start(now);
            self.slots -= 1;
            self.room += 1;
            share.under_way += 1;
            share.waiting -= 1;
            turns.push((id, turn));
        }
    }
}

impl Entry {
    fn new(tenant: TenantId) -> Self {
        Self { tenant, gate: Gate::default(), used_at: Duration::ZERO, waiting: VecDeque::new() }
    }
}

/// Changes what a tenant holds; one that holds nothing is forgotten.
fn change(shares: &mut HashMap<TenantId, Share>, tenant: &TenantId, change: impl FnOnce(&mut Share)) {
    if let Some(share) = shares.get_mut(tenant) {
        change(share);
        if *share == Share::default() {
            shares.remove(tenant);
        }
    }
}

impl Pass {
    /// The attempt has ended; returns how many deliveries have failed in a row.
    pub(crate) fn finish(mut self, delivery: DeliveryId, success: bool) -> usize {
        self.is_finished = true;
        self.endpoints.leave(self.id, Some((delivery, success)))
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.is_finished {
            self.endpoints.leave(self.id, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(webhook: WebhookId) -> DeliveryId {
        DeliveryId::of(&"t".parse().unwrap(), "orders", "e", time::OffsetDateTime::UNIX_EPOCH, webhook)
    }

    fn tenant(id: &str) -> TenantId {
        id.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn silent_endpoints_leave_slots_for_one_that_answers() {
        let endpoints = Endpoints::new(512, 2048);
        let mut held = Vec::new();
        for _ in 0..20 {
            let silent = WebhookId::generate();
            for _ in 0..100 {
                let endpoints = endpoints.clone();
                held.push(tokio::spawn(async move { endpoints.enter(&tenant("loud"), silent).await }));
            }
        }
        tokio::task::yield_now().await;
        let healthy = WebhookId::generate();
        for _ in 0..100 {
            let pass = tokio::time::timeout(Duration::from_millis(1), endpoints.enter(&tenant("quiet"), healthy))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(pass.finish(delivery(healthy), true), 0);
        }
        // Who waits for a silent endpoint is turned away in the end, and gives back its place.
        let (mut passes, mut parked) = (Vec::new(), 0);
        for entered in held {
            match entered.await.unwrap() {
                Some(pass) => passes.push(pass),
                None => parked += 1,
            }
        }
        assert!(passes.len() <= 20 * 16 && parked >= 20 * 84, "{} {parked}", passes.len());
        drop(passes);
        let state = endpoints.lock();
        assert_eq!((state.slots, state.room, state.shares.len()), (512, 2048, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_recent_endpoints_are_forgotten_first() {
        let endpoints = Endpoints::new(512, 2048);
        let ids: Vec<_> = (0..100).map(|_| WebhookId::generate()).collect();
        let tenant = tenant("t");
        for id in &ids {
            let pass = endpoints.enter(&tenant, *id).await.unwrap();
            assert_eq!(pass.finish(delivery(*id), false), 1);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let held = endpoints.enter(&tenant, ids[0]).await.unwrap();
        endpoints.lock().forget_least_recent(10);
        let state = endpoints.lock();
        let kept: Vec<_> = ids.iter().map(|id| state.gates.contains_key(id)).collect();
        // The first one is in use.
        assert_eq!(kept.iter().position(|is_kept| !is_kept), Some(1));
        assert_eq!(kept.iter().filter(|is_kept| !**is_kept).count(), 10);
        assert!(kept[11..].iter().all(|is_kept| *is_kept));
        assert_eq!(state.gates[&ids[99]].gate.failures(), 1);
        drop(state);
        drop(held);
    }

    #[tokio::test]
    async fn a_turn_comes_when_an_attempt_ends_and_none_is_lost() {
        let endpoints = Endpoints::new(1, 100);
        let id = WebhookId::generate();
        let first = endpoints.enter(&tenant("t"), id).await.unwrap();
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let endpoints = endpoints.clone();
                tokio::spawn(async move { endpoints.enter(&tenant("t"), id).await.unwrap().finish(delivery(id), true) })
            })
            .collect();
        tokio::task::yield_now().await;
        first.finish(delivery(id), true);
        for turn in waiting {
            turn.await.unwrap();
        }
        let state = endpoints.lock();
        assert_eq!((state.slots, state.room, state.shares.len()), (1, 100, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_with_many_silent_endpoints_holds_no_more_than_half() {
        let endpoints = Endpoints::new(512, 2048);
        let held: Vec<_> = (0..4000)
            .map(|_| {
                let endpoints = endpoints.clone();
                tokio::spawn(async move { endpoints.enter(&tenant("loud"), WebhookId::generate()).await })
            })
            .collect();
        // The runtime takes a few dozen tasks at a time.
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        {
            let state = endpoints.lock();
            assert_eq!((state.slots, state.room), (256, 0));
        }
        let quiet = endpoints.enter(&tenant("quiet"), WebhookId::generate()).await;
        assert!(quiet.is_some());
        for entered in held {
            drop(entered.await);
        }
    }
}
