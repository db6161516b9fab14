//! What was acquired through this server and is not over: the leases that it extends, and gives back at the end.

use agentd_protocol::results::{AcquiredNode, ResourceLock};
use agentd_protocol::{LeaseId, NodeId, TaskId};
use rmcp::model::RequestId;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Leases that one client may hold through this server.
pub(super) const LEASES_MAX: usize = 256;
/// Notices that are kept until the agent calls a tool again.
const NOTICES_MAX: usize = 16;

/// What a lease is on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Thing {
    Node(NodeId),
    Lock(String),
}

impl std::fmt::Display for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node {id}"),
            Self::Lock(key) => write!(f, "lock {key}"),
        }
    }
}

/// One lease.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) thing: Thing,
    pub(super) lease_id: LeaseId,
    /// Of a node.
    pub(super) task_id: Option<TaskId>,
    pub(super) name: Option<String>,
    /// Of a node: an attempt that comes to nothing counts.
    pub(super) counts_attempts: bool,
    pub(super) fence: Option<i64>,
    /// How long it lasts without a heartbeat.
    pub(super) length: Duration,
    pub(super) next_beat: Instant,
    /// Unix seconds.
    pub(super) expires_at: i64,
    /// The call that acquired it, until the agent has shown that it knows of it.
    pub(super) granted_by: Option<RequestId>,
    /// A call is about to end it. A heartbeat that comes after that call is refused, and means nothing.
    pub(super) is_ending: bool,
    /// The session's own node: whoever runs the session extends its lease, and gives it back.
    pub(super) is_own: bool,
}

impl Lease {
    pub(super) fn of_node(node: &AcquiredNode, now_secs: i64) -> Self {
        Self {
            thing: Thing::Node(node.node_id),
            task_id: Some(node.task_id),
            name: node.context.node.name.clone(),
            counts_attempts: node.context.node.retry.is_some(),
            ..Self::new(node.lease_id, Some(node.fence), node.lease_expires_at, now_secs)
        }
    }

    pub(super) fn of_lock(lock: &ResourceLock, now_secs: i64) -> Self {
        Self {
            thing: Thing::Lock(lock.resource_key.clone()),
            ..Self::new(lock.lease_id, Some(lock.fence), lock.lease_expires_at, now_secs)
        }
    }

    /// The node that a session works on.
    pub(super) fn own_node(task_id: TaskId, node_id: NodeId, lease_id: LeaseId) -> Self {
        Self {
            thing: Thing::Node(node_id),
            task_id: Some(task_id),
            is_own: true,
            ..Self::new(lease_id, None, 0, 0)
        }
    }

    fn new(lease_id: LeaseId, fence: Option<i64>, expires_at: i64, now_secs: i64) -> Self {
        // Rounded up by up to a second, and granted a moment ago: what is a second too long is one of three tries.
        let secs = u64::try_from(expires_at.saturating_sub(now_secs))
            .unwrap_or(0)
            .max(1);
        let length = Duration::from_secs(secs);
        Self {
            thing: Thing::Lock(String::new()),
            lease_id,
            task_id: None,
            name: None,
            counts_attempts: false,
            fence,
            length,
            next_beat: Instant::now() + length / 3,
            expires_at,
            granted_by: None,
            is_ending: false,
            is_own: false,
        }
    }

    /// For the agent.
    pub(super) fn shown(&self) -> Value {
        let mut shown = match &self.thing {
            Thing::Node(id) => json!({ "node_id": id, "task_id": self.task_id }),
            Thing::Lock(key) => json!({ "key": key }),
        };
        if let Some(name) = &self.name {
            shown["name"] = name.as_str().into();
        }
        if let Some(fence) = self.fence {
            shown["fence"] = fence.into();
        }
        if self.is_own {
            shown["session"] = true.into();
        } else {
            shown["lease_expires_at"] = self.expires_at.into();
        }
        shown
    }
}

