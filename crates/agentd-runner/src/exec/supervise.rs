//! The supervisor: one thread that waits for whatever comes first.
//!
//! ```text
//!   Running ──command ended──────────────────────────────┐
//!      │                                                 ▼
//!      ├──timeout, Stop, TERM──▶ Stopping ──grace over──▶ Killing ──no child left, or 10 s──▶ report
//!      │                            └──no child left─────────────────────────────────────────▲
//!      └──end of the socket, trust over, Stop with no grace──▶ Killing
//! ```
//!
//! Every process of the command's tree hangs, directly or through others, below the supervisor, because the
//! orphaned ones are given to it: "no child left" is the end of the tree.

use super::Outcome;
use super::capture::Capture;
use super::start::start;
use super::wire::{Order, Part, Report, frame, frame_length, monotonic_ns, take_frame};
use agentd_supervisor::proc::{self, Process};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::WaitStatus;
use nix::unistd::{Pid, getpid, getppid, setsid};
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long killing goes on. What is left then waits inside the kernel for a device.
const KILLING_MAX: Duration = Duration::from_secs(10);
/// How often killing looks for processes that escaped a round. Each death wakes it as well; this is for
/// those that are born between.
const KILLING_ROUND: Duration = Duration::from_millis(50);
/// One read of output, in bytes: as much as a pipe holds.
const READ_BYTES: usize = 64 * 1024;
/// Reads after the end of the tree: as much as the largest pipe holds, should somebody else write on.
const READS_AFTER_END_MAX: usize = 64;

/// The whole program of a supervisor: call it first thing in `main`, before any thread is started, when the
/// arguments say so. It talks to its parent on file descriptor 0.
#[must_use]
pub fn supervise_main() -> ExitCode {
    match supervise() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be left to read it.
            let _ = writeln!(io::stderr(), "agentd supervisor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn supervise() -> io::Result<()> {
    let parent = getppid();
    // Out of the reach of a terminal's Ctrl-C: the parent decides what that means.
    if let Err(error) = setsid()
        && error != Errno::EPERM
    {
        return Err(error.into());
    }
    prctl::set_child_subreaper(true)?;
    let mut caught = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
    ] {
        caught.add(signal);
    }
    caught.thread_block()?;
    let signals = SignalFd::with_flags(&caught, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    // A second way to learn of the parent's death, should a copy of its end of the socket live on somewhere.
    // Not KILL, which would leave the tree behind; and a parent that is still there means that only the
    // thread which started us has ended.
    prctl::set_pdeathsig(Signal::SIGUSR1)?;

    let mut control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut head = [0; 4];
    if control.read_exact(&mut head).is_err() {
        // The parent is gone before it said anything.
        return Ok(());
    }
    let mut first = vec![0; frame_length(head)?];
    control.read_exact(&mut first)?;
    let Order::Run(spec) = serde_json::from_slice(&first)? else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the first order is not to run a command",
        ));
    };
    drop(first);
    control.set_nonblocking(true)?;

    let begun = Instant::now();
    let mut supervisor = Supervisor {
        parent,
        control: Some(control),
        received: Vec::new(),
        signals,
        stdout: Stream::new(spec.stdout),
        stderr: Stream::new(spec.stderr),
        command: None,
        outcome: None,
        phase: Phase::Running,
        deadline: spec.timeout.and_then(|timeout| begun.checked_add(timeout)),
        grace: spec.grace,
        trusted_until_ns: None,
        leftovers: HashSet::new(),
        childless: false,
    };
    match start(&spec) {
        Ok((pid, stdout, stderr)) => {
            supervisor.command = Some(pid);
            supervisor.stdout.pipe = Some(stdout);
            supervisor.stderr.pipe = Some(stderr);
            supervisor.run();
        }
        Err(message) => supervisor.outcome = Some(Outcome::NotStarted { message }),
    }
    supervisor.report(begun)
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Running,
    /// TERM was sent; KILL comes then.
    Stopping(Instant),
    /// Until then.
    Killing(Instant),
}

/// One of the command's streams.
struct Stream {
    pipe: Option<OwnedFd>,
    capture: Capture,
}

impl Stream {
    fn new(limits: super::CaptureLimits) -> Self {
        Self {
            pipe: None,
            capture: Capture::new(limits),
        }
    }

