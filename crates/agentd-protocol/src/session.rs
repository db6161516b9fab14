//! Sessions: executions of agents, from trigger to teardown.

use crate::ids::{NodeId, SessionId, TaskId};
use crate::json::Json;
use crate::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a session stands.
///
/// ```text
///   QUEUED ─▶ SETUP ─▶ STARTING ─▶ RUNNING ─▶ TEARDOWN ─▶ ENDED
///     │ ▲       │ │       │  │                  ▲           ▲
///     │ └───────┴─│───────┘  └──────────────────┤           │
///     │  agentd   └─────────────────────────────┘           │
///     │  ended before the   a failed set-up is torn         │
///     │  agent could begin  down, too                       │
///     └── cancelled while queued ───────────────────────────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum SessionPhase {
    /// Durable, and waiting for its turn. Nothing exists of it but its row.
    Queued,
    /// Its environment is being built. The agent has not begun, and can begin no other way than by STARTING.
    Setup,
    /// Handed to its supervisor: from here on the agent may have begun, so it is never begun again.
    Starting,
    /// The agent runs.
    Running,
    /// What set-up built is being taken down.
    Teardown,
    /// Over; its outcome is there.
    Ended,
}

impl SessionPhase {
    /// All of them, in the order of a session's life.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Setup,
        Self::Starting,
        Self::Running,
        Self::Teardown,
        Self::Ended,
    ];

    /// The name on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Setup => "SETUP",
            Self::Starting => "STARTING",
            Self::Running => "RUNNING",
            Self::Teardown => "TEARDOWN",
            Self::Ended => "ENDED",
        }
    }

    /// The inverse of [`SessionPhase::as_str`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == name)
    }
}

impl fmt::Display for SessionPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeReason {
    /// The agent ended by itself, and well.
    Completed,
    /// The agent ended by itself, and said that it failed: with an exit status other than 0, or in its result.
    Failed,
    /// It took longer than its configuration allows, and was ended.
    TimedOut,
    /// Somebody asked for its end.
    Cancelled,
    /// A signal ended the agent that did not come from agentd.
    Crashed,
    /// The agent did not begin; the message names the step that failed.
    SetupFailed,
    /// The kernel ended it because it used more memory than it may.
    OutOfMemory,
    /// What became of it cannot be known: its supervisor was killed, or the machine went down.
    Lost,
}

impl OutcomeReason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Completed,
        Self::Failed,
        Self::TimedOut,
        Self::Cancelled,
        Self::Crashed,
        Self::SetupFailed,
        Self::OutOfMemory,
        Self::Lost,
    ];

    /// The name on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Crashed => "crashed",
            Self::SetupFailed => "setup_failed",
            Self::OutOfMemory => "out_of_memory",
            Self::Lost => "lost",
        }
    }

    /// The inverse of [`OutcomeReason::as_str`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

impl fmt::Display for OutcomeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionOutcome {
    /// Why it is over.
    pub reason: OutcomeReason,
    /// The agent's exit status, 0 to 255, when it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The number of the signal that ended the agent, when one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// More, for people: the step that failed, what was left behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What the agent left as its result, or what stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Json>,
}

/// What kind of thing began a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TriggerKind {
    /// Somebody asked for it.
    Manual,
    /// A node became ready.
    Node,
}

impl TriggerKind {
    /// The name on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Node => "node",
        }
    }

    /// The inverse of [`TriggerKind::as_str`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Manual, Self::Node]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

/// What began a session, and what it says about why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Trigger {
    /// What kind of thing.
    pub kind: TriggerKind,
    /// An object whose members the agent's prompt can name: `{{ trigger.ref }}`.
    #[serde(default)]
    pub context: Json,
}

/// A session as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionInfo {
    /// Its id.
    pub id: SessionId,
    /// The agent that it is an execution of.
    pub agent: String,
    /// Which of the agent's replicas, from 0 on. Null until one is free for it.
    pub replica: Option<u32>,
    /// What kind of runtime it runs in: `podman`, `process`. Null until set-up.
    pub runtime: Option<String>,
    /// Where it stands.
    pub phase: SessionPhase,
    /// What began it.
    pub trigger: Trigger,
    /// The prompt that it was given instead of its agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The task of the node that it works on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// The node that it works on, under a lease of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When its set-up began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup_at: Option<Timestamp>,
    /// When the agent began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the agent ended, or set-up failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exited_at: Option<Timestamp>,
    /// When it was over, teardown included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Why its end was asked for, once it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_requested: Option<String>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<SessionOutcome>,
}

/// Where output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of a transcript.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TranscriptChunk {
    /// How many bytes of output came before it, of both streams.
    pub offset: u64,
    /// When it was written.
    pub timestamp: Timestamp,
    /// To where.
    pub stream: OutputStream,
    /// The output, when it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The output in base64, when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

/// What a runtime can do. Every surface offers only what is declared here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RuntimeCapabilities {
    /// Another agent's files, secrets and processes cannot be reached.
    pub isolation: bool,
    /// The network of a session can be chosen.
    pub network_policy: bool,
    /// Memory, processors and processes can be limited.
    pub limits: bool,
    /// Output is kept and can be followed.
    pub logs: bool,
    /// A session can be ended before its agent ends.
    pub stop: bool,
    /// A session survives the daemon.
    pub adopt: bool,
    /// A person can attach a terminal.
    pub attach: bool,
    /// A command can be run inside a session.
    pub exec: bool,
    /// Files can be put into a session and taken out.
    pub files: bool,
    /// A session can be suspended and resumed.
    pub resume: bool,
}

/// A declared agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentInfo {
    /// Its name.
    pub name: String,
    /// What kind of runtime its sessions run in.
    pub runtime: String,
    /// What its runtime can do.
    pub runtime_capabilities: RuntimeCapabilities,
    /// How it is driven.
    pub harness: String,
    /// How many replicas it has.
    pub replicas: u32,
    /// How many sessions it may have at once, all replicas together.
    pub max_sessions: u32,
    /// What nodes may ask for.
    pub capabilities: Vec<String>,
    /// Sessions that are between SETUP and TEARDOWN.
    pub running: u32,
    /// Sessions that wait for their turn.
    pub queued: u32,
}
