//! Bringing an agent's work over into the workspace's repository, where it has a name and cannot be lost.
//!
//! What was committed on the session's branch becomes that branch there. Whatever else has commits of its own (another
//! branch, a stash, a detached HEAD) and what was not committed, when its files are to go, is kept under `refs/agentd/`,
//! where `git branch` does not show it and `git gc` leaves it alone.

use super::super::error::StepError;
use super::super::git::{At, Git, View, in_memory, refused, words};
use super::super::state;
use super::copy::{self, Copy};
use super::source::{self, Common};
use super::{Saved, Worktree, object_id, short_id};
use agentd_protocol::SessionId;
use agentd_supervisor::dir::SessionDir;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Packs with fewer objects are unpacked, as git itself does.
const UNPACKED_MAX: u32 = 100;
/// An index that is copied to be worked with, in bytes.
const INDEX_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// What belongs together while work is brought over.
pub(super) struct Saving<'a> {
    /// Git as the owner of the workspace's repository, whose the files are by now.
    git: &'a Git,
    dir: &'a SessionDir,
    session: SessionId,
    worktree: &'a Worktree,
    copy: &'a Copy,
}

impl<'a> Saving<'a> {
    pub(super) fn new(
        git: &'a Git,
        dir: &'a SessionDir,
        session: SessionId,
        worktree: &'a Worktree,
        copy: &'a Copy,
    ) -> Self {
        Self {
            git,
            dir,
            session,
            worktree,
            copy,
        }
    }

    /// Makes a commit of all that is not committed, on top of `parent`. Names nothing and changes no file.
    ///
    /// # Errors
    /// When git cannot read something, or a repository of its own is in it, whose commits no other can hold.
    pub(super) fn commit_changes(&self, parent: &str) -> Result<String, StepError> {
        let Self {
            git, dir, worktree, ..
        } = self;
        let scratch = self.scratch()?;
        let index = scratch.join("index");
        let copied = copy_index(&self.copy.index, &index, (worktree.uid, worktree.gid))?;
        let view = self
            .copy
            .view(git, dir, worktree, parent)?
            .with_files(&worktree.path, &index);
        let at = At::View(&view);
        if !copied {
            git.run(at, &words(["read-tree", parent]))?;
        }
        git.run(at, &words(["add", "--all", "--sparse", "."]))?;
        if let Some(nested) = copy::gitlinks(git, &view, &worktree.path)?.first() {
            return Err(StepError::agent(format!(
                "{} is a repository of its own, whose commits cannot be a part of another",
                worktree.path.join(nested).display()
            )));
        }
        let tree = object_id(&git.run(at, &words(["write-tree"]))?.line())?;
        let message = format!(
            "WIP: what {} left uncommitted\n\nCommitted by agentd at the end of session {}.\n",
            worktree.agent, self.session
        );
        let arguments = words(["commit-tree", &tree, "-p", parent, "-m", &message]);
        let commit = object_id(&git.run(at, &arguments)?.line())?;
        drop(view);
        state::remove_all(&scratch)?;
        Ok(commit)
    }

    /// Keeps what is not committed under a name.
    pub(super) fn save_changes(&self) -> Result<Saved, StepError> {
        let parent = self.copy.head.as_ref().unwrap_or(&self.worktree.base);
        let commit = self.commit_changes(parent)?;
        self.bring_over(std::slice::from_ref(&commit))?;
        self.keep(&commit, "uncommitted changes")
    }

    /// Copies the objects of these commits and tags into the workspace's repository. What it has already, it keeps.
    ///
    /// # Errors
    /// When something of it cannot be read or written.
    pub(super) fn bring_over(&self, objects: &[String]) -> Result<(), StepError> {
        let Self {
            git, dir, worktree, ..
        } = self;
        let known = source::references(git, &worktree.repository)?;
        let mut input = String::new();
        for object in objects {
            input.push_str(object);
            input.push('\n');
        }
        for (_, object) in &known {
            input.push_str(&format!("^{object}\n"));
        }
        let scratch = self.scratch()?;
        let pack = scratch.join("pack");
        let file = File::create_new(&pack).map_err(StepError::io("make", &pack))?;
        let view = self.copy.view(git, dir, worktree, &worktree.base)?;
        let at = At::View(&view);
        let arguments = words([
            "pack-objects",
            "--revs",
            "--stdout",
            "--quiet",
            "--delta-base-offset",
        ]);
        let input = in_memory(input.as_bytes()).map_err(StepError::io("write", &pack))?;
        let packed = git.ask_between(at, &arguments, Some(input), Some(file))?;
        if packed.code != 0 {
            return Err(refused(at, &arguments, &packed));
        }
        drop(view);
        self.unpack(&pack)?;
        state::remove_all(&scratch)
    }

