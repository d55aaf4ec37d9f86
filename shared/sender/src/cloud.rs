//! Clouds: event buses of Amazon EventBridge and topics of Google Cloud Pub/Sub.
//!
//! A [`Cloud`] prepares a message once, sends one or many of them, and says what became of each. What kinds have in common is here:
//! the [batches](batch), the [pace](pace) of an account that is throttled, what is [renewed](renewal) before it expires.
//!
//! Hosts are formed from what was validated, a region, or are the operator's to say: no address of a tenant leads anywhere else.

mod aws;
mod batch;
mod client;
mod config;
mod event_bridge;
mod google;
mod label;
mod pace;
mod principals;
mod pub_sub;
mod refusal;
mod renewal;
mod tenant;
#[cfg(test)]
mod testing;

use std::time::Duration;

use shopery_model::{Answer, CloudKey, Credentials, DestinationKind, EventBus, Topic};
use shopery_runtime::Runtime;
use time::OffsetDateTime;
use tokio::time::Instant;

pub use config::Clouds;
pub use tenant::{bus_source, tenant_label};

use self::batch::{Batcher, Counters, Requests};
use self::client::Client;
use self::event_bridge::EventBridge;
use self::pub_sub::PubSub;
use self::refusal::{Refusal, Sent, answer};
use self::renewal::Fetches;
use crate::failure::Failure;
use crate::{Config, Message};

/// Of one message, as of an HTTPS endpoint's: until its turn comes, until we can prove who we are, and of its request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// One kind of cloud.
pub(crate) trait Cloud: Requests {
    /// What a tenant names.
    type Address;

    /// With whom a message for an address goes. `own`: a key of the merchant's, in place of the platform's principal.
    fn route(
        &self,
        address: &Self::Address,
        own: Option<&CloudKey>,
        message: &Message<'_>,
    ) -> Result<Self::Route, Refusal>;

    /// A message as it is sent, signed at `now`.
    fn prepare(
        &self,
        address: &Self::Address,
        message: &Message<'_>,
        credentials: &Credentials,
        now: OffsetDateTime,
    ) -> Result<Self::Entry, Refusal>;

    /// Whether the owner of what a tenant names lets this tenant send to it. `is_asked_anew`: what was said before does not count.
    fn permit(
        &self,
        route: &Self::Route,
        tenant: &str,
        is_asked_anew: bool,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;
}

/// Sends to clouds. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct CloudSender {
    event_bridge: Batcher<EventBridge>,
    pub_sub: Batcher<PubSub>,
}

/// What is sent, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Posting<'a> {
    pub(crate) message: &'a Message<'a>,
    pub(crate) credentials: &'a Credentials,
    pub(crate) now: OffsetDateTime,
    /// In a request of its own, with nothing taken as known.
    pub(crate) is_alone: bool,
}

impl CloudSender {
    pub(crate) fn new(config: &Config, runtime: &Runtime) -> anyhow::Result<Self> {
        let client = Client::new(config.ca_file.as_deref())?;
        let (counters, fetches) = metrics(runtime, DestinationKind::EventBridge);
        let event_bridge = Batcher::new(EventBridge::new(&config.clouds, &client, fetches), counters);
        let (counters, fetches) = metrics(runtime, DestinationKind::PubSub);
        let pub_sub = PubSub::new(&config.clouds, &client, fetches);
        pub_sub.warm_up();
        Ok(Self { event_bridge, pub_sub: Batcher::new(pub_sub, counters) })
    }

    pub(crate) async fn send_to_bus(&self, bus: &EventBus, posting: Posting<'_>) -> Result<Answer, Failure> {
        send(&self.event_bridge, bus, posting).await
    }

    pub(crate) async fn send_to_topic(&self, topic: &Topic, posting: Posting<'_>) -> Result<Answer, Failure> {
        send(&self.pub_sub, topic, posting).await
    }
}

async fn send<C: Cloud>(batcher: &Batcher<C>, address: &C::Address, posting: Posting<'_>) -> Result<Answer, Failure> {
    let started = Instant::now();
    let sent = try_send(batcher, address, posting, started).await;
    answer(sent, posting.credentials).map(|answer| Answer { duration: started.elapsed(), ..answer })
}

async fn try_send<C: Cloud>(
    batcher: &Batcher<C>,
    address: &C::Address,
    posting: Posting<'_>,
    started: Instant,
) -> Sent {
    let Posting { message, credentials, now, is_alone } = posting;
    let deadline = started + TIMEOUT;
    let cloud = batcher.requests();
    let route = cloud.route(address, credentials.cloud.as_ref(), message)?;
    let entry = cloud.prepare(address, message, credentials, now)?;
    cloud.permit(&route, message.tenant, is_alone, deadline).await?;
    if is_alone { batcher.send_alone(&route, entry, deadline).await } else { batcher.send(route, entry, started).await }
}

/// Of one kind. Services that share a process share them.
fn metrics(runtime: &Runtime, kind: DestinationKind) -> (Counters, Fetches) {
    let counter = |name, help| {
        let counts = runtime.metrics.shared(name, help);
        counts.get_or_create_owned(&[("kind", kind.name().to_owned())])
    };
    let counters = Counters {
        requests: counter("sender_batches", "Requests to clouds, each with one message or several, by kind"),
        entries: counter("sender_batch_entries", "Messages in requests to clouds, by kind"),
        throttles: counter("sender_throttles", "Requests to clouds that were throttled, by kind"),
    };
    let fetches = Fetches {
        done: counter("sender_credential_renewals", "Credentials for clouds that were fetched or signed, by kind"),
        failed: counter(
            "sender_credential_failures",
            "Credentials for clouds that could not be fetched or signed, by kind",
        ),
    };
    (counters, fetches)
}
