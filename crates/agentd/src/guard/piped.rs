//! A plugin's process under a guard: whatever becomes of this program, the plugin and all that it has started ends.

use agentd_supervisor::guard::{self, End, end_tree};
use agentd_supervisor::tools::ProcessUser;
use mcp_transport::process::{Spawn, Started};
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::io;
use std::process::Command;

/// Starts a plugin's process as in a session, one at a time, in this program's only thread: see [`end_tree`].
#[derive(Clone, Debug)]
pub(crate) struct Guarded {
    /// The user that it runs as; the caller when absent.
    pub(crate) user: Option<ProcessUser>,
}

impl Spawn for Guarded {
    fn spawn(&self, _plugin: &str, command: Command) -> io::Result<Started> {
        // What the guard leaves behind when it is killed comes to this process.
        nix::sys::prctl::set_child_subreaper(true)?;
        let (guarded, [stdin, stdout, stderr]) = guard::Guarded::start(&command, self.user.as_ref())?;
        let pid = Pid::from_raw(guarded.pid());
        let (signal, report) = guarded.split()?;
        Ok(Started {
            signal: Box::new(signal),
            ended: Box::pin(async move {
                let end = report.end().await;
                if end.is_none() {
                    end_tree();
                }
                // It has closed its end: it is about to be gone, or is.
                let _ = waitpid(pid, None);
                shown(end)
            }),
            stdin,
            stdout,
            stderr,
        })
    }
}

fn shown(end: Option<End>) -> String {
    match end {
        Some(End::Exited(code)) => format!("exit status {code}"),
        Some(End::Signalled(number)) => match Signal::try_from(i32::from(number)) {
            Ok(signal) => format!("signal: {number} ({signal})"),
            Err(_) => format!("signal: {number}"),
        },
        Some(End::NotStarted(error)) => error.why,
        Some(End::Stopped) | None => "it was killed".into(),
    }
}
