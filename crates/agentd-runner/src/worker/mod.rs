//! The worker: takes nodes whose work is a command, runs each under its lease, and reports what became of it.
//!
//! ```text
//!                     ┌ acquire: one connection, one request that waits
//!   daemon ◀── socket ┤
//!                     └ pool: heartbeats, inputs and reports of all attempts
//!
//!   acquire loop ──node──▶ attempt ── supervisor ── command        (one of each for every busy slot)
//!        ▲                    │
//!        └──── free slot ─────┘
//! ```
//!
//! | what happens | what follows |
//! |---|---|
//! | the daemon goes away | commands run on while their leases can be trusted; connections are tried again; reports are repeated under their idempotency key |
//! | it stays away longer than a lease | the commands are killed before anybody else could have their nodes, and nothing is reported |
//! | a lease is refused, its task cancelled | the command's tree is ended; nothing is reported |
//! | soft stop | no new nodes; running commands get TERM and their grace, and their nodes are given back at once |
//! | hard stop | the same with KILL, and the daemon has two seconds to hear of it |
//! | the worker is killed | the supervisors kill their trees; the leases run out; the nodes run again elsewhere |
//! | the worker hangs | each supervisor ends its command when its trusted time is over |

mod attempt;
mod dirs;
mod event;
mod finish;
pub(crate) mod inputs;
mod lease;
pub mod output;
pub(crate) mod payload;
mod pool;

pub use event::{EventSink, NodeRef, WorkerEvent};
pub use finish::{TaskEnd, wait_until_finished};

use crate::exec::{GRACE_DEFAULT, SupervisorCommand, SweepFilter, sweep};
use agentd_client::{Client, ClientError};
use agentd_protocol::requests::AcquireNextNode;
use agentd_protocol::results::AcquiredNode;
use agentd_protocol::{Method, Reason, RpcError, TaskId, limits};
use pool::{Backoff, Pool, is_transient};
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A boxed future.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Makes a connection to the daemon.
pub type Connect = Arc<dyn Fn() -> BoxFuture<'static, Result<Client, ClientError>> + Send + Sync>;

/// How many commands one worker may run at once.
pub const SLOTS_MAX: usize = 1024;

/// How long an acquire waits for a node before it is asked again, in seconds. Nothing is lost or late by a
/// larger number; this bounds how long a daemon remembers a worker that vanished without a word.
const WAIT_SECS: u64 = 600;

/// How a worker works.
#[derive(Clone)]
pub struct WorkerOptions {
    /// Only nodes of this task; None: of any.
    pub task_id: Option<TaskId>,
    /// What the worker can do besides running commands.
    pub capabilities: Vec<String>,
    /// How many commands run at once; 1 to [`SLOTS_MAX`].
    pub slots: usize,
    /// How long a lease lasts without a heartbeat, in seconds.
    pub lease_secs: u64,
    /// Who holds the leases, for people: host and process, say.
    pub owner: String,
    /// The daemon's socket, as the commands are told of it.
    pub socket_path: PathBuf,
    /// Where tasks keep their files, a directory each.
    pub artifact_dir: PathBuf,
    /// Where attempts have their private directories while they run.
    pub runtime_dir: PathBuf,
    /// How to start a supervisor.
    pub supervisor: SupervisorCommand,
    /// Between TERM and KILL.
    pub grace: Duration,
    /// The worker ends with an error when the daemon could not be reached for so long; None: never.
    pub give_up_after: Option<Duration>,
    /// Told what happens.
    pub on_event: EventSink,
}

impl WorkerOptions {
    /// The usual choices: any task's nodes, leases of five seconds, as many slots as there are processors.
    #[must_use]
    pub fn new(owner: String, socket_path: PathBuf, artifact_dir: PathBuf, runtime_dir: PathBuf) -> Self {
        Self {
            task_id: None,
            capabilities: Vec::new(),
            slots: std::thread::available_parallelism()
                .map_or(1, usize::from)
                .min(SLOTS_MAX),
            lease_secs: 5,
            owner,
            socket_path,
            artifact_dir,
            runtime_dir,
            supervisor: SupervisorCommand::default(),
            grace: GRACE_DEFAULT,
            give_up_after: None,
            on_event: Arc::new(|_| ()),
        }
    }
}

