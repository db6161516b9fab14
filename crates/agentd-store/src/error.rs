//! Why a command or a query came to nothing.

use agentd_protocol::error::code;
use agentd_protocol::{NodeId, NodeStatus, Reason, RpcError, SessionId, SessionPhase, TaskId, Timestamp};
use std::path::PathBuf;

/// A refusal, or a failure of the database. Whichever it is, nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No such task.
    #[error("there is no task {0}")]
    TaskNotFound(TaskId),
    /// Only the tombstone is left.
    #[error("task {task} was pruned at {at}: its nodes and journal are gone")]
    TaskPruned {
        /// The task.
        task: TaskId,
        /// When.
        at: Timestamp,
    },
    /// No such node in the task.
    #[error("task {task} has no node {node}")]
    NodeNotFound {
        /// The task.
        task: TaskId,
        /// The node.
        node: NodeId,
    },
    /// The lease is over.
    #[error(
        "the lease is not the current one of node {node}: {why}. Only the holder of its current lease may change it"
    )]
    StaleLease {
        /// The node.
        node: NodeId,
        /// What became of the lease.
        why: &'static str,
    },
    /// The task was cancelled.
    #[error("task {task} was cancelled{}: stop working on node {node}", reason.as_ref().map(|why| format!(" ({why})")).unwrap_or_default())]
    Cancelled {
        /// The task.
        task: TaskId,
        /// The node.
        node: NodeId,
        /// What the one who cancelled it said.
        reason: Option<String>,
    },
    /// The node is in the wrong status.
    #[error("node {node} is {status}; {what}")]
    WrongStatus {
        /// The node.
        node: NodeId,
        /// Its status.
        status: NodeStatus,
        /// What would be needed.
        what: &'static str,
    },
    /// The task is in the wrong state.
    #[error("task {task} {why}")]
    WrongState {
        /// The task.
        task: TaskId,
        /// What is the matter.
        why: String,
    },
    /// A node id that is taken.
    #[error("node id {node} {why}; nothing was registered")]
    DuplicateNode {
        /// The node.
        node: NodeId,
        /// By whom.
        why: &'static str,
    },
    /// A dependency that is not there.
    #[error("node {node} depends on {dependency}, which is {why}; nothing was registered")]
    UnknownDependency {
        /// The node.
        node: NodeId,
        /// What it names.
        dependency: NodeId,
        /// What is the matter with it.
        why: &'static str,
    },
    /// The dependencies go in a circle.
    #[error("the dependencies go in a circle through node {node}; nothing was registered")]
    DependencyCycle {
        /// A node on the circle.
        node: NodeId,
    },
    /// No such session.
    #[error("there is no session {0}")]
    SessionNotFound(SessionId),
    /// The session is in the wrong phase.
    #[error("session {session} is {phase}; {what}")]
    WrongPhase {
        /// The session.
        session: SessionId,
        /// Its phase.
        phase: SessionPhase,
        /// What would be needed.
        what: &'static str,
    },
    /// The lock is not the caller's.
    #[error("the lock on {key:?} is not held with that lease ({why}); acquire it again")]
    StaleLock {
        /// The key.
        key: String,
        /// What became of the lease.
        why: &'static str,
    },
    /// The idempotency key stands for another request.
    #[error("idempotency_key {key:?} was used for a different request; use a new key for a new request")]
    IdempotencyConflict {
        /// The key.
        key: String,
    },
    /// A bound was reached.
    #[error("{0}")]
    LimitExceeded(String),
    /// The answer does not fit.
    #[error("the answer would be larger than 16 MiB; ask for pages with \"limit\" and \"cursor\"")]
    AnswerTooLarge,
    /// A cursor that did not come from this daemon.
    #[error("the cursor is not one that an earlier page gave")]
    BadCursor,
    /// A file that cannot be used.
    #[error("{}: {why}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is the matter with it.
        why: String,
    },
    /// The store is closing.
    #[error("agentd is shutting down; connect again when it is back")]
    ShuttingDown,
    /// The database failed.
    #[error("the database failed to {doing}: {source}; nothing was changed")]
    Storage {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// The same for programs.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::TaskNotFound(_) => Reason::TaskNotFound,
            Self::TaskPruned { .. } => Reason::TaskPruned,
            Self::NodeNotFound { .. } => Reason::NodeNotFound,
            Self::StaleLease { .. } => Reason::StaleLease,
            Self::Cancelled { .. } => Reason::Cancelled,
            Self::WrongStatus { .. } => Reason::WrongStatus,
            Self::WrongState { .. } => Reason::WrongState,
            Self::DuplicateNode { .. } => Reason::DuplicateNode,
            Self::UnknownDependency { .. } => Reason::UnknownDependency,
            Self::DependencyCycle { .. } => Reason::DependencyCycle,
            Self::SessionNotFound(_) => Reason::SessionNotFound,
            Self::WrongPhase { .. } => Reason::WrongState,
            Self::StaleLock { .. } => Reason::StaleLock,
            Self::IdempotencyConflict { .. } => Reason::IdempotencyConflict,
            Self::LimitExceeded(_) => Reason::LimitExceeded,
            Self::AnswerTooLarge => Reason::AnswerTooLarge,
            Self::BadCursor => Reason::BadRequest,
            Self::BadFile { .. } => Reason::BadFile,
            Self::ShuttingDown => Reason::ShuttingDown,
            Self::Storage { .. } => Reason::Storage,
        }
    }
}

impl From<StoreError> for RpcError {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::Storage { .. } => code::INTERNAL,
            StoreError::BadCursor => code::BAD_PARAMS,
            _ => code::REFUSED,
        };
        Self::new(code, error.reason(), error.to_string())
    }
}
