//! Finds what an earlier run left behind when its supervisor was killed, by the marks in its environment.

use agentd_protocol::{LeaseId, TaskId};
use agentd_supervisor::proc::{self, Process, Stat};
use std::time::Duration;

/// The variable that tells whose process a process is: `PID:START:NAMESPACE` of its supervisor.
pub(crate) const SUPERVISOR_VARIABLE: &str = "AGENTD_SUPERVISOR";

/// How long a sweep goes on. A process that KILL does not end by then waits for a device, and ends when the
/// device answers.
const SWEEP_MAX: Duration = Duration::from_secs(5);

/// Whose leftovers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SweepFilter {
    /// Commands of this task.
    Task(TaskId),
    /// The command of this lease.
    Lease(LeaseId),
    /// Everything that one supervisor started.
    Supervisor(SupervisorMark),
}

/// What a sweep found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Processes without a supervisor, which were killed.
    pub killed: u32,
    /// Processes that fit the filter and have a live supervisor: they were left alone.
    pub supervised: u32,
    /// Processes that did not end.
    pub survivors: u32,
}

/// A supervisor's identity, as its commands carry it in their environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SupervisorMark {
    process: Process,
    pid_namespace: u64,
}

impl SupervisorMark {
    /// The mark of a process, if it is there.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Some(Self {
            process: proc::stat(pid)?.process,
            pid_namespace: proc::pid_namespace(),
        })
    }

    pub(crate) fn text(self) -> String {
        format!(
            "{}:{}:{}",
            self.process.pid, self.process.start_ticks, self.pid_namespace
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let process = Process {
            pid: parts.next()?.parse().ok()?,
            start_ticks: parts.next()?.parse().ok()?,
        };
        Some(Self {
            process,
            pid_namespace: parts.next()?.parse().ok()?,
        })
    }

    /// False only when it is certain: a process number of another namespace says nothing here.
    fn may_be_alive(self) -> bool {
        self.pid_namespace != proc::pid_namespace() || self.process.is_alive()
    }
}

impl SweepFilter {
    fn entry(&self) -> Vec<u8> {
        match self {
            Self::Task(id) => format!("AGENTD_TASK_ID={id}"),
            Self::Lease(id) => format!("AGENTD_LEASE_ID={id}"),
            Self::Supervisor(mark) => format!("{SUPERVISOR_VARIABLE}={}", mark.text()),
        }
        .into_bytes()
    }
}

/// Kills this user's processes that fit the filter and whose supervisor is gone, with all that they started,
/// and returns when they have ended. Blocks for a few milliseconds, and never longer than five seconds.
///
/// A process that replaced its environment and is no longer below one that did not escapes.
#[must_use]
pub fn sweep(filter: &SweepFilter) -> Swept {
    let entry = filter.entry();
    let prefix = format!("{SUPERVISOR_VARIABLE}=").into_bytes();
    let uid = nix::unistd::geteuid().as_raw();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut supervised = 0;
    let ended = proc::kill_all(SWEEP_MAX, |processes| {
        let mut roots = Vec::new();
        supervised = 0;
        for Stat { process, ended, .. } in processes {
            if *ended || process.pid == own {
                continue;
            }
            let Some(environment) = proc::environment(process.pid, uid) else {
                continue;
            };
            if !environment.contains(&entry) {
                continue;
            }
            let mark = environment
                .iter()
                .find_map(|variable| variable.strip_prefix(&prefix[..]));
            let mark = mark.and_then(|mark| SupervisorMark::parse(std::str::from_utf8(mark).ok()?));
            match mark {
                // Not started by a supervisor at all: somebody's shell, say, with our variables in it.
                None => {}
                Some(mark) if mark.may_be_alive() => supervised += 1,
                Some(_) => roots.push(*process),
            }
        }
        let pids: Vec<i32> = roots.iter().map(|process| process.pid).collect();
        let mut found = proc::descendants(processes, &pids);
        found.retain(|process| process.pid != own);
        found.extend(roots);
        found
    });
    Swept {
        killed: ended.killed,
        supervised,
        survivors: ended.survivors,
    }
}
