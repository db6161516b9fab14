//! A daemon with agents on a disk that is one, and how its sessions are begun and waited for.

use crate::measure::{fsync_probe, percentiles};
use crate::podman::{IMAGE, Podman};
use crate::support::{Daemon, TestEnvironment, Wire};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Enough for every workload.
const DAEMON: &str = "[daemon]\nmax_sessions = 64\nsetup_timeout = \"5m\"\n";

pub(crate) struct Site {
    pub(crate) env: TestEnvironment,
    pub(crate) podman: Option<Podman>,
}

impl Site {
    pub(crate) fn new(with_podman: bool) -> Self {
        // Beside the build and not in /tmp, which may be memory.
        let target = Path::new(env!("CARGO_BIN_EXE_agentd")).parent().unwrap();
        let mut env = TestEnvironment::below(target);
        env.set("RUST_LOG", "agentd=warn");
        let podman = with_podman.then(|| Podman::new(&mut env));
        Self { env, podman }
    }

    /// Declares these agents, each a whole table.
    pub(crate) fn declare(&self, agents: &str) {
        let podman = self.podman.as_ref().map(Podman::setting).unwrap_or_default();
        self.env
            .write(".agentd/agentd.toml", &format!("{DAEMON}{podman}\n{agents}"));
    }

    /// How long the disk that the database is on takes.
    pub(crate) fn fsync(&self) -> hdrhistogram::Histogram<u64> {
        fsync_probe(&self.env.home())
    }

    pub(crate) fn fsync_shown(&self) -> Value {
        percentiles(&self.fsync())
    }
}

/// An agent's table.
pub(crate) fn agent(name: &str, runtime: &str, command: &[&str], more: &str) -> String {
    let image = match runtime {
        "podman" => format!("image = \"{IMAGE}\"\n"),
        _ => String::new(),
    };
    let command = json!(command);
    format!(
        "[[agents]]\nname = \"{name}\"\nruntime = \"{runtime}\"\n{image}harness = \"custom\"\ncommand = {command}\n{more}\n"
    )
}

/// Two connections: one asks, the other is told.
pub(crate) struct Told {
    pub(crate) wire: Wire,
    entries: Wire,
}

impl Told {
    pub(crate) fn new(daemon: &Daemon) -> Self {
        let mut entries = daemon.connect();
        let said = entries.call("SubscribeJournal", json!({}));
        assert_eq!(said["subscribed"], true, "{said}");
        Self {
            wire: daemon.connect(),
            entries,
        }
    }

    /// Asks for a session, and gives its id.
    pub(crate) fn begin(&mut self, agent: &str) -> String {
        let queued = self.wire.call("RunAgent", json!({ "agent": agent }));
        queued["session_id"].as_str().unwrap().to_owned()
    }

    /// Waits for an entry of this session's, of this kind, in whose payload the phase is named.
    pub(crate) fn wait(&mut self, session: &str, action: &str, phase: Option<&str>) -> Value {
        loop {
            let entry = self.entries.line().unwrap();
            let is_it = entry["session_id"] == session
                && entry["action_type"] == action
                && phase.is_none_or(|phase| entry["payload"]["to"] == phase);
            if is_it {
                return entry;
            }
        }
    }

    /// Waits until all of these are over, and gives when each of them was.
    pub(crate) fn all_ended(&mut self, sessions: &BTreeSet<String>) -> Vec<Instant> {
        let mut ended = Vec::new();
        let mut left = sessions.clone();
        while !left.is_empty() {
            let entry = self.entries.line().unwrap();
            if entry["action_type"] == "SESSION_ENDED"
                && left.remove(entry["session_id"].as_str().unwrap_or_default())
            {
                ended.push(Instant::now());
            }
        }
        ended
    }

    /// Waits until all of these run.
    pub(crate) fn all_running(&mut self, sessions: &BTreeSet<String>) {
        let mut left = sessions.clone();
        while !left.is_empty() {
            let entry = self.entries.line().unwrap();
            if entry["action_type"] == "SESSION_PHASE" && entry["payload"]["to"] == "RUNNING" {
                left.remove(entry["session_id"].as_str().unwrap_or_default());
            }
            assert_ne!(entry["action_type"], "SESSION_ENDED", "{entry}");
        }
    }

    /// A session that completes, from the request to its end.
    pub(crate) fn whole(&mut self, agent: &str) -> Duration {
        let begun = Instant::now();
        let session = self.begin(agent);
        self.wait(&session, "SESSION_ENDED", None);
        let took = begun.elapsed();
        assert_eq!(self.outcome(&session), "completed");
        took
    }

    pub(crate) fn session(&mut self, session: &str) -> Value {
        self.wire.call("GetSession", json!({ "session_id": session }))
    }

    pub(crate) fn outcome(&mut self, session: &str) -> String {
        let info = self.session(session);
        info["outcome"]["reason"]
            .as_str()
            .unwrap_or_else(|| panic!("{info}"))
            .to_owned()
    }

    pub(crate) fn commits(&mut self) -> u64 {
        self.wire.call("Metrics", json!({}))["runtime"]["commits"]
            .as_u64()
            .unwrap()
    }
}

/// What a process alone costs in memory, in KiB: what it shares counts in part.
pub(crate) fn pss_kib(pid: i32) -> u64 {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A field of `/proc/PID/status`, a number.
pub(crate) fn status(pid: i32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The supervisors of a daemon's sessions.
pub(crate) fn supervisors(state: &Path) -> Vec<i32> {
    let state = state.canonicalize().unwrap();
    let state = state.to_str().unwrap();
    let of_session = |pid: i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("__session") && line.contains(state)
    };
    let pids = std::fs::read_dir("/proc").unwrap();
    pids.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid| of_session(*pid))
        .collect()
}
