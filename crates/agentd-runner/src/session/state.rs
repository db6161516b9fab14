//! Where sessions have their things on the host.
//!
//! ```text
//!   <state>/                  0711 for root, whose agents have users of their own; else 0700
//!     sessions/<id>/          0711 / 0700, agentd's; in it what SessionDir names
//!       run/                  0700, the agent's
//!     homes/<home name>/      0700, the agent's
//!     plugins/<plugin>/       0700, the plugin's home
//!     bin/                    0711 / 0700: programs that sessions are given
//!     repositories.lock       held while a repository's worktrees are changed
//!   <secrets root>/<instance>/<id>/    0700, the agent's, on a tmpfs
//!   <secrets root>/<instance>/<id>.plugins/    0700, agentd's, beside it
//! ```
//!
//! Whoever may search a directory but not list it reaches nothing in it that he does not know the name of and that
//! is not his: what agentd itself writes there is readable for agentd alone.

use super::error::StepError;
use super::tree::{self, Budget, Found, Progress};
use super::worktree::RECORD_FILE;
use crate::runtime::engine::Users;
use agentd_protocol::SessionId;
use agentd_supervisor::dir::SessionDir;
use agentd_supervisor::records::Durability;
use rustix::fs::{self as rfs, AtFlags, CWD, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Entries of one of our directories that are looked at; more than a machine can have sessions.
const LISTED_MAX: usize = 1_000_000;
const TMPFS: u32 = 0x0102_1994;
const RAMFS: u32 = 0x8584_58f6;
/// What the name of a directory of plugins' secrets ends with.
const PLUGINS: &str = ".plugins";

/// What about the machine decides where things go; from the environment, but in a test.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The user that agentd runs as.
    pub uid: u32,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// `/dev/shm`.
    pub shared_memory: PathBuf,
}

impl Machine {
    /// This machine, with this `XDG_RUNTIME_DIR`.
    #[must_use]
    pub fn this(runtime_dir: Option<PathBuf>) -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            runtime_dir,
            shared_memory: PathBuf::from("/dev/shm"),
        }
    }
}

/// agentd's directories.
#[derive(Clone, Debug)]
pub struct StateDirs {
    root: PathBuf,
    secrets: PathBuf,
    uid: u32,
}

impl StateDirs {
    /// Makes what is missing. `instance` tells this agentd's secrets from another's of the same user.
    ///
    /// # Errors
    /// When a directory cannot be made, or what has its name is not ours.
    pub fn open(root: &Path, instance: &str, machine: &Machine) -> Result<Self, StepError> {
        let mode = shared_mode(machine.uid);
        if !is_plain_name(instance) {
            return Err(StepError::machine(format!(
                "{instance:?} cannot be an instance's name"
            )));
        }
        std::fs::create_dir_all(root.parent().unwrap_or(root)).map_err(StepError::io("make", root))?;
        let root_fd = own_directory(root, Wanted::AtLeast(mode), machine.uid)?;
        for name in ["sessions", "homes", "bin"] {
            own_directory_in(
                root_fd.as_fd(),
                name,
                &root.join(name),
                Wanted::Exactly(mode),
                machine.uid,
            )?;
        }
        let secrets = secrets_root(machine)?.join(instance);
        own_directory(&secrets, Wanted::Exactly(mode), machine.uid)?;
        // Canonical, so that what is mounted and what is said about it agree.
        let root = root.canonicalize().map_err(StepError::io("find", root))?;
        Ok(Self {
            root,
            secrets,
            uid: machine.uid,
        })
    }

    /// Takes away what was only for as long as agentd runs: the place of secrets, unless sessions that go on have some.
    pub fn leave(&self) {
        // What is not empty stays; so does, harmlessly, what cannot be removed.
        let _ = std::fs::remove_dir(&self.secrets);
    }

    /// The directory of all.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A session's directory.
    #[must_use]
    pub fn session(&self, id: SessionId) -> SessionDir {
        SessionDir::new(self.root.join("sessions").join(id.to_string()))
    }

    /// A home.
    #[must_use]
    pub fn home(&self, home_name: &str) -> PathBuf {
        self.root.join("homes").join(home_name)
    }

    /// Programs that sessions are given.
    #[must_use]
    pub fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// A session's secrets.
    #[must_use]
    pub fn secrets(&self, id: SessionId) -> PathBuf {
        self.secrets.join(id.to_string())
    }

    /// The secrets of a session's plugins, which its agent must not read.
    #[must_use]
    pub fn plugin_secrets(&self, id: SessionId) -> PathBuf {
        self.secrets.join(format!("{id}{PLUGINS}"))
    }

