//! The socket file: taken by one daemon at a time, and left as it was found.

use crate::ServerError;
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::stat::{Mode, fchmod};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// The right to listen on a socket path, held until dropped.
///
/// It is a lock on the file `<socket>.lock`, which ends with the process however that ends. Taking it before
/// anything else is opened keeps a second daemon from touching the first one's files.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    _lock: File,
}

impl Claim {
    /// Takes the socket path for this process.
    ///
    /// # Errors
    /// [`ServerError::AlreadyRunning`] names the process that has it.
    pub fn take(socket_path: &Path) -> Result<Self, ServerError> {
        let mut lock_path = socket_path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let failed = |doing| {
            let path = lock_path.clone();
            move |source| ServerError::File { doing, path, source }
        };
        // The file stays when the daemon ends: removing it would let two daemons lock two files of one name.
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&lock_path)
            .map_err(failed("open the lock file"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Without a readable number the error names no process; that it is locked is certain.
                let _ = (&mut lock).take(32).read_to_string(&mut text);
                let pid = text.trim().parse().ok();
                if !pid.is_some_and(is_gone) {
                    return Err(ServerError::AlreadyRunning {
                        socket_path: socket_path.to_owned(),
                        pid,
                    });
                }
                // What it has forked and what has not become another program yet: a moment.
                lock.lock().map_err(failed("lock"))?;
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(failed("write the process id to"))?;
        Ok(Self {
            path: socket_path.to_owned(),
            _lock: lock,
        })
    }

    /// The path that is claimed.
    #[must_use]
    pub fn socket_path(&self) -> &Path {
        &self.path
    }
}

/// A socket file of ours, removed when dropped.
#[derive(Debug)]
pub(crate) struct BoundSocket {
    claim: Claim,
    // Which file it was: whatever has since taken its place is not ours to remove.
    identity: (u64, u64),
}

impl BoundSocket {
    pub(crate) fn bind(claim: Claim, mode: u32) -> Result<(Self, UnixListener), ServerError> {
        let path = claim.path.clone();
        let failed = |doing| {
            let path = path.clone();
            move |source: io::Error| ServerError::File { doing, path, source }
        };
        let address = UnixAddr::new(&path).map_err(|error| match error {
            Errno::ENAMETOOLONG => ServerError::PathTooLong {
                path: path.clone(),
                bytes: path.as_os_str().len(),
            },
            other => failed("use the socket path")(other.into()),
        })?;
        clear(&path, &address)?;

        let fd = stream_socket().map_err(|error| failed("make a socket for")(error.into()))?;
        // On Linux a socket file begins with the mode of the socket, less the umask: set before the file is
        // there, it is never wider than it should be.
        let narrow = Mode::from_bits_truncate(mode);
        fchmod(&fd, narrow).map_err(|error| failed("set the mode of")(error.into()))?;
        socket::bind(fd.as_raw_fd(), &address).map_err(|error| failed("bind the socket")(error.into()))?;
        let metadata = fs::symlink_metadata(&path).map_err(failed("look at"))?;
        let bound = Self {
            claim,
            identity: (metadata.dev(), metadata.ino()),
        };
        // The umask may have taken away what was asked for.
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of"))?;
        socket::listen(&fd, Backlog::MAXCONN).map_err(|error| failed("listen on")(error.into()))?;
        Ok((bound, UnixListener::from(fd)))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.claim.path
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        let path = self.path();
        let ours = fs::symlink_metadata(path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "the socket file could not be removed");
        }
    }
}

fn stream_socket() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

/// Makes room at `path`: removes a socket on which nobody listens, and refuses everything else.
fn clear(path: &Path, address: &UnixAddr) -> Result<(), ServerError> {
    let failed = |doing| {
        move |source| ServerError::File {
            doing,
            path: path.to_owned(),
            source,
        }
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ServerError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    let probe = stream_socket().map_err(|error| failed("make a socket for")(error.into()))?;
    match socket::connect(probe.as_raw_fd(), address) {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path).map_err(failed("remove the stale socket")),
        Err(Errno::ENOENT) => Ok(()),
        // EAGAIN: its queue of connections is full, so there is somebody to empty it.
        Ok(()) | Err(Errno::EAGAIN | Errno::EINPROGRESS) => {
            let credentials = socket::getsockopt(&probe, sockopt::PeerCredentials).ok();
            let pid = credentials
                .map(|credentials| credentials.pid())
                .filter(|pid| *pid > 0);
            Err(ServerError::InUse {
                socket_path: path.to_owned(),
                pid,
            })
        }
        // A socket of another kind, or one that we may not use, is somebody else's.
        Err(other) => Err(failed("use the socket that is already at")(other.into())),
    }
}

/// True when there certainly is no such process.
fn is_gone(pid: i32) -> bool {
    let answer = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None);
    pid > 0 && answer == Err(nix::errno::Errno::ESRCH)
}
