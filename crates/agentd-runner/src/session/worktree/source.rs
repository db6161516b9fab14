//! The repository that a worktree is made from, as far as it has to be known: read, and never written.

use super::super::error::StepError;
use super::super::git::{At, Git, Sparse, refused, words};
use super::object_id;
use crate::runtime::engine::Owner;
use crate::runtime::{grant, single_user};
use agentd_protocol::SessionId;
use agentd_supervisor::access::{self, Want};
use std::collections::{HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What is read of one small file of a repository, in bytes.
pub(super) const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Repositories whose objects a repository borrows, which may borrow in turn. Git itself follows five in a row.
const BORROWED_MAX: usize = 32;

/// A repository, as its owner's git sees it.
#[derive(Debug)]
pub(super) struct Common {
    /// Git as its owner.
    pub(super) git: Git,
    /// The git directory that all its worktrees have in common.
    pub(super) path: PathBuf,
}

/// A workspace's repository.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) common: Common,
    /// The workspace: the top of the repository's files.
    pub(super) workspace: &'a Path,
    /// The commit that is checked out.
    pub(super) head: String,
    /// The branch that is checked out; absent when none is.
    pub(super) branch: Option<String>,
}

impl<'a> Source<'a> {
    /// Finds the repository of a workspace.
    ///
    /// # Errors
    /// When there is none, or the workspace is not the top of its files, or it has no commit.
    pub(super) fn find(git: &Git, workspace: &'a Owner) -> Result<Self, StepError> {
        let git = git.for_owner((workspace.uid, workspace.gid));
        let shown = workspace.path.display();
        let found = At::Found(&workspace.path);
        let bare = git.ask(found, &words(["rev-parse", "--is-bare-repository"]))?;
        if bare.code == 0 && bare.line() == "true" {
            return Err(StepError::declaration(format!(
                "the workspace {shown} is a bare repository, which has no files; clone it, and name the clone"
            )));
        }
        let top = git.run(found, &words(["rev-parse", "--show-toplevel"])).map_err(|error| {
            StepError::declaration(format!(
                "the workspace {shown} cannot have worktrees: {error}; `git init {}` makes it a repository, or set \
                 workspace_mode = \"directory\"",
                agentd_supervisor::shell::word(&workspace.path)
            ))
        })?;
        if Path::new(&top.line()) != workspace.path {
            return Err(StepError::declaration(format!(
                "the workspace {shown} is inside of the repository {}; worktrees are of whole repositories, so name that",
                top.line().display()
            )));
        }
        let arguments = words(["rev-parse", "--path-format=absolute", "--git-common-dir"]);
        let common = PathBuf::from(git.run(found, &arguments)?.line());
        let common = common.canonicalize().map_err(StepError::io("find", &common))?;
        let arguments = words(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]);
        let head = git.ask(found, &arguments)?;
        if head.code != 0 {
            return Err(StepError::declaration(format!(
                "the workspace {shown} has no commit yet that a worktree could begin from; `{}` makes an empty one",
                command_line(&workspace.path, "commit --allow-empty -m first")
            )));
        }
        let branch = git.ask(found, &words(["symbolic-ref", "--quiet", "--short", "HEAD"]))?;
        Ok(Self {
            workspace: &workspace.path,
            head: object_id(&head.line())?,
            branch: (branch.code == 0).then(|| branch.line().to_string_lossy().into_owned()),
            common: Common { git, path: common },
        })
    }

    /// Refuses a partial clone that lacks files of what is checked out: agentd's git fetches nothing.
    pub(super) fn check_complete(&self) -> Result<(), StepError> {
        let found = At::Found(self.workspace);
        let partial = words([
            "config",
            "--get-regexp",
            r"^(extensions\.partialclone|remote\..*\.promisor)$",
        ]);
        if self.common.git.ask(found, &partial)?.code != 0 {
            return Ok(());
        }
        let tree = format!("{}^{{tree}}", self.head);
        let arguments = words([
            "rev-list",
            "--objects",
            "--no-object-names",
            "--missing=print",
            &tree,
        ]);
        let listed = self.common.git.run(found, &arguments)?;
        let missing: HashSet<&[u8]> = lines(&listed.output)
            .filter_map(|line| line.strip_prefix(b"?"))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let index = self.common.git.run(found, &words(["ls-files", "-t", "-z"]))?;
        let left_out: HashSet<&[u8]> = index
            .output
            .split(|byte| *byte == 0)
            .filter_map(|entry| entry.strip_prefix(b"S "))
            .collect();
        // `<mode> <kind> <object>\t<path>`
        let tree = self
            .common
            .git
            .run(found, &words(["ls-tree", "-r", "-z", &self.head]))?;
        let lacking = tree.output.split(|byte| *byte == 0).find_map(|entry| {
            let (head, path) = entry.split_at(entry.iter().position(|byte| *byte == b'\t')?);
            let object = head.rsplit(|byte| *byte == b' ').next()?;
            let path = &path[1..];
            (missing.contains(object) && !left_out.contains(path)).then_some(path)
        });
        let Some(file) = lacking else { return Ok(()) };
        Err(StepError::declaration(format!(
            "the workspace {0} is a partial clone that lacks the content of {1}, and agentd fetches nothing; `{2}` \
             fetches all of it",
            self.workspace.display(),
            String::from_utf8_lossy(file),
            command_line(self.workspace, "fetch --refetch --no-filter")
        )))
    }

    /// Refuses a repository that the agent's user cannot read, when that is not its owner.
    pub(super) fn check_readable(&self, user: (u32, u32)) -> Result<(), StepError> {
        let objects = self.common.path.join("objects");
        let owner = objects.metadata().map_err(StepError::io("look at", &objects))?;
        let root = rustix::process::geteuid().is_root();
        if !root || owner.uid() == user.0 {
            return Ok(());
        }
        let Err(denied) = access::ask(&objects, Some(&single_user(user.0)), Want::Read) else {
            return Ok(());
        };
        let path = self.common.git.path.to_string_lossy();
        let advice = grant::advice(&denied, &objects, user.0, Want::Read, &path);
        Err(StepError::declaration(format!(
            "the agent's user {} has to read the repository {}, and {denied}; {advice}",
            user.0,
            self.common.path.display()
        )))
    }

    /// Which files of a commit the workspace has, when that is not all.
    pub(super) fn sparse(&self) -> Result<Option<Sparse>, StepError> {
        let arguments = words(["rev-parse", "--absolute-git-dir"]);
        let git_dir = PathBuf::from(self.common.git.run(At::Found(self.workspace), &arguments)?.line());
        sparse(&self.common.git, At::Found(self.workspace), &git_dir)
    }
}

