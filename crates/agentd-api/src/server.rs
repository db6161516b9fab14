//! The listener: who gets in, and how it ends.

use crate::ServerError;
use crate::connection::Connection;
use crate::linger;
use crate::options::{LINGERING_MAX, RESERVED_FILES, ServerOptions};
use crate::roles::Roles;
use crate::shared::Shared;
use crate::slots::{Full, Slots};
use crate::socket::{BoundSocket, Claim};
use agentd_protocol::envelope::write_error;
use agentd_protocol::{Reason, RpcError};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{MsgFlags, send};
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// A socket that is bound and not yet served. Clients that connect meanwhile wait in the kernel's queue.
#[derive(Debug)]
pub struct Server {
    listener: std::os::unix::net::UnixListener,
    shared: Arc<Shared>,
    roles: Roles,
    connections_max: usize,
    // Last: the file is removed when everything else is gone.
    socket: BoundSocket,
}

impl Server {
    /// Claims the socket path and binds the socket.
    ///
    /// Raises the process's soft limit of open files as far as the hard one allows when there would
    /// otherwise be too few for the connections asked for.
    ///
    /// # Errors
    /// When another daemon is there, or the path or the roles cannot be used. Nothing is left behind then but
    /// the lock file.
    pub fn bind(options: ServerOptions) -> Result<Self, ServerError> {
        let claim = Claim::take(&options.socket_path)?;
        Self::bind_claimed(claim, options)
    }

    /// As [`Server::bind`] with a claim that was taken earlier. `options.socket_path` is not looked at.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub fn bind_claimed(claim: Claim, options: ServerOptions) -> Result<Self, ServerError> {
        let roles = Roles::resolve(&options.roles)?;
        let connections_max = within_file_limit(options.connections_max);
        let (socket, listener) = BoundSocket::bind(claim, options.socket_mode)?;
        let shared = Arc::new(Shared::new(&options, Slots::new(connections_max)));
        Ok(Self {
            listener,
            shared,
            roles,
            connections_max,
            socket,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn socket_path(&self) -> &Path {
        self.socket.path()
    }

    /// How many connections may be open at once: what was asked for, or fewer when the limit of open files is
    /// lower.
    #[must_use]
    pub fn connections_max(&self) -> usize {
        self.connections_max
    }

    /// Serves until `shutdown` is cancelled, and then ends in this order:
    ///
    /// 1. No connection is accepted, and no request begun; what was received and not begun is refused with
    ///    reason `shutting_down`. Subscriptions end with an error that names their last entry.
    /// 2. Questions that are being answered are answered.
    /// 3. [`agentd_store::Store::close`]: what is queued is done, and waiting acquires get null. (Closing it
    ///    again afterwards, as the owner may, changes nothing.)
    /// 4. Every connection sends the answers that it still has, and closes.
    /// 5. The socket file is removed if it is still ours, and the claim ends.
    ///
    /// What has not come to an end after [`crate::Timeouts::shutdown`] is cut off.
    ///
    /// # Errors
    /// When the listener cannot be used with this runtime. Later trouble with one connection is logged and
    /// ends that connection.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), ServerError> {
        let listener = UnixListener::from_std(self.listener).map_err(ServerError::Listen)?;
        let shared = self.shared;
        let mut door = Door {
            shared: Arc::clone(&shared),
            roles: self.roles,
            connections: JoinSet::new(),
            refused: JoinSet::new(),
            // They hold descriptors, too: with few of these, they must not take those of the connections.
            lingering_max: (self.connections_max / 8).clamp(1, LINGERING_MAX),
            reserve: reserve(),
            starved: false,
        };
        tracing::info!(
            socket = %self.socket.path().display(),
            connections_max = self.connections_max,
            "agentd listens"
        );
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = door.connections.join_next() => report(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => door.admit(stream),
                    Err(error) => {
                        tokio::select! {
                            () = shutdown.cancelled() => break,
                            () = door.trouble(&listener, &error) => {}
                        }
                    }
                },
            }
        }
        drop(listener);
        door.close().await;
        // Only now may another daemon take over.
        drop(self.socket);
        Ok(())
    }
}

/// The accepting side while it is open.
struct Door {
    shared: Arc<Shared>,
    roles: Roles,
    connections: JoinSet<()>,
    /// Newcomers that were told that there is no room.
    refused: JoinSet<()>,
    /// So many of them are listened to a little longer.
    lingering_max: usize,
    /// A descriptor that is given up for a moment, when there are no others, to tell a newcomer so.
    reserve: Option<File>,
    /// It was said in the log that there are no descriptors left.
    starved: bool,
}

