//! Sessions that work on nodes.

use super::*;

#[tokio::test]
async fn a_node_is_leased_with_its_session() {
    let f = Fixture::new();
    let task = f
        .register(vec![agent_node(1, "writer"), agent_node(2, "reviewer"), spec()])
        .await;
    let acquired = acquire_session(&f, "reviewer").await.unwrap();
    assert_eq!(acquired.node.node_id, node_id(2));
    let info = &acquired.session;
    assert_eq!(
        (
            info.phase,
            info.trigger.kind,
            info.task_id,
            info.node_id,
            info.prompt.as_deref()
        ),
        (
            SessionPhase::Queued,
            TriggerKind::Node,
            Some(task.task_id),
            Some(node_id(2)),
            Some("node 2")
        )
    );
    assert_eq!(
        info.trigger.context.to_value()["node_id"],
        serde_json::json!(node_id(2))
    );
    assert_eq!(*info, get(&f, info.id).await);
    assert!(
        acquire_session(&f, "reviewer").await.is_none(),
        "what is no agent's work is not given"
    );
    let open = open_sessions(&f).await;
    let lease = SessionLease {
        task_id: task.task_id,
        node_id: node_id(2),
        lease_id: acquired.node.lease_id,
    };
    assert_eq!((open.len(), open[0].lease), (1, Some(lease)));

    let _: Committed = f.try_do(commit(&acquired.node, "1")).await.unwrap();
    f.complete(&acquired.node).await;
    assert_eq!(
        open_sessions(&f).await[0].lease,
        None,
        "it holds nothing any more"
    );
    bring(&f, info.id, SessionPhase::Ended).await;
    assert_eq!(get(&f, info.id).await.node_id, Some(node_id(2)));
    let entries = entries_of(&f, info.id).await;
    assert_eq!(
        kinds(&entries)[..4],
        ["ACQUIRE_NODE", "SESSION_QUEUED", "COMMIT_EVENT", "COMPLETE_NODE"]
    );
    assert!(
        entries
            .iter()
            .all(|entry| entry.agent.as_deref() == Some("reviewer"))
    );
    assert_eq!(entries[0].node_id, Some(node_id(2)));
    f.check().await;
}

#[tokio::test]
async fn a_session_waits_for_its_node_in_line() {
    let f = Fixture::new();
    let of_reviewer = f.store.submit(acquire_for("reviewer", Some(600))).await.unwrap();
    let of_writer = f.store.submit(acquire_for("writer", Some(600))).await.unwrap();
    let of_reviewer_too = f.store.submit(acquire_for("reviewer", Some(600))).await.unwrap();
    // One who waits no longer.
    drop(f.store.submit(acquire_for("writer", Some(600))).await.unwrap());
    f.register(vec![agent_node(1, "writer"), spec(), agent_node(2, "reviewer")])
        .await;
    let writer = granted(of_writer).await;
    assert_eq!(
        (writer.session.agent.as_str(), writer.node.node_id),
        ("writer", node_id(1))
    );
    assert_eq!(granted(of_reviewer).await.node.node_id, node_id(2));
    assert_eq!(open_sessions(&f).await.len(), 2);
    f.register(vec![agent_node(3, "reviewer")]).await;
    assert_eq!(granted(of_reviewer_too).await.node.node_id, node_id(3));
    let last = f.store.submit(acquire_for("writer", Some(600))).await.unwrap();
    let (last, ()) = tokio::join!(last, f.store.close());
    let none: Option<Box<AcquiredSession>> = last.unwrap().into_result().unwrap();
    assert!(none.is_none());
}

