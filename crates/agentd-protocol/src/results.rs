//! The results of every method.

mod worktrees;

pub use worktrees::{PrunedWorktree, PrunedWorktrees, SavedWork, WorktreeInfo, WorktreeList};

use crate::ids::{EventId, LeaseId, NodeId, SessionId, TaskId};
use crate::journal::JournalEntry;
use crate::json::Json;
use crate::node::{NodeInfo, StatusCounts, TaskInfo, TaskState};
use crate::session::{AgentInfo, SessionInfo, TranscriptChunk};
use crate::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A task was registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegisteredTask {
    /// Its id.
    pub task_id: TaskId,
    /// The ids of its nodes, in the order in which they were given.
    pub node_ids: Vec<NodeId>,
}

/// Nodes were added, or are to be run again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeIds {
    /// Their ids.
    pub node_ids: Vec<NodeId>,
}

/// A leased node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AcquiredNode {
    /// The task.
    pub task_id: TaskId,
    /// The node.
    pub node_id: NodeId,
    /// The lease: every change of the node needs it.
    pub lease_id: LeaseId,
    /// Who holds it.
    pub lease_owner: String,
    /// When it ends without a heartbeat: Unix seconds, rounded up.
    pub lease_expires_at: i64,
    /// The fencing number: larger than that of any earlier lease of the node.
    pub fence: i64,
    /// Which attempt this is, from 1 on.
    pub attempt: u32,
    /// What the worker needs to know.
    pub context: NodeContext,
}

/// What a worker is given with a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeContext {
    /// The task.
    pub task: TaskInfo,
    /// The node.
    pub node: NodeInfo,
    /// What its dependencies came to, in their order.
    pub completed_dependencies: Vec<CompletedDependency>,
    /// How many events are shown at most.
    pub event_journal_limit: u32,
    /// The newest events of the task, oldest first.
    pub event_journal: Vec<ContextEvent>,
}

/// What a dependency came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CompletedDependency {
    /// The node.
    pub node_id: NodeId,
    /// Its result.
    pub result_payload: Option<Json>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Present when the result is too large to be shown here with the others: its size. GetNode gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_omitted_bytes: Option<u64>,
}

/// An event as a node's context shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContextEvent {
    /// Its id.
    pub id: EventId,
    /// The task.
    pub task_id: TaskId,
    /// The node.
    pub node_id: Option<NodeId>,
    /// What kind of event.
    pub action_type: String,
    /// What happened.
    pub payload: Option<Json>,
    /// When.
    pub timestamp: Timestamp,
    /// Present when the payload is too large to be shown here with the others: its size. ReadJournal gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_omitted_bytes: Option<u64>,
}

/// An entry was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Committed {
    /// Its id.
    pub event_id: EventId,
}

/// A node was completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Completed {
    /// The journal entry.
    pub event_id: EventId,
    /// The ids of the nodes added with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_ids: Vec<NodeId>,
}

/// A node was failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failed {
    /// The journal entry.
    pub event_id: EventId,
    /// When the next attempt may begin; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
}

/// Done; nothing more to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ok {
    /// Always true.
    pub ok: bool,
}

/// A session was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RemovedSession {
    /// Always true.
    pub ok: bool,
    /// What of its worktree is nowhere else, and stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
}

/// A lease was extended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Extended {
    /// Always true.
    pub ok: bool,
    /// When it ends now: Unix seconds, rounded up.
    pub lease_expires_at: i64,
}

/// A task was cancelled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CancelledTask {
    /// Always true.
    pub ok: bool,
    /// How many nodes had not ended.
    pub cancelled_nodes: u64,
}

/// A task with its nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskStatusResult {
    /// The task.
    pub task: TaskInfo,
    /// Where it stands as a whole.
    pub state: TaskState,
    /// How many of its nodes stand where.
    pub counts: StatusCounts,
    /// Its nodes, in the order in which they were registered.
    pub nodes: Vec<NodeInfo>,
    /// Present when there are more nodes: the next page's `cursor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// One node, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GetNodeResult {
    /// The node.
    pub node: NodeInfo,
}

