//! agentd's side of a supervisor's life: starting one, and finding out whether one is there.

use crate::dir::SessionDir;
use crate::events;
use crate::record::What;
use crate::records::{Records, read_records};
use crate::wire;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// The descriptor on which a supervisor gets the locked lock.
pub(crate) const LOCK_FD: RawFd = 3;
/// The descriptor on which a supervisor gets the listening socket.
pub(crate) const SOCKET_FD: RawFd = 4;

/// Why no supervisor was started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The session has one.
    #[error("the session has a supervisor already")]
    Running,
    /// Files of the session's directory could not be made.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The program could not be started.
    #[error("cannot start the session's supervisor {}: {source}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Whether a session has a supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SupervisorState {
    /// It has: its lock is held. It can be connected to.
    Alive,
    /// It has none, and will have none: what is recorded is all.
    Gone(Records),
}

/// Looks whether the session in `dir` has a supervisor.
///
/// # Errors
/// When that cannot be found out.
pub fn state(dir: &SessionDir) -> io::Result<SupervisorState> {
    match OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(dir.lock())
    {
        // Shared, so that two who look do not see each other.
        Ok(lock) => match lock.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(SupervisorState::Alive),
            Err(TryLockError::Error(error)) => return Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // After the lock: whoever wrote is gone.
    Ok(SupervisorState::Gone(read_records(dir)?))
}

/// Asks the supervisor of the session in `dir` for the agent's end by a signal, which those of every version understand.
/// The grace is then the one of its orders. False when none is there.
///
/// # Errors
/// When it cannot be found out who it is, or the signal cannot be sent.
pub fn terminate(dir: &SessionDir) -> io::Result<bool> {
    let records = read_records(dir)?;
    let told = records.records.iter().find_map(|record| match record.what {
        What::Intent { pid, .. } => Pid::from_raw(pid),
        _ => None,
    });
    let Some(pid) = told else { return Ok(false) };
    // In this order: what is read after the handle was taken is of the process that the handle is for.
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(false),
        handle => handle?,
    };
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()))?;
    let root = std::path::absolute(dir.root())?;
    if !line
        .split(|&byte| byte == 0)
        .any(|word| word == root.as_os_str().as_bytes())
    {
        return Ok(false);
    }
    pidfd_send_signal(&handle, Signal::TERM)?;
    Ok(true)
}

/// A supervisor that was started. It outlives whoever started it; as long as that one lives, it is to be waited for, or
/// what the kernel remembers of it stays.
#[derive(Debug)]
#[must_use]
pub struct Spawned(OwnedFd);

impl Spawned {
    /// Returns when it has ended. To be called where tokio's IO driver runs.
    pub async fn reaped(self) {
        let Ok(handle) = events::register(self.0) else {
            return;
        };
        if handle.readable().await.is_ok() {
            // Nothing of how it ended is of interest that is not in its records.
            let _ = waitid(WaitId::PidFd(handle.get_ref().as_fd()), WaitIdOptions::EXITED);
        }
    }
}

/// Starts a supervisor for the session in `dir`: `program`, an absolute path, with `arguments` and the directory after them, must come to
/// [`crate::supervisor_main`] before it starts a thread. Blocks for about as long as starting a process takes.
///
/// # Errors
/// [`SpawnError`]. No supervisor runs then that was not there before.
pub fn spawn(program: &Path, arguments: &[OsString], dir: &SessionDir) -> Result<Spawned, SpawnError> {
    let io = |doing, path: PathBuf| move |source| SpawnError::Io { doing, path, source };
    let lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(dir.lock())
        .map_err(io("open", dir.lock()))?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => SpawnError::Running,
        TryLockError::Error(source) => io("lock", dir.lock())(source),
    })?;
    let socket = listen(dir).map_err(io("listen on", dir.socket()))?;
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(dir.supervisor_log())
        .map_err(io("open", dir.supervisor_log()))?;
    start(program, arguments, dir, &lock, &socket, &log).map_err(|source| SpawnError::Start {
        program: program.to_owned(),
        source,
    })
}

fn listen(dir: &SessionDir) -> io::Result<UnixListener> {
    let parent = File::open(dir.root())?;
    match fs::remove_file(dir.socket()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // Nobody listens on an old one: the lock was free.
        _ => {}
    }
    let socket = UnixListener::bind(wire::short_path(&parent))?;
    fs::set_permissions(dir.socket(), fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

// By posix_spawn, which leaves this process's memory alone: a fork would copy the tables of all of it, and have the kernel
// copy each page that is then written to.
fn start(
    program: &Path,
    arguments: &[OsString],
    dir: &SessionDir,
    lock: &File,
    socket: &UnixListener,
    log: &File,
) -> io::Result<Spawned> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    // None of them may have a number that another one gets in the child.
    let mut placeholders = Vec::new();
    let mut actions = PosixSpawnFileActions::init()?;
    let mut handed_over = Vec::new();
    for (fd, number) in [
        (null.as_fd(), 0),
        (null.as_fd(), 1),
        (log.as_fd(), 2),
        (lock.as_fd(), LOCK_FD),
        (socket.as_fd(), SOCKET_FD),
    ] {
        let copy = above(fd, &mut placeholders)?;
        actions.add_dup2(copy.as_raw_fd(), number)?;
        handed_over.push(copy);
    }
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
            | PosixSpawnFlags::from_bits_retain(libc::POSIX_SPAWN_SETSID.into()),
    )?;
    attributes.set_sigmask(&SigSet::empty())?;
    // Rust programs ignore it, and that is inherited.
    attributes.set_sigdefault(&SigSet::from(nix::sys::signal::Signal::SIGPIPE))?;
    let root = std::path::absolute(dir.root())?.into_os_string();
    let argv: Vec<CString> = [OsStr::new("agentd")]
        .into_iter()
        .chain(arguments.iter().map(OsString::as_os_str))
        .chain([root.as_os_str()])
        .map(|word| CString::new(word.as_bytes()))
        .collect::<Result<_, _>>()?;
    let pid = posix_spawn::<_, _, CString>(program, &actions, &attributes, &argv, &[])?;
    let pid = Pid::from_raw(pid.as_raw()).ok_or(Errno::SRCH)?;
    // Nobody else waits for it, so that it is the same process.
    Ok(Spawned(pidfd_open(pid, PidfdFlags::empty())?))
}

/// A copy with a number that is not one of those that a supervisor expects something at.
fn above(fd: BorrowedFd<'_>, placeholders: &mut Vec<OwnedFd>) -> io::Result<OwnedFd> {
    loop {
        let copy = fd.try_clone_to_owned()?;
        if copy.as_raw_fd() > SOCKET_FD {
            return Ok(copy);
        }
        placeholders.push(copy);
    }
}
