//! What a supervisor and its parent say to each other: frames on a socket pair.
//!
//! A frame is its length (four bytes, little endian) and JSON of that length. The report is followed by the
//! bytes of the four captured parts, whose lengths it names.

use super::capture::{CaptureLimits, Captured};
use super::{CommandSpec, Outcome};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;

/// The longest frame, in bytes. A specification came in a request line of at most 1 MiB, and JSON may take
/// up to six bytes for one.
pub(crate) const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;

/// From the parent to the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// The first frame: run this.
    Run(CommandSpec),
    /// TERM now, KILL after so many milliseconds; 0: KILL now.
    Stop { grace_ms: u64 },
    /// The command may run until then and no longer, unless a later time is told before: nanoseconds on
    /// `CLOCK_MONOTONIC`, which both processes share.
    TrustedUntil { monotonic_ns: u64 },
}

/// From the supervisor to the parent, once, when nothing of the command's tree is left.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    pub(crate) duration_ms: u64,
    /// Processes that the command left behind, and that were ended.
    pub(crate) leftovers: u32,
    /// Processes that could not be ended.
    pub(crate) survivors: u32,
    pub(crate) stdout: Part,
    pub(crate) stderr: Part,
}

/// The lengths of what was captured of one stream.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    head_bytes: usize,
    tail_bytes: usize,
    omitted_bytes: u64,
}

impl Part {
    pub(crate) fn of(captured: &Captured) -> Self {
        Self {
            head_bytes: captured.head.len(),
            tail_bytes: captured.tail.len(),
            omitted_bytes: captured.omitted_bytes,
        }
    }

    /// How many bytes follow for it, if that many may.
    pub(crate) fn checked_total(self, limits: CaptureLimits) -> io::Result<usize> {
        if self.head_bytes > limits.head_bytes_max || self.tail_bytes > limits.tail_bytes_max {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a capture longer than asked for",
            ));
        }
        Ok(self.head_bytes + self.tail_bytes)
    }

    pub(crate) fn with(self, mut bytes: Vec<u8>) -> Captured {
        let tail = bytes.split_off(self.head_bytes.min(bytes.len()));
        Captured {
            head: bytes,
            tail,
            omitted_bytes: self.omitted_bytes,
        }
    }
}

/// A frame, ready to be written.
pub(crate) fn frame<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    if length > FRAME_BYTES_MAX {
        let message = format!(
            "the command and its environment take {length} bytes; at most {FRAME_BYTES_MAX} are sent"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    bytes[..4].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    Ok(bytes)
}

/// How long the frame is that begins with `head`.
pub(crate) fn frame_length(head: [u8; 4]) -> io::Result<usize> {
    let length = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a frame longer than any",
        ));
    }
    Ok(length)
}

/// Takes the first frame out of what has been received, if it is there in full.
pub(crate) fn take_frame<T: DeserializeOwned>(received: &mut Vec<u8>) -> io::Result<Option<T>> {
    let Some(head) = received.first_chunk() else {
        return Ok(None);
    };
    let end = 4 + frame_length(*head)?;
    if received.len() < end {
        return Ok(None);
    }
    let message = serde_json::from_slice(&received[4..end])?;
    received.drain(..end);
    Ok(Some(message))
}

/// Now, in nanoseconds on `CLOCK_MONOTONIC`.
pub(crate) fn monotonic_ns() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    // This clock is there on every Linux, and never negative.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
    })
}
