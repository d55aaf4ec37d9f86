//! router: turns events into jobs, one for each of the tenant's webhooks that wants the event and whose rules let it
//! pass; of each of the others the history hears why there is none.
//!
//! It knows the webhooks from CONFIG and never asks the database.
//!
//! Invariant: an event is acknowledged only after all its jobs are in JOBS or RETRY and its outcomes in OUTCOMES. Job
//! ids follow from event and webhook, so an event that is routed again adds nothing.

mod debounce;
mod decide;
mod duplicates;
mod latest_states;
mod route;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use prometheus_client::metrics::family::Family;
use shopery_model::Allowance;
use shopery_queue::{Age, Intake, Meter, Outcomes, Pacer, Queue, Waiting, WebhookCache, topology, watch_ages};
use shopery_runtime::service::About;
use shopery_runtime::{Env, Runtime, Shutdown};
use tokio_util::task::TaskTracker;

use crate::duplicates::Duplicates;
use crate::route::Router;

pub const ABOUT: About = About {
    name: "shopery-router",
    what: "matches events with webhooks and publishes a job for each match",
    version: env!("CARGO_PKG_VERSION"),
};

/// Events whose jobs are being published at a time.
const SLOTS: usize = 2048;
/// The same for deferred events: few, because they wait for their turn.
const DEFERRED_SLOTS: usize = 64;
/// Delay before a subscription that has ended is made again.
const RESUBSCRIBE_DELAY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct Config {
    pub listen: std::net::SocketAddr,
    queue: shopery_queue::Config,
    duplicate_window: Duration,
    allowance: Allowance,
}

impl Config {
    pub fn read(env: &mut Env) -> Option<Self> {
        let listen = env.or("SHOPERY_LISTEN", "0.0.0.0:8082", "Address of /livez, /readyz and /metrics");
        let queue = shopery_queue::Config::read(env);
        let duplicate_window = env.duration(
            "SHOPERY_DUPLICATE_WINDOW",
            "10m",
            "How long a payload that is the same as the one before is dropped; 0s sends it. Each router remembers its own",
        );
        let allowance = shopery_queue::read_allowance(env);
        Some(Self { listen: listen?, queue: queue?, duplicate_window: duplicate_window?, allowance: allowance? })
    }
}

/// Runs until the drain is over.
pub async fn run(config: Config, runtime: Runtime) -> anyhow::Result<()> {
    let starting = runtime.health.starting(ABOUT.name);
    let queue = Queue::connect(&config.queue, ABOUT.name, &starting, &runtime).await?;
    let webhooks = WebhookCache::follow(&queue, None, &runtime).await?;
    let (outcomes, recording) = Outcomes::start(queue.clone(), "router");
    let duplicates = Duplicates::within(config.duplicate_window);
    let (meter, pacer) = (Meter::new(config.allowance), Pacer::start(&queue, &runtime));
    let router = Router::new(queue.clone(), webhooks.clone(), outcomes, duplicates, meter, pacer, &runtime);
    let router = Arc::new(router);
    let fresh = Intake::open(&queue, topology::ROUTER, SLOTS, &runtime.shutdown).await?;
    let deferred = Intake::open(&queue, topology::ROUTER_DEFERRED, DEFERRED_SLOTS, &runtime.shutdown).await?;
    starting.over();
    let ages = ages(&runtime);
    tokio::join!(
        route(fresh, &router, &runtime.shutdown),
        route(deferred, &router, &runtime.shutdown),
        webhooks.answer(&queue, &runtime.shutdown),
        watch_ages(&queue, &ages, &runtime.shutdown),
        hear_of_undelivered(&queue, &router, &runtime.shutdown),
    );
    // The last outcomes are published when nobody can add one any more.
    drop(router);
    recording.await?;
    queue.client.flush().await.ok();
    Ok(())
}

/// How long the oldest event has waited, as it came and put off.
fn ages(runtime: &Runtime) -> [(Waiting, Age); 2] {
    let unrouted = runtime.metrics.register(
        "oldest_unrouted_seconds",
        "Age of the oldest event that is not routed, by whether it was put off; 0 if there is none",
        Family::<[(&'static str, &'static str); 1], Age>::default(),
    );
    [("fast", Waiting::At(topology::ROUTER)), ("bulk", Waiting::At(topology::ROUTER_DEFERRED))]
        .map(|(lane, waiting)| (waiting, unrouted.get_or_create(&[("lane", lane)]).clone()))
}

/// Publishing is begun in the order of the events; its end is awaited elsewhere.
async fn route(mut intake: Intake, router: &Arc<Router>, shutdown: &Shutdown) {
    let tasks = TaskTracker::new();
    while let Some(event) = intake.next(shutdown).await {
        router.webhooks.wait_until_current().await;
        let routed = router.begin(event).await;
        tasks.spawn(router.clone().finish(routed));
    }
    tasks.close();
    tasks.wait().await;
}

/// Follows what deliverers say of deliveries that have ended untold. What was said while the connection was lost is not
/// known, so then nothing that was sent before counts.
async fn hear_of_undelivered(queue: &Queue, router: &Router, shutdown: &Shutdown) {
    let mut connections = queue.connections();
    let follow = async {
        loop {
            match queue.undelivered().await {
                Ok(announced) => {
                    let mut announced = std::pin::pin!(announced);
                    loop {
                        tokio::select! {
                            deliveries = announced.next() => match deliveries {
                                Some(deliveries) => router.forget_undelivered(deliveries),
                                None => break,
                            },
                            Ok(()) = connections.changed() => router.forget_all_sent(),
                        }
                    }
                }
                Err(error) => tracing::warn!("cannot hear of undelivered deliveries: {error:#}"),
            }
            router.forget_all_sent();
            tokio::time::sleep(RESUBSCRIBE_DELAY).await;
        }
    };
    tokio::select! {
        () = follow => {}
        () = shutdown.draining() => {}
    }
}
