//! Rows to values and back.

use crate::machine::{Lease, NodeState};
use agentd_protocol::{Json, LeaseId, NodeId, NodeStatus, RetryPolicy, Seconds, TaskId};
use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use uuid::Uuid;

/// A UUID as a blob of 16 bytes.
#[derive(Clone, Copy)]
pub(super) struct Blob(pub(super) Uuid);

impl ToSql for Blob {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Blob(self.0.as_bytes())))
    }
}

impl FromSql for Blob {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let bytes = value.as_blob()?;
        Uuid::from_slice(bytes)
            .map(Self)
            .map_err(|error| FromSqlError::Other(Box::new(error)))
    }
}

impl From<Blob> for TaskId {
    fn from(blob: Blob) -> Self {
        Self(blob.0)
    }
}

impl From<Blob> for NodeId {
    fn from(blob: Blob) -> Self {
        Self(blob.0)
    }
}

impl From<Blob> for LeaseId {
    fn from(blob: Blob) -> Self {
        Self(blob.0)
    }
}

/// JSON as text. It was checked before it was stored; what is not JSON any more is damage.
pub(super) struct Text(pub(super) Json);

impl FromSql for Text {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let text = value.as_str()?.to_owned();
        Json::from_text(text)
            .map(Self)
            .map_err(|error| FromSqlError::Other(Box::new(error)))
    }
}

/// A status by its name.
pub(super) struct Status(pub(super) NodeStatus);

impl FromSql for Status {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        NodeStatus::parse(value.as_str()?)
            .map(Self)
            .ok_or(FromSqlError::InvalidType)
    }
}

/// A node as the writer loads it.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeRow {
    pub(super) id: i64,
    pub(super) uuid: NodeId,
    pub(super) task: i64,
    pub(super) requires: i64,
    pub(super) priority: i32,
    pub(super) state: NodeState,
}

/// The columns of [`NodeRow`].
pub(super) const NODE_ROW: &str = "id, uuid, task, requires, status, blockers, held, attempt, max_attempts, \
     backoff_ms, backoff_max_ms, not_before_ms, lease_id, lease_length_ms, lease_expires_ms, priority";

impl NodeRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let lease = match row.get::<_, Option<Blob>>(12)? {
            Some(id) => Some(Lease {
                id: id.into(),
                length_ms: row.get(13)?,
                expires_ms: row.get(14)?,
            }),
            None => None,
        };
        Ok(Self {
            id: row.get(0)?,
            uuid: row.get::<_, Blob>(1)?.into(),
            task: row.get(2)?,
            requires: row.get(3)?,
            priority: row.get(15)?,
            state: NodeState {
                status: row.get::<_, Status>(4)?.0,
                blockers: row.get(5)?,
                held: row.get(6)?,
                attempt: row.get(7)?,
                retry: retry(row, 8)?,
                not_before_ms: row.get(11)?,
                lease,
            },
        })
    }
}

/// A retry policy from three columns, beginning at `at`.
pub(super) fn retry(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<RetryPolicy>> {
    let Some(max_attempts) = row.get(at)? else {
        return Ok(None);
    };
    let ms = |column: usize| -> rusqlite::Result<Option<Seconds>> {
        let ms: Option<i64> = row.get(column)?;
        Ok(ms.map(|ms| Seconds {
            ms: u64::try_from(ms).unwrap_or(0),
        }))
    };
    Ok(Some(RetryPolicy {
        max_attempts,
        backoff_secs: ms(at + 1)?.unwrap_or_default(),
        backoff_max_secs: ms(at + 2)?,
    }))
}

/// The three columns of a retry policy.
pub(super) fn retry_columns(policy: Option<RetryPolicy>) -> (Option<u32>, Option<i64>, Option<i64>) {
    let ms = |secs: Seconds| i64::try_from(secs.ms).unwrap_or(i64::MAX);
    (
        policy.map(|policy| policy.max_attempts),
        policy.map(|policy| ms(policy.backoff_secs)),
        policy.and_then(|policy| policy.backoff_max_secs).map(ms),
    )
}