/// Two ways to stop. Cancelling `hard` is enough for both.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// No new nodes; running commands are stopped, and their nodes given back.
    pub soft: CancellationToken,
    /// The same, now.
    pub hard: CancellationToken,
}

/// Why a worker ended by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The daemon will not give this worker any nodes.
    #[error("agentd gives this worker no nodes: {0}")]
    Refused(#[source] RpcError),
    /// The daemon stayed away.
    #[error("agentd could not be reached for {secs} s: {source}")]
    Unreachable {
        /// For how long, in seconds.
        secs: u64,
        /// The last failure.
        source: ClientError,
    },
    /// The worker's own directory cannot be made.
    #[error("cannot use the directory {} for running commands: {source}", path.display())]
    RuntimeDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An option is out of bounds.
    #[error("{0}")]
    Options(String),
}

/// Executes nodes until it is stopped.
pub struct Worker {
    /// Makes connections.
    pub connect: Connect,
    /// How it works.
    pub options: WorkerOptions,
}

/// What the attempts of one worker have in common.
struct Shared {
    options: WorkerOptions,
    shutdown: Shutdown,
    pool: Pool,
    dir: dirs::WorkerDir,
}

impl Shared {
    fn tell(&self, event: WorkerEvent) {
        (self.options.on_event)(event);
    }

    async fn sweep(&self, filter: SweepFilter) {
        let swept = tokio::task::spawn_blocking(move || sweep(&filter))
            .await
            .unwrap_or_default();
        if swept.killed > 0 {
            self.tell(WorkerEvent::Swept { killed: swept.killed });
        }
    }
}

impl Worker {
    /// Works until `shutdown` says stop, and returns when nothing is left running.
    ///
    /// # Errors
    /// [`WorkerError`]. Running commands have been ended by then, too.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), WorkerError> {
        let options = self.options;
        if !(1..=SLOTS_MAX).contains(&options.slots) {
            return Err(WorkerError::Options(format!(
                "slots must be between 1 and {SLOTS_MAX}, not {}",
                options.slots
            )));
        }
        if !(limits::LEASE_SECS_MIN..=limits::LEASE_SECS_MAX).contains(&options.lease_secs) {
            let message = format!(
                "a lease of {} s is out of bounds (1 s to a week)",
                options.lease_secs
            );
            return Err(WorkerError::Options(message));
        }
        // Whoever cancels only `hard` means both.
        let shutdown = Shutdown {
            soft: shutdown.soft.child_token(),
            hard: shutdown.hard,
        };
        let runtime_dir = options.runtime_dir.clone();
        let failed = |source| WorkerError::RuntimeDir {
            path: options.runtime_dir.clone(),
            source,
        };
        let dir = tokio::task::spawn_blocking(move || dirs::WorkerDir::new(&runtime_dir)).await;
        let dir = dir.map_err(io::Error::other).flatten().map_err(failed)?;
        let pool = Pool::new(self.connect.clone(), options.slots);
        let shared = Arc::new(Shared {
            options,
            shutdown,
            pool,
            dir,
        });
        if let Some(task_id) = shared.options.task_id {
            shared.sweep(SweepFilter::Task(task_id)).await;
        }

        let mut attempts = JoinSet::new();
        let hard = shared.shutdown.hard.clone();
        let result = tokio::select! {
            biased;
            () = hard.cancelled() => Ok(()),
            result = acquire_loop(&shared, &self.connect, &mut attempts) => result,
        };
        shared.shutdown.soft.cancel();
        while let Some(ended) = attempts.join_next().await {
            log_panic(ended);
        }
        // Its directory goes with it.
        drop(shared);
        result
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "an attempt ended in a panic; its lease runs out by itself");
    }
}

