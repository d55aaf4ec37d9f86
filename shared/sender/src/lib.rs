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
    faults: Counts,
    last_fault: Arc<Mutex<Option<(Instant, SenderFault)>>>,
}

impl Sender {
    pub fn new(config: &Config, runtime: &Runtime) -> anyhow::Result<Self> {
        let https = Https::new(config, runtime)?;
        let faults = runtime.metrics.shared(
            "sender_faults",
            "Attempts that were not made for want of something of this process or host, by what was missing",
        );
        Ok(Self { https, faults, last_fault: Arc::default() })
    }

    /// A fault of ours makes the service not ready, for a minute after it was met last: of one that can do nothing else.
    pub fn watch_faults(&self, runtime: &Runtime) {
        let last_fault = self.last_fault.clone();
        runtime.health.check("sender", move || {
            let last = *last_fault.lock().unwrap_or_else(PoisonError::into_inner);
            last.filter(|(at, _)| at.elapsed() < FAULT_SHOWN).map_or(Ok(()), |(_, fault)| Err(fault.to_string()))
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

    /// The same on a connection of its own, so that all parts of the exchange are seen, and timed.
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
        let answered = match destination {
            Destination::Https(url) => {
                self.https.send(wanted, Endpoint { url, credentials, signature }, message, now).await
            }
            Destination::EventBridge(_) | Destination::PubSub(_) => {
                Err(Failure::Endpoint(shopery_model::Fault::ProviderError, "not built".to_owned()))
            }
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
        let before = self.last_fault.lock().unwrap_or_else(PoisonError::into_inner).replace((Instant::now(), fault));
        if before.is_none_or(|(at, before)| before != fault || at.elapsed() >= FAULT_SHOWN) {
            tracing::error!("attempts wait: {fault}");
        }
    }
}
