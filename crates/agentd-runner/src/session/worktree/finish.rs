//! The end of a session's worktree: the agent's work gets names, then its policy decides what becomes of the files.

use super::super::error::StepError;
use super::super::git::{At, Git, words};
use super::super::tree::{self, Budget, Progress};
use super::super::workspace::{WorkspaceOutcome, WorkspaceReport};
use super::super::{merge, state};
use super::copy::Copy;
use super::messages::{changes, kept, kept_names, many, stays_for, unmerged};
use super::save::Saving;
use super::{RECORD_FILE, Worktree, Worktrees, read_record, repository, source, write_record};
use agentd_config::WorktreePolicy;
use agentd_protocol::SessionId;
use agentd_supervisor::dir::SessionDir;
use std::path::PathBuf;

/// What is to become of a worktree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// As the agent's declaration says.
    pub policy: WorktreePolicy,
    /// The session completed; otherwise nothing is merged.
    pub completed: bool,
    /// What the agent did not commit is committed on its branch.
    pub commit_changes: bool,
}

/// What an agent made, seen when it is gone.
pub(super) struct Work {
    pub(super) copy: Copy,
    /// Paths with changes that are not committed.
    pub(super) changed: Vec<Vec<u8>>,
    /// Repositories of their own among its files, which nothing here can look into.
    pub(super) nested: Vec<PathBuf>,
    /// The commit that its branch came to.
    pub(super) tip: String,
}

