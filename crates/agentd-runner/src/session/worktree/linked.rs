//! Worktrees that agentd 0.1 made, as linked worktrees of the workspace's repository: finished and removed as they were
//! made, for sessions that began before.

use super::super::error::StepError;
use super::super::git::{At, Git, words};
use super::super::workspace::{WorkspaceOutcome, WorkspaceReport};
use super::super::{merge, state};
use super::{Ending, RECORD_FILE, Worktree, WorktreeState, Worktrees, source, write_record};
use agentd_config::WorktreePolicy;
use agentd_supervisor::dir::SessionDir;
use std::ffi::OsStr;

impl Worktrees<'_> {
    pub(super) fn finish_linked(
        &self,
        dir: &SessionDir,
        git: &Git,
        mut worktree: Worktree,
        ending: Ending,
    ) -> Result<WorkspaceReport, StepError> {
        let branch = worktree.branch.clone();
        let place = worktree.path.display().to_string();
        let there = format!("the worktree {place} and its branch {branch} are there");
        let state = look(git, dir, &worktree)?;
        let not_merged = |why: String| WorkspaceReport {
            branch: Some(branch.clone()),
            reason: Some(why.clone()),
            ..worktree.report(WorkspaceOutcome::Kept, format!("not merged: {why}; {there}"))
        };
        let report = match (ending.policy, state) {
            (WorktreePolicy::Keep, _) => worktree.report(WorkspaceOutcome::Kept, there),
            (WorktreePolicy::Drop, WorktreeState::Uncommitted) => worktree.report(
                WorkspaceOutcome::Kept,
                format!("{there}: it has changes that are not committed"),
            ),
            (WorktreePolicy::Drop, WorktreeState::Committed) => worktree.report(
                WorkspaceOutcome::Dropped,
                format!("the worktree is removed; its commits are on the branch {branch}"),
            ),
            (WorktreePolicy::Drop, _) => {
                worktree.report(WorkspaceOutcome::Dropped, "the worktree is removed")
            }
            (WorktreePolicy::Merge, WorktreeState::Uncommitted) => {
                not_merged("there are changes that are not committed on its branch".into())
            }
            (WorktreePolicy::Merge, _) if !ending.completed => {
                not_merged("the session did not complete".into())
            }
            (WorktreePolicy::Merge, WorktreeState::Gone) => {
                worktree.report(WorkspaceOutcome::Merged, "it had been removed already")
            }
            (WorktreePolicy::Merge, _) => {
                match source::commit(git, &worktree.repository, &worktree.reference())? {
                    None => not_merged("its branch is gone".into()),
                    Some(tip) if tip == worktree.base => {
                        worktree.report(WorkspaceOutcome::Unchanged, "nothing was committed")
                    }
                    Some(tip) => match merge::merge(git, dir, &worktree, &tip)? {
                        merge::Merge::Done(into) => {
                            worktree.report(WorkspaceOutcome::Merged, format!("merged into {into}"))
                        }
                        merge::Merge::Conflict(why) => WorkspaceReport {
                            outcome: WorkspaceOutcome::Conflict,
                            ..not_merged(why)
                        },
                        merge::Merge::Not(why) => not_merged(why),
                    },
                }
            }
        };
        match report.outcome {
            WorkspaceOutcome::Merged | WorkspaceOutcome::Unchanged => {
                self.remove_linked(dir, git, &worktree)?;
            }
            WorkspaceOutcome::Dropped if state != WorktreeState::Committed => {
                self.remove_linked(dir, git, &worktree)?;
            }
            WorkspaceOutcome::Dropped => {
                self.remove_linked_files(git, &worktree)?;
                worktree.kept = true;
                write_record(dir, &worktree)?;
            }
            WorkspaceOutcome::Kept | WorkspaceOutcome::Conflict => self.keep_linked(dir, git, worktree)?,
        }
        Ok(report)
    }

    fn keep_linked(&self, dir: &SessionDir, git: &Git, mut worktree: Worktree) -> Result<(), StepError> {
        if worktree.kept {
            return Ok(());
        }
        worktree.kept = true;
        write_record(dir, &worktree)?;
        // It is its owner's now. One that cannot be unlocked is not worse than one that is locked.
        let arguments = [
            OsStr::new("worktree"),
            OsStr::new("unlock"),
            worktree.path.as_os_str(),
        ];
        let _locked = self.dirs.lock_repositories()?;
        git.ask(At::Repository(&worktree.repository), &arguments)
            .map(|_| ())
    }

    /// Removes the files, the branch and the record.
    pub(super) fn remove_linked(
        &self,
        dir: &SessionDir,
        git: &Git,
        worktree: &Worktree,
    ) -> Result<(), StepError> {
        self.remove_linked_files(git, worktree)?;
        if merge::is_repository(git, worktree)? {
            let at = At::Repository(&worktree.repository);
            let reference = worktree.reference();
            let there = git.ask(at, &words(["rev-parse", "--verify", "--quiet", &reference]))?;
            if there.code == 0 {
                // Not through it, should an agent have made it lead to another branch.
                git.run(at, &words(["update-ref", "--no-deref", "-d", &reference]))?;
            }
        }
        state::remove_all(&dir.root().join("view"))?;
        state::remove_all(&dir.root().join(RECORD_FILE))
    }

    /// Removes the files, and what the repository knows of them.
    pub(super) fn remove_linked_files(&self, git: &Git, worktree: &Worktree) -> Result<(), StepError> {
        // The files first, and not by git: an agent may have left more than git can bear.
        state::remove_all(&worktree.path)?;
        if !merge::is_repository(git, worktree)? {
            return Ok(());
        }
        let _locked = self.dirs.lock_repositories()?;
        if merge::checkouts(git, worktree)?
            .iter()
            .any(|checkout| checkout.path == worktree.path)
        {
            // Twice: once for what is not committed, once for the lock.
            let mut arguments = words(["worktree", "remove", "--force", "--force"]).to_vec();
            arguments.push(worktree.path.as_os_str());
            git.run(At::Repository(&worktree.repository), &arguments)?;
        }
        Ok(())
    }
}