#[derive(Debug)]
struct Table {
    leases: BTreeMap<Thing, Lease>,
    notices: VecDeque<String>,
    last_call: Instant,
    closed: bool,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Held {
    table: Mutex<Table>,
    /// When a lease was added.
    pub(super) changed: Notify,
}

impl Held {
    pub(super) fn new() -> Self {
        Self {
            table: Mutex::new(Table {
                leases: BTreeMap::new(),
                notices: VecDeque::new(),
                last_call: Instant::now(),
                closed: false,
            }),
            changed: Notify::new(),
        }
    }

    // Nothing that is done under the lock can leave it half done.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent lives: it called a tool. A client that uses an id again has had the answer to the call before.
    pub(super) fn called(&self, id: &RequestId) {
        let mut table = self.table();
        table.last_call = Instant::now();
        for lease in table.leases.values_mut() {
            lease.granted_by.take_if(|granted_by| granted_by == id);
        }
    }

    /// True when the agent has called no tool for so long.
    pub(super) fn silent_for(&self, limit: Duration) -> bool {
        self.table().last_call.elapsed() >= limit
    }

    pub(super) fn is_full(&self) -> bool {
        self.table().leases.len() >= LEASES_MAX
    }

    /// False when nothing is held any more: what was granted goes back.
    pub(super) fn add(&self, lease: Lease) -> bool {
        let mut table = self.table();
        if table.closed {
            return false;
        }
        table.leases.insert(lease.thing.clone(), lease);
        drop(table);
        self.changed.notify_one();
        true
    }

    /// A lease that the agent names: it knows of it.
    pub(super) fn named(&self, thing: &Thing) -> Option<Lease> {
        let mut table = self.table();
        let lease = table.leases.get_mut(thing)?;
        lease.granted_by = None;
        Some(lease.clone())
    }

    pub(super) fn all(&self) -> Vec<Lease> {
        self.table().leases.values().cloned().collect()
    }

    pub(super) fn holds(&self, thing: &Thing) -> bool {
        self.table().leases.contains_key(thing)
    }

    /// What one call acquired, when the agent cannot know of it.
    pub(super) fn take_granted_by(&self, id: &RequestId) -> Option<Lease> {
        let mut table = self.table();
        let thing = table
            .leases
            .values()
            .find(|lease| lease.granted_by.as_ref() == Some(id))?;
        let thing = thing.thing.clone();
        table.leases.remove(&thing)
    }

    /// It was extended: `lease_secs` only when its length was changed.
    pub(super) fn extended(&self, lease: &Lease, expires_at: i64, lease_secs: Option<u64>) {
        let mut table = self.table();
        let held = table.leases.get_mut(&lease.thing);
        if let Some(held) = held.filter(|held| held.lease_id == lease.lease_id) {
            if let Some(secs) = lease_secs {
                held.length = Duration::from_secs(secs);
            }
            held.next_beat = Instant::now() + held.length / 3;
            held.expires_at = expires_at;
        }
        drop(table);
        self.changed.notify_one();
    }

    /// It could not be extended just now.
    pub(super) fn postpone(&self, lease: &Lease, pause: Duration) {
        let mut table = self.table();
        if let Some(held) = table.leases.get_mut(&lease.thing) {
            held.next_beat = Instant::now() + pause;
        }
    }

    /// A call is about to end it, or did not.
    pub(super) fn set_ending(&self, lease: &Lease, is_ending: bool) {
        let mut table = self.table();
        let held = table.leases.get_mut(&lease.thing);
        if let Some(held) = held.filter(|held| held.lease_id == lease.lease_id) {
            held.is_ending = is_ending;
        }
    }

    /// It is over, with the agent's knowledge.
    pub(super) fn over(&self, lease: &Lease) -> bool {
        let mut table = self.table();
        let current = table.leases.get(&lease.thing);
        if current.is_none_or(|held| held.lease_id != lease.lease_id) {
            return false;
        }
        table.leases.remove(&lease.thing).is_some()
    }