    /// Makes a session's directory. Whatever an earlier set-up left there is removed first.
    ///
    /// # Errors
    /// When it cannot be made, or its supervisor lives, or there is a worktree that was not taken down.
    pub fn make_session(&self, id: SessionId) -> Result<SessionDir, StepError> {
        let dir = self.session(id);
        check_free(&dir)?;
        remove_all(dir.root())?;
        make(dir.root(), shared_mode(self.uid), None)?;
        Ok(dir)
    }

    /// Makes a session's run directory, which belongs to the agent.
    ///
    /// # Errors
    /// When it cannot be made or given.
    pub fn make_run(&self, dir: &SessionDir, users: &Users) -> Result<RunDir, StepError> {
        let path = dir.run();
        remove_all(&path)?;
        let fd = make(&path, 0o700, Some((users.host_uid, users.host_gid)))?;
        Ok(RunDir {
            fd,
            path,
            owner: (users.host_uid, users.host_gid),
        })
    }

    /// Removes a session's directory with all that is in it.
    ///
    /// # Errors
    /// When its supervisor lives, or there is a worktree that was not taken down, or something cannot be removed.
    pub fn remove_session(&self, id: SessionId, budget: &mut Budget) -> Result<Progress, StepError> {
        let dir = self.session(id);
        check_free(&dir)?;
        tree::remove(dir.root(), budget)
    }

    /// The sessions that have a directory.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn sessions(&self) -> Result<Vec<SessionId>, StepError> {
        Ok(ids(list(&self.root.join("sessions"))?))
    }

    /// The sessions that have a directory for secrets.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn sessions_with_secrets(&self) -> Result<Vec<SessionId>, StepError> {
        let names = list(&self.secrets)?;
        let names = names.into_iter();
        Ok(ids(names.map(|name| {
            name.strip_suffix(PLUGINS).map_or(name.clone(), str::to_owned)
        })))
    }

    /// The names of the homes, at most `max`.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn homes(&self, max: usize) -> Result<Vec<String>, StepError> {
        let mut names = list(&self.root.join("homes"))?;
        names.truncate(max);
        Ok(names)
    }

    /// Held while a repository's list of worktrees is changed: git itself does not bear two at once.
    ///
    /// # Errors
    /// When there is no lock to be had.
    pub fn lock_repositories(&self) -> Result<File, StepError> {
        let path = self.root.join("repositories.lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rfs::openat(CWD, &path, flags, Mode::from_raw_mode(0o600));
        let fd = fd.map_err(StepError::io("open", &path))?;
        rfs::flock(&fd, FlockOperation::LockExclusive).map_err(StepError::io("lock", &path))?;
        Ok(fd.into())
    }
}

/// A session's run directory while it is filled. The agent does not run yet.
#[derive(Debug)]
pub struct RunDir {
    fd: OwnedFd,
    path: PathBuf,
    owner: (u32, u32),
}

impl RunDir {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a new file that belongs to the agent; `name` is a plain name.
    ///
    /// # Errors
    /// When it cannot be written, or there is one of that name.
    pub fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), StepError> {
        write_new(self.fd.as_fd(), &self.path, name, bytes, mode, Some(self.owner))
    }

    /// Makes a link to a program of ours.
    ///
    /// # Errors
    /// When it cannot be made, or there is something of that name.
    pub fn link(&self, name: &str, to: &Path) -> Result<(), StepError> {
        rfs::symlinkat(to, &self.fd, name).map_err(StepError::io("make the link", &self.path.join(name)))
    }

    /// Makes a directory in which the agent can make nothing: it is agentd's where agentd has a user of its own, and
    /// in any case without the permission.
    ///
    /// # Errors
    /// When it cannot be made, or there is something of that name.
    pub(crate) fn fixed_directory(&self, name: &str) -> Result<(OwnedFd, PathBuf), StepError> {
        let path = self.path.join(name);
        let fd = make_in(self.fd.as_fd(), name, &path, 0o755, None)?;
        Ok((fd, path))
    }
}

/// Makes a directory read-only for its owner, too.
pub(crate) fn seal(fd: &OwnedFd, path: &Path) -> Result<(), StepError> {
    rfs::fchmod(fd, Mode::from_raw_mode(0o555)).map_err(StepError::io("protect", path))
}

/// What others need to pass through our directories: only root's agents have other users.
pub(super) fn shared_mode(uid: u32) -> u32 {
    if uid == 0 { 0o711 } else { 0o700 }
}

/// True when a name is one part of a path, and not a hidden one.
pub(crate) fn is_plain_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && !name.starts_with('.') && !name.contains(['/', '\0'])
}

