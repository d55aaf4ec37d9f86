//! deliverer: takes jobs, posts them, tells the history, schedules retries. Run as many as the traffic needs.
//!
//! - [`deliver`]: a job on its way; [`attempt`]: one attempt and what follows from it.
//! - [`endpoints`]: how much each endpoint gets of this deliverer, so that none delays the others.
//! - [`breaker`], [`drain`], [`sweep`]: endpoints that do not keep up. Their jobs are parked; one timer for each sees
//!   to them.
//! - [`room`]: what gives way once PARKED is full.
//! - [`overdue`]: retries and timers that have not fired when they should have.
//!
//! Invariant: a job is acknowledged only after its retry, if one is due, is in RETRY and its outcome is in OUTCOMES.

mod attempt;
mod backlog;
mod breaker;
mod deliver;
mod drain;
mod drainer;
mod ended;
mod endpoints;
mod ordered;
mod overdue;
mod payload;
mod room;
mod sweep;
mod waiting;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::try_join_all;
use prometheus_client::metrics::family::Family;
use shopery_model::{Keyring, Lane, RetrySchedule};
use shopery_queue::{
    Age, Circuits, Intake, Outcomes, Pacer, Queue, Waiting, WebhookCache, subject, topology, watch_ages,
};
use shopery_runtime::service::About;
use shopery_runtime::{Env, Runtime, Shutdown};
use shopery_sender::Sender;
use tokio::sync::Semaphore;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::attempt::Attempter;
use crate::breaker::Breaker;
use crate::deliver::Deliverer;
use crate::drainer::Drainer;
use crate::endpoints::Endpoints;
use crate::overdue::Overdue;
use crate::room::Room;
use crate::sweep::Sweeper;

/// Jobs that are held for each attempt that may be under way: most of those wait for their turn.
const HELD: usize = 4;
/// Each is a task that mostly waits, and a message that the consumer counts as pending. The consumer allows 50,000, which is enough for
/// 48 deliverers.
const MAX_DRAINS: usize = 1024;
/// Of the attempts that may be under way, drains may make so many beside them.
const DRAINS_SHARE: usize = 2;

pub const ABOUT: About = About {
    name: "shopery-deliverer",
    what: "posts deliveries to the merchants' endpoints",
    version: env!("CARGO_PKG_VERSION"),
};

#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    queue: shopery_queue::Config,
    sender: shopery_sender::Config,
    keys: Keyring,
    schedule: RetrySchedule,
    breaker: breaker::Config,
    sweep: Duration,
    overdue: overdue::Config,
    slots: usize,
}

impl Config {
    pub fn read(env: &mut Env) -> Option<Self> {
        let listen = env.or("SHOPERY_LISTEN", "0.0.0.0:8083", "Address of /livez, /readyz and /metrics");
        let queue = shopery_queue::Config::read(env);
        let sender = shopery_sender::Config::read(env);
        let keys = shopery_queue::read_keyring(env);
        let schedule = env.or(
            "SHOPERY_RETRY_SCHEDULE",
            "10s,1m,5m,15m,30m,1h,2h",
            "Delays before the second, third, … attempt; each is spread by a fifth to both sides",
        );
        let breaker = breaker::Config::read(env);
        let sweep =
            env.duration("SHOPERY_SWEEP_INTERVAL", "1m", "How often parked jobs without a timer are looked for");
        let overdue = overdue::Config::read(env);
        let slots = env.number(
            "SHOPERY_SLOTS",
            "512",
            1..=16_384,
            "Attempts under way at a time, of a tenant half of it; half as many again for what was parked; \
             four times as many jobs may be held",
        );
        Some(Self {
            listen: listen?,
            queue: queue?,
            sender: sender?,
            keys: keys?,
            schedule: schedule?,
            breaker: breaker?,
            sweep: sweep?,
            overdue: overdue?,
            slots: usize::try_from(slots?).ok()?,
        })
    }
}

/// Attempts that may be under way at a time, where each needs a connection, and drains make some beside them.
fn slots(wanted: usize, connections: usize) -> usize {
    let most = (connections * DRAINS_SHARE / (DRAINS_SHARE + 1)).max(1);
    if wanted > most {
        tracing::error!(
            "SHOPERY_SLOTS is {wanted}, and the file descriptors of this process are enough for {most}: raise their limit \
             (ulimit -n); there will be {most} attempts at a time"
        );
    }
    wanted.min(most)
}

