//! Why the server could not start.

use std::io;
use std::path::PathBuf;

/// The socket could not be opened, or the configuration of roles names nobody.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Another daemon holds the socket's lock.
    #[error(
        "agentd is already running: {} holds {}; stop it first, or give this one a socket of its own",
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")),
        socket_path.display()
    )]
    AlreadyRunning {
        /// The socket.
        socket_path: PathBuf,
        /// The process that the lock file names.
        pid: Option<i32>,
    },
    /// Some daemon answers there that does not hold our lock.
    #[error(
        "{} is in use: {} listens on it; stop it first, or give this one a socket of its own",
        socket_path.display(),
        pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The socket.
        socket_path: PathBuf,
        /// The process that listens.
        pid: Option<i32>,
    },
    /// There is something else where the socket should be.
    #[error("{} exists and is not a socket; it is left alone. Remove it, or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The kernel has no room for such a path.
    #[error("the socket path {} has {bytes} bytes; Linux allows 107. Choose a shorter one", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// A file could not be used.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// The role policy names somebody who does not exist.
    #[error("the list of {list} names {entry:?}, but this machine has no such {kind}")]
    NoSuchPrincipal {
        /// `operators` or `workers`.
        list: &'static str,
        /// What it says.
        entry: String,
        /// `user` or `group`.
        kind: &'static str,
    },
    /// The server was started outside of an asynchronous runtime, or the kernel refused the listener.
    #[error("cannot listen: {0}")]
    Listen(#[source] io::Error),
}
