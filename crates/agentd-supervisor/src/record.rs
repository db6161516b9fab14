//! What a supervisor tells: `records.jsonl` in the session's directory, one record a line. `Intent`, `Exited` and `End`
//! are on disk before anything follows from them; the others are in the file, which survives every process, and come to
//! disk with the next of these. Whoever comes later reads the same file; a last line without its newline was being
//! written when its writer died, and does not count.

use serde::{Deserialize, Serialize};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// From 1 on, without gaps.
    pub seq: u64,
    /// When, in Unix milliseconds.
    pub wall_ms: i64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// The supervisor is about to start the agent. Without this record the agent has not begun, and never will
    /// by this supervisor's hand.
    Intent {
        /// The supervisor's version of the protocol.
        version: u32,
        /// The supervisor's process id.
        pid: i32,
    },
    /// The agent runs.
    Started {
        /// The process id, on the host, of the agent or of its container's init.
        pid: i32,
    },
    /// The agent's end was begun.
    Stopping {
        /// Why.
        cause: StopCause,
    },
    /// The agent's container has ended. How, is said by `Exited`, once the engine has cleaned up after it.
    ContainerEnded,
    /// The agent has ended, or did not begin.
    Exited(Exited),
    /// Everything is taken down: no process is left, and no container; the secrets are gone. Nothing follows.
    End {
        /// Bytes of output, after redaction.
        output_bytes: u64,
        /// How many of them were not kept.
        missing_bytes: u64,
        /// How long taking down took, in milliseconds.
        teardown_ms: u64,
    },
    /// Something that people should know.
    Warning {
        /// What, for people.
        message: String,
    },
    /// Something that a newer supervisor tells and this version has no word for.
    #[serde(other)]
    Unknown,
}

/// Why agentd ended an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCause {
    /// It took longer than it may.
    Timeout,
    /// Somebody asked for it.
    Request,
}

/// How an agent ended. Which outcome follows from it is decided elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exited {
    /// Its exit status, when it exited.
    pub code: Option<i32>,
    /// The signal that ended it, when one did.
    pub signal: Option<i32>,
    /// Why it was being stopped at that time, if it was.
    pub stop: Option<StopCause>,
    /// How many of its processes the kernel killed for memory; 0 when that is not known.
    pub oom_kills: u64,
    /// It did not begin: why, for people.
    pub start_error: Option<String>,
    /// How it ended cannot be known: why, for people.
    pub lost: Option<String>,
    /// Processes that were left over and were killed.
    pub leftovers: u32,
    /// Processes that could not be killed.
    pub survivors: u32,
}
