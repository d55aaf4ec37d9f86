//! Endpoints that do odd things, on real sockets.

use std::net::SocketAddr;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use rcgen::{CertificateParams, KeyPair};
use shopery_model::{EndpointSecret, PayloadFormat};
use shopery_runtime::Env;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

static FILES: AtomicUsize = AtomicUsize::new(0);
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn sender(variables: &[(&str, &str)]) -> Https {
    let variables = [&[("SHOPERY_INSECURE_ENDPOINTS", "true")], variables].concat();
    let mut env = Env::of(variables);
    let config = Config::read(&mut env);
    Https::new(&env.finish(config).unwrap(), &Runtime::default()).unwrap()
}

fn limited(limits: Limits) -> Https {
    let sender = sender(&[]);
    let connector = Connector::new(sender.egress.resolver().unwrap(), None).unwrap();
    Https { pool: Pool::new(connector, limits), ..sender }
}

async fn post(sender: &Https, url: &str) -> Answer {
    post_on(Wanted::Any, sender, url).await
}

async fn post_on(wanted: Wanted, sender: &Https, url: &str) -> Answer {
    let credentials = Credentials::new(EndpointSecret::generate().unwrap());
    let url: Url = url.parse().unwrap();
    let endpoint = Endpoint { url: &url, credentials: &credentials, signature: SignatureKind::Symmetric };
    let message = Message {
        webhook_id: "dlv_1".to_owned(),
        event: "order-paid",
        event_id: "evt_1",
        event_source: "orders",
        webhook: None,
        tenant: "tnt_a",
        triggered_at: OffsetDateTime::UNIX_EPOCH,
        payload_of: None,
        changed: &[],
        changed_omitted: 0,
        ordering_key: None,
        attempt: 1,
        is_test: false,
        format: PayloadFormat::Resource,
        payload: Bytes::from_static(br#"{"id":"1"}"#),
    };
    sender.send(wanted, endpoint, &message, OffsetDateTime::now_utc()).await.unwrap()
}

fn reason(answer: &Answer) -> Option<&'static str> {
    answer.fault.as_ref().map(|(fault, _)| fault.name())
}

/// What an HTTP/1.1 endpoint does with a request: it writes this, and closes the connection or not.
#[derive(Clone)]
struct Turn {
    writes: Vec<u8>,
    closes: bool,
}

fn says(text: &str) -> Turn {
    Turn { writes: text.as_bytes().to_vec(), closes: false }
}

fn closes_after(text: &str) -> Turn {
    Turn { closes: true, ..says(text) }
}

/// An endpoint on HTTP/1.1 without TLS. Its turns are those of the requests as they come, on whichever connection; the last
/// one is repeated.
struct Raw {
    address: SocketAddr,
    /// The connection of each request.
    requests: Arc<StdMutex<Vec<usize>>>,
}

