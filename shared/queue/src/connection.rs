use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::connection::State;
use async_nats::jetstream;
use async_nats::{ConnectOptions, Event};
use secrecy::{ExposeSecret, SecretString};
use shopery_model::MAX_EVENT_BYTES;
use shopery_runtime::{Counts, Env, Runtime, Shutdown, Starting};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::events_check::{Doubt, watch_events};
use crate::{Partition, clock, event_types, topology};

/// The oldest server whose scheduled messages do what RETRY needs.
const OLDEST_SERVER: (i64, i64, i64) = (2, 14, 0);

/// How long a service waits for NATS when it starts.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long we wait for the leader of a stream. While the cluster elects another, it drops such a request and says
/// nothing: a longer wait would outlast the election.
pub(crate) const LEADER_TIMEOUT: Duration = Duration::from_secs(1);
/// Delay between start-up retries.
const START_RETRY_DELAY: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub struct Config {
    pub url: String,
    pub user: Option<String>,
    pub password: Option<SecretString>,
    pub credentials: Option<String>,
    pub ca_file: Option<String>,
    pub limits: topology::Limits,
}

impl Config {
    pub fn read(env: &mut Env) -> Option<Self> {
        let url = env.or(
            "SHOPERY_NATS_URL",
            "nats://127.0.0.1:4222",
            "NATS servers, comma-separated; tls:// for TLS. At least NATS 2.14 with JetStream",
        );
        let user = env.optional("SHOPERY_NATS_USER", "NATS user");
        let password = env.optional::<String>("SHOPERY_NATS_PASSWORD", "NATS password").map(SecretString::from);
        let credentials = env.optional("SHOPERY_NATS_CREDENTIALS", "Path of a NATS .creds file, instead of a user");
        let ca_file = env.optional("SHOPERY_NATS_CA", "Path of a PEM file with the CA of the NATS servers");
        let limits = topology::Limits::read(env);
        event_types::read(env)?;
        Some(Self { url: url?, user, password, credentials, ca_file, limits: limits? })
    }
}

/// A connection to a NATS that is checked, whatever it has of streams.
#[derive(Debug, Clone)]
pub struct Link {
    pub client: async_nats::Client,
    pub jetstream: jetstream::Context,
    pub limits: topology::Limits,
    connections: watch::Receiver<u64>,
    dead: Counts,
    too_new: Counts,
    retried: Counts,
    doubt: Doubt,
}

/// A connection to NATS, with the streams in place. Clones are the same one, and cheap.
#[derive(Debug, Clone)]
pub struct Queue(Arc<Connection>);

#[derive(Debug)]
pub struct Connection {
    pub client: async_nats::Client,
    pub jetstream: jetstream::Context,
    pub limits: topology::Limits,
    pub buckets: topology::Buckets,
    /// Of each partition, one look at a time at how far its events are routed.
    pub(crate) routed: [tokio::sync::Mutex<Option<(Instant, u64)>>; Partition::COUNT],
    /// Changes with every new connection: what the server kept for the old one (outstanding pulls) is gone.
    pub(crate) connections: watch::Receiver<u64>,
    /// Messages put on DEAD, by reason.
    pub(crate) dead: Counts,
    /// Messages of a newer version that we left to newer services, by consumer.
    pub(crate) too_new: Counts,
    pub(crate) retried: Counts,
    pub(crate) doubt: Doubt,
}

impl Deref for Queue {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

/// What a message has besides an event: its headers, and what a job says of it.
pub(crate) const MAX_OVERHEAD: usize = 64 * 1024;
/// A server that takes less would refuse events that we have accepted.
const MIN_MAX_PAYLOAD: usize = MAX_EVENT_BYTES + MAX_OVERHEAD;

impl Link {
    /// Connects and checks the server. Later, it reconnects by itself for as long as it takes.
    pub async fn connect(config: &Config, name: &str, runtime: &Runtime) -> anyhow::Result<Self> {
        let (connected, connections) = watch::channel(0);
        let mut options = ConnectOptions::new()
            .name(name)
            .retry_on_initial_connect()
            .connection_timeout(Duration::from_secs(5))
            .ping_interval(Duration::from_secs(10))
            .request_timeout(Some(Duration::from_secs(5)))
            .subscription_capacity(16 * 1024)
            .client_capacity(8 * 1024)
            // Soon at first, so that a restart of the server is over quickly; then up to two seconds.
            .reconnect_delay_callback(|attempts| Duration::from_millis((20 << attempts.min(7)).min(2000) as u64))
            .event_callback(move |event| {
                match &event {
                    Event::Connected => {
                        tracing::info!("connected to NATS");
                        connected.send_modify(|count| *count += 1);
                    }
                    Event::Disconnected => tracing::warn!("the connection to NATS is lost; reconnecting"),
                    other => tracing::warn!("NATS: {other}"),
                }
                std::future::ready(())
            });
        if let (Some(user), Some(password)) = (&config.user, &config.password) {
            options = options.user_and_password(user.clone(), password.expose_secret().to_owned());
        }
        if let Some(path) = &config.credentials {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
            options = options.credentials(&text).with_context(|| format!("{path} is not a credentials file"))?;
        }
        if let Some(path) = &config.ca_file {
            options = options.add_root_certificates(path.into());
        }
        let servers: Vec<_> = config.url.split(',').map(str::trim).collect();
        let client = options.connect(servers).await.with_context(|| format!("cannot connect to {}", config.url))?;

        let mut first = connections.clone();
        tokio::select! {
            changed = first.wait_for(|count| *count > 0) => drop(changed?),
            () = runtime.shutdown.draining() => bail!("stopped while connecting to NATS"),
            () = tokio::time::sleep(START_TIMEOUT) => {
                bail!("no NATS server at {} within {} s", config.url, START_TIMEOUT.as_secs())
            }
        }
        let (major, minor, patch) = OLDEST_SERVER;
        if !client.is_server_compatible(major, minor, patch) {
            bail!("NATS at {} is {}; at least {major}.{minor} is needed", config.url, client.server_info().version);
        }

        let max_payload = client.server_info().max_payload;
        if max_payload < MIN_MAX_PAYLOAD {
            bail!(
                "NATS at {} takes messages of up to {max_payload} bytes; at least {MIN_MAX_PAYLOAD} are needed: \
                 raise max_payload in its configuration",
                config.url
            );
        }

        let checked = client.clone();
        runtime.health.check("nats", move || match checked.connection_state() {
            State::Connected => Ok(()),
            State::Pending | State::Disconnected => Err("not connected; reconnecting".to_owned()),
        });
        let jetstream = jetstream::ContextBuilder::new()
            .timeout(Duration::from_secs(5))
            .max_ack_inflight(8 * 1024)
            .build(client.clone());
        let doubt = Doubt::default();
        watch_events(&client, &doubt, runtime);
        clock::watch_clock(&client, runtime);
        let dead = runtime.metrics.shared("dead_messages", "Messages that nobody can use, put on DEAD, by reason");
        let too_new = runtime.metrics.shared(
            "too_new_messages",
            "Messages that were left to services of a newer version, repeats included, by consumer",
        );
        let retried = runtime
            .metrics
            .shared("messages_retried", "Messages that could not be finished and are redelivered, by consumer");
        Ok(Self { client, jetstream, limits: config.limits.clone(), connections, dead, too_new, retried, doubt })
    }

