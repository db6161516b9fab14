//! `agentd mcp`: the tools for programs that speak the Model Context Protocol.

use super::{Context, values};
use crate::failure::{Exit, Failure};
use crate::mcp::{self, Identity, Options, SessionNode};
use agentd_protocol::SessionId;
use clap::Args;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Serve tasks, nodes and locks as tools over MCP, on stdin and stdout
///
/// For agents: any MCP client starts it and can then take work, lock files and register tasks, without knowing the
/// socket's protocol. It talks to the daemon that runs, and waits out its restarts.
#[derive(Debug, Args)]
#[command(after_long_help = "\
What an agent acquires is kept for it: heartbeats are sent as long as the client runs and its agent calls a tool at
least once within --silence. When the client closes stdin, locks and nodes are given back.

Inside a session (AGENTD_SESSION_ID is set) it acts for the session's agent: node_complete and node_fail mean the
session's own node, and other tasks cannot be controlled.

Examples:
  claude mcp add agentd -- agentd mcp
  codex mcp add agentd -- agentd mcp
  agentd mcp --owner reviewer-1 --silence 4h")]
pub(crate) struct McpArgs {
    /// The owner of every lease [default: AGENT_NAME in a session, otherwise mcp-CLIENT-PID]
    #[arg(long, value_name = "NAME", value_parser = mcp::owner)]
    owner: Option<String>,
    /// Act for the agent of this session [default: AGENTD_SESSION_ID]
    #[arg(long, value_name = "SESSION")]
    session: Option<SessionId>,
    /// The lease that the session was begun with, for those who know it [default: the daemon is asked]
    #[arg(long, value_name = "TASK/NODE/LEASE", requires = "session", hide = true)]
    lease: Option<SessionNode>,
    /// Send heartbeats for so long after the agent's last call of a tool
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = values::duration)]
    silence: Duration,
}

impl McpArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let options = Options {
            socket: context.settings.socket.clone(),
            identity: self.identity(context)?,
            silence_max: self.silence,
        };
        let stop = CancellationToken::new();
        tokio::spawn(until_signalled(stop.clone())?);
        mcp::refuse_unknown_session(&options).await?;
        mcp::serve(options, tokio::io::stdin(), tokio::io::stdout(), stop).await?;
        Ok(Exit::Ok)
    }

    fn identity(&self, context: &Context) -> Result<Identity, Failure> {
        let variable = |name: &str| {
            let value = context.environment.get(name)?;
            Some(value.to_string_lossy().into_owned())
        };
        let session_id = match (self.session, variable("AGENTD_SESSION_ID")) {
            (Some(session), _) => Some(session),
            (None, Some(text)) => Some(text.parse().map_err(|error| {
                Failure::config(format!("AGENTD_SESSION_ID is {text:?}: {error}"))
                    .hint("take it away to act as any other client")
            })?),
            (None, None) => None,
        };
        let Some(session_id) = session_id else {
            return Ok(Identity::Client {
                owner: self.owner.clone(),
            });
        };
        let named = match variable("AGENT_NAME").map(|name| mcp::owner(&name)) {
            Some(Ok(name)) => Some(name),
            Some(Err(why)) => return Err(Failure::config(format!("AGENT_NAME: {why}"))),
            None => None,
        };
        Ok(Identity::Session {
            session_id,
            owner: self.owner.clone().or(named),
            node: self.lease,
        })
    }
}

// The signals by which clients and terminals end a server: what is held goes back first.
fn until_signalled(stop: CancellationToken) -> Result<impl Future<Output = ()>, Failure> {
    let listen =
        |kind| signal(kind).map_err(|error| Failure::internal(format!("cannot listen for signals: {error}")));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hang_up.recv() => {}
        }
        stop.cancel();
    })
}
