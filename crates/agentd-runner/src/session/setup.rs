//! Building a session's environment, step by step. Each step is a type: the next one can only be made of it, so none can
//! be skipped, and what starts an agent takes the last.
//!
//! ```text
//!   Claimed ─▶ Housed ─▶ Supplied ─▶ Informed ─▶ Equipped ─▶ Briefed ─▶ Ready ─▶ start
//!   users       home      secrets     context,    plugins,    mission,
//!   workspace   identity              skills      tools       prompt
//! ```
//!
//! The container itself is described last, since an engine makes and starts it in one go: a container that is made first
//! and started later costs half as much again. A step that fails says which one it was; taking down is always the whole
//! way, and bears with what is only half there ([`super::teardown`]).

use super::error::StepError;
use super::manager::{Inner, locked};
use super::materials::{self, Materials, Placement};
use super::mission::{self, Subject};
use super::secrets::{self, Delivered, SecretStore};
use super::state::{self, RunDir};
use super::tools::{self, BRIDGE_FILE, CLIENT_FILE, Equipment, Whose};
use super::worktree::{self, NewWorktree};
use super::{blocking, commands, gitconfig, home, own, workspace};
use crate::runtime::engine::{Also, Built, Engine, Environment, Owner, Program, Users};
use agentd_config::{Agent, RuntimeKind, WorkspaceMode};
use agentd_protocol::results::AcquiredNode;
use agentd_protocol::{AgentWork, Json, SessionInfo, Work};
use agentd_store::session::HomeNumber;
use agentd_store::{Command, StoreError, execute};
use agentd_supervisor::dir::SessionDir;
use agentd_supervisor::records::Durability;
use agentd_supervisor::spawn::{self, SpawnError};
use agentd_supervisor::spec::{PROTOCOL_VERSION, Spec, TranscriptLimits};
use agentd_supervisor::tools::{TOKEN_FILE, TOKEN_VARIABLE, ToolsSpec};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is to be built.
pub(super) struct Order {
    pub(super) info: SessionInfo,
    pub(super) agent: Agent,
    pub(super) replica: u32,
    pub(super) node: Option<AcquiredNode>,
    pub(super) dir: SessionDir,
}

/// Why nothing came of it.
pub(super) enum SetUpFailed {
    /// The store does not answer.
    Store(StoreError),
    /// A step did not work.
    Step {
        step: &'static str,
        message: String,
        begun: Instant,
    },
}

