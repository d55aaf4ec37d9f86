//! controller: what must be done once, however many replicas there are. One of them leads, by lease; the others wait to take
//! over.
//!
//! The leader declares the streams and buckets of NATS, brings the schema of the database up to date, and then runs
//! - [`reconcile`]: keeps CONFIG, which the data plane reads, true to the database;
//! - [`recover`]: works on recoveries;
//! - [`notify`]: notifies tenants of what their webhooks meet;
//! - [`retention`]: forgets what is too old;
//! - [`room`]: looks after the room in streams.

mod notify;
mod reconcile;
mod recover;
mod retention;
mod room;
mod shares;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use prometheus_client::metrics::counter::Counter;
use secrecy::SecretString;
use shopery_control::{ConfigWriter, database};
use shopery_queue::{Circuits, Lease, Link, Queue, WebhookCache};
use shopery_runtime::service::About;
use shopery_runtime::{Env, Runtime, Shutdown, Starting};
use shopery_store::Store;

use crate::notify::Notifier;
use crate::reconcile::Reconciler;
use crate::recover::Recoverer;
use crate::retention::Retention;
use crate::room::Room;

pub const ABOUT: About = About {
    name: "shopery-controller",
    what: "declares streams and schema, keeps CONFIG true to the database, runs recoveries and retention",
    version: env!("CARGO_PKG_VERSION"),
};

/// How often the leader looks whether all streams and buckets are there, besides after every new connection.
const DECLARE_INTERVAL: Duration = Duration::from_secs(10);

/// Delay before a step of the schema is tried again that could not lock a table.
const MIGRATE_DELAY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    queue: shopery_queue::Config,
    database: SecretString,
    retention: Retention,
}

impl Config {
    pub fn read(env: &mut Env) -> Option<Self> {
        let listen = env.or("SHOPERY_LISTEN", "0.0.0.0:8085", "Address of /livez, /readyz and /metrics");
        let queue = shopery_queue::Config::read(env);
        let database = database::read_url(env);
        let retention = Retention::read(env);
        Some(Self { listen: listen?, queue: queue?, database: database?, retention: retention? })
    }
}

/// Runs until the drain is over.
pub async fn run(config: Config, runtime: Runtime) -> anyhow::Result<()> {
    let starting = runtime.health.starting(ABOUT.name);
    let link = Link::connect(&config.queue, ABOUT.name, &runtime).await?;
    let resent = runtime.metrics.register(
        "recovery_deliveries_resent",
        "Deliveries that recoveries have sent again",
        Counter::default(),
    );
    let room = Room::new(&runtime);
    let leader = Leader { link, database: config.database, retention: config.retention, resent, room };
    let shutdown = &runtime.shutdown;
    // One that waits to take over is ready for that.
    while let Some(mut lease) = Lease::acquire(&leader.link, "controller", shutdown, || starting.over()).await {
        tracing::info!("leading");
        // What is begun in this term ends with it.
        let term = runtime.term();
        let led = tokio::select! {
            led = leader.lead(&starting, &term) => Some(led),
            () = lease.hold() => None,
        };
        term.shutdown.begin();
        match led {
            Some(led) => {
                lease.release().await;
                return led;
            }
            None => tracing::warn!("the lease is lost; another replica may lead"),
        }
    }
    Ok(())
}

struct Leader {
    link: Link,
    database: SecretString,
    retention: Retention,
    resent: Counter,
    room: Room,
}

impl Leader {
    /// Leads until the drain begins.
    async fn lead(&self, starting: &Starting, runtime: &Runtime) -> anyhow::Result<()> {
        let shutdown = &runtime.shutdown;
        // Streams first: with the database down, events are taken and routed all the same.
        self.link.declare(shutdown).await?;
        // `open` waits for streams that may be lost again meanwhile, and only `keep_declared` creates them.
        let work = async {
            let queue = self.link.clone().open(starting, shutdown).await?;
            tokio::try_join!(self.work(&queue, starting, runtime), async {
                self.room.run(&queue, shutdown).await;
                Ok(())
            })
        };
        tokio::try_join!(self.keep_declared(shutdown), work).map(drop)
    }

    /// Streams or buckets may be lost while we run: somebody deletes one, or NATS comes back without its store.
    async fn keep_declared(&self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let mut connections = self.link.connections();
        loop {
            tokio::select! {
                () = tokio::time::sleep(DECLARE_INTERVAL) => {}
                Ok(()) = connections.changed() => {}
                () = shutdown.draining() => return Ok(()),
            }
            if let Err(error) = self.link.declare(shutdown).await
                && !shutdown.is_draining()
            {
                tracing::error!("{error:#}");
            }
        }
    }

    async fn work(&self, queue: &Queue, starting: &Starting, runtime: &Runtime) -> anyhow::Result<()> {
        let shutdown = &runtime.shutdown;
        starting.waits_for("waiting for the database");
        let store = database::open(&self.database, shutdown).await?;
        migrate(&store, shutdown).await?;
        database::watch_health(store.clone(), runtime);
        let published = WebhookCache::mirror(queue, runtime).await?;
        let writer = ConfigWriter::start(queue, store.clone(), runtime);
        starting.waits_for("comparing CONFIG with the database");
        let reconciler = Reconciler { queue: queue.clone(), store: store.clone(), writer, published };
        let circuits = Circuits::follow(queue, runtime);
        let notifier = Notifier::new(queue.clone(), store.clone(), circuits);
        let recoverer = Recoverer { queue: queue.clone(), store: store.clone(), resent: self.resent.clone() };
        tokio::try_join!(reconciler.run(starting, shutdown), recoverer.run(shutdown), async {
            tokio::join!(self.retention.run(queue, &store, shutdown), notifier.run(shutdown));
            Ok(())
        })?;
        queue.client.flush().await.ok();
        Ok(())
    }
}

/// Brings the schema up to date. Another leader may have begun with it, and died.
async fn migrate(store: &Store, shutdown: &Shutdown) -> anyhow::Result<()> {
    loop {
        let migrated = tokio::select! {
            migrated = store.migrate() => migrated,
            () = shutdown.draining() => return Ok(()),
        };
        match migrated {
            Err(error) if error.is_of_a_lock() => {
                tracing::warn!(%error, "the schema of the database is brought up to date once its tables can be locked");
                tokio::time::sleep(MIGRATE_DELAY).await;
            }
            migrated => return migrated.context("cannot bring the schema of the database up to date"),
        }
    }
}
