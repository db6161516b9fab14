//! Starting a command from inside its supervisor.

use super::CommandSpec;
use super::sweep::{SUPERVISOR_VARIABLE, SupervisorMark};
use agentd_supervisor::start_error;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpid, getppid, setsid};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Starts the command; gives its process number and the reading ends of its standard output and standard error.
///
/// # Errors
/// A sentence for people.
pub(super) fn start(spec: &CommandSpec) -> Result<(Pid, OwnedFd, OwnedFd), String> {
    let Some((program, arguments)) = spec.argv.split_first() else {
        return Err("no program is named".into());
    };
    let mark = SupervisorMark::of(getpid().as_raw())
        .map(SupervisorMark::text)
        .unwrap_or_default();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(&spec.cwd)
        .envs(&spec.env)
        .env(SUPERVISOR_VARIABLE, mark);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    on_start(&mut command);
    let mut child = command.spawn().map_err(|error| {
        let error = start_error::explain(&command, None, &error);
        format!("cannot start {program:?}: {}", error.why)
    })?;
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(|_| "a process number that is none")?);
    match (child.stdout.take(), child.stderr.take()) {
        // The handle is dropped: every child is reaped in one place, by number.
        (Some(stdout), Some(stderr)) => Ok((pid, stdout.into(), stderr.into())),
        _ => Err("the command was started without its pipes".into()),
    }
}

#[expect(
    unsafe_code,
    reason = "the standard library has no safe way to give a child a session and a death signal"
)]
fn on_start(command: &mut Command) {
    let supervisor = getpid();
    let prepare = move || {
        setsid()?;
        // Should the supervisor be killed with KILL, its command goes with it.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != supervisor {
            return Err(Errno::ESRCH.into());
        }
        // The mask would be inherited, and a program that never gets TERM be killed without warning.
        SigSet::empty().thread_set_mask()?;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. These are bare system calls
    // (setsid, prctl, getppid, sigprocmask) on values that were made before; nothing is allocated or locked.
    unsafe {
        command.pre_exec(prepare);
    }
}
