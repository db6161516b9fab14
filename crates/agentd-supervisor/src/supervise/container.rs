//! An agent in a container. The engine's monitor (conmon), which is the supervisor's child because nobody else is its
//! parent any more, exits with the container's exit status after it has cleaned up.
//!
//! ```text
//!   start ──▶ Running ──monitor ended──────────────────────────▶ the status, if it agrees
//!                │ stop, timeout                                        ▲
//!                ▼                                                      │
//!             terminate ──grace over──▶ kill ──still there──▶ KILL its init ──still there──▶ KILL the monitor: lost
//! ```
//!
//! The engine may hang at any of these; every command line has its time, and what it does not do is done directly.
//! Unlike a process's tree, what else is below the supervisor is left alone: engines leave daemons behind that their
//! other containers share.

use super::children::{Children, Ending};
use super::cri;
use super::engine;
use super::oom::OomKills;
use super::pump;
use super::shared::{Shared, StopOrder};
use super::stops::Stops;
use crate::proc::{self, Process};
use crate::record::{Exited, StopCause, What};
use crate::records::Durability;
use crate::spec::ContainerLaunch;
use crate::wire::Doing;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use std::fs::{self, File, OpenOptions};
use std::future::{Future, pending};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// How long the engine may take at most to pass on a signal before it is sent directly.
const SIGNAL_MAX: Duration = Duration::from_secs(5);
/// How long after KILL the monitor may take, before the container's init is killed directly, and after that again
/// before the monitor is.
const KILLED_MAX: Duration = Duration::from_secs(5);
/// How long the monitor may clean up after the container's output has ended.
const CLEAN_UP_MAX: Duration = Duration::from_secs(30);
/// How long one attempt to remove the container may take.
const REMOVE_MAX: Duration = Duration::from_secs(20);
/// After which pauses it is tried again.
const REMOVE_AGAIN_AFTER: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(5),
];
/// What a file with a number or a status in it takes at most, in bytes.
const SMALL_FILE_BYTES_MAX: u64 = 64;

type Action = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// What became of a container.
pub(super) struct Ended {
    pub(super) exited: Exited,
    /// The engine may have left something, and is to remove it.
    pub(super) must_remove: bool,
}

impl Ended {
    fn not_begun(message: String) -> Self {
        Self {
            exited: Exited {
                start_error: Some(message),
                ..Exited::default()
            },
            must_remove: true,
        }
    }
}

/// Starts the agent and returns when its container has ended.
pub(super) async fn run(
    shared: &Arc<Shared>,
    children: &Arc<Children>,
    stops: &mut Stops,
    order: &ContainerLaunch,
    start_max: Duration,
) -> Ended {
    let log = match Log::open(shared, &order.log_fifo) {
        Ok(log) => log,
        Err(error) => {
            let path = order.log_fifo.display();
            return Ended::not_begun(format!("the container's log {path} cannot be made: {error}"));
        }
    };
    for file in [&order.pid_file, &order.monitor_pid_file] {
        // Of an earlier attempt, which would be believed. If it cannot be removed the engine will complain.
        let _ = fs::remove_file(file);
    }
    let start = engine::run(
        Arc::clone(children),
        order.start.clone(),
        order.env.clone(),
        start_max,
    );
    let started = tokio::select! {
        biased;
        started = start => started,
        StopOrder { cause, .. } = stops.next() => {
            shared.record(What::Stopping { cause }, Durability::Kernel);
            let mut ended = Ended::not_begun("it was stopped while its container was being started".into());
            ended.exited.stop = Some(cause);
            kill_directly(order);
            log.end().await;
            return ended;
        }
    };
    if let Err(message) = started {
        kill_directly(order);
        log.end().await;
        return Ended::not_begun(message);
    }
    let pids = read_pid(&order.pid_file).and_then(|pid| Ok((pid, read_pid(&order.monitor_pid_file)?)));
    let (pid, monitor) = match pids {
        Ok(pids) => pids,
        Err(message) => {
            kill_directly(order);
            log.end().await;
            return Ended {
                exited: Exited {
                    lost: Some(message),
                    ..Exited::default()
                },
                must_remove: true,
            };
        }
    };
    children.expect(monitor);
    let container = Container {
        shared,
        children,
        order,
        init: proc::stat(pid).map(|stat| stat.process),
        monitor,
        oom_kills: OomKills::of(pid),
    };
    *shared.doing() = (Doing::Running, Some(pid));
    shared.record(What::Started { pid }, Durability::Kernel);
    if let Err(error) = stops.agent_began() {
        shared.warn(format!("there is no timer for its timeout: {error}"));
    }
    container.until_end(stops, log).await
}

