//! A session's output: read page by page, and given to this program's own stdout and stderr.

use super::super::Context;
use super::wait::pause_after;
use crate::console;
use crate::endpoint::Reconnect;
use crate::failure::Failure;
use agentd_client::Client;
use agentd_protocol::requests::ReadTranscript;
use agentd_protocol::results::TranscriptPage;
use agentd_protocol::{Method, OutputStream, SessionId, Timestamp, TranscriptChunk};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;
use std::collections::VecDeque;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Output in one page, in bytes. In JSON it may take six times that.
const PAGE_BYTES: u64 = 512 * 1024;
/// How long one request waits for output before it is asked again, in seconds. Nothing is late by a larger number.
const WAIT_SECS: u64 = 600;

/// Reads a transcript from some byte on.
#[derive(Debug)]
pub(in crate::cli) struct Reader<'a> {
    reconnect: Reconnect<'a>,
    client: Option<Client>,
    request: ReadTranscript,
}

impl<'a> Reader<'a> {
    /// From the beginning. `follows`: it waits for output that is not there yet.
    pub(in crate::cli) fn new(reconnect: Reconnect<'a>, session_id: SessionId, follows: bool) -> Self {
        Self {
            reconnect,
            client: None,
            request: ReadTranscript {
                session_id,
                from_offset: Some(0),
                limit_bytes: Some(PAGE_BYTES),
                wait_secs: follows.then_some(WAIT_SECS),
            },
        }
    }

    /// The same over a connection that is there.
    pub(in crate::cli) fn over(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }

    /// From now on it waits for output.
    pub(in crate::cli) fn follow(&mut self) {
        self.request.wait_secs = Some(WAIT_SECS);
    }

    /// The next page; without anything when it does not wait and there is nothing more. A daemon that goes away is
    /// waited for, and nothing is read twice.
    ///
    /// # Errors
    /// When the daemon refuses.
    pub(in crate::cli) async fn next(&mut self) -> Result<TranscriptPage, Failure> {
        loop {
            let client = match &mut self.client {
                Some(client) => client,
                none => none.insert(self.reconnect.client().await?),
            };
            match client
                .call::<_, TranscriptPage>(Method::ReadTranscript, &self.request)
                .await
            {
                Ok(page) => {
                    self.request.from_offset = Some(page.next_offset);
                    return Ok(page);
                }
                Err(error) => {
                    self.client = None;
                    pause_after(error).await?;
                }
            }
        }
    }
}

/// The bytes of a piece of output.
///
/// # Errors
/// When the daemon sent something that is no base64.
pub(in crate::cli) fn bytes(chunk: &TranscriptChunk) -> Result<Cow<'_, [u8]>, Failure> {
    match (&chunk.text, &chunk.base64) {
        (Some(text), _) => Ok(Cow::Borrowed(text.as_bytes())),
        (None, Some(coded)) => STANDARD
            .decode(coded)
            .map(Cow::Owned)
            .map_err(|error| Failure::internal(format!("the daemon sent output that is no base64: {error}"))),
        (None, None) => Ok(Cow::Borrowed(&[])),
    }
}

/// What of the output is shown, and how.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::cli) struct Look {
    /// Only this stream.
    pub(in crate::cli) only: Option<OutputStream>,
    /// When it was written, before each line.
    pub(in crate::cli) timestamps: bool,
}

/// Writes output: bytes as they came, stdout to `out` and stderr to `err`.
pub(in crate::cli) struct Writer<O, E> {
    out: O,
    err: E,
    look: Look,
    /// Whether the next byte begins a line.
    out_begins: bool,
    err_begins: bool,
}

impl Writer<tokio::io::Stdout, tokio::io::Stderr> {
    /// To this program's own. Writing may block for as long as nobody reads, on a thread of its own.
    pub(in crate::cli) fn new(look: Look) -> Self {
        Self::to(tokio::io::stdout(), tokio::io::stderr(), look)
    }
}

impl<O: AsyncWrite + Unpin, E: AsyncWrite + Unpin> Writer<O, E> {
    fn to(out: O, err: E, look: Look) -> Self {
        Self {
            out,
            err,
            look,
            out_begins: true,
            err_begins: true,
        }
    }

    /// One piece.
    ///
    /// # Errors
    /// When the stream takes no more, or as [`bytes`].
    pub(in crate::cli) async fn write(&mut self, chunk: &TranscriptChunk) -> Result<(), Failure> {
        let (stream, bytes) = (chunk.stream, bytes(chunk)?);
        if self.look.only.is_some_and(|only| only != stream) || bytes.is_empty() {
            return Ok(());
        }
        let begins = match stream {
            OutputStream::Stdout => &mut self.out_begins,
            OutputStream::Stderr => &mut self.err_begins,
        };
        let shown = if self.look.timestamps {
            Cow::Owned(stamped(chunk.timestamp, &bytes, *begins))
        } else {
            Cow::Borrowed(&*bytes)
        };
        *begins = bytes.ends_with(b"\n");
        let written = match stream {
            OutputStream::Stdout => deliver(&mut self.out, &shown).await,
            OutputStream::Stderr => deliver(&mut self.err, &shown).await,
        };
        written.map_err(console::stdout)
    }
}

