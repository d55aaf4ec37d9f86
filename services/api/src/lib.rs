//! api: the control plane. REST for webhooks and deliveries, the recorder that writes the history, and the publisher
//! that keeps CONFIG, which the data plane reads, true to the database.

mod body;
mod changes;
mod credentials;
mod deliveries;
mod digest;
mod disabled;
mod event_types;
mod events;
mod idempotency;
mod metrics;
mod openapi;
mod publicist;
mod query;
mod recorder;
mod recover;
mod recoveries;
pub mod reencrypt;
mod resend;
mod retention;
mod rules;
mod secret;
mod test_call;
mod timestamp;
mod version;
mod waiting;
mod webhooks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::middleware::from_fn_with_state;
use secrecy::{ExposeSecret, SecretString};
use shopery_http::{Access, AccessConfig, LimitsConfig, Problem, Usual};
use shopery_model::Keyring;
use shopery_queue::{Age, Directory, Intake, Queue, Waiting, read_keyring, topology, watch_ages};
use shopery_runtime::service::About;
use shopery_runtime::{Env, Runtime, Shutdown};
use shopery_sender::{Egress, Sender};
use shopery_store::{Store, StoreError};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;

use crate::publicist::Publicist;
use crate::recover::Recoverer;
use crate::retention::Retention;

pub const ABOUT: About = About {
    name: "shopery-api",
    what: "serves the REST API and records the history of deliveries; `shopery-api reencrypt` seals all secrets anew",
    version: env!("CARGO_PKG_VERSION"),
};

/// How long the start waits for a database that does not answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the database is asked whether it is there.
const PING: Duration = Duration::from_secs(2);
/// Test calls under way at a time.
const TEST_CALLS: usize = 32;
/// Digests that are worked out at a time: each reads many rows.
const DIGESTS: usize = 4;

/// Ample for a merchant's integration. A client may act for many tenants, as the backoffice does.
const USUAL: Usual = Usual { tenant: "12000/1m", client: "60000/1m" };

#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    queue: shopery_queue::Config,
    sender: shopery_sender::Config,
    access: AccessConfig,
    limits: LimitsConfig,
    keys: Keyring,
    database: SecretString,
    disable_after: Duration,
    retention: Retention,
}

impl Config {
    pub fn read(env: &mut Env) -> Option<Self> {
        let listen = env.or("SHOPERY_LISTEN", "0.0.0.0:8080", "Address of the REST API, /livez, /readyz and /metrics");
        let queue = shopery_queue::Config::read(env);
        let sender = shopery_sender::Config::read(env);
        let access = AccessConfig::read(env);
        let limits = LimitsConfig::read(env, ["SHOPERY_API_TENANT_LIMIT", "SHOPERY_API_CLIENT_LIMIT"], USUAL);
        let keys = read_keyring(env);
        let database = read_database(env);
        let disable_after = env.duration(
            "SHOPERY_DISABLE_AFTER",
            "3d",
            "A webhook whose every attempt has failed for so long is disabled; 0s: never",
        );
        let retention = Retention::read(env);
        Some(Self {
            retention: retention?,
            disable_after: disable_after?,
            listen: listen?,
            queue: queue?,
            sender: sender?,
            access: access?,
            limits: limits?,
            keys: keys?,
            database: database?,
        })
    }
}

fn read_database(env: &mut Env) -> Option<SecretString> {
    let doc = "postgres://user:password@host/database, or sqlite:///path/of/the.db?mode=rwc";
    env.required::<String>("SHOPERY_DATABASE_URL", doc).map(SecretString::from)
}

/// What every handler of the REST API is given.
#[derive(Clone)]
struct App {
    queue: Queue,
    store: Store,
    access: Access,
    keys: Keyring,
    publicist: Publicist,
    sender: Sender,
    egress: Egress,
    test_calls: Arc<Semaphore>,
    digests: Arc<Semaphore>,
    /// Wakes whoever works on recoveries.
    recoveries: Arc<Notify>,
}

