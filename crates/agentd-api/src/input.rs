//! What a client has sent and nobody has looked at yet.

use crate::buffers;
use agentd_protocol::limits::LINE_BYTES_MAX;
use memchr::memchr;
use std::ops::Range;

/// A line, and the `\r\n` that some clients end it with.
const BYTES_MAX: usize = LINE_BYTES_MAX + 2;

#[derive(Debug, Default)]
pub(crate) struct Input {
    bytes: Vec<u8>,
    // `bytes[..taken]` was given out; `bytes[taken..searched]` holds no newline.
    taken: usize,
    searched: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Where it is, to be had from [`Input::get`].
    Whole(Range<usize>),
    /// It passes the bound. It was thrown away, with what came after it.
    TooLong,
}

impl Input {
    pub(crate) fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }

    /// Everything that has not been given out.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    pub(crate) fn get(&self, line: Range<usize>) -> &[u8] {
        &self.bytes[line]
    }

    /// The buffer to read into: it has room for more, but never for more than the longest line.
    pub(crate) fn room(&mut self) -> &mut Vec<u8> {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.searched -= self.taken;
            self.taken = 0;
        }
        if self.bytes.capacity() == 0 {
            self.bytes = buffers::lend();
        } else if self.bytes.len() == self.bytes.capacity() {
            let wanted = (self.bytes.len() * 2).min(BYTES_MAX + 1);
            self.bytes
                .reserve_exact(wanted.saturating_sub(self.bytes.len()).max(1));
        }
        &mut self.bytes
    }

    /// Gives the memory back when there is nothing in it.
    pub(crate) fn release_if_empty(&mut self) {
        if self.is_empty() && self.bytes.capacity() > 0 {
            self.clear();
        }
    }

    pub(crate) fn clear(&mut self) {
        buffers::give_back(&mut self.bytes);
        self.taken = 0;
        self.searched = 0;
    }

    /// True when [`Input::next_line`] would give something.
    pub(crate) fn has_line(&mut self, at_end: bool) -> bool {
        if (at_end && !self.is_empty()) || self.bytes.len() - self.taken > BYTES_MAX {
            return true;
        }
        match memchr(b'\n', &self.bytes[self.searched..]) {
            // Left where it is for `next_line` to find.
            Some(at) => {
                self.searched += at;
                true
            }
            None => {
                self.searched = self.bytes.len();
                false
            }
        }
    }

    /// The next line, without its end. `at_end`: nothing will follow, so that what there is makes a line.
    pub(crate) fn next_line(&mut self, at_end: bool) -> Option<Line> {
        let (mut end, next) = match memchr(b'\n', &self.bytes[self.searched..]) {
            Some(at) => (self.searched + at, self.searched + at + 1),
            None => {
                self.searched = self.bytes.len();
                if self.bytes.len() - self.taken > BYTES_MAX {
                    self.clear();
                    return Some(Line::TooLong);
                }
                if !at_end || self.is_empty() {
                    return None;
                }
                (self.bytes.len(), self.bytes.len())
            }
        };
        let begin = self.taken;
        if end > begin && self.bytes[end - 1] == b'\r' {
            end -= 1;
        }
        if end - begin > LINE_BYTES_MAX {
            self.clear();
            return Some(Line::TooLong);
        }
        self.taken = next;
        self.searched = next;
        Some(Line::Whole(begin..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(input: &mut Input, bytes: &[u8]) {
        input.room().extend_from_slice(bytes);
    }

    fn next(input: &mut Input, at_end: bool) -> Option<String> {
        match input.next_line(at_end)? {
            Line::Whole(line) => Some(String::from_utf8(input.get(line).to_vec()).unwrap()),
            Line::TooLong => Some("too long".into()),
        }
    }

    #[test]
    fn lines_come_out_whole_however_they_came_in() {
        let mut input = Input::default();
        for byte in b"one\r\n\ntwo" {
            feed(&mut input, &[*byte]);
        }
        assert!(input.has_line(false));
        assert_eq!(next(&mut input, false).as_deref(), Some("one"));
        assert_eq!(next(&mut input, false).as_deref(), Some(""));
        assert!(!input.has_line(false));
        assert_eq!(next(&mut input, false), None);
        assert!(input.has_line(true));
        assert_eq!(next(&mut input, true).as_deref(), Some("two"));
        assert_eq!(next(&mut input, true), None);
        input.release_if_empty();
        assert_eq!(input.bytes.capacity(), 0);
    }

    #[test]
    fn a_line_may_be_as_long_as_the_bound_and_no_longer() {
        for (length, ending, fits) in [
            (LINE_BYTES_MAX, "\n", true),
            (LINE_BYTES_MAX, "\r\n", true),
            (LINE_BYTES_MAX + 1, "\n", false),
            (LINE_BYTES_MAX + 3, "", false),
        ] {
            let mut input = Input::default();
            feed(&mut input, "x".repeat(length).as_bytes());
            feed(&mut input, ending.as_bytes());
            assert!(input.has_line(false));
            let line = input.next_line(false).unwrap();
            assert_eq!(
                matches!(line, Line::Whole(line) if line.len() == length),
                fits,
                "{length} {ending:?}"
            );
        }
    }

    #[test]
    fn memory_for_a_half_sent_line_is_bounded() {
        let mut input = Input::default();
        while !input.has_line(false) {
            let room = input.room();
            let spare = room.capacity() - room.len();
            assert!(spare > 0);
            room.extend(std::iter::repeat_n(b'x', spare));
            assert!(room.capacity() <= BYTES_MAX + 1);
        }
        assert_eq!(input.next_line(false), Some(Line::TooLong));
    }
}
