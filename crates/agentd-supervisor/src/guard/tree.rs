//! The processes below this one.

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

/// How long ending goes on. What is left then waits inside the kernel for a device.
const END_MAX: Duration = Duration::from_secs(5);

/// The living processes below this one. Exact for children of ours; further down a process may end, and its
/// number be given anew, while this looks.
pub(super) fn below() -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<(i32, bool)>> = HashMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        // The name may contain anything, but no closing bracket comes after it.
        let Some((_, rest)) = stat.rsplit_once(") ") else {
            continue;
        };
        let mut fields = rest.split(' ');
        let ended = matches!(fields.next(), Some("Z" | "X"));
        if let Some(parent) = fields.next().and_then(|parent| parent.parse().ok()) {
            children.entry(parent).or_default().push((pid, ended));
        }
    }
    let mut found = Vec::new();
    let mut open = vec![Pid::this().as_raw()];
    // Each entry is taken out once, so that this ends whatever it saw.
    while let Some(parent) = open.pop() {
        for (pid, ended) in children.remove(&parent).unwrap_or_default() {
            open.push(pid);
            if !ended {
                found.push(Pid::from_raw(pid));
            }
        }
    }
    found
}

/// Sends a signal to everything below this process.
pub(super) fn signal(signal: Signal) {
    for pid in below() {
        // Gone, or not ours to signal: nothing that could be done about it.
        let _ = kill(pid, signal);
    }
}

/// Reaps what has ended. False when there is no child left.
pub(super) fn reap(mut ended: impl FnMut(Pid, WaitStatus)) -> bool {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return true,
            Ok(status) => {
                if let Some(pid) = status.pid() {
                    ended(pid, status);
                }
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// One round of ending: everything is stopped until nothing new appears, so that nothing is born meanwhile, and
/// then killed.
pub(super) fn kill_round() {
    let mut seen = HashSet::new();
    for _ in 0..16 {
        let before = seen.len();
        for pid in below() {
            if seen.insert(pid) {
                let _ = kill(pid, Signal::SIGSTOP);
            }
        }
        if seen.len() == before {
            break;
        }
    }
    for pid in seen {
        let _ = kill(pid, Signal::SIGKILL);
    }
}

/// Ends everything below this process, which must be a subreaper, and waits for it. Blocks.
pub fn end() {
    let deadline = Instant::now() + END_MAX;
    while Instant::now() < deadline {
        kill_round();
        // The kernel ends them at its own time; this blocks until one has ended.
        match waitpid(None, None) {
            Err(nix::errno::Errno::EINTR) | Ok(_) => {}
            Err(_) => return,
        }
    }
}
