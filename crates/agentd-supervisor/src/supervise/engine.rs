//! Runs the engine's command lines: bounded in time and in what is kept of their complaints.

use super::children::{Children, Ending};
use super::launch;
use super::pump;
use crate::start_error;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;
use tokio::time::timeout;

/// What is kept of standard error: its end, in bytes.
const STDERR_BYTES_MAX: usize = 3 * 1024;
/// How long a killed command is waited for.
const KILLED_MAX: Duration = Duration::from_secs(2);

/// Kills a command's process group unless it has ended: when a future is dropped, its command goes with it.
struct Group {
    pid: i32,
    ended: bool,
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.ended {
            // Gone already is as good.
            let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }
}

/// Runs a command line to its end, and kills it when that takes too long.
///
/// # Errors
/// A sentence for people, with the last that it said.
pub(super) async fn run(
    children: Arc<Children>,
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    time_max: Duration,
) -> Result<(), String> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err("no program is named".into());
    };
    // The verb, for people: `podman run`. The engine's own options come before it, and some have values.
    let is_verb = |argument: &&String| matches!(argument.as_str(), "run" | "kill" | "rm");
    let name = match arguments.iter().find(is_verb) {
        Some(verb) => format!("{program} {verb}"),
        None => program.clone(),
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(&env)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    launch::prepare(&mut command, None);
    let mut child = command.spawn().map_err(|error| {
        let error = start_error::explain(&command, None, &error);
        format!("{name} cannot be started: {}", error.why)
    })?;
    let pid = i32::try_from(child.id()).map_err(|_| "a process number that is none".to_owned())?;
    children.expect(pid);
    let mut group = Group { pid, ended: false };

    let said = Arc::new(Mutex::new(Vec::new()));
    let over = watch::Sender::new(false);
    let pipe = child.stderr.take().map(OwnedFd::from);
    let pump = pipe
        .and_then(|pipe| Receiver::from_owned_fd(pipe).ok())
        .map(|pipe| {
            let said = Arc::clone(&said);
            pump::start(pipe, over.subscribe(), move |bytes| {
                let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                said.extend_from_slice(bytes);
                let over = said.len().saturating_sub(STDERR_BYTES_MAX);
                said.drain(..over);
            })
        });
    let ending = timeout(time_max, children.ended(pid)).await;
    if ending.is_err() {
        drop(group);
        let _ = timeout(KILLED_MAX, children.ended(pid)).await;
    } else {
        group.ended = true;
    }
    // Its pipe may have been inherited by what goes on living: nobody waits for its end.
    over.send_replace(true);
    if let Some(pump) = pump {
        let _ = pump.await;
    }
    let said = std::mem::take(&mut *said.lock().unwrap_or_else(PoisonError::into_inner));
    let said = String::from_utf8_lossy(&said);
    let said = match said.trim() {
        "" => String::new(),
        said => format!(": {said}"),
    };
    match ending {
        Ok(Ending::Code(0)) => Ok(()),
        Ok(Ending::Code(code)) => Err(format!("{name} exited with status {code}{said}")),
        Ok(Ending::Signal(signal)) => Err(format!("{name} was ended by signal {signal}{said}")),
        Err(_) => Err(format!(
            "{name} did not end within {} seconds and was killed{said}",
            time_max.as_secs_f64()
        )),
    }
}
