//! Tasks as a whole: cancelling, pausing, re-running, pruning, listing; backups.

use crate::support::*;
use agentd_protocol::requests::*;
use agentd_protocol::results::*;
use agentd_protocol::{Json, NodeAddress, NodeSpec, NodeStatus, Reason, TaskState};
use agentd_store::{Command, Query, StoreError};
use std::collections::HashSet;

fn task_ref(task_id: agentd_protocol::TaskId) -> TaskRef {
    TaskRef { task_id }
}

#[tokio::test]
async fn cancelling_fails_what_has_not_ended_and_tells_the_holders() {
    let f = Fixture::new();
    let task = f
        .register(vec![after(1, &[]), after(2, &[]), after(3, &[2])])
        .await;
    let done = f.acquire(task.task_id).await.unwrap();
    f.complete(&done).await;
    let held = f.acquire(task.task_id).await.unwrap();
    let cancel = Command::CancelTask(CancelTask {
        task_id: task.task_id,
        reason: Some("changed my mind".into()),
    });
    let cancelled: CancelledTask = f.try_do(cancel.clone()).await.unwrap();
    assert_eq!(cancelled.cancelled_nodes, 2);
    let again: CancelledTask = f.try_do(cancel).await.unwrap();
    assert_eq!(again.cancelled_nodes, 0);
    let error = f.try_do::<Completed>(complete(&held, "1")).await.unwrap_err();
    assert!(error.to_string().contains("changed my mind"), "{error}");
    assert!(matches!(error, StoreError::Cancelled { .. }));
    assert!(f.acquire(task.task_id).await.is_none());
    let status = f.status(task.task_id).await;
    assert_eq!(status.state, TaskState::Cancelled);
    assert_eq!(
        statuses(&status),
        [NodeStatus::Completed, NodeStatus::Failed, NodeStatus::Failed]
    );
    assert!(
        status.nodes[1]
            .result_payload
            .as_ref()
            .unwrap()
            .text()
            .contains("cancelled")
    );
    let add = AddNodes {
        task_id: task.task_id,
        nodes: vec![spec()],
        idempotency_key: None,
    };
    assert_eq!(f.refused(Command::AddNodes(add)).await, Reason::WrongState);
    f.check().await;
    // Re-running brings it back to life.
    let retry = RetryNodes {
        task_id: task.task_id,
        node_ids: Vec::new(),
    };
    let again: NodeIds = f.try_do(Command::RetryNodes(retry)).await.unwrap();
    assert_eq!(again.node_ids, [node_id(2), node_id(3)]);
    assert_eq!(f.status(task.task_id).await.state, TaskState::Active);
    let second = f.acquire(task.task_id).await.unwrap();
    assert_eq!(second.node_id, node_id(2));
    assert_eq!(f.refused(complete(&held, "1")).await, Reason::StaleLease);
    f.complete(&second).await;
    let third = f.acquire(task.task_id).await.unwrap();
    f.complete(&third).await;
    assert_eq!(f.status(task.task_id).await.state, TaskState::Completed);
    f.check().await;
}

#[tokio::test]
async fn a_paused_task_hands_out_nothing_and_what_runs_goes_on() {
    let f = Fixture::new();
    let task = f
        .register(vec![after(1, &[]), after(2, &[1]), after(3, &[])])
        .await;
    let first = f.acquire(task.task_id).await.unwrap();
    for _ in 0..2 {
        let _: agentd_protocol::results::Ok = f
            .try_do(Command::PauseTask(task_ref(task.task_id)))
            .await
            .unwrap();
    }
    assert!(f.acquire(task.task_id).await.is_none());
    assert!(f.acquire_with(AcquireNextNode::default()).await.is_none());
    f.complete(&first).await;
    let add = AddNodes {
        task_id: task.task_id,
        nodes: vec![after(4, &[])],
        idempotency_key: None,
    };
    let _: NodeIds = f.try_do(Command::AddNodes(add)).await.unwrap();
    assert!(f.acquire(task.task_id).await.is_none());
    assert_eq!(f.status(task.task_id).await.state, TaskState::Paused);
    let _: agentd_protocol::results::Ok = f
        .try_do(Command::ResumeTask(task_ref(task.task_id)))
        .await
        .unwrap();
    for expected in [2, 3, 4] {
        let node = f.acquire(task.task_id).await.unwrap();
        assert_eq!(node.node_id, node_id(expected));
        f.complete(&node).await;
    }
    assert_eq!(f.status(task.task_id).await.state, TaskState::Completed);
    f.check().await;
}

