//! Bringing a worktree's commits into the branch that they began from, without a checkout of anybody's being left
//! half merged: the merge is made of objects alone, and then a name is moved, provided that it is where it was.
//!
//! When the branch is checked out somewhere, the files there have to move with it. That happens only where there is
//! nothing that could be lost: no change, no operation under way, no file in the place of one that comes. Otherwise
//! both sides stay, and people are told.

use super::error::StepError;
use super::git::{At, Git, Sparse, View, refused, words};
use super::worktree::{Worktree, commit, object_id, sparse};
use agentd_supervisor::dir::SessionDir;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Files of a git directory that say that something is under way there, or is not as plain as we need it.
const UNDER_WAY: [&str; 8] = [
    "index.lock",
    "MERGE_HEAD",
    "CHERRY_PICK_HEAD",
    "REVERT_HEAD",
    "BISECT_LOG",
    "rebase-merge",
    "rebase-apply",
    "sequencer",
];

/// Somewhere that a repository's files are.
#[derive(Debug)]
pub(crate) struct Checkout {
    pub(crate) path: PathBuf,
    /// The branch's whole name.
    branch: Option<OsString>,
}

impl Checkout {
    /// True when this branch, by its whole name, is checked out there.
    pub(crate) fn has(&self, reference: &str) -> bool {
        self.branch.as_deref() == Some(OsStr::new(reference))
    }
}

/// Where the files of a repository are, as the repository says.
pub(crate) fn checkouts(git: &Git, worktree: &Worktree) -> Result<Vec<Checkout>, StepError> {
    let at = At::Repository(&worktree.repository);
    let listed = git.run(at, &words(["worktree", "list", "--porcelain", "-z"]))?;
    let mut checkouts: Vec<Checkout> = Vec::new();
    for line in listed.output.split(|byte| *byte == 0) {
        if let Some(path) = line.strip_prefix(b"worktree ") {
            let path = PathBuf::from(OsString::from_vec(path.to_vec()));
            checkouts.push(Checkout { path, branch: None });
        } else if let Some(branch) = line.strip_prefix(b"branch ")
            && let Some(checkout) = checkouts.last_mut()
        {
            checkout.branch = Some(OsString::from_vec(branch.to_vec()));
        }
    }
    Ok(checkouts)
}

