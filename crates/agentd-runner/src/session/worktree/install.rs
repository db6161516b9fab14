//! Making a worktree: a repository of the session's own that borrows the objects of the workspace's, and its files.
//!
//! Nothing is written to the workspace's repository. An agent that could write its configuration or hooks could have
//! its owner's next `git status` run programs; and what git writes for every commit (a lock on the packed names, since
//! 2.47) lies beside them.

use super::super::error::StepError;
use super::super::git::{At, Git, View, words};
use super::super::state;
use super::source::{self, Source};
use super::{Worktree, Worktrees, alternates_of, write_record};
use crate::runtime::engine::Owner;
use agentd_protocol::SessionId;
use agentd_supervisor::dir::SessionDir;
use rustix::fs::{CWD, Mode, OFlags};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What a worktree is made of.
#[derive(Clone, Copy, Debug)]
pub struct NewWorktree<'a> {
    /// The session.
    pub session: SessionId,
    /// Its agent.
    pub agent: &'a str,
    /// The workspace, and its owner.
    pub workspace: &'a Owner,
    /// The user and group that the files belong to while the agent runs.
    pub user: (u32, u32),
    /// The agent's home, for its own ignore rules.
    pub home: &'a Path,
    /// The branch to begin from, instead of what is checked out in the workspace.
    pub base: Option<&'a str>,
}

impl Worktrees<'_> {
    /// Makes a session's worktree, on a new branch.
    ///
    /// # Errors
    /// When the workspace is not the top of a repository's files, or has no commit, or git refuses. What was made is
    /// removed with [`Worktrees::discard`].
    pub fn install(&self, new: &NewWorktree<'_>) -> Result<Worktree, StepError> {
        let dir = self.dirs.session(new.session);
        let source = Source::find(self.git, new.workspace)?;
        source.check_complete()?;
        let base = match new.base {
            None => source.head.clone(),
            Some(branch) => source.commit_of(branch)?.ok_or_else(|| {
                StepError::declaration(format!(
                    "there is no branch {branch} in {} to begin from",
                    source.common.display()
                ))
            })?,
        };
        let owner = (new.workspace.uid, new.workspace.gid);
        let worktree = Worktree {
            path: dir.worktree(),
            repository: source.common.clone(),
            branch: source.free_branch(new.agent, new.session)?,
            base,
            base_branch: source.branch.clone(),
            uid: owner.0,
            gid: owner.1,
            kept: false,
            agent: new.agent.to_owned(),
            user: Some(new.user).filter(|user| *user != owner),
            borrowed: source.objects()?,
            hooks: source.hooks()?,
            ignore_files: vec![new.home.join(".config/git/ignore")],
            saved: Vec::new(),
        };
        write_record(&dir, &worktree)?;
        let git = self.git.for_owner(new.user);
        self.make_repository(&source, &git, &worktree, new.user)?;
        self.check_out(&dir, &source, &git, &worktree)?;
        Ok(worktree)
    }

    fn make_repository(
        &self,
        source: &Source<'_>,
        git: &Git,
        worktree: &Worktree,
        user: (u32, u32),
    ) -> Result<(), StepError> {
        state::make(&worktree.path, 0o700, Some(user))?;
        let arguments = words(["rev-parse", "--show-object-format"]);
        let format = source.git.run(At::Repository(&source.common), &arguments)?.line();
        let format = format!("--object-format={}", format.to_string_lossy());
        let branch = format!("--initial-branch={}", worktree.branch);
        let init = words(["init", "--quiet", "--template=", &format, &branch, "."]);
        git.run(At::Found(&worktree.path), &init)?;

        let git_dir = worktree.git_dir();
        let place = Place::open(&git_dir, user)?;
        let own = place.read("config")?;
        let settings = source::copied_settings(&source.settings()?);
        let ours = settings_of(worktree);
        place.replace("config", &[own, settings, ours].concat())?;
        let names = source::packed_references(source.references()?, &worktree.branch, &worktree.base);
        place.write("packed-refs", &names)?;
        if let Some(shallow) = source::read_if_there(&source.common.join("shallow"))? {
            place.write("shallow", &shallow)?;
        }
        place
            .below("objects/info")?
            .write("alternates", &alternates_of(worktree))?;
        let info = place.make("info")?;
        let home = self.git.home_of(worktree.uid);
        info.write("exclude", &source.ignored(home.as_deref())?)?;
        if let Some(sparse) = source.sparse()? {
            info.write("sparse-checkout", &sparse.patterns)?;
            let cone = format!(
                "[core]\n\tsparseCheckout = true\n\tsparseCheckoutCone = {}\n",
                sparse.cone
            );
            let text = [place.read("config")?, cone.into_bytes()].concat();
            place.replace("config", &text)?;
        }
        Ok(())
    }

    fn check_out(
        &self,
        dir: &SessionDir,
        source: &Source<'_>,
        git: &Git,
        worktree: &Worktree,
    ) -> Result<(), StepError> {
        let index = worktree.git_dir().join("index");
        let view = View::new(
            &source.git,
            &dir.root().join("view"),
            &source.common,
            &worktree.base,
        )?
        .with_rules(&[], source.sparse()?.as_ref())?
        .with_files(&worktree.path, &index);
        let arguments = words(["read-tree", "-m", "-u", "--no-recurse-submodules", &worktree.base]);
        git.run(At::View(&view), &arguments)
            .map_err(|error| match worktree.user {
                None => error,
                Some((uid, _)) => unreadable(source, uid, &error),
            })?;
        Ok(())
    }
}

