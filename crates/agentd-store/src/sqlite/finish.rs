//! What happens to a node under a lease, and when the lease is over.

use super::DONE;
use super::register::Once;
use super::rows::{NODE_ROW, NodeRow};
use super::tx::{OpError, OpResult, TaskRow, TaskRowState, Tx};
use crate::Reply;
use crate::machine::{NodeEvent, NodeState, decide};
use agentd_protocol::journal::action;
use agentd_protocol::requests::{CommitEvent, CompleteNode, FailNode, HeartbeatNode, ReleaseNode};
use agentd_protocol::results::{Committed, Completed, Extended, Failed};
use agentd_protocol::{NodeStatus, Timestamp, secs_rounded_up};
use rusqlite::params;

/// Leases and backoffs that are ended in one transaction. Many can run out at one instant; whoever comes
/// meanwhile waits for so many at most.
const EXPIRED_PER_TX_MAX: i64 = 1000;

impl Tx<'_> {
    pub(super) fn heartbeat_node(&mut self, params: &HeartbeatNode) -> OpResult<Reply> {
        let (task, node) = self.node(params.task_id, params.node_id)?;
        let length_ms = params.lease_secs.map(|secs| self.lease_length(Some(secs)));
        let event = NodeEvent::Heartbeat(params.lease_id, length_ms);
        let next = self.decide(&task, &node, event)?;
        let Some(lease) = next.lease else { return Ok(DONE) };
        self.conn
            .prepare_cached(
                "UPDATE nodes SET lease_length_ms = ?2, lease_expires_ms = ?3, updated_wall_ms = ?4 WHERE id = ?1",
            )?
            .execute(params![node.id, lease.length_ms, lease.expires_ms, self.wall_ms])?;
        self.runs_out_at(lease.expires_ms);
        self.counted.heartbeats += 1;
        let lease_expires_at = secs_rounded_up(self.wall(lease.expires_ms));
        Ok(Reply::Extended(Extended {
            ok: true,
            lease_expires_at,
        }))
    }

    pub(super) fn commit_event(&mut self, params: &CommitEvent) -> OpResult<Reply> {
        let (task, node) = self.node(params.task_id, params.node_id)?;
        self.decide(&task, &node, NodeEvent::Commit(params.lease_id))?;
        let kind = params.action_type.as_deref().unwrap_or(action::COMMIT_EVENT);
        let holder = self.live.sessions.holder(&node);
        let (_, event_id) = self.journal_of(
            holder.as_ref(),
            kind,
            Some(task.id),
            Some(node.uuid),
            true,
            params.payload.text(),
        )?;
        self.counted.committed_events += 1;
        Ok(Reply::Committed(Committed { event_id }))
    }

    pub(super) fn complete_node(&mut self, params: &CompleteNode) -> OpResult<Reply> {
        let (task, node) = self.node(params.task_id, params.node_id)?;
        let once = Once::new(task.id, params.idempotency_key.as_deref(), params);
        if let Some(reply) = self.answered_before(&once)? {
            return Ok(Reply::Completed(reply));
        }
        let next = self.decide(&task, &node, NodeEvent::Complete(params.lease_id))?;
        let added = self.check_nodes(Some(task.id), &params.add_nodes)?;
        let result = params.result_payload.text();
        let holder = self.live.sessions.holder(&node);
        let (_, event_id) = self.journal_of(
            holder.as_ref(),
            action::COMPLETE_NODE,
            Some(task.id),
            Some(node.uuid),
            true,
            &format!("{{\"result\":{result}}}"),
        )?;
        self.write_end(&node, &next, Some(result))?;
        if !params.add_nodes.is_empty() {
            let payload = format!("{{\"nodes\":{}}}", params.add_nodes.len());
            self.journal(action::ADD_NODES, Some(task.id), Some(node.uuid), false, &payload)?;
            self.insert_nodes(task.id, task.state == TaskRowState::Paused, &added)?;
        }
        // After the new ones are there: they were counted as waiting for this node if they depend on it.
        self.unblock_dependents(&node)?;
        self.counted.completed_nodes += 1;
        let reply = Completed {
            event_id,
            node_ids: added.into_ids(),
        };
        self.remember_answer(&once, &reply)?;
        Ok(Reply::Completed(reply))
    }

    fn unblock_dependents(&mut self, node: &NodeRow) -> OpResult<()> {
        let mut list = self
            .conn
            .prepare_cached("SELECT node FROM dependencies INDEXED BY dependents WHERE dependency = ?1")?;
        let dependents: Vec<i64> = list
            .query_map([node.id], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        if dependents.is_empty() {
            return Ok(());
        }
        // One by one: a statement for all of them builds a table of them first, which costs more than it saves
        // for the few that most nodes have.
        let mut find = self
            .conn
            .prepare_cached(&format!("SELECT {NODE_ROW} FROM nodes WHERE id = ?1"))?;
        let mut unblock = self
            .conn
            .prepare_cached("UPDATE nodes SET blockers = ?2 WHERE id = ?1")?;
        for id in dependents {
            let dependent = find.query_row([id], NodeRow::read)?;
            if let Ok(next) = decide(&dependent.state, NodeEvent::Unblock, self.now_ms) {
                unblock.execute(params![id, next.blockers])?;
                if next.is_runnable() {
                    self.runnable.push((dependent.task, dependent.requires));
                }
            }
        }
        Ok(())
    }

    pub(super) fn fail_node(&mut self, params: &FailNode) -> OpResult<Reply> {
        let (task, node) = self.node(params.task_id, params.node_id)?;
        let once = Once::new(task.id, params.idempotency_key.as_deref(), params);
        if let Some(reply) = self.answered_before(&once)? {
            return Ok(Reply::Failed(reply));
        }
        let next = self.decide(&task, &node, NodeEvent::Fail(params.lease_id, params.permanent))?;
        let error = params.error_payload.text();
        let retry_at = self.retry_at(&next);
        let payload = match retry_at {
            Some(at) => format!(
                r#"{{"error":{error},"attempt":{},"retry_at":"{at}"}}"#,
                next.attempt
            ),
            None => format!(r#"{{"error":{error}}}"#),
        };
        let holder = self.live.sessions.holder(&node);
        let (_, event_id) = self.journal_of(
            holder.as_ref(),
            action::FAIL_NODE,
            Some(task.id),
            Some(node.uuid),
            true,
            &payload,
        )?;
        self.write_end(&node, &next, (next.status == NodeStatus::Failed).then_some(error))?;
        self.counted.failed_nodes += 1;
        let reply = Failed { event_id, retry_at };
        self.remember_answer(&once, &reply)?;
        Ok(Reply::Failed(reply))
    }

    // When a node that is PENDING again may be handed out.
    fn retry_at(&self, next: &NodeState) -> Option<Timestamp> {
        let at_ms = next.not_before_ms.unwrap_or(self.now_ms);
        (next.status == NodeStatus::Pending).then(|| Timestamp {
            unix_ms: self.wall(at_ms),
        })
    }

    pub(super) fn release_node(&mut self, params: &ReleaseNode) -> OpResult<Reply> {
        let (task, node) = self.node(params.task_id, params.node_id)?;
        let next = self.decide(&task, &node, NodeEvent::Release(params.lease_id))?;
        let holder = self.live.sessions.holder(&node);
        self.journal_of(
            holder.as_ref(),
            action::RELEASE_NODE,
            Some(task.id),
            Some(node.uuid),
            false,
            "{}",
        )?;
        self.write_end(&node, &next, None)?;
        Ok(DONE)
    }

    /// Ends leases and backoffs that are over by now. Says when the next ones are.
    pub(super) fn end_what_is_over(&mut self) -> OpResult<i64> {
        let mut due = self.conn.prepare_cached(&format!(
            "SELECT {NODE_ROW} FROM nodes INDEXED BY nodes_by_expiry
             WHERE status = 'RUNNING' AND lease_expires_ms <= ?1 ORDER BY lease_expires_ms LIMIT ?2"
        ))?;
        let expired: Vec<NodeRow> = due
            .query_map([self.now_ms, EXPIRED_PER_TX_MAX], NodeRow::read)?
            .collect::<rusqlite::Result<_>>()?;
        for node in &expired {
            self.expire(node)?;
        }
        let mut due = self.conn.prepare_cached(&format!(
            "SELECT {NODE_ROW} FROM nodes INDEXED BY nodes_by_backoff
             WHERE not_before_ms IS NOT NULL AND not_before_ms <= ?1 ORDER BY not_before_ms LIMIT ?2"
        ))?;
        let rested: Vec<NodeRow> = due
            .query_map([self.now_ms, EXPIRED_PER_TX_MAX], NodeRow::read)?
            .collect::<rusqlite::Result<_>>()?;
        for node in &rested {
            if let Ok(next) = decide(&node.state, NodeEvent::Due, self.now_ms) {
                self.write_state(node, &next)?;
            }
        }
        let mut next = self.conn.prepare_cached(
            "SELECT min(
                 coalesce((SELECT min(lease_expires_ms) FROM nodes INDEXED BY nodes_by_expiry
                           WHERE status = 'RUNNING'), ?1),
                 coalesce((SELECT min(not_before_ms) FROM nodes INDEXED BY nodes_by_backoff
                           WHERE not_before_ms IS NOT NULL), ?1))",
        )?;
        Ok(next.query_row([i64::MAX], |row| row.get(0))?)
    }

    fn expire(&mut self, node: &NodeRow) -> OpResult<()> {
        let Ok(next) = decide(&node.state, NodeEvent::Expire, self.now_ms) else {
            return Ok(());
        };
        let attempt = node.state.attempt;
        let error = format!(r#"{{"reason":"lease_expired","attempt":{attempt}}}"#);
        let payload = match (next.status, self.retry_at(&next)) {
            (NodeStatus::Failed, _) | (_, None) => format!(r#"{{"error":{error}}}"#),
            (_, Some(at)) => format!(r#"{{"attempt":{attempt},"retry_at":"{at}"}}"#),
        };
        let holder = self.live.sessions.holder(node);
        self.journal_of(
            holder.as_ref(),
            action::ROLLBACK_NODE,
            Some(node.task),
            Some(node.uuid),
            false,
            &payload,
        )?;
        self.write_end(
            node,
            &next,
            (next.status == NodeStatus::Failed).then_some(error.as_str()),
        )?;
        self.counted.timeout_rollbacks += 1;
        Ok(())
    }

    pub(super) fn decide(&self, task: &TaskRow, node: &NodeRow, event: NodeEvent) -> OpResult<NodeState> {
        decide(&node.state, event, self.now_ms).map_err(|denied| self.denied(denied, task, node))
    }

    /// Writes a state in which the node has no lease, and what came of it.
    pub(super) fn write_end(
        &mut self,
        node: &NodeRow,
        next: &NodeState,
        result: Option<&str>,
    ) -> OpResult<()> {
        self.write_state(node, next)?;
        if let Some(result) = result {
            self.conn
                .prepare_cached("INSERT OR REPLACE INTO node_results (node, result) VALUES (?1, ?2)")?
                .execute(params![node.id, result])?;
        }
        Ok(())
    }

    /// Writes a state in which the node has no lease.
    pub(super) fn write_state(&mut self, node: &NodeRow, next: &NodeState) -> OpResult<()> {
        debug_assert!(next.lease.is_none(), "leases are written where they are granted");
        self.conn
            .prepare_cached(
                "UPDATE nodes SET status = ?2, held = ?3, attempt = ?4, not_before_ms = ?5, lease_id = NULL,
                     lease_owner = NULL, lease_length_ms = NULL, lease_expires_ms = NULL, updated_wall_ms = ?6
                 WHERE id = ?1",
            )?
            .execute(params![
                node.id,
                next.status.as_str(),
                next.held,
                next.attempt,
                next.not_before_ms,
                self.wall_ms
            ])?;
        if node.state.status != next.status {
            self.count(node.task, Some(node.state.status), Some(next.status));
        }
        if let Some(at_ms) = next.not_before_ms {
            self.runs_out_at(at_ms);
        }
        if next.is_runnable() && !node.state.is_runnable() {
            self.runnable.push((node.task, node.requires));
        }
        Ok(())
    }

    /// Gives back what nobody received. That it can no longer be given back is fine.
    pub(super) fn take_back(&mut self, grant: &crate::Undelivered) -> OpResult<()> {
        let given_back = match grant {
            crate::Undelivered::Node(params) => self.release_node(params),
            crate::Undelivered::Lock(params) => self.release_lock(params),
            crate::Undelivered::Session(session, params) => match self.release_node(params) {
                Ok(_) | Err(OpError::Refused(_)) => self.forget_session(*session),
                Err(error) => return Err(error),
            },
        };
        match given_back {
            Ok(_) | Err(OpError::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
