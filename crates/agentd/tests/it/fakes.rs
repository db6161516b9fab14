//! The commands about sessions against a runtime that is made up, so that it can lack what real ones have.

use crate::support::{PATIENCE, Running, TestEnvironment, code, shown, until};
use agentd_api::{Server, ServerOptions, Sessions, SessionsError, SessionsResult};
use agentd_protocol::requests::{
    ListSessions, PruneWorktrees, ReadTranscript, RunAgent, SessionRef, StopSession,
};
use agentd_protocol::results::{
    AgentList, Ok as Done, PrunedWorktrees, QueuedSession, Reloaded, RemovedSession, SessionList,
    TranscriptPage, WorktreeList,
};
use agentd_protocol::{
    AgentInfo, OutcomeReason, OutputStream, RuntimeCapabilities, SessionId, SessionInfo, SessionOutcome,
    SessionPhase, Timestamp, TranscriptChunk, Trigger, TriggerKind,
};
use agentd_store::sqlite::{OpenError, SqliteStore};
use agentd_store::{BoxFuture, StoreOptions};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::sync::{Arc, Mutex};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const CAN: RuntimeCapabilities = RuntimeCapabilities {
    isolation: true,
    network_policy: false,
    limits: false,
    logs: true,
    stop: true,
    adopt: false,
    attach: false,
    exec: false,
    files: false,
    resume: false,
};

/// A made-up session: what it has printed so far, and how it ended.
#[derive(Clone, Debug)]
struct Fake {
    info: SessionInfo,
    chunks: Vec<TranscriptChunk>,
}

/// Sessions that do what their prompts say.
///
/// | prompt | does |
/// |---|---|
/// | `exit N`, `signal N`, `timed_out`, `lost` … | prints `out` and `err` and ends so |
/// | `big N` | prints so many bytes |
/// | `wait` | prints `ready`, and is ended by [`Fakes::end`], or by being stopped |
#[derive(Debug)]
struct Fakes {
    agents: Vec<(&'static str, RuntimeCapabilities)>,
    sessions: Mutex<Vec<Fake>>,
    changed: watch::Sender<u64>,
}

impl Fakes {
    fn end(&self, reason: OutcomeReason, exit_code: Option<i32>, signal: Option<i32>) {
        let mut sessions = self.sessions.lock().unwrap();
        let session = sessions.last_mut().unwrap();
        finish(session, reason, exit_code, signal);
        drop(sessions);
        self.changed.send_modify(|version| *version += 1);
    }

    fn capabilities(&self, name: &str) -> Result<RuntimeCapabilities, SessionsError> {
        let found = self.agents.iter().find(|(agent, _)| *agent == name);
        found
            .map(|(_, can)| *can)
            .ok_or_else(|| SessionsError::agent_not_found(name, self.agents.iter().map(|(agent, _)| *agent)))
    }

    fn with<T>(
        &self,
        id: SessionId,
        change: impl FnOnce(&mut Fake) -> SessionsResult<T>,
    ) -> SessionsResult<T> {
        let mut sessions = self.sessions.lock().unwrap();
        let found = sessions.iter_mut().find(|session| session.info.id == id);
        change(found.ok_or(SessionsError::SessionNotFound(id))?)
    }

