//! What can happen to a session, and what the journal has of it.

use super::*;

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
        happens(
            &f,
            id,
            SessionEvent::Run {
                started_wall_ms: None
            }
        )
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
            SessionEvent::Run {
                started_wall_ms: None,
            },
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
        f.refused(change(
            unknown,
            SessionEvent::Run {
                started_wall_ms: None
            }
        ))
        .await,
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
