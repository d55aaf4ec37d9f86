//! The platform's services: publishers that send events to ingest, over HTTP or NATS, and wait for its promise.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::future::try_join_all;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};

use crate::doors::{Asker, Door};
use crate::ledger::Sheet;
use crate::measure::Percentiles;
use crate::payload;

/// How soon a publisher that was told to slow down asks again.
const BACK_OFF: Duration = Duration::from_millis(20);
/// How long it goes on asking.
const PATIENCE: Duration = Duration::from_secs(60);

/// A publisher's way to ingest. It carries one request at a time.
pub enum Lane {
    Http {
        sender: SendRequest<Full<Bytes>>,
        headers: HeaderMap,
    },
    Nats {
        client: async_nats::Client,
        subject: async_nats::Subject,
    },
    /// No event, but something else to be asked for; its answer is all that there is to wait for.
    Ask {
        asker: Asker,
        door: &'static Door,
    },
}

enum Reply {
    Accepted,
    /// Back-pressure: the same again, later.
    NotNow,
}

impl Lane {
    /// A connection of its own, kept alive. `headers` say who publishes.
    pub async fn http(ingest: SocketAddr, headers: &HeaderMap) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(ingest).await.context("cannot connect to ingest")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut headers = headers.clone();
        headers.insert("host", ingest.to_string().parse()?);
        Ok(Self::Http { sender, headers })
    }

    pub fn nats(client: &async_nats::Client, tenant: &str) -> Self {
        let subject = format!("in.{}.order-created", shopery_model::escape(tenant));
        Self::Nats { client: client.clone(), subject: subject.into() }
    }

    /// Returns when ingest has accepted all of them.
    async fn send(&mut self, sheet: &Sheet, events: Range<usize>) -> anyhow::Result<()> {
        if let Self::Ask { asker, door } = self {
            for number in events {
                asker.ask(door).await?;
                sheet.answered(number);
            }
            return Ok(());
        }
        let body = body(sheet, events);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.send_once(&body).await? {
                Reply::Accepted => return Ok(()),
                Reply::NotNow => tokio::time::sleep(BACK_OFF).await,
            }
        }
        bail!("ingest has refused an event for {} s: back-pressure without an end", PATIENCE.as_secs())
    }

    async fn send_once(&mut self, body: &Body) -> anyhow::Result<Reply> {
        match self {
            Self::Http { sender, headers } => {
                let mut request = Request::new(Full::new(body.json.clone()));
                *request.method_mut() = Method::POST;
                *request.uri_mut() = Uri::from_static("/events");
                *request.headers_mut() = headers.clone();
                request.headers_mut().insert("content-type", body.content_type.parse()?);
                sender.ready().await.context("ingest closed a connection")?;
                let response = sender.send_request(request).await.context("a request to ingest failed")?;
                let status = response.status();
                let answer = response.into_body().collect().await?.to_bytes();
                match status {
                    StatusCode::ACCEPTED => Ok(Reply::Accepted),
                    StatusCode::SERVICE_UNAVAILABLE => Ok(Reply::NotNow),
                    _ => bail!("ingest answered {status}: {}", String::from_utf8_lossy(&answer)),
                }
            }
            Self::Nats { client, subject } => {
                let reply = client.request(subject.clone(), body.json.clone()).await.context("no reply from ingest")?;
                let answer: serde_json::Value = serde_json::from_slice(&reply.payload).unwrap_or_default();
                if answer["seq"].is_u64() {
                    return Ok(Reply::Accepted);
                }
                if answer["status"] == StatusCode::SERVICE_UNAVAILABLE.as_u16() {
                    return Ok(Reply::NotNow);
                }
                bail!("ingest replied {}", String::from_utf8_lossy(&reply.payload))
            }
            Self::Ask { door, .. } => bail!("the door {} takes no events", door.name),
        }
    }
}

struct Body {
    json: Bytes,
    content_type: &'static str,
}