async fn deliver(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

fn stamped(timestamp: Timestamp, bytes: &[u8], mut begins: bool) -> Vec<u8> {
    let stamp = format!("{timestamp}  ");
    let mut text = Vec::with_capacity(bytes.len() + stamp.len());
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if begins {
            text.extend_from_slice(stamp.as_bytes());
        }
        text.extend_from_slice(line);
        begins = true;
    }
    text
}

/// A piece of output, as it stands in a page.
fn piece(of: &TranscriptChunk, at: usize, bytes: &[u8]) -> TranscriptChunk {
    let (text, base64) = match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    };
    TranscriptChunk {
        offset: of.offset + at as u64,
        timestamp: of.timestamp,
        stream: of.stream,
        text,
        base64,
    }
}

/// The last lines of what passes through it.
#[derive(Debug)]
pub(in crate::cli) struct Tail {
    lines_max: usize,
    lines: usize,
    /// Lines and parts of lines, and whether each ends one.
    pieces: VecDeque<(TranscriptChunk, bool)>,
}

impl Tail {
    pub(in crate::cli) fn new(lines_max: usize) -> Self {
        Self {
            lines_max,
            lines: 0,
            pieces: VecDeque::new(),
        }
    }

    /// # Errors
    /// As [`bytes`].
    pub(in crate::cli) fn push(&mut self, chunk: &TranscriptChunk) -> Result<(), Failure> {
        let mut at = 0;
        for line in bytes(chunk)?.split_inclusive(|byte| *byte == b'\n') {
            let ends = line.ends_with(b"\n");
            self.pieces.push_back((piece(chunk, at, line), ends));
            self.lines += usize::from(ends);
            at += line.len();
            // A last line without its end is one, too.
            while self.lines + usize::from(!ends) > self.lines_max {
                let Some((_, ends)) = self.pieces.pop_front() else {
                    break;
                };
                self.lines -= usize::from(ends);
            }
        }
        Ok(())
    }

    pub(in crate::cli) fn into_chunks(self) -> impl Iterator<Item = TranscriptChunk> {
        self.pieces.into_iter().map(|(chunk, _)| chunk)
    }
}

/// Says what is missing from a page.
pub(in crate::cli) fn say_missing(context: &Context, page: &TranscriptPage) {
    if page.missing_bytes > 0 {
        context
            .console
            .status(&format!("[{} bytes of output were not kept]", page.missing_bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use OutputStream::{Stderr, Stdout};

    const AT: Timestamp = Timestamp { unix_ms: 0 };

    fn chunk(text: Option<&str>, base64: Option<&str>) -> TranscriptChunk {
        TranscriptChunk {
            offset: 0,
            timestamp: AT,
            stream: Stdout,
            text: text.map(str::to_owned),
            base64: base64.map(str::to_owned),
        }
    }

    fn of(stream: OutputStream, bytes: &[u8]) -> TranscriptChunk {
        let chunk = TranscriptChunk {
            stream,
            ..chunk(None, None)
        };
        piece(&chunk, 0, bytes)
    }

    #[test]
    fn output_is_text_or_base64() {
        assert_eq!(bytes(&chunk(Some("a\0é"), None)).unwrap(), "a\0é".as_bytes());
        assert_eq!(bytes(&chunk(None, Some("/wA="))).unwrap(), &[255, 0][..]);
        assert!(bytes(&chunk(None, None)).unwrap().is_empty());
        assert!(bytes(&chunk(None, Some("?"))).is_err());
    }

    #[tokio::test]
    async fn streams_stay_apart_and_bytes_are_as_they_came() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut writer = Writer::to(&mut out, &mut err, Look::default());
        for (stream, part) in [(Stdout, &b"a\xff\x1b[0m"[..]), (Stderr, b"b"), (Stdout, b"c\n")] {
            writer.write(&of(stream, part)).await.unwrap();
        }
        assert_eq!((out, err), (b"a\xff\x1b[0mc\n".to_vec(), b"b".to_vec()));
    }

    #[tokio::test]
    async fn each_line_has_its_time_once() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let look = Look {
            only: Some(Stdout),
            timestamps: true,
        };
        let mut writer = Writer::to(&mut out, &mut err, look);
        for part in ["a", "b\nc", "\n", "d\n"] {
            writer.write(&of(Stdout, part.as_bytes())).await.unwrap();
            writer.write(&of(Stderr, part.as_bytes())).await.unwrap();
        }
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!("{AT}  ab\n{AT}  c\n{AT}  d\n")
        );
        assert!(err.is_empty());
    }

    #[test]
    fn a_tail_is_the_last_lines() {
        let tail = |lines: usize, parts: &[&str]| {
            let mut tail = Tail::new(lines);
            for part in parts {
                tail.push(&of(Stdout, part.as_bytes())).unwrap();
            }
            tail.into_chunks()
                .map(|chunk| chunk.text.unwrap())
                .collect::<String>()
        };
        assert_eq!(tail(2, &["a\nb\nc\n"]), "b\nc\n");
        assert_eq!(tail(2, &["a\nb", "b\nc"]), "bb\nc");
        assert_eq!(tail(5, &["a\n"]), "a\n");
        assert_eq!(tail(0, &["a\nb"]), "");
        assert_eq!(tail(1, &["a", "b", "c\nd", "e"]), "de");
    }
}