#[tokio::test]
async fn registering_twice_with_one_key_is_one_task() {
    let f = Fixture::new();
    let params = RegisterTask {
        goal: "once".into(),
        context: Json::empty_object(),
        initial_nodes: vec![spec(), spec()],
        idempotency_key: Some("k".into()),
        paused: false,
    };
    let first: RegisteredTask = f.try_do(Command::RegisterTask(params.clone())).await.unwrap();
    let f = f.reopen().await;
    let again: RegisteredTask = f.try_do(Command::RegisterTask(params.clone())).await.unwrap();
    assert_eq!(first, again);
    let other = RegisterTask {
        goal: "another".into(),
        ..params
    };
    assert_eq!(
        f.refused(Command::RegisterTask(other)).await,
        Reason::IdempotencyConflict
    );
    let list = ListTasks {
        idempotency_key_prefix: Some("k".into()),
        ..ListTasks::default()
    };
    let tasks: TaskList = f.ask(Query::ListTasks(list)).await;
    assert_eq!(tasks.tasks.len(), 1);
}

#[tokio::test]
async fn a_large_task_is_shown_in_pages() {
    let f = Fixture::new();
    let task = f.register((0..25).map(|_| spec()).collect()).await;
    for _ in 0..5 {
        let node = f.acquire(task.task_id).await.unwrap();
        f.complete(&node).await;
    }
    let mut seen = Vec::new();
    let mut params = TaskStatus {
        limit: Some(10),
        ..status_of(task.task_id)
    };
    let mut pages = 0;
    loop {
        let page: TaskStatusResult = f.ask(Query::TaskStatus(params.clone())).await;
        assert_eq!(page.counts.completed, 5);
        seen.extend(page.nodes.iter().map(|node| node.id));
        pages += 1;
        match page.next_cursor {
            Some(cursor) => params.cursor = Some(cursor),
            None => break,
        }
    }
    assert_eq!((seen, pages), (task.node_ids.clone(), 3));
    let pending = TaskStatus {
        status: Some(NodeStatus::Pending),
        ..status_of(task.task_id)
    };
    let page: TaskStatusResult = f.ask(Query::TaskStatus(pending)).await;
    assert_eq!(page.nodes.len(), 20);
    let bad = TaskStatus {
        cursor: Some("x".into()),
        ..status_of(task.task_id)
    };
    assert!(matches!(
        f.store.query(Query::TaskStatus(bad)).await,
        Err(StoreError::BadCursor)
    ));
}

#[tokio::test]
async fn an_answer_that_would_be_too_large_is_refused_and_not_cut() {
    let f = Fixture::new();
    let task = f.register((0..20).map(|_| spec()).collect()).await;
    let large = format!("\"{}\"", "x".repeat(1_000_000));
    for _ in 0..20 {
        let node = f.acquire(task.task_id).await.unwrap();
        let _: Completed = f.try_do(complete(&node, &large)).await.unwrap();
    }
    let whole = f.store.query(Query::TaskStatus(status_of(task.task_id))).await;
    assert!(matches!(whole, Err(StoreError::AnswerTooLarge)));
    let slim = TaskStatus {
        omit_payloads: true,
        ..status_of(task.task_id)
    };
    let slim: TaskStatusResult = f.ask(Query::TaskStatus(slim)).await;
    assert_eq!(slim.nodes.len(), 20);
    let page = TaskStatus {
        limit: Some(100),
        ..status_of(task.task_id)
    };
    let page: TaskStatusResult = f.ask(Query::TaskStatus(page)).await;
    assert!(page.nodes.len() < 20 && page.next_cursor.is_some());
}

#[tokio::test]
async fn pruning_leaves_a_tombstone_and_nothing_else() {
    let f = Fixture::new();
    let old = f.register((0..1200).map(|_| spec()).collect()).await;
    while let Some(node) = f.acquire(old.task_id).await {
        f.complete(&node).await;
    }
    let young = f.register(vec![spec(), spec()]).await;
    let node = f.acquire(young.task_id).await.unwrap();
    f.complete(&node).await;
    let prune = |task_id, older_than_secs| {
        Command::PruneTasks(PruneTasks {
            older_than_secs,
            task_id,
        })
    };
    assert_eq!(f.refused(prune(Some(young.task_id), 0)).await, Reason::WrongState);
    assert_eq!(f.refused(prune(Some(old.task_id), 60)).await, Reason::WrongState);
    f.clock.advance(60_000);
    let pruned: Pruned = f.try_do(prune(None, 60)).await.unwrap();
    assert_eq!((pruned.tasks, pruned.nodes, pruned.events), (1, 1200, 2401));
    let gone = f.store.query(Query::TaskStatus(status_of(old.task_id))).await;
    assert!(matches!(gone, Err(StoreError::TaskPruned { .. })));
    assert_eq!(f.status(young.task_id).await.nodes.len(), 2);
    let metrics: DatabaseMetrics = f.ask(Query::Metrics(NoParams {})).await;
    assert_eq!(
        (metrics.total_tasks, metrics.total_nodes, metrics.total_events),
        (1, 2, 4)
    );
    assert_eq!(f.journal().await.last().unwrap().action_type, "PRUNE_TASK");
    f.check().await;
    let again: Pruned = f.try_do(prune(None, 60)).await.unwrap();
    assert_eq!(again, Pruned::default());
}