pub(crate) fn c_path(path: &Path) -> CString {
    // A path with a zero byte in it is none; the empty one is refused by whoever is given it.
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

/// Removes a tree of ours wholly.
pub(crate) fn remove_all(path: &Path) -> Result<(), StepError> {
    match tree::remove(path, &mut Budget::entries(10_000_000))? {
        Progress::Done => Ok(()),
        Progress::More => Err(StepError::agent(format!(
            "{} has too many files to be removed at once; remove it by hand",
            path.display()
        ))),
    }
}

/// Makes a new directory at a path of ours.
pub(crate) fn make(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> Result<OwnedFd, StepError> {
    let (above, _) = tree::split(path)?;
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    make_in(above.as_fd(), name, path, mode, owner)
}

pub(crate) fn make_in(
    above: BorrowedFd<'_>,
    name: &str,
    path: &Path,
    mode: u32,
    owner: Option<(u32, u32)>,
) -> Result<OwnedFd, StepError> {
    // Nobody else gets in before it is as it should be.
    rfs::mkdirat(above, name, Mode::from_raw_mode(0o700)).map_err(StepError::io("make", path))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rfs::openat(above, name, flags, Mode::empty()).map_err(StepError::io("open", path))?;
    // Explicitly: the umask takes part in the first mode.
    rfs::fchmod(&fd, Mode::from_raw_mode(mode)).map_err(StepError::io("set the mode of", path))?;
    if let Some(owner) = owner {
        own(fd.as_fd(), path, owner)?;
    }
    Ok(fd)
}

/// Gives what is open to its owner, unless it is his already.
pub(crate) fn own(fd: BorrowedFd<'_>, path: &Path, owner: (u32, u32)) -> Result<(), StepError> {
    let found = Found::of(fd).map_err(StepError::io("look at", path))?;
    if (found.uid, found.gid) == owner {
        return Ok(());
    }
    let (uid, gid) = (rfs::Uid::from_raw(owner.0), rfs::Gid::from_raw(owner.1));
    rfs::chownat(fd, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
        .map_err(StepError::io("give to its user (only root can)", path))
}

/// Writes a file that was not there.
pub(crate) fn write_new(
    dir: BorrowedFd<'_>,
    dir_path: &Path,
    name: &str,
    bytes: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
) -> Result<(), StepError> {
    let path = dir_path.join(name);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd =
        rfs::openat(dir, name, flags, Mode::from_raw_mode(0o600)).map_err(StepError::io("make", &path))?;
    let mut file = File::from(fd);
    file.write_all(bytes).map_err(StepError::io("write", &path))?;
    rfs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(StepError::io("set the mode of", &path))?;
    if let Some(owner) = owner {
        own(file.as_fd(), &path, owner)?;
    }
    Ok(())
}

/// Writes a file of agentd's own so that it is wholly there or not at all.
pub(crate) fn replace(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), StepError> {
    let (above, name) = tree::split(path)?;
    let mut temporary = name.clone().into_bytes();
    temporary.extend(b".new");
    let temporary = CString::new(temporary).map_err(StepError::io("write", path))?;
    let written = || -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rfs::openat(
            &above,
            &temporary,
            flags,
            Mode::from_raw_mode(0o600),
        )?);
        file.write_all(bytes)?;
        if durability == Durability::Disk {
            file.sync_all()?;
        }
        rfs::renameat(&above, &temporary, &above, &name)?;
        if durability == Durability::Kernel {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rfs::openat(&above, c".", flags, Mode::empty())?;
        Ok(rfs::fsync(dir)?)
    };
    written().map_err(StepError::io("write", path))
}

/// What the mode of a directory of ours is to be.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    /// This.
    Exactly(u32),
    /// This at least, and nobody else may write there. Its user may have reasons for more.
    AtLeast(u32),
}

/// Makes a directory that is ours, or takes the one that is there if it is.
pub(super) fn own_directory(path: &Path, mode: Wanted, uid: u32) -> Result<OwnedFd, StepError> {
    let (above, _) = tree::split(path)?;
    let Some(name) = path.file_name().and_then(OsStr::to_str) else {
        return Err(StepError::machine(format!(
            "{} is no directory's name",
            path.display()
        )));
    };
    own_directory_in(above.as_fd(), name, path, mode, uid)
}

pub(super) fn own_directory_in(
    above: BorrowedFd<'_>,
    name: &str,
    path: &Path,
    wanted: Wanted,
    uid: u32,
) -> Result<OwnedFd, StepError> {
    match rfs::mkdirat(above, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(StepError::io("make", path)(error)),
    }
    let shown = path.display();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match rfs::openat(above, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return Err(StepError::machine(format!(
                "{shown} is not a directory, or is a link to one, which others could turn elsewhere: name the directory itself \
                 (for agentd's home: AGENTD_HOME or --home), or remove it, and agentd makes its own"
            )));
        }
        Err(Errno::ACCESS) => {
            return Err(StepError::machine(format!(
                "{shown} cannot be read: it belongs to somebody else; remove it, agentd makes its own"
            )));
        }
        Err(error) => return Err(StepError::io("open", path)(error)),
    };
    let found = Found::of(fd.as_fd()).map_err(StepError::io("look at", path))?;
    if found.uid != uid {
        return Err(StepError::machine(format!(
            "{shown} belongs to user {}, not to agentd's user {uid}, who could not trust what is in it; remove it, \
             agentd makes its own",
            found.uid
        )));
    }
    let mode = match wanted {
        Wanted::Exactly(mode) => mode,
        Wanted::AtLeast(mode) => (found.mode | mode) & !0o022,
    };
    if found.mode != mode {
        rfs::fchmod(&fd, Mode::from_raw_mode(mode)).map_err(StepError::io("set the mode of", path))?;
    }
    Ok(fd)
}

