//! Git, run so that nothing in a repository makes it run anything else.
//!
//! An agent that works in a worktree may write to its repository: the configuration, the hooks, the attributes. What
//! git would run for them it would run outside of the agent's container, with the rights of whoever called it. So:
//!
//! - No git of ours has more rights than the repository's owner: root becomes that user first.
//! - With the repository's own configuration only such commands are run as read or change names (`rev-parse`,
//!   `update-ref`, `worktree add --no-checkout`), which run nothing but hooks, and hooks are off.
//! - Whatever looks at files or contents (`read-tree`, `status`, `merge-tree`) is given a `View`: a git directory of
//!   our own with a configuration of our own, in which there is nothing but the objects of the repository. Filters,
//!   merge drivers and monitors are named in a configuration, so here there are none.
//! - There is no transport and no prompt, and time and output are bounded.

mod view;

pub(crate) use view::{Sparse, View};

use super::error::StepError;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The first that merges without a checkout.
const VERSION_MIN: (u32, u32) = (2, 38);
/// Output of one command that is kept, in bytes; more ends it.
const OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What is kept of what it says about errors, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Between TERM, at which git removes its lock files, and KILL.
const GRACE: Duration = Duration::from_secs(2);

/// Git as a repository's owner.
#[derive(Clone, Debug)]
pub struct Git {
    /// The program; a name is looked for in `path`.
    pub program: PathBuf,
    /// `PATH`, for git itself.
    pub path: OsString,
    /// How long one command may take.
    pub timeout: Duration,
    /// The home of the user that agentd runs as, for that user's own ignore rules.
    pub home: Option<PathBuf>,
    /// The user to become first; only root can, and needs to.
    user: Option<(u32, u32)>,
    /// The home of the user whose settings count; absent when only the repository's do.
    settings_of: Option<PathBuf>,
    /// What views of the repository at hand are configured with. It takes two calls to find out.
    configured: Arc<Mutex<Option<(PathBuf, String)>>>,
}

/// What a command answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) output: Vec<u8>,
    message: String,
}

impl Answer {
    /// Output without its last newline.
    pub(crate) fn line(&self) -> OsString {
        let line = self.output.strip_suffix(b"\n").unwrap_or(&self.output);
        OsString::from_vec(line.to_vec())
    }
}

