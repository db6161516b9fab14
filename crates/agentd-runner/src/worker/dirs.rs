//! The directories of a worker and of its attempts.
//!
//! A worker has `<runtime dir>/worker-<id>/` for as long as it lives, and in it one directory for each
//! attempt that runs. It holds a lock on a file there; the lock ends with the process, however it ends, and
//! whoever starts next removes the directories that nobody holds any more.

use agentd_protocol::LeaseId;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const PREFIX: &str = "worker-";

/// A worker's directory. Removed when dropped.
#[derive(Debug)]
pub(crate) struct WorkerDir {
    path: PathBuf,
    // Held, not used.
    _lock: File,
}

/// Makes a directory for this user alone, with those above it.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl WorkerDir {
    /// Makes a directory in `runtime_dir` and clears away what dead workers left there. Blocks.
    pub(crate) fn new(runtime_dir: &Path) -> io::Result<Self> {
        make_private(runtime_dir)?;
        // One worker at a time: a new directory is not locked yet at its first moment.
        let gate = File::create(runtime_dir.join("lock"))?;
        gate.lock()?;
        for entry in fs::read_dir(runtime_dir)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                remove_if_unheld(&entry.path());
            }
        }
        let path = runtime_dir.join(format!("{PREFIX}{}", uuid::Uuid::new_v4().simple()));
        DirBuilder::new().mode(0o700).create(&path)?;
        let lock = File::create(path.join("lock"))?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }

    /// Makes the directory of an attempt. Blocks.
    pub(crate) fn attempt(&self, lease_id: LeaseId) -> io::Result<AttemptDir> {
        let path = self.path.join(lease_id.to_string());
        DirBuilder::new().mode(0o700).create(&path)?;
        let dir = AttemptDir { path };
        DirBuilder::new().mode(0o700).create(dir.inputs())?;
        Ok(dir)
    }
}

impl Drop for WorkerDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// A dead worker's directory; a live one is left alone, and so is what cannot be understood.
fn remove_if_unheld(path: &Path) {
    match File::open(path.join("lock")).map(|lock| lock.try_lock().map(|()| lock)) {
        // Held while removing, in case somebody looks meanwhile.
        Ok(Ok(_lock)) => remove(path),
        // It ended between making the directory and the lock, or while it was removed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => remove(path),
        Ok(Err(_)) | Err(_) => {}
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a directory of an attempt");
    }
}

/// An attempt's directory. Removed when dropped.
#[derive(Debug)]
pub(crate) struct AttemptDir {
    path: PathBuf,
}

impl AttemptDir {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn inputs(&self) -> PathBuf {
        self.path.join("inputs")
    }

    pub(crate) fn result(&self) -> PathBuf {
        self.path.join("result.json")
    }
}

impl Drop for AttemptDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dead_workers_left_is_removed_and_what_live_ones_have_is_not() {
        let runtime = tempfile::tempdir().unwrap();
        let live = WorkerDir::new(runtime.path()).unwrap();
        let attempt = live.attempt(LeaseId(uuid::Uuid::new_v4())).unwrap();
        let dead = runtime.path().join("worker-dead");
        fs::create_dir_all(dead.join("attempt/inputs")).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        let other = WorkerDir::new(runtime.path()).unwrap();
        assert!(!dead.exists());
        assert!(attempt.inputs().is_dir());
        drop((attempt, live, other));
        let left: Vec<_> = fs::read_dir(runtime.path())
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert_eq!(left, ["lock"]);
    }
}
