//! The merchant's side: an endpoint that reads what it is sent, notes the arrival and answers 200 with no body. It does
//! as little as an HTTP/1.1 server can, so that its share of the machine stays small and the same in every row.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use shopery_local::tls::Authority;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::clouds;
use crate::ledger::Ledger;

pub struct Sink {
    /// HTTPS, HTTP/1.1.
    pub secure: SocketAddr,
    /// The same without TLS, for comparison, and what stands for the clouds.
    pub plain: SocketAddr,
    connections: Arc<AtomicU64>,
    gate: Arc<AtomicBool>,
    /// Stops with the sink.
    _listeners: JoinSet<()>,
}

impl Sink {
    pub async fn start(authority: &Authority, ledger: Arc<Ledger>) -> anyhow::Result<Self> {
        let tls = TlsAcceptor::from(authority.server_config(&["127.0.0.1"], &[b"http/1.1"])?);
        let connections = Arc::new(AtomicU64::new(0));
        let gate = Arc::new(AtomicBool::new(false));
        let mut listeners = JoinSet::new();
        let mut listen = async |tls: Option<TlsAcceptor>| {
            let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on loopback")?;
            let address = listener.local_addr()?;
            listeners.spawn(accept(
                listener,
                tls,
                Endpoint { ledger: ledger.clone(), gate: gate.clone() },
                connections.clone(),
            ));
            anyhow::Ok(address)
        };
        let (secure, plain) = (listen(Some(tls)).await?, listen(None).await?);
        Ok(Self { secure, plain, connections, gate, _listeners: listeners })
    }

    /// The endpoint with this number; each of a tenant's webhooks has one.
    pub fn url(&self, webhook: usize) -> String {
        format!("https://{}/hook/{webhook}", self.secure)
    }

    /// An endpoint that reads what it is sent and never answers.
    pub fn silent_url(&self, webhook: usize) -> String {
        format!("https://{}/silent/{webhook}", self.secure)
    }

    /// An endpoint that answers 503 and notes nothing until [`open_gate`](Self::open_gate).
    pub fn gated_url(&self, webhook: usize) -> String {
        format!("https://{}/gate/{webhook}", self.secure)
    }

    /// An endpoint that answers 200 and notes nothing: for what is no delivery.
    pub fn test_url(&self) -> String {
        format!("https://{}/test", self.secure)
    }

    pub fn open_gate(&self) {
        self.gate.store(true, Ordering::Relaxed);
    }

    pub fn plain_url(&self, webhook: usize) -> String {
        format!("http://{}/hook/{webhook}", self.plain)
    }

    /// Connections made so far: many more than are open at a time means that keep-alive does not work.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// What the paths have in common.
#[derive(Clone)]
struct Endpoint {
    ledger: Arc<Ledger>,
    /// Whether what is behind it works.
    gate: Arc<AtomicBool>,
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, endpoint: Endpoint, connections: Arc<AtomicU64>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A connection that was gone before it was accepted is not ours to judge.
                let Ok((stream, _)) = accepted else { continue };
                connections.fetch_add(1, Ordering::Relaxed);
                open.spawn(greet(stream, tls.clone(), endpoint.clone()));
            }
            Some(_) = open.join_next() => {}
        }
    }
}

async fn greet(stream: TcpStream, tls: Option<TlsAcceptor>, endpoint: Endpoint) {
    let _ = stream.set_nodelay(true);
    match tls {
        None => serve(stream, endpoint).await,
        // A failed handshake shows at the sender, as a delivery that does not arrive.
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                serve(stream, endpoint).await;
            }
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send, endpoint: Endpoint) {
    let service = service_fn(|request| receive(request, &endpoint));
    // The sender may close whenever it likes.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn receive(mut request: Request<Incoming>, endpoint: &Endpoint) -> Result<Response<Full<Bytes>>, Infallible> {
    if clouds::is_for(request.uri().path()) {
        return Ok(clouds::receive(request, &endpoint.ledger).await);
    }
    let mut bytes = 0;
    while let Some(Ok(frame)) = request.body_mut().frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
    if request.uri().path().starts_with("/silent/") {
        std::future::pending::<()>().await;
    }
    if request.uri().path() == "/test" {
        return Ok(Response::new(Full::default()));
    }
    if request.uri().path().starts_with("/gate/") && !endpoint.gate.load(Ordering::Relaxed) {
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(answer);
    }
    let header = |name| request.headers().get(name).map(hyper::header::HeaderValue::as_bytes).unwrap_or_default();
    let webhook = request.uri().path().rsplit('/').next().and_then(|number| number.parse().ok()).unwrap_or(usize::MAX);
    endpoint.ledger.arrived(header("x-shopery-event-id"), webhook, header("webhook-id"), bytes);
    Ok(Response::new(Full::default()))
}
