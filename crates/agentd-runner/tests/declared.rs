//! A runtime's sessions are offered what it declares, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use agentd_config::{Agent, Config, RuntimeKind, parse};
use agentd_protocol::requests::{ListSessions, ReadTranscript, RunAgent, SessionRef, StopSession};
use agentd_protocol::results::{SessionList, TranscriptPage};
use agentd_protocol::{Json, OutcomeReason, RuntimeCapabilities, SessionId, SessionInfo, SessionPhase};
use agentd_runner::runtime::Runtimes;
use agentd_runner::runtime::engine::{
    BoxFuture, Built, Engine, EngineError, Environment, Inside, Owner, Problem, Program, Users,
};
use agentd_runner::session::git::Git;
use agentd_runner::session::state::{Machine, StateDirs};
use agentd_runner::session::upkeep::Limits;
use agentd_runner::session::{SessionError, Sessions, SessionsOptions, SupervisorProgram};
use agentd_store::sqlite::SqliteStore;
use agentd_store::{Query, Store, StoreOptions, SystemClock, ask};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// An engine that can do as much as it is told to declare, and starts nothing.
#[derive(Debug)]
struct Fake(RuntimeCapabilities);

impl Engine for Fake {
    fn capabilities(&self) -> RuntimeCapabilities {
        self.0
    }

    fn check(&self, agent: &Agent) -> Vec<Problem> {
        let limited = agent.pids.is_some() && !self.0.limits;
        let problem = || Problem {
            key: "pids",
            message: "this runtime limits nothing".into(),
            fatal: true,
        };
        limited.then(problem).into_iter().collect()
    }

    fn users(&self, _: &Agent, _: u32, _: Option<&Owner>) -> Result<Users, EngineError> {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        Ok(Users {
            host_uid: uid,
            host_gid: gid,
            inside_uid: uid,
            inside_gid: gid,
            range_start: None,
            shown_as_agent: None,
        })
    }

    fn inside(&self, order: &Environment) -> Inside {
        Inside {
            run_dir: order.dir.run(),
            secrets: order.dir.run().join("secrets"),
            home: order.home.clone(),
            workdir: order.home.clone(),
            path: "/bin".into(),
        }
    }

    fn prepare<'a>(&'a self, _: &'a Environment) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }

    fn unprepare(&self, _: SessionId) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }

    fn launch(&self, _: &Environment, _: &Program) -> Result<Built, EngineError> {
        Err(EngineError::Refused("it starts nothing".into()))
    }

    fn clear(&self, _: SessionId) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }

    fn found(&self) -> BoxFuture<'_, Result<Vec<SessionId>, EngineError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

struct World {
    store: Arc<SqliteStore>,
    sessions: Sessions,
    _dirs: [TempDir; 2],
}

const AGENTS: &str = r#"
[[agents]]
name = "a"
runtime = "process"
harness = "custom"
command = ["true"]
prompt = "p"
[[agents]]
name = "limited"
runtime = "process"
harness = "custom"
command = ["true"]
prompt = "p"
pids = 10
"#;

async fn world(can: RuntimeCapabilities) -> World {
    let dir = tempfile::tempdir().unwrap();
    let place = parse::Place {
        path: Path::new("agentd.toml"),
        dir: dir.path(),
        user_home: None,
    };
    let config: Arc<Config> = Arc::new(agentd_config::parse(AGENTS, place).unwrap());
    let (store, _) = SqliteStore::open(&dir.path().join("db"), StoreOptions::default()).unwrap();
    let store = Arc::new(store);
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let machine = Machine {
        shared_memory: memory.path().to_owned(),
        ..Machine::this(None)
    };
    let again = Arc::clone(&config);
    let runtimes = Runtimes::default().with(RuntimeKind::Process, Arc::new(Fake(can)));
    let instance = uuid::Uuid::new_v4().simple().to_string();
    let options = SessionsOptions {
        store: Arc::clone(&store) as Arc<dyn Store>,
        config,
        reread: Box::new(move || Ok(Arc::clone(&again))),
        config_path: "agentd.toml".into(),
        state: StateDirs::open(&dir.path().join("state"), &instance, &machine).unwrap(),
        secret_dir: dir.path().join("none"),
        runtimes,
        supervisor: SupervisorProgram {
            program: "/nowhere/supervisor".into(),
            args: Vec::new(),
        },
        max_sessions: 10,
        setup_timeout: Duration::from_secs(20),
        lease_secs: 60,
        transcript_bytes: 1 << 20,
        limits: Limits::default(),
        instance,
        clock: Arc::new(SystemClock::default()),
        git: Git::new(
            "git".into(),
            "/usr/bin:/bin".into(),
            Duration::from_secs(20),
            None,
        ),
        tools: agentd_runner::session::tools::ToolsOptions::default(),
        die_at: None,
    };
    World {
        store,
        sessions: Sessions::start(options).await.unwrap(),
        _dirs: [dir, memory],
    }
}

