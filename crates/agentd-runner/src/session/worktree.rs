//! Worktrees: a checkout of its own for a session, on a branch of its own; kept, merged or dropped at its end.
//!
//! ```text
//!   <session>/worktree.json     the record: there before anything is made, and for as long as there is anything
//!   <session>/worktree/         the files; `.git` in it is a repository that borrows the workspace's objects
//!
//!   install ─▶ the agent works ─▶ finish: save (its commits get names in the workspace's repository)
//!                                           ─▶ keep, merge or drop, as its policy says
//! ```
//!
//! The workspace's repository is written when the session is over, and only by agentd, with git as its owner. What the
//! agent left may be hostile: see [`super::git`] and `copy` for what that can and cannot lead to.
//!
//! *Architecture Invariant:* no commit and no changed file of an agent's goes away before it has a name in the
//! workspace's repository, and the record says which. Files that git ignores are not work.

mod copy;
mod install;
mod linked;
mod list;
mod repository;
mod save;
mod source;

pub use install::NewWorktree;
pub(super) use list::pruned;
pub use list::{Listed, Retired, WorktreeState, WorktreeStatus};
pub(super) use source::{command_line, commit, sparse};

use super::error::StepError;
use super::git::{Git, words};
use super::merge;
use super::state::{self, StateDirs};
use super::tree::{self, Budget, Progress};
use super::workspace::{WorkspaceOutcome, WorkspaceReport};
use crate::runtime::engine::{Also, Owner};
use agentd_config::WorktreePolicy;
use agentd_protocol::SessionId;
use agentd_supervisor::dir::SessionDir;
use agentd_supervisor::records::Durability;
use copy::Copy;
use save::Saving;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Its record, in the session's directory.
pub(crate) const RECORD_FILE: &str = "worktree.json";
const RECORD_BYTES_MAX: u64 = 1024 * 1024;

/// What is known of a session's worktree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worktree {
    /// The session's worktree.
    pub path: PathBuf,
    /// The git directory of the workspace's repository, common to all its worktrees.
    pub repository: PathBuf,
    /// The branch that was made for the session.
    pub branch: String,
    /// The commit that it began from.
    pub base: String,
    /// The branch that was checked out in the workspace; absent when none was.
    pub base_branch: Option<String>,
    /// The owner of the repository.
    pub uid: u32,
    /// The owner's group.
    pub gid: u32,
    /// True once it was decided that it stays.
    #[serde(default)]
    pub kept: bool,
    /// The session's agent.
    #[serde(default)]
    pub agent: String,
    /// The user and group of the files, while they are not the owner's.
    #[serde(default)]
    pub user: Option<(u32, u32)>,
    /// The directories of objects that it borrows. Empty: agentd 0.1 made it, as a linked worktree of the repository.
    #[serde(default)]
    pub borrowed: Vec<PathBuf>,
    /// The hooks that its commits run.
    #[serde(default)]
    pub hooks: Option<PathBuf>,
    /// Files with the agent's own rules of what git ignores.
    #[serde(default)]
    pub ignore_files: Vec<PathBuf>,
    /// What is kept of it in the repository besides its branch.
    #[serde(default)]
    pub saved: Vec<Saved>,
}

/// Work that is kept under a name in the repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The whole name.
    pub reference: String,
    /// The commit.
    pub commit: String,
    /// What it was to the agent: a branch's name, a stash, uncommitted changes.
    pub what: String,
}

impl Worktree {
    /// What must be at the same place inside as on the host, before the agent begins: the objects that it borrows, and
    /// its hooks, to be read; large files, which have a store of their own, to be written.
    #[must_use]
    pub fn also(&self) -> Vec<Also> {
        let read = self.borrowed.iter().chain(&self.hooks).map(|path| Also {
            path: path.clone(),
            writable: false,
        });
        let written = self.large_files().map(|path| Also { path, writable: true });
        read.chain(written).collect()
    }

    /// The store of large files, where the repository has one.
    fn large_files(&self) -> Option<PathBuf> {
        let store = self.repository.join("lfs");
        store
            .symlink_metadata()
            .is_ok_and(|found| found.is_dir())
            .then_some(store)
    }

    /// Its own repository.
    fn git_dir(&self) -> PathBuf {
        self.path.join(".git")
    }

    fn is_linked(&self) -> bool {
        self.borrowed.is_empty()
    }

    fn reference(&self) -> String {
        format!("refs/heads/{}", self.branch)
    }

    fn report(&self, outcome: WorkspaceOutcome, message: impl Into<String>) -> WorkspaceReport {
        WorkspaceReport {
            outcome,
            branch: None,
            message: message.into(),
            reason: None,
            changed: 0,
        }
    }
}

/// The list of borrowed objects as agentd writes it.
fn alternates_of(worktree: &Worktree) -> Vec<u8> {
    worktree
        .borrowed
        .first()
        .map(|objects| source::alternates(objects))
        .unwrap_or_default()
}

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

