//! What is kept of worktrees: looked at, listed, and removed when it is needed no more.

use super::super::error::StepError;
use super::super::git::{At, Git, words};
use super::super::{merge, state};
use super::copy::Copy;
use super::{Saved, Worktree, Worktrees, command_line, linked, messages, read_record, source, write_record};
use agentd_protocol::SessionId;
use agentd_protocol::results::{PrunedWorktree, SavedWork, WorktreeInfo};
use agentd_supervisor::dir::SessionDir;
use agentd_supervisor::shell;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Worktrees that are looked at for one list.
const LISTED_MAX: usize = 2000;

/// What a worktree has that is nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorktreeState {
    /// Files with changes that are not committed, or a repository of their own.
    Uncommitted,
    /// Commits that are on its own branch, or under a name of agentd's, and on no other.
    Committed,
    /// Commits, all of which are on another branch.
    Merged,
    /// Nothing.
    Unchanged,
    /// It is not there any more.
    Gone,
}

impl WorktreeState {
    /// The word for people and programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uncommitted => "uncommitted",
            Self::Committed => "unmerged",
            Self::Merged => "merged",
            Self::Unchanged => "unchanged",
            Self::Gone => "gone",
        }
    }
}

/// What a worktree came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorktreeStatus {
    /// In one word.
    pub state: WorktreeState,
    /// Paths with changes that are not committed.
    pub changed: u64,
    /// Commits that are on no branch but its own.
    pub commits: u64,
    /// The session's branch is in the workspace's repository.
    pub has_branch: bool,
    /// A repository of its own in it, which nothing here can look into.
    pub nested: Option<PathBuf>,
}

/// One worktree of a list.
#[derive(Debug)]
pub struct Listed {
    /// Its session.
    pub session: SessionId,
    /// Its record, or why that cannot be read.
    pub worktree: Result<Worktree, StepError>,
    /// What it came to, or why that cannot be seen. Absent while its session runs.
    pub status: Option<Result<WorktreeStatus, StepError>>,
}

/// What a removal came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// What it had that was nowhere else, before.
    pub state: WorktreeState,
    /// Its files are gone.
    pub files_removed: bool,
    /// What is kept of it under names in the repository.
    pub saved: Vec<Saved>,
    /// The branch that is left.
    pub branch: Option<String>,
    /// Commits whose names were removed although they are nowhere else; git forgets them in time.
    pub forgotten: Vec<String>,
}

impl Listed {
    /// The same as the protocol says it.
    pub(in super::super) fn into_info(self) -> WorktreeInfo {
        let (state, note) = match (&self.worktree, &self.status) {
            (Err(error), _) | (_, Some(Err(error))) => ("unreadable", Some(error.to_string())),
            (Ok(_), None) => ("running", None),
            (Ok(_), Some(Ok(status))) => {
                let note = status
                    .nested
                    .as_ref()
                    .map(|nested| format!("{} is a repository of its own", nested.display()));
                (status.state.as_str(), note)
            }
        };
        let worktree = self.worktree.unwrap_or_default();
        let status = self.status.and_then(Result::ok);
        let has_branch = status.as_ref().is_some_and(|status| status.has_branch);
        WorktreeInfo {
            session_id: self.session,
            state: state.into(),
            note,
            path: worktree
                .path
                .exists()
                .then(|| worktree.path.display().to_string()),
            branch: has_branch.then_some(worktree.branch),
            uncommitted: status.as_ref().map_or(0, |status| status.changed),
            unmerged: status.as_ref().map_or(0, |status| status.commits),
            agent: worktree.agent,
            repository: worktree.repository.display().to_string(),
            saved: worktree.saved.into_iter().map(Saved::into_work).collect(),
        }
    }
}

impl Saved {
    fn into_work(self) -> SavedWork {
        SavedWork {
            reference: self.reference,
            commit: self.commit,
            what: self.what,
        }
    }
}

/// What a removal came to, as the protocol says it.
pub(in super::super) fn pruned(
    session: SessionId,
    retired: Result<Retired, StepError>,
    worktrees: &Worktrees<'_>,
) -> PrunedWorktree {
    let mut pruned = PrunedWorktree {
        session_id: session,
        state: "unreadable".into(),
        removed: matches!(worktrees.recorded(session), Ok(None)),
        files_removed: false,
        branch: None,
        saved: Vec::new(),
        forgotten: Vec::new(),
        note: None,
    };
    match retired {
        Err(error) => pruned.note = Some(error.to_string()),
        Ok(retired) => {
            pruned.state = retired.state.as_str().into();
            pruned.files_removed = retired.files_removed;
            pruned.branch = retired.branch;
            pruned.saved = retired.saved.into_iter().map(Saved::into_work).collect();
            pruned.forgotten = retired.forgotten;
        }
    }
    pruned
}

