//! The first process of a session's container.
//!
//! A program of its own, without any crate: `build.rs` compiles it into a static executable that works
//! in an image that holds nothing else. It reads `launch` in the session's run directory, which says what to run
//! and which secrets become variables, starts the agent, passes signals on, reaps what the agent leaves, writes
//! down how the agent ended, and ends the same way, with which the kernel ends everything else in the container.
//!
//! ```text
//! init [DIRECTORY]        the session's run directory; /run/agentd when it is not named
//! ```

#![allow(unsafe_code)] // The standard library has no signal masks, process groups or waiting for any child.

#[path = "../../../agentd-supervisor/src/start_error/cause.rs"]
mod cause;

use cause::{Attempt, Cause};
use std::ffi::{CString, OsStr, OsString, c_char};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a launch file begins with. This program and the file come from the same agentd, so there is one version.
pub(crate) const HEADER: &[u8] = b"agentd-launch 1";
/// The most of a launch file. The kernel takes less than this for arguments and environment together.
pub(crate) const LAUNCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most entries of each kind.
pub(crate) const ENTRIES_MAX: usize = 4096;
/// The most of a secret that becomes a variable: the kernel takes no longer string.
const VARIABLE_BYTES_MAX: usize = 128 * 1024 - 1;
/// The agent's processes are this much more likely to be taken when memory runs out.
const OOM_SCORE_MORE: i32 = 500;

const NOT_FOUND: i32 = 127;
const NOT_STARTED: i32 = 126;

/// What to run.
#[derive(PartialEq, Eq)]
pub(crate) struct Launch {
    pub(crate) argv: Vec<OsString>,
    /// Variables whose values may be seen.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Variable and the name of its file.
    pub(crate) secret_env: Vec<(OsString, OsString)>,
    pub(crate) secrets: PathBuf,
    pub(crate) cwd: PathBuf,
}

/// Reads a launch file: entries that each end in a zero byte, the header first and `end` last. Between them stand
/// `cwd PATH`, `secrets PATH`, `argv VALUE`, `env NAME VALUE` and `secret NAME FILE`, each word an entry.
pub(crate) fn parse(bytes: &[u8]) -> Result<Launch, String> {
    if bytes.len() > LAUNCH_BYTES_MAX {
        return Err(format!("it has more than {LAUNCH_BYTES_MAX} bytes"));
    }
    let Some(entries) = bytes.strip_suffix(b"\0") else {
        return Err("it does not end in a zero byte".into());
    };
    let mut entries = entries.split(|&byte| byte == 0);
    if entries.next() != Some(HEADER) {
        return Err("it is not a launch file of this version".into());
    }
    let (mut argv, mut env, mut secret_env) = (Vec::new(), Vec::new(), Vec::new());
    let (mut cwd, mut secrets) = (None, None);
    let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    loop {
        let kind = entries.next().ok_or("it has no end")?;
        if kind == b"end" {
            break;
        }
        let mut next = || entries.next().ok_or("an entry is cut short");
        let full = match kind {
            b"argv" => {
                argv.push(text(next()?));
                argv.len() > ENTRIES_MAX
            }
            b"env" => {
                env.push((variable(next()?)?, text(next()?)));
                env.len() > ENTRIES_MAX
            }
            b"secret" => {
                secret_env.push((variable(next()?)?, file_name(next()?)?));
                secret_env.len() > ENTRIES_MAX
            }
            b"cwd" => cwd.replace(absolute(next()?)?).is_some(),
            b"secrets" => secrets.replace(absolute(next()?)?).is_some(),
            _ => return Err("it has an entry of an unknown kind".into()),
        };
        if full {
            return Err("it has too many entries of one kind".into());
        }
    }
    if entries.next().is_some() {
        return Err("something follows its end".into());
    }
    if argv.is_empty() {
        return Err("it names no program".into());
    }
    Ok(Launch {
        argv,
        env,
        secret_env,
        secrets: secrets.ok_or("it names no directory of secrets")?,
        cwd: cwd.ok_or("it names no working directory")?,
    })
}

fn variable(bytes: &[u8]) -> Result<OsString, String> {
    if bytes.is_empty() || bytes.contains(&b'=') {
        return Err("a variable has a name that cannot be one".into());
    }
    Ok(OsString::from_vec(bytes.to_vec()))
}

fn file_name(bytes: &[u8]) -> Result<OsString, String> {
    if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') {
        return Err("a secret has a name that cannot be a file's".into());
    }
    Ok(OsString::from_vec(bytes.to_vec()))
}

fn absolute(bytes: &[u8]) -> Result<PathBuf, String> {
    if bytes.first() != Some(&b'/') {
        return Err("a path is not absolute".into());
    }
    Ok(PathBuf::from(OsString::from_vec(bytes.to_vec())))
}

