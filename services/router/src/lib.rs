//! router: turns events into jobs, one for each of the tenant's webhooks that wants the event.
//!
//! It knows the webhooks from CONFIG and never asks the database.
//!
//! Invariant: an event is acknowledged only after all its jobs are in JOBS. Job ids follow from event and webhook, so
//! an event that is routed again adds nothing.

mod route;

use shopery_queue::{Directory, Intake, Queue, topology};
use shopery_runtime::service::About;
use shopery_runtime::{Env, Runtime};
use tokio_util::task::TaskTracker;

use crate::route::Router;

pub const ABOUT: About = About {
    name: "shopery-router",
    what: "matches events with webhooks and publishes a job for each match",
    version: env!("CARGO_PKG_VERSION"),
};

/// Events whose jobs are being published at a time.
const SLOTS: usize = 2048;

#[derive(Debug, Clone)]
pub struct Config {
    pub listen: std::net::SocketAddr,
    queue: shopery_queue::Config,
}

impl Config {
    pub fn read(env: &mut Env) -> Option<Self> {
        let listen = env.or("SHOPERY_LISTEN", "0.0.0.0:8082", "Address of /livez, /readyz and /metrics");
        let queue = shopery_queue::Config::read(env);
        Some(Self { listen: listen?, queue: queue? })
    }
}

/// Runs until the drain is over.
pub async fn run(config: Config, runtime: Runtime) -> anyhow::Result<()> {
    let queue = Queue::connect(&config.queue, ABOUT.name, &runtime).await?;
    let directory = Directory::follow(&queue, &runtime).await?;
    let router = Router::new(queue.clone(), directory, &runtime);
    let mut intake = Intake::open(&queue, topology::ROUTER, SLOTS).await?;
    let tasks = TaskTracker::new();
    while let Some(event) = intake.next(&runtime.shutdown).await {
        // Publishing is begun here, in the order of the events; its end is awaited elsewhere.
        let routed = router.route(event).await;
        tasks.spawn(routed.finish());
    }
    tasks.close();
    tasks.wait().await;
    queue.client.flush().await.ok();
    Ok(())
}