fn body(sheet: &Sheet, events: Range<usize>) -> Body {
    let (kind, sheet) = (sheet.kind, sheet.id);
    let mut json = String::with_capacity(800 * events.len());
    if events.len() == 1 {
        payload::push_event(&mut json, kind, sheet, events.start);
        return Body { json: json.into(), content_type: "application/cloudevents+json" };
    }
    json.push('[');
    for number in events.clone() {
        if number > events.start {
            json.push(',');
        }
        payload::push_event(&mut json, kind, sheet, number);
    }
    json.push(']');
    Body { json: json.into(), content_type: "application/cloudevents-batch+json" }
}

/// Publishes until `end`, or until the sheet is full: every lane sends its next `batch` when the last was accepted and
/// the backlog has room.
pub async fn until(end: Instant, lanes: Vec<Lane>, batch: usize, sheet: &Arc<Sheet>) -> anyhow::Result<()> {
    let publishers = lanes.into_iter().map(|mut lane| {
        let sheet = sheet.clone();
        let publisher = tokio::spawn(async move {
            while let Ok(Some(events)) = tokio::time::timeout_at(end.into(), sheet.take(batch)).await {
                let now = Instant::now();
                events.clone().for_each(|number| sheet.publish(number, now));
                lane.send(&sheet, events.clone()).await?;
                events.for_each(|number| sheet.accept(number));
                if Instant::now() >= end {
                    break;
                }
            }
            anyhow::Ok(())
        });
        async move { publisher.await? }
    });
    try_join_all(publishers).await.map(drop)
}

/// Publishes `rate` events a second for as long as `goes_on`, given how many there were, and the sheet is not full. The
/// rate is kept whatever the system does: an event is due at its time in the schedule, and its latency counts from then,
/// so a system that stalls is charged for everything that came due meanwhile.
///
/// Returns how late events were sent, which is the part of their latency that the loader itself may have caused.
pub async fn at_rate(
    rate: u32,
    goes_on: impl Fn(usize) -> bool + Send + 'static,
    lanes: Vec<Lane>,
    sheet: &Arc<Sheet>,
) -> anyhow::Result<Option<Percentiles>> {
    let (queue, due) = mpsc::channel(sheet.size().max(1));
    let size = sheet.size();
    let due = Arc::new(Mutex::new(due));
    // The runtime's timer counts whole milliseconds; a thread wakes up within some ten microseconds.
    let schedule = std::thread::spawn(move || {
        let start = Instant::now();
        for number in (0..size).take_while(|number| goes_on(*number)) {
            let at = start + Duration::from_secs(1) * u32::try_from(number).unwrap_or(u32::MAX) / rate;
            #[expect(clippy::disallowed_methods, reason = "a thread of its own, no worker of the runtime")]
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if queue.blocking_send(at).is_err() {
                break;
            }
        }
    });
    let publishers = lanes.into_iter().map(|mut lane| {
        let (sheet, due) = (sheet.clone(), due.clone());
        let publisher = tokio::spawn(async move {
            let mut late = Vec::new();
            // A free lane takes what is due next, so one slow answer holds up none of the others.
            while let Some(at) = next(&due).await {
                let Some(events) = sheet.take(1).await else { break };
                sheet.publish(events.start, at);
                late.push(u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX));
                lane.send(&sheet, events.clone()).await?;
                sheet.accept(events.start);
            }
            anyhow::Ok(late)
        });
        async move { publisher.await? }
    });
    let late = try_join_all(publishers).await?.concat();
    if schedule.join().is_err() {
        bail!("the schedule broke off");
    }
    Ok(Percentiles::of(late))
}

async fn next(due: &Mutex<mpsc::Receiver<Instant>>) -> Option<Instant> {
    due.lock().await.recv().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_an_array_of_events() {
        let ledger = crate::ledger::Ledger::default();
        let body = body(&ledger.open(8, 1, None).unwrap(), 5..8);
        let events: Vec<serde_json::Value> = serde_json::from_slice(&body.json).unwrap();
        let ids: Vec<_> = events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids, [5, 6, 7].map(|number| payload::event_id(0, number)));
    }
}
