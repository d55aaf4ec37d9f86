//! deliverer: takes jobs, posts them, tells the history, schedules retries. Run as many as the traffic needs.
//!
//! Invariant: a job is acknowledged only after its retry, if one is due, is in RETRY and its outcome is in OUTCOMES.

mod deliver;

use std::net::SocketAddr;
use std::sync::Arc;

use shopery_model::RetrySchedule;
use shopery_queue::{Directory, Intake, Outcomes, Queue, topology};
use shopery_runtime::service::About;
use shopery_runtime::{Env, Runtime, Shutdown};
use shopery_sender::Sender;
use tokio_util::task::TaskTracker;

use crate::deliver::Deliverer;

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
    schedule: RetrySchedule,
    slots: usize,
}

impl Config {
    pub fn read(env: &mut Env) -> Option<Self> {
        let listen = env.or("SHOPERY_LISTEN", "0.0.0.0:8083", "Address of /livez, /readyz and /metrics");
        let queue = shopery_queue::Config::read(env);
        let sender = shopery_sender::Config::read(env);
        let schedule = env.or(
            "SHOPERY_RETRY_SCHEDULE",
            "10s,1m,5m,15m,30m,1h,2h",
            "Delays before the second, third, … attempt; each is spread by a fifth to both sides",
        );
        let slots =
            env.number("SHOPERY_SLOTS", "512", 1..=16_384, "Attempts under way at a time; as many retries besides");
        Some(Self {
            listen: listen?,
            queue: queue?,
            sender: sender?,
            schedule: schedule?,
            slots: usize::try_from(slots?).ok()?,
        })
    }
}

/// Runs until the drain is over.
pub async fn run(config: Config, runtime: Runtime) -> anyhow::Result<()> {
    let queue = Queue::connect(&config.queue, ABOUT.name, &runtime).await?;
    let directory = Directory::follow(&queue, &runtime).await?;
    let sender = Sender::new(&config.sender)?;
    let (outcomes, recording) = Outcomes::start(queue.clone(), "deliverer");
    let deliverer = Arc::new(Deliverer::new(queue.clone(), directory, sender, config.schedule, outcomes, &runtime));
    // Each has slots of its own: neither fresh jobs nor retries can take the other's.
    let fresh = Intake::open(&queue, topology::DELIVERER_FAST, config.slots).await?;
    let due = Intake::open(&queue, topology::DELIVERER_DUE, config.slots).await?;
    tokio::join!(work(fresh, deliverer.clone(), &runtime.shutdown), work(due, deliverer.clone(), &runtime.shutdown));
    // The last outcomes are published when nobody can add one any more.
    drop(deliverer);
    recording.await?;
    queue.client.flush().await.ok();
    Ok(())
}

async fn work(mut intake: Intake, deliverer: Arc<Deliverer>, shutdown: &Shutdown) {
    let tasks = TaskTracker::new();
    while let Some(job) = intake.next(shutdown).await {
        let deliverer = deliverer.clone();
        tasks.spawn(async move { deliverer.deliver(job).await });
    }
    tasks.close();
    tasks.wait().await;
}
