//! What is seen on a connection below HTTP: whether the peer has said anything, and the status line of its answer. They
//! decide what an exchange that broke means where the HTTP library gives only an error.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// As much of an answer as holds its status: `HTTP/1.1 200`.
const STATUS_LINE: usize = 12;

/// What has come on a connection.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    bytes: AtomicU64,
    /// The first bytes since the last request.
    start: Mutex<Vec<u8>>,
    /// Nobody uses it any more, and who waits to read or write is to end.
    is_over: AtomicBool,
    /// Of the one task that reads and writes.
    task: AtomicWaker,
}

/// When this is dropped the socket is closed, whatever the peer does: the HTTP library would wait for a peer that takes no more
/// bytes.
#[derive(Debug)]
pub(crate) struct CloseOnDrop(pub(crate) Arc<Wire>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Release);
        self.0.task.wake();
    }
}

impl Wire {
    /// Bytes that have come so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A request is about to be written.
    pub(crate) fn begin(&self) {
        self.start.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The status that an HTTP/1.1 answer has begun with, if it is a final one.
    pub(crate) fn status(&self) -> Option<http::StatusCode> {
        status(&self.start.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn check(&self) -> io::Result<()> {
        if self.is_over.load(Ordering::Acquire) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    /// What is under way, or the end of it.
    fn unless_over<T>(&self, context: &Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            return polled;
        }
        self.task.register(context.waker());
        self.check()?;
        Poll::Pending
    }

    fn note(&self, come: &[u8]) {
        self.bytes.fetch_add(come.len() as u64, Ordering::Relaxed);
        let mut start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = STATUS_LINE - start.len().min(STATUS_LINE);
        start.extend_from_slice(&come[..come.len().min(missing)]);
    }
}

fn status(start: &[u8]) -> Option<http::StatusCode> {
    let (version, code) = start.split_at_checked(STATUS_LINE - 3)?;
    let status = http::StatusCode::from_bytes(code).ok()?;
    ((version == b"HTTP/1.1 " || version == b"HTTP/1.0 ") && !status.is_informational()).then_some(status)
}

/// A stream whose incoming bytes are noted.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    wire: Arc<Wire>,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S) -> (Self, Arc<Wire>) {
        let wire = Arc::<Wire>::default();
        (Self { stream, wire: wire.clone() }, wire)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        self.wire.check()?;
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(come) = buffer.filled().get(before..).filter(|come| !come.is_empty()) {
            self.wire.note(come);
        }
        self.wire.unless_over(context, read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.wire.check()?;
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wire.unless_over(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.check()?;
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.wire.unless_over(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.check()?;
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.wire.unless_over(context, shut)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.wire.check()?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.wire.unless_over(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_where_an_answer_begins_with_one() {
        for (start, code) in [
            (&b"HTTP/1.1 204 No Content\r\n"[..], Some(204)),
            (b"HTTP/1.0 500\r\n", Some(500)),
            // An informational one is followed by another.
            (b"HTTP/1.1 103 Early Hints\r\n", None),
            (b"HTTP/1.1 20", None),
            (b"HTTP/2.0 200", None),
            (b"SSH-2.0-OpenSSH", None),
            (b"", None),
        ] {
            let wire = Wire::default();
            start.iter().for_each(|byte| wire.note(&[*byte]));
            assert_eq!(wire.status().map(|status| status.as_u16()), code, "{start:?}");
            assert_eq!(wire.bytes(), start.len() as u64);
            wire.begin();
            assert_eq!(wire.status(), None);
        }
    }
}
