//! Partition ownership: the live processes of a service share the partitions evenly, and each partition has one owner at a
//! time. It is what a consumer group does, with a table in NATS in place of a broker's coordinator.
//!
//! One entry of LEASES, the table, lists the members and the owner of each partition. Members change it by compare-and-set
//! alone, and each writes a heartbeat to it twice a second. A member whose heartbeat has not changed for [`MEMBER_TIMEOUT`],
//! by the clock of the member that watches it, is dead, and the others share its partitions. A member that could not write a
//! heartbeat for [`FENCING_TIMEOUT`] stops its work before the others declare it dead. So after a `kill -9` another member
//! continues within five seconds, and a member that stops hands over at once. A process that restarts at the same address has
//! the same name, so it gets the partitions of the killed process without a wait.
//!
//! Rejected: pinned consumers (ADR-42) need no table, but the first member is pinned to every partition, and a member
//! under backpressure loses its pin.

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

use crate::connection::LEADER_TIMEOUT;
use crate::{Partition, Queue, lease};

const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// Time without a heartbeat after which the other members declare a member dead.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(4);
/// Time without a successful heartbeat after which a member stops its own work. Shorter than [`MEMBER_TIMEOUT`], so that no
/// partition has two owners.
const FENCING_TIMEOUT: Duration = Duration::from_secs(3);
/// How many compare-and-sets may fail before we wait for the next interval.
const MAX_WRITE_ATTEMPTS: usize = 5;

/// This process as a member that owns its share of the partitions.
#[derive(Debug)]
pub struct Partitions {
    queue: Queue,
    /// Names the table.
    service: &'static str,
    member: String,
    /// Distinguishes this process from another process with the same member name.
    process: String,
    /// The table has had a heartbeat of this process.
    is_member: bool,
    /// The last heartbeat of each member, and when we first saw it.
    seen: HashMap<String, (Heartbeat, Instant)>,
    store: Option<Store>,
    held: Gauge,
}

/// The members, and the owner of each partition by its index.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Table {
    members: BTreeMap<String, Member>,
    owners: BTreeMap<usize, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    #[serde(flatten)]
    heartbeat: Heartbeat,
    /// It hands over its partitions and takes no others.
    is_leaving: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Heartbeat {
    process: String,
    count: u64,
}

/// How this member's work has to change to match the table.
#[derive(Debug, Default, PartialEq)]
struct Changes {
    /// Partitions to start, after the table is written.
    start: Vec<usize>,
    stop: Vec<usize>,
}

/// The work on partitions that runs in this process.
struct Workers {
    tasks: JoinSet<usize>,
    shutdowns: BTreeMap<usize, Shutdown>,
}

impl Partitions {
    /// `listen` is the service's address. No other process of this host can listen on it, so it names the member.
    pub fn new(queue: &Queue, service: &'static str, listen: SocketAddr, runtime: &Runtime) -> Self {
        let held = runtime.metrics.register(
            "partitions_held",
            "Partitions of the tenants that this process works on; all processes together have 9",
            Gauge::default(),
        );
        let process = queue.client.new_inbox();
        let member = member_name(listen).unwrap_or_else(|| process.clone());
        let (queue, seen) = (queue.clone(), HashMap::new());
        Self { queue, service, member, process, is_member: false, seen, store: None, held }
    }