    fn needs(
        &self,
        agent: &str,
        has: impl Fn(RuntimeCapabilities) -> bool,
        capability: &'static str,
    ) -> SessionsResult<()> {
        if has(self.capabilities(agent)?) {
            return Ok(());
        }
        Err(SessionsError::Undeclared {
            agent: agent.into(),
            runtime: "fake".into(),
            capability,
        })
    }
}

fn finish(session: &mut Fake, reason: OutcomeReason, exit_code: Option<i32>, signal: Option<i32>) {
    let now = Some(Timestamp { unix_ms: 2000 });
    (session.info.exited_at, session.info.ended_at) = (now, now);
    session.info.phase = SessionPhase::Ended;
    session.info.outcome = Some(SessionOutcome {
        reason,
        exit_code,
        signal,
        message: None,
        result: None,
    });
}

fn print(session: &mut Fake, stream: OutputStream, bytes: &[u8]) {
    let offset = session.chunks.last().map_or(0, |last| last.offset + length(last));
    let text = std::str::from_utf8(bytes).ok().map(str::to_owned);
    session.chunks.push(TranscriptChunk {
        offset,
        timestamp: Timestamp { unix_ms: 1000 },
        stream,
        base64: text.is_none().then(|| "Yf8ACg==".to_owned()),
        text,
    });
}

fn length(chunk: &TranscriptChunk) -> u64 {
    chunk.text.as_ref().map_or(4, |text| text.len() as u64)
}

fn begin(session: &mut Fake, prompt: &str) {
    use OutcomeReason as R;
    use OutputStream::{Stderr, Stdout};
    let (word, number) = prompt.split_once(' ').unwrap_or((prompt, "0"));
    let number: i32 = number.parse().unwrap();
    match word {
        "wait" => return print(session, Stdout, b"ready\n"),
        "big" => {
            for _ in 0..number / 100_000 {
                print(session, Stdout, "x".repeat(100_000).as_bytes());
            }
            return finish(session, R::Completed, Some(0), None);
        }
        _ => {}
    }
    print(session, Stdout, b"out");
    print(session, Stderr, b"err\n");
    print(session, Stdout, b"a\xff\0\n");
    match word {
        "exit" if number == 0 => finish(session, R::Completed, Some(0), None),
        "exit" => finish(session, R::Failed, Some(number), None),
        "signal" => finish(session, R::Crashed, None, Some(number)),
        other => finish(session, R::parse(other).unwrap(), None, None),
    }
}

impl Sessions for Fakes {
    fn run(&self, params: RunAgent) -> BoxFuture<'_, SessionsResult<QueuedSession>> {
        Box::pin(async move {
            self.capabilities(&params.agent)?;
            let at = |unix_ms| Some(Timestamp { unix_ms });
            let mut sessions = self.sessions.lock().unwrap();
            let id = SessionId(uuid::Uuid::from_u128(sessions.len() as u128 + 1));
            let mut session = Fake {
                info: SessionInfo {
                    id,
                    agent: params.agent,
                    replica: Some(0),
                    runtime: Some("fake".into()),
                    phase: SessionPhase::Running,
                    trigger: Trigger {
                        kind: TriggerKind::Manual,
                        context: params.context,
                    },
                    prompt: params.prompt.clone(),
                    task_id: None,
                    node_id: None,
                    created_at: Timestamp { unix_ms: 0 },
                    setup_at: at(0),
                    started_at: at(500),
                    exited_at: None,
                    ended_at: None,
                    stop_requested: None,
                    outcome: None,
                },
                chunks: Vec::new(),
            };
            begin(&mut session, params.prompt.as_deref().unwrap_or("exit 0"));
            sessions.push(session);
            Ok(QueuedSession { session_id: id })
        })
    }

