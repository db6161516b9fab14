//! Sessions: making them, what happens to them, removing them.

use super::DONE;
use super::register::digest;
use super::rows::{Blob, NodeRow};
use super::session_rows::{SessionRow, load_info, load_row};
use super::tx::{OpResult, Tx};
use crate::machine::decide_session;
use crate::session::{AcquireSession, AcquiredSession, ChangeSession, NewSession, SessionEvent, SessionNote};
use crate::{Reply, StoreError};
use agentd_protocol::journal::action;
use agentd_protocol::requests::{AcquireNextNode, SessionRef};
use agentd_protocol::results::{AcquiredNode, QueuedSession};
use agentd_protocol::{
    AgentWork, Json, LeaseId, OutcomeReason, SessionId, SessionOutcome, SessionPhase, Timestamp, Trigger,
    TriggerKind, Work, limits,
};
use rusqlite::{Connection, OptionalExtension, ToSql, params};
use std::collections::HashMap;
use std::rc::Rc;

/// Notes that come with one change.
const NOTES_MAX: usize = 1024;

/// Who an entry of the journal is about, besides a task or a node.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) session: SessionId,
    pub(super) agent: Rc<str>,
}

/// What the writer keeps in memory of the sessions that are not over. It follows from the database.
#[derive(Debug, Default)]
pub(super) struct OpenSessions {
    count: u64,
    spec_bytes: u64,
    holders: HashMap<LeaseId, Holder>,
    /// True while entries of removed sessions may be left.
    pub(super) removing: bool,
}

impl OpenSessions {
    pub(super) fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let mut all = Self {
            removing: is_removing(conn)?,
            ..Self::default()
        };
        let mut open = conn.prepare(
            "SELECT lease, uuid, agent, spec_bytes FROM sessions INDEXED BY sessions_open WHERE phase <> 'ENDED'",
        )?;
        let mut rows = open.query([])?;
        while let Some(row) = rows.next()? {
            let lease = row.get::<_, Option<Blob>>(0)?.map(LeaseId::from);
            let holder = Holder {
                session: row.get::<_, Blob>(1)?.into(),
                agent: row.get::<_, String>(2)?.into(),
            };
            all.opened(lease, row.get(3)?, holder);
        }
        Ok(all)
    }

    fn opened(&mut self, lease: Option<LeaseId>, spec_bytes: u64, holder: Holder) {
        self.count += 1;
        self.spec_bytes += spec_bytes;
        if let Some(lease) = lease {
            self.holders.insert(lease, holder);
        }
    }

    fn ended(&mut self, row: &SessionRow) {
        self.count -= 1;
        self.spec_bytes -= row.spec_bytes;
        if let Some(lease) = row.lease {
            self.holders.remove(&lease);
        }
    }

    /// The session that works on this node.
    pub(super) fn holder(&self, node: &NodeRow) -> Option<Holder> {
        self.holders.get(&node.state.lease?.id).cloned()
    }

    // `bytes`: what one more is going to take.
    fn check_room(&self, bytes: usize) -> Result<(), StoreError> {
        if self.count >= limits::OPEN_SESSIONS_MAX {
            return Err(StoreError::LimitExceeded(format!(
                "{} sessions wait or run already; ask again when some are over",
                self.count
            )));
        }
        if self.spec_bytes + bytes as u64 > limits::OPEN_SESSIONS_BYTES_MAX {
            return Err(StoreError::LimitExceeded(format!(
                "the prompts and triggers of the sessions that wait or run take {} bytes already; ask again when \
                 some are over",
                self.spec_bytes
            )));
        }
        Ok(())
    }
}

/// Whether entries of removed sessions are left.
pub(super) fn is_removing(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row("SELECT EXISTS (SELECT 1 FROM sessions_removed)", [], |row| {
        row.get(0)
    })
}

/// A session's row as it is first written.
#[derive(Debug)]
struct NewRow<'n> {
    holder: Holder,
    trigger: &'n Trigger,
    prompt: Option<&'n str>,
    key: Option<(&'n str, Vec<u8>)>,
    node: Option<&'n AcquiredNode>,
}

