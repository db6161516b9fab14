//! What the fuzz targets call, and the test that runs their seeds on a stable compiler, too.
//!
//! Each function takes any bytes and panics when something is wrong with agentd, never because of the bytes.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each target uses one function; what fails here is a finding"
)]

use agentd_protocol::envelope::{RequestLine, ResponseLine, write_error, write_result};
use agentd_protocol::error::code;
use agentd_protocol::requests::{NoParams, StopSession};
use agentd_protocol::results::Checked;
use agentd_protocol::{Json, Method, OutcomeReason, Request, RpcError, SessionOutcome, Trigger, TriggerKind};
use agentd_runner::plan::Plan;
use agentd_store::session::{AcquireSession, ChangeSession, NewSession, SessionEvent};
use agentd_store::sqlite::SqliteStore;
use agentd_store::{Clock, Command, Ids, Query, Store, StoreOptions, StoreResult, Ticket, ask};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::Poll;
use uuid::Uuid;

/// One request line, as the daemon reads it: taken apart, its method found, its parameters read; and an answer
/// written, which a client must be able to read.
pub(crate) fn request_line(line: &[u8]) {
    let mut out = Vec::new();
    let id = match read(line) {
        Ok((id, request)) => {
            write_result(&mut out, id.as_ref(), request.method().name()).expect("a name is JSON");
            id
        }
        Err((id, error)) => {
            check_error(&error);
            write_error(&mut out, id.as_ref(), &error);
            id
        }
    };
    let text = out.strip_suffix(b"\n").expect("an answer ends its line");
    // JSON may be spread over lines; a request never is, so nothing of it that is echoed is.
    if !line.contains(&b'\n') {
        assert!(!text.contains(&b'\n'), "an answer in two lines");
    }
    let response: ResponseLine = serde_json::from_slice(text).expect("an answer is JSON");
    // To serde, `null` is no id at all.
    assert_eq!(response.id, id.filter(|id| id.text() != "null"));
}

fn read(line: &[u8]) -> Result<(Option<Json>, Request), (Option<Json>, RpcError)> {
    let request = RequestLine::parse(line)?;
    let parsed = Method::find(&request.method).and_then(|method| Request::parse(method, &request.params));
    match parsed {
        Ok(parsed) => Ok((request.id, parsed)),
        Err(error) => Err((request.id, error)),
    }
}

fn check_error(error: &RpcError) {
    assert!(
        [
            code::PARSE,
            code::INVALID_REQUEST,
            code::UNKNOWN_METHOD,
            code::BAD_PARAMS
        ]
        .contains(&error.code)
    );
    assert!(error.message.len() > 10, "a clear message, not {error}");
    assert!(
        error.message.len() < 4096,
        "a message, not an echo: {} bytes",
        error.message.len()
    );
    assert!(error.reason().is_some());
}

/// A plan's file: read, or refused with a message that names the file.
pub(crate) fn plan(bytes: &[u8]) {
    let folder = folder();
    let path = folder.path().join("plan.toml");
    std::fs::write(&path, bytes).unwrap();
    match Plan::load(&path) {
        Ok(plan) => {
            assert!(plan.node_names().any(|name| name == plan.result()));
            assert_eq!(plan.dir(), folder.path().canonicalize().unwrap());
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.contains("plan.toml"), "{message}");
        }
    }
}

/// Requests, one a line, done by a real store. A line `@ 1500` lets that many milliseconds go by. `$T1`, `$N1`, `$L1`
/// and `$S1` stand for the newest task, node, lease and session that an answer has named, `$T2` … `$S9` for those
/// before. What agentd itself asks about sessions is said by requests that come near it: see `event`.
///
/// At the end the database agrees with itself, and everything that waited has been answered.
pub(crate) fn request_store(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(sequence(bytes));
}

const LINES_MAX: usize = 64;
const LINE_BYTES_MAX: usize = 64 * 1024;