    /// Runs `work` for each partition of this process, until the drain begins and all work has ended. `work` must end soon
    /// after its shutdown begins.
    pub async fn run<W>(mut self, runtime: &Runtime, work: impl Fn(Partition, Shutdown) -> W) -> anyhow::Result<()>
    where
        W: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let mut workers = Workers { tasks: JoinSet::new(), shutdowns: BTreeMap::new() };
        let mut renewed_at = Instant::now();
        let (obstacle, current_obstacle) = watch::channel(None::<String>);
        runtime.health.check("partitions", move || current_obstacle.borrow().clone().map_or(Ok(()), Err));
        loop {
            self.held.set(i64::try_from(workers.shutdowns.len()).unwrap_or(i64::MAX));
            let is_leaving = runtime.shutdown.is_draining();
            if is_leaving && workers.shutdowns.is_empty() {
                // The others need not wait until our membership ends by itself.
                let _ = tokio::time::timeout(HEARTBEAT_INTERVAL, self.renew(&workers, true)).await;
                return Ok(());
            }
            let began = Instant::now();
            let renewed = tokio::time::timeout(LEADER_TIMEOUT, self.renew(&workers, is_leaving)).await;
            match renewed.context("NATS does not answer").flatten() {
                Ok(changes) => {
                    renewed_at = began;
                    obstacle.send_if_modified(|obstacle| obstacle.take().is_some());
                    workers.stop(&changes.stop);
                    for index in changes.start {
                        if let Some(partition) = Partition::from_index(index) {
                            let shutdown = runtime.shutdown.child();
                            workers.start(index, &shutdown, work(partition, shutdown.clone()));
                        }
                    }
                }
                Err(error) => {
                    self.store = None;
                    self.could_not_look();
                    let is_fenced = renewed_at.elapsed() >= FENCING_TIMEOUT;
                    if is_fenced {
                        workers.stop_all();
                    }
                    let why = format!("cannot renew the ownership of partitions: {error:#}");
                    if is_fenced && obstacle.borrow().as_ref() != Some(&why) {
                        tracing::warn!(member = self.member, "{why}");
                        obstacle.send_replace(Some(why));
                    }
                }
            }
            tokio::select! {
                ended = workers.next_ended() => ended?,
                () = tokio::time::sleep_until(began + HEARTBEAT_INTERVAL) => {}
                () = runtime.shutdown.draining(), if !is_leaving => {}
            }
        }
    }

    /// Writes a heartbeat, and returns how the work has to change.
    async fn renew(&mut self, workers: &Workers, is_leaving: bool) -> anyhow::Result<Changes> {
        for _ in 0..MAX_WRITE_ATTEMPTS {
            let (mut table, revision) = self.read().await?;
            self.observe(&table);
            let now = Instant::now();
            let is_alive = |member: &str| self.seen.get(member).is_some_and(|(_, since)| now - *since < MEMBER_TIMEOUT);
            let is_running = |index| workers.shutdowns.contains_key(&index);
            let changes = table.rebalance(&self.member, is_alive, is_running, is_leaving);
            if is_leaving && workers.shutdowns.is_empty() {
                table.members.remove(&self.member);
            } else {
                table.beat(&self.member, &self.process, is_leaving);
            }
            if self.write(&table, revision).await? {
                self.is_member = true;
                return Ok(changes);
            }
        }
        bail!("other members change the table of partitions all the time")
    }

    /// Remembers the members' heartbeats.
    fn observe(&mut self, table: &Table) {
        let is_ours = |member: &Member| member.heartbeat.process == self.process;
        if self.is_member && table.members.get(&self.member).is_some_and(|member| !is_ours(member)) {
            tracing::warn!(
                member = self.member,
                "another process has the same member name; this one takes another name"
            );
            self.member = self.process.clone();
        }
        let now = Instant::now();
        self.seen.retain(|name, _| table.members.contains_key(name));
        for (name, Member { heartbeat, .. }) in &table.members {
            match self.seen.get_mut(name) {
                Some((last, _)) if last == heartbeat => {}
                Some(last) => *last = (heartbeat.clone(), now),
                None => drop(self.seen.insert(name.clone(), (heartbeat.clone(), now))),
            }
        }
    }

    /// While we cannot read the table, a heartbeat that we do not see says nothing: the others may not have been able to write
    /// it. Otherwise the first member that an elected leader serves would declare all others dead.
    fn could_not_look(&mut self) {
        let now = Instant::now();
        self.seen.values_mut().for_each(|(_, since)| *since = now);
    }

    async fn store(&mut self) -> anyhow::Result<Store> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let store = lease::open(&self.queue.jetstream, self.queue.limits.replicas).await?;
        Ok(self.store.insert(store).clone())
    }

    /// The table and its revision. The revision is 0 if there is no table.
    async fn read(&mut self) -> anyhow::Result<(Table, u64)> {
        let entry = self.store().await?.entry(self.key()).await.context("cannot read LEASES")?;
        let Some(entry) = entry.filter(|entry| entry.operation == Operation::Put) else {
            return Ok((Table::default(), 0));
        };
        let table = serde_json::from_slice(&entry.value).context("the table of partitions does not parse")?;
        Ok((table, entry.revision))
    }

    /// Returns false if another member has written the table since `revision`.
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