/// A secret's value, as it stands in its file: newlines at the end do not belong to it.
pub(crate) fn value(mut content: Vec<u8>) -> Vec<u8> {
    while matches!(content.last(), Some(b'\n' | b'\r')) {
        content.pop();
    }
    content
}

/// Reads a regular file up to a bound. Its content is in no error.
fn read_bounded(path: &Path, bytes_max: usize) -> Result<Vec<u8>, String> {
    let said = |error: io::Error| format!("cannot read {}: {error}", path.display());
    // A FIFO in its place would otherwise be waited for.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(path)
        .map_err(said)?;
    if !file.metadata().map_err(said)?.is_file() {
        return Err(format!("{} is not a regular file", path.display()));
    }
    let mut content = Vec::new();
    file.take(bytes_max as u64 + 1)
        .read_to_end(&mut content)
        .map_err(said)?;
    if content.len() > bytes_max {
        return Err(format!("{} has more than {bytes_max} bytes", path.display()));
    }
    Ok(content)
}

/// How the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exit(i32),
    Signal(i32),
}

impl End {
    /// What `waitpid` tells.
    pub(crate) fn of(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Exit((status >> 8) & 0xff),
            signal => Self::Signal(signal),
        }
    }

    fn line(self) -> String {
        match self {
            Self::Exit(code) => format!("exit {code}\n"),
            Self::Signal(signal) => format!("signal {signal}\n"),
        }
    }

    fn code(self) -> i32 {
        match self {
            Self::Exit(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

fn main() {
    std::process::exit(match run() {
        Ok(code) => code,
        Err((code, sentence)) => {
            // With nobody to read it, the status has to do.
            let _ = writeln!(io::stderr(), "agentd-init: {sentence}");
            code
        }
    });
}

fn run() -> Result<i32, (i32, String)> {
    let not_started = |sentence| (NOT_STARTED, sentence);
    let dir = std::env::args_os().nth(1);
    let dir = PathBuf::from(dir.unwrap_or_else(|| "/run/agentd".into()));
    // SAFETY: changes nothing but this process's own attribute. From here on the agent, which is the same user,
    // can neither trace this process nor read its memory, environment and descriptors in /proc.
    unsafe { prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) };
    let signals = block_signals();
    let file = dir.join("launch");
    let launch = read_bounded(&file, LAUNCH_BYTES_MAX)
        .and_then(|bytes| parse(&bytes).map_err(|what| format!("{} cannot be used: {what}", file.display())))
        .map_err(not_started)?;
    open_temporary();
    let mut command = command_of(&launch).map_err(not_started)?;
    std::env::set_current_dir(&launch.cwd)
        .map_err(|error| not_started(format!("cannot enter {}: {error}", launch.cwd.display())))?;
    let child = command.spawn().map_err(|error| not_run(&launch, &error))?;
    // Arguments, variables and secrets are the agent's now.
    drop(command);
    drop(launch);
    let agent = child.id() as i32;
    let end = attend(agent, &signals);
    if let Err(error) = leave_status(&dir, end) {
        let _ = writeln!(io::stderr(), "agentd-init: cannot write the status: {error}");
    }
    Ok(end.code())
}

/// Gives the directories for temporary files the mode that programs expect. They are the agent's own, and have what the
/// image has there.
fn open_temporary() {
    // A process that is not the first of a container would change those of its machine.
    if std::process::id() != 1 {
        return;
    }
    for dir in ["/tmp", "/var/tmp"] {
        // An agent that cannot write there learns it from what it tries.
        let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o1777));
    }
}

/// The exit status, and a sentence for people.
fn not_run(launch: &Launch, error: &io::Error) -> (i32, String) {
    let path = launch.env.iter().find(|(name, _)| name == "PATH");
    let attempt = Attempt {
        program: &launch.argv[0],
        path: path.map(|(_, value)| &**value),
        cwd: &launch.cwd,
        may_execute,
    };
    let cause = attempt.cause(error);
    let code = match cause {
        Cause::NotFound(_) => NOT_FOUND,
        _ => NOT_STARTED,
    };
    (
        code,
        format!("cannot start {}: {}", launch.argv[0].display(), cause.sentence()),
    )
}

