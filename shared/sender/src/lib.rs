//! Sending: one POST to one endpoint. The deliverer and the Test call share this code, so what a test shows is what a
//! delivery meets: the same connections, the same rules about addresses, the same headers and signature.

mod address;
mod answer;
mod connect;
mod dns;
mod egress;
mod exchange;
mod failure;
mod message;
mod name;
mod pool;
mod wire;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use http::header::{ACCEPT, USER_AGENT};
use prometheus_client::metrics::gauge::Gauge;
use shopery_model::{Answer, Credentials, Fault, SignatureKind, Timing};
use shopery_runtime::{Counts, Env, Runtime, descriptors};
use time::OffsetDateTime;
use tokio::time::Instant;
use url::Url;

pub use egress::Egress;
pub use failure::SenderFault;
pub use message::{Message, fitting};

use crate::answer::Reply;
use crate::connect::{Connector, Origin};
use crate::exchange::{Broken, Refusal, Request};
use crate::failure::Failure;
use crate::pool::{Limits, Pool, Sender as Protocol, Wanted};

const AGENT: &str = concat!("Shopery-Webhooks/", env!("CARGO_PKG_VERSION"));
/// The whole exchange, connection included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection that has served a request may take to be good for another.
const READY_TIMEOUT: Duration = Duration::from_millis(50);
/// Pauses before a request that an endpoint has not processed is sent again. Once is not enough: a server that takes other
/// workers refuses what comes on a new connection too, if one of the old workers has accepted that. They grow, since an
/// endpoint that sheds load refuses in the same way.
const RESEND_PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(25), Duration::from_millis(100)];
/// Connections that there may be, however many descriptors there are.
const MAX_CONNECTIONS: u64 = 16 * 1024;
/// Descriptors that are left for everything else: connections to NATS and from clients, files.
const OTHER_DESCRIPTORS: u64 = 64;
/// How long a fault of ours is reported after it was met last.
const FAULT_SHOWN: Duration = Duration::from_secs(60);

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

/// One request to one host, begun at that time.
#[derive(Clone, Copy)]
struct Exchange<'a> {
    origin: &'a Arc<Origin>,
    request: &'a Request<'a>,
    started: Instant,
    now: OffsetDateTime,
}

/// Sends messages. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Sender {
    pool: Pool,
    egress: Egress,
    resent: Counts,
    faults: Counts,
    last_fault: Arc<Mutex<Option<(Instant, SenderFault)>>>,
}

impl Sender {
    pub fn new(config: &Config, runtime: &Runtime) -> anyhow::Result<Self> {
        let of = &runtime.metrics;
        let resent = of.shared(
            "sender_requests_resent",
            "Requests that an endpoint had not processed and that were sent again at once, by how that was seen",
        );
        let faults = of.shared(
            "sender_faults",
            "Attempts that were not made for want of something of this process or host, by what was missing",
        );
        let connector = Connector::new(config.egress.resolver()?, config.ca_file.as_deref())?;
        let pool = Pool::new(connector, Limits::of(max_connections(descriptors())));
        runtime.spawn("idle-connections", pool.clone().close_idle());
        Ok(Self { pool, egress: config.egress.clone(), resent, faults, last_fault: Arc::default() })
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
        self.pool.max()
    }

    /// Connections to endpoints, in use or kept.
    pub fn connections(&self) -> Gauge {
        self.pool.open()
    }

    /// Posts `message`, signed at `now`. Whatever the endpoint does is an answer. An error is ours: the attempt was not made,
    /// and says nothing of the endpoint.
    pub async fn send(
        &self,
        endpoint: Endpoint<'_>,
        message: &Message<'_>,
        now: OffsetDateTime,
    ) -> Result<Answer, SenderFault> {
        self.send_on(Wanted::Any, endpoint, message, now).await
    }

    /// The same on a connection of its own, so that all parts of the exchange are seen, and timed.
    pub async fn send_on_new_connection(
        &self,
        endpoint: Endpoint<'_>,
        message: &Message<'_>,
        now: OffsetDateTime,
    ) -> Result<Answer, SenderFault> {
        self.send_on(Wanted::New, endpoint, message, now).await
    }

