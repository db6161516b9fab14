//! Worktrees: made for a session from a repository, and kept, merged or dropped at its end.
//!
//! `worktree.json` in the session's directory is written before anything is made, so that whoever comes after a crash
//! knows what there may be. Taking down goes the other way, and the record goes last.
//!
//! The repository may be written by agents meanwhile, also by hostile ones: see [`super::git`] for what that can and
//! cannot lead to.

use super::error::StepError;
use super::git::{At, Git, View, words};
use super::merge;
use super::state::{self, StateDirs};
use super::tree::{self, Budget, Progress};
use super::workspace::{WorkspaceOutcome, WorkspaceReport};
use crate::runtime::engine::{Also, Owner};
use agentd_config::WorktreePolicy;
use agentd_protocol::SessionId;
use agentd_supervisor::dir::SessionDir;
use agentd_supervisor::records::Durability;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Its record, in the session's directory.
pub(crate) const RECORD_FILE: &str = "worktree.json";
const RECORD_BYTES_MAX: u64 = 64 * 1024;
/// Directories of a repository that commits write to, those of large files and of resolved conflicts among them.
const WRITTEN_BY_GIT: [&str; 5] = ["objects", "refs", "logs", "lfs", "rr-cache"];
/// How often making one is tried: another program may be changing the same repository.
const TRIES: u32 = 3;

/// What is known of a session's worktree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worktree {
    /// The session's worktree.
    pub path: PathBuf,
    /// The repository's git directory, common to all its worktrees.
    pub repository: PathBuf,
    /// The branch that was made for the session.
    pub branch: String,
    /// The commit that it began from.
    pub base: String,
    /// The branch that was checked out there; absent when none was.
    pub base_branch: Option<String>,
    /// Whom the repository belongs to.
    pub uid: u32,
    /// Their group.
    pub gid: u32,
    /// True once it was decided that it stays.
    #[serde(default)]
    pub kept: bool,
}

impl Worktree {
    /// What must be at the same place inside as on the host, before the agent begins: git in the worktree needs it.
    ///
    /// The repository's configuration and hooks name programs, which git would run for its owner, outside. So only what
    /// a commit writes may be written: objects, references and what git knows of this worktree.
    #[must_use]
    pub fn also(&self) -> Vec<Also> {
        let own = std::fs::read_to_string(self.path.join(".git")).unwrap_or_default();
        let own = own
            .trim_end()
            .rsplit('/')
            .next()
            .map(|name| Path::new("worktrees").join(name));
        let written = WRITTEN_BY_GIT.iter().map(PathBuf::from).chain(own);
        let written = written
            .map(|name| self.repository.join(name))
            .filter(|path| path.symlink_metadata().is_ok_and(|found| found.is_dir()))
            .map(|path| Also { path, writable: true });
        let repository = Also {
            path: self.repository.clone(),
            writable: false,
        };
        [repository].into_iter().chain(written).collect()
    }

    fn reference(&self) -> String {
        format!("refs/heads/{}", self.branch)
    }

    pub(crate) fn report(&self, outcome: WorkspaceOutcome, message: impl Into<String>) -> WorkspaceReport {
        WorkspaceReport {
            outcome,
            branch: self.branch.clone(),
            message: message.into(),
        }
    }
}

/// What belongs together in everything that is done with worktrees.
#[derive(Clone, Copy, Debug)]
pub struct Worktrees<'a> {
    /// agentd's directories.
    pub dirs: &'a StateDirs,
    /// Git, as whoever agentd is.
    pub git: &'a Git,
}

