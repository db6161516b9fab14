//! What `/proc` tells about processes, and signals that reach exactly the process that was looked at.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// The most of a process's environment that is looked at, in bytes: what Linux lets an argument list and an
/// environment have together is a little more only with an unlimited stack.
const ENVIRON_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// One process, and no other that gets its number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it began, in clock ticks since boot.
    pub start_ticks: u64,
}

/// A line of `/proc/PID/stat`, as far as it is of use.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// Which process.
    pub process: Process,
    /// The number of its parent.
    pub parent: i32,
    /// The number of its session: that of the process which began it.
    pub session: i32,
    /// Ended, and only waiting for its parent to notice.
    pub ended: bool,
}

/// Looks a process up.
#[must_use]
pub fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything, brackets and spaces too, but no closing bracket comes after it.
    let after = text.iter().rposition(|&byte| byte == b')')? + 2;
    let rest = std::str::from_utf8(text.get(after..)?).ok()?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(Stat {
        process: Process {
            pid,
            start_ticks: fields.get(19)?.parse().ok()?,
        },
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        ended: matches!(*fields.first()?, "Z" | "X"),
    })
}

/// Every process that can be seen.
#[must_use]
pub fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(stat).collect()
}

/// The processes below `roots` that have not ended, the roots themselves left out.
#[must_use]
pub fn descendants(processes: &[Stat], roots: &[i32]) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<&Stat>> = HashMap::new();
    for stat in processes {
        children.entry(stat.parent).or_default().push(stat);
    }
    let mut found = Vec::new();
    let mut open = roots.to_vec();
    // Each entry is taken out once, so a torn picture of the tree cannot make this go round in circles.
    while let Some(parent) = open.pop() {
        for stat in children.remove(&parent).unwrap_or_default() {
            open.push(stat.process.pid);
            if !stat.ended && !roots.contains(&stat.process.pid) {
                found.push(stat.process);
            }
        }
    }
    found
}

impl Process {
    /// True while it runs; not when it is only waiting to be reaped.
    #[must_use]
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.process == self && !stat.ended)
    }

    /// Takes hold of the process: what is sent to this handle reaches it or nobody.
    #[must_use]
    pub fn open(self) -> Option<OwnedFd> {
        let pid = rustix::process::Pid::from_raw(self.pid)?;
        let fd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
        // The number may have changed hands before the handle was taken; afterwards it cannot.
        (stat(self.pid)?.process == self).then_some(fd)
    }

    /// Sends a signal. A process that is gone is no error.
    pub fn signal(self, signal: Signal) {
        let Some(fd) = self.open() else { return };
        if let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) {
            // Not ours to signal any more (it changed its user), or gone: nothing that could be done about it.
            let _ = rustix::process::pidfd_send_signal(fd, signal);
        }
    }
}

/// Whose a process is: its effective user, and root for one that nobody may look into.
#[must_use]
pub fn owner(pid: i32) -> Option<u32> {
    fs::metadata(format!("/proc/{pid}"))
        .ok()
        .map(|metadata| metadata.uid())
}

/// The environment of a process of this user, as `NAME=value` entries.
#[must_use]
pub fn environment(pid: i32, uid: u32) -> Option<Vec<Vec<u8>>> {
    if owner(pid)? != uid {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/environ"))
        .ok()?
        .take(ENVIRON_BYTES_MAX)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect())
}

/// The namespace that process numbers belong to here.
#[must_use]
pub fn pid_namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid")
        .map(|namespace| namespace.ino())
        .unwrap_or_default()
}

/// Kills a tree: stops it until no new process appears in it, so that nothing is born while it is killed. Gives all that
/// were found; whether they have ended is to be looked at afterwards, and another round made if not.
pub fn kill_tree(mut tree: impl FnMut() -> Vec<Process>) -> HashSet<Process> {
    /// A tree that grows faster than it can be stopped is killed as far as it is known; the next round takes on.
    const LOOKS_MAX: u32 = 16;
    let mut found = HashSet::new();
    for _ in 0..LOOKS_MAX {
        let before = found.len();
        for process in tree() {
            if found.insert(process) {
                process.signal(Signal::SIGSTOP);
            }
        }
        if found.len() == before {
            break;
        }
    }
    for process in &found {
        process.signal(Signal::SIGKILL);
    }
    found
}

/// What [`kill_all`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Killed {
    /// Processes that were killed.
    pub killed: u32,
    /// Processes that did not end: they wait inside the kernel for a device, or are not ours to signal.
    pub survivors: u32,
}

/// Kills what `find` finds among all processes, again and again until it finds nothing any more, and returns when they
/// have ended. Blocks for a few milliseconds, and never longer than `max`.
pub fn kill_all(max: Duration, mut find: impl FnMut(&[Stat]) -> Vec<Process>) -> Killed {
    let deadline = Instant::now() + max;
    let mut killed = HashSet::new();
    loop {
        let round = kill_tree(|| find(&all()));
        killed.extend(round.iter().copied());
        if round.is_empty() || Instant::now() >= deadline {
            let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
            return Killed {
                killed: count(killed.len()),
                survivors: count(round.len()),
            };
        }
        for handle in round.iter().filter_map(|process| process.open()) {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            // A handle becomes readable when its process has ended. An interrupted wait only means another round.
            let _ = poll(&mut [PollFd::new(handle.as_fd(), PollFlags::POLLIN)], timeout);
        }
    }
}

/// Reaps every child that has ended, and tells of each. False when there are no children left.
pub fn reap(mut ended: impl FnMut(Pid, nix::sys::wait::WaitStatus)) -> bool {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return true,
            Ok(status) => {
                if let Some(pid) = status.pid() {
                    ended(pid, status);
                }
            }
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = stat(pid).unwrap();
        assert!(own.process.is_alive());
        assert!(
            !Process {
                start_ticks: own.process.start_ticks + 1,
                ..own.process
            }
            .is_alive()
        );
        assert!(descendants(&all(), &[own.parent]).contains(&own.process));
        assert!(pid_namespace() != 0);
    }
}
