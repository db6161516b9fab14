//! Sessions as they are read.

use super::rows::{Blob, Text};
use super::sessions::Holder;
use super::status::{Size, cursor};
use super::tx::OpResult;
use crate::session::{EndedBefore, EndedSession, OpenSession, SessionLease};
use crate::{Reply, StoreError};
use agentd_protocol::requests::{ListSessions, SessionRef};
use agentd_protocol::results::SessionList;
use agentd_protocol::{
    LeaseId, NodeId, OutcomeReason, SessionId, SessionInfo, SessionOutcome, SessionPhase, TaskId, Timestamp,
    Trigger, TriggerKind, limits,
};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};

/// A page of sessions stops growing here: prompts and results can be large.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// A word of the protocol's by its name.
struct Word<T>(T);

macro_rules! word {
    ($($type:ty),+) => {
        $(impl FromSql for Word<$type> {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                <$type>::parse(value.as_str()?)
                    .map(Self)
                    .ok_or(FromSqlError::InvalidType)
            }
        })+
    };
}
word!(SessionPhase, TriggerKind, OutcomeReason);

impl From<Blob> for SessionId {
    fn from(blob: Blob) -> Self {
        Self(blob.0)
    }
}

/// A session as far as its changes depend on it.
#[derive(Debug)]
pub(super) struct SessionRow {
    pub(super) id: i64,
    pub(super) holder: Holder,
    pub(super) phase: SessionPhase,
    pub(super) lease: Option<LeaseId>,
    pub(super) stop_requested: bool,
    pub(super) spec_bytes: u64,
}

pub(super) fn load_row(conn: &Connection, session: SessionId) -> OpResult<SessionRow> {
    let mut find = conn.prepare_cached(
        "SELECT id, agent, phase, lease, stop_reason IS NOT NULL, spec_bytes FROM sessions WHERE uuid = ?1",
    )?;
    let row = find
        .query_row([Blob(session.0)], |row| {
            Ok(SessionRow {
                id: row.get(0)?,
                holder: Holder {
                    session,
                    agent: row.get::<_, String>(1)?.into(),
                },
                phase: row.get::<_, Word<SessionPhase>>(2)?.0,
                lease: row.get::<_, Option<Blob>>(3)?.map(LeaseId::from),
                stop_requested: row.get(4)?,
                spec_bytes: row.get(5)?,
            })
        })
        .optional()?;
    Ok(row.ok_or(StoreError::SessionNotFound(session))?)
}

/// The columns of [`read_info`].
const INFO: &str = "s.id, s.uuid, s.agent, s.replica, s.runtime, s.phase, s.trigger_kind, s.task, s.node, \
     s.created_wall_ms, s.setup_wall_ms, s.started_wall_ms, s.exited_wall_ms, s.ended_wall_ms, s.stop_reason, \
     s.outcome, s.exit_code, s.signal, s.message, p.trigger_context, p.prompt, r.result";
/// What stands beside a session `s`.
const BESIDE: &str =
    "LEFT JOIN session_specs p ON p.session = s.id LEFT JOIN session_results r ON r.session = s.id";

fn read_info(row: &Row<'_>) -> rusqlite::Result<SessionInfo> {
    let time = |at: usize| -> rusqlite::Result<Option<Timestamp>> {
        Ok(row
            .get::<_, Option<i64>>(at)?
            .map(|unix_ms| Timestamp { unix_ms }))
    };
    let outcome = match row.get::<_, Option<Word<OutcomeReason>>>(15)? {
        Some(reason) => Some(SessionOutcome {
            reason: reason.0,
            exit_code: row.get(16)?,
            signal: row.get(17)?,
            message: row.get(18)?,
            result: row.get::<_, Option<Text>>(21)?.map(|text| text.0),
        }),
        None => None,
    };
    Ok(SessionInfo {
        id: row.get::<_, Blob>(1)?.into(),
        agent: row.get(2)?,
        replica: row.get(3)?,
        runtime: row.get(4)?,
        phase: row.get::<_, Word<SessionPhase>>(5)?.0,
        trigger: Trigger {
            kind: row.get::<_, Word<TriggerKind>>(6)?.0,
            context: row
                .get::<_, Option<Text>>(19)?
                .map(|text| text.0)
                .unwrap_or_default(),
        },
        prompt: row.get(20)?,
        task_id: row.get::<_, Option<Blob>>(7)?.map(TaskId::from),
        node_id: row.get::<_, Option<Blob>>(8)?.map(NodeId::from),
        created_at: Timestamp { unix_ms: row.get(9)? },
        setup_at: time(10)?,
        started_at: time(11)?,
        exited_at: time(12)?,
        ended_at: time(13)?,
        stop_requested: row.get(14)?,
        outcome,
    })
}

// What a session takes in an answer, roughly and rather too much than too little.
fn size(info: &SessionInfo) -> usize {
    let text = |text: Option<&String>| text.map_or(0, String::len);
    let outcome = info.outcome.as_ref().map_or(0, |outcome| {
        text(outcome.message.as_ref()) + outcome.result.as_ref().map_or(0, |result| result.text().len())
    });
    1000 + info.agent.len()
        + info.trigger.context.text().len()
        + text(info.prompt.as_ref())
        + text(info.stop_requested.as_ref())
        + outcome
}

