//! Who works on which partition: the live processes of a service share them evenly, and each partition has one of them at a
//! time.
//!
//! One entry of LEASES, the table, says who is there and what each has; it is changed by compare-and-set alone. Every member
//! writes a sign of life to it twice a second. Whose signs have not changed for [`DEAD_AFTER`], by the clock of whoever
//! watches, is dead, and what it had is shared out. A member that could not write for [`GIVE_UP_AFTER`] stops by itself, before
//! others can take it for dead. So after a `kill -9` another member goes on within five seconds, and one that is stopped hands over at
//! once. A process that starts anew where one was killed has its name, and with it what that had.
//!
//! Pinned consumers (ADR-42) would do the same without a table, but whoever comes first is pinned to all of them, and one that is
//! busy for long with what it has loses its pin.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::jetstream::kv::{CreateErrorKind, Operation, Store, UpdateErrorKind};
use prometheus_client::metrics::gauge::Gauge;
use serde::{Deserialize, Serialize};
use shopery_model::stable_hash;
use shopery_runtime::{Runtime, Shutdown};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::{Partition, Queue, lease};

/// Between two signs of life.
const INTERVAL: Duration = Duration::from_millis(500);
/// Without a sign of life for so long, a member is dead to the others.
const DEAD_AFTER: Duration = Duration::from_secs(4);
/// A member that could not give one for so long stops.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3);
/// How often a compare-and-set may lose against others before it is left for the next interval.
const MAX_WRITE_ATTEMPTS: usize = 5;

/// A process that takes its share of the partitions.
#[derive(Debug)]
pub struct Partitions {
    queue: Queue,
    /// The key of the table.
    service: &'static str,
    member: String,
    /// Tells this process from another one that bears its name.
    process: String,
    /// Whether the table has had our sign of life.
    is_known: bool,
    /// The last sign of life of each member, and since when we know it.
    seen: HashMap<String, (Sign, Instant)>,
    store: Option<Store>,
    held: Gauge,
}

/// Who is there, and who has which partition.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Table {
    members: BTreeMap<String, Member>,
    owners: BTreeMap<usize, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    #[serde(flatten)]
    sign: Sign,
    /// It gives up what it has, and takes no more.
    is_leaving: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Sign {
    process: String,
    count: u64,
}

/// What a member has to do about the table as it is now.
#[derive(Debug, Default, PartialEq)]
struct Turn {
    /// Once the table is written.
    begin: Vec<usize>,
    end: Vec<usize>,
}

/// The work on partitions that runs here.
struct Works {
    tasks: JoinSet<usize>,
    /// What ends each of them.
    terms: BTreeMap<usize, Shutdown>,
}

impl Partitions {
    /// `listen`: the address that no other process of this machine can listen on.
    pub fn new(queue: &Queue, service: &'static str, listen: SocketAddr, runtime: &Runtime) -> Self {
        let held = runtime.metrics.register(
            "partitions_held",
            "Partitions of the tenants that this process works on; all processes together have 9",
            Gauge::default(),
        );
        let process = queue.client.new_inbox();
        let member = name(listen).unwrap_or_else(|| process.clone());
        let (queue, seen) = (queue.clone(), HashMap::new());
        Self { queue, service, member, process, is_known: false, seen, store: None, held }
    }

