//! The session's gateway: its plugins are children of the supervisor, and live from before the agent to after it.

use super::children::{Children, Ending};
use super::secrets::Secrets;
use super::shared::{Shared, wall_ms};
use crate::calls;
use crate::dir::SessionDir;
use crate::guard::{End, Guarded};
use crate::proc::{self, Process};
use crate::redact::Redactor;
use crate::sweep::SESSION_VARIABLE;
use crate::tools::{PluginSource, PluginSpec, ProcessUser, TOKEN_FILE, ToolsSpec, gateway_options};
use mcp_transport::event::{CallEvent, ChannelSink, Event};
use mcp_transport::process::{Spawn, Started};
use mcp_transport::{Gateway, StartError};
use rustix::fs::{self as rfs, AtFlags, CWD, Gid, Mode, OFlags, Uid};
use std::collections::HashMap;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, sleep, timeout};

/// Events that wait to be written. What does not fit is counted.
const EVENTS_MAX: usize = 1024;
/// For so long calls are gathered before they are written.
const GATHERED_FOR: Duration = Duration::from_millis(10);
/// So many warnings come from plugins, so that there is room for others'.
const WARNINGS_MAX: u32 = 100;
/// The longest name and the longest reason that are told of a call, in bytes.
const NAME_BYTES_MAX: usize = 256;
const REASON_BYTES_MAX: usize = 2048;
/// How long killing what is left of plugins goes on.
const KILLING_MAX: Duration = Duration::from_secs(5);
/// How often killing looks for processes that escaped a round.
const KILLING_ROUND: Duration = Duration::from_millis(50);
/// Beyond the time that each plugin has, before the start is given up as a whole.
const START_SLACK: Duration = Duration::from_secs(5);

/// A gateway at work.
pub(super) struct Tools {
    gateway: Gateway,
    over: oneshot::Sender<()>,
    recording: JoinHandle<()>,
}

impl Tools {
    /// Starts the plugins, and listens where the agent will look.
    ///
    /// # Errors
    /// A sentence for people. Nothing is left then.
    pub(super) async fn start(
        shared: &Arc<Shared>,
        children: &Arc<Children>,
        dir: &SessionDir,
        spec: &ToolsSpec,
        secrets: &Secrets,
        start_max: Duration,
    ) -> Result<Self, String> {
        let started = Self::begin(shared, children, dir, spec, secrets, start_max).await;
        if started.is_err() {
            // Nothing else has begun: all that is there is of plugins.
            end_all(children, |_| true).await;
        }
        started.map_err(|why| format!("plugins: {why}"))
    }