impl Common {
    /// The commit of a branch; none when there is no such branch.
    pub(super) fn commit_of(&self, branch: &str) -> Result<Option<String>, StepError> {
        commit(&self.git, &self.path, &format!("refs/heads/{branch}"))
    }

    /// The first name for a session's branch that no branch of the repository is in the way of.
    pub(super) fn free_branch(&self, agent: &str, session: SessionId) -> Result<String, StepError> {
        for name in branch_names(agent, session) {
            if self.in_the_way(&name)?.is_none() {
                return Ok(name);
            }
        }
        Err(StepError::declaration(format!(
            "branches of {} are in the way of every name that agentd gives its own",
            self.path.display()
        )))
    }

    /// The branch that keeps another from having this name: itself, one that its name begins with, or one below it.
    pub(super) fn in_the_way(&self, branch: &str) -> Result<Option<String>, StepError> {
        let at = At::Repository(&self.path);
        let above = branch.match_indices('/').map(|(end, _)| &branch[..end]);
        let names: Vec<&str> = above.chain([branch]).collect();
        let asked: String = names.iter().map(|name| format!("refs/heads/{name}\n")).collect();
        let arguments = words(["cat-file", "--batch-check"]);
        let answer = self.git.ask_with(at, &arguments, Some(asked.as_bytes()))?;
        if answer.code != 0 {
            return Err(refused(at, &arguments, &answer));
        }
        let mut answers = lines(&answer.output).zip(&names);
        if let Some((_, name)) = answers.find(|(line, _)| !line.ends_with(b" missing")) {
            return Ok(Some((*name).to_owned()));
        }
        let below = format!("refs/heads/{branch}/");
        let arguments = words([
            "for-each-ref",
            "--count=1",
            "--format=%(refname:lstrip=2)",
            &below,
        ]);
        let found = self.git.run(at, &arguments)?.line();
        Ok(Some(found.to_string_lossy().into_owned()).filter(|name| !name.is_empty()))
    }