async fn acquire_loop(
    shared: &Arc<Shared>,
    connect: &Connect,
    attempts: &mut JoinSet<()>,
) -> Result<(), WorkerError> {
    let options = &shared.options;
    let slots = Arc::new(Semaphore::new(options.slots));
    let mut capabilities = options.capabilities.clone();
    capabilities.push("work:command".into());
    let request = AcquireNextNode {
        task_id: options.task_id,
        lease_owner: Some(options.owner.clone()),
        capabilities: Some(capabilities),
        work_only: true,
        wait_secs: Some(WAIT_SECS),
        lease_secs: Some(options.lease_secs),
    };
    let soft = shared.shutdown.soft.clone();
    let mut link = Link {
        connect,
        client: None,
        reached: Instant::now(),
        away: false,
    };
    let mut backoff = Backoff::reconnect();
    // For answers that come at once and bring nothing: a task that is finished may be retried later, and work of
    // a kind that only a newer version knows may be taken by one.
    let idle = || Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
    let mut idling = idle();
    loop {
        let slot = tokio::select! {
            biased;
            () = soft.cancelled() => return Ok(()),
            slot = slots.clone().acquire_owned() => slot,
        };
        while let Some(ended) = attempts.try_join_next() {
            log_panic(ended);
        }
        let sent = Instant::now();
        let answer = tokio::select! {
            biased;
            // A node that has just come is not let fall: its attempt gives it back.
            answer = link.acquire(&request, shared) => answer,
            () = soft.cancelled() => return Ok(()),
        };
        let pause = match answer {
            Ok(Some(node)) => {
                backoff = Backoff::reconnect();
                let ours = node.context.node.work.is_some();
                let shared = Arc::clone(shared);
                attempts.spawn(async move {
                    let _slot = slot;
                    attempt::attempt(shared, node, sent).await;
                });
                if ours {
                    idling = idle();
                    continue;
                }
                &mut idling
            }
            Ok(None) if sent.elapsed() > Duration::from_secs(1) => continue,
            Ok(None) => &mut idling,
            Err(ClientError::Rpc(refusal)) if refusal.reason() == Some(Reason::WrongState) => &mut idling,
            Err(error) if is_transient(&error) => {
                let away = link.reached.elapsed();
                if options.give_up_after.is_some_and(|patience| away > patience) {
                    return Err(WorkerError::Unreachable {
                        secs: away.as_secs(),
                        source: error,
                    });
                }
                &mut backoff
            }
            Err(ClientError::Rpc(refusal)) => return Err(WorkerError::Refused(refusal)),
            Err(source) => return Err(WorkerError::Unreachable { secs: 0, source }),
        };
        tokio::select! {
            biased;
            () = soft.cancelled() => return Ok(()),
            () = pause.pause() => {}
        }
    }
}

/// The connection that waits for nodes.
struct Link<'a> {
    connect: &'a Connect,
    client: Option<Client>,
    /// When the daemon was last heard of.
    reached: Instant,
    away: bool,
}

impl Link<'_> {
    async fn acquire(
        &mut self,
        request: &AcquireNextNode,
        shared: &Shared,
    ) -> Result<Option<Box<AcquiredNode>>, ClientError> {
        let answer = self.call(request, shared).await;
        match &answer {
            Err(error) if is_transient(error) => {
                self.client = None;
                if !self.away {
                    self.away = true;
                    shared.tell(WorkerEvent::Disconnected {
                        why: error.to_string(),
                    });
                }
            }
            _ => self.reached = Instant::now(),
        }
        answer
    }

    async fn call(
        &mut self,
        request: &AcquireNextNode,
        shared: &Shared,
    ) -> Result<Option<Box<AcquiredNode>>, ClientError> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert((self.connect)().await?),
        };
        self.reached = Instant::now();
        if std::mem::take(&mut self.away) {
            shared.tell(WorkerEvent::Reconnected);
        }
        client.call(Method::AcquireNextNode, request).await
    }
}
