//! Answers to questions, each from one moment's state.

use super::rows::{Blob, Status, Text, retry};
use super::tx::{OpResult, load_task};
use super::{DONE, open};
use crate::{Reply, StoreError, StoreOptions};
use agentd_protocol::journal::JournalEntry;
use agentd_protocol::requests::{GetNode, JournalFilter, ListTasks, ReadJournal, TaskStatus};
use agentd_protocol::results::{
    DatabaseMetrics, GetNodeResult, JournalPage, TaskList, TaskStatusResult, TaskSummary,
};
use agentd_protocol::{
    EventId, LeaseId, NodeId, NodeInfo, SessionId, StatusCounts, TaskId, TaskState, Timestamp, limits,
    secs_rounded_up,
};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use std::collections::{HashMap, VecDeque};

/// Adds up what an answer takes, and refuses to build one that could not be sent.
#[derive(Debug, Default)]
pub(super) struct Size(usize);

impl Size {
    pub(super) fn add(&mut self, bytes: usize) -> Result<(), StoreError> {
        self.0 += bytes;
        if self.0 > limits::ANSWER_BYTES_MAX {
            Err(StoreError::AnswerTooLarge)
        } else {
            Ok(())
        }
    }

    pub(super) fn is_over(&self, bytes: usize) -> bool {
        self.0 > bytes
    }
}

/// A page of the journal stops growing here: subscriptions hold one each.
const JOURNAL_PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Failed nodes named for each node that they block.
const BLOCKED_BY_MAX: usize = 8;

pub(super) fn ping(conn: &Connection) -> OpResult<Reply> {
    conn.query_row("SELECT last_seq FROM totals", [], |row| row.get::<_, i64>(0))?;
    Ok(DONE)
}

pub(super) fn cursor(cursor: Option<&String>) -> Result<Option<i64>, StoreError> {
    cursor
        .map(|text| text.parse().map_err(|_| StoreError::BadCursor))
        .transpose()
}

// Where a task stands as a whole.
fn task_state(state: &str, finished: bool, counts: &StatusCounts) -> TaskState {
    match state {
        "CANCELLED" => TaskState::Cancelled,
        "PAUSED" => TaskState::Paused,
        _ if !finished => TaskState::Active,
        _ if counts.completed == counts.total() => TaskState::Completed,
        _ => TaskState::Failed,
    }
}

fn counts(row: &Row<'_>, at: usize) -> rusqlite::Result<StatusCounts> {
    Ok(StatusCounts {
        pending: row.get(at)?,
        running: row.get(at + 1)?,
        completed: row.get(at + 2)?,
        failed: row.get(at + 3)?,
    })
}

struct NodeReader<'c> {
    conn: &'c Connection,
    task_id: TaskId,
    clock_offset_ms: i64,
    blocked_by: HashMap<i64, Vec<NodeId>>,
    omit_payloads: bool,
}

const NODE_INFO: &str = "n.id, n.uuid, n.status, n.requires, n.priority, n.attempt, n.max_attempts, n.backoff_ms, \
     n.backoff_max_ms, n.not_before_ms, n.lease_id, n.lease_owner, n.lease_expires_ms, n.acquired_wall_ms, \
     n.fence, n.updated_wall_ms, s.name, s.payload_schema, s.work, r.result, \
     (SELECT names FROM capability_sets c WHERE c.id = n.requires), s.fingerprint";

