//! Of the worktrees that sessions left.

use crate::ids::SessionId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The worktrees of sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorktreeList {
    /// Oldest session first; at most 2,000.
    pub worktrees: Vec<WorktreeInfo>,
    /// How many more there are.
    #[serde(default)]
    pub omitted: u64,
}

/// A session's worktree, or what is left of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorktreeInfo {
    /// The session.
    pub session_id: SessionId,
    /// Its agent.
    pub agent: String,
    /// `running`: the session is not over. `uncommitted`: there are changes that are not committed. `unmerged`: commits are
    /// on no branch but its own. `merged`: all commits are on another branch. `unchanged`, `gone`: there is nothing.
    /// `unreadable`: the note says why nothing is known.
    pub state: String,
    /// The git directory of the workspace's repository.
    pub repository: String,
    /// Where the files are; absent when they are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The session's branch, when it is in the workspace's repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Paths with changes that are not committed.
    pub uncommitted: u64,
    /// Commits that are on no branch but its own.
    pub unmerged: u64,
    /// What is kept of it besides its branch.
    #[serde(default)]
    pub saved: Vec<SavedWork>,
    /// What else there is to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Work that is kept under a name in a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SavedWork {
    /// The whole name, such as `refs/agentd/reviewer/0123456789ab/0123456789ab`.
    pub reference: String,
    /// The commit.
    pub commit: String,
    /// What it was to the agent: a branch's name, a stash, uncommitted changes.
    pub what: String,
}

/// What a pruning came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrunedWorktrees {
    /// One for each worktree that was looked at.
    pub worktrees: Vec<PrunedWorktree>,
}

/// What became of one worktree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrunedWorktree {
    /// The session.
    pub session_id: SessionId,
    /// What it was, as in [`WorktreeInfo::state`].
    pub state: String,
    /// Nothing is left of it.
    pub removed: bool,
    /// Its files are gone.
    pub files_removed: bool,
    /// The branch that is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// What is kept of it besides.
    #[serde(default)]
    pub saved: Vec<SavedWork>,
    /// Commits whose names were removed although they are on no branch: `git branch NAME COMMIT` gets one back, until git
    /// collects what has no name.
    #[serde(default)]
    pub forgotten: Vec<String>,
    /// Why it, or a part of it, is there still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
