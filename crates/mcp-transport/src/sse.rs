//! Server-sent events, read and written.

use crate::message::one_line;
use bytes::{BufMut, Bytes, BytesMut};
use hyper::body::{Body, Frame};
use hyper::header::HeaderValue;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

/// The longest id of an event that is kept, in bytes.
const ID_BYTES_MAX: usize = 1024;
/// How long is waited before a broken stream is asked for again, unless the server says.
const RETRY: Duration = Duration::from_secs(1);
/// The longest wait that a server may ask for.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Reads a stream, piece by piece, and where it is broken off goes on with the next.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
    /// The last event that had an id: a stream is resumed behind it.
    pub(crate) last_id: Option<HeaderValue>,
    retry: Option<Duration>,
}

impl Events {
    /// How long to wait before the stream is asked for again.
    pub(crate) fn retry(&self) -> Duration {
        self.retry.unwrap_or(RETRY)
    }

    /// A new stream begins, and what was not whole of the old one is lost.
    pub(crate) fn restart(&mut self) {
        self.line.clear();
        self.data.clear();
    }

    /// Gives the data of events as they become whole.
    pub(crate) fn push(
        &mut self,
        mut bytes: &[u8],
        bytes_max: usize,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), String> {
        while let Some(at) = memchr::memchr(b'\n', bytes) {
            self.line.extend_from_slice(&bytes[..at]);
            bytes = &bytes[at + 1..];
            let line = std::mem::take(&mut self.line);
            self.field(line.strip_suffix(b"\r").unwrap_or(&line), &mut take);
        }
        self.line.extend_from_slice(bytes);
        if self.line.len() + self.data.len() > bytes_max {
            return Err(format!("its server sent an event of more than {bytes_max} bytes"));
        }
        Ok(())
    }

    fn field(&mut self, line: &[u8], take: &mut impl FnMut(&[u8])) {
        if line.is_empty() {
            let mut data = std::mem::take(&mut self.data);
            // One that only tells its id has a line break for its data.
            if !data.trim_ascii().is_empty() {
                one_line(&mut data);
                take(&data);
            }
            return;
        }
        let (name, value) = match memchr::memchr(b':', line) {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"id" if value.len() <= ID_BYTES_MAX => {
                self.last_id = match value {
                    b"" => None,
                    id => HeaderValue::from_bytes(id).ok(),
                };
            }
            b"retry" => {
                let text = std::str::from_utf8(value).unwrap_or_default();
                if let Ok(retry_ms) = text.parse() {
                    self.retry = Some(Duration::from_millis(retry_ms).min(RETRY_MAX));
                }
            }
            _ => {}
        }
    }
}

/// Messages as server-sent events.
pub(crate) struct EventBody {
    pub(crate) first: Option<Bytes>,
    pub(crate) rest: mpsc::Receiver<Bytes>,
    /// Takes the request back when nobody reads this any more.
    pub(crate) _guard: Option<DropGuard>,
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let line = match self.first.take() {
            Some(line) => Some(line),
            None => std::task::ready!(self.rest.poll_recv(context)),
        };
        Poll::Ready(line.map(|line| {
            let mut event = BytesMut::with_capacity(line.len() + 32);
            event.put_slice(b"event: message\ndata: ");
            event.put_slice(&line);
            event.put_slice(b"\n");
            Ok(Frame::data(event.freeze()))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_any_pieces() {
        let stream =
            b": hello\r\nid: 1\r\nretry: 500\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\ndata:\n\nid: 2\nevent: x\ndata:{}\n\n";
        for size in 1..stream.len() {
            let (mut events, mut found) = (Events::default(), Vec::new());
            for piece in stream.chunks(size) {
                let take = |data: &[u8]| found.push(String::from_utf8_lossy(data).trim().to_owned());
                events.push(piece, 1000, take).unwrap();
            }
            assert_eq!(found, ["{\"a\": 1}", "{}"]);
            assert_eq!(events.last_id.as_ref().unwrap(), "2");
            assert_eq!(events.retry(), Duration::from_millis(500));
        }
        assert!(Events::default().push(&[b'x'; 2000], 1000, |_| ()).is_err());
    }
}
