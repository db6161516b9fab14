//! Where an agent works: a directory as it is, or a worktree that is made for the session.

use super::error::StepError;
use crate::runtime::engine::Owner;
use agentd_config::Agent;
use agentd_protocol::Json;
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
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
    /// The branch in the workspace's repository that has the session's commits; absent when there are none, or they are
    /// merged and the branch is gone.
    pub branch: Option<String>,
    /// The same for people, with what there is to do.
    pub message: String,
    /// Why its commits, or changes, were not merged although its policy says so.
    pub reason: Option<String>,
    /// Paths with changes that are not committed.
    pub changed: u64,
    /// What is kept of commits that were not on the branch, although it was merged.
    pub beside: u64,
}

impl WorkspaceReport {
    /// True when nothing of it needs a person's attention.
    #[must_use]
    pub fn is_expected(&self) -> bool {
        self.reason.is_none()
            && self.outcome != WorkspaceOutcome::Conflict
            && self.changed == 0
            && self.beside == 0
    }

    /// A result, or an error, with what became of the worktree: `branch`, `merged`, `reason` (why not, though it was to
    /// be) and `uncommitted` (a number of paths). Members that are there stay, and what is no object has none.
    #[must_use]
    pub fn add_to(&self, result: &Json) -> Json {
        let Ok(there) = serde_json::from_str::<BTreeMap<String, &RawValue>>(result.text()) else {
            return result.clone();
        };
        let merged = match self.outcome {
            WorkspaceOutcome::Merged => Some(true),
            WorkspaceOutcome::Unchanged => None,
            _ => (self.branch.is_some() || self.reason.is_some()).then_some(false),
        };
        let members = [
            ("branch", self.branch.as_ref().map(|branch| json!(branch))),
            ("merged", merged.map(|merged| json!(merged))),
            ("reason", self.reason.as_ref().map(|reason| json!(reason))),
            ("uncommitted", (self.changed > 0).then(|| json!(self.changed))),
        ];
        // As text: numbers keep their digits.
        let text = result.text().trim_end();
        let mut text = text.strip_suffix('}').unwrap_or(text).to_owned();
        let mut first = there.is_empty();
        for (name, value) in members {
            let Some(value) = value.filter(|_| !there.contains_key(name)) else {
                continue;
            };
            text.push_str(if first { "" } else { "," });
            text.push_str(&format!("\"{name}\":{value}"));
            first = false;
        }
        text.push('}');
        Json::from_text(text).unwrap_or_else(|_| result.clone())
    }
}

/// See [`WorkspaceReport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkspaceOutcome {
    /// Worktree and branch are there.
    Kept,
    /// The worktree is gone; what was changed in it is kept under a name in the repository.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_says_what_became_of_the_worktree_and_stays_as_it_was() {
        let report = WorkspaceReport {
            outcome: WorkspaceOutcome::Kept,
            branch: Some("agentd/a/1".into()),
            message: String::new(),
            reason: Some("main has changes".into()),
            changed: 2,
            beside: 0,
        };
        let added = |text: &str| {
            report
                .add_to(&Json::from_text(text.into()).unwrap())
                .text()
                .to_owned()
        };
        let members = r#""branch":"agentd/a/1","merged":false,"reason":"main has changes","uncommitted":2}"#;
        assert_eq!(added("{}"), format!("{{{members}"));
        assert_eq!(
            added(r#"{"n": 1.50, "o": {}}"#),
            format!(r#"{{"n": 1.50, "o": {{}},{members}"#)
        );
        assert_eq!(added("[1]"), "[1]");
        let own = added(r#"{"branch":"mine"}"#);
        assert!(own.starts_with(r#"{"branch":"mine","merged":false"#), "{own}");
        let merged = WorkspaceReport {
            outcome: WorkspaceOutcome::Merged,
            branch: None,
            reason: None,
            changed: 0,
            beside: 0,
            message: String::new(),
        };
        assert_eq!(merged.add_to(&Json::empty_object()).text(), r#"{"merged":true}"#);
    }
}
