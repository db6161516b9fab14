//! The log format of the Container Runtime Interface, as it comes out of a pipe: one record a line,
//! `TIMESTAMP stdout|stderr F|P TEXT`, where `P` says that no newline followed the text.

use agentd_protocol::OutputStream;

/// What stands before the text is never longer, in bytes.
const HEAD_BYTES_MAX: usize = 128;

/// Takes the format apart, however reads cut it. Texts may be of any length.
#[derive(Debug, Default)]
pub(super) struct Parser {
    head: Vec<u8>,
    place: Place,
    /// Lines that are none of the format.
    malformed: u64,
}

#[derive(Clone, Copy, Debug, Default)]
enum Place {
    #[default]
    Head,
    Text {
        stream: OutputStream,
        /// A newline followed.
        full: bool,
    },
    /// To the end of a malformed line.
    Skip,
}

impl Parser {
    /// Takes a piece of the log, and gives the agent's output in it: as few pieces as it has changes of stream.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut sink: impl FnMut(OutputStream, &[u8])) {
        let mut joined: (OutputStream, Vec<u8>) = (OutputStream::Stdout, Vec::new());
        while !bytes.is_empty() {
            let newline = memchr::memchr(b'\n', bytes);
            match self.place {
                Place::Head => bytes = self.take_head(bytes),
                Place::Text { stream, full } => {
                    let end = newline.unwrap_or(bytes.len());
                    // With the newline, if the text had one.
                    let kept = if full {
                        newline.map_or(end, |at| at + 1)
                    } else {
                        end
                    };
                    if joined.0 != stream {
                        if !joined.1.is_empty() {
                            sink(joined.0, &joined.1);
                            joined.1.clear();
                        }
                        joined.0 = stream;
                    }
                    joined.1.extend_from_slice(&bytes[..kept]);
                    bytes = self.after(bytes, newline);
                }
                Place::Skip => bytes = self.after(bytes, newline),
            }
        }
        if !joined.1.is_empty() {
            sink(joined.0, &joined.1);
        }
    }

    /// How many lines were none.
    pub(super) fn malformed(&self) -> u64 {
        self.malformed
    }

    fn after<'a>(&mut self, bytes: &'a [u8], newline: Option<usize>) -> &'a [u8] {
        match newline {
            Some(at) => {
                self.place = Place::Head;
                &bytes[at + 1..]
            }
            None => &[],
        }
    }

    fn take_head<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        for (at, &byte) in bytes.iter().enumerate() {
            if byte == b' ' && self.head.iter().filter(|&&byte| byte == b' ').count() == 2 {
                self.place = place(&self.head);
                self.malformed += u64::from(matches!(self.place, Place::Skip));
                self.head.clear();
                return &bytes[at + 1..];
            }
            if byte == b'\n' || self.head.len() >= HEAD_BYTES_MAX {
                self.malformed += 1;
                self.head.clear();
                if byte != b'\n' {
                    self.place = Place::Skip;
                }
                return &bytes[at + 1..];
            }
            self.head.push(byte);
        }
        &[]
    }
}

/// What follows after `TIMESTAMP STREAM TAGS`.
fn place(head: &[u8]) -> Place {
    let mut fields = head.split(|&byte| byte == b' ').skip(1);
    let stream = match fields.next() {
        Some(b"stdout") => OutputStream::Stdout,
        Some(b"stderr") => OutputStream::Stderr,
        _ => return Place::Skip,
    };
    match fields
        .next()
        .and_then(|tags| tags.split(|&byte| byte == b':').next())
    {
        Some(b"F") => Place::Text { stream, full: true },
        Some(b"P") => Place::Text { stream, full: false },
        _ => Place::Skip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_become_output_however_they_are_cut() {
        let log = b"2016-10-06T00:17:09.669794202Z stdout F a line\n\
            2016-10-06T00:17:09.7Z stderr P half \xff\x00\n\
            nonsense\n\
            2016-10-06T00:17:09.7Z stdin F no\n\
            2016-10-06T00:17:09.7Z stderr F:x  of it\n\
            2016-10-06T00:17:09.7Z stderr F \n\
            2016-10-06T00:17:09.8Z stdout P end\n";
        for size in 1..log.len() {
            let mut parser = Parser::default();
            let (mut stdout, mut stderr, mut pieces) = (Vec::new(), Vec::new(), 0);
            for piece in log.chunks(size) {
                parser.push(piece, |stream, bytes| {
                    pieces += 1;
                    match stream {
                        OutputStream::Stdout => stdout.extend_from_slice(bytes),
                        OutputStream::Stderr => stderr.extend_from_slice(bytes),
                    }
                });
            }
            assert_eq!(stdout, b"a line\nend");
            assert_eq!(stderr, b"half \xff\x00 of it\n\n");
            assert_eq!(parser.malformed(), 2);
            assert!(size < log.len() || pieces == 3);
        }
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut parser = Parser::default();
        for _ in 0..100 {
            parser.push(&[b'x'; 65536], |_, _| panic!("no output"));
        }
        assert_eq!((parser.malformed(), parser.head.len()), (1, 0));
    }
}