    /// Runs `work` for each partition that is this process's, until the drain begins and all of it has come to its end. It is to
    /// end soon after its own shutdown has begun.
    pub async fn run<W>(mut self, runtime: &Runtime, work: impl Fn(Partition, Shutdown) -> W) -> anyhow::Result<()>
    where
        W: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let mut works = Works { tasks: JoinSet::new(), terms: BTreeMap::new() };
        let mut renewed_at = Instant::now();
        let (obstacle, is_so) = watch::channel(None::<String>);
        runtime.health.check("partitions", move || is_so.borrow().clone().map_or(Ok(()), Err));
        loop {
            self.held.set(i64::try_from(works.terms.len()).unwrap_or(i64::MAX));
            let is_leaving = runtime.shutdown.is_draining();
            if is_leaving && works.terms.is_empty() {
                // Others need not wait for the end of what we had.
                let _ = tokio::time::timeout(INTERVAL, self.turn(&works, true)).await;
                return Ok(());
            }
            let began = Instant::now();
            let turn = tokio::time::timeout(GIVE_UP_AFTER / 2, self.turn(&works, is_leaving)).await;
            match turn.context("NATS does not answer").flatten() {
                Ok(turn) => {
                    renewed_at = began;
                    obstacle.send_if_modified(|obstacle| obstacle.take().is_some());
                    works.end(&turn.end);
                    for index in turn.begin {
                        if let Some(partition) = Partition::from_index(index) {
                            let term = runtime.shutdown.child();
                            works.begin(index, &term, work(partition, term.clone()));
                        }
                    }
                }
                Err(error) => {
                    self.store = None;
                    let is_over = renewed_at.elapsed() >= GIVE_UP_AFTER;
                    if is_over {
                        works.end_all();
                    }
                    let why = format!("cannot renew its share of the partitions: {error:#}");
                    if is_over && obstacle.borrow().as_ref() != Some(&why) {
                        tracing::warn!(member = self.member, "{why}");
                        obstacle.send_replace(Some(why));
                    }
                }
            }
            tokio::select! {
                ended = works.next() => ended?,
                () = tokio::time::sleep_until(began + INTERVAL) => {}
                () = runtime.shutdown.draining(), if !is_leaving => {}
            }
        }
    }

    /// Gives a sign of life, and finds what is to do.
    async fn turn(&mut self, works: &Works, is_leaving: bool) -> anyhow::Result<Turn> {
        for _ in 0..MAX_WRITE_ATTEMPTS {
            let (mut table, revision) = self.read().await?;
            self.note(&table);
            let now = Instant::now();
            let is_alive = |member: &str| self.seen.get(member).is_some_and(|(_, since)| now - *since < DEAD_AFTER);
            let mut turn = table.turn(&self.member, is_alive, |index| works.terms.contains_key(&index), is_leaving);
            let is_last = is_leaving && works.terms.is_empty();
            if is_last {
                table.members.remove(&self.member);
                turn = Turn::default();
            } else {
                table.sign(&self.member, &self.process, is_leaving);
            }
            if self.write(&table, revision).await? {
                self.is_known = true;
                return Ok(turn);
            }
        }
        bail!("others change the table of partitions all the time")
    }

    /// Takes note of signs of life.
    fn note(&mut self, table: &Table) {
        let is_ours = |member: &Member| member.sign.process == self.process;
        if self.is_known && table.members.get(&self.member).is_some_and(|member| !is_ours(member)) {
            tracing::warn!(member = self.member, "another process has the name of this one; it takes another");
            self.member = self.process.clone();
        }
        let now = Instant::now();
        self.seen.retain(|name, _| table.members.contains_key(name));
        for (name, Member { sign, .. }) in &table.members {
            match self.seen.get_mut(name) {
                Some((known, _)) if known == sign => {}
                Some(known) => *known = (sign.clone(), now),
                None => drop(self.seen.insert(name.clone(), (sign.clone(), now))),
            }
        }
    }

    async fn store(&mut self) -> anyhow::Result<Store> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let store = lease::open(&self.queue.jetstream, self.queue.limits.replicas).await?;
        Ok(self.store.insert(store).clone())
    }

    /// The table, and its revision; 0 if there is none.
    async fn read(&mut self) -> anyhow::Result<(Table, u64)> {
        let entry = self.store().await?.entry(self.key()).await.context("cannot read LEASES")?;
        let Some(entry) = entry.filter(|entry| entry.operation == Operation::Put) else {
            return Ok((Table::default(), 0));
        };
        // A version that writes it otherwise does not count as being there: one of the two gives way by compare-and-set.
        let table = serde_json::from_slice(&entry.value).context("the table of partitions does not read")?;
        Ok((table, entry.revision))
    }

    /// Whether nobody has written it meanwhile.
    async fn write(&mut self, table: &Table, revision: u64) -> anyhow::Result<bool> {
        let (store, key) = (self.store().await?, self.key());
        let value = serde_json::to_vec(table)?.into();
        if revision == 0 {
            return match store.create(key, value).await {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(error).context("cannot write to LEASES"),
            };
        }
        match store.update(key, value, revision).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => Err(error).context("cannot write to LEASES"),
        }
    }

    fn key(&self) -> String {
        format!("{}.partitions", self.service)
    }
}

