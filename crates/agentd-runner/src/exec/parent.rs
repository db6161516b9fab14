//! The parent's side: starts a supervisor, passes on what is decided meanwhile, and takes the report.

use super::sweep::{SupervisorMark, SweepFilter, sweep};
use super::wire::{FRAME_BYTES_MAX, Order, Report, frame, frame_length, monotonic_ns};
use super::{CaptureLimits, CommandSpec, Finished};
use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a supervisor may take from KILL to its report. It gives up by itself before that.
const REPORT_AFTER_KILL_MAX: Duration = Duration::from_secs(15);

/// How to start a supervisor: a program whose `main` calls [`super::supervise_main`] when given these
/// arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupervisorCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

impl Default for SupervisorCommand {
    /// This program, with the argument `__supervise`.
    fn default() -> Self {
        // The link leads to the running program even when its file was replaced by another version, which
        // might speak otherwise.
        Self {
            program: "/proc/self/exe".into(),
            args: vec!["__supervise".into()],
        }
    }
}

/// Until when a command may be trusted to run: it is killed at that time, unless a later one is set before.
/// None: for as long as it takes.
pub type Trust = Option<Instant>;

/// What is decided about a command while it runs.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// Cancelled: TERM, and KILL when the grace period is over.
    pub stop: CancellationToken,
    /// Cancelled: KILL.
    pub kill: CancellationToken,
    /// Until when the command may run, kept up to date by whoever holds the lease.
    pub trust: Option<watch::Receiver<Trust>>,
}

/// Why a command's fate is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// No supervisor could be started; the command did not begin.
    #[error("cannot start the command's supervisor {}: {source}", program.display())]
    Start {
        /// The supervisor's program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The command cannot be handed over; it did not begin.
    #[error("the command cannot be handed to its supervisor: {0}")]
    Specification(#[source] io::Error),
    /// The supervisor ended without a report. What it had started was killed.
    #[error(
        "the command's supervisor ended without a report ({why}); {killed} processes of its command were killed"
    )]
    Lost {
        /// How it ended.
        why: String,
        /// How many processes were found and killed.
        killed: u32,
    },
}

/// Runs a command and returns when nothing is left of it.
///
/// Dropping the future kills the command's whole tree, soon but not at once: to know that it is gone, cancel
/// `control.kill` and await the result.
///
/// # Errors
/// [`ExecError`] when there is no report. Everything that happens to the command itself is an
/// [`super::Outcome`].
pub async fn run(
    supervisor: &SupervisorCommand,
    spec: &CommandSpec,
    control: Control,
) -> Result<Finished, ExecError> {
    if spec.stdout.total().max(spec.stderr.total()) > CaptureLimits::BYTES_MAX {
        let why = format!(
            "at most {} bytes of a stream can be captured",
            CaptureLimits::BYTES_MAX
        );
        return Err(ExecError::Specification(io::Error::new(
            io::ErrorKind::InvalidInput,
            why,
        )));
    }
    let order = frame(&Order::Run(spec.clone())).map_err(ExecError::Specification)?;
    let failed = |source| ExecError::Start {
        program: supervisor.program.clone(),
        source,
    };
    let (mut child, mut socket) = start(supervisor).map_err(failed)?;
    let mark = child
        .id()
        .and_then(|pid| SupervisorMark::of(i32::try_from(pid).ok()?));

    let result = converse(&mut socket, order, spec, control).await;
    if result.is_err() {
        // It does not speak to us any more, whatever it does. Killing what is dead is no error that matters.
        let _ = child.start_kill();
    }
    drop(socket);
    let status = child.wait().await;
    match result {
        Ok(finished) => Ok(finished),
        Err(error) => {
            let why = status.map_or_else(|error| error.to_string(), |status| format!("{status}; {error}"));
            let swept = match mark {
                Some(mark) => tokio::task::spawn_blocking(move || sweep(&SweepFilter::Supervisor(mark)))
                    .await
                    .ok(),
                None => None,
            };
            Err(ExecError::Lost {
                why,
                killed: swept.unwrap_or_default().killed,
            })
        }
    }
}

