//! What belongs to this machine rather than to its work: the numbers of agents' homes, and the database's own name.

use super::tx::{OpResult, Tx};
use crate::session::{HomeNumber, InstanceId};
use crate::{Reply, StoreError};
use agentd_protocol::limits;
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

impl Tx<'_> {
    /// The number of the home of this name. Numbers are never used again: files with such owners may be left.
    pub(super) fn number_home(&mut self, name: &str) -> OpResult<Reply> {
        let mut find = self
            .conn
            .prepare_cached("SELECT number FROM homes WHERE name = ?1")?;
        if let Some(number) = find.query_row([name], |row| row.get(0)).optional()? {
            return Ok(Reply::HomeNumber(HomeNumber { number }));
        }
        if name.is_empty() || name.len() > limits::NAME_BYTES_MAX {
            let why = format!("a home's name has 1 to {} bytes", limits::NAME_BYTES_MAX);
            return Err(StoreError::LimitExceeded(why).into());
        }
        let number: u32 =
            self.conn
                .query_row("SELECT coalesce(max(number) + 1, 0) FROM homes", [], |row| {
                    row.get(0)
                })?;
        if number >= limits::HOMES_MAX {
            let why = format!(
                "{number} homes of agents have been numbered, and more cannot be: each has a range of user ids for ever"
            );
            return Err(StoreError::LimitExceeded(why).into());
        }
        self.conn
            .prepare_cached("INSERT INTO homes (number, name) VALUES (?1, ?2)")?
            .execute(params![number, name])?;
        Ok(Reply::HomeNumber(HomeNumber { number }))
    }
}

/// Gives the database its name, if it has none yet.
pub(super) fn name_instance(conn: &Connection, name: Uuid) -> rusqlite::Result<()> {
    conn.execute(
        "INSERT OR IGNORE INTO instance (one, id) VALUES (1, ?1)",
        [name.simple().to_string()],
    )?;
    Ok(())
}

pub(super) fn instance(conn: &Connection) -> OpResult<Reply> {
    let id = conn.query_row("SELECT id FROM instance", [], |row| row.get(0))?;
    Ok(Reply::InstanceId(InstanceId { id }))
}
