//! Whoever runs sessions in a daemon: gives places, starts one driver a session, and finds its sessions again after a restart.

use super::drive::{Driver, Entry, StopRequest};
use super::git::Git;
use super::recovery::{self, Resume};
use super::slots::{Place, Slots};
use super::state::StateDirs;
use super::tools::ToolsOptions;
use super::worktree::Worktrees;
use super::{SessionError, nodes, points, retention, upkeep};
use crate::runtime::Runtimes;
use agentd_config::{Agent, Config};
use agentd_protocol::requests::{NoParams, SessionRef};
use agentd_protocol::{SessionId, SessionInfo, SessionPhase, TaskId, TriggerKind};
use agentd_store::session::{OpenSession, SessionLease};
use agentd_store::{Clock, Query, Store, StoreError, ask};
use agentd_supervisor::record::StopCause;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How many supervisors may be between their own start and their agent's at once. Container engines lock their store
/// while they make a container; more at a time only wait for each other, with a timeout running.
const STARTING_MAX: usize = 8;

/// Reads the configuration again; a sentence when it cannot be used.
pub type Reread = dyn Fn() -> Result<Arc<Config>, String> + Send + Sync;

/// What sessions need to know of their daemon.
pub struct SessionsOptions {
    /// Durable state.
    pub store: Arc<dyn Store>,
    /// What is declared.
    pub config: Arc<Config>,
    /// How it is read again.
    pub reread: Box<Reread>,
    /// The file that it is read from, for people.
    pub config_path: String,
    /// Where sessions and homes are kept.
    pub state: StateDirs,
    /// The secret store.
    pub secret_dir: PathBuf,
    /// The kinds of runtimes.
    pub runtimes: Runtimes,
    /// The program of the supervisors, and the arguments before the session's directory.
    pub supervisor: SupervisorProgram,
    /// Sessions at once, all agents together.
    pub max_sessions: u32,
    /// How long a set-up may take.
    pub setup_timeout: Duration,
    /// How long a node's lease lasts without a heartbeat.
    pub lease_secs: u64,
    /// What is kept of a transcript, in bytes.
    pub transcript_bytes: u64,
    /// What is kept of sessions that are over.
    pub limits: upkeep::Limits,
    /// A text that tells this agentd from every other; see [`agentd_store::session::InstanceId`].
    pub instance: String,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// The environment of git and of container engines: `PATH`, `HOME` and what else they need.
    pub git: Git,
    /// What their tools need.
    pub tools: ToolsOptions,
    /// For tests of crashes: the process kills itself when it passes the point of this name.
    pub die_at: Option<String>,
}

/// A program and its first arguments.
#[derive(Clone, Debug)]
pub struct SupervisorProgram {
    /// The program.
    pub program: PathBuf,
    /// Before the directory.
    pub args: Vec<OsString>,
}

/// The sessions of one daemon.
#[derive(Clone)]
pub struct Sessions {
    pub(super) inner: Arc<Inner>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

pub(super) struct Inner {
    pub(super) options: SessionsOptions,
    pub(super) config: RwLock<Arc<Config>>,
    pub(super) slots: Mutex<Slots>,
    live: Mutex<HashMap<SessionId, Live>>,
    /// Something about places changed: a session began, or is over.
    pub(super) changed: Notify,
    /// A session went from one phase to another.
    pub(super) phases: Notify,
    pub(super) starting: Semaphore,
    pub(super) closing: CancellationToken,
    tasks: TaskTracker,
    dispatchers: Mutex<BTreeMap<String, CancellationToken>>,
}

/// A session with a driver.
struct Live {
    /// How it is asked for its end.
    stop: watch::Sender<Option<StopRequest>>,
    /// The task of the node that it works on.
    task: Option<TaskId>,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half-changed by a panic in between: every change is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn agent(&self, name: &str) -> Option<Agent> {
        self.config()
            .agents
            .iter()
            .find(|agent| agent.name == name)
            .cloned()
    }

    pub(super) fn store(&self) -> &dyn Store {
        &*self.options.store
    }

    pub(super) fn worktrees(&self) -> Worktrees<'_> {
        Worktrees {
            dirs: &self.options.state,
            git: &self.options.git,
        }
    }

    /// For tests of crashes.
    pub(super) fn point(&self, name: &str) {
        debug_assert!(points::is_listed(name), "{name} is not in the list of points");
        if self.options.die_at.as_deref() == Some(name) {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        }
    }

