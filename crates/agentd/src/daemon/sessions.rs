//! Where sessions are put together: the runner's [`Sessions`] from the settings, and the server's view of them.

use crate::settings::{Environment, Settings};
use agentd_api::{Sessions as Asked, SessionsError, SessionsResult};
use agentd_config::{Agent, Config, RuntimeKind};
use agentd_protocol::SessionInfo;
use agentd_protocol::requests::{
    ListSessions, NoParams, PruneWorktrees, ReadTranscript, RunAgent, SessionRef, StopSession,
};
use agentd_protocol::results::{
    AgentList, Ok as Done, PrunedWorktrees, QueuedSession, Reloaded, RemovedSession, SessionList,
    TranscriptPage, WorktreeList,
};
use agentd_runner::inside::{install_bridge, install_init};
use agentd_runner::runtime::Runtimes;
use agentd_runner::runtime::engine::EngineError;
use agentd_runner::runtime::podman::{Podman, PodmanSettings};
use agentd_runner::runtime::process::Process;
use agentd_runner::session::git::Git;
use agentd_runner::session::state::{Machine, StateDirs};
use agentd_runner::session::tools::ToolsOptions;
use agentd_runner::session::upkeep::Limits;
use agentd_runner::session::{SessionError, Sessions, SessionsOptions, SupervisorProgram};
use agentd_store::session::InstanceId;
use agentd_store::{BoxFuture, Command, Query, Store, SystemClock, ask};
use agentd_supervisor::wire::Versions;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long one git command may take that works on a worktree.
const GIT_TIMEOUT: Duration = Duration::from_secs(120);
/// The sub-command that is a session's supervisor; it is not meant for people.
pub(crate) const SUPERVISOR_COMMAND: &str = "__session";

/// Puts them together, and goes on with those that an earlier daemon left. Nobody may acquire a node before.
///
/// # Errors
/// What is in the way, for people.
pub(crate) async fn start(
    settings: &Arc<Settings>,
    environment: &Environment,
    store: Arc<dyn Store>,
) -> Result<Sessions, String> {
    let instance: InstanceId = ask(&*store, Query::InstanceId(NoParams {}))
        .await
        .map_err(|error| error.to_string())?;
    let text = |name: &str| {
        environment
            .get(name)
            .and_then(|value| value.to_str())
            .map(str::to_owned)
    };
    let machine = Machine::this(text("XDG_RUNTIME_DIR").map(PathBuf::from));
    let state = StateDirs::open(&settings.home, &instance.id, &machine).map_err(|error| error.to_string())?;
    let runtimes =
        runtimes(settings, environment, &instance.id, Some(&state)).map_err(|error| error.to_string())?;
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let reread = Arc::clone(settings);
    let config_path = match &settings.config_path {
        Some(path) => path.display().to_string(),
        None => settings.home.join("agentd.toml").display().to_string(),
    };
    let options = SessionsOptions {
        store,
        config: Arc::clone(&settings.config),
        reread: Box::new(move || reread.reload_config().map_err(|error| error.to_string())),
        config_path,
        state: state.clone(),
        secret_dir: settings.secret_dir.clone(),
        runtimes,
        supervisor: SupervisorProgram {
            program: program.clone(),
            args: supervisor_args(text("AGENTD_TEST_SUPERVISOR_VERSIONS").as_deref()),
        },
        max_sessions: settings.max_sessions,
        setup_timeout: settings.setup_timeout,
        lease_secs: settings.node_timeout_secs,
        transcript_bytes: settings.transcript_bytes,
        limits: Limits {
            session_retention: Some(settings.session_retention).filter(|kept| !kept.is_zero()),
            transcript_quota_bytes: Some(settings.transcript_quota_bytes),
        },
        instance: instance.id,
        clock: Arc::new(SystemClock::default()),
        git: git(environment),
        tools: ToolsOptions {
            agentd: vec![program_text(&program)?],
            socket: settings.socket.clone(),
            path: text("PATH").unwrap_or_default(),
            bridge: install_bridge(&state.bin()).map_err(|error| error.to_string())?,
        },
        die_at: if cfg!(debug_assertions) {
            text("AGENTD_TEST_DIE_AT")
        } else {
            None
        },
    };
    number_homes(&*options.store, &options.config).await;
    Sessions::start(options).await.map_err(|error| error.to_string())
}

/// Git as sessions run it, and as `check` asks it.
pub(crate) fn git(environment: &Environment) -> Git {
    let path = environment.get("PATH").map(Into::into).unwrap_or_default();
    let home = environment.get("HOME").map(PathBuf::from);
    Git::new("git".into(), path, GIT_TIMEOUT, home)
}

/// The homes of an agent that a root daemon runs as a user who must be let into its workspace. They are numbered before
/// the agent is first run, in the order of agentd.toml: so `agentd check` can tell what the user is to be.
pub(crate) fn homes_with_users(agent: &Agent) -> impl Iterator<Item = String> {
    let has_user = nix::unistd::geteuid().is_root()
        && agent.runtime == RuntimeKind::Process
        && agent.workspace.is_some();
    let replicas = if has_user { agent.replicas } else { 0 };
    (0..replicas).map(|replica| agent.home_name(replica))
}

async fn number_homes(store: &dyn Store, config: &Config) {
    let mut tickets = Vec::new();
    for home in config.agents.iter().flat_map(homes_with_users) {
        match store.submit(Command::NumberHome(home)).await {
            Ok(ticket) => tickets.push(ticket),
            Err(error) => return tracing::warn!("homes cannot be numbered: {error}"),
        }
    }
    for ticket in tickets {
        // One that has no number now asks for it again when it is run, and fails then.
        if let Err(error) = ticket.await {
            return tracing::warn!("a home cannot be numbered: {error}");
        }
    }
}

