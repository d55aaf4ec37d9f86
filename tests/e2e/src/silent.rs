//! An address that answers nobody, as behind a firewall that drops packets.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A connection that is not there by then is not coming.
const SETTLED: Duration = Duration::from_millis(200);

/// A listener whose queue is full: nothing comes back to whoever knocks. It ends when it is dropped.
#[derive(Debug)]
pub struct Silent {
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Silent {
    pub async fn at(address: Ipv4Addr, port: u16) -> Self {
        let address = SocketAddr::from((address, port));
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(1).unwrap();
        let mut queued = Vec::new();
        while let Ok(Ok(stream)) = tokio::time::timeout(SETTLED, TcpStream::connect(address)).await {
            queued.push(stream);
        }
        Self { _listener: listener, _queued: queued }
    }
}
