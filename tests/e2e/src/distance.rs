//! A way between two ends that takes its time: a proxy on loopback.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::ports;

/// What comes to its port leads to another one of this host. It ends when it is dropped.
#[derive(Debug)]
pub struct Distance {
    port: u16,
    _proxy: AbortOnDropHandle<()>,
}

impl Distance {
    /// `there_and_back` is what a question and its answer take together.
    pub async fn to(port: u16, there_and_back: Duration) -> Self {
        let own = ports::free();
        let listener = TcpListener::bind(("127.0.0.1", own)).await.unwrap();
        let proxy = tokio::spawn(serve(listener, port, there_and_back / 2));
        Self { port: own, _proxy: AbortOnDropHandle::new(proxy) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

async fn serve(listener: TcpListener, port: u16, delay: Duration) {
    let mut ways = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        while ways.try_join_next().is_some() {}
        ways.spawn(async move {
            let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
            tokio::join!(carry(near_read, far_write, delay), carry(far_read, near_write, delay));
        });
    }
}

/// Carries everything, its end included.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (send, mut on_its_way) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let read = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            if send.send((Instant::now() + delay, buffer[..length].to_vec())).await.is_err() {
                break;
            }
        }
        // The end takes its time too.
        let _ = send.send((Instant::now() + delay, Vec::new())).await;
        drop(send);
    };
    let write = async {
        while let Some((due, bytes)) = on_its_way.recv().await {
            tokio::time::sleep_until(due).await;
            if bytes.is_empty() || to.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}
