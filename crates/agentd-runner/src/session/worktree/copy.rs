//! A worktree's own repository, as its agent left it: read with distrust.
//!
//! Its files are the agent's to write. So it is looked at only where it is what agentd made (directories that are no
//! links, objects that are files, the list of borrowed objects as it was): its names are read by commands that run
//! nothing, its objects through a `View` with a configuration of our own. What is not as it was made is not read, and stays
//! where it is.

use super::super::error::StepError;
use super::super::git::{At, Git, Sparse, View, refused, words};
use super::super::state;
use super::super::tree::{self, Budget};
use super::save::copy_index;
use super::source::{self, lines};
use super::{Worktree, alternates_of, object_id};
use agentd_supervisor::dir::SessionDir;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Directories and files below `objects` that are looked at.
const OBJECTS_MAX: usize = 2_000_000;
/// Names with commits of their own that are brought over.
const NAMES_MAX: usize = 1000;

/// What a copy has.
#[derive(Debug)]
pub(super) struct Copy {
    /// Its objects, besides those that it borrows; absent when they must not be read.
    objects: Option<PathBuf>,
    /// A copy of its index, without what hides changes; of the commit, when there is no index to be read.
    pub(super) index: PathBuf,
    /// The commit that is checked out.
    pub(super) head: Option<String>,
    /// The commit of the session's branch.
    pub(super) tip: Option<String>,
    /// Every other name, with its object: stashes, other branches, tags.
    pub(super) names: Vec<(String, String)>,
    ignored: Vec<u8>,
    sparse: Option<Sparse>,
}