    /// The names of the repository with their objects, but for those that are agentd's own or one checkout's.
    pub(super) fn references(&self) -> Result<Vec<(String, String)>, StepError> {
        let mut references = references(&self.git, &self.path)?;
        references.retain(|(name, _)| {
            !["refs/agentd/", "refs/stash"]
                .iter()
                .any(|own| name.starts_with(own))
        });
        Ok(references)
    }

    /// Directories of objects: its own, and those that it borrows from other repositories.
    pub(super) fn objects(&self) -> Result<Vec<PathBuf>, StepError> {
        let own = self.path.join("objects");
        let own = own.canonicalize().map_err(StepError::io("find", &own))?;
        let mut found = vec![own.clone()];
        let mut left = VecDeque::from([own]);
        while let Some(dir) = left.pop_front() {
            let path = dir.join("info/alternates");
            let text = read_if_there(&path)?.unwrap_or_default();
            for line in lines(&text).filter(|line| !line.starts_with(b"#")) {
                let other = dir.join(OsStr::from_bytes(line));
                // Git passes over what is not there.
                let Ok(other) = other.canonicalize() else { continue };
                if found.len() < BORROWED_MAX && !found.contains(&other) {
                    found.push(other.clone());
                    left.push_back(other);
                }
            }
        }
        Ok(found)
    }

    /// The directory of its hooks, when it has some and its configuration names no other.
    pub(super) fn hooks(&self) -> Result<Option<PathBuf>, StepError> {
        let named = self.git.ask(
            At::Repository(&self.path),
            &words(["config", "--local", "--includes", "core.hooksPath"]),
        )?;
        let dir = self.path.join("hooks");
        let Ok(entries) = std::fs::read_dir(&dir) else {
            return Ok(None);
        };
        let is_hook = |entry: io::Result<std::fs::DirEntry>| {
            entry.is_ok_and(|entry| {
                let executable = entry
                    .metadata()
                    .is_ok_and(|found| found.permissions().mode() & 0o111 != 0);
                executable && entry.path().extension() != Some(OsStr::new("sample"))
            })
        };
        let has_some = entries.take(1000).any(is_hook);
        Ok((named.code != 0 && has_some).then_some(dir))
    }

    /// The settings of the repository as `key\nvalue\0`, includes among them.
    pub(super) fn settings(&self) -> Result<Vec<u8>, StepError> {
        let arguments = words(["config", "--local", "--includes", "--list", "-z"]);
        Ok(self.git.run(At::Repository(&self.path), &arguments)?.output)
    }

