//! Fair shares of what a process has little of: a [`Door`] admits a number of units in all (requests under way, bytes in
//! memory, connections), and of one tenant or address no more than a share of them. Whoever fills its share holds back
//! itself alone.
//!
//! A request that finds no room waits for a short time. A unit that becomes free goes to the tenant whose turn it is, one
//! request a turn, so that a tenant with many requests waits longer than one with few. When the time is over, the answer says
//! whose fault it is: 429 if the tenant has its whole share, 503 if the process has no room.
//!
//! Rejected: a semaphore for all and one for each tenant. Its queue is one for all, and a request that has the one permit waits
//! for the other.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use shopery_model::TenantId;
use shopery_runtime::Runtime;
use tokio::sync::oneshot;

use crate::Problem;

/// Of one tenant's requests, this many times its share may wait. Beyond, the answer is 429 at once.
const MAX_WAITING: usize = 16;
/// For whoever is refused: units are held for seconds at most.
const RETRY_AFTER: Duration = Duration::from_secs(2);

type Refused = Family<[(&'static str, &'static str); 2], Counter>;

/// The doors of a face.
#[derive(Debug, Clone)]
pub struct Doors {
    refused: Refused,
}

/// What a door admits.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    pub name: &'static str,
    /// What is counted, for those who are refused: "Test calls".
    pub what: &'static str,
    pub all: usize,
    /// Of one tenant, or address.
    pub share: usize,
    /// For how long a request waits for room.
    pub max_wait: Duration,
}

/// Clones are the same door.
#[derive(Debug)]
pub struct Door<K: Key = TenantId>(Arc<Inner<K>>);

/// The owner of a share: a tenant, or an address.
pub trait Key: Clone + Eq + Hash {}

impl<K: Clone + Eq + Hash> Key for K {}

#[derive(Debug)]
struct Inner<K: Key> {
    rule: Rule,
    refused: Refused,
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K: Key> {
    used: usize,
    /// Those who have units, or wait for one.
    owners: HashMap<K, Owner<K>>,
    /// Owners with requests that wait, in turn.
    turns: VecDeque<K>,
}

#[derive(Debug)]
struct Owner<K: Key> {
    used: usize,
    waiting: VecDeque<oneshot::Sender<Admitted<K>>>,
}

/// Units of one owner, given back when they are dropped.
#[derive(Debug)]
pub struct Admitted<K: Key = TenantId> {
    door: Door<K>,
    owner: K,
    units: usize,
}

/// Whose limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Share,
    All,
}

impl Limit {
    fn name(self) -> &'static str {
        match self {
            Self::Share => "share",
            Self::All => "process",
        }
    }
}

impl Doors {
    /// `face` begins the name of the metric, since faces may share a process.
    pub fn new(face: &str, runtime: &Runtime) -> Self {
        let refused = runtime.metrics.register(
            &format!("{face}_refused_at_door"),
            "Requests and connections that found no room, by what there is little of, and whether a share or the process was full",
            Refused::default(),
        );
        Self { refused }
    }

    pub fn open<K: Key>(&self, rule: Rule) -> Door<K> {
        for limit in [Limit::Share, Limit::All] {
            drop(self.refused.get_or_create(&[("door", rule.name), ("full", limit.name())]));
        }
        let state = Mutex::new(State { used: 0, owners: HashMap::new(), turns: VecDeque::new() });
        Door(Arc::new(Inner { rule, refused: self.refused.clone(), state }))
    }
}

impl<K: Key> Clone for Door<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Key> Default for Owner<K> {
    fn default() -> Self {
        Self { used: 0, waiting: VecDeque::new() }
    }
}

impl<K: Key> Door<K> {
    /// Admits one request, which may wait.
    pub async fn enter(&self, owner: &K) -> Result<Admitted<K>, Problem> {
        let waiting = {
            let mut state = self.lock();
            let is_queue_empty = state.owners.get(owner).is_none_or(|known| known.waiting.is_empty());
            if is_queue_empty && self.take(&mut state, owner, 1).is_ok() {
                return Ok(self.admitted(owner, 1));
            }
            let known = state.owners.entry(owner.clone()).or_default();
            known.waiting.retain(|waiting| !waiting.is_closed());
            if known.waiting.len() >= self.0.rule.share * MAX_WAITING {
                return Err(self.refuse(Limit::Share));
            }
            let (sender, waiting) = oneshot::channel();
            known.waiting.push_back(sender);
            if !state.turns.contains(owner) {
                state.turns.push_back(owner.clone());
            }
            waiting
        };
        match tokio::time::timeout(self.0.rule.max_wait, waiting).await {
            Ok(Ok(admitted)) => Ok(admitted),
            _ => Err(self.refuse(self.leave_queue(owner))),
        }
    }

