//! The journal: every change of state, in the order in which it became true.

use crate::ids::{EventId, NodeId, SessionId, TaskId};
use crate::json::Json;
use crate::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One entry. It was written in the same transaction as the change that it tells of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JournalEntry {
    /// Its place. Only grows; numbers may be missing, never reused.
    pub seq: i64,
    /// Its id.
    pub id: EventId,
    /// When it happened.
    pub timestamp: Timestamp,
    /// What kind of change: one of [`action`]'s, or a name that a client chose.
    pub action_type: String,
    /// What there is to say about it.
    pub payload: Json,
    /// The task that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// The node that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// The session that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// The agent that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
}

/// The kinds of entries that the daemon itself writes.
pub mod action {
    /// A task was registered, with so many nodes.
    pub const REGISTER_TASK: &str = "REGISTER_TASK";
    /// Nodes were added to a task.
    pub const ADD_NODES: &str = "ADD_NODES";
    /// A node was leased: PENDING → RUNNING.
    pub const ACQUIRE_NODE: &str = "ACQUIRE_NODE";
    /// A lease expired: RUNNING → PENDING, or FAILED when that was the last attempt.
    pub const ROLLBACK_NODE: &str = "ROLLBACK_NODE";
    /// A lease was given back undone: RUNNING → PENDING.
    pub const RELEASE_NODE: &str = "RELEASE_NODE";
    /// What a client committed without naming a kind of its own.
    pub const COMMIT_EVENT: &str = "COMMIT_EVENT";
    /// RUNNING → COMPLETED.
    pub const COMPLETE_NODE: &str = "COMPLETE_NODE";
    /// RUNNING → FAILED, or → PENDING when attempts are left (the payload then has `retry_at`).
    pub const FAIL_NODE: &str = "FAIL_NODE";
    /// FAILED → PENDING.
    pub const RETRY_NODE: &str = "RETRY_NODE";
    /// Every node that had not ended → FAILED.
    pub const CANCEL_TASK: &str = "CANCEL_TASK";
    /// No node is handed out any more.
    pub const PAUSE_TASK: &str = "PAUSE_TASK";
    /// Nodes are handed out again.
    pub const RESUME_TASK: &str = "RESUME_TASK";
    /// A finished task was removed, with its nodes and its entries.
    pub const PRUNE_TASK: &str = "PRUNE_TASK";
    /// Old entries that belong to no task were removed.
    pub const PRUNE_JOURNAL: &str = "PRUNE_JOURNAL";
    /// A resource lock was granted.
    pub const LOCK_GRANTED: &str = "LOCK_GRANTED";
    /// A resource lock was given back.
    pub const LOCK_RELEASED: &str = "LOCK_RELEASED";
    /// A resource lock ran out.
    pub const LOCK_EXPIRED: &str = "LOCK_EXPIRED";
    /// A session was asked for: → QUEUED.
    pub const SESSION_QUEUED: &str = "SESSION_QUEUED";
    /// A session went from one phase to another; the payload names both.
    pub const SESSION_PHASE: &str = "SESSION_PHASE";
    /// A step of a session's set-up or teardown was done, or failed; the payload says which and how long it took.
    pub const SESSION_STEP: &str = "SESSION_STEP";
    /// Something about a session that people should know.
    pub const SESSION_WARNING: &str = "SESSION_WARNING";
    /// A session's agent has called a tool; the payload says whose, how long it took and how it ended.
    pub const SESSION_TOOL_CALL: &str = "SESSION_TOOL_CALL";
    /// The end of a session was asked for.
    pub const SESSION_STOP: &str = "SESSION_STOP";
    /// A session is over: → ENDED, with its outcome.
    pub const SESSION_ENDED: &str = "SESSION_ENDED";
    /// A session that is over was removed, transcript and all.
    pub const SESSION_REMOVED: &str = "SESSION_REMOVED";
    /// The database was replaced by a backup.
    pub const RESTORE_DATABASE: &str = "RESTORE_DATABASE";

    /// All of them but [`COMMIT_EVENT`], which clients write too.
    pub const RESERVED: [&str; 25] = [
        REGISTER_TASK,
        ADD_NODES,
        ACQUIRE_NODE,
        ROLLBACK_NODE,
        RELEASE_NODE,
        COMPLETE_NODE,
        FAIL_NODE,
        RETRY_NODE,
        CANCEL_TASK,
        PAUSE_TASK,
        RESUME_TASK,
        PRUNE_TASK,
        PRUNE_JOURNAL,
        LOCK_GRANTED,
        LOCK_RELEASED,
        LOCK_EXPIRED,
        SESSION_QUEUED,
        SESSION_PHASE,
        SESSION_STEP,
        SESSION_WARNING,
        SESSION_TOOL_CALL,
        SESSION_STOP,
        SESSION_ENDED,
        SESSION_REMOVED,
        RESTORE_DATABASE,
    ];
}

/// True for kinds that only the daemon may write, so that the journal can be believed.
#[must_use]
pub fn is_reserved(action_type: &str) -> bool {
    action::RESERVED.contains(&action_type)
}
