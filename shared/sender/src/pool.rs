//! The connections of this process, to all hosts together: which one a request takes, and how long one is kept.
//!
//! - An HTTP/1.1 connection serves one request at a time; the one that was used last is taken first. An HTTP/2 connection
//!   serves as many at once as its endpoint allows.
//! - None is used for longer than [`MAX_AGE`]: its host may have moved.
//! - None is kept idle for longer than [`MAX_IDLE`]: the server would close it just as a request is on its way.
//! - There are never more than the process has file descriptors for: those that have been idle for longest are evicted.
//!
//! Rejected: the client of `reqwest`, which has none of the first three bounds, divides the time to connect among the
//! addresses of a host, and does not tell whether a request was processed.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus_client::metrics::gauge::Gauge;
use shopery_model::{Fault, Timing};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::connect::{Connected, Connector, Origin};
use crate::failure::{Failure, SenderFault};
use crate::wire::{CloseOnDrop, Watched, Wire};

/// After this a connection takes no more requests. A host that has moved is followed within this time and that of a name.
const MAX_AGE: Duration = Duration::from_secs(60);
/// Less than the five seconds after which Apache and Node.js close a connection; nginx and load balancers wait for longer.
pub(crate) const MAX_IDLE: Duration = Duration::from_secs(4);
/// How often idle connections are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How long an endpoint that has refused HTTP/2 is not offered it, and how many such endpoints are remembered.
const HTTP1_KEPT: Duration = Duration::from_secs(60 * 60);
const MAX_HTTP1_KEPT: usize = 10_000;
/// Header fields of an answer that are read (of HTTP/1.1), and bytes of all of them. Beyond, HTTP/1.1 has a status all the same;
/// in HTTP/2 the answer cannot be read.
const MAX_HEADERS: usize = 256;
const MAX_HEADER_BYTES: u32 = 256 * 1024;
/// Requests at once on an HTTP/2 connection before the endpoint has said how many it takes, as RFC 9113 recommends (6.5.2).
const FIRST_STREAMS: usize = 100;
/// When all connections are in use or idle, this part of them is closed at once, so that it need not be done for each new one.
const EVICTED_PART: usize = 16;

pub(crate) type Http1 = http1::SendRequest<Full<Bytes>>;
pub(crate) type Http2 = http2::SendRequest<Full<Bytes>>;

#[derive(Clone)]
pub(crate) struct Pool(Arc<Inner>);

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("limits", &self.0.limits).finish_non_exhaustive()
    }
}

/// Of all connections together, and of each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) age: Duration,
}

impl Limits {
    pub(crate) fn of(connections: usize) -> Self {
        Self { connections, age: MAX_AGE }
    }
}

struct Inner {
    connector: Connector,
    limits: Limits,
    open: Gauge,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hosts: HashMap<Arc<Origin>, Host>,
    /// Connections that are kept, in use, or being made.
    open: usize,
    /// Endpoints that are remembered for refusing HTTP/2.
    http1_kept: usize,
    next_id: u64,
}

/// What is kept of a host.
#[derive(Default)]
struct Host {
    /// Those in use are not here.
    http1: Vec<IdleHttp1>,
    http2: Vec<SharedHttp2>,
    /// Somebody makes an HTTP/2 connection, which others wait for; it tells of a failure.
    connecting: Option<watch::Receiver<Option<Failure>>>,
    has_spoken_http2: bool,
    /// It has refused HTTP/2.
    http1_until: Option<Instant>,
}

struct IdleHttp1 {
    handle: Handle<Http1>,
    close: CloseOnDrop,
    since: Instant,
    until: Instant,
}

struct SharedHttp2 {
    handle: Handle<Http2>,
    /// Closes it when it is no longer kept.
    _close: CloseOnDrop,
    streams: usize,
    /// It has answered a request.
    has_served: bool,
    /// What the endpoint allows.
    max_streams: Arc<AtomicUsize>,
    idle_since: Instant,
    /// It takes no more requests.
    is_over: bool,
}

#[derive(Clone)]
struct Handle<S> {
    id: u64,
    sender: S,
    wire: Arc<Wire>,
    born: Instant,
}

/// A connection for one request. It is closed after it, unless it is [kept](Connection::keep).
pub(crate) struct Connection {
    pub(crate) wire: Arc<Wire>,
    /// It has served a request before.
    pub(crate) is_kept: bool,
    pub(crate) sender: Sender,
    /// Of HTTP/1.1: closes it, unless it is kept.
    close: Option<CloseOnDrop>,
    checkout: Checkout,
}

