//! The parameters of every method, with the bounds that they are held to.

use crate::ids::{LeaseId, NodeId, SessionId, TaskId};
use crate::json::Json;
use crate::limits;
use crate::node::{NodeSpec, NodeStatus, TaskState, null_is_default};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Parameters that a client may have sent.
pub trait Params {
    /// Checks what types cannot say: lengths, ranges, counts.
    ///
    /// # Errors
    /// A sentence that names the field and the bound.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

fn length(field: &str, text: &str, bytes_max: usize) -> Result<(), String> {
    if text.len() > bytes_max {
        return Err(format!(
            "{field} has {} bytes; at most {bytes_max} are allowed",
            text.len()
        ));
    }
    Ok(())
}

fn name(field: &str, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("{field} is empty"));
    }
    length(field, text, limits::NAME_BYTES_MAX)
}

/// Checks an agent's name: it becomes the name of a directory and of a home.
///
/// # Errors
/// A sentence that says what a name may be.
pub fn agent_name(text: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if text.is_empty()
        || text.len() > limits::AGENT_NAME_BYTES_MAX
        || !text.chars().all(allowed)
        || !text.starts_with(|c: char| c.is_ascii_lowercase())
    {
        return Err(format!(
            "{text:?} cannot be an agent's name: 1 to {} of a-z, 0-9, - and _, beginning with a letter",
            limits::AGENT_NAME_BYTES_MAX
        ));
    }
    Ok(())
}

fn within(field: &str, value: Option<u64>, min: u64, max: u64) -> Result<(), String> {
    match value {
        Some(value) if !(min..=max).contains(&value) => {
            Err(format!("{field} is {value}; it must be between {min} and {max}"))
        }
        _ => Ok(()),
    }
}

fn lease_secs(field: &str, value: Option<u64>) -> Result<(), String> {
    within(field, value, limits::LEASE_SECS_MIN, limits::LEASE_SECS_MAX)
}

fn page(limit: Option<u32>) -> Result<(), String> {
    within("limit", limit.map(u64::from), 1, u64::from(limits::PAGE_MAX))
}

fn capabilities(names: &[String]) -> Result<(), String> {
    if names.len() > limits::CAPABILITIES_MAX {
        return Err(format!(
            "capabilities has {} names; at most {} are allowed",
            names.len(),
            limits::CAPABILITIES_MAX
        ));
    }
    for capability in names {
        name("a capability", capability)?;
        if capability.contains(|c: char| c.is_control() || c == ',') {
            return Err(format!(
                "the capability {capability:?} contains a comma or a control character"
            ));
        }
    }
    Ok(())
}

fn idempotency_key(key: Option<&String>) -> Result<(), String> {
    match key {
        Some(key) if key.is_empty() => Err("idempotency_key is empty".into()),
        Some(key) => length("idempotency_key", key, limits::IDEMPOTENCY_KEY_BYTES_MAX),
        None => Ok(()),
    }
}

fn nodes(field: &str, specs: &[NodeSpec]) -> Result<(), String> {
    if specs.len() > limits::NODES_PER_REQUEST_MAX {
        return Err(format!(
            "{field} has {} nodes; at most {} are allowed in one request (add the others with AddNodes)",
            specs.len(),
            limits::NODES_PER_REQUEST_MAX
        ));
    }
    for spec in specs {
        if let Some(text) = &spec.name {
            name("a node's name", text)?;
        }
        capabilities(&spec.capabilities)?;
        if let Some(retry) = spec.retry {
            within(
                "max_attempts",
                Some(retry.max_attempts.into()),
                1,
                limits::ATTEMPTS_MAX.into(),
            )?;
            let max_ms = limits::BACKOFF_SECS_MAX * 1000;
            if retry.backoff_secs.ms > max_ms || retry.backoff_max_secs.is_some_and(|secs| secs.ms > max_ms) {
                return Err(format!(
                    "a backoff is longer than {} seconds",
                    limits::BACKOFF_SECS_MAX
                ));
            }
        }
        let command = match &spec.work {
            Some(crate::node::Work::Command(command)) => Some(command),
            Some(crate::node::Work::Agent(work)) => work.command.as_ref(),
            None => None,
        };
        if let Some(crate::node::Work::Agent(work)) = &spec.work {
            if let Some(path) = work
                .read
                .iter()
                .find(|path| !path.starts_with('/') || path.contains('\0'))
            {
                return Err(format!(
                    "what a session is to read must be an absolute path, not {path:?}"
                ));
            }
            if let Some(agent) = &work.agent {
                agent_name(agent)?;
            }
            length(
                "a node's prompt",
                work.prompt.as_deref().unwrap_or_default(),
                limits::PROMPT_BYTES_MAX,
            )?;
        }
        if let Some(command) = command {
            runnable(command)?;
        }
    }
    Ok(())
}

