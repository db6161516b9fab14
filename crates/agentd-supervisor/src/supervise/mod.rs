//! The supervisor's process, from its start to its end.
//!
//! ```text
//!   orders read ─▶ Intent on disk ─▶ plugins and agent started ─▶ Started ─▶ … ─▶ agent ended ─▶ Exited on disk ─┐
//!                                                                                                    │
//!   exit ◀─ watchers have it ◀─ End on disk ◀─ transcript on disk ◀─ container and secrets removed ◀─┘
//!
//! All output is in the transcript and the result is kept before `Exited`: with the kernel, if not on disk.
//! ```
//!
//! | what happens | what follows |
//! |---|---|
//! | agentd is killed | nothing; the next one connects |
//! | the supervisor is killed | a process agent dies with it (PDEATHSIG), a container goes on; agentd finds the lock free and no `End`, and clears up |
//! | the supervisor gets TERM | as if somebody had asked for the agent's end |
//! | the disk is full | output is missing and counted; records are kept, and tried again until they are written |

mod children;
mod container;
mod cri;
mod engine;
mod launch;
mod oom;
mod process;
mod pump;
mod result;
mod secrets;
mod server;
mod shared;
mod stops;
mod tools;

use crate::dir::SessionDir;
use crate::record::{Exited, What};
use crate::records::{Durability, Recorder};
use crate::spawn::{LOCK_FD, SOCKET_FD};
use crate::spec::{Launch, PROTOCOL_VERSION, Spec};
use crate::transcript::Writer;
use crate::wire::{Doing, Versions};
use agentd_protocol::SessionId;
use children::Children;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use secrets::Secrets;
use serde::Deserialize;
use shared::{Shared, wall_ms};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use stops::Stops;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tools::Tools;

/// The largest orders, in bytes: an argument list and an environment as large as Linux takes them, in JSON.
const SPEC_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How long those that watch have to take the last records.
const LAST_RECORDS_MAX: Duration = Duration::from_secs(2);
/// How long after a record could not be written it is tried again: first, and at most.
const DISK_AGAIN_AFTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The whole program of a session's supervisor: call it first thing in `main`, before any thread is started, in the
/// process that [`crate::spawn::spawn`] has started for the directory `dir`.
#[must_use]
pub fn supervisor_main(dir: &Path) -> ExitCode {
    supervisor_main_as(dir, Versions::OURS)
}