    /// Creates the streams and buckets that are missing, and brings the others up to date: what the controller does, alone.
    pub async fn declare(&self, shutdown: &Shutdown) -> anyhow::Result<()> {
        retry_until_deadline(shutdown, || topology::declare(&self.jetstream, &self.limits)).await
    }

    /// Waits until the controller has put streams and buckets in place. `starting` says what is waited for.
    pub async fn open(self, starting: &Starting, shutdown: &Shutdown) -> anyhow::Result<Queue> {
        let mut deadline = Instant::now() + START_TIMEOUT;
        let buckets = loop {
            match topology::find(&self.jetstream, &self.limits).await {
                Ok(buckets) => {
                    // Before there is any work.
                    if let Err(error) = clock::compare(&self.client).await {
                        tracing::warn!(
                            "the clock of this machine is taken for that of NATS until they are compared: {error:#}"
                        );
                    }
                    break buckets;
                }
                Err(error) if error.is::<topology::Missing>() => {
                    // However long the controller takes.
                    deadline = Instant::now() + START_TIMEOUT;
                    if starting.waits_for(error.to_string()) {
                        tracing::info!("{error}");
                    }
                }
                Err(error) if error.is::<topology::Incompatible>() || Instant::now() >= deadline => return Err(error),
                Err(error) => {
                    if starting.waits_for(format!("{error:#}")) {
                        tracing::warn!("{error:#}; trying again");
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(START_RETRY_DELAY) => {}
                () = shutdown.draining() => bail!("stopped while waiting for NATS"),
            }
        };
        let Self { client, jetstream, limits, connections, dead, too_new, retried, doubt } = self;
        let routed = Default::default();
        Ok(Queue(Arc::new(Connection {
            client,
            jetstream,
            limits,
            buckets,
            routed,
            connections,
            dead,
            too_new,
            retried,
            doubt,
        })))
    }

    /// Changes with every new connection.
    pub fn connections(&self) -> watch::Receiver<u64> {
        let mut connections = self.connections.clone();
        connections.mark_unchanged();
        connections
    }
}

impl Queue {
    /// Connects, and waits until the controller has put streams and buckets in place.
    pub async fn connect(config: &Config, name: &str, starting: &Starting, runtime: &Runtime) -> anyhow::Result<Self> {
        Link::connect(config, name, runtime).await?.open(starting, &runtime.shutdown).await
    }

    /// The largest message that the server takes, in bytes.
    pub(crate) fn max_payload(&self) -> usize {
        self.client.server_info().max_payload
    }

    /// Changes with every new connection.
    pub fn connections(&self) -> watch::Receiver<u64> {
        let mut connections = self.connections.clone();
        connections.mark_unchanged();
        connections
    }
}

/// Does what a start needs from NATS, which may be starting too: again and again, unless it can never work.
pub(crate) async fn retry_until_deadline<T, F: Future<Output = anyhow::Result<T>>>(
    shutdown: &Shutdown,
    attempt: impl Fn() -> F,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + START_TIMEOUT;
    let attempts = async {
        loop {
            match attempt().await {
                Err(error) if !error.is::<topology::Incompatible>() && Instant::now() < deadline => {
                    tracing::warn!("{error:#}; trying again");
                    tokio::time::sleep(START_RETRY_DELAY).await;
                }
                ended => return ended,
            }
        }
    };
    tokio::select! {
        ended = attempts => ended,
        () = shutdown.draining() => bail!("stopped while waiting for NATS"),
    }
}
