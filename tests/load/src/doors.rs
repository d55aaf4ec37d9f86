//! Row (j): how long a tenant waits at each door of `services/README.md` while another asks for all that it can get, and
//! takes no notice of what it is told.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::join_all;
use hyper::HeaderMap;
use reqwest::{Method, RequestBuilder};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::payload::{self, Kind};
use crate::stack::{self, Stack};

/// Deliveries in the history of both tenants: what digests and metrics are made of.
pub const HISTORY: usize = 15_000;
/// What the loud tenant has under way at a time.
const LANES: usize = 64;
/// Longer than any door lets a request wait.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Between two requests of each of them.
const BACK_OFF: Duration = Duration::from_millis(20);
/// Of an upload that takes its time.
const UPLOAD: usize = 16 * 1024 * 1024;
const PAUSE: Duration = Duration::from_millis(500);
/// Connections that each of the loud ones holds: together more than an address may have.
const HELD: usize = 20;

pub struct Door {
    /// As in `services/README.md`.
    pub name: &'static str,
    /// What the quiet tenant asks for, in requests a second.
    pub rate: u32,
    quiet: Ask,
    loud: Ask,
}

pub const DOORS: [Door; 6] = [
    Door { name: "test-calls", rate: 20, quiet: Ask::Test, loud: Ask::TestOfSilence },
    Door { name: "sums", rate: 5, quiet: Ask::Digest, loud: Ask::Digest },
    Door { name: "event-pages", rate: 10, quiet: Ask::Events, loud: Ask::Events },
    Door { name: "batches", rate: 10, quiet: Ask::Batch(10), loud: Ask::Batch(1000) },
    Door { name: "bodies", rate: 10, quiet: Ask::Batch(10), loud: Ask::SlowUpload },
    Door { name: "connections", rate: 20, quiet: Ask::Connection, loud: Ask::HeldConnections },
];

#[derive(Debug, Clone, Copy)]
enum Ask {
    Test,
    /// Of an endpoint that never answers.
    TestOfSilence,
    Digest,
    Events,
    Batch(usize),
    SlowUpload,
    Connection,
    HeldConnections,
}

/// A tenant at the doors.
#[derive(Clone)]
pub struct Asker {
    client: reqwest::Client,
    api: String,
    ingest: String,
    headers: HeaderMap,
    /// Of another tenant that has no webhook, so that what is published costs nobody but ingest.
    publisher: HeaderMap,
    webhook: String,
    test_url: String,
    silent_url: String,
}

impl Asker {
    /// A tenant with a webhook, and one without that publishes.
    pub fn new(
        stack: &Stack,
        [tenant, publisher]: [&str; 2],
        [test_url, silent_url]: [String; 2],
    ) -> anyhow::Result<Self> {
        let address = |service| anyhow::Ok(stack.service(service)?.address.to_string());
        let tenant = stack.tenant_named(tenant)?;
        Ok(Self {
            client: reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?,
            api: address("shopery-api")?,
            ingest: address("shopery-ingest")?,
            headers: tenant.headers.clone(),
            publisher: stack.tenant_named(publisher)?.headers.clone(),
            webhook: tenant.webhooks.first().context("the tenant has no webhook")?.to_string(),
            test_url,
            silent_url,
        })
    }

    /// A request of a quiet tenant, which must be answered well.
    pub async fn ask(&self, door: &Door) -> anyhow::Result<()> {
        self.perform(door.quiet).await.with_context(|| format!("at the door {}", door.name))
    }

    /// Asks on until it is dropped.
    pub fn ask_loudly(&self, door: &Door) -> JoinSet<()> {
        let mut loud = JoinSet::new();
        for _ in 0..LANES {
            let (asker, what) = (self.clone(), door.loud);
            loud.spawn(async move {
                loop {
                    // It pauses, whatever it is told, or this process would be what the machine is busy with.
                    let _ = asker.perform(what).await;
                    tokio::time::sleep(BACK_OFF).await;
                }
            });
        }
        loud
    }

    async fn perform(&self, what: Ask) -> anyhow::Result<()> {
        let test = |url: &str| {
            let body = serde_json::json!({ "url": url });
            self.api(Method::POST, "/company/webhooks/test").json(&body)
        };
        let request = match what {
            Ask::Test => test(&self.test_url),
            Ask::TestOfSilence => test(&self.silent_url),
            Ask::Digest => {
                let since = OffsetDateTime::now_utc().date() - time::Duration::days(20);
                let path =
                    format!("/company/webhooks/{}/digest?created_at_min={since}T00:00:00Z&step=1d", self.webhook);
                self.api(Method::GET, &path)
            }
            Ask::Events => self.api(Method::GET, "/company/events?limit=200"),
            Ask::Batch(count) => self.batch(count),
            Ask::SlowUpload => return self.upload_slowly().await,
            Ask::Connection => self.api(Method::GET, "/livez").header("Connection", "close"),
            Ask::HeldConnections => return self.hold_connections().await,
        };
        let answer = request.send().await?;
        let status = answer.status();
        let body = answer.text().await?;
        ensure!(status.is_success(), "{status}: {body}");
        Ok(())
    }

    fn api(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.api)).headers(self.headers.clone())
    }

    fn batch(&self, count: usize) -> RequestBuilder {
        // No event repeats another one, of whichever line.
        static PUBLISHED: AtomicUsize = AtomicUsize::new(0);
        let first = PUBLISHED.fetch_add(count, Ordering::Relaxed);
        let mut json = String::with_capacity(800 * count);
        for event in 0..count {
            json.push(if event == 0 { '[' } else { ',' });
            // No sheet has this number: nothing of it is delivered.
            payload::push_event(&mut json, Kind::Order, 99, first + event);
        }
        json.push(']');
        let request = self.client.post(format!("http://{}/events", self.ingest)).headers(self.publisher.clone());
        request.header("Content-Type", "application/cloudevents-batch+json").body(json)
    }

    /// Announces a large batch and sends a byte now and then, until the other end has had enough.
    async fn upload_slowly(&self) -> anyhow::Result<()> {
        let mut head = format!("POST /events HTTP/1.1\r\nHost: {}\r\nContent-Length: {UPLOAD}\r\n", self.ingest);
        head += "Content-Type: application/cloudevents-batch+json\r\n";
        for (name, value) in &self.publisher {
            head += &format!("{name}: {}\r\n", value.to_str()?);
        }
        let mut stream = TcpStream::connect(&self.ingest).await?;
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(b"\r\n[").await?;
        loop {
            tokio::time::sleep(PAUSE).await;
            stream.write_all(b" ").await?;
        }
    }

    /// From an address of their own, each until the other end closes it.
    async fn hold_connections(&self) -> anyhow::Result<()> {
        let api = self.api.parse()?;
        let held = (0..HELD).map(|_| async {
            let socket = TcpSocket::new_v4()?;
            socket.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into())?;
            let mut stream = socket.connect(api).await?;
            stream.read_to_end(&mut Vec::new()).await
        });
        join_all(held).await;
        Ok(())
    }
}

/// The tenants of this row: one with a webhook and one without, both quiet, and two such that are loud.
pub const QUIET: [&str; 2] = [stack::QUIET, stack::QUIET_PUBLISHER];
pub const LOUD: [&str; 2] = [stack::LOUD, stack::LOUD_PUBLISHER];