/// A task in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskSummary {
    /// Its id.
    pub task_id: TaskId,
    /// The first 200 characters of its goal.
    pub goal: String,
    /// Where it stands.
    pub state: TaskState,
    /// How many of its nodes stand where.
    pub counts: StatusCounts,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// The key that it was registered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// A page of tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskList {
    /// The tasks, newest first.
    pub tasks: Vec<TaskSummary>,
    /// Present when there are more: the next page's `cursor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pruned {
    /// How many tasks.
    pub tasks: u64,
    /// How many nodes.
    pub nodes: u64,
    /// How many journal entries.
    pub events: u64,
}

/// A granted resource lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceLock {
    /// What is locked.
    pub resource_key: String,
    /// The lease: heartbeats and the release need it.
    pub lease_id: LeaseId,
    /// Who holds it.
    pub owner: String,
    /// Whose agent that is.
    pub provider: Option<String>,
    /// The task that it was taken for.
    pub task_id: Option<TaskId>,
    /// The node that it was taken for.
    pub node_id: Option<NodeId>,
    /// What the holder had to say.
    pub metadata: Json,
    /// When it was granted: Unix seconds.
    pub acquired_at: i64,
    /// When it ends without a heartbeat: Unix seconds, rounded up.
    pub lease_expires_at: i64,
    /// The fencing number: larger than that of any earlier grant of the key.
    pub fence: i64,
    /// When it was last extended: Unix seconds. Only in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<i64>,
}

/// The locks that are held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LockList {
    /// The locks, by key.
    pub locks: Vec<ResourceLock>,
    /// Present when there are more: the next page's `cursor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A page of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JournalPage {
    /// The entries, oldest first.
    pub entries: Vec<JournalEntry>,
    /// Where the next page begins: its `from_seq`.
    pub next_seq: i64,
    /// The newest entry that there is.
    pub last_seq: i64,
}

/// The first line of a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subscribed {
    /// Always true.
    pub subscribed: bool,
    /// Where it begins.
    pub from_seq: i64,
    /// The newest entry when it began.
    pub last_seq: i64,
}

/// Whether the daemon works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// `ok` or `degraded`.
    pub status: String,
    /// `ok`, or what is wrong.
    pub database: String,
    /// How long a lease lasts that names no length of its own, in seconds.
    pub running_timeout_secs: u64,
    /// How many events a node's context shows at most.
    pub context_event_limit: u32,
    /// The program's version.
    pub version: String,
    /// The process.
    pub pid: u32,
}

/// Counters and gauges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Metrics {
    /// Seconds since the daemon started.
    pub uptime_secs: u64,
    /// See [`Health`].
    pub running_timeout_secs: u64,
    /// See [`Health`].
    pub context_event_limit: u32,
    /// Counted since the daemon started.
    pub runtime: RuntimeMetrics,
    /// As the database stands.
    pub database: DatabaseMetrics,
}

/// Counted since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuntimeMetrics {
    /// Tasks registered.
    pub registered_tasks: u64,
    /// AcquireNextNode requests answered.
    pub acquire_attempts: u64,
    /// Nodes leased.
    pub acquired_nodes: u64,
    /// From request to answer, summed over the nodes leased, waits left out; microseconds.
    pub acquisition_latency_micros_total: u64,
    /// The same per node.
    pub average_acquisition_latency_micros: u64,
    /// CommitEvent entries written.
    pub committed_events: u64,
    /// Heartbeats of nodes accepted.
    pub heartbeats: u64,
    /// Nodes completed.
    pub completed_nodes: u64,
    /// FailNode requests accepted.
    pub failed_nodes: u64,
    /// Leases that expired.
    pub timeout_rollbacks: u64,
    /// Requests refused.
    #[serde(default)]
    pub refused_requests: u64,
    /// Connections open now.
    #[serde(default)]
    pub connections: u64,
    /// Transactions committed.
    #[serde(default)]
    pub commits: u64,
    /// Changes in them: more than one per commit when they come faster than the disk is.
    #[serde(default)]
    pub committed_changes: u64,
}

