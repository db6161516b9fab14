//! What is removed of sessions that are over.

use super::git::{Scene, ending};
use super::support::{Place, session};
use agentd_config::WorktreePolicy::Keep;
use agentd_protocol::SessionId;
use agentd_runner::session::tree::Budget;
use agentd_runner::session::upkeep::{
    DirFact, Facts, Limits, Removal, Removed, SessionFact, What, Why, carry_out, gather, plan,
};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::time::Duration;

const NOW: i64 = 1_000_000;

fn id(number: u128) -> SessionId {
    SessionId(uuid::Uuid::from_u128(number))
}

fn over(number: u128, ended_wall_ms: i64, transcript_bytes: u64) -> SessionFact {
    SessionFact {
        id: id(number),
        ended_wall_ms: Some(ended_wall_ms),
        transcript_bytes,
    }
}

fn shown(facts: &Facts, limits: Limits) -> Vec<String> {
    plan(NOW, facts, &limits)
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn the_old_go_then_the_oldest_that_are_too_much() {
    let facts = Facts {
        sessions: vec![
            over(3, 900_000, 50),
            over(1, 100_000, 70),
            over(2, 800_000, 60),
            over(4, 950_000, 0),
        ],
        ..Facts::default()
    };
    assert!(plan(NOW, &facts, &Limits::default()).is_empty());
    let limits = Limits {
        session_retention: Some(Duration::from_secs(500)),
        transcript_quota_bytes: Some(100),
    };
    assert_eq!(
        shown(&facts, limits),
        [
            "session 00000000-0000-0000-0000-000000000001: over for 900 seconds",
            "session 00000000-0000-0000-0000-000000000002: transcripts take 180 bytes",
        ]
    );
    // A clock that was set back makes nobody old.
    assert!(
        plan(
            0,
            &facts,
            &Limits {
                transcript_quota_bytes: None,
                ..limits
            }
        )
        .is_empty()
    );
}

#[test]
fn what_lives_is_not_touched_and_what_nobody_knows_goes() {
    let unlocked = DirFact::default();
    let locked = DirFact {
        locked: true,
        ..unlocked
    };
    let facts = Facts {
        sessions: vec![
            over(1, 0, 10),
            SessionFact {
                ended_wall_ms: None,
                ..over(2, 0, 10)
            },
            over(3, NOW, 10),
        ],
        dirs: [
            (id(1), locked),
            (id(2), unlocked),
            (id(3), unlocked),
            (id(8), unlocked),
            (id(9), locked),
        ]
        .into(),
        secrets: [id(1), id(2), id(3), id(8), id(9)].into(),
    };
    let limits = Limits {
        session_retention: Some(Duration::from_millis(1)),
        transcript_quota_bytes: None,
    };
    let removal = |what, why| Removal {
        what,
        why,
        spare_worktree: false,
    };
    assert_eq!(
        plan(NOW, &facts, &limits),
        [
            removal(What::Orphan(id(8)), Why::Unknown),
            removal(What::Secrets(id(3)), Why::Over),
            removal(What::Secrets(id(8)), Why::Unknown),
        ]
    );
}

#[test]
fn orphans_and_their_secrets_are_removed_and_what_is_locked_is_not() {
    let scene = Scene::new();
    let dirs = &scene.place.dirs;
    let (orphan, held) = (session(), session());
    for id in [orphan, held] {
        let dir = dirs.make_session(id).unwrap();
        fs::create_dir_all(dir.transcript()).unwrap();
        fs::create_dir(dirs.secrets(id)).unwrap();
    }
    let lock = File::create(dirs.session(held).lock()).unwrap();
    lock.lock().unwrap();
    let worktrees = scene.worktrees();
    let facts = gather(&worktrees, &BTreeSet::new()).unwrap();
    for removal in plan(NOW, &facts, &Limits::default()) {
        assert_eq!(
            carry_out(&worktrees, &removal, &mut Budget::entries(1000)).unwrap(),
            Removed::Gone
        );
    }
    assert_eq!(dirs.sessions().unwrap(), [held]);
    assert_eq!(dirs.sessions_with_secrets().unwrap(), [held]);
    lock.unlock().unwrap();
    let live = gather(&worktrees, &BTreeSet::from([held])).unwrap();
    assert!(plan(NOW, &live, &Limits::default()).is_empty());
    lock.lock().unwrap();
    // It came to life after the plan was made.
    let late = Removal {
        what: What::Orphan(held),
        why: Why::Unknown,
        spare_worktree: false,
    };
    carry_out(&worktrees, &late, &mut Budget::entries(1000)).unwrap_err();
    assert!(dirs.session(held).root().exists());
}

#[test]
fn of_a_kept_worktree_what_is_nowhere_else_stays() {
    let scene = Scene::new();
    let worktrees = scene.worktrees();
    let (id, worktree) = scene.made();
    fs::write(worktree.path.join("precious"), "x").unwrap();
    worktrees.finish(id, ending(Keep)).unwrap();
    let dir = scene.place.dirs.session(id);
    fs::write(dir.spec(), "{}").unwrap();
    let removal = plan(
        NOW,
        &gather(&worktrees, &BTreeSet::new()).unwrap(),
        &Limits::default(),
    );
    assert_eq!(removal.len(), 1);
    let removed = carry_out(&worktrees, &removal[0], &mut Budget::entries(1000)).unwrap();
    assert_eq!(removed, Removed::WorktreeSpared);
    assert!(worktree.path.join("precious").exists());
    assert!(!dir.spec().exists());
    // Its user takes it out; the next upkeep finds nothing to be lost.
    fs::remove_file(worktree.path.join("precious")).unwrap();
    let removed = carry_out(&worktrees, &removal[0], &mut Budget::entries(1000)).unwrap();
    assert_eq!(removed, Removed::Gone);
    assert!(!dir.root().exists());
}

#[test]
fn a_worktree_whose_record_is_damaged_stays() {
    let scene = Scene::new();
    let worktrees = scene.worktrees();
    let (id, worktree) = scene.made();
    fs::write(scene.place.dirs.session(id).root().join("worktree.json"), "{").unwrap();
    let removal = plan(
        NOW,
        &gather(&worktrees, &BTreeSet::new()).unwrap(),
        &Limits::default(),
    );
    assert!(removal[0].spare_worktree);
    let removed = carry_out(&worktrees, &removal[0], &mut Budget::entries(1000)).unwrap();
    assert_eq!(removed, Removed::WorktreeSpared);
    assert!(worktree.path.join("file").exists());
}

#[test]
fn a_large_session_is_removed_in_steps() {
    let scene = Scene::new();
    let place: &Place = &scene.place;
    let id = session();
    let dir = place.dirs.make_session(id).unwrap();
    fs::create_dir(dir.run()).unwrap();
    for number in 0..250 {
        fs::write(dir.run().join(number.to_string()), "").unwrap();
    }
    let removal = Removal {
        what: What::Session(id),
        why: Why::Old { age_ms: 1 },
        spare_worktree: false,
    };
    let mut steps = Vec::new();
    while steps.last() != Some(&Removed::Gone) {
        steps.push(carry_out(&scene.worktrees(), &removal, &mut Budget::entries(100)).unwrap());
    }
    assert_eq!(steps, [Removed::More, Removed::More, Removed::Gone]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_keeps_what_lives_and_what_is_left_is_within_the_limits(
        sessions in proptest::collection::vec((proptest::option::of(0..NOW), 0u64..100, any::<bool>()), 0..30),
        retention_ms in proptest::option::of(0u64..1_000_000),
        quota in proptest::option::of(0u64..1000),
    ) {
        let mut facts = Facts::default();
        for (number, (ended_wall_ms, transcript_bytes, locked)) in sessions.iter().enumerate() {
            let id = id(number as u128);
            facts.sessions.push(SessionFact { id, ended_wall_ms: *ended_wall_ms, transcript_bytes: *transcript_bytes });
            facts.dirs.insert(id, DirFact { locked: *locked, unclear: false });
        }
        let limits = Limits { session_retention: retention_ms.map(Duration::from_millis), transcript_quota_bytes: quota };
        let plan = plan(NOW, &facts, &limits);
        let gone: Vec<SessionId> = plan.iter().map(|removal| removal.what.session()).collect();
        for session in &facts.sessions {
            if session.ended_wall_ms.is_none() || facts.dirs[&session.id].locked {
                prop_assert!(!gone.contains(&session.id));
            }
        }
        let left: u64 = facts.sessions.iter()
            .filter(|session| session.ended_wall_ms.is_some() && !gone.contains(&session.id))
            .filter(|session| !facts.dirs[&session.id].locked)
            .map(|session| session.transcript_bytes)
            .sum();
        // What is locked counts as well, but cannot go.
        if let Some(quota) = quota {
            prop_assert!(left <= quota);
        }
    }
}