    fn agents(&self) -> BoxFuture<'_, SessionsResult<AgentList>> {
        Box::pin(async move {
            let agent = |(name, can): &(&str, RuntimeCapabilities)| AgentInfo {
                name: (*name).into(),
                runtime: "fake".into(),
                runtime_capabilities: *can,
                harness: "custom".into(),
                replicas: 1,
                max_sessions: 2,
                capabilities: vec!["review".into()],
                running: 1,
                queued: 0,
            };
            Ok(AgentList {
                agents: self.agents.iter().map(agent).collect(),
            })
        })
    }

    fn list(&self, _: ListSessions) -> BoxFuture<'_, SessionsResult<SessionList>> {
        Box::pin(async move {
            let sessions = self.sessions.lock().unwrap();
            Ok(SessionList {
                sessions: sessions
                    .iter()
                    .rev()
                    .map(|session| session.info.clone())
                    .collect(),
                next_cursor: None,
            })
        })
    }

    fn get(&self, params: SessionRef) -> BoxFuture<'_, SessionsResult<SessionInfo>> {
        Box::pin(async move { self.with(params.session_id, |session| Ok(session.info.clone())) })
    }

    fn stop(&self, params: StopSession) -> BoxFuture<'_, SessionsResult<Done>> {
        Box::pin(async move {
            let agent = self.with(params.session_id, |session| Ok(session.info.agent.clone()))?;
            self.needs(&agent, |can| can.stop, "stop")?;
            self.with(params.session_id, |session| {
                session.info.stop_requested = Some(params.reason.unwrap_or_default());
                print(session, OutputStream::Stdout, b"bye\n");
                finish(session, OutcomeReason::Cancelled, None, Some(15));
                Ok(())
            })?;
            self.changed.send_modify(|version| *version += 1);
            Ok(Done { ok: true })
        })
    }

    fn remove(&self, params: SessionRef) -> BoxFuture<'_, SessionsResult<RemovedSession>> {
        Box::pin(async move {
            self.with(params.session_id, |session| match session.info.phase {
                SessionPhase::Ended => Ok(()),
                _ => Err(SessionsError::WrongState {
                    session: params.session_id,
                    why: "is not over; stop it first".into(),
                }),
            })?;
            let mut sessions = self.sessions.lock().unwrap();
            sessions.retain(|session| session.info.id != params.session_id);
            Ok(RemovedSession { ok: true, kept: None })
        })
    }

    fn worktrees(&self) -> BoxFuture<'_, SessionsResult<WorktreeList>> {
        Box::pin(async { Err(SessionsError::Unsupported("fakes have no worktrees".into())) })
    }

    fn prune_worktrees(&self, _: PruneWorktrees) -> BoxFuture<'_, SessionsResult<PrunedWorktrees>> {
        Box::pin(async { Err(SessionsError::Unsupported("fakes have no worktrees".into())) })
    }

    fn transcript(&self, params: ReadTranscript) -> BoxFuture<'_, SessionsResult<TranscriptPage>> {
        Box::pin(async move {
            let mut changed = self.changed.subscribe();
            let from = params.from_offset.unwrap_or(0);
            loop {
                let agent = self.with(params.session_id, |session| Ok(session.info.agent.clone()))?;
                self.needs(&agent, |can| can.logs, "logs")?;
                let page = self.with(params.session_id, |session| {
                    let rest = session.chunks.iter().filter(|chunk| chunk.offset >= from);
                    let chunks: Vec<_> = rest.take(4).cloned().collect();
                    let next_offset = chunks.last().map_or(from, |last| last.offset + length(last));
                    let whole = session.chunks.last().map_or(0, |last| last.offset + length(last));
                    Ok(TranscriptPage {
                        ended: session.info.phase == SessionPhase::Ended && next_offset == whole,
                        chunks,
                        next_offset,
                        missing_bytes: 0,
                    })
                })?;
                if page.ended || !page.chunks.is_empty() || params.wait_secs.is_none() {
                    return Ok(page);
                }
                changed.changed().await.unwrap();
            }
        })
    }

    fn reload(&self) -> BoxFuture<'_, SessionsResult<Reloaded>> {
        Box::pin(async move { Err(SessionsError::BadConfig("agentd.toml:3:1: unknown key".into())) })
    }
}

/// A daemon's server with made-up sessions.
struct Place {
    env: TestEnvironment,
    fakes: Arc<Fakes>,
    runtime: Runtime,
    serving: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
}

impl Place {
    fn new() -> Self {
        let agents = vec![
            ("able", CAN),
            ("mute", RuntimeCapabilities { logs: false, ..CAN }),
            ("unstoppable", RuntimeCapabilities { stop: false, ..CAN }),
            (
                "open",
                RuntimeCapabilities {
                    isolation: false,
                    ..CAN
                },
            ),
        ];
        let fakes = Arc::new(Fakes {
            agents,
            sessions: Mutex::default(),
            changed: watch::channel(0).0,
        });
        let mut place = Self {
            env: TestEnvironment::new(),
            fakes,
            runtime: Runtime::new().unwrap(),
            serving: None,
        };
        fs::create_dir_all(place.env.state()).unwrap();
        place.serve();
        place
    }

    fn serve(&mut self) {
        let stop = CancellationToken::new();
        let _inside = self.runtime.enter();
        // The last connection of the server before may still be ending, and the database with it.
        let mut store = None;
        until("the database is free", || {
            store = match SqliteStore::open(&self.env.path("db"), StoreOptions::default()) {
                Err(OpenError::Locked { .. }) => None,
                opened => Some(opened.unwrap().0),
            };
            store.is_some()
        });
        let store = store.unwrap();
        let mut options = ServerOptions::new(self.env.socket(), Arc::new(store));
        options.sessions = Some(Arc::clone(&self.fakes) as Arc<dyn Sessions>);
        let server = Server::bind(options).unwrap();
        let token = stop.clone();
        let serving = self
            .runtime
            .spawn(async move { server.serve(token).await.unwrap() });
        self.serving = Some((stop, serving));
    }

