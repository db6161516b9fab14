//! Sessions: what the server asks of whoever runs them, for whom, and what it does with waits.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use agentd_api::{Sessions, SessionsError, SessionsResult};
use agentd_protocol::requests::{
    ListSessions, PruneWorktrees, ReadTranscript, RunAgent, SessionRef, StopSession,
};
use agentd_protocol::results::{
    AgentList, Ok as Done, PrunedWorktrees, QueuedSession, Reloaded, RemovedSession, SessionList,
    TranscriptPage, WorktreeList,
};
use agentd_protocol::{
    AgentInfo, OutputStream, RuntimeCapabilities, SessionId, SessionInfo, SessionPhase, Timestamp,
    TranscriptChunk, Trigger, TriggerKind,
};
use agentd_store::BoxFuture;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use support::{ID, Raw, Running, reason, soon};
use tokio::sync::{Notify, watch};

/// Sessions as a test tells them.
///
/// | what | does |
/// |---|---|
/// | `RunAgent` of `hold` | is answered when [`Script::go_on`] is notified |
/// | … of any but `reviewer` and `hold` | is refused: not declared |
/// | `ReadTranscript` with `wait_secs` | never ends |
/// | … without, from 1 on | is refused: the runtime declares no `logs` |
/// | … from 0 | gives `limit_bytes` of output |
/// | `RemoveSession` | is refused: not over |
/// | `GetSession` of another id | is refused: not found |
#[derive(Debug)]
struct Script {
    log: Mutex<Vec<&'static str>>,
    length: watch::Sender<usize>,
    go_on: Notify,
    /// A transcript is waited for as long as somebody has one of these.
    waits: Arc<()>,
    dropped: Notify,
}

impl Script {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            log: Mutex::default(),
            length: watch::channel(0).0,
            go_on: Notify::new(),
            waits: Arc::new(()),
            dropped: Notify::new(),
        })
    }

    fn note(&self, what: &'static str) {
        let mut log = self.log.lock().unwrap();
        log.push(what);
        self.length.send_replace(log.len());
    }

    fn log(&self) -> Vec<&'static str> {
        self.log.lock().unwrap().clone()
    }

    async fn until_noted(&self, what: &str) {
        let mut length = self.length.subscribe();
        soon(async {
            while !self.log().contains(&what) {
                length.changed().await.unwrap();
            }
        })
        .await;
    }
}

struct Waiting<'a> {
    script: &'a Script,
    _one: Arc<()>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.script.dropped.notify_one();
    }
}

fn info() -> SessionInfo {
    SessionInfo {
        id: SessionId(ID),
        agent: "reviewer".into(),
        replica: None,
        runtime: None,
        phase: SessionPhase::Queued,
        trigger: Trigger {
            kind: TriggerKind::Manual,
            context: json!({ "ref": "main" }).into(),
        },
        prompt: None,
        task_id: None,
        node_id: None,
        created_at: Timestamp { unix_ms: 0 },
        setup_at: None,
        started_at: None,
        exited_at: None,
        ended_at: None,
        stop_requested: None,
        outcome: None,
    }
}

