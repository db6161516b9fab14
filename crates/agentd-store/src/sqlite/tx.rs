//! One transaction of the writer: what it works on, and how it writes the journal and the counts.
//!
//! Commands read and decide first, and write only when nothing can be refused any more. So a refused command
//! needs no undoing, and a command that fails half-way (which only the disk can cause) undoes the whole
//! transaction, after which the others are run again without it.

use super::capabilities::CapabilitySets;
use super::rows::{Blob, NODE_ROW, NodeRow};
use super::sessions::{Holder, OpenSessions};
use crate::machine::Denied;
use crate::{Counters, StoreError, StoreOptions};
use agentd_protocol::{EventId, Json, NodeId, NodeStatus, TaskId, TaskInfo, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::rc::Rc;

/// Why a command came to nothing.
#[derive(Debug)]
pub(super) enum OpError {
    /// It is not allowed. Nothing was written.
    Refused(StoreError),
    /// The database failed.
    Sql(rusqlite::Error),
}

impl OpError {
    pub(super) fn into_store_error(self, doing: &'static str) -> StoreError {
        match self {
            Self::Refused(error) => error,
            Self::Sql(source) => {
                use rusqlite::ErrorCode::CannotOpen;
                let short = match source.sqlite_error_code() {
                    Some(CannotOpen) => files_to_spare().err(),
                    _ => None,
                };
                let source = short.map_or_else(|| source.into(), Into::into);
                StoreError::Storage { doing, source }
            }
        }
    }
}

/// SQLite does not say that it was short of file descriptors. A database has three files: itself, its log and
/// the log's index.
pub(super) fn files_to_spare() -> io::Result<()> {
    let files: io::Result<Vec<File>> = (0..3).map(|_| File::open("/dev/null")).collect();
    files.map(drop)
}

impl From<rusqlite::Error> for OpError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for OpError {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

pub(super) type OpResult<T> = Result<T, OpError>;

/// A task as commands need it, remembered from one to the next.
#[derive(Debug)]
pub(super) struct TaskRow {
    pub(super) id: i64,
    pub(super) info: TaskInfo,
    pub(super) state: TaskRowState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskRowState {
    Open,
    Paused,
    Cancelled,
}

/// Tasks remembered. Beyond it all are forgotten and looked up again: cheaper than keeping track of which was
/// used last.
const TASKS_REMEMBERED_MAX: usize = 256;
/// Tasks with a larger context are not remembered, so that memory stays bounded.
const CONTEXT_REMEMBERED_BYTES_MAX: usize = 16 * 1024;

/// By how much the numbers of nodes in each status change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Delta([i64; 4]);

impl Delta {
    fn add(&mut self, status: NodeStatus, by: i64) {
        self.0[status as usize] += by;
    }

    fn get(self, status: NodeStatus) -> i64 {
        self.0[status as usize]
    }
}

/// What the writer keeps from one transaction to the next. All but the options follows from the database.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) options: StoreOptions,
    pub(super) last_seq: i64,
    pub(super) last_node: i64,
    pub(super) capability_sets: CapabilitySets,
    pub(super) sessions: OpenSessions,
    tasks: HashMap<TaskId, Rc<TaskRow>>,
}

impl Live {
    pub(super) fn load(conn: &Connection, options: StoreOptions) -> rusqlite::Result<Self> {
        let (last_seq, last_node) = conn.query_row("SELECT last_seq, last_node FROM totals", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
        Ok(Self {
            options,
            last_seq,
            last_node,
            capability_sets: CapabilitySets::load(conn)?,
            sessions: OpenSessions::load(conn)?,
            tasks: HashMap::new(),
        })
    }

    pub(super) fn forget_task(&mut self, id: TaskId) {
        self.tasks.remove(&id);
    }
}

/// One transaction.
#[derive(Debug)]
pub(super) struct Tx<'a> {
    pub(super) conn: &'a Connection,
    pub(super) live: &'a mut Live,
    /// Now, on the lease clock. The same for all that shares the transaction.
    pub(super) now_ms: i64,
    /// Now, on the wall clock.
    pub(super) wall_ms: i64,
    pub(super) counted: Counters,
    deltas: HashMap<i64, Delta>,
    all_deltas: Delta,
    new_tasks: i64,
    new_events: i64,
    /// Nodes that have become runnable, as (task, required capabilities): for those who wait.
    pub(super) runnable: Vec<(i64, i64)>,
    /// Locks that have become free.
    pub(super) freed: Vec<String>,
    /// The earliest instant at which something that this transaction wrote runs out.
    pub(super) earliest_ms: i64,
}

impl<'a> Tx<'a> {
    pub(super) fn begin(conn: &'a Connection, live: &'a mut Live) -> rusqlite::Result<Self> {
        conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let (now_ms, wall_ms) = (live.options.clock.lease_ms(), live.options.clock.wall_ms());
        Ok(Self {
            conn,
            live,
            now_ms,
            wall_ms,
            counted: Counters::default(),
            deltas: HashMap::new(),
            all_deltas: Delta::default(),
            new_tasks: 0,
            new_events: 0,
            runnable: Vec::new(),
            freed: Vec::new(),
            earliest_ms: i64::MAX,
        })
    }

    /// Writes the counts and commits. After this the transaction is on disk.
    pub(super) fn commit(mut self) -> rusqlite::Result<(Counters, i64)> {
        let tasks: Vec<i64> = self.deltas.keys().copied().collect();
        for task in tasks {
            self.flush_task(task)?;
        }
        let all = self.all_deltas;
        if self.new_events != 0 || self.new_tasks != 0 || all != Delta::default() {
            self.add_totals(all, self.new_tasks, self.new_events)?;
        }
        self.conn.prepare_cached("COMMIT")?.execute([])?;
        Ok((self.counted, self.earliest_ms))
    }

    fn add_totals(&self, nodes: Delta, tasks: i64, events: i64) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached(
                "UPDATE totals SET tasks = tasks + ?1, pending = pending + ?2, running = running + ?3,
                     completed = completed + ?4, failed = failed + ?5, events = events + ?6,
                     last_seq = ?7, last_node = ?8",
            )?
            .execute(params![
                tasks,
                nodes.get(NodeStatus::Pending),
                nodes.get(NodeStatus::Running),
                nodes.get(NodeStatus::Completed),
                nodes.get(NodeStatus::Failed),
                events,
                self.live.last_seq,
                self.live.last_node
            ])
            .map(drop)
    }

    /// Brings a task's own counts up to date within the transaction, and finds out whether it has finished.
    pub(super) fn flush_task(&mut self, task: i64) -> rusqlite::Result<()> {
        let Some(delta) = self.deltas.remove(&task) else {
            return Ok(());
        };
        for status in NodeStatus::ALL {
            self.all_deltas.add(status, delta.get(status));
        }
        let (pending, running, finished): (i64, i64, bool) = self
            .conn
            .prepare_cached(
                "UPDATE tasks SET pending = pending + ?2, running = running + ?3, completed = completed + ?4,
                     failed = failed + ?5
                 WHERE id = ?1 RETURNING pending, running, finished_wall_ms IS NOT NULL",
            )?
            .query_row(
                params![
                    task,
                    delta.get(NodeStatus::Pending),
                    delta.get(NodeStatus::Running),
                    delta.get(NodeStatus::Completed),
                    delta.get(NodeStatus::Failed)
                ],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )?;
        let over = running == 0 && (pending == 0 || !self.can_go_on(task)?);
        if over != finished {
            let at = over.then_some(self.wall_ms);
            self.conn
                .prepare_cached("UPDATE tasks SET finished_wall_ms = ?2 WHERE id = ?1")?
                .execute(params![task, at])?;
        }
        Ok(())
    }

    // With nothing running: can anything ever run again by itself?
    fn can_go_on(&self, task: i64) -> rusqlite::Result<bool> {
        let mut runnable = self.conn.prepare_cached(
            "SELECT 1 FROM nodes INDEXED BY nodes_runnable_by_task
             WHERE task = ?1 AND status = 'PENDING' AND blockers = 0 AND held = 0 AND not_before_ms IS NULL
             LIMIT 1",
        )?;
        if runnable.exists([task])? {
            return Ok(true);
        }
        let mut kept = self.conn.prepare_cached(
            "SELECT 1 FROM nodes INDEXED BY nodes_kept_by_task
             WHERE task = ?1 AND status = 'PENDING' AND blockers = 0 AND (held = 1 OR not_before_ms IS NOT NULL)
             LIMIT 1",
        )?;
        kept.exists([task])
    }

    /// Notes that a node went from one status to another (or came into being, or is removed).
    pub(super) fn count(&mut self, task: i64, from: Option<NodeStatus>, to: Option<NodeStatus>) {
        let delta = self.deltas.entry(task).or_default();
        if let Some(status) = from {
            delta.add(status, -1);
        }
        if let Some(status) = to {
            delta.add(status, 1);
        }
    }

    /// As [`Tx::count`], for many that came into being.
    pub(super) fn count_new(&mut self, task: i64, nodes: i64) {
        self.deltas
            .entry(task)
            .or_default()
            .add(NodeStatus::Pending, nodes);
    }

    pub(super) fn count_task(&mut self, by: i64) {
        self.new_tasks += by;
    }

    /// Takes back entries that were pruned from the count.
    pub(super) fn uncount_events(&mut self, removed: i64) {
        self.new_events -= removed;
    }

    /// Totals of nodes that are removed while their task's own counts stay, as its tombstone's.
    pub(super) fn uncount_nodes(&self, status: NodeStatus, removed: i64) -> rusqlite::Result<()> {
        let mut delta = Delta::default();
        delta.add(status, -removed);
        self.add_totals(delta, 0, 0)
    }

    /// Appends an entry.
    pub(super) fn journal(
        &mut self,
        action: &str,
        task: Option<i64>,
        node: Option<NodeId>,
        in_context: bool,
        payload: &str,
    ) -> rusqlite::Result<(i64, EventId)> {
        self.journal_of(None, action, task, node, in_context, payload)
    }

    /// Appends an entry that is about what a session does, if there is one.
    pub(super) fn journal_of(
        &mut self,
        holder: Option<&Holder>,
        action: &str,
        task: Option<i64>,
        node: Option<NodeId>,
        in_context: bool,
        payload: &str,
    ) -> rusqlite::Result<(i64, EventId)> {
        let id = self.live.options.ids.event();
        self.live.last_seq += 1;
        let seq = self.live.last_seq;
        self.conn
            .prepare_cached(
                "INSERT INTO events (seq, uuid, wall_ms, action, task, node, context, payload, session, agent)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                seq,
                Blob(id.0),
                self.wall_ms,
                action,
                task,
                node.map(|node| Blob(node.0)),
                in_context,
                payload,
                holder.map(|holder| Blob(holder.session.0)),
                holder.map(|holder| &*holder.agent)
            ])?;
        self.new_events += 1;
        Ok((seq, id))
    }

    /// The id by which clients know a task.
    pub(super) fn task_id(&self, task: i64) -> rusqlite::Result<TaskId> {
        let mut find = self.conn.prepare_cached("SELECT uuid FROM tasks WHERE id = ?1")?;
        find.query_row([task], |row| row.get::<_, Blob>(0).map(TaskId::from))
    }

    /// Finds a task that is not pruned.
    pub(super) fn task(&mut self, id: TaskId) -> OpResult<Rc<TaskRow>> {
        if let Some(task) = self.live.tasks.get(&id) {
            return Ok(Rc::clone(task));
        }
        let row = Rc::new(load_task(self.conn, id)?);
        if row.info.context.text().len() <= CONTEXT_REMEMBERED_BYTES_MAX {
            if self.live.tasks.len() >= TASKS_REMEMBERED_MAX {
                self.live.tasks.clear();
            }
            self.live.tasks.insert(id, Rc::clone(&row));
        }
        Ok(row)
    }

    /// Finds a node of a task.
    pub(super) fn node(&mut self, task_id: TaskId, node_id: NodeId) -> OpResult<(Rc<TaskRow>, NodeRow)> {
        let task = self.task(task_id)?;
        let row = self.find_node(node_id)?.filter(|row| row.task == task.id);
        let row = row.ok_or(StoreError::NodeNotFound {
            task: task_id,
            node: node_id,
        })?;
        Ok((task, row))
    }

    pub(super) fn find_node(&self, id: NodeId) -> OpResult<Option<NodeRow>> {
        let mut find = self
            .conn
            .prepare_cached(&format!("SELECT {NODE_ROW} FROM nodes WHERE uuid = ?1"))?;
        Ok(find.query_row([Blob(id.0)], NodeRow::read).optional()?)
    }

    /// What a refusal of the state machine means for the caller.
    pub(super) fn denied(&self, denied: Denied, task: &TaskRow, node: &NodeRow) -> OpError {
        let error = match denied {
            Denied::StaleLease(_) if task.state == TaskRowState::Cancelled => {
                let reason = self.conn.query_row(
                    "SELECT cancel_reason FROM tasks WHERE id = ?1",
                    [task.id],
                    |row| row.get(0),
                );
                StoreError::Cancelled {
                    task: task.info.id,
                    node: node.uuid,
                    reason: reason.unwrap_or(None),
                }
            }
            Denied::StaleLease(why) => StoreError::StaleLease { node: node.uuid, why },
            Denied::WrongStatus(what) => StoreError::WrongStatus {
                node: node.uuid,
                status: node.state.status,
                what,
            },
        };
        OpError::Refused(error)
    }

    /// A point on the lease clock, as people read it.
    pub(super) fn wall(&self, lease_clock_ms: i64) -> i64 {
        lease_clock_ms + (self.wall_ms - self.now_ms)
    }

    pub(super) fn runs_out_at(&mut self, at_ms: i64) {
        self.earliest_ms = self.earliest_ms.min(at_ms);
    }
}