/// Where secrets are: in memory. What is swapped out is on a disk all the same; machines that must not have that
/// have no swap, or an encrypted one.
fn secrets_root(machine: &Machine) -> Result<PathBuf, StepError> {
    // Root's own runtime directory is closed to the users of its agents.
    if machine.uid != 0
        && let Some(runtime_dir) = &machine.runtime_dir
        && runtime_dir.is_absolute()
        && in_memory(runtime_dir)
        && Found::at(CWD, &c_path(runtime_dir)).is_ok_and(|found| {
            found.kind == FileType::Directory && found.uid == machine.uid && found.mode & 0o022 == 0
        })
    {
        let agentd = runtime_dir.join("agentd");
        own_directory(&agentd, Wanted::AtLeast(0o700), machine.uid)?;
        let secrets = agentd.join("secrets");
        own_directory(&secrets, Wanted::Exactly(0o700), machine.uid)?;
        return Ok(secrets);
    }
    let memory = &machine.shared_memory;
    if !in_memory(memory) {
        return Err(StepError::machine(format!(
            "{} is not on a tmpfs, and secrets may be nowhere else: mount one there (mount -t tmpfs -o mode=1777 \
             tmpfs {0}), or set XDG_RUNTIME_DIR to a directory on one that belongs to agentd's user alone",
            memory.display()
        )));
    }
    let root = memory.join(format!("agentd-{}", machine.uid));
    own_directory(&root, Wanted::Exactly(shared_mode(machine.uid)), machine.uid)?;
    Ok(root)
}

fn in_memory(path: &Path) -> bool {
    // Its type differs between machines; the number is one of 32 bits on all of them.
    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "see above"
    )]
    rfs::statfs(path).is_ok_and(|stat| matches!(stat.f_type as u32, TMPFS | RAMFS))
}

/// Refuses a session's directory in which something is that is not to be removed with it.
fn check_free(dir: &SessionDir) -> Result<(), StepError> {
    let shown = dir.root().display();
    if is_locked(dir)? {
        return Err(StepError::machine(format!(
            "{shown} belongs to a session that runs"
        )));
    }
    // Its branch and its place in the repository would be left without anybody who knows of them.
    if dir.root().join(RECORD_FILE).symlink_metadata().is_ok() {
        return Err(StepError::machine(format!(
            "the worktree in {shown} has to be taken down first"
        )));
    }
    Ok(())
}

/// True while a supervisor holds a session's lock.
pub(crate) fn is_locked(dir: &SessionDir) -> Result<bool, StepError> {
    let path = dir.lock();
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rfs::openat(CWD, &path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(StepError::io("open", &path)(error)),
    };
    match rfs::flock(&fd, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(StepError::io("try the lock", &path)(error)),
    }
}

/// The names in a directory of ours that are text.
pub(crate) fn list(path: &Path) -> Result<Vec<String>, StepError> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StepError::io("list", path)(error)),
    };
    let mut names = Vec::new();
    for entry in entries.take(LISTED_MAX) {
        let entry = entry.map_err(StepError::io("list", path))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn ids(names: impl IntoIterator<Item = String>) -> Vec<SessionId> {
    // Only what is spelled as we spell it is ours.
    let id = |name: &String| name.parse().ok().filter(|id: &SessionId| id.to_string() == *name);
    names.into_iter().filter_map(|name| id(&name)).collect()
}