impl Door {
    fn admit(&mut self, stream: UnixStream) {
        self.starved = false;
        let peer = match self.roles.of(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!(%error, "a peer without credentials was not let in");
                return;
            }
        };
        match self.shared.slots.take(peer.pid) {
            Ok(slot) => {
                let connection = Connection::new(Arc::clone(&self.shared), stream, peer, slot);
                self.connections.spawn(connection.run());
            }
            Err(full) => {
                tracing::debug!(%peer, ?full, "a connection was refused");
                self.refuse(stream, &too_many_connections(full));
            }
        }
    }

    fn refuse(&mut self, mut stream: UnixStream, error: &RpcError) {
        tell(&stream, error);
        while self.refused.try_join_next().is_some() {}
        if self.refused.len() < self.lingering_max {
            let patience = self.shared.timeouts.linger;
            self.refused
                .spawn(async move { linger::until_quiet(&mut stream, patience).await });
        }
    }

    /// Accepting failed. Returns when it may be tried again.
    async fn trouble(&mut self, listener: &UnixListener, error: &io::Error) {
        let out_of_files = matches!(error.raw_os_error(), Some(code) if [Errno::EMFILE, Errno::ENFILE].contains(&Errno::from_raw(code)));
        if out_of_files && !self.starved {
            self.starved = true;
            tracing::error!(%error, "no file descriptors are left: new connections are refused until some are closed");
        } else if !out_of_files {
            tracing::warn!(%error, "a connection could not be accepted");
        }
        if out_of_files && self.reserve.take().is_some() {
            let accepted = poll_fn(|context| Poll::Ready(listener.poll_accept(context))).await;
            if let Poll::Ready(Ok((stream, _))) = accepted {
                tell(
                    &stream,
                    &RpcError::refused(
                        Reason::Busy,
                        "agentd has no file descriptors left; try again later",
                    ),
                );
            }
        }
        if self.reserve.is_none() {
            self.reserve = reserve();
        }
        // The kernel does not say when there are descriptors again. One of ours that is closed is a good time
        // to try; so is a while later, when the others are somebody else's.
        let pause = tokio::time::sleep(Duration::from_millis(if self.reserve.is_some() {
            5
        } else {
            200
        }));
        tokio::select! {
            Some(ended) = self.connections.join_next() => report(ended),
            () = pause => {}
        }
    }

    async fn close(mut self) {
        let deadline = Instant::now() + self.shared.timeouts.shutdown;
        let shared = Arc::clone(&self.shared);
        shared.begin_to_stop();
        let mut in_time = timeout_at(deadline, shared.queries.wait()).await.is_ok();
        in_time &= timeout_at(deadline, shared.store.close()).await.is_ok();
        let ending = async {
            while let Some(ended) = self.connections.join_next().await {
                report(ended);
            }
        };
        in_time &= timeout_at(deadline, ending).await.is_ok();
        if !in_time {
            tracing::warn!(
                connections = self.connections.len(),
                "not everything was answered in time"
            );
        }
        self.connections.shutdown().await;
        self.refused.shutdown().await;
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection ended by a mistake in agentd; the others go on");
    }
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Sends one line to a newcomer, whose socket has room for it.
fn tell(stream: &UnixStream, error: &RpcError) {
    let mut line = Vec::new();
    write_error(&mut line, None, error);
    // A newcomer that is gone need not be told.
    let _ = send(
        stream.as_raw_fd(),
        &line,
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
    );
}

fn too_many_connections(full: Full) -> RpcError {
    let message = match full {
        Full::Server(max) => {
            format!("agentd has {max} connections open, which is all it takes; try again later")
        }
        Full::Process(max) => format!(
            "this process has {max} connections open, which is all that one process may have; use those, or close some"
        ),
    };
    RpcError::refused(Reason::Busy, message)
}

/// How many of the connections asked for the limit of open files allows.
fn within_file_limit(wanted: usize) -> usize {
    let Ok((mut soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return wanted;
    };
    let needed = (wanted as u64).saturating_add(RESERVED_FILES);
    if soft < needed && soft < hard {
        let raised = needed.min(hard);
        if setrlimit(Resource::RLIMIT_NOFILE, raised, hard).is_ok() {
            soft = raised;
        }
    }
    // With very few, at least half of them are for clients.
    let allowed = soft.saturating_sub(RESERVED_FILES).max(soft / 2).max(1);
    let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
    if allowed < wanted {
        tracing::warn!(
            wanted,
            allowed,
            "the limit of open files (ulimit -n) is too low for as many connections as configured"
        );
    }
    wanted.min(allowed)
}