impl World {
    /// Runs a session to its end, which is near: nothing is started.
    async fn ended(&self, agent: &str) -> SessionInfo {
        let request = RunAgent {
            agent: agent.into(),
            prompt: None,
            context: Json::empty_object(),
            idempotency_key: None,
        };
        let session_id = self.sessions.run(request).await.unwrap().session_id;
        let mut head = self.store.journal_head();
        loop {
            let query = Query::GetSession(SessionRef { session_id });
            let info: Box<SessionInfo> = ask(&*self.store, query).await.unwrap();
            if info.phase == SessionPhase::Ended {
                return *info;
            }
            head.changed().await.unwrap();
        }
    }

    async fn transcript(&self, session_id: SessionId) -> Result<TranscriptPage, SessionError> {
        let request = ReadTranscript {
            session_id,
            from_offset: None,
            limit_bytes: None,
            wait_secs: None,
        };
        self.sessions.transcript(request).await
    }

    async fn stop(&self, session_id: SessionId) -> Result<(), SessionError> {
        let request = StopSession {
            session_id,
            grace_secs: None,
            reason: None,
        };
        self.sessions.stop_session(request).await
    }
}

#[track_caller]
fn assert_unsupported<T: std::fmt::Debug>(answer: Result<T, SessionError>, wanted: &str) {
    let error = answer.unwrap_err();
    let SessionError::Unsupported {
        agent,
        runtime,
        capability,
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!((&**agent, &**runtime, *capability), ("a", "process", wanted));
    assert!(error.to_string().contains("declares no"), "{error}");
}

#[tokio::test]
async fn what_is_not_declared_is_refused() {
    let world = world(RuntimeCapabilities::default()).await;
    let id = world.ended("a").await.id;
    assert_unsupported(world.transcript(id).await, "logs");
    assert_unsupported(world.stop(id).await, "stop");
    let agents = world.sessions.agents().agents;
    assert!(
        agents
            .iter()
            .all(|agent| agent.runtime_capabilities == RuntimeCapabilities::default())
    );
    // What its sessions would need is refused before anything of them is there.
    let outcome = world.ended("limited").await.outcome.unwrap();
    assert_eq!(outcome.reason, OutcomeReason::SetupFailed);
    let message = outcome.message.unwrap();
    assert!(
        message.contains("runtime: ") && message.contains("limits nothing"),
        "{message}"
    );
    // They can be listed all the same.
    let query = Query::ListSessions(ListSessions::default());
    let list: SessionList = ask(&*world.store, query).await.unwrap();
    assert_eq!(list.sessions.len(), 2);
    world.sessions.stop().await;
}

#[tokio::test]
async fn what_is_declared_is_not() {
    let world = world(RuntimeCapabilities {
        logs: true,
        stop: true,
        limits: true,
        ..RuntimeCapabilities::default()
    })
    .await;
    for agent in ["a", "limited"] {
        let session = world.ended(agent).await;
        assert!(
            session
                .outcome
                .unwrap()
                .message
                .unwrap()
                .contains("it starts nothing")
        );
        assert_eq!(world.transcript(session.id).await.unwrap().chunks.len(), 0);
        world.stop(session.id).await.unwrap();
    }
    world.sessions.stop().await;
}