/// As [`supervisor_main`], speaking other versions than this program does: for tests of what happens between versions.
#[must_use]
pub fn supervisor_main_as(dir: &Path, versions: Versions) -> ExitCode {
    match supervise(&SessionDir::new(dir.to_owned()), versions) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Into the session's directory, if there is still room.
            let _ = writeln!(io::stderr(), "agentd session supervisor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn supervise(dir: &SessionDir, versions: Versions) -> io::Result<()> {
    let (lock, socket) = inherited(dir)?;
    // It is to hold no directory that somebody may want to unmount.
    std::env::set_current_dir("/")?;
    harden()?;
    socket.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(live(dir, socket, versions));
    // Held to the very end: whoever finds it free finds nobody.
    drop(runtime);
    drop(lock);
    result
}

/// The descriptors that were handed over.
#[expect(
    unsafe_code,
    reason = "descriptors that are inherited are known by their numbers alone"
)]
fn inherited(dir: &SessionDir) -> io::Result<(File, UnixListener)> {
    let described = |fd: i32| fs::metadata(format!("/proc/self/fd/{fd}"));
    let lock = described(LOCK_FD)?;
    let file = fs::symlink_metadata(dir.lock())?;
    if (lock.dev(), lock.ino()) != (file.dev(), file.ino()) || !described(SOCKET_FD)?.file_type().is_socket()
    {
        let message =
            "descriptors 3 and 4 are not the session's lock and socket: this is started by agentd alone";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    // SAFETY: both are open, as was just seen, and nothing else in this process knows of them: it has just begun.
    let (lock, socket) = unsafe { (OwnedFd::from_raw_fd(LOCK_FD), OwnedFd::from_raw_fd(SOCKET_FD)) };
    for fd in [&lock, &socket] {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
    }
    // What agentd itself was given by a careless parent is not for the supervisor: somebody may wait for the end of it.
    // SAFETY: as above; nothing of this process has a higher number yet. Kernels before 5.9 do not know the call: then
    // it stays.
    unsafe {
        libc::syscall(libc::SYS_close_range, SOCKET_FD + 1, libc::c_uint::MAX, 0);
    }
    Ok((lock.into(), socket.into()))
}

/// Secrets are in this process's memory; and it is what is left when everything above it is gone.
fn harden() -> io::Result<()> {
    umask(Mode::from_bits_truncate(0o077));
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_dumpable(false)?;
    prctl::set_child_subreaper(true)?;
    Ok(())
}

/// What is needed of orders even when the rest of them cannot be understood.
#[derive(Deserialize)]
struct SpecHead {
    version: u32,
    session_id: SessionId,
}

fn read_spec(dir: &SessionDir) -> io::Result<(SessionId, Result<Spec, String>)> {
    let mut text = Vec::new();
    File::open(dir.spec())?
        .take(SPEC_BYTES_MAX + 1)
        .read_to_end(&mut text)?;
    if text.len() as u64 > SPEC_BYTES_MAX {
        return Err(io::Error::other(format!(
            "orders of more than {SPEC_BYTES_MAX} bytes"
        )));
    }
    let head: SpecHead = serde_json::from_slice(&text)?;
    let spec = if head.version > PROTOCOL_VERSION {
        Err(format!(
            "its supervisor knows version {PROTOCOL_VERSION} of its orders, and these are version {}: \
             the agentd that wrote them is newer than the program that it started",
            head.version
        ))
    } else {
        serde_json::from_slice(&text)
            .map_err(|error| format!("its supervisor cannot read its orders: {error}"))
    };
    Ok((head.session_id, spec))
}

async fn live(dir: &SessionDir, socket: UnixListener, versions: Versions) -> io::Result<()> {
    let children = Children::start()?;
    // Taken so that they do nothing, and do nothing to an agent either, which would inherit it if they were ignored.
    let _hangup = signal(SignalKind::hangup())?;
    let _interrupt = signal(SignalKind::interrupt())?;
    let _quit = signal(SignalKind::quit())?;
    // A limit of file sizes is like a full disk: the write fails, and that is handled.
    let _file_size = signal(SignalKind::from_raw(libc::SIGXFSZ))?;
    let mut terminate = signal(SignalKind::terminate())?;

    let (session_id, spec) = read_spec(dir)?;
    let recorder = Recorder::open(dir, wall_ms)?;
    let (mut secrets, secrets_error) = match spec
        .as_ref()
        .map(|spec| Secrets::read(spec.secrets_dir.as_deref()))
    {
        Ok(Ok(secrets)) => (secrets, None),
        Ok(Err(message)) => (Secrets::default(), Some(message)),
        Err(_) => (Secrets::default(), None),
    };
    let of_plugins = spec.as_ref().ok().and_then(|spec| spec.tools.as_ref());
    let secrets_error = secrets_error.or_else(|| secrets.read_plugins(&of_plugins?.secrets_dir).err());
    let limits = spec.as_ref().map(|spec| spec.transcript).unwrap_or_default();
    let transcript = Writer::create(&dir.transcript(), limits);
    let warning = transcript
        .as_ref()
        .err()
        .map(|error| format!("the transcript cannot be kept: {error}"));
    let transcript = transcript.unwrap_or_else(|_| Writer::new(&dir.transcript(), limits));
    let redactor = secrets.redactor();
    let shared = Shared::new(session_id, recorder, redactor.clone(), transcript);

    if versions.current > PROTOCOL_VERSION {
        // As a newer one tells what this version has no word for.
        shared.record(What::Unknown, Durability::Kernel);
    }

    let over = watch::Sender::new(false);
    let listener = tokio::net::UnixListener::from_std(socket)?;
    let server = tokio::spawn(server::serve(
        listener,
        Arc::clone(&shared),
        versions,
        over.subscribe(),
    ));
    if let Ok(spec) = &spec {
        let grace = Duration::from_millis(spec.grace_ms);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            while terminate.recv().await.is_some() {
                shared.ask_stop(grace);
            }
        });
    }

    let prepared = match (spec, secrets_error) {
        (Ok(spec), None) => Ok(spec),
        (Ok(_), Some(message)) | (Err(message), _) => Err(message),
    };
    let mut warnings = secrets.take_warnings();
    warnings.extend(warning);
    let launched = match prepared {
        Ok(spec) => launch(dir, &shared, &children, &spec, &mut secrets, warnings).await,
        Err(message) => Launched::not_begun(message),
    };
    shared.doing().0 = Doing::TearingDown;
    // Before it is told: whoever knows how the agent ended may rely on all that it left, also when this is killed.
    shared.last_output();
    if let Err(message) = result::keep(dir, &redactor) {
        shared.warn(message);
    }
    shared.record(What::Exited(launched.exited), Durability::Disk);
    // Those that watch are told before this thread waits for disks again.
    tokio::task::yield_now().await;

    let begun = Instant::now();
    if let Some(tools) = launched.tools {
        // What a container engine leaves running is its own.
        let all = !launched.is_container;
        tools.stop(&shared, &children, all).await;
    }
    if let Some(order) = &launched.must_remove {
        container::remove(&shared, &children, order).await;
    }
    if let Err(message) = secrets.remove() {
        shared.warn(message);
    }
    let totals = shared.end_output();
    shared.record(
        What::End {
            output_bytes: totals.output_bytes,
            missing_bytes: totals.missing_bytes,
            teardown_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        },
        Durability::Disk,
    );
    until_written(&shared).await;
    over.send_replace(true);
    // Those that do not take it read the file.
    let _ = timeout(LAST_RECORDS_MAX, server).await;
    Ok(())
}

