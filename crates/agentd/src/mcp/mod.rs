//! `agentd mcp`: coordination as tools, for any program that speaks the Model Context Protocol over stdio.
//!
//! ```text
//!   client ── stdio ──▶ Stdio ──▶ the SDK ──▶ Server ──▶ Daemon ──▶ the socket
//!                                               │           ▲
//!                                             Held ◀── keeper (heartbeats, giving back)
//! ```
//!
//! A model cannot send heartbeats while it thinks, and forgets lease ids: so the leases that are acquired here are kept
//! here. They are extended for as long as the client's connection lives and its agent calls a tool now and then; when
//! the client goes away they are given back; and one that is lost is told at the next call.
//!
//! *Invariant:* no lease is held that the agent cannot know of. A grant that meets a cancellation, or the end of the
//! client, goes back.

mod answer;
mod catalog;
mod daemon;
mod held;
mod keeper;
mod locks;
mod nodes;
mod scope;
mod server;
mod shape;
mod stdio;
mod tasks;
mod waits;

pub(crate) use scope::{Identity, SessionNode, owner};

use crate::failure::Failure;
use agentd_client::{Client, ClientError};
use agentd_protocol::requests::SessionRef;
use agentd_protocol::{Method, Reason, SessionInfo};
use answer::Refusal;
use catalog::Reach;
use daemon::Daemon;
use held::{Held, Lease};
use rmcp::service::ServerInitializeError;
use scope::Scope;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long the last answers may take when the client has gone: the SDK has bounds of its own, which are shorter.
const LAST_ANSWERS_MAX: Duration = Duration::from_secs(10);
/// How long a client waits for its server while the daemon is asked about a session.
const ASKED_AT_START_MAX: Duration = Duration::from_secs(2);

/// What is served, and to whom.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The daemon's socket.
    pub(crate) socket: PathBuf,
    /// Who acts.
    pub(crate) identity: Identity,
    /// For how long leases are extended after the agent's last call.
    pub(crate) silence_max: Duration,
}

/// Everything that the tools share.
#[derive(Debug)]
struct Shared {
    options: Options,
    daemon: Daemon,
    held: Held,
    scope: OnceCell<Scope>,
    // The client has gone.
    gone: CancellationToken,
}

impl Shared {
    fn reach(&self) -> Reach {
        self.options.identity.reach()
    }

    // Only successes are remembered: a daemon that is not there may be there later.
    async fn scope(&self, client: Option<&str>) -> Result<&Scope, Refusal> {
        self.scope
            .get_or_try_init(async || {
                let scope = self.options.identity.scope(&self.daemon, client).await?;
                if let Some(own) = scope.session.and_then(|session| session.node) {
                    self.held
                        .add(Lease::own_node(own.task_id, own.node_id, own.lease_id));
                }
                Ok(scope)
            })
            .await
    }
}

/// Refuses a session that the daemon does not know. A daemon that does not answer now is asked when tools are called.
///
/// # Errors
/// For the user: which session, and what to do.
pub(crate) async fn refuse_unknown_session(options: &Options) -> Result<(), Failure> {
    // Whoever knows the lease was told by the session itself.
    let Identity::Session {
        session_id,
        node: None,
        ..
    } = options.identity
    else {
        return Ok(());
    };
    let asked = async {
        let mut client = Client::connect(&options.socket).await?;
        let session = SessionRef { session_id };
        client.call::<_, SessionInfo>(Method::GetSession, &session).await
    };
    match timeout(ASKED_AT_START_MAX, asked).await {
        Ok(Err(ClientError::Rpc(error))) if error.reason() == Some(Reason::SessionNotFound) => {
            let socket = options.socket.display();
            Err(
                Failure::usage(format!("the daemon at {socket} knows no session {session_id}")).hint(
                    "`agentd sessions` lists those that it knows; without --session and AGENTD_SESSION_ID you act as \
                     any other client",
                ),
            )
        }
        _ => Ok(()),
    }
}

/// Serves one client until it closes its end, or `stop` is cancelled. What it holds is given back then.
///
/// # Errors
/// When the client does not begin a session, and does not go away either.
pub(crate) async fn serve<R, W>(
    options: Options,
    input: R,
    output: W,
    stop: CancellationToken,
) -> Result<(), Failure>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let gone = stop.child_token();
    let shared = Arc::new(Shared {
        daemon: Daemon::new(options.socket.clone()),
        options,
        held: Held::new(),
        scope: OnceCell::new(),
        gone: gone.clone(),
    });
    let transport = stdio::Stdio::new(input, output, gone.clone());
    let server = server::Server::new(Arc::clone(&shared));
    let mut serving = tokio::spawn(async move {
        let running = rmcp::serve_server(server, transport).await?;
        // Ends when the client closes its end, after the answers to what it asked.
        let _ = running.waiting().await;
        Ok::<_, ServerInitializeError>(())
    });
    let ended = tokio::select! {
        ended = &mut serving => Some(ended),
        () = gone.cancelled() => None,
        // Never ends.
        () = keeper::keep(&shared.daemon, &shared.held, shared.options.silence_max) => None,
    };
    let was_gone = gone.is_cancelled();
    gone.cancel();
    if ended.is_none() {
        // Waits end at once, and what does something is let finish: so it is known what is held.
        let _ = timeout(LAST_ANSWERS_MAX, serving).await;
    }
    let owner = shared
        .scope
        .get()
        .map_or("a client", |scope| scope.owner.as_str());
    keeper::give_back(&shared.daemon, shared.held.close(), owner).await;
    match ended {
        Some(Ok(Err(error))) if !was_gone => Err(Failure::bad_input(format!(
            "the client did not begin a session: {error}"
        ))),
        Some(Err(error)) => Err(Failure::internal(format!("serving ended: {error}"))),
        _ => Ok(()),
    }
}
