//! Lines of bounded length, from a peer that may send anything.

use std::io;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// What is kept of a line that is too long: enough to find out what it was an answer to.
const HEAD_BYTES: usize = 512;

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Whole(Vec<u8>),
    /// Longer than allowed: its beginning, and how long it was. It was read to its end and thrown away.
    TooLong {
        head: Vec<u8>,
        bytes: u64,
    },
}

/// Reads lines. What was read of a line is kept when the future is dropped.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    reader: R,
    partial: Vec<u8>,
    /// How much of an overlong line has gone by.
    thrown_away: u64,
    bytes_max: usize,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(crate) fn new(reader: R, bytes_max: usize) -> Self {
        Self {
            reader,
            partial: Vec::new(),
            thrown_away: 0,
            bytes_max,
        }
    }

    /// The next line without its newline; none at the end. Empty lines are left out. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let available = self.reader.fill_buf().await?;
            if available.is_empty() {
                return Ok(None);
            }
            let newline = memchr::memchr(b'\n', available);
            let length = newline.unwrap_or(available.len());
            if self.thrown_away > 0 || self.partial.len() + length > self.bytes_max {
                if self.thrown_away == 0 {
                    let wanted = HEAD_BYTES.saturating_sub(self.partial.len()).min(length);
                    self.thrown_away = self.partial.len() as u64;
                    self.partial.extend_from_slice(&available[..wanted]);
                    self.partial.truncate(HEAD_BYTES);
                    self.partial.shrink_to_fit();
                }
                self.thrown_away += length as u64;
            } else {
                self.partial.extend_from_slice(&available[..length]);
            }
            self.reader.consume(length + usize::from(newline.is_some()));
            if newline.is_none() {
                continue;
            }
            let line = std::mem::take(&mut self.partial);
            let bytes = std::mem::take(&mut self.thrown_away);
            if bytes > 0 {
                return Ok(Some(Line::TooLong { head: line, bytes }));
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(Line::Whole(line)));
            }
        }
    }
}

/// The `id` in the beginning of a message that was thrown away, if it stands in front, where everybody writes it.
pub(crate) fn id_in_head(head: &[u8]) -> Option<crate::message::Raw> {
    let text = String::from_utf8_lossy(head);
    let at = text.find("\"id\"")?;
    let before = &text[..at];
    // Deeper down it would be somebody else's.
    if before.matches('{').count() != 1 || before.contains("\"params\"") || before.contains("\"result\"") {
        return None;
    }
    let rest = text[at + 4..].trim_start().strip_prefix(':')?.trim_start();
    let end = if let Some(string) = rest.strip_prefix('"') {
        string.find('"')? + 2
    } else {
        rest.find([',', '}', ' '])?
    };
    serde_json::from_str(&rest[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_lines_are_thrown_away_and_told() {
        let input = [&b"short\n\n"[..], &[b'x'; 5000], b"\nafter\nunfinished"].concat();
        let mut lines = Lines::new(tokio::io::BufReader::with_capacity(7, &input[..]), 100);
        assert_eq!(lines.next().await.unwrap(), Some(Line::Whole(b"short".to_vec())));
        let Some(Line::TooLong { head, bytes }) = lines.next().await.unwrap() else {
            panic!("the long line was taken");
        };
        assert_eq!(bytes, 5000);
        assert!(head.len() <= HEAD_BYTES);
        assert_eq!(lines.next().await.unwrap(), Some(Line::Whole(b"after".to_vec())));
        assert_eq!(lines.next().await.unwrap(), None);
    }

    #[test]
    fn the_id_of_a_long_line() {
        let id = |head: &str| id_in_head(head.as_bytes()).map(|id| id.get().to_owned());
        assert_eq!(
            id(r#"{"jsonrpc":"2.0","id":17,"result":{"#).as_deref(),
            Some("17")
        );
        assert_eq!(
            id(r#"{"jsonrpc":"2.0", "id" : "a-1", "x"#).as_deref(),
            Some("\"a-1\"")
        );
        assert_eq!(id(r#"{"jsonrpc":"2.0","params":{"id":1,"#), None);
        assert_eq!(id("\"id\""), None);
    }
}