impl Raw {
    async fn start(turns: Vec<Turn>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<StdMutex<Vec<usize>>>::default();
        let seen = requests.clone();
        tokio::spawn(async move {
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(Self::connection(stream, number, turns.clone(), seen.clone()));
            }
        });
        Self { address, requests }
    }

    async fn connection(mut stream: TcpStream, number: usize, turns: Vec<Turn>, seen: Arc<StdMutex<Vec<usize>>>) {
        let mut come = Vec::new();
        loop {
            // The request ends with its body.
            while !come.ends_with(br#"{"id":"1"}"#) {
                if stream.read_buf(&mut come).await.unwrap_or_default() == 0 {
                    return;
                }
            }
            come.clear();
            let place = {
                let mut seen = seen.lock().unwrap();
                seen.push(number);
                seen.len() - 1
            };
            let turn = &turns[place.min(turns.len() - 1)];
            stream.write_all(&turn.writes).await.unwrap();
            if turn.closes {
                return;
            }
        }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    fn requests(&self) -> Vec<usize> {
        self.requests.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_kept_connection_that_closes_under_a_request_costs_no_attempt() {
    let endpoint = Raw::start(vec![says(OK), closes_after(""), says(OK)]).await;
    let sender = sender(&[]);
    let first = post(&sender, &endpoint.url()).await;
    assert_eq!((first.status, first.note), (Some(200), None));
    let second = post(&sender, &endpoint.url()).await;
    assert_eq!((second.status, reason(&second)), (Some(200), None));
    assert!(second.note.unwrap().contains("sent again at once"));
    assert_eq!(endpoint.requests(), [0, 0, 1]);
}

#[tokio::test]
async fn a_request_on_a_new_connection_is_not_sent_again() {
    let endpoint = Raw::start(vec![closes_after("")]).await;
    let answer = post(&sender(&[]), &endpoint.url()).await;
    assert_eq!((answer.status, reason(&answer)), (None, Some("connection_failed")));
    assert_eq!(endpoint.requests(), [0]);
}

#[tokio::test]
async fn one_that_closes_again_is_not_asked_a_third_time() {
    let endpoint = Raw::start(vec![says(OK), closes_after("")]).await;
    let sender = sender(&[]);
    post(&sender, &endpoint.url()).await;
    let answer = post(&sender, &endpoint.url()).await;
    assert_eq!(reason(&answer), Some("connection_failed"));
    assert_eq!(endpoint.requests(), [0, 0, 1]);
}

#[tokio::test]
async fn the_status_decides_whatever_comes_after_it() {
    let headers = |count: usize| (0..count).map(|number| format!("x-{number}: {number}\r\n")).collect::<String>();
    let large = format!("x-large: {}\r\n", "x".repeat(600 * 1024));
    let odd = |turn: Turn, says: &'static str| (turn, Some(says));
    let plain = |turn: Turn| (turn, None);
    for (turn, note) in [
        plain(says(&format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", headers(200)))),
        odd(
            closes_after(&format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", headers(2000))),
            "after the status",
        ),
        odd(closes_after(&format!("HTTP/1.1 200 OK\r\n{large}content-length: 0\r\n\r\n")), "after the status"),
        plain(says("HTTP/1.1 200 OK\r\nx-folded: a\r\n  b\r\ncontent-length: 0\r\n\r\n")),
        plain(says("HTTP/1.1 200 OK\r\nx bad\r\ncontent-length: 0\r\n\r\n")),
        plain(says("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")),
        plain(closes_after("HTTP/1.1 200 OK\r\n\r\nuntil the end")),
        odd(closes_after("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort"), "broke off"),
        odd(says("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nnever more"), "did not end"),
        odd(closes_after("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"), "broke off"),
        odd(says("HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n"), "over 16 KiB"),
        odd(closes_after("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"), "after the status"),
    ] {
        let text = String::from_utf8_lossy(&turn.writes[..turn.writes.len().min(80)]).into_owned();
        let endpoint = Raw::start(vec![turn]).await;
        let answer = post(&sender(&[]), &endpoint.url()).await;
        assert_eq!((answer.status, &answer.fault), (Some(200), &None), "{text}");
        match note {
            Some(note) => {
                assert!(answer.note.as_ref().is_some_and(|told| told.contains(note)), "{text}: {:?}", answer.note)
            }
            None => assert_eq!(answer.note, None, "{text}"),
        }
        assert!(answer.duration < Duration::from_secs(3), "{text}: {:?}", answer.duration);
    }
    let endpoint = Raw::start(vec![closes_after("SSH-2.0-OpenSSH_9.2\r\n")]).await;
    assert_eq!(reason(&post(&sender(&[]), &endpoint.url()).await), Some("connection_failed"));
}

#[tokio::test]
async fn an_idle_connection_gives_way_where_there_may_be_no_more() {
    let endpoints =
        [Raw::start(vec![says(OK)]).await, Raw::start(vec![says(OK)]).await, Raw::start(vec![says(OK)]).await];
    let sender = limited(Limits::of(2));
    for endpoint in endpoints.iter().chain(&endpoints) {
        assert_eq!(post(&sender, &endpoint.url()).await.status, Some(200));
    }
    // While one is in use, there is room for one more.
    let held = Raw::start(vec![says("")]).await;
    let url = held.url();
    tokio::join!(
        async {
            assert_eq!(reason(&post(&sender, &url).await), Some("timeout"));
        },
        async {
            while held.requests().is_empty() {
                tokio::task::yield_now().await;
            }
            for endpoint in &endpoints {
                assert_eq!(post(&sender, &endpoint.url()).await.status, Some(200));
            }
        }
    );
}

#[tokio::test]
async fn the_parts_of_an_exchange_are_timed_as_far_as_it_came() {
    let (silent, refuses) = (Raw::start(vec![says("")]).await, Raw::start(vec![closes_after("")]).await);
    let sender = sender(&[]);
    let (url, other) = (silent.url(), refuses.url());
    let (waited, broken) = tokio::join!(post(&sender, &url), post(&sender, &other));
    for answer in [waited, broken] {
        let Timing { dns, connect, tls, first_byte } = answer.timing;
        assert!(answer.status.is_none() && connect.is_some(), "{answer:?}");
        assert_eq!((dns, tls, first_byte), (None, None, None));
    }
}

#[tokio::test]
async fn who_wants_a_connection_of_its_own_shares_none() {
    let (address, certificate, _) = http2(First::LargeHeaders).await;
    let sender = sender(&[("SHOPERY_CA_FILE", certificate.to_str().unwrap())]);
    let url = format!("https://{address}/");
    // There is one, and one is being made, that both could have.
    assert!(post(&sender, &url).await.timing.tls.is_some());
    assert!(post(&sender, &url).await.timing.tls.is_none());
    let (a, b) = tokio::join!(post_on(Wanted::New, &sender, &url), post_on(Wanted::New, &sender, &url));
    for answer in [a, b] {
        let Timing { connect, tls, first_byte, .. } = answer.timing;
        assert!(connect.is_some() && tls.is_some() && first_byte.is_some(), "{answer:?}");
    }
    assert_eq!(sender.pool.left(), 0);
    std::fs::remove_file(certificate).unwrap();
}

#[tokio::test]
async fn every_connection_is_closed_in_the_end_whoever_gives_up() {
    let (silent, well) = (Raw::start(vec![says("")]).await, Raw::start(vec![says(OK)]).await);
    let (address, certificate, _) = http2(First::LargeHeaders).await;
    let sender = sender(&[("SHOPERY_CA_FILE", certificate.to_str().unwrap())]);
    let http2 = format!("https://{address}/");
    for millis in [0, 1, 3, 10, 30, 100] {
        for url in [&silent.url(), &well.url(), &http2] {
            let _ = tokio::time::timeout(Duration::from_millis(millis), post(&sender, url)).await;
        }
    }
    for url in [&well.url(), &http2] {
        assert_eq!(post(&sender, url).await.status, Some(200));
    }
    assert_eq!(sender.pool.left(), 0);
    std::fs::remove_file(certificate).unwrap();
}

#[tokio::test]
async fn a_connection_that_is_given_up_is_closed_though_its_peer_does_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let sender = sender(&[]);
    assert!(tokio::time::timeout(Duration::from_millis(200), post(&sender, &url)).await.is_err());
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut come = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut come)).await;
    assert!(ended.is_ok() && come.starts_with(b"POST / HTTP/1.1"), "{ended:?}");
}

#[tokio::test]
async fn a_status_that_nothing_follows_decides() {
    let endpoint = Raw::start(vec![says("HTTP/1.1 200 OK\r\nx-endless: ")]).await;
    let answer = post(&sender(&[]), &endpoint.url()).await;
    assert_eq!((answer.status, reason(&answer)), (Some(200), None));
    assert!(answer.note.is_some());
}

#[tokio::test]
async fn what_an_idle_connection_says_of_itself_is_no_answer() {
    let busy = "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n";
    let endpoint = Raw::start(vec![closes_after(&format!("{OK}{busy}")), says(OK)]).await;
    let sender = sender(&[]);
    for _ in 0..3 {
        assert_eq!(post(&sender, &endpoint.url()).await.status, Some(200));
    }
}

#[tokio::test]
async fn after_a_body_that_was_not_read_to_its_end_comes_another_connection() {
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: 40000\r\n\r\n{}", "x".repeat(40_000));
    let endpoint = Raw::start(vec![says(&long), says(OK)]).await;
    let sender = sender(&[]);
    for _ in 0..2 {
        assert_eq!(post(&sender, &endpoint.url()).await.status, Some(200));
    }
    assert_eq!(endpoint.requests(), [0, 1]);
}

#[tokio::test]
async fn a_connection_has_a_greatest_age() {
    let endpoint = Raw::start(vec![says(OK)]).await;
    let young = limited(Limits::of(9));
    let old = limited(Limits { age: Duration::ZERO, ..Limits::of(9) });
    for (sender, connections) in [(young, [0, 0, 0]), (old, [1, 2, 3])] {
        let before = endpoint.requests().len();
        for _ in 0..3 {
            assert_eq!(post(&sender, &endpoint.url()).await.status, Some(200));
        }
        assert_eq!(endpoint.requests()[before..], connections);
    }
}

/// TLS for 127.0.0.1 with HTTP/2, and where its certificate lies.
fn tls(protocols: &[&[u8]]) -> (TlsAcceptor, std::path::PathBuf) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    // Tests run side by side.
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let name = format!("shopery-sender-{}-{number}.pem", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, certificate.pem()).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let mut config = rustls::ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    (TlsAcceptor::from(Arc::new(config)), path)
}

/// What an HTTP/2 endpoint does with the first requests; the others get 200.
#[derive(Clone, Copy)]
enum First {
    /// The number of them that are reset.
    Reset(h2::Reason, usize),
    LargeHeaders,
}

/// The protocols of the requests as they came.
async fn http2(first: First) -> (SocketAddr, std::path::PathBuf, Arc<StdMutex<Vec<&'static str>>>) {
    let (acceptor, certificate) = tls(&[b"h2", b"http/1.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::<StdMutex<Vec<&'static str>>>::default();
    let seen = requests.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, seen) = (acceptor.clone(), seen.clone());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                    let mut come = Vec::new();
                    while !come.ends_with(br#"{"id":"1"}"#) {
                        stream.read_buf(&mut come).await.unwrap();
                    }
                    seen.lock().unwrap().push("HTTP/1.1");
                    stream.write_all(OK.as_bytes()).await.unwrap();
                    return;
                }
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let place = {
                        let mut seen = seen.lock().unwrap();
                        seen.push("HTTP/2");
                        seen.len()
                    };
                    let mut response = http::Response::new(());
                    match first {
                        First::Reset(reason, count) if place <= count => {
                            respond.send_reset(reason);
                            continue;
                        }
                        First::LargeHeaders => {
                            response.headers_mut().insert("x-large", "x".repeat(20 * 1024).parse().unwrap());
                        }
                        First::Reset(..) => {}
                    }
                    respond.send_response(response, true).unwrap();
                }
            });
        }
    });
    (address, certificate, requests)
}

