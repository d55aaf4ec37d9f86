//! api: the REST API of webhooks and deliveries, which people and programs manage the product by.

mod attempts;
mod body;
mod changes;
mod clouds;
mod credentials;
mod deliveries;
mod digest;
mod event;
mod event_types;
mod events;
mod idempotency;
mod matching;
mod metrics;
mod openapi;
mod query;
mod recoveries;
pub mod reencrypt;
mod resend;
mod rules;
mod sample;
mod secret;
mod setup;
mod test_call;
mod version;
mod waiting;
mod webhooks;

use std::net::SocketAddr;
use std::time::Duration;

use axum::middleware::from_fn_with_state;
use secrecy::SecretString;
use shopery_control::{ConfigWriter, database};
use shopery_http::fair::{Door, Doors, Rule};
use shopery_http::{Access, AccessConfig, Connections, LimitsConfig, Problem, Usual};
use shopery_model::Keyring;
use shopery_queue::{Queue, read_keyring};
use shopery_runtime::service::About;
use shopery_runtime::{Env, Runtime};
use shopery_sender::{Clouds, Egress, Sender};
use shopery_store::{Store, StoreError};
use tokio::net::TcpListener;
use utoipa_axum::router::OpenApiRouter;

pub const ABOUT: About = About {
    name: "shopery-api",
    what: "serves the REST API; `shopery-api reencrypt` seals all secrets anew",
    version: env!("CARGO_PKG_VERSION"),
};

/// A Test call takes up to five seconds, and a connection.
const TEST_CALLS: Rule =
    Rule { name: "test-calls", what: "Test calls", all: 64, share: 4, max_wait: Duration::from_secs(5) };
/// Digests and metrics: each reads many rows, and takes a connection to the database.
const SUMS: Rule =
    Rule { name: "sums", what: "digests and metrics", all: 8, share: 1, max_wait: Duration::from_secs(10) };
/// Pages of events, up to 4 MiB each in memory.
const EVENT_PAGES: Rule =
    Rule { name: "event-pages", what: "pages of events", all: 32, share: 2, max_wait: Duration::from_secs(5) };

/// Requests to send many deliveries again: each takes a few connections to the database, and room in JOBS.
const RESENDS: Rule =
    Rule { name: "resends", what: "requests to send many again", all: 4, share: 1, max_wait: Duration::from_secs(5) };

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
}

impl Config {
    pub fn read(env: &mut Env) -> Option<Self> {
        let listen = env.or("SHOPERY_LISTEN", "0.0.0.0:8080", "Address of the REST API, /livez, /readyz and /metrics");
        let queue = shopery_queue::Config::read(env);
        let sender = shopery_sender::Config::read(env);
        let access = AccessConfig::read(env);
        let limits = LimitsConfig::read(env, ["SHOPERY_API_TENANT_LIMIT", "SHOPERY_API_CLIENT_LIMIT"], USUAL);
        let keys = read_keyring(env);
        let database = database::read_url(env);
        Some(Self {
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

/// What every handler of the REST API is given.
#[derive(Clone)]
struct App {
    queue: Queue,
    store: Store,
    access: Access,
    keys: Keyring,
    config: ConfigWriter,
    sender: Sender,
    egress: Egress,
    clouds: Clouds,
    test_calls: Door,
    sums: Door,
    event_pages: Door,
    resends: Door,
}

/// Runs until the drain is over.
pub async fn run(config: Config, listener: TcpListener, runtime: Runtime) -> anyhow::Result<()> {
    let starting = runtime.health.starting(ABOUT.name);
    let access = Access::start(&config.access, &runtime)?;
    let store = database::open(&config.database, &runtime.shutdown).await?;
    database::watch_health(store.clone(), &runtime);
    let queue = Queue::connect(&config.queue, ABOUT.name, &starting, &runtime).await?;
    database::wait_for_schema(&store, &starting, &runtime.shutdown).await?;
    reencrypt::check_keys(&store, &config.keys).await?;
    reencrypt::seal_plain(&store, &config.keys).await?;
    let doors = Doors::new("api", &runtime);
    let app = App {
        queue: queue.clone(),
        store: store.clone(),
        access: access.clone(),
        keys: config.keys,
        config: ConfigWriter::start(&queue, store, &runtime),
        egress: config.sender.egress.clone(),
        clouds: config.sender.clouds().clone(),
        sender: Sender::new(&config.sender, &runtime)?,
        test_calls: doors.open(TEST_CALLS),
        sums: doors.open(SUMS),
        event_pages: doors.open(EVENT_PAGES),
        resends: doors.open(RESENDS),
    };
    let (routes, document) = described().split_for_parts();
    let routes = routes.route_layer(from_fn_with_state(app.clone(), idempotency::once)).with_state(app);
    let routes = shopery_http::guarded(routes, access, &config.limits)
        .merge(openapi::routes(document)?)
        .merge(shopery_http::operations(&runtime));
    let routes = shopery_http::with_limits(routes, "api", &runtime);
    let connections = Connections::new(&doors, &config.limits);
    starting.over();
    shopery_http::serve(listener, routes, connections, &runtime.shutdown).await
}

/// The routes that a tenant has, and what is told of them.
fn described() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::about())
        .merge(webhooks::routes())
        .merge(changes::routes())
        .merge(secret::routes())
        .merge(test_call::routes())
        .merge(setup::routes())
        .merge(matching::routes())
        .merge(deliveries::routes())
        .merge(attempts::routes())
        .merge(digest::routes())
        .merge(metrics::routes())
        .merge(resend::routes())
        .merge(recoveries::routes())
        .merge(events::routes())
        .merge(event::routes())
        .merge(event_types::routes())
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
