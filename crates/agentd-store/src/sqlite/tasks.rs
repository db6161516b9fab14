//! What is asked of a task as a whole.

use super::DONE;
use super::rows::{NODE_ROW, NodeRow};
use super::tx::{OpResult, TaskRowState, Tx};
use crate::machine::{NodeEvent, decide};
use crate::{Reply, StoreError};
use agentd_protocol::journal::action;
use agentd_protocol::requests::{CancelTask, RetryNodes, TaskRef};
use agentd_protocol::results::{CancelledTask, NodeIds};
use agentd_protocol::{NodeStatus, TaskId};
use rusqlite::params;

impl Tx<'_> {
    pub(super) fn cancel_task(&mut self, params: &CancelTask) -> OpResult<Reply> {
        let task = self.task(params.task_id)?;
        let mut all = self.conn.prepare_cached(&format!(
            "SELECT {NODE_ROW} FROM nodes INDEXED BY nodes_by_task
             WHERE task = ?1 AND status IN ('PENDING', 'RUNNING')"
        ))?;
        let open: Vec<NodeRow> = all
            .query_map([task.id], NodeRow::read)?
            .collect::<rusqlite::Result<_>>()?;
        if open.is_empty() && task.state == TaskRowState::Cancelled {
            return Ok(Reply::Cancelled(CancelledTask {
                ok: true,
                cancelled_nodes: 0,
            }));
        }
        if open.is_empty() {
            let total: i64 = self.conn.query_row(
                "SELECT completed + failed FROM tasks WHERE id = ?1",
                [task.id],
                |row| row.get(0),
            )?;
            if total > 0 {
                let why = "has finished already; there is nothing to cancel".into();
                return Err(StoreError::WrongState {
                    task: params.task_id,
                    why,
                }
                .into());
            }
        }
        let cancelled = serde_json::json!({
            "cancelled": { "reason": params.reason, "nodes": open.len() }
        });
        self.journal(
            action::CANCEL_TASK,
            Some(task.id),
            None,
            false,
            &cancelled.to_string(),
        )?;
        let result = serde_json::json!({ "cancelled": { "reason": params.reason } }).to_string();
        for node in &open {
            if let Ok(next) = decide(&node.state, NodeEvent::Cancel, self.now_ms) {
                self.write_end(node, &next, Some(&result))?;
            }
        }
        self.flush_task(task.id)?;
        self.conn
            .prepare_cached(
                "UPDATE tasks SET state = 'CANCELLED', cancel_reason = ?2,
                     finished_wall_ms = coalesce(finished_wall_ms, ?3)
                 WHERE id = ?1",
            )?
            .execute(params![task.id, params.reason, self.wall_ms])?;
        self.live.forget_task(params.task_id);
        Ok(Reply::Cancelled(CancelledTask {
            ok: true,
            cancelled_nodes: open.len() as u64,
        }))
    }

    pub(super) fn pause_task(&mut self, params: &TaskRef) -> OpResult<Reply> {
        self.hold(params.task_id, true)
    }

    pub(super) fn resume_task(&mut self, params: &TaskRef) -> OpResult<Reply> {
        self.hold(params.task_id, false)
    }

    // Held nodes leave the index of what can be handed out, so that nobody who looks for work has to pass over a
    // paused task's.
    fn hold(&mut self, id: TaskId, held: bool) -> OpResult<Reply> {
        let task = self.task(id)?;
        match (task.state, held) {
            (TaskRowState::Cancelled, _) => {
                return Err(StoreError::WrongState {
                    task: id,
                    why: "was cancelled".into(),
                }
                .into());
            }
            (TaskRowState::Paused, true) | (TaskRowState::Open, false) => return Ok(DONE),
            (TaskRowState::Open, true) | (TaskRowState::Paused, false) => {}
        }
        let kind = if held {
            action::PAUSE_TASK
        } else {
            action::RESUME_TASK
        };
        self.journal(kind, Some(task.id), None, false, "{}")?;
        let mut mark = self.conn.prepare_cached(
            "UPDATE nodes SET held = ?2 WHERE task = ?1 AND status IN ('PENDING', 'RUNNING') AND held <> ?2
             RETURNING requires, status = 'PENDING' AND blockers = 0 AND not_before_ms IS NULL",
        )?;
        let mut rows = mark.query(params![task.id, held])?;
        while let Some(row) = rows.next()? {
            if !held && row.get(1)? {
                self.runnable.push((task.id, row.get(0)?));
            }
        }
        drop(rows);
        let state = if held { "PAUSED" } else { "OPEN" };
        self.conn
            .prepare_cached("UPDATE tasks SET state = ?2 WHERE id = ?1")?
            .execute(params![task.id, state])?;
        // Whether it has finished is another question now.
        self.count_new(task.id, 0);
        self.live.forget_task(id);
        Ok(DONE)
    }

    pub(super) fn retry_nodes(&mut self, params: &RetryNodes) -> OpResult<Reply> {
        let task = self.task(params.task_id)?;
        let mut chosen = Vec::new();
        if params.node_ids.is_empty() {
            let mut failed = self.conn.prepare_cached(&format!(
                "SELECT {NODE_ROW} FROM nodes INDEXED BY nodes_by_task WHERE task = ?1 AND status = 'FAILED'"
            ))?;
            for row in failed.query_map([task.id], NodeRow::read)? {
                chosen.push(row?);
            }
        } else {
            let mut ids = params.node_ids.clone();
            ids.sort_unstable();
            ids.dedup();
            for id in ids {
                chosen.push(self.node(params.task_id, id)?.1);
            }
        }
        let mut retried = Vec::with_capacity(chosen.len());
        for node in chosen {
            let next = self.decide(&task, &node, NodeEvent::Retry)?;
            let next = decide(
                &next,
                NodeEvent::Hold(task.state == TaskRowState::Paused),
                self.now_ms,
            )
            .map_err(|denied| self.denied(denied, &task, &node))?;
            retried.push((node, next));
        }
        // Re-running brings a cancelled task back to life.
        if task.state == TaskRowState::Cancelled && !retried.is_empty() {
            self.conn
                .prepare_cached("UPDATE tasks SET state = 'OPEN', cancel_reason = NULL WHERE id = ?1")?
                .execute([task.id])?;
            self.live.forget_task(params.task_id);
        }
        for (node, next) in &retried {
            debug_assert_eq!(next.status, NodeStatus::Pending);
            self.journal(action::RETRY_NODE, Some(task.id), Some(node.uuid), false, "{}")?;
            self.write_state(node, next)?;
            self.conn
                .prepare_cached("DELETE FROM node_results WHERE node = ?1")?
                .execute([node.id])?;
        }
        let node_ids = retried.iter().map(|(node, _)| node.uuid).collect();
        Ok(Reply::Nodes(NodeIds { node_ids }))
    }
}
