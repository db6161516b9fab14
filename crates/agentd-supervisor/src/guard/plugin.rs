//! A session's plugin under a guard.
//!
//! The guard has none of the plugin's environment, and takes nothing from it: below root's daemon the plugin may be of a
//! user who is not root, and the guard is. What the plugin is to have comes in a file without a name.

use super::inside::{Child, adopt, stand_guard};
use super::{End, Order};
use crate::tools::ProcessUser;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::setsid;
use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;

/// What the program is started with, before the plugin's own command, to be [`plugin_main`].
pub const PLUGIN_COMMAND: &str = "__plugin";

const CONTROL_FD: RawFd = 3;
const TERMS_FD: RawFd = 4;
/// Far more than the kernel gives to a program.
const TERMS_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What the plugin is started with. Variables follow, each ended by a zero byte.
#[derive(Debug, Serialize, Deserialize)]
struct Terms {
    cwd: Option<PathBuf>,
    user: Option<ProcessUser>,
}

/// A guard that runs, and its plugin.
#[derive(Debug)]
pub struct Guarded {
    pid: i32,
    orders: StdStream,
    report: StdStream,
}

impl Guarded {
    /// Starts a guard, and it the command, whose three pipes are asked for already.
    ///
    /// # Errors
    /// The system's. What the plugin itself cannot do is its end.
    pub fn start(command: &Command, user: Option<&ProcessUser>) -> io::Result<(Self, [OwnedFd; 3])> {
        let (mut ours, theirs) = StdStream::pair()?;
        // It fits into the socket, whenever it is read.
        ours.write_all(&Order::FOR_GOOD.line())?;
        let terms = terms(command, user)?;
        let mut guard = Command::new("/proc/self/exe");
        guard
            .arg0("agentd")
            .arg(PLUGIN_COMMAND)
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (theirs, terms) = (above(theirs.into())?, above(terms)?);
        prepare(
            &mut guard,
            [(theirs.as_raw_fd(), CONTROL_FD), (terms.as_raw_fd(), TERMS_FD)],
        );
        let mut child = guard.spawn()?;
        let missing = || io::Error::other("a pipe is missing");
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let pipes = [
            OwnedFd::from(child.stdin.take().ok_or_else(missing)?),
            OwnedFd::from(child.stdout.take().ok_or_else(missing)?),
            OwnedFd::from(child.stderr.take().ok_or_else(missing)?),
        ];
        let report = ours.try_clone()?;
        ours.set_nonblocking(true)?;
        let guarded = Self {
            pid,
            orders: ours,
            report,
        };
        Ok((guarded, pipes))
    }

    /// The guard's number. It is this program's child, and leads a session, in which the plugin is, too.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// How the plugin is signalled, and how it ended. When both are dropped the guard ends all.
    ///
    /// # Errors
    /// Outside of an async runtime.
    pub fn split(self) -> io::Result<(impl Fn(Signal) + Send + Sync + use<>, Report)> {
        let orders = self.orders;
        let signal = move |signal| {
            let order = match signal {
                Signal::SIGKILL => Order::Kill,
                _ => Order::Term,
            };
            // A guard that is gone has ended everything.
            let _ = (&orders).write_all(&order.line());
        };
        let report = BufReader::new(UnixStream::from_std(self.report)?);
        Ok((signal, Report(report)))
    }
}

/// See [`Guarded::split`].
#[derive(Debug)]
pub struct Report(BufReader<UnixStream>);

impl Report {
    /// Waits until nothing is left of the plugin. None when the guard went without a word.
    pub async fn end(mut self) -> Option<End> {
        let mut line = Vec::new();
        // The end of the connection, and an error, show in the line.
        let _ = self.0.read_until(b'\n', &mut line).await;
        serde_json::from_slice(&line).ok()
    }
}

fn terms(command: &Command, user: Option<&ProcessUser>) -> io::Result<OwnedFd> {
    let terms = Terms {
        cwd: command.get_current_dir().map(ToOwned::to_owned),
        user: user.cloned(),
    };
    let mut text = serde_json::to_vec(&terms)?;
    for (name, value) in command.get_envs() {
        let Some(value) = value else { continue };
        text.push(0);
        text.extend(name.as_bytes());
        text.push(b'=');
        text.extend(value.as_bytes());
    }
    let mut file = File::from(memfd_create(c"plugin", MemfdFlags::CLOEXEC)?);
    file.write_all(&text)?;
    seek(&file, SeekFrom::Start(0))?;
    Ok(file.into())
}

/// A copy with a number that none of the guard's own descriptors has.
fn above(fd: OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, TERMS_FD + 1)?)
}

#[expect(
    unsafe_code,
    reason = "the standard library has no safe way to hand over descriptors or to begin a session"
)]
fn prepare(command: &mut Command, descriptors: [(RawFd, RawFd); 2]) {
    let prepare = move || {
        // No death signal: the guard outlives the supervisor for as long as it takes to end what is below it.
        setsid()?;
        for (from, to) in descriptors {
            if unsafe { libc::dup2(from, to) } < 0 {
                return Err(Errno::last().into());
            }
        }
        unsafe {
            libc::syscall(
                libc::SYS_close_range,
                TERMS_FD + 1,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            );
        }
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
        SigSet::empty().thread_set_mask()?;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. These are bare system calls on numbers that
    // were made before; nothing is allocated or locked.
    unsafe {
        command.pre_exec(prepare);
    }
}

/// The whole program of a plugin's guard.
#[must_use]
pub fn plugin_main(command: &[OsString]) -> ExitCode {
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // It is kept as the plugin's log.
            let _ = writeln!(io::stderr(), "agentd guard: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &[OsString]) -> io::Result<()> {
    let control = adopt(CONTROL_FD)?;
    let mut text = Vec::new();
    File::from(adopt(TERMS_FD)?)
        .take(TERMS_BYTES_MAX)
        .read_to_end(&mut text)?;
    let mut parts = text.split(|byte| *byte == 0);
    let terms: Terms = serde_json::from_slice(parts.next().unwrap_or_default())?;
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear();
    for variable in parts {
        let at = variable
            .iter()
            .position(|byte| *byte == b'=')
            .unwrap_or(variable.len());
        let (name, value) = variable.split_at(at);
        let value = OsString::from_vec(value.get(1..).unwrap_or_default().to_vec());
        command.env(OsStr::from_bytes(name), value);
    }
    if let Some(cwd) = &terms.cwd {
        command.current_dir(cwd);
    }
    stand_guard(
        StdStream::from(control),
        Child {
            command,
            user: terms.user,
        },
    )
}
