//! Where a session's things lie: names of files, agreed between the supervisor and whoever looks.

use std::path::{Path, PathBuf};

/// A session's directory on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionDir {
    root: PathBuf,
}

impl SessionDir {
    /// The directory at `root`.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The supervisor's orders: a [`crate::spec::Spec`].
    #[must_use]
    pub fn spec(&self) -> PathBuf {
        self.root.join("spec.json")
    }

    /// Locked (`flock`) from before the supervisor is started until its process is gone.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The supervisor's control socket. The path may be longer than a socket's address: it is bound and connected
    /// to through the directory's descriptor.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.root.join("socket")
    }

    /// What happened: [`crate::record::Record`]s.
    #[must_use]
    pub fn records(&self) -> PathBuf {
        self.root.join("records.jsonl")
    }

    /// The transcript's segments.
    #[must_use]
    pub fn transcript(&self) -> PathBuf {
        self.root.join("transcript")
    }

    /// What the supervisor itself wrote to its standard error: empty unless it is broken.
    #[must_use]
    pub fn supervisor_log(&self) -> PathBuf {
        self.root.join("supervisor.log")
    }

    /// What the agent sees as `/run/agentd`, or as `AGENTD_RUN_DIR`. Belongs to the agent.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// What the agent left as its result, with every secret redacted: a copy where the agent cannot reach.
    #[must_use]
    pub fn result(&self) -> PathBuf {
        self.root.join("result.json")
    }

    /// The worktree that was made for the session.
    #[must_use]
    pub fn worktree(&self) -> PathBuf {
        self.root.join("worktree")
    }

    /// What the gateway keeps for the time of the session.
    #[must_use]
    pub fn tools(&self) -> PathBuf {
        self.root.join("tools")
    }

    /// The calls of tools that are not in the journal yet: see [`crate::calls`].
    #[must_use]
    pub fn calls(&self) -> PathBuf {
        self.tools().join("calls")
    }

    /// Output of tools that is too large for one answer.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.tools().join("spool")
    }

    /// The directory that a plugin runs in.
    #[must_use]
    pub fn plugin(&self, name: &str) -> PathBuf {
        self.tools().join("plugins").join(name)
    }

    /// What plugins say on standard error, a `NAME.log` for each, without secrets. It stays as long as the session does.
    #[must_use]
    pub fn plugin_logs(&self) -> PathBuf {
        self.root.join("plugin-logs")
    }

    /// The container's log.
    #[must_use]
    pub fn log_fifo(&self) -> PathBuf {
        self.root.join("log.fifo")
    }

    /// See [`crate::spec::ContainerLaunch::pid_file`].
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.root.join("container.pid")
    }

    /// See [`crate::spec::ContainerLaunch::monitor_pid_file`].
    #[must_use]
    pub fn monitor_pid_file(&self) -> PathBuf {
        self.root.join("monitor.pid")
    }
}