    fn stop_serving(&mut self) {
        let (stop, serving) = self.serving.take().unwrap();
        stop.cancel();
        let ended = async { tokio::time::timeout(PATIENCE, serving).await };
        self.runtime.block_on(ended).unwrap().unwrap();
    }

    /// A run that has printed that it is ready.
    fn waiting(&self, agent: &str) -> (Running, String) {
        let mut running = self.env.spawn(&["run", agent, "--prompt", "wait"]);
        running.wait_stdout("ready");
        let list = self.env.json(&["sessions"]);
        (running, list["sessions"][0]["id"].as_str().unwrap().to_owned())
    }
}

#[test]
fn a_run_streams_and_ends_as_its_agent_does() {
    let place = Place::new();
    let ends = [
        ("exit 0", 0, ""),
        ("exit 7", 7, "failed with exit code 7"),
        ("signal 11", 139, "crashed by signal 11"),
        ("timed_out", 124, "timed out"),
        ("cancelled", 130, "cancelled"),
        ("out_of_memory", 137, "memory"),
        ("setup_failed", 125, "set-up"),
        ("lost", 125, "lost"),
        ("failed", 1, "as its result says"),
    ];
    for (prompt, expected, said) in ends {
        let output = place.env.run(&["run", "able", "--prompt", prompt]);
        assert_eq!(code(output.status), expected, "{prompt}: {}", shown(&output));
        assert_eq!(output.stdout, b"outa\xff\0\n", "{prompt}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        let own = stderr.strip_prefix("err\n").unwrap_or_else(|| panic!("{stderr}"));
        assert!(
            own.contains(said) && own.is_empty() == (expected == 0),
            "{prompt}: {stderr}"
        );
        assert!(
            own.is_empty() || own.contains("able, isolated by fake"),
            "{stderr}"
        );
    }
    let stderr = place.env.fails(3, &["run", "open", "--prompt", "exit 3"]);
    assert!(stderr.contains("no isolation"), "{stderr}");
    let output = place.env.run(&["run", "able", "--prompt", "big 10000000"]);
    assert!(output.status.success() && output.stdout.len() == 10_000_000);
}

#[test]
fn programs_get_a_line_for_each_thing() {
    let place = Place::new();
    let output = place
        .env
        .run(&["--json", "run", "able", "--set", "a=b", "-p", "exit 3"]);
    assert_eq!(code(output.status), 3);
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let id = "00000000-0000-0000-0000-000000000001";
    assert_eq!(lines[0], json!({ "session_id": id, "agent": "able" }));
    assert_eq!(
        (&lines[2]["output"]["stream"], &lines[2]["output"]["text"]),
        (&json!("stderr"), &json!("err\n"))
    );
    assert_eq!(lines[3]["output"]["base64"], "Yf8ACg==");
    assert_eq!(
        (&lines[4]["ended"]["outcome"]["exit_code"], lines.len()),
        (&json!(3), 5)
    );
    assert_eq!(lines[4]["ended"]["trigger"]["context"], json!({ "a": "b" }));
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        place.env.json(&["sessions", "show", id])["session"],
        lines[4]["ended"]
    );
    let text = place.env.ok(&["sessions", "show", id]);
    assert!(
        text.contains("failed with exit code 3") && text.contains("1.5 s"),
        "{text}"
    );
    let logs = place
        .env
        .run(&["sessions", "logs", "--tail", "1", "--stdout", id]);
    assert_eq!(logs.stdout, b"outa\xff\0\n", "{}", shown(&logs));
    let logs = place.env.ok(&["sessions", "logs", "--json", "--stderr", id]);
    assert_eq!(serde_json::from_str::<Value>(&logs).unwrap()["text"], "err\n");
}