    /// Admits one, or says no at once.
    pub fn try_enter(&self, owner: &K) -> Option<Admitted<K>> {
        match self.take(&mut self.lock(), owner, 1) {
            Ok(()) => Some(self.admitted(owner, 1)),
            Err(limit) => {
                self.count(limit);
                None
            }
        }
    }

    /// Admits nothing yet: units are taken as they are needed.
    pub fn begin(&self, owner: &K) -> Admitted<K> {
        self.admitted(owner, 0)
    }

    fn admitted(&self, owner: &K, units: usize) -> Admitted<K> {
        Admitted { door: self.clone(), owner: owner.clone(), units }
    }

    fn take(&self, state: &mut State<K>, owner: &K, units: usize) -> Result<(), Limit> {
        let rule = &self.0.rule;
        let used = state.owners.get(owner).map_or(0, |known| known.used);
        if used + units > rule.share {
            return Err(Limit::Share);
        }
        if state.used + units > rule.all {
            return Err(Limit::All);
        }
        state.used += units;
        state.owners.entry(owner.clone()).or_default().used += units;
        Ok(())
    }

    fn give_back(&self, owner: &K, units: usize) {
        let mut turns = Vec::new();
        {
            let mut state = self.lock();
            state.used -= units;
            if let Some(known) = state.owners.get_mut(owner) {
                known.used -= units;
            }
            let State { used, owners, turns: queue } = &mut *state;
            for _ in 0..queue.len() {
                if *used >= self.0.rule.all {
                    break;
                }
                let Some(next) = queue.pop_front() else { break };
                let Some(known) = owners.get_mut(&next) else { continue };
                // Who was given a unit and is gone would give it back from within this call, over and over.
                known.waiting.retain(|waiting| !waiting.is_closed());
                if known.used < self.0.rule.share
                    && let Some(sender) = known.waiting.pop_front()
                {
                    known.used += 1;
                    *used += 1;
                    turns.push((next.clone(), sender));
                }
                if !known.waiting.is_empty() {
                    queue.push_back(next);
                } else if known.used == 0 {
                    owners.remove(&next);
                }
            }
            self.forget(&mut state, owner);
        }
        for (owner, sender) in turns {
            // Who does not wait any more drops it, and with that gives it back.
            drop(sender.send(self.admitted(&owner, 1)));
        }
    }

    /// Takes those of an owner who do not wait any more out of the queue, and says what they waited for.
    fn leave_queue(&self, owner: &K) -> Limit {
        let mut state = self.lock();
        let Some(known) = state.owners.get_mut(owner) else { return Limit::All };
        known.waiting.retain(|waiting| !waiting.is_closed());
        let has_share = known.used >= self.0.rule.share;
        if known.waiting.is_empty() {
            state.turns.retain(|turn| turn != owner);
        }
        self.forget(&mut state, owner);
        if has_share { Limit::Share } else { Limit::All }
    }

    fn forget(&self, state: &mut State<K>, owner: &K) {
        if state.owners.get(owner).is_some_and(|known| known.used == 0 && known.waiting.is_empty()) {
            state.owners.remove(owner);
        }
    }

    fn count(&self, limit: Limit) {
        self.0.refused.get_or_create(&[("door", self.0.rule.name), ("full", limit.name())]).inc();
    }

