//! Stores to test, and short words for what is asked of them.

use agentd_protocol::requests::*;
use agentd_protocol::results::*;
use agentd_protocol::{Json, NodeId, NodeSpec, NodeStatus, Reason, RetryPolicy, RpcError, Seconds, TaskId};
use agentd_store::sqlite::SqliteStore;
use agentd_store::{Clock, Command, Query, Store, StoreError, StoreOptions, ask, execute};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// A clock that stands still until it is told otherwise.
#[derive(Debug)]
pub(crate) struct ManualClock {
    lease_ms: AtomicI64,
    wall_ms: AtomicI64,
}

impl ManualClock {
    pub(crate) fn new() -> Arc<Self> {
        let now = AtomicI64::new(1_800_000_000_000);
        Arc::new(Self {
            lease_ms: AtomicI64::new(now.load(Ordering::SeqCst)),
            wall_ms: now,
        })
    }

    pub(crate) fn advance(&self, ms: i64) {
        self.lease_ms.fetch_add(ms, Ordering::SeqCst);
        self.wall_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Somebody sets the machine's clock.
    pub(crate) fn set_wall_back(&self, ms: i64) {
        self.wall_ms.fetch_sub(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn lease_ms(&self) -> i64 {
        self.lease_ms.load(Ordering::SeqCst)
    }

    fn wall_ms(&self) -> i64 {
        self.wall_ms.load(Ordering::SeqCst)
    }
}

/// A store, and what belongs to it.
pub(crate) struct Fixture {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) folder: tempfile::TempDir,
}

impl Fixture {
    /// A new store whose clock is in the test's hand.
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut StoreOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::new();
        let mut options = StoreOptions {
            clock: clock.clone(),
            ..StoreOptions::default()
        };
        change(&mut options);
        let (store, opened) = SqliteStore::open(&folder.path().join("state.db"), options).unwrap();
        assert!(opened.created);
        Self {
            store: Arc::new(store),
            clock,
            folder,
        }
    }

    /// Closes the store and opens it again.
    pub(crate) async fn reopen(self) -> Self {
        self.store.close().await;
        let options = StoreOptions {
            clock: self.clock.clone(),
            ..StoreOptions::default()
        };
        let (store, _) = SqliteStore::open(&self.folder.path().join("state.db"), options).unwrap();
        Self {
            store: Arc::new(store),
            ..self
        }
    }

    pub(crate) async fn try_do<T: TryFrom<agentd_store::Reply>>(
        &self,
        command: Command,
    ) -> Result<T, StoreError> {
        execute(&*self.store, command).await
    }

    pub(crate) async fn refused(&self, command: Command) -> Reason {
        let reply = match self.store.submit(command).await {
            Ok(ticket) => ticket.await,
            Err(error) => Err(error),
        };
        let error = RpcError::from(reply.expect_err("was to be refused"));
        assert!(!error.message.is_empty());
        error.reason().unwrap()
    }

    pub(crate) async fn register(&self, nodes: Vec<NodeSpec>) -> RegisteredTask {
        let params = RegisterTask {
            goal: "test".into(),
            context: Json::empty_object(),
            initial_nodes: nodes,
            idempotency_key: None,
            paused: false,
        };
        self.try_do(Command::RegisterTask(params)).await.unwrap()
    }

    pub(crate) async fn acquire(&self, task_id: TaskId) -> Option<AcquiredNode> {
        self.acquire_with(AcquireNextNode {
            task_id: Some(task_id),
            ..AcquireNextNode::default()
        })
        .await
    }

    pub(crate) async fn acquire_with(&self, params: AcquireNextNode) -> Option<AcquiredNode> {
        let node: Option<Box<AcquiredNode>> = self.try_do(Command::AcquireNextNode(params)).await.unwrap();
        node.map(|node| *node)
    }

    pub(crate) async fn complete(&self, node: &AcquiredNode) -> Completed {
        self.try_do(complete(node, "1")).await.unwrap()
    }

    pub(crate) async fn status(&self, task_id: TaskId) -> TaskStatusResult {
        self.ask(Query::TaskStatus(status_of(task_id))).await
    }

    pub(crate) async fn ask<T: TryFrom<agentd_store::Reply>>(&self, query: Query) -> T {
        ask(&*self.store, query).await.unwrap()
    }

    pub(crate) async fn node(&self, task_id: TaskId, node: NodeId) -> agentd_protocol::NodeInfo {
        let result: Box<GetNodeResult> = self
            .ask(Query::GetNode(GetNode {
                task_id,
                node_id: node,
            }))
            .await;
        result.node
    }

    pub(crate) async fn journal(&self) -> Vec<agentd_protocol::journal::JournalEntry> {
        let params = ReadJournal {
            limit: Some(10_000),
            ..ReadJournal::default()
        };
        let page: JournalPage = self.ask(Query::ReadJournal(params)).await;
        page.entries
    }

    /// The state agrees with itself and with the journal.
    pub(crate) async fn check(&self) {
        let checked: Checked = self.ask(Query::CheckDatabase(NoParams {})).await;
        assert!(checked.ok, "{:?}", checked.findings);
    }
}

pub(crate) fn status_of(task_id: TaskId) -> TaskStatus {
    TaskStatus {
        task_id,
        status: None,
        limit: None,
        cursor: None,
        omit_payloads: false,
    }
}

pub(crate) fn json(text: &str) -> Json {
    Json::from_text(text.into()).unwrap()
}

pub(crate) fn complete(node: &AcquiredNode, result: &str) -> Command {
    Command::CompleteNode(CompleteNode {
        task_id: node.task_id,
        node_id: node.node_id,
        lease_id: node.lease_id,
        result_payload: json(result),
        add_nodes: Vec::new(),
        idempotency_key: None,
    })
}

pub(crate) fn fail(node: &AcquiredNode) -> Command {
    Command::FailNode(FailNode {
        task_id: node.task_id,
        node_id: node.node_id,
        lease_id: node.lease_id,
        error_payload: json(r#"{"why":"test"}"#),
        permanent: false,
        idempotency_key: None,
    })
}

pub(crate) fn heartbeat(node: &AcquiredNode) -> Command {
    Command::HeartbeatNode(HeartbeatNode {
        task_id: node.task_id,
        node_id: node.node_id,
        lease_id: node.lease_id,
        lease_secs: None,
    })
}

pub(crate) fn commit(node: &AcquiredNode, payload: &str) -> Command {
    Command::CommitEvent(CommitEvent {
        task_id: node.task_id,
        node_id: node.node_id,
        lease_id: Some(node.lease_id),
        action_type: None,
        payload: json(payload),
    })
}

pub(crate) fn spec() -> NodeSpec {
    NodeSpec::default()
}

pub(crate) fn node_id(n: u128) -> NodeId {
    NodeId(uuid::Uuid::from_u128(n))
}

/// A node with a known id that waits for others with known ids.
pub(crate) fn after(id: u128, dependencies: &[u128]) -> NodeSpec {
    NodeSpec {
        id: Some(node_id(id)),
        dependencies: dependencies.iter().map(|id| node_id(*id)).collect(),
        ..NodeSpec::default()
    }
}

pub(crate) fn retry(max_attempts: u32, backoff_ms: u64) -> Option<RetryPolicy> {
    Some(RetryPolicy {
        max_attempts,
        backoff_secs: Seconds { ms: backoff_ms },
        backoff_max_secs: None,
    })
}

pub(crate) fn statuses(status: &TaskStatusResult) -> Vec<NodeStatus> {
    status.nodes.iter().map(|node| node.status).collect()
}
