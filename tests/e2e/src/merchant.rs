//! A merchant's HTTPS endpoint that behaves as a test tells it, path by path, and remembers every request.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use percent_encoding::percent_decode_str;
use shopery_local::tls::Authority;
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

/// What a path does with the requests that it gets.
#[derive(Debug, Clone)]
pub enum Behaviour {
    Answer(u16),
    /// The first requests get `status`, those after them 200.
    FailFirst {
        times: usize,
        status: u16,
    },
    /// The first requests get `status` and `Retry-After`, those after them 200.
    Busy {
        times: usize,
        status: u16,
        retry_after: String,
    },
    /// The answers by turns, and from the first on again.
    Turns(Vec<u16>),
    /// Answers `status` to what has `text` in its body, and 200 to all else.
    Refuse {
        text: String,
        status: u16,
    },
    /// Answers 200 after a while.
    Slow(Duration),
    /// Answers 200 as the semaphore gives permits.
    Hold(Arc<Semaphore>),
    /// Takes the request and never answers.
    Hang,
    Redirect(String),
    /// Answers 200 with a body of so many bytes, whose length is announced or not.
    Flood {
        bytes: usize,
        announced: bool,
    },
    /// Answers 200 and sends a byte of the body now and then, for ever.
    Trickle,
    /// Answers 200 with this body.
    Body(String),
    /// Closes the connection in place of an answer.
    Close,
    /// Answers 200 with the headers of the request.
    Echo,
}

/// A request as it came.
#[derive(Debug)]
pub struct Arrival {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub at: Instant,
    pub clock: OffsetDateTime,
    pub version: Version,
    /// The connection it came on, numbered from 0.
    pub connection: u64,
    event_id: String,
    answer: OnceLock<(u16, Instant)>,
}

impl Arrival {
    /// A header's value, which must be there; what is not ASCII in it is UTF-8.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("there is no header {name} in {:?}", self.headers));
        std::str::from_utf8(value.as_bytes()).unwrap_or_else(|_| panic!("the header {name} is not UTF-8"))
    }

    pub fn webhook_id(&self) -> &str {
        self.header("webhook-id")
    }

    /// As its publisher wrote it; empty if there is none.
    pub fn event_id(&self) -> &str {
        &self.event_id
    }

    /// What a header says whose value is percent-encoded where it is not printable ASCII.
    pub fn decoded(&self, name: &str) -> String {
        decode(self.header(name))
    }

    pub fn attempt(&self) -> u32 {
        self.header("x-shopery-attempt").parse().unwrap()
    }

    /// The status that it was answered with, and when; `None` if its sender went away before, or waits.
    pub fn answered(&self) -> Option<(u16, Instant)> {
        self.answer.get().copied()
    }

    /// Whether it was answered with a 2xx status.
    pub fn is_accepted(&self) -> bool {
        self.answered().is_some_and(|(status, _)| (200..300).contains(&status))
    }
}

#[derive(Default)]
struct State {
    behaviours: Mutex<HashMap<String, Behaviour>>,
    arrivals: Mutex<Arrivals>,
    connections: AtomicU64,
    /// Bytes of floods that were taken off our hands.
    flooded: AtomicU64,
}

#[derive(Default)]
struct Arrivals {
    all: Vec<Arc<Arrival>>,
    by_path: HashMap<String, usize>,
}

/// An HTTPS server on loopback. It ends when it is dropped.
pub struct Merchant {
    port: u16,
    state: Arc<State>,
    arrived: watch::Receiver<usize>,
    _server: AbortOnDropHandle<()>,
}

impl fmt::Debug for Merchant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Merchant on port {}", self.port)
    }
}

impl Merchant {
    /// With a good certificate, and HTTP/2 on offer.
    pub async fn start(authority: &Authority) -> Self {
        Self::with_tls(authority.server_config(&["127.0.0.1", "localhost"], &[b"h2", b"http/1.1"]).unwrap()).await
    }

    /// With a good certificate, and HTTP/1.1 alone.
    pub async fn with_http1(authority: &Authority) -> Self {
        Self::with_tls(authority.server_config(&["127.0.0.1", "localhost"], &[b"http/1.1"]).unwrap()).await
    }

