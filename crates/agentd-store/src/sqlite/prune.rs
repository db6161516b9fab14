//! Removing what is finished and old, a little at a time.
//!
//! A task is pruned by turning its row into a tombstone, which is one small transaction with its journal entry;
//! from then on nobody sees its nodes. Their rows are removed in further small transactions, between which
//! others get their turn, also after a restart.

use super::rows::Blob;
use super::tx::{OpResult, Tx};
use crate::StoreError;
use agentd_protocol::journal::action;
use agentd_protocol::requests::PruneTasks;
use agentd_protocol::results::Pruned;
use agentd_protocol::{NodeStatus, TaskId};
use rusqlite::{OptionalExtension, params};

/// Rows of each kind removed in one transaction: some milliseconds.
const ROWS_PER_TX_MAX: i64 = 500;

/// A pruning under way.
#[derive(Debug)]
pub(super) struct PruneJob {
    pub(super) params: PruneTasks,
    pub(super) pruned: Pruned,
    // The entries that this pruning writes itself are not old.
    up_to_seq: i64,
    other_events: u64,
}

impl PruneJob {
    pub(super) fn new(params: PruneTasks, last_seq: i64) -> Self {
        Self {
            params,
            pruned: Pruned::default(),
            up_to_seq: last_seq,
            other_events: 0,
        }
    }
}