async fn sequence(bytes: &[u8]) {
    let folder = folder();
    let clock = Arc::new(ManualClock(AtomicI64::new(1_800_000_000_000)));
    let options = StoreOptions {
        clock: clock.clone(),
        ids: Arc::new(CountedIds(AtomicU64::new(1))),
        ..StoreOptions::default()
    };
    let (store, _) = SqliteStore::open(&folder.path().join("state.db"), options).expect("a new database");
    let mut seen = Seen::default();
    let mut waiting: Vec<Ticket> = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n').take(LINES_MAX) {
        if line.len() > LINE_BYTES_MAX {
            continue;
        }
        if let Some(ms) = line.strip_prefix(b"@ ") {
            let ms = std::str::from_utf8(ms)
                .ok()
                .and_then(|text| text.trim().parse::<u32>().ok());
            clock.0.fetch_add(ms.unwrap_or(1).into(), Ordering::SeqCst);
            continue;
        }
        let Ok((_, request)) = read(&seen.fill_in(line)) else {
            continue;
        };
        match sort(request) {
            Some(Asked::Command(command)) => {
                let waits = matches!(&command, Command::AcquireNextNode(params) if params.wait_secs > Some(0))
                    || matches!(&command, Command::AcquireSession(params) if params.acquire.wait_secs > Some(0))
                    || matches!(&command, Command::AcquireResourceLock(params) if params.wait_secs > Some(0));
                let mut ticket = store.submit(command).await.expect("the store is open");
                if waits {
                    let poll = |context: &mut std::task::Context<'_>| {
                        Poll::Ready(Pin::new(&mut ticket).poll(context))
                    };
                    match std::future::poll_fn(poll).await {
                        Poll::Ready(result) => seen.note(&check(result)),
                        // Every third waits no longer.
                        Poll::Pending if waiting.len() % 3 == 2 => drop(waiting.pop()),
                        Poll::Pending => waiting.push(ticket),
                    }
                } else {
                    seen.note(&check(ticket.await));
                }
            }
            Some(Asked::Query(query)) => seen.note(&check(store.query(query).await)),
            None => {}
        }
    }
    let checked: Checked = ask(&store, Query::CheckDatabase(NoParams {}))
        .await
        .expect("a check");
    assert!(checked.ok, "{:#?}", checked.findings);
    store.close().await;
    for ticket in waiting {
        check(ticket.await);
    }
}

// A refusal is an answer, too; the database's own failure, with nothing wrong with the disk, is a finding.
fn check(result: StoreResult) -> Option<serde_json::Value> {
    let mut out = Vec::new();
    match result {
        Ok(reply) => {
            write_result(&mut out, None, &reply).expect("a reply is JSON");
            Some(serde_json::from_slice(&out).expect("an answer is JSON"))
        }
        Err(error) => {
            let error = RpcError::from(error);
            assert!(
                error.code == code::REFUSED || error.code == code::BAD_PARAMS,
                "{error:?}"
            );
            assert!(error.reason().is_some(), "{error:?}");
            None
        }
    }
}

#[derive(Default)]
struct Seen {
    tasks: Vec<String>,
    nodes: Vec<String>,
    leases: Vec<String>,
    sessions: Vec<String>,
}

impl Seen {
    fn note(&mut self, answer: &Option<serde_json::Value>) {
        let Some(result) = answer.as_ref().and_then(|answer| answer.get("result")) else {
            return;
        };
        for (name, list) in [
            ("task_id", &mut self.tasks),
            ("node_id", &mut self.nodes),
            ("lease_id", &mut self.leases),
            ("session_id", &mut self.sessions),
        ] {
            // A session that was acquired has a node beside it.
            let id = match (result.get(name), result.get("node"), result.get("session")) {
                (None, _, Some(session)) if name == "session_id" => session.get("id"),
                (None, Some(node), _) => node.get(name),
                (id, _, _) => id,
            };
            let id = id.and_then(|id| id.as_str());
            list.extend(
                id.filter(|id| !list.iter().any(|known| known == id))
                    .map(str::to_owned),
            );
        }
        let ids = result.get("node_ids").and_then(|ids| ids.as_array());
        for id in ids.into_iter().flatten().filter_map(|id| id.as_str()) {
            if !self.nodes.iter().any(|known| known == id) {
                self.nodes.push(id.to_owned());
            }
        }
    }

    fn fill_in(&self, line: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(line.len() + 64);
        let mut rest = line;
        while let Some((first, behind)) = rest.split_first() {
            let list = match behind.first() {
                Some(b'T') => &self.tasks,
                Some(b'N') => &self.nodes,
                Some(b'L') => &self.leases,
                Some(b'S') => &self.sessions,
                _ => &Vec::new(),
            };
            let place = behind
                .get(1)
                .and_then(|digit| char::from(*digit).to_digit(10))
                .and_then(|back| list.len().checked_sub(usize::try_from(back).unwrap()));
            match (first, place.and_then(|place| list.get(place))) {
                (b'$', Some(id)) => {
                    out.extend_from_slice(id.as_bytes());
                    rest = &behind[2..];
                }
                _ => {
                    out.push(*first);
                    rest = behind;
                }
            }
        }
        out
    }
}

enum Asked {
    Command(Command),
    Query(Query),
}

