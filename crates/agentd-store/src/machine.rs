//! The transitions of nodes, locks and sessions, and nothing else: no database, no clock, no randomness.
//!
//! Every implementation of the store loads a state, asks here what an event makes of it, and writes down the
//! answer. What is not allowed here happens nowhere.
//!
//! ```text
//!                      ┌── retry ──────────────────────────────┐
//!                      ▼                                       │
//!   register, reuse ─────────────────────────────────────────▶ COMPLETED
//!   register ──▶ PENDING ── acquire ──▶ RUNNING ── complete ──▶ COMPLETED
//!                  │   ▲                  │  │  └── fail, no attempt left ──▶ FAILED
//!                  │   └ expire, release, ┘  │                               ▲
//!                  │     fail with attempts  └────────── cancel ─────────────┤
//!                  └──────────────────────── cancel ─────────────────────────┘
//! ```

mod session;

pub use session::{WrongPhase, decide_session};

use agentd_protocol::{LeaseId, NodeStatus, RetryPolicy};

/// A lease, as far as it decides anything. Times are on the lease clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which lease.
    pub id: LeaseId,
    /// From this instant on it is over.
    pub expires_ms: i64,
    /// How long it lasts without a heartbeat.
    pub length_ms: i64,
}

impl Lease {
    /// A lease that begins now.
    #[must_use]
    pub fn new(id: LeaseId, now_ms: i64, length_ms: i64) -> Self {
        Self {
            id,
            expires_ms: now_ms.saturating_add(length_ms),
            length_ms,
        }
    }

    fn check(&self, id: LeaseId, now_ms: i64) -> Result<(), Denied> {
        if self.id != id {
            return Err(Denied::StaleLease("another lease holds it now"));
        }
        if now_ms >= self.expires_ms {
            return Err(Denied::StaleLease("it has expired"));
        }
        Ok(())
    }

    fn extended(self, now_ms: i64, length_ms: Option<i64>) -> Self {
        Self::new(self.id, now_ms, length_ms.unwrap_or(self.length_ms))
    }
}

/// A node, as far as its transitions depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// Where it stands.
    pub status: NodeStatus,
    /// How many of its dependencies are not completed.
    pub blockers: u32,
    /// True while its task is paused.
    pub held: bool,
    /// How often it was leased since it was registered or re-run.
    pub attempt: u32,
    /// What is done when it fails.
    pub retry: Option<RetryPolicy>,
    /// While it waits for a backoff: until when.
    pub not_before_ms: Option<i64>,
    /// The lease, exactly while `RUNNING`.
    pub lease: Option<Lease>,
}

impl NodeState {
    /// A node as it is registered.
    #[must_use]
    pub fn registered(blockers: u32, held: bool, retry: Option<RetryPolicy>) -> Self {
        Self {
            status: NodeStatus::Pending,
            blockers,
            held,
            attempt: 0,
            retry,
            not_before_ms: None,
            lease: None,
        }
    }

    /// True when it may be handed out now.
    #[must_use]
    pub fn is_runnable(&self) -> bool {
        self.status == NodeStatus::Pending && self.blockers == 0 && !self.held && self.not_before_ms.is_none()
    }

    fn ended(self, status: NodeStatus) -> Self {
        Self {
            status,
            lease: None,
            not_before_ms: None,
            ..self
        }
    }

    fn back(self, not_before_ms: Option<i64>) -> Self {
        Self {
            status: NodeStatus::Pending,
            lease: None,
            not_before_ms,
            ..self
        }
    }

    // What an attempt that came to nothing leads to. `forgiving`: without a policy the node may run again.
    fn missed(self, now_ms: i64, forgiving: bool) -> Self {
        match self.retry {
            None if forgiving => self.back(None),
            Some(retry) if self.attempt < retry.max_attempts => {
                let backoff_ms = i64::try_from(retry.backoff_ms(self.attempt)).unwrap_or(i64::MAX);
                self.back((backoff_ms > 0).then(|| now_ms.saturating_add(backoff_ms)))
            }
            _ => self.ended(NodeStatus::Failed),
        }
    }
}