/// Removes whatever the engine has left of the container.
pub(super) async fn remove(shared: &Shared, children: &Arc<Children>, order: &ContainerLaunch) {
    let mut pauses = REMOVE_AGAIN_AFTER.into_iter();
    loop {
        let attempt = engine::run(
            Arc::clone(children),
            order.remove.clone(),
            order.env.clone(),
            REMOVE_MAX,
        );
        let Err(message) = attempt.await else { return };
        let Some(pause) = pauses.next() else {
            shared.warn(format!("the container may not be removed: {message}"));
            return;
        };
        sleep(pause).await;
    }
}

/// The container's log: a FIFO, and who reads it.
struct Log {
    /// Held until the engine has one, so that the log does not seem to end before it begins.
    writer: Option<File>,
    pump: JoinHandle<()>,
    over: watch::Sender<bool>,
}

impl Log {
    fn open(shared: &Arc<Shared>, path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let reader = pipe::OpenOptions::new().open_receiver(path)?;
        let writer = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
            .open(path)?;
        let over = watch::Sender::new(false);
        let mut parser = cri::Parser::default();
        let mut has_warned = false;
        let shared = Arc::clone(shared);
        let pump = pump::start(reader, over.subscribe(), move |bytes| {
            parser.push(bytes, |stream, text| shared.take_output(stream, text));
            if parser.malformed() > 0 && !has_warned {
                has_warned = true;
                shared.warn(
                    "the container's log has lines that are not in its format; they are missing".into(),
                );
            }
        });
        Ok(Self {
            writer: Some(writer),
            pump,
            over,
        })
    }

    /// Takes what is there and waits for no more.
    async fn end(mut self) {
        self.writer = None;
        self.over.send_replace(true);
        if !self.pump.is_finished() {
            // A pump that panicked has lost its output; the agent's end is told all the same.
            let _ = (&mut self.pump).await;
        }
    }
}

struct Container<'a> {
    shared: &'a Shared,
    children: &'a Arc<Children>,
    order: &'a ContainerLaunch,
    /// The container's init; none when it had ended before it was looked at.
    init: Option<Process>,
    monitor: i32,
    oom_kills: Option<OomKills>,
}

/// How far ending has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// Nobody has asked for it.
    No,
    /// TERM was sent, by us or by the engine.
    Terminated,
    /// The engine was asked to kill.
    Killed,
    /// Its init was killed directly.
    InitKilled,
    /// The monitor was.
    MonitorKilled,
}

