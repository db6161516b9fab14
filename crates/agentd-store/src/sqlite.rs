//! The embedded store: one SQLite file, one writer, as many readers as needed.
//!
//! The writer (`sqlite/writer.rs`) is a thread that owns the only connection which writes. It takes whatever commands are
//! waiting, runs them in one transaction, commits (`synchronous = FULL`: the write-ahead log is on disk), and
//! only then answers each of them. Sixty-four callers share one `fsync` where they would have paid for
//! sixty-four. Queries run on read-only connections of their own, on other threads, against the newest
//! committed state.
//!
//! *Architecture Invariant:* what the writer keeps in memory beside the database (numbers last given, waiting
//! acquires, tasks recently used) can be rebuilt from it. When a transaction fails, it is.

mod acquire;
mod capabilities;
mod context;
mod finish;
mod homes;
mod locks;
mod maintenance;
mod open;
mod pool;
mod prune;
mod register;
mod rows;
mod session_rows;
mod sessions;
mod status;
mod tasks;
mod tx;
mod waiters;
mod writer;

pub use homes::HomeNumbers;
pub use open::{OpenError, Opened};

use crate::{
    BoxFuture, Command, Counters, Query, Reply, Store, StoreError, StoreOptions, StoreResult, Ticket,
};
use agentd_protocol::results::Ok as Done;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot, watch};

/// Commands that may wait for the writer. While the disk takes a millisecond to commit, some tens arrive; a
/// thousand waiting means that callers come faster than the disk can ever follow, and it is better that they
/// wait at their own end, where it shows, than in memory here.
const QUEUE_MAX: usize = 1024;

/// The embedded store. Dropping it without [`Store::close`] stops the writer after what it has taken.
#[derive(Debug)]
pub struct SqliteStore {
    queue: mpsc::Sender<writer::Message>,
    undelivered: crate::UndeliveredSender,
    head: watch::Receiver<i64>,
    counters: Arc<Mutex<Counters>>,
    readers: pool::Pool,
    // Of its own, so that whether the database can be read at all is not a matter of who else is reading.
    pinger: pool::Pool,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
    options: StoreOptions,
    path: PathBuf,
}

impl SqliteStore {
    /// Opens the database at `path`, and makes it if there is none. Takes a lock on it that lasts until the
    /// store is closed or the process ends, however it ends.
    ///
    /// # Errors
    /// [`OpenError`] says what is the matter and what to do. Nothing was changed then.
    pub fn open(path: &Path, options: StoreOptions) -> Result<(Self, Opened), OpenError> {
        let (database, opened) = open::open(path, &options)?;
        let (queue, commands) = mpsc::channel(QUEUE_MAX);
        // Needs no bound of its own: it holds at most one entry for each request that was taken from the queue.
        let (taken_back, undelivered) = mpsc::unbounded_channel();
        let (head_sender, head) = watch::channel(opened.last_seq);
        let counters = Arc::new(Mutex::new(Counters::default()));
        let weak = taken_back.downgrade();
        let parts = writer::Parts {
            database,
            options: options.clone(),
            commands,
            undelivered,
            taken_back,
            head: head_sender,
            counters: Arc::clone(&counters),
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer::run(parts))
            .map_err(|source| OpenError::Io {
                path: path.into(),
                doing: "start the writer for",
                source,
            })?;
        let store = Self {
            queue,
            undelivered: weak,
            head,
            counters,
            readers: pool::Pool::new(path.into(), pool::READERS_MAX),
            pinger: pool::Pool::new(path.into(), 1),
            writer: Mutex::new(Some(thread)),
            options,
            path: path.into(),
        };
        Ok((store, opened))
    }

    /// How the store was opened.
    #[must_use]
    pub fn options(&self) -> &StoreOptions {
        &self.options
    }
}

impl Store for SqliteStore {
    fn submit(&self, command: Command) -> BoxFuture<'_, Result<Ticket, StoreError>> {
        let (sender, receiver) = oneshot::channel();
        let message = writer::Message::Command(command, sender);
        // The usual case needs no waiting.
        let pending = match self.queue.try_send(message) {
            Ok(()) => None,
            Err(mpsc::error::TrySendError::Full(message) | mpsc::error::TrySendError::Closed(message)) => {
                Some(message)
            }
        };
        Box::pin(async move {
            if let Some(message) = pending {
                self.queue
                    .send(message)
                    .await
                    .map_err(|_| StoreError::ShuttingDown)?;
            }
            Ok(Ticket::new(receiver, Some(self.undelivered.clone())))
        })
    }

    fn query(&self, query: Query) -> BoxFuture<'_, StoreResult> {
        Box::pin(async move {
            let options = self.options.clone();
            match query {
                Query::Ping(_) => self.pinger.run("read", status::ping).await,
                Query::TaskStatus(params) => {
                    self.readers
                        .run("read a task", move |conn| status::task(conn, &params, &options))
                        .await
                }
                Query::GetNode(params) => {
                    self.readers
                        .run("read a node", move |conn| status::node(conn, &params, &options))
                        .await
                }
                Query::ListTasks(params) => {
                    self.readers
                        .run("list tasks", move |conn| status::list(conn, &params))
                        .await
                }
                Query::ListResourceLocks(params) => {
                    self.readers
                        .run("list locks", move |conn| locks::list(conn, &params, &options))
                        .await
                }
                Query::ReadJournal(params) => {
                    self.readers
                        .run("read the journal", move |conn| status::journal(conn, &params))
                        .await
                }
                Query::GetSession(params) => {
                    self.readers
                        .run("read a session", move |conn| session_rows::get(conn, &params))
                        .await
                }
                Query::ListSessions(params) => {
                    self.readers
                        .run("list sessions", move |conn| session_rows::list(conn, &params))
                        .await
                }
                Query::OpenSessions(_) => self.readers.run("list sessions", session_rows::open).await,
                Query::EndedSessions(params) => {
                    self.readers
                        .run("list sessions", move |conn| session_rows::ended(conn, &params))
                        .await
                }
                Query::InstanceId(_) => self.readers.run("read its name", homes::instance).await,
                Query::Metrics(_) => {
                    self.readers
                        .run("count", move |conn| status::metrics(conn, &options))
                        .await
                }
                Query::BackupDatabase(params) => {
                    let path = self.path.clone();
                    self.readers
                        .run("back up", move |_| maintenance::backup(&path, &params))
                        .await
                }
                Query::CheckDatabase(_) => self.readers.run("check", maintenance::check).await,
            }
        })
    }

    fn journal_head(&self) -> watch::Receiver<i64> {
        self.head.clone()
    }

    fn counters(&self) -> Counters {
        *self
            .counters
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // Readers first: the last connection to close is then the writer's, which empties the log.
            self.pinger.close().await;
            self.readers.close().await;
            let (sender, closed) = oneshot::channel();
            if self.queue.send(writer::Message::Close(sender)).await.is_ok() {
                let _ = closed.await;
            }
            let thread = self
                .writer
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .take();
            if let Some(thread) = thread {
                let _ = tokio::task::spawn_blocking(move || thread.join()).await;
            }
        })
    }
}

const DONE: Reply = Reply::Done(Done { ok: true });
