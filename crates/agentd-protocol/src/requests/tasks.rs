//! Of tasks: what registers, shows and steers them.

use super::{Params, idempotency_key, length, nodes, page, within};
use crate::ids::{NodeId, TaskId};
use crate::json::Json;
use crate::limits;
use crate::node::{NodeSpec, NodeStatus, TaskState, is_false, null_is_default};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Registers a task and its first nodes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RegisterTask {
    /// What it is to achieve.
    pub goal: String,
    /// What every node's worker is told.
    #[serde(default, deserialize_with = "null_is_default")]
    pub context: Json,
    /// Its nodes; more can be added later.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schemars(with = "Option<Vec<NodeSpec>>")]
    pub initial_nodes: Vec<NodeSpec>,
    /// The same key with the same request again changes nothing and gives the first answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// True: it is paused from the beginning, and hands out nothing until ResumeTask.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "is_false"
    )]
    #[schemars(with = "Option<bool>")]
    pub paused: bool,
}

impl Params for RegisterTask {
    fn check(&self) -> Result<(), String> {
        length("goal", &self.goal, limits::GOAL_BYTES_MAX)?;
        idempotency_key(self.idempotency_key.as_ref())?;
        nodes("initial_nodes", &self.initial_nodes)
    }
}

/// Adds nodes to a live task.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AddNodes {
    /// The task.
    pub task_id: TaskId,
    /// The nodes. They may depend on each other and on nodes registered before.
    pub nodes: Vec<NodeSpec>,
    /// The same key with the same request again changes nothing and gives the first answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

impl Params for AddNodes {
    fn check(&self) -> Result<(), String> {
        idempotency_key(self.idempotency_key.as_ref())?;
        nodes("nodes", &self.nodes)
    }
}

/// Shows a task and its nodes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TaskStatus {
    /// The task.
    pub task_id: TaskId,
    /// Only nodes that stand there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<NodeStatus>,
    /// At most so many nodes; all of them when absent, as long as they fit in one answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub limit: Option<u32>,
    /// Where to go on: the `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// True: `payload_schema`, `work` and `result_payload` are left out (`{}`, absent and null), to watch large tasks.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    #[schemars(with = "Option<bool>")]
    pub omit_payloads: bool,
}

impl Params for TaskStatus {
    fn check(&self) -> Result<(), String> {
        page(self.limit)
    }
}

/// Lists tasks, newest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ListTasks {
    /// Only tasks in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<TaskState>,
    /// Only tasks registered with an idempotency key that begins so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key_prefix: Option<String>,
    /// At most so many; 500 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub limit: Option<u32>,
    /// Where to go on: the `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl Params for ListTasks {
    fn check(&self) -> Result<(), String> {
        idempotency_key(self.idempotency_key_prefix.as_ref())?;
        page(self.limit)
    }
}

/// Names a task.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TaskRef {
    /// The task.
    pub task_id: TaskId,
}

impl Params for TaskRef {}

/// Ends a task: what has not ended is failed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CancelTask {
    /// The task.
    pub task_id: TaskId,
    /// Why; the holders of leases are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Params for CancelTask {
    fn check(&self) -> Result<(), String> {
        length(
            "reason",
            self.reason.as_deref().unwrap_or_default(),
            limits::GOAL_BYTES_MAX,
        )
    }
}

/// Makes failed nodes `PENDING` again, with all their attempts before them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RetryNodes {
    /// The task.
    pub task_id: TaskId,
    /// Which nodes; all failed ones when absent or empty.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "Option<Vec<NodeId>>")]
    pub node_ids: Vec<NodeId>,
}

impl Params for RetryNodes {}

/// Removes finished tasks with everything that belongs to them. A tombstone stays.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PruneTasks {
    /// Only tasks that finished at least so many seconds ago.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schemars(with = "Option<u64>")]
    pub older_than_secs: u64,
    /// Only this task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
}

impl Params for PruneTasks {
    fn check(&self) -> Result<(), String> {
        within(
            "older_than_secs",
            Some(self.older_than_secs),
            0,
            1_000_000_000_000,
        )
    }
}
