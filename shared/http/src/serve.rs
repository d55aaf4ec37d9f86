//! The HTTP server of every service. Whoever connects may be slow or hostile: headers, bodies, requests and
//! connections are bounded in size, number and time.

use std::any::Any;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use percent_encoding::percent_decode_str;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde_json::json;
use shopery_runtime::{Runtime, Shutdown};
use tokio::net::TcpListener;
use tower_http::catch_panic::CatchPanicLayer;

use crate::connection::Attended;
use crate::fair::{Admitted, Door, Doors, Rule};
use crate::peer::{Peer, Proxies};
use crate::{LimitsConfig, Problem};

const CONNECTIONS: Rule =
    Rule { name: "connections", what: "connections", all: 8192, share: 1024, max_wait: Duration::ZERO };
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// Listens, or says in one line why not.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// `/livez`, `/readyz` and `/metrics`.
pub fn operations(runtime: &Runtime) -> Router {
    let (health, metrics) = (runtime.health.clone(), runtime.metrics.clone());
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move {
                let obstacles = health.obstacles();
                let status = if obstacles.is_empty() { 200 } else { 503 };
                let status = axum::http::StatusCode::from_u16(status).unwrap_or_default();
                (status, Json(json!({ "ready": obstacles.is_empty(), "obstacles": obstacles })))
            }),
        )
        .route(
            "/metrics",
            get(move || async move {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                ([(header::CONTENT_TYPE, kind)], metrics.encode())
            }),
        )
}

/// Adds what every public face has: a time limit, a count of requests, and problem+json for what no route answers.
/// `face` begins the name of the count, since faces may share a process.
pub fn with_limits(routes: Router, face: &str, runtime: &Runtime) -> Router {
    let requests = runtime.metrics.register(
        &format!("{face}_http_requests"),
        "HTTP requests by route and status",
        Family::<[(&'static str, String); 3], Counter>::default(),
    );
    routes
        .fallback(|| async { Problem::not_found("there is nothing at this path") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(CatchPanicLayer::custom(|_: Box<dyn Any + Send>| {
            tracing::error!("a request handler panicked");
            Problem::internal().into_response()
        }))
        .layer(from_fn(move |request: Request, next: Next| {
            let requests = requests.clone();
            async move {
                let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
                let method = method_label(request.method()).to_owned();
                let mut response = if percent_decode_str(request.uri().path()).decode_utf8().is_err() {
                    Problem::malformed("the path is not UTF-8 once its percent-encoding is undone").into_response()
                } else {
                    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
                        Ok(response) => response,
                        Err(_) => Problem::timed_out().into_response(),
                    }
                };
                // Nobody is to take data of a tenant for a page.
                response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
                let status = response.status().as_str().to_owned();
                requests.get_or_create(&[("route", route), ("method", method), ("status", status)]).inc();
                response
            }
        }))
}

/// A method as a label: clients can make up any number of others, and each would be a series for ever.
fn method_label(method: &Method) -> &str {
    const KNOWN: [Method; 7] =
        [Method::GET, Method::POST, Method::PATCH, Method::PUT, Method::DELETE, Method::HEAD, Method::OPTIONS];
    if KNOWN.contains(method) { method.as_str() } else { "other" }
}

/// The connections that a server holds. Beyond the share of an address, or the number of all, one is closed as soon as it is
/// made: whoever waits in the kernel's queue does not learn that another replica has room.
#[derive(Debug, Clone)]
pub struct Connections {
    door: Door<SocketAddr>,
    proxies: Proxies,
}

impl Connections {
    /// Of a face that outsiders connect to, perhaps through proxies.
    pub fn new(doors: &Doors, limits: &LimitsConfig) -> Self {
        Self { door: doors.open(CONNECTIONS), proxies: limits.proxies.clone() }
    }

    /// Of a face that has no limits of its own.
    pub fn behind(doors: &Doors, proxies: &Proxies) -> Self {
        Self { door: doors.open(CONNECTIONS), proxies: proxies.clone() }
    }

    /// Of a service that has no face but [`operations`].
    pub fn of_operations(service: &str, runtime: &Runtime) -> Self {
        Self { door: Doors::new(service, runtime).open(CONNECTIONS), proxies: Proxies::default() }
    }

    fn admit(&self, peer: SocketAddr) -> Option<Admitted<SocketAddr>> {
        self.door.try_enter(&self.proxies.owner(peer))
    }
}

/// Serves until the drain begins, then finishes the requests under way.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    connections: Connections,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    tracing::info!(address = %listener.local_addr()?, "listening");
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .pipeline_flush(true);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .max_concurrent_streams(256)
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX));
    let graceful = GracefulShutdown::new();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: wait for some to be closed.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = shutdown.draining() => break,
        };
        let Some(admitted) = connections.admit(peer) else {
            tracing::warn!(
                address = %peer.ip(),
                "a connection was refused: there are too many, or too many of this address; \
                 if it is a proxy, SHOPERY_TRUSTED_PROXIES has to name it"
            );
            continue;
        };
        let _ = stream.set_nodelay(true);
        let routes = TowerToHyperService::new(routes.clone());
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            routes.call(request)
        });
        let connection = server.serve_connection(TokioIo::new(Attended::new(stream)), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error, "a connection ended with an error");
            }
            drop(admitted);
        });
    }
    drop(listener);
    graceful.shutdown().await;
    Ok(())
}
