//! Of agents and their sessions.

use super::{Params, agent_name, idempotency_key, length, page, within};
use crate::ids::{SessionId, TaskId};
use crate::json::Json;
use crate::limits;
use crate::node::null_is_default;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

/// Removes worktrees that sessions left.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PruneWorktrees {
    /// The sessions whose worktrees are meant; all that are over when it is empty. At most 1,000.
    #[serde(default, deserialize_with = "null_is_default")]
    pub session_ids: Vec<SessionId>,
    /// Also what is nowhere else: changes that are not committed are kept under a name in the repository and the files
    /// go; where only names are left, they go.
    #[serde(default)]
    pub force: bool,
}

impl Params for PruneWorktrees {
    fn check(&self) -> Result<(), String> {
        within(
            "the number of session_ids",
            Some(self.session_ids.len() as u64),
            0,
            1000,
        )
    }
}

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