/// Two looks at one worktree at once would take each other's views of its repository away.
static LOOKING: Mutex<()> = Mutex::new(());

impl Worktrees<'_> {
    /// Looks at what a session's worktree has that is nowhere else; none when it has no worktree.
    ///
    /// # Errors
    /// When git or the file system refuses.
    pub fn look(&self, session: SessionId) -> Result<Option<WorktreeStatus>, StepError> {
        let dir = self.dirs.session(session);
        let Some(mut worktree) = read_record(&dir)? else {
            return Ok(None);
        };
        let git = self.git.for_owner((worktree.uid, worktree.gid));
        let _one_at_a_time = LOOKING.lock().unwrap_or_else(PoisonError::into_inner);
        self.status(&git, &dir, &mut worktree).map(Some)
    }

    /// What is left of a session's worktree although the session is removed, for people.
    ///
    /// # Errors
    /// When git or the file system refuses.
    pub(in super::super) fn left(&self, session: SessionId) -> Result<String, StepError> {
        let Ok(Some(worktree)) = self.recorded(session) else {
            return Ok("its worktree, whose record cannot be read".into());
        };
        let git = self.git.for_owner((worktree.uid, worktree.gid));
        let has_branch = merge::is_repository(&git, &worktree)?
            && source::commit(&git, &worktree.repository, &worktree.reference())?.is_some();
        Ok(messages::left(session, &worktree, has_branch))
    }

    /// The worktrees that there are, those of running sessions among them, and how many more there are.
    ///
    /// # Errors
    /// When sessions cannot be listed.
    pub fn list(&self, is_live: impl Fn(SessionId) -> bool) -> Result<(Vec<Listed>, u64), StepError> {
        let mut all = Vec::new();
        let mut omitted = 0;
        for session in self.dirs.sessions()? {
            let worktree = match self.recorded(session) {
                Ok(None) => continue,
                Ok(Some(worktree)) => Ok(worktree),
                Err(error) => Err(error),
            };
            if all.len() >= LISTED_MAX {
                omitted += 1;
                continue;
            }
            let status = match (&worktree, is_live(session)) {
                (Err(_), _) | (_, true) => None,
                (Ok(_), false) => self.look(session).transpose(),
            };
            all.push(Listed {
                session,
                worktree,
                status,
            });
        }
        Ok((all, omitted))
    }

    /// Removes what a worktree has that is elsewhere as well: its files, when all is committed, and its names, when
    /// all commits are on other branches. With `force` it goes further by one step: uncommitted changes are kept under a
    /// name and the files go; when only names are left, they go.
    ///
    /// # Errors
    /// When git or the file system refuses. What is nowhere else is there still.
    pub fn retire(&self, session: SessionId, force: bool) -> Result<Retired, StepError> {
        let _one_at_a_time = LOOKING.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = self.dirs.session(session);
        let Some(mut worktree) = read_record(&dir)? else {
            return Ok(Retired {
                state: WorktreeState::Gone,
                files_removed: false,
                saved: Vec::new(),
                branch: None,
                forgotten: Vec::new(),
            });
        };
        let git = self.git.for_owner((worktree.uid, worktree.gid));
        let status = self.status(&git, &dir, &mut worktree)?;
        let mut retired = Retired {
            state: status.state,
            files_removed: false,
            saved: Vec::new(),
            branch: None,
            forgotten: Vec::new(),
        };
        let had_files = worktree.path.exists();
        let uncommitted = status.state == WorktreeState::Uncommitted;
        if uncommitted && force {
            check_forced(&worktree, &status)?;
        }
        let files_go = !uncommitted || force;
        if had_files && files_go {
            self.retire_files(&git, session, &dir, &mut worktree)?;
            retired.files_removed = true;
        }
        if files_go && merge::is_repository(&git, &worktree)? {
            let names_go = force && !had_files;
            self.retire_names(&git, &mut worktree, names_go, &mut retired)?;
        }
        retired.saved.clone_from(&worktree.saved);
        if files_go && retired.saved.is_empty() && retired.branch.is_none() {
            self.clear(&dir)?;
        } else {
            worktree.kept = true;
            write_record(&dir, &worktree)?;
        }
        Ok(retired)
    }

    fn retire_files(
        &self,
        git: &Git,
        session: SessionId,
        dir: &SessionDir,
        worktree: &mut Worktree,
    ) -> Result<(), StepError> {
        if worktree.is_linked() {
            return self.remove_linked_files(git, worktree);
        }
        let work = self.take_back(git, dir, worktree)?;
        self.save(git, session, dir, worktree, &work, false)?;
        self.save_changes(git, session, dir, worktree, &work)?;
        state::remove_all(&worktree.path)
    }

    /// Removes the names whose commits are on other branches; with `all` the others, too.
    fn retire_names(
        &self,
        git: &Git,
        worktree: &mut Worktree,
        all: bool,
        retired: &mut Retired,
    ) -> Result<(), StepError> {
        let at = At::Repository(&worktree.repository);
        let reference = worktree.reference();
        if let Some(tip) = source::commit(git, &worktree.repository, &reference)? {
            let in_use = merge::checkouts(git, worktree)?
                .iter()
                .any(|checkout| checkout.has(&reference));
            let elsewhere = count_elsewhere(git, worktree, &tip)? == 0;
            if in_use || !(elsewhere || all) {
                retired.branch = Some(worktree.branch.clone());
            } else {
                git.run(at, &words(["update-ref", "--no-deref", "-d", &reference, &tip]))?;
                retired.forgotten.extend((!elsewhere).then_some(tip));
            }
        }
        let mut left = Vec::new();
        for saved in std::mem::take(&mut worktree.saved) {
            let elsewhere = count_elsewhere(git, worktree, &saved.commit)? == 0;
            if elsewhere || all {
                git.run(at, &words(["update-ref", "-d", &saved.reference]))?;
                retired.forgotten.extend((!elsewhere).then_some(saved.commit));
            } else {
                left.push(saved);
            }
        }
        worktree.saved = left;
        Ok(())
    }

    fn status(
        &self,
        git: &Git,
        dir: &SessionDir,
        worktree: &mut Worktree,
    ) -> Result<WorktreeStatus, StepError> {
        let mut status = WorktreeStatus {
            state: WorktreeState::Gone,
            changed: 0,
            commits: 0,
            has_branch: false,
            nested: None,
        };
        if worktree.is_linked() {
            status.state = linked::look(git, dir, worktree)?;
            return Ok(status);
        }
        let is_there = worktree.path.exists();
        if !merge::is_repository(git, worktree)? {
            if is_there {
                // What it borrows is gone: the files are the last there is.
                status.state = WorktreeState::Uncommitted;
            }
            return Ok(status);
        }
        let mut tips: Vec<String> = worktree.saved.iter().map(|saved| saved.commit.clone()).collect();
        let branch = source::commit(git, &worktree.repository, &worktree.reference())?;
        status.has_branch = branch.is_some();
        tips.extend(branch);
        let mut unsaved = 0;
        let mut tip_is_new = false;
        if is_there {
            let copy = Copy::read(git, dir, worktree)?;
            status.changed = copy.changed(git, dir, worktree)?.len() as u64;
            status.nested = copy.nested(git, dir, worktree)?.into_iter().next();
            unsaved = copy.unsaved(git, dir, worktree)?.len() as u64;
            tip_is_new = copy.head.as_ref().is_some_and(|head| *head != worktree.base);
        }
        for tip in &tips {
            status.commits += count_elsewhere(git, worktree, tip)?;
        }
        status.commits += unsaved;
        status.state = decide(is_there, &status, tip_is_new || !tips.is_empty());
        Ok(status)
    }
}

