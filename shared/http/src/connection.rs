//! A connection whose other end must keep moving. The HTTP server bounds the time of a request's head and of the
//! request; here is what it does not see: a client that connects and says nothing, and one that does not take its answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// The server waits for so many bytes to tell HTTP/1 from HTTP/2; from then on it has time limits of its own.
const OPENING_BYTES: usize = 24;
const OPENING_TIME: Duration = Duration::from_secs(10);
/// Of an answer that does not fit the buffers on the way, so much must be taken in each so long: 2 KiB a second.
const PROGRESS_BYTES: usize = 64 * 1024;
const PROGRESS_TIME: Duration = Duration::from_secs(30);

pub(crate) struct Attended<S> {
    stream: S,
    opening: Option<Pin<Box<Sleep>>>,
    read: usize,
    blocked: Option<Blocked>,
}

/// The other end takes less than there is to write.
struct Blocked {
    deadline: Pin<Box<Sleep>>,
    taken: usize,
}

impl<S> Attended<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, opening: Some(Box::pin(sleep(OPENING_TIME))), read: 0, blocked: None }
    }

    fn wrote(
        &mut self,
        wrote: Poll<io::Result<usize>>,
        all: usize,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match wrote {
            Poll::Pending => {
                let blocked =
                    self.blocked.get_or_insert_with(|| Blocked { deadline: Box::pin(sleep(PROGRESS_TIME)), taken: 0 });
                ready!(blocked.deadline.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Ready(Ok(count)) if count < all => {
                if let Some(blocked) = &mut self.blocked {
                    blocked.taken += count;
                }
                self.blocked.take_if(|blocked| blocked.taken >= PROGRESS_BYTES);
                wrote
            }
            Poll::Ready(_) => {
                self.blocked = None;
                wrote
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Attended<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(opening) = &mut self.opening else { return read };
        if read.is_pending() {
            ready!(opening.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.read += buffer.filled().len() - before;
        if self.read >= OPENING_BYTES {
            self.opening = None;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Attended<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(wrote, bytes.len(), context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(wrote, slices.iter().map(|slice| slice.len()).sum(), context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    // The time is that of tokio, which passes when there is nothing else to do.

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_or_little_is_left_after_ten_seconds() {
        for said in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n"] {
            let (ours, mut theirs) = duplex(1024);
            let mut ours = Attended::new(ours);
            theirs.write_all(said).await.unwrap();
            let began = Instant::now();
            let error = ours.read_exact(&mut [0; 24]).await.unwrap_err();
            assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, 10), "{said:?}");
        }
        // A request that has begun has the server's time limits.
        let (ours, mut theirs) = duplex(1024);
        let mut ours = Attended::new(ours);
        theirs.write_all(&[b'x'; 24]).await.unwrap();
        ours.read_exact(&mut [0; 24]).await.unwrap();
        let late = async {
            sleep(OPENING_TIME * 10).await;
            theirs.write_all(b"x").await.unwrap();
        };
        let (read, ()) = tokio::join!(ours.read_u8(), late);
        assert_eq!(read.unwrap(), b'x');
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_the_answer_is_left_after_thirty_seconds() {
        let (ours, _theirs) = duplex(1024);
        let mut ours = Attended::new(ours);
        let began = Instant::now();
        let error = ours.write_all(&[0; 2048]).await.unwrap_err();
        assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, 30));
    }

    /// Bytes a second that a client takes, and whether it gets a megabyte.
    #[tokio::test(start_paused = true)]
    async fn who_takes_it_slowly_gets_it_if_it_is_two_kibibytes_a_second() {
        for (rate, is_served) in [(4096, true), (1024, false)] {
            let (ours, mut theirs) = duplex(1024);
            let mut ours = Attended::new(ours);
            let reader = tokio::spawn(async move {
                let mut buffer = vec![0; rate];
                while theirs.read_exact(&mut buffer).await.is_ok() {
                    sleep(Duration::from_secs(1)).await;
                }
            });
            let wrote = ours.write_all(&vec![0; 1 << 20]).await;
            assert_eq!(wrote.is_ok(), is_served, "{rate}");
            drop(ours);
            reader.await.unwrap();
        }
    }
}
