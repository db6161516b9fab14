//! What the server needs from whoever runs sessions.
//!
//! The server knows sessions by these questions alone: not what a runtime is, nor where a transcript lies.

use agentd_protocol::error::code;
use agentd_protocol::requests::{
    ListSessions, PruneWorktrees, ReadTranscript, RunAgent, SessionRef, StopSession,
};
use agentd_protocol::results::{
    AgentList, Ok as Done, PrunedWorktrees, QueuedSession, Reloaded, RemovedSession, SessionList,
    TranscriptPage, WorktreeList,
};
use agentd_protocol::{Reason, RpcError, SessionId, SessionInfo};
use agentd_store::{BoxFuture, StoreError};
use serde::Serialize;
use std::fmt;

/// Runs sessions of agents.
///
/// The parameters have been held to their bounds, and the caller's role was checked. A future that is dropped may
/// have done what it was asked for, or not; only that of [`Sessions::transcript`] is dropped before its end as a
/// matter of course: when its client goes away, or the server stops. All others are waited for when the server stops,
/// as long as stopping may take, and none is begun from then on.
pub trait Sessions: fmt::Debug + Send + Sync + 'static {
    /// Queues a session. Answers when its row is on disk, and not before: from then on it will run, whatever is killed.
    fn run(&self, params: RunAgent) -> BoxFuture<'_, SessionsResult<QueuedSession>>;

    /// The agents that are declared.
    fn agents(&self) -> BoxFuture<'_, SessionsResult<AgentList>>;

    /// Sessions, newest first.
    fn list(&self, params: ListSessions) -> BoxFuture<'_, SessionsResult<SessionList>>;

    /// One session.
    fn get(&self, params: SessionRef) -> BoxFuture<'_, SessionsResult<SessionInfo>>;

    /// Asks for a session's end. Answers when that wish is on disk; the end comes later. Of a session that is over
    /// already nothing is asked, and that is no error.
    fn stop(&self, params: StopSession) -> BoxFuture<'_, SessionsResult<Done>>;

    /// Removes a session that is over, with all that was kept of it but for work in its worktree that is nowhere else.
    fn remove(&self, params: SessionRef) -> BoxFuture<'_, SessionsResult<RemovedSession>>;

    /// The worktrees of sessions.
    fn worktrees(&self) -> BoxFuture<'_, SessionsResult<WorktreeList>>;

    /// Removes worktrees whose work is elsewhere as well, or, when it is forced, is then kept under a name.
    fn prune_worktrees(&self, params: PruneWorktrees) -> BoxFuture<'_, SessionsResult<PrunedWorktrees>>;

    /// A page of a session's transcript; waits for output as long as it was asked to, and no longer than until the
    /// session is over. As JSON a page has at most [`agentd_protocol::limits::ANSWER_BYTES_MAX`] bytes: output may take
    /// six times its own length there.
    fn transcript(&self, params: ReadTranscript) -> BoxFuture<'_, SessionsResult<TranscriptPage>>;

    /// Reads the configuration again. One that cannot be used changes nothing.
    fn reload(&self) -> BoxFuture<'_, SessionsResult<Reloaded>>;
}

/// What was asked for, or why not.
pub type SessionsResult<T> = Result<T, SessionsError>;

/// Why something that was asked about sessions came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionsError {
    /// No agent of that name is declared.
    #[error("no agent {name:?} is declared{hint}")]
    AgentNotFound {
        /// The name.
        name: String,
        /// What to do, after a semicolon.
        hint: String,
    },
    /// No such session, or it was removed.
    #[error("there is no session {0}")]
    SessionNotFound(SessionId),
    /// The runtime does not declare what was asked of it.
    #[error("the runtime {runtime:?} of agent {agent:?} cannot do that: it declares no {capability:?}")]
    Undeclared {
        /// The agent.
        agent: String,
        /// The kind of its runtime.
        runtime: String,
        /// The name of the capability, as in [`agentd_protocol::RuntimeCapabilities`].
        capability: &'static str,
    },
    /// Nobody here does such things.
    #[error("{0}")]
    Unsupported(String),
    /// The session is not in a phase in which this can be done.
    #[error("session {session} {why}")]
    WrongState {
        /// The session.
        session: SessionId,
        /// What is the matter, and what to do.
        why: String,
    },
    /// The parameters do not fit what is declared: a prompt that its template cannot be rendered with, say.
    #[error("{0}")]
    BadRequest(String),
    /// A bound was reached.
    #[error("{0}")]
    LimitExceeded(String),
    /// The configuration cannot be used; what was read before stays.
    #[error("{0}")]
    BadConfig(String),
    /// Nothing is begun any more.
    #[error("agentd is stopping; sessions that run go on, and what was asked can be asked of the next one")]
    ShuttingDown,
    /// The store refused, or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// agentd's own fault, or its machine's: a file that cannot be read.
    #[error("{0}")]
    Internal(String),
}

impl SessionsError {
    /// The refusal of an agent's name, with the declared one that was probably meant.
    #[must_use]
    pub fn agent_not_found<'a>(name: &str, declared: impl IntoIterator<Item = &'a str>) -> Self {
        let scored = declared
            .into_iter()
            .map(|known| (strsim::damerau_levenshtein(name, known), known));
        let hint = match scored.min() {
            None => "; none is. Declare it in agentd.toml, and let `agentd reload` read it".to_owned(),
            Some((distance, near)) if distance <= 1 + near.len().max(name.len()) / 3 => {
                format!("; did you mean {near:?}?")
            }
            Some(_) => "; `agentd agents` lists those that are".to_owned(),
        };
        Self::AgentNotFound {
            name: name.to_owned(),
            hint,
        }
    }
}