impl Sessions for Script {
    fn run(&self, params: RunAgent) -> BoxFuture<'_, SessionsResult<QueuedSession>> {
        Box::pin(async move {
            self.note("run");
            match params.agent.as_str() {
                "reviewer" => {}
                "hold" => self.go_on.notified().await,
                other => return Err(SessionsError::agent_not_found(other, ["reviewer", "hold"])),
            }
            self.note("ran");
            Ok(QueuedSession {
                session_id: SessionId(ID),
            })
        })
    }

    fn agents(&self) -> BoxFuture<'_, SessionsResult<AgentList>> {
        Box::pin(async move {
            self.note("agents");
            let agent = AgentInfo {
                name: "reviewer".into(),
                runtime: "fake".into(),
                runtime_capabilities: RuntimeCapabilities::default(),
                harness: "custom".into(),
                replicas: 1,
                max_sessions: 1,
                capabilities: Vec::new(),
                running: 0,
                queued: 0,
            };
            Ok(AgentList { agents: vec![agent] })
        })
    }

    fn list(&self, params: ListSessions) -> BoxFuture<'_, SessionsResult<SessionList>> {
        Box::pin(async move {
            self.note("list");
            let sessions = vec![info(); params.limit.unwrap_or(1) as usize];
            Ok(SessionList {
                sessions,
                next_cursor: None,
            })
        })
    }

    fn get(&self, params: SessionRef) -> BoxFuture<'_, SessionsResult<SessionInfo>> {
        Box::pin(async move {
            self.note("get");
            if params.session_id == SessionId(ID) {
                Ok(info())
            } else {
                Err(SessionsError::SessionNotFound(params.session_id))
            }
        })
    }

    fn stop(&self, _: StopSession) -> BoxFuture<'_, SessionsResult<Done>> {
        Box::pin(async move {
            self.note("stop");
            Ok(Done { ok: true })
        })
    }

    fn remove(&self, params: SessionRef) -> BoxFuture<'_, SessionsResult<RemovedSession>> {
        Box::pin(async move {
            self.note("remove");
            Err(SessionsError::WrongState {
                session: params.session_id,
                why: "is not over".into(),
            })
        })
    }

    fn worktrees(&self) -> BoxFuture<'_, SessionsResult<WorktreeList>> {
        Box::pin(async {
            self.note("worktrees");
            Ok(WorktreeList {
                worktrees: Vec::new(),
                omitted: 0,
            })
        })
    }

    fn prune_worktrees(&self, _: PruneWorktrees) -> BoxFuture<'_, SessionsResult<PrunedWorktrees>> {
        Box::pin(async {
            self.note("prune");
            Ok(PrunedWorktrees {
                worktrees: Vec::new(),
            })
        })
    }

    fn transcript(&self, params: ReadTranscript) -> BoxFuture<'_, SessionsResult<TranscriptPage>> {
        Box::pin(async move {
            if params.wait_secs.is_some() {
                let _waiting = Waiting {
                    script: self,
                    _one: Arc::clone(&self.waits),
                };
                self.note("transcript waits");
                std::future::pending::<()>().await;
            }
            self.note("transcript");
            if params.from_offset.is_some_and(|offset| offset > 0) {
                return Err(SessionsError::Undeclared {
                    agent: "reviewer".into(),
                    runtime: "fake".into(),
                    capability: "logs",
                });
            }
            let bytes = params.limit_bytes.unwrap_or(5);
            let chunk = TranscriptChunk {
                offset: 0,
                timestamp: Timestamp { unix_ms: 0 },
                stream: OutputStream::Stdout,
                // Six bytes of JSON each.
                text: Some("\u{1}".repeat(usize::try_from(bytes).unwrap())),
                base64: None,
            };
            Ok(TranscriptPage {
                chunks: vec![chunk],
                next_offset: bytes,
                missing_bytes: 0,
                ended: true,
            })
        })
    }

    fn reload(&self) -> BoxFuture<'_, SessionsResult<Reloaded>> {
        Box::pin(async move {
            self.note("reload");
            Err(SessionsError::BadConfig("agentd.toml:3:1: unknown key".into()))
        })
    }
}

fn start(script: &Arc<Script>) -> Running {
    let script = Arc::clone(script);
    Running::start_with(|options| options.sessions = Some(script))
}