fn start(supervisor: &SupervisorCommand) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let socket = UnixStream::from_std(ours)?;
    let mut command = Command::new(&supervisor.program);
    command.arg0("agentd").args(&supervisor.args);
    command
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        // From its first instant on: a Ctrl-C at the terminal is for the worker, which then decides what
        // becomes of the command.
        .process_group(0);
    // `command` holds a copy of their end: it must be gone before anybody waits for the end of the socket.
    command.spawn().map(|child| (child, socket))
}

async fn converse(
    socket: &mut UnixStream,
    order: Vec<u8>,
    spec: &CommandSpec,
    control: Control,
) -> io::Result<Finished> {
    let (mut reader, mut writer) = socket.split();
    let decisions = async {
        writer.write_all(&order).await?;
        drop(order);
        pass_on(&mut writer, spec.grace, control).await
    };
    let report = async {
        let mut head = [0; 4];
        reader.read_exact(&mut head).await?;
        let length = frame_length(head)?.min(FRAME_BYTES_MAX);
        let mut bytes = vec![0; length];
        reader.read_exact(&mut bytes).await?;
        let report: Report = serde_json::from_slice(&bytes)?;
        let mut captured = Vec::with_capacity(2);
        for (part, limits) in [(report.stdout, spec.stdout), (report.stderr, spec.stderr)] {
            let mut bytes = vec![0; part.checked_total(limits)?];
            reader.read_exact(&mut bytes).await?;
            captured.push(part.with(bytes));
        }
        let stderr = captured.pop().unwrap_or_default();
        let stdout = captured.pop().unwrap_or_default();
        Ok(Finished {
            outcome: report.outcome,
            duration: Duration::from_millis(report.duration_ms),
            leftovers: report.leftovers,
            survivors: report.survivors,
            stdout,
            stderr,
        })
    };
    tokio::select! {
        biased;
        finished = report => finished,
        error = decisions => Err(error.err().unwrap_or_else(|| io::ErrorKind::TimedOut.into())),
    }
}

/// Tells the supervisor what is decided. Returns without an error only when the supervisor should have
/// reported long ago.
async fn pass_on(
    writer: &mut (impl AsyncWriteExt + Unpin),
    grace: Duration,
    mut control: Control,
) -> io::Result<()> {
    let mut stopped = false;
    if let Some(trust) = &mut control.trust {
        trust.mark_changed();
    }
    loop {
        let order = tokio::select! {
            biased;
            () = control.kill.cancelled() => break,
            () = control.stop.cancelled(), if !stopped => {
                stopped = true;
                Order::Stop { grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) }
            }
            trusted = changed(&mut control.trust) => match trusted {
                Some(until) => Order::TrustedUntil { monotonic_ns: on_shared_clock(until) },
                None => continue,
            },
        };
        write(writer, &order).await?;
    }
    write(writer, &Order::Stop { grace_ms: 0 }).await?;
    tokio::time::sleep(REPORT_AFTER_KILL_MAX).await;
    Ok(())
}

async fn changed(trust: &mut Option<watch::Receiver<Trust>>) -> Trust {
    if let Some(receiver) = trust
        && receiver.changed().await.is_ok()
    {
        return *receiver.borrow_and_update();
    }
    // Nobody extends it any more; what was said last stands.
    pending().await
}

async fn write(writer: &mut (impl AsyncWriteExt + Unpin), order: &Order) -> io::Result<()> {
    match writer.write_all(&frame(order)?).await {
        // It has reported and is gone; the report is on its way to the reader.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) =>
        {
            pending().await
        }
        other => other,
    }
}

/// The same moment on the clock that the supervisor reads.
fn on_shared_clock(until: Instant) -> u64 {
    let (now, now_ns) = (Instant::now(), monotonic_ns());
    let left = until.saturating_duration_since(now);
    now_ns.saturating_add(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX))
}