impl Copy {
    /// Looks at the repository of a worktree whose agent is gone.
    ///
    /// # Errors
    /// When it is there and not as agentd made it: its commits must not be read, and must not be lost.
    pub(super) fn read(git: &Git, dir: &SessionDir, worktree: &Worktree) -> Result<Self, StepError> {
        let git_dir = worktree.git_dir();
        // Git passes over directories that it cannot read.
        let mut budget = Budget::entries(tree::ENTRIES_MAX);
        tree::open_up(&worktree.path, worktree.uid, &mut budget)?;
        let looking = dir.root().join("looking");
        state::remove_all(&looking)?;
        state::make(&looking, 0o700, Some((worktree.uid, worktree.gid)))?;
        let mut copy = Self {
            objects: None,
            index: looking.join("index"),
            head: None,
            tip: None,
            names: Vec::new(),
            ignored: rules(worktree),
            sparse: None,
        };
        // Without it there is nothing but the files.
        if !git_dir.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            copy.take_index(git, dir, worktree)?;
            return Ok(copy);
        }
        as_made(&git_dir, worktree).map_err(|why| {
            StepError::agent(format!(
                "{} is not as agentd made it ({why}); what is in it can only be got at by hand",
                git_dir.display()
            ))
        })?;
        copy.objects = Some(git_dir.join("objects"));
        copy.head = source::commit(git, &git_dir, "HEAD")?;
        copy.tip = source::commit(git, &git_dir, &format!("refs/heads/{}", worktree.branch))?;
        copy.sparse = source::sparse(git, At::Repository(&git_dir), &git_dir)?;
        copy.names = source::references(git, &git_dir)?;
        copy.names.retain(|(name, _)| !name.starts_with("refs/remotes/"));
        copy.names.extend(stashes(git, &git_dir)?);
        copy.names.extend(other_checkouts(git, &git_dir)?);
        if let Some(head) = &copy.head {
            copy.names.push(("HEAD".into(), head.clone()));
        }
        copy.take_index(git, dir, worktree)?;
        Ok(copy)
    }

    /// True when there is a repository to be read, and not its files alone.
    pub(super) fn has_repository(&self) -> bool {
        self.objects.is_some()
    }

    /// Copies the index, and clears the marks by which files are taken for unchanged, whatever is in them.
    fn take_index(&self, git: &Git, dir: &SessionDir, worktree: &Worktree) -> Result<(), StepError> {
        let head = self.head.as_ref().unwrap_or(&worktree.base);
        let owner = (worktree.uid, worktree.gid);
        let own = worktree.git_dir().join("index");
        let copied = self.has_repository() && copy_index(&own, &self.index, owner)?;
        let view = self
            .view(git, dir, worktree, head)?
            .with_files(&worktree.path, &self.index);
        let at = At::View(&view);
        let listed = match copied {
            true => git.ask(at, &words(["ls-files", "-v", "-z"]))?,
            false => return git.run(at, &words(["read-tree", "--reset", head])).map(|_| ()),
        };
        if listed.code != 0 {
            // It is no index.
            state::remove_all(&self.index)?;
            return git.run(at, &words(["read-tree", "--reset", head])).map(|_| ());
        }
        let mut marked = Vec::new();
        for entry in listed.output.split(|byte| *byte == 0) {
            let [tag, b' ', path @ ..] = entry else { continue };
            let skipped = *tag == b'S' && self.sparse.is_none();
            if tag.is_ascii_lowercase() || skipped {
                marked.extend(path);
                marked.push(0);
            }
        }
        if marked.is_empty() {
            return Ok(());
        }
        for mark in ["--no-assume-unchanged", "--no-skip-worktree"] {
            let arguments = words(["update-index", mark, "-z", "--stdin"]);
            let cleared = git.ask_with(at, &arguments, Some(&marked))?;
            if cleared.code != 0 {
                return Err(refused(at, &arguments, &cleared));
            }
        }
        Ok(())
    }

    /// The rules of what git ignores.
    pub(super) fn rules(&self) -> &[u8] {
        &self.ignored
    }

    /// Which files of a commit the worktree has, when that is not all.
    pub(super) fn sparse(&self) -> Option<&Sparse> {
        self.sparse.as_ref()
    }

    /// A view of the workspace's repository that has the copy's objects as well.
    pub(super) fn view(
        &self,
        git: &Git,
        dir: &SessionDir,
        worktree: &Worktree,
        head: &str,
    ) -> Result<View, StepError> {
        let view = View::new(git, &dir.root().join("view"), &worktree.repository, head)?;
        let objects: Vec<PathBuf> = self.objects.iter().cloned().collect();
        view.borrowing(&objects)
            .with_rules(&self.ignored, self.sparse.as_ref())
    }

    /// The paths that differ from the commit that is checked out, or are not in it: as the agent's own `git status`.
    pub(super) fn changed(
        &self,
        git: &Git,
        dir: &SessionDir,
        worktree: &Worktree,
    ) -> Result<Vec<Vec<u8>>, StepError> {
        let head = self.head.as_ref().unwrap_or(&worktree.base);
        let view = self
            .view(git, dir, worktree, head)?
            .with_files(&worktree.path, &self.index);
        let status = view.status(git, "normal")?;
        let paths = status.split(|byte| *byte == 0);
        Ok(paths
            .filter_map(|entry| entry.get(3..).map(<[u8]>::to_vec))
            .collect())
    }

    /// The names whose commits, or tags, the workspace's repository does not have; each object once.
    pub(super) fn unsaved(
        &self,
        git: &Git,
        dir: &SessionDir,
        worktree: &Worktree,
    ) -> Result<Vec<(String, String)>, StepError> {
        let known: BTreeSet<String> = source::references(git, &worktree.repository)?
            .into_iter()
            .map(|(_, object)| object)
            .collect();
        let mut seen = BTreeSet::new();
        let fresh: Vec<&(String, String)> = self
            .names
            .iter()
            .filter(|(_, object)| !known.contains(object) && seen.insert(object.clone()))
            .collect();
        if fresh.is_empty() {
            return Ok(Vec::new());
        }
        if fresh.len() > NAMES_MAX {
            return Err(StepError::agent(format!(
                "{} has {} names of its own, and at most {NAMES_MAX} are brought over",
                worktree.path.display(),
                fresh.len()
            )));
        }
        let view = self.view(git, dir, worktree, &worktree.base)?;
        let mut unsaved = Vec::new();
        for (name, object) in fresh {
            // A tag is an object itself.
            if name.starts_with("refs/tags/") || has_commits(git, &view, object, &known)? {
                unsaved.push((name.clone(), object.clone()));
            }
        }
        Ok(unsaved)
    }

    /// The paths of repositories of their own among a worktree's files that git tracks: submodules that have files. Git
    /// itself says nothing of these.
    pub(super) fn nested(
        &self,
        git: &Git,
        dir: &SessionDir,
        worktree: &Worktree,
    ) -> Result<Vec<PathBuf>, StepError> {
        let view = self
            .view(git, dir, worktree, &worktree.base)?
            .with_files(&worktree.path, &self.index);
        gitlinks(git, &view, &worktree.path)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Some(looking) = self.index.parent()
            && let Err(error) = state::remove_all(looking)
        {
            tracing::warn!(path = %looking.display(), %error, "a copy of an index is left");
        }
    }
}

