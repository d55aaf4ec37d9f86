//! One installation of Shopery Webhooks for one test: a NATS server, a database, the services as real processes,
//! and a merchant.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use futures_util::TryStreamExt;
use shopery_local::nats_server::{self, NatsServer};
use shopery_local::tls::Authority;
use tokio::process::Command;

use crate::collector::Traces;
use crate::nats_cluster::NatsCluster;
use crate::process::{self, tail};
use crate::publisher::Credentials;
use crate::{
    Client, Cloud, Folder, Merchant, Metrics, Process, Publisher, Signal, SmallDisk, leaks, metrics, parts, ports,
    postgres::Postgres, token, wait,
};

/// `SHOPERY_ENCRYPTION_KEYS` of a stack that is not told otherwise.
pub const KEYS: &str = "first:dGhlIGZpcnN0IGtleSBvZiB0aGUgZTJlIHN1aXRlISE=";

/// The password by which the services connect to NATS, and how that of each publisher begins.
pub const PASSWORD: &str = "the-services-nats-password";
pub const PUBLISHERS_PASSWORD: &str = "publishers-password";

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(40);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    Ingest,
    Router,
    Deliverer,
    Recorder,
    Controller,
    Api,
}

impl Service {
    pub const ALL: [Self; 6] =
        [Self::Ingest, Self::Router, Self::Deliverer, Self::Recorder, Self::Controller, Self::Api];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ingest => "shopery-ingest",
            Self::Router => "shopery-router",
            Self::Deliverer => "shopery-deliverer",
            Self::Recorder => "shopery-recorder",
            Self::Controller => "shopery-controller",
            Self::Api => "shopery-api",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseKind {
    Sqlite,
    Postgres,
}

/// What a stack will be.
#[derive(Debug)]
pub struct Plan {
    env: BTreeMap<String, String>,
    database: DatabaseKind,
    tenants: Vec<String>,
    more_roots: String,
    is_cluster: bool,
    nats_store: Option<PathBuf>,
    postgres_disk: Option<SmallDisk>,
    binaries: Option<PathBuf>,
}

/// How a process differs from those of the stack.
#[derive(Debug, Clone, Default)]
pub struct Apart {
    /// The folder of the version that it is of.
    pub binaries: Option<PathBuf>,
    /// How far its clock is ahead; below 0, behind.
    pub clock_seconds: i64,
}

/// Everything ends when it is dropped, and what the services have said is searched for [`leaks`]; when the test has failed,
/// the ends of the logs are printed.
#[derive(Debug)]
pub struct Stack {
    pub merchant: Merchant,
    pub authority: Authority,
    pub postgres: Option<Postgres>,
    env: BTreeMap<String, String>,
    tenants: Vec<String>,
    ports: HashMap<Service, u16>,
    services: HashMap<Service, Process>,
    nats: Option<NatsServer>,
    cluster: Option<NatsCluster>,
    binaries: Option<PathBuf>,
    apart: HashMap<Service, Apart>,
    nats_options: nats_server::Options,
    traces: Traces,
    folder: Folder,
}

impl Plan {
    /// Sets a variable of all services.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    pub fn database(mut self, kind: DatabaseKind) -> Self {
        self.database = kind;
        self
    }

    /// Services that send to this cloud what is addressed there.
    pub fn cloud(self, cloud: &Cloud) -> Self {
        cloud.variables().into_iter().fold(self, |plan, (name, value)| plan.env(name, value))
    }

