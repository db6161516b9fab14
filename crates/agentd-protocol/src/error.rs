//! What a request can be answered with instead of a result.

use crate::json::Json;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The numeric codes.
pub mod code {
    /// Not JSON, not UTF-8, or nested too deeply.
    pub const PARSE: i32 = -32700;
    /// JSON, but not a request: not an object, or without a method.
    pub const INVALID_REQUEST: i32 = -32600;
    /// No such method.
    pub const UNKNOWN_METHOD: i32 = -32601;
    /// The parameters do not fit the method.
    pub const BAD_PARAMS: i32 = -32602;
    /// The daemon's own fault: its database could not be read or written.
    pub const INTERNAL: i32 = -32603;
    /// The state machine, a limit or the caller's role forbids it.
    pub const REFUSED: i32 = -32000;
    /// The request line is longer than 1 MiB.
    pub const LINE_TOO_LONG: i32 = -32001;
}

/// Why, for programs: stands in an error's `data.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No such task.
    TaskNotFound,
    /// The task has been pruned; its tombstone says when.
    TaskPruned,
    /// No such node in that task.
    NodeNotFound,
    /// The lease is not the node's current one, or has expired: somebody else may have the node.
    StaleLease,
    /// The task was cancelled.
    Cancelled,
    /// The node is not in a status from which this can be done.
    WrongStatus,
    /// The task is not in a state in which this can be done.
    WrongState,
    /// A node id is used twice, or already taken.
    DuplicateNode,
    /// A dependency names no node of the task.
    UnknownDependency,
    /// The dependencies go in a circle.
    DependencyCycle,
    /// No such session.
    SessionNotFound,
    /// No agent of that name is declared.
    AgentNotFound,
    /// The agent's runtime does not declare what was asked of it.
    Unsupported,
    /// The lock is not held with that lease, or has expired.
    StaleLock,
    /// The idempotency key was used for something else.
    IdempotencyConflict,
    /// A bound was reached.
    LimitExceeded,
    /// The answer would be larger than 16 MiB: ask for pages.
    AnswerTooLarge,
    /// The caller's role does not allow it.
    Forbidden,
    /// A queue is full, or too many connections are open: try again.
    Busy,
    /// The daemon is stopping.
    ShuttingDown,
    /// The database could not be read or written. Nothing was changed.
    Storage,
    /// A subscriber that read too slowly.
    SlowReader,
    /// The file cannot be used: it exists, does not exist, or is not a backup.
    BadFile,
    /// The request could not be understood.
    BadRequest,
}

/// An error as it stands on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RpcError {
    /// One of [`code`]'s.
    pub code: i32,
    /// What happened and what to do, for people.
    pub message: String,
    /// The same for programs: `reason` and what belongs to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Json>,
}

impl RpcError {
    /// An error with a reason.
    #[must_use]
    pub fn new(code: i32, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            data: Some(serde_json::json!({ "reason": reason }).into()),
        }
    }

    /// Refused by the state machine, a limit or the caller's role.
    #[must_use]
    pub fn refused(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(code::REFUSED, reason, message)
    }

    /// The parameters do not fit.
    #[must_use]
    pub fn bad_params(message: impl Into<String>) -> Self {
        Self::new(code::BAD_PARAMS, Reason::BadRequest, message)
    }

    /// The `data.reason`, when there is one that this version knows.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        #[derive(Deserialize)]
        struct Data {
            reason: Reason,
        }
        serde_json::from_str::<Data>(self.data.as_ref()?.text())
            .ok()
            .map(|data| data.reason)
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RpcError {}