    async fn begin(
        shared: &Arc<Shared>,
        children: &Arc<Children>,
        dir: &SessionDir,
        spec: &ToolsSpec,
        secrets: &Secrets,
        start_max: Duration,
    ) -> Result<Self, String> {
        let make = |path: PathBuf| -> io::Result<PathBuf> {
            DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
            Ok(path)
        };
        let secret = |name: &str| secrets.plugin_value(name).map(<[u8]>::to_vec);
        let spawner = Spawner::new(children, spec);
        let own_dir = |name: &str| -> io::Result<PathBuf> {
            let path = make(dir.plugin(name))?;
            if let Some(user) = spawner.users.get(name) {
                std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid))?;
            }
            Ok(path)
        };
        let mut options = gateway_options(spec, &secret, &own_dir)?;
        for plugin in &mut options.plugins {
            plugin.limits.start_max = plugin.limits.start_max.min(start_max);
        }
        if options.plugins.iter().any(|plugin| !plugin.lazy) {
            let spool = make(dir.spool()).map_err(|error| format!("there is no room for output: {error}"))?;
            options.spool_dir = Some(spool);
        }
        let logs = make(dir.plugin_logs()).map_err(|error| format!("there is no room for logs: {error}"))?;
        options.log_dir = Some(logs);
        let (sink, events) = ChannelSink::new(EVENTS_MAX);
        let sink = Arc::new(sink);
        options.events = Arc::new(Arc::clone(&sink));
        options.redact = Arc::new(redaction(shared.redactor().clone()));
        options.spawn = Arc::new(spawner);
        let listen = |name| {
            listen(dir, name, spec.owner)
                .map_err(|error| format!("the socket {name} cannot be made: {error}"))
        };
        let (lines, http) = (listen(SOCKET)?, listen(HTTP_SOCKET)?);
        let (over, until) = oneshot::channel();
        let recording = Recording {
            shared: Arc::clone(shared),
            sink,
            writer: calls::Writer::new(dir),
            lost: 0,
            warnings: 0,
        };
        let recording = tokio::spawn(recording.run(events, until));
        let gateway = match timeout(start_max.saturating_add(START_SLACK), Gateway::start(options)).await {
            Ok(Ok(gateway)) => gateway,
            Ok(Err(StartError::Plugin { plugin, why, .. })) => {
                let named = format!("plugin {plugin:?} ");
                return Err(format!("{plugin}: {}", why.strip_prefix(&named).unwrap_or(&why)));
            }
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("they were not ready after {start_max:?}")),
        };
        gateway.serve_unix(lines);
        let token = secrets
            .plugin_value(TOKEN_FILE)
            .and_then(|token| String::from_utf8(token.to_vec()).ok());
        // Without a token it would serve everybody.
        if token.is_some() {
            gateway.serve_http_unix(http, token);
        }
        Ok(Self {
            gateway,
            over,
            recording,
        })
    }

    /// Ends the plugins, and kills what they leave behind: with `all`, whatever is below the supervisor, which is nobody
    /// else's then.
    pub(super) async fn stop(self, shared: &Shared, children: &Arc<Children>, all: bool) {
        self.gateway.stop().await;
        let mark = format!("{SESSION_VARIABLE}={}", shared.session_id).into_bytes();
        let left = end_all(children, |pid| all || is_marked(pid, &mark)).await;
        if left > 0 {
            shared.warn(format!(
                "{left} processes of plugins could not be ended; they wait for a device"
            ));
        }
        // What was being called is told of by tasks of its own.
        for _ in 0..3 {
            yield_now().await;
        }
        let _ = self.over.send(());
        let _ = self.recording.await;
    }
}

const SOCKET: &str = "mcp.sock";
const HTTP_SOCKET: &str = "mcp-http.sock";

fn redaction(redactor: Redactor) -> impl Fn(&str) -> String {
    move |text| redactor.redact_text(text)
}

