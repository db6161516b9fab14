//! Where an agent works: a directory as it is, or a worktree that is made for the session.

use super::error::StepError;
use crate::runtime::engine::Owner;
use agentd_config::Agent;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Finds an agent's workspace, and whom it belongs to. None when it declares none.
///
/// # Errors
/// When it is not there, or is no directory, or cannot be looked into.
pub fn find(agent: &Agent) -> Result<Option<Owner>, StepError> {
    let Some(declared) = &agent.workspace else {
        return Ok(None);
    };
    look(&agent.name, declared).map(Some)
}

fn look(agent: &str, declared: &Path) -> Result<Owner, StepError> {
    let shown = declared.display();
    let wrong =
        |what: String| StepError::declaration(format!("the workspace {shown} of agent {agent} {what}"));
    let path = declared
        .canonicalize()
        .map_err(|error| wrong(format!("cannot be found: {error}")))?;
    let metadata = path
        .metadata()
        .map_err(|error| wrong(format!("cannot be looked at: {error}")))?;
    if !metadata.is_dir() {
        return Err(wrong("is not a directory".into()));
    }
    std::fs::read_dir(&path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    Ok(Owner {
        path,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

/// What became of a session's worktree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkspaceReport {
    /// In one word.
    pub outcome: WorkspaceOutcome,
    /// The branch that was made for the session.
    pub branch: String,
    /// The same for people, with what there is to do.
    pub message: String,
}

/// See [`WorkspaceReport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkspaceOutcome {
    /// Worktree and branch are there.
    Kept,
    /// Worktree and branch are gone, with whatever was in them.
    Dropped,
    /// What was committed is in the branch that it began from; worktree and branch are gone.
    Merged,
    /// Nothing had been changed; worktree and branch are gone.
    Unchanged,
    /// Both sides changed the same: they are as they were.
    Conflict,
}

impl WorkspaceOutcome {
    /// The word, for the journal.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Dropped => "dropped",
            Self::Merged => "merged",
            Self::Unchanged => "unchanged",
            Self::Conflict => "conflict",
        }
    }
}
