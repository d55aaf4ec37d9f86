//! Sending: one POST to one endpoint. The deliverer and the Test call share this code, so what a test shows is what a
//! delivery meets: the same client, the same rules about addresses, the same headers and signature.

mod address;
mod answer;
mod dns;
mod egress;
mod message;
mod name;

use std::time::{Duration, Instant};

use anyhow::Context;
use reqwest::redirect;
use shopery_model::{Answer, Credentials, Fault, SignatureKind};
use shopery_runtime::Env;
use time::OffsetDateTime;
use url::Url;

pub use egress::Egress;
pub use message::Message;

/// Name resolution, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The whole exchange, connection included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections kept for each endpoint: as many as a deliverer's slots by default. With fewer, a burst opens
/// connections only to close them, and a TLS handshake costs more than twenty deliveries.
const MAX_IDLE: usize = 512;

#[derive(Debug, Clone)]
pub struct Config {
    pub egress: Egress,
    ca_file: Option<String>,
}

impl Config {
    pub fn read(env: &mut Env) -> Option<Self> {
        let egress = Egress::read(env);
        let ca_file = env.optional("SHOPERY_CA_FILE", "PEM file of a CA to trust besides the system's, for endpoints");
        Some(Self { egress: egress?, ca_file })
    }
}

/// Where a message goes, and what it is signed with.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint<'a> {
    pub url: &'a Url,
    pub credentials: &'a Credentials,
    pub signature: SignatureKind,
}

/// Sends messages. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Sender {
    client: reqwest::Client,
    egress: Egress,
}

impl Sender {
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("Shopery-Webhooks/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .referer(false)
            .retry(reqwest::retry::never())
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE)
            .pool_idle_timeout(Duration::from_secs(60))
            .dns_resolver(config.egress.resolver()?);
        if let Some(path) = &config.ca_file {
            let pem = std::fs::read(path).with_context(|| format!("cannot read SHOPERY_CA_FILE {path}"))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .with_context(|| format!("SHOPERY_CA_FILE {path} is not PEM"))?;
            client = client.tls_certs_merge(certificates);
        }
        Ok(Self { client: client.build().context("cannot set up the HTTP client")?, egress: config.egress.clone() })
    }

    /// Posts `message`, signed at `now`. Whatever happens is an answer: what the endpoint does is never an error of ours.
    pub async fn send(&self, endpoint: Endpoint<'_>, message: &Message<'_>, now: OffsetDateTime) -> Answer {
        let started = Instant::now();
        let mut answer = match self.egress.judge(endpoint.url) {
            Ok(()) => {
                let headers = message.headers(endpoint, now);
                let request = self.client.post(endpoint.url.clone()).headers(headers).body(message.payload.clone());
                answer::read(request.send().await, endpoint.credentials, || now + started.elapsed()).await
            }
            Err(detail) => answer::failed(Fault::AddressForbidden, detail),
        };
        answer.duration = started.elapsed();
        answer
    }
}