/// Which step is under way, and since when.
#[derive(Debug)]
pub(super) struct UnderWay(Mutex<(&'static str, Instant)>);

impl UnderWay {
    pub(super) fn new() -> Self {
        Self(Mutex::new(("identity", Instant::now())))
    }

    pub(super) fn now(&self) -> (&'static str, Instant) {
        *locked(&self.0)
    }

    fn begin(&self, step: &'static str) -> Instant {
        let begun = Instant::now();
        *locked(&self.0) = (step, begun);
        begun
    }
}

/// What every step knows.
struct Site {
    inner: Arc<Inner>,
    order: Order,
    engine: Arc<dyn Engine>,
    home_name: String,
    warnings: Vec<String>,
}

/// Where the agent works.
struct Workspace {
    path: PathBuf,
    // What must be at the same place inside.
    also: Vec<Also>,
}

/// The session has a directory, and it is known who is who.
struct Claimed {
    site: Site,
    users: Users,
    workspace: Option<Workspace>,
}

/// The agent has its home.
struct Housed {
    of: Claimed,
    home: home::Home,
    run: RunDir,
}

/// The agent has its secrets.
struct Supplied {
    of: Housed,
    secrets: Delivered,
}

/// The agent has its context and its skills.
struct Informed {
    of: Supplied,
    materials: Materials,
}

/// The agent has its tools: what its plugins need is there, and they are started before it.
struct Equipped {
    of: Informed,
    equipment: Equipment,
}

/// The agent has its mission: all that it is to know.
struct Briefed {
    tools: ToolsSpec,
    environment: Environment,
    program: Program,
    site: Site,
    run: RunDir,
    timeout: Option<Duration>,
}

/// Complete. All that is left to be done is to begin.
pub(super) struct Ready {
    dir: SessionDir,
    pub(super) warnings: Vec<String>,
}

type Step<T> = Result<T, StepError>;

/// Builds it. `done` is told of each step that worked, and when it began; `under_way` of each that begins.
pub(super) async fn run(
    inner: &Arc<Inner>,
    mut order: Order,
    under_way: &UnderWay,
    done: impl Fn(&'static str, Instant),
) -> Result<Ready, SetUpFailed> {
    if let Some(node) = &mut order.node {
        commands::complete(inner, node)
            .await
            .map_err(SetUpFailed::Store)?;
    }
    let home_name = order.agent.home_name(order.replica);
    let number = Command::NumberHome(home_name.clone());
    let number: HomeNumber = execute(inner.store(), number).await.map_err(SetUpFailed::Store)?;
    let kind = order.agent.runtime;
    let Some(engine) = inner.options.runtimes.get(kind) else {
        return Err(SetUpFailed::Step {
            step: "runtime",
            message: format!("this agentd has no runtime {:?}", kind.as_str()),
            begun: Instant::now(),
        });
    };
    let engine = Arc::clone(engine);
    let site = Site {
        engine: Arc::clone(&engine),
        inner: Arc::clone(inner),
        order,
        home_name,
        warnings: Vec::new(),
    };
    let begun = under_way.begin("runtime");
    if let Err(error) = engine.ready().await {
        return Err(failed("runtime", begun, &error));
    }
    let done = (under_way, done);
    let site = step("runtime", &done, move || site.check()).await?;
    let claimed = step("workspace", &done, move || site.claim(number.number)).await?;
    let housed = step("identity", &done, move || claimed.house()).await?;
    let supplied = step("credentials", &done, move || housed.supply()).await?;
    let informed = step("context", &done, move || supplied.inform()).await?;
    let equipped = step("plugins", &done, move || informed.equip()).await?;
    let briefed = step("mission", &done, move || equipped.brief()).await?;
    let begun = under_way.begin("container");
    if let Err(error) = engine.prepare(&briefed.environment).await {
        return Err(failed("container", begun, &error));
    }
    step("container", &done, move || briefed.describe()).await
}

async fn step<T: Send + 'static>(
    step: &'static str,
    (under_way, done): &(&UnderWay, impl Fn(&'static str, Instant)),
    work: impl FnOnce() -> Step<T> + Send + 'static,
) -> Result<T, SetUpFailed> {
    let begun = under_way.begin(step);
    match blocking(work).await {
        Ok(built) => {
            done(step, begun);
            Ok(built)
        }
        Err(error) => Err(failed(step, begun, &error)),
    }
}

fn failed(step: &'static str, begun: Instant, error: &dyn std::error::Error) -> SetUpFailed {
    SetUpFailed::Step {
        step,
        message: error.to_string(),
        begun,
    }
}

impl Site {
    fn check(self) -> Step<Self> {
        let problems = self.engine.check(&self.order.agent);
        match problems.into_iter().find(|problem| problem.fatal) {
            Some(problem) => {
                let message = format!("{}: {}", problem.key, problem.message);
                Err(StepError::declaration(message))
            }
            None => Ok(self),
        }
    }

    fn claim(mut self, home_number: u32) -> Step<Claimed> {
        let options = &self.inner.options;
        let agent = &self.order.agent;
        options.state.make_session(self.order.info.id)?;
        self.inner.point("setup.directory");
        let owner = workspace::find(agent)?;
        if let Some((_, error)) = own::examine(agent, &own_files(&self.inner)).into_iter().next() {
            return Err(error);
        }
        let users = self
            .engine
            .users(agent, home_number, owner.as_ref())
            .map_err(|error| StepError::declaration(error.to_string()))?;
        let base = match &self.order.node {
            Some(node) => base_branch(node, &mut self.warnings)?,
            None => None,
        };
        if base.is_some() && (owner.is_none() || agent.workspace_mode != WorkspaceMode::Worktree) {
            return Err(StepError::declaration(format!(
                "the node is to begin at another's branch (base), and agent {} works in no worktree; add workspace_mode = \
                 \"worktree\"",
                agent.name
            )));
        }
        let workspace = match (owner, agent.workspace_mode) {
            (None, _) => None,
            (Some(owner), WorkspaceMode::Directory) => Some(Workspace {
                path: owner.path,
                also: Vec::new(),
            }),
            (Some(owner), WorkspaceMode::Worktree) => Some(self.worktree(&owner, &users, base.as_deref())?),
        };
        Ok(Claimed {
            site: self,
            users,
            workspace,
        })
    }

    fn worktree(&mut self, workspace: &Owner, users: &Users, base: Option<&str>) -> Step<Workspace> {
        let session = self.order.info.id;
        let agent = &self.order.agent.name;
        let worktree = self.inner.worktrees().install(&NewWorktree {
            session,
            agent,
            workspace,
            user: users.of_worktree(),
            home: &self.inner.options.state.home(&self.home_name),
            base,
        })?;
        if worktree.branch != worktree::branch_name(agent, session) {
            self.warnings.push(format!(
                "another branch is in the way of agentd/{agent}/…; the session's is called {}",
                worktree.branch
            ));
        }
        Ok(Workspace {
            also: worktree.also(),
            path: worktree.path,
        })
    }
}

impl Claimed {
    fn house(mut self) -> Step<Housed> {
        let state = &self.site.inner.options.state;
        let home = home::prepare(state, &self.site.home_name, &self.users)?;
        home::check_quota(&home.path, &self.site.order.agent)?;
        self.site.warnings.extend(home.warnings.iter().cloned());
        let run = state.make_run(&self.site.order.dir, &self.users)?;
        Ok(Housed { of: self, home, run })
    }
}

impl Housed {
    fn supply(mut self) -> Step<Supplied> {
        let site = &mut self.of.site;
        let options = &site.inner.options;
        let store = SecretStore::new(options.secret_dir.clone());
        let secrets = secrets::deliver(
            &store,
            &site.order.agent.credentials,
            &self.of.users,
            &options.state,
            site.order.info.id,
        )?;
        site.warnings.extend(secrets.warnings.iter().cloned());
        Ok(Supplied { of: self, secrets })
    }
}

impl Supplied {
    fn inform(mut self) -> Step<Informed> {
        let site = &mut self.of.of.site;
        let materials = materials::collect(&site.order.agent)?;
        let (placement, mount_points): (_, &[&str]) = match site.order.agent.runtime {
            RuntimeKind::Podman => (Placement::Mounted, &["init", BRIDGE_FILE]),
            RuntimeKind::Process => (Placement::Linked, &[]),
        };
        materials::put_up(&self.of.run, &materials, placement, mount_points)?;
        site.warnings.extend(materials.warnings.iter().cloned());
        Ok(Informed { of: self, materials })
    }
}

impl Informed {
    fn equip(mut self) -> Step<Equipped> {
        let Housed { of, run, .. } = &mut self.of.of;
        let (users, site) = (of.users, &mut of.site);
        let options = &site.inner.options;
        if site.order.agent.runtime == RuntimeKind::Process && !options.tools.bridge.as_os_str().is_empty() {
            run.link(BRIDGE_FILE, &options.tools.bridge)?;
        }
        let own = (rustix::process::geteuid(), rustix::process::getegid());
        let owner = (users.host_uid, users.host_gid);
        let whose = Whose {
            agent: &site.order.agent,
            home_name: &site.home_name,
            session: site.order.info.id,
            owner: Some(owner).filter(|&owner| owner != (own.0.as_raw(), own.1.as_raw())),
            start_max: options.setup_timeout,
        };
        let store = SecretStore::new(options.secret_dir.clone());
        let equipment = tools::equip(
            &site.inner.config(),
            &options.tools,
            &store,
            &options.state,
            &whose,
        )?;
        site.warnings.extend(equipment.warnings.iter().cloned());
        Ok(Equipped { of: self, equipment })
    }
}

impl Equipped {
    fn brief(self) -> Step<Briefed> {
        let Self { of, equipment } = self;
        let Informed { of, materials } = of;
        let Supplied { of, secrets } = of;
        let Housed { of, home, run } = of;
        let Claimed {
            site,
            users,
            workspace,
        } = of;
        let order = &site.order;
        let work = order
            .node
            .as_ref()
            .and_then(|node| node.context.node.work.as_ref());
        let work = match work {
            Some(agentd_protocol::Work::Agent(work)) => Some(work),
            _ => None,
        };
        let subject = Subject {
            agent: &order.agent,
            home_name: &site.home_name,
            replica: order.replica,
            session: order.info.id,
            trigger: &order.info.trigger,
            node: order.node.as_ref(),
        };
        let given = work
            .and_then(|work| work.prompt.as_deref())
            .or(order.info.prompt.as_deref());
        let node = order.node.as_ref();
        let command = node.and_then(|node| Some((node, commands::of(node)?)));
        let prompt = match command {
            Some(_) => None,
            None => mission::prompt(given, &subject)?,
        };
        mission::write(&run, &subject, prompt.as_deref())?;
        let environment = Environment {
            session: order.info.id,
            instance: site.inner.options.instance.clone(),
            agent: order.agent.clone(),
            home_name: site.home_name.clone(),
            dir: order.dir.clone(),
            home: home.path,
            secrets: secrets.dir,
            also: workspace
                .as_ref()
                .map(|workspace| workspace.also.clone())
                .unwrap_or_default(),
            workspace: workspace.map(|workspace| workspace.path),
            read: match node {
                Some(node) => commands::read(node, &own_files(&site.inner))?,
                None => Vec::new(),
            },
            begin_in: command.map(|(_, work)| PathBuf::from(&work.cwd)),
            context: materials.context,
            skills: materials.skills,
            users,
        };
        let inside = site.engine.inside(&environment);
        let run_dir = inside.run_dir.to_str().ok_or_else(|| {
            StepError::machine(format!(
                "{} is not UTF-8; agentd's directories must be",
                inside.run_dir.display()
            ))
        })?;
        run.write(CLIENT_FILE, &tools::client_config(run_dir), 0o600)?;
        let git_config = gitconfig::text(&site.home_name, &inside);
        run.write(gitconfig::GIT_CONFIG_FILE, git_config.as_bytes(), 0o600)?;
        let mut argv = match command {
            Some((_, work)) => work.argv.clone(),
            None => order.agent.command.clone(),
        };
        argv.extend(
            prompt
                .as_deref()
                .map(|prompt| mission::prompt_argument(prompt, &inside.run_dir)),
        );
        let mut env = home::environment(home::Whose {
            inside: &inside,
            agent: &order.agent,
            home_name: &site.home_name,
            session: order.info.id,
            has_prompt: prompt.is_some(),
        })?;
        if let Some((node, work)) = command {
            let (home, users) = (&environment.home, &environment.users);
            env.extend(commands::supply(order, node, work, &run, home, users, &inside)?);
        }
        let mut secret_env = secrets.variables;
        match site.order.agent.runtime {
            // In the launch file, which the agent alone reads.
            RuntimeKind::Podman => drop(env.insert(TOKEN_VARIABLE.into(), equipment.token.expose().into())),
            // Its supervisor has it.
            RuntimeKind::Process => drop(secret_env.insert(TOKEN_VARIABLE.into(), TOKEN_FILE.into())),
        }
        let program = Program {
            argv,
            env,
            secret_env,
        };
        let of_node = work
            .and_then(|work| work.timeout_secs)
            .map(|secs| Duration::from_millis(secs.ms));
        let timeout = of_node.or(order.agent.timeout);
        Ok(Briefed {
            tools: equipment.spec,
            environment,
            program,
            site,
            run,
            timeout,
        })
    }
}

impl Briefed {
    fn describe(self) -> Step<Ready> {
        let site = self.site;
        let Built { launch, files } = site
            .engine
            .launch(&self.environment, &self.program)
            .map_err(|error| StepError::declaration(error.to_string()))?;
        for (name, content) in files {
            self.run.write(&name.to_string_lossy(), &content, 0o400)?;
        }
        let options = &site.inner.options;
        let half = options.transcript_bytes / 2;
        let spec = Spec {
            version: PROTOCOL_VERSION,
            session_id: self.environment.session,
            launch,
            timeout_ms: self.timeout.map(millis),
            grace_ms: millis(site.order.agent.grace_period),
            start_timeout_ms: millis(options.setup_timeout),
            secrets_dir: self.environment.secrets,
            transcript: TranscriptLimits {
                head_bytes: half,
                tail_bytes: half,
            },
            tools: Some(self.tools),
        };
        state::replace(
            &site.order.dir.spec(),
            &serde_json::to_vec(&spec).unwrap_or_default(),
            // No supervisor outlives the machine's end, and none is started with orders from before it.
            Durability::Kernel,
        )?;
        Ok(Ready {
            dir: site.order.dir,
            warnings: site.warnings,
        })
    }
}

impl Ready {
    /// Hands it to a supervisor. The session's STARTING must be durable.
    pub(super) async fn start(&self, inner: &Inner) -> Result<(), SpawnError> {
        let program = inner.options.supervisor.clone();
        let dir = self.dir.clone();
        let spawned = blocking(move || spawn::spawn(&program.program, &program.args, &dir)).await?;
        tokio::spawn(spawned.reaped());
        Ok(())
    }
}

/// The branch that a node's worktree begins from: that of the needed node which its plan names, unless that is merged.
fn base_branch(node: &AcquiredNode, warnings: &mut Vec<String>) -> Step<Option<String>> {
    let context = &node.context;
    let Some(Work::Agent(AgentWork { base: Some(base), .. })) = &context.node.work else {
        return Ok(None);
    };
    let needed = context
        .completed_dependencies
        .iter()
        .find(|needed| needed.name.as_ref() == Some(base));
    let result = needed.and_then(|needed| needed.result_payload.as_ref());
    let Some(result) = result.map(Json::to_value) else {
        return Err(StepError::declaration(format!(
            "base = {base:?}: the node does not depend on a node of this name that has a result"
        )));
    };
    if let Some(count) = result["uncommitted"].as_u64() {
        warnings.push(format!(
            "base = {base:?}: that node left {count} changed paths uncommitted, which no branch has; uncommitted = \"commit\" of \
             its agent commits them"
        ));
    }
    if result["merged"] == true {
        return Ok(None);
    }
    Ok(result["branch"].as_str().map(str::to_owned))
}

fn own_files(inner: &Inner) -> [&Path; 2] {
    [inner.options.state.root(), &inner.options.secret_dir]
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
