//! A server with a store that does what a test tells it to.
#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use agentd_api::{Server, ServerError, ServerOptions};
use agentd_protocol::journal::JournalEntry;
use agentd_protocol::requests::{AcquireNextNode, CommitEvent, JournalFilter, ReadJournal, RegisterTask};
use agentd_protocol::results::{
    AcquiredNode, Committed, DatabaseMetrics, JournalPage, NodeContext, Ok as Done, RegisteredTask,
    TaskStatusResult,
};
use agentd_protocol::{
    EventId, Json, LeaseId, NodeId, NodeInfo, NodeStatus, StatusCounts, TaskId, TaskInfo, TaskState,
    Timestamp,
};
use agentd_store::{
    BoxFuture, Command, Counters, Query, Reply, Store, StoreError, StoreResult, Ticket, Undelivered,
};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The id of everything that the double has only one of.
pub(crate) const ID: Uuid = Uuid::from_u128(0x0123_4567_89ab_4cde_8f01_2345_6789_abcd);

/// A store in memory.
///
/// | what | does |
/// |---|---|
/// | `RegisterTask` with goal `hold` | is answered by [`Double::let_go`] |
/// | … with goal `panic` | panics |
/// | `AcquireNextNode` with `wait_secs` | is answered by [`Double::let_go`], or with null by `close` |
/// | … with owner `grant` | grants |
/// | `CommitEvent` | writes a journal entry |
/// | `TaskStatus` | answers with a goal of [`Double::answer_bytes`] |
#[derive(Debug)]
pub(crate) struct Double {
    state: Mutex<State>,
    head: watch::Sender<i64>,
    log_length: watch::Sender<usize>,
    undelivered: mpsc::UnboundedSender<Undelivered>,
    taken_back: tokio::sync::Mutex<mpsc::UnboundedReceiver<Undelivered>>,
}

#[derive(Debug, Default)]
struct State {
    log: Vec<String>,
    held: Vec<(Command, oneshot::Sender<StoreResult>)>,
    entries: Vec<JournalEntry>,
    answer_bytes: usize,
    broken: bool,
    closed: bool,
}