    fn unpack(&self, pack: &Path) -> Result<(), StepError> {
        let Self {
            git, dir, worktree, ..
        } = self;
        let mut file = File::open(pack).map_err(StepError::io("open", pack))?;
        let mut head = [0; 12];
        file.read_exact(&mut head)
            .and_then(|()| file.rewind())
            .map_err(StepError::io("read", pack))?;
        let count = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
        if count == 0 {
            return Ok(());
        }
        let view = View::new(
            git,
            &dir.root().join("view"),
            &worktree.repository,
            &worktree.base,
        )?;
        let at = At::View(&view);
        let unpack = words(["unpack-objects", "-q"]);
        let index = words(["index-pack", "--stdin"]);
        let arguments: &[&OsStr] = if count < UNPACKED_MAX { &unpack } else { &index };
        let answer = git.ask_between(at, arguments, Some(file), None)?;
        if answer.code != 0 {
            return Err(refused(at, arguments, &answer));
        }
        Ok(())
    }

    /// Gives the session's branch in the workspace's repository this commit, which is there. False when the branch has
    /// something else by now, which stays.
    pub(super) fn set_branch(&self, branch: &str, commit: &str) -> Result<bool, StepError> {
        let Self { git, worktree, .. } = self;
        let repository = &worktree.repository;
        let reference = format!("refs/heads/{branch}");
        let old = source::commit(git, repository, &reference)?;
        let old = match old {
            Some(old) if old == commit => return Ok(true),
            Some(old) if !self.is_ancestor(&old, commit)? => return Ok(false),
            Some(old) => old,
            None => "0".repeat(commit.len()),
        };
        let reason = format!("agentd: session {}", self.session);
        let arguments = words(["update-ref", "-m", &reason, &reference, commit, &old]);
        git.run(At::Repository(repository), &arguments).map(|_| true)
    }

    /// Keeps a commit or a tag, which is there, under a name that nothing else has.
    pub(super) fn keep(&self, object: &str, what: &str) -> Result<Saved, StepError> {
        let Self { git, worktree, .. } = self;
        let id = short_id(self.session);
        let reference = format!("refs/agentd/{}/{id}/{}", worktree.agent, &object[..12]);
        let arguments = words(["update-ref", &reference, object]);
        git.run(At::Repository(&worktree.repository), &arguments)?;
        Ok(Saved {
            reference,
            commit: object.to_owned(),
            what: what.to_owned(),
        })
    }

    /// The name for the session's branch, another one when something came in the way of it meanwhile.
    pub(super) fn branch(&self) -> Result<String, StepError> {
        let worktree = self.worktree;
        let there = source::commit(
            self.git,
            &worktree.repository,
            &format!("refs/heads/{}", worktree.branch),
        )?;
        if there.is_some() {
            return Ok(worktree.branch.clone());
        }
        let common = Common {
            git: self.git.clone(),
            path: worktree.repository.clone(),
        };
        match common.in_the_way(&worktree.branch)? {
            None => Ok(worktree.branch.clone()),
            Some(_) => common.free_branch(&worktree.agent, self.session),
        }
    }

    pub(super) fn is_ancestor(&self, older: &str, newer: &str) -> Result<bool, StepError> {
        let view = self
            .copy
            .view(self.git, self.dir, self.worktree, &self.worktree.base)?;
        super::super::merge::is_ancestor(self.git, &view, older, newer)
    }

    /// A directory in which the repository's owner may write.
    fn scratch(&self) -> Result<PathBuf, StepError> {
        let path = self.dir.root().join("scratch");
        state::remove_all(&path)?;
        state::make(&path, 0o700, Some((self.worktree.uid, self.worktree.gid)))?;
        Ok(path)
    }
}

/// Copies an index, with what it remembers of the files and leaves out of them. False when there is none to copy.
pub(super) fn copy_index(from: &Path, to: &Path, owner: (u32, u32)) -> Result<bool, StepError> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let Ok(fd) = openat(CWD, from, flags, Mode::empty()) else {
        return Ok(false);
    };
    let mut index = File::from(fd);
    let found = index.metadata().map_err(StepError::io("look at", from))?;
    if !found.is_file() || found.len() > INDEX_BYTES_MAX {
        return Ok(false);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(CWD, to, flags, Mode::from_raw_mode(0o600)).map_err(StepError::io("make", to))?;
    let mut copy = File::from(fd);
    let copied = io::copy(&mut Read::take(&mut index, INDEX_BYTES_MAX), &mut copy);
    copied
        .and_then(|_| copy.flush())
        .map_err(StepError::io("write", to))?;
    state::own(std::os::fd::AsFd::as_fd(&copy), to, owner)?;
    Ok(true)
}
