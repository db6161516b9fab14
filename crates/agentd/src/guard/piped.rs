//! A plugin's process under a guard: whatever becomes of this program, the plugin and all that it has started ends.

use super::{End, Guard, Order};
use mcp_transport::process::{Spawn, Started, taken};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::io;
use std::iter::once;
use std::process::{Command, Stdio};

/// Starts a plugin's process, one at a time, in this program's only thread: see [`Guard::ended`] and [`super::end_tree`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guarded;

impl Spawn for Guarded {
    fn spawn(&self, command: Command) -> io::Result<Started> {
        let argv: Vec<OsString> = once(command.get_program())
            .chain(command.get_args())
            .map(ToOwned::to_owned)
            .collect();
        let for_good = Order::Until {
            term_ns: u64::MAX,
            kill_ns: u64::MAX,
        };
        let mut guard = Guard::launch(&argv, Some(for_good), |guard| {
            guard
                .env_clear()
                .envs(
                    command
                        .get_envs()
                        .filter_map(|(name, value)| Some((name, value?))),
                )
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                // Ctrl-C is ours: the plugin is then ended in order.
                .process_group(0);
            if let Some(dir) = command.get_current_dir() {
                guard.current_dir(dir);
            }
        })?;
        let (pid, [stdin, stdout, stderr]) = taken(&mut guard.child)?;
        Ok(Started {
            pid,
            ended: Box::pin(async move { shown(guard.ended().await) }),
            stdin,
            stdout,
            stderr,
        })
    }
}

fn shown(end: Option<End>) -> String {
    match end {
        Some(End::Exited(code)) => format!("exit status: {code}"),
        Some(End::Signalled(number)) => match Signal::try_from(i32::from(number)) {
            Ok(signal) => format!("signal: {number} ({signal})"),
            Err(_) => format!("signal: {number}"),
        },
        Some(End::NotFound) => "there is no such program".into(),
        Some(End::NotExecutable) => "it cannot be executed".into(),
        Some(End::Stopped) | None => "it was killed".into(),
    }
}
