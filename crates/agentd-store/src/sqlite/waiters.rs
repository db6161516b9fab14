//! Those who wait for a node or a lock.
//!
//! They stand in line here, in memory, and are served within the transaction that frees what they wait for: a
//! waiting worker learns of its node with the very commit that made it runnable, and nobody is woken in vain.

use super::capabilities::CapabilitySets;
use crate::session::AcquireSession;
use crate::{Reply, StoreResult};
use agentd_protocol::TaskId;
use agentd_protocol::requests::{AcquireNextNode, AcquireResourceLock};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio::sync::oneshot;

/// Waiting requests. Each stands for a connection, of which there are fewer.
const WAITERS_MAX: usize = 16_384;

/// What somebody waits for.
#[derive(Debug)]
pub(super) enum Wanted {
    Node(AcquireNextNode),
    Session(AcquireSession),
    Lock(AcquireResourceLock),
}

impl Wanted {
    fn node(&self) -> Option<&AcquireNextNode> {
        match self {
            Self::Node(params) => Some(params),
            Self::Session(params) => Some(&params.acquire),
            Self::Lock(_) => None,
        }
    }
}

/// Somebody who waits.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) wanted: Wanted,
    pub(super) answer: oneshot::Sender<StoreResult>,
    deadline_ms: i64,
}

impl Waiter {
    pub(super) fn none(&self) -> Reply {
        match self.wanted {
            Wanted::Node(_) => Reply::Acquired(None),
            Wanted::Session(_) => Reply::AcquiredSession(None),
            Wanted::Lock(_) => Reply::Lock(None),
        }
    }
}

/// All who wait, by what they wait for, each line in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    next: u64,
    all: HashMap<u64, Waiter>,
    by_task: HashMap<TaskId, BTreeSet<u64>>,
    any_task: BTreeSet<u64>,
    by_lock: HashMap<String, BTreeSet<u64>>,
    by_deadline: BTreeMap<(i64, u64), ()>,
}

impl Waiters {
    /// Puts somebody at the end of the line. Gives the waiter back when there are too many.
    pub(super) fn add(
        &mut self,
        wanted: Wanted,
        answer: oneshot::Sender<StoreResult>,
        deadline_ms: i64,
    ) -> Result<u64, oneshot::Sender<StoreResult>> {
        if self.all.len() >= WAITERS_MAX {
            self.remove_gone();
            if self.all.len() >= WAITERS_MAX {
                return Err(answer);
            }
        }
        let id = self.next;
        self.next += 1;
        self.line(&wanted).insert(id);
        self.by_deadline.insert((deadline_ms, id), ());
        self.all.insert(
            id,
            Waiter {
                wanted,
                answer,
                deadline_ms,
            },
        );
        Ok(id)
    }

    fn line(&mut self, wanted: &Wanted) -> &mut BTreeSet<u64> {
        match wanted {
            Wanted::Node(params) | Wanted::Session(AcquireSession { acquire: params, .. }) => {
                match params.task_id {
                    Some(task) => self.by_task.entry(task).or_default(),
                    None => &mut self.any_task,
                }
            }
            Wanted::Lock(lock) => self.by_lock.entry(lock.resource_key.clone()).or_default(),
        }
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Waiter> {
        let waiter = self.all.remove(&id)?;
        self.by_deadline.remove(&(waiter.deadline_ms, id));
        let line = self.line(&waiter.wanted);
        line.remove(&id);
        if line.is_empty() {
            match &waiter.wanted {
                Wanted::Node(params) | Wanted::Session(AcquireSession { acquire: params, .. }) => {
                    drop(params.task_id.and_then(|task| self.by_task.remove(&task)));
                }
                Wanted::Lock(lock) => drop(self.by_lock.remove(&lock.resource_key)),
            }
        }
        Some(waiter)
    }

    // Connections that were closed while they waited.
    fn remove_gone(&mut self) {
        let gone: Vec<u64> = self
            .all
            .iter()
            .filter(|(_, waiter)| waiter.answer.is_closed())
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.remove(id);
        }
    }

    /// The first in line who is still there and could take a node of this task that asks for these capabilities.
    pub(super) fn first_for_node(
        &mut self,
        task: TaskId,
        sets: &CapabilitySets,
        requires: i64,
    ) -> Option<u64> {
        let lines = [self.by_task.get(&task), Some(&self.any_task)];
        let mut gone = Vec::new();
        let firsts = lines.into_iter().flatten().filter_map(|line| {
            line.iter().copied().find(|id| {
                let Some(waiter) = self.all.get(id) else {
                    return false;
                };
                if waiter.answer.is_closed() {
                    gone.push(*id);
                    return false;
                }
                waiter
                    .wanted
                    .node()
                    .is_some_and(|params| sets.suits(params, requires))
            })
        });
        let first = firsts.min();
        for id in gone {
            self.remove(id);
        }
        first
    }

    /// The first in line for this lock who is still there.
    pub(super) fn first_for_lock(&mut self, key: &str) -> Option<u64> {
        loop {
            let id = *self.by_lock.get(key)?.first()?;
            if self.all.get(&id).is_some_and(|waiter| !waiter.answer.is_closed()) {
                return Some(id);
            }
            self.remove(id);
        }
    }

    pub(super) fn wanted(&self, id: u64) -> Option<&Wanted> {
        self.all.get(&id).map(|waiter| &waiter.wanted)
    }

    /// When the first of them has waited long enough.
    pub(super) fn next_deadline_ms(&self) -> i64 {
        self.by_deadline
            .first_key_value()
            .map_or(i64::MAX, |((deadline_ms, _), ())| *deadline_ms)
    }

    /// Those who have waited long enough by now.
    pub(super) fn remove_due(&mut self, now_ms: i64) -> Vec<Waiter> {
        let mut due = Vec::new();
        while let Some(((deadline_ms, id), ())) = self.by_deadline.first_key_value()
            && *deadline_ms <= now_ms
        {
            let (deadline_ms, id) = (*deadline_ms, *id);
            match self.remove(id) {
                Some(waiter) => due.push(waiter),
                None => drop(self.by_deadline.remove(&(deadline_ms, id))),
            }
        }
        due
    }

    /// True when nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Everybody, first come first.
    pub(super) fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self.all.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Everybody, for the end.
    pub(super) fn remove_all(&mut self) -> Vec<Waiter> {
        self.ids().into_iter().filter_map(|id| self.remove(id)).collect()
    }
}