impl Tx<'_> {
    /// Does a little of the pruning. True when there is nothing left to do.
    pub(super) fn prune_step(&mut self, job: &mut PruneJob) -> OpResult<bool> {
        if self.live.sessions.removing {
            self.remove_session_entries()?;
            return Ok(false);
        }
        let (params, pruned) = (&job.params, &mut job.pruned);
        let begun = self
            .conn
            .prepare_cached("SELECT id FROM tasks INDEXED BY tasks_pruning WHERE pruning = 1 LIMIT 1")?
            .query_row([], |row| row.get::<_, i64>(0))
            .optional()?;
        if let Some(task) = begun {
            self.remove_rows(task, pruned)?;
            return Ok(false);
        }
        let secs = i64::try_from(params.older_than_secs).unwrap_or(i64::MAX);
        let before_ms = self.wall_ms.saturating_sub(secs.saturating_mul(1000));
        if let Some(id) = params.task_id {
            if pruned.tasks > 0 {
                return Ok(true);
            }
            let task = self.task(id)?;
            let finished: Option<i64> = self.conn.query_row(
                "SELECT finished_wall_ms FROM tasks WHERE id = ?1",
                [task.id],
                |row| row.get(0),
            )?;
            match finished {
                Some(at_ms) if at_ms <= before_ms => self.bury(task.id, id, pruned)?,
                Some(_) => {
                    let why = "finished more recently than that".into();
                    return Err(StoreError::WrongState { task: id, why }.into());
                }
                None => {
                    let why = "has not finished; cancel it first".into();
                    return Err(StoreError::WrongState { task: id, why }.into());
                }
            }
            return Ok(false);
        }
        let next: Option<(i64, Blob)> = self
            .conn
            .prepare_cached(
                "SELECT id, uuid FROM tasks INDEXED BY tasks_by_end
                 WHERE finished_wall_ms IS NOT NULL AND state <> 'PRUNED' AND finished_wall_ms <= ?1
                 ORDER BY finished_wall_ms LIMIT 1",
            )?
            .query_row([before_ms], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match next {
            Some((task, uuid)) => self.bury(task, TaskId::from(uuid), pruned).map(|()| false),
            None => self.prune_other_events(before_ms, job),
        }
    }

    // The idempotency key is free again: what it protected, a request sent twice, was long ago.
    fn bury(&mut self, task: i64, id: TaskId, pruned: &mut Pruned) -> OpResult<()> {
        self.flush_task(task)?;
        let payload: String = self.conn.query_row(
            "SELECT json_object('task_id', ?2, 'goal', substr(goal, 1, 200), 'completed', completed,
                 'failed', failed, 'pending', pending)
             FROM tasks WHERE id = ?1",
            params![task, id.to_string()],
            |row| row.get(0),
        )?;
        // Not the task's own entry: those go with it.
        self.journal(action::PRUNE_TASK, None, None, false, &payload)?;
        self.conn.execute(
            "UPDATE tasks SET state = 'PRUNED', pruned_wall_ms = ?2, pruning = 1, goal = substr(goal, 1, 200),
                 context = '{}', cancel_reason = NULL, idempotency_key = NULL, request_digest = NULL
             WHERE id = ?1",
            params![task, self.wall_ms],
        )?;
        self.live.forget_task(id);
        self.count_task(-1);
        pruned.tasks += 1;
        Ok(())
    }

    fn remove_rows(&mut self, task: i64, pruned: &mut Pruned) -> OpResult<()> {
        let events = self.conn.execute(
            "DELETE FROM events WHERE seq IN (
                 SELECT seq FROM events INDEXED BY events_by_task WHERE task = ?1 LIMIT ?2)",
            [task, ROWS_PER_TX_MAX],
        )?;
        self.uncount_events(i64::try_from(events).unwrap_or(i64::MAX));
        pruned.events += events as u64;
        let keys = self.conn.execute(
            "DELETE FROM idempotency WHERE task = ?1 AND key IN (
                 SELECT key FROM idempotency WHERE task = ?1 LIMIT ?2)",
            [task, ROWS_PER_TX_MAX],
        )?;
        let mut some = self.conn.prepare_cached(
            "SELECT id, status FROM nodes INDEXED BY nodes_by_task WHERE task = ?1 LIMIT ?2",
        )?;
        let nodes: Vec<(i64, NodeStatus)> = some
            .query_map([task, ROWS_PER_TX_MAX], |row| {
                Ok((row.get(0)?, row.get::<_, super::rows::Status>(1)?.0))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for (node, _) in &nodes {
            for delete in [
                "DELETE FROM node_results WHERE node = ?1",
                "DELETE FROM node_specs WHERE node = ?1",
                "DELETE FROM dependencies WHERE node = ?1",
                "DELETE FROM nodes WHERE id = ?1",
            ] {
                self.conn.prepare_cached(delete)?.execute([node])?;
            }
        }
        for status in NodeStatus::ALL {
            let removed = nodes.iter().filter(|(_, of)| *of == status).count();
            if removed > 0 {
                self.uncount_nodes(status, i64::try_from(removed).unwrap_or(i64::MAX))?;
            }
        }
        pruned.nodes += nodes.len() as u64;
        if events == 0 && keys == 0 && nodes.is_empty() {
            self.conn
                .execute("UPDATE tasks SET pruning = 0 WHERE id = ?1", [task])?;
        }
        Ok(())
    }

    // Entries that belong to a task as well go with the task.
    fn remove_session_entries(&mut self) -> OpResult<()> {
        let next: Option<Blob> = self
            .conn
            .prepare_cached("SELECT uuid FROM sessions_removed LIMIT 1")?
            .query_row([], |row| row.get(0))
            .optional()?;
        let Some(session) = next else {
            self.live.sessions.removing = false;
            return Ok(());
        };
        let removed = self.conn.execute(
            "DELETE FROM events WHERE seq IN (
                 SELECT seq FROM events INDEXED BY events_by_session
                 WHERE session = ?1 AND task IS NULL AND action <> ?2 LIMIT ?3)",
            params![session, action::SESSION_REMOVED, ROWS_PER_TX_MAX],
        )?;
        self.uncount_events(i64::try_from(removed).unwrap_or(i64::MAX));
        if removed == 0 {
            self.conn
                .execute("DELETE FROM sessions_removed WHERE uuid = ?1", [session])?;
        }
        Ok(())
    }

    // Entries of locks, of earlier prunings and of removed sessions have nothing that they could go with: they go
    // by their age.
    fn prune_other_events(&mut self, before_ms: i64, job: &mut PruneJob) -> OpResult<bool> {
        let removed = self.conn.execute(
            "DELETE FROM events WHERE seq IN (
                 SELECT seq FROM events INDEXED BY events_by_age
                 WHERE task IS NULL AND (session IS NULL OR action = 'SESSION_REMOVED') AND seq <= ?3
                 ORDER BY seq LIMIT ?2)
             AND wall_ms <= ?1",
            [before_ms, ROWS_PER_TX_MAX, job.up_to_seq],
        )?;
        self.uncount_events(i64::try_from(removed).unwrap_or(i64::MAX));
        job.pruned.events += removed as u64;
        job.other_events += removed as u64;
        if removed == 0 && job.other_events > 0 {
            let payload = format!(r#"{{"events":{}}}"#, job.other_events);
            self.journal(action::PRUNE_JOURNAL, None, None, false, &payload)?;
        }
        Ok(removed == 0)
    }
}
