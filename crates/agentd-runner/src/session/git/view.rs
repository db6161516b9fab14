//! A git directory of our own for a repository that an agent may have written to.

use super::super::error::StepError;
use super::super::state;
use super::{At, Git, refused, words};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

/// A git directory of ours, with the objects of a repository and nothing else of it. Removed when dropped; what a
/// crash leaves is in the session's directory and goes with it.
#[derive(Debug)]
pub(crate) struct View {
    pub(super) git_dir: PathBuf,
    pub(super) objects: PathBuf,
    pub(super) borrowed: Vec<PathBuf>,
    pub(super) files: Option<(PathBuf, PathBuf)>,
}

/// Which files of a commit a checkout has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sparse {
    /// The content of `info/sparse-checkout`.
    pub(crate) patterns: Vec<u8>,
    /// The patterns are directories.
    pub(crate) cone: bool,
}

impl View {
    /// Makes one at `git_dir`, a path of ours, for the repository at `common`. `head` is what its HEAD is.
    pub(crate) fn new(git: &Git, git_dir: &Path, common: &Path, head: &str) -> Result<Self, StepError> {
        state::remove_all(git_dir)?;
        let config = config(git, common)?;
        let fd = state::make(git_dir, 0o755, None)?;
        for name in ["objects", "refs"] {
            state::make_in(fd.as_fd(), name, &git_dir.join(name), 0o755, None)?;
        }
        state::write_new(
            fd.as_fd(),
            git_dir,
            "HEAD",
            format!("{head}\n").as_bytes(),
            0o644,
            None,
        )?;
        state::write_new(fd.as_fd(), git_dir, "config", config.as_bytes(), 0o644, None)?;
        // Where a shallow clone's history ends.
        if let Ok(shallow) = std::fs::read(common.join("shallow")) {
            state::write_new(fd.as_fd(), git_dir, "shallow", &shallow, 0o644, None)?;
        }
        Ok(Self {
            git_dir: git_dir.to_owned(),
            objects: common.join("objects"),
            borrowed: Vec::new(),
            files: None,
        })
    }

    /// The same, with the objects of these directories besides the repository's own. Nothing is written there.
    pub(crate) fn borrowing(mut self, objects: &[PathBuf]) -> Self {
        self.borrowed = objects.to_vec();
        self
    }

    /// The same, with a checkout's patterns of files that are no part of it, and of those that it leaves out.
    pub(crate) fn with_rules(self, ignored: &[u8], sparse: Option<&Sparse>) -> Result<Self, StepError> {
        let info = self.git_dir.join("info");
        let fd = state::make(&info, 0o755, None)?;
        state::write_new(fd.as_fd(), &info, "exclude", ignored, 0o644, None)?;
        let Some(Sparse { patterns, cone }) = sparse else {
            return Ok(self);
        };
        state::write_new(fd.as_fd(), &info, "sparse-checkout", patterns, 0o644, None)?;
        let config = self.git_dir.join("config");
        let text = format!("[core]\n\tsparseCheckout = true\n\tsparseCheckoutCone = {cone}\n");
        std::fs::OpenOptions::new()
            .append(true)
            .open(&config)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(StepError::io("write", &config))?;
        Ok(self)
    }

    /// What differs from HEAD, as `git status --porcelain -z` prints it; of files that are not known, those that
    /// `untracked` says (`no`, `normal`).
    pub(crate) fn status(&self, git: &Git, untracked: &str) -> Result<Vec<u8>, StepError> {
        let untracked = format!("--untracked-files={untracked}");
        let arguments = words([
            "--no-optional-locks",
            "status",
            "--porcelain",
            "-z",
            "--no-renames",
            "--ignore-submodules=all",
            &untracked,
        ]);
        let answer = git.run(At::View(self), &arguments)?;
        // It passes over what it cannot look into, and succeeds.
        if answer.message.contains("could not open directory") {
            return Err(refused(At::View(self), &arguments, &answer));
        }
        Ok(answer.output)
    }

    /// The same, with files and their index.
    pub(crate) fn with_files(mut self, work_tree: &Path, index: &Path) -> Self {
        self.files = Some((work_tree.to_owned(), index.to_owned()));
        self
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Err(error) = state::remove_all(&self.git_dir) {
            tracing::warn!(path = %self.git_dir.display(), %error, "a view of a repository is left");
        }
    }
}

/// What settings of a repository may say for us to say the same.
const VALUES: [&str; 10] = [
    "true", "false", "input", "lf", "crlf", "native", "umask", "group", "all", "world",
];

/// A configuration that has of the repository's own what decides how its files are written, and runs nothing.
fn config(git: &Git, common: &Path) -> Result<String, StepError> {
    let mut configured = git.configured.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, config)) = configured.as_ref().filter(|(path, _)| path == common) {
        return Ok(config.clone());
    }
    let config = ask_config(git, common)?;
    *configured = Some((common.to_owned(), config.clone()));
    Ok(config)
}

fn ask_config(git: &Git, common: &Path) -> Result<String, StepError> {
    let at = At::Repository(common);
    let format = git.run(at, &words(["rev-parse", "--show-object-format"]))?.line();
    let mut config = match format.as_bytes() {
        b"sha1" => "[core]\n\trepositoryformatversion = 0\n".to_owned(),
        b"sha256" => {
            "[extensions]\n\tobjectformat = sha256\n[core]\n\trepositoryformatversion = 1\n".to_owned()
        }
        other => {
            return Err(StepError::machine(format!(
                "{} has objects of an unknown format, {:?}",
                common.display(),
                String::from_utf8_lossy(other)
            )));
        }
    };
    config.push_str("\tbare = false\n");
    let keys = r"^core\.(autocrlf|eol|filemode|symlinks|ignorecase|sharedrepository)$";
    let answer = git.ask(at, &words(["config", "-z", "--get-regexp", keys]))?;
    for setting in answer.output.split(|byte| *byte == 0) {
        let Some((key, value)) = std::str::from_utf8(setting)
            .ok()
            .and_then(|text| text.split_once('\n'))
        else {
            continue;
        };
        // Values that we know alone: what is written here is read as a configuration.
        if let Some(key) = key.strip_prefix("core.")
            && key.bytes().all(|byte| byte.is_ascii_lowercase())
            && VALUES.contains(&value)
        {
            config.push_str(&format!("\t{key} = {value}\n"));
        }
    }
    Ok(config)
}
