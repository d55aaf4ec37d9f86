//! Everything that is measured, running: a NATS server with a store of its own, the services, two tenants with
//! their webhooks. All of it ends, and its files go, when the [`Stack`] is dropped.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use async_nats::ConnectOptions;
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use shopery_local::nats_server::{self, NatsServer, Publisher};
use shopery_local::tls::Authority;
use shopery_model::{EndpointSecret, WebhookId};

use crate::clouds;
use crate::service::{self, Service};
use crate::sink::Sink;

/// Tenants, how many webhooks each has for the events that we publish, and whether their endpoints answer.
const TENANTS: [(&str, usize, bool); 14] = [
    ("tnt_load_1", 1, true),
    ("tnt_load_5", 5, true),
    (IMPORT, 1, true),
    (RETRIES, 1, true),
    (PARKED, 1, true),
    (ORDERED, 1, true),
    (BUS, 1, true),
    (TOPIC, 1, true),
    (QUIET, 1, true),
    (QUIET_PUBLISHER, 0, true),
    (LOUD, 1, true),
    (LOUD_PUBLISHER, 0, true),
    ("tnt_silent_1", 1, false),
    ("tnt_silent_20", 20, false),
];
/// The tenant that imports its products.
pub const IMPORT: &str = "tnt_import";
/// The tenant whose retries wait.
pub const RETRIES: &str = "tnt_retries";
/// The tenant whose endpoint is away until the sink opens its gate.
pub const PARKED: &str = "tnt_parked";
/// The tenant whose webhook is ordered.
pub const ORDERED: &str = "tnt_ordered";
/// The tenants of row k, one with an event bus and one with a topic.
pub const BUS: &str = "tnt_bus";
pub const TOPIC: &str = "tnt_topic";
/// The tenants of row j: at each door one is quiet and one is loud. Those who publish batches have no webhooks.
pub const QUIET: &str = "tnt_quiet";
pub const QUIET_PUBLISHER: &str = "tnt_quiet_publisher";
pub const LOUD: &str = "tnt_loud";
pub const LOUD_PUBLISHER: &str = "tnt_loud_publisher";

/// How long the history may take to catch up.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Stack {
    // In the order in which they are dropped.
    services: Vec<Service>,
    nats_server: NatsServer,
    nats_options: nats_server::Options,
    _directory: Directory,
    pub tenants: Vec<Tenant>,
    pub admin: async_nats::jetstream::Context,
    nats_version: String,
}

/// A tenant, and what a publisher needs to act for it.
pub struct Tenant {
    pub id: &'static str,
    pub fan_out: usize,
    /// Whether its endpoints answer.
    pub answers: bool,
    /// `Authorization` and `X-tenant-ID`.
    pub headers: HeaderMap,
    pub nats: async_nats::Client,
    pub webhooks: Vec<WebhookId>,
}

