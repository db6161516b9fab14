//! Leases, results, dependencies.

use crate::support::*;
use agentd_protocol::requests::*;
use agentd_protocol::results::*;
use agentd_protocol::{CommandWork, Json, NodeSpec, NodeStatus, Reason, Work};
use agentd_store::{Command, Query};

#[tokio::test]
async fn a_node_is_leased_once_completed_once_and_unblocks_its_dependents() {
    let f = Fixture::new();
    let task = f.register(vec![after(1, &[]), after(2, &[1])]).await;
    let first = f.acquire(task.task_id).await.unwrap();
    assert_eq!(
        (first.node_id, first.attempt, first.lease_owner.as_str()),
        (node_id(1), 1, "anonymous")
    );
    assert_eq!(first.lease_expires_at, 1_800_000_300);
    assert!(
        f.acquire(task.task_id).await.is_none(),
        "the second waits for the first"
    );
    let _: Completed = f.try_do(complete(&first, r#"{"found": 7.50}"#)).await.unwrap();
    assert_eq!(f.refused(complete(&first, "1")).await, Reason::StaleLease);
    let second = f.acquire(task.task_id).await.unwrap();
    assert_eq!(second.node_id, node_id(2));
    assert!(second.fence > first.fence);
    let dependency = &second.context.completed_dependencies[0];
    assert_eq!(dependency.node_id, node_id(1));
    assert_eq!(
        dependency.result_payload.as_ref().unwrap().text(),
        r#"{"found": 7.50}"#
    );
    assert_eq!(second.context.node.dependencies, [node_id(1)]);
    f.complete(&second).await;
    let status = f.status(task.task_id).await;
    assert_eq!(statuses(&status), [NodeStatus::Completed; 2]);
    assert_eq!(status.state, agentd_protocol::TaskState::Completed);
    assert!(status.nodes[0].lease_id.is_none() && status.nodes[0].acquired_at.is_some());
    f.check().await;
}

#[tokio::test]
async fn a_lease_ends_at_its_expiry_and_its_holder_can_change_nothing_afterwards() {
    let f = Fixture::new();
    let task = f.register(vec![spec()]).await;
    let first = f.acquire(task.task_id).await.unwrap();
    f.clock.advance(299_999);
    let extended: Extended = f.try_do(heartbeat(&first)).await.unwrap();
    assert_eq!(extended.lease_expires_at, 1_800_000_600);
    f.clock.advance(300_000);
    for late in [
        complete(&first, "1"),
        fail(&first),
        heartbeat(&first),
        commit(&first, "1"),
    ] {
        assert_eq!(f.refused(late).await, Reason::StaleLease);
    }
    let second = f.acquire(task.task_id).await.unwrap();
    assert_eq!(second.node_id, first.node_id);
    assert!(second.fence > first.fence && second.attempt == 2);
    for late in [
        complete(&first, "1"),
        fail(&first),
        heartbeat(&first),
        commit(&first, "1"),
    ] {
        assert_eq!(f.refused(late).await, Reason::StaleLease);
    }
    f.complete(&second).await;
    let actions: Vec<String> = f
        .journal()
        .await
        .into_iter()
        .map(|entry| entry.action_type)
        .collect();
    assert_eq!(
        actions,
        [
            "REGISTER_TASK",
            "ACQUIRE_NODE",
            "ROLLBACK_NODE",
            "ACQUIRE_NODE",
            "COMPLETE_NODE"
        ]
    );
    f.check().await;
}

#[tokio::test]
async fn a_wall_clock_put_back_prolongs_no_lease() {
    let f = Fixture::new();
    let task = f.register(vec![spec()]).await;
    let node = f.acquire(task.task_id).await.unwrap();
    f.clock.set_wall_back(3_600_000);
    f.clock.advance(300_000);
    assert_eq!(f.refused(complete(&node, "1")).await, Reason::StaleLease);
    let again = f.acquire(task.task_id).await.unwrap();
    // In a new process the lease clock begins at the wall clock, an hour back: the lease begins anew, and lasts
    // no longer than it was granted for.
    f.clock.advance(-3_600_000);
    let f = f.reopen().await;
    f.clock.advance(299_999);
    assert!(f.acquire(task.task_id).await.is_none());
    f.clock.advance(1);
    assert!(f.acquire(task.task_id).await.unwrap().fence > again.fence);
}

#[tokio::test]
async fn nodes_are_handed_out_by_priority_and_then_as_they_were_registered() {
    let f = Fixture::new();
    let mut specs: Vec<NodeSpec> = (1..=4).map(|id| after(id, &[])).collect();
    specs[2].priority = 5;
    let task = f.register(specs).await;
    for expected in [3, 1, 2, 4] {
        assert_eq!(f.acquire(task.task_id).await.unwrap().node_id, node_id(expected));
    }
}

#[tokio::test]
async fn work_of_any_task_is_found_by_capability() {
    let f = Fixture::new();
    let needs = |names: &[&str], priority| NodeSpec {
        capabilities: names.iter().map(|name| (*name).to_owned()).collect(),
        priority,
        ..spec()
    };
    let a = f
        .register(vec![needs(&["gpu", "review"], 9), needs(&["review"], 0)])
        .await;
    let b = f.register(vec![needs(&[], 0), needs(&["review"], 1)]).await;
    let can = |names: &[&str]| AcquireNextNode {
        capabilities: Some(names.iter().map(|name| (*name).to_owned()).collect()),
        ..AcquireNextNode::default()
    };
    let found = f.acquire_with(can(&["review"])).await.unwrap();
    assert_eq!(found.node_id, b.node_ids[1]);
    assert_eq!(found.context.node.capabilities, ["review"]);
    assert_eq!(
        f.acquire_with(can(&["review"])).await.unwrap().node_id,
        a.node_ids[1]
    );
    assert_eq!(
        f.acquire_with(AcquireNextNode::default()).await.unwrap().node_id,
        b.node_ids[0]
    );
    assert!(f.acquire_with(can(&["review"])).await.is_none());
    let of_a = |names: &[&str]| AcquireNextNode {
        task_id: Some(a.task_id),
        ..can(names)
    };
    assert!(f.acquire_with(of_a(&["review"])).await.is_none());
    let found = f.acquire_with(of_a(&["review", "gpu", "other"])).await.unwrap();
    assert_eq!(found.node_id, a.node_ids[0]);
    // A client that names a task and says nothing of capabilities gets what there is, as ever.
    let c = f.register(vec![needs(&["exotic"], 0)]).await;
    assert!(f.acquire(c.task_id).await.is_some());
}

#[tokio::test]
async fn a_worker_that_does_only_work_is_given_nothing_else() {
    let f = Fixture::new();
    let work = Work::Command(CommandWork {
        argv: vec!["true".into()],
        cwd: "/".into(),
        env: Default::default(),
        timeout_secs: None,
    });
    let task = f
        .register(vec![
            spec(),
            NodeSpec {
                work: Some(work.clone()),
                ..spec()
            },
        ])
        .await;
    let only = |task_id| AcquireNextNode {
        task_id,
        capabilities: Some(vec![work.capability()]),
        work_only: true,
        ..AcquireNextNode::default()
    };
    let node = f.acquire_with(only(None)).await.unwrap();
    assert_eq!(
        (node.node_id, node.context.node.work.as_ref()),
        (task.node_ids[1], Some(&work))
    );
    assert!(f.acquire_with(only(None)).await.is_none());
    assert!(f.acquire_with(only(Some(task.task_id))).await.is_none());
    assert!(f.acquire(task.task_id).await.is_some());
}

#[tokio::test]
async fn events_show_in_the_context_newest_last_and_bookkeeping_does_not() {
    let f = Fixture::with(|options| options.context_event_limit = 3);
    let task = f.register(vec![after(1, &[]), after(2, &[1])]).await;
    let first = f.acquire(task.task_id).await.unwrap();
    assert!(first.context.event_journal.is_empty());
    for n in 0..3 {
        let _: Committed = f.try_do(commit(&first, &format!("{{\"n\":{n}}}"))).await.unwrap();
    }
    f.complete(&first).await;
    let second = f.acquire(task.task_id).await.unwrap();
    let seen: Vec<(String, String)> = second
        .context
        .event_journal
        .iter()
        .map(|event| {
            (
                event.action_type.clone(),
                event.payload.as_ref().unwrap().text().to_owned(),
            )
        })
        .collect();
    let expected = [
        ("COMMIT_EVENT", r#"{"n":1}"#),
        ("COMMIT_EVENT", r#"{"n":2}"#),
        ("COMPLETE_NODE", r#"{"result":1}"#),
    ];
    assert_eq!(seen, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    assert_eq!(second.context.event_journal_limit, 3);
    let unleased = Command::CommitEvent(CommitEvent {
        task_id: task.task_id,
        node_id: node_id(2),
        lease_id: None,
        action_type: Some("NOTE".into()),
        payload: Json::null(),
    });
    assert_eq!(f.refused(unleased.clone()).await, Reason::WrongStatus);
    f.complete(&second).await;
    let _: Committed = f.try_do(unleased).await.unwrap();
}

#[tokio::test]
async fn what_is_too_large_for_a_context_is_given_by_reference() {
    let f = Fixture::new();
    let large = format!("\"{}\"", "x".repeat(900_000));
    let mut specs: Vec<NodeSpec> = (1..=12).map(|id| after(id, &[])).collect();
    specs.push(after(100, &(1..=12).collect::<Vec<_>>()));
    let task = f.register(specs).await;
    for _ in 0..12 {
        let node = f.acquire(task.task_id).await.unwrap();
        let _: Completed = f.try_do(complete(&node, &large)).await.unwrap();
    }
    let join = f.acquire(task.task_id).await.unwrap();
    let shown = join
        .context
        .completed_dependencies
        .iter()
        .filter(|d| d.result_payload.is_some())
        .count();
    assert!((1..12).contains(&shown));
    let omitted = join
        .context
        .completed_dependencies
        .iter()
        .find(|d| d.result_payload.is_none())
        .unwrap();
    assert_eq!(omitted.result_omitted_bytes, Some(large.len() as u64));
    let whole = f.node(task.task_id, omitted.node_id).await;
    assert_eq!(whole.result_payload.unwrap().text().len(), large.len());
    assert!(
        join.context
            .event_journal
            .iter()
            .any(|event| event.payload_omitted_bytes.is_some())
    );
}

#[tokio::test]
async fn failure_is_final_without_a_policy_and_retried_with_one() {
    let f = Fixture::new();
    let mut flaky = after(1, &[]);
    flaky.retry = retry(2, 1000);
    let task = f.register(vec![flaky, after(2, &[]), after(3, &[2])]).await;
    let first = f.acquire(task.task_id).await.unwrap();
    let failed: Failed = f.try_do(fail(&first)).await.unwrap();
    assert_eq!(failed.retry_at.unwrap().unix_ms, 1_800_000_001_000);
    let other = f.acquire(task.task_id).await.unwrap();
    assert_eq!(other.node_id, node_id(2), "the first stays back for a second");
    let failed: Failed = f.try_do(fail(&other)).await.unwrap();
    assert_eq!(failed.retry_at, None);
    assert!(f.acquire(task.task_id).await.is_none());
    let node = f.node(task.task_id, node_id(1)).await;
    assert_eq!(node.not_before.unwrap().unix_ms, 1_800_000_001_000);
    let status = f.status(task.task_id).await;
    assert_eq!(status.nodes[2].blocked_by, [node_id(2)]);
    assert_eq!(
        status.state,
        agentd_protocol::TaskState::Active,
        "the first may still be run"
    );
    f.clock.advance(1000);
    let again = f.acquire(task.task_id).await.unwrap();
    assert_eq!((again.node_id, again.attempt), (node_id(1), 2));
    let failed: Failed = f.try_do(fail(&again)).await.unwrap();
    assert_eq!(failed.retry_at, None);
    let status = f.status(task.task_id).await;
    assert_eq!(status.state, agentd_protocol::TaskState::Failed);
    assert_eq!(
        status.nodes[0].result_payload.as_ref().unwrap().text(),
        r#"{"why":"test"}"#
    );
    f.check().await;
}

#[tokio::test]
async fn with_a_policy_an_expired_lease_counts_as_an_attempt() {
    let f = Fixture::new();
    let task = f
        .register(vec![NodeSpec {
            retry: retry(2, 0),
            ..spec()
        }])
        .await;
    f.acquire(task.task_id).await.unwrap();
    f.clock.advance(300_000);
    f.acquire(task.task_id).await.unwrap();
    f.clock.advance(300_000);
    assert!(f.acquire(task.task_id).await.is_none());
    let status = f.status(task.task_id).await;
    assert_eq!(statuses(&status), [NodeStatus::Failed]);
    assert!(
        status.nodes[0]
            .result_payload
            .as_ref()
            .unwrap()
            .text()
            .contains("lease_expired")
    );
    f.check().await;
}

#[tokio::test]
async fn a_released_node_is_pending_again_and_the_attempt_does_not_count() {
    let f = Fixture::new();
    let task = f.register(vec![spec()]).await;
    let node = f.acquire(task.task_id).await.unwrap();
    let release = Command::ReleaseNode(ReleaseNode {
        task_id: node.task_id,
        node_id: node.node_id,
        lease_id: node.lease_id,
    });
    let _: agentd_protocol::results::Ok = f.try_do(release.clone()).await.unwrap();
    assert_eq!(f.refused(release).await, Reason::StaleLease);
    assert_eq!(f.acquire(task.task_id).await.unwrap().attempt, 1);
}

#[tokio::test]
async fn registration_is_refused_whole() {
    let f = Fixture::new();
    let other = f.register(vec![after(50, &[])]).await;
    let cases = [
        (vec![after(1, &[]), after(1, &[])], Reason::DuplicateNode),
        (vec![after(1, &[]), after(50, &[])], Reason::DuplicateNode),
        (vec![after(1, &[1])], Reason::UnknownDependency),
        (vec![after(1, &[9])], Reason::UnknownDependency),
        (vec![after(1, &[50])], Reason::UnknownDependency),
        (
            vec![after(1, &[3]), after(2, &[1]), after(3, &[2]), after(4, &[])],
            Reason::DependencyCycle,
        ),
    ];
    for (nodes, reason) in cases {
        let params = RegisterTask {
            goal: "bad".into(),
            context: Json::empty_object(),
            initial_nodes: nodes.clone(),
            idempotency_key: None,
            paused: false,
        };
        assert_eq!(f.refused(Command::RegisterTask(params)).await, reason);
        let add = AddNodes {
            task_id: other.task_id,
            nodes,
            idempotency_key: None,
        };
        if reason != Reason::UnknownDependency {
            assert_eq!(f.refused(Command::AddNodes(add)).await, reason);
        }
    }
    let metrics: DatabaseMetrics = f.ask(Query::Metrics(NoParams {})).await;
    assert_eq!((metrics.total_tasks, metrics.total_nodes), (1, 1));
    f.check().await;
}

#[tokio::test]
async fn work_grows_with_the_completion_that_found_it() {
    let f = Fixture::new();
    let task = f.register(vec![after(1, &[])]).await;
    let node = f.acquire(task.task_id).await.unwrap();
    let grow = |nodes| {
        Command::CompleteNode(CompleteNode {
            task_id: node.task_id,
            node_id: node.node_id,
            lease_id: node.lease_id,
            result_payload: json("1"),
            add_nodes: nodes,
            idempotency_key: Some("grow".into()),
        })
    };
    assert_eq!(
        f.refused(grow(vec![after(2, &[1]), after(2, &[])])).await,
        Reason::DuplicateNode
    );
    assert_eq!(f.node(task.task_id, node_id(1)).await.status, NodeStatus::Running);
    let nodes = vec![after(2, &[1]), after(3, &[2]), after(4, &[1, 3])];
    let done: Completed = f.try_do(grow(nodes.clone())).await.unwrap();
    assert_eq!(done.node_ids, [node_id(2), node_id(3), node_id(4)]);
    let again: Completed = f.try_do(grow(nodes)).await.unwrap();
    assert_eq!(again, done, "the same request twice is one change");
    assert_eq!(f.refused(grow(vec![])).await, Reason::IdempotencyConflict);
    for expected in 2..=4 {
        let node = f.acquire(task.task_id).await.unwrap();
        assert_eq!(node.node_id, node_id(expected));
        f.complete(&node).await;
    }
    f.check().await;
}

#[tokio::test]
async fn a_completion_repeated_with_its_key_is_one_change() {
    let f = Fixture::new();
    let task = f
        .register(vec![NodeSpec {
            retry: retry(3, 0),
            ..spec()
        }])
        .await;
    let node = f.acquire(task.task_id).await.unwrap();
    let failing = Command::FailNode(FailNode {
        task_id: node.task_id,
        node_id: node.node_id,
        lease_id: node.lease_id,
        error_payload: json("1"),
        permanent: false,
        idempotency_key: Some("f".into()),
    });
    let first: Failed = f.try_do(failing.clone()).await.unwrap();
    let second = f.acquire(task.task_id).await.unwrap();
    let again: Failed = f.try_do(failing).await.unwrap();
    assert_eq!(first, again, "also when somebody else has the node by now");
    f.complete(&second).await;
    f.check().await;
}

#[tokio::test]
async fn a_refused_command_does_not_disturb_those_that_share_its_commit() {
    let f = Fixture::new();
    let task = f.register((0..50).map(|_| spec()).collect()).await;
    let mut tickets = Vec::new();
    for n in 0..100 {
        let params = AcquireNextNode {
            task_id: Some(if n % 2 == 0 {
                task.task_id
            } else {
                agentd_protocol::TaskId(uuid::Uuid::nil())
            }),
            ..AcquireNextNode::default()
        };
        tickets.push(f.store.submit(Command::AcquireNextNode(params)).await.unwrap());
    }
    let mut granted = std::collections::HashSet::new();
    for (n, ticket) in tickets.into_iter().enumerate() {
        let reply = ticket.await;
        if n % 2 == 0 {
            let node: Option<Box<AcquiredNode>> = reply.unwrap().into_result().unwrap();
            assert!(granted.insert(node.unwrap().node_id));
        } else {
            assert!(reply.is_err());
        }
    }
    assert_eq!(granted.len(), 50);
    f.check().await;
}

#[tokio::test]
async fn an_answer_that_nobody_receives_is_taken_back() {
    let f = Fixture::new();
    let task = f.register(vec![spec()]).await;
    let params = AcquireNextNode {
        task_id: Some(task.task_id),
        ..AcquireNextNode::default()
    };
    let ticket = f
        .store
        .submit(Command::AcquireNextNode(params.clone()))
        .await
        .unwrap();
    // Once this is answered, the acquire before it has been too.
    f.register(vec![]).await;
    drop(ticket);
    let waiting = AcquireNextNode {
        wait_secs: Some(3600),
        ..params
    };
    let node = f.acquire_with(waiting).await.unwrap();
    assert_eq!(node.attempt, 1);
}

#[tokio::test]
async fn wrong_ids_say_which() {
    let f = Fixture::new();
    let a = f.register(vec![after(1, &[])]).await;
    let b = f.register(vec![after(2, &[])]).await;
    let node = f.acquire(a.task_id).await.unwrap();
    let mut other = node.clone();
    other.task_id = b.task_id;
    assert_eq!(f.refused(complete(&other, "1")).await, Reason::NodeNotFound);
    other.task_id = agentd_protocol::TaskId(uuid::Uuid::nil());
    assert_eq!(f.refused(complete(&other, "1")).await, Reason::TaskNotFound);
    let mut wrong = node.clone();
    wrong.lease_id = agentd_protocol::LeaseId(uuid::Uuid::nil());
    assert_eq!(f.refused(complete(&wrong, "1")).await, Reason::StaleLease);
    f.complete(&node).await;
}
