//! Sessions in containers of Podman's, hardened: no capability, no new privilege, a read-only root, a user namespace
//! (or, for gVisor with the host's network, gVisor's own wall), limits on memory and processes.
//!
//! # Who is who
//!
//! Inside, the agent is user 1000 (as far as the engine can do it), and nobody else is there.
//!
//! | agentd is | the agent is on the host | a workspace of user W's |
//! |---|---|---|
//! | an ordinary user | that user | is that user's, or can be written by it |
//! | root | the 1,000th id of its home's own range | is mounted so that what is W's appears as the agent's |
//! | root, and the file system cannot do that | W itself, so W's agents are not separated by their ids | is as it is |
//!
//! Nothing of a user's is ever chowned. A workspace of root's needs `allow_root_workspace`, since what the agent makes
//! there is root's on disk, set-uid programs included.
//!
//! # What is left behind, and found again
//!
//! Containers carry this agentd's name and their session's in labels, and the session's in their name. Mounts lie below
//! one directory, by session. No state is keyed by a container's id.

mod arguments;
mod call;
mod check;
mod clear;
mod facts;

use super::engine::{
    BoxFuture, Built, Engine, EngineError, Environment, Inside, Owner, Problem, Program, Users,
};
use super::mapped;
use super::users::{AGENT_ID, range_start};
use crate::inside;
use agentd_config::{Agent, Network};
use agentd_protocol::{RuntimeCapabilities, SessionId};
use agentd_supervisor::access::{self, Want};
use agentd_supervisor::spec::{ContainerLaunch, Launch};
pub use facts::Facts;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::time::Duration;

const RUN_DIR: &str = "/run/agentd";
const SECRETS_DIR: &str = "/run/secrets";
const CONTEXT_DIR: &str = "/run/agentd/context";
const SKILLS_DIR: &str = "/run/agentd/skills";
const INIT_FILE: &str = "/run/agentd/init";
const BRIDGE_FILE: &str = "/run/agentd/mcp";
/// Where a workspace is inside unless the agent says otherwise.
pub const WORKDIR_DEFAULT: &str = "/workspace";
/// Where a session has something of its own, so that what an image has there is not seen.
pub const PLACES: [&str; 8] = [
    "/dev",
    "/proc",
    "/sys",
    "/run",
    "/tmp",
    "/var/tmp",
    "/home",
    WORKDIR_DEFAULT,
];
const PATH_INSIDE: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The label that says which agentd a container belongs to.
pub const LABEL_INSTANCE: &str = "agentd.instance";
/// The label that says which session a container is.
pub const LABEL_SESSION: &str = "agentd.session";

/// gVisor's own threads count as processes.
const GVISOR_PIDS_MIN: u32 = 64;

/// What the engine needs to know.
#[derive(Clone, Debug)]
pub struct PodmanSettings {
    /// Its program and the arguments that come before its command.
    pub command: Vec<String>,
    /// Which agentd this is.
    pub instance: String,
    /// The daemon's user; 0 for root.
    pub euid: u32,
    /// The daemon's group.
    pub egid: u32,
    /// The environment of its calls: see [`PodmanSettings::environment_of`].
    pub environment: BTreeMap<String, String>,
    /// Where [`inside::install_init`] has put the init.
    pub init: PathBuf,
    /// Where [`inside::install_bridge`] has put the bridge.
    pub bridge: PathBuf,
    /// The directory for mounts of workspaces. No other thing lies in it, and it is never removed recursively.
    pub mounts: PathBuf,
    /// The first user id of the ranges that a root daemon gives to homes.
    pub id_range_start: u32,
    /// How long one call may take.
    pub call_timeout: Duration,
}

impl PodmanSettings {
    /// What a call may take when nothing else is said. Removing a container whose monitor was killed takes two
    /// seconds.
    pub const CALL_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