#[test]
fn what_a_runtime_does_not_declare_is_refused() {
    let place = Place::new();
    let stderr = place.env.fails(125, &["run", "mute"]);
    assert!(
        stderr.contains("\"logs\"") && stderr.contains("--detach"),
        "{stderr}"
    );
    assert_eq!(
        place.env.json(&["sessions"])["sessions"],
        json!([]),
        "it was not run"
    );
    let id = place.env.ok(&["run", "--detach", "mute"]);
    let stderr = place.env.fails(1, &["sessions", "logs", id.trim()]);
    assert!(
        stderr.contains("\"fake\"") && stderr.contains("\"logs\""),
        "{stderr}"
    );
    let id = place
        .env
        .ok(&["run", "--detach", "unstoppable", "--prompt", "wait"]);
    let stderr = place.env.fails(1, &["--json", "sessions", "stop", id.trim()]);
    let error: Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(error["error"]["reason"], "unsupported");
    // Ctrl-C says so, too, and goes on.
    let (mut running, _) = place.waiting("unstoppable");
    running.signal(Signal::SIGINT);
    running.wait_stderr("\"stop\"");
    place.fakes.end(OutcomeReason::Completed, Some(0), None);
    assert_eq!(code(running.wait()), 0);
    let text = place.env.ok(&["agents", "--runtimes"]);
    let mute = text.lines().find(|line| line.starts_with("mute")).unwrap();
    assert!(
        mute.contains("isolation, stop") && !mute.contains("logs"),
        "{text}"
    );
}

#[test]
fn an_interrupt_stops_and_a_second_leaves() {
    let place = Place::new();
    let (mut running, _) = place.waiting("able");
    running.signal(Signal::SIGINT);
    running.wait_stdout("bye");
    assert_eq!(code(running.wait()), 130);
    let (mut running, _) = place.waiting("unstoppable");
    running.signal(Signal::SIGTERM);
    running.wait_stderr("once more");
    running.signal(Signal::SIGTERM);
    running.wait_stderr("goes on ending");
    assert_eq!(code(running.wait()), 143);
}

#[test]
fn a_daemon_that_is_away_is_waited_for() {
    let mut place = Place::new();
    let (mut running, id) = place.waiting("able");
    let mut following = place.env.spawn(&["sessions", "logs", "-f", &id]);
    following.wait_stdout("ready");
    place.stop_serving();
    running.wait_stderr("gone away");
    place.serve();
    place.fakes.end(OutcomeReason::Failed, Some(9), None);
    let output = running.output();
    assert_eq!(code(output.status), 9, "{}", shown(&output));
    assert_eq!(output.stdout, b"ready\n", "nothing is shown twice");
    let output = following.output();
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(output.stdout, b"ready\n");
}

#[test]
fn sessions_are_stopped_and_removed() {
    let place = Place::new();
    let id = place.env.ok(&["run", "--detach", "able", "--prompt", "wait"]);
    let id = id.trim();
    let stderr = place.env.fails(1, &["sessions", "rm", id]);
    assert!(stderr.contains("stop it first"), "{stderr}");
    let stopped = place.env.json(&["sessions", "stop", "--reason", "why not", id]);
    assert_eq!(
        (&stopped["stop_requested"], &stopped["phase"]),
        (&json!("why not"), &json!("ENDED"))
    );
    assert!(place.env.ok(&["sessions"]).contains("cancelled"));
    assert_eq!(
        place.env.json(&["sessions", "rm", id]),
        json!({ "removed": [id] })
    );
    let stderr = place.env.fails(1, &["sessions", "show", id]);
    assert!(stderr.contains("`agentd sessions`"), "{stderr}");
    let stderr = place.env.fails(125, &["run", "abel"]);
    assert!(stderr.contains("did you mean \"able\"?"), "{stderr}");
    let stderr = place.env.fails(78, &["reload"]);
    assert!(stderr.contains("nothing was changed"), "{stderr}");
}

#[test]
fn a_plan_for_agents_that_are_not_there_is_not_begun() {
    let place = Place::new();
    for (who, said) in [
        ("agent = 'abel'", "\"abel\""),
        ("prompt = 'p'\ncapabilities = ['gpu']", "\"gpu\""),
    ] {
        let plan = format!("goal = 'g'\n[[nodes]]\nname = 'a'\n{who}\n");
        place.env.write("plan.toml", &plan);
        let stderr = place.env.fails(65, &["task", "run", "plan.toml"]);
        assert!(
            stderr.contains(said) && stderr.contains("agentd reload"),
            "{stderr}"
        );
    }
    assert_eq!(place.env.json(&["task", "list"])["tasks"], json!([]));
    // A daemon without sessions says that it has none.
    let env = TestEnvironment::new();
    env.write("plan.toml", "goal = 'g'\n[[nodes]]\nname = 'a'\nagent = 'able'\n");
    let stderr = env.fails(65, &["task", "run", "plan.toml"]);
    assert!(stderr.contains("\"a\""), "{stderr}");
}