/// Runs until the drain is over.
pub async fn run(config: Config, runtime: Runtime) -> anyhow::Result<()> {
    let starting = runtime.health.starting(ABOUT.name);
    let queue = Queue::connect(&config.queue, ABOUT.name, &starting, &runtime).await?;
    let webhooks = WebhookCache::follow(&queue, Some(&config.keys), &runtime).await?;
    let circuits = Circuits::follow(&queue, &runtime);
    let breaker = Breaker { queue: queue.clone(), circuits: circuits.clone(), config: config.breaker };
    let sender = Sender::new(&config.sender, &runtime)?;
    sender.watch_faults(&runtime);
    let slots = slots(config.slots, sender.max_attempts());
    runtime.metrics.register("sender_connections", "Connections to endpoints", sender.connections());
    let attempter = Arc::new(Attempter::new(queue.clone(), sender, config.schedule, &runtime));
    let (outcomes, recording) = Outcomes::start(queue.clone(), "deliverer");
    let held = slots * HELD;
    let pacer = Pacer::start(&queue, &runtime);
    let workers = Workers {
        deliverer: Deliverer {
            queue: queue.clone(),
            webhooks: webhooks.clone(),
            circuits: circuits.clone(),
            endpoints: Endpoints::new(slots, held),
            breaker: breaker.clone(),
            attempter: attempter.clone(),
            outcomes,
            room: Room::new(queue.clone()),
        },
        drainer: Drainer {
            queue: queue.clone(),
            webhooks: webhooks.clone(),
            circuits: circuits.clone(),
            breaker: breaker.clone(),
            attempter,
            pacer: pacer.clone(),
            slots: Arc::new(Semaphore::new((slots / DRAINS_SHARE).max(1))),
            drains: Arc::new(Semaphore::new(MAX_DRAINS)),
        },
        pacer,
        shutdown: runtime.shutdown.clone(),
    };
    let workers = Arc::new(workers);
    let sweeper =
        Sweeper { queue: queue.clone(), webhooks: webhooks.clone(), circuits, breaker, interval: config.sweep };
    let overdue = Overdue::new(queue.clone(), config.overdue, config.sweep, &runtime);
    let ages = ages(&runtime);
    // Each has places of its own: none can take another's.
    let fresh = Intake::open(&queue, topology::DELIVERER_FAST, held, &runtime.shutdown).await?;
    // No more than may be attempted: what waits, waits in JOBS, and takes nobody's time.
    let bulk = Intake::open(&queue, topology::DELIVERER_BULK, slots, &runtime.shutdown).await?;
    let due = Intake::open(&queue, topology::DELIVERER_DUE, held, &runtime.shutdown).await?;
    starting.over();
    let work = [(fresh, Lane::Fast), (bulk, Lane::Bulk), (due, Lane::Fast)]
        .map(|(intake, lane)| AbortOnDropHandle::new(tokio::spawn(work(intake, workers.clone(), lane))));
    // A lane that has panicked ends the service.
    let work = async { try_join_all(work).await.map(drop).context("the work of a lane has panicked") };
    let beside = async {
        tokio::join!(
            sweeper.run(&runtime.shutdown),
            overdue.run(&runtime.shutdown),
            webhooks.answer(&queue, &runtime.shutdown),
            watch_ages(&queue, &ages, &runtime.shutdown),
        );
        Ok(())
    };
    tokio::try_join!(work, beside)?;
    // The last outcomes are published when nobody can add one any more.
    drop(workers);
    recording.await?;
    queue.client.flush().await.ok();
    Ok(())
}

/// How long the oldest job of each way here has waited.
fn ages(runtime: &Runtime) -> [(Waiting, Age); 4] {
    let undelivered = runtime.metrics.register(
        "oldest_undelivered_seconds",
        "Age of the oldest job by where it waits: a lane, due or parked; 0 if none does",
        Family::<[(&'static str, &'static str); 1], Age>::default(),
    );
    [
        ("fast", Waiting::At(&[topology::DELIVERER_FAST])),
        ("bulk", Waiting::At(&[topology::DELIVERER_BULK])),
        ("due", Waiting::At(&[topology::DELIVERER_DUE])),
        ("parked", Waiting::Parked),
    ]
    .map(|(lane, waiting)| (waiting, undelivered.get_or_create(&[("lane", lane)]).clone()))
}

/// Whoever takes a message on.
struct Workers {
    deliverer: Deliverer,
    drainer: Drainer,
    pacer: Pacer,
    shutdown: Shutdown,
}

async fn work(mut intake: Intake, workers: Arc<Workers>, lane: Lane) {
    let tasks = TaskTracker::new();
    while let Some(taken) = intake.next(&workers.shutdown).await {
        let subject = taken.message.subject();
        let is_timer = subject::parse_drain(subject).is_some();
        let tenant = subject::parse_work(subject);
        let workers = workers.clone();
        if is_timer {
            tasks.spawn(async move { workers.drainer.drain(taken, &workers.shutdown).await });
        } else {
            match (tenant, lane) {
                (Some(tenant), Lane::Fast) => workers.pacer.note_fast(&tenant),
                (Some(tenant), Lane::Bulk) => workers.pacer.turns(&tenant, 1).await,
                // It goes to DEAD.
                (None, _) => {}
            }
            let begun = workers.deliverer.begin(taken).await;
            tasks.spawn(async move { workers.deliverer.finish(begun).await });
        }
    }
    intake.close().await;
    tasks.close();
    tasks.wait().await;
}
