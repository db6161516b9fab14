//! What a supervisor is to do, as agentd leaves it in the session's directory. It holds no secret.

use crate::tools::ToolsSpec;
use agentd_protocol::SessionId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The version of this format, of the records and of the control protocol. A supervisor outlives the agentd that
/// started it, so a newer agentd reads what every older one wrote; an older one refuses what is newer.
pub const PROTOCOL_VERSION: u32 = 1;

/// One session's orders: `spec.json` in its directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// [`PROTOCOL_VERSION`] of the writer.
    pub version: u32,
    /// The session.
    pub session_id: SessionId,
    /// What to start.
    pub launch: Launch,
    /// After so long the agent is stopped, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Between TERM and KILL, in milliseconds.
    pub grace_ms: u64,
    /// How long starting may take, in milliseconds; what takes longer is ended, and the start has failed.
    pub start_timeout_ms: u64,
    /// The directory, on a tmpfs, whose files' contents are redacted from the transcript. Removed when the agent
    /// is gone.
    pub secrets_dir: Option<PathBuf>,
    /// What is kept of the output.
    pub transcript: TranscriptLimits,
    /// The agent's tools, if it has any.
    #[serde(default)]
    pub tools: Option<ToolsSpec>,
}

/// What is kept of a session's output: the first part and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranscriptLimits {
    /// So many bytes of the beginning.
    pub head_bytes: u64,
    /// So many bytes of the end.
    pub tail_bytes: u64,
}

impl Default for TranscriptLimits {
    fn default() -> Self {
        Self {
            head_bytes: 16 * 1024 * 1024,
            tail_bytes: 16 * 1024 * 1024,
        }
    }
}

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Launch {
    /// A child of the supervisor.
    Process(ProcessLaunch),
    /// A container.
    Container(ContainerLaunch),
}

/// A child process of the supervisor. Its standard input is `/dev/null`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLaunch {
    /// The program, looked up in `env`'s `PATH` when it has no `/`, and its arguments.
    pub argv: Vec<String>,
    /// Its whole environment, but for what `secret_env` adds.
    pub env: BTreeMap<String, String>,
    /// Variables whose values are the contents of files in `secrets_dir`: variable → file name.
    pub secret_env: BTreeMap<String, String>,
    /// The directory to run in.
    pub cwd: PathBuf,
    /// The user and group to run as; the supervisor's own when absent.
    pub user: Option<(u32, u32)>,
    /// Most processes of that user, as RLIMIT_NPROC; only of use with a user of its own.
    pub pids: Option<u64>,
}

/// A container. All command lines are whole: program and arguments.
///
/// The engine's log driver writes to a FIFO in the format of the Container Runtime Interface (`k8s-file`), one
/// record a line: `TIMESTAMP stdout|stderr F|P TEXT`, where `P` says that no newline followed. The engine's
/// monitor (conmon) becomes the supervisor's child, since the supervisor is a subreaper, and exits with the
/// container's exit status after it has cleaned up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerLaunch {
    /// Starts it and returns: `podman run --detach --rm …`.
    pub start: Vec<String>,
    /// Removes whatever is there of it, running or not, and succeeds when nothing is: `podman rm --force …`.
    pub remove: Vec<String>,
    /// Sends its init a signal: `podman kill --signal TERM NAME`.
    pub terminate: Vec<String>,
    /// Ends it at once: `podman kill --signal KILL NAME`.
    pub kill: Vec<String>,
    /// The environment of these command lines.
    pub env: BTreeMap<String, String>,
    /// The FIFO for the log driver; made by the supervisor.
    pub log_fifo: PathBuf,
    /// Where the engine writes the host's process id of the container's init.
    pub pid_file: PathBuf,
    /// Where the engine writes the process id of its monitor.
    pub monitor_pid_file: PathBuf,
    /// Where the init inside leaves how the agent ended, in the session's run directory: `exit CODE` or
    /// `signal NUMBER`, and a newline. Optional: an agent may have removed it, or written there itself; it is
    /// believed only as far as it agrees with the container's exit status.
    pub status_file: PathBuf,
}