#[tokio::test]
async fn a_key_is_free_again_when_its_task_is_pruned() {
    let f = Fixture::new();
    let params = RegisterTask {
        goal: "again".into(),
        context: Json::empty_object(),
        initial_nodes: vec![spec()],
        idempotency_key: Some("k".into()),
        paused: false,
    };
    let first: RegisteredTask = f.try_do(Command::RegisterTask(params.clone())).await.unwrap();
    let node = f.acquire(first.task_id).await.unwrap();
    f.complete(&node).await;
    let prune = PruneTasks {
        older_than_secs: 0,
        task_id: Some(first.task_id),
    };
    let _: Pruned = f.try_do(Command::PruneTasks(prune)).await.unwrap();
    let second: RegisteredTask = f.try_do(Command::RegisterTask(params)).await.unwrap();
    assert_ne!(first.task_id, second.task_id);
    assert!(f.acquire(second.task_id).await.is_some());
    f.check().await;
}

#[tokio::test]
async fn tasks_are_listed_newest_first_and_by_state() {
    let f = Fixture::new();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(f.register(vec![spec()]).await.task_id);
    }
    let node = f.acquire(ids[1]).await.unwrap();
    f.complete(&node).await;
    let list = |params: ListTasks| Query::ListTasks(params);
    let all: TaskList = f
        .ask(list(ListTasks {
            limit: Some(3),
            ..ListTasks::default()
        }))
        .await;
    assert_eq!(
        all.tasks.iter().map(|task| task.task_id).collect::<Vec<_>>(),
        [ids[4], ids[3], ids[2]]
    );
    let rest = ListTasks {
        limit: Some(3),
        cursor: all.next_cursor,
        ..ListTasks::default()
    };
    let rest: TaskList = f.ask(list(rest)).await;
    assert_eq!(
        rest.tasks.iter().map(|task| task.task_id).collect::<Vec<_>>(),
        [ids[1], ids[0]]
    );
    assert_eq!(rest.next_cursor, None);
    let done = ListTasks {
        state: Some(TaskState::Completed),
        ..ListTasks::default()
    };
    let done: TaskList = f.ask(list(done)).await;
    assert_eq!(done.tasks.len(), 1);
    assert!(done.tasks[0].finished_at.is_some());
}

#[tokio::test]
async fn the_journal_is_read_in_pages_and_by_filter() {
    let f = Fixture::new();
    let a = f.register(vec![after(1, &[])]).await;
    let b = f.register(vec![after(2, &[])]).await;
    for task in [a.task_id, b.task_id] {
        let node = f.acquire(task).await.unwrap();
        f.complete(&node).await;
    }
    let read = |params: ReadJournal| Query::ReadJournal(params);
    let first: JournalPage = f
        .ask(read(ReadJournal {
            limit: Some(4),
            ..ReadJournal::default()
        }))
        .await;
    assert_eq!((first.entries.len(), first.next_seq, first.last_seq), (4, 5, 6));
    let rest = ReadJournal {
        from_seq: Some(first.next_seq),
        ..ReadJournal::default()
    };
    let rest: JournalPage = f.ask(read(rest)).await;
    assert_eq!((rest.entries.len(), rest.next_seq), (2, 7));
    let filter = JournalFilter {
        task_id: Some(b.task_id),
        ..JournalFilter::default()
    };
    let of_b: JournalPage = f
        .ask(read(ReadJournal {
            filter,
            ..ReadJournal::default()
        }))
        .await;
    let seqs: Vec<i64> = of_b.entries.iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, [2, 5, 6]);
    assert!(of_b.entries.iter().all(|entry| entry.task_id == Some(b.task_id)));
    let filter = JournalFilter {
        action_types: vec!["COMPLETE_NODE".into()],
        ..JournalFilter::default()
    };
    let last = ReadJournal {
        last: Some(1),
        filter,
        ..ReadJournal::default()
    };
    let last: JournalPage = f.ask(read(last)).await;
    assert_eq!(
        (last.entries.len(), last.entries[0].node_id),
        (1, Some(node_id(2)))
    );
}