/// What can happen to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// It is leased.
    Acquire(Lease),
    /// Its lease is extended, to the length given or the one that it was granted for.
    Heartbeat(LeaseId, Option<i64>),
    /// Something is written about it. The lease is needed while it is `RUNNING`.
    Commit(Option<LeaseId>),
    /// Its work was done before it was registered: it takes another node's result over.
    Reuse,
    /// Its work is done.
    Complete(LeaseId),
    /// Its work came to nothing; for good if so said.
    Fail(LeaseId, bool),
    /// Its lease is given back undone.
    Release(LeaseId),
    /// Its lease has run out.
    Expire,
    /// Its backoff is over.
    Due,
    /// Its task is cancelled.
    Cancel,
    /// It is to run again.
    Retry,
    /// Its task is paused (true) or resumed.
    Hold(bool),
    /// One of its dependencies is completed.
    Unblock,
}

/// Why something is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The lease is not the current one; what became of it.
    StaleLease(&'static str),
    /// The node is not in a status from which this can be done; what would be needed.
    WrongStatus(&'static str),
}

/// What `event` makes of `node` at `now_ms`, on the lease clock.
///
/// # Errors
/// Why it is not allowed; the node is then as before.
pub fn decide(node: &NodeState, event: NodeEvent, now_ms: i64) -> Result<NodeState, Denied> {
    use NodeStatus::{Completed, Failed, Pending, Running};
    let leased = |id: LeaseId| match (node.status, node.lease) {
        (Running, Some(lease)) => lease.check(id, now_ms).map(|()| lease),
        (Running | Pending, _) => Err(Denied::StaleLease("it has expired or was given back")),
        (Completed, _) => Err(Denied::StaleLease(
            "the node is completed; there is nothing more to do",
        )),
        (Failed, _) => Err(Denied::StaleLease("the node has failed")),
    };
    match event {
        NodeEvent::Acquire(lease) => {
            if !node.is_runnable() {
                return Err(Denied::WrongStatus("only a runnable node can be acquired"));
            }
            Ok(NodeState {
                status: Running,
                attempt: node.attempt + 1,
                lease: Some(lease),
                ..*node
            })
        }
        NodeEvent::Heartbeat(id, length_ms) => leased(id).map(|lease| NodeState {
            lease: Some(lease.extended(now_ms, length_ms)),
            ..*node
        }),
        NodeEvent::Commit(id) => match (node.status, id) {
            (Running, None) => Err(Denied::WrongStatus(
                "its lease_id is required while it is RUNNING",
            )),
            (Running, Some(id)) => leased(id).map(|_| *node),
            // A lease that was once valid does not become a licence to write afterwards.
            (Pending | Completed | Failed, Some(id)) => leased(id).map(|_| *node),
            (Pending | Completed | Failed, None) => Ok(*node),
        },
        NodeEvent::Reuse => match (node.status, node.blockers, node.attempt) {
            (Pending, 0, 0) => Ok(node.ended(Completed)),
            _ => Err(Denied::WrongStatus(
                "only a node that has never run and waits for nothing can take a result over",
            )),
        },
        NodeEvent::Complete(id) => leased(id).map(|_| node.ended(Completed)),
        NodeEvent::Fail(id, permanent) => leased(id).map(|_| {
            if permanent {
                node.ended(Failed)
            } else {
                node.missed(now_ms, false)
            }
        }),
        NodeEvent::Release(id) => leased(id).map(|_| NodeState {
            attempt: node.attempt.saturating_sub(1),
            ..node.back(None)
        }),
        NodeEvent::Expire => match (node.status, node.lease) {
            // The backoff begins when the lease ended, not when somebody noticed.
            (Running, Some(lease)) if now_ms >= lease.expires_ms => Ok(node.missed(lease.expires_ms, true)),
            _ => Err(Denied::WrongStatus("only a lease that has run out can expire")),
        },
        NodeEvent::Due => match node.not_before_ms {
            Some(at_ms) if now_ms >= at_ms => Ok(NodeState {
                not_before_ms: None,
                ..*node
            }),
            _ => Err(Denied::WrongStatus(
                "only a node whose backoff is over can become due",
            )),
        },
        NodeEvent::Cancel => match node.status {
            Pending | Running => Ok(node.ended(Failed)),
            Completed | Failed => Err(Denied::WrongStatus("it has ended")),
        },
        NodeEvent::Retry => match node.status {
            Failed => Ok(NodeState {
                status: Pending,
                attempt: 0,
                ..*node
            }),
            Pending | Running | Completed => Err(Denied::WrongStatus("only a FAILED node can be run again")),
        },
        NodeEvent::Hold(held) => Ok(NodeState { held, ..*node }),
        NodeEvent::Unblock => match (node.status, node.blockers.checked_sub(1)) {
            (Pending | Failed, Some(blockers)) => Ok(NodeState { blockers, ..*node }),
            _ => Err(Denied::WrongStatus("it waits for nothing")),
        },
    }
}

/// What can be asked of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockEvent {
    /// To hold it.
    Acquire(Lease),
    /// To hold it longer.
    Heartbeat(LeaseId, Option<i64>),
    /// To give it back.
    Release(LeaseId),
}

