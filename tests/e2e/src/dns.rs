//! A name server that answers what a test wants, and another time something else.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio_util::task::AbortOnDropHandle;

const A: u16 = 1;
const AAAA: u16 = 28;
const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;

/// What a name leads to: the first time, the second, …, and from then on the last.
type Answers = Vec<Vec<IpAddr>>;

#[derive(Debug, Default)]
struct Zone {
    names: HashMap<String, Answers>,
    /// Names whose own name servers do not answer this one.
    broken: HashSet<String>,
    asked: HashMap<(String, u16), usize>,
}

/// Over UDP on loopback. It ends when it is dropped.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    _server: AbortOnDropHandle<()>,
}

impl NameServer {
    pub async fn start() -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// Where another one was.
    pub async fn at(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind(address).await.unwrap();
        let address = socket.local_addr().unwrap();
        let zone = Arc::<Mutex<Zone>>::default();
        let server = tokio::spawn(serve(socket, zone.clone()));
        Self { address, zone, _server: AbortOnDropHandle::new(server) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `name` leads to these addresses, one list a time.
    pub fn answer(&self, name: &str, times: &[&[&str]]) {
        let parse = |list: &&[&str]| list.iter().map(|address| address.parse().unwrap()).collect();
        self.zone.lock().unwrap().names.insert(name.to_owned(), times.iter().map(parse).collect());
    }

    /// From now on the name servers of `name` are silent.
    pub fn is_broken(&self, name: &str) {
        self.zone.lock().unwrap().broken.insert(name.to_owned());
    }

    /// How often its IPv4 addresses were asked for.
    pub fn asked(&self, name: &str) -> usize {
        self.zone.lock().unwrap().asked.get(&(name.to_owned(), A)).copied().unwrap_or_default()
    }
}

async fn serve(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut buffer = [0; 1500];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let reply = respond(&buffer[..length], &zone);
        let _ = socket.send_to(&reply.unwrap_or_default(), from).await;
    }
}

/// `None` to what is no question.
fn respond(query: &[u8], zone: &Mutex<Zone>) -> Option<Vec<u8>> {
    // After a header of 12 bytes: labels, each behind its length, until an empty one; type; class.
    let (mut name, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        name.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    let question = query.get(12..at + 4)?;
    let (code, records) = zone.lock().unwrap().look_up(&name.join("."), kind);

    let mut reply = query[..2].to_vec();
    // A response, recursion desired and available; one question.
    reply.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(records.len()).ok()?, 0, 0, 0, 0]);
    reply.extend(question);
    for record in records {
        // The name of the question, IN, to be forgotten at once.
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 0, 0, u8::try_from(record.len()).ok()?]);
        reply.extend(record);
    }
    Some(reply)
}

impl Zone {
    fn look_up(&mut self, name: &str, kind: u16) -> (u8, Vec<Vec<u8>>) {
        if self.broken.contains(name) {
            return (SERVER_FAILURE, Vec::new());
        }
        let Some(times) = self.names.get(name) else { return (NO_SUCH_NAME, Vec::new()) };
        let asked = self.asked.entry((name.to_owned(), kind)).or_default();
        let addresses = &times[(*asked).min(times.len() - 1)];
        *asked += 1;
        let of_kind = |address: &IpAddr| match (address, kind) {
            (IpAddr::V4(v4), A) => Some(v4.octets().to_vec()),
            (IpAddr::V6(v6), AAAA) => Some(v6.octets().to_vec()),
            _ => None,
        };
        (NO_ERROR, addresses.iter().filter_map(of_kind).collect())
    }
}
