//! The keys of an identity provider, fetched from its JWKS and kept up to date.
//!
//! One task fetches: at the start, then every `SHOPERY_JWKS_REFRESH`, and sooner when a token names a key that is not
//! known, though never sooner than [`COOLDOWN`] after the time before. Bounds that follow: a key that was added is
//! honoured at its first use, or within [`COOLDOWN`] of it; one that was removed is not honoured any more within one
//! refresh and [`TIMEOUT`]. While the provider does not answer its last keys go on working, for `SHOPERY_JWKS_MAX_AGE`.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::{Bytes, BytesMut};
use reqwest::redirect;
use shopery_runtime::{Counts, Env, Runtime, Shutdown};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use url::{Host, Url};

use crate::keys::{self, Checks, Key};

/// Between two fetches, whoever asks for them.
const COOLDOWN: Duration = Duration::from_secs(5);
/// Of one fetch, connection and body included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// After a fetch that failed.
const RETRY: Duration = Duration::from_secs(10);
const MAX_BODY: usize = 256 * 1024;

#[derive(Debug, Clone)]
pub(crate) struct Config {
    url: JwksUrl,
    ca_file: Option<String>,
    refresh: Duration,
    max_age: Duration,
}

#[derive(Debug, Clone)]
struct JwksUrl(Url);

impl Config {
    /// `Some(None)` if there is no JWKS.
    pub(crate) fn read(env: &mut Env) -> Option<Option<Self>> {
        let url = env.optional::<JwksUrl>(
            "SHOPERY_JWKS_URL",
            "https:// URL of the identity provider's JWKS, whose RS256, ES256 and EdDSA keys sign tokens (http:// on loopback)",
        );
        let ca_file =
            env.optional("SHOPERY_JWKS_CA_FILE", "PEM file of a CA to trust besides the system's, for the JWKS");
        let refresh = env.duration("SHOPERY_JWKS_REFRESH", "5m", "How often the JWKS is fetched; 1s or more");
        let max_age = env.duration(
            "SHOPERY_JWKS_MAX_AGE",
            "24h",
            "How long the last keys go on working while the JWKS cannot be fetched",
        );
        let (refresh, max_age) = (refresh?, max_age?);
        if refresh < Duration::from_secs(1) || max_age < refresh {
            env.refuse("SHOPERY_JWKS_REFRESH: must be 1s or more, and SHOPERY_JWKS_MAX_AGE no less");
            return None;
        }
        Some(url.map(|url| Self { url, ca_file, refresh, max_age }))
    }
}

impl FromStr for JwksUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        let is_loopback = match url.host() {
            Some(Host::Ipv4(v4)) => v4.is_loopback(),
            Some(Host::Ipv6(v6)) => v6.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        match url.scheme() {
            "https" => Ok(Self(url)),
            "http" if is_loopback => Ok(Self(url)),
            _ => Err("must start with https://: whoever changes the keys on their way can sign tokens".to_owned()),
        }
    }
}

/// The keys as they are now. Clones see the same.
#[derive(Debug, Clone)]
pub(crate) struct Jwks {
    current: watch::Receiver<Current>,
    wanted: Arc<Notify>,
    max_age: Duration,
}

#[derive(Debug, Clone, Default)]
struct Current {
    keys: Arc<[Key]>,
    /// Changes whenever the keys do.
    generation: u64,
    fetched_at: Option<Instant>,
    /// Of the last fetch, whether it failed or not.
    tried_at: Option<Instant>,
    body: Bytes,
}

impl Jwks {
    /// Begins to fetch.
    pub(crate) fn start(config: &Config, checks: Checks, runtime: &Runtime) -> anyhow::Result<Self> {
        let (sender, current) = watch::channel(Current::default());
        let jwks = Self { current, wanted: Arc::default(), max_age: config.max_age };
        let fetcher = Fetcher {
            client: client(config)?,
            url: config.url.0.clone(),
            refresh: config.refresh,
            checks,
            fetches: runtime.metrics.shared("jwks_fetches", "Fetches of the JWKS by result: ok or failed"),
        };
        runtime.spawn("jwks", fetcher.run(sender, jwks.wanted.clone(), runtime.shutdown.clone()));
        Ok(jwks)
    }

    /// The keys and their generation; none if they are too old, or there never were any.
    pub(crate) fn keys(&self) -> Option<(Arc<[Key]>, u64)> {
        let current = self.current.borrow();
        self.is_fresh(&current).then(|| (current.keys.clone(), current.generation))
    }