/// What a linked worktree has that is nowhere else.
pub(super) fn look(git: &Git, dir: &SessionDir, worktree: &Worktree) -> Result<WorktreeState, StepError> {
    let without_branch = || match worktree.path.exists() {
        // What is in the files is the last there is.
        true => WorktreeState::Uncommitted,
        false => WorktreeState::Gone,
    };
    if !merge::is_repository(git, worktree)? {
        return Ok(without_branch());
    }
    let Some(tip) = source::commit(git, &worktree.repository, &worktree.reference())? else {
        return Ok(without_branch());
    };
    if worktree.path.exists() && !is_committed(git, dir, worktree, &tip)? {
        return Ok(WorktreeState::Uncommitted);
    }
    if tip == worktree.base {
        return Ok(WorktreeState::Unchanged);
    }
    let target = match &worktree.base_branch {
        Some(branch) => source::commit(git, &worktree.repository, &format!("refs/heads/{branch}"))?,
        None => Some(worktree.base.clone()),
    };
    let view = merge::view(git, dir, worktree, &tip)?;
    match target {
        Some(target) if merge::is_ancestor(git, &view, &tip, &target)? => Ok(WorktreeState::Merged),
        _ => Ok(WorktreeState::Committed),
    }
}

/// True when all that is in a worktree is in its branch's last commit.
fn is_committed(git: &Git, dir: &SessionDir, worktree: &Worktree, tip: &str) -> Result<bool, StepError> {
    let Some(admin) = merge::admin(git, worktree, &worktree.path)? else {
        return Ok(false);
    };
    let view = merge::view(git, dir, worktree, tip)?.with_files(&worktree.path, &admin.join("index"));
    merge::is_clean(git, &view, true)
}