impl Stack {
    pub async fn start(authority: &Authority, sink: &Sink, client: &reqwest::Client) -> anyhow::Result<Self> {
        let binaries = service::build().await?;
        let directory = Directory::make()?;
        let secret = random()?;
        let (user, password) = ("shopery".to_owned(), random()?);
        let publishers = TENANTS.map(|(tenant, ..)| (tenant, random()));
        let mut nats_options = nats_server::Options {
            binary: nats_binary().await?,
            store: directory.path.join("nats"),
            port: None,
            service: (user.clone(), password.clone()),
            publishers: publishers.into_iter().map(publisher).collect::<Result<_, _>>()?,
        };
        let nats_server = NatsServer::start(&nats_options).await?;
        let nats_url = nats_server.url();
        // Should it be started again, it has to be found again.
        nats_options.port = Some(nats_server.port());
        let publishers = nats_options.publishers.clone();
        let connect = ConnectOptions::with_user_and_password(user.clone(), password.clone());
        let admin = connect.name("load").connect(&nats_url).await.context("cannot connect to NATS")?;

        let ca_file = directory.path.join("ca.pem");
        std::fs::write(&ca_file, authority.pem())?;
        let database = directory.path.join("history.db");
        let mut variables = vec![
            ("SHOPERY_NATS_URL", nats_url.to_string()),
            ("SHOPERY_NATS_USER", user),
            ("SHOPERY_NATS_PASSWORD", password),
            ("SHOPERY_JWT_SECRET", secret.clone()),
            (
                "SHOPERY_ENCRYPTION_KEYS",
                format!("load:{}", EndpointSecret::generate()?.expose().trim_start_matches("whsec_")),
            ),
            ("SHOPERY_DATABASE_URL", format!("sqlite://{}?mode=rwc", database.display())),
            ("SHOPERY_EGRESS_ALLOW", sink.secure.to_string()),
            ("SHOPERY_CA_FILE", ca_file.display().to_string()),
        ];
        variables.extend(clouds::variables(sink.plain));
        let start = |name| {
            let binary = binaries.get(name).with_context(|| format!("no binary {name}"))?;
            Service::start(name, binary, &variables, &directory.path)
        };
        let services = service::NAMES.into_iter().map(start).collect::<Result<_, _>>()?;
        let nats_version = admin.server_info().version;
        let admin = async_nats::jetstream::new(admin);
        let (tenants, _directory) = (vec![], directory);
        let mut stack = Self { services, nats_server, nats_options, _directory, tenants, admin, nats_version };
        for service in &mut stack.services {
            service.ready(client).await?;
        }
        for ((id, fan_out, answers), publisher) in TENANTS.into_iter().zip(publishers) {
            let headers = credentials(id, &secret)?;
            let url = |number| match (id, answers) {
                (BUS, _) => clouds::BUS.to_owned(),
                (TOPIC, _) => clouds::TOPIC.to_owned(),
                (PARKED, _) => sink.gated_url(number),
                (_, true) => sink.url(number),
                (_, false) => sink.silent_url(number),
            };
            let webhooks = stack.create_webhooks(client, &headers, (0..fan_out).map(url), id == ORDERED).await?;
            let connect = ConnectOptions::with_user_and_password(publisher.user, publisher.password)
                .custom_inbox_prefix(publisher.inbox_prefix)
                .request_timeout(Some(PATIENCE));
            let nats = connect.connect(&nats_url).await.context("a publisher cannot connect to NATS")?;
            stack.tenants.push(Tenant { id, fan_out, answers, headers, nats, webhooks });
        }
        Ok(stack)
    }

    async fn create_webhooks(
        &self,
        client: &reqwest::Client,
        headers: &HeaderMap,
        endpoints: impl Iterator<Item = String>,
        ordered: bool,
    ) -> anyhow::Result<Vec<WebhookId>> {
        let mut created = vec![];
        let url = format!("http://{}/company/webhooks", self.service("shopery-api")?.address);
        for (number, endpoint) in endpoints.enumerate() {
            let webhook = serde_json::json!({
                "name": format!("load {number}"), "url": endpoint, "events": ["order-created", "product-created"], "isEnabled": true,
                "ordered": ordered,
            });
            let answer = client.post(&url).headers(headers.clone()).json(&webhook).send().await?;
            let (status, text) = (answer.status(), answer.text().await?);
            ensure!(status == reqwest::StatusCode::CREATED, "cannot create a webhook: {status} {text}");
            let answer: serde_json::Value = serde_json::from_str(&text)?;
            let id = answer["id"].as_str().and_then(|id| id.parse().ok());
            created.push(id.with_context(|| format!("a webhook has no id: {text}"))?);
        }
        Ok(created)
    }

    pub fn service(&self, name: &str) -> anyhow::Result<&Service> {
        self.services.iter().find(|service| service.name == name).with_context(|| format!("no service {name}"))
    }

    pub fn tenant(&self, fan_out: usize, answers: bool) -> anyhow::Result<&Tenant> {
        let tenant = self.tenants.iter().find(|tenant| tenant.fan_out == fan_out && tenant.answers == answers);
        tenant.with_context(|| format!("no tenant has {fan_out} webhooks"))
    }

    pub fn tenant_named(&self, id: &str) -> anyhow::Result<&Tenant> {
        self.tenants.iter().find(|tenant| tenant.id == id).with_context(|| format!("no tenant {id}"))
    }

