//! A plugin's life: started, spoken to, listed, watched, started again, ended.

use crate::event::Event;
use crate::greet::{discover, initialize};
use crate::limits::{Bucket, Rate, Restarts, seconds};
use crate::lines::{Line, Lines};
use crate::lists::{keep_lists, keep_subscriptions, read_lists};
use crate::plugin::{Lifecycle, Lists, Plugin, Source, Status, Wire};
use crate::process::{self, Spawn};
use crate::remote::{Remote, Stream};
use crate::revision::{LEGACY, MODERN, Revision};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Messages that wait for a plugin to read them. What is more waits with its caller.
const QUEUE_MAX: usize = 64;
/// What is read at once, in bytes.
const READ_BYTES: usize = 16 * 1024;
/// Messages that are no answers, before the plugin has to wait.
const CHATTER: Rate = Rate {
    per_sec: 2000.0,
    burst: 4000,
};
/// How long the last words of a plugin that has ended may take to be read.
const LAST_WORDS_MAX: Duration = Duration::from_millis(200);

/// How one life ended.
struct Death {
    why: String,
    ready_for: Option<Duration>,
    stopped: bool,
    /// It died of being asked in the newer way.
    of_the_probe: bool,
}

/// Lives as long as the gateway does.
pub(crate) async fn run(plugin: Arc<Plugin>, spawn: Arc<dyn Spawn>, stop: CancellationToken) {
    let _over = Over(Arc::clone(&plugin));
    if plugin.options.lazy {
        let Some(awake) = plugin.gateway.upgrade().map(|gateway| gateway.awake.clone()) else {
            return;
        };
        tokio::select! {
            () = awake.cancelled() => {}
            () = stop.cancelled() => return,
        }
    }
    let mut restarts = Restarts::default();
    let mut lifecycle = plugin.options.lifecycle;
    loop {
        plugin.status.send_replace(Status::Starting);
        let death = live(&plugin, &*spawn, lifecycle, &stop).await;
        plugin.connect(None);
        if death.stopped {
            plugin.fail_all("it was stopped");
            break;
        }
        let why = format!(
            "plugin {:?} {}{}",
            plugin.options.name,
            death.why,
            plugin.said.tail()
        );
        let why = redacted(&plugin, &why);
        plugin.fail_all(&why);
        if death.of_the_probe {
            plugin.said.forget();
            lifecycle = Lifecycle::Initialize;
            continue;
        }
        let limits = &plugin.options.limits;
        let Some(pause) = restarts.after(limits, death.ready_for) else {
            plugin.status.send_replace(Status::GivenUp(why.as_str().into()));
            *plugin
                .lists
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner) = Lists::default();
            tell(&plugin, |plugin| Event::PluginGivenUp { plugin, reason: why });
            if let Some(gateway) = plugin.gateway.upgrade() {
                gateway.lists_changed();
            }
            return;
        };
        plugin.status.send_replace(Status::Waiting(why.as_str().into()));
        let restart_after_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        tell(&plugin, |plugin| Event::PluginDied {
            plugin,
            reason: why,
            restart_after_ms,
        });
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => break,
        }
    }
}

/// However its life ends, nobody waits for it any more.
struct Over(Arc<Plugin>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.fail_all("it was stopped");
        self.0.status.send_if_modified(|status| {
            let is_news = !matches!(status, Status::GivenUp(_));
            if is_news {
                *status = Status::Stopped;
            }
            is_news
        });
    }
}

fn redacted(plugin: &Plugin, text: &str) -> String {
    let gateway = plugin.gateway.upgrade();
    gateway.map_or_else(String::new, |gateway| gateway.options.redact.redact(text))
}

pub(crate) fn tell(plugin: &Plugin, event: impl FnOnce(String) -> Event) {
    if let Some(gateway) = plugin.gateway.upgrade() {
        gateway.options.events.take(event(plugin.options.name.clone()));
    }
}

