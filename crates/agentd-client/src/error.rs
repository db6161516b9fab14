//! Why a call came to nothing.

use agentd_protocol::RpcError;
use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong between this program and the daemon.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No connection could be made.
    #[error("{}", connect_message(path, source))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to agentd broke: {0}; what was asked may have been done all the same")]
    Io(#[source] io::Error),
    /// The daemon closed the connection without an answer.
    #[error("agentd closed the connection without an answer; what was asked may have been done all the same")]
    Closed,
    /// The daemon's answer is an error.
    #[error("{0}")]
    Rpc(#[source] RpcError),
    /// One of the two sides does not keep to the protocol.
    #[error("{0}")]
    Protocol(String),
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn connect_message(path: &Path, source: &io::Error) -> String {
    let path = path.display();
    match source.kind() {
        io::ErrorKind::NotFound => {
            format!("agentd is not running: there is no socket at {path}; start it with `agentd`")
        }
        io::ErrorKind::ConnectionRefused => format!(
            "agentd is not running: nobody listens on the socket at {path}; start it with `agentd`, which \
             replaces the socket"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "this user may not connect to agentd at {path}: the socket is for its owner and its group; ask the \
             owner to put you in the group"
        ),
        io::ErrorKind::WouldBlock => format!(
            "agentd at {path} takes no new connections: its queue of them stayed full. It is overloaded or \
             stopped; try again, and restart it if that does not help"
        ),
        _ => format!("cannot connect to agentd at {path}: {source}"),
    }
}