/// What a lock becomes: held, or free.
///
/// # Errors
/// [`LockDenied`]; the lock is then as before.
pub fn decide_lock(held: Option<Lease>, event: LockEvent, now_ms: i64) -> Result<Option<Lease>, LockDenied> {
    let held = held.filter(|lease| now_ms < lease.expires_ms);
    let own = |id: LeaseId| match held {
        Some(lease) if lease.id == id => Ok(lease),
        Some(_) => Err(LockDenied::Stale("another lease holds it now")),
        None => Err(LockDenied::Stale("it has expired or was released")),
    };
    match event {
        LockEvent::Acquire(lease) if held.is_none() => Ok(Some(lease)),
        LockEvent::Acquire(_) => Err(LockDenied::Held),
        LockEvent::Heartbeat(id, length_ms) => own(id).map(|lease| Some(lease.extended(now_ms, length_ms))),
        LockEvent::Release(id) => own(id).map(|_| None),
    }
}

/// Why a lock does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockDenied {
    /// Somebody holds it.
    Held,
    /// The lease is not the current one; what became of it.
    Stale(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_protocol::Seconds;
    use uuid::Uuid;

    fn lease(n: u128) -> Lease {
        Lease::new(LeaseId(Uuid::from_u128(n)), 1000, 500)
    }

    fn running(retry: Option<RetryPolicy>) -> NodeState {
        decide(
            &NodeState::registered(0, false, retry),
            NodeEvent::Acquire(lease(1)),
            1000,
        )
        .unwrap()
    }

    fn policy(max_attempts: u32, backoff_ms: u64) -> Option<RetryPolicy> {
        Some(RetryPolicy {
            max_attempts,
            backoff_secs: Seconds { ms: backoff_ms },
            backoff_max_secs: None,
        })
    }

    #[test]
    fn a_lease_ends_at_its_expiry_to_the_millisecond() {
        let node = running(None);
        assert_eq!(
            decide(&node, NodeEvent::Complete(lease(1).id), 1499)
                .unwrap()
                .status,
            NodeStatus::Completed
        );
        assert!(matches!(
            decide(&node, NodeEvent::Complete(lease(1).id), 1500),
            Err(Denied::StaleLease(_))
        ));
        assert!(decide(&node, NodeEvent::Expire, 1499).is_err());
        assert_eq!(
            decide(&node, NodeEvent::Expire, 1500).unwrap().status,
            NodeStatus::Pending
        );
    }

    #[test]
    fn a_result_is_taken_over_before_anything_ran_and_when_nothing_is_waited_for() {
        let new = |blockers, held| NodeState::registered(blockers, held, None);
        for held in [false, true] {
            let kept = decide(&new(0, held), NodeEvent::Reuse, 1).unwrap();
            assert_eq!((kept.status, kept.attempt), (NodeStatus::Completed, 0));
        }
        assert!(decide(&new(1, false), NodeEvent::Reuse, 1).is_err());
        let back = decide(&running(None), NodeEvent::Expire, 2000).unwrap();
        for node in [running(None), back] {
            assert!(decide(&node, NodeEvent::Reuse, 2000).is_err());
        }
    }

    #[test]
    fn without_a_policy_failure_is_final_and_expiry_is_not() {
        let node = running(None);
        assert_eq!(
            decide(&node, NodeEvent::Fail(lease(1).id, false), 1001)
                .unwrap()
                .status,
            NodeStatus::Failed
        );
        let back = decide(&node, NodeEvent::Expire, 2000).unwrap();
        assert!(back.is_runnable());
    }

    #[test]
    fn with_a_policy_both_count_as_attempts() {
        let first = running(policy(2, 100));
        let back = decide(&first, NodeEvent::Expire, 2000).unwrap();
        assert_eq!(
            (back.status, back.not_before_ms),
            (NodeStatus::Pending, Some(1600))
        );
        assert!(decide(&back, NodeEvent::Acquire(lease(2)), 2050).is_err());
        assert!(decide(&back, NodeEvent::Due, 1599).is_err());
        let due = decide(&back, NodeEvent::Due, 2100).unwrap();
        let second = decide(&due, NodeEvent::Acquire(Lease::new(lease(2).id, 2100, 500)), 2100).unwrap();
        assert_eq!(second.attempt, 2);
        assert_eq!(
            decide(&second, NodeEvent::Fail(lease(2).id, false), 2200)
                .unwrap()
                .status,
            NodeStatus::Failed
        );
        assert_eq!(
            decide(&second, NodeEvent::Expire, 2600).unwrap().status,
            NodeStatus::Failed
        );
        let released = decide(&second, NodeEvent::Release(lease(2).id), 2200).unwrap();
        assert_eq!((released.attempt, released.is_runnable()), (1, true));
    }

    #[test]
    fn the_backoff_doubles_up_to_its_bound() {
        let policy = RetryPolicy {
            max_attempts: 1000,
            backoff_secs: Seconds { ms: 100 },
            backoff_max_secs: Some(Seconds { ms: 1000 }),
        };
        let waits: Vec<u64> = [1, 2, 4, 5, 999].map(|attempt| policy.backoff_ms(attempt)).into();
        assert_eq!(waits, [100, 200, 800, 1000, 1000]);
    }

    #[test]
    fn a_lock_goes_to_the_next_comer_when_it_is_over() {
        let held = decide_lock(None, LockEvent::Acquire(lease(1)), 1000).unwrap();
        assert_eq!(
            decide_lock(held, LockEvent::Acquire(lease(2)), 1499),
            Err(LockDenied::Held)
        );
        assert!(decide_lock(held, LockEvent::Acquire(lease(2)), 1500).is_ok());
        assert!(decide_lock(held, LockEvent::Release(lease(1).id), 1500).is_err());
        assert!(decide_lock(held, LockEvent::Release(lease(2).id), 1400).is_err());
        assert_eq!(decide_lock(held, LockEvent::Release(lease(1).id), 1400), Ok(None));
        let longer = decide_lock(held, LockEvent::Heartbeat(lease(1).id, Some(9000)), 1400)
            .unwrap()
            .unwrap();
        assert_eq!(longer.expires_ms, 10_400);
    }
}