/// What makes a copy differ from its source, whatever that says.
fn settings_of(worktree: &Worktree) -> Vec<u8> {
    let mut listed = Vec::new();
    let mut set = |key: &str, value: &Path| {
        listed.extend(key.as_bytes());
        listed.push(b'\n');
        listed.extend(value.as_os_str().as_encoded_bytes());
        listed.push(0);
    };
    if let Some(hooks) = &worktree.hooks {
        set("core.hooksPath", hooks);
    }
    if let Some(storage) = worktree.large_files() {
        set("lfs.storage", &storage);
    }
    source::copied_settings(&listed)
}

fn unreadable(source: &Source<'_>, uid: u32, error: &StepError) -> StepError {
    let objects = source.common.join("objects");
    StepError::declaration(format!(
        "the agent's user {uid} cannot read the repository {}: {error}; `setfacl -R -m u:{uid}:rX -m d:u:{uid}:rX {}` \
         lets it, where the directories above may be entered",
        source.common.display(),
        crate::shell::word(&objects)
    ))
}

/// A directory that nothing but agentd has written to yet, and whose files belong to the agent's user.
struct Place {
    fd: OwnedFd,
    path: PathBuf,
    owner: (u32, u32),
}

impl Place {
    fn open(path: &Path, owner: (u32, u32)) -> Result<Self, StepError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(StepError::io("open", path))?;
        Ok(Self {
            fd,
            path: path.to_owned(),
            owner,
        })
    }

    fn below(&self, name: &str) -> Result<Self, StepError> {
        Self::open(&self.path.join(name), self.owner)
    }

    fn make(&self, name: &str) -> Result<Self, StepError> {
        let path = self.path.join(name);
        let fd = state::make_in(self.fd.as_fd(), name, &path, 0o755, Some(self.owner))?;
        Ok(Self {
            fd,
            path,
            owner: self.owner,
        })
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, StepError> {
        Ok(source::read_if_there(&self.path.join(name))?.unwrap_or_default())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StepError> {
        state::write_new(self.fd.as_fd(), &self.path, name, bytes, 0o644, Some(self.owner))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StepError> {
        rustix::fs::unlinkat(&self.fd, OsStr::new(name), rustix::fs::AtFlags::empty())
            .map_err(StepError::io("replace", &self.path.join(name)))?;
        self.write(name, bytes)
    }
}
