//! What belongs to this machine rather than to its work: the numbers of agents' homes, and the database's own name.

use super::open::{OpenError, classify, suffixed, uri_of};
use super::tx::{OpResult, Tx};
use crate::session::{HomeNumber, InstanceId};
use crate::{Reply, StoreError};
use agentd_protocol::limits;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

/// How long a checkpoint, or a restore, of the daemon's may make the reader of the numbers wait.
const BUSY_MAX: Duration = Duration::from_secs(5);

/// The numbers of agents' homes as a database has them, and as it will give them: see [`HomeNumbers::read`].
#[derive(Clone, Debug, Default)]
pub struct HomeNumbers {
    known: HashMap<String, u32>,
    next: u32,
}

impl HomeNumbers {
    /// Reads them from a database that a daemon may have open. Writes nothing; one that is not there has no numbers.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(database: &Path) -> Result<Self, OpenError> {
        if !database.exists() {
            return Ok(Self::default());
        }
        Self::read_from(database).map_err(|source| classify(database, "read", source))
    }

    fn read_from(database: &Path) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        // Without a log nothing is missing in the file, and SQLite would make files beside it that it does not need.
        let conn = match suffixed(database, "-wal").metadata() {
            Ok(log) if log.len() > 0 => Connection::open_with_flags(database, flags)?,
            _ => {
                let uri = uri_of(database, "immutable=1");
                Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)?
            }
        };
        conn.busy_timeout(BUSY_MAX)?;
        if !conn.table_exists(None, "homes")? {
            return Ok(Self::default());
        }
        let mut numbers = Self::default();
        let mut rows = conn.prepare("SELECT name, number FROM homes")?;
        for row in rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))? {
            let (name, number): (String, u32) = row?;
            numbers.next = numbers.next.max(number.saturating_add(1));
            numbers.known.insert(name, number);
        }
        Ok(numbers)
    }

    /// The number of the home of this name: the one that it has, or else the next one, which it then has here.
    pub fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.known.get(name) {
            return *number;
        }
        let number = self.next;
        self.next = number.saturating_add(1);
        self.known.insert(name.to_owned(), number);
        number
    }
}

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
