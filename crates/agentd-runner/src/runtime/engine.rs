//! What differs between the kinds of supervised sessions: how a complete environment becomes something that can be
//! started, and how what is left of a session is found and removed.

use agentd_config::Agent;
use agentd_protocol::{RuntimeCapabilities, SessionId};
use agentd_supervisor::dir::SessionDir;
use agentd_supervisor::spec::Launch;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;

/// A boxed future, so that an engine can be behind a pointer.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One kind of isolation whose sessions have a supervisor process.
pub trait Engine: fmt::Debug + Send + Sync + 'static {
    /// What its sessions can do. Nothing else is offered for them.
    fn capabilities(&self) -> RuntimeCapabilities;

    /// Finds out what has to be known of the machine, unless that is known.
    ///
    /// # Errors
    /// When the engine cannot be used here. It is looked at again the next time.
    fn ready(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }

    /// What is wrong with an agent's declaration for this engine, without starting anything: combinations that
    /// cannot work, programs that are missing. What needs to be known of the machine is looked at only once
    /// [`Engine::ready`] has succeeded.
    fn check(&self, agent: &Agent) -> Vec<Problem>;

    /// What an agent's declaration names that the engine itself would have to have, and does not: an image. It takes
    /// a call of the engine, which a session's set-up would only repeat.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn missing<'a>(&'a self, _agent: &'a Agent) -> BoxFuture<'a, Result<Vec<Problem>, EngineError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Whom the session's files belong to on the host, and how users are mapped. A workspace that the agent works in
    /// itself must let its user write; of one that only its worktrees are made from, the runtime asks nothing.
    ///
    /// # Errors
    /// When the agent cannot work on its workspace without taking more than it was given.
    fn users(&self, agent: &Agent, home_number: u32, workspace: Option<&Owner>)
    -> Result<Users, EngineError>;

    /// How the agent sees its environment.
    fn inside(&self, order: &Environment) -> Inside;

    /// Makes what must be there before the supervisor begins: mounts. What of it was made, also by a call that
    /// failed, goes with [`Engine::clear`].
    fn prepare<'a>(&'a self, environment: &'a Environment) -> BoxFuture<'a, Result<(), EngineError>>;

    /// Takes away what [`Engine::prepare`] made, when the session's supervisor has seen the end of all else. Succeeds
    /// when nothing is there.
    fn unprepare(&self, session: SessionId) -> BoxFuture<'_, Result<(), EngineError>>;

    /// Turns a complete environment into something that a supervisor can start. Looks at nothing outside.
    ///
    /// # Errors
    /// When it cannot be expressed.
    fn launch(&self, environment: &Environment, program: &Program) -> Result<Built, EngineError>;

    /// Removes all that a session may have left here: containers, processes, networks. Of a session that left nothing,
    /// nothing is removed, and that is no error. What is not ours is not touched.
    fn clear(&self, session: SessionId) -> BoxFuture<'_, Result<(), EngineError>>;

    /// The sessions of this agentd that have left something here, running or not.
    fn found(&self) -> BoxFuture<'_, Result<Vec<SessionId>, EngineError>>;
}

/// What is wrong with a declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key that it is about.
    pub key: &'static str,
    /// What is wrong, and what would be right.
    pub message: String,
    /// True: sessions fail. False: it works, but people should know.
    pub fatal: bool,
}

/// Who owns something on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The path.
    pub path: PathBuf,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// Users of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Users {
    /// The agent's user on the host: whom its home, secrets and run directory belong to.
    pub host_uid: u32,
    /// The agent's group on the host.
    pub host_gid: u32,
    /// The agent's user as it sees itself.
    pub inside_uid: u32,
    /// The agent's group as it sees itself.
    pub inside_gid: u32,
    /// The first user id of the home's own range on the host; absent when agentd is not root.
    pub range_start: Option<u32>,
    /// The user and group that the workspace belongs to on disk, when that is not the agent's own on the host: what
    /// is theirs appears as the agent's to the agent, and what the agent makes there is theirs. A worktree and its
    /// repository have to belong to them as well.
    pub shown_as_agent: Option<(u32, u32)>,
}

impl Users {
    /// The user and group that a session's worktree belongs to while its agent runs.
    #[must_use]
    pub fn of_worktree(&self) -> (u32, u32) {
        self.shown_as_agent.unwrap_or((self.host_uid, self.host_gid))
    }
}

/// A directory of the workspace's owner that is at the same place inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Also {
    /// Its place.
    pub path: PathBuf,
    /// Whether it may be written to.
    pub writable: bool,
}

/// A session's environment on the host, complete.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The session.
    pub session: SessionId,
    /// Which agentd it belongs to: a random text that its database keeps.
    pub instance: String,
    /// The agent, as it is declared now.
    pub agent: Agent,
    /// The name of the home, which is the agent's `AGENT_NAME` as well.
    pub home_name: String,
    /// The session's directory.
    pub dir: SessionDir,
    /// The home.
    pub home: PathBuf,
    /// The secrets' directory, on a tmpfs, when there are any.
    pub secrets: Option<PathBuf>,
    /// The working directory's place on the host, when there is one besides the home.
    pub workspace: Option<PathBuf>,
    /// What else must be at the same place inside: a worktree's repository.
    pub also: Vec<Also>,
    /// What a command sees where it is on the host, read-only.
    pub read: Vec<PathBuf>,
    /// The directory that a command begins in, instead of the agent's own.
    pub begin_in: Option<PathBuf>,
    /// Read-only data: name below `context` in the run directory → place on the host.
    pub context: BTreeMap<String, PathBuf>,
    /// Skills: name below `skills` in the run directory → place on the host.
    pub skills: BTreeMap<String, PathBuf>,
    /// Who is who.
    pub users: Users,
}

/// What the agent sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// `AGENTD_RUN_DIR`.
    pub run_dir: PathBuf,
    /// `CREDENTIALS_DIRECTORY`.
    pub secrets: PathBuf,
    /// `HOME`.
    pub home: PathBuf,
    /// The directory to begin in.
    pub workdir: PathBuf,
    /// `PATH`, unless the agent's own configuration says otherwise.
    pub path: String,
}

/// What to run in an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The program and its arguments, the prompt last.
    pub argv: Vec<String>,
    /// Its whole environment, but for what `secret_env` adds.
    pub env: BTreeMap<String, String>,
    /// Variables whose values are secrets: variable → name of the secret.
    pub secret_env: BTreeMap<String, String>,
}

/// Something that can be started.
#[derive(Clone, Debug)]
pub struct Built {
    /// For the supervisor.
    pub launch: Launch,
    /// Files to be written first, below the session's run directory: name and content.
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

/// Why an engine did not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The declaration asks for what this engine does not do.
    #[error("{0}")]
    Refused(String),
    /// A program of the engine's failed.
    #[error("{program} failed: {message}")]
    Failed {
        /// The program.
        program: String,
        /// What it said, or how it ended.
        message: String,
    },
    /// A program of the engine's took too long.
    #[error("{program} did not answer within {secs} seconds")]
    TimedOut {
        /// The program.
        program: String,
        /// How long it was given, in seconds.
        secs: u64,
    },
    /// Files could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl EngineError {
    /// For `map_err` on what the file system answers.
    pub fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}
