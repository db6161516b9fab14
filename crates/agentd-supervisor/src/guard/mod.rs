//! A guard: a small process between a program and a command that must not outlive it.
//!
//! ```text
//!   the program ──── socket pair: orders ───▶ guard ─────▶ the command and all that it starts
//!               ◀──── how it ended ─────────  child subreaper; watches the time itself
//! ```
//!
//! The guard ends everything below it when it is told to, when the time that it was told is over, when the command has
//! ended, and when the program is gone, however it went. What the command starts cannot leave: whatever loses its parent
//! becomes the guard's child, with or without a session, a group or an environment of its own. When the guard itself is
//! killed, the kernel ends the command (PDEATHSIG), and the rest becomes the program's, if that is a subreaper.

mod inside;
mod plugin;
mod tree;

pub use inside::guard_main;
pub use plugin::{Guarded, PLUGIN_COMMAND, Report, plugin_main};
pub use tree::end as end_tree;

use crate::start_error::StartError;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// To the guard, a line each.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Order {
    /// TERM at the first of these times and KILL at the second, unless later ones are told before: nanoseconds
    /// on `CLOCK_MONOTONIC`, which both processes share. The first such line starts the command.
    Until {
        /// TERM.
        term_ns: u64,
        /// KILL.
        kill_ns: u64,
    },
    /// TERM now.
    Term,
    /// KILL now.
    Kill,
}

impl Order {
    /// No end but the command's own.
    pub const FOR_GOOD: Self = Self::Until {
        term_ns: u64::MAX,
        kill_ns: u64::MAX,
    };

    /// As the guard reads it.
    #[must_use]
    pub fn line(self) -> Vec<u8> {
        let mut line = serde_json::to_vec(&self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// How the command ended: the guard's only line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// By itself.
    Exited(u8),
    /// By a signal.
    Signalled(u8),
    /// Its time was over, or it was to be killed.
    Stopped,
    /// It could not be started.
    NotStarted(StartError),
}

/// Now, on the clock of [`Order::Until`].
#[must_use]
pub fn monotonic_ns() -> u64 {
    // This clock is there on every Linux, and never negative.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
    })
}
