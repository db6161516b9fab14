//! Random events, checked against the machine and a model of the leases that sessions hold.

use super::*;
use proptest::prelude::*;

const LEASE_MS: i64 = 300_000;

/// One step. Numbers choose among what there is, modulo how much there is.
#[derive(Clone, Debug)]
enum Step {
    Create,
    AddNode,
    Acquire,
    Happen(usize, SessionEvent),
    Remove(usize),
    // The node of a session, under the lease that it was given.
    Complete(usize),
    Beat(usize),
    Advance(i64),
    Away(i64),
}

fn event() -> impl Strategy<Value = SessionEvent> {
    prop_oneof![
        6 => Just(set_up()),
        1 => Just(SessionEvent::Requeue),
        4 => Just(SessionEvent::Start),
        4 => Just(SessionEvent::Run { started_wall_ms: None }),
        4 => Just(tear_down()),
        4 => Just(end(OutcomeReason::Completed)),
        1 => Just(stop("x")),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let time = || prop_oneof![Just(1), Just(LEASE_MS - 1), Just(LEASE_MS), 0..2 * LEASE_MS];
    prop_oneof![
        2 => Just(Step::Create),
        2 => Just(Step::AddNode),
        3 => Just(Step::Acquire),
        14 => (any::<usize>(), event()).prop_map(|(n, event)| Step::Happen(n, event)),
        2 => any::<usize>().prop_map(Step::Remove),
        3 => any::<usize>().prop_map(Step::Complete),
        1 => any::<usize>().prop_map(Step::Beat),
        2 => time().prop_map(Step::Advance),
        2 => time().prop_map(Step::Away),
    ]
}

/// A node as the model has it.
struct Node {
    status: NodeStatus,
    // While it is leased: to which session, and until when.
    lease: Option<(usize, LeaseId, i64)>,
}

/// A session as the model has it.
struct Known {
    id: SessionId,
    // None once it is removed.
    phase: Option<SessionPhase>,
    stopped: bool,
    node: Option<(usize, AcquiredNode)>,
}

#[derive(Default)]
struct Model {
    now_ms: i64,
    sessions: Vec<Known>,
    nodes: Vec<Node>,
}

impl Model {
    fn end_what_is_over(&mut self) {
        for node in &mut self.nodes {
            if node
                .lease
                .is_some_and(|(_, _, expires_ms)| expires_ms <= self.now_ms)
            {
                node.status = NodeStatus::Pending;
                node.lease = None;
            }
        }
    }

    fn opened(&mut self) {
        for node in &mut self.nodes {
            if let Some((session, _, expires_ms)) = &mut node.lease {
                let phase = self.sessions[*session].phase;
                if phase.is_some_and(|phase| phase != SessionPhase::Ended) {
                    *expires_ms = self.now_ms + LEASE_MS;
                }
            }
        }
    }

    fn holds(&self, session: usize) -> bool {
        self.sessions[session].node.as_ref().is_some_and(|(at, node)| {
            self.nodes[*at]
                .lease
                .is_some_and(|(_, lease, _)| lease == node.lease_id)
        })
    }
}

// Entries about the session itself; its node's lease may end at any time.
async fn told_of(f: &Fixture, session_id: SessionId) -> usize {
    let entries = entries_of(f, session_id).await;
    let own = entries.iter().filter(|entry| entry.task_id.is_none());
    own.count()
}

async fn run(steps: Vec<Step>) {
    let mut f = Fixture::new();
    let mut model = Model::default();
    let task: TaskId = f.register(Vec::new()).await.task_id;
    for step in steps {
        model.end_what_is_over();
        let count = model.sessions.len();
        match step {
            Step::Create => {
                let id = create(&f, new_session("a")).await;
                model.sessions.push(Known {
                    id,
                    phase: Some(SessionPhase::Queued),
                    stopped: false,
                    node: None,
                });
            }
            Step::AddNode => {
                let params = AddNodes {
                    task_id: task,
                    nodes: vec![agent_node(model.nodes.len() as u128 + 1, "a")],
                    idempotency_key: None,
                };
                let _: NodeIds = f.try_do(Command::AddNodes(params)).await.unwrap();
                model.nodes.push(Node {
                    status: NodeStatus::Pending,
                    lease: None,
                });
            }
            Step::Acquire => {
                let got = acquire_session(&f, "a").await;
                let at = model
                    .nodes
                    .iter()
                    .position(|node| node.status == NodeStatus::Pending);
                assert_eq!(
                    got.as_ref().map(|got| got.node.node_id),
                    at.map(|at| node_id(at as u128 + 1))
                );
                if let (Some(got), Some(at)) = (got, at) {
                    let lease = (count, got.node.lease_id, model.now_ms + LEASE_MS);
                    model.nodes[at] = Node {
                        status: NodeStatus::Running,
                        lease: Some(lease),
                    };
                    model.sessions.push(Known {
                        id: got.session.id,
                        phase: Some(SessionPhase::Queued),
                        stopped: false,
                        node: Some((at, got.node)),
                    });
                }
            }
            Step::Happen(n, event) if count > 0 => {
                let known = &mut model.sessions[n % count];
                let told = told_of(&f, known.id).await;
                let command = change(known.id, event.clone());
                let Some(phase) = known.phase else {
                    assert_eq!(f.refused(command).await, Reason::SessionNotFound);
                    continue;
                };
                let mut written = 0;
                match decide_session(phase, &event) {
                    Err(_) => assert_eq!(f.refused(command).await, Reason::WrongState),
                    Result::Ok(next) => {
                        let info: Box<SessionInfo> = f.try_do(command).await.unwrap();
                        let stops = matches!(event, SessionEvent::Stop { .. });
                        written = usize::from(next != phase || (stops && !known.stopped));
                        known.stopped |= stops;
                        known.phase = Some(next);
                        assert_eq!(info.phase, next);
                        assert_eq!(info.stop_requested.is_some(), known.stopped);
                        assert_eq!(info.outcome.is_some(), next == SessionPhase::Ended);
                    }
                }
                assert_eq!(told_of(&f, known.id).await, told + written);
            }
            Step::Remove(n) if count > 0 => {
                let known = &mut model.sessions[n % count];
                let command = Command::RemoveSession(SessionRef { session_id: known.id });
                match known.phase {
                    None => assert_eq!(f.refused(command).await, Reason::SessionNotFound),
                    Some(SessionPhase::Ended) => {
                        let _: Ok = f.try_do(command).await.unwrap();
                        known.phase = None;
                    }
                    Some(_) => assert_eq!(f.refused(command).await, Reason::WrongState),
                }
            }
            Step::Complete(n) | Step::Beat(n) if count > 0 => {
                let n = n % count;
                let Some((at, node)) = model.sessions[n].node.clone() else {
                    continue;
                };
                let completes = matches!(step, Step::Complete(_));
                let command = if completes {
                    complete(&node, "1")
                } else {
                    heartbeat(&node)
                };
                if !model.holds(n) {
                    assert_eq!(f.refused(command).await, Reason::StaleLease);
                    continue;
                }
                f.store.submit(command).await.unwrap().await.unwrap();
                let node_now = &mut model.nodes[at];
                if completes {
                    node_now.status = NodeStatus::Completed;
                    node_now.lease = None;
                } else {
                    node_now.lease = Some((n, node.lease_id, model.now_ms + LEASE_MS));
                }
            }
            Step::Happen(..) | Step::Remove(_) | Step::Complete(_) | Step::Beat(_) => {}
            Step::Advance(ms) => {
                f.clock.advance(ms);
                model.now_ms += ms;
            }
            Step::Away(ms) => {
                f = away(f, ms).await;
                model.now_ms += ms;
                model.opened();
            }
        }
    }
    model.end_what_is_over();
    // Anything that writes lets the store end what is over.
    f.register(Vec::new()).await;
    let statuses_now = statuses(&f.status(task).await);
    let expected: Vec<NodeStatus> = model.nodes.iter().map(|node| node.status).collect();
    assert_eq!(statuses_now, expected);
    let found: Vec<(SessionId, bool)> = open_sessions(&f)
        .await
        .iter()
        .map(|open| (open.info.id, open.lease.is_some()))
        .collect();
    let expected: Vec<(SessionId, bool)> = model
        .sessions
        .iter()
        .enumerate()
        .filter(|(_, known)| known.phase.is_some_and(|phase| phase != SessionPhase::Ended))
        .map(|(n, known)| (known.id, model.holds(n)))
        .collect();
    assert_eq!(found, expected);
    let found: Vec<(SessionId, SessionPhase)> = list(&f, ListSessions::default())
        .await
        .sessions
        .iter()
        .map(|info| (info.id, info.phase))
        .collect();
    let expected: Vec<(SessionId, SessionPhase)> = model
        .sessions
        .iter()
        .rev()
        .filter_map(|known| Some((known.id, known.phase?)))
        .collect();
    assert_eq!(found, expected);
    f.check().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn sessions_do_what_the_model_does(steps in prop::collection::vec(step(), 1..60)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(steps));
    }
}