/// Refuses to force what could not be kept under a name.
fn check_forced(worktree: &Worktree, status: &WorktreeStatus) -> Result<(), StepError> {
    if let Some(nested) = &status.nested {
        return Err(StepError::agent(format!(
            "{} is a repository of its own, whose commits cannot be kept in another; move it elsewhere first",
            worktree.path.join(nested).display()
        )));
    }
    if worktree.is_linked() {
        let place = shell::word(&worktree.path);
        return Err(StepError::agent(format!(
            "it is of an earlier agentd, which has no name for its changes; `{}` drops them",
            command_line(&worktree.repository, &format!("worktree remove --force {place}"))
        )));
    }
    Ok(())
}

/// The state that follows from what was seen. Pure.
fn decide(is_there: bool, status: &WorktreeStatus, has_commits: bool) -> WorktreeState {
    if status.changed > 0 || status.nested.is_some() {
        return WorktreeState::Uncommitted;
    }
    match (status.commits > 0, has_commits, is_there) {
        (true, _, _) => WorktreeState::Committed,
        (false, true, _) => WorktreeState::Merged,
        (false, false, true) => WorktreeState::Unchanged,
        (false, false, false) => WorktreeState::Gone,
    }
}

/// How many commits lead to one and are on no branch but the worktree's own, of this machine or another.
fn count_elsewhere(git: &Git, worktree: &Worktree, tip: &str) -> Result<u64, StepError> {
    let own = format!("--exclude={}", worktree.reference());
    let arguments = words([
        "rev-list",
        "--count",
        tip,
        "--not",
        &own,
        "--glob=refs/heads/",
        "--remotes",
        "--tags",
    ]);
    let counted = git.run(At::Repository(&worktree.repository), &arguments)?;
    let counted = counted.line().to_string_lossy().into_owned();
    counted
        .parse()
        .map_err(|_| StepError::machine(format!("git counted {counted:?} commits")))
}