fn runnable(command: &crate::node::CommandWork) -> Result<(), String> {
    if command.argv.first().is_none_or(String::is_empty) {
        return Err("a command's argv names no program".into());
    }
    if !command.cwd.starts_with('/') {
        return Err(format!(
            "a command's cwd must be an absolute path, not {:?}",
            command.cwd
        ));
    }
    let texts = command
        .argv
        .iter()
        .chain(command.env.keys())
        .chain(command.env.values());
    if texts.chain([&command.cwd]).any(|text| text.contains('\0')) {
        return Err("a command's argv, cwd or env contains a NUL character".into());
    }
    if command.env.keys().any(|key| key.is_empty() || key.contains('=')) {
        return Err("a command's env has a name that is empty or contains '='".into());
    }
    Ok(())
}

/// A method without parameters. Whatever is sent is ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NoParams {}

impl Params for NoParams {}

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

/// Shows one node, whole.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GetNode {
    /// The task.
    pub task_id: TaskId,
    /// The node.
    pub node_id: NodeId,
}

impl Params for GetNode {}

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

/// Takes a resource lock.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AcquireResourceLock {
    /// What is locked, by agreement among those who use it: `file:/srv/repo/src/lib.rs`.
    pub resource_key: String,
    /// Who asks; `anonymous` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Whose agent it is (a maker's name, by convention).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// How long the lock lasts without a heartbeat, in seconds; the daemon's node timeout when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub ttl_secs: Option<u64>,
    /// The task that it is taken for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// The node that it is taken for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// Anything that helps others to see what is going on.
    #[serde(default, deserialize_with = "null_is_default")]
    pub metadata: Json,
    /// How long to wait for the lock before answering null, in seconds; 0 when absent. Waiters are served
    /// in the order in which they came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 3600))]
    pub wait_secs: Option<u64>,
}

impl Params for AcquireResourceLock {
    fn check(&self) -> Result<(), String> {
        if self.resource_key.is_empty() {
            return Err("resource_key is empty".into());
        }
        length("resource_key", &self.resource_key, limits::RESOURCE_KEY_BYTES_MAX)?;
        length(
            "owner",
            self.owner.as_deref().unwrap_or_default(),
            limits::NAME_BYTES_MAX,
        )?;
        length(
            "provider",
            self.provider.as_deref().unwrap_or_default(),
            limits::NAME_BYTES_MAX,
        )?;
        length("metadata", self.metadata.text(), limits::LOCK_METADATA_BYTES_MAX)?;
        within("wait_secs", self.wait_secs, 0, limits::WAIT_SECS_MAX)?;
        lease_secs("ttl_secs", self.ttl_secs)
    }
}

/// Extends a resource lock.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HeartbeatResourceLock {
    /// What is locked.
    pub resource_key: String,
    /// The lock's lease.
    pub lease_id: LeaseId,
    /// How long the lock lasts from now on, in seconds; as long as it was granted for when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub ttl_secs: Option<u64>,
}

impl Params for HeartbeatResourceLock {
    fn check(&self) -> Result<(), String> {
        length("resource_key", &self.resource_key, limits::RESOURCE_KEY_BYTES_MAX)?;
        lease_secs("ttl_secs", self.ttl_secs)
    }
}

/// Gives a resource lock back.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseResourceLock {
    /// What is locked.
    pub resource_key: String,
    /// The lock's lease.
    pub lease_id: LeaseId,
}

impl Params for ReleaseResourceLock {
    fn check(&self) -> Result<(), String> {
        length("resource_key", &self.resource_key, limits::RESOURCE_KEY_BYTES_MAX)
    }
}

/// Lists the locks that are held.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ListResourceLocks {
    /// Only keys that begin so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// At most so many; all of them when absent, as long as they fit in one answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub limit: Option<u32>,
    /// Where to go on: the `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl Params for ListResourceLocks {
    fn check(&self) -> Result<(), String> {
        page(self.limit)
    }
}

/// Which entries of the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JournalFilter {
    /// Only of this task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// Only of this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// Only of this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// Only of these kinds; all when empty.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "Option<Vec<String>>")]
    pub action_types: Vec<String>,
}