impl Worktrees<'_> {
    /// Makes a session's worktree, on a new branch, from what is checked out in the workspace.
    ///
    /// # Errors
    /// When the workspace is not the top of a repository's files, or has no commit, or git refuses. What was made is
    /// taken down with [`Worktrees::drop_all`].
    pub fn put_up(&self, session: SessionId, agent: &str, workspace: &Owner) -> Result<Worktree, StepError> {
        let dir = self.dirs.session(session);
        let git = self.git.for_owner((workspace.uid, workspace.gid));
        let found = At::Found(&workspace.path);
        let top = git.run(found, &words(["rev-parse", "--show-toplevel"])).map_err(|error| {
            StepError::declaration(format!(
                "the workspace {} cannot have worktrees: {error}; make it a repository (git init), or set \
                 workspace_mode = \"directory\"",
                workspace.path.display()
            ))
        })?;
        if Path::new(&top.line()) != workspace.path {
            return Err(StepError::declaration(format!(
                "the workspace {} is inside of the repository {}; worktrees are of whole repositories, so name that",
                workspace.path.display(),
                top.line().display()
            )));
        }
        let common = git.run(
            found,
            &words(["rev-parse", "--path-format=absolute", "--git-common-dir"]),
        )?;
        let repository = PathBuf::from(common.line());
        let repository = repository
            .canonicalize()
            .map_err(StepError::io("find", &repository))?;
        let base = git.ask(
            found,
            &words(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]),
        )?;
        if base.code != 0 {
            return Err(StepError::declaration(format!(
                "the workspace {} has no commit yet that a worktree could begin from; make one",
                workspace.path.display()
            )));
        }
        let head = git.ask(found, &words(["symbolic-ref", "--quiet", "--short", "HEAD"]))?;
        let worktree = Worktree {
            path: dir.worktree(),
            repository,
            branch: branch_name(agent, session),
            base: object_id(&base.line())?,
            base_branch: (head.code == 0).then(|| head.line().to_string_lossy().into_owned()),
            uid: workspace.uid,
            gid: workspace.gid,
            kept: false,
        };
        write_record(&dir, &worktree)?;
        self.make(&dir, &git, &worktree)?;
        Ok(worktree)
    }

    fn make(&self, dir: &SessionDir, git: &Git, worktree: &Worktree) -> Result<(), StepError> {
        // Git takes an empty directory; only agentd can make one here, and only the owner fill it.
        state::make(&worktree.path, 0o700, Some((worktree.uid, worktree.gid)))?;
        let at = At::Repository(&worktree.repository);
        let reason = format!("agentd: {}", dir.root().display());
        let plain = words([
            "worktree",
            "add",
            "--no-checkout",
            "--no-track",
            "--lock",
            "--reason",
        ]);
        let mut arguments = plain.to_vec();
        arguments.extend(words([&reason, "-b", &worktree.branch]));
        arguments.extend([worktree.path.as_os_str(), OsStr::new(&worktree.base)]);
        for attempt in 1..=TRIES {
            let locked = self.dirs.lock_repositories()?;
            let added = git.run(at, &arguments);
            drop(locked);
            match added {
                Ok(_) => break,
                Err(error) if attempt == TRIES => return Err(error),
                // It may have come half-way.
                Err(_) => {
                    state::remove_all(&worktree.path)?;
                    self.remove_names(git, worktree)?;
                    self.remove_branch(git, worktree)?;
                    state::make(&worktree.path, 0o700, Some((worktree.uid, worktree.gid)))?;
                }
            }
        }
        let admin = git
            .run(
                At::Found(&worktree.path),
                &words(["rev-parse", "--absolute-git-dir"]),
            )?
            .line();
        let index = Path::new(&admin).join("index");
        let view = View::new(
            git,
            &dir.root().join("view"),
            &worktree.repository,
            &worktree.base,
        )?
        .with_files(&worktree.path, &index);
        git.run(
            At::View(&view),
            &words(["read-tree", "-m", "-u", "--no-recurse-submodules", &worktree.base]),
        )?;
        Ok(())
    }

    /// The record of a session's worktree; none when it has none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn recorded(&self, session: SessionId) -> Result<Option<Worktree>, StepError> {
        read_record(&self.dirs.session(session))
    }

    /// Does with a session's worktree what its policy says. `completed`: the session did; without that nothing is
    /// merged. May be called again after a crash at any point.
    ///
    /// # Errors
    /// When git or the file system refuses; then both sides are there still.
    pub fn finish(
        &self,
        session: SessionId,
        policy: WorktreePolicy,
        completed: bool,
    ) -> Result<Option<WorkspaceReport>, StepError> {
        let dir = self.dirs.session(session);
        let Some(worktree) = read_record(&dir)? else {
            return Ok(None);
        };
        let git = self.git.for_owner((worktree.uid, worktree.gid));
        let report = match policy {
            WorktreePolicy::Drop => {
                worktree.report(WorkspaceOutcome::Dropped, "the worktree and its branch are gone")
            }
            WorktreePolicy::Keep => worktree.report(WorkspaceOutcome::Kept, kept(&worktree)),
            WorktreePolicy::Merge if !completed => worktree.report(
                WorkspaceOutcome::Kept,
                format!(
                    "not merged, since the session did not complete; {}",
                    kept(&worktree)
                ),
            ),
            WorktreePolicy::Merge => merge::merge(&git, &dir, &worktree)?,
        };
        match report.outcome {
            WorkspaceOutcome::Kept | WorkspaceOutcome::Conflict => self.keep(&dir, &git, worktree)?,
            WorkspaceOutcome::Dropped | WorkspaceOutcome::Merged | WorkspaceOutcome::Unchanged => {
                self.remove(&dir, &git, &worktree)?;
            }
        }
        Ok(Some(report))
    }

    /// Takes down what set-up made, or a worktree that is no longer wanted, with whatever is in it.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn drop_all(&self, session: SessionId) -> Result<(), StepError> {
        self.finish(session, WorktreePolicy::Drop, false).map(|_| ())
    }

    fn keep(&self, dir: &SessionDir, git: &Git, mut worktree: Worktree) -> Result<(), StepError> {
        if worktree.kept {
            return Ok(());
        }
        worktree.kept = true;
        write_record(dir, &worktree)?;
        // It is people's now. One that cannot be unlocked is not worse than one that is locked.
        let arguments = [
            OsStr::new("worktree"),
            OsStr::new("unlock"),
            worktree.path.as_os_str(),
        ];
        let _locked = self.dirs.lock_repositories()?;
        git.ask(At::Repository(&worktree.repository), &arguments)
            .map(|_| ())
    }

    fn remove(&self, dir: &SessionDir, git: &Git, worktree: &Worktree) -> Result<(), StepError> {
        // The files first, and not by git: an agent may have left more than git can bear.
        state::remove_all(&worktree.path)?;
        self.remove_names(git, worktree)?;
        self.remove_branch(git, worktree)?;
        state::remove_all(&dir.root().join("view"))?;
        state::remove_all(&dir.root().join(RECORD_FILE))
    }

    /// Removes what the repository knows of the worktree.
    fn remove_names(&self, git: &Git, worktree: &Worktree) -> Result<(), StepError> {
        if !merge::is_repository(git, worktree)? {
            return Ok(());
        }
        let at = At::Repository(&worktree.repository);
        let _locked = self.dirs.lock_repositories()?;
        if merge::checkouts(git, worktree)?
            .iter()
            .any(|checkout| checkout.path == worktree.path)
        {
            // Twice: once for what is not committed, once for the lock.
            let mut arguments = words(["worktree", "remove", "--force", "--force"]).to_vec();
            arguments.push(worktree.path.as_os_str());
            git.run(at, &arguments)?;
        }
        Ok(())
    }

    fn remove_branch(&self, git: &Git, worktree: &Worktree) -> Result<(), StepError> {
        if !merge::is_repository(git, worktree)? {
            return Ok(());
        }
        let at = At::Repository(&worktree.repository);
        let reference = worktree.reference();
        let there = git.ask(at, &words(["rev-parse", "--verify", "--quiet", &reference]))?;
        if there.code == 0 {
            // Not through it, should an agent have made it lead to another branch.
            git.run(at, &words(["update-ref", "--no-deref", "-d", &reference]))?;
        }
        Ok(())
    }

    /// What a kept worktree has that is nowhere else.
    ///
    /// # Errors
    /// When git or the file system refuses.
    pub fn look(&self, session: SessionId) -> Result<Option<WorktreeState>, StepError> {
        let dir = self.dirs.session(session);
        let Some(worktree) = read_record(&dir)? else {
            return Ok(None);
        };
        let git = self.git.for_owner((worktree.uid, worktree.gid));
        merge::look(&git, &dir, &worktree).map(Some)
    }

    /// Removes a kept worktree that holds nothing uncommitted; its branch goes as well when it is merged.
    ///
    /// # Errors
    /// When git or the file system refuses.
    pub fn retire(&self, session: SessionId) -> Result<WorktreeState, StepError> {
        let dir = self.dirs.session(session);
        let Some(worktree) = read_record(&dir)? else {
            return Ok(WorktreeState::Gone);
        };
        let git = self.git.for_owner((worktree.uid, worktree.gid));
        let state = merge::look(&git, &dir, &worktree)?;
        match state {
            WorktreeState::Uncommitted => {}
            WorktreeState::Merged | WorktreeState::Gone => self.remove(&dir, &git, &worktree)?,
            WorktreeState::Committed => {
                state::remove_all(&worktree.path)?;
                self.remove_names(&git, &worktree)?;
                state::remove_all(&dir.root().join(RECORD_FILE))?;
            }
        }
        Ok(state)
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

/// What a kept worktree has that is nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorktreeState {
    /// Files that differ from its branch, or are not in it.
    Uncommitted,
    /// Commits of its branch that the branch which it began from has not.
    Committed,
    /// Nothing.
    Merged,
    /// It is not there any more.
    Gone,
}

fn kept(worktree: &Worktree) -> String {
    format!(
        "the worktree {} and its branch {} are there",
        worktree.path.display(),
        worktree.branch
    )
}

/// `agentd/<agent>/<the random part of the session's id>`.
#[must_use]
pub fn branch_name(agent: &str, session: SessionId) -> String {
    let id = session.0.simple().to_string();
    format!("agentd/{agent}/{}", &id[id.len() - 12..])
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
