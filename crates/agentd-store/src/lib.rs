//! agentd's durable state: tasks, nodes, leases, resource locks, sessions, and the journal of all that became of
//! them.
//!
//! Everything else in agentd may be killed at any moment and forget what it knew; this crate is what it comes
//! back to. Two kinds of things can be asked of a [`Store`]: a [`Command`] changes it, a [`Query`] reads it.
//!
//! ```text
//!            submit ─▶ queue ─▶ writer ── one transaction for all that waits ──▶ disk
//!   Command                       │ decide: pure (module `machine`)               │
//!   Ticket  ◀──────── answer ◀────┴───────────────── only after the commit ◀──────┘
//!
//!   Query ───────────▶ a read-only connection of its own ──▶ Reply
//! ```
//!
//! What holds for every implementation, and is tested by one conformance suite (`tests/conformance`):
//!
//! - A change and its journal entry are one transaction, and no [`Ticket`] is answered before it is on disk.
//! - Commands take effect in the order in which they were submitted through one handle.
//! - A command that is refused changes nothing, and does not disturb those that share its commit.
//! - A node has at most one live lease. A lease ends at its expiry, at that instant.
//! - A grant that nobody is left to receive is taken back.
//! - A node that is leased for a session has that session, in the same transaction. When a store is opened, the
//!   leases of sessions that are not over begin anew, before anything else can have their nodes.
//!
//! *Architecture Invariant:* SQL is known here and nowhere else, and nothing of it shows in this interface.
//! The interface assumes neither that the store is in this process nor that it is the only writer.

mod clock;
mod command;
mod error;
pub mod machine;
pub mod session;
pub mod sqlite;

pub use clock::{Clock, Ids, SystemClock, SystemIds};
pub use command::{Command, Query, Reply};
pub use error::StoreError;

use agentd_protocol::SessionId;
use agentd_protocol::requests::ReleaseNode;
use agentd_protocol::results::AcquiredNode;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{oneshot, watch};

/// A boxed future, so that a [`Store`] can be behind a pointer.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The answer to a command or a query.
pub type StoreResult = Result<Reply, StoreError>;

/// Durable state behind one of several databases.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Puts a command in the queue and returns at once, or, when the queue is full, as soon as there is room.
    /// The ticket is answered when the command is done and on disk.
    fn submit(&self, command: Command) -> BoxFuture<'_, Result<Ticket, StoreError>>;

    /// Answers a question from the state as it is when it is asked, or later.
    fn query(&self, query: Query) -> BoxFuture<'_, StoreResult>;

    /// The newest journal entry that is on disk. Changes with every commit that wrote one.
    fn journal_head(&self) -> watch::Receiver<i64>;

    /// Counted since the store was opened.
    fn counters(&self) -> Counters;

    /// Answers every waiting acquire with none, finishes what is queued, and closes the database. What is
    /// submitted afterwards is refused.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Submits a command and waits for its answer.
///
/// # Errors
/// The command's refusal, or the database's failure.
pub async fn execute<T: TryFrom<Reply>>(store: &dyn Store, command: Command) -> Result<T, StoreError> {
    store.submit(command).await?.await?.into_result()
}

/// Asks a question.
///
/// # Errors
/// The query's refusal, or the database's failure.
pub async fn ask<T: TryFrom<Reply>>(store: &dyn Store, query: Query) -> Result<T, StoreError> {
    store.query(query).await?.into_result()
}

/// How a store behaves, besides where it keeps its data.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// How long a lease or a lock lasts that names no length of its own, in milliseconds.
    pub default_lease_ms: i64,
    /// How many events a node's context shows at most.
    pub context_event_limit: u32,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where ids come from.
    pub ids: Arc<dyn Ids>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            default_lease_ms: 300_000,
            context_event_limit: 50,
            clock: Arc::new(SystemClock::default()),
            ids: Arc::new(SystemIds),
        }
    }
}

/// Counted since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Tasks registered.
    pub registered_tasks: u64,
    /// Nodes leased.
    pub acquired_nodes: u64,
    /// Client events written.
    pub committed_events: u64,
    /// Heartbeats of nodes accepted.
    pub heartbeats: u64,
    /// Nodes completed.
    pub completed_nodes: u64,
    /// Failures of nodes accepted.
    pub failed_nodes: u64,
    /// Leases that expired.
    pub timeout_rollbacks: u64,
    /// Transactions committed.
    pub commits: u64,
    /// Commands in them.
    pub committed_changes: u64,
    /// Transactions that failed since the last one that was committed.
    pub failed_since_commit: u64,
}

/// A command's answer, to be awaited. Dropping it does not undo the command, with one exception: a leased
/// node that nobody is told of is given back, for its holder would never end the lease.
#[derive(Debug)]
pub struct Ticket {
    answer: oneshot::Receiver<StoreResult>,
    undelivered: Option<UndeliveredSender>,
}

/// Takes back the leases of answers that nobody received.
pub type UndeliveredSender = tokio::sync::mpsc::WeakUnboundedSender<Undelivered>;

/// A grant that reached nobody.
#[derive(Debug)]
pub enum Undelivered {
    /// A node's lease.
    Node(ReleaseNode),
    /// A resource lock.
    Lock(agentd_protocol::requests::ReleaseResourceLock),
    /// A node's lease, with the session that was to work under it.
    Session(SessionId, ReleaseNode),
}

impl Ticket {
    /// A ticket for an answer that will come through `answer`. Grants left in it when it is dropped go to
    /// `undelivered`.
    #[must_use]
    pub fn new(answer: oneshot::Receiver<StoreResult>, undelivered: Option<UndeliveredSender>) -> Self {
        Self { answer, undelivered }
    }
}

/// What has to be taken back when nobody received this answer.
#[must_use]
pub fn undelivered(reply: &StoreResult) -> Option<Undelivered> {
    match reply {
        Ok(Reply::Acquired(Some(node))) => Some(Undelivered::Node(release(node))),
        Ok(Reply::AcquiredSession(Some(acquired))) => {
            Some(Undelivered::Session(acquired.session.id, release(&acquired.node)))
        }
        Ok(Reply::Lock(Some(lock))) => Some(Undelivered::Lock(
            agentd_protocol::requests::ReleaseResourceLock {
                resource_key: lock.resource_key.clone(),
                lease_id: lock.lease_id,
            },
        )),
        _ => None,
    }
}

fn release(node: &AcquiredNode) -> ReleaseNode {
    ReleaseNode {
        task_id: node.task_id,
        node_id: node.node_id,
        lease_id: node.lease_id,
    }
}

impl Future for Ticket {
    type Output = StoreResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.answer).poll(context);
        answer.map(|answer| {
            self.undelivered = None;
            answer.unwrap_or(Err(StoreError::ShuttingDown))
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(sender) = self.undelivered.take().and_then(|weak| weak.upgrade()) else {
            return;
        };
        self.answer.close();
        if let Some(grant) = self.answer.try_recv().ok().as_ref().and_then(undelivered) {
            // The writer is gone only when the store is closed; the lease then ends by itself.
            let _ = sender.send(grant);
        }
    }
}
