//! ingest: takes events, over HTTP and from NATS, and stores them in EVENTS.
//!
//! Invariant: a publisher is told that its event is accepted only after EVENTS acknowledged it. Repeats of an id are
//! stored once, so a publisher that heard nothing publishes again.

mod accept;
mod document;
mod encoding;
mod http;
mod inbound;
mod mode;
mod recent_acks;
mod validate;

use std::net::SocketAddr;

use shopery_http::fair::Doors;
use shopery_http::{Access, AccessConfig, Connections, LimitsConfig, Usual};
use shopery_model::{Allowance, catalogue};
use shopery_queue::{Age, Intake, Meter, Pacer, Queue, Waiting, topology, watch_ages};
use shopery_runtime::service::About;
use shopery_runtime::{Env, Runtime};
use tokio::net::TcpListener;

use crate::accept::Acceptor;
use crate::validate::Validation;

pub const ABOUT: About = About {
    name: "shopery-ingest",
    what: "accepts events over HTTP and from NATS",
    version: env!("CARGO_PKG_VERSION"),
};

/// More than one ingest takes in: a tenant's burst is held to its pace, not refused. The limits are for what runs wild.
const USUAL: Usual = Usual { tenant: "50000/1s", client: "50000/1s" };

#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    queue: shopery_queue::Config,
    access: AccessConfig,
    limits: LimitsConfig,
    allowance: Allowance,
    validate_events: validate::Mode,
}

impl Config {
    pub fn read(env: &mut Env) -> Option<Self> {
        let listen = env.or("SHOPERY_LISTEN", "0.0.0.0:8081", "Address of POST /events, /livez, /readyz and /metrics");
        let queue = shopery_queue::Config::read(env);
        let access = AccessConfig::read(env);
        let limits = LimitsConfig::read(env, ["SHOPERY_INGEST_TENANT_LIMIT", "SHOPERY_INGEST_CLIENT_LIMIT"], USUAL);
        let allowance = shopery_queue::read_allowance(env);
        let validate_events = env.or(
            "SHOPERY_VALIDATE_EVENTS",
            "off",
            "Whether data is compared with the JSON Schema of the catalogue: off; warn counts and logs what differs; \
             reject refuses it",
        );
        Some(Self {
            listen: listen?,
            queue: queue?,
            access: access?,
            limits: limits?,
            allowance: allowance?,
            validate_events: validate_events?,
        })
    }
}

/// Runs until the drain is over.
pub async fn run(config: Config, listener: TcpListener, runtime: Runtime) -> anyhow::Result<()> {
    let starting = runtime.health.starting(ABOUT.name);
    let validation = Validation::start(config.validate_events, catalogue(), &runtime.metrics)?;
    let access = Access::start(&config.access, &runtime)?;
    let queue = Queue::connect(&config.queue, ABOUT.name, &starting, &runtime).await?;
    let acceptor = Acceptor::new(queue.clone(), validation, &runtime);
    let (meter, pacer) = (Meter::new(config.allowance), Pacer::start(&queue, &runtime));
    let doors = Doors::new("ingest", &runtime);
    let routes = http::routes(acceptor.clone(), access.clone(), &doors, meter, pacer);
    let routes = shopery_http::guarded(routes, access, &config.limits)
        .merge(shopery_http::document::routes(&document::document(), "SHOPERY_INGEST_URL")?)
        .merge(shopery_http::operations(&runtime));
    let routes = shopery_http::with_limits(routes, "ingest", &runtime);
    let age = runtime.metrics.register(
        "oldest_unaccepted_seconds",
        "Age of the oldest event in INBOUND that is not accepted yet; 0 if there is none",
        Age::default(),
    );
    let ages = [(Waiting::At(&[topology::INGEST]), age)];
    let inbound = Intake::open(&queue, topology::INGEST, inbound::SLOTS, &runtime.shutdown).await?;
    starting.over();
    tokio::try_join!(
        shopery_http::serve(listener, routes, Connections::new(&doors, &config.limits), &runtime.shutdown),
        inbound::answer(queue.clone(), acceptor.clone(), &runtime.shutdown),
        inbound::forward(inbound, &queue, acceptor, &runtime.shutdown),
        async {
            watch_ages(&queue, &ages, &runtime.shutdown).await;
            Ok(())
        },
    )?;
    Ok(())
}