    /// It is over, and the agent is to be told at its next call.
    pub(super) fn lost(&self, lease: &Lease, why: &str) {
        let is_ending = self
            .table()
            .leases
            .get(&lease.thing)
            .is_some_and(|held| held.is_ending);
        if is_ending {
            // The call that ends it is told the same, and tells the agent.
            self.postpone(lease, lease.length / 3);
            return;
        }
        if !self.over(lease) {
            return;
        }
        let what = match &lease.thing {
            Thing::Node(_) => "stop working on it and drop the result",
            Thing::Lock(_) => "do not write what it protects",
        };
        let mut table = self.table();
        if table.notices.len() >= NOTICES_MAX {
            table.notices.pop_front();
        }
        table
            .notices
            .push_back(format!("you lost the {}: {why}; {what}", lease.thing));
    }

    /// What the agent was not told yet.
    pub(super) fn notices(&self) -> Vec<String> {
        self.table().notices.drain(..).collect()
    }

    /// Those whose heartbeat is due, and when the next one is.
    pub(super) fn due(&self, now: Instant) -> (Vec<Lease>, Option<Instant>) {
        let table = self.table();
        let ours = || table.leases.values().filter(|lease| !lease.is_own);
        let due = ours().filter(|lease| lease.next_beat <= now).cloned().collect();
        (due, ours().map(|lease| lease.next_beat).min())
    }

    /// Nothing more is held: gives what has to go back.
    pub(super) fn close(&self) -> Vec<Lease> {
        let mut table = self.table();
        table.closed = true;
        std::mem::take(&mut table.leases)
            .into_values()
            .filter(|lease| !lease.is_own)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn lease(key: &str) -> Lease {
        Lease {
            thing: Thing::Lock(key.into()),
            ..Lease::new(LeaseId(Uuid::new_v4()), Some(1), 130, 100)
        }
    }

    #[test]
    fn a_grant_that_was_cancelled_is_found_until_the_agent_names_it() {
        let held = Held::new();
        let id = RequestId::Number(7);
        let granted = |key| Lease {
            granted_by: Some(id.clone()),
            ..lease(key)
        };
        assert!(held.add(granted("a")));
        assert_eq!(held.take_granted_by(&id).unwrap().thing, Thing::Lock("a".into()));
        assert!(held.add(granted("b")));
        assert!(held.named(&Thing::Lock("b".into())).is_some());
        assert!(held.take_granted_by(&id).is_none());
        // The same id again is another call.
        assert!(held.add(granted("c")));
        held.called(&id);
        assert!(held.take_granted_by(&id).is_none());
    }

    #[test]
    fn only_the_lease_that_is_meant_is_lost() {
        let held = Held::new();
        let (old, new) = (lease("a"), lease("a"));
        held.add(old.clone());
        held.add(new.clone());
        held.lost(&old, "expired");
        assert!(held.holds(&new.thing) && held.notices().is_empty());
        held.lost(&new, "expired");
        assert_eq!(held.notices().len(), 1);
        assert!(held.notices().is_empty());
    }

    #[test]
    fn a_lease_that_is_being_ended_is_not_lost() {
        let held = Held::new();
        let lease = lease("a");
        held.add(lease.clone());
        held.set_ending(&lease, true);
        held.lost(&lease, "released");
        assert!(held.holds(&lease.thing) && held.notices().is_empty());
        held.set_ending(&lease, false);
        held.lost(&lease, "expired");
        assert_eq!(held.notices().len(), 1);
    }

    #[test]
    fn a_heartbeat_is_due_after_a_third_of_the_lease() {
        let held = Held::new();
        held.add(lease("a"));
        let own = Lease::own_node(
            TaskId(Uuid::new_v4()),
            NodeId(Uuid::new_v4()),
            LeaseId(Uuid::new_v4()),
        );
        held.add(own);
        let (due, next) = held.due(Instant::now());
        assert!(due.is_empty());
        assert!(next.unwrap() <= Instant::now() + Duration::from_secs(10));
        let (due, _) = held.due(Instant::now() + Duration::from_secs(10));
        assert_eq!(due.len(), 1);
        assert_eq!(held.close().len(), 1);
        assert!(!held.add(lease("b")));
    }
}