    /// What the engine gets of the daemon's environment. It does not get what systemd gave to the daemon: with
    /// `INVOCATION_ID` the monitor would share the daemon's cgroup and be killed with it.
    #[must_use]
    pub fn environment_of(
        daemon: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> BTreeMap<String, String> {
        let wanted = |name: &str| {
            let names = [
                "PATH",
                "HOME",
                "USER",
                "LOGNAME",
                "TMPDIR",
                "LANG",
                "DBUS_SESSION_BUS_ADDRESS",
            ];
            let prefixes = ["XDG_", "CONTAINERS_", "STORAGE_"];
            names.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
        };
        let text = daemon
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        text.filter(|(name, _)| wanted(name)).collect()
    }
}

/// Podman.
#[derive(Debug)]
pub struct Podman {
    settings: PodmanSettings,
    init: PathBuf,
    /// Why they are not known, otherwise.
    facts: RwLock<Result<Facts, String>>,
    looking: tokio::sync::Mutex<()>,
}

/// gVisor's runtime on this machine.
struct Gvisor {
    program: String,
}

/// The name of a session's container. Ids are random, so nobody else's has it.
#[must_use]
pub fn container_name(session: SessionId) -> String {
    format!("agentd-{session}")
}

impl Podman {
    /// An engine that has not been looked at yet: see [`Podman::probe`].
    #[must_use]
    pub fn new(settings: PodmanSettings) -> Self {
        Self {
            init: settings.init.clone(),
            settings,
            facts: RwLock::new(Err("it has not been looked at yet".into())),
            looking: tokio::sync::Mutex::default(),
        }
    }

    /// Finds out what the engine is and can do on this machine. Worth doing again after a change of configuration.
    ///
    /// # Errors
    /// When it cannot be used.
    pub async fn probe(&self) -> Result<Facts, EngineError> {
        let facts = self.look().await;
        let kept = facts.as_ref().map(Clone::clone).map_err(ToString::to_string);
        // Nobody panics while holding it.
        *self
            .facts
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = kept;
        facts
    }

    async fn look(&self) -> Result<Facts, EngineError> {
        let info = self.call(&["info", "--format", "json"]).await?;
        let networks = self.call(&["network", "ls", "--format", "{{.Name}}"]).await?;
        let facts = Facts::parse(&info, &networks).map_err(|error| EngineError::Failed {
            program: self.program().into(),
            message: format!("what `info` wrote cannot be understood: {error}"),
        })?;
        Ok(Facts {
            hybrid_cgroups: Path::new("/sys/fs/cgroup/unified").is_dir(),
            ..facts
        })
    }

    fn facts(&self) -> Result<Facts, String> {
        self.facts
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    fn limits(&self, controller: &str) -> bool {
        self.facts()
            .is_ok_and(|facts| !facts.rootless || facts.limits.contains(controller))
    }

    fn keeps_ids_as(&self) -> bool {
        self.facts().is_ok_and(|facts| facts.keeps_ids_as())
    }

    fn program(&self) -> &str {
        self.settings.command.first().map_or("podman", |program| program)
    }

    fn is_root(&self) -> bool {
        self.settings.euid == 0
    }

    fn mounts_of(&self, session: SessionId) -> PathBuf {
        self.settings.mounts.join(session.to_string())
    }

    fn line(&self, engine: &[String], arguments: &[&str]) -> Vec<String> {
        let arguments = arguments.iter().map(|&argument| argument.to_owned());
        [&self.settings.command[..], engine]
            .concat()
            .into_iter()
            .chain(arguments)
            .collect()
    }

    async fn called(&self, arguments: &[&str]) -> Result<call::Called, EngineError> {
        let line = self.line(&[], arguments);
        call::call(&line, &self.settings.environment, self.settings.call_timeout).await
    }

    async fn call(&self, arguments: &[&str]) -> Result<String, EngineError> {
        let called = self.called(arguments).await?;
        called.success(&format!(
            "{} {}",
            self.program(),
            arguments.first().unwrap_or(&"")
        ))
    }

    /// Where a program is: at its own path, or in `PATH`, or in one of these directories.
    fn program_named(&self, name: &str, also: &[&str]) -> Option<PathBuf> {
        if name.starts_with('/') {
            return Some(PathBuf::from(name)).filter(|path| is_program(path));
        }
        let path = self.settings.environment.get("PATH").map_or("", |path| path);
        std::env::split_paths(path)
            .chain(also.iter().map(PathBuf::from))
            .map(|dir| dir.join(name))
            .find(|path| is_program(path))
    }

    /// gVisor's program, when the agent asks for gVisor.
    fn gvisor(&self, agent: &Agent) -> Result<Option<Gvisor>, EngineError> {
        let Some(name) = agent.oci_runtime.as_deref().filter(|name| is_gvisor(name)) else {
            return Ok(None);
        };
        let found = self.program_named(name, &[]);
        match found.and_then(|path| path.into_os_string().into_string().ok()) {
            Some(program) => Ok(Some(Gvisor { program })),
            None => Err(EngineError::Refused(format!(
                "oci_runtime = {name:?} is not installed; Debian has it as the package runsc"
            ))),
        }
    }
}

fn is_gvisor(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|name| name == "runsc")
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

impl Engine for Podman {
    fn ready(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async {
            // One after the other: the second finds it known.
            let _looking = self.looking.lock().await;
            if self.facts().is_err() {
                self.probe().await?;
            }
            Ok(())
        })
    }

    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities {
            isolation: true,
            network_policy: true,
            limits: self.limits("memory"),
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
        check::check(self, agent)
    }

