//! What is left of sessions: after removal, pruning and restoring; homes.

use super::*;

#[tokio::test]
async fn removing_a_session_leaves_one_entry() {
    let f = Fixture::new();
    let task = f.register(vec![agent_node(1, "a")]).await;
    let acquired = acquire_session(&f, "a").await.unwrap();
    let id = acquired.session.id;
    let kept = create(&f, new_session("b")).await;
    let removal = || Command::RemoveSession(SessionRef { session_id: id });
    assert_eq!(f.refused(removal()).await, Reason::WrongState);
    // More entries than one transaction removes.
    for _ in 0..2 {
        let noted = ChangeSession {
            session_id: id,
            event: None,
            notes: vec![
                SessionNote {
                    action: agentd_protocol::journal::action::SESSION_STEP,
                    payload: Json::empty_object(),
                };
                800
            ],
        };
        let _: Box<SessionInfo> = f.try_do(Command::ChangeSession(noted)).await.unwrap();
    }
    f.complete(&acquired.node).await;
    bring(&f, id, SessionPhase::Ended).await;
    remove(&f, id).await;
    assert_eq!(f.refused(removal()).await, Reason::SessionNotFound);
    assert_eq!(f.refused(change(id, stop("x"))).await, Reason::SessionNotFound);
    // Also when agentd ends in the middle of it.
    let f = f.reopen().await;
    // A pruning comes after what is being removed already.
    let prune = |older_than_secs| {
        Command::PruneTasks(PruneTasks {
            older_than_secs,
            task_id: None,
        })
    };
    let pruned: Pruned = f.try_do(prune(3600)).await.unwrap();
    assert_eq!(pruned, Pruned::default());
    assert_eq!(
        kinds(&entries_of(&f, id).await),
        ["ACQUIRE_NODE", "COMPLETE_NODE", "SESSION_REMOVED"],
        "the node's are the task's as well"
    );
    f.check().await;
    // The task goes, and with time the last entry of the session; a session that is there keeps its own.
    f.clock.advance(3_600_000);
    let pruned: Pruned = f.try_do(prune(60)).await.unwrap();
    assert_eq!((pruned.tasks, pruned.nodes, pruned.events), (1, 1, 4));
    assert!(entries_of(&f, id).await.is_empty());
    assert_eq!(kinds(&entries_of(&f, kept).await), ["SESSION_QUEUED"]);
    let metrics: DatabaseMetrics = f.ask(Query::Metrics(NoParams {})).await;
    assert_eq!(metrics.total_events, f.journal().await.len() as u64);
    let gone = f.store.query(Query::TaskStatus(status_of(task.task_id))).await;
    assert!(gone.is_err());
    f.check().await;
}

#[tokio::test]
async fn a_pruned_task_keeps_its_sessions() {
    let f = Fixture::new();
    let task = f.register(vec![agent_node(1, "a")]).await;
    let acquired = acquire_session(&f, "a").await.unwrap();
    f.complete(&acquired.node).await;
    bring(&f, acquired.session.id, SessionPhase::Ended).await;
    let before = get(&f, acquired.session.id).await;
    let prune = PruneTasks {
        older_than_secs: 0,
        task_id: Some(task.task_id),
    };
    let _: Pruned = f.try_do(Command::PruneTasks(prune)).await.unwrap();
    assert_eq!(get(&f, acquired.session.id).await, before);
    let of_task = ListSessions {
        task_id: Some(task.task_id),
        ..ListSessions::default()
    };
    assert_eq!(list(&f, of_task).await.sessions.len(), 1);
    assert_eq!(
        entries_of(&f, acquired.session.id).await[0].action_type,
        "SESSION_QUEUED"
    );
    f.check().await;
}

async fn home_number(f: &Fixture, name: &str) -> u32 {
    let home: HomeNumber = f.try_do(Command::NumberHome(name.into())).await.unwrap();
    home.number
}

async fn instance(f: &Fixture) -> String {
    let instance: InstanceId = f.ask(Query::InstanceId(NoParams {})).await;
    instance.id
}

#[tokio::test]
async fn homes_keep_their_numbers_and_a_database_its_name() {
    let f = Fixture::new();
    let name = instance(&f).await;
    assert_eq!(name.len(), 32);
    assert_ne!(name, instance(&Fixture::new()).await);
    let names: Vec<String> = (0..50).map(|n| format!("agent-{n}")).collect();
    let mut numbers = Vec::new();
    for name in &names {
        numbers.push(home_number(&f, name).await);
    }
    assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), 50);
    let f = f.reopen().await;
    assert_eq!(instance(&f).await, name);
    for (name, number) in names.iter().zip(&numbers) {
        assert_eq!(home_number(&f, name).await, *number);
    }
    assert!(!numbers.contains(&home_number(&f, "another").await));
    assert_eq!(
        f.refused(Command::NumberHome(String::new())).await,
        Reason::LimitExceeded
    );
}

#[tokio::test]
async fn a_restored_backup_resurrects_no_session() {
    let f = Fixture::new();
    let task = f.register(vec![agent_node(1, "a")]).await;
    let acquired = acquire_session(&f, "a").await.unwrap();
    bring(&f, acquired.session.id, SessionPhase::Running).await;
    let mut others = Vec::new();
    for phase in SessionPhase::ALL {
        let id = create(&f, new_session("a")).await;
        bring(&f, id, phase).await;
        others.push(id);
    }
    assert_eq!(home_number(&f, "old").await, 0);
    let file = FileRef {
        path: f.folder.path().join("backup.db").display().to_string(),
    };
    let _: BackedUp = f.ask(Query::BackupDatabase(file.clone())).await;
    let done_since = get(&f, others[5]).await;
    let later = create(&f, new_session("a")).await;
    let new_home = home_number(&f, "new").await;
    let name = instance(&f).await;
    let _: Restored = f.try_do(Command::RestoreDatabase(file.clone())).await.unwrap();
    assert!(open_sessions(&f).await.is_empty());
    for id in others[..5].iter().chain([&acquired.session.id]) {
        let info = get(&f, *id).await;
        let outcome = info.outcome.unwrap();
        assert_eq!(
            (info.phase, outcome.reason),
            (SessionPhase::Ended, OutcomeReason::Lost)
        );
        assert!(outcome.message.unwrap().contains("restored"));
    }
    assert_eq!(get(&f, others[5]).await, done_since);
    assert!(
        f.store
            .query(Query::GetSession(SessionRef { session_id: later }))
            .await
            .is_err()
    );
    assert_eq!(f.node(task.task_id, node_id(1)).await.status, NodeStatus::Pending);
    assert_eq!(f.refused(heartbeat(&acquired.node)).await, Reason::StaleLease);
    assert_eq!(
        (home_number(&f, "old").await, home_number(&f, "new").await),
        (0, new_home)
    );
    assert_eq!(instance(&f).await, name);
    f.check().await;
    let f = away(f, 1000).await;
    let again = acquire_session(&f, "a").await.unwrap();
    assert_eq!((again.node.node_id, again.node.attempt), (node_id(1), 1));
    f.check().await;

    // In another database: its own homes keep their numbers, and its name.
    let other = Fixture::new();
    let name = instance(&other).await;
    assert_eq!(home_number(&other, "mine").await, 0);
    let _: Restored = other.try_do(Command::RestoreDatabase(file)).await.unwrap();
    assert_eq!(
        (
            home_number(&other, "mine").await,
            home_number(&other, "old").await
        ),
        (0, 1)
    );
    assert_eq!(instance(&other).await, name);
    other.check().await;
}