/// Accounts for a connection that is in use until it is dropped.
struct Checkout {
    pool: Pool,
    origin: Arc<Origin>,
    id: u64,
    born: Instant,
    state: CheckoutState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CheckoutState {
    /// It ends with the request.
    Http1,
    /// It is idle again.
    Idle,
    /// One of the streams of a connection, which takes no more of them if this one went wrong.
    Http2 { is_well: bool },
}

pub(crate) enum Sender {
    Http1(Http1),
    Http2(Http2),
}

/// Which connection a request may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Any,
    /// One that was made after this moment.
    MadeAfter(Instant),
    /// One that is made for this request.
    New,
}

impl Wanted {
    fn takes(self, born: Instant) -> bool {
        match self {
            Self::Any => true,
            Self::MadeAfter(moment) => born > moment,
            Self::New => false,
        }
    }
}

enum Found {
    Kept(Connection),
    /// One is on its way.
    Connecting(watch::Receiver<Option<Failure>>),
    None(Reservation),
}

/// Room for a connection that is being made.
struct Reservation {
    pool: Pool,
    origin: Arc<Origin>,
    is_http1: bool,
    failed: Option<watch::Sender<Option<Failure>>>,
    is_used: bool,
}

impl Pool {
    pub(crate) fn new(connector: Connector, limits: Limits) -> Self {
        Self(Arc::new(Inner { connector, limits, open: Gauge::default(), state: Mutex::default() }))
    }

    /// A connection to this host. `timing` is that of making one for this request.
    pub(crate) async fn connection(
        &self,
        origin: &Arc<Origin>,
        wanted: Wanted,
        timing: &mut Timing,
    ) -> Result<Connection, Failure> {
        loop {
            let reservation = match self.find(origin, wanted)? {
                Found::Kept(connection) => return Ok(connection),
                Found::Connecting(mut failed) => {
                    // It is dropped when the connection is there, or nobody makes it any more.
                    if let Ok(failure) = failed.wait_for(Option::is_some).await
                        && let Some(failure) = &*failure
                    {
                        return Err(failure.clone());
                    }
                    continue;
                }
                Found::None(reservation) => reservation,
            };
            let connected = self.0.connector.connect(origin, reservation.is_http1, timing).await;
            return match connected {
                Ok(connected) => reservation.fill(connected).await,
                Err(failure) => {
                    reservation.fail(&failure);
                    Err(failure)
                }
            };
        }
    }

    fn find(&self, origin: &Arc<Origin>, wanted: Wanted) -> Result<Found, Failure> {
        let (now, limits) = (Instant::now(), self.0.limits);
        let mut guard = self.lock();
        let state = &mut *guard;
        let kept = state.hosts.entry(origin.clone()).or_default();
        let is_usable = |born: Instant| now - born < limits.age && wanted.takes(born);
        let shared = kept.http2.iter_mut().find(|shared| {
            let room = shared.max_streams.load(Ordering::Relaxed);
            !shared.is_over
                && !shared.handle.sender.is_closed()
                && is_usable(shared.handle.born)
                && shared.streams < room
        });
        if let Some(shared) = shared {
            // With others on it, its end says nothing of one alone.
            let is_kept = shared.has_served && shared.streams == 0;
            shared.streams += 1;
            let Handle { id, sender, wire, born } = shared.handle.clone();
            return Ok(Found::Kept(self.taken(origin, Sender::Http2(sender), None, (id, wire, born), is_kept)));
        }
        // For a request that is sent again, those that are idle are no newer; they stay for others.
        while wanted == Wanted::Any
            && let Some(IdleHttp1 { handle, close, until, .. }) = kept.http1.pop()
        {
            if now < until && is_usable(handle.born) && handle.sender.is_ready() {
                let Handle { id, sender, wire, born } = handle;
                let connection = self.taken(origin, Sender::Http1(sender), Some(close), (id, wire, born), true);
                return Ok(Found::Kept(connection));
            }
            state.open -= 1;
        }
        let may_wait = kept.http1_until.is_none() && wanted != Wanted::New;
        if let Some(connecting) = kept.connecting.as_ref().filter(|_| may_wait) {
            return Ok(Found::Connecting(connecting.clone()));
        }
        if state.open >= limits.connections && !state.evict(limits.connections) {
            return Err(Failure::Ours(SenderFault::Descriptors));
        }
        let kept = state.hosts.entry(origin.clone()).or_default();
        state.open += 1;
        let is_http1 = kept.http1_until.is_some_and(|until| now < until);
        let failed = (kept.has_spoken_http2 && !is_http1 && kept.connecting.is_none()).then(|| {
            let (failed, connecting) = watch::channel(None);
            kept.connecting = Some(connecting);
            failed
        });
        Ok(Found::None(Reservation { pool: self.clone(), origin: origin.clone(), is_http1, failed, is_used: false }))
    }

