//! Sessions as plain processes: the least that works everywhere.
//!
//! No wall is around them. An ordinary user's agents are that user; a root daemon runs each home's under an id of its
//! own, so that they cannot read each other's homes and secrets, and what they leave can be found by that id. What a
//! container has at fixed places is where it is on the host, and the environment names the places.
//!
//! A root daemon's agents have to be able to walk to their homes and run directories: the state directory and what is
//! between it and them need mode 0711 (others can then pass, and list nothing), and so does everything above it.

use super::engine::{
    BoxFuture, Built, Engine, EngineError, Environment, Inside, Owner, Problem, Program, Users,
};
use super::users::{AGENT_ID, range_start};
use super::{closed_above, grant, opening, single_user, sweep};
use agentd_config::{Agent, Network, WorkspaceMode};
use agentd_protocol::{RuntimeCapabilities, SessionId};
use agentd_supervisor::access::{self, Want};
use agentd_supervisor::spec::{Launch, ProcessLaunch};
use std::path::PathBuf;

/// Where a program without a `/` is looked for.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Plain processes.
#[derive(Clone, Debug)]
pub struct Process {
    /// The daemon's user; 0 for root.
    pub euid: u32,
    /// The daemon's group.
    pub egid: u32,
    /// The first user id of the ranges that a root daemon gives to homes.
    pub id_range_start: u32,
    /// The directory that homes and sessions are in.
    pub state: PathBuf,
    /// The daemon's own `PATH`.
    pub path: Option<String>,
}

impl Process {
    fn is_root(&self) -> bool {
        self.euid == 0
    }

    fn path(&self) -> &str {
        self.path.as_deref().unwrap_or(PATH_DEFAULT)
    }
}

impl Engine for Process {
    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities {
            isolation: false,
            network_policy: false,
            limits: false,
            logs: true,
            stop: true,
            adopt: true,
            attach: false,
            exec: false,
            files: false,
            resume: false,
        }
    }

    fn check(&self, agent: &Agent) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |key, fatal, message: String| problems.push(Problem { key, message, fatal });
        if agent.network != Network::Host {
            add(
                "network",
                true,
                "a process has its user's network: say network = \"host\", or choose the runtime podman"
                    .into(),
            );
        }
        for (key, said) in [
            ("image", agent.image.is_some()),
            ("oci_runtime", agent.oci_runtime.is_some()),
            ("workdir", agent.workdir.is_some()),
        ] {
            if said {
                add(key, true, format!("a process has no {key}: only containers do"));
            }
        }
        for (key, said) in [
            ("memory", agent.memory_bytes.is_some()),
            ("cpus", agent.cpus.is_some()),
        ] {
            if said {
                add(
                    key,
                    false,
                    "it has no effect on a process: only containers are limited".into(),
                );
            }
        }
        if agent.pids.is_some() && !self.is_root() {
            add(
                "pids",
                false,
                "it has no effect: an ordinary user's agents share that user's own limit".into(),
            );
        }
        if self.is_root() {
            // What is in it is made as it has to be when a daemon starts. All homes' users are alike to what is above.
            let user = single_user(self.id_range_start.saturating_add(AGENT_ID));
            let closed = closed_above(&self.state, &user);
            if let Some(dir) = closed.first() {
                add(
                    "runtime",
                    true,
                    format!(
                        "agents run as users of their own, who may not walk through {} to their homes; `{}` lets them, \
                         or keep agentd's state elsewhere",
                        dir.display(),
                        opening(&closed)
                    ),
                );
            }
        }
        problems
    }

    fn users(
        &self,
        agent: &Agent,
        home_number: u32,
        workspace: Option<&Owner>,
    ) -> Result<Users, EngineError> {
        let users = if self.is_root() {
            let start = range_start(self.id_range_start, home_number)?;
            same(start + AGENT_ID, start + AGENT_ID, Some(start))
        } else {
            same(self.euid, self.egid, None)
        };
        // A worktree is made for the agent's own user; the workspace itself is not written to by it.
        let Some(owner) = workspace.filter(|_| agent.workspace_mode == WorkspaceMode::Directory) else {
            return Ok(users);
        };
        let user = self.is_root().then(|| single_user(users.host_uid));
        let Err(denied) = access::ask(&owner.path, user.as_ref(), Want::Write) else {
            return Ok(users);
        };
        let advice = match user {
            Some(user) => grant::advice(&denied, &owner.path, user.uid, Want::Write, self.path()),
            None => "run agentd as its owner, or as root with the runtime podman".into(),
        };
        Err(EngineError::Refused(format!(
            "the workspace {} belongs to user {}, and the agent's user {} {denied}; {advice}",
            owner.path.display(),
            owner.uid,
            users.host_uid
        )))
    }

    fn inside(&self, order: &Environment) -> Inside {
        Inside {
            run_dir: order.dir.run(),
            // An agent that gets no secrets finds an empty place, as in a container.
            secrets: order
                .secrets
                .clone()
                .unwrap_or_else(|| order.dir.run().join("secrets")),
            home: order.home.clone(),
            workdir: order
                .begin_in
                .as_ref()
                .or(order.workspace.as_ref())
                .unwrap_or(&order.home)
                .clone(),
            path: self.path().to_owned(),
        }
    }

    fn prepare<'a>(&'a self, _environment: &'a Environment) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }

    fn unprepare(&self, _session: SessionId) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }

    fn launch(&self, environment: &Environment, program: &Program) -> Result<Built, EngineError> {
        let users = environment.users;
        let launch = ProcessLaunch {
            argv: program.argv.clone(),
            env: program.env.clone(),
            secret_env: program.secret_env.clone(),
            cwd: self.inside(environment).workdir,
            user: self.is_root().then_some((users.host_uid, users.host_gid)),
            pids: self.is_root().then(|| processes_max(&environment.agent)),
        };
        Ok(Built {
            launch: Launch::Process(launch),
            files: Vec::new(),
        })
    }

    fn clear(&self, session: SessionId) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(sweep::kill_marked(session))
    }

    /// Processes are found by session, not the other way round.
    fn found(&self) -> BoxFuture<'_, Result<Vec<SessionId>, EngineError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// The kernel counts processes by user, and sessions in the same home have the same one: as many sessions as a replica has
/// at once must find room for what each of them may have.
fn processes_max(agent: &Agent) -> u64 {
    let at_once = agent.max_sessions.div_ceil(agent.replicas.max(1)).max(1);
    u64::from(agent.pids.unwrap_or(Agent::PIDS_DEFAULT)) * u64::from(at_once)
}

fn same(uid: u32, gid: u32, range_start: Option<u32>) -> Users {
    Users {
        host_uid: uid,
        host_gid: gid,
        inside_uid: uid,
        inside_gid: gid,
        range_start,
        shown_as_agent: None,
    }
}
