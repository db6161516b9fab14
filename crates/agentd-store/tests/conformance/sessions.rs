//! Sessions: what happens to them, the leases that they hold, what is left of them.

use crate::support::*;
use agentd_protocol::journal::JournalEntry;
use agentd_protocol::requests::*;
use agentd_protocol::results::*;
use agentd_protocol::{
    AgentWork, Json, LeaseId, NodeSpec, NodeStatus, OutcomeReason, Reason, SessionId, SessionInfo,
    SessionOutcome, SessionPhase, TaskId, Trigger, TriggerKind, Work, limits,
};
use agentd_store::machine::decide_session;
use agentd_store::session::*;
use agentd_store::{Command, Query, Ticket};
use proptest::prelude::*;
use std::collections::HashSet;

fn new_session(agent: &str) -> NewSession {
    NewSession {
        agent: agent.into(),
        trigger: Trigger {
            kind: TriggerKind::Manual,
            context: json(r#"{"ref": 7}"#),
        },
        prompt: Some("do it".into()),
        idempotency_key: None,
    }
}

async fn create(f: &Fixture, params: NewSession) -> SessionId {
    let queued: QueuedSession = f.try_do(Command::CreateSession(params)).await.unwrap();
    queued.session_id
}

fn change(session_id: SessionId, event: SessionEvent) -> Command {
    Command::ChangeSession(ChangeSession {
        session_id,
        event: Some(event),
        notes: Vec::new(),
    })
}

async fn happens(f: &Fixture, session_id: SessionId, event: SessionEvent) -> SessionInfo {
    let info: Box<SessionInfo> = f.try_do(change(session_id, event)).await.unwrap();
    *info
}

fn set_up() -> SessionEvent {
    SessionEvent::SetUp {
        replica: 1,
        runtime: "process".into(),
    }
}

fn tear_down() -> SessionEvent {
    SessionEvent::TearDown { exited_wall_ms: None }
}

fn end(reason: OutcomeReason) -> SessionEvent {
    SessionEvent::End(SessionOutcome {
        reason,
        exit_code: Some(7),
        signal: None,
        message: Some("said so".into()),
        result: Some(json(r#"{"n":1.50}"#)),
    })
}

fn stop(reason: &str) -> SessionEvent {
    SessionEvent::Stop {
        reason: reason.into(),
    }
}

/// Brings a queued session to a phase.
async fn bring(f: &Fixture, session: SessionId, to: SessionPhase) {
    let way = [
        (SessionPhase::Setup, set_up()),
        (SessionPhase::Starting, SessionEvent::Start),
        (SessionPhase::Running, SessionEvent::Run),
        (SessionPhase::Teardown, tear_down()),
        (SessionPhase::Ended, end(OutcomeReason::Completed)),
    ];
    for (phase, event) in way {
        if phase <= to {
            assert_eq!(happens(f, session, event).await.phase, phase);
        }
    }
}

async fn get(f: &Fixture, session_id: SessionId) -> SessionInfo {
    let info: Box<SessionInfo> = f.ask(Query::GetSession(SessionRef { session_id })).await;
    *info
}

async fn list(f: &Fixture, params: ListSessions) -> SessionList {
    f.ask(Query::ListSessions(params)).await
}

async fn open_sessions(f: &Fixture) -> Vec<OpenSession> {
    f.ask(Query::OpenSessions(NoParams {})).await
}

async fn entries_of(f: &Fixture, session_id: SessionId) -> Vec<JournalEntry> {
    let params = ReadJournal {
        filter: JournalFilter {
            session_id: Some(session_id),
            ..JournalFilter::default()
        },
        ..ReadJournal::default()
    };
    let page: JournalPage = f.ask(Query::ReadJournal(params)).await;
    page.entries
}

fn kinds(entries: &[JournalEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.action_type.as_str()).collect()
}

/// A node that an agent is to work on.
fn agent_node(id: u128, agent: &str) -> NodeSpec {
    NodeSpec {
        work: Some(Work::Agent(AgentWork {
            agent: Some(agent.into()),
            prompt: Some(format!("node {id}")),
            timeout_secs: None,
        })),
        ..after(id, &[])
    }
}

fn acquire_for(agent: &str, wait_secs: Option<u64>) -> Command {
    Command::AcquireSession(AcquireSession {
        agent: agent.into(),
        acquire: AcquireNextNode {
            capabilities: Some(vec![AgentWork::ANY.into(), AgentWork::capability_of(agent)]),
            wait_secs,
            ..AcquireNextNode::default()
        },
    })
}

async fn acquire_session(f: &Fixture, agent: &str) -> Option<AcquiredSession> {
    let acquired: Option<Box<AcquiredSession>> = f.try_do(acquire_for(agent, None)).await.unwrap();
    acquired.map(|acquired| *acquired)
}

async fn granted(ticket: Ticket) -> AcquiredSession {
    let acquired: Option<Box<AcquiredSession>> = ticket.await.unwrap().into_result().unwrap();
    *acquired.unwrap()
}

async fn remove(f: &Fixture, session_id: SessionId) {
    let _: Ok = f
        .try_do(Command::RemoveSession(SessionRef { session_id }))
        .await
        .unwrap();
}

/// Closes the store, lets time go by while nobody looks, and opens it again.
async fn away(f: Fixture, ms: i64) -> Fixture {
    f.store.close().await;
    f.clock.advance(ms);
    f.reopen().await
}

#[tokio::test]
async fn the_life_of_a_session_and_its_journal() {
    let f = Fixture::new();
    let begun_ms = 1_800_000_000_000;
    let id = create(&f, new_session("reviewer")).await;
    let queued = get(&f, id).await;
    assert_eq!(
        (
            queued.agent.as_str(),
            queued.phase,
            queued.replica,
            queued.prompt.as_deref()
        ),
        ("reviewer", SessionPhase::Queued, None, Some("do it"))
    );
    assert_eq!(queued.trigger.context.text(), r#"{"ref": 7}"#);
    assert_eq!(queued.created_at.unix_ms, begun_ms);

    f.clock.advance(1000);
    assert_eq!(
        happens(&f, id, set_up()).await.setup_at.unwrap().unix_ms,
        begun_ms + 1000
    );
    let back = happens(&f, id, SessionEvent::Requeue).await;
    assert_eq!((back.replica, back.runtime, back.setup_at), (None, None, None));
    let again = happens(&f, id, set_up()).await;
    assert_eq!(
        (again.replica, again.runtime.as_deref()),
        (Some(1), Some("process"))
    );
    let noted = Command::ChangeSession(ChangeSession {
        session_id: id,
        event: Some(SessionEvent::Start),
        notes: ["container", "secrets"]
            .map(|step| SessionNote {
                action: agentd_protocol::journal::action::SESSION_STEP,
                payload: Json::of(&serde_json::json!({ "step": step })),
            })
            .into(),
    });
    let starting: Box<SessionInfo> = f.try_do(noted).await.unwrap();
    assert_eq!(starting.phase, SessionPhase::Starting);
    f.clock.advance(1000);
    assert_eq!(
        happens(&f, id, SessionEvent::Run)
            .await
            .started_at
            .unwrap()
            .unix_ms,
        begun_ms + 2000
    );
    let stopped = happens(&f, id, stop("enough")).await;
    assert_eq!(stopped.phase, SessionPhase::Running);
    let stopped = happens(&f, id, stop("and again")).await;
    assert_eq!(
        stopped.stop_requested.as_deref(),
        Some("enough"),
        "the first reason stays"
    );
    let exited = SessionEvent::TearDown {
        exited_wall_ms: Some(begun_ms + 2500),
    };
    f.clock.advance(1000);
    assert_eq!(
        happens(&f, id, exited).await.exited_at.unwrap().unix_ms,
        begun_ms + 2500
    );
    let ended = happens(&f, id, end(OutcomeReason::Failed)).await;
    let outcome = ended.outcome.as_ref().unwrap();
    assert_eq!(
        (
            outcome.reason,
            outcome.exit_code,
            outcome.signal,
            outcome.message.as_deref()
        ),
        (OutcomeReason::Failed, Some(7), None, Some("said so"))
    );
    assert_eq!(outcome.result.as_ref().unwrap().text(), r#"{"n":1.50}"#);
    assert_eq!(ended.ended_at.unwrap().unix_ms, begun_ms + 3000);
    assert_eq!(get(&f, id).await, ended);

    let entries = entries_of(&f, id).await;
    assert!(
        entries
            .iter()
            .all(|entry| entry.agent.as_deref() == Some("reviewer") && entry.session_id == Some(id))
    );
    let told: Vec<String> = entries
        .iter()
        .map(|entry| {
            let payload = entry.payload.to_value();
            let text = |name: &str| payload[name].as_str().unwrap_or_default().to_owned();
            match entry.action_type.as_str() {
                "SESSION_PHASE" => format!("{}>{}", text("from"), text("to")),
                "SESSION_STEP" => text("step"),
                "SESSION_QUEUED" => format!("queued {}", text("trigger")),
                "SESSION_STOP" => format!("stop {}", text("reason")),
                "SESSION_ENDED" => format!("{} {}", text("reason"), payload["exit_code"]),
                other => other.to_owned(),
            }
        })
        .collect();
    assert_eq!(
        told,
        [
            "queued manual",
            "QUEUED>SETUP",
            "SETUP>QUEUED",
            "QUEUED>SETUP",
            "container",
            "secrets",
            "SETUP>STARTING",
            "STARTING>RUNNING",
            "stop enough",
            "RUNNING>TEARDOWN",
            "failed 7",
        ]
    );
    let last = entries.last().unwrap().payload.text();
    assert!(
        !last.contains("1.50"),
        "a result is the session's and not the journal's: {last}"
    );
    f.check().await;
}

#[tokio::test]
async fn what_a_phase_does_not_allow_is_refused_and_changes_nothing() {
    let f = Fixture::new();
    let events = || {
        [
            set_up(),
            SessionEvent::Requeue,
            SessionEvent::Start,
            SessionEvent::Run,
            tear_down(),
            end(OutcomeReason::Lost),
            stop("x"),
        ]
    };
    for phase in SessionPhase::ALL {
        for event in events() {
            let id = create(&f, new_session("a")).await;
            bring(&f, id, phase).await;
            let (before, head) = (get(&f, id).await, f.journal().await.len());
            let command = Command::ChangeSession(ChangeSession {
                session_id: id,
                event: Some(event.clone()),
                notes: vec![SessionNote {
                    action: agentd_protocol::journal::action::SESSION_WARNING,
                    payload: Json::empty_object(),
                }],
            });
            match decide_session(phase, &event) {
                Err(_) => {
                    assert_eq!(
                        f.refused(command).await,
                        Reason::WrongState,
                        "{event:?} in {phase}"
                    );
                    assert_eq!(get(&f, id).await, before);
                    assert_eq!(f.journal().await.len(), head);
                }
                // Said again after a crash: nothing happens twice.
                Result::Ok(next) if next == phase && !matches!(event, SessionEvent::Stop { .. }) => {
                    let after: Box<SessionInfo> = f.try_do(command).await.unwrap();
                    assert_eq!(*after, before);
                    assert_eq!(f.journal().await.len(), head);
                }
                Result::Ok(next) => {
                    let after: Box<SessionInfo> = f.try_do(command).await.unwrap();
                    assert_eq!(after.phase, next);
                    assert_eq!(f.journal().await.len(), head + 2);
                }
            }
        }
    }
    let unknown = SessionId(uuid::Uuid::nil());
    assert_eq!(
        f.refused(change(unknown, SessionEvent::Run)).await,
        Reason::SessionNotFound
    );
    let too_many = ChangeSession {
        session_id: create(&f, new_session("a")).await,
        event: None,
        notes: vec![
            SessionNote {
                action: agentd_protocol::journal::action::SESSION_STEP,
                payload: Json::null(),
            };
            1025
        ],
    };
    assert_eq!(
        f.refused(Command::ChangeSession(too_many)).await,
        Reason::LimitExceeded
    );
    f.check().await;
}

#[tokio::test]
async fn creating_twice_with_one_key_is_one_session() {
    let f = Fixture::new();
    let keyed = NewSession {
        idempotency_key: Some("k".into()),
        ..new_session("a")
    };
    let first = create(&f, keyed.clone()).await;
    let f = f.reopen().await;
    assert_eq!(create(&f, keyed.clone()).await, first);
    assert_eq!(f.journal().await.len(), 1);
    for other in [
        NewSession {
            agent: "b".into(),
            ..keyed.clone()
        },
        NewSession {
            prompt: None,
            ..keyed.clone()
        },
    ] {
        assert_eq!(
            f.refused(Command::CreateSession(other)).await,
            Reason::IdempotencyConflict
        );
    }
    assert_ne!(create(&f, new_session("a")).await, first);
    // The key protects from a request sent twice, which is over with the session.
    happens(&f, first, end(OutcomeReason::Cancelled)).await;
    assert_eq!(create(&f, keyed.clone()).await, first);
    remove(&f, first).await;
    assert_ne!(create(&f, keyed).await, first);
    f.check().await;
}

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
async fn sessions_are_listed_newest_first_in_pages_and_by_filter() {
    let f = Fixture::new();
    let task = f.register(vec![agent_node(1, "a"), agent_node(2, "b")]).await;
    let mut ids = Vec::new();
    for n in 0..6 {
        ids.push(create(&f, new_session(if n % 2 == 0 { "a" } else { "b" })).await);
    }
    ids.push(acquire_session(&f, "b").await.unwrap().session.id);
    for n in [0, 1, 4] {
        f.clock.advance(1000);
        bring(&f, ids[n], SessionPhase::Ended).await;
    }
    bring(&f, ids[2], SessionPhase::Running).await;
    let pick = |places: &[usize]| places.iter().map(|n| ids[*n]).collect::<Vec<_>>();
    let all = ListSessions::default;
    let of_a = || ListSessions {
        agent: Some("a".into()),
        ..all()
    };
    let of_b = || ListSessions {
        agent: Some("b".into()),
        ..all()
    };
    let of_task = || ListSessions {
        task_id: Some(task.task_id),
        ..all()
    };
    let with = |ended, params: ListSessions| ListSessions {
        ended: Some(ended),
        ..params
    };
    for (params, expected) in [
        (all(), pick(&[6, 5, 4, 3, 2, 1, 0])),
        (of_a(), pick(&[4, 2, 0])),
        (of_b(), pick(&[6, 5, 3, 1])),
        (with(true, all()), pick(&[4, 1, 0])),
        (with(false, all()), pick(&[6, 5, 3, 2])),
        (with(true, of_a()), pick(&[4, 0])),
        (with(false, of_b()), pick(&[6, 5, 3])),
        (of_task(), pick(&[6])),
        (with(true, of_task()), vec![]),
        (with(false, of_task()), pick(&[6])),
        (
            ListSessions {
                agent: Some("a".into()),
                ..of_task()
            },
            vec![],
        ),
    ] {
        for limit in [1, 2, 500] {
            let mut found = Vec::new();
            let mut cursor = None;
            loop {
                let page = list(
                    &f,
                    ListSessions {
                        limit: Some(limit),
                        cursor,
                        ..params.clone()
                    },
                )
                .await;
                assert!(page.sessions.len() <= limit as usize);
                found.extend(page.sessions.iter().map(|info| info.id));
                cursor = page.next_cursor;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(found, expected, "{params:?}");
        }
    }
    let open: Vec<SessionId> = open_sessions(&f).await.iter().map(|open| open.info.id).collect();
    assert_eq!(open, pick(&[2, 3, 5, 6]));
    let ended = |before_wall_ms, limit| {
        Query::EndedSessions(EndedBefore {
            before_wall_ms,
            limit,
        })
    };
    let oldest: Vec<EndedSession> = f.ask(ended(1_800_000_003_000, 10)).await;
    let ids_of = |ended: &[EndedSession]| ended.iter().map(|one| one.session_id).collect::<Vec<_>>();
    assert_eq!(ids_of(&oldest), pick(&[0, 1]));
    assert_eq!(oldest[1].ended_at.unix_ms, 1_800_000_002_000);
    let one: Vec<EndedSession> = f.ask(ended(i64::MAX, 1)).await;
    assert_eq!(ids_of(&one), pick(&[0]));
    let bad = ListSessions {
        cursor: Some("x".into()),
        ..all()
    };
    assert!(f.store.query(Query::ListSessions(bad)).await.is_err());
}

#[tokio::test]
async fn a_page_of_large_sessions_ends_early_and_the_queue_has_a_bound() {
    let f = Fixture::new();
    let large = || NewSession {
        prompt: Some("x".repeat(limits::PROMPT_BYTES_MAX)),
        ..new_session("a")
    };
    let fit = limits::OPEN_SESSIONS_BYTES_MAX / (limits::PROMPT_BYTES_MAX as u64 + 10);
    for _ in 0..fit {
        create(&f, large()).await;
    }
    assert_eq!(
        f.refused(Command::CreateSession(large())).await,
        Reason::LimitExceeded
    );
    let f = f.reopen().await;
    assert_eq!(
        f.refused(Command::CreateSession(large())).await,
        Reason::LimitExceeded
    );
    let page = list(&f, ListSessions::default()).await;
    assert!(!page.sessions.is_empty() && page.sessions.len() < 10 && page.next_cursor.is_some());
    // There is room again once one is over.
    happens(&f, page.sessions[0].id, end(OutcomeReason::Cancelled)).await;
    create(&f, large()).await;
}

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
        4 => Just(SessionEvent::Run),
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
    // Where each node stands, and while it is leased: to which session, and until when.
    nodes: Vec<(NodeStatus, Option<(usize, LeaseId, i64)>)>,
}

impl Model {
    fn end_what_is_over(&mut self) {
        for (status, lease) in &mut self.nodes {
            if lease.is_some_and(|(_, _, expires_ms)| expires_ms <= self.now_ms) {
                (*status, *lease) = (NodeStatus::Pending, None);
            }
        }
    }

    fn opened(&mut self) {
        for (_, lease) in &mut self.nodes {
            if let Some((session, _, expires_ms)) = lease {
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
                .1
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
                model.nodes.push((NodeStatus::Pending, None));
            }
            Step::Acquire => {
                let got = acquire_session(&f, "a").await;
                let at = model
                    .nodes
                    .iter()
                    .position(|(status, _)| *status == NodeStatus::Pending);
                assert_eq!(
                    got.as_ref().map(|got| got.node.node_id),
                    at.map(|at| node_id(at as u128 + 1))
                );
                if let (Some(got), Some(at)) = (got, at) {
                    let lease = (count, got.node.lease_id, model.now_ms + LEASE_MS);
                    model.nodes[at] = (NodeStatus::Running, Some(lease));
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
                model.nodes[at] = if completes {
                    (NodeStatus::Completed, None)
                } else {
                    let lease = (n, node.lease_id, model.now_ms + LEASE_MS);
                    (NodeStatus::Running, Some(lease))
                };
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
    let expected: Vec<NodeStatus> = model.nodes.iter().map(|(status, _)| *status).collect();
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
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn sessions_do_what_the_model_does(steps in prop::collection::vec(step(), 1..60)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(steps));
    }
}