#[tokio::test]
async fn a_session_that_nobody_is_told_of_is_undone() {
    let f = Fixture::new();
    let task = f.register(vec![agent_node(1, "a")]).await;
    let ticket = f.store.submit(acquire_for("a", None)).await.unwrap();
    // Once this is answered, the acquire before it has been too.
    f.register(vec![]).await;
    let lost = open_sessions(&f).await[0].info.id;
    let again = f.store.submit(acquire_for("a", Some(600))).await.unwrap();
    drop(ticket);
    let again = granted(again).await;
    assert_eq!((again.node.node_id, again.node.attempt), (node_id(1), 1));
    assert_ne!(again.session.id, lost);
    let open: Vec<SessionId> = open_sessions(&f).await.iter().map(|open| open.info.id).collect();
    assert_eq!(open, [again.session.id]);
    assert_eq!(list(&f, ListSessions::default()).await.sessions.len(), 1);
    // The last word of it; what else there was goes with it, soon.
    let entries = entries_of(&f, lost).await;
    assert_eq!(entries.last().unwrap().action_type, "SESSION_REMOVED");
    f.complete(&again.node).await;
    assert_eq!(f.status(task.task_id).await.counts.completed, 1);
    f.check().await;
}

#[tokio::test]
async fn opening_a_store_extends_the_leases_of_its_sessions() {
    let f = Fixture::new();
    let task = f
        .register(vec![agent_node(1, "a"), agent_node(2, "a"), agent_node(3, "a")])
        .await;
    let goes_on = acquire_session(&f, "a").await.unwrap();
    bring(&f, goes_on.session.id, SessionPhase::Running).await;
    let over = acquire_session(&f, "a").await.unwrap();
    bring(&f, over.session.id, SessionPhase::Ended).await;
    let worker = f.acquire(task.task_id).await.unwrap();
    // Twice as long as a lease lasts.
    let f = away(f, 600_000).await;
    let next = acquire_session(&f, "a").await.unwrap();
    assert_eq!(next.node.node_id, over.node.node_id, "its session was over");
    assert_eq!(
        acquire_session(&f, "a").await.unwrap().node.node_id,
        worker.node_id
    );
    assert!(acquire_session(&f, "a").await.is_none());
    let node = f.node(task.task_id, goes_on.node.node_id).await;
    assert_eq!(
        (node.lease_id, node.lease_expires_at),
        (Some(goes_on.node.lease_id), Some(1_800_000_000 + 600 + 300))
    );
    assert_eq!(
        open_sessions(&f).await[0].lease.unwrap().lease_id,
        goes_on.node.lease_id
    );
    f.clock.advance(299_999);
    let _: Extended = f.try_do(heartbeat(&goes_on.node)).await.unwrap();
    f.complete(&goes_on.node).await;
    f.check().await;
    // With nobody to extend it, it ends like any other.
    f.clock.advance(300_000);
    assert!(f.acquire(task.task_id).await.is_some());
    let entries = entries_of(&f, next.session.id).await;
    assert_eq!(
        kinds(&entries),
        ["ACQUIRE_NODE", "SESSION_QUEUED", "ROLLBACK_NODE"]
    );
    f.check().await;
}

#[tokio::test]
async fn thousands_of_agents_can_be_named_by_nodes() {
    let f = Fixture::new();
    let max = limits::CAPABILITY_SETS_MAX as u128;
    let nodes = (1..=max).map(|n| agent_node(n, &format!("a{n}"))).collect();
    let task = f.register(nodes).await;
    let one_more = AddNodes {
        task_id: task.task_id,
        nodes: vec![agent_node(max + 1, "one-more")],
        idempotency_key: None,
    };
    assert_eq!(
        f.refused(Command::AddNodes(one_more)).await,
        Reason::LimitExceeded
    );
    let known = AddNodes {
        task_id: task.task_id,
        nodes: vec![agent_node(max + 2, "a7")],
        idempotency_key: None,
    };
    let _: NodeIds = f.try_do(Command::AddNodes(known)).await.unwrap();
    let f = f.reopen().await;
    for expected in [7, max + 2] {
        assert_eq!(
            acquire_session(&f, "a7").await.unwrap().node.node_id,
            node_id(expected)
        );
    }
    assert!(acquire_session(&f, "a7").await.is_none());
    let last = format!("a{max}");
    assert_eq!(
        acquire_session(&f, &last).await.unwrap().node.node_id,
        node_id(max)
    );
}
