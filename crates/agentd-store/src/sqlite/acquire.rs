//! Handing out the next runnable node.

use super::context;
use super::rows::{Blob, NODE_ROW, NodeRow};
use super::sessions::Holder;
use super::tx::{OpResult, TaskRow, TaskRowState, Tx, quoted};
use crate::Reply;
use crate::machine::{Lease, NodeEvent, decide};
use agentd_protocol::journal::action;
use agentd_protocol::requests::AcquireNextNode;
use agentd_protocol::results::AcquiredNode;
use agentd_protocol::{NodeStatus, secs_rounded_up};
use rusqlite::{OptionalExtension, params};
use std::rc::Rc;

const RUNNABLE: &str = "status = 'PENDING' AND blockers = 0 AND held = 0 AND not_before_ms IS NULL";

impl Tx<'_> {
    /// Leases the next node for this request, if there is one.
    pub(super) fn acquire_node(&mut self, params: &AcquireNextNode) -> OpResult<Reply> {
        match self.next_node(params)? {
            Some((task, node)) => self
                .lease(&task, &node, params, None)
                .map(|node| Reply::Acquired(Some(node))),
            None => Ok(Reply::Acquired(None)),
        }
    }

    /// The node that this request is to be given, if there is one.
    pub(super) fn next_node(&mut self, params: &AcquireNextNode) -> OpResult<Option<(Rc<TaskRow>, NodeRow)>> {
        match params.task_id {
            Some(id) => {
                let task = self.task(id)?;
                if task.state != TaskRowState::Open {
                    return Ok(None);
                }
                let node = if params.capabilities.is_none() && !params.work_only {
                    self.next_of_task(task.id)?
                } else {
                    self.next_of_task_for(task.id, params)?
                };
                Ok(node.map(|node| (task, node)))
            }
            None => match self.next_of_any(params)? {
                Some(node) => Ok(Some((self.task_of(&node)?, node))),
                None => Ok(None),
            },
        }
    }

    fn next_of_task(&self, task: i64) -> OpResult<Option<NodeRow>> {
        let mut next = self.conn.prepare_cached(&format!(
            "SELECT {NODE_ROW} FROM nodes INDEXED BY nodes_runnable_by_task
             WHERE task = ?1 AND {RUNNABLE} ORDER BY priority DESC, id LIMIT 1"
        ))?;
        Ok(next.query_row([task], NodeRow::read).optional()?)
    }

    // Nodes of one task that ask for more than the worker can do are passed over one by one: the number of
    // runnable nodes of one task bounds that.
    fn next_of_task_for(&self, task: i64, params: &AcquireNextNode) -> OpResult<Option<NodeRow>> {
        let mut candidates = self.conn.prepare_cached(&format!(
            "SELECT {NODE_ROW} FROM nodes INDEXED BY nodes_runnable_by_task
             WHERE task = ?1 AND {RUNNABLE} ORDER BY priority DESC, id"
        ))?;
        let mut rows = candidates.query([task])?;
        while let Some(row) = rows.next()? {
            let node = NodeRow::read(row)?;
            if self.live.capability_sets.suits(params, node.requires) {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    // One look at the head of the queue of each set of capabilities that the worker has; the number of sets is
    // bounded.
    fn next_of_any(&self, params: &AcquireNextNode) -> OpResult<Option<NodeRow>> {
        let mut heads = self.conn.prepare_cached(&format!(
            "SELECT id, priority FROM nodes INDEXED BY nodes_runnable
             WHERE requires = ?1 AND {RUNNABLE} ORDER BY priority DESC, id LIMIT 1"
        ))?;
        let mut best: Option<(i64, i64)> = None;
        for set in self.live.capability_sets.suiting(params) {
            let head = heads
                .query_row([set], |row| Ok((-row.get::<_, i64>(1)?, row.get::<_, i64>(0)?)))
                .optional()?;
            best = match (best, head) {
                (Some(best), Some(head)) => Some(best.min(head)),
                (best, head) => best.or(head),
            };
        }
        let Some((_, id)) = best else { return Ok(None) };
        let mut find = self
            .conn
            .prepare_cached(&format!("SELECT {NODE_ROW} FROM nodes WHERE id = ?1"))?;
        Ok(Some(find.query_row([id], NodeRow::read)?))
    }

    fn task_of(&mut self, node: &NodeRow) -> OpResult<Rc<TaskRow>> {
        let id = self.task_id(node.task)?;
        self.task(id)
    }

    /// Leases a node, to a session if one is to work on it.
    pub(super) fn lease(
        &mut self,
        task: &TaskRow,
        node: &NodeRow,
        params: &AcquireNextNode,
        holder: Option<&Holder>,
    ) -> OpResult<Box<AcquiredNode>> {
        let length_ms = self.lease_length(params.lease_secs);
        let lease = Lease::new(self.live.options.ids.lease(), self.now_ms, length_ms);
        let next = decide(&node.state, NodeEvent::Acquire(lease), self.now_ms)
            .map_err(|denied| self.denied(denied, task, node))?;
        let session = holder.map(|holder| format!("session:{}", holder.session));
        let owner = params.lease_owner.as_deref().or(session.as_deref());
        let owner = owner.unwrap_or("anonymous");
        // All that is read is read before anything is written.
        let mut context = context::of_node(self, task, node)?;
        let payload = format!(
            r#"{{"lease_owner":{},"attempt":{},"lease_ms":{length_ms}}}"#,
            quoted(owner),
            next.attempt
        );
        let (fence, _) = self.journal_of(
            holder,
            action::ACQUIRE_NODE,
            Some(task.id),
            Some(node.uuid),
            false,
            &payload,
        )?;
        self.conn
            .prepare_cached(
                "UPDATE nodes SET status = 'RUNNING', attempt = ?2, lease_id = ?3, lease_owner = ?4,
                     lease_length_ms = ?5, lease_expires_ms = ?6, acquired_wall_ms = ?7, fence = ?8,
                     updated_wall_ms = ?7
                 WHERE id = ?1",
            )?
            .execute(params![
                node.id,
                next.attempt,
                Blob(lease.id.0),
                owner,
                length_ms,
                lease.expires_ms,
                self.wall_ms,
                fence
            ])?;
        self.count(node.task, Some(node.state.status), Some(next.status));
        self.runs_out_at(lease.expires_ms);
        self.counted.acquired_nodes += 1;
        let lease_expires_at = secs_rounded_up(self.wall(lease.expires_ms));
        let info = &mut context.node;
        info.status = NodeStatus::Running;
        info.acquired_at = Some(self.wall_ms.div_euclid(1000));
        info.lease_id = Some(lease.id);
        info.lease_owner = Some(owner.to_owned());
        info.lease_expires_at = Some(lease_expires_at);
        info.updated_at = self.wall_ms.div_euclid(1000);
        info.attempt = next.attempt;
        info.fence = Some(fence);
        Ok(Box::new(AcquiredNode {
            task_id: task.info.id,
            node_id: node.uuid,
            lease_id: lease.id,
            lease_owner: owner.to_owned(),
            lease_expires_at,
            fence,
            attempt: next.attempt,
            context,
        }))
    }

    /// How long a lease is to last, in milliseconds.
    pub(super) fn lease_length(&self, asked_secs: Option<u64>) -> i64 {
        asked_secs
            .and_then(|secs| i64::try_from(secs.saturating_mul(1000)).ok())
            .unwrap_or(self.live.options.default_lease_ms)
    }
}