struct Launched {
    exited: Exited,
    /// What outlives the agent for a moment.
    tools: Option<Tools>,
    is_container: bool,
    must_remove: Option<crate::spec::ContainerLaunch>,
}

impl Launched {
    fn not_begun(message: String) -> Self {
        Self {
            exited: Exited {
                start_error: Some(message),
                ..Exited::default()
            },
            tools: None,
            is_container: false,
            must_remove: None,
        }
    }
}

/// Starts the agent and what it needs, and returns when it has ended.
async fn launch(
    dir: &SessionDir,
    shared: &Arc<Shared>,
    children: &Arc<Children>,
    spec: &Spec,
    secrets: &mut Secrets,
    warnings: Vec<String>,
) -> Launched {
    let start_max = Duration::from_millis(spec.start_timeout_ms);
    let mut stops = Stops::new(
        shared,
        spec.timeout_ms.map(Duration::from_millis),
        Duration::from_millis(spec.grace_ms),
    );
    if let Err(message) = intend(shared, &mut stops, start_max).await {
        return Launched::not_begun(message);
    }
    for warning in warnings {
        shared.warn(warning);
    }
    if let Some(order) = stops.pending() {
        let mut launched = Launched::not_begun("it was stopped before it began".into());
        launched.exited.stop = Some(order.cause);
        return launched;
    }
    let tools = match &spec.tools {
        Some(tools) => {
            let starting = Tools::start(shared, children, dir, tools, secrets, start_max);
            let started = tokio::select! {
                started = starting => started,
                order = stops.next() => {
                    tools::end_all(children, |_| true).await;
                    let mut launched =
                        Launched::not_begun("it was stopped while its plugins were being started".into());
                    launched.exited.stop = Some(order.cause);
                    return launched;
                }
            };
            match started {
                Ok(tools) => Some(tools),
                Err(message) => return Launched::not_begun(message),
            }
        }
        None => None,
    };
    match &spec.launch {
        Launch::Process(order) => {
            let exited = process::run(shared, children, &mut stops, order, secrets).await;
            Launched {
                exited,
                tools,
                is_container: false,
                must_remove: None,
            }
        }
        Launch::Container(order) => {
            // The container has files of its own.
            secrets.forget();
            let ended = container::run(shared, children, &mut stops, order, start_max).await;
            Launched {
                exited: ended.exited,
                tools,
                is_container: true,
                must_remove: ended.must_remove.then(|| order.clone()),
            }
        }
    }
}

/// Returns when it is on disk that the agent may have begun.
///
/// # Errors
/// A sentence for people; then nothing may begin.
async fn intend(shared: &Shared, stops: &mut Stops, at_most: Duration) -> Result<(), String> {
    let until = Instant::now() + at_most;
    let what = What::Intent {
        version: PROTOCOL_VERSION,
        pid: nix::unistd::getpid().as_raw(),
    };
    if shared.record(what, Durability::Disk) {
        return Ok(());
    }
    loop {
        if shared.recorder().flush(Durability::Disk) {
            return Ok(());
        }
        let stopped = tokio::select! {
            () = sleep(DISK_AGAIN_AFTER.0) => false,
            _ = stops.next() => true,
        };
        if stopped || Instant::now() >= until {
            shared.recorder().discard_pending();
            return Err(
                "its begin could not be recorded: the disk of its directory is full, or broken".into(),
            );
        }
    }
}

/// Returns when all records are on disk, however long that takes: nobody else knows how the agent ended.
async fn until_written(shared: &Shared) {
    let (mut pause, longest) = DISK_AGAIN_AFTER;
    let mut told = shared.recorder().told();
    while !shared.recorder().flush(Durability::Disk) {
        tokio::select! {
            () = sleep(pause) => pause = longest.min(pause * 2),
            // Somebody came by, and it worked.
            _ = told.changed() => {}
        }
    }
}