    fn taken(
        &self,
        origin: &Arc<Origin>,
        sender: Sender,
        close: Option<CloseOnDrop>,
        (id, wire, born): (u64, Arc<Wire>, Instant),
        is_kept: bool,
    ) -> Connection {
        let state = match sender {
            Sender::Http1(_) => CheckoutState::Http1,
            Sender::Http2(_) => CheckoutState::Http2 { is_well: false },
        };
        let checkout = Checkout { pool: self.clone(), origin: origin.clone(), id, born, state };
        Connection { wire, is_kept, sender, close, checkout }
    }

    pub(crate) fn open(&self) -> Gauge {
        self.0.open.clone()
    }

    pub(crate) fn max(&self) -> usize {
        self.0.limits.connections
    }

    /// Connections that are left once all have been idle for long.
    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        let mut state = self.lock();
        state.close_idle(Instant::now() + HTTP1_KEPT, Duration::ZERO);
        assert!(state.hosts.is_empty());
        state.open
    }

    /// From now on this host is spoken to in HTTP/1.1.
    pub(crate) fn refuses_http2(&self, origin: &Arc<Origin>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let kept = state.hosts.entry(origin.clone()).or_default();
        if kept.http1_until.is_some() || state.http1_kept < MAX_HTTP1_KEPT {
            state.http1_kept += usize::from(kept.http1_until.is_none());
            kept.http1_until = Some(Instant::now() + HTTP1_KEPT);
        }
        kept.http2.iter_mut().for_each(|shared| shared.is_over = true);
    }

    /// Closes what has been idle for too long, again and again.
    pub(crate) async fn close_idle(self) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            let mut state = self.lock();
            state.close_idle(Instant::now(), self.0.limits.age);
            self.0.open.set(i64::try_from(state.open).unwrap_or(i64::MAX));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn close_idle(&mut self, now: Instant, max_age: Duration) {
        let Self { hosts, open, http1_kept, .. } = self;
        hosts.retain(|_, kept| {
            let before = kept.http1.len() + kept.http2.len();
            kept.http1.retain(|idle| now < idle.until && !idle.handle.sender.is_closed());
            kept.http2.retain(|shared| {
                shared.streams > 0
                    || !(shared.is_over
                        || shared.handle.sender.is_closed()
                        || now - shared.handle.born >= max_age
                        || now - shared.idle_since >= MAX_IDLE)
            });
            *open -= before - kept.http1.len() - kept.http2.len();
            if kept.http1_until.is_some_and(|until| until <= now) {
                kept.http1_until = None;
                *http1_kept -= 1;
            }
            !(kept.http1.is_empty() && kept.http2.is_empty() && kept.connecting.is_none() && kept.http1_until.is_none())
        });
    }

    /// Closes those that have been idle for longest; false if all are in use.
    fn evict(&mut self, max: usize) -> bool {
        let mut idle: Vec<_> = self.hosts.values().flat_map(Host::idle).collect();
        if idle.is_empty() {
            return false;
        }
        let last = (max / EVICTED_PART).min(idle.len() - 1);
        let (_, &mut since, _) = idle.select_nth_unstable(last);
        for kept in self.hosts.values_mut() {
            let before = kept.http1.len() + kept.http2.len();
            kept.http1.retain(|idle| idle.since > since);
            kept.http2.retain(|shared| shared.streams > 0 || shared.idle_since > since);
            self.open -= before - kept.http1.len() - kept.http2.len();
        }
        true
    }
}

impl Host {
    /// Since when each idle connection has been so.
    fn idle(&self) -> impl Iterator<Item = Instant> {
        let http2 = self.http2.iter().filter(|shared| shared.streams == 0).map(|shared| shared.idle_since);
        self.http1.iter().map(|idle| idle.since).chain(http2)
    }
}