impl Double {
    pub(crate) fn new() -> Arc<Self> {
        let (undelivered, taken_back) = mpsc::unbounded_channel();
        Arc::new(Self {
            state: Mutex::default(),
            head: watch::channel(0).0,
            log_length: watch::channel(0).0,
            undelivered,
            taken_back: tokio::sync::Mutex::new(taken_back),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn answer_bytes(&self, bytes: usize) {
        self.state().answer_bytes = bytes;
    }

    pub(crate) fn break_down(&self) {
        self.state().broken = true;
    }

    /// What was submitted and asked, in order.
    pub(crate) fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    fn note(&self, what: impl Into<String>) {
        let mut state = self.state();
        state.log.push(what.into());
        let length = state.log.len();
        drop(state);
        self.log_length.send_replace(length);
    }

    /// Waits until the log satisfies a condition.
    pub(crate) async fn until(&self, done: impl Fn(&[String]) -> bool) {
        let mut length = self.log_length.subscribe();
        soon(async {
            while !done(&self.log()) {
                length.changed().await.unwrap();
            }
        })
        .await;
    }

    pub(crate) async fn until_noted(&self, what: &str) {
        self.until(|log| log.iter().any(|line| line == what)).await;
    }

    /// Answers everything that is held.
    pub(crate) fn let_go(&self) {
        let held = std::mem::take(&mut self.state().held);
        for (command, answer) in held {
            let _ = answer.send(Self::done(&command));
        }
    }

    /// Waits until nobody waits for the first of what is held.
    pub(crate) async fn until_given_up(&self) {
        let (_, mut answer) = self.state().held.remove(0);
        soon(answer.closed()).await;
    }

    /// The next grant that its ticket gave back.
    pub(crate) async fn taken_back(&self) -> Undelivered {
        soon(async { self.taken_back.lock().await.recv().await.unwrap() }).await
    }

    pub(crate) fn write_entries(&self, count: usize, payload_bytes: usize) {
        for _ in 0..count {
            self.write_entry(Json::of(&"x".repeat(payload_bytes)), "COMMIT_EVENT");
        }
    }

    fn write_entry(&self, payload: Json, action_type: &str) {
        let mut state = self.state();
        let seq = i64::try_from(state.entries.len()).unwrap() + 1;
        state.entries.push(JournalEntry {
            seq,
            id: EventId(ID),
            timestamp: Timestamp { unix_ms: 0 },
            action_type: action_type.into(),
            payload,
            task_id: None,
            node_id: None,
            session_id: None,
            agent: None,
        });
        drop(state);
        self.head.send_replace(seq);
    }

    fn done(command: &Command) -> StoreResult {
        Ok(match command {
            Command::RegisterTask(_) => Reply::Registered(RegisteredTask {
                task_id: TaskId(ID),
                node_ids: Vec::new(),
            }),
            Command::AcquireNextNode(_) => Reply::Acquired(Some(Box::new(acquired()))),
            Command::CommitEvent(_) => Reply::Committed(Committed {
                event_id: EventId(ID),
            }),
            _ => Reply::Done(Done { ok: true }),
        })
    }

    fn begin(&self, command: Command) -> oneshot::Receiver<StoreResult> {
        let (sender, receiver) = oneshot::channel();
        let closed = self.state().closed;
        let answer = match &command {
            _ if closed => Err(StoreError::ShuttingDown),
            Command::RegisterTask(RegisterTask { goal, .. }) => {
                self.note(format!("RegisterTask {goal}"));
                assert!(goal != "panic", "as the test asked");
                if goal == "hold" {
                    self.state().held.push((command, sender));
                    return receiver;
                }
                Self::done(&command)
            }
            Command::AcquireNextNode(AcquireNextNode {
                wait_secs: Some(_), ..
            }) => {
                self.state().held.push((command, sender));
                self.note("AcquireNextNode waits");
                return receiver;
            }
            Command::AcquireNextNode(AcquireNextNode { lease_owner, .. }) => {
                self.note("AcquireNextNode");
                if lease_owner.as_deref() == Some("grant") {
                    Self::done(&command)
                } else {
                    Ok(Reply::Acquired(None))
                }
            }
            Command::CommitEvent(CommitEvent {
                payload, action_type, ..
            }) => {
                self.write_entry(payload.clone(), action_type.as_deref().unwrap_or("COMMIT_EVENT"));
                self.note(format!("CommitEvent {}", payload.text()));
                Self::done(&command)
            }
            Command::ReleaseNode(_) => {
                self.note("ReleaseNode");
                Self::done(&command)
            }
            _ => Err(StoreError::TaskNotFound(TaskId(ID))),
        };
        let _ = sender.send(answer);
        receiver
    }

    fn answer(&self, query: Query) -> StoreResult {
        let state = self.state();
        if state.closed {
            return Err(StoreError::ShuttingDown);
        }
        if state.broken {
            return Err(StoreError::Storage {
                doing: "read",
                source: "the disk is gone".into(),
            });
        }
        Ok(match query {
            Query::Ping(_) => Reply::Done(Done { ok: true }),
            Query::Metrics(_) => Reply::Metrics(DatabaseMetrics::default()),
            Query::TaskStatus(_) => Reply::Status(TaskStatusResult {
                task: TaskInfo {
                    goal: "g".repeat(state.answer_bytes),
                    ..acquired().context.task
                },
                state: TaskState::Active,
                counts: StatusCounts::default(),
                nodes: Vec::new(),
                next_cursor: None,
            }),
            Query::ReadJournal(params) => Reply::Journal(page(&state.entries, &params)),
            _ => return Err(StoreError::TaskNotFound(TaskId(ID))),
        })
    }
}

fn page(entries: &[JournalEntry], params: &ReadJournal) -> JournalPage {
    let from_seq = params.from_seq.unwrap_or(1);
    let limit = params.limit.unwrap_or(500) as usize;
    let last_seq = i64::try_from(entries.len()).unwrap();
    let passes = |filter: &JournalFilter, entry: &JournalEntry| {
        filter.action_types.is_empty() || filter.action_types.contains(&entry.action_type)
    };
    let read: Vec<&JournalEntry> = entries
        .iter()
        .filter(|entry| entry.seq >= from_seq)
        .take(limit)
        .collect();
    let next_seq = read.last().map_or(from_seq, |entry| entry.seq + 1);
    let entries = read
        .into_iter()
        .filter(|entry| passes(&params.filter, entry))
        .cloned()
        .collect();
    JournalPage {
        entries,
        next_seq,
        last_seq,
    }
}

fn acquired() -> AcquiredNode {
    let (task_id, node_id) = (TaskId(ID), NodeId(ID));
    AcquiredNode {
        task_id,
        node_id,
        lease_id: LeaseId(ID),
        lease_owner: "anonymous".into(),
        lease_expires_at: 1,
        fence: 1,
        attempt: 1,
        context: NodeContext {
            task: TaskInfo {
                id: task_id,
                goal: "goal".into(),
                context: Json::empty_object(),
                created_at: Timestamp { unix_ms: 0 },
            },
            node: NodeInfo {
                id: node_id,
                task_id,
                status: NodeStatus::Running,
                dependencies: Vec::new(),
                payload_schema: Json::empty_object(),
                result_payload: None,
                acquired_at: Some(0),
                lease_id: Some(LeaseId(ID)),
                lease_owner: Some("anonymous".into()),
                lease_expires_at: Some(1),
                updated_at: 0,
                name: None,
                work: None,
                priority: 0,
                capabilities: Vec::new(),
                attempt: 1,
                retry: None,
                fence: Some(1),
                not_before: None,
                blocked_by: Vec::new(),
                fingerprint: None,
            },
            completed_dependencies: Vec::new(),
            event_journal_limit: 0,
            event_journal: Vec::new(),
        },
    }
}

impl Store for Double {
    fn submit(&self, command: Command) -> BoxFuture<'_, Result<Ticket, StoreError>> {
        Box::pin(async move {
            if self.state().closed {
                return Err(StoreError::ShuttingDown);
            }
            Ok(Ticket::new(
                self.begin(command),
                Some(self.undelivered.downgrade()),
            ))
        })
    }

    fn query(&self, query: Query) -> BoxFuture<'_, StoreResult> {
        Box::pin(async move {
            let name = format!("{query:?}");
            self.note(name.split('(').next().unwrap_or_default());
            self.answer(query)
        })
    }

    fn journal_head(&self) -> watch::Receiver<i64> {
        self.head.subscribe()
    }

    fn counters(&self) -> Counters {
        Counters {
            acquired_nodes: 7,
            ..Counters::default()
        }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let held = {
                let mut state = self.state();
                state.closed = true;
                std::mem::take(&mut state.held)
            };
            for (command, answer) in held {
                let _ = answer.send(match command {
                    Command::AcquireNextNode(_) => Ok(Reply::Acquired(None)),
                    command => Self::done(&command),
                });
            }
        })
    }
}