/// What belongs together in everything that is done with worktrees.
#[derive(Clone, Copy, Debug)]
pub struct Worktrees<'a> {
    /// agentd's directories.
    pub dirs: &'a StateDirs,
    /// Git, as whoever agentd is.
    pub git: &'a Git,
}

/// What an agent made, seen when it is gone.
struct Work {
    copy: Copy,
    /// Paths with changes that are not committed.
    changed: Vec<Vec<u8>>,
    /// Repositories of their own among its files, which nothing here can look into.
    nested: Vec<PathBuf>,
    /// The commit that its branch came to.
    tip: String,
}

impl Worktrees<'_> {
    /// The record of a session's worktree; none when it has none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn recorded(&self, session: SessionId) -> Result<Option<Worktree>, StepError> {
        read_record(&self.dirs.session(session))
    }

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
            let outcome = match ending.policy {
                WorktreePolicy::Merge => WorkspaceOutcome::Merged,
                WorktreePolicy::Keep | WorktreePolicy::Drop => WorkspaceOutcome::Dropped,
            };
            let report = worktree.report(outcome, format!("it was removed before{}", kept_names(&worktree)));
            self.close(&dir, &git, worktree)?;
            return Ok(Some(report));
        }
        let mut work = self.take_back(&git, &dir, &mut worktree)?;
        let committed = ending.commit_changes && !work.changed.is_empty();
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
                    &work,
                    branch.as_deref(),
                    WorkspaceOutcome::Kept,
                    "the session did not complete".into(),
                )
            },
            WorktreePolicy::Merge => merged(&git, &dir, &worktree, &work, branch.as_deref())?,
        };
        report.branch = report.branch.or(branch);
        report.changed = work.changed.len() as u64;
        let files_go = match report.outcome {
            WorkspaceOutcome::Kept | WorkspaceOutcome::Conflict => false,
            WorkspaceOutcome::Merged | WorkspaceOutcome::Unchanged if !work.nested.is_empty() => {
                report.message.push_str(&stays_for(&worktree, &work.nested));
                false
            }
            WorkspaceOutcome::Dropped | WorkspaceOutcome::Merged | WorkspaceOutcome::Unchanged => true,
        };
        if files_go {
            state::remove_all(&worktree.path)?;
            if matches!(
                report.outcome,
                WorkspaceOutcome::Merged | WorkspaceOutcome::Unchanged
            ) {
                report.branch = None;
                self.remove_branch(&git, &worktree, &work.tip)?;
            }
            self.close(&dir, &git, worktree)?;
        } else {
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
    fn take_back(&self, git: &Git, dir: &SessionDir, worktree: &mut Worktree) -> Result<Work, StepError> {
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
        let saving = Saving {
            git,
            dir,
            session,
            worktree,
            copy: &work.copy,
        };
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
    fn save(
        &self,
        git: &Git,
        session: SessionId,
        dir: &SessionDir,
        worktree: &mut Worktree,
        work: &Work,
        hidden: bool,
    ) -> Result<Option<String>, StepError> {
        let record = worktree.clone();
        let saving = Saving {
            git,
            dir,
            session,
            worktree: &record,
            copy: &work.copy,
        };
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
        if !work.changed.is_empty() {
            let record = worktree.clone();
            let saving = Saving {
                git,
                dir,
                session,
                worktree: &record,
                copy: &work.copy,
            };
            match saving.save_changes() {
                Ok(saved) => worktree.saved.push(saved),
                Err(error) => {
                    return Ok(worktree.report(
                        WorkspaceOutcome::Kept,
                        format!(
                            "the worktree {} stays: it has changes that are not committed and cannot be kept elsewhere: \
                             {error}",
                            worktree.path.display()
                        ),
                    ));
                }
            }
            write_record(dir, worktree)?;
        }
        let message = if worktree.saved.is_empty() {
            "the worktree is removed; nothing was changed in it".to_owned()
        } else {
            let changed = match work.changed.len() {
                0 => String::new(),
                1 => "1 changed path and ".to_owned(),
                many => format!("{many} changed paths and "),
            };
            let commits = merge::count_commits(git, dir, worktree, &work.tip, &worktree.base)?;
            format!(
                "the worktree is removed; its work ({changed}{}) is kept{}",
                many(commits, "commit"),
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
        git.run(super::git::At::Repository(&worktree.repository), &arguments)?;
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
    fn clear(&self, dir: &SessionDir) -> Result<(), StepError> {
        for name in ["view", "scratch", "renewed", RECORD_FILE] {
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
    let stays = |outcome, why: String| Ok(unmerged(worktree, work, branch, outcome, why));
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

/// Work that was to be merged and is not: why, where it is, and how it gets there.
fn unmerged(
    worktree: &Worktree,
    work: &Work,
    branch: Option<&str>,
    outcome: WorkspaceOutcome,
    why: String,
) -> WorkspaceReport {
    let by_hand = branch
        .and_then(|branch| Some((branch, worktree.base_branch.as_ref()?)))
        .map(|(branch, _)| format!(". To merge by hand: git merge {}", crate::shell::word(branch)));
    let message = format!(
        "not merged: {why}; {}{}",
        kept(worktree, work, branch),
        by_hand.unwrap_or_default()
    );
    WorkspaceReport {
        reason: Some(why),
        ..worktree.report(outcome, message)
    }
}

/// Where a worktree that stays is, and what is in it.
fn kept(worktree: &Worktree, work: &Work, branch: Option<&str>) -> String {
    let mut said = format!("the worktree {} is there", worktree.path.display());
    if let Some(branch) = branch {
        said.push_str(&format!(
            ", and its commits are on the branch {branch} of {}",
            worktree.repository.display()
        ));
    }
    if !work.changed.is_empty() {
        said.push_str(&format!("; {} not committed", changes(&work.changed)));
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

/// Git refuses to look at what belongs to another user, unless it is told that this is meant.
fn foreign_status(path: &Path) -> String {
    let path = crate::shell::word(path);
    format!("git -c safe.directory={path} -C {path} status")
}

/// The first of the changed paths, and how many there are.
fn changes(changed: &[Vec<u8>]) -> String {
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
fn kept_names(worktree: &Worktree) -> String {
    let one = |saved: &Saved| {
        let short: String = saved.commit.chars().take(12).collect();
        let command = format!(
            "branch recovered-{short} {}",
            crate::shell::word(&saved.reference)
        );
        format!(
            "; {} as {}: `{}` makes a branch of it",
            saved.what,
            saved.reference,
            command_line(&worktree.repository, &command)
        )
    };
    worktree.saved.iter().map(one).collect()
}

/// Files that stay although their session is removed, for people.
pub(super) fn kept_files(worktree: &Worktree) -> String {
    format!(
        "its worktree {}, which has changes that are nowhere else (`agentd worktrees prune --force` keeps them under a name \
         and removes the files){}",
        worktree.path.display(),
        kept_names(worktree)
    )
}

/// Commits that stay although their session and its files are removed, for people.
pub(super) fn kept_commits(worktree: &Worktree) -> String {
    format!(
        "its commits in {}, which are on no other branch: {}{}",
        worktree.repository.display(),
        worktree.branch,
        kept_names(worktree)
    )
}

fn stays_for(worktree: &Worktree, nested: &[PathBuf]) -> String {
    let name = nested
        .first()
        .map(|path| path.display().to_string())
        .unwrap_or_default();
    format!(
        "; the worktree {} stays, since {name} is a repository of its own, which may have work that is nowhere else",
        worktree.path.display()
    )
}

fn many(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Looks whether worktrees can be made of a workspace, and tells what people should know.
///
/// # Errors
/// When they cannot.
pub fn check(git: &Git, agent: &str, workspace: &Owner) -> Result<Vec<String>, StepError> {
    let source = source::Source::find(git, workspace)?;
    source.check_complete()?;
    let usual = format!("agentd/{agent}");
    let taken = source.common.in_the_way(&format!("{usual}/0"))?;
    Ok(taken
        .map(|branch| {
            format!(
                "the branch {branch} is in the way of {usual}/…; the branches of its sessions will be called \
                 agentd-{agent}/… instead"
            )
        })
        .into_iter()
        .collect())
}

/// The random part of a session's id.
pub(super) fn short_id(session: SessionId) -> String {
    let id = session.0.simple().to_string();
    id[id.len() - 12..].to_owned()
}

/// `agentd/<agent>/<the random part of the session's id>`, unless another branch is in the way of that.
#[must_use]
pub fn branch_name(agent: &str, session: SessionId) -> String {
    format!("agentd/{agent}/{}", short_id(session))
}

/// What git names objects by: nothing else may come back to it as an argument.
pub(crate) fn object_id(text: &OsStr) -> Result<String, StepError> {
    let text = text.to_string_lossy();
    if (40..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text.into_owned());
    }
    Err(StepError::machine(format!("git named an object {text:?}")))
}

fn write_record(dir: &SessionDir, worktree: &Worktree) -> Result<(), StepError> {
    let path = dir.root().join(RECORD_FILE);
    let text = serde_json::to_vec(worktree)
        .map_err(|error| StepError::io("write", &path)(io::Error::from(error)))?;
    state::replace(&path, &text, Durability::Disk)
}

fn read_record(dir: &SessionDir) -> Result<Option<Worktree>, StepError> {
    let path = dir.root().join(RECORD_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StepError::io("open", &path)(error)),
    };
    let mut text = Vec::new();
    file.take(RECORD_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(StepError::io("read", &path))?;
    let record = serde_json::from_slice(&text)
        .map_err(|error| StepError::io("read", &path)(io::Error::from(error)))?;
    Ok(Some(record))
}
