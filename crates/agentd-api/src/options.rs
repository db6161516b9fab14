//! How the server behaves.

use crate::{RolePolicy, Sessions};
use agentd_store::Store;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What [`crate::Server::bind`] needs to know.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Where to listen. Its directory must exist.
    pub socket_path: PathBuf,
    /// What answers the requests.
    pub store: Arc<dyn Store>,
    /// What runs sessions; without it every request about them is refused.
    pub sessions: Option<Arc<dyn Sessions>>,
    /// Cancelled when somebody asks this server to make way for another; without it that is refused.
    pub step_aside: Option<CancellationToken>,
    /// Who may do what.
    pub roles: RolePolicy,
    /// How long a lease lasts that names no length of its own, in seconds: shown by `Health` and `Metrics`.
    pub running_timeout_secs: u64,
    /// How many events a node's context shows at most: shown by `Health` and `Metrics`.
    pub context_event_limit: u32,
    /// Connections open at once. The limit of open files may lower it further. One process may have three
    /// quarters of them, so that it cannot keep everybody else out.
    pub connections_max: usize,
    /// The socket file's mode: who may connect at all.
    pub socket_mode: u32,
    /// How long to wait for peers.
    pub timeouts: Timeouts,
}

impl ServerOptions {
    /// The defaults: no sessions, 4096 connections, mode 0660, and nobody but the daemon's own user and root may do more
    /// than read.
    #[must_use]
    pub fn new(socket_path: impl Into<PathBuf>, store: Arc<dyn Store>) -> Self {
        Self {
            socket_path: socket_path.into(),
            store,
            sessions: None,
            step_aside: None,
            roles: RolePolicy::default(),
            running_timeout_secs: 300,
            context_event_limit: 50,
            connections_max: 4096,
            socket_mode: 0o660,
            timeouts: Timeouts::default(),
        }
    }
}

/// How long to wait for peers that do not do their part.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// A client that takes nothing of its answers for so long is disconnected.
    pub write_stall: Duration,
    /// A subscriber that takes nothing for so long is told that it is too slow.
    pub slow_reader: Duration,
    /// How long the slow subscriber then has to begin to read, so that it can be told.
    pub slow_reader_grace: Duration,
    /// How long an HTTP client may take for its request's head, and between two requests.
    pub http_head: Duration,
    /// How long to go on reading, and throwing away, what a client sends after the connection was given up.
    pub linger: Duration,
    /// How long shutting down may take. What is not answered by then is cut off.
    pub shutdown: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            write_stall: Duration::from_secs(30),
            slow_reader: Duration::from_secs(10),
            slow_reader_grace: Duration::from_secs(10),
            http_head: Duration::from_secs(10),
            linger: Duration::from_secs(2),
            shutdown: Duration::from_secs(10),
        }
    }
}

/// Answers of one connection that may wait to be read before no more of its requests are taken, in bytes: a
/// few dozen answers with their context, so that a commit's worth of them goes out in one write.
pub(crate) const OUTBOX_BYTES_SOFT_MAX: usize = 256 * 1024;
/// Requests of one connection that are in the store at once. As many as one commit of a pipelining client is
/// worth having; all of their answers may be in memory together.
pub(crate) const IN_FLIGHT_MAX: usize = 128;
/// An answer larger than this counts against the budget of large answers, in bytes.
pub(crate) const LARGE_ANSWER_BYTES: usize = 1024 * 1024;
/// Large answers of all connections that wait to be read, in bytes. One process may have half of it.
pub(crate) const LARGE_ANSWERS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// A line counts against the budget of long lines when there is more of it than this, and its end has not come.
pub(crate) const LONG_LINE_BYTES: usize = 64 * 1024;
/// Long lines of all connections that have not come to their end, in bytes. One process may have half of it.
pub(crate) const LONG_LINES_BYTES_MAX: usize = 256 * 1024 * 1024;
/// What is read and thrown away of a connection that was given up, in bytes.
pub(crate) const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Refused newcomers that are told so and listened to a little longer, at once.
pub(crate) const LINGERING_MAX: usize = 32;
/// File descriptors kept back for the database, child processes and whatever else the daemon does.
pub(crate) const RESERVED_FILES: u64 = 128;
/// Journal entries that a subscription reads from the store at once.
pub(crate) const SUBSCRIPTION_PAGE: u32 = 256;
