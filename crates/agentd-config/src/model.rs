//! What is declared, whatever it was written in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that a configuration says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Settings of the daemon itself.
    pub daemon: DaemonConfig,
    /// The agents, in the order of the file.
    pub agents: Vec<Agent>,
    /// The plugins, in the order of the file.
    pub plugins: Vec<Plugin>,
}

impl Config {
    /// The plugin of this name.
    #[must_use]
    pub fn plugin(&self, name: &str) -> Option<&Plugin> {
        self.plugins.iter().find(|plugin| plugin.name == name)
    }
}

/// Settings of the daemon itself. Absent: not said here; flags, environment and env file come first anyway.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DaemonConfig {
    /// The secret store: a directory with one file for each secret.
    pub secret_dir: Option<PathBuf>,
    /// The database's URL.
    pub database_url: Option<String>,
    /// The socket.
    pub socket: Option<PathBuf>,
    /// Where the artifacts of plans' commands are kept.
    pub artifact_dir: Option<PathBuf>,
    /// How long a lease lasts without a heartbeat.
    pub node_timeout: Option<Duration>,
    /// How many recent events a node's context shows.
    pub context_event_limit: Option<u32>,
    /// How long finished tasks are kept; zero: for ever.
    pub retention: Option<Duration>,
    /// How many connections may be open.
    pub max_connections: Option<usize>,
    /// Who may do what: users, uids, `%groups`.
    pub operators: Option<Vec<String>>,
    /// See `operators`.
    pub workers: Option<Vec<String>>,
    /// `observer` or `worker`.
    pub default_role: Option<String>,
    /// The container engine and the arguments that come before its command: `["podman", "--root", "/srv/podman"]`.
    pub podman: Option<Vec<String>>,
    /// How many sessions may be between SETUP and TEARDOWN at once, all agents together.
    pub max_sessions: Option<u32>,
    /// How long the set-up of a session may take.
    pub setup_timeout: Option<Duration>,
    /// How long sessions that are over are kept, with their transcripts; zero: for ever.
    pub session_retention: Option<Duration>,
    /// How many bytes the transcripts of all sessions that are over may have together; the oldest go first.
    pub transcript_quota_bytes: Option<u64>,
    /// How many bytes of one transcript are kept: half of its beginning, half of its end.
    pub transcript_bytes: Option<u64>,
    /// The first user id of the ranges that a root daemon gives to its agents.
    pub id_range_start: Option<u32>,
}

impl DaemonConfig {
    /// The keys whose values are not the same in both.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<&'static str> {
        // By name: a field that is added has to be thought of.
        let Self {
            secret_dir,
            database_url,
            socket,
            artifact_dir,
            node_timeout,
            context_event_limit,
            retention,
            max_connections,
            operators,
            workers,
            default_role,
            podman,
            max_sessions,
            setup_timeout,
            session_retention,
            transcript_quota_bytes,
            transcript_bytes,
            id_range_start,
        } = self;
        [
            ("secret_dir", secret_dir == &other.secret_dir),
            ("database_url", database_url == &other.database_url),
            ("socket", socket == &other.socket),
            ("artifact_dir", artifact_dir == &other.artifact_dir),
            ("node_timeout", node_timeout == &other.node_timeout),
            (
                "context_event_limit",
                context_event_limit == &other.context_event_limit,
            ),
            ("retention", retention == &other.retention),
            ("max_connections", max_connections == &other.max_connections),
            ("operators", operators == &other.operators),
            ("workers", workers == &other.workers),
            ("default_role", default_role == &other.default_role),
            ("podman", podman == &other.podman),
            ("max_sessions", max_sessions == &other.max_sessions),
            ("setup_timeout", setup_timeout == &other.setup_timeout),
            ("session_retention", session_retention == &other.session_retention),
            (
                "transcript_quota",
                transcript_quota_bytes == &other.transcript_quota_bytes,
            ),
            ("transcript_limit", transcript_bytes == &other.transcript_bytes),
            ("id_range_start", id_range_start == &other.id_range_start),
        ]
        .into_iter()
        .filter_map(|(key, same)| (!same).then_some(key))
        .collect()
    }
}

/// How a session is isolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuntimeKind {
    /// A container.
    Podman,
    /// A child process.
    Process,
}

impl RuntimeKind {
    /// The name in configuration, on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Process => "process",
        }
    }
}

/// What becomes of a session's working directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkspaceMode {
    /// The directory itself.
    #[default]
    Directory,
    /// A git worktree of it, made for the session.
    Worktree,
}

/// What becomes of a session's worktree when the session is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorktreePolicy {
    /// It stays, with its branch.
    #[default]
    Keep,
    /// What was committed on its branch is merged into the branch that it began from, if that works without a
    /// conflict and the session completed; otherwise it stays and both sides are as they were.
    Merge,
    /// Its files are removed; what was changed in them is kept under a name in the repository, apart from its branches.
    Drop,
}

/// What becomes of changes that an agent did not commit, when its session is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uncommitted {
    /// They stay as they are.
    #[default]
    Keep,
    /// They are committed on the session's branch.
    Commit,
}

/// What it means when work that was to be merged is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnmerged {
    /// The session failed, and so did its node.
    Fail,
    /// The session completed; people are told.
    Warn,
}

/// What a session can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// Nothing but itself.
    None,
    /// What the host reaches, the host's own loopback included.
    Host,
    /// The engine's default bridge.
    Bridge,
    /// A network of the engine's, by name.
    Named(String),
}