impl NodeReader<'_> {
    fn read(&self, row: &Row<'_>) -> OpResult<NodeInfo> {
        let id: i64 = row.get(0)?;
        let mut list = self.conn.prepare_cached(
            "SELECT n.uuid FROM dependencies d JOIN nodes n ON n.id = d.dependency
             WHERE d.node = ?1 ORDER BY d.position",
        )?;
        let dependencies = list
            .query_map([id], |row| row.get::<_, Blob>(0).map(NodeId::from))?
            .collect::<rusqlite::Result<_>>()?;
        let names: Option<String> = row.get(20)?;
        let shown = |at: usize| -> rusqlite::Result<Option<Text>> {
            if self.omit_payloads { Ok(None) } else { row.get(at) }
        };
        let wall = |lease_clock_ms: i64| lease_clock_ms + self.clock_offset_ms;
        Ok(NodeInfo {
            id: row.get::<_, Blob>(1)?.into(),
            task_id: self.task_id,
            status: row.get::<_, Status>(2)?.0,
            dependencies,
            payload_schema: shown(17)?.map(|text| text.0).unwrap_or_default(),
            result_payload: shown(19)?.map(|text| text.0),
            acquired_at: row.get::<_, Option<i64>>(13)?.map(|ms| ms.div_euclid(1000)),
            lease_id: row.get::<_, Option<Blob>>(10)?.map(LeaseId::from),
            lease_owner: row.get(11)?,
            lease_expires_at: row.get::<_, Option<i64>>(12)?.map(|ms| secs_rounded_up(wall(ms))),
            updated_at: row.get::<_, i64>(15)?.div_euclid(1000),
            name: row.get(16)?,
            work: shown(18)?.and_then(|text| serde_json::from_str(text.0.text()).ok()),
            priority: row.get(4)?,
            capabilities: names
                .map(|names| names.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
            attempt: row.get(5)?,
            retry: retry(row, 6)?,
            fence: row.get(14)?,
            not_before: row
                .get::<_, Option<i64>>(9)?
                .map(|ms| Timestamp { unix_ms: wall(ms) }),
            blocked_by: self.blocked_by.get(&id).cloned().unwrap_or_default(),
            fingerprint: row.get(21)?,
        })
    }
}

// What a node takes in an answer, roughly and rather too much than too little.
fn node_size(node: &NodeInfo) -> usize {
    let text = |text: Option<&String>| text.map_or(0, String::len);
    600 + node.dependencies.len() * 39
        + node.payload_schema.text().len()
        + node
            .result_payload
            .as_ref()
            .map_or(0, |result| result.text().len())
        + text(node.name.as_ref())
        + text(node.lease_owner.as_ref())
        + text(node.fingerprint.as_ref())
        + node
            .work
            .as_ref()
            .map_or(0, |work| agentd_protocol::Json::of(work).text().len())
        + node.capabilities.iter().map(|name| name.len() + 3).sum::<usize>()
        + node.blocked_by.len() * 39
}

/// A task with its nodes.
pub(super) fn task(conn: &Connection, params: &TaskStatus, options: &StoreOptions) -> OpResult<Reply> {
    let row = load_task(conn, params.task_id)?;
    let (state, finished, counts) = conn.query_row(
        "SELECT state, finished_wall_ms IS NOT NULL, pending, running, completed, failed FROM tasks WHERE id = ?1",
        [row.id],
        |row| Ok((row.get::<_, String>(0)?, row.get(1)?, counts(row, 2)?)),
    )?;
    let after = cursor(params.cursor.as_ref())?.unwrap_or(0);
    let reader = NodeReader {
        conn,
        task_id: params.task_id,
        clock_offset_ms: options.clock.wall_ms() - options.clock.lease_ms(),
        blocked_by: if counts.failed > 0 && counts.pending > 0 {
            blocked_by(conn, row.id)?
        } else {
            HashMap::new()
        },
        omit_payloads: params.omit_payloads,
    };
    let filter = if params.status.is_some() {
        "AND n.status = ?3"
    } else {
        ""
    };
    let mut all = conn.prepare_cached(&format!(
        "SELECT {NODE_INFO} FROM nodes n INDEXED BY nodes_by_task
         LEFT JOIN node_specs s ON s.node = n.id LEFT JOIN node_results r ON r.node = n.id
         WHERE n.task = ?1 AND n.id > ?2 {filter} ORDER BY n.id"
    ))?;
    let mut values = vec![Value::from(row.id), Value::from(after)];
    values.extend(
        params
            .status
            .map(|status| Value::from(status.as_str().to_owned())),
    );
    let mut rows = all.query(params_from_iter(values))?;
    let mut nodes = Vec::new();
    let mut size = Size::default();
    size.add(row.info.goal.len() + row.info.context.text().len() + 1000)?;
    let mut next_cursor = None;
    let mut last = after;
    while let Some(found) = rows.next()? {
        if params.limit.is_some_and(|limit| nodes.len() == limit as usize) {
            next_cursor = Some(last.to_string());
            break;
        }
        let node = reader.read(found)?;
        // A page ends early when it is full; the whole list, asked for as a whole, is given whole or not at all.
        match size.add(node_size(&node)) {
            Err(_) if params.limit.is_some() && !nodes.is_empty() => {
                next_cursor = Some(last.to_string());
                break;
            }
            result => result?,
        }
        last = found.get(0)?;
        nodes.push(node);
    }
    let state = task_state(&state, finished, &counts);
    Ok(Reply::Status(TaskStatusResult {
        task: row.info,
        state,
        counts,
        nodes,
        next_cursor,
    }))
}

