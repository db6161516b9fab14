//! Runs a command that must not outlive a lock, with the user's own stdin, stdout and stderr.
//!
//! ```text
//!   agentd lock run ──── socket pair: until when? ───▶ agentd __guard ─────▶ the command and its children
//!   heartbeats, says     ◀──── how it ended ────────  child subreaper; watches the time itself
//! ```
//!
//! Two processes, because either may be killed or stopped while the command must not run on: the guard ends the
//! command when the time that it was told is over, or when `lock run` is gone; and when the guard is gone, the
//! kernel ends the command (PDEATHSIG) and `lock run`, a subreaper as well, the rest.
//!
//! All of them stay in the terminal's foreground group, so that an editor can be run under a lock and Ctrl-C
//! reaches the command as it would without.
//!
//! A plugin that is tried from the command line has a guard as well ([`piped`]): then the time is without end.

mod piped;

pub(crate) use agentd_supervisor::guard::{End, end_tree, guard_main};
pub(crate) use piped::Guarded;

use agentd_supervisor::guard::{Order, monotonic_ns};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as StdStream;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};

/// A guard that runs, and its command.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    orders: OwnedWriteHalf,
    report: BufReader<OwnedReadHalf>,
    // Kept here so that waiting for it can be given up and taken up again.
    line: Vec<u8>,
}

impl Guard {
    /// Starts a guard. It starts the command as soon as it is told until when it may run.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(crate) fn start(command: &[OsString], variables: &[(&str, String)]) -> io::Result<Self> {
        // What the guard leaves behind when it is killed comes to this process.
        nix::sys::prctl::set_child_subreaper(true)?;
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        // There is one thread and it starts nothing else meanwhile: no other child inherits it.
        fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let mut guard = Command::new("/proc/self/exe");
        guard
            .arg0("agentd")
            .arg("__guard")
            .arg(theirs.as_raw_fd().to_string())
            .arg("--")
            .args(command)
            .envs(variables.iter().map(|(name, value)| (name, value)));
        let child = guard.spawn()?;
        drop(theirs);
        let (report, orders) = UnixStream::from_std(ours)?.into_split();
        Ok(Self {
            child,
            orders,
            report: BufReader::new(report),
            line: Vec::new(),
        })
    }

    async fn order(&mut self, order: Order) {
        // A guard that is gone is noticed by `ended`.
        let _ = self.orders.write_all(&order.line()).await;
    }

    /// The command may run until `kill`, and is asked to end at `term`.
    pub(crate) async fn until(&mut self, term: Instant, kill: Instant) {
        self.order(Order::Until {
            term_ns: on_shared_clock(term),
            kill_ns: on_shared_clock(kill),
        })
        .await;
    }

    /// The command is asked to end.
    pub(crate) async fn term(&mut self) {
        self.order(Order::Term).await;
    }

    /// The command is ended.
    pub(crate) async fn kill(&mut self) {
        self.order(Order::Kill).await;
    }

    /// Waits until nothing is left of the command. None when the guard went without a word; what it left behind
    /// is ended then. May be dropped and called again.
    pub(crate) async fn ended(&mut self) -> Option<End> {
        if !self.line.ends_with(b"\n") {
            // The end of the connection, and an error, show in the line.
            let _ = self.report.read_until(b'\n', &mut self.line).await;
        }
        let end = serde_json::from_slice(&self.line).ok();
        if end.is_none() {
            let _ = self.child.start_kill();
        }
        let _ = self.child.wait().await;
        if end.is_none() {
            end_tree();
        }
        end
    }
}

// The same moment on the clock that the guard reads.
fn on_shared_clock(moment: Instant) -> u64 {
    let left: Duration = moment.saturating_duration_since(Instant::now());
    monotonic_ns().saturating_add(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX))
}
