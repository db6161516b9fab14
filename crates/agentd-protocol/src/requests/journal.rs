//! Of the journal.

use super::{Params, name, page, within};
use crate::ids::{NodeId, SessionId, TaskId};
use crate::limits;
use crate::node::null_is_default;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