/// The entries of a view's index that are repositories of their own, and have files.
pub(super) fn gitlinks(git: &Git, view: &View, files: &Path) -> Result<Vec<PathBuf>, StepError> {
    // First the modes alone: of most repositories nothing else is needed.
    let modes = git.run(At::View(view), &words(["ls-files", "--format=%(objectmode)"]))?;
    if !lines(&modes.output).any(|mode| mode == b"160000") {
        return Ok(Vec::new());
    }
    let listed = git.run(
        At::View(view),
        &words(["ls-files", "-z", "--format=%(objectmode) %(path)"]),
    )?;
    let paths = listed.output.split(|byte| *byte == 0);
    Ok(paths
        .filter_map(|entry| entry.strip_prefix(b"160000 "))
        .map(|path| PathBuf::from(OsStr::from_bytes(path)))
        .filter(|path| is_filled(&files.join(path)))
        .collect())
}

/// A submodule that is not checked out is an empty directory.
fn is_filled(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

fn has_commits(git: &Git, view: &View, object: &str, known: &BTreeSet<String>) -> Result<bool, StepError> {
    let mut input = format!("{object}\n");
    for object in known {
        input.push_str(&format!("^{object}\n"));
    }
    // What is known and is no commit says nothing, and what is broken there is not ours.
    let arguments = words(["rev-list", "--max-count=1", "--ignore-missing", "--stdin"]);
    let answer = git.ask_with(At::View(view), &arguments, Some(input.as_bytes()))?;
    if answer.code == 0 {
        return Ok(!answer.output.is_empty());
    }
    Err(refused(At::View(view), &arguments, &answer))
}

/// Earlier stashes are known to the log of the newest alone.
fn stashes(git: &Git, git_dir: &Path) -> Result<Vec<(String, String)>, StepError> {
    let arguments = words([
        "rev-list",
        "--walk-reflogs",
        "--max-count=100",
        "refs/stash",
        "--",
    ]);
    let listed = git.ask(At::Repository(git_dir), &arguments)?;
    if listed.code != 0 {
        return Ok(Vec::new());
    }
    let objects = lines(&listed.output).filter_map(|line| object_id(OsStr::from_bytes(line)).ok());
    let named = |(number, object)| (format!("stash@{{{number}}}"), object);
    Ok(objects.enumerate().map(named).collect())
}

/// What is checked out in worktrees that the agent itself made of its repository.
fn other_checkouts(git: &Git, git_dir: &Path) -> Result<Vec<(String, String)>, StepError> {
    let listed = git.run(
        At::Repository(git_dir),
        &words(["worktree", "list", "--porcelain", "-z"]),
    )?;
    let heads = listed.output.split(|byte| *byte == 0);
    Ok(heads
        .filter_map(|line| line.strip_prefix(b"HEAD "))
        .filter_map(|head| object_id(OsStr::from_bytes(head)).ok())
        .filter(|head| head.bytes().any(|byte| byte != b'0'))
        .map(|head| ("HEAD of a worktree".to_owned(), head))
        .collect())
}

/// Says what of a copy is not as agentd made it.
fn as_made(git_dir: &Path, worktree: &Worktree) -> Result<(), String> {
    let objects = git_dir.join("objects");
    for dir in [git_dir, &objects, &git_dir.join("refs")] {
        if !dir.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return Err(format!("{} is no directory", dir.display()));
        }
    }
    if git_dir.join("commondir").symlink_metadata().is_ok() {
        return Err("it is a part of another repository".into());
    }
    only_files(&objects).map_err(|error| error.to_string())?;
    let list = source::read_if_there(&objects.join("info/alternates")).map_err(|error| error.to_string())?;
    match list {
        Some(list) if list != alternates_of(worktree) => Err("it borrows other objects".into()),
        _ => Ok(()),
    }
}

/// Git would follow a link to another repository's objects, which the agent may not read.
fn only_files(objects: &Path) -> io::Result<()> {
    let mut left = vec![objects.to_owned()];
    let mut seen = 0;
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                left.push(entry.path());
            } else if !kind.is_file() {
                return Err(io::Error::other(format!("{} is no file", entry.path().display())));
            }
            seen += 1;
            if seen > OBJECTS_MAX {
                return Err(io::Error::other("it has too many objects"));
            }
        }
    }
    Ok(())
}

/// What the agent's git ignores: the rules of its repository, and those of its home.
fn rules(worktree: &Worktree) -> Vec<u8> {
    let own = worktree.git_dir().join("info/exclude");
    let mut rules = Vec::new();
    for path in std::iter::once(&own).chain(&worktree.ignore_files) {
        // A link would lead to somebody else's file; then there are no rules.
        if path.symlink_metadata().is_ok_and(|found| found.is_file())
            && let Ok(Some(text)) = source::read_if_there(path)
        {
            rules.extend(text);
            rules.push(b'\n');
        }
    }
    rules
}