/// Asks the kernel. This process has one user, whatever it is asked as.
fn may_execute(path: &Path) -> io::Result<()> {
    const X_OK: i32 = 1;
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the pointer is to a string that ends in a zero byte, and outlives the call.
    match unsafe { access(path.as_ptr(), X_OK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn command_of(launch: &Launch) -> Result<Command, String> {
    let mut command = Command::new(&launch.argv[0]);
    command.args(&launch.argv[1..]).stdin(Stdio::null()).env_clear();
    command.envs(launch.env.iter().map(|(name, value)| (name, value)));
    for (name, file) in &launch.secret_env {
        let path = launch.secrets.join(file);
        let secret = value(read_bounded(&path, VARIABLE_BYTES_MAX)?);
        if secret.contains(&0) {
            return Err(format!(
                "{} holds a zero byte and cannot be a variable",
                path.display()
            ));
        }
        command.env(name, OsStr::from_bytes(&secret));
    }
    let prepare = || {
        // SAFETY: system calls on values of their own. This process has one thread, so its child may do anything.
        unsafe {
            setsid();
            let mut none = SignalSet([0; 16]);
            sigemptyset(&mut none);
            sigprocmask(SIG_SETMASK, &none, std::ptr::null_mut());
        }
        more_expendable();
        Ok(())
    };
    // SAFETY: see above.
    unsafe { command.pre_exec(prepare) };
    Ok(command)
}

/// When memory runs out, the kernel is to take the agent, not the process that tells how the agent ended. It is no
/// error where it cannot be said.
fn more_expendable() {
    const FILE: &str = "/proc/self/oom_score_adj";
    let now = fs::read_to_string(FILE)
        .ok()
        .and_then(|text| text.trim().parse::<i32>().ok());
    if let (Some(now), Ok(mut file)) = (now, File::options().write(true).open(FILE)) {
        let _ = file.write_all((now + OOM_SCORE_MORE).min(1000).to_string().as_bytes());
    }
}

/// Passes signals on and reaps, until the agent has ended.
fn attend(agent: i32, signals: &SignalSet) -> End {
    loop {
        let mut signal = 0;
        // SAFETY: both point to values of this function.
        if unsafe { sigwait(signals, &mut signal) } != 0 {
            continue;
        }
        if signal != SIGCHLD {
            // SAFETY: a bare system call. The agent is not reaped yet, so the number is its own.
            unsafe { kill(-agent, signal) };
            continue;
        }
        // One signal may stand for several children.
        loop {
            let mut status = 0;
            // SAFETY: the pointer is to a value of this function.
            let pid = unsafe { waitpid(-1, &mut status, WNOHANG) };
            if pid == agent {
                return End::of(status);
            }
            if pid <= 0 {
                break;
            }
        }
    }
}

/// Writes `status`, whole or not at all. What the agent has put in its place is replaced, and never followed.
fn leave_status(dir: &Path, end: End) -> io::Result<()> {
    let part = dir.join(".status.part");
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .custom_flags(O_NOFOLLOW)
        .open(&part)?;
    file.write_all(end.line().as_bytes())?;
    drop(file);
    fs::rename(&part, dir.join("status"))
}

/// A blocked signal waits for `sigwait`, also for the first process of a container, which is not sent those that
/// it does nothing about.
fn block_signals() -> SignalSet {
    let mut set = SignalSet([0; 16]);
    // SAFETY: the pointers are to a value of this function, which is as large as the C library's.
    unsafe {
        sigemptyset(&mut set);
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTERM, SIGCHLD] {
            sigaddset(&mut set, signal);
        }
        sigprocmask(SIG_SETMASK, &set, std::ptr::null_mut());
    }
    set
}

// The C library's, which the standard library is linked with anyway. The numbers are those of Linux on every
// architecture that agentd is built for.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
compile_error!("look up the numbers of signals and flags for this architecture");

const PR_SET_DUMPABLE: i32 = 4;
#[cfg(target_arch = "aarch64")]
const O_NOFOLLOW: i32 = 0o100_000;
#[cfg(not(target_arch = "aarch64"))]
const O_NOFOLLOW: i32 = 0o400_000;
const O_NONBLOCK: i32 = 0o4000;
const SIG_SETMASK: i32 = 2;
const WNOHANG: i32 = 1;
const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
const SIGUSR1: i32 = 10;
const SIGUSR2: i32 = 12;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

/// `sigset_t`: 1,024 bits in glibc and in musl.
#[repr(C)]
struct SignalSet([u64; 16]);

unsafe extern "C" {
    fn prctl(option: i32, ...) -> i32;
    fn setsid() -> i32;
    fn access(path: *const c_char, mode: i32) -> i32;
    fn kill(pid: i32, signal: i32) -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn sigemptyset(set: *mut SignalSet) -> i32;
    fn sigaddset(set: *mut SignalSet, signal: i32) -> i32;
    fn sigprocmask(how: i32, set: *const SignalSet, old: *mut SignalSet) -> i32;
    fn sigwait(set: *const SignalSet, signal: *mut i32) -> i32;
}