// As the socket's side sorts them. Backup and restore name files on this machine, which are not to be written by
// a fuzzer; what the socket answers by itself needs no store.
fn sort(request: Request) -> Option<Asked> {
    use Request as R;
    Some(match request {
        R::RegisterTask(params) => Asked::Command(Command::RegisterTask(params)),
        R::AddNodes(params) => Asked::Command(Command::AddNodes(params)),
        R::AcquireNextNode(acquire) if acquire.lease_owner.as_deref() == Some("agent") => {
            Asked::Command(Command::AcquireSession(AcquireSession {
                agent: "agent".into(),
                acquire,
            }))
        }
        R::AcquireNextNode(params) => Asked::Command(Command::AcquireNextNode(params)),
        R::CommitEvent(params) => Asked::Command(Command::CommitEvent(params)),
        R::HeartbeatNode(params) => Asked::Command(Command::HeartbeatNode(params)),
        R::CompleteNode(params) => Asked::Command(Command::CompleteNode(params)),
        R::FailNode(params) => Asked::Command(Command::FailNode(params)),
        R::ReleaseNode(params) => Asked::Command(Command::ReleaseNode(params)),
        R::CancelTask(params) => Asked::Command(Command::CancelTask(params)),
        R::PauseTask(params) => Asked::Command(Command::PauseTask(params)),
        R::ResumeTask(params) => Asked::Command(Command::ResumeTask(params)),
        R::RetryNodes(params) => Asked::Command(Command::RetryNodes(params)),
        R::PruneTasks(params) => Asked::Command(Command::PruneTasks(params)),
        R::AcquireResourceLock(params) => Asked::Command(Command::AcquireResourceLock(params)),
        R::HeartbeatResourceLock(params) => Asked::Command(Command::HeartbeatResourceLock(params)),
        R::ReleaseResourceLock(params) => Asked::Command(Command::ReleaseResourceLock(params)),
        R::TaskStatus(params) => Asked::Query(Query::TaskStatus(params)),
        R::GetNode(params) => Asked::Query(Query::GetNode(params)),
        R::ListTasks(params) => Asked::Query(Query::ListTasks(params)),
        R::ListResourceLocks(params) => Asked::Query(Query::ListResourceLocks(params)),
        R::ReadJournal(params) => Asked::Query(Query::ReadJournal(params)),
        R::CheckDatabase(params) => Asked::Query(Query::CheckDatabase(params)),
        R::Metrics(params) => Asked::Query(Query::Metrics(params)),
        R::RunAgent(params) => Asked::Command(Command::CreateSession(NewSession {
            agent: params.agent,
            trigger: Trigger {
                kind: TriggerKind::Manual,
                context: params.context,
            },
            prompt: params.prompt,
            idempotency_key: params.idempotency_key,
        })),
        R::StopSession(params) => Asked::Command(Command::ChangeSession(ChangeSession {
            session_id: params.session_id,
            event: Some(event(params)),
            notes: Vec::new(),
        })),
        R::RemoveSession(params) => Asked::Command(Command::RemoveSession(params)),
        R::ListSessions(params) => Asked::Query(Query::ListSessions(params)),
        R::GetSession(params) => Asked::Query(Query::GetSession(params)),
        R::ListAgents(params) => Asked::Query(Query::OpenSessions(params)),
        R::DescribeInterface(_)
        | R::Health(_)
        | R::WhoAmI(_)
        | R::SubscribeJournal(_)
        | R::ReadTranscript(_)
        | R::ListWorktrees(_)
        | R::PruneWorktrees(_)
        | R::Reload(_)
        | R::StepAside(_)
        | R::BackupDatabase(_)
        | R::RestoreDatabase(_) => return None,
    })
}

// No request tells of what happens to a session: the time that it is given to stop chooses.
fn event(params: StopSession) -> SessionEvent {
    match params.grace_secs {
        Some(0) => SessionEvent::SetUp {
            replica: 0,
            runtime: "process".into(),
        },
        Some(1) => SessionEvent::Requeue,
        Some(2) => SessionEvent::Start,
        Some(3) => SessionEvent::Run {
            started_wall_ms: None,
        },
        Some(4) => SessionEvent::TearDown { exited_wall_ms: None },
        Some(5) => SessionEvent::End(SessionOutcome {
            reason: OutcomeReason::Failed,
            exit_code: None,
            signal: None,
            message: params.reason,
            result: Some(Json::null()),
        }),
        _ => SessionEvent::Stop {
            reason: params.reason.unwrap_or_default(),
        },
    }
}

/// A directory in memory where there is one: thousands of databases are made a minute.
fn folder() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    let place = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    tempfile::tempdir_in::<&Path>(&place).expect("a temporary directory")
}

#[derive(Debug)]
struct ManualClock(AtomicI64);

impl Clock for ManualClock {
    fn lease_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    fn wall_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// The same ids in every run, so that a finding is found again.
#[derive(Debug)]
struct CountedIds(AtomicU64);

impl Ids for CountedIds {
    fn sequential(&self) -> Uuid {
        let number = self.0.fetch_add(1, Ordering::SeqCst);
        Uuid::from_u128((0x0193_0000_0000_7000_u128 << 64) | 0x8000_0000_0000_0000 | u128::from(number))
    }

    fn random(&self) -> Uuid {
        self.sequential()
    }
}
