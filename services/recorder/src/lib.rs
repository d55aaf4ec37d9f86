//! recorder: moves outcomes from OUTCOMES into the history in SQL, and disables webhooks whose endpoints are gone or have
//! failed for too long. As many as the traffic needs: what two of them write at once is written once.
//!
//! Invariant: a message is acknowledged only after its outcomes are committed. While the database is away they stay in
//! OUTCOMES; deliveries go on without it.

mod record;

use std::net::SocketAddr;
use std::time::Duration;

use secrecy::SecretString;
use shopery_control::{ConfigWriter, database};
use shopery_queue::{Age, Intake, Queue, Waiting, topology, watch_ages};
use shopery_runtime::service::About;
use shopery_runtime::{Env, Runtime};

pub const ABOUT: About = About {
    name: "shopery-recorder",
    what: "records the history of deliveries, and disables webhooks that fail for too long",
    version: env!("CARGO_PKG_VERSION"),
};

#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    queue: shopery_queue::Config,
    database: SecretString,
    disable_after: Duration,
}

impl Config {
    pub fn read(env: &mut Env) -> Option<Self> {
        let listen = env.or("SHOPERY_LISTEN", "0.0.0.0:8084", "Address of /livez, /readyz and /metrics");
        let queue = shopery_queue::Config::read(env);
        let database = database::read_url(env);
        let disable_after = env.duration(
            "SHOPERY_DISABLE_AFTER",
            "3d",
            "A webhook whose every attempt has failed for so long is disabled; 0s: never",
        );
        Some(Self { listen: listen?, queue: queue?, database: database?, disable_after: disable_after? })
    }
}

/// Runs until the drain is over.
pub async fn run(config: Config, runtime: Runtime) -> anyhow::Result<()> {
    let starting = runtime.health.starting(ABOUT.name);
    let store = database::open(&config.database, &runtime.shutdown).await?;
    database::watch_health(store.clone(), &runtime);
    let queue = Queue::connect(&config.queue, ABOUT.name, &starting, &runtime).await?;
    database::wait_for_schema(&store, &starting, &runtime.shutdown).await?;
    let writer = ConfigWriter::start(&queue, store.clone(), &runtime);
    let age = runtime.metrics.register(
        "oldest_unrecorded_seconds",
        "Age of the oldest outcomes that are not in the history yet; 0 if there are none",
        Age::default(),
    );
    let ages = [(Waiting::At(&[topology::RECORDER]), age)];
    let outcomes = Intake::open(&queue, topology::RECORDER, record::SLOTS, &runtime.shutdown).await?;
    starting.over();
    let disable_after = Some(config.disable_after).filter(|after| !after.is_zero());
    tokio::try_join!(record::run(outcomes, &queue, store, writer, disable_after, &runtime), async {
        watch_ages(&queue, &ages, &runtime.shutdown).await;
        Ok(())
    })?;
    Ok(())
}