#[tokio::test]
async fn a_backup_can_be_restored_and_numbers_go_on_growing() {
    let f = Fixture::new();
    let task = f.register(vec![after(1, &[]), after(2, &[1])]).await;
    let path = f.folder.path().join("backup.db");
    let file = FileRef {
        path: path.display().to_string(),
    };
    let backup: BackedUp = f.ask(Query::BackupDatabase(file.clone())).await;
    assert_eq!(backup.last_seq, 1);
    assert!(matches!(
        f.store.query(Query::BackupDatabase(file.clone())).await,
        Err(StoreError::BadFile { .. })
    ));
    let first = f.acquire(task.task_id).await.unwrap();
    f.complete(&first).await;
    f.register(vec![after(9, &[])]).await;
    let restored: Restored = f.try_do(Command::RestoreDatabase(file)).await.unwrap();
    assert_eq!(restored.backup_last_seq, 1);
    let again = f.acquire(task.task_id).await.unwrap();
    assert_eq!(again.node_id, node_id(1));
    assert!(again.fence > first.fence, "{} after {}", again.fence, first.fence);
    assert_eq!(f.refused(complete(&first, "1")).await, Reason::StaleLease);
    let metrics: DatabaseMetrics = f.ask(Query::Metrics(NoParams {})).await;
    assert_eq!((metrics.total_tasks, metrics.total_nodes), (1, 2));
    f.check().await;
    std::fs::write(&path, b"nonsense").unwrap();
    let bad = FileRef {
        path: path.display().to_string(),
    };
    assert_eq!(f.refused(Command::RestoreDatabase(bad)).await, Reason::BadFile);
    f.check().await;
    let leftovers: Vec<_> = std::fs::read_dir(f.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("restore") || name.contains("partial"))
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

#[tokio::test]
async fn deep_chains_and_wide_joins_work_without_recursion() {
    let f = Fixture::new();
    // A chain, registered in batches, each after the end of the last.
    let task = f.register(Vec::new()).await;
    let (length, batch) = (20_000, 5_000);
    for begin in (0..length).step_by(batch) {
        let nodes = (begin..begin + batch as u128)
            .map(|n| after(n + 1, if n == 0 { &[][..] } else { std::slice::from_ref(&n) }));
        let nodes: Vec<_> = nodes.collect();
        let add = AddNodes {
            task_id: task.task_id,
            nodes,
            idempotency_key: Some(format!("batch {begin}")),
        };
        let _: NodeIds = f.try_do(Command::AddNodes(add)).await.unwrap();
    }
    let first = f.acquire(task.task_id).await.unwrap();
    assert_eq!(first.node_id, node_id(1));
    let _: Failed = f.try_do(fail(&first)).await.unwrap();
    let params = TaskStatus {
        limit: Some(10_000),
        omit_payloads: true,
        ..status_of(task.task_id)
    };
    let status: TaskStatusResult = f.ask(Query::TaskStatus(params)).await;
    assert_eq!(status.state, TaskState::Failed);
    assert!(
        status.nodes[1..]
            .iter()
            .all(|node| node.blocked_by == [node_id(1)])
    );
    // A circle as long as a request.
    let circle: Vec<_> = (0..length)
        .map(|n| after(1_000_000 + n, &[1_000_000 + (n + 1) % length]))
        .collect();
    let params = RegisterTask {
        goal: "circle".into(),
        context: Json::default(),
        initial_nodes: circle,
        idempotency_key: None,
        paused: false,
    };
    assert_eq!(
        f.refused(Command::RegisterTask(params)).await,
        Reason::DependencyCycle
    );
    // A join of ten thousand.
    let mut wide: Vec<_> = (0..10_000).map(|n| after(2_000_000 + n, &[])).collect();
    let all: Vec<u128> = (0..10_000).map(|n| 2_000_000 + n).collect();
    wide.push(after(3_000_000, &all));
    let task = f.register(wide).await;
    let mut tickets = Vec::new();
    for _ in 0..10_000 {
        let params = AcquireNextNode {
            task_id: Some(task.task_id),
            ..AcquireNextNode::default()
        };
        tickets.push(f.store.submit(Command::AcquireNextNode(params)).await.unwrap());
    }
    let mut seen = HashSet::new();
    for ticket in tickets {
        let node: Option<Box<AcquiredNode>> = ticket.await.unwrap().into_result().unwrap();
        let node = node.unwrap();
        assert!(seen.insert(node.node_id));
        f.complete(&node).await;
    }
    let join = f.acquire(task.task_id).await.unwrap();
    assert_eq!(join.context.completed_dependencies.len(), 10_000);
    f.complete(&join).await;
    assert_eq!(f.status(task.task_id).await.state, TaskState::Completed);
    f.check().await;
}

#[tokio::test]
async fn results_of_an_earlier_task_are_taken_over_where_all_before_them_are() {
    let f = Fixture::new();
    let before = f
        .register(vec![
            after(1, &[]),
            after(2, &[1]),
            after(3, &[1]),
            after(4, &[2]),
        ])
        .await;
    for result in [r#"{"n": 1.50}"#, "\"two\""] {
        let node = f.acquire(before.task_id).await.unwrap();
        let _: Completed = f.try_do(complete(&node, result)).await.unwrap();
    }
    // In an order in which nothing comes after what it depends on.
    let reuse = |id: u128, needs: &[u128], of: u128| NodeSpec {
        reuse: Some(NodeAddress {
            task_id: before.task_id,
            node_id: node_id(of),
        }),
        fingerprint: Some(format!("f{id}")),
        ..after(id, needs)
    };
    let nodes = vec![
        reuse(14, &[12], 4),
        reuse(13, &[11], 3),
        reuse(15, &[13], 2),
        reuse(12, &[11], 2),
        reuse(11, &[], 1),
        reuse(16, &[], 99),
    ];
    let task = f.register(nodes).await;
    let status = f.status(task.task_id).await;
    use NodeStatus::{Completed as Done, Pending};
    assert_eq!(
        statuses(&status),
        [Pending, Pending, Pending, Done, Done, Pending]
    );
    let kept = f.node(task.task_id, node_id(11)).await;
    assert_eq!(kept.result_payload.unwrap().text(), r#"{"n": 1.50}"#);
    assert_eq!((kept.attempt, kept.fingerprint.as_deref()), (0, Some("f11")));
    assert!(kept.lease_id.is_none() && kept.acquired_at.is_none());
    let entries: Vec<_> = f
        .journal()
        .await
        .into_iter()
        .filter(|entry| entry.task_id == Some(task.task_id) && entry.action_type == "COMPLETE_NODE")
        .collect();
    assert_eq!(entries.len(), 2);
    assert_eq!(
        entries[0].payload.to_value()["reused"]["task_id"],
        before.task_id.to_string()
    );
    // What depends on them can run, and finds their results.
    let next = f.acquire(task.task_id).await.unwrap();
    assert_eq!(next.node_id, node_id(14));
    assert_eq!(
        next.context.completed_dependencies[0]
            .result_payload
            .as_ref()
            .unwrap()
            .text(),
        "\"two\""
    );
    f.check().await;
    let f = f.reopen().await;
    assert_eq!(f.status(task.task_id).await.counts.completed, 2);

    // A task of which nothing is left to do is finished as soon as it is registered.
    let whole = f.register(vec![reuse(22, &[21], 2), reuse(21, &[], 1)]).await;
    assert_eq!(f.status(whole.task_id).await.state, TaskState::Completed);
    f.check().await;
}

#[tokio::test]
async fn a_task_may_be_paused_from_the_beginning() {
    let f = Fixture::new();
    let params = RegisterTask {
        goal: "later".into(),
        context: Json::empty_object(),
        initial_nodes: vec![after(1, &[])],
        idempotency_key: Some("k".into()),
        paused: true,
    };
    let task: RegisteredTask = f.try_do(Command::RegisterTask(params.clone())).await.unwrap();
    assert_eq!(f.status(task.task_id).await.state, TaskState::Paused);
    assert!(f.acquire(task.task_id).await.is_none());
    let other = RegisterTask {
        paused: false,
        ..params
    };
    assert_eq!(
        f.refused(Command::RegisterTask(other)).await,
        Reason::IdempotencyConflict
    );
    let resume = Command::ResumeTask(TaskRef {
        task_id: task.task_id,
    });
    let _: agentd_protocol::results::Ok = f.try_do(resume).await.unwrap();
    let node = f.acquire(task.task_id).await.unwrap();
    f.complete(&node).await;
    assert_eq!(f.status(task.task_id).await.state, TaskState::Completed);
    f.check().await;
}
