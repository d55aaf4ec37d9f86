//! router: turns events into jobs, one for each of the tenant's webhooks that wants the event and whose rules let it
//! pass; of each of the others the history hears why there is none.
//!
//! It knows the webhooks from CONFIG and never asks the database.
//!
//! Invariant: an event is acknowledged only after all its jobs are in JOBS or RETRY and its outcomes in OUTCOMES. Job
//! ids follow from event and webhook, so an event that is routed again adds nothing.

mod arrived;
mod debounce;
mod decide;
mod duplicates;
mod latest_states;
mod memory;
mod route;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use prometheus_client::metrics::family::Family;
use shopery_model::Allowance;
use shopery_queue::topology::{self, Consumer};
use shopery_queue::{
    Age, Intake, Meter, Outcomes, Pacer, Partition, Partitions, Queue, Waiting, WebhookCache, watch_ages,
};
use shopery_runtime::service::About;
use shopery_runtime::{Env, Runtime, Shutdown};
use tokio_util::task::TaskTracker;

use crate::duplicates::Undelivered;
use crate::memory::Memory;
use crate::route::Router;

pub const ABOUT: About = About {
    name: "shopery-router",
    what: "matches events with webhooks and publishes a job for each match",
    version: env!("CARGO_PKG_VERSION"),
};

/// Events of a partition whose jobs are being published at a time.
const SLOTS: usize = 512;
/// The same for deferred events: few, because they wait for their turn.
const DEFERRED_SLOTS: usize = 32;
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
            "How long a payload that is the same as the one before is dropped; 0s sends it",
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
    let (meter, pacer) = (Meter::new(config.allowance), Pacer::start(&queue, &runtime));
    let router = Arc::new(Router::new(queue.clone(), webhooks.clone(), outcomes, meter, pacer, &runtime));
    let undelivered = Arc::default();
    let work = {
        let (queue, undelivered) = (queue.clone(), Arc::clone(&undelivered));
        move |partition, shutdown| {
            let (queue, router, undelivered) = (queue.clone(), router.clone(), Arc::clone(&undelivered));
            async move {
                let last_before = queue.last_stored_at(&shutdown).await?;
                let memory = Memory::since(last_before, config.duplicate_window, &undelivered);
                serve(partition, queue, router, memory, shutdown).await
            }
        }
    };
    starting.over();
    let ages = ages(&runtime);
    tokio::try_join!(Partitions::new(&queue, "router", config.listen, &runtime).run(&runtime, work), async {
        tokio::join!(
            webhooks.answer(&queue, &runtime.shutdown),
            watch_ages(&queue, &ages, &runtime.shutdown),
            hear_of_undelivered(&queue, &undelivered, &runtime.shutdown),
        );
        Ok(())
    })?;
    // The last outcomes are published when nobody can add one any more.
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
    [("fast", Waiting::At(&topology::ROUTER)), ("bulk", Waiting::At(&topology::ROUTER_DEFERRED))]
        .map(|(lane, waiting)| (waiting, unrouted.get_or_create(&[("lane", lane)]).clone()))
}

/// Routes the events of a partition until it is to be handed over.
async fn serve(
    partition: Partition,
    queue: Queue,
    router: Arc<Router>,
    memory: Memory,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let memory = Arc::new(memory);
    let open = |consumers: &[Consumer; Partition::COUNT], slots| {
        let (queue, consumer, shutdown) = (&queue, consumers[partition.index()], &shutdown);
        async move { Intake::open(queue, consumer, slots, shutdown).await }
    };
    let (fresh, deferred) =
        tokio::try_join!(open(&topology::ROUTER, SLOTS), open(&topology::ROUTER_DEFERRED, DEFERRED_SLOTS))?;
    tokio::join!(route(fresh, &router, &memory, &shutdown), route(deferred, &router, &memory, &shutdown));
    Ok(())
}

/// Publishing is begun in the order of the events; its end is awaited elsewhere.
async fn route(mut intake: Intake, router: &Arc<Router>, memory: &Arc<Memory>, shutdown: &Shutdown) {
    let tasks = TaskTracker::new();
    while let Some(event) = intake.next(shutdown).await {
        router.webhooks.wait_until_current().await;
        let routed = router.begin(event, memory).await;
        tasks.spawn(router.clone().finish(routed));
    }
    intake.close().await;
    tasks.close();
    tasks.wait().await;
}

/// Follows what deliverers say of deliveries that have ended untold. What was said while the connection was lost is not
/// known, so then nothing that was sent before counts.
async fn hear_of_undelivered(queue: &Queue, undelivered: &Undelivered, shutdown: &Shutdown) {
    let mut connections = queue.connections();
    let follow = async {
        loop {
            match queue.undelivered().await {
                Ok(announced) => {
                    let mut announced = std::pin::pin!(announced);
                    loop {
                        tokio::select! {
                            deliveries = announced.next() => match deliveries {
                                Some(deliveries) => undelivered.note(deliveries),
                                None => break,
                            },
                            Ok(()) = connections.changed() => undelivered.note_gap(),
                        }
                    }
                }
                Err(error) => tracing::warn!("cannot hear of undelivered deliveries: {error:#}"),
            }
            undelivered.note_gap();
            tokio::time::sleep(RESUBSCRIBE_DELAY).await;
        }
    };
    tokio::select! {
        () = follow => {}
        () = shutdown.draining() => {}
    }
}