/// False when there is no repository any more, or something that git makes nothing of: an agent may write there. Then
/// nothing of a session's can be removed from it either.
pub(crate) fn is_repository(git: &Git, worktree: &Worktree) -> Result<bool, StepError> {
    let path = &worktree.repository;
    if !path.exists() {
        return Ok(false);
    }
    match git.ask(At::Repository(path), &words(["rev-parse", "--git-dir"])) {
        Ok(answer) if answer.code == 0 => Ok(true),
        Ok(_) | Err(StepError::Git { .. }) => {
            tracing::warn!(path = %path.display(), branch = worktree.branch, "this is no repository any more");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

pub(crate) fn is_ancestor(git: &Git, view: &View, older: &str, newer: &str) -> Result<bool, StepError> {
    let arguments = words(["merge-base", "--is-ancestor", older, newer]);
    let answer = git.ask(At::View(view), &arguments)?;
    match answer.code {
        0 => Ok(true),
        1 => Ok(false),
        _ => Err(refused(At::View(view), &arguments, &answer)),
    }
}

/// How many commits lead to `tip` and not to `base`; both are in the workspace's repository.
pub(crate) fn count_commits(
    git: &Git,
    dir: &SessionDir,
    worktree: &Worktree,
    tip: &str,
    base: &str,
) -> Result<u64, StepError> {
    let view = view(git, dir, worktree, base)?;
    let counted = git.run(
        At::View(&view),
        &words(["rev-list", "--count", tip, "--not", base]),
    )?;
    let counted = counted.line().to_string_lossy().into_owned();
    counted
        .parse()
        .map_err(|_| StepError::machine(format!("git counted {counted:?} commits")))
}

/// A view of the repository, with `head` as its HEAD.
pub(crate) fn view(git: &Git, dir: &SessionDir, worktree: &Worktree, head: &str) -> Result<View, StepError> {
    View::new(git, &dir.root().join("view"), &worktree.repository, head)
}

/// A git directory that a checkout says is its own, if it belongs to the repository.
pub(crate) fn admin(git: &Git, worktree: &Worktree, path: &Path) -> Result<Option<PathBuf>, StepError> {
    let answer = git.ask(
        At::Found(path),
        &words([
            "rev-parse",
            "--path-format=absolute",
            "--absolute-git-dir",
            "--git-common-dir",
        ]),
    )?;
    let lines: Vec<&[u8]> = answer.output.split(|byte| *byte == b'\n').collect();
    let [git_dir, common, ..] = lines.as_slice() else {
        return Ok(None);
    };
    let (git_dir, common) = (
        Path::new(OsStr::from_bytes(git_dir)),
        Path::new(OsStr::from_bytes(common)),
    );
    let ours = answer.code == 0
        && common
            .canonicalize()
            .is_ok_and(|common| common == worktree.repository);
    Ok(ours.then(|| git_dir.to_owned()))
}

/// True when files and index are as `view`'s HEAD says. Files that are not known count where `untracked` says.
pub(crate) fn is_clean(git: &Git, view: &View, untracked: bool) -> Result<bool, StepError> {
    let untracked = if untracked { "normal" } else { "no" };
    Ok(view.status(git, untracked)?.is_empty())
}

static MERGING: Mutex<()> = Mutex::new(());

/// What became of a merge.
pub(crate) enum Merge {
    /// The branch that has it now.
    Done(String),
    /// Both sides changed the same; they are as they were.
    Conflict(String),
    /// Something else speaks against it.
    Not(String),
}

/// Merges a commit into the branch that its worktree began from, when nothing speaks against it. Changes that branch
/// and the files of where it is checked out; the worktree itself is left to the caller.
pub(crate) fn merge(git: &Git, dir: &SessionDir, worktree: &Worktree, tip: &str) -> Result<Merge, StepError> {
    // Sessions that end together would take each other's half-moved files for somebody's changes.
    let _one_at_a_time = MERGING.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(base_branch) = &worktree.base_branch else {
        return Ok(Merge::Not("it began from no branch".into()));
    };
    let target = format!("refs/heads/{base_branch}");
    let Some(current) = commit(git, &worktree.repository, &target)? else {
        return Ok(Merge::Not(format!(
            "the branch {base_branch}, from which it began, is gone"
        )));
    };
    let new = {
        let view = view(git, dir, worktree, &current)?;
        if is_ancestor(git, &view, tip, &current)? {
            return Ok(Merge::Done(base_branch.clone()));
        }
        if is_ancestor(git, &view, &current, tip)? {
            tip.to_owned()
        } else {
            match merge_commit(git, &view, worktree, &current, tip)? {
                Some(new) => new,
                None => {
                    return Ok(Merge::Conflict(format!(
                        "{base_branch} and {} changed the same; both are as they were",
                        worktree.branch
                    )));
                }
            }
        }
    };
    let all = checkouts(git, worktree)?;
    let mut there = all.iter().filter(|checkout| checkout.has(&target));
    let files = match (there.next(), there.next()) {
        (None, _) => None,
        (Some(checkout), None) => match move_files(git, dir, worktree, &checkout.path, &current, &new)? {
            Moved::Not(why) => return Ok(Merge::Not(why)),
            Moved::Done(files) => Some(files),
        },
        (Some(_), Some(_)) => {
            return Ok(Merge::Not(format!(
                "{base_branch} is checked out in several places"
            )));
        }
    };
    let reason = format!("agentd: merge {}", worktree.branch);
    let at = At::Repository(&worktree.repository);
    let arguments = words(["update-ref", "-m", &reason, &target, &new, &current]);
    let updated = git.ask(at, &arguments)?;
    if updated.code == 0 {
        return Ok(Merge::Done(base_branch.clone()));
    }
    // Another program was faster. The files go back to where their branch was when we looked.
    if let Some(files) = files {
        let view = files.view(git, dir, worktree, &new)?;
        git.run(
            At::View(&view),
            &words(["read-tree", "-m", "-u", "--no-recurse-submodules", &new, &current]),
        )?;
    }
    Ok(Merge::Not(format!(
        "{base_branch} was moved at the same time ({})",
        refused(at, &arguments, &updated)
    )))
}

/// A commit that has both sides, or none when they conflict.
fn merge_commit(
    git: &Git,
    view: &View,
    worktree: &Worktree,
    current: &str,
    tip: &str,
) -> Result<Option<String>, StepError> {
    let at = At::View(view);
    let arguments = words([
        "merge-tree",
        "--write-tree",
        "--no-messages",
        "--name-only",
        current,
        tip,
    ]);
    let answer = git.ask(at, &arguments)?;
    match answer.code {
        0 => {}
        1 => return Ok(None),
        _ => return Err(refused(at, &arguments, &answer)),
    }
    let tree = object_id(&answer.line())?;
    let message = format!("Merge branch '{}'", worktree.branch);
    let made = git.run(
        at,
        &words(["commit-tree", &tree, "-p", current, "-p", tip, "-m", &message]),
    )?;
    object_id(&made.line()).map(Some)
}

/// The files of a checkout, and which of a commit's files they are.
struct Files {
    path: PathBuf,
    index: PathBuf,
    sparse: Option<Sparse>,
}

impl Files {
    fn view(&self, git: &Git, dir: &SessionDir, worktree: &Worktree, head: &str) -> Result<View, StepError> {
        let view = view(git, dir, worktree, head)?.with_rules(&[], self.sparse.as_ref())?;
        Ok(view.with_files(&self.path, &self.index))
    }
}

enum Moved {
    Done(Files),
    Not(String),
}

/// Moves the files of a checkout from one commit to another, provided that nothing is lost by it. The branch follows
/// afterwards: whoever comes in between finds files that are ahead of it, and nothing that would undo the merge.
fn move_files(
    git: &Git,
    dir: &SessionDir,
    worktree: &Worktree,
    path: &Path,
    current: &str,
    new: &str,
) -> Result<Moved, StepError> {
    let shown = path.display();
    let not = |why: String| Ok(Moved::Not(why));
    let Some(admin) = admin(git, worktree, path)? else {
        return not(format!(
            "{shown}, where the branch is checked out, cannot be reached"
        ));
    };
    if let Some(under_way) = UNDER_WAY
        .iter()
        .find(|name| admin.join(name).symlink_metadata().is_ok())
    {
        return not(format!("something is under way in {shown} ({under_way})"));
    }
    let files = Files {
        path: path.to_owned(),
        index: admin.join("index"),
        sparse: sparse(git, At::Found(path), &admin)?,
    };
    let at_new = files.view(git, dir, worktree, new)?;
    if is_clean(git, &at_new, false)? {
        // An earlier attempt came so far.
        return Ok(Moved::Done(files));
    }
    drop(at_new);
    let view = files.view(git, dir, worktree, current)?;
    let at = At::View(&view);
    if !is_clean(git, &view, false)? {
        return not(format!("{shown}, where the branch is checked out, has changes"));
    }
    let compare = |filter: &str| {
        let arguments = words([
            "diff-tree",
            "-r",
            "-z",
            "--name-only",
            "--no-renames",
            filter,
            current,
            new,
        ]);
        git.run(at, &arguments)
    };
    // Files that git is told to ignore would be written over.
    let added = compare("--diff-filter=A")?;
    for name in added
        .output
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        if path.join(OsStr::from_bytes(name)).symlink_metadata().is_ok() {
            let name = String::from_utf8_lossy(name);
            return not(format!("the file {name} is in {shown} already"));
        }
    }
    // Filters do not run here, so what needs one would be written wrongly.
    let changed = compare("--diff-filter=d")?;
    let attributes = words(["check-attr", "-z", "--stdin", "filter"]);
    let filters = git.ask_with(at, &attributes, Some(&changed.output))?;
    let mut fields = filters.output.split(|byte| *byte == 0);
    while let (Some(name), Some(_), Some(value)) = (fields.next(), fields.next(), fields.next()) {
        if value != b"unspecified" && value != b"unset" {
            let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
            return not(format!(
                "{name} goes through the filter {value}, which agentd does not run"
            ));
        }
    }
    // What the index remembers of its files may be out of date: after a chown, a copy, a restored backup. That they are
    // unchanged was just seen.
    git.ask(at, &words(["update-index", "-q", "--refresh"]))?;
    let arguments = words(["read-tree", "-m", "-u", "--no-recurse-submodules", current, new]);
    let moved = git.ask(at, &arguments)?;
    if moved.code != 0 {
        return not(refused(at, &arguments, &moved).to_string());
    }
    drop(view);
    Ok(Moved::Done(files))
}