impl Workers {
    fn start(
        &mut self,
        index: usize,
        shutdown: &Shutdown,
        work: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        tracing::info!(partition = index, "taken over");
        self.shutdowns.insert(index, shutdown.clone());
        self.tasks.spawn(async move {
            if let Err(error) = work.await {
                // We still own the partition, so the next renewal starts its work again.
                tracing::warn!(partition = index, "the work on a partition has failed: {error:#}");
            }
            index
        });
    }

    fn stop(&self, indices: &[usize]) {
        for index in indices {
            if let Some(shutdown) = self.shutdowns.get(index).filter(|shutdown| !shutdown.is_draining()) {
                tracing::info!(partition = index, "handing over");
                shutdown.begin();
            }
        }
    }

    fn stop_all(&self) {
        self.stop(&self.shutdowns.keys().copied().collect::<Vec<_>>());
    }

    /// Waits until the work on a partition has ended; pending if there is no work. A panic is an error, and ends the service.
    async fn next_ended(&mut self) -> anyhow::Result<()> {
        match self.tasks.join_next().await {
            Some(ended) => {
                self.shutdowns.remove(&ended.context("the work on a partition has panicked")?);
                Ok(())
            }
            None => std::future::pending().await,
        }
    }
}

impl Table {
    /// Removes dead members, and takes and releases partitions for `me`. `is_running` says whether the work on a partition runs
    /// in this process, also while it stops.
    fn rebalance(
        &mut self,
        me: &str,
        is_alive: impl Fn(&str) -> bool,
        is_running: impl Fn(usize) -> bool,
        is_leaving: bool,
    ) -> Changes {
        self.members.retain(|member, _| member == me || is_alive(member));
        self.owners.retain(|_, owner| owner == me || self.members.contains_key(owner));
        let others = self.members.iter().filter(|(name, member)| *name != me && !member.is_leaving);
        let mut members: Vec<_> = others.map(|(name, _)| name.as_str()).collect();
        members.extend((!is_leaving).then_some(me));
        members.sort_unstable();
        let assigned = assign(&members, Partition::COUNT);
        let mut changes = Changes::default();
        for index in 0..Partition::COUNT {
            let is_mine = assigned.get(index) == Some(&me);
            match (self.owners.get(&index), is_running(index)) {
                (Some(owner), true) if owner == me && is_mine => {}
                // We own it until its work has ended. (Or the others declared us dead, or NATS has lost the table.)
                (_, true) => changes.stop.push(index),
                (Some(owner), false) if owner != me => {}
                (_, false) if is_mine => {
                    self.owners.insert(index, me.to_owned());
                    changes.start.push(index);
                }
                (_, false) => drop(self.owners.remove(&index)),
            }
        }
        changes
    }

    fn beat(&mut self, me: &str, process: &str, is_leaving: bool) {
        let count = self.members.get(me).map_or(0, |member| member.heartbeat.count) + 1;
        let heartbeat = Heartbeat { process: process.to_owned(), count };
        self.members.insert(me.to_owned(), Member { heartbeat, is_leaving });
    }
}

/// The member that should own each partition: rendezvous hashing, so that few partitions move when members join and leave, among
/// the members whose share is not full yet, so that shares differ by one at most.
fn assign<'a>(members: &[&'a str], partitions: usize) -> Vec<&'a str> {
    if members.is_empty() {
        return Vec::new();
    }
    let (share, mut larger_shares) = (partitions / members.len(), partitions % members.len());
    let mut counts = vec![0; members.len()];
    let mut assigned = Vec::with_capacity(partitions);
    for partition in 0..partitions {
        let has_room = |member: &usize| counts[*member] < share || (counts[*member] == share && larger_shares > 0);
        let hash = |member: &usize| stable_hash(format!("{partition}/{}", members[*member]).as_bytes());
        let Some(member) = (0..members.len()).filter(has_room).max_by_key(hash) else { break };
        if counts[member] == share {
            larger_shares -= 1;
        }
        counts[member] += 1;
        assigned.push(members[member]);
    }
    assigned
}

/// The host (or container), the address and the boot of the kernel: the same for a process that restarts, and different for
/// every other process. `None` where the system does not say.
fn member_name(listen: SocketAddr) -> Option<String> {
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
