//! A worktree's own repository: made for an agent, and made anew when its files stay.
//!
//! An agent writes its repository's configuration and hooks, which name programs. A user who looks at a worktree that stays
//! would run them with the user's own rights. So nothing of the agent's repository is left then but names, objects and the
//! index: they are data.

use super::super::error::StepError;
use super::super::git::{At, Git, Sparse, words};
use super::super::state;
use super::copy::Copy;
use super::save::copy_index;
use super::source::{self, Common};
use super::{Worktree, alternates_of};
use agentd_supervisor::dir::SessionDir;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What is checked out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Head<'a> {
    /// The session's branch, at this commit.
    Branch(&'a str),
    /// This commit, on no branch.
    Detached(&'a str),
}

/// What a repository is made of.
pub(super) struct New<'a> {
    /// Git as the owner of what is made.
    pub(super) git: &'a Git,
    pub(super) common: &'a Common,
    pub(super) worktree: &'a Worktree,
    /// Where it is made; its last part is `.git`.
    pub(super) git_dir: &'a Path,
    pub(super) owner: (u32, u32),
    pub(super) head: Head<'a>,
    pub(super) names: Vec<(String, String)>,
    pub(super) ignored: Vec<u8>,
    pub(super) sparse: Option<&'a Sparse>,
}

/// Makes a repository that borrows the objects of the workspace's, with its settings. It has no index yet.
pub(super) fn make(new: &New<'_>) -> Result<(), StepError> {
    let New {
        common,
        worktree,
        git_dir,
        ..
    } = new;
    let arguments = words(["rev-parse", "--show-object-format"]);
    let format = common.git.run(At::Repository(&common.path), &arguments)?.line();
    let format = format!("--object-format={}", format.to_string_lossy());
    let branch = format!("--initial-branch={}", worktree.branch);
    let init = words(["init", "--quiet", "--template=", &format, &branch]);
    new.git.run(At::Repository(git_dir), &init)?;

    let place = Place::open(git_dir, new.owner)?;
    let mut config = place.read("config")?;
    config.extend(source::copied_settings(&common.settings()?));
    config.extend(settings_of(worktree));
    let mut names = new.names.clone();
    match new.head {
        Head::Branch(commit) => names.insert(0, (worktree.reference(), commit.to_owned())),
        Head::Detached(commit) => place.replace("HEAD", format!("{commit}\n").as_bytes())?,
    }
    place.write("packed-refs", &source::packed_references(names))?;
    if let Some(shallow) = source::read_if_there(&common.path.join("shallow"))? {
        place.write("shallow", &shallow)?;
    }
    place
        .below("objects/info")?
        .write("alternates", &alternates_of(worktree))?;
    let info = place.make("info")?;
    info.write("exclude", &new.ignored)?;
    if let Some(sparse) = new.sparse {
        info.write("sparse-checkout", &sparse.patterns)?;
        let cone = sparse.cone;
        let text = format!("[core]\n\tsparseCheckout = true\n\tsparseCheckoutCone = {cone}\n");
        config.extend(text.into_bytes());
    }
    place.replace("config", &config)
}

/// Puts a repository that agentd has made in the place of the one that the agent had. All of the agent's work has
/// names in the workspace's repository by now. `committed`: its changes are, so that the index is as the commit.
pub(super) fn renew(
    git: &Git,
    dir: &SessionDir,
    worktree: &Worktree,
    copy: &Copy,
    head: Head<'_>,
    committed: bool,
) -> Result<(), StepError> {
    let owner = (worktree.uid, worktree.gid);
    let made = dir.root().join("renewed");
    state::remove_all(&made)?;
    state::make(&made, 0o700, Some(owner))?;
    let git_dir = made.join(".git");
    let common = Common {
        git: git.clone(),
        path: worktree.repository.clone(),
    };
    let mut names = common.references()?;
    // The agent's come first: of two with one name the first counts.
    let own = copy.names.iter().filter(|(name, _)| name.starts_with("refs/"));
    names.splice(0..0, own.cloned());
    make(&New {
        git,
        common: &common,
        worktree,
        git_dir: &git_dir,
        owner,
        head,
        names,
        ignored: copy.rules().to_vec(),
        sparse: copy.sparse(),
    })?;
    let index = git_dir.join("index");
    if !copy_index(&copy.index, &index, owner)? || committed {
        let (Head::Branch(commit) | Head::Detached(commit)) = head;
        let view = copy
            .view(git, dir, worktree, commit)?
            .with_files(&worktree.path, &index);
        git.run(At::View(&view), &words(["read-tree", "--reset", commit]))?;
    }
    exchange(&git_dir, &worktree.git_dir())?;
    state::remove_all(&made)
}

/// Exchanges two directory entries in one step; what was not there is not there on the other side then.
fn exchange(from: &Path, to: &Path) -> Result<(), StepError> {
    let exchanged = rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE);
    match exchanged {
        Err(rustix::io::Errno::NOENT) => std::fs::rename(from, to).map_err(StepError::io("replace", to)),
        exchanged => exchanged.map_err(StepError::io("replace", to)),
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
