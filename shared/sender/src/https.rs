//! HTTPS endpoints: one POST for each message.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::{ACCEPT, USER_AGENT};
use prometheus_client::metrics::gauge::Gauge;
use shopery_model::{Answer, Credentials, Fault, SignatureKind, Timing};
use shopery_runtime::{Counts, Runtime, descriptors};
use time::OffsetDateTime;
use tokio::time::Instant;
use url::Url;

use crate::answer::Reply;
use crate::connect::{Connector, Origin};
use crate::exchange::{Broken, Refusal, Request};
use crate::failure::Failure;
use crate::pool::{Limits, Pool, Sender as Protocol, Wanted};
use crate::{Config, Egress, Message};

pub(crate) const AGENT: &str = concat!("Shopery-Webhooks/", env!("CARGO_PKG_VERSION"));
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

/// Where a message is posted, and what it is signed with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endpoint<'a> {
    pub(crate) url: &'a Url,
    pub(crate) credentials: &'a Credentials,
    pub(crate) signature: SignatureKind,
}

/// One request to one host, begun at that time.
#[derive(Clone, Copy)]
struct Exchange<'a> {
    origin: &'a Arc<Origin>,
    request: &'a Request<'a>,
    started: Instant,
    now: OffsetDateTime,
}

/// Posts messages. Clones share the connections.
#[derive(Debug, Clone)]
pub(crate) struct Https {
    pool: Pool,
    egress: Egress,
    resent: Counts,
}

impl Https {
    pub(crate) fn new(config: &Config, runtime: &Runtime) -> anyhow::Result<Self> {
        let of = &runtime.metrics;
        let resent = of.shared(
            "sender_requests_resent",
            "Requests that an endpoint had not processed and that were sent again at once, by how that was seen",
        );
        let connector = Connector::new(config.egress.resolver()?, config.ca_file.as_deref())?;
        let pool = Pool::new(connector, Limits::of(max_connections(descriptors())));
        runtime.spawn("idle-connections", pool.clone().close_idle());
        Ok(Self { pool, egress: config.egress.clone(), resent })
    }

    /// Attempts that can be under way at a time: each needs a connection.
    pub(crate) fn max_attempts(&self) -> usize {
        self.pool.max()
    }

    /// Connections to endpoints, in use or kept.
    pub(crate) fn connections(&self) -> Gauge {
        self.pool.open()
    }

    /// Posts `message`, signed at `now`. Whatever the endpoint does is an answer.
    pub(crate) async fn send(
        &self,
        wanted: Wanted,
        endpoint: Endpoint<'_>,
        message: &Message<'_>,
        now: OffsetDateTime,
    ) -> Result<Answer, Failure> {
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
            Err(Failure::Endpoint(fault, detail)) => Answer::failed(fault, detail),
            Err(ours @ Failure::Ours(_)) => return Err(ours),
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