    /// What the repository's owner lets git ignore there, besides `.gitignore`.
    pub(super) fn ignored(&self, owner_home: Option<&Path>) -> Result<Vec<u8>, StepError> {
        let mut text = read_if_there(&self.path.join("info/exclude"))?.unwrap_or_default();
        let named = self.git.of_user(owner_home).ask(
            At::Repository(&self.path),
            &words(["config", "--type=path", "core.excludesFile"]),
        )?;
        let file = match (named.code, owner_home) {
            (0, _) => Some(self.path.parent().unwrap_or(&self.path).join(named.line())),
            (_, Some(home)) => Some(home.join(".config/git/ignore")),
            (_, None) => None,
        };
        // Rules that cannot be read are none for git either.
        if let Some(Ok(Some(rules))) = file.map(|file| read_if_there(&file)) {
            text.push(b'\n');
            text.extend(rules);
        }
        Ok(text)
    }
}

/// The patterns of a sparse checkout whose git directory is `git_dir`; none when it has all files.
pub(in super::super) fn sparse(git: &Git, at: At<'_>, git_dir: &Path) -> Result<Option<Sparse>, StepError> {
    let is_set = |key: &str| -> Result<bool, StepError> {
        let answer = git.ask(at, &words(["config", "--type=bool", key]))?;
        Ok(answer.code == 0 && answer.line() == "true")
    };
    if !is_set("core.sparseCheckout")? {
        return Ok(None);
    }
    let patterns = read_if_there(&git_dir.join("info/sparse-checkout"))?;
    let Some(patterns) = patterns else { return Ok(None) };
    Ok(Some(Sparse {
        patterns,
        cone: is_set("core.sparseCheckoutCone")?,
    }))
}

/// The names for a session's branch, the usual one first.
fn branch_names(agent: &str, session: SessionId) -> [String; 3] {
    let id = super::short_id(session);
    [
        super::branch_name(agent, session),
        format!("agentd-{agent}/{id}"),
        format!("agentd-{agent}-{id}"),
    ]
}

/// Every name of a repository and the object that it stands for, in the order of the names.
pub(super) fn references(git: &Git, git_dir: &Path) -> Result<Vec<(String, String)>, StepError> {
    let arguments = words(["for-each-ref", "--format=%(objectname) %(refname)"]);
    let listed = git.run(At::Repository(git_dir), &arguments)?;
    let parse = |line: &[u8]| {
        let line = String::from_utf8_lossy(line).into_owned();
        let (object, name) = line.split_once(' ')?;
        Some((name.to_owned(), object_id(OsStr::new(object)).ok()?))
    };
    Ok(lines(&listed.output).filter_map(parse).collect())
}

/// The commit that a name stands for; none when there is no such name.
pub(in super::super) fn commit(git: &Git, git_dir: &Path, name: &str) -> Result<Option<String>, StepError> {
    let name = format!("{name}^{{commit}}");
    let arguments = words(["rev-parse", "--verify", "--quiet", "--end-of-options", &name]);
    let answer = git.ask(At::Repository(git_dir), &arguments)?;
    match answer.code {
        0 => object_id(&answer.line()).map(Some),
        _ => Ok(None),
    }
}

/// A command for people, with the path as a shell reads it.
pub(in super::super) fn command_line(path: &Path, command: &str) -> String {
    format!("git -C {} {command}", agentd_supervisor::shell::word(path))
}

pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// The content of a small ordinary file; none when there is no such file. Waits for nothing.
pub(super) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, StepError> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file: File = match openat(CWD, path, flags, Mode::empty()) {
        Ok(fd) => fd.into(),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(StepError::io("open", path)(error)),
    };
    if !file.metadata().map_err(StepError::io("look at", path))?.is_file() {
        return Ok(None);
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(StepError::io("read", path))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(StepError::machine(format!(
            "{} has more than {FILE_BYTES_MAX} bytes",
            path.display()
        )));
    }
    Ok(Some(text))
}

/// Settings that are the repository's own and not a copy's, by the beginning of their keys.
const NOT_COPIED: [&str; 20] = [
    "core.repositoryformatversion",
    "core.bare",
    "core.filemode",
    "core.logallrefupdates",
    "core.worktree",
    "core.excludesfile",
    "core.sparsecheckout",
    "core.fsmonitor",
    "core.untrackedcache",
    "core.splitindex",
    "core.alternaterefs",
    "extensions.",
    "include.",
    "includeif.",
    "index.",
    "gc.",
    "maintenance.",
    "commit.gpgsign",
    "tag.gpgsign",
    "tag.forcesignannotated",
];