    pub(crate) fn generation(&self) -> Option<u64> {
        let current = self.current.borrow();
        self.is_fresh(&current).then_some(current.generation)
    }

    fn is_fresh(&self, current: &Current) -> bool {
        current.fetched_at.is_some_and(|at| at.elapsed() < self.max_age)
    }

    /// Has the keys fetched once more, unless that was done just now; returns whether it was done.
    pub(crate) async fn fetched_again(&self) -> bool {
        let mut current = self.current.clone();
        let before = current.borrow().tried_at;
        // Also too soon it is a wish for later.
        self.wanted.notify_one();
        if before.is_some_and(|at| at.elapsed() < COOLDOWN) {
            return false;
        }
        timeout(TIMEOUT + Duration::from_secs(1), current.wait_for(|now| now.tried_at != before)).await.is_ok()
    }
}

fn client(config: &Config) -> anyhow::Result<reqwest::Client> {
    let mut client = reqwest::Client::builder()
        .user_agent(concat!("Shopery-Webhooks/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(TIMEOUT / 2)
        .timeout(TIMEOUT)
        .pool_max_idle_per_host(0);
    if let Some(path) = &config.ca_file {
        let pem = std::fs::read(path).with_context(|| format!("cannot read SHOPERY_JWKS_CA_FILE {path}"))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)
            .with_context(|| format!("SHOPERY_JWKS_CA_FILE {path} is not PEM"))?;
        client = client.tls_certs_merge(certificates);
    }
    client.build().context("cannot set up the HTTP client of the JWKS")
}

struct Fetcher {
    client: reqwest::Client,
    url: Url,
    refresh: Duration,
    checks: Checks,
    fetches: Counts,
}

impl Fetcher {
    async fn run(self, current: watch::Sender<Current>, wanted: Arc<Notify>, shutdown: Shutdown) {
        loop {
            let fetched = self.fetch().await;
            let result = if fetched.is_ok() { "ok" } else { "failed" };
            self.fetches.get_or_create(&[("result", result.to_owned())]).inc();
            let pause = match fetched {
                Ok((keys, body)) => {
                    current.send_modify(|current| current.update(keys, body));
                    self.refresh
                }
                Err(error) => {
                    tracing::warn!("cannot fetch the JWKS, its last keys go on working: {error:#}");
                    current.send_modify(|current| current.tried_at = Some(Instant::now()));
                    self.refresh.min(RETRY)
                }
            };
            let soon = async {
                sleep(COOLDOWN).await;
                wanted.notified().await;
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = soon => {}
                () = shutdown.draining() => return,
            }
        }
    }

    async fn fetch(&self) -> anyhow::Result<(Vec<Key>, Bytes)> {
        let mut response = self.client.get(self.url.clone()).send().await?;
        let status = response.status();
        ensure!(status == reqwest::StatusCode::OK, "it answered {status}");
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_BODY {
                bail!("it is over {} KiB", MAX_BODY / 1024);
            }
            body.extend_from_slice(&chunk);
        }
        let (keys, others) = keys::parse(&body, &self.checks).context("it is not a JWKS")?;
        if keys.is_empty() {
            tracing::warn!(others, "the JWKS has no key that verifies tokens");
        }
        Ok((keys, body.freeze()))
    }
}

impl Current {
    fn update(&mut self, keys: Vec<Key>, body: Bytes) {
        let now = Instant::now();
        (self.tried_at, self.fetched_at) = (Some(now), Some(now));
        if self.body != body || self.generation == 0 {
            tracing::info!(keys = keys.len(), "the keys of the JWKS are new or have changed");
            self.keys = keys.into();
            self.generation += 1;
            self.body = body;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_tls_or_from_this_machine() {
        for (url, is_good) in [
            ("https://id.example/jwks", true),
            ("http://127.0.0.1:8000/jwks", true),
            ("http://[::1]/jwks", true),
            ("http://localhost/jwks", true),
            ("http://id.example/jwks", false),
            ("http://localhost.id.example/jwks", false),
            ("http://10.0.0.1/jwks", false),
            ("ftp://id.example/jwks", false),
            ("file:///jwks", false),
            ("id.example/jwks", false),
        ] {
            assert_eq!(url.parse::<JwksUrl>().is_ok(), is_good, "{url}");
        }
    }

    #[test]
    fn the_generation_changes_with_the_keys_alone() {
        let mut current = Current::default();
        for (body, generation) in [("a", 1), ("a", 1), ("b", 2), ("b", 2), ("a", 3)] {
            current.update(Vec::new(), Bytes::from(body));
            assert_eq!(current.generation, generation, "{body}");
        }
    }
}