impl JournalFilter {
    fn check(&self) -> Result<(), String> {
        if self.action_types.len() > limits::CAPABILITIES_MAX {
            return Err(format!(
                "action_types has more than {} names",
                limits::CAPABILITIES_MAX
            ));
        }
        self.action_types
            .iter()
            .try_for_each(|action| name("an action_type", action))
    }
}

/// Reads the journal, oldest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ReadJournal {
    /// From this `seq` on; from the beginning when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<i64>,
    /// Instead: only the newest so many entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub last: Option<u32>,
    /// At most so many; 500 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub limit: Option<u32>,
    /// Which entries.
    #[serde(flatten)]
    pub filter: JournalFilter,
}

impl Params for ReadJournal {
    fn check(&self) -> Result<(), String> {
        within("last", self.last.map(u64::from), 1, u64::from(limits::PAGE_MAX))?;
        page(self.limit)?;
        self.filter.check()
    }
}

/// Follows the journal: the connection then carries one entry a line, and nothing else.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct SubscribeJournal {
    /// From this `seq` on; only what is new when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<i64>,
    /// Which entries.
    #[serde(flatten)]
    pub filter: JournalFilter,
}

impl Params for SubscribeJournal {
    fn check(&self) -> Result<(), String> {
        self.filter.check()
    }
}

/// Names a file on the daemon's machine.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FileRef {
    /// An absolute path.
    pub path: String,
}

impl Params for FileRef {
    fn check(&self) -> Result<(), String> {
        length("path", &self.path, 4096)?;
        if !self.path.starts_with('/') || self.path.contains('\0') {
            return Err(format!("path must be absolute, not {:?}", self.path));
        }
        Ok(())
    }
}

/// Runs a session of an agent.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RunAgent {
    /// The agent's name.
    pub agent: String,
    /// What it is to do, instead of what its configuration says. No template: it is taken as it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// An object whose members the agent's own prompt can name: `{{ trigger.ref }}`.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Json::is_empty_object"
    )]
    pub context: Json,
    /// The same request with the same key again is the same session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

impl Params for RunAgent {
    fn check(&self) -> Result<(), String> {
        agent_name(&self.agent)?;
        length(
            "prompt",
            self.prompt.as_deref().unwrap_or_default(),
            limits::PROMPT_BYTES_MAX,
        )?;
        if let Some(at) = self.prompt.as_ref().and_then(|prompt| prompt.find('\0')) {
            return Err(format!(
                "prompt has a NUL byte, after {at} others, and no program's argument can have one"
            ));
        }
        if !self.context.text().trim_start().starts_with('{') {
            return Err("context must be an object".into());
        }
        idempotency_key(self.idempotency_key.as_ref())
    }
}

/// Names a session.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SessionRef {
    /// Its id.
    pub session_id: SessionId,
}

impl Params for SessionRef {}

/// Lists sessions, newest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ListSessions {
    /// Only of this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Only those that are over (false: only those that are not).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<bool>,
    /// Only those that worked on a node of this task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// At most so many; 500 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub limit: Option<u32>,
    /// Where to go on: the `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl Params for ListSessions {
    fn check(&self) -> Result<(), String> {
        page(self.limit)
    }
}

/// Asks for a session's end.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StopSession {
    /// The session.
    pub session_id: SessionId,
    /// Why, for the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long the agent has between TERM and KILL, instead of what its configuration says; 0: KILL at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 3600))]
    pub grace_secs: Option<u64>,
}

impl Params for StopSession {
    fn check(&self) -> Result<(), String> {
        length(
            "reason",
            self.reason.as_deref().unwrap_or_default(),
            limits::NAME_BYTES_MAX,
        )?;
        within("grace_secs", self.grace_secs, 0, 3600)
    }
}

/// Reads a session's transcript.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ReadTranscript {
    /// The session.
    pub session_id: SessionId,
    /// From this byte of output on; from the beginning when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_offset: Option<u64>,
    /// At most so many bytes of output; 256 KiB when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_194_304))]
    pub limit_bytes: Option<u64>,
    /// When there is none yet: how long to wait for more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 3600))]
    pub wait_secs: Option<u64>,
}

impl Params for ReadTranscript {
    fn check(&self) -> Result<(), String> {
        within(
            "limit_bytes",
            self.limit_bytes,
            1,
            limits::TRANSCRIPT_PAGE_BYTES_MAX,
        )?;
        within("wait_secs", self.wait_secs, 0, limits::WAIT_SECS_MAX)
    }
}