/// Every method with the parameters that it works with.
fn requests() -> [(&'static str, Value); 10] {
    let session = json!({ "session_id": ID });
    [
        ("RunAgent", json!({ "agent": "reviewer", "prompt": "p" })),
        ("ListAgents", json!({})),
        ("ListSessions", json!({ "limit": 2 })),
        ("GetSession", session.clone()),
        ("StopSession", session.clone()),
        ("RemoveSession", session.clone()),
        ("ListWorktrees", json!({})),
        ("PruneWorktrees", json!({ "force": true })),
        ("ReadTranscript", session),
        ("Reload", json!({})),
    ]
}

async fn call(client: &mut Raw, method: &str, params: &Value) -> Value {
    client
        .call(&json!({ "id": method, "method": method, "params": params }).to_string())
        .await
}

const WAIT: &str = r#"{"id":"w","method":"ReadTranscript","params":{"session_id":"01234567-89ab-4cde-8f01-23456789abcd","wait_secs":3600}}"#;

#[tokio::test]
async fn every_method_reaches_whoever_runs_sessions() {
    let script = Script::new();
    let server = start(&script);
    let mut client = server.connect().await;
    let mut answers = std::collections::BTreeMap::new();
    for (method, params) in requests() {
        let answer = call(&mut client, method, &params).await;
        assert_eq!(answer["id"], method);
        answers.insert(method, answer);
    }
    let expected = [
        "run",
        "ran",
        "agents",
        "list",
        "get",
        "stop",
        "remove",
        "worktrees",
        "prune",
        "transcript",
        "reload",
    ];
    assert_eq!(script.log(), expected);
    assert_eq!(answers["RunAgent"]["result"], json!({ "session_id": ID }));
    assert_eq!(answers["ListAgents"]["result"]["agents"][0]["name"], "reviewer");
    assert_eq!(
        answers["ListSessions"]["result"]["sessions"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    assert_eq!(answers["GetSession"]["result"]["phase"], "QUEUED");
    assert_eq!(answers["StopSession"]["result"], json!({ "ok": true }));
    assert_eq!(reason(&answers["RemoveSession"]), "wrong_state");
    let page = &answers["ReadTranscript"]["result"];
    assert_eq!(page["chunks"][0]["text"], "\u{1}".repeat(5));
    assert_eq!((&page["next_offset"], &page["ended"]), (&json!(5), &json!(true)));
    assert_eq!(reason(&answers["Reload"]), "bad_file");
    server.stop().await;
}

#[tokio::test]
async fn refusals_come_with_their_reasons() {
    let script = Script::new();
    let server = start(&script);
    let mut client = server.connect().await;
    let answer = call(&mut client, "run_agent", &json!({ "agent": "reviewr" })).await;
    assert_eq!(reason(&answer), "agent_not_found");
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("did you mean \"reviewer\"?")
    );
    // What a runtime does not declare is refused as that, through the API as well.
    let params = json!({ "session_id": ID, "from_offset": 1 });
    let answer = call(&mut client, "ReadTranscript", &params).await;
    assert_eq!(reason(&answer), "unsupported");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("\"fake\"") && message.contains("\"logs\""),
        "{message}"
    );
    let other = json!({ "session_id": "00000000-0000-0000-0000-000000000000" });
    assert_eq!(
        reason(&call(&mut client, "GetSession", &other).await),
        "session_not_found"
    );
    // What does not fit never gets there.
    for (method, params) in [
        ("RunAgent", json!({ "agent": "Not A Name" })),
        ("RunAgent", json!({ "agent": "reviewer", "context": [] })),
        ("StopSession", json!({ "session_id": "x" })),
        ("StopSession", json!({ "session_id": ID, "grace_secs": 3601 })),
        ("ReadTranscript", json!({ "session_id": ID, "limit_bytes": 0 })),
        ("ReadTranscript", json!({ "session_id": ID, "wait_secs": 3601 })),
    ] {
        let answer = call(&mut client, method, &params).await;
        assert_eq!(answer["error"]["code"], -32602, "{method} {params}");
    }
    assert_eq!(script.log(), ["run", "transcript", "get"]);
    server.stop().await;
}

#[tokio::test]
async fn a_server_without_sessions_says_so() {
    let server = Running::start();
    let mut client = server.connect().await;
    for (method, params) in requests() {
        let answer = call(&mut client, method, &params).await;
        assert_eq!(reason(&answer), "unsupported", "{method}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains("runs no sessions"), "{message}");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_answer_that_would_be_too_large_is_refused() {
    let script = Script::new();
    let server = start(&script);
    let mut client = server.connect().await;
    let params = json!({ "session_id": ID, "limit_bytes": 4 * 1024 * 1024 });
    assert_eq!(
        reason(&call(&mut client, "ReadTranscript", &params).await),
        "answer_too_large"
    );
    let params = json!({ "session_id": ID, "limit_bytes": 1024 * 1024 });
    let answer = call(&mut client, "ReadTranscript", &params).await;
    assert_eq!(
        answer["result"]["chunks"][0]["text"].as_str().map(str::len),
        Some(1024 * 1024)
    );
    server.stop().await;
}

#[tokio::test]
async fn a_session_is_not_told_before_it_is_durable_and_questions_wait_for_it() {
    let script = Script::new();
    let server = start(&script);
    let mut client = server.connect().await;
    let run = r#"{"id":1,"method":"RunAgent","params":{"agent":"hold"}}"#;
    client
        .send(format!("{run}\n{{\"id\":2,\"method\":\"Health\"}}\n"))
        .await;
    script.until_noted("run").await;
    // Others are served meanwhile, and the one behind it is not.
    assert!(server.connect().await.call(r#"{"method":"Health"}"#).await["result"].is_object());
    assert_eq!(server.double.log(), ["Ping"]);
    script.go_on.notify_one();
    assert_eq!(
        client.line().await.unwrap()["result"]["session_id"],
        ID.to_string()
    );
    assert_eq!(client.line().await.unwrap()["id"], 2);
    server.stop().await;
}

#[tokio::test]
async fn a_waiting_transcript_ends_with_its_client() {
    let script = Script::new();
    let server = start(&script);
    // What was asked for before it is answered while it waits; what comes after it waits.
    let mut client = server.connect().await;
    let lines = format!("{{\"id\":1,\"method\":\"Health\"}}\n{WAIT}\n{{\"id\":2,\"method\":\"Metrics\"}}\n");
    client.send(lines).await;
    assert_eq!(client.line().await.unwrap()["id"], 1);
    script.until_noted("transcript waits").await;
    assert_eq!(Arc::strong_count(&script.waits), 2);
    drop(client);
    soon(script.dropped.notified()).await;
    assert_eq!(Arc::strong_count(&script.waits), 1);
    server.stop().await;
}

#[tokio::test]
async fn changes_of_a_client_that_is_gone_are_made_all_the_same() {
    let script = Script::new();
    let server = start(&script);
    let mut client = server.connect().await;
    let stop = json!({ "method": "StopSession", "params": { "session_id": ID } });
    let get = json!({ "method": "GetSession", "params": { "session_id": ID } });
    client.send(format!("{WAIT}\n{get}\n{stop}\n")).await;
    script.until_noted("transcript waits").await;
    drop(client);
    script.until_noted("stop").await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_closed_its_half_still_waits() {
    let script = Script::new();
    let server = start(&script);
    let mut client = server.connect().await;
    client.send(format!("{WAIT}\n")).await;
    client.half_close().await;
    script.until_noted("transcript waits").await;
    assert!(server.connect().await.call(r#"{"method":"Health"}"#).await["result"].is_object());
    assert_eq!(Arc::strong_count(&script.waits), 2);
    // And is told when the server stops.
    server.begin_to_stop();
    assert_eq!(reason(&client.line().await.unwrap()), "shutting_down");
    assert!(client.line().await.is_none());
    server.stop().await;
}

#[tokio::test]
async fn stopping_ends_waits_and_lets_changes_end() {
    let script = Script::new();
    let server = start(&script);
    let (mut waits, mut runs) = (server.connect().await, server.connect().await);
    waits.send(format!("{WAIT}\n")).await;
    let run = r#"{"id":1,"method":"RunAgent","params":{"agent":"hold"}}"#;
    runs.send(format!("{run}\n{run}\n")).await;
    script.until_noted("transcript waits").await;
    script.until_noted("run").await;
    server.begin_to_stop();
    assert_eq!(reason(&waits.line().await.unwrap()), "shutting_down");
    script.go_on.notify_one();
    assert!(runs.line().await.unwrap()["result"].is_object());
    assert_eq!(reason(&runs.line().await.unwrap()), "shutting_down");
    server.stop().await;
    assert_eq!(script.log().iter().filter(|what| **what == "run").count(), 1);
}