    async fn send_on(
        &self,
        wanted: Wanted,
        endpoint: Endpoint<'_>,
        message: &Message<'_>,
        now: OffsetDateTime,
    ) -> Result<Answer, SenderFault> {
        let (started, mut timing) = (Instant::now(), Timing::default());
        let answered = match (self.egress.judge(endpoint.url), Origin::of(endpoint.url)) {
            (Ok(()), Some(origin)) => {
                let mut headers = message.headers(endpoint, now);
                headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
                headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
                let request = Request { url: endpoint.url, headers, body: message.payload.clone() };
                let exchange = Exchange { origin: &Arc::new(origin), request: &request, started, now };
                self.exchange(exchange, endpoint.credentials, wanted, &mut timing).await
            }
            (Err(detail), _) => Err(Failure::Endpoint(Fault::AddressForbidden, detail)),
            (Ok(()), None) => Err(Failure::Endpoint(Fault::AddressForbidden, "the URL names no host".to_owned())),
        };
        let mut answer = match answered {
            Ok(answer) => answer,
            Err(Failure::Endpoint(fault, detail)) => answer::failed(fault, detail),
            Err(Failure::Ours(fault)) => {
                self.note(fault);
                return Err(fault);
            }
        };
        (answer.duration, answer.timing) = (started.elapsed(), timing);
        Ok(answer)
    }

    async fn exchange(
        &self,
        Exchange { origin, request, started, now }: Exchange<'_>,
        credentials: &Credentials,
        mut wanted: Wanted,
        timing: &mut Timing,
    ) -> Result<Answer, Failure> {
        let deadline = started + TIMEOUT;
        let mut refusals: Vec<Refusal> = Vec::new();
        let (mut connection, reply) = loop {
            *timing = Timing::default();
            let connection = self.pool.connection(origin, wanted, timing);
            let mut connection = tokio::time::timeout_at(deadline, connection).await.map_err(|_| no_answer())??;
            let posted = tokio::time::timeout_at(deadline, connection.post(request, timing)).await;
            // The rest of the head is as odd as any rest.
            let answered = || connection.wire.status().map(Broken::Answered).map(Err);
            match posted.or_else(|_| answered().ok_or_else(no_answer))? {
                Ok(response) => {
                    let reply = Reply::read(response, deadline, now + started.elapsed()).await;
                    break (connection, reply);
                }
                Err(Broken::Answered(status)) => break (connection, Reply::of_status(status)),
                Err(Broken::NotProcessed(refusal)) if refusals.len() < RESEND_PAUSES.len() => {
                    self.resent.get_or_create(&[("why", refusal.name().to_owned())]).inc();
                    if refusal == Refusal::Http11Required {
                        self.pool.refuses_http2(origin);
                    }
                    if wanted != Wanted::New {
                        wanted = Wanted::MadeAfter(Instant::now());
                    }
                    // Nobody else is to have it meanwhile.
                    drop(connection);
                    let pause = RESEND_PAUSES[refusals.len()];
                    if !pause.is_zero() {
                        tokio::time::sleep_until((Instant::now() + pause).min(deadline)).await;
                    }
                    refusals.push(refusal);
                }
                Err(Broken::NotProcessed(refusal)) => {
                    let why =
                        format!("{}; it took the request on none of {} new ones", refusal.what(), RESEND_PAUSES.len());
                    return Err(Failure::Endpoint(Fault::ConnectionFailed, why));
                }
                Err(Broken::Unknown(failure)) => return Err(failure),
            }
        };
        if reply.is_complete {
            let idle = reply.keep_alive;
            // It is ready once its task has noticed the end of this request; at once, unless the endpoint has answered before it
            // read all of it.
            let is_ready = match &mut connection.sender {
                Protocol::Http1(sender) => {
                    tokio::time::timeout(READY_TIMEOUT, sender.ready()).await.is_ok_and(|it| it.is_ok())
                }
                Protocol::Http2(_) => true,
            };
            if is_ready {
                connection.keep(idle);
            }
        }
        let mut answer = reply.answer(credentials);
        if let Some(refusal) = refusals.last() {
            let times = match refusals.len() {
                1 => String::new(),
                times => format!(", {times} times"),
            };
            let resent = format!("{}; the request was sent again at once, on a new one{times}", refusal.what());
            answer.note = Some(answer.note.map_or(resent.clone(), |note| format!("{resent}; {note}")));
        }
        Ok(answer)
    }

    fn note(&self, fault: SenderFault) {
        self.faults.get_or_create(&[("fault", fault.name().to_owned())]).inc();
        let before = self.last_fault.lock().unwrap_or_else(PoisonError::into_inner).replace((Instant::now(), fault));
        if before.is_none_or(|(at, before)| before != fault || at.elapsed() >= FAULT_SHOWN) {
            tracing::error!("attempts wait: {fault}");
        }
    }
}

fn no_answer() -> Failure {
    Failure::Endpoint(Fault::Timeout, format!("no answer within {} s", TIMEOUT.as_secs()))
}

/// Maximum number of connections with this number of descriptors. While addresses are tried, a connection may take several.
fn max_connections(descriptors: u64) -> usize {
    let free = descriptors.saturating_sub(OTHER_DESCRIPTORS);
    usize::try_from((free - free / 4).clamp(1, MAX_CONNECTIONS)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
