//! A plugin's process: how it is started, what it says on standard error, how it ends.

use crate::log::Log;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// What is kept of standard error: its end, in bytes.
const STDERR_BYTES_MAX: usize = 8 * 1024;
/// What of it goes into an error: so many lines.
const STDERR_LINES_SHOWN: usize = 10;
/// How long a killed process is waited for.
const KILLED_MAX: Duration = Duration::from_secs(2);

/// What to start.
#[derive(Clone)]
pub struct ProcessOptions {
    /// The program, absolute or to be found in `PATH` of `env`, and its arguments.
    pub argv: Vec<OsString>,
    /// All of its environment. Values may be secrets, and are in no message.
    pub env: Vec<(OsString, OsString)>,
    /// Where it runs.
    pub cwd: PathBuf,
}

impl fmt::Debug for ProcessOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessOptions")
            .field("program", &self.argv.first())
            .field("cwd", &self.cwd)
            .finish_non_exhaustive()
    }
}

impl ProcessOptions {
    fn command(&self) -> io::Result<Command> {
        let (program, arguments) = self
            .argv
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no program is named"))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.cwd)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }
}

/// Waits for a process's end, and says how it ended, for people: `exit status 3`.
pub type Ended = Pin<Box<dyn Future<Output = String> + Send>>;

/// Sends a signal (TERM or KILL) to a process and what belongs to it.
pub type Signaller = Box<dyn Fn(Signal) + Send + Sync>;

/// A process that was started.
pub struct Started {
    /// The way to end it.
    pub signal: Signaller,
    /// Its end.
    pub ended: Ended,
    /// Its standard input.
    pub stdin: OwnedFd,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
}

/// The number of a child, and its standard input, output and error, for a [`Started`].
///
/// # Errors
/// When one of them was not asked for, or is taken.
pub fn taken(child: &mut tokio::process::Child) -> io::Result<(i32, [OwnedFd; 3])> {
    let missing = || io::Error::other("a pipe is missing");
    let pid = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .ok_or_else(missing)?;
    let stdin = child.stdin.take().ok_or_else(missing)?.into_owned_fd()?;
    let stdout = child.stdout.take().ok_or_else(missing)?.into_owned_fd()?;
    let stderr = child.stderr.take().ok_or_else(missing)?.into_owned_fd()?;
    Ok((pid, [stdin, stdout, stderr]))
}

impl fmt::Debug for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Started").finish_non_exhaustive()
    }
}

/// Starts plugins' processes. An embedder that reaps all of its children in one place, or gives them more (a death
/// signal, limits), brings its own.
pub trait Spawn: Send + Sync {
    /// Starts this plugin's command, whose three pipes are asked for already, outside of the process group of this program.
    ///
    /// # Errors
    /// The system's.
    fn spawn(&self, plugin: &str, command: Command) -> io::Result<Started>;
}

/// Starts processes by way of the async runtime, which reaps them.
#[derive(Clone, Copy, Debug, Default)]
pub struct RuntimeSpawn;

impl Spawn for RuntimeSpawn {
    fn spawn(&self, _plugin: &str, command: Command) -> io::Result<Started> {
        let mut command = tokio::process::Command::from(command);
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (pid, [stdin, stdout, stderr]) = taken(&mut child)?;
        let ended = Box::pin(async move {
            match child.wait().await {
                Ok(status) => match status.code() {
                    Some(code) => format!("exit status {code}"),
                    None => status.to_string(),
                },
                Err(error) => format!("its end cannot be waited for: {error}"),
            }
        });
        Ok(Started {
            signal: group(pid),
            ended,
            stdin,
            stdout,
            stderr,
        })
    }
}

/// Signals a process group, by its leader's number.
#[must_use]
pub fn group(leader: i32) -> Signaller {
    Box::new(move |signal| {
        // Gone already is as good.
        let _ = killpg(Pid::from_raw(leader), signal);
    })
}

/// A process that runs. It is killed when nobody cares for it any more.
pub(crate) struct Running {
    signal: Signaller,
    pub(crate) ended: Ended,
}

impl Drop for Running {
    fn drop(&mut self) {
        (self.signal)(Signal::SIGKILL);
    }
}

pub(crate) type Pipes = (
    tokio::net::unix::pipe::Sender,
    tokio::net::unix::pipe::Receiver,
    tokio::net::unix::pipe::Receiver,
);

/// Starts it.
pub(crate) fn start(
    plugin: &str,
    options: &ProcessOptions,
    spawn: &dyn Spawn,
) -> io::Result<(Running, Pipes)> {
    use tokio::net::unix::pipe::{Receiver, Sender};
    let started = spawn.spawn(plugin, options.command()?)?;
    let running = Running {
        signal: started.signal,
        ended: started.ended,
    };
    let pipes = (
        Sender::from_owned_fd(started.stdin)?,
        Receiver::from_owned_fd(started.stdout)?,
        Receiver::from_owned_fd(started.stderr)?,
    );
    Ok((running, pipes))
}

impl Running {
    /// Ends it, its standard input closed already: waits, TERM, waits, KILL. What it has left in its group goes with it.
    pub(crate) async fn end(mut self, grace: Duration) -> String {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if let Ok(how) = timeout(grace, &mut self.ended).await {
                return how;
            }
            (self.signal)(signal);
        }
        timeout(KILLED_MAX, &mut self.ended)
            .await
            .unwrap_or_else(|_| "killed, and not gone yet".into())
    }
}

/// The last that a plugin said on standard error, and the file for all of it.
#[derive(Clone, Default)]
pub(crate) struct Said(Arc<Mutex<VecDeque<u8>>>, Option<Arc<Mutex<Log>>>);

impl Said {
    pub(crate) fn with(log: Option<Log>) -> Self {
        Self(Arc::default(), log.map(|log| Arc::new(Mutex::new(log))))
    }

    fn log(&self, what: impl FnOnce(&mut Log)) {
        if let Some(log) = &self.1 {
            what(&mut log.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// One of its lives is over, and was none: its words are said again in the next.
    pub(crate) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn push(&self, bytes: &[u8]) {
        self.log(|log| log.push(bytes));
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = &bytes[bytes.len().saturating_sub(STDERR_BYTES_MAX)..];
        let over = (kept.len() + bytes.len()).saturating_sub(STDERR_BYTES_MAX);
        kept.drain(..over);
        kept.extend(bytes);
    }

    /// All that is kept.
    pub(crate) fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (front, back) = kept.as_slices();
        String::from_utf8_lossy(&[front, back].concat()).into_owned()
    }

    /// The last lines, as the end of an error.
    pub(crate) fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let shown = &lines[lines.len().saturating_sub(STDERR_LINES_SHOWN)..];
        if shown.is_empty() {
            return String::new();
        }
        format!("; it said last: {}", shown.join("\n"))
    }
}

/// Takes what comes until the end.
pub(crate) async fn listen(said: Said, mut stderr: impl AsyncRead + Unpin) {
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
        said.push(&buffer[..length]);
    }
    said.log(Log::end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let said = Said::default();
        assert_eq!(said.tail(), "");
        for n in 0..5000 {
            said.push(format!("line {n}\n").as_bytes());
        }
        assert!(said.text().len() <= STDERR_BYTES_MAX);
        assert!(said.tail().starts_with("; it said last: line 4990\n"));
        said.push(&vec![b'x'; 100_000]);
        assert_eq!(said.text().len(), STDERR_BYTES_MAX);
    }
}
