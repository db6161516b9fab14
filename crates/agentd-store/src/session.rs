//! What agentd itself asks of the store about sessions. None of it is on the wire.

use agentd_protocol::requests::AcquireNextNode;
use agentd_protocol::results::AcquiredNode;
use agentd_protocol::{
    Json, LeaseId, NodeId, SessionId, SessionInfo, SessionOutcome, TaskId, Timestamp, Trigger,
};
use serde::Serialize;

/// A session to be made durable, in QUEUED.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// The agent.
    pub agent: String,
    /// What began it.
    pub trigger: Trigger,
    /// What it is to do, instead of what the agent's configuration says.
    pub prompt: Option<String>,
    /// The same key again gives the same session.
    pub idempotency_key: Option<String>,
}

/// A node to be leased for a session of `agent`, and that session, in one transaction: there is no lease without
/// its session, whenever agentd ends.
#[derive(Clone, Debug)]
pub struct AcquireSession {
    /// The agent.
    pub agent: String,
    /// What it can do, for how long, and how long to wait. It always has `work_only`.
    pub acquire: AcquireNextNode,
}

/// A session that works on a node.
#[derive(Clone, Debug, Serialize)]
pub struct AcquiredSession {
    /// The session, in QUEUED; its trigger is the node.
    pub session: SessionInfo,
    /// The node, leased.
    pub node: AcquiredNode,
}

/// Something that happens to a session, with the journal entries that tell of it.
#[derive(Clone, Debug)]
pub struct ChangeSession {
    /// The session.
    pub session_id: SessionId,
    /// What happens; none when there is only something to be noted.
    pub event: Option<SessionEvent>,
    /// Entries for the journal, in the same transaction, before the change's own.
    pub notes: Vec<SessionNote>,
}

/// A journal entry about a session.
#[derive(Clone, Debug)]
pub struct SessionNote {
    /// One of [`agentd_protocol::journal::action`]'s.
    pub action: &'static str,
    /// What there is to say.
    pub payload: Json,
}

/// What can happen to a session.
#[derive(Clone, Debug, PartialEq)]
pub enum SessionEvent {
    /// QUEUED → SETUP.
    SetUp {
        /// The replica that it will be.
        replica: u32,
        /// The kind of runtime.
        runtime: String,
    },
    /// SETUP or STARTING → QUEUED: nothing of it is left, and the agent never began, nor ever will.
    Requeue,
    /// SETUP → STARTING.
    Start,
    /// STARTING → RUNNING. `started_at` is the time of this unless the agent's own is known.
    Run {
        /// When the agent began, in Unix milliseconds, when that is known.
        started_wall_ms: Option<i64>,
    },
    /// SETUP, STARTING or RUNNING → TEARDOWN. `exited_at` is the time of this unless the agent's own is known.
    TearDown {
        /// When the agent ended, in Unix milliseconds, when that is known.
        exited_wall_ms: Option<i64>,
    },
    /// QUEUED or TEARDOWN → ENDED. A lease that it still holds is left as it is, and ends by itself: whoever ends
    /// the session completes, fails or releases its node first.
    End(SessionOutcome),
    /// Its end was asked for; it is in the same phase still. The first reason stays.
    Stop {
        /// Why.
        reason: String,
    },
}

/// A session that is not over, as agentd finds it when it starts.
#[derive(Clone, Debug, Serialize)]
pub struct OpenSession {
    /// The session.
    pub info: SessionInfo,
    /// The lease that it holds.
    pub lease: Option<SessionLease>,
}

/// A session's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SessionLease {
    /// The task.
    pub task_id: TaskId,
    /// The node.
    pub node_id: NodeId,
    /// The lease.
    pub lease_id: LeaseId,
}

/// A number that one home of an agent keeps for ever, and no other has: what its range of user ids follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HomeNumber {
    /// From 0 on.
    pub number: u32,
}

/// Asks for sessions that have been over for a while.
#[derive(Clone, Copy, Debug)]
pub struct EndedBefore {
    /// Only those that ended before this, in Unix milliseconds.
    pub before_wall_ms: i64,
    /// At most so many, and never more than a page of any list has.
    pub limit: u32,
}

/// A session that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndedSession {
    /// The session.
    pub session_id: SessionId,
    /// The agent that it was an execution of.
    pub agent: String,
    /// When it was over.
    pub ended_at: Timestamp,
}

/// A text that tells this database from every other: random, made once, kept for ever. A restored backup does not
/// bring its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstanceId {
    /// 32 hexadecimal digits.
    pub id: String,
}
