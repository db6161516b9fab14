//! Read-only connections for queries.

use super::tx::OpError;
use crate::{Reply, StoreError, StoreResult};
use rusqlite::{Connection, OpenFlags};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Queries that run at once. Each keeps a thread and a page cache busy; more would only take turns on the
/// processors.
pub(super) const READERS_MAX: u32 = 4;

#[derive(Debug)]
pub(super) struct Pool {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    readers_max: u32,
}

impl Pool {
    pub(super) fn new(path: PathBuf, readers_max: u32) -> Self {
        Self {
            path,
            idle: Arc::default(),
            permits: Arc::new(Semaphore::new(readers_max as usize)),
            readers_max,
        }
    }

    /// Runs `query` in one read transaction, so that all that it reads belongs to one moment.
    pub(super) async fn run<F>(&self, doing: &'static str, query: F) -> StoreResult
    where
        F: FnOnce(&Connection) -> Result<Reply, OpError> + Send + 'static,
    {
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
            return Err(StoreError::ShuttingDown);
        };
        let (idle, path) = (Arc::clone(&self.idle), self.path.clone());
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let conn = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let read = || {
                let conn = conn.map_or_else(|| connect(&path), Ok)?;
                conn.execute_batch("BEGIN")?;
                let reply = query(&conn);
                conn.execute_batch("COMMIT")?;
                // A connection that failed is not used again.
                idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
                reply
            };
            read().map_err(|error| error.into_store_error(doing))
        });
        task.await.unwrap_or_else(|error| {
            Err(StoreError::Storage {
                doing,
                source: Box::new(error),
            })
        })
    }

    /// Waits for the queries under way, refuses others, closes the connections.
    pub(super) async fn close(&self) {
        let all = self.permits.acquire_many(self.readers_max).await;
        self.permits.close();
        drop(all);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn connect(path: &std::path::Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    // Only a checkpoint that resets the log, or a restore, makes a reader wait, and not for long.
    conn.busy_timeout(std::time::Duration::from_secs(10))?;
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.pragma_update(None, "cache_size", -4096)?;
    conn.pragma_update(None, "query_only", true)?;
    conn.set_prepared_statement_cache_capacity(32);
    Ok(conn)
}