fn program_text(program: &Path) -> Result<String, String> {
    let text = program.to_str().map(str::to_owned);
    text.ok_or_else(|| format!("this program's path {} is not UTF-8", program.display()))
}

// For tests of what happens between versions there may be the supervisor's newest and oldest: `2 1`.
fn supervisor_args(versions: Option<&str>) -> Vec<OsString> {
    let versions = versions.filter(|_| cfg!(debug_assertions)).unwrap_or_default();
    let words = std::iter::once(SUPERVISOR_COMMAND).chain(versions.split_whitespace());
    words.map(OsString::from).collect()
}

/// The versions that a supervisor is to speak instead of its own: what stands between its command and its directory,
/// for tests.
pub(crate) fn other_versions(args: impl Iterator<Item = OsString>) -> Option<Versions> {
    let mut numbers = args.filter_map(|arg| arg.to_str()?.parse().ok());
    let (current, oldest) = (numbers.next()?, numbers.next()?);
    cfg!(debug_assertions).then_some(Versions { current, oldest })
}

/// The kinds of runtimes that this daemon has. Without `state` they can check declarations, and start nothing.
///
/// # Errors
/// When what they need cannot be written.
pub(crate) fn runtimes(
    settings: &Settings,
    environment: &Environment,
    instance: &str,
    state: Option<&StateDirs>,
) -> Result<Runtimes, EngineError> {
    let (init, bridge) = match state {
        Some(state) => (install_init(&state.bin())?, install_bridge(&state.bin())?),
        None => Default::default(),
    };
    let (euid, egid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let podman = Podman::new(PodmanSettings {
        command: settings.podman.clone(),
        instance: instance.to_owned(),
        euid,
        egid,
        environment: PodmanSettings::environment_of(environment.variables()),
        init,
        bridge,
        mounts: settings.home.join("mounts"),
        id_range_start: settings.id_range_start,
        call_timeout: PodmanSettings::CALL_TIMEOUT_DEFAULT,
    });
    let process = Process {
        euid,
        egid,
        id_range_start: settings.id_range_start,
        state: settings.home.clone(),
        path: environment
            .get("PATH")
            .and_then(|path| path.to_str())
            .map(str::to_owned),
    };
    Ok(Runtimes::default()
        .with(RuntimeKind::Podman, Arc::new(podman))
        .with(RuntimeKind::Process, Arc::new(process)))
}

/// The server's view.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) sessions: Sessions,
    pub(crate) store: Arc<dyn Store>,
}

impl Asked for Served {
    fn run(&self, params: RunAgent) -> BoxFuture<'_, SessionsResult<QueuedSession>> {
        Box::pin(async move { self.sessions.run(params).await.map_err(said) })
    }

    fn agents(&self) -> BoxFuture<'_, SessionsResult<AgentList>> {
        Box::pin(async move { Ok(self.sessions.agents()) })
    }

    fn list(&self, params: ListSessions) -> BoxFuture<'_, SessionsResult<SessionList>> {
        Box::pin(async move { Ok(ask(&*self.store, Query::ListSessions(params)).await?) })
    }

    fn get(&self, params: SessionRef) -> BoxFuture<'_, SessionsResult<SessionInfo>> {
        Box::pin(async move {
            let info: Box<SessionInfo> = ask(&*self.store, Query::GetSession(params)).await?;
            Ok(*info)
        })
    }

    fn stop(&self, params: StopSession) -> BoxFuture<'_, SessionsResult<Done>> {
        Box::pin(async move {
            self.sessions
                .stop_session(params)
                .await
                .map_err(said)
                .map(|()| Done { ok: true })
        })
    }

    fn remove(&self, params: SessionRef) -> BoxFuture<'_, SessionsResult<RemovedSession>> {
        Box::pin(async move { self.sessions.remove(params).await.map_err(said) })
    }

    fn worktrees(&self) -> BoxFuture<'_, SessionsResult<WorktreeList>> {
        Box::pin(async { self.sessions.worktrees().await.map_err(said) })
    }

    fn prune_worktrees(&self, params: PruneWorktrees) -> BoxFuture<'_, SessionsResult<PrunedWorktrees>> {
        Box::pin(async move { self.sessions.prune_worktrees(params).await.map_err(said) })
    }

    fn transcript(&self, params: ReadTranscript) -> BoxFuture<'_, SessionsResult<TranscriptPage>> {
        Box::pin(async move { self.sessions.transcript(params).await.map_err(said) })
    }

    fn reload(&self) -> BoxFuture<'_, SessionsResult<Reloaded>> {
        Box::pin(async move {
            let reloaded = self.sessions.reload().await.map_err(said)?;
            number_homes(&*self.store, &self.sessions.config()).await;
            Ok(reloaded)
        })
    }
}

fn said(error: SessionError) -> SessionsError {
    match error {
        SessionError::AgentNotFound { name, declared, .. } => {
            SessionsError::agent_not_found(&name, declared.iter().map(String::as_str))
        }
        SessionError::Unsupported {
            agent,
            runtime,
            capability,
        } => SessionsError::Undeclared {
            agent,
            runtime,
            capability,
        },
        SessionError::Config(why) => SessionsError::BadConfig(why),
        SessionError::Store(error) => SessionsError::Store(error),
        other => SessionsError::Internal(other.to_string()),
    }
}