impl From<SessionsError> for RpcError {
    fn from(error: SessionsError) -> Self {
        use SessionsError as E;
        let reason = match error {
            E::Store(error) => return error.into(),
            E::AgentNotFound { .. } => Reason::AgentNotFound,
            E::SessionNotFound(_) => Reason::SessionNotFound,
            E::Undeclared { .. } | E::Unsupported(_) => Reason::Unsupported,
            E::WrongState { .. } => Reason::WrongState,
            E::BadRequest(message) => return Self::bad_params(message),
            E::LimitExceeded(_) => Reason::LimitExceeded,
            E::BadConfig(_) => Reason::BadFile,
            E::ShuttingDown => Reason::ShuttingDown,
            E::Internal(message) => return Self::new(code::INTERNAL, Reason::Storage, message),
        };
        Self::refused(reason, error.to_string())
    }
}

/// A request about sessions.
#[derive(Debug)]
pub(crate) enum SessionsRequest {
    Run(RunAgent),
    Agents,
    List(ListSessions),
    Get(SessionRef),
    Stop(StopSession),
    Remove(SessionRef),
    Worktrees,
    PruneWorktrees(PruneWorktrees),
    Transcript(ReadTranscript),
    Reload,
}

/// Its answer. Serialises as the bare result.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum SessionsReply {
    Queued(QueuedSession),
    Agents(AgentList),
    List(SessionList),
    // Boxed: it is much larger than the others.
    Session(Box<SessionInfo>),
    Done(Done),
    Removed(RemovedSession),
    Worktrees(WorktreeList),
    Pruned(PrunedWorktrees),
    Transcript(TranscriptPage),
    Reloaded(Reloaded),
}

impl SessionsRequest {
    /// True when it is to be done although nobody is left to be told.
    pub(crate) fn is_change(&self) -> bool {
        match self {
            Self::Run(_) | Self::Stop(_) | Self::Remove(_) | Self::PruneWorktrees(_) | Self::Reload => true,
            Self::Agents | Self::List(_) | Self::Get(_) | Self::Worktrees | Self::Transcript(_) => false,
        }
    }

    /// True when it may take long, and can be broken off at any time.
    pub(crate) fn waits(&self) -> bool {
        matches!(self, Self::Transcript(params) if params.wait_secs.is_some_and(|secs| secs > 0))
    }

    /// Asks.
    pub(crate) async fn ask(self, sessions: &dyn Sessions) -> SessionsResult<SessionsReply> {
        use SessionsReply as R;
        Ok(match self {
            Self::Run(params) => R::Queued(sessions.run(params).await?),
            Self::Agents => R::Agents(sessions.agents().await?),
            Self::List(params) => R::List(sessions.list(params).await?),
            Self::Get(params) => R::Session(Box::new(sessions.get(params).await?)),
            Self::Stop(params) => R::Done(sessions.stop(params).await?),
            Self::Remove(params) => R::Removed(sessions.remove(params).await?),
            Self::Worktrees => R::Worktrees(sessions.worktrees().await?),
            Self::PruneWorktrees(params) => R::Pruned(sessions.prune_worktrees(params).await?),
            Self::Transcript(params) => R::Transcript(sessions.transcript(params).await?),
            Self::Reload => R::Reloaded(sessions.reload().await?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_agent_is_refused_with_the_nearest() {
        let message = |name: &str, declared: &[&str]| {
            RpcError::from(SessionsError::agent_not_found(name, declared.iter().copied())).message
        };
        let declared = ["reviewer", "writer"];
        assert!(message("reviwer", &declared).ends_with("did you mean \"reviewer\"?"));
        assert!(message("zzzzzzzzz", &declared).contains("`agentd agents`"));
        assert!(message("reviewer", &[]).contains("agentd.toml"));
    }

    #[test]
    fn every_error_has_its_reason() {
        let id = SessionId(uuid::Uuid::nil());
        let cases = [
            (SessionsError::SessionNotFound(id), Reason::SessionNotFound),
            (SessionsError::Unsupported("no".into()), Reason::Unsupported),
            (SessionsError::BadRequest("no".into()), Reason::BadRequest),
            (SessionsError::LimitExceeded("no".into()), Reason::LimitExceeded),
            (SessionsError::BadConfig("no".into()), Reason::BadFile),
            (SessionsError::ShuttingDown, Reason::ShuttingDown),
            (StoreError::ShuttingDown.into(), Reason::ShuttingDown),
            (SessionsError::Internal("no".into()), Reason::Storage),
        ];
        for (error, reason) in cases {
            assert_eq!(RpcError::from(error).reason(), Some(reason));
        }
        let why = "is not over; stop it first".to_owned();
        let error = RpcError::from(SessionsError::WrongState { session: id, why });
        assert_eq!(error.reason(), Some(Reason::WrongState));
        assert!(error.message.ends_with("is not over; stop it first"), "{error}");
        let error = RpcError::from(SessionsError::Undeclared {
            agent: "a".into(),
            runtime: "native".into(),
            capability: "logs",
        });
        assert_eq!(error.reason(), Some(Reason::Unsupported));
        assert!(error.message.contains("\"native\"") && error.message.contains("\"logs\""));
    }
}
