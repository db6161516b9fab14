//! Takes secrets out of output, however they are encoded and wherever reads cut them.
//!
//! The patterns' automaton is shared; each stream of output has a state of its own ([`Stream`]), because one stream's
//! half of a secret is not continued in the other.

mod escapes;
mod forms;

pub use forms::{VALUE_BYTES_MAX, VALUE_BYTES_MIN, trimmed};

use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// What stands in a secret's place.
pub const REPLACEMENT: &str = "[redacted]";

/// So often a text is read as a string of JSON: JSON in a string of JSON is what harnesses print.
const ESCAPED_TIMES_MAX: usize = 3;

/// A table of transitions for each state is fastest; it takes a quarter of a kilobyte for each byte of the patterns.
const TABLE_BYTES_MAX: usize = 4 * 1024;

/// Knows what to look for. Cheap to clone.
#[derive(Clone, Default)]
pub struct Redactor {
    patterns: Option<Arc<Patterns>>,
}

struct Patterns {
    automaton: AhoCorasick,
    /// In order, so that those with a given beginning stand together.
    sorted: Vec<Vec<u8>>,
    longest: usize,
    /// Which pairs of bytes begin a pattern: a bit for each.
    pairs: Vec<u64>,
    /// Which bytes begin a pattern.
    firsts: [bool; 256],
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

impl Redactor {
    /// Looks for these secrets: contents of secret files. Newlines at their ends do not count, and values of fewer than
    /// [`VALUE_BYTES_MIN`] bytes are not looked for. Of values with several lines each longer line is a secret, too.
    #[must_use]
    pub fn new(secrets: impl Iterator<Item = Vec<u8>>) -> Self {
        Self::with(secrets, None)
    }

    /// The same, and for `token`, which is our own and nobody encodes, only as it is: every session has one, and all the
    /// forms of it would take longer than the rest of a session's start.
    #[must_use]
    pub fn with(secrets: impl Iterator<Item = Vec<u8>>, token: Option<Vec<u8>>) -> Self {
        let mut all: BTreeSet<Vec<u8>> = token.into_iter().collect();
        for secret in secrets {
            all.append(&mut forms::forms(&secret));
        }
        Self {
            patterns: Patterns::new(all.into_iter().collect()).map(Arc::new),
        }
    }

    /// The state of one stream.
    #[must_use]
    pub fn stream(&self) -> Stream {
        Stream {
            patterns: self.patterns.clone(),
            held: Vec::new(),
        }
    }

    /// A text without the secrets. Those that are there only once escapes of JSON are read are found as well, in any mixture of
    /// escapes; then these are read in what is given back.
    #[must_use]
    pub fn redact_text(&self, text: &str) -> String {
        let hide = |text: &str| String::from_utf8_lossy(&self.redact(text.as_bytes())).into_owned();
        let mut shown = hide(text);
        if self.patterns.is_none() {
            return shown;
        }
        let mut meant = escapes::unescaped(&shown);
        for _ in 0..ESCAPED_TIMES_MAX {
            let Some(text) = meant else { break };
            let hidden = hide(&text);
            meant = escapes::unescaped(&hidden);
            if hidden != text {
                shown = hidden;
            }
        }
        shown
    }

    /// Bytes without the secrets.
    #[must_use]
    pub fn redact(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.stream();
        let mut out = Vec::with_capacity(bytes.len());
        stream.push(bytes, &mut out);
        stream.finish(&mut out);
        out
    }
}

impl Patterns {
    fn new(sorted: Vec<Vec<u8>>) -> Option<Self> {
        let total: usize = sorted.iter().map(Vec::len).sum();
        let kind = if total <= TABLE_BYTES_MAX {
            AhoCorasickKind::DFA
        } else {
            AhoCorasickKind::ContiguousNFA
        };
        // An automaton too large to be numbered would need gigabytes of secrets; their number and size are bounded.
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(kind))
            .build(&sorted)
            .ok()?;
        let mut pairs = vec![0; 65536 / 64];
        let mut firsts = [false; 256];
        for pattern in &sorted {
            if let [first, second, ..] = pattern[..] {
                let pair = usize::from(first) << 8 | usize::from(second);
                pairs[pair / 64] |= 1 << (pair % 64);
                firsts[usize::from(first)] = true;
            }
        }
        Some(Self {
            longest: sorted.iter().map(Vec::len).max()?,
            automaton,
            sorted,
            pairs,
            firsts,
        })
    }

    /// Where in `bytes`, from `from` on, something begins that more bytes could make a pattern of.
    fn open_end(&self, bytes: &[u8], from: usize) -> usize {
        let begin = from.max((bytes.len() + 1).saturating_sub(self.longest));
        (begin..bytes.len())
            .find(|&at| self.begins_pattern(&bytes[at..]))
            .unwrap_or(bytes.len())
    }

    /// True for a proper prefix of a pattern.
    fn begins_pattern(&self, tail: &[u8]) -> bool {
        let maybe = match tail {
            [first, second, ..] => {
                let pair = usize::from(*first) << 8 | usize::from(*second);
                self.pairs[pair / 64] >> (pair % 64) & 1 == 1
            }
            [first] => self.firsts[usize::from(*first)],
            [] => false,
        };
        // What is longer than `tail` and begins with it comes right after it in the order.
        maybe && {
            let after = self.sorted.partition_point(|pattern| &pattern[..] <= tail);
            self.sorted
                .get(after)
                .is_some_and(|pattern| pattern.starts_with(tail))
        }
    }
}

/// One stream's state: the end of what has come, as long as it could become a secret.
pub struct Stream {
    patterns: Option<Arc<Patterns>>,
    held: Vec<u8>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl Stream {
    /// Takes bytes in, and appends to `out` what is decided.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let Some(patterns) = self.patterns.clone() else {
            return out.extend_from_slice(bytes);
        };
        if self.held.is_empty() {
            let kept = Self::decide(&patterns, bytes, out);
            self.held.extend_from_slice(&bytes[kept..]);
        } else {
            self.held.extend_from_slice(bytes);
            let kept = Self::decide(&patterns, &self.held, out);
            self.held.drain(..kept);
        }
    }

    /// The stream has ended: what was held back is no secret.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let Some(patterns) = &self.patterns else { return };
        // A shorter secret may stand at the beginning of what could have become a longer one.
        let mut at = 0;
        for found in patterns.automaton.find_iter(&self.held) {
            out.extend_from_slice(&self.held[at..found.start()]);
            out.extend_from_slice(REPLACEMENT.as_bytes());
            at = found.end();
        }
        out.extend_from_slice(&self.held[at..]);
        self.held.clear();
    }

    /// Appends what can no longer change; gives where the rest begins. A match that more bytes could change begins where
    /// the open end does or later, so all matches before are final.
    fn decide(patterns: &Patterns, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let mut at = 0;
        let mut open = patterns.open_end(bytes, at);
        while let Some(found) = patterns
            .automaton
            .find(Input::new(bytes).range(at..))
            .filter(|found| found.start() < open)
        {
            out.extend_from_slice(&bytes[at..found.start()]);
            out.extend_from_slice(REPLACEMENT.as_bytes());
            at = found.end();
            if at > open {
                open = patterns.open_end(bytes, at);
            }
        }
        out.extend_from_slice(&bytes[at..open]);
        open
    }
}

#[cfg(test)]
mod tests;