async fn live(
    plugin: &Arc<Plugin>,
    spawn: &dyn Spawn,
    lifecycle: Lifecycle,
    stop: &CancellationToken,
) -> Death {
    match &plugin.options.source {
        Source::Process(options) => match process::start(&plugin.options.name, options, spawn) {
            Ok((running, pipes)) => live_process(plugin, running, pipes, lifecycle, stop).await,
            Err(error) => Death {
                why: format!("cannot be started: {error}"),
                ready_for: None,
                stopped: false,
                of_the_probe: false,
            },
        },
        Source::Remote(options) => match Remote::new(options, Arc::downgrade(plugin)) {
            Ok(remote) => live_remote(plugin, Arc::new(remote), lifecycle, stop).await,
            Err(why) => Death {
                why: format!("cannot be used: {why}"),
                ready_for: None,
                stopped: false,
                of_the_probe: false,
            },
        },
    }
}

async fn live_process(
    plugin: &Arc<Plugin>,
    mut running: process::Running,
    (stdin, stdout, stderr): process::Pipes,
    lifecycle: Lifecycle,
    stop: &CancellationToken,
) -> Death {
    let (queue, queued) = mpsc::channel(QUEUE_MAX);
    let writer = Aborted(tokio::spawn(write(stdin, queued)));
    let mut reader = Aborted(tokio::spawn(read(Arc::clone(plugin), stdout)));
    let mut listener = Aborted(tokio::spawn(process::listen(plugin.said.clone(), stderr)));
    plugin.connect(Some(Wire::Stdio(queue)));
    let mut life = Life::default();
    let mut stopped = false;
    let mut ended = None;
    let why = tokio::select! {
        biased;
        () = stop.cancelled() => {
            stopped = true;
            String::new()
        }
        why = life.lived(plugin, lifecycle) => why,
        how = &mut running.ended => {
            ended = Some(how);
            String::new()
        }
        _ = &mut reader.0 => {
            // One that ends closes it, too, and that is seen first.
            ended = timeout(LAST_WORDS_MAX, &mut running.ended).await.ok();
            "has closed its standard output".to_owned()
        }
    };
    plugin.connect(None);
    // Closes its standard input.
    drop(writer);
    let grace = plugin.options.limits.stop_grace;
    let why = match ended {
        // What it has left in its group goes with it, by the drop of `running`.
        Some(how) => {
            // That says more.
            plugin.set_silent(false);
            format!("ended ({how})")
        }
        None => {
            let how = running.end(grace).await;
            format!("{why} ({how})")
        }
    };
    // What it had answered before its end is an answer.
    for task in [&mut reader, &mut listener] {
        if !task.0.is_finished() {
            let _ = timeout(LAST_WORDS_MAX, &mut task.0).await;
        }
    }
    Death {
        why,
        stopped,
        ready_for: life.ready_at.map(|at| at.elapsed()),
        of_the_probe: life.is_probing,
    }
}

async fn live_remote(
    plugin: &Arc<Plugin>,
    remote: Arc<Remote>,
    lifecycle: Lifecycle,
    stop: &CancellationToken,
) -> Death {
    plugin.connect(Some(Wire::Remote(Arc::clone(&remote))));
    let mut life = Life::default();
    let mut stopped = false;
    let why = tokio::select! {
        biased;
        () = stop.cancelled() => {
            stopped = true;
            String::new()
        }
        why = life.lived(plugin, lifecycle) => why,
        () = remote.lost.notified() => "has forgotten the session".to_owned(),
    };
    plugin.connect(None);
    remote.end();
    if stopped {
        remote.leave().await;
    }
    Death {
        why,
        stopped,
        ready_for: life.ready_at.map(|at| at.elapsed()),
        of_the_probe: false,
    }
}

