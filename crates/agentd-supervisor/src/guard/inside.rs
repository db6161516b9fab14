//! The guard itself: one thread, waiting for whatever comes first.

use super::{End, Order, monotonic_ns, tree};
use crate::start_error;
use crate::tools::ProcessUser;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::WaitStatus;
use nix::unistd::{Gid, Pid, Uid, dup2_stdin, dup2_stdout, getpid, getppid, setgid, setgroups, setuid};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// How long killing goes on. What is left then waits inside the kernel for a device.
const KILLING_MAX: Duration = Duration::from_secs(10);
/// Between two rounds of killing, for what was born between.
const KILLING_ROUND: Duration = Duration::from_millis(50);
/// Far longer than any order.
const ORDER_BYTES_MAX: usize = 4096;

/// What a guard starts.
pub(super) struct Child {
    pub(super) command: Command,
    /// The user that it is to have; the guard's own when absent.
    pub(super) user: Option<ProcessUser>,
}

/// The whole program of a guard that is told until when its command may run: `fd` is its end of the socket pair. The command
/// has the guard's own environment, directory and user.
#[must_use]
pub fn guard_main(fd: RawFd, command: &[OsString]) -> ExitCode {
    match guard(fd, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be left to read it.
            let _ = writeln!(io::stderr(), "agentd guard: {error}");
            ExitCode::FAILURE
        }
    }
}

#[expect(
    unsafe_code,
    reason = "a file descriptor that was inherited has no other form than its number"
)]
pub(super) fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= 2 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not started by agentd",
        ));
    }
    // SAFETY: whoever started us opened this descriptor for us and nothing else in this process, which has just begun,
    // knows its number.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    nix::fcntl::fcntl(
        &owned,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )?;
    Ok(owned)
}

fn guard(fd: RawFd, command: &[OsString]) -> io::Result<()> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut command = Command::new(program);
    command.args(arguments);
    let control = UnixStream::from(adopt(fd)?);
    stand_guard(control, Child { command, user: None })
}

/// Starts it at the first word, and ends with it. The thread must be the program's only one.
pub(super) fn stand_guard(control: UnixStream, child: Child) -> io::Result<()> {
    prctl::set_child_subreaper(true)?;
    let mut caught = SigSet::empty();
    // Not TSTP's default: a guard that is stopped could not keep the time. The command is stopped by it, and
    // `lock run`, so that the shell gets its terminal back.
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
        Signal::SIGTSTP,
        Signal::SIGTTOU,
        Signal::SIGTTIN,
    ] {
        caught.add(signal);
    }
    caught.thread_block()?;
    let signals = SignalFd::with_flags(&caught, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut guard = Guard {
        control,
        signals,
        received: Vec::new(),
        until: None,
        child: None,
        end: None,
        killing_ns: None,
    };
    guard.run(child);
    let mut line = serde_json::to_vec(&guard.end.take().unwrap_or(End::Stopped))?;
    line.push(b'\n');
    guard.control.set_nonblocking(false)?;
    // Nobody may be left to read it.
    let _ = guard.control.write_all(&line);
    Ok(())
}

struct Guard {
    control: UnixStream,
    signals: SignalFd,
    received: Vec<u8>,
    /// When to send TERM (none: it was sent), and when KILL.
    until: Option<(Option<u64>, u64)>,
    child: Option<Pid>,
    end: Option<End>,
    /// Since when everything is being killed.
    killing_ns: Option<u64>,
}

impl Guard {
    fn run(&mut self, child: Child) {
        if self.control.set_nonblocking(true).is_err() {
            return;
        }
        // The command begins with the first word on how long it may run.
        while self.until.is_none() && self.killing_ns.is_none() {
            self.wait();
        }
        if self.killing_ns.is_none() {
            match start(child) {
                Ok(pid) => {
                    self.child = Some(pid);
                    let_go_of_pipes();
                }
                Err(end) => {
                    self.end = Some(end);
                    return;
                }
            }
        }
        loop {
            self.on_time();
            let childless = !self.reap();
            if childless {
                return;
            }
            if let Some(since) = self.killing_ns {
                if monotonic_ns().saturating_sub(since) > nanoseconds(KILLING_MAX) {
                    return;
                }
                tree::kill_round();
            }
            self.wait();
        }
    }

    fn reap(&mut self) -> bool {
        let (child, mut end) = (self.child, None);
        let any = tree::reap(|pid, status| {
            if Some(pid) == child {
                end = Some(match status {
                    WaitStatus::Exited(_, code) => End::Exited(u8::try_from(code & 0xff).unwrap_or(1)),
                    WaitStatus::Signaled(_, signal, _) => {
                        End::Signalled(u8::try_from(signal as i32).unwrap_or(0))
                    }
                    _ => End::Stopped,
                });
            }
        });
        if let Some(end) = end {
            self.child = None;
            self.end.get_or_insert(end);
            // What it left in the background would go on without the lock.
            self.kill();
        }
        any
    }

    fn kill(&mut self) {
        self.killing_ns.get_or_insert_with(monotonic_ns);
    }