/// A secret that an agent gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Its name in the secret store; the name of its file in `/run/secrets`.
    pub name: String,
    /// The variable that holds its value, too, when one is to.
    pub env: Option<String>,
}

/// Which tools: those that some pattern of `allow` fits (all, when there is none) and no pattern of `deny`. In a pattern `*`
/// stands for any text, `?` for any character.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolPatterns {
    /// Only these.
    pub allow: Vec<String>,
    /// Not these, whatever `allow` says.
    pub deny: Vec<String>,
}

/// Where a plugin's tools come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginSource {
    /// A program that speaks MCP on its standard input and output, started for each session.
    Command {
        /// The program and its arguments.
        command: Vec<String>,
        /// Variables. It gets these, `PATH`, `HOME`, its credentials, and nothing else.
        env: BTreeMap<String, String>,
        /// Where it is started; the session's own empty directory when absent.
        workdir: Option<PathBuf>,
        /// The user that it runs as; agentd's own when absent.
        user: Option<String>,
    },
    /// A server that speaks MCP over streamable HTTP.
    Url {
        /// Where it is.
        url: String,
        /// The secret that it is shown as a bearer token.
        token: Option<String>,
    },
}

/// A declared plugin: a server of tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// Its name: agents see its tools as `<name>__<tool>`.
    pub name: String,
    /// The program, or where it is.
    pub source: PluginSource,
    /// The secrets that a program gets, each as the variable `env`, or by its own name.
    pub credentials: Vec<Credential>,
    /// Which of its tools anybody may use, by its own names for them.
    pub tools: ToolPatterns,
    /// How long one call may take.
    pub timeout: Duration,
    /// How many bytes of a result are given at once; the rest can be asked for.
    pub output_bytes_max: u64,
    /// How many calls a minute a session may make.
    pub calls_per_minute: Option<u32>,
}

impl Plugin {
    /// How long one call may take.
    pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(120);
    /// How many bytes of a result are given at once.
    pub const OUTPUT_BYTES_DEFAULT: u64 = 256 * 1024;
}

/// A declared agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Its name: its home and everything else is keyed by it.
    pub name: String,
    /// How its sessions are isolated.
    pub runtime: RuntimeKind,
    /// The container's image.
    pub image: Option<String>,
    /// The engine's own runtime: `runsc` for gVisor.
    pub oci_runtime: Option<String>,
    /// Which harness drives it; here always `custom`.
    pub harness: String,
    /// The agent's program and arguments; the prompt comes after them.
    pub command: Vec<String>,
    /// The template of its prompt.
    pub prompt: Option<String>,
    /// A file with that template, read for each session. Wins over `prompt`.
    pub prompt_file: Option<PathBuf>,
    /// The directory that it works in.
    pub workspace: Option<PathBuf>,
    /// That directory itself, or a worktree of it.
    pub workspace_mode: WorkspaceMode,
    /// What becomes of the worktree.
    pub worktree_policy: WorktreePolicy,
    /// What becomes of changes in it that are not committed.
    pub uncommitted: Uncommitted,
    /// What it means when its work is not merged; absent: a session of a node fails, another one warns.
    pub on_unmerged: Option<OnUnmerged>,
    /// Where the workspace is in the container; `/workspace` when absent. Processes have it where it is.
    pub workdir: Option<PathBuf>,
    /// A workspace that belongs to root is accepted: the agent then acts on it as root does.
    pub allow_root_workspace: bool,
    /// The secrets that it gets.
    pub credentials: Vec<Credential>,
    /// Directories and files that it may read.
    pub context: Vec<PathBuf>,
    /// Directories of skills.
    pub skills: Vec<PathBuf>,
    /// What it can reach.
    pub network: Network,
    /// Most memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Most processes.
    pub pids: Option<u32>,
    /// Most processors.
    pub cpus: Option<f64>,
    /// After so long a session is ended.
    pub timeout: Option<Duration>,
    /// Between TERM and KILL.
    pub grace_period: Duration,
    /// How many replicas, each with a home of its own.
    pub replicas: u32,
    /// What nodes may ask for.
    pub capabilities: Vec<String>,
    /// How many sessions at once, all replicas together. Sessions of one replica share its home.
    pub max_sessions: u32,
    /// How many bytes its home may have; a session does not begin in one that has more.
    pub home_quota_bytes: Option<u64>,
    /// Variables.
    pub env: BTreeMap<String, String>,
    /// The plugins whose tools it gets, by name.
    pub plugins: Vec<String>,
    /// Which of their tools, by the names that the agent sees.
    pub tools: ToolPatterns,
}

impl Agent {
    /// The name of one replica's home: the agent's own when it has only one.
    #[must_use]
    pub fn home_name(&self, replica: u32) -> String {
        if self.replicas == 1 {
            self.name.clone()
        } else {
            format!("{}-{replica}", self.name)
        }
    }

    /// True when its containers run under gVisor.
    #[must_use]
    pub fn is_gvisor(&self) -> bool {
        is_gvisor(self.oci_runtime.as_deref())
    }

    /// Most memory of a session's container, in bytes.
    pub const MEMORY_BYTES_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;
    /// Most processes of a session.
    pub const PIDS_DEFAULT: u32 = 512;
    /// How long a session may take that says nothing itself.
    pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2 * 3600);
    /// Between TERM and KILL.
    pub const GRACE_PERIOD_DEFAULT: Duration = Duration::from_secs(30);
}

/// True for gVisor's program, wherever it lies.
pub(crate) fn is_gvisor(oci_runtime: Option<&str>) -> bool {
    oci_runtime.is_some_and(|name| name.rsplit('/').next() == Some("runsc"))
}
