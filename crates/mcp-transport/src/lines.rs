//! Lines of bounded length, from a peer that may send anything.

use crate::message::{Message, Raw, RpcError, answer_line, code, parse};
use serde_json::value::RawValue;
use std::io;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// What is kept of a line that is too long: enough to find out what it was an answer to.
const HEAD_BYTES: usize = 512;

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Without its newline.
    Whole(Vec<u8>),
    /// Longer than allowed. It was read to its end and thrown away.
    TooLong {
        /// Its beginning.
        head: Vec<u8>,
        /// How long it was.
        bytes: u64,
    },
}

/// Reads lines. What was read of a line is kept when the future is dropped.
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    partial: Vec<u8>,
    /// How much of an overlong line has gone by.
    thrown_away: u64,
    bytes_max: usize,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// Lines of at most `bytes_max`.
    pub fn new(reader: R, bytes_max: usize) -> Self {
        Self {
            reader,
            partial: Vec::new(),
            thrown_away: 0,
            bytes_max,
        }
    }

    /// The next line without its newline; none at the end. Empty lines are left out. May be dropped and called again.
    ///
    /// # Errors
    /// Those of the reader.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
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

/// What is answered to a line that is no message, as a line: JSON-RPC's parse error or invalid request, with the
/// request's id as far as it could be read. None for a message, and none is ever answered so to an answer: two peers
/// that talk nonsense do not keep each other busy.
#[must_use]
pub fn refusal(line: &Line, bytes_max: usize) -> Option<bytes::Bytes> {
    let (id, error) = match line {
        Line::Whole(line) => {
            let malformed = parse(line).err()?;
            (malformed.id, RpcError::new(malformed.code, malformed.why))
        }
        Line::TooLong { head, bytes } => too_long(head, *bytes, bytes_max),
    };
    Some(refusal_line(id.as_deref(), &error))
}

/// What is answered to a request whose envelope is right, and whose contents are not what the method takes. None for
/// everything that is no request.
#[must_use]
pub fn refuse_request(line: &[u8], why: &str) -> Option<bytes::Bytes> {
    match parse(line) {
        Ok(Message::Request { id, .. }) => Some(refusal_line(Some(id), &RpcError::params(why))),
        _ => None,
    }
}

/// As [`refusal`], of what was too long to be read.
pub(crate) fn too_long(head: &[u8], bytes: u64, bytes_max: usize) -> (Option<Raw>, RpcError) {
    let why = format!(
        "a message of {bytes} bytes, and {bytes_max} are allowed: it was not read, and nothing was done"
    );
    (id_in_head(head), RpcError::new(code::INVALID_REQUEST, why))
}

/// The line of a refusal; without an id that could be read JSON-RPC wants `null`.
pub(crate) fn refusal_line(id: Option<&RawValue>, error: &RpcError) -> bytes::Bytes {
    answer_line(id.unwrap_or(RawValue::NULL), Err(&error.raw()))
}

/// The `id` in the beginning of a message that was thrown away, if it stands in front, where everybody writes it.
pub(crate) fn id_in_head(head: &[u8]) -> Option<Raw> {
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
    fn what_is_no_message_is_refused_with_the_id_that_it_has() {
        let refused = |line: &str| {
            let line = refusal(&Line::Whole(line.as_bytes().to_vec()), 100)?;
            let answer: serde_json::Value = serde_json::from_slice(&line).unwrap();
            assert!(answer["error"]["message"].is_string(), "{answer}");
            // Present, and null when it is not known.
            let id = answer.get("id").expect("an id").to_string();
            Some((answer["error"]["code"].as_i64().unwrap(), id))
        };
        let wanted = |code, id: &str| Some((code, id.to_owned()));
        for text in ["nonsense", "{\"id\":", "\u{0}", "[1,2"] {
            assert_eq!(refused(text), wanted(-32700, "null"), "{text}");
        }
        for text in [
            "[]",
            "7",
            "null",
            "{}",
            "[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}]",
        ] {
            assert_eq!(refused(text), wanted(-32600, "null"), "{text}");
        }
        assert_eq!(refused(r#"{"id":5}"#), wanted(-32600, "5"));
        assert_eq!(refused(r#"{"id":"a","method":"ping"}"#), wanted(-32600, "\"a\""));
        assert_eq!(refused(r#"{"jsonrpc":"2.0","id":5}"#), wanted(-32600, "5"));
        assert_eq!(
            refused(r#"{"id":{"a":1},"method":"ping"}"#),
            wanted(-32600, "null")
        );
        assert_eq!(
            refused(&format!("{{\"id\":\"{}\"}}", "x".repeat(1000))),
            wanted(-32600, "null")
        );
        for message in [
            r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}"#,
        ] {
            assert_eq!(refused(message), None);
        }
        let long = refusal(
            &Line::TooLong {
                head: br#"{"jsonrpc":"2.0","id":3,"x"#.to_vec(),
                bytes: 7000,
            },
            100,
        );
        let long = String::from_utf8(long.unwrap().to_vec()).unwrap();
        assert!(long.contains(r#""id":3,"#) && long.contains("7000"), "{long}");
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