#[tokio::test]
async fn http_2_says_what_it_has_not_processed() {
    for (first, status, protocols) in [
        (First::Reset(h2::Reason::REFUSED_STREAM, 1), Some(200), &["HTTP/2"; 2][..]),
        (First::Reset(h2::Reason::REFUSED_STREAM, 3), Some(200), &["HTTP/2"; 4]),
        (First::Reset(h2::Reason::REFUSED_STREAM, 4), None, &["HTTP/2"; 4]),
        (First::Reset(h2::Reason::HTTP_1_1_REQUIRED, 1), Some(200), &["HTTP/2", "HTTP/1.1"]),
        // It may have been at it.
        (First::Reset(h2::Reason::INTERNAL_ERROR, 1), None, &["HTTP/2"]),
        (First::LargeHeaders, Some(200), &["HTTP/2"]),
    ] {
        let (address, certificate, requests) = http2(first).await;
        let sender = sender(&[("SHOPERY_CA_FILE", certificate.to_str().unwrap())]);
        let answer = post(&sender, &format!("https://{address}/")).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(*requests.lock().unwrap(), protocols);
        assert_eq!(answer.note.is_some(), status.is_some() && protocols.len() > 1, "{answer:?}");
        std::fs::remove_file(certificate).unwrap();
    }
}

