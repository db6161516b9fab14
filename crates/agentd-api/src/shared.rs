//! What all connections of a server have in common.

use crate::Sessions;
use crate::options::{ServerOptions, Timeouts};
use crate::roles::Peer;
use crate::sessions::{SessionsError, SessionsReply, SessionsRequest, SessionsResult};
use crate::slots::Slots;
use agentd_protocol::methods::describe_interface;
use agentd_protocol::requests::NoParams;
use agentd_protocol::results::{DatabaseMetrics, Health, Metrics, Ok as Done, RuntimeMetrics, WhoAmI};
use agentd_protocol::{Json, Method, Reason, RpcError};
use agentd_store::{Query, Reply, Store, StoreError, StoreResult};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    sessions: Option<Arc<dyn Sessions>>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) counters: Counters,
    pub(crate) timeouts: Timeouts,
    /// Cancelled when the server stops.
    pub(crate) stop: CancellationToken,
    // The same to look at without taking the token's lock. Set before the token is cancelled.
    stopping: AtomicBool,
    /// What the store and whoever runs sessions are answering.
    pub(crate) queries: TaskTracker,
    started: Instant,
    running_timeout_secs: u64,
    context_event_limit: u32,
    interface: OnceLock<Json>,
    step_aside: Option<CancellationToken>,
}

/// Counted since the server started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    acquire_attempts: AtomicU64,
    measured_acquires: AtomicU64,
    acquisition_latency_micros: AtomicU64,
    refused: AtomicU64,
}

impl Counters {
    /// An acquire of a node was answered. `granted_after`: it was granted, and had not asked to wait.
    pub(crate) fn acquire(&self, granted_after: Option<Duration>) {
        self.acquire_attempts.fetch_add(1, Relaxed);
        if let Some(latency) = granted_after {
            self.measured_acquires.fetch_add(1, Relaxed);
            let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            self.acquisition_latency_micros.fetch_add(micros, Relaxed);
        }
    }

    /// A request was answered with an error.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }
}

impl Shared {
    pub(crate) fn new(options: &ServerOptions, slots: Arc<Slots>) -> Self {
        Self {
            store: Arc::clone(&options.store),
            sessions: options.sessions.clone(),
            slots,
            counters: Counters::default(),
            timeouts: options.timeouts,
            stop: CancellationToken::new(),
            stopping: AtomicBool::new(false),
            queries: TaskTracker::new(),
            started: Instant::now(),
            running_timeout_secs: options.running_timeout_secs,
            context_event_limit: options.context_event_limit,
            interface: OnceLock::new(),
            step_aside: options.step_aside.clone(),
        }
    }

    pub(crate) fn begin_to_stop(&self) {
        self.stopping.store(true, Relaxed);
        self.stop.cancel();
        self.queries.close();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    pub(crate) fn uptime_secs(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// Asks the store, unless it is about to be closed.
    pub(crate) async fn query(&self, query: Query) -> StoreResult {
        // Held while the store is at it: closing waits for it.
        let _asking = self.queries.token();
        if self.is_stopping() {
            return Err(StoreError::ShuttingDown);
        }
        self.store.query(query).await
    }

    /// Asks whoever runs sessions, unless the server stops.
    pub(crate) async fn ask_sessions(&self, request: SessionsRequest) -> SessionsResult<SessionsReply> {
        // Held while it is answered: the store is closed afterwards.
        let _asking = self.queries.token();
        if self.is_stopping() {
            return Err(SessionsError::ShuttingDown);
        }
        let Some(sessions) = self.sessions.as_deref() else {
            let why = "this agentd runs no sessions: it was started without what they need";
            return Err(SessionsError::Unsupported(why.into()));
        };
        if !request.waits() {
            return request.ask(sessions).await;
        }
        tokio::select! {
            biased;
            answer = request.ask(sessions) => answer,
            () = self.stop.cancelled() => Err(SessionsError::ShuttingDown),
        }
    }

    /// Serialised once: it is the largest answer that never changes.
    pub(crate) fn interface(&self) -> &Json {
        self.interface.get_or_init(|| Json::from(describe_interface()))
    }

    /// Asks whoever runs this server to make way for another.
    pub(crate) fn step_aside(&self) -> Result<Done, RpcError> {
        let Some(asked) = &self.step_aside else {
            let why = "this daemon was started as one, and makes way for no other; stop it first (SIGTERM)";
            return Err(RpcError::refused(Reason::WrongState, why));
        };
        asked.cancel();
        Ok(Done { ok: true })
    }

    pub(crate) async fn health(&self) -> Health {
        let (status, database) = match self.query(Query::Ping(NoParams {})).await {
            Ok(_) => match self.store.counters().failed_since_commit {
                0 => ("ok", "ok".to_owned()),
                failed => (
                    "degraded",
                    format!(
                        "it can be read, but writing failed the last {failed} times (the log says why; is its disk full?): \
                         changes are refused, and what has ended meanwhile is shown as it was before"
                    ),
                ),
            },
            Err(error) => ("degraded", error.to_string()),
        };
        Health {
            status: status.into(),
            database,
            running_timeout_secs: self.running_timeout_secs,
            context_event_limit: self.context_event_limit,
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
        }
    }

    pub(crate) async fn metrics(&self) -> Result<Metrics, StoreError> {
        let database: DatabaseMetrics = self
            .query(Query::Metrics(NoParams {}))
            .await
            .and_then(Reply::into_result)?;
        let store = self.store.counters();
        let counted = |counter: &AtomicU64| counter.load(Relaxed);
        let latency = counted(&self.counters.acquisition_latency_micros);
        Ok(Metrics {
            uptime_secs: self.uptime_secs(),
            running_timeout_secs: self.running_timeout_secs,
            context_event_limit: self.context_event_limit,
            runtime: RuntimeMetrics {
                registered_tasks: store.registered_tasks,
                acquire_attempts: counted(&self.counters.acquire_attempts),
                acquired_nodes: store.acquired_nodes,
                acquisition_latency_micros_total: latency,
                average_acquisition_latency_micros: latency
                    .checked_div(counted(&self.counters.measured_acquires))
                    .unwrap_or(0),
                committed_events: store.committed_events,
                heartbeats: store.heartbeats,
                completed_nodes: store.completed_nodes,
                failed_nodes: store.failed_nodes,
                timeout_rollbacks: store.timeout_rollbacks,
                refused_requests: counted(&self.counters.refused),
                connections: self.slots.connections() as u64,
                commits: store.commits,
                committed_changes: store.committed_changes,
            },
            database,
        })
    }
}

pub(crate) fn who_am_i(peer: &Peer) -> WhoAmI {
    let allowed = Method::ALL.iter().filter(|method| method.role() <= peer.role);
    WhoAmI {
        uid: peer.uid,
        gid: peer.gid,
        pid: peer.pid,
        role: peer.role,
        because: peer.because(),
        methods: allowed.map(|method| method.name().to_owned()).collect(),
    }
}
