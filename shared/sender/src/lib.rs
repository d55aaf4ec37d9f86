//! Sending: one message to one destination, of whichever kind. The deliverer and the Test call share this code, so what a test
//! shows is what a delivery meets: the same connections, the same rules about addresses, the same headers and signature.

mod address;
mod answer;
mod cloud;
mod connect;
mod dns;
mod egress;
mod exchange;
mod failure;
mod https;
mod message;
mod name;
mod pool;
mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use shopery_model::{Answer, Credentials, Destination, SignatureKind};
use shopery_runtime::{Counts, Env, Runtime};
use time::OffsetDateTime;
use tokio::time::Instant;

pub use cloud::{Clouds, bus_source, tenant_label};
pub use egress::Egress;
pub use failure::SenderFault;
pub use message::{Message, fitting};

use crate::cloud::{CloudSender, Posting};
use crate::failure::Failure;
use crate::https::{Endpoint, Https};
use crate::pool::Wanted;

/// How long a fault of ours is reported after it was met last.
const FAULT_SHOWN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct Config {
    pub egress: Egress,
    ca_file: Option<String>,
    clouds: Clouds,
}

impl Config {
    pub fn read(env: &mut Env) -> Option<Self> {
        let egress = Egress::read(env);
        let ca_file =
            env.optional("SHOPERY_CA_FILE", "PEM file of a CA to trust besides the system's, for endpoints and clouds");
        let clouds = Clouds::read(env);
        Some(Self { egress: egress?, ca_file, clouds: clouds? })
    }

    /// What this platform is known by at the clouds.
    pub fn clouds(&self) -> &Clouds {
        &self.clouds
    }
}

/// Where a message goes, and what we prove ourselves with there.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub destination: &'a Destination,
    pub credentials: &'a Credentials,
    pub signature: SignatureKind,
}

/// Sends messages. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Sender {
    https: Https,
    clouds: CloudSender,
    faults: Counts,
    /// When each was met last.
    met: Arc<Mutex<HashMap<SenderFault, Instant>>>,
}

impl Sender {
    pub fn new(config: &Config, runtime: &Runtime) -> anyhow::Result<Self> {
        let https = Https::new(config, runtime)?;
        let clouds = CloudSender::new(config, runtime)?;
        let faults = runtime.metrics.shared(
            "sender_faults",
            "Attempts that were not made for want of something of this process or host, by what was missing",
        );
        Ok(Self { https, clouds, faults, met: Arc::default() })
    }

    /// A fault of ours that keeps back all deliveries makes the service not ready, for a minute after it was met last.
    pub fn watch_faults(&self, runtime: &Runtime) {
        let met = self.met.clone();
        runtime.health.check("sender", move || {
            let met = met.lock().unwrap_or_else(PoisonError::into_inner);
            let recent = met.iter().filter(|(fault, at)| fault.is_of_all() && at.elapsed() < FAULT_SHOWN);
            recent.max_by_key(|(_, at)| **at).map_or(Ok(()), |(fault, _)| Err(fault.to_string()))
        });
    }

    /// Attempts that can be under way at a time: each needs a connection.
    pub fn max_attempts(&self) -> usize {
        self.https.max_attempts()
    }

    /// Connections to endpoints, in use or kept.
    pub fn connections(&self) -> Gauge {
        self.https.connections()
    }

    /// Sends `message`, signed at `now`. Whatever the destination does is an answer. An error is ours: the attempt was not made,
    /// and says nothing of the destination.
    pub async fn send(
        &self,
        target: Target<'_>,
        message: &Message<'_>,
        now: OffsetDateTime,
    ) -> Result<Answer, SenderFault> {
        self.send_on(Wanted::Any, target, message, now).await
    }

    /// The same on a connection of its own, so that all parts of the exchange are seen, and timed. To a cloud: alone, and whether the
    /// owner of a topic lets the tenant send there is asked anew.
    pub async fn send_on_new_connection(
        &self,
        target: Target<'_>,
        message: &Message<'_>,
        now: OffsetDateTime,
    ) -> Result<Answer, SenderFault> {
        self.send_on(Wanted::New, target, message, now).await
    }

    async fn send_on(
        &self,
        wanted: Wanted,
        target: Target<'_>,
        message: &Message<'_>,
        now: OffsetDateTime,
    ) -> Result<Answer, SenderFault> {
        let Target { destination, credentials, signature } = target;
        let posting = Posting { message, credentials, now, is_alone: wanted == Wanted::New };
        let answered = match destination {
            Destination::Https(url) => {
                self.https.send(wanted, Endpoint { url, credentials, signature }, message, now).await
            }
            Destination::EventBridge(bus) => self.clouds.send_to_bus(bus, posting).await,
            Destination::PubSub(topic) => self.clouds.send_to_topic(topic, posting).await,
        };
        match answered {
            Ok(answer) => Ok(answer),
            Err(Failure::Endpoint(fault, detail)) => Ok(Answer::failed(fault, detail)),
            Err(Failure::Ours(fault)) => {
                self.note(fault);
                Err(fault)
            }
        }
    }

    fn note(&self, fault: SenderFault) {
        self.faults.get_or_create(&[("fault", fault.name().to_owned())]).inc();
        let before = self.met.lock().unwrap_or_else(PoisonError::into_inner).insert(fault, Instant::now());
        if before.is_none_or(|at| at.elapsed() >= FAULT_SHOWN) {
            tracing::error!("attempts wait: {fault}");
        }
    }
}
