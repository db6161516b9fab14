//! A session's output on disk: what a [`Writer`] keeps of it, and how a [`Reader`] gets it back while it grows.
//!
//! ```text
//!   transcript/00000000000000000000      segments, named by how many bytes of output came before them
//!              00000000000001048576
//!              …                         (the middle is deleted)
//!              00000000000073400320
//!              end                       totals, when nothing more comes
//! ```
//!
//! A segment is a row of frames: a header of sixteen bytes and as many bytes of output as it says. A frame that is not
//! there in full was being written when its writer died, or is being written now; it and what follows does not count.
//! What is missing between the end of one segment and the name of the next was not kept.

mod reader;
mod writer;

pub use reader::{Chunk, Page, Reader};
pub use writer::{Totals, Writer};

use agentd_protocol::OutputStream;

/// The most bytes of output in one frame.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
const HEADER_BYTES: usize = 16;
/// Written when nothing more comes.
const END_FILE: &str = "end";

/// What stands before a frame's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    stream: OutputStream,
    length: usize,
    wall_ms: i64,
}

impl Header {
    fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = b'F';
        bytes[1] = match self.stream {
            OutputStream::Stdout => 1,
            OutputStream::Stderr => 2,
        };
        bytes[4..8].copy_from_slice(&u32::try_from(self.length).unwrap_or(u32::MAX).to_le_bytes());
        bytes[8..].copy_from_slice(&self.wall_ms.to_le_bytes());
        bytes
    }

    /// None for bytes that are no header: after a power cut the end of a file may be anything.
    fn decode(bytes: [u8; HEADER_BYTES]) -> Option<Self> {
        let stream = match bytes {
            [b'F', 1, 0, 0, ..] => OutputStream::Stdout,
            [b'F', 2, 0, 0, ..] => OutputStream::Stderr,
            _ => return None,
        };
        let length = u32::from_le_bytes(*bytes[4..].first_chunk()?);
        let length = usize::try_from(length)
            .ok()
            .filter(|length| (1..=FRAME_BYTES_MAX).contains(length))?;
        Some(Self {
            stream,
            length,
            wall_ms: i64::from_le_bytes(*bytes[8..].first_chunk()?),
        })
    }
}

fn segment_name(start: u64) -> String {
    format!("{start:020}")
}

fn segment_start(name: &str) -> Option<u64> {
    (name.len() == 20).then(|| name.parse().ok())?
}

#[cfg(test)]
mod tests;