    fn refuse(&self, limit: Limit) -> Problem {
        self.count(limit);
        let Rule { what, all, share, .. } = &self.0.rule;
        match limit {
            Limit::Share => {
                let detail =
                    format!("this tenant has too many {what} under way: the limit is {share}; see Retry-After");
                Problem::too_many_requests(detail, RETRY_AFTER)
            }
            Limit::All => {
                let detail = format!("there are too many {what} under way: the limit of this process is {all}");
                Problem::unavailable(detail, RETRY_AFTER.as_secs() as u32)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Key> Admitted<K> {
    /// Takes more units, without a wait: whoever waits with units in hand holds up others.
    pub fn grow(&mut self, units: usize) -> Result<(), Problem> {
        let taken = self.door.take(&mut self.door.lock(), &self.owner, units);
        taken.map_err(|limit| self.door.refuse(limit))?;
        self.units += units;
        Ok(())
    }
}

impl<K: Key> Drop for Admitted<K> {
    fn drop(&mut self) {
        if self.units > 0 {
            self.door.give_back(&self.owner, self.units);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    fn door(all: usize, share: usize) -> Door {
        let rule = Rule { name: "test", what: "Test calls", all, share, max_wait: Duration::from_secs(2) };
        Doors::new("api", &Runtime::default()).open(rule)
    }

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_that_has_its_share_is_told_so_and_holds_back_nobody() {
        let door = door(4, 2);
        let (loud, quiet) = (tenant("loud"), tenant("quiet"));
        let held = [door.enter(&loud).await.unwrap(), door.enter(&loud).await.unwrap()];
        let refused = door.enter(&loud).await.unwrap_err();
        assert_eq!(refused.status, 429, "{refused:?}");
        assert!(door.enter(&quiet).now_or_never().unwrap().is_ok());
        drop(held);
        assert!(door.enter(&loud).now_or_never().unwrap().is_ok());
        assert!(door.lock().owners.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_is_full_says_so_after_a_while() {
        let door = door(2, 1);
        let _held = [door.enter(&tenant("a")).await.unwrap(), door.enter(&tenant("b")).await.unwrap()];
        let began = tokio::time::Instant::now();
        let refused = door.enter(&tenant("c")).await.unwrap_err();
        assert_eq!((refused.status, began.elapsed()), (503, Duration::from_secs(2)), "{refused:?}");
        assert_eq!(door.lock().turns.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn tenants_take_turns_and_one_has_no_more_than_a_few_that_wait() {
        let door = door(1, 1);
        let (loud, quiet) = (tenant("loud"), tenant("quiet"));
        let held = door.enter(&loud).await.unwrap();
        let wait = |tenant: &TenantId| {
            let (door, tenant) = (door.clone(), tenant.clone());
            tokio::spawn(async move { door.enter(&tenant).await.map(|admitted| (tenant, admitted)) })
        };
        let mut waiting: Vec<_> = (0..MAX_WAITING).map(|_| wait(&loud)).collect();
        tokio::task::yield_now().await;
        assert_eq!(door.enter(&loud).now_or_never().unwrap().unwrap_err().status, 429);
        waiting.push(wait(&quiet));
        tokio::task::yield_now().await;
        drop(held);
        let mut order = Vec::new();
        for _ in 0..2 {
            let (done, _, rest) = futures_util::future::select_all(waiting).await;
            waiting = rest;
            order.push(done.unwrap().unwrap().0);
        }
        assert_eq!(order, [loud, quiet]);
    }

    #[tokio::test]
    async fn units_are_taken_as_they_are_needed() {
        let door = door(10, 6);
        let (a, b) = (tenant("a"), tenant("b"));
        let (mut first, mut second) = (door.begin(&a), door.begin(&b));
        first.grow(6).unwrap();
        assert_eq!(first.grow(1).unwrap_err().status, 429);
        second.grow(4).unwrap();
        assert_eq!(second.grow(1).unwrap_err().status, 503);
        drop(first);
        second.grow(2).unwrap();
        drop(second);
        assert_eq!(door.lock().used, 0);
    }

    proptest! {
        /// Each step: a tenant enters (and may wait), the oldest that was admitted leaves, or one that has asked goes away.
        #[test]
        fn no_more_are_in_than_may_be_and_nothing_is_lost(steps in proptest::collection::vec(0u8..6, 1..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let door = door(5, 2);
                let mut asked = Vec::new();
                let (sender, mut admitted) = tokio::sync::mpsc::unbounded_channel();
                for step in steps {
                    if step < 4 {
                        let (door, sender) = (door.clone(), sender.clone());
                        asked.push(tokio::spawn(async move {
                            if let Ok(in_there) = door.enter(&tenant(&format!("t{step}"))).await {
                                let _ = sender.send(in_there);
                            }
                        }));
                    } else if step == 4 || asked.is_empty() {
                        drop(admitted.try_recv());
                    } else {
                        // A client that goes away.
                        asked.remove(asked.len() / 2).abort();
                    }
                    tokio::task::yield_now().await;
                    let state = door.lock();
                    assert!(state.used <= 5);
                    assert!(state.owners.values().all(|known| known.used <= 2));
                    assert_eq!(state.owners.values().map(|known| known.used).sum::<usize>(), state.used);
                    let waits = |known: &Owner<TenantId>| known.waiting.iter().any(|one| !one.is_closed());
                    let could = state.owners.values().any(|known| waits(known) && known.used < 2);
                    assert!(!could || state.used == 5, "somebody waits who could be in: {state:?}");
                }
                while admitted.try_recv().is_ok() {}
                tokio::time::sleep(Duration::from_secs(3)).await;
                while admitted.try_recv().is_ok() {}
                for one in asked {
                    let _ = one.await;
                }
                while admitted.try_recv().is_ok() {}
                assert!(door.lock().owners.is_empty(), "{:?}", door.lock());
            });
        }
    }
}
