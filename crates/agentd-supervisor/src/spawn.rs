//! agentd's side of a supervisor's life: starting one, and finding out whether one is there.

use crate::dir::SessionDir;
use crate::record::What;
use crate::records::{Records, read_records};
use crate::wire;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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

/// Starts a supervisor for the session in `dir`: `program`, an absolute path, with `arguments` and the directory after them, must come to
/// [`crate::supervisor_main`] before it starts a thread. It is nobody's child afterwards, so that nobody has to wait for
/// it, and outlives whoever called. Blocks for about as long as starting a process takes.
///
/// # Errors
/// [`SpawnError`]. No supervisor runs then that was not there before.
pub fn spawn(program: &Path, arguments: &[OsString], dir: &SessionDir) -> Result<(), SpawnError> {
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
    start(program, arguments, dir, &lock, &socket, log).map_err(|source| SpawnError::Start {
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

fn start(
    program: &Path,
    arguments: &[OsString],
    dir: &SessionDir,
    lock: &File,
    socket: &UnixListener,
    log: File,
) -> io::Result<()> {
    // The numbers of the two must be free in the child when they are put there, but not in this process: a pipe of the
    // standard library's, by which the child tells of its failure, would take them.
    let mut placeholders = Vec::new();
    let lock = above(lock, &mut placeholders)?;
    let socket = above(socket, &mut placeholders)?;
    let mut command = Command::new(program);
    command
        .arg0("agentd")
        .args(arguments)
        .arg(std::path::absolute(dir.root())?)
        // It is to hold no directory that somebody may want to unmount.
        .current_dir("/")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let descriptors = [(lock.as_raw_fd(), LOCK_FD), (socket.as_raw_fd(), SOCKET_FD)];
    detach(&mut command, descriptors);
    // This is the one between, which ends at once; the standard library has heard from the other one whether the
    // program could be started.
    command.spawn()?.wait().map(|_| ())
}

/// A copy with a number that is not one of those that a supervisor expects something at.
fn above(fd: &impl std::os::fd::AsFd, placeholders: &mut Vec<OwnedFd>) -> io::Result<OwnedFd> {
    loop {
        let copy = fd.as_fd().try_clone_to_owned()?;
        if copy.as_raw_fd() > SOCKET_FD {
            return Ok(copy);
        }
        placeholders.push(copy);
    }
}

#[expect(
    unsafe_code,
    reason = "the standard library has no safe way to hand over descriptors or to leave nobody's child"
)]
fn detach(command: &mut Command, descriptors: [(RawFd, RawFd); 2]) {
    let prepare = move || {
        for (from, to) in descriptors {
            check(unsafe { libc::dup2(from, to) })?;
        }
        // What this process itself was given by a careless parent is not for the supervisor. Kernels before 5.11 do not
        // know the flag: then it stays.
        unsafe {
            libc::syscall(
                libc::SYS_close_range,
                SOCKET_FD + 1,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            );
        }
        if check(unsafe { libc::fork() })? > 0 {
            unsafe { libc::_exit(0) };
        }
        check(unsafe { libc::setsid() })?;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. These are bare system calls on numbers that
    // were made before (dup2, close_range, fork, _exit, setsid); nothing is allocated or locked. The descriptors written
    // over are free here, or placeholders.
    unsafe {
        command.pre_exec(prepare);
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