impl Container<'_> {
    async fn until_end(mut self, stops: &mut Stops, mut log: Log) -> Ended {
        log.writer = None;
        let mut stop: Option<StopCause> = None;
        let mut step = Step::No;
        // When the next step is due.
        let mut due: Option<Instant> = None;
        let mut action: Option<Action> = None;
        let mut log_is_open = true;
        // Before the first wait: a container that has ended at once has not ended unnoticed.
        let monitor_is_ours = self.children.ending(self.monitor).is_some() || is_child(self.monitor);
        if !monitor_is_ours {
            (step, due) = (Step::InitKilled, Some(Instant::now()));
        }
        let ending = loop {
            if !monitor_is_ours && step == Step::MonitorKilled {
                break None;
            }
            tokio::select! {
                biased;
                ending = self.children.ended(self.monitor) => break Some(ending),
                _ = &mut log.pump, if log_is_open => {
                    log_is_open = false;
                    self.read_oom_kills();
                    self.shared.doing().0 = Doing::TearingDown;
                    // Without its monitor a container has no output either, and may go on.
                    if self.init.is_none_or(|init| !init.is_alive()) {
                        self.shared.record(What::ContainerEnded, Durability::Kernel);
                    }
                    if step == Step::No {
                        // The container has ended; what is left is the monitor's.
                        (step, due) = (Step::InitKilled, Some(Instant::now() + CLEAN_UP_MAX));
                    }
                }
                () = oom_change(&mut self.oom_kills) => self.read_oom_kills(),
                StopOrder { cause, grace } = stops.next() => {
                    if !log_is_open || matches!(step, Step::InitKilled | Step::MonitorKilled) {
                        continue;
                    }
                    let now = Instant::now();
                    let until = now.checked_add(grace).unwrap_or(now + Duration::from_secs(86400));
                    if stop.is_none() {
                        stop = Some(cause);
                        self.shared.doing().0 = Doing::Stopping;
                        self.shared.record(What::Stopping { cause }, Durability::Kernel);
                        step = Step::Terminated;
                        due = Some(until);
                        if !grace.is_zero() {
                            // Of an engine that hangs, something of the grace is left for the agent.
                            let time_max = SIGNAL_MAX.min(grace / 2);
                            action = Some(self.action(&self.order.terminate, time_max));
                        }
                    } else if step == Step::Terminated {
                        due = due.map(|due| due.min(until));
                    }
                }
                result = finished(&mut action) => {
                    action = None;
                    if let Err(message) = result {
                        let signal = if step == Step::Terminated { Signal::SIGTERM } else { Signal::SIGKILL };
                        // The engine fails also because the container has just ended: then nobody gets this.
                        if let Some(init) = self.init.filter(|init| init.is_alive()) {
                            init.signal(signal);
                            self.shared.warn(format!("{message}; {signal} was sent directly"));
                        }
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = Some(Instant::now() + KILLED_MAX);
                    step = match step {
                        Step::No | Step::Terminated => {
                            action = Some(self.action(&self.order.kill, SIGNAL_MAX));
                            Step::Killed
                        }
                        Step::Killed => {
                            action = None;
                            self.kill_init();
                            Step::InitKilled
                        }
                        Step::InitKilled | Step::MonitorKilled => {
                            self.kill_init();
                            self.kill_monitor();
                            Step::MonitorKilled
                        }
                    };
                }
            }
        };
        drop(action);
        let was_open = log_is_open;
        log.end().await;
        if was_open {
            self.read_oom_kills();
        }
        self.conclude(ending, stop, step)
    }

    fn conclude(&mut self, ending: Option<Ending>, stop: Option<StopCause>, step: Step) -> Ended {
        let mut exited = Exited {
            stop,
            oom_kills: self.oom_kills.as_ref().map_or(0, OomKills::seen),
            ..Exited::default()
        };
        let status = Status::read(&self.order.status_file);
        // After the end of its output the monitor cleans up by itself, unless it has to be killed.
        let mut must_remove = step == Step::MonitorKilled || (stop.is_some() && step >= Step::Killed);
        match ending {
            Some(Ending::Code(code)) => {
                let agreed = Status::agreed(status, code);
                (exited.code, exited.signal) = agreed;
            }
            Some(Ending::Signal(_)) | None => {
                self.kill_init();
                must_remove = true;
                let why = match ending {
                    None => "the container's monitor is not below its supervisor".to_owned(),
                    Some(_) if step == Step::MonitorKilled => {
                        "the container's monitor did not end after its container had".to_owned()
                    }
                    Some(ending) => format!("the container's monitor was ended by {ending}"),
                };
                exited.lost = Some(why);
            }
        }
        Ended { exited, must_remove }
    }

    fn action(&self, argv: &[String], time_max: Duration) -> Action {
        Box::pin(engine::run(
            Arc::clone(self.children),
            argv.to_vec(),
            self.order.env.clone(),
            time_max,
        ))
    }

    fn read_oom_kills(&mut self) {
        if let Some(kills) = &mut self.oom_kills {
            kills.read();
        }
    }

    fn kill_init(&self) {
        if let Some(init) = self.init {
            init.signal(Signal::SIGKILL);
        }
    }

    fn kill_monitor(&self) {
        if let Some(stat) = proc::stat(self.monitor).filter(|stat| is_child(stat.process.pid)) {
            stat.process.signal(Signal::SIGKILL);
        }
    }
}