    /// The tenants that have a NATS publisher; without this, `tnt_a` and `tnt_b`.
    pub fn tenants<'a>(mut self, tenants: impl IntoIterator<Item = &'a str>) -> Self {
        self.tenants = tenants.into_iter().map(str::to_owned).collect();
        self
    }

    /// NATS as a cluster of three nodes, without publishers.
    pub fn cluster_of_three(mut self) -> Self {
        self.is_cluster = true;
        self
    }

    /// Where NATS keeps its streams.
    pub fn nats_store(mut self, folder: PathBuf) -> Self {
        self.nats_store = Some(folder);
        self
    }

    /// Where PostgreSQL keeps its data.
    pub fn postgres_disk(mut self, disk: SmallDisk) -> Self {
        self.postgres_disk = Some(disk);
        self
    }

    /// The services of another version, whose binaries are in this folder.
    pub fn binaries(mut self, folder: PathBuf) -> Self {
        self.binaries = Some(folder);
        self
    }

    /// Another authority that the services trust.
    pub fn trust(mut self, pem: &str) -> Self {
        self.more_roots.push_str(pem);
        self
    }

    /// Starts everything; ready when it returns.
    pub async fn start(self) -> Stack {
        let folder = Folder::create();
        let authority = Authority::generate().unwrap();
        let roots = folder.join("ca.pem");
        std::fs::write(&roots, format!("{}\n{}", authority.pem(), self.more_roots)).unwrap();
        let merchant = Merchant::start(&authority).await;

        let publisher = |(number, tenant): (usize, &String)| nats_server::Publisher {
            user: format!("publisher-{number}"),
            password: format!("{PUBLISHERS_PASSWORD}-{number}"),
            tenant: tenant.clone(),
            inbox_prefix: format!("_INBOX_{number}"),
        };
        let nats_options = nats_server::Options {
            binary: parts::nats_server().await,
            store: self.nats_store.unwrap_or_else(|| folder.join("nats")),
            port: Some(ports::free()),
            service: ("services".to_owned(), PASSWORD.to_owned()),
            publishers: self.tenants.iter().enumerate().map(publisher).collect(),
        };
        let traces = Traces::start().await;
        let postgres = match self.database {
            DatabaseKind::Sqlite => None,
            DatabaseKind::Postgres => Some(Postgres::start(self.postgres_disk).await),
        };
        let database = match &postgres {
            Some(postgres) => postgres.url(),
            None => format!("sqlite://{}?mode=rwc", folder.join("shopery.db").display()),
        };
        let mut env: BTreeMap<String, String> = [
            ("SHOPERY_NATS_URL", format!("nats://127.0.0.1:{}", nats_options.port.unwrap())),
            ("SHOPERY_NATS_USER", nats_options.service.0.clone()),
            ("SHOPERY_NATS_PASSWORD", nats_options.service.1.clone()),
            ("SHOPERY_ACK_WAIT", "6s".to_owned()),
            ("SHOPERY_RETRY_SCHEDULE", "300ms,1s,2s,4s,8s".to_owned()),
            ("SHOPERY_JWT_SECRET", token::SECRET.to_owned()),
            ("SHOPERY_ENCRYPTION_KEYS", KEYS.to_owned()),
            ("SHOPERY_DATABASE_URL", database),
            ("SHOPERY_CA_FILE", roots.display().to_string()),
            ("SHOPERY_JWKS_CA_FILE", roots.display().to_string()),
            ("SHOPERY_EGRESS_ALLOW", "127.0.0.1".to_owned()),
            ("SHOPERY_EGRESS_PORTS", "1-65535".to_owned()),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", traces.url()),
            ("OTEL_BSP_SCHEDULE_DELAY", "1000".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        env.extend(self.env);

        let mut stack = Stack {
            merchant,
            authority,
            postgres,
            env,
            tenants: self.tenants,
            ports: Service::ALL.map(|service| (service, ports::free())).into(),
            services: HashMap::new(),
            nats: None,
            cluster: None,
            binaries: self.binaries,
            apart: HashMap::new(),
            nats_options,
            traces,
            folder,
        };
        if self.is_cluster {
            let (user, password) = &stack.nats_options.service;
            let cluster = NatsCluster::start(&stack.folder.join("cluster"), user, password).await;
            stack.env.insert("SHOPERY_NATS_URL".to_owned(), cluster.url());
            stack.cluster = Some(cluster);
        } else {
            stack.start_nats().await;
        }
        for service in Service::ALL {
            stack.spawn(service);
        }
        for service in Service::ALL {
            stack.ready(service).await;
        }
        stack
    }
}

impl Stack {
    pub fn plan() -> Plan {
        Plan {
            env: BTreeMap::new(),
            database: DatabaseKind::Sqlite,
            tenants: vec!["tnt_a".to_owned(), "tnt_b".to_owned()],
            more_roots: String::new(),
            is_cluster: false,
            nats_store: None,
            postgres_disk: None,
            binaries: None,
        }
    }

    /// The usual stack, on SQLite.
    pub async fn start() -> Self {
        Self::plan().start().await
    }

    pub async fn on(database: DatabaseKind) -> Self {
        Self::plan().database(database).start().await
    }

    /// `http://127.0.0.1:<port>` of a service.
    pub fn url(&self, service: Service) -> String {
        format!("http://127.0.0.1:{}", self.ports[&service])
    }

    pub fn client(&self, tenant: &str) -> Client {
        Client::new(self.url(Service::Api), self.url(Service::Ingest), tenant)
    }

    /// Whether the plan has a NATS publisher for this tenant.
    pub fn has_publisher(&self, tenant: &str) -> bool {
        self.tenants.iter().any(|known| known == tenant)
    }

    /// What a NATS publisher of this tenant is given.
    pub fn credentials(&self, tenant: &str) -> Credentials {
        let number = self.tenants.iter().position(|known| known == tenant).expect("a tenant of the plan");
        let publisher = &self.nats_options.publishers[number];
        Credentials {
            url: self.env["SHOPERY_NATS_URL"].clone(),
            user: publisher.user.clone(),
            password: publisher.password.clone(),
            inbox_prefix: publisher.inbox_prefix.clone(),
        }
    }

    pub async fn publisher(&self, tenant: &str) -> Publisher {
        Publisher::connect(&self.credentials(tenant), tenant).await
    }

    /// A connection with the rights of the services, for a look at the streams.
    pub async fn operator(&self) -> async_nats::Client {
        let (user, password) = self.nats_options.service.clone();
        let options = async_nats::ConnectOptions::with_user_and_password(user, password);
        let urls: Vec<_> = self.env["SHOPERY_NATS_URL"].split(',').collect();
        options.connect(urls).await.unwrap()
    }

    /// Starts a service; ready when it returns.
    pub async fn run(&mut self, service: Service) {
        self.spawn(service);
        self.ready(service).await;
    }

    /// Starts a service with other variables than the stack's.
    pub async fn run_with(&mut self, service: Service, env: &[(&str, &str)]) {
        self.env.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self.run(service).await;
    }

    /// A service's binary, with the stack's variables.
    pub fn command(&self, service: Service) -> Command {
        let apart = self.apart.get(&service).cloned().unwrap_or_default();
        self.command_of(service, self.ports[&service], &apart)
    }

    fn command_of(&self, service: Service, port: u16, apart: &Apart) -> Command {
        let binary = match apart.binaries.as_ref().or(self.binaries.as_ref()) {
            Some(folder) => folder.join(service.name()),
            None => parts::binary(service.name()),
        };
        let mut command = Command::new(binary);
        command.env_clear().envs(&self.env).env("RUST_BACKTRACE", "1").current_dir(self.folder.path());
        command.env("SHOPERY_LISTEN", format!("127.0.0.1:{port}"));
        if apart.clock_seconds != 0 {
            command.env("LD_PRELOAD", parts::faketime()).env("FAKETIME", format!("{:+}s", apart.clock_seconds));
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        command
    }

    /// From its next start on, a service is run so.
    pub fn set_apart(&mut self, service: Service, apart: Apart) {
        self.apart.insert(service, apart);
    }

    /// Starts a service without waiting for it.
    pub fn spawn(&mut self, service: Service) {
        let command = self.command(service);
        let process = Process::start(service.name(), command, &self.log_of(service));
        self.services.insert(service, process);
    }

    /// Waits until a service says that it is ready.
    pub async fn ready(&mut self, service: Service) {
        let url = self.url(service);
        let process = self.services.get_mut(&service).expect("a running service");
        ready(service, process, &url).await;
    }

    /// One more process of a service beside that of the stack, ready when this returns. It is the test's own: killed by
    /// [`Process::kill`], and started again under the same number.
    pub async fn replica(&self, service: Service, number: usize) -> Process {
        self.replica_apart(service, number, &Apart::default()).await
    }

    /// The same, of a process that is run otherwise.
    pub async fn replica_apart(&self, service: Service, number: usize, apart: &Apart) -> Process {
        let port = ports::free();
        let command = self.command_of(service, port, apart);
        let log = self.folder.join(&format!("{}-{number}.log", service.name()));
        let mut process = Process::start(service.name(), command, &log);
        ready(service, &mut process, &format!("http://127.0.0.1:{port}")).await;
        process
    }

    /// From now on services are started from the binaries of this workspace.
    pub fn use_own_binaries(&mut self) {
        self.binaries = None;
    }

    /// Of a plan that has one.
    pub fn cluster(&mut self) -> &mut NatsCluster {
        self.cluster.as_mut().expect("a cluster")
    }

    pub fn process(&mut self, service: Service) -> &mut Process {
        self.services.get_mut(&service).expect("a running service")
    }

    /// SIGKILL.
    pub async fn kill(&mut self, service: Service) {
        self.process(service).kill().await;
        self.services.remove(&service);
    }

    /// SIGTERM; returns how it ended.
    pub async fn stop(&mut self, service: Service) -> ExitStatus {
        self.process(service).signal(Signal::SIGTERM);
        let status = self.process(service).exit(STOP).await;
        self.services.remove(&service);
        status
    }

    pub async fn metrics(&self, service: Service) -> Metrics {
        Metrics::of(&self.url(service)).await.unwrap()
    }

    /// Waits until all work has come to its end: no stream holds any, and nothing has moved between two looks.
    pub async fn at_rest(&self, deadline: Duration) {
        let jetstream = async_nats::jetstream::new(self.operator().await);
        let look = async || -> Result<(u64, u64, String), async_nats::Error> {
            let (mut waiting, mut last) = (0, 0);
            let mut seen = String::new();
            for name in ["INBOUND", "EVENTS", "DEFERRED", "JOBS", "RETRY", "PARKED", "OUTCOMES"] {
                let stream = jetstream.get_stream(name).await?;
                let state = &stream.cached_info().state;
                let waits = if name == "EVENTS" {
                    let mut routers = stream.consumers();
                    let mut unrouted = 0;
                    while let Some(router) = routers.try_next().await? {
                        unrouted += router.num_pending + router.num_ack_pending as u64;
                    }
                    unrouted
                } else {
                    state.messages
                };
                waiting += waits;
                last += state.last_sequence;
                seen += &format!("{name} {waits} ");
            }
            Ok((waiting, last, seen))
        };
        let mut before = None;
        wait::until("all work to come to its end", deadline, async || {
            let (waiting, last, seen) = look().await.map_err(|error| error.to_string())?;
            let is_still = before.replace(last) == Some(last);
            if waiting == 0 && is_still { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    pub async fn start_nats(&mut self) {
        let started = NatsServer::start(&self.nats_options).await;
        self.nats = Some(started.unwrap_or_else(|error| panic!("nats-server: {error:#}")));
    }

    /// SIGKILL; its store stays.
    pub async fn kill_nats(&mut self) {
        self.nats.take().expect("a running server").kill().await.unwrap();
    }

    pub fn nats_pid(&self) -> u32 {
        self.nats.as_ref().expect("a running server").pid()
    }

    pub fn signal_nats(&self, signal: Signal) {
        process::send(self.nats_pid(), signal).unwrap();
    }

    /// SIGTERM; its store stays.
    pub async fn stop_nats(&mut self) {
        self.nats.take().expect("a running server").stop().await.unwrap();
    }

    /// Takes from a server that is stopped all that it has stored.
    pub fn empty_nats(&self) {
        assert!(self.nats.is_none(), "NATS runs");
        std::fs::remove_dir_all(self.nats_options.store.join("jetstream")).unwrap();
    }

    pub fn nats_url(&self) -> &str {
        &self.env["SHOPERY_NATS_URL"]
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// All that a service has logged, in all its runs.
    pub fn log(&self, service: Service) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_of(service)).unwrap_or_default()).into_owned()
    }

    fn log_of(&self, service: Service) -> PathBuf {
        self.folder.join(&format!("{}.log", service.name()))
    }
}

async fn ready(service: Service, process: &mut Process, url: &str) {
    wait::until(&format!("{} to be ready", service.name()), START, async || {
        if let Some(status) = process.ended() {
            panic!("{} has ended: {status}\n{}", service.name(), tail(&process.output(), 20));
        }
        match reqwest::get(format!("{url}/readyz")).await {
            Ok(answer) if answer.status() == 200 => Ok(()),
            Ok(answer) => Err(answer.text().await.unwrap_or_default()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
}

impl Stack {
    /// What a service has said that it must not.
    fn leak(&self) -> Option<String> {
        let logged = |file: PathBuf| {
            let leak = leaks::find(&std::fs::read(&file).unwrap_or_default())?;
            Some(format!("{} has {leak}", file.display()))
        };
        let counted = |service: Service| {
            let metrics = metrics::read_now(self.ports[&service]).unwrap_or_default();
            Some(format!("a metric of {} has {}", service.name(), leaks::find(&metrics)?))
        };
        let mut logs = self.logs().into_iter();
        logs.find_map(logged)
            .or_else(|| Service::ALL.into_iter().find_map(counted))
            .or_else(|| Some(format!("a trace has {}", self.traces.leak()?)))
    }

    /// Of every process, replicas included.
    fn logs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path()).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|kind| kind == "log")).collect()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            if let Some(leak) = self.leak() {
                panic!("{leak}");
            }
        } else {
            for service in Service::ALL {
                eprintln!("--- the end of {}.log\n{}", service.name(), tail(&self.log(service), 15));
            }
        }
    }
}