    /// Takes what one read gives. False when there is nothing more at the moment, or at all.
    fn take(&mut self, buffer: &mut [u8]) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        match nix::unistd::read(pipe, buffer) {
            Ok(0) => self.pipe = None,
            Ok(length) => {
                self.capture.push(&buffer[..length]);
                return true;
            }
            Err(Errno::EAGAIN) => return false,
            Err(Errno::EINTR) => return true,
            Err(_) => self.pipe = None,
        }
        false
    }
}

struct Supervisor {
    parent: Pid,
    /// None when the parent is gone.
    control: Option<UnixStream>,
    received: Vec<u8>,
    signals: SignalFd,
    stdout: Stream,
    stderr: Stream,
    /// Until it has ended.
    command: Option<Pid>,
    /// The first thing that decided the command's fate.
    outcome: Option<Outcome>,
    phase: Phase,
    deadline: Option<Instant>,
    grace: Duration,
    trusted_until_ns: Option<u64>,
    leftovers: HashSet<Process>,
    childless: bool,
}

impl Supervisor {
    fn run(&mut self) {
        let mut buffer = vec![0; READ_BYTES];
        for stream in [&self.stdout, &self.stderr] {
            if let Some(pipe) = &stream.pipe {
                // Cannot fail on a pipe of ours; if it did, a read would only wait for output as poll does.
                let _ = fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
            }
        }
        loop {
            self.on_time();
            if self.childless {
                break;
            }
            if let Phase::Killing(until) = self.phase {
                if Instant::now() >= until {
                    break;
                }
                self.kill_round();
            }
            self.wait(&mut buffer);
        }
        for stream in [&mut self.stdout, &mut self.stderr] {
            let mut reads = 0;
            while reads < READS_AFTER_END_MAX && stream.take(&mut buffer) {
                reads += 1;
            }
        }
    }

    /// Waits for the next thing to happen, and takes it in.
    fn wait(&mut self, buffer: &mut [u8]) {
        let ready = {
            let sources = [
                Some(self.signals.as_fd()),
                self.control.as_ref().map(AsFd::as_fd),
                self.stdout.pipe.as_ref().map(AsFd::as_fd),
                self.stderr.pipe.as_ref().map(AsFd::as_fd),
            ];
            let mut polled: Vec<PollFd<'_>> = sources
                .iter()
                .flatten()
                .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
                .collect();
            // Interrupted, or out of memory in the kernel: look at everything, nothing blocks.
            let failed = poll(&mut polled, self.patience()).is_err();
            let mut polled = polled.iter();
            sources.map(|source| {
                source.is_some() && polled.next().is_some_and(|fd| failed || fd.any().unwrap_or(true))
            })
        };
        if ready[0] {
            self.on_signals();
        }
        if ready[1] {
            self.on_control();
        }
        if ready[2] {
            self.stdout.take(buffer);
        }
        if ready[3] {
            self.stderr.take(buffer);
        }
    }

    /// How long there is nothing to do unless something happens.
    fn patience(&self) -> PollTimeout {
        let now = Instant::now();
        let trusted = self
            .trusted_until_ns
            .map(|until| Duration::from_nanos(until.saturating_sub(monotonic_ns())));
        let until = |instant: Instant| instant.saturating_duration_since(now);
        let patience = match self.phase {
            Phase::Running => [self.deadline.map(until), trusted].into_iter().flatten().min(),
            Phase::Stopping(kill_at) => trusted.into_iter().chain([until(kill_at)]).min(),
            Phase::Killing(end) => Some(until(end).min(KILLING_ROUND)),
        };
        // One more millisecond: poll counts in whole ones, and waking too early would be waking twice.
        let longest = Duration::from_secs(3600);
        patience.map_or(PollTimeout::NONE, |patience| {
            PollTimeout::try_from(patience.min(longest) + Duration::from_millis(1))
                .unwrap_or(PollTimeout::MAX)
        })
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if self.trusted_until_ns.is_some_and(|until| monotonic_ns() >= until) {
            self.kill(Outcome::TrustOver);
        }
        match self.phase {
            Phase::Running if self.deadline.is_some_and(|deadline| now >= deadline) => {
                self.stop(Outcome::TimedOut, self.grace);
            }
            Phase::Stopping(kill_at) if now >= kill_at => self.kill(Outcome::Stopped),
            Phase::Running | Phase::Stopping(_) | Phase::Killing(_) => {}
        }
    }

