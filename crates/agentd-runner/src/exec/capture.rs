//! Output without end in memory with an end: the first part and the last part are kept, what was between
//! them is counted.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// How much of a stream is kept, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureLimits {
    /// From its beginning.
    pub head_bytes_max: usize,
    /// From its end.
    pub tail_bytes_max: usize,
}

impl CaptureLimits {
    /// The most that a stream's limits may add up to.
    pub const BYTES_MAX: usize = 4 * 1024 * 1024;

    pub(crate) fn total(self) -> usize {
        self.head_bytes_max.saturating_add(self.tail_bytes_max)
    }
}

/// What was kept of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// Its beginning; all of it when nothing is missing and it fits.
    pub head: Vec<u8>,
    /// Its end, as far as it is not in `head`.
    pub tail: Vec<u8>,
    /// What was between the two and is gone, in bytes.
    pub omitted_bytes: u64,
}

impl Captured {
    /// The stream as text: what is not UTF-8 becomes U+FFFD, and what is missing is marked by a line that says
    /// how much.
    ///
    /// The text takes at most `json_bytes_max` bytes when written as a JSON string; what has to go for that
    /// goes from the middle, too. The second value counts all that is missing, in bytes of the stream.
    #[must_use]
    pub fn text(&self, json_bytes_max: usize) -> (String, u64) {
        const MARK_BYTES: usize = 64;
        // A character may stand on the border of the two.
        let joined = (self.omitted_bytes == 0).then(|| [&self.head[..], &self.tail].concat());
        let (head, tail) = match &joined {
            Some(whole) => (String::from_utf8_lossy(whole), "".into()),
            None => (
                String::from_utf8_lossy(&self.head),
                String::from_utf8_lossy(&self.tail),
            ),
        };
        let whole = json_length(&head) + json_length(&tail);
        if whole + MARK_BYTES <= json_bytes_max {
            if self.omitted_bytes == 0 {
                return (head.into_owned() + &tail, 0);
            }
            return (
                format!("{head}{}{tail}", mark(self.omitted_bytes)),
                self.omitted_bytes,
            );
        }
        // Half for the beginning, and what that leaves for the end.
        let joined = [&head[..], &tail[..]].concat();
        let room = json_bytes_max.saturating_sub(MARK_BYTES);
        let begin = prefix_within(joined.chars(), room / 2);
        let end = prefix_within(
            joined[begin..].chars().rev(),
            room - json_length(&joined[..begin]),
        );
        // In bytes of the text: exact for text, near for anything else.
        let omitted = self.omitted_bytes + (joined.len() - begin - end) as u64;
        (
            format!(
                "{}{}{}",
                &joined[..begin],
                mark(omitted),
                &joined[joined.len() - end..]
            ),
            omitted,
        )
    }
}

fn mark(omitted: u64) -> String {
    format!("\n[… {omitted} bytes omitted …]\n")
}

/// How long a character is in a JSON string, in bytes.
fn json_char(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        c if c < ' ' => 6,
        c => c.len_utf8(),
    }
}

fn json_length(text: &str) -> usize {
    text.chars().map(json_char).sum()
}

/// How many bytes of text fit.
fn prefix_within(chars: impl Iterator<Item = char>, json_bytes_max: usize) -> usize {
    let (mut json, mut bytes) = (0, 0);
    for c in chars {
        json += json_char(c);
        if json > json_bytes_max {
            break;
        }
        bytes += c.len_utf8();
    }
    bytes
}

/// Takes a stream in.
#[derive(Debug)]
pub(crate) struct Capture {
    limits: CaptureLimits,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    omitted_bytes: u64,
}

impl Capture {
    pub(crate) fn new(limits: CaptureLimits) -> Self {
        Self {
            limits,
            head: Vec::new(),
            tail: VecDeque::new(),
            omitted_bytes: 0,
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let room = self.limits.head_bytes_max - self.head.len();
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        let kept = &rest[rest.len().saturating_sub(self.limits.tail_bytes_max)..];
        let over = (self.tail.len() + kept.len()).saturating_sub(self.limits.tail_bytes_max);
        self.tail.drain(..over);
        self.tail.extend(kept);
        self.omitted_bytes += (rest.len() - kept.len() + over) as u64;
    }

    pub(crate) fn finish(self) -> Captured {
        Captured {
            head: self.head,
            tail: self.tail.into(),
            omitted_bytes: self.omitted_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(chunks: &[&[u8]]) -> Captured {
        let mut capture = Capture::new(CaptureLimits {
            head_bytes_max: 4,
            tail_bytes_max: 3,
        });
        chunks.iter().for_each(|chunk| capture.push(chunk));
        capture.finish()
    }

    #[test]
    fn first_and_last_are_kept_however_it_comes() {
        let whole = captured(&[b"abcdefghijkl"]);
        assert_eq!(
            (&whole.head[..], &whole.tail[..], whole.omitted_bytes),
            (&b"abcd"[..], &b"jkl"[..], 5)
        );
        for cut in 0..12 {
            let (a, b) = b"abcdefghijkl".split_at(cut);
            assert_eq!(captured(&[a, b]), whole);
            assert_eq!(captured(&[a, b"", &b[..b.len() / 2], &b[b.len() / 2..]]), whole);
        }
        assert_eq!(captured(&[b"abcdefg"]).omitted_bytes, 0);
        assert_eq!(captured(&[b"abcdefg"]).text(1000), ("abcdefg".into(), 0));
    }

    #[test]
    fn text_says_what_is_missing_and_fits() {
        let (text, omitted) = captured(&[b"abcdefghijkl"]).text(1000);
        assert_eq!((text.as_str(), omitted), ("abcd\n[… 5 bytes omitted …]\njkl", 5));
        let noise: Vec<u8> = (0..20_000u32).map(|n| (n % 256) as u8).collect();
        let captured = Captured {
            head: noise.clone(),
            tail: noise,
            omitted_bytes: 7,
        };
        for max in [200, 5_000, 500_000] {
            let (text, omitted) = captured.text(max);
            assert!(serde_json::to_string(&text).unwrap().len() <= max + 2, "{max}");
            assert!(omitted >= 7);
        }
    }
}