pub(super) fn load_info(conn: &Connection, session: SessionId) -> OpResult<SessionInfo> {
    let mut find = conn.prepare_cached(&format!(
        "SELECT {INFO} FROM sessions s {BESIDE} WHERE s.uuid = ?1"
    ))?;
    let info = find.query_row([Blob(session.0)], read_info).optional()?;
    Ok(info.ok_or(StoreError::SessionNotFound(session))?)
}

/// One session.
pub(super) fn get(conn: &Connection, params: &SessionRef) -> OpResult<Reply> {
    load_info(conn, params.session_id).map(|info| Reply::Session(Box::new(info)))
}

/// Sessions, newest first.
pub(super) fn list(conn: &Connection, params: &ListSessions) -> OpResult<Reply> {
    let limit = params.limit.unwrap_or(limits::PAGE_DEFAULT) as usize;
    let before = cursor(params.cursor.as_ref())?.unwrap_or(i64::MAX);
    let mut conditions = String::from("s.id < ?");
    let mut values = vec![Value::from(before)];
    if let Some(task) = params.task_id {
        conditions.push_str(" AND s.task = ?");
        values.push(Value::from(task.0.as_bytes().to_vec()));
    }
    if let Some(agent) = &params.agent {
        conditions.push_str(" AND s.agent = ?");
        values.push(Value::from(agent.clone()));
    }
    match params.ended {
        Some(true) => conditions.push_str(" AND s.phase = 'ENDED'"),
        Some(false) => conditions.push_str(" AND s.phase <> 'ENDED'"),
        None => {}
    }
    // Open ones are few, whatever else is asked; a task has fewer sessions than an agent. Every one of these is in
    // the order of the list.
    let by = match params {
        ListSessions {
            ended: Some(false), ..
        } => "INDEXED BY sessions_open",
        ListSessions { task_id: Some(_), .. } => "INDEXED BY sessions_by_task",
        ListSessions { agent: Some(_), .. } => "INDEXED BY sessions_by_agent",
        _ => "NOT INDEXED",
    };
    let mut page = conn.prepare_cached(&format!(
        "SELECT {INFO} FROM sessions s {by} {BESIDE} WHERE {conditions} ORDER BY s.id DESC"
    ))?;
    let mut rows = page.query(params_from_iter(values))?;
    let mut sessions = Vec::new();
    let mut bytes = Size::default();
    let mut next_cursor = None;
    let mut last = before;
    while let Some(row) = rows.next()? {
        if sessions.len() == limit || bytes.is_over(PAGE_BYTES) {
            next_cursor = Some(last.to_string());
            break;
        }
        let info = read_info(row)?;
        bytes.add(size(&info))?;
        last = row.get(0)?;
        sessions.push(info);
    }
    Ok(Reply::Sessions(SessionList {
        sessions,
        next_cursor,
    }))
}

/// All sessions that are not over, oldest first. Their number and what they take are bounded where they are made.
pub(super) fn open(conn: &Connection) -> OpResult<Reply> {
    let mut all = conn.prepare_cached(&format!(
        "SELECT {INFO}, n.lease_id FROM sessions s INDEXED BY sessions_open {BESIDE}
         LEFT JOIN nodes n ON n.uuid = s.node AND n.lease_id = s.lease
         WHERE s.phase <> 'ENDED' ORDER BY s.id"
    ))?;
    let mut rows = all.query([])?;
    let mut sessions = Vec::new();
    while let Some(row) = rows.next()? {
        let info = read_info(row)?;
        let lease_id = row.get::<_, Option<Blob>>(22)?.map(LeaseId::from);
        let lease = match (info.task_id, info.node_id, lease_id) {
            (Some(task_id), Some(node_id), Some(lease_id)) => Some(SessionLease {
                task_id,
                node_id,
                lease_id,
            }),
            _ => None,
        };
        sessions.push(OpenSession { info, lease });
    }
    Ok(Reply::OpenSessions(sessions))
}

/// Sessions that have been over for a while, oldest end first.
pub(super) fn ended(conn: &Connection, params: &EndedBefore) -> OpResult<Reply> {
    let mut all = conn.prepare_cached(
        "SELECT uuid, agent, ended_wall_ms FROM sessions INDEXED BY sessions_by_end
         WHERE phase = 'ENDED' AND ended_wall_ms < ?1 ORDER BY ended_wall_ms, id LIMIT ?2",
    )?;
    let limit = i64::from(params.limit.min(limits::PAGE_MAX));
    let sessions = all
        .query_map([params.before_wall_ms, limit], |row| {
            Ok(EndedSession {
                session_id: row.get::<_, Blob>(0)?.into(),
                agent: row.get(1)?,
                ended_at: Timestamp { unix_ms: row.get(2)? },
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Reply::EndedSessions(sessions))
}