    pub async fn with_tls(tls: Arc<rustls::ServerConfig>) -> Self {
        Self::on_port(crate::ports::free(), tls).await
    }

    pub async fn on_port(port: u16, tls: Arc<rustls::ServerConfig>) -> Self {
        Self::at(Ipv4Addr::LOCALHOST, port, tls).await
    }

    /// On another address of this machine; [`Self::url`] is not for that.
    pub async fn at(address: Ipv4Addr, port: u16, tls: Arc<rustls::ServerConfig>) -> Self {
        let listener = TcpListener::bind((address, port)).await.unwrap();
        let state = Arc::<State>::default();
        let (notify, arrived) = watch::channel(0);
        let server = tokio::spawn(serve(listener, TlsAcceptor::from(tls), state.clone(), Arc::new(notify)));
        Self { port, state, arrived, _server: AbortOnDropHandle::new(server) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `https://127.0.0.1:<port><path>`
    pub fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.port)
    }

    /// From now on, `path` does this. A path that was told nothing answers 200.
    pub fn behave(&self, path: &str, behaviour: Behaviour) {
        self.state.behaviours.lock().unwrap().insert(path.to_owned(), behaviour);
    }

    pub fn arrivals(&self) -> Vec<Arc<Arrival>> {
        self.state.arrivals.lock().unwrap().all.clone()
    }

    /// By path, each in the order in which they came: one look at all of them, where there are many.
    pub fn arrivals_by_path(&self) -> HashMap<String, Vec<Arc<Arrival>>> {
        let mut by_path: HashMap<String, Vec<Arc<Arrival>>> = HashMap::new();
        for arrival in self.arrivals() {
            by_path.entry(arrival.path.clone()).or_default().push(arrival);
        }
        by_path
    }

    pub fn arrivals_at(&self, path: &str) -> Vec<Arc<Arrival>> {
        self.arrivals().into_iter().filter(|arrival| arrival.path == path).collect()
    }

    pub fn count(&self) -> usize {
        *self.arrived.borrow()
    }

    /// Bytes of [`Behaviour::Flood`] that receivers took.
    pub fn flooded(&self) -> u64 {
        self.state.flooded.load(Ordering::Relaxed)
    }

    /// Waits until what has arrived is `enough`.
    pub async fn wait_for(
        &self,
        what: &str,
        deadline: Duration,
        mut enough: impl FnMut(&[Arc<Arrival>]) -> bool,
    ) -> Vec<Arc<Arrival>> {
        let mut arrived = self.arrived.clone();
        let end = tokio::time::Instant::now() + deadline;
        loop {
            arrived.mark_unchanged();
            let all = self.arrivals();
            if enough(&all) {
                return all;
            }
            if tokio::time::timeout_at(end, arrived.changed()).await.is_err() {
                panic!("waited {deadline:?} for {what}; the merchant has {}", describe(&all));
            }
        }
    }

    /// Waits until `count` requests have come to `path`.
    pub async fn wait_at(&self, path: &str, count: usize, deadline: Duration) -> Vec<Arc<Arrival>> {
        let at = |all: &[Arc<Arrival>]| all.iter().filter(|arrival| arrival.path == path).count();
        self.wait_for(&format!("{count} requests at {path}"), deadline, |all| at(all) >= count).await;
        self.arrivals_at(path)
    }
}

fn decode(value: &str) -> String {
    percent_decode_str(value).decode_utf8().unwrap_or_else(|_| panic!("{value} is not UTF-8")).into_owned()
}