impl Tx<'_> {
    pub(super) fn create_session(&mut self, params: &NewSession) -> OpResult<Reply> {
        let key = params
            .idempotency_key
            .as_deref()
            .map(|key| (key, digest(&(&params.agent, &params.trigger, &params.prompt))));
        if let Some((key, digest)) = &key
            && let Some(session_id) = self.created_before(key, digest)?
        {
            return Ok(Reply::SessionQueued(QueuedSession { session_id }));
        }
        let prompt = params.prompt.as_deref();
        let bytes = params.trigger.context.text().len() + prompt.map_or(0, str::len);
        self.live.sessions.check_room(bytes)?;
        let holder = Holder {
            session: self.live.options.ids.session(),
            agent: params.agent.as_str().into(),
        };
        let session_id = holder.session;
        self.insert_session(NewRow {
            holder,
            trigger: &params.trigger,
            prompt,
            key,
            node: None,
        })?;
        Ok(Reply::SessionQueued(QueuedSession { session_id }))
    }

    fn created_before(&self, key: &str, digest: &[u8]) -> OpResult<Option<SessionId>> {
        let mut find = self
            .conn
            .prepare_cached("SELECT uuid, request_digest FROM sessions WHERE idempotency_key = ?1")?;
        let found: Option<(Blob, Vec<u8>)> = find
            .query_row([key], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match found {
            None => Ok(None),
            Some((uuid, known)) if known == digest => Ok(Some(uuid.into())),
            Some(_) => Err(StoreError::IdempotencyConflict { key: key.into() }.into()),
        }
    }

    /// Leases the next node for a session of this agent, and makes the session. `has_waited`: whether there is
    /// room was asked when the wait began.
    pub(super) fn acquire_session(&mut self, params: &AcquireSession, has_waited: bool) -> OpResult<Reply> {
        if !has_waited {
            self.live.sessions.check_room(0)?;
        }
        let acquire = AcquireNextNode {
            work_only: true,
            ..params.acquire.clone()
        };
        let Some((task, node)) = self.next_node(&acquire)? else {
            return Ok(Reply::AcquiredSession(None));
        };
        let holder = Holder {
            session: self.live.options.ids.session(),
            agent: params.agent.as_str().into(),
        };
        let session_id = holder.session;
        let acquired = self.lease(&task, &node, &acquire, Some(&holder))?;
        let trigger = Trigger {
            kind: TriggerKind::Node,
            context: Json::of(&serde_json::json!({
                "task_id": acquired.task_id,
                "node_id": acquired.node_id,
                "node": acquired.context.node.name,
                "attempt": acquired.attempt,
            })),
        };
        let prompt = match &acquired.context.node.work {
            Some(Work::Agent(AgentWork { prompt, .. })) => prompt.as_deref(),
            _ => None,
        };
        self.insert_session(NewRow {
            holder,
            trigger: &trigger,
            prompt,
            key: None,
            node: Some(&acquired),
        })?;
        let session = load_info(self.conn, session_id)?;
        Ok(Reply::AcquiredSession(Some(Box::new(AcquiredSession {
            session,
            node: *acquired,
        }))))
    }

    fn insert_session(&mut self, new: NewRow<'_>) -> OpResult<()> {
        let context = new.trigger.context.text();
        let spec_bytes = context.len() + new.prompt.map_or(0, str::len);
        let (key, digest) = new.key.unzip();
        // As a lock's: the entry names the task in its payload and not as its own. It is the session's, and stays
        // when the task is pruned.
        let payload = match new.node {
            Some(node) => serde_json::json!({
                "trigger": new.trigger.kind, "task_id": node.task_id, "node_id": node.node_id
            }),
            None => serde_json::json!({ "trigger": new.trigger.kind }),
        };
        self.journal_session(&new.holder, action::SESSION_QUEUED, &payload.to_string())?;
        self.conn
            .prepare_cached(
                "INSERT INTO sessions (uuid, agent, phase, trigger_kind, task, node, lease, created_wall_ms,
                     idempotency_key, request_digest, spec_bytes)
                 VALUES (?1, ?2, 'QUEUED', ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                Blob(new.holder.session.0),
                &*new.holder.agent,
                new.trigger.kind.as_str(),
                new.node.map(|node| Blob(node.task_id.0)),
                new.node.map(|node| Blob(node.node_id.0)),
                new.node.map(|node| Blob(node.lease_id.0)),
                self.wall_ms,
                key,
                digest,
                spec_bytes
            ])?;
        let session = self.conn.last_insert_rowid();
        self.conn
            .prepare_cached(
                "INSERT INTO session_specs (session, trigger_context, prompt) VALUES (?1, ?2, ?3)",
            )?
            .execute(params![session, context, new.prompt])?;
        let lease = new.node.map(|node| node.lease_id);
        self.live.sessions.opened(lease, spec_bytes as u64, new.holder);
        Ok(())
    }

    fn journal_session(&mut self, holder: &Holder, kind: &str, payload: &str) -> OpResult<()> {
        self.journal_of(Some(holder), kind, None, None, false, payload)?;
        Ok(())
    }

    pub(super) fn change_session(&mut self, params: &ChangeSession) -> OpResult<Reply> {
        check_notes(&params.notes)?;
        let row = load_row(self.conn, params.session_id)?;
        self.apply(&row, params.event.as_ref(), &params.notes)?;
        load_info(self.conn, params.session_id).map(|info| Reply::Session(Box::new(info)))
    }

    // Refuses, or writes.
    fn apply(
        &mut self,
        row: &SessionRow,
        event: Option<&SessionEvent>,
        notes: &[SessionNote],
    ) -> OpResult<()> {
        let next = match event {
            Some(event) => decide_session(row.phase, event).map_err(|denied| StoreError::WrongPhase {
                session: row.holder.session,
                phase: row.phase,
                what: denied.0,
            })?,
            None => row.phase,
        };
        let repeated =
            next == row.phase && matches!(event, Some(SessionEvent::End(_) | SessionEvent::TearDown { .. }));
        if repeated {
            // Its notes were written the first time, too.
            return Ok(());
        }
        for note in notes {
            self.journal_session(&row.holder, note.action, note.payload.text())?;
        }
        match event {
            Some(event) => self.write_event(row, next, event),
            None => Ok(()),
        }
    }

    fn write_event(&mut self, row: &SessionRow, next: SessionPhase, event: &SessionEvent) -> OpResult<()> {
        let wall_ms = self.wall_ms;
        let mut payload = serde_json::json!({ "from": row.phase, "to": next });
        match event {
            SessionEvent::SetUp { replica, runtime } => {
                payload["replica"] = (*replica).into();
                payload["runtime"] = runtime.as_str().into();
                self.write_session(
                    row,
                    "phase = 'SETUP', replica = ?2, runtime = ?3, setup_wall_ms = ?4",
                    &[replica, runtime, &wall_ms],
                )?;
            }
            SessionEvent::Requeue => self.write_session(
                row,
                "phase = 'QUEUED', replica = NULL, runtime = NULL, setup_wall_ms = NULL",
                &[],
            )?,
            SessionEvent::Start => self.write_session(row, "phase = 'STARTING'", &[])?,
            SessionEvent::Run { started_wall_ms } => {
                let started_wall_ms = started_wall_ms.unwrap_or(wall_ms);
                self.write_session(
                    row,
                    "phase = 'RUNNING', started_wall_ms = ?2",
                    &[&started_wall_ms],
                )?;
            }
            SessionEvent::TearDown { exited_wall_ms } => {
                let exited_wall_ms = exited_wall_ms.unwrap_or(wall_ms);
                payload["exited_at"] = Timestamp {
                    unix_ms: exited_wall_ms,
                }
                .to_string()
                .into();
                self.write_session(row, "phase = 'TEARDOWN', exited_wall_ms = ?2", &[&exited_wall_ms])?;
            }
            SessionEvent::End(outcome) => return self.end_session(row, outcome),
            SessionEvent::Stop { .. } if row.stop_requested => return Ok(()),
            SessionEvent::Stop { reason } => {
                let payload = serde_json::json!({ "reason": reason });
                self.write_session(row, "stop_reason = ?2", &[reason])?;
                return self.journal_session(&row.holder, action::SESSION_STOP, &payload.to_string());
            }
        }
        self.journal_session(&row.holder, action::SESSION_PHASE, &payload.to_string())
    }

    fn write_session(&self, row: &SessionRow, set: &str, values: &[&dyn ToSql]) -> OpResult<()> {
        let all: Vec<&dyn ToSql> = std::iter::once(&row.id as &dyn ToSql)
            .chain(values.iter().copied())
            .collect();
        self.conn
            .prepare_cached(&format!("UPDATE sessions SET {set} WHERE id = ?1"))?
            .execute(all.as_slice())?;
        Ok(())
    }

    fn end_session(&mut self, row: &SessionRow, outcome: &SessionOutcome) -> OpResult<()> {
        self.write_session(
            row,
            "phase = 'ENDED', ended_wall_ms = ?2, outcome = ?3, exit_code = ?4, signal = ?5, message = ?6",
            &[
                &self.wall_ms,
                &outcome.reason.as_str(),
                &outcome.exit_code,
                &outcome.signal,
                &outcome.message,
            ],
        )?;
        if let Some(result) = &outcome.result {
            self.conn
                .prepare_cached("INSERT INTO session_results (session, result) VALUES (?1, ?2)")?
                .execute(params![row.id, result.text()])?;
        }
        let payload = serde_json::json!({
            "from": row.phase,
            "reason": outcome.reason,
            "exit_code": outcome.exit_code,
            "signal": outcome.signal,
            "message": outcome.message,
        });
        self.journal_session(&row.holder, action::SESSION_ENDED, &payload.to_string())?;
        self.live.sessions.ended(row);
        Ok(())
    }

    pub(super) fn remove_session(&mut self, params: &SessionRef) -> OpResult<Reply> {
        let row = load_row(self.conn, params.session_id)?;
        if row.phase != SessionPhase::Ended {
            return Err(StoreError::WrongPhase {
                session: params.session_id,
                phase: row.phase,
                what: "only a session that is over can be removed; stop it first",
            }
            .into());
        }
        self.journal_session(&row.holder, action::SESSION_REMOVED, "{}")?;
        for delete in [
            "DELETE FROM session_results WHERE session = ?1",
            "DELETE FROM session_specs WHERE session = ?1",
            "DELETE FROM sessions WHERE id = ?1",
        ] {
            self.conn.prepare_cached(delete)?.execute([row.id])?;
        }
        // Its entries may be many: they go in small transactions of their own.
        self.conn
            .prepare_cached("INSERT INTO sessions_removed (uuid) VALUES (?1)")?
            .execute([Blob(params.session_id.0)])?;
        self.live.sessions.removing = true;
        Ok(DONE)
    }

    /// Ends and removes a session that nobody was told of.
    pub(super) fn forget_session(&mut self, session_id: SessionId) -> OpResult<Reply> {
        let row = load_row(self.conn, session_id)?;
        let outcome = SessionOutcome {
            reason: OutcomeReason::Cancelled,
            exit_code: None,
            signal: None,
            message: Some("nobody was left to begin it".into()),
            result: None,
        };
        self.apply(&row, Some(&SessionEvent::End(outcome)), &[])?;
        self.remove_session(&SessionRef { session_id })
    }

    /// Ends every session that is not over, because the database says what was and not what is.
    pub(super) fn lose_open_sessions(&mut self) -> OpResult<()> {
        let mut open = self.conn.prepare(
            "SELECT uuid FROM sessions INDEXED BY sessions_open WHERE phase <> 'ENDED' ORDER BY id",
        )?;
        let open: Vec<SessionId> = open
            .query_map([], |row| row.get::<_, Blob>(0).map(SessionId::from))?
            .collect::<rusqlite::Result<_>>()?;
        let lost = SessionEvent::End(SessionOutcome {
            reason: OutcomeReason::Lost,
            exit_code: None,
            signal: None,
            message: Some(
                "it was not over when the backup was made that the database was restored from".into(),
            ),
            result: None,
        });
        for id in open {
            let row = load_row(self.conn, id)?;
            let row = match row.phase {
                SessionPhase::Queued | SessionPhase::Teardown | SessionPhase::Ended => row,
                SessionPhase::Setup | SessionPhase::Starting | SessionPhase::Running => {
                    let tear_down = SessionEvent::TearDown { exited_wall_ms: None };
                    self.apply(&row, Some(&tear_down), &[])?;
                    load_row(self.conn, id)?
                }
            };
            self.apply(&row, Some(&lost), &[])?;
        }
        Ok(())
    }
}

fn check_notes(notes: &[SessionNote]) -> Result<(), StoreError> {
    if notes.len() > NOTES_MAX {
        let why = format!(
            "a change comes with at most {NOTES_MAX} notes, not {}",
            notes.len()
        );
        return Err(StoreError::LimitExceeded(why));
    }
    match notes
        .iter()
        .find(|note| note.payload.text().len() > limits::LINE_BYTES_MAX)
    {
        Some(note) => Err(StoreError::LimitExceeded(format!(
            "a note has at most {} bytes, not {}",
            limits::LINE_BYTES_MAX,
            note.payload.text().len()
        ))),
        None => Ok(()),
    }
}