    fn on_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(i32::try_from(info.ssi_signo).unwrap_or(0)) {
                Ok(Signal::SIGCHLD) => {}
                Ok(Signal::SIGUSR1) => {
                    if getppid() != self.parent {
                        self.kill(Outcome::Stopped);
                    }
                }
                _ => self.stop(Outcome::Stopped, self.grace),
            }
        }
        let command = self.command;
        let mut end = None;
        self.childless = !proc::reap(|pid, status| {
            if Some(pid) == command {
                end = Some(status);
            }
        });
        if let Some(status) = end {
            self.command = None;
            let outcome = match status {
                WaitStatus::Signaled(_, signal, _) => Outcome::Signalled {
                    signal: signal as i32,
                },
                WaitStatus::Exited(_, code) => Outcome::Exited { code },
                // Not asked for by `reap`.
                _ => Outcome::Stopped,
            };
            // A tree that is being stopped keeps its grace. One whose command ended by itself has none:
            // whatever it left in the background was never promised a life of its own.
            if self.phase == Phase::Running {
                self.kill(outcome);
            }
        }
    }

    fn on_control(&mut self) {
        let Some(control) = &mut self.control else { return };
        let mut buffer = [0; 4096];
        let lost = match control.read(&mut buffer) {
            Ok(0) => true,
            Ok(length) => {
                self.received.extend_from_slice(&buffer[..length]);
                false
            }
            Err(error) => !matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ),
        };
        loop {
            match take_frame(&mut self.received) {
                Ok(None) => break,
                Ok(Some(Order::Stop { grace_ms })) => {
                    self.stop(Outcome::Stopped, Duration::from_millis(grace_ms));
                }
                Ok(Some(Order::TrustedUntil { monotonic_ns })) => self.trusted_until_ns = Some(monotonic_ns),
                // A parent that makes no sense is no parent.
                Ok(Some(Order::Run(_))) | Err(_) => {
                    self.control = None;
                    self.kill(Outcome::Stopped);
                    return;
                }
            }
        }
        if lost {
            self.control = None;
            self.kill(Outcome::Stopped);
        }
    }

    /// TERM now, KILL later.
    fn stop(&mut self, outcome: Outcome, grace: Duration) {
        let kill_at = Instant::now().checked_add(grace).filter(|_| !grace.is_zero());
        let Some(kill_at) = kill_at else {
            return self.kill(outcome);
        };
        match self.phase {
            Phase::Running => {
                self.outcome.get_or_insert(outcome);
                self.phase = Phase::Stopping(kill_at);
                for process in self.tree() {
                    process.signal(Signal::SIGTERM);
                    // A stopped process would not see the one before it is continued.
                    process.signal(Signal::SIGCONT);
                }
            }
            Phase::Stopping(earlier) => self.phase = Phase::Stopping(earlier.min(kill_at)),
            Phase::Killing(_) => {}
        }
    }

    /// KILL, from now on until nothing is left.
    fn kill(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
        if !matches!(self.phase, Phase::Killing(_)) {
            self.phase = Phase::Killing(Instant::now() + KILLING_MAX);
        }
    }

    fn tree(&self) -> Vec<Process> {
        proc::descendants(&proc::all(), &[getpid().as_raw()])
    }

    fn kill_round(&mut self) {
        for process in proc::kill_tree(|| self.tree()) {
            if self.command.is_none_or(|command| command.as_raw() != process.pid) {
                self.leftovers.insert(process);
            }
        }
    }

    fn report(mut self, begun: Instant) -> io::Result<()> {
        let survivors = if self.childless { 0 } else { self.tree().len() };
        let (stdout, stderr) = (self.stdout.capture.finish(), self.stderr.capture.finish());
        let Some(mut control) = self.control.take() else {
            return Ok(());
        };
        let mut message = frame(&Report {
            outcome: self.outcome.unwrap_or(Outcome::Stopped),
            duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            leftovers: u32::try_from(self.leftovers.len()).unwrap_or(u32::MAX),
            survivors: u32::try_from(survivors).unwrap_or(u32::MAX),
            stdout: Part::of(&stdout),
            stderr: Part::of(&stderr),
        })?;
        for part in [stdout.head, stdout.tail, stderr.head, stderr.tail] {
            message.extend_from_slice(&part);
        }
        // The tree is gone: from here on it does no harm to wait for a parent that reads slowly.
        control.set_nonblocking(false)?;
        control.write_all(&message)
    }
}
