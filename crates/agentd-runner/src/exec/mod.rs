//! Runs one command under a supervisor: a small process of the same program, which outlives neither its parent
//! nor its command, and leaves nothing of either behind.
//!
//! ```text
//!   parent (worker)                       supervisor                          command
//!   ┌──────────────┐  socket pair = fd 0  ┌─────────────────────┐  stdout ──▶  ┌────────────┐
//!   │ run(…)       │ ── Run, Stop, ─────▶ │ own session         │ ◀─ pipes ──  │ own session│──▶ children,
//!   │              │    TrustedUntil      │ child subreaper     │  stderr      │ stdin null │    daemons, …
//!   │              │ ◀──────── Report ─── │ one thread, poll(2) │              │ PDEATHSIG  │
//!   └──────────────┘                      └─────────────────────┘              └────────────┘
//! ```
//!
//! The socket pair is the lifeline as well: whoever holds the parent's end keeps the command alive.
//!
//! | what happens | what follows |
//! |---|---|
//! | the parent is killed, or drops the future of [`run`] | the supervisor reads the end of the socket, kills the whole tree and exits |
//! | the parent hangs or is stopped | the command is killed when its trusted time is over, which the supervisor watches itself |
//! | the command leaves processes behind, in sessions of their own too | they have become the supervisor's children (it is their subreaper) and are killed |
//! | the supervisor is killed | the command dies with it (PDEATHSIG); the parent reads the end of the socket and kills the rest by their mark in the environment ([`sweep()`]) |
//! | both are killed at once | the command dies; the next run's [`sweep()`] finds the rest |
//! | a process ignores TERM | KILL after the grace period |
//! | a process waits for a device that does not answer | it cannot be killed; after ten seconds the report counts it among the survivors |
//! | output is held open by a process that is not ours | what is there is taken, and nobody waits for its end |
//!
//! What nothing helps against: a process that changes its user (a setuid program) cannot be signalled, and one
//! that replaced its environment cannot be found once its supervisor was killed with KILL.

mod capture;
mod parent;
mod start;
mod supervise;
mod sweep;
mod wire;

pub use capture::{CaptureLimits, Captured};
pub use parent::{Control, ExecError, SupervisorCommand, Trust, run};
pub use supervise::supervise_main;
pub use sweep::{SupervisorMark, SweepFilter, Swept, sweep};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How long a command has between TERM and KILL when nobody says otherwise.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(5);

/// A command to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandSpec {
    /// The program, looked up in `PATH` when it has no `/`, and its arguments.
    pub argv: Vec<String>,
    /// The directory to run in.
    pub cwd: PathBuf,
    /// Variables besides those of the parent.
    pub env: BTreeMap<String, String>,
    /// After so long the command is stopped.
    pub timeout: Option<Duration>,
    /// Between TERM and KILL, when it is stopped.
    pub grace: Duration,
    /// What is kept of its standard output.
    pub stdout: CaptureLimits,
    /// What is kept of its standard error.
    pub stderr: CaptureLimits,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// By itself.
    Exited {
        /// 0 to 255.
        code: i32,
    },
    /// By a signal that did not come from here.
    Signalled {
        /// Its number.
        signal: i32,
    },
    /// It took longer than it may.
    TimedOut,
    /// The parent asked for it.
    Stopped,
    /// Its trusted time was over.
    TrustOver,
    /// It did not begin.
    NotStarted {
        /// Why, for people.
        message: String,
    },
}

/// A command that is no more.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub outcome: Outcome,
    /// From its start until nothing was left of it.
    pub duration: Duration,
    /// How many processes it left behind that had to be killed.
    pub leftovers: u32,
    /// How many processes could not be killed.
    pub survivors: u32,
    /// Its standard output.
    pub stdout: Captured,
    /// Its standard error.
    pub stderr: Captured,
}