fn describe(arrivals: &[Arc<Arrival>]) -> String {
    let last: Vec<_> = arrivals.iter().rev().take(5).map(|arrival| &arrival.path).collect();
    format!("{} requests, the last of them at {last:?}", arrivals.len())
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, state: Arc<State>, notify: Arc<watch::Sender<usize>>) {
    // The connections end with the server.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(stream, tls.clone(), state.clone(), notify.clone()));
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, state: Arc<State>, notify: Arc<watch::Sender<usize>>) {
    let _ = stream.set_nodelay(true);
    // Whoever does not like our certificate goes away here.
    let Ok(stream) = tls.accept(stream).await else { return };
    let number = state.connections.fetch_add(1, Ordering::Relaxed);
    let service = service_fn(move |request| answer(request, number, state.clone(), notify.clone()));
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http2().max_concurrent_streams(1000);
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(
    request: Request<Incoming>,
    connection: u64,
    state: Arc<State>,
    notify: Arc<watch::Sender<usize>>,
) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let path = parts.uri.path().to_owned();
    let arrival = Arrival {
        path: path.clone(),
        event_id: parts
            .headers
            .get("x-shopery-event-id")
            .map(|id| decode(&String::from_utf8_lossy(id.as_bytes())))
            .unwrap_or_default(),
        headers: parts.headers,
        body,
        at: Instant::now(),
        clock: OffsetDateTime::now_utc(),
        version: parts.version,
        connection,
        answer: OnceLock::new(),
    };
    let arrival = Arc::new(arrival);
    let number = {
        let mut arrivals = state.arrivals.lock().unwrap();
        arrivals.all.push(arrival.clone());
        let number = arrivals.by_path.entry(path.clone()).or_default();
        *number += 1;
        *number
    };
    notify.send_modify(|count| *count += 1);
    let behaviour = state.behaviours.lock().unwrap().get(&path).cloned().unwrap_or(Behaviour::Answer(200));
    let response = behaviour.respond(number, &arrival, &state).await?;
    // Before its sender can know: what the sender does next comes later than this.
    let _ = arrival.answer.set((response.status().as_u16(), Instant::now()));
    Ok(response)
}

impl Behaviour {
    /// To request number `number` (the first is 1) of a path.
    async fn respond(self, number: usize, arrival: &Arrival, state: &Arc<State>) -> io::Result<Response<Body>> {
        match self {
            Self::Answer(status) => Ok(plain(status)),
            Self::FailFirst { times, status } => Ok(plain(if number <= times { status } else { 200 })),
            Self::Busy { times, status, retry_after } if number <= times => {
                Ok(with_header(plain(status), hyper::header::RETRY_AFTER, &retry_after))
            }
            Self::Busy { .. } => Ok(plain(200)),
            Self::Turns(answers) => Ok(plain(answers[(number - 1) % answers.len()])),
            Self::Refuse { text, status } => {
                let has_it = arrival.body.windows(text.len()).any(|part| part == text.as_bytes());
                Ok(plain(if has_it { status } else { 200 }))
            }
            Self::Slow(duration) => {
                tokio::time::sleep(duration).await;
                Ok(plain(200))
            }
            Self::Hold(semaphore) => {
                semaphore.acquire().await.map_err(io::Error::other)?.forget();
                Ok(plain(200))
            }
            Self::Hang => std::future::pending().await,
            Self::Redirect(to) => Ok(with_header(plain(302), hyper::header::LOCATION, &to)),
            Self::Flood { bytes, announced } => Ok(flood(bytes, announced, state.clone())),
            Self::Trickle => Ok(trickle()),
            Self::Body(text) => Ok(Response::new(Full::new(Bytes::from(text)).boxed_unsync())),
            Self::Close => Err(io::Error::other("closed on purpose")),
            Self::Echo => {
                let headers = format!("{:?}", arrival.headers);
                Ok(Response::new(Full::new(Bytes::from(headers)).boxed_unsync()))
            }
        }
    }
}

fn plain(status: u16) -> Response<Body> {
    let text = format!("this is {status}\n");
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn with_header(mut response: Response<Body>, name: HeaderName, value: &str) -> Response<Body> {
    response.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
    response
}

fn flood(bytes: usize, announced: bool, state: Arc<State>) -> Response<Body> {
    const CHUNK: usize = 16 * 1024;
    let chunks = stream::unfold(0, move |sent| {
        let state = state.clone();
        async move {
            let length = CHUNK.min(bytes - sent);
            state.flooded.fetch_add(length as u64, Ordering::Relaxed);
            (length > 0).then(|| (Ok(Frame::data(Bytes::from(vec![b'x'; length]))), sent + length))
        }
    });
    let response = Response::new(StreamBody::new(chunks).boxed_unsync());
    if announced { with_header(response, hyper::header::CONTENT_LENGTH, &bytes.to_string()) } else { response }
}

fn trickle() -> Response<Body> {
    let drops = stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Some((Ok(Frame::data(Bytes::from_static(b"."))), ()))
    });
    Response::new(StreamBody::new(drops).boxed_unsync())
}
