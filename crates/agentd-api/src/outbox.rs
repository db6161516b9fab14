//! Answers on their way to one client.

use crate::buffers;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{MsgFlags, send};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep};

/// How a connection ends from the client's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Nobody is there any more.
    Gone,
    /// Somebody is, but takes nothing.
    Stalled,
}

/// Bytes that wait to be sent.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    // How many bytes were sent and forgotten before `bytes[0]`.
    before: u64,
    // The socket was full at the last attempt, and has not become writable since.
    blocked: bool,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// How many bytes wait.
    pub(crate) fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// The place after the last byte, counted from the connection's beginning.
    pub(crate) fn end(&self) -> u64 {
        self.before + self.bytes.len() as u64
    }

    /// The place up to which the kernel has taken the bytes.
    pub(crate) fn taken(&self) -> u64 {
        self.before + self.sent as u64
    }

    /// Where to append.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = buffers::lend();
        }
        &mut self.bytes
    }

    /// Takes back what was appended after the place `end`, as far as it was not sent.
    pub(crate) fn cut(&mut self, end: u64) {
        let length = usize::try_from(end.saturating_sub(self.before)).unwrap_or(usize::MAX);
        self.bytes.truncate(length.max(self.sent));
    }

    /// Sends everything. Ready with an error when the client is gone, or has taken nothing for `patience`.
    pub(crate) fn poll_flush(
        &mut self,
        stream: &UnixStream,
        patience: Duration,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let mut progress = false;
        loop {
            if self.is_empty() {
                self.before += self.sent as u64;
                self.sent = 0;
                buffers::give_back(&mut self.bytes);
                self.stalled = None;
                return Poll::Ready(Ok(()));
            }
            if self.blocked {
                match stream.poll_write_ready(context) {
                    Poll::Ready(Ok(())) => self.blocked = false,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Gone)),
                    Poll::Pending => {
                        // Only a client that is behind costs a timer.
                        let stalled = self
                            .stalled
                            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
                        if progress {
                            stalled.as_mut().reset(Instant::now() + patience);
                        }
                        ready!(stalled.as_mut().poll(context));
                        self.stalled = None;
                        return Poll::Ready(Err(Broken::Stalled));
                    }
                }
            }
            match send_some(stream, &self.bytes[self.sent..]) {
                Ok(sent) => {
                    self.sent += sent;
                    progress = true;
                    self.forget_sent();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Poll::Ready(Err(Broken::Gone)),
            }
        }
    }

    // A client that is always a little behind must not make the buffer grow for ever.
    fn forget_sent(&mut self) {
        if self.sent > 256 * 1024 && self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.before += self.sent as u64;
            self.sent = 0;
        }
    }
}

/// One attempt to send.
///
/// The socket itself is asked first: what the runtime remembers of its being writable may have been put
/// aside by [`poll_hangup`]. When the socket is full the runtime is made to wait for the next change.
fn send_some(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    let attempt = || {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(stream.as_raw_fd(), bytes, flags).map_err(io::Error::from)
    };
    match attempt() {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.try_io(Interest::WRITABLE, attempt),
        outcome => outcome,
    }
}

/// Ready once the other end is closed altogether, not just for writing.
///
/// There is no readiness for that alone: it shows as a change of the socket's being writable. What is
/// remembered of that is therefore put aside until the next change.
pub(crate) fn poll_hangup(stream: &UnixStream, context: &mut Context<'_>) -> Poll<()> {
    loop {
        match stream.poll_write_ready(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Ready(Ok(())) => {}
        }
        let look = || {
            if is_hung_up(stream) {
                Ok(())
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            }
        };
        if stream.try_io(Interest::WRITABLE, look).is_ok() {
            return Poll::Ready(());
        }
    }
}

fn is_hung_up(stream: &UnixStream) -> bool {
    // Hang-up and error are always reported, asked for or not.
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    loop {
        match nix::poll::poll(&mut fds, PollTimeout::ZERO) {
            Err(Errno::EINTR) => {}
            Err(_) => return true,
            Ok(_) => {
                let events = fds[0].revents().unwrap_or(PollFlags::empty());
                return events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_half_closed_peer_is_not_gone_and_a_closed_one_is() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.shutdown().await.unwrap();
        let waits = poll_fn(|context| Poll::Ready(poll_hangup(&ours, context).is_pending())).await;
        assert!(waits);
        // Sending still works although the readiness was put aside.
        let mut outbox = Outbox::default();
        outbox.buffer().extend_from_slice(b"hello");
        poll_fn(|context| outbox.poll_flush(&ours, Duration::from_secs(5), context))
            .await
            .unwrap();
        let mut got = [0; 5];
        theirs.read_exact(&mut got).await.unwrap();
        let closing = async {
            tokio::task::yield_now().await;
            drop(theirs);
        };
        tokio::join!(poll_fn(|context| poll_hangup(&ours, context)), closing);
    }

    #[tokio::test]
    async fn everything_arrives_at_a_slow_reader_in_order() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let sent: Vec<u8> = (0..4_000_000_u32).map(|i| (i % 251) as u8).collect();
        let expected = sent.clone();
        let reading = tokio::spawn(async move {
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).await.unwrap();
            got
        });
        let mut outbox = Outbox::default();
        for part in sent.chunks(700_000) {
            outbox.buffer().extend_from_slice(part);
            let _ = poll_fn(|context| Poll::Ready(outbox.poll_flush(&ours, Duration::from_secs(5), context)))
                .await;
        }
        assert_eq!(outbox.end(), sent.len() as u64);
        poll_fn(|context| outbox.poll_flush(&ours, Duration::from_secs(5), context))
            .await
            .unwrap();
        assert_eq!(outbox.taken(), sent.len() as u64);
        drop(ours);
        assert!(reading.await.unwrap() == expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_found_out() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut outbox = Outbox::default();
        outbox.buffer().resize(4_000_000, b'x');
        let outcome = poll_fn(|context| outbox.poll_flush(&ours, Duration::from_secs(30), context)).await;
        assert_eq!(outcome, Err(Broken::Stalled));
    }
}