    pub(super) fn has_room(&self, agent: &str) -> bool {
        locked(&self.slots).has_room(agent)
    }

    pub(super) fn take_place(&self, agent: &str) -> Option<Place> {
        locked(&self.slots).take(agent)
    }

    pub(super) fn release(self: &Arc<Self>, place: &Place) {
        locked(&self.slots).release(place);
        self.pump();
    }

    /// Gives places to those who have waited longest.
    pub(super) fn pump(self: &Arc<Self>) {
        if self.closing.is_cancelled() {
            return;
        }
        for session in locked(&self.slots).take_undeclared() {
            self.spawn(session, None, Entry::Undeclared);
        }
        while let Some((session, place)) = {
            let mut slots = locked(&self.slots);
            slots.next()
        } {
            self.spawn(session, Some(place), Entry::Fresh);
        }
        self.changed.notify_waiters();
    }

    // Begins a driver for a session whose row is in the database.
    pub(super) fn spawn(self: &Arc<Self>, session: SessionId, place: Option<Place>, entry: Entry) {
        let inner = Arc::clone(self);
        let stop = self.listen(session, None);
        self.tasks.spawn(async move {
            let found = ask::<Box<SessionInfo>>(
                inner.store(),
                Query::GetSession(SessionRef { session_id: session }),
            );
            match found.await {
                Ok(info) => inner.drive(*info, None, place, stop, entry).await,
                Err(error) => {
                    tracing::warn!(%session, %error, "a queued session is not there");
                    inner.forget(session, place.as_ref());
                }
            }
        });
    }

    /// Begins a driver for a session that is known.
    pub(super) fn begin(
        self: &Arc<Self>,
        info: SessionInfo,
        lease: Option<SessionLease>,
        place: Option<Place>,
        entry: Entry,
    ) {
        let stop = self.listen(info.id, lease.map(|lease| lease.task_id));
        let inner = Arc::clone(self);
        self.tasks
            .spawn(async move { inner.drive(info, lease, place, stop, entry).await });
    }

    fn listen(&self, session: SessionId, task: Option<TaskId>) -> watch::Receiver<Option<StopRequest>> {
        let (sender, receiver) = watch::channel(None);
        locked(&self.live).insert(session, Live { stop: sender, task });
        receiver
    }

    async fn drive(
        self: Arc<Self>,
        info: SessionInfo,
        lease: Option<SessionLease>,
        place: Option<Place>,
        stop: watch::Receiver<Option<StopRequest>>,
        entry: Entry,
    ) {
        let id = info.id;
        let agent = info.agent.clone();
        let driver = Driver::new(Arc::clone(&self), info, lease, place.clone(), stop);
        match Box::pin(driver.run(entry)).await {
            Ok(()) => {}
            // Another daemon goes on with it.
            Err(StoreError::ShuttingDown) => {}
            Err(error) => tracing::error!(session = %id, agent, %error, "a session was left as it is"),
        }
        self.forget(id, place.as_ref());
    }

    fn forget(self: &Arc<Self>, session: SessionId, place: Option<&Place>) {
        locked(&self.live).remove(&session);
        match place {
            Some(place) => self.release(place),
            None => self.pump(),
        }
    }

    /// True while a driver sees to it.
    pub(super) fn is_live(&self, session: SessionId) -> bool {
        locked(&self.live).contains_key(&session)
    }

    /// All of those.
    pub(super) fn live(&self) -> BTreeSet<SessionId> {
        locked(&self.live).keys().copied().collect()
    }

    /// True when any session works on a node.
    pub(super) fn works_on_nodes(&self) -> bool {
        locked(&self.live).values().any(|live| live.task.is_some())
    }

    /// Those that work on nodes of a task.
    pub(super) fn of_task(&self, task: TaskId) -> Vec<SessionId> {
        let live = locked(&self.live);
        let of_task = live.iter().filter(|(_, live)| live.task == Some(task));
        of_task.map(|(session, _)| *session).collect()
    }

    /// Asks a driver to end its session.
    pub(super) fn request_stop(&self, session: SessionId, reason: String, grace: Option<Duration>) {
        if let Some(Live { stop, .. }) = locked(&self.live).get(&session) {
            // The first reason stays.
            stop.send_if_modified(|stop| {
                let first = stop.is_none();
                let reason = stop.take().map_or(reason, |stop| stop.reason);
                *stop = Some(StopRequest { reason, grace });
                first || grace.is_some()
            });
        }
    }

