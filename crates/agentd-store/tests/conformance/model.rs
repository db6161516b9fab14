//! Random operations, checked against a model that is simple enough to be obviously right.

use crate::locks::lock;
use crate::support::*;
use agentd_protocol::requests::*;
use agentd_protocol::results::*;
use agentd_protocol::{LeaseId, NodeAddress, NodeSpec, NodeStatus, Reason};
use agentd_store::{Command, Query};
use proptest::prelude::*;

const LEASE_MS: i64 = 300_000;

/// One step. Numbers choose among what there is, modulo how much there is.
#[derive(Clone, Debug)]
enum Step {
    Acquire,
    // With a lease ever granted, however old.
    Complete(usize),
    Fail(usize, bool),
    Heartbeat(usize),
    Release(usize),
    Commit(usize),
    Advance(i64),
    Pause,
    Resume,
    Retry,
    Add(u8),
    // A node that takes over the result of one, and depends on another.
    Reuse(usize, usize),
    Reopen,
    Lock(u8),
    Unlock(usize),
    BeatLock(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Acquire),
        6 => any::<usize>().prop_map(Step::Complete),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(n, permanent)| Step::Fail(n, permanent)),
        2 => any::<usize>().prop_map(Step::Heartbeat),
        1 => any::<usize>().prop_map(Step::Release),
        1 => any::<usize>().prop_map(Step::Commit),
        4 => prop_oneof![Just(1), Just(5_000), Just(LEASE_MS - 1), Just(LEASE_MS), 0..LEASE_MS].prop_map(Step::Advance),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => Just(Step::Retry),
        1 => any::<u8>().prop_map(Step::Add),
        2 => (any::<usize>(), any::<usize>()).prop_map(|(source, need)| Step::Reuse(source, need)),
        1 => Just(Step::Reopen),
        3 => any::<u8>().prop_map(Step::Lock),
        2 => any::<usize>().prop_map(Step::Unlock),
        1 => any::<usize>().prop_map(Step::BeatLock),
    ]
}

/// A node as the model has it.
#[derive(Clone, Debug)]
struct Node {
    dependencies: Vec<usize>,
    max_attempts: Option<u32>,
    backoff_ms: i64,
    status: NodeStatus,
    attempt: u32,
    not_before_ms: i64,
    lease: Option<(LeaseId, i64)>,
    fence: i64,
}

#[derive(Default)]
struct Model {
    now_ms: i64,
    paused: bool,
    nodes: Vec<Node>,
    // Every lease ever granted: the node, and what it was answered with.
    leases: Vec<(usize, AcquiredNode)>,
    // Every grant of a lock ever made.
    grants: Vec<ResourceLock>,
    held: std::collections::HashMap<String, (LeaseId, i64)>,
    lock_fences: std::collections::HashMap<String, i64>,
}

impl Model {
    fn missed(&mut self, at: usize, since_ms: i64, forgiving: bool) {
        let node = &mut self.nodes[at];
        node.lease = None;
        node.status = match node.max_attempts {
            None if forgiving => NodeStatus::Pending,
            Some(max) if node.attempt < max => {
                node.not_before_ms = since_ms + node.backoff_ms * (1 << (node.attempt - 1));
                NodeStatus::Pending
            }
            _ => NodeStatus::Failed,
        };
    }

    fn end_what_is_over(&mut self) {
        for at in 0..self.nodes.len() {
            if let Some((_, expires_ms)) = self.nodes[at].lease
                && expires_ms <= self.now_ms
            {
                self.missed(at, expires_ms, true);
            }
        }
        let now_ms = self.now_ms;
        self.held.retain(|_, (_, expires_ms)| *expires_ms > now_ms);
    }

    fn next(&self) -> Option<usize> {
        let free = |node: &Node| {
            node.status == NodeStatus::Pending
                && node.not_before_ms <= self.now_ms
                && node
                    .dependencies
                    .iter()
                    .all(|at| self.nodes[*at].status == NodeStatus::Completed)
        };
        if self.paused {
            None
        } else {
            self.nodes.iter().position(free)
        }
    }

    fn holds(&self, lease: usize) -> Option<usize> {
        let (at, acquired) = self.leases.get(lease)?;
        (self.nodes[*at].lease.map(|(id, _)| id) == Some(acquired.lease_id)).then_some(*at)
    }
}