/// In which repository a command runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At<'a> {
    /// Found from a directory; its own configuration counts.
    Found(&'a Path),
    /// A git directory; its own configuration counts.
    Repository(&'a Path),
    /// A view of a repository; no configuration but ours counts.
    View(&'a View),
}

impl At<'_> {
    fn path(&self) -> &Path {
        match self {
            Self::Found(path) | Self::Repository(path) => path,
            Self::View(view) => &view.objects,
        }
    }
}

impl Git {
    /// Git as the user that agentd runs as.
    #[must_use]
    pub fn new(program: PathBuf, path: OsString, timeout: Duration, home: Option<PathBuf>) -> Self {
        Self {
            program,
            path,
            timeout,
            home,
            user: None,
            settings_of: None,
            configured: Arc::default(),
        }
    }

    /// Git for a repository that belongs to `owner`.
    #[must_use]
    pub fn for_owner(&self, owner: (u32, u32)) -> Self {
        let root = rustix::process::geteuid().is_root();
        Self {
            user: (root && owner.0 != 0).then_some(owner),
            configured: Arc::default(),
            ..self.clone()
        }
    }

    /// The home of a user, where that user's own settings are.
    pub(crate) fn home_of(&self, uid: u32) -> Option<PathBuf> {
        if uid == rustix::process::geteuid().as_raw() {
            return self.home.clone();
        }
        let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid));
        user.ok().flatten().map(|user| user.dir)
    }

    /// The same with the settings of the user whose home this is, to ask what they are.
    pub(crate) fn of_user(&self, home: Option<&Path>) -> Self {
        Self {
            settings_of: home.map(Path::to_owned),
            ..self.clone()
        }
    }

    /// Says whether this git can do what worktrees need, for people who want to know before a session does.
    ///
    /// # Errors
    /// When there is none, or it is too old.
    pub fn check(&self) -> Result<(), StepError> {
        let answer = self.run(At::Found(Path::new("/")), &words(["version"]))?;
        let said = answer.line().to_string_lossy().into_owned();
        let mut numbers = said
            .trim_start_matches("git version ")
            .split('.')
            .map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= VERSION_MIN => Ok(()),
            _ => Err(StepError::machine(format!(
                "worktrees need git {}.{} or later, and this is {said:?}; install a newer one",
                VERSION_MIN.0, VERSION_MIN.1
            ))),
        }
    }

    fn command(&self, at: At<'_>, arguments: &[&OsStr]) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", &self.path);
        for (name, value) in [
            ("HOME", "/nonexistent"),
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "/bin/false"),
            ("SSH_ASKPASS", "/bin/false"),
            ("GIT_EDITOR", "/bin/false"),
            ("GIT_PAGER", "cat"),
            // No protocol has this name, and no configuration is asked which are allowed.
            ("GIT_ALLOW_PROTOCOL", "none"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_AUTHOR_NAME", "agentd"),
            ("GIT_AUTHOR_EMAIL", "agentd@localhost"),
            ("GIT_COMMITTER_NAME", "agentd"),
            ("GIT_COMMITTER_EMAIL", "agentd@localhost"),
        ] {
            command.env(name, value);
        }
        if let Some(home) = &self.settings_of {
            command.env("HOME", home).env_remove("GIT_CONFIG_GLOBAL");
        }
        for setting in [
            "core.hooksPath=/dev/null",
            "core.fsmonitor=false",
            "core.untrackedCache=false",
            "commit.gpgSign=false",
            "gc.auto=0",
            "maintenance.auto=false",
            "submodule.recurse=false",
            // What these say of objects is taken for true, and an agent may have written them.
            "core.commitGraph=false",
            "core.multiPackIndex=false",
            "pack.useBitmaps=false",
            "log.showSignature=false",
            // What agentd says is in a repository has to be there after the machine went down.
            "core.fsync=objects,derived-metadata,reference",
        ] {
            command.args(["-c", setting]);
        }
        command.current_dir("/");
        match at {
            At::Found(path) => {
                command.arg("-C").arg(path);
            }
            At::Repository(git_dir) => {
                command.env("GIT_DIR", git_dir);
            }
            At::View(view) => {
                command.env("GIT_DIR", &view.git_dir);
                command.env("GIT_OBJECT_DIRECTORY", &view.objects);
                if !view.borrowed.is_empty() {
                    command.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", path_list(&view.borrowed));
                }
                if let Some((work_tree, index)) = &view.files {
                    command
                        .env("GIT_WORK_TREE", work_tree)
                        .env("GIT_INDEX_FILE", index);
                    command.current_dir(work_tree);
                }
            }
        }
        command.args(arguments);
        if let Some((uid, gid)) = self.user {
            // With it go all other groups.
            command.uid(uid).gid(gid);
        }
        // A signal to agentd's group is not for git, which is to finish what it writes.
        command.process_group(0);
        mask_as_users_do(&mut command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command and gives its answer whatever its exit status.
    pub(crate) fn ask(&self, at: At<'_>, arguments: &[&OsStr]) -> Result<Answer, StepError> {
        self.ask_with(at, arguments, None)
    }

    /// The same with something to read.
    pub(crate) fn ask_with(
        &self,
        at: At<'_>,
        arguments: &[&OsStr],
        input: Option<&[u8]>,
    ) -> Result<Answer, StepError> {
        let input = input.map(in_memory).transpose();
        let input = input.map_err(|error| failed(at, arguments, format!("cannot give it input: {error}")))?;
        self.ask_between(at, arguments, input, None)
    }

    /// The same with a file to read, and one to write output to that no memory would hold.
    pub(crate) fn ask_between(
        &self,
        at: At<'_>,
        arguments: &[&OsStr],
        input: Option<std::fs::File>,
        output: Option<std::fs::File>,
    ) -> Result<Answer, StepError> {
        let failed = |message: String| failed(at, arguments, message);
        let mut command = self.command(at, arguments);
        if let Some(input) = input {
            command.stdin(input);
        }
        if let Some(output) = output {
            command.stdout(output);
        }
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StepError::machine(format!(
                "worktrees need git, and there is no {}; install it (apt install git)",
                self.program.display()
            )),
            _ => failed(format!("it cannot be started: {error}")),
        })?;
        let ended = run(&mut child, Instant::now() + self.timeout);
        let (status, output, message) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                end(&mut child);
                return Err(failed(match error.kind() {
                    io::ErrorKind::TimedOut => {
                        format!("it took longer than {} seconds", self.timeout.as_secs())
                    }
                    _ => error.to_string(),
                }));
            }
        };
        match status.code() {
            Some(code) => Ok(Answer {
                code,
                output,
                message,
            }),
            None => Err(failed(format!(
                "signal {} ended it",
                status.signal().unwrap_or(0)
            ))),
        }
    }

    /// Runs a command that has to succeed.
    pub(crate) fn run(&self, at: At<'_>, arguments: &[&OsStr]) -> Result<Answer, StepError> {
        let answer = self.ask(at, arguments)?;
        if answer.code == 0 {
            return Ok(answer);
        }
        Err(refused(at, arguments, &answer))
    }
}