async fn finished(action: &mut Option<Action>) -> Result<(), String> {
    match action {
        Some(action) => action.await,
        None => pending().await,
    }
}

async fn oom_change(kills: &mut Option<OomKills>) {
    match kills {
        Some(kills) => kills.changed().await,
        None => pending().await,
    }
}

fn is_child(pid: i32) -> bool {
    proc::stat(pid).is_some_and(|stat| stat.parent == nix::unistd::getpid().as_raw())
}

/// Kills what a start that was ended in its middle has left, as far as the engine has written down what that is. Only
/// what is below this process: a number in a file may be anybody's by now.
fn kill_directly(order: &ContainerLaunch) {
    let below = proc::descendants(&proc::all(), &[nix::unistd::getpid().as_raw()]);
    for file in [&order.monitor_pid_file, &order.pid_file] {
        if let Ok(pid) = read_pid(file)
            && let Some(process) = below.iter().find(|process| process.pid == pid)
        {
            process.signal(Signal::SIGKILL);
        }
    }
}

fn read_small(path: &Path) -> io::Result<String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Errno::EINVAL.into());
    }
    let mut text = String::new();
    file.take(SMALL_FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn read_pid(path: &Path) -> Result<i32, String> {
    let text = read_small(path).map_err(|error| {
        format!(
            "the engine did not say which processes it started: {}: {error}",
            path.display()
        )
    })?;
    let pid = text.trim().parse().ok().filter(|&pid: &i32| pid > 1);
    pid.ok_or_else(|| format!("{} has no process number in it", path.display()))
}

/// What the init inside says about the agent's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Exit(i32),
    Signal(i32),
}

impl Status {
    fn read(path: &Path) -> Option<Self> {
        Self::parse(&read_small(path).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (kind, number) = text.strip_suffix('\n')?.split_once(' ')?;
        let number = number.parse().ok()?;
        match kind {
            "exit" if (0..256).contains(&number) => Some(Self::Exit(number)),
            "signal" if (1..128).contains(&number) => Some(Self::Signal(number)),
            _ => None,
        }
    }

    /// The agent's exit status, or its signal, given the container's exit status: what the init said is believed where
    /// it fits. Without it, 128 and more stands for a signal, which then ended the init.
    fn agreed(said: Option<Self>, code: i32) -> (Option<i32>, Option<i32>) {
        match said {
            Some(Self::Exit(said)) if said == code => (Some(code), None),
            Some(Self::Signal(signal)) if 128 + signal == code => (None, Some(signal)),
            _ if (129..=128 + 64).contains(&code) => (None, Some(code - 128)),
            _ => (Some(code), None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_word_counts_where_it_fits() {
        let agreed = |text: &str, code| Status::agreed(Status::parse(text), code);
        assert_eq!(agreed("exit 7\n", 7), (Some(7), None));
        assert_eq!(agreed("exit 0\n", 7), (Some(7), None));
        assert_eq!(agreed("signal 9\n", 137), (None, Some(9)));
        assert_eq!(agreed("exit 137\n", 137), (Some(137), None));
        assert_eq!(agreed("exit 0\n", 137), (None, Some(9)));
        assert_eq!(agreed("", 143), (None, Some(15)));
        assert_eq!(agreed("", 255), (Some(255), None));
        for text in [
            "exit 7",
            "exit 256\n",
            "signal 0\n",
            "exit -1\n",
            "exit 7\nx",
            "\n",
        ] {
            assert_eq!(Status::parse(text), None, "{text:?}");
        }
    }
}