/// A task that does not outlive its owner.
struct Aborted(JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn write(mut stdin: Sender, mut queue: mpsc::Receiver<Bytes>) {
    while let Some(line) = queue.recv().await {
        if stdin.write_all(&line).await.is_err() {
            // It does not read any more; that it has ended is found out elsewhere.
            break;
        }
    }
}

async fn read(plugin: Arc<Plugin>, stdout: Receiver) {
    let reader = BufReader::with_capacity(READ_BYTES, stdout);
    let mut lines = Lines::new(reader, plugin.options.limits.line_bytes_max);
    let mut chatter = Bucket::new(CHATTER, Instant::now());
    while let Ok(Some(line)) = lines.next().await {
        let is_chatter = match line {
            Line::Whole(line) => plugin.take(&line),
            Line::TooLong { head, bytes } => {
                plugin.take_too_long(&head, bytes);
                true
            }
        };
        if is_chatter && let Err(pause) = chatter.take(Instant::now()) {
            // It is read no faster than this, and its pipe is full meanwhile.
            sleep(pause).await;
        }
    }
}

#[derive(Default)]
struct Life {
    ready_at: Option<Instant>,
    is_probing: bool,
}

/// What a server elsewhere, of the older revisions, says besides its answers.
struct Besides(Option<(Arc<Remote>, Option<Stream>)>);

impl Besides {
    async fn of(plugin: &Plugin) -> Self {
        Self(match plugin.wire() {
            Some(Wire::Remote(remote)) if plugin.revision() == Revision::Legacy => {
                let stream = remote.stream().await;
                Some((remote, stream))
            }
            _ => None,
        })
    }

    async fn keep(self, plugin: &Plugin) -> String {
        match self.0 {
            Some((remote, stream)) => remote.listen(plugin, stream).await,
            None => std::future::pending().await,
        }
    }
}

impl Life {
    /// Lives until something fails that cannot be lived with.
    async fn lived(&mut self, plugin: &Arc<Plugin>, lifecycle: Lifecycle) -> String {
        let limits = &plugin.options.limits;
        let begun = timeout(limits.start_max, async {
            self.greet(plugin, lifecycle).await?;
            let (read, besides) = tokio::join!(read_lists(plugin), Besides::of(plugin));
            read.map(|()| besides)
        });
        let besides = match begun.await {
            Err(_) => {
                plugin.set_silent(true);
                return format!("was not ready within {}", seconds(limits.start_max));
            }
            Ok(Err(why)) => return format!("cannot be used: {why}"),
            Ok(Ok(besides)) => besides,
        };
        self.ready_at = Some(Instant::now());
        // Whoever waits for it to be ready is to find its tools.
        if let Some(gateway) = plugin.gateway.upgrade() {
            gateway.lists_changed();
        }
        plugin.status.send_replace(Status::Ready);
        if let Some(gateway) = plugin.gateway.upgrade() {
            let revision = match plugin.revision() {
                Revision::Legacy => LEGACY,
                Revision::Modern => MODERN,
            };
            let tools = gateway.tools_of(plugin.index);
            tell(plugin, |plugin| Event::PluginReady {
                plugin,
                tools,
                revision: revision.to_owned(),
            });
        }
        tokio::select! {
            never = keep_lists(plugin) => never,
            never = keep_subscriptions(plugin) => never,
            never = besides.keep(plugin) => never,
        }
    }

    async fn greet(&mut self, plugin: &Arc<Plugin>, lifecycle: Lifecycle) -> Result<(), String> {
        if lifecycle != Lifecycle::Initialize {
            self.is_probing = lifecycle == Lifecycle::Auto;
            let answer = discover(plugin).await;
            self.is_probing = false;
            match answer {
                Ok(()) => return Ok(()),
                Err(why) if lifecycle == Lifecycle::Discover => return Err(why),
                Err(_) => {}
            }
        }
        match initialize(plugin).await {
            // One that is slow to start has read the probe late, and may keep to the newer way from then on.
            Err(why) if lifecycle == Lifecycle::Auto => discover(plugin).await.map_err(|_| why),
            initialized => initialized,
        }
    }
}