/// Files in a user's checkout get the modes that the user's own git gives them; agentd's own mask would take every right
/// away from everybody else. And a git does not go on when agentd is killed: the next agentd begins the same again. (The
/// thread that waits for it lives as long as it does.)
#[expect(unsafe_code, reason = "the mask of a child can be set in no other way")]
fn mask_as_users_do(command: &mut Command) {
    let mask = || {
        rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        Ok(())
    };
    // SAFETY: between fork and exec these are two system calls, which take no lock and allocate nothing.
    unsafe { command.pre_exec(mask) };
}

/// The error of a command that did not succeed.
pub(crate) fn refused(at: At<'_>, arguments: &[&OsStr], answer: &Answer) -> StepError {
    let message = match answer.message.trim() {
        "" => format!("exit status {}", answer.code),
        message => message.to_owned(),
    };
    failed(at, arguments, message)
}

fn failed(at: At<'_>, arguments: &[&OsStr], message: String) -> StepError {
    StepError::Git {
        command: arguments
            .first()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        path: at.path().to_owned(),
        message,
    }
}

/// A file without a name, to be read from its beginning.
pub(crate) fn in_memory(bytes: &[u8]) -> io::Result<std::fs::File> {
    let fd = rustix::fs::memfd_create("agentd", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)?;
    io::Seek::rewind(&mut file)?;
    Ok(file)
}

/// Reads both outputs to their ends, then waits for the process.
fn run(child: &mut Child, deadline: Instant) -> io::Result<(ExitStatus, Vec<u8>, String)> {
    let Some(mut err) = child.stderr.take() else {
        return Err(io::Error::other("its output is not there"));
    };
    // None when it goes into a file.
    let mut out = child.stdout.take();
    let (mut output, mut message) = (Vec::new(), Vec::new());
    let mut err_open = true;
    let mut buffer = vec![0; 64 * 1024];
    while out.is_some() || err_open {
        let mut fds = Vec::with_capacity(2);
        fds.extend(
            out.as_ref()
                .map(|out| PollFd::new(out.as_fd(), PollFlags::POLLIN)),
        );
        if err_open {
            fds.push(PollFd::new(err.as_fd(), PollFlags::POLLIN));
        }
        wait(&mut fds, deadline)?;
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(true));
        let out_ready = out.is_some() && ready.next().unwrap_or(false);
        let err_ready = err_open && ready.next().unwrap_or(false);
        drop(ready);
        drop(fds);
        if out_ready && let Some(pipe) = &mut out {
            let count = pipe.read(&mut buffer)?;
            output.extend_from_slice(&buffer[..count]);
            if output.len() > OUTPUT_BYTES_MAX {
                return Err(io::Error::other(format!(
                    "it said more than {OUTPUT_BYTES_MAX} bytes"
                )));
            }
            if count == 0 {
                out = None;
            }
        }
        if err_ready {
            let count = err.read(&mut buffer)?;
            err_open = count > 0;
            let room = MESSAGE_BYTES_MAX - message.len();
            message.extend_from_slice(&buffer[..count.min(room)]);
        }
    }
    wait_exit(child, deadline)?;
    let status = child.wait()?;
    Ok((status, output, String::from_utf8_lossy(&message).into_owned()))
}

fn wait(fds: &mut [PollFd<'_>], deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: a wait of nothing would be asked for again and again.
        let ms = i32::try_from(left.as_millis().saturating_add(1)).unwrap_or(i32::MAX);
        match poll(fds, PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)) {
            Ok(0) if Instant::now() >= deadline => return Err(io::ErrorKind::TimedOut.into()),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn pid(child: &Child) -> io::Result<Pid> {
    let number = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    number.ok_or_else(|| io::Error::other("a process number that is none"))
}

fn wait_exit(child: &Child, deadline: Instant) -> io::Result<()> {
    let exited = pidfd_open(pid(child)?, PidfdFlags::empty())?;
    wait(&mut [PollFd::new(exited.as_fd(), PollFlags::POLLIN)], deadline)
}

/// Ends a command and whatever it started in its group.
fn end(child: &mut Child) {
    if let Ok(group) = pid(child) {
        let _ = kill_process_group(group, Signal::TERM);
        let _ = wait_exit(child, Instant::now() + GRACE);
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

/// A list of paths in one variable, as git reads it: a colon ends a path, unless that is quoted.
fn path_list(paths: &[PathBuf]) -> OsString {
    let mut list = Vec::new();
    for path in paths {
        if !list.is_empty() {
            list.push(b':');
        }
        let path = path.as_os_str().as_bytes();
        if path.contains(&b':') || path.starts_with(b"\"") {
            list.push(b'"');
            for &byte in path {
                if matches!(byte, b'"' | b'\\') {
                    list.push(b'\\');
                }
                list.push(byte);
            }
            list.push(b'"');
        } else {
            list.extend(path);
        }
    }
    OsString::from_vec(list)
}

/// Arguments that are plain text.
pub(crate) fn words<const N: usize>(words: [&str; N]) -> [&OsStr; N] {
    words.map(OsStr::new)
}