    fn missing<'a>(&'a self, agent: &'a Agent) -> BoxFuture<'a, Result<Vec<Problem>, EngineError>> {
        Box::pin(check::missing(self, agent))
    }

    fn users(
        &self,
        agent: &Agent,
        home_number: u32,
        workspace: Option<&Owner>,
    ) -> Result<Users, EngineError> {
        if self.is_root() {
            return self.users_as_root(agent, home_number, workspace);
        }
        let PodmanSettings { euid, egid, .. } = self.settings;
        if let Some(owner) = workspace.filter(|owner| owner.uid != euid) {
            access::ask(&owner.path, None, Want::Write).map_err(|denied| {
                EngineError::Refused(format!(
                    "the workspace {} belongs to user {}, and agentd's own user {euid} {denied}; run agentd as its \
                     owner, or as root",
                    owner.path.display(),
                    owner.uid
                ))
            })?;
        }
        let (inside_uid, inside_gid) = match self.keeps_ids_as() {
            true => (AGENT_ID, AGENT_ID),
            false => (euid, egid),
        };
        Ok(Users {
            host_uid: euid,
            host_gid: egid,
            inside_uid,
            inside_gid,
            range_start: None,
            shown_as_agent: None,
        })
    }

    fn inside(&self, order: &Environment) -> Inside {
        let home = arguments::home(order);
        Inside {
            run_dir: RUN_DIR.into(),
            secrets: SECRETS_DIR.into(),
            workdir: match (&order.begin_in, &order.workspace) {
                (Some(dir), _) => dir.clone(),
                (None, Some(_)) => arguments::workdir(&order.agent),
                (None, None) => home.clone(),
            },
            home,
            path: PATH_INSIDE.into(),
        }
    }

