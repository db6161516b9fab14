//! What people are told of worktrees.

use super::super::workspace::{WorkspaceOutcome, WorkspaceReport};
use super::finish::Work;
use super::{Saved, Worktree, command_line};
use agentd_protocol::SessionId;
use agentd_supervisor::shell;
use std::path::{Path, PathBuf};

/// Work that was to be merged and is not: why, where it is, and how it gets there.
pub(super) fn unmerged(
    worktree: &Worktree,
    branch: Option<&str>,
    outcome: WorkspaceOutcome,
    why: String,
) -> WorkspaceReport {
    // Git would write over files that the workspace ignores.
    let by_hand = branch.filter(|_| worktree.base_branch.is_some()).map(|branch| {
        let command = format!("merge --no-overwrite-ignore {}", shell::word(branch));
        format!(
            ". To merge by hand{}: {}",
            by_owner(worktree),
            command_line(&worktree.workspace, &command)
        )
    });
    let message = format!(
        "not merged: {why}; {}{}",
        place(worktree, branch, &[]),
        by_hand.unwrap_or_default()
    );
    WorkspaceReport {
        reason: Some(why),
        ..worktree.report(outcome, message)
    }
}

/// Where a worktree that stays is, and what is in it.
pub(super) fn kept(worktree: &Worktree, work: &Work, branch: Option<&str>) -> String {
    place(worktree, branch, &work.changed)
}

/// Where a worktree that stays is, where its commits are, and what is not committed.
fn place(worktree: &Worktree, branch: Option<&str>, changed: &[Vec<u8>]) -> String {
    let mut said = format!("the worktree {} is there", worktree.path.display());
    if let Some(branch) = branch {
        said.push_str(&format!(
            ", and its commits are on the branch {branch} of {}",
            worktree.repository.display()
        ));
    }
    if !changed.is_empty() {
        said.push_str(&format!("; {} not committed", changes(changed)));
    }
    said.push_str(&kept_names(worktree));
    let euid = rustix::process::geteuid();
    if euid.is_root() && worktree.uid != 0 {
        said.push_str(&format!(
            "; it belongs to user {}: as another one, `{}` looks at it",
            worktree.uid,
            foreign_status(&worktree.path)
        ));
    }
    said
}

/// Git refuses to work in what belongs to another user, and what it made there would be that user's.
fn by_owner(worktree: &Worktree) -> String {
    match rustix::process::geteuid().is_root() && worktree.uid != 0 {
        true => format!(" (as user {})", worktree.uid),
        false => String::new(),
    }
}

/// Git refuses to look at what belongs to another user, unless it is told that this is meant.
fn foreign_status(path: &Path) -> String {
    let path = shell::word(path);
    format!("git -c safe.directory={path} -C {path} status")
}

/// The first of the changed paths, and how many there are.
pub(super) fn changes(changed: &[Vec<u8>]) -> String {
    const SHOWN: usize = 3;
    let names: Vec<_> = changed
        .iter()
        .take(SHOWN)
        .map(|name| String::from_utf8_lossy(name))
        .collect();
    let names = names.join(", ");
    match changed.len() {
        1 => format!("{names} is"),
        count if count <= SHOWN => format!("{names} are"),
        count => format!("{names} and {} more paths are", count - SHOWN),
    }
}

/// The names that are kept besides the branch, with the command that makes a branch of each.
pub(super) fn kept_names(worktree: &Worktree) -> String {
    let one = |saved: &Saved| {
        let short: String = saved.commit.chars().take(12).collect();
        let command = format!("branch recovered-{short} {}", shell::word(&saved.reference));
        format!(
            "; {} as {}: `{}` makes a branch of it{}",
            saved.what,
            saved.reference,
            command_line(&worktree.repository, &command),
            by_owner(worktree)
        )
    };
    worktree.saved.iter().map(one).collect()
}

/// What is left of a worktree whose session is removed; `has_branch`: its branch is in the repository.
pub(super) fn left(session: SessionId, worktree: &Worktree, has_branch: bool) -> String {
    let what = if worktree.path.exists() {
        format!(
            "its worktree {}, which has work that is nowhere else: `agentd worktrees prune --force {session}` keeps that \
             under a name and removes the files",
            worktree.path.display()
        )
    } else {
        format!(
            "its commits in {}, which are on no other branch",
            worktree.repository.display()
        )
    };
    let branch = match has_branch {
        true => format!("; its branch {}", worktree.branch),
        false => String::new(),
    };
    format!("{what}{branch}{}", kept_names(worktree))
}

pub(super) fn stays_for(worktree: &Worktree, nested: &[PathBuf]) -> String {
    let name = nested
        .first()
        .map(|path| path.display().to_string())
        .unwrap_or_default();
    format!(
        "; the worktree {} stays, since {name} is a repository of its own, which may have work that is nowhere else",
        worktree.path.display()
    )
}

pub(super) fn many(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
