//! Of nodes: what a worker says of the one that it holds.

use super::{Params, capabilities, idempotency_key, lease_secs, length, name, nodes, within};
use crate::ids::{LeaseId, NodeId, TaskId};
use crate::json::Json;
use crate::limits;
use crate::node::{NodeSpec, null_is_default};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Leases the next runnable node.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct AcquireNextNode {
    /// Only of this task. Without it: of any task, by capability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// Who asks; `anonymous` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_owner: Option<String>,
    /// What the worker can do: only nodes that ask for nothing else are given. Absent means nothing
    /// special, and together with a `task_id` it means any node of that task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
    /// True: only nodes with `work`, for workers that can do nothing else.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    #[schemars(with = "Option<bool>")]
    pub work_only: bool,
    /// How long to wait for a node to become runnable before answering null, in seconds; 0 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 3600))]
    pub wait_secs: Option<u64>,
    /// How long the lease lasts without a heartbeat, in seconds; the daemon's node timeout when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub lease_secs: Option<u64>,
}

impl Params for AcquireNextNode {
    fn check(&self) -> Result<(), String> {
        if let Some(owner) = &self.lease_owner {
            length("lease_owner", owner, limits::NAME_BYTES_MAX)?;
        }
        capabilities(self.capabilities.as_deref().unwrap_or_default())?;
        within("wait_secs", self.wait_secs, 0, limits::WAIT_SECS_MAX)?;
        lease_secs("lease_secs", self.lease_secs)
    }
}

/// Appends an entry of the client's own to the journal.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CommitEvent {
    /// The task.
    pub task_id: TaskId,
    /// The node that it is about.
    pub node_id: NodeId,
    /// The node's current lease: required while it is `RUNNING`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<LeaseId>,
    /// What kind of event: any name that the daemon does not use itself; `COMMIT_EVENT` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action_type: Option<String>,
    /// What happened.
    #[serde(alias = "event_payload")]
    pub payload: Json,
}

impl Params for CommitEvent {
    fn check(&self) -> Result<(), String> {
        if let Some(action) = &self.action_type {
            name("action_type", action)?;
            if crate::journal::is_reserved(action) {
                return Err(format!(
                    "the action_type {action} is written by the daemon alone; choose another"
                ));
            }
        }
        Ok(())
    }
}

/// Extends a node's lease.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HeartbeatNode {
    /// The task.
    pub task_id: TaskId,
    /// The node.
    pub node_id: NodeId,
    /// Its current lease.
    pub lease_id: LeaseId,
    /// How long the lease lasts from now on, in seconds; as long as it was granted for when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub lease_secs: Option<u64>,
}

impl Params for HeartbeatNode {
    fn check(&self) -> Result<(), String> {
        lease_secs("lease_secs", self.lease_secs)
    }
}

/// Completes a leased node.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CompleteNode {
    /// The task.
    pub task_id: TaskId,
    /// The node.
    pub node_id: NodeId,
    /// Its current lease.
    pub lease_id: LeaseId,
    /// The result, handed to the nodes that depend on this one.
    #[serde(alias = "payload")]
    pub result_payload: Json,
    /// Nodes that the work has discovered, added to the task in the same transaction.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "Option<Vec<NodeSpec>>")]
    pub add_nodes: Vec<NodeSpec>,
    /// The same key with the same request again changes nothing and gives the first answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

impl Params for CompleteNode {
    fn check(&self) -> Result<(), String> {
        idempotency_key(self.idempotency_key.as_ref())?;
        nodes("add_nodes", &self.add_nodes)
    }
}

/// Fails a leased node.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FailNode {
    /// The task.
    pub task_id: TaskId,
    /// The node.
    pub node_id: NodeId,
    /// Its current lease.
    pub lease_id: LeaseId,
    /// What went wrong.
    #[serde(alias = "payload")]
    pub error_payload: Json,
    /// True when another attempt would be pointless: the node fails for good, whatever its retry policy.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    #[schemars(with = "Option<bool>")]
    pub permanent: bool,
    /// The same key with the same request again changes nothing and gives the first answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

impl Params for FailNode {
    fn check(&self) -> Result<(), String> {
        idempotency_key(self.idempotency_key.as_ref())
    }
}

/// Gives back a leased node undone: it becomes `PENDING` at once, and the attempt does not count.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseNode {
    /// The task.
    pub task_id: TaskId,
    /// The node.
    pub node_id: NodeId,
    /// Its current lease.
    pub lease_id: LeaseId,
}

impl Params for ReleaseNode {}

/// Shows one node, whole.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GetNode {
    /// The task.
    pub task_id: TaskId,
    /// The node.
    pub node_id: NodeId,
}

impl Params for GetNode {}