// Goes from the failed nodes to all that wait for them, each pair once, without recursion.
fn blocked_by(conn: &Connection, task: i64) -> OpResult<HashMap<i64, Vec<NodeId>>> {
    let mut failed = conn.prepare_cached(
        "SELECT id, uuid FROM nodes INDEXED BY nodes_by_task WHERE task = ?1 AND status = 'FAILED'",
    )?;
    let mut queue: VecDeque<(i64, NodeId)> = failed
        .query_map([task], |row| Ok((row.get(0)?, row.get::<_, Blob>(1)?.into())))?
        .collect::<rusqlite::Result<_>>()?;
    let mut dependents = conn.prepare_cached(
        "SELECT d.node FROM dependencies d INDEXED BY dependents JOIN nodes n ON n.id = d.node
         WHERE d.dependency = ?1 AND n.status = 'PENDING'",
    )?;
    let mut blocked: HashMap<i64, Vec<NodeId>> = HashMap::new();
    while let Some((node, cause)) = queue.pop_front() {
        let mut rows = dependents.query([node])?;
        while let Some(row) = rows.next()? {
            let dependent: i64 = row.get(0)?;
            let causes = blocked.entry(dependent).or_default();
            if causes.len() < BLOCKED_BY_MAX && !causes.contains(&cause) {
                causes.push(cause);
                queue.push_back((dependent, cause));
            }
        }
    }
    Ok(blocked)
}

/// One node, whole.
pub(super) fn node(conn: &Connection, params: &GetNode, options: &StoreOptions) -> OpResult<Reply> {
    let task = load_task(conn, params.task_id)?;
    let reader = NodeReader {
        conn,
        task_id: params.task_id,
        clock_offset_ms: options.clock.wall_ms() - options.clock.lease_ms(),
        blocked_by: blocked_by(conn, task.id)?,
        omit_payloads: false,
    };
    let mut find = conn.prepare_cached(&format!(
        "SELECT {NODE_INFO} FROM nodes n
         LEFT JOIN node_specs s ON s.node = n.id LEFT JOIN node_results r ON r.node = n.id
         WHERE n.uuid = ?1 AND n.task = ?2"
    ))?;
    let mut rows = find.query(params![Blob(params.node_id.0), task.id])?;
    match rows.next()? {
        Some(row) => Ok(Reply::Node(Box::new(GetNodeResult {
            node: reader.read(row)?,
        }))),
        None => Err(StoreError::NodeNotFound {
            task: params.task_id,
            node: params.node_id,
        }
        .into()),
    }
}