    /// Every process whose CPU time a delivery is charged with.
    pub fn processes(&self) -> Vec<(&'static str, u32)> {
        let services = self.services.iter().map(|service| (service.name, service.pid()));
        services.chain([("nats-server", self.nats_server.pid())]).collect()
    }

    /// SIGTERM, and a start on the same store; returns how long both took. The services and the loader reconnect.
    pub async fn restart_nats(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.nats_server.stop().await?;
        self.nats_server = NatsServer::start(&self.nats_options).await?;
        Ok(began.elapsed())
    }

    /// How many messages a stream holds.
    pub async fn held(&self, stream: &str) -> anyhow::Result<u64> {
        Ok(self.admin.get_stream(stream).await?.cached_info().state.messages)
    }

    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        self.services.iter_mut().try_for_each(Service::check_alive)
    }

    /// Waits until no work is left anywhere: every outcome is in the history. Each stream is fed by the ones before it,
    /// and a message leaves a stream only after its successor is in the next, so looking at them in order misses none.
    pub async fn settled(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for stream in ["INBOUND", "DEFERRED", "JOBS", "RETRY", "OUTCOMES"] {
            loop {
                self.check_alive()?;
                let waiting = self.held(stream).await?;
                if waiting == 0 {
                    break;
                }
                if Instant::now() > deadline {
                    bail!("{stream} still holds {waiting} messages after {} s", PATIENCE.as_secs());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// What the figures depend on, one fact a line.
    pub fn facts(&self) -> Vec<String> {
        vec![
            format!("nats-server {}, one server, file storage, on loopback", self.nats_version),
            "durability: streams R1, default sync interval (acknowledged before fsync); SQLite history".to_owned(),
        ]
    }

    /// What the services have complained about in their logs.
    pub fn complaints(&self) -> Vec<String> {
        let complaint = |service: &Service| {
            let (count, first) = service.complaints()?;
            Some(format!("{} logged {count} warnings or errors; the first: {first}", service.name))
        };
        self.services.iter().filter_map(complaint).collect()
    }
}

/// The server on PATH, or the one that the launcher keeps too. An installation ends when nobody waits for it any more.
async fn nats_binary() -> anyhow::Result<PathBuf> {
    let cache = nats_server::user_cache().unwrap_or_else(|| service::workspace().join(".local"));
    if let Some(binary) = nats_server::find(&cache) {
        return Ok(binary);
    }
    eprintln!("installing nats-server {}", nats_server::PINNED);
    let waiting = Arc::new(());
    let waits = Arc::downgrade(&waiting);
    tokio::task::spawn_blocking(move || nats_server::install(&cache, &|| waits.strong_count() == 0)).await?
}

fn publisher((tenant, password): (&str, anyhow::Result<String>)) -> anyhow::Result<Publisher> {
    Ok(Publisher {
        user: format!("publisher-{tenant}"),
        password: password?,
        tenant: tenant.to_owned(),
        inbox_prefix: format!("_INBOX_{tenant}"),
    })
}

/// The headers of a client that may do everything for one tenant, for an hour.
fn credentials(tenant: &str, secret: &str) -> anyhow::Result<HeaderMap> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = serde_json::json!({
        "sub": tenant, "tenants": [tenant], "exp": now + 3600, "scope": "webhooks:read webhooks:write events:write",
    });
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key)?;
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {token}"))?);
    headers.insert("x-tenant-id", HeaderValue::from_str(tenant)?);
    Ok(headers)
}

/// 32 bytes from the operating system, in text.
fn random() -> anyhow::Result<String> {
    let secret = EndpointSecret::generate()?;
    Ok(secret.expose().trim_start_matches("whsec_").replace(['+', '/', '='], "x"))
}

/// A directory for this run alone, removed with all that is in it.
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn make() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("shopery-load-{}", std::process::id()));
        make_private(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }
}

fn make_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

impl Drop for Directory {
    fn drop(&mut self) {
        // A server that has just been killed may be writing its last file.
        let deadline = Instant::now() + Duration::from_secs(2);
        while let Err(error) = std::fs::remove_dir_all(&self.path) {
            if Instant::now() > deadline {
                eprintln!("cannot remove {}: {error}", self.path.display());
                break;
            }
            #[expect(clippy::disallowed_methods, reason = "nothing else runs any more, and drop cannot await")]
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