fn specs(shape: &[(Vec<usize>, Option<u8>)], offset: usize) -> (Vec<NodeSpec>, Vec<Node>) {
    let mut specs = Vec::new();
    let mut nodes = Vec::new();
    for (place, (dependencies, attempts)) in shape.iter().enumerate() {
        let at = offset + place;
        let mut dependencies: Vec<usize> = if at == 0 {
            Vec::new()
        } else {
            dependencies.iter().map(|d| d % at).collect()
        };
        dependencies.sort_unstable();
        dependencies.dedup();
        let max_attempts = attempts.map(|n| u32::from(n % 3) + 1);
        let ids: Vec<u128> = dependencies.iter().map(|at| *at as u128 + 1).collect();
        let mut spec = after(at as u128 + 1, &ids);
        spec.retry = max_attempts.and_then(|max| retry(max, 5_000));
        specs.push(spec);
        nodes.push(Node {
            dependencies,
            max_attempts,
            backoff_ms: 5_000,
            status: NodeStatus::Pending,
            attempt: 0,
            not_before_ms: 0,
            lease: None,
            fence: 0,
        });
    }
    (specs, nodes)
}

async fn run(shape: Vec<(Vec<usize>, Option<u8>)>, steps: Vec<Step>) {
    let mut f = Fixture::new();
    let (first, nodes) = specs(&shape, 0);
    let mut model = Model {
        nodes,
        ..Model::default()
    };
    let task = f.register(first).await.task_id;
    for step in steps {
        model.end_what_is_over();
        match step {
            Step::Acquire => {
                let got = f.acquire(task).await;
                let expected = model.next();
                assert_eq!(
                    got.as_ref().map(|node| node.node_id),
                    expected.map(|at| node_id(at as u128 + 1))
                );
                if let (Some(got), Some(at)) = (got, expected) {
                    let expires_ms = model.now_ms + LEASE_MS;
                    let node = &mut model.nodes[at];
                    node.status = NodeStatus::Running;
                    node.attempt += 1;
                    node.lease = Some((got.lease_id, expires_ms));
                    assert!(got.fence > node.fence, "fences only grow");
                    node.fence = got.fence;
                    assert_eq!(got.attempt, node.attempt);
                    model.leases.push((at, got));
                }
            }
            Step::Complete(n)
            | Step::Fail(n, _)
            | Step::Heartbeat(n)
            | Step::Release(n)
            | Step::Commit(n) => {
                if model.leases.is_empty() {
                    continue;
                }
                let n = n % model.leases.len();
                let lease = model.leases[n].1.clone();
                let command = match step {
                    Step::Complete(_) => complete(&lease, "1"),
                    Step::Fail(_, permanent) => match fail(&lease) {
                        Command::FailNode(params) => Command::FailNode(FailNode { permanent, ..params }),
                        other => other,
                    },
                    Step::Heartbeat(_) => heartbeat(&lease),
                    Step::Release(_) => Command::ReleaseNode(ReleaseNode {
                        task_id: lease.task_id,
                        node_id: lease.node_id,
                        lease_id: lease.lease_id,
                    }),
                    _ => commit(&lease, "1"),
                };
                let Some(at) = model.holds(n) else {
                    assert_eq!(f.refused(command).await, Reason::StaleLease);
                    continue;
                };
                f.store.submit(command).await.unwrap().await.unwrap();
                let now_ms = model.now_ms;
                match step {
                    Step::Complete(_) => {
                        model.nodes[at].status = NodeStatus::Completed;
                        model.nodes[at].lease = None;
                    }
                    Step::Fail(_, true) => {
                        model.nodes[at].status = NodeStatus::Failed;
                        model.nodes[at].lease = None;
                    }
                    Step::Fail(..) => model.missed(at, now_ms, false),
                    Step::Heartbeat(_) => model.nodes[at].lease = Some((lease.lease_id, now_ms + LEASE_MS)),
                    Step::Release(_) => {
                        model.nodes[at].status = NodeStatus::Pending;
                        model.nodes[at].attempt -= 1;
                        model.nodes[at].lease = None;
                    }
                    _ => {}
                }
            }
            Step::Advance(ms) => {
                f.clock.advance(ms);
                model.now_ms += ms;
            }
            Step::Pause | Step::Resume => {
                let params = TaskRef { task_id: task };
                model.paused = matches!(step, Step::Pause);
                let command = if model.paused {
                    Command::PauseTask(params)
                } else {
                    Command::ResumeTask(params)
                };
                let _: agentd_protocol::results::Ok = f.try_do(command).await.unwrap();
            }
            Step::Retry => {
                let params = RetryNodes {
                    task_id: task,
                    node_ids: Vec::new(),
                };
                let retried: NodeIds = f.try_do(Command::RetryNodes(params)).await.unwrap();
                let failed: Vec<usize> = (0..model.nodes.len())
                    .filter(|at| model.nodes[*at].status == NodeStatus::Failed)
                    .collect();
                let ids: Vec<_> = failed.iter().map(|at| node_id(*at as u128 + 1)).collect();
                assert_eq!(retried.node_ids, ids);
                for at in failed {
                    let node = &mut model.nodes[at];
                    node.status = NodeStatus::Pending;
                    node.attempt = 0;
                    node.not_before_ms = 0;
                }
            }
            Step::Add(n) => {
                let shape = vec![(
                    vec![usize::from(n), usize::from(n) / 2],
                    (n % 2 == 0).then_some(n),
                )];
                let (nodes, new) = specs(&shape, model.nodes.len());
                let params = AddNodes {
                    task_id: task,
                    nodes,
                    idempotency_key: None,
                };
                let _: NodeIds = f.try_do(Command::AddNodes(params)).await.unwrap();
                model.nodes.extend(new);
            }
            Step::Reuse(source, need) => {
                let count = model.nodes.len();
                let (source, need) = (source % count, need % count);
                let (mut nodes, mut new) = specs(&[(vec![need], None)], count);
                nodes[0].reuse = Some(NodeAddress {
                    task_id: task,
                    node_id: node_id(source as u128 + 1),
                });
                let is_done = |at: usize| model.nodes[at].status == NodeStatus::Completed;
                if is_done(source) && is_done(need) {
                    new[0].status = NodeStatus::Completed;
                }
                let params = AddNodes {
                    task_id: task,
                    nodes,
                    idempotency_key: None,
                };
                let _: NodeIds = f.try_do(Command::AddNodes(params)).await.unwrap();
                model.nodes.extend(new);
            }
            Step::Reopen => f = f.reopen().await,
            Step::Lock(n) => {
                let key = format!("k{}", n % 3);
                let got: Option<Box<ResourceLock>> =
                    f.try_do(Command::AcquireResourceLock(lock(&key))).await.unwrap();
                assert_eq!(got.is_some(), !model.held.contains_key(&key));
                if let Some(got) = got {
                    let last = model.lock_fences.insert(key.clone(), got.fence).unwrap_or(0);
                    assert!(got.fence > last);
                    model.held.insert(key, (got.lease_id, model.now_ms + 10_000));
                    model.grants.push(*got);
                }
            }
            Step::Unlock(n) | Step::BeatLock(n) => {
                if model.grants.is_empty() {
                    continue;
                }
                let grant = model.grants[n % model.grants.len()].clone();
                let key = grant.resource_key.clone();
                let held = model.held.get(&key).is_some_and(|(id, _)| *id == grant.lease_id);
                let (resource_key, lease_id) = (key.clone(), grant.lease_id);
                let command = if matches!(step, Step::Unlock(_)) {
                    Command::ReleaseResourceLock(ReleaseResourceLock {
                        resource_key,
                        lease_id,
                    })
                } else {
                    Command::HeartbeatResourceLock(HeartbeatResourceLock {
                        resource_key,
                        lease_id,
                        ttl_secs: None,
                    })
                };
                if !held {
                    assert_eq!(f.refused(command).await, Reason::StaleLock);
                    continue;
                }
                f.store.submit(command).await.unwrap().await.unwrap();
                if matches!(step, Step::Unlock(_)) {
                    model.held.remove(&key);
                } else {
                    model.held.insert(key, (grant.lease_id, model.now_ms + 10_000));
                }
            }
        }
    }
    model.end_what_is_over();
    // Anything that writes lets the store end what is over.
    f.register(Vec::new()).await;
    let status = f.status(task).await;
    let expected: Vec<NodeStatus> = model.nodes.iter().map(|node| node.status).collect();
    assert_eq!(statuses(&status), expected);
    let locks: LockList = f
        .ask(Query::ListResourceLocks(ListResourceLocks::default()))
        .await;
    assert_eq!(locks.locks.len(), model.held.len());
    f.check().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(
        shape in prop::collection::vec((prop::collection::vec(any::<usize>(), 0..3), any::<Option<u8>>()), 1..8),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(shape, steps));
    }
}
