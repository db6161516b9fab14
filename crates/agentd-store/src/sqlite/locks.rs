//! Resource locks.

use super::rows::{Blob, Text};
use super::tx::{OpResult, Tx, quoted};
use super::{DONE, status};
use crate::machine::{Lease, LockDenied, LockEvent, decide_lock};
use crate::{Reply, StoreError, StoreOptions};
use agentd_protocol::journal::action;
use agentd_protocol::requests::{
    AcquireResourceLock, HeartbeatResourceLock, ListResourceLocks, ReleaseResourceLock,
};
use agentd_protocol::results::{Extended, LockList, ResourceLock};
use agentd_protocol::{LeaseId, NodeId, TaskId, limits, secs_rounded_up};
use rusqlite::{Connection, OptionalExtension, params};

/// Locks that are ended in one transaction; see leases.
const EXPIRED_PER_TX_MAX: i64 = 1000;

impl Tx<'_> {
    fn held(&self, key: &str) -> OpResult<Option<Lease>> {
        let mut find = self
            .conn
            .prepare_cached("SELECT lease_id, length_ms, expires_ms FROM locks WHERE key = ?1")?;
        let lease = find.query_row([key], |row| {
            let id = LeaseId::from(row.get::<_, Blob>(0)?);
            Ok(Lease {
                id,
                length_ms: row.get(1)?,
                expires_ms: row.get(2)?,
            })
        });
        Ok(lease.optional()?)
    }

    /// Grants the lock, if it is free.
    pub(super) fn acquire_lock(&mut self, params: &AcquireResourceLock) -> OpResult<Reply> {
        let held = self.held(&params.resource_key)?;
        let length_ms = self.lease_length(params.ttl_secs);
        let lease = Lease::new(self.live.options.ids.lease(), self.now_ms, length_ms);
        if decide_lock(held, LockEvent::Acquire(lease), self.now_ms).is_err() {
            return Ok(Reply::Lock(None));
        }
        if held.is_none() {
            let mut count = self.conn.prepare_cached("SELECT count(*) FROM locks")?;
            if count.query_row([], |row| row.get::<_, u64>(0))? >= limits::LOCKS_MAX {
                let why = format!("{} locks are held already; release some", limits::LOCKS_MAX);
                return Err(StoreError::LimitExceeded(why).into());
            }
        } else {
            self.journal_lock(action::LOCK_EXPIRED, &params.resource_key)?;
        }
        let owner = params.owner.as_deref().unwrap_or("anonymous");
        let payload = serde_json::json!({
            "resource_key": params.resource_key,
            "owner": owner,
            "provider": params.provider,
            "task_id": params.task_id,
            "node_id": params.node_id,
            "ttl_ms": length_ms,
        });
        // The entry names the task in its payload and not as its own: it is the lock's, and stays when the task
        // is pruned.
        let (fence, _) = self.journal(action::LOCK_GRANTED, None, None, false, &payload.to_string())?;
        self.conn
            .prepare_cached(
                "INSERT OR REPLACE INTO locks (key, lease_id, owner, provider, task, node, metadata,
                     acquired_wall_ms, length_ms, expires_ms, fence, updated_wall_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?8)",
            )?
            .execute(params![
                params.resource_key,
                Blob(lease.id.0),
                owner,
                params.provider,
                params.task_id.map(|id| Blob(id.0)),
                params.node_id.map(|id| Blob(id.0)),
                params.metadata.text(),
                self.wall_ms,
                length_ms,
                lease.expires_ms,
                fence
            ])?;
        self.runs_out_at(lease.expires_ms);
        Ok(Reply::Lock(Some(Box::new(ResourceLock {
            resource_key: params.resource_key.clone(),
            lease_id: lease.id,
            owner: owner.to_owned(),
            provider: params.provider.clone(),
            task_id: params.task_id,
            node_id: params.node_id,
            metadata: params.metadata.clone(),
            acquired_at: self.wall_ms.div_euclid(1000),
            lease_expires_at: secs_rounded_up(self.wall(lease.expires_ms)),
            fence,
            updated_at: None,
        }))))
    }

    fn journal_lock(&mut self, kind: &str, key: &str) -> OpResult<()> {
        let payload = format!(r#"{{"resource_key":{}}}"#, quoted(key));
        self.journal(kind, None, None, false, &payload)?;
        Ok(())
    }

    fn decide_lock(&self, key: &str, event: LockEvent) -> OpResult<Option<Lease>> {
        let stale = |why| StoreError::StaleLock {
            key: key.to_owned(),
            why,
        };
        decide_lock(self.held(key)?, event, self.now_ms).map_err(|denied| {
            match denied {
                LockDenied::Stale(why) => stale(why),
                LockDenied::Held => stale("another lease holds it now"),
            }
            .into()
        })
    }

    pub(super) fn heartbeat_lock(&mut self, params: &HeartbeatResourceLock) -> OpResult<Reply> {
        let length_ms = params.ttl_secs.map(|secs| self.lease_length(Some(secs)));
        let event = LockEvent::Heartbeat(params.lease_id, length_ms);
        let Some(lease) = self.decide_lock(&params.resource_key, event)? else {
            return Ok(DONE);
        };
        self.conn
            .prepare_cached(
                "UPDATE locks SET length_ms = ?2, expires_ms = ?3, updated_wall_ms = ?4 WHERE key = ?1",
            )?
            .execute(params![
                params.resource_key,
                lease.length_ms,
                lease.expires_ms,
                self.wall_ms
            ])?;
        self.runs_out_at(lease.expires_ms);
        let lease_expires_at = secs_rounded_up(self.wall(lease.expires_ms));
        Ok(Reply::Extended(Extended {
            ok: true,
            lease_expires_at,
        }))
    }

    pub(super) fn release_lock(&mut self, params: &ReleaseResourceLock) -> OpResult<Reply> {
        self.decide_lock(&params.resource_key, LockEvent::Release(params.lease_id))?;
        self.end_lock(action::LOCK_RELEASED, &params.resource_key)?;
        Ok(DONE)
    }

    pub(super) fn end_lock(&mut self, kind: &str, key: &str) -> OpResult<()> {
        self.journal_lock(kind, key)?;
        self.conn
            .prepare_cached("DELETE FROM locks WHERE key = ?1")?
            .execute([key])?;
        self.freed.push(key.to_owned());
        Ok(())
    }

    /// Ends locks that are over by now. Says when the next one is.
    pub(super) fn end_locks_that_are_over(&mut self) -> OpResult<i64> {
        let mut due = self.conn.prepare_cached(
            "SELECT key FROM locks INDEXED BY locks_by_expiry WHERE expires_ms <= ?1 ORDER BY expires_ms LIMIT ?2",
        )?;
        let keys: Vec<String> = due
            .query_map([self.now_ms, EXPIRED_PER_TX_MAX], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for key in &keys {
            self.end_lock(action::LOCK_EXPIRED, key)?;
        }
        let mut next = self
            .conn
            .prepare_cached("SELECT coalesce(min(expires_ms), ?1) FROM locks INDEXED BY locks_by_expiry")?;
        Ok(next.query_row([i64::MAX], |row| row.get(0))?)
    }
}

/// The locks that are held, by key.
pub(super) fn list(conn: &Connection, params: &ListResourceLocks, options: &StoreOptions) -> OpResult<Reply> {
    let (now_ms, wall_ms) = (options.clock.lease_ms(), options.clock.wall_ms());
    let after = params.cursor.clone().unwrap_or_default();
    let prefix = params.prefix.clone().unwrap_or_default();
    let limit = params.limit.map_or(limits::LOCKS_MAX, u64::from);
    let mut all = conn.prepare_cached(
        "SELECT key, lease_id, owner, provider, task, node, metadata, acquired_wall_ms, expires_ms, fence,
             updated_wall_ms
         FROM locks WHERE key > ?1 AND key >= ?2 AND expires_ms > ?3 ORDER BY key",
    )?;
    let mut rows = all.query(params![after, prefix, now_ms])?;
    let mut locks: Vec<ResourceLock> = Vec::new();
    let mut next_cursor = None;
    let mut size = status::Size::default();
    while let Some(row) = rows.next()? {
        let resource_key: String = row.get(0)?;
        if !resource_key.starts_with(&prefix) {
            break;
        }
        if locks.len() as u64 == limit {
            next_cursor = locks.last().map(|lock| lock.resource_key.clone());
            break;
        }
        let lock = ResourceLock {
            resource_key,
            lease_id: row.get::<_, Blob>(1)?.into(),
            owner: row.get(2)?,
            provider: row.get(3)?,
            task_id: row.get::<_, Option<Blob>>(4)?.map(TaskId::from),
            node_id: row.get::<_, Option<Blob>>(5)?.map(NodeId::from),
            metadata: row.get::<_, Text>(6)?.0,
            acquired_at: row.get::<_, i64>(7)?.div_euclid(1000),
            lease_expires_at: secs_rounded_up(row.get::<_, i64>(8)? + wall_ms - now_ms),
            fence: row.get(9)?,
            updated_at: Some(row.get::<_, i64>(10)?.div_euclid(1000)),
        };
        size.add(400 + lock.resource_key.len() + lock.metadata.text().len())?;
        locks.push(lock);
    }
    Ok(Reply::Locks(LockList { locks, next_cursor }))
}
