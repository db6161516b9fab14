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
mod finish;
mod install;
mod linked;
mod list;
mod messages;
mod repository;
mod save;
mod source;

pub use finish::Ending;
pub use install::NewWorktree;
pub(super) use list::pruned;
pub use list::{Listed, Retired, WorktreeState, WorktreeStatus};
pub(super) use source::{command_line, commit, sparse};

use super::error::StepError;
use super::git::Git;
use super::state::{self, StateDirs};
use super::workspace::{WorkspaceOutcome, WorkspaceReport};
use crate::runtime::engine::{Also, Owner};
use agentd_protocol::SessionId;
use agentd_supervisor::dir::SessionDir;
use agentd_supervisor::records::Durability;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

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
    /// The workspace; empty in records of agentd 0.1.
    #[serde(default)]
    pub workspace: PathBuf,
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
    /// True once agentd removes the files, since all work in them is elsewhere.
    #[serde(default)]
    pub removing: bool,
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
            beside: 0,
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

/// What belongs together in everything that is done with worktrees.
#[derive(Clone, Copy, Debug)]
pub struct Worktrees<'a> {
    /// agentd's directories.
    pub dirs: &'a StateDirs,
    /// Git, as whoever agentd is.
    pub git: &'a Git,
}

impl Worktrees<'_> {
    /// The record of a session's worktree; none when it has none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn recorded(&self, session: SessionId) -> Result<Option<Worktree>, StepError> {
        read_record(&self.dirs.session(session))
    }
}

/// Looks whether worktrees can be made of a workspace for an agent with this user and group, and tells what people should know.
///
/// # Errors
/// When they cannot.
pub fn check(git: &Git, agent: &str, workspace: &Owner, user: (u32, u32)) -> Result<Vec<String>, StepError> {
    let source = source::Source::find(git, workspace)?;
    source.check_complete()?;
    source.check_readable(user)?;
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
