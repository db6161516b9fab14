//! Lines of bounded length.

use std::io;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// Reads lines. What was read of a line is kept when the future is dropped.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    reader: R,
    partial: Vec<u8>,
    bytes_max: usize,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(crate) fn new(reader: R, bytes_max: usize) -> Self {
        Self {
            reader,
            partial: Vec::new(),
            bytes_max,
        }
    }

    /// The next line without its newline; none when the other side has ended. May be dropped and called again.
    ///
    /// # Errors
    /// `InvalidData` for a line longer than allowed.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let available = self.reader.fill_buf().await?;
            if available.is_empty() {
                return Ok(None);
            }
            let newline = available.iter().position(|&byte| byte == b'\n');
            let length = newline.unwrap_or(available.len());
            if self.partial.len() + length > self.bytes_max {
                let message = format!("a line longer than {} bytes", self.bytes_max);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            self.partial.extend_from_slice(&available[..length]);
            self.reader.consume(length + usize::from(newline.is_some()));
            if newline.is_some() {
                return Ok(Some(std::mem::take(&mut self.partial)));
            }
        }
    }
}
