//! A merchant's endpoint, as the documentation wants it: HTTPS, keep-alive, and an answer before any work is done.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

use crate::tls::Authority;

/// Deliveries that wait to be looked at; further ones are answered and counted.
const WAITING: usize = 1024;
const MAX_CONNECTIONS: usize = 1024;
const MAX_BODY: usize = 1024 * 1024;
const TIMEOUT: Duration = Duration::from_secs(10);

/// A delivery that arrived.
#[derive(Debug)]
pub struct Delivery {
    pub at: Instant,
    /// `POST /webhooks HTTP/2.0`
    pub request: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Delivery {
    /// A header as text; empty if it is missing.
    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
    }
}

/// Answers 200 to every POST until it is dropped.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    deliveries: mpsc::Receiver<Delivery>,
    unseen: Arc<AtomicU64>,
    server: AbortHandle,
}

impl Endpoint {
    pub fn start(listener: TcpListener, authority: &Authority) -> anyhow::Result<Self> {
        let address = listener.local_addr()?;
        let names = [address.ip().to_string(), "localhost".to_owned()];
        let tls = authority.server_config(&names.each_ref().map(String::as_str), &[b"h2", b"http/1.1"])?;
        let (sender, deliveries) = mpsc::channel(WAITING);
        let unseen = Arc::<AtomicU64>::default();
        let door = Door { tls: tls.into(), deliveries: sender, unseen: unseen.clone() };
        let server = tokio::spawn(door.serve(listener)).abort_handle();
        Ok(Self { address, deliveries, unseen, server })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://127.0.0.1:<port>/webhooks`
    pub fn url(&self) -> String {
        format!("https://{}/webhooks", self.address)
    }

    /// The next delivery, in order of arrival.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.deliveries.recv().await
    }

    /// How many deliveries came too fast to be looked at, since this was last asked.
    pub fn take_unseen(&self) -> u64 {
        self.unseen.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Clone)]
struct Door {
    tls: TlsAcceptor,
    deliveries: mpsc::Sender<Delivery>,
    unseen: Arc<AtomicU64>,
}

impl Door {
    async fn serve(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) => drop(connections.spawn(self.clone().attend(stream))),
                    Err(error) => {
                        tracing::warn!(%error, "the sample endpoint cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn attend(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let Ok(Ok(stream)) = timeout(TIMEOUT, self.tls.accept(stream)).await else { return };
        let mut server = auto::Builder::new(TokioExecutor::new());
        server.http1().timer(TokioTimer::new()).header_read_timeout(None);
        let service = service_fn(move |request| {
            let door = self.clone();
            async move { Ok::<_, Infallible>(door.answer(request).await) }
        });
        if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(error, "a connection to the sample endpoint ended with an error");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let status = if parts.method != Method::POST {
            StatusCode::METHOD_NOT_ALLOWED
        } else {
            match timeout(TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
                Ok(Ok(body)) => {
                    let request = format!("{} {} {:?}", parts.method, parts.uri.path(), parts.version);
                    let body = body.to_bytes();
                    let delivery = Delivery { at: Instant::now(), request, headers: parts.headers, body };
                    if self.deliveries.try_send(delivery).is_err() {
                        self.unseen.fetch_add(1, Ordering::Relaxed);
                    }
                    StatusCode::OK
                }
                Ok(Err(_)) => StatusCode::PAYLOAD_TOO_LARGE,
                Err(_) => StatusCode::REQUEST_TIMEOUT,
            }
        };
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn endpoint(authority: &Authority) -> Endpoint {
        Endpoint::start(TcpListener::bind("127.0.0.1:0").await.unwrap(), authority).unwrap()
    }

    fn client(authority: &Authority) -> reqwest::Client {
        let ca = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
        reqwest::Client::builder().tls_certs_only([ca]).no_proxy().build().unwrap()
    }

    #[tokio::test]
    async fn a_delivery_is_seen_as_it_was_sent() {
        let authority = Authority::generate().unwrap();
        let mut endpoint = endpoint(&authority).await;
        let request = client(&authority).post(endpoint.url()).header("webhook-id", "dlv_1").body("{ \"a\": 1.0 }");
        assert_eq!(request.send().await.unwrap().status(), 200);
        let delivery = endpoint.next().await.unwrap();
        assert_eq!(delivery.request, "POST /webhooks HTTP/2.0");
        assert_eq!(delivery.header("Webhook-Id"), "dlv_1");
        assert_eq!(&delivery.body[..], b"{ \"a\": 1.0 }");
        assert_eq!(client(&authority).get(endpoint.url()).send().await.unwrap().status(), 405);
        let large = client(&authority).post(endpoint.url()).body(vec![b'x'; MAX_BODY + 1]);
        assert_eq!(large.send().await.unwrap().status(), 413);
    }

    #[tokio::test]
    async fn nobody_looking_is_no_reason_not_to_answer() {
        let authority = Authority::generate().unwrap();
        let endpoint = endpoint(&authority).await;
        let client = client(&authority);
        for _ in 0..WAITING + 3 {
            assert_eq!(client.post(endpoint.url()).send().await.unwrap().status(), 200);
        }
        assert_eq!((endpoint.take_unseen(), endpoint.take_unseen()), (3, 0));
    }
}