/// Finds a task that is not pruned.
pub(super) fn load_task(conn: &Connection, id: TaskId) -> OpResult<TaskRow> {
    let mut find = conn.prepare_cached(
        "SELECT id, goal, context, created_wall_ms, state, pruned_wall_ms FROM tasks WHERE uuid = ?1",
    )?;
    let found = find
        .query_row([Blob(id.0)], |row| {
            let state: String = row.get(4)?;
            if state == "PRUNED" {
                return Ok(Err(StoreError::TaskPruned {
                    task: id,
                    at: Timestamp { unix_ms: row.get(5)? },
                }));
            }
            Ok(Ok(TaskRow {
                id: row.get(0)?,
                info: TaskInfo {
                    id,
                    goal: row.get(1)?,
                    context: row.get::<_, super::rows::Text>(2)?.0,
                    created_at: Timestamp { unix_ms: row.get(3)? },
                },
                state: match state.as_str() {
                    "PAUSED" => TaskRowState::Paused,
                    "CANCELLED" => TaskRowState::Cancelled,
                    _ => TaskRowState::Open,
                },
            }))
        })
        .optional()?;
    match found {
        Some(found) => Ok(found?),
        None => Err(StoreError::TaskNotFound(id).into()),
    }
}

/// A string as JSON.
pub(super) fn quoted(text: &str) -> String {
    Json::of(text).text().to_owned()
}
