//! Tasks and their nodes: what is registered, and what is shown.

use crate::ids::{LeaseId, NodeId, TaskId};
use crate::json::Json;
use crate::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Where a node stands. There are no other states: what waits for a backoff or in a paused task is
/// `PENDING`, what was cancelled is `FAILED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum NodeStatus {
    /// Not begun; runnable once every dependency is completed.
    Pending,
    /// Leased to a worker.
    Running,
    /// Done; its result is there.
    Completed,
    /// Given up; its error is there.
    Failed,
}

impl NodeStatus {
    /// All four, in the order of a node's life.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Running, Self::Completed, Self::Failed];

    /// The name on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
        }
    }

    /// The inverse of [`NodeStatus::as_str`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How many nodes stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE", default)]
pub struct StatusCounts {
    /// Nodes that are `PENDING`.
    pub pending: u64,
    /// Nodes that are `RUNNING`.
    pub running: u64,
    /// Nodes that are `COMPLETED`.
    pub completed: u64,
    /// Nodes that are `FAILED`.
    pub failed: u64,
}

impl StatusCounts {
    /// All nodes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.pending + self.running + self.completed + self.failed
    }
}

/// What is done when a node fails or its lease expires.
///
/// Without a policy a failure is final at once, and an expired lease gives the node back for ever. With
/// one, both count as attempts: while attempts are left the node becomes `PENDING` again after its backoff,
/// and when none is left it is `FAILED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RetryPolicy {
    /// How often the node may be leased in all, the first time included; 1 to 1000.
    #[schemars(range(min = 1, max = 1000))]
    pub max_attempts: u32,
    /// Seconds between the first failure and the second attempt. It doubles with each failure.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schemars(with = "Option<Seconds>")]
    pub backoff_secs: Seconds,
    /// What the doubling stops at, in seconds; an hour when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_max_secs: Option<Seconds>,
}

/// Seconds with a fraction, kept in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds {
    /// The same in whole milliseconds.
    pub ms: u64,
}

impl Serialize for Seconds {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.ms.is_multiple_of(1000) {
            serializer.serialize_u64(self.ms / 1000)
        } else {
            #[expect(clippy::cast_precision_loss, reason = "below 2^53 for centuries")]
            serializer.serialize_f64(self.ms as f64 / 1000.0)
        }
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let secs = f64::deserialize(deserializer)?;
        if !(0.0..=1e9).contains(&secs) {
            return Err(serde::de::Error::custom(
                "seconds must be between 0 and 1000000000",
            ));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked above"
        )]
        Ok(Self {
            ms: (secs * 1000.0).round() as u64,
        })
    }
}

impl JsonSchema for Seconds {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Seconds".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "number", "minimum": 0, "maximum": 1e9 })
    }
}

impl RetryPolicy {
    /// How long a node stays back after its `attempt`th attempt (from 1 on) came to nothing, in milliseconds.
    #[must_use]
    pub fn backoff_ms(&self, attempt: u32) -> u64 {
        let max = self.backoff_max_secs.map_or(3_600_000, |secs| secs.ms);
        let doublings = attempt.saturating_sub(1).min(40);
        self.backoff_secs.ms.saturating_mul(1 << doublings).min(max)
    }
}

/// What `agentd worker` and `agentd task run` are to do with a node. Nodes without it are for other
/// programs. Only operators may register it: it runs as the user of the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Work {
    /// Run a program.
    Command(CommandWork),
    /// Run a session of an agent.
    Agent(AgentWork),
}

impl Work {
    /// What the capabilities that work asks for begin with.
    pub const CAPABILITY_PREFIX: &'static str = "work:";

    /// The capability that a worker must have to be given such a node; added to the node's own when it is
    /// registered.
    #[must_use]
    pub fn capability(&self) -> String {
        match self {
            Self::Command(_) => "work:command".into(),
            Self::Agent(AgentWork { agent: None, .. }) => AgentWork::ANY.into(),
            Self::Agent(AgentWork {
                agent: Some(name), ..
            }) => AgentWork::capability_of(name),
        }
    }
}

/// A session of an agent, which works on the node under the node's lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentWork {
    /// The agent's name. Absent: any that has the capabilities which the node asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// What it is to do. Absent: what its own configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// True when the prompt is a template, which the session renders once when it begins: of `args` and `plan` from the
    /// task's context, and `inputs`, the results of the nodes that this one depends on, by their names.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "is_false"
    )]
    #[schemars(with = "Option<bool>")]
    pub prompt_is_template: bool,
    /// The name of a node that this one depends on: the session's worktree begins at that one's branch, when it is not
    /// merged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// After so many seconds the session is ended and the attempt has failed. Absent: what the agent's
    /// configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_secs: Option<Seconds>,
    /// A program that the session runs instead of the agent's own, which then gets no prompt. It finds what a
    /// command of a plan finds; its own time limit is not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandWork>,
    /// Files and directories that such a program sees, read-only, where they are on this machine: absolute paths.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "Option<Vec<String>>")]
    pub read: Vec<String>,
}