/// Tasks, newest first.
pub(super) fn list(conn: &Connection, params: &ListTasks) -> OpResult<Reply> {
    let limit = params.limit.unwrap_or(limits::PAGE_DEFAULT) as usize;
    let before = cursor(params.cursor.as_ref())?.unwrap_or(i64::MAX);
    let prefix = params.idempotency_key_prefix.clone().unwrap_or_default();
    let which = match params.state {
        None => "state <> 'PRUNED'",
        Some(TaskState::Active) => "finished_wall_ms IS NULL AND state <> 'PRUNED' AND state = 'OPEN'",
        Some(TaskState::Paused) => "state = 'PAUSED'",
        Some(TaskState::Cancelled) => "state = 'CANCELLED'",
        Some(TaskState::Completed) => {
            "state = 'OPEN' AND finished_wall_ms IS NOT NULL AND pending + running + failed = 0"
        }
        Some(TaskState::Failed) => {
            "state = 'OPEN' AND finished_wall_ms IS NOT NULL AND pending + running + failed > 0"
        }
    };
    // By key when a key is asked for: its index finds them, however many tasks there are.
    let by_key = if prefix.is_empty() {
        ""
    } else {
        "AND idempotency_key >= ?2 AND idempotency_key < ?3"
    };
    let mut all = conn.prepare_cached(&format!(
        "SELECT id, uuid, goal, state, created_wall_ms, finished_wall_ms, pending, running, completed, failed,
             idempotency_key
         FROM tasks WHERE id < ?1 AND {which} {by_key} ORDER BY id DESC"
    ))?;
    let mut values = vec![Value::from(before)];
    if !prefix.is_empty() {
        values.push(Value::from(prefix.clone()));
        values.push(Value::from(format!("{prefix}\u{10ffff}")));
    }
    let mut rows = all.query(params_from_iter(values))?;
    let mut tasks: Vec<TaskSummary> = Vec::new();
    let mut next_cursor = None;
    let mut last: i64 = before;
    while let Some(row) = rows.next()? {
        if tasks.len() == limit {
            next_cursor = Some(last.to_string());
            break;
        }
        last = row.get(0)?;
        let goal: String = row.get(2)?;
        let state: String = row.get(3)?;
        let finished: Option<i64> = row.get(5)?;
        let counts = counts(row, 6)?;
        tasks.push(TaskSummary {
            task_id: row.get::<_, Blob>(1)?.into(),
            goal: goal.chars().take(200).collect(),
            state: task_state(&state, finished.is_some(), &counts),
            counts,
            created_at: Timestamp { unix_ms: row.get(4)? },
            finished_at: finished.map(|unix_ms| Timestamp { unix_ms }),
            idempotency_key: row.get(10)?,
        });
    }
    Ok(Reply::Tasks(TaskList { tasks, next_cursor }))
}

/// A page of the journal.
pub(super) fn journal(conn: &Connection, params: &ReadJournal) -> OpResult<Reply> {
    let last_seq: i64 = conn.query_row("SELECT last_seq FROM totals", [], |row| row.get(0))?;
    let (mut conditions, mut values) = conditions(conn, &params.filter)?;
    let (order, limit) = match params.last {
        Some(last) => ("DESC", last),
        None => ("ASC", params.limit.unwrap_or(limits::PAGE_DEFAULT)),
    };
    if params.last.is_none() {
        conditions.push_str(" AND e.seq >= ?");
        values.push(Value::from(params.from_seq.unwrap_or(0)));
    }
    // One session's entries are few among those of all.
    let by = if params.filter.session_id.is_some() {
        "INDEXED BY events_by_session"
    } else {
        ""
    };
    let columns = "e.seq, e.uuid, e.wall_ms, e.action, e.payload, t.uuid, e.node, e.session, e.agent";
    let mut page = conn.prepare_cached(&format!(
        "SELECT {columns} FROM events e {by} LEFT JOIN tasks t ON t.id = e.task
         WHERE {conditions} ORDER BY e.seq {order} LIMIT {}",
        i64::from(limit) + 1
    ))?;
    let mut rows = page.query(params_from_iter(values))?;
    let mut entries = Vec::new();
    let mut size = Size::default();
    // Without a hit there is nothing up to the end.
    let mut next_seq = last_seq + 1;
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
        if entries.len() == limit as usize || size.is_over(JOURNAL_PAGE_BYTES) {
            next_seq = seq;
            break;
        }
        let payload = row.get::<_, Text>(4)?.0;
        size.add(payload.text().len() + 300)?;
        entries.push(JournalEntry {
            seq,
            id: EventId(row.get::<_, Blob>(1)?.0),
            timestamp: Timestamp { unix_ms: row.get(2)? },
            action_type: row.get(3)?,
            payload,
            task_id: row.get::<_, Option<Blob>>(5)?.map(TaskId::from),
            node_id: row.get::<_, Option<Blob>>(6)?.map(NodeId::from),
            session_id: row.get::<_, Option<Blob>>(7)?.map(|blob| SessionId(blob.0)),
            agent: row.get(8)?,
        });
    }
    if params.last.is_some() {
        entries.reverse();
        next_seq = last_seq + 1;
    }
    Ok(Reply::Journal(JournalPage {
        entries,
        next_seq,
        last_seq,
    }))
}