/// Listens in the agent's run directory. The socket is made where the agent cannot reach it, given away there, and then
/// moved: in the agent's own directory another of its sessions could put something else in its place.
fn listen(dir: &SessionDir, name: &str, owner: Option<(u32, u32)>) -> io::Result<UnixListener> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let here = rfs::openat(CWD, dir.root(), flags, Mode::empty())?;
    let run = rfs::openat(CWD, dir.run(), flags, Mode::empty())?;
    // Short enough for any socket's address.
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", here.as_raw_fd()))?;
    // Mode 0700, by the mask; whoever may write may connect.
    if let Some((uid, gid)) = owner {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rfs::chownat(&here, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    rfs::renameat(&here, name, &run, name)?;
    Ok(listener)
}

/// Starts plugins, each under a guard, which is reaped where all children are.
struct Spawner {
    children: Arc<Children>,
    /// Those that run as somebody else.
    users: HashMap<String, ProcessUser>,
}

impl Spawner {
    fn new(children: &Arc<Children>, spec: &ToolsSpec) -> Self {
        let user = |plugin: &PluginSpec| match &plugin.source {
            PluginSource::Process { user: Some(user), .. } => Some((plugin.name.clone(), user.clone())),
            _ => None,
        };
        Self {
            children: Arc::clone(children),
            users: spec.plugins.iter().filter_map(user).collect(),
        }
    }
}

impl Spawn for Spawner {
    fn spawn(&self, plugin: &str, command: Command) -> io::Result<Started> {
        let (guarded, [stdin, stdout, stderr]) = Guarded::start(&command, self.users.get(plugin))?;
        let pid = guarded.pid();
        self.children.expect(pid);
        self.children.adopt(pid);
        let (signal, report) = guarded.split()?;
        let children = Arc::clone(&self.children);
        Ok(Started {
            signal: Box::new(signal),
            ended: Box::pin(async move {
                let end = report.end().await;
                // What it is below is there no more.
                let guard = children.ended(pid).await;
                children.forget(pid);
                match end {
                    Some(End::Exited(code)) => Ending::Code(code.into()).to_string(),
                    Some(End::Signalled(signal)) => Ending::Signal(signal.into()).to_string(),
                    Some(End::NotStarted(error)) => format!("did not begin: {}", error.why),
                    Some(End::Stopped) => "was killed".into(),
                    None => format!("lost its guard ({guard})"),
                }
            }),
            stdin,
            stdout,
            stderr,
        })
    }
}

fn is_marked(pid: i32, mark: &[u8]) -> bool {
    let environment = proc::owner(pid).and_then(|uid| proc::environment(pid, uid));
    environment.is_some_and(|variables| variables.iter().any(|variable| variable == mark))
}

/// Kills what is left of plugins: what is in their sessions, and of all others below the supervisor those that are meant.
/// Gives how many could not be killed. Without plugins there is nothing to look for.
pub(super) async fn end_all(children: &Children, meant: impl Fn(i32) -> bool) -> usize {
    let own = nix::unistd::getpid().as_raw();
    let adopted = children.adopted();
    if adopted.is_empty() {
        return 0;
    }
    let find = || -> Vec<Process> {
        let all = proc::all();
        let session = |process: &Process| {
            let stat = all.iter().find(|stat| stat.process == *process);
            stat.is_some_and(|stat| adopted.contains(&stat.session))
        };
        proc::descendants(&all, &[own])
            .into_iter()
            .filter(|process| session(process) || meant(process.pid))
            .collect()
    };
    let until = Instant::now() + KILLING_MAX;
    while !children.are_gone() {
        let found = proc::kill_tree(find);
        if found.is_empty() {
            return 0;
        }
        if Instant::now() >= until {
            return found.len();
        }
        tokio::select! {
            () = children.some_gone() => {}
            () = sleep(KILLING_ROUND) => {}
        }
    }
    0
}

/// What becomes of events.
struct Recording {
    shared: Arc<Shared>,
    sink: Arc<ChannelSink>,
    writer: calls::Writer,
    lost: u64,
    warnings: u32,
}

impl Recording {
    async fn run(mut self, mut events: mpsc::Receiver<Event>, mut until: oneshot::Receiver<()>) {
        let mut batch = Vec::new();
        loop {
            let is_over = tokio::select! {
                biased;
                _ = events.recv_many(&mut batch, EVENTS_MAX) => false,
                _ = &mut until => true,
            };
            if !is_over {
                // Together with what follows at once.
                let _ = timeout(GATHERED_FOR, &mut until).await;
                while let Ok(event) = events.try_recv() {
                    batch.push(event);
                }
            }
            self.take(&mut batch);
            if is_over || until.is_terminated() {
                break;
            }
        }
        if self.lost > 0 {
            self.shared.warn(format!(
                "{} calls of tools are missing in the journal: they came faster than they could be written",
                self.lost
            ));
        }
    }

    fn take(&mut self, batch: &mut Vec<Event>) {
        let mut calls = Vec::new();
        for event in batch.drain(..) {
            match event {
                Event::Call(call) => calls.push(self.bounded(call)),
                Event::PluginReady { .. } => {}
                Event::PluginDied {
                    reason,
                    restart_after_ms,
                    ..
                } => self.warn(format!("{reason}; it is started again in {restart_after_ms} ms")),
                Event::PluginGivenUp { reason, .. } => self.warn(format!(
                    "{reason}; it has ended too often and its tools are withdrawn"
                )),
                Event::Warning { plugin, message } => self.warn(format!("plugin {plugin:?}: {message}")),
            }
        }
        self.lost += self.sink.take_lost();
        if !calls.is_empty() {
            self.lost += self.writer.write(wall_ms(), calls);
            self.shared.calls_written();
        }
    }

    fn warn(&mut self, message: String) {
        self.warnings += 1;
        if self.warnings <= WARNINGS_MAX {
            self.shared.warn(message);
        }
    }

    // Names of tools that are not there are whatever an agent says.
    fn bounded(&self, mut call: CallEvent) -> CallEvent {
        let hide = |text: &mut String, bytes_max| {
            *text = self.shared.redactor().redact_text(text);
            text.truncate(text.floor_char_boundary(bytes_max));
        };
        hide(&mut call.tool, NAME_BYTES_MAX);
        if let Some(error) = &mut call.error {
            hide(error, REASON_BYTES_MAX);
        }
        call
    }
}
