use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use anyhow::{anyhow, bail};
use shopery_backoffice::Link;
use shopery_runtime::Runtime;
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep};

use crate::{Arguments, DataDir, Settings};

/// Recovering much data takes time, but not for ever.
const READY_DEADLINE: Duration = Duration::from_secs(90);

/// Where outsiders connect. Bound before anything is started, so that a taken port costs nothing.
#[derive(Debug)]
pub struct Listeners {
    pub api: TcpListener,
    pub ingest: TcpListener,
    pub backoffice: TcpListener,
}

/// Where the pages are, if nobody says where and nobody else is there.
const BACKOFFICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8086);

impl Listeners {
    /// Listens, or says in one line where it cannot.
    pub async fn bind(arguments: &Arguments, data: &DataDir) -> anyhow::Result<Self> {
        let bind = async |address, option: &str| {
            shopery_http::bind(address).await.map_err(|error| anyhow!("{error:#}; {option} takes another"))
        };
        let api = bind(arguments.api, "--api").await?;
        let ingest = bind(arguments.ingest, "--ingest").await?;
        let backoffice = match arguments.backoffice {
            Some(address) => bind(address, "--backoffice").await?,
            // A second launcher, with other addresses for the two above, has its pages elsewhere.
            None => match shopery_http::bind(BACKOFFICE).await {
                Ok(listener) => listener,
                Err(_) => data.listen("backoffice.port").await?,
            },
        };
        Ok(Self { api, ingest, backoffice })
    }

    pub fn api_url(&self) -> anyhow::Result<String> {
        base_url(&self.api)
    }

    pub fn ingest_url(&self) -> anyhow::Result<String> {
        base_url(&self.ingest)
    }

    pub fn backoffice_url(&self) -> anyhow::Result<String> {
        base_url(&self.backoffice)
    }
}

/// The URL under which this machine reaches a listener, which may listen on all its addresses.
fn base_url(listener: &TcpListener) -> anyhow::Result<String> {
    let mut address = listener.local_addr()?;
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Ok(format!("http://{address}"))
}

type Service = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;
type Ended = (&'static str, anyhow::Result<()>);

/// ingest, router, deliverer, recorder, controller, api and backoffice, each a task of this process.
#[derive(Debug)]
pub struct Services {
    running: JoinSet<Ended>,
    runtime: Runtime,
    /// A service that answers `/readyz` with 200 knows that it is ready.
    faces: [String; 3],
}

impl Services {
    /// `link` signs in at the pages.
    pub fn start(settings: &Settings, listeners: Listeners, link: Link, runtime: &Runtime) -> anyhow::Result<Self> {
        let (ingest, router, deliverer, recorder, controller, api, backoffice) = settings.read(|env| {
            let ingest = shopery_ingest::Config::read(env);
            let router = shopery_router::Config::read(env);
            let deliverer = shopery_deliverer::Config::read(env);
            let recorder = shopery_recorder::Config::read(env);
            let controller = shopery_controller::Config::read(env);
            let api = shopery_api::Config::read(env);
            let backoffice = shopery_backoffice::Config::read(env);
            Some((ingest?, router?, deliverer?, recorder?, controller?, api?, backoffice?))
        })?;
        let faces = [listeners.api_url()?, listeners.ingest_url()?, listeners.backoffice_url()?];
        let services: [(_, Service); 7] = [
            ("ingest", Box::pin(shopery_ingest::run(ingest, listeners.ingest, runtime.clone()))),
            ("router", Box::pin(shopery_router::run(router, runtime.clone()))),
            ("deliverer", Box::pin(shopery_deliverer::run(deliverer, runtime.clone()))),
            ("recorder", Box::pin(shopery_recorder::run(recorder, runtime.clone()))),
            ("controller", Box::pin(shopery_controller::run(controller, runtime.clone()))),
            ("api", Box::pin(shopery_api::run(api, listeners.api, runtime.clone()))),
            (
                "backoffice",
                Box::pin(shopery_backoffice::run(backoffice, listeners.backoffice, Some(link), runtime.clone())),
            ),
        ];
        let mut running = JoinSet::new();
        for (name, service) in services {
            running.spawn(async move { (name, service.await) });
        }
        Ok(Self { running, runtime: runtime.clone(), faces })
    }

    /// Completes when all services are ready; an error if one ends instead, or they take too long.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let (runtime, faces) = (self.runtime.clone(), self.faces.clone());
        tokio::select! {
            error = self.failed() => Err(error),
            all_ready = all_ready(&runtime, &faces) => all_ready,
        }
    }

    /// Completes when a service has ended though nobody told it to.
    pub async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            ended = self.running.join_next() => match ended {
                Some(ended) => failure(ended).unwrap_or_else(|| anyhow!("a service ended by itself")),
                None => anyhow!("no service is running"),
            },
            why = self.runtime.failed() => anyhow!(why),
        }
    }

    /// Completes when all services have drained. The error is that of the first service which failed in it.
    pub async fn drained(&mut self) -> anyhow::Result<()> {
        let mut first = Ok(());
        while let Some(ended) = self.running.join_next().await {
            if let (Ok(()), Some(error)) = (&first, failure(ended)) {
                first = Err(error);
            }
        }
        first
    }
}

fn failure(ended: Result<Ended, JoinError>) -> Option<anyhow::Error> {
    match ended {
        Ok((_, Ok(()))) => None,
        Ok((name, Err(error))) => Some(error.context(format!("the {name} failed"))),
        Err(error) => Some(anyhow!("a service crashed: {error}")),
    }
}

/// Ready is: the services with a public face say so of themselves, and no check of any service says otherwise.
async fn all_ready(runtime: &Runtime, faces: &[String]) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().timeout(Duration::from_secs(2)).build()?;
    let deadline = Instant::now() + READY_DEADLINE;
    for face in faces {
        let url = format!("{face}/readyz");
        while !client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
            pause(deadline, runtime).await?;
        }
    }
    while !runtime.health.obstacles().is_empty() {
        pause(deadline, runtime).await?;
    }
    Ok(())
}

async fn pause(deadline: Instant, runtime: &Runtime) -> anyhow::Result<()> {
    if Instant::now() > deadline {
        let obstacles = runtime.health.obstacles().into_iter().map(|(name, why)| format!("{name}: {why}"));
        let obstacles = obstacles.collect::<Vec<_>>().join("; ");
        bail!("the services are not ready after {} s: {obstacles}", READY_DEADLINE.as_secs());
    }
    sleep(Duration::from_millis(20)).await;
    Ok(())
}