impl Works {
    fn begin(
        &mut self,
        index: usize,
        term: &Shutdown,
        work: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        tracing::info!(partition = index, "taken over");
        self.terms.insert(index, term.clone());
        self.tasks.spawn(async move {
            if let Err(error) = work.await {
                // It stays ours, and is begun anew.
                tracing::warn!(partition = index, "the work on a partition has failed: {error:#}");
            }
            index
        });
    }

    fn end(&self, indices: &[usize]) {
        for index in indices {
            if let Some(term) = self.terms.get(index).filter(|term| !term.is_draining()) {
                tracing::info!(partition = index, "handing over");
                term.begin();
            }
        }
    }

    fn end_all(&self) {
        self.end(&self.terms.keys().copied().collect::<Vec<_>>());
    }

    /// Waits until some work has ended; for ever if there is none. Fails if it has panicked: then the process is to end.
    async fn next(&mut self) -> anyhow::Result<()> {
        match self.tasks.join_next().await {
            Some(ended) => {
                self.terms.remove(&ended.context("the work on a partition has panicked")?);
                Ok(())
            }
            None => std::future::pending().await,
        }
    }
}

impl Table {
    /// What `me` does next. `is_running` tells whether its work on a partition has begun, and has not ended.
    fn turn(
        &mut self,
        me: &str,
        is_alive: impl Fn(&str) -> bool,
        is_running: impl Fn(usize) -> bool,
        is_leaving: bool,
    ) -> Turn {
        self.members.retain(|member, _| member == me || is_alive(member));
        self.owners.retain(|_, owner| owner == me || self.members.contains_key(owner));
        let others = self.members.iter().filter(|(name, member)| *name != me && !member.is_leaving);
        let mut members: Vec<_> = others.map(|(name, _)| name.as_str()).collect();
        members.extend((!is_leaving).then_some(me));
        members.sort_unstable();
        let wanted = assign(&members, Partition::COUNT);
        let mut turn = Turn::default();
        for index in 0..Partition::COUNT {
            let is_wanted = wanted.get(index) == Some(&me);
            match (self.owners.get(&index), is_running(index)) {
                (Some(owner), true) if owner == me && is_wanted => {}
                // It stays ours until it has ended. (Or others took us for dead; or NATS has forgotten the table.)
                (_, true) => turn.end.push(index),
                (Some(owner), false) if owner != me => {}
                (_, false) if is_wanted => {
                    self.owners.insert(index, me.to_owned());
                    turn.begin.push(index);
                }
                (_, false) => drop(self.owners.remove(&index)),
            }
        }
        turn
    }

    /// Gives a sign of life.
    fn sign(&mut self, me: &str, process: &str, is_leaving: bool) {
        let count = self.members.get(me).map_or(0, |member| member.sign.count) + 1;
        let sign = Sign { process: process.to_owned(), count };
        self.members.insert(me.to_owned(), Member { sign, is_leaving });
    }
}

/// For each partition the member that is to have it: by the highest hash of the two (rendezvous), so that few move when members
/// come and go, among those that have not got their share yet.
fn assign<'a>(members: &[&'a str], partitions: usize) -> Vec<&'a str> {
    if members.is_empty() {
        return Vec::new();
    }
    let (share, mut larger_shares) = (partitions / members.len(), partitions % members.len());
    let mut counts = vec![0; members.len()];
    let mut assigned = Vec::with_capacity(partitions);
    for partition in 0..partitions {
        let has_room = |place: &usize| counts[*place] < share || (counts[*place] == share && larger_shares > 0);
        let hash = |place: &usize| stable_hash(format!("{partition}/{}", members[*place]).as_bytes());
        let Some(place) = (0..members.len()).filter(has_room).max_by_key(hash) else { break };
        if counts[place] == share {
            larger_shares -= 1;
        }
        counts[place] += 1;
        assigned.push(members[place]);
    }
    assigned
}

/// The same for a process that is started anew in the place of another, and different from that of every other process: this
/// run of the operating system, this host (or container) and the address to listen on. `None` where that is not known.
fn name(listen: SocketAddr) -> Option<String> {
    if listen.port() == 0 {
        return None;
    }
    let read = |path| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let (host, boot) = (read("/proc/sys/kernel/hostname")?, read("/proc/sys/kernel/random/boot_id")?);
    Some(format!("{host}/{listen}/{boot}"))
}

#[cfg(test)]
#[path = "partitions_tests.rs"]
mod tests;