#[tokio::test]
async fn an_endpoint_that_wants_http_1_is_not_offered_http_2_again() {
    let (address, certificate, requests) = http2(First::Reset(h2::Reason::HTTP_1_1_REQUIRED, 1)).await;
    let sender = sender(&[("SHOPERY_CA_FILE", certificate.to_str().unwrap())]);
    for _ in 0..3 {
        assert_eq!(post(&sender, &format!("https://{address}/")).await.status, Some(200));
    }
    assert_eq!(*requests.lock().unwrap(), ["HTTP/2", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1"]);
    std::fs::remove_file(certificate).unwrap();
}

/// A listener that takes no connection: its queue is full.
async fn silent(address: &str) -> (tokio::net::TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(address.parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let mut held = Vec::new();
    let address = listener.local_addr().unwrap();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        held.push(stream);
    }
    (listener, held)
}

#[tokio::test]
async fn of_many_addresses_each_has_its_whole_second() {
    let endpoint = Raw::start(vec![says(OK)]).await;
    let port = endpoint.address.port();
    let mut addresses = Vec::new();
    let mut kept = Vec::new();
    for last in 2..8 {
        let address = format!("127.0.0.{last}:{port}");
        kept.push(silent(&address).await);
        addresses.push(address.parse().unwrap());
    }
    let began = Instant::now();
    // All of them are silent.
    let failure = crate::connect::first_to_answer(addresses.clone()).await.unwrap_err();
    assert!(matches!(failure, Failure::Endpoint(Fault::ConnectTimeout, _)), "{failure:?}");
    let took = began.elapsed();
    assert!((Duration::from_millis(1900)..Duration::from_secs(4)).contains(&took), "{took:?}");
    // The seventh is not: it is reached after a quarter of a second for each before it, or less when those begin to fail.
    addresses.push(endpoint.address);
    let began = Instant::now();
    let (stream, _) = crate::connect::first_to_answer(addresses).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), endpoint.address);
    let took = began.elapsed();
    assert!((Duration::from_millis(1100)..Duration::from_secs(3)).contains(&took), "{took:?}");
}

#[test]
fn connections_leave_descriptors_for_the_rest() {
    for (descriptors, connections) in [(256, 144), (1024, 720), (1 << 20, 16 * 1024), (10, 1)] {
        assert_eq!(max_connections(descriptors), connections, "{descriptors}");
    }
}
