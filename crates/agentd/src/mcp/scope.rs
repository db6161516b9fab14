//! In whose name the tools act, and on what.

use super::answer::Refusal;
use super::catalog::Reach;
use super::daemon::{Again, Daemon};
use agentd_protocol::limits::NAME_BYTES_MAX;
use agentd_protocol::requests::{GetNode, SessionRef};
use agentd_protocol::results::GetNodeResult;
use agentd_protocol::{LeaseId, Method, NodeId, SessionId, SessionInfo, TaskId};

/// A client's name as a part of an owner's, in bytes.
const CLIENT_BYTES_MAX: usize = 48;

/// Who acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    /// The owner of every lease that is acquired.
    pub(crate) owner: String,
    /// Set for an agent in a session: it acts on its own leases only, and has no say over other tasks.
    pub(crate) session: Option<SessionScope>,
}

/// The session of the agent that acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionScope {
    pub(crate) session_id: SessionId,
    /// The node that it works on, if it was begun by one.
    pub(crate) node: Option<SessionNode>,
}

/// The lease that a session was begun with. Whoever runs the session extends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionNode {
    pub(crate) task_id: TaskId,
    pub(crate) node_id: NodeId,
    pub(crate) lease_id: LeaseId,
}

impl std::str::FromStr for SessionNode {
    type Err = String;

    /// `TASK/NODE/LEASE`
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, '/');
        let mut next = || parts.next().ok_or("write it as TASK/NODE/LEASE");
        let bad = |error: agentd_protocol::InvalidId| error.to_string();
        Ok(Self {
            task_id: next()?.parse().map_err(bad)?,
            node_id: next()?.parse().map_err(bad)?,
            lease_id: next()?.parse().map_err(bad)?,
        })
    }
}

/// What is known of it at the beginning.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    /// Any program that speaks the protocol. Without an owner: named after the client and this process.
    Client { owner: Option<String> },
    /// An agent in a session. What is not known is asked of the daemon.
    Session {
        session_id: SessionId,
        owner: Option<String>,
        node: Option<SessionNode>,
    },
}

impl Identity {
    pub(super) fn reach(&self) -> Reach {
        match self {
            Self::Client { .. } => Reach::Everything,
            Self::Session { .. } => Reach::Session,
        }
    }

    /// The whole of it.
    ///
    /// # Errors
    /// When the daemon must be asked and does not answer, or the session is over.
    pub(super) async fn scope(&self, daemon: &Daemon, client: Option<&str>) -> Result<Scope, Refusal> {
        match self {
            Self::Client { owner } => Ok(Scope {
                owner: owner.clone().unwrap_or_else(|| owner_of(client)),
                session: None,
            }),
            Self::Session {
                session_id,
                owner: Some(owner),
                node: Some(node),
            } => Ok(Scope {
                owner: owner.clone(),
                session: Some(SessionScope {
                    session_id: *session_id,
                    node: Some(*node),
                }),
            }),
            Self::Session {
                session_id,
                owner,
                node,
            } => ask(daemon, *session_id, owner.as_ref(), *node).await,
        }
    }
}

async fn ask(
    daemon: &Daemon,
    session_id: SessionId,
    owner: Option<&String>,
    given: Option<SessionNode>,
) -> Result<Scope, Refusal> {
    let session: SessionInfo = daemon
        .ask(Method::GetSession, &SessionRef { session_id }, Again::Yes)
        .await?;
    if session.outcome.is_some() {
        return Err(Refusal::new(
            "wrong_state",
            format!("session {session_id} is over"),
            "start `agentd mcp` in the session that you are in, or without AGENTD_SESSION_ID",
        ));
    }
    let mut node = given;
    if let (None, Some(task_id), Some(node_id)) = (given, session.task_id, session.node_id) {
        let found: GetNodeResult = daemon
            .ask(Method::GetNode, &GetNode { task_id, node_id }, Again::Yes)
            .await?;
        // Leased to somebody else: the session has lost it, and is about to be told.
        let is_its = found.node.lease_owner.as_ref() == Some(&session.agent);
        node = found
            .node
            .lease_id
            .filter(|_| is_its)
            .map(|lease_id| SessionNode {
                task_id,
                node_id,
                lease_id,
            });
    }
    Ok(Scope {
        owner: owner.unwrap_or(&session.agent).clone(),
        session: Some(SessionScope { session_id, node }),
    })
}

fn owner_of(client: Option<&str>) -> String {
    let mut name: String = client
        .unwrap_or_default()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' || c == '_' {
                c
            } else {
                '-'
            }
        })
        .take(CLIENT_BYTES_MAX)
        .collect();
    if name.is_empty() {
        name.push_str("client");
    }
    format!("mcp-{name}-{}", std::process::id())
}

/// Checks a name that somebody chose.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn owner(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX || text.contains(char::is_control) {
        return Err(format!(
            "an owner's name has 1 to {NAME_BYTES_MAX} bytes, without control characters"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_named_after_its_client() {
        let pid = std::process::id();
        assert_eq!(owner_of(Some("claude-code")), format!("mcp-claude-code-{pid}"));
        assert_eq!(owner_of(Some("a b\n/ü")), format!("mcp-a-b----{pid}"));
        assert_eq!(owner_of(None), format!("mcp-client-{pid}"));
        assert!(owner_of(Some(&"x".repeat(1000))).len() < 100);
    }

    #[test]
    fn a_lease_is_written_as_three_ids() {
        let id = "00000000-0000-4000-8000-000000000001";
        let node: SessionNode = format!("{id}/{id}/{id}").parse().unwrap();
        assert_eq!(node.lease_id.to_string(), id);
        assert!(format!("{id}/{id}").parse::<SessionNode>().is_err());
        assert!("a/b/c".parse::<SessionNode>().is_err());
    }
}