    /// Puts a session that was built down again in line.
    pub(super) fn requeue(&self, info: &SessionInfo) {
        // It stood in line before, so there is room.
        let _ = locked(&self.slots).queue(&info.agent, info.id);
    }
}

impl Sessions {
    /// Finds the sessions that an earlier daemon left open, and goes on with them. Only then may others acquire nodes.
    /// Must be called within a runtime.
    ///
    /// # Errors
    /// When the store or the state directories cannot be used.
    pub async fn start(options: SessionsOptions) -> Result<Self, SessionError> {
        let open: Vec<OpenSession> = ask(&*options.store, Query::OpenSessions(NoParams {})).await?;
        let config = Arc::clone(&options.config);
        let mut slots = Slots::default();
        slots.configure(options.max_sessions, &config.agents);
        let inner = Arc::new(Inner {
            config: RwLock::new(config),
            slots: Mutex::new(slots),
            live: Mutex::default(),
            changed: Notify::new(),
            phases: Notify::new(),
            starting: Semaphore::new(STARTING_MAX),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            dispatchers: Mutex::default(),
            options,
        });
        let sessions = Self { inner };
        for session in open {
            sessions.resume(session);
        }
        sessions.inner.dispatch();
        sessions.inner.pump();
        let inner = Arc::clone(&sessions.inner);
        sessions.inner.tasks.spawn(retention::run(inner));
        sessions
            .inner
            .tasks
            .spawn(nodes::cancelled(Arc::clone(&sessions.inner)));
        Ok(sessions)
    }

    fn resume(&self, open: OpenSession) {
        let OpenSession { info, lease } = open;
        let dir = self.inner.options.state.session(info.id);
        let resume = match agentd_supervisor::spawn::state(&dir) {
            Ok(supervisor) => recovery::decide(info.phase, &supervisor),
            Err(error) => {
                tracing::error!(session = %info.id, %error, "cannot look whether it has a supervisor");
                Resume::Follow
            }
        };
        tracing::info!(session = %info.id, agent = info.agent, phase = %info.phase, ?resume, "found a session");
        let place = info.replica.map(|replica| Place {
            agent: info.agent.clone(),
            replica,
        });
        let of_node = info.trigger.kind == TriggerKind::Node;
        match (resume, lease) {
            // A node's context is not kept; the node is given back and comes again, at once, with the same attempt.
            // One whose node is somebody else's by now, or cancelled, has nothing left to do.
            (Resume::Queue | Resume::Rebuild, lease) if of_node => {
                self.inner.begin(info, lease, None, Entry::GiveBack);
            }
            (Resume::Queue, _) => self.inner.requeue(&info),
            (Resume::Rebuild, _) => self.inner.begin(info, None, None, Entry::Rebuild),
            (resume, lease) => {
                if let Some(place) = &place {
                    locked(&self.inner.slots).occupy(place);
                }
                let entry = match resume {
                    Resume::Finish(mut exited) => {
                        if info.stop_requested.is_some() && exited.start_error.is_some() {
                            exited.stop = Some(StopCause::Request);
                        }
                        Entry::Finish(exited)
                    }
                    _ => Entry::Follow,
                };
                let id = info.id;
                // Whoever asked was told that it would be done.
                let stop = match info.stop_requested.clone() {
                    None if of_node && lease.is_none() && info.phase < SessionPhase::Teardown => {
                        Some("its node is no longer its own".into())
                    }
                    stop => stop,
                };
                self.inner.begin(info, lease, place, entry);
                if let Some(reason) = stop {
                    self.inner.request_stop(id, reason, None);
                }
            }
        }
    }

    /// Takes no more work. Sessions go on under their supervisors; the next daemon finds them.
    pub async fn stop(&self) {
        self.inner.closing.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.options.state.leave();
    }
}

impl Inner {
    /// One dispatcher for each declared agent takes nodes for it, whenever it has a place.
    pub(super) fn dispatch(self: &Arc<Self>) {
        let config = self.config();
        let mut dispatchers = locked(&self.dispatchers);
        // What a dispatcher asks for follows from the declaration: each begins anew.
        for (_, stop) in std::mem::take(&mut *dispatchers) {
            stop.cancel();
        }
        for agent in &config.agents {
            let stop = self.closing.child_token();
            dispatchers.insert(agent.name.clone(), stop.clone());
            self.tasks
                .spawn(nodes::dispatch(Arc::clone(self), agent.clone(), stop));
        }
    }
}