/// A configuration file from settings as git lists them, without those that hold for their repository alone. Pure.
pub(super) fn copied_settings(listed: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for setting in listed
        .split(|byte| *byte == 0)
        .filter(|setting| !setting.is_empty())
    {
        let mut parts = setting.splitn(2, |byte| *byte == b'\n');
        let key = parts.next().unwrap_or_default();
        let value = parts.next();
        let folded = key.to_ascii_lowercase();
        if NOT_COPIED.iter().any(|own| folded.starts_with(own.as_bytes())) {
            continue;
        }
        let Some(first) = key.iter().position(|byte| *byte == b'.') else {
            continue;
        };
        let last = key.iter().rposition(|byte| *byte == b'.').unwrap_or(first);
        text.push(b'[');
        text.extend(&key[..first]);
        if last > first {
            text.extend(b" \"");
            escape(&key[first + 1..last], &mut text);
            text.push(b'"');
        }
        text.extend(b"]\n\t");
        text.extend(&key[last + 1..]);
        if let Some(value) = value {
            text.extend(b" = \"");
            escape(value, &mut text);
            text.push(b'"');
        }
        text.push(b'\n');
    }
    text
}

fn escape(value: &[u8], text: &mut Vec<u8>) {
    for &byte in value {
        match byte {
            b'\n' => text.extend(b"\\n"),
            b'"' | b'\\' => text.extend([b'\\', byte]),
            _ => text.push(byte),
        }
    }
}

/// A file of a repository's names. Of several with one name the first counts. Pure.
pub(super) fn packed_references(mut references: Vec<(String, String)>) -> Vec<u8> {
    references.sort_by(|a, b| a.0.cmp(&b.0));
    references.dedup_by(|a, b| a.0 == b.0);
    let mut text = b"# pack-refs with: sorted \n".to_vec();
    for (name, object) in references {
        text.extend(format!("{object} {name}\n").into_bytes());
    }
    text
}

/// A path as one line of a file that lists directories of objects.
pub(super) fn alternates(objects: &Path) -> Vec<u8> {
    let mut line = OsString::from(objects).into_vec();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_copied_as_git_reads_them_but_for_the_repositorys_own() {
        let listed = b"core.bare\nfalse\0core.autocrlf\ninput\0remote.a.b \"c\\.url\nx\0user.name\nA \"q\" \\ ;#\nB\0core.pager\0\
            extensions.worktreeconfig\ntrue\0commit.gpgsign\ntrue\0includeif.gitdir:~/x/.path\n/y\0";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, copied_settings(listed)).unwrap();
        let read = std::process::Command::new("git")
            .args(["config", "--list", "-z", "--file"])
            .arg(&path)
            .output()
            .unwrap();
        let expected =
            b"core.autocrlf\ninput\0remote.a.b \"c\\.url\nx\0user.name\nA \"q\" \\ ;#\nB\0core.pager\0";
        assert_eq!(
            String::from_utf8_lossy(&read.stdout),
            String::from_utf8_lossy(expected)
        );
    }

    #[test]
    fn the_names_of_a_copy_are_sorted_and_each_is_there_once() {
        let name = |name: &str, object: &str| (name.to_owned(), object.to_owned());
        let all = vec![
            name("refs/tags/v1", "t"),
            name("refs/heads/main", "first"),
            name("refs/heads/main", "second"),
        ];
        assert_eq!(
            String::from_utf8(packed_references(all)).unwrap(),
            "# pack-refs with: sorted \nfirst refs/heads/main\nt refs/tags/v1\n"
        );
    }
}