/// Runs until the drain is over.
pub async fn run(config: Config, listener: TcpListener, runtime: Runtime) -> anyhow::Result<()> {
    let starting = runtime.health.starting(ABOUT.name);
    let access = Access::start(&config.access, &runtime)?;
    let store = connect(config.database.expose_secret(), &runtime.shutdown).await?;
    reencrypt::check_keys(&store, &config.keys).await?;
    reencrypt::seal_plain(&store, &config.keys).await?;
    watch_health(store.clone(), &runtime);
    let queue = Queue::connect(&config.queue, ABOUT.name, &runtime).await?;
    let directory = Directory::follow(&queue, None, &runtime).await?;
    let publicist = Publicist::start(&queue, store.clone(), directory, &runtime.shutdown);
    let recoveries = Arc::new(Notify::new());
    let recoverer = Recoverer { queue: queue.clone(), store: store.clone(), news: recoveries.clone() };
    let app = App {
        queue: queue.clone(),
        store: store.clone(),
        access: access.clone(),
        keys: config.keys,
        publicist: publicist.clone(),
        egress: config.sender.egress.clone(),
        sender: Sender::new(&config.sender)?,
        test_calls: Arc::new(Semaphore::new(TEST_CALLS)),
        digests: Arc::new(Semaphore::new(DIGESTS)),
        recoveries,
    };
    let (routes, document) = described().split_for_parts();
    let routes = routes.route_layer(from_fn_with_state(app.clone(), idempotency::once)).with_state(app);
    let routes = shopery_http::guarded(routes, access, &config.limits)
        .merge(openapi::routes(document)?)
        .merge(shopery_http::operations(&runtime));
    let routes = shopery_http::with_limits(routes, "api", &runtime);
    let age = runtime.metrics.register(
        "oldest_unrecorded_seconds",
        "Age of the oldest outcomes that are not in the history yet; 0 if there are none",
        Age::default(),
    );
    let ages = [(Waiting::At(topology::RECORDER), age)];
    let outcomes = Intake::open(&queue, topology::RECORDER, recorder::SLOTS, &runtime.shutdown).await?;
    starting.over();
    let patience = Some(config.disable_after).filter(|patience| !patience.is_zero());
    tokio::try_join!(
        shopery_http::serve(listener, routes, &runtime.shutdown),
        recorder::run(outcomes, &queue, store.clone(), publicist.clone(), patience, &runtime),
        publicist.reconcile(&runtime.shutdown),
        recoverer.run(&runtime),
        async {
            watch_ages(&queue, &ages, &runtime.shutdown).await;
            Ok(())
        },
        async {
            idempotency::sweep(&store, &runtime.shutdown).await;
            Ok(())
        },
        async {
            config.retention.run(&queue, &store, &runtime.shutdown).await;
            Ok(())
        },
    )?;
    Ok(())
}

/// The routes that a tenant has, and what is told of them.
fn described() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::about())
        .merge(webhooks::routes())
        .merge(changes::routes())
        .merge(secret::routes())
        .merge(test_call::routes())
        .merge(deliveries::routes())
        .merge(digest::routes())
        .merge(metrics::routes())
        .merge(resend::routes())
        .merge(recoveries::routes())
        .merge(events::routes())
        .merge(event_types::routes())
}

/// Waits for a PostgreSQL that is still starting. A SQLite file that cannot be opened will not heal.
async fn connect(url: &str, shutdown: &Shutdown) -> anyhow::Result<Store> {
    let end = Instant::now() + PATIENCE;
    loop {
        match Store::connect(url).await {
            Ok(store) => return Ok(store),
            Err(error) if url.starts_with("postgres") && Instant::now() < end && !shutdown.is_draining() => {
                tracing::warn!(%error, "the database does not answer yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error).context("cannot open the database of SHOPERY_DATABASE_URL"),
        }
    }
}

fn watch_health(store: Store, runtime: &Runtime) {
    let (sender, state) = watch::channel(Ok(()));
    runtime.health.check("database", move || state.borrow().clone());
    let shutdown = runtime.shutdown.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(PING) => {}
                () = shutdown.draining() => return,
            }
            let _ = sender.send_replace(store.ping().await.map_err(|_| "the database does not answer".to_owned()));
        }
    });
}

/// A failing database is the caller's to wait for; anything else is ours to mend.
fn database_problem(error: StoreError) -> Problem {
    match error {
        StoreError::TooMany(_) => Problem::conflict(format!("{error}; delete one first")),
        StoreError::TooManyRecoveries(_) => Problem::conflict(format!("{error}; wait for one to end, or cancel one")),
        StoreError::Database(_) => {
            tracing::warn!("{error}");
            Problem::unavailable("the database does not answer; nothing was changed that you were not told of", 2)
        }
        StoreError::Corrupt(_) => {
            tracing::error!("{error}");
            Problem::internal()
        }
    }
}

/// NATS does not answer, or not as it should.
fn queue_problem(error: &anyhow::Error) -> Problem {
    tracing::warn!("{error:#}");
    Problem::unavailable("the events cannot be read now; nothing was changed", 2)
}
