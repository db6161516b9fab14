//! Lines over a Unix stream socket, bounded.

use crate::ClientError;
use agentd_protocol::limits::ANSWER_BYTES_MAX;
use std::io;
use std::net::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// An answer's bound, and room for the envelope with an id that filled a request.
const LINE_BYTES_MAX: usize = ANSWER_BYTES_MAX + 2 * 1024 * 1024;
const READ_BYTES: usize = 16 * 1024;

#[derive(Debug)]
pub(crate) struct Lines {
    stream: UnixStream,
    buffer: Vec<u8>,
    // `buffer[..taken]` was given out, and `buffer[taken..searched]` holds no newline.
    taken: usize,
    searched: usize,
}

impl Lines {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            taken: 0,
            searched: 0,
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.stream.write_all(bytes).await.map_err(ClientError::Io)
    }

    /// Ends both directions at once. What had come by then can still be read, and nothing comes after it: the
    /// other side's next write fails.
    pub(crate) fn cut(self) -> io::Result<Self> {
        let stream = self.stream.into_std()?;
        stream.shutdown(Shutdown::Both)?;
        let stream = UnixStream::from_std(stream)?;
        Ok(Self { stream, ..self })
    }

    /// The next line without its newline, or none when the daemon closed the connection between two lines.
    /// A dropped future loses nothing: the next call goes on where it stopped.
    pub(crate) async fn next(&mut self) -> Result<Option<&[u8]>, ClientError> {
        loop {
            if let Some(at) = self.buffer[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let line = self.taken..self.searched + at;
                self.taken = line.end + 1;
                self.searched = self.taken;
                return Ok(Some(&self.buffer[line]));
            }
            self.searched = self.buffer.len();
            if self.taken > 0 {
                self.buffer.drain(..self.taken);
                self.searched -= self.taken;
                self.taken = 0;
                if self.buffer.is_empty() && self.buffer.capacity() > 16 * READ_BYTES {
                    // One large answer does not stay in memory for the rest of the connection.
                    self.buffer = Vec::new();
                }
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(ClientError::Protocol(format!(
                    "the daemon sent a line longer than {LINE_BYTES_MAX} bytes"
                )));
            }
            self.buffer.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(ClientError::Closed);
            }
        }
    }
}