impl AgentWork {
    /// What a node asks for that any agent may work on.
    pub const ANY: &'static str = "work:agent";

    /// What a node asks for that one agent is to work on.
    #[must_use]
    pub fn capability_of(agent: &str) -> String {
        format!("work:agent:{agent}")
    }
}

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommandWork {
    /// The program and its arguments. No shell comes between.
    #[schemars(length(min = 1))]
    pub argv: Vec<String>,
    /// The directory to run in: an absolute path.
    pub cwd: String,
    /// Variables besides the worker's own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// After so many seconds the program is ended and the attempt has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_secs: Option<Seconds>,
}

/// One node to be registered.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct NodeSpec {
    /// Its id; made up when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<NodeId>,
    /// A name for people, unique only by convention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Nodes of the same task that must be completed first: of the same request, or registered before.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "Option<Vec<NodeId>>")]
    pub dependencies: Vec<NodeId>,
    /// Whatever the worker needs to know.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Json::is_empty_object"
    )]
    pub payload_schema: Json,
    /// What agentd's own workers are to do with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<Work>,
    /// Larger is handed out earlier; 0 when absent.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "is_zero"
    )]
    #[schemars(with = "Option<i32>")]
    pub priority: i32,
    /// What a worker must be able to do to be given it.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "Option<Vec<String>>")]
    pub capabilities: Vec<String>,
    /// What is done when it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// What its definition comes to, in the words of who registers it: kept, shown, and never looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// A node whose result is this one's, too: when that one and all that this one depends on are completed, this one is
    /// completed as soon as it is registered. Otherwise it is registered as if this were absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse: Option<NodeAddress>,
}

/// A node of some task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeAddress {
    /// Its task.
    pub task_id: TaskId,
    /// The node.
    pub node_id: NodeId,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(crate) fn is_false(truth: &bool) -> bool {
    !*truth
}

/// For fields where `null` means the same as absent.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A task without its nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskInfo {
    /// Its id.
    pub id: TaskId,
    /// What it is to achieve.
    pub goal: String,
    /// What every node's worker is told.
    pub context: Json,
    /// When it was registered.
    pub created_at: Timestamp,
}

/// A node as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeInfo {
    /// Its id.
    pub id: NodeId,
    /// The task that it belongs to.
    pub task_id: TaskId,
    /// Where it stands.
    pub status: NodeStatus,
    /// What must be completed first, in the order given.
    pub dependencies: Vec<NodeId>,
    /// As registered.
    pub payload_schema: Json,
    /// The result when `COMPLETED`, the error when `FAILED`, else null.
    pub result_payload: Option<Json>,
    /// When its newest lease was granted: Unix seconds.
    pub acquired_at: Option<i64>,
    /// The live lease; null unless `RUNNING`.
    pub lease_id: Option<LeaseId>,
    /// Who holds it.
    pub lease_owner: Option<String>,
    /// When it ends: Unix seconds, rounded up.
    pub lease_expires_at: Option<i64>,
    /// When anything of the node last changed: Unix seconds.
    pub updated_at: i64,
    /// The name that it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What agentd's own workers are to do with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<Work>,
    /// Larger is handed out earlier.
    #[serde(default)]
    pub priority: i32,
    /// What a worker must be able to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// How often it has been leased since it was registered or re-run.
    #[serde(default)]
    pub attempt: u32,
    /// What is done when it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// The fencing number of its newest lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<i64>,
    /// While it waits for a backoff: until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// The failed nodes that keep it from ever running, as far as its dependencies reach; at most eight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked_by: Vec<NodeId>,
    /// As registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// Where a task as a whole stands. It follows from its nodes and from what was asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// Something runs, or can run, or more nodes may come.
    Active,
    /// No node is handed out until it is resumed.
    Paused,
    /// Cancelled; what had not ended was failed.
    Cancelled,
    /// Every node is completed.
    Completed,
    /// Nothing runs or can run, and at least one node failed.
    Failed,
}

impl TaskState {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Cancelled => "cancelled",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// True when nothing more happens unless somebody asks for it.
    #[must_use]
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Cancelled | Self::Completed | Self::Failed)
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