    fn on_time(&mut self) {
        let now = monotonic_ns();
        match self.until {
            Some((_, kill_ns)) if now >= kill_ns => {
                self.end.get_or_insert(End::Stopped);
                self.kill();
            }
            Some((Some(term_ns), kill_ns)) if now >= term_ns => {
                self.until = Some((None, kill_ns));
                self.term();
            }
            _ => {}
        }
    }

    fn term(&mut self) {
        tree::signal(Signal::SIGTERM);
        // A stopped process would not see it before it is continued.
        tree::signal(Signal::SIGCONT);
    }

    fn wait(&mut self) {
        let now = monotonic_ns();
        let next = match (self.killing_ns, self.until) {
            (Some(_), _) => Some(KILLING_ROUND),
            (None, Some((term_ns, kill_ns))) => Some(Duration::from_nanos(
                term_ns.unwrap_or(kill_ns).min(kill_ns).saturating_sub(now),
            )),
            (None, None) => None,
        };
        let longest = Duration::from_secs(3600);
        // One more millisecond: poll counts in whole ones, and waking too early would be waking twice.
        let timeout = next.map_or(PollTimeout::NONE, |next| {
            PollTimeout::try_from(next.min(longest) + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        // After KILL has begun nothing that could be said matters any more.
        let listening = if self.killing_ns.is_some() {
            PollFlags::empty()
        } else {
            PollFlags::POLLIN
        };
        let mut polled = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.control.as_fd(), listening),
        ];
        let failed = match poll(&mut polled[..if listening.is_empty() { 1 } else { 2 }], timeout) {
            Ok(_) => false,
            Err(Errno::EINTR) => true,
            Err(_) => true,
        };
        let spoken = failed || polled[1].any().unwrap_or(true);
        self.on_signals();
        if spoken && self.killing_ns.is_none() {
            self.on_control();
        }
    }

    fn on_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            // INT, QUIT and the terminal's stop signals go to the whole group: the command has them already.
            if matches!(
                i32::try_from(info.ssi_signo)
                    .ok()
                    .and_then(|number| Signal::try_from(number).ok()),
                Some(Signal::SIGTERM | Signal::SIGHUP)
            ) {
                self.term();
            }
        }
    }

    fn on_control(&mut self) {
        let mut buffer = [0; 1024];
        let lost = match self.control.read(&mut buffer) {
            Ok(0) => true,
            Ok(length) => {
                self.received.extend_from_slice(&buffer[..length]);
                self.received.len() > ORDER_BYTES_MAX
            }
            Err(error) => !matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ),
        };
        while let Some(at) = self.received.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.received.drain(..=at).collect();
            match serde_json::from_slice(&line) {
                Ok(Order::Until { term_ns, kill_ns }) => self.until = Some((Some(term_ns), kill_ns)),
                Ok(Order::Term) => self.term(),
                Ok(Order::Kill) | Err(_) => {
                    self.end.get_or_insert(End::Stopped);
                    self.kill();
                }
            }
        }
        if lost {
            // Whoever extends the lock is gone.
            self.end.get_or_insert(End::Stopped);
            self.kill();
        }
    }
}

// They are the command's: who is at their other end learns from it alone that they were closed.
fn let_go_of_pipes() {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null");
    if let Ok(null) = null {
        // Without it, their end is seen when the guard ends.
        let _ = dup2_stdin(&null).and_then(|()| dup2_stdout(&null));
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn start(child: Child) -> Result<Pid, End> {
    let Child { mut command, user } = child;
    on_start(&mut command, user.clone());
    let started = command.spawn();
    let not_started = |error| End::NotStarted(start_error::explain(&command, user.as_ref(), &error));
    // The handle is dropped: every child is reaped in one place, by number.
    let pid = started.and_then(|child| i32::try_from(child.id()).map_err(io::Error::other));
    pid.map(Pid::from_raw).map_err(not_started)
}

#[expect(
    unsafe_code,
    reason = "the standard library has no safe way to give a child groups and a death signal"
)]
fn on_start(command: &mut Command, user: Option<ProcessUser>) {
    let guard = getpid();
    let user = user.map(|user| {
        let groups: Vec<Gid> = user.groups.into_iter().map(Gid::from_raw).collect();
        (Uid::from_raw(user.uid), Gid::from_raw(user.gid), groups)
    });
    let prepare = move || {
        if let Some((uid, gid, groups)) = &user {
            setgroups(groups)?;
            setgid(*gid)?;
            setuid(*uid)?;
        }
        // Should the guard be killed with KILL, its command goes with it. After the change of user, which would take it
        // back.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != guard {
            return Err(Errno::ESRCH.into());
        }
        // The mask would be inherited, and the command never hear of Ctrl-C.
        SigSet::empty().thread_set_mask()?;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. These are bare system calls
    // (setgroups, setgid, setuid, prctl, getppid, sigprocmask) on values that were made before; nothing is allocated or locked.
    unsafe {
        command.pre_exec(prepare);
    }
}
