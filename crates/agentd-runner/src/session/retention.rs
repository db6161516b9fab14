//! What is kept of sessions that are over, and what nobody owns any more.
//!
//! It runs when agentd starts, and then every hour.

use super::manager::Inner;
use super::upkeep::{self, Facts, Removed, SessionFact, What};
use super::{blocking, tree};
use agentd_protocol::requests::{NoParams, SessionRef};
use agentd_protocol::{SessionId, limits};
use agentd_store::session::{EndedBefore, EndedSession, OpenSession};
use agentd_store::{Command, Query, StoreError, ask, execute};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(3600);

/// Removes what earlier daemons left, then what has become too old or too much, until agentd stops.
pub(super) async fn run(inner: Arc<Inner>) {
    let looks = async {
        loop {
            containers(&inner).await;
            match prune(&inner).await {
                Ok(()) => {}
                Err(StoreError::ShuttingDown) => return,
                Err(error) => tracing::warn!(%error, "cannot look for sessions that are over"),
            }
            tokio::time::sleep(PERIOD).await;
        }
    };
    tokio::select! {
        () = looks => {}
        () = inner.closing.cancelled() => {}
    }
}

// What runtimes still have of sessions that are over, or of which nothing is known: an earlier daemon was killed between
// the end of a session and the end of its things, or a database was restored.
async fn containers(inner: &Arc<Inner>) {
    for (kind, engine) in inner.options.runtimes.all() {
        // First what there is, then what is open: what begins in between is in the second.
        let found = match engine.found().await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(kind, %error, "cannot look for what earlier sessions left");
                continue;
            }
        };
        if found.is_empty() {
            continue;
        }
        let open: Result<Vec<OpenSession>, _> = ask(inner.store(), Query::OpenSessions(NoParams {})).await;
        let Ok(open) = open else { return };
        for id in found {
            if open.iter().any(|open| open.info.id == id) {
                continue;
            }
            match engine.clear(id).await {
                Ok(()) => tracing::info!(session = %id, kind, "removed what was left of a session"),
                Err(error) => tracing::warn!(session = %id, kind, %error, "something of a session is left"),
            }
        }
    }
}

async fn prune(inner: &Arc<Inner>) -> Result<(), StoreError> {
    let worker = Arc::clone(inner);
    // Directories before rows: a session has its row first.
    let gathered = blocking(move || upkeep::gather(&worker.worktrees(), &worker.live())).await;
    let mut facts = match gathered {
        Ok(facts) => facts,
        Err(error) => {
            tracing::warn!(%error, "cannot look at the directories of sessions");
            return Ok(());
        }
    };
    let query = Query::EndedSessions(EndedBefore {
        before_wall_ms: i64::MAX,
        limit: limits::PAGE_MAX,
    });
    let ended: Vec<EndedSession> = ask(inner.store(), query).await?;
    let all_seen = ended.len() < limits::PAGE_MAX as usize;
    let open: Vec<OpenSession> = ask(inner.store(), Query::OpenSessions(NoParams {})).await?;
    let worker = Arc::clone(inner);
    let now_ms = inner.options.clock.wall_ms();
    let removals = blocking(move || {
        measure(&worker, &mut facts, &ended, &open);
        if !all_seen {
            // What was not looked up is not unknown.
            facts
                .dirs
                .retain(|id, _| facts.sessions.iter().any(|session| session.id == *id));
        }
        upkeep::plan(now_ms, &facts, &worker.options.limits)
    })
    .await;
    for removal in removals {
        let worker = Arc::clone(inner);
        let planned = removal;
        let done = blocking(move || {
            let mut budget = tree::Budget::entries(tree::ENTRIES_MAX);
            upkeep::carry_out(&worker.worktrees(), &planned, &mut budget)
        });
        match done.await {
            // Of a session that was removed: it is looked at again whenever there is a look.
            Ok(Removed::WorktreeSpared | Removed::NamesKept) => {
                tracing::debug!(%removal, "its worktree has changes that are nowhere else, and stays");
            }
            Ok(_) => tracing::info!(%removal, "removed"),
            Err(error) => {
                tracing::warn!(%removal, %error, "not removed");
                continue;
            }
        }
        if let What::Session(session_id) = removal.what {
            let removed = Command::RemoveSession(SessionRef { session_id });
            match execute::<agentd_protocol::results::Ok>(inner.store(), removed).await {
                Ok(_) | Err(StoreError::SessionNotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn measure(inner: &Inner, facts: &mut Facts, ended: &[EndedSession], open: &[OpenSession]) {
    let transcript_bytes = |id: SessionId| {
        let path = inner.options.state.session(id).transcript();
        let usage = tree::usage(&path, u64::MAX, &mut tree::Budget::entries(10_000));
        usage.map_or(0, |usage| usage.bytes)
    };
    let over = ended.iter().map(|session| SessionFact {
        id: session.session_id,
        ended_wall_ms: Some(session.ended_at.unix_ms),
        transcript_bytes: transcript_bytes(session.session_id),
    });
    let running = open.iter().map(|session| SessionFact {
        id: session.info.id,
        ended_wall_ms: None,
        transcript_bytes: 0,
    });
    facts.sessions = over.chain(running).collect();
}
