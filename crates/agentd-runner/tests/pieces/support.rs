//! What the tests share: an agentd's directories of their own, an agent, users.

use crate::agent::plain_agent;
use agentd_config::{Agent, RuntimeKind};
use agentd_protocol::SessionId;
use agentd_runner::runtime::engine::Users;
use agentd_runner::session::state::{Machine, StateDirs};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// An ordinary user's number, for what root does for others.
pub(crate) const OTHER: u32 = 4_200_001;

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// agentd's directories, on a disk and on a tmpfs, removed in the end.
pub(crate) struct Place {
    pub(crate) dirs: StateDirs,
    pub(crate) root: tempfile::TempDir,
    _memory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        // As /dev/shm itself: others pass.
        for dir in [root.path(), memory.path()] {
            fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
        }
        let dirs = StateDirs::open(&root.path().join("state"), "test", &machine(memory.path())).unwrap();
        Self {
            dirs,
            root,
            _memory: memory,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Directories without permissions, which tempfile leaves.
        let mut budget = agentd_runner::session::tree::Budget::entries(u64::MAX);
        let _ = agentd_runner::session::tree::remove(self.dirs.root(), &mut budget);
    }
}

pub(crate) fn machine(shared_memory: &Path) -> Machine {
    Machine {
        uid: nix::unistd::geteuid().as_raw(),
        runtime_dir: None,
        shared_memory: shared_memory.to_owned(),
    }
}

pub(crate) fn session() -> SessionId {
    SessionId(uuid::Uuid::now_v7())
}

pub(crate) fn users(uid: u32, gid: u32) -> Users {
    Users {
        host_uid: uid,
        host_gid: gid,
        inside_uid: 1000,
        inside_gid: 1000,
        range_start: None,
        shown_as_agent: None,
    }
}

pub(crate) fn ourselves() -> Users {
    users(nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

pub(crate) fn agent() -> Agent {
    Agent {
        name: "reviewer".into(),
        runtime: RuntimeKind::Process,
        command: vec!["/bin/true".into()],
        ..plain_agent()
    }
}

/// Owner and mode of what is at a path, links not followed.
pub(crate) fn owner_and_mode(path: &Path) -> (u32, u32, u32) {
    let metadata = path.symlink_metadata().unwrap();
    (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
}

/// Everything below a directory, sorted.
pub(crate) fn listed(path: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut open = vec![path.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
            all.push(entry.path().strip_prefix(path).unwrap().to_owned());
        }
    }
    all.sort();
    all
}
