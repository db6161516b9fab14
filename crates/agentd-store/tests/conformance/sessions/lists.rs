//! Finding sessions.

use super::*;

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