/// A server that runs until it is stopped or dropped.
pub(crate) struct Running {
    pub(crate) double: Arc<Double>,
    pub(crate) path: PathBuf,
    stop: CancellationToken,
    serving: Option<JoinHandle<Result<(), ServerError>>>,
    _dir: TempDir,
}

impl Running {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub(crate) fn start_with(configure: impl FnOnce(&mut ServerOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let double = Double::new();
        let mut options = ServerOptions::new(&path, Arc::clone(&double) as Arc<dyn Store>);
        configure(&mut options);
        let server = Server::bind(options).unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server.serve(stop.clone()));
        Self {
            double,
            path,
            stop,
            serving: Some(serving),
            _dir: dir,
        }
    }

    pub(crate) async fn connect(&self) -> Raw {
        Raw::connect(&self.path).await
    }

    pub(crate) fn begin_to_stop(&self) {
        self.stop.cancel();
    }

    /// Stops the server and waits for it to end.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        soon(self.serving.take().unwrap()).await.unwrap().unwrap();
        assert!(!self.path.exists(), "the socket is still there");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

/// A client without manners of its own.
pub(crate) struct Raw {
    pub(crate) stream: UnixStream,
    received: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(path: &Path) -> Self {
        Self {
            stream: soon(UnixStream::connect(path)).await.unwrap(),
            received: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, text: impl AsRef<[u8]>) {
        soon(self.stream.write_all(text.as_ref())).await.unwrap();
    }

    /// The next line as JSON, or none at the end.
    pub(crate) async fn line(&mut self) -> Option<Value> {
        let line = self.text_line().await?;
        Some(serde_json::from_str(&line).unwrap())
    }

    pub(crate) async fn text_line(&mut self) -> Option<String> {
        let mut searched = 0;
        loop {
            let new = self.received[searched..].iter().position(|byte| *byte == b'\n');
            if let Some(at) = new.map(|at| searched + at) {
                let line: Vec<u8> = self.received.drain(..=at).collect();
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            searched = self.received.len();
            self.received.reserve(64 * 1024);
            let read = soon(self.stream.read_buf(&mut self.received)).await;
            // A server that closes with something unread makes this an error instead of the end.
            if read.unwrap_or(0) == 0 {
                assert!(self.received.is_empty(), "the last line was cut off");
                return None;
            }
        }
    }

    pub(crate) async fn call(&mut self, text: &str) -> Value {
        self.send(format!("{text}\n")).await;
        self.line().await.expect("an answer")
    }

    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Everything until the end.
    pub(crate) async fn rest(&mut self) -> String {
        let mut text = std::mem::take(&mut self.received);
        let _ = soon(self.stream.read_to_end(&mut text)).await;
        String::from_utf8(text).unwrap()
    }
}

pub(crate) fn reason(answer: &Value) -> &str {
    answer["error"]["data"]["reason"].as_str().unwrap_or_default()
}

/// Nothing in these tests takes long unless it hangs.
pub(crate) async fn soon<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), work)
        .await
        .expect("it should have happened by now")
}
