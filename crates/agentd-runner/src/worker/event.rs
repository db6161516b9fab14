//! What a worker tells while it works, for a progress display or a log.

use agentd_protocol::results::AcquiredNode;
use agentd_protocol::{NodeId, TaskId, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// A node in an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRef {
    /// Its task.
    pub task_id: TaskId,
    /// The node.
    pub node_id: NodeId,
    /// The name that it was given.
    pub name: Option<String>,
    /// Which attempt this is, from 1 on.
    pub attempt: u32,
}

impl NodeRef {
    pub(crate) fn of(node: &AcquiredNode) -> Self {
        Self {
            task_id: node.task_id,
            node_id: node.node_id,
            name: node.context.node.name.clone(),
            attempt: node.attempt,
        }
    }
}

/// Something that happened in a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerEvent {
    /// The connection to the daemon was lost; it is tried again.
    Disconnected {
        /// Why.
        why: String,
    },
    /// The daemon is there again.
    Reconnected,
    /// A node's command is about to start.
    Started {
        /// The node.
        node: NodeRef,
    },
    /// A node was completed, and the daemon has it on disk.
    Completed {
        /// The node.
        node: NodeRef,
        /// How long its command took.
        duration: Duration,
    },
    /// An attempt failed, and the daemon has it on disk.
    Failed {
        /// The node.
        node: NodeRef,
        /// `exit_code`, `signal`, `timeout`, `spawn`, `result` or `lost`.
        reason: &'static str,
        /// The same for people.
        message: String,
        /// When the next attempt may begin; None when there is none.
        retry_at: Option<Timestamp>,
    },
    /// The lease was lost: the command was ended, and nothing is reported.
    Lost {
        /// The node.
        node: NodeRef,
        /// Why.
        why: String,
    },
    /// The node was given back undone, because the worker stops.
    Released {
        /// The node.
        node: NodeRef,
    },
    /// A node that is no command of ours was given back untouched.
    NotOurs {
        /// The node.
        node: NodeRef,
    },
    /// Processes of an earlier attempt were found without a supervisor, and killed.
    Swept {
        /// How many.
        killed: u32,
    },
}

/// Receives a worker's events, from whichever thread they happen on. It must return at once: a command's
/// lease is not extended meanwhile.
pub type EventSink = Arc<dyn Fn(WorkerEvent) + Send + Sync>;