/// As the database stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DatabaseMetrics {
    /// The schema of the database.
    pub schema_version: u32,
    /// The newest schema that this program knows.
    pub latest_schema_version: u32,
    /// Tasks, pruned ones left out.
    pub total_tasks: u64,
    /// Nodes.
    pub total_nodes: u64,
    /// Journal entries.
    pub total_events: u64,
    /// Locks held.
    pub active_resource_locks: u64,
    /// Locks that ran out and were not yet removed.
    pub expired_resource_locks: u64,
    /// Live leases of nodes.
    pub running_leases: u64,
    /// Leases that ran out and were not yet rolled back.
    pub expired_running_leases: u64,
    /// How many nodes stand where.
    pub node_status_counts: StatusCounts,
    /// The newest journal entry.
    #[serde(default)]
    pub last_seq: i64,
    /// The database file, in bytes.
    #[serde(default)]
    pub size_bytes: u64,
}

/// Who the caller is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WhoAmI {
    /// The user id that the kernel vouches for.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The process.
    pub pid: Option<i32>,
    /// What the caller may do.
    pub role: Role,
    /// Why.
    pub because: String,
    /// The methods that the caller may use.
    pub methods: Vec<String>,
}

/// What a caller may do. Each role may do all that the one before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads.
    Observer,
    /// Coordinates as well: tasks, leases, locks.
    Worker,
    /// Runs agents and commands and changes the daemon as well: acts as the daemon's user.
    Operator,
}

impl Role {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observer => "observer",
            Self::Worker => "worker",
            Self::Operator => "operator",
        }
    }
}

/// A backup was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackedUp {
    /// The file.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
    /// The newest journal entry in it.
    pub last_seq: i64,
}

/// What a check of the database found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Checked {
    /// True when nothing is wrong.
    pub ok: bool,
    /// What is wrong, a sentence each; at most 100.
    pub findings: Vec<String>,
    /// How many tasks were looked at.
    pub tasks: u64,
    /// How many nodes were looked at.
    pub nodes: u64,
    /// How many journal entries were looked at.
    pub events: u64,
}

/// The database was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Restored {
    /// The backup.
    pub path: String,
    /// The newest journal entry that came from it.
    pub backup_last_seq: i64,
    /// Where the journal goes on: above every number given before, so that fencing numbers only grow.
    pub next_seq: i64,
}

/// A session was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueuedSession {
    /// Its id.
    pub session_id: SessionId,
}

/// A page of sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionList {
    /// The sessions, newest first.
    pub sessions: Vec<SessionInfo>,
    /// Where the next page begins, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A page of a transcript.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TranscriptPage {
    /// What was written, in order. An offset that does not follow from the piece before means that what is
    /// between was not kept.
    pub chunks: Vec<TranscriptChunk>,
    /// Where to go on.
    pub next_offset: u64,
    /// How many bytes before `next_offset` of those asked for were not kept.
    pub missing_bytes: u64,
    /// True when nothing comes after `next_offset`: the session is over.
    pub ended: bool,
}

/// The agents that are declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentList {
    /// They, by name.
    pub agents: Vec<AgentInfo>,
}

/// What reading the configuration again changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// The file.
    pub path: String,
    /// Agents that were not declared before.
    pub added: Vec<String>,
    /// Agents that are declared differently. Sessions that run keep what they began with.
    pub changed: Vec<String>,
    /// Agents that are no longer declared.
    pub removed: Vec<String>,
    /// Plugins that are new, declared differently, or gone. Sessions that run keep what they began with.
    #[serde(default)]
    pub plugins: Vec<String>,
    /// Settings that differ from those agentd was started with, and take effect when it is started again.
    pub need_restart: Vec<String>,
}
