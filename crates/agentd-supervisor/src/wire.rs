//! What a supervisor and agentd say to each other on the session's socket: JSON, one message a line.
//!
//! ```text
//!   supervisor  {"hello":{"version":1,"oldest":1,"session_id":"…","pid":42}}
//!   agentd      {"hello":{"version":1}}                      → {"ok":{}}
//!   agentd      {"stop":{"grace_ms":30000}}                  → {"ok":{}}
//!   agentd      {"status":{}}                                → {"status":{…}}
//!   agentd      {"watch":{"from_seq":1}}                     → {"record":{…}}, {"calls":{}} …, {"end":{}}
//! ```
//!
//! Fields and messages are added; what a side does not know it ignores, or answers with an error that ends nothing.

use crate::record::Record;
use crate::spec::PROTOCOL_VERSION;
use agentd_protocol::SessionId;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;

/// The longest request, in bytes.
pub(crate) const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// The longest answer, in bytes.
pub(crate) const REPLY_BYTES_MAX: usize = 256 * 1024;

/// Which versions of the protocol a program speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The newest.
    pub current: u32,
    /// The oldest.
    pub oldest: u32,
}

impl Versions {
    /// This program's.
    pub const OURS: Self = Self {
        current: PROTOCOL_VERSION,
        oldest: 1,
    };

    /// The newest version that both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u32> {
        let common = self.current.min(other.current);
        (common >= self.oldest.max(other.oldest)).then_some(common)
    }
}

/// The first line from a supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest version that it speaks.
    pub version: u32,
    /// The oldest.
    pub oldest: u32,
    /// Whose supervisor it is.
    pub session_id: SessionId,
    /// Its process id.
    pub pid: i32,
}

/// What a supervisor is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// It starts the agent.
    #[default]
    Starting,
    /// The agent runs.
    Running,
    /// The agent's end was begun.
    Stopping,
    /// The agent has ended.
    TearingDown,
    /// Something that this version has no word for.
    #[serde(other)]
    Unknown,
}

/// How a session stands, as its supervisor sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// What it is doing.
    pub doing: Doing,
    /// The agent's process id on the host, once it has one.
    pub agent_pid: Option<i32>,
    /// Bytes of output so far.
    pub output_bytes: u64,
    /// How many of them are not kept.
    pub missing_bytes: u64,
    /// The number of the last record.
    pub last_seq: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    Hello { version: u32 },
    Watch { from_seq: u64 },
    Stop { grace_ms: u64 },
    Status {},
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    Hello(Hello),
    Ok {},
    Status(Status),
    Record(Record),
    /// There are calls of tools to be taken: see [`crate::calls`].
    Calls {},
    End {},
    Error {
        code: String,
        message: String,
    },
}

/// A line from a supervisor that may be newer than this program.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum AnyReply {
    Known(Reply),
    Unknown(serde::de::IgnoredAny),
}

/// A message as a line.
pub(crate) fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// A path for the file `socket` in an open directory, short enough for any socket's address.
pub(crate) fn short_path(dir: &impl std::os::fd::AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}/socket", dir.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_meet_where_they_overlap() {
        let versions = |oldest, current| Versions { current, oldest };
        assert_eq!(versions(1, 1).common(versions(1, 1)), Some(1));
        assert_eq!(versions(1, 2).common(versions(1, 1)), Some(1));
        assert_eq!(versions(1, 1).common(versions(1, 2)), Some(1));
        assert_eq!(versions(2, 3).common(versions(1, 1)), None);
        assert_eq!(versions(1, 1).common(versions(2, 3)), None);
    }
}