fn conditions(conn: &Connection, filter: &JournalFilter) -> OpResult<(String, Vec<Value>)> {
    let mut conditions = String::from("1");
    let mut values = Vec::new();
    if let Some(task) = filter.task_id {
        let id: Option<i64> = conn
            .query_row("SELECT id FROM tasks WHERE uuid = ?1", [Blob(task.0)], |row| {
                row.get(0)
            })
            .optional()?;
        // The two halves of the index, each in order.
        conditions.push_str(" AND e.task = ? AND e.context IN (0, 1)");
        values.push(Value::from(id.ok_or(StoreError::TaskNotFound(task))?));
    }
    if let Some(node) = filter.node_id {
        conditions.push_str(" AND e.node = ?");
        values.push(Value::from(node.0.as_bytes().to_vec()));
    }
    if let Some(session) = filter.session_id {
        conditions.push_str(" AND e.session = ?");
        values.push(Value::from(session.0.as_bytes().to_vec()));
    }
    if !filter.action_types.is_empty() {
        let marks = vec!["?"; filter.action_types.len()].join(", ");
        conditions.push_str(&format!(" AND e.action IN ({marks})"));
        values.extend(filter.action_types.iter().cloned().map(Value::from));
    }
    Ok((conditions, values))
}

/// Gauges of the database.
pub(super) fn metrics(conn: &Connection, options: &StoreOptions) -> OpResult<Reply> {
    let now_ms = options.clock.lease_ms();
    let (total_tasks, node_status_counts, total_events, last_seq) = conn.query_row(
        "SELECT tasks, pending, running, completed, failed, events, last_seq FROM totals",
        [],
        |row| Ok((row.get(0)?, counts(row, 1)?, row.get(5)?, row.get(6)?)),
    )?;
    let count = |sql: &str| -> rusqlite::Result<u64> { conn.query_row(sql, [now_ms], |row| row.get(0)) };
    let pages: u64 = conn.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    let page_bytes: u64 = conn.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    let leases = "SELECT count(*) FROM nodes INDEXED BY nodes_by_expiry WHERE status = 'RUNNING' AND";
    Ok(Reply::Metrics(DatabaseMetrics {
        schema_version: conn.query_row("PRAGMA user_version", [], |row| row.get(0))?,
        latest_schema_version: open::LATEST_SCHEMA,
        total_tasks,
        total_nodes: node_status_counts.total(),
        total_events,
        active_resource_locks: count("SELECT count(*) FROM locks WHERE expires_ms > ?1")?,
        expired_resource_locks: count("SELECT count(*) FROM locks WHERE expires_ms <= ?1")?,
        running_leases: count(&format!("{leases} lease_expires_ms > ?1"))?,
        expired_running_leases: count(&format!("{leases} lease_expires_ms <= ?1"))?,
        node_status_counts,
        last_seq,
        size_bytes: pages * page_bytes,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_with_no_nodes_yet_is_active() {
        assert_eq!(
            task_state("OPEN", false, &StatusCounts::default()),
            TaskState::Active
        );
        let failed = StatusCounts {
            failed: 1,
            pending: 3,
            ..StatusCounts::default()
        };
        assert_eq!(task_state("OPEN", true, &failed), TaskState::Failed);
    }
}