    fn prepare<'a>(&'a self, environment: &'a Environment) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move {
            let map = self.map_of(environment)?;
            if map.is_empty() {
                return Ok(());
            }
            let dir = self.mounts_of(environment.session);
            let sources = arguments::shared(environment)
                .into_iter()
                .map(|(from, ..)| from.to_owned())
                .collect::<Vec<_>>();
            let made = tokio::task::spawn_blocking(move || {
                let sources: Vec<&Path> = sources.iter().map(|path| &**path).collect();
                mapped::mount(&dir, &sources, &map).map_err(EngineError::io("mount a workspace at", &dir))
            });
            made.await.map_err(|error| EngineError::Failed {
                program: "mounting a workspace".into(),
                message: error.to_string(),
            })?
        })
    }

    fn launch(&self, environment: &Environment, program: &Program) -> Result<Built, EngineError> {
        let Inside { secrets, workdir, .. } = self.inside(environment);
        let launch_file = inside::launch_file(program, &workdir, &secrets)?;
        let agent = &environment.agent;
        let gvisor = self.gvisor(agent)?;
        let engine = arguments::engine(gvisor.as_ref(), agent, !self.is_root());
        let run = arguments::run(self, environment)?;
        let run: Vec<&str> = run.iter().map(|argument| &**argument).collect();
        let name = container_name(environment.session);
        let dir = &environment.dir;
        let launch = ContainerLaunch {
            start: self.line(&engine, &run),
            remove: self.line(&[], &["rm", "--force", "--time", "0", "--ignore", &name]),
            terminate: self.line(&[], &["kill", "--signal", "TERM", &name]),
            kill: self.line(&[], &["kill", "--signal", "KILL", &name]),
            env: self.settings.environment.clone(),
            log_fifo: dir.log_fifo(),
            pid_file: dir.pid_file(),
            monitor_pid_file: dir.monitor_pid_file(),
            status_file: dir.run().join("status"),
        };
        Ok(Built {
            launch: Launch::Container(launch),
            files: vec![(inside::LAUNCH_FILE.into(), launch_file)],
        })
    }

    fn unprepare(&self, session: SessionId) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(clear::unmount(self, session))
    }

    fn clear(&self, session: SessionId) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(clear::clear(self, session))
    }

    fn found(&self) -> BoxFuture<'_, Result<Vec<SessionId>, EngineError>> {
        Box::pin(clear::found(self))
    }
}

impl Podman {
    /// Whose files a workspace's mount shows as whose; nothing when it is not mounted that way.
    fn map_of(&self, environment: &Environment) -> Result<Vec<mapped::Shown>, EngineError> {
        let Users {
            host_uid,
            host_gid,
            range_start,
            shown_as_agent,
            ..
        } = environment.users;
        let (Some(on_disk), Some(start)) = (shown_as_agent, range_start) else {
            return Ok(Vec::new());
        };
        let mut map = vec![mapped::Shown {
            on_disk,
            shown: (host_uid, host_gid),
        }];
        if self.gvisor(&environment.agent)?.is_some() {
            // Its file server makes files as the container's root, and gives them away then. In between they are of
            // an id of the home's range.
            let root = if arguments::is_unmapped(&environment.users) {
                0
            } else {
                start
            };
            map.push(mapped::Shown {
                on_disk: (start, start),
                shown: (root, root),
            });
        }
        Ok(map)
    }

    fn users_as_root(
        &self,
        agent: &Agent,
        home_number: u32,
        workspace: Option<&Owner>,
    ) -> Result<Users, EngineError> {
        let start = range_start(self.settings.id_range_start, home_number)?;
        let own = start + AGENT_ID;
        // gVisor cannot have both a user namespace and the host's network. Its own wall is in the way of what a
        // user namespace protects from, and the agent has an id of its own all the same.
        let unmapped = agent.network == Network::Host && self.gvisor(agent)?.is_some();
        let users = |host_uid, host_gid, shown_as_agent| Users {
            host_uid,
            host_gid,
            inside_uid: if unmapped { host_uid } else { AGENT_ID },
            inside_gid: if unmapped { host_gid } else { AGENT_ID },
            range_start: Some(start),
            shown_as_agent,
        };
        let Some(Owner { path, uid, gid }) = workspace.filter(|owner| owner.uid != own) else {
            return Ok(users(own, own, None));
        };
        if *uid == 0 && !agent.allow_root_workspace {
            return Err(EngineError::Refused(format!(
                "the workspace {} belongs to root; what the agent makes there would be root's, set-uid programs \
                 included. Give it to another user, or set allow_root_workspace = true",
                path.display()
            )));
        }
        if mapped::supported(path) {
            return Ok(users(own, own, Some((*uid, *gid))));
        }
        // Root's group would be more than the workspace asks for.
        Ok(users(*uid, if *gid == 0 && *uid != 0 { own } else { *gid }, None))
    }
}