impl Worktrees<'_> {
    /// Does with a session's worktree what its policy says. May be called again after a crash at any point.
    ///
    /// # Errors
    /// When git or the file system refuses; then nothing is removed.
    pub fn finish(&self, session: SessionId, ending: Ending) -> Result<Option<WorkspaceReport>, StepError> {
        let dir = self.dirs.session(session);
        let Some(mut worktree) = read_record(&dir)? else {
            return Ok(None);
        };
        let git = self.git.for_owner((worktree.uid, worktree.gid));
        if worktree.is_linked() {
            return self.finish_linked(&dir, &git, worktree, ending).map(Some);
        }
        if !worktree.path.exists() {
            let report = gone(&worktree, ending);
            self.close(&dir, &git, worktree)?;
            return Ok(Some(report));
        }
        let mut work = self.take_back(&git, &dir, &mut worktree)?;
        // Where the agent took the repository away, what is left of that may be among the files.
        let committed = ending.commit_changes && !work.changed.is_empty() && work.copy.has_repository();
        if committed {
            self.commit_changes(&git, session, &dir, &worktree, &mut work)?;
        }
        let hidden = ending.policy == WorktreePolicy::Drop;
        let branch = self.save(&git, session, &dir, &mut worktree, &work, hidden)?;
        let mut report = match ending.policy {
            WorktreePolicy::Drop => self.drop_files(&git, session, &dir, &mut worktree, &work)?,
            WorktreePolicy::Keep => {
                worktree.report(WorkspaceOutcome::Kept, kept(&worktree, &work, branch.as_deref()))
            }
            WorktreePolicy::Merge if !ending.completed => WorkspaceReport {
                // What the session came to says it already.
                reason: None,
                ..unmerged(
                    &worktree,
                    branch.as_deref(),
                    WorkspaceOutcome::Kept,
                    "the session did not complete".into(),
                )
            },
            WorktreePolicy::Merge => merged(&git, &dir, &worktree, &work, branch.as_deref())?,
        };
        report.branch = report.branch.or(branch);
        let files_go = match report.outcome {
            WorkspaceOutcome::Kept | WorkspaceOutcome::Conflict => false,
            WorkspaceOutcome::Merged | WorkspaceOutcome::Unchanged if !work.nested.is_empty() => {
                report.message.push_str(&stays_for(&worktree, &work.nested));
                false
            }
            WorkspaceOutcome::Dropped | WorkspaceOutcome::Merged | WorkspaceOutcome::Unchanged => true,
        };
        if files_go {
            worktree.removing = true;
            write_record(&dir, &worktree)?;
            state::remove_all(&worktree.path)?;
            if matches!(
                report.outcome,
                WorkspaceOutcome::Merged | WorkspaceOutcome::Unchanged
            ) {
                report.branch = None;
                self.remove_branch(&git, &worktree, &work.tip)?;
                report.beside = worktree.saved.len() as u64;
                report.message.push_str(&kept_names(&worktree));
            }
            self.close(&dir, &git, worktree)?;
        } else {
            report.changed = work.changed.len() as u64;
            renew(&git, &dir, &worktree, &work, committed)?;
            worktree.kept = true;
            write_record(&dir, &worktree)?;
        }
        Ok(Some(report))
    }

    /// Removes what set-up made for an agent that never began.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn discard(&self, session: SessionId) -> Result<(), StepError> {
        let dir = self.dirs.session(session);
        let Some(worktree) = read_record(&dir)? else {
            return Ok(());
        };
        if worktree.is_linked() {
            let git = self.git.for_owner((worktree.uid, worktree.gid));
            return self.remove_linked(&dir, &git, &worktree);
        }
        state::remove_all(&worktree.path)?;
        self.clear(&dir)
    }

    /// Gives the files to the repository's owner, and looks at what the agent made of them.
    pub(super) fn take_back(
        &self,
        git: &Git,
        dir: &SessionDir,
        worktree: &mut Worktree,
    ) -> Result<Work, StepError> {
        if let Some((uid, _)) = worktree.user {
            let owner = (worktree.uid, worktree.gid);
            let kept = tree::give(&worktree.path, uid, owner, Budget::entries(tree::ENTRIES_MAX))?;
            if kept > 0 {
                let path = worktree.path.display();
                tracing::warn!(%path, kept, "files of a worktree have names outside of it as well, and stay its agent's");
            }
            worktree.user = None;
            write_record(dir, worktree)?;
        }
        let copy = Copy::read(git, dir, worktree)?;
        let changed = copy.changed(git, dir, worktree)?;
        let nested = copy.nested(git, dir, worktree)?;
        let tip = match (&copy.tip, &copy.head) {
            (Some(tip), Some(head)) if tip != head => {
                // An agent that went on on a branch of its own, or on none, has worked all the same.
                let view = copy.view(git, dir, worktree, &worktree.base)?;
                if merge::is_ancestor(git, &view, tip, head)? {
                    head
                } else {
                    tip
                }
            }
            (Some(tip), _) => tip,
            (None, Some(head)) => head,
            (None, None) => &worktree.base,
        };
        Ok(Work {
            tip: tip.clone(),
            changed,
            nested,
            copy,
        })
    }

    /// Commits what is not committed on top of what is checked out.
    fn commit_changes(
        &self,
        git: &Git,
        session: SessionId,
        dir: &SessionDir,
        worktree: &Worktree,
        work: &mut Work,
    ) -> Result<(), StepError> {
        let parent = work.copy.head.clone().unwrap_or_else(|| worktree.base.clone());
        let saving = Saving::new(git, dir, session, worktree, &work.copy);
        let commit = saving.commit_changes(&parent)?;
        if work.tip == parent {
            work.tip.clone_from(&commit);
        }
        work.copy.names.push(("HEAD".into(), commit.clone()));
        work.copy.head = Some(commit);
        work.changed.clear();
        Ok(())
    }

    /// Brings an agent's commits over, each under a name. Gives the session's branch, when it has commits and a name.
    pub(super) fn save(
        &self,
        git: &Git,
        session: SessionId,
        dir: &SessionDir,
        worktree: &mut Worktree,
        work: &Work,
        hidden: bool,
    ) -> Result<Option<String>, StepError> {
        let record = worktree.clone();
        let saving = Saving::new(git, dir, session, &record, &work.copy);
        let mut others = work.copy.unsaved(git, dir, worktree)?;
        let tip_is_new = work.tip != worktree.base;
        let mut objects: Vec<String> = others.iter().map(|(_, object)| object.clone()).collect();
        if tip_is_new {
            objects.push(work.tip.clone());
        }
        if objects.is_empty() {
            return Ok(None);
        }
        saving.bring_over(&objects)?;
        let mut branch = None;
        if tip_is_new && !hidden {
            let name = saving.branch()?;
            if saving.set_branch(&name, &work.tip)? {
                worktree.branch.clone_from(&name);
                branch = Some(name);
            }
        }
        if tip_is_new && branch.is_none() {
            others.push((record.reference(), work.tip.clone()));
        }
        let tip = work.tip.as_str();
        for (name, object) in others {
            let of_branch = branch.is_some() && saving.is_ancestor(&object, tip)?;
            let known = worktree.saved.iter().any(|saved| saved.commit == object);
            if !of_branch && !known {
                let saved = saving.keep(&object, name.strip_prefix("refs/heads/").unwrap_or(&name))?;
                worktree.saved.push(saved);
            }
        }
        write_record(dir, worktree)?;
        Ok(branch)
    }

    /// Keeps what is not committed under a name.
    pub(super) fn save_changes(
        &self,
        git: &Git,
        session: SessionId,
        dir: &SessionDir,
        worktree: &mut Worktree,
        work: &Work,
    ) -> Result<(), StepError> {
        if work.changed.is_empty() {
            return Ok(());
        }
        let saving = Saving::new(git, dir, session, worktree, &work.copy);
        let saved = saving.save_changes()?;
        worktree.saved.push(saved);
        write_record(dir, worktree)
    }

    /// Keeps what is not committed under a name, so that the files can go.
    fn drop_files(
        &self,
        git: &Git,
        session: SessionId,
        dir: &SessionDir,
        worktree: &mut Worktree,
        work: &Work,
    ) -> Result<WorkspaceReport, StepError> {
        if let Some(nested) = work.nested.first() {
            let nested = worktree.path.join(nested);
            return Ok(worktree.report(
                WorkspaceOutcome::Kept,
                format!(
                    "the worktree {} stays: {} is a repository of its own, which may have work that is nowhere else",
                    worktree.path.display(),
                    nested.display()
                ),
            ));
        }
        if let Err(error) = self.save_changes(git, session, dir, worktree, work) {
            return Ok(worktree.report(
                WorkspaceOutcome::Kept,
                format!(
                    "the worktree {} stays: it has changes that are not committed and cannot be kept elsewhere: {error}",
                    worktree.path.display()
                ),
            ));
        }
        let message = if worktree.saved.is_empty() {
            "the worktree is removed; nothing was changed in it".to_owned()
        } else {
            let commits = merge::count_commits(git, dir, worktree, &work.tip, &worktree.base)?;
            let size = match (work.changed.len() as u64, commits) {
                (0, 0) => String::new(),
                (changed, 0) => format!(" ({})", many(changed, "changed path")),
                (0, commits) => format!(" ({})", many(commits, "commit")),
                (changed, commits) => {
                    format!(
                        " ({} and {})",
                        many(changed, "changed path"),
                        many(commits, "commit")
                    )
                }
            };
            format!(
                "the worktree is removed; its work{size} is kept{}",
                kept_names(worktree)
            )
        };
        Ok(worktree.report(WorkspaceOutcome::Dropped, message))
    }

    /// Removes a branch whose commits are elsewhere, unless it has got others since or is checked out.
    fn remove_branch(&self, git: &Git, worktree: &Worktree, tip: &str) -> Result<(), StepError> {
        let reference = worktree.reference();
        if !merge::is_repository(git, worktree)?
            || source::commit(git, &worktree.repository, &reference)?.as_deref() != Some(tip)
            || merge::checkouts(git, worktree)?
                .iter()
                .any(|checkout| checkout.has(&reference))
        {
            return Ok(());
        }
        // Not through it, should it lead to another branch.
        let arguments = words(["update-ref", "--no-deref", "-d", &reference, tip]);
        git.run(At::Repository(&worktree.repository), &arguments)?;
        Ok(())
    }

    /// Ends the record of files that are gone: it stays for as long as there are names to tell of.
    fn close(&self, dir: &SessionDir, git: &Git, mut worktree: Worktree) -> Result<(), StepError> {
        let branch = match merge::is_repository(git, &worktree)? {
            true => source::commit(git, &worktree.repository, &worktree.reference())?,
            false => None,
        };
        if worktree.saved.is_empty() && branch.is_none() {
            return self.clear(dir);
        }
        worktree.kept = true;
        write_record(dir, &worktree)
    }

    /// Removes the record, and what was only for a while.
    pub(super) fn clear(&self, dir: &SessionDir) -> Result<(), StepError> {
        for name in ["view", "scratch", "looking", "renewed", RECORD_FILE] {
            state::remove_all(&dir.root().join(name))?;
        }
        Ok(())
    }

    /// Removes all of a session's directory but its worktree and the record of it.
    pub(crate) fn spare(&self, session: SessionId, budget: &mut Budget) -> Result<Progress, StepError> {
        let dir = self.dirs.session(session);
        for name in state::list(dir.root())? {
            let path = dir.root().join(&name);
            if name == RECORD_FILE || path == dir.worktree() {
                continue;
            }
            if tree::remove(&path, budget)? == Progress::More {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }
}

/// What is said of files that are not there: agentd removed them and was killed, or the agent did, with what was in them.
fn gone(worktree: &Worktree, ending: Ending) -> WorkspaceReport {
    let merges = ending.policy == WorktreePolicy::Merge;
    if worktree.removing {
        let outcome = match merges {
            true => WorkspaceOutcome::Merged,
            false => WorkspaceOutcome::Dropped,
        };
        return worktree.report(outcome, format!("it was removed before{}", kept_names(worktree)));
    }
    let why = format!(
        "the worktree {} was removed before the session was over, and not by agentd",
        worktree.path.display()
    );
    WorkspaceReport {
        reason: (merges && ending.completed).then(|| why.clone()),
        ..worktree.report(WorkspaceOutcome::Dropped, why)
    }
}

/// Puts a repository that agentd has made in the place of the agent's, on the commit that is checked out there.
fn renew(
    git: &Git,
    dir: &SessionDir,
    worktree: &Worktree,
    work: &Work,
    committed: bool,
) -> Result<(), StepError> {
    let head = work.copy.head.as_ref().unwrap_or(&worktree.base);
    let head = match *head == work.tip {
        true => repository::Head::Branch(head),
        false => repository::Head::Detached(head),
    };
    repository::renew(git, dir, worktree, &work.copy, head, committed)
}

/// Merges, when nothing speaks against it.
fn merged(
    git: &Git,
    dir: &SessionDir,
    worktree: &Worktree,
    work: &Work,
    branch: Option<&str>,
) -> Result<WorkspaceReport, StepError> {
    let stays = |outcome, why: String| Ok(unmerged(worktree, branch, outcome, why));
    if !work.changed.is_empty() {
        return stays(
            WorkspaceOutcome::Kept,
            format!("{} not committed", changes(&work.changed)),
        );
    }
    if work.tip == worktree.base {
        return Ok(worktree.report(WorkspaceOutcome::Unchanged, "nothing was changed in the worktree"));
    }
    match merge::merge(git, dir, worktree, &work.tip)? {
        merge::Merge::Done(into) => {
            Ok(worktree.report(WorkspaceOutcome::Merged, format!("merged into {into}")))
        }
        merge::Merge::Conflict(why) => stays(WorkspaceOutcome::Conflict, why),
        merge::Merge::Not(why) => stays(WorkspaceOutcome::Kept, why),
    }
}
