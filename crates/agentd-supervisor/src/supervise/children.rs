//! Reaps every process below this one in one place: the agent, and the orphans of its tree, which the kernel gives to
//! the supervisor.

use crate::proc::{self, Process};
use nix::sys::wait::WaitStatus;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// So many of those that nobody waits for (yet) are remembered.
const REMEMBERED_MAX: usize = 256;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Code(i32),
    Signal(i32),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

#[derive(Debug)]
pub(super) struct Children {
    state: Mutex<State>,
    /// Changes whenever some were reaped.
    reaped: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    awaited: HashMap<i32, Option<Ending>>,
    others: VecDeque<(i32, Ending)>,
    none_left: bool,
    /// Those that are not of the agent's tree: each the leader of a session.
    adopted: HashSet<i32>,
}

impl Children {
    /// Begins to reap.
    pub(super) fn start() -> io::Result<Arc<Self>> {
        let mut ended = signal(SignalKind::child())?;
        let children = Arc::new(Self {
            state: Mutex::default(),
            reaped: watch::Sender::new(()),
        });
        let reaper = Arc::clone(&children);
        tokio::spawn(async move {
            while ended.recv().await.is_some() {
                reaper.reap();
            }
        });
        Ok(children)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reap(&self) {
        let mut state = self.state();
        let any_left = proc::reap(|pid, status| {
            let ending = match status {
                WaitStatus::Exited(_, code) => Ending::Code(code),
                WaitStatus::Signaled(_, signal, _) => Ending::Signal(signal as i32),
                // Not asked for.
                _ => return,
            };
            if let Some(awaited) = state.awaited.get_mut(&pid.as_raw()) {
                *awaited = Some(ending);
            } else {
                if state.others.len() == REMEMBERED_MAX {
                    state.others.pop_front();
                }
                state.others.push_back((pid.as_raw(), ending));
            }
        });
        state.none_left = !any_left;
        drop(state);
        self.reaped.send_replace(());
    }

    /// From now on the process's end is not forgotten. To be called before anything is waited for after its start, or
    /// at least soon.
    pub(super) fn expect(&self, pid: i32) {
        let mut state = self.state();
        let known = state.others.iter().rev().find(|(other, _)| *other == pid);
        let ending = known.map(|(_, ending)| *ending);
        state.awaited.entry(pid).or_insert(ending);
    }

    /// The process, and what is in its session, is a plugin and not of the agent's tree.
    pub(super) fn adopt(&self, pid: i32) {
        self.state().adopted.insert(pid);
    }

    pub(super) fn adopted(&self) -> HashSet<i32> {
        self.state().adopted.clone()
    }

    /// Nobody asks for the end of an expected process any more.
    pub(super) fn forget(&self, pid: i32) {
        self.state().awaited.remove(&pid);
    }

    /// What runs of the agent's tree: all that is below the supervisor, but for plugins and what is below them.
    pub(super) fn tree(&self) -> Vec<Process> {
        let adopted = self.adopted();
        let mut all = proc::all();
        all.retain(|stat| !adopted.contains(&stat.session));
        proc::descendants(&all, &[nix::unistd::getpid().as_raw()])
    }

    /// True when nothing of the agent's tree is left.
    pub(super) fn tree_is_gone(&self) -> bool {
        self.are_gone() || !self.state().adopted.is_empty() && self.tree().is_empty()
    }

    /// How an expected process ended, if it has.
    pub(super) fn ending(&self, pid: i32) -> Option<Ending> {
        self.state().awaited.get(&pid).copied().flatten()
    }

    /// Waits for the end of an expected process.
    pub(super) async fn ended(&self, pid: i32) -> Ending {
        let mut reaped = self.reaped.subscribe();
        loop {
            if let Some(ending) = self.ending(pid) {
                return ending;
            }
            // The sender is part of this value.
            let _ = reaped.changed().await;
        }
    }

    /// True when there is no child, running or not.
    pub(super) fn are_gone(&self) -> bool {
        self.reap();
        self.state().none_left
    }

    /// Waits until nothing of the agent's tree is left.
    pub(super) async fn tree_gone(&self) {
        let mut reaped = self.reaped.subscribe();
        while !self.tree_is_gone() {
            reaped.mark_unchanged();
            let _ = reaped.changed().await;
        }
    }

    /// Waits until some are reaped.
    pub(super) async fn some_gone(&self) {
        let _ = self.reaped.subscribe().changed().await;
    }
}