impl Reservation {
    async fn fill(mut self, Connected { stream, is_http2 }: Connected) -> Result<Connection, Failure> {
        let (stream, wire) = Watched::new(stream);
        let (stream, born) = (TokioIo::new(stream), Instant::now());
        let broken = |_| Failure::Endpoint(Fault::ConnectionFailed, "the connection broke at its start".to_owned());
        let max_streams = Arc::new(AtomicUsize::new(FIRST_STREAMS));
        // Whoever waits for an answer is failed how a connection ends.
        let sender = if is_http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).max_header_list_size(MAX_HEADER_BYTES);
            let (sender, mut connection) = builder.handshake(stream).await.map_err(broken)?;
            let allowed = max_streams.clone();
            drop(tokio::spawn(poll_fn(move |context| {
                let ended = Pin::new(&mut connection).poll(context);
                allowed.store(connection.current_max_send_streams(), Ordering::Relaxed);
                ended
            })));
            Sender::Http2(sender)
        } else {
            let mut builder = http1::Builder::new();
            builder.max_headers(MAX_HEADERS).max_buf_size(MAX_HEADER_BYTES as usize);
            builder.allow_obsolete_multiline_headers_in_responses(true).ignore_invalid_headers_in_responses(true);
            let (sender, connection) = builder.handshake(stream).await.map_err(broken)?;
            drop(tokio::spawn(connection));
            Sender::Http1(sender)
        };
        self.is_used = true;
        let mut state = self.pool.lock();
        state.next_id += 1;
        let id = state.next_id;
        let kept = state.hosts.entry(self.origin.clone()).or_default();
        kept.has_spoken_http2 = is_http2;
        let mut close = Some(CloseOnDrop(wire.clone()));
        if let Sender::Http2(sender) = &sender
            && let Some(close) = close.take()
        {
            let handle = Handle { id, sender: sender.clone(), wire: wire.clone(), born };
            kept.http2.push(SharedHttp2 {
                handle,
                _close: close,
                streams: 1,
                has_served: false,
                max_streams,
                idle_since: born,
                is_over: false,
            });
        }
        drop(state);
        Ok(self.pool.taken(&self.origin, sender, close, (id, wire, born), false))
    }

    fn fail(mut self, failure: &Failure) {
        if let Some(failed) = self.failed.take() {
            failed.send_replace(Some(failure.clone()));
            self.failed = Some(failed);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.open -= usize::from(!self.is_used);
        if self.failed.is_some()
            && let Some(kept) = state.hosts.get_mut(&self.origin)
        {
            kept.connecting = None;
        }
    }
}

impl Connection {
    /// It is good for another request, unless that comes later than `idle`, which its endpoint may have said.
    pub(crate) fn keep(mut self, idle: Option<Duration>) {
        match self.sender {
            Sender::Http1(sender) => {
                let Checkout { id, born, .. } = self.checkout;
                let since = Instant::now();
                if since - born < self.checkout.pool.0.limits.age
                    && let Some(close) = self.close.take()
                {
                    let until = since + idle.map_or(MAX_IDLE, |idle| idle.min(MAX_IDLE));
                    let handle = Handle { id, sender, wire: self.wire, born };
                    let mut state = self.checkout.pool.lock();
                    let kept = state.hosts.entry(self.checkout.origin.clone()).or_default();
                    kept.http1.push(IdleHttp1 { handle, close, since, until });
                    drop(state);
                    self.checkout.state = CheckoutState::Idle;
                }
            }
            Sender::Http2(_) => self.checkout.state = CheckoutState::Http2 { is_well: true },
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let mut guard = self.pool.lock();
        let state = &mut *guard;
        match self.state {
            CheckoutState::Idle => {}
            CheckoutState::Http1 => state.open -= 1,
            CheckoutState::Http2 { is_well } => {
                let Some(kept) = state.hosts.get_mut(&self.origin) else { return };
                let Some(index) = kept.http2.iter().position(|shared| shared.handle.id == self.id) else { return };
                let shared = &mut kept.http2[index];
                shared.streams -= 1;
                shared.idle_since = Instant::now();
                shared.is_over |= !is_well;
                shared.has_served |= is_well;
                if shared.streams == 0 && shared.is_over {
                    kept.http2.swap_remove(index);
                    state.open -= 1;
                }
            }
        }
    }
}
