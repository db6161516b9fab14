//! The thread that owns the connection which writes.
//!
//! ```text
//!   take what waits ──▶ BEGIN ──▶ end what is over ──▶ each command ──▶ serve who waits for what it freed
//!         ▲                                                                        │
//!         └───── answer each ◀── COMMIT (on disk) ◀── write the counts ◀───────────┘
//! ```
//!
//! When a command fails half-way (which only the disk can cause, since refusals come before the first write),
//! the transaction is undone and every command of it is run again in a transaction of its own, so that one
//! that cannot be done takes no other with it. When the commit itself fails, all of them are answered with the
//! error: nothing of them is on disk, and what the writer remembers is read anew from the database.

use super::maintenance;
use super::open::Database;
use super::prune::PruneJob;
use super::sessions::is_removing;
use super::tx::{Live, OpError, OpResult, Tx};
use super::waiters::{Waiters, Wanted};
use crate::{Command, Counters, Reply, StoreError, StoreOptions, StoreResult, Undelivered};
use agentd_protocol::TaskId;
use agentd_protocol::requests::FileRef;
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Commands in one transaction. It bounds how long the first of them waits for the last.
const BATCH_MAX: usize = 256;
/// How long a pruning or an expiry that the disk refused waits before it is tried again.
const RETRY_MS: i64 = 1000;

/// What is sent to the writer.
#[derive(Debug)]
pub(super) enum Message {
    Command(Command, oneshot::Sender<StoreResult>),
    Close(oneshot::Sender<()>),
}

/// What the writer is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) database: Database,
    pub(super) options: StoreOptions,
    pub(super) commands: mpsc::Receiver<Message>,
    pub(super) undelivered: mpsc::UnboundedReceiver<Undelivered>,
    pub(super) taken_back: mpsc::UnboundedSender<Undelivered>,
    pub(super) head: watch::Sender<i64>,
    pub(super) counters: Arc<Mutex<Counters>>,
}

type Answer = (oneshot::Sender<StoreResult>, StoreResult);

/// A command on its way. It has no sender any more once it waits in line.
#[derive(Debug)]
struct Job {
    command: Command,
    answer: Option<oneshot::Sender<StoreResult>>,
}

#[derive(Debug)]
struct Writer {
    database: Database,
    options: StoreOptions,
    // None after a failure: to be read anew.
    live: Option<Live>,
    waiters: Waiters,
    prunings: VecDeque<(PruneJob, Option<oneshot::Sender<StoreResult>>)>,
    // No lease, backoff or lock is over before this instant.
    nothing_over_before_ms: i64,
    // After a failure, those who wait may wait for what is already there.
    look_again: bool,
    taken_back: mpsc::UnboundedSender<Undelivered>,
    head: watch::Sender<i64>,
    counters: Arc<Mutex<Counters>>,
}

enum Failure {
    // A command failed: the others may succeed without it.
    Command(Arc<rusqlite::Error>),
    // The commit failed, or the transaction could not begin.
    Commit(Arc<rusqlite::Error>),
}

/// The life of the writer.
pub(super) fn run(parts: Parts) {
    let Parts {
        database,
        options,
        mut commands,
        mut undelivered,
        taken_back,
        head,
        counters,
    } = parts;
    // Only for its channels and its timer: everything else here blocks, which is why it has a thread.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the writer cannot start");
            return;
        }
    };
    let mut writer = Writer {
        database,
        options,
        live: None,
        waiters: Waiters::default(),
        prunings: VecDeque::new(),
        nothing_over_before_ms: i64::MIN,
        look_again: false,
        taken_back: taken_back.clone(),
        head,
        counters,
    };
    writer.resume_pruning();
    let mut inbox = Vec::with_capacity(BATCH_MAX);
    let mut returned = Vec::new();
    let closing = loop {
        let deadline_ms = writer.wake_at_ms();
        if writer.prunings.is_empty() {
            let wait = writer
                .options
                .clock
                .until(deadline_ms)
                .min(Duration::from_secs(24 * 3600));
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = commands.recv_many(&mut inbox, BATCH_MAX) => {}
                    _ = undelivered.recv_many(&mut returned, BATCH_MAX) => {}
                    // A lease clock that stands still (in tests) must not make this spin.
                    () = tokio::time::sleep(wait.max(Duration::from_millis(1))), if deadline_ms < i64::MAX => {}
                }
            });
        }
        while inbox.len() < BATCH_MAX
            && let Ok(message) = commands.try_recv()
        {
            inbox.push(message);
        }
        while let Ok(grant) = undelivered.try_recv() {
            returned.push(grant);
        }
        let closed = commands.is_closed() && inbox.is_empty() && commands.is_empty();
        let mut jobs = Vec::with_capacity(inbox.len());
        let mut closing = None;
        for message in inbox.drain(..) {
            match message {
                Message::Command(command, answer) => jobs.push(Job {
                    command,
                    answer: Some(answer),
                }),
                Message::Close(done) => closing = Some(done),
            }
        }
        writer.work(jobs, &returned);
        returned.clear();
        if closing.is_some() || closed {
            commands.close();
            let mut rest = Vec::new();
            while let Ok(message) = commands.try_recv() {
                if let Message::Command(command, answer) = message {
                    rest.push(Job {
                        command,
                        answer: Some(answer),
                    });
                }
            }
            writer.work(rest, &[]);
            break closing;
        }
    };
    writer.close();
    if let Some(done) = closing {
        let _ = done.send(());
    }
}

impl Writer {
    fn wake_at_ms(&self) -> i64 {
        self.nothing_over_before_ms.min(self.waiters.next_deadline_ms())
    }

    // Rows of tombstones, or entries of sessions, whose removal was interrupted.
    fn resume_pruning(&mut self) {
        let conn = &self.database.conn;
        let begun = conn.query_row(
            "SELECT EXISTS (SELECT 1 FROM tasks WHERE pruning = 1)",
            [],
            |row| row.get(0),
        );
        if begun.unwrap_or(false) || is_removing(conn).unwrap_or(false) {
            self.go_on_pruning();
        }
    }

    fn go_on_pruning(&mut self) {
        let nothing_more = agentd_protocol::requests::PruneTasks {
            older_than_secs: i64::MAX.unsigned_abs(),
            task_id: None,
        };
        self.prunings.push_back((PruneJob::new(nothing_more, 0), None));
    }

    /// Does everything that there is to do now.
    fn work(&mut self, jobs: Vec<Job>, returned: &[Undelivered]) {
        let mut batch = Vec::with_capacity(jobs.len());
        for mut job in jobs {
            match job.command {
                Command::RestoreDatabase(params) => {
                    // The whole state changes: what was asked before it is done before it.
                    self.transact(std::mem::take(&mut batch), &[]);
                    let reply = self.restore(&params);
                    deliver(&self.taken_back, job.answer.take().map(|answer| (answer, reply)));
                }
                Command::PruneTasks(params) => {
                    let last_seq = *self.head.borrow();
                    self.prunings
                        .push_back((PruneJob::new(params, last_seq), job.answer.take()));
                }
                _ => batch.push(job),
            }
        }
        self.transact(batch, returned);
        if self.prunings.is_empty() && self.live.as_ref().is_some_and(|live| live.sessions.removing) {
            self.go_on_pruning();
        }
        self.prune();
    }

    /// Runs commands in one transaction if that works, else each in one of its own.
    fn transact(&mut self, mut jobs: Vec<Job>, returned: &[Undelivered]) {
        let due = self.options.clock.lease_ms() >= self.wake_at_ms();
        if jobs.is_empty() && returned.is_empty() && !due && !self.look_again {
            return;
        }
        match self.attempt(&mut jobs, returned) {
            Ok(()) => {}
            Err(Failure::Commit(error)) => fail_all(&mut jobs, &error),
            Err(Failure::Command(error)) => {
                tracing::warn!(%error, commands = jobs.len(), "a transaction failed; running its commands one by one");
                for job in jobs.iter_mut().filter(|job| job.answer.is_some()) {
                    let job = std::slice::from_mut(job);
                    if let Err(Failure::Command(error) | Failure::Commit(error)) = self.attempt(job, &[]) {
                        fail_all(job, &error);
                    }
                }
            }
        }
    }

    fn attempt(&mut self, jobs: &mut [Job], returned: &[Undelivered]) -> Result<(), Failure> {
        let mut round = Round::default();
        let result = self.run_round(jobs, returned, &mut round);
        match result {
            Ok((counted, earliest_ms)) => {
                self.nothing_over_before_ms = round.next_ms.min(earliest_ms);
                let answered = round.replies.len();
                self.publish(counted, answered as u64);
                for (place, reply) in round.replies {
                    deliver(
                        &self.taken_back,
                        jobs[place].answer.take().map(|answer| (answer, reply)),
                    );
                }
                for answer in round.served {
                    deliver(&self.taken_back, Some(answer));
                }
                Ok(())
            }
            Err(failure) => {
                if !self.database.conn.is_autocommit() {
                    let _ = self.database.conn.execute_batch("ROLLBACK");
                }
                self.counters
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .failed_since_commit += 1;
                self.live = None;
                self.look_again = !self.waiters.is_empty();
                // What was over is still to be ended, but not at once: the disk has to recover.
                self.nothing_over_before_ms = self.options.clock.lease_ms() + RETRY_MS;
                for (id, place) in round.parked {
                    if let Some(waiter) = self.waiters.remove(id) {
                        jobs[place].answer = Some(waiter.answer);
                    }
                }
                let (Failure::Command(error) | Failure::Commit(error)) = &failure;
                for (answer, _) in round.served {
                    let _ = answer.send(Err(storage(error)));
                }
                Err(failure)
            }
        }
    }

    fn run_round(
        &mut self,
        jobs: &mut [Job],
        returned: &[Undelivered],
        round: &mut Round,
    ) -> Result<(Counters, i64), Failure> {
        let conn = &self.database.conn;
        let commit = |error| Failure::Commit(Arc::new(error));
        let command = |error| match error {
            OpError::Sql(error) => Failure::Command(Arc::new(error)),
            // Refusals are answers; none gets here.
            OpError::Refused(error) => {
                Failure::Command(Arc::new(rusqlite::Error::InvalidParameterName(error.to_string())))
            }
        };
        let live = match self.live.take() {
            Some(live) => live,
            None => Live::load(conn, self.options.clone()).map_err(commit)?,
        };
        let live = self.live.insert(live);
        let waiters = &mut self.waiters;
        let mut tx = Tx::begin(conn, live).map_err(commit)?;
        round.next_ms = self.nothing_over_before_ms;
        if tx.now_ms >= round.next_ms {
            let leases_ms = tx.end_what_is_over().map_err(command)?;
            round.next_ms = tx.end_locks_that_are_over().map_err(command)?.min(leases_ms);
            serve(&mut tx, waiters, round).map_err(command)?;
        }
        for grant in returned {
            tx.take_back(grant).map_err(command)?;
            serve(&mut tx, waiters, round).map_err(command)?;
        }
        if std::mem::take(&mut self.look_again) {
            for id in waiters.ids() {
                serve_one(&mut tx, waiters, id, round).map_err(command)?;
            }
        }
        for (place, job) in jobs.iter_mut().enumerate() {
            let waits_ms = wait_ms(&job.command);
            if waits_ms.is_some() && job.answer.as_ref().is_none_or(oneshot::Sender::is_closed) {
                // Whoever asked is gone: nothing is to be granted.
                job.answer = None;
                continue;
            }
            match execute(&mut tx, &job.command) {
                Ok(Reply::Acquired(None) | Reply::AcquiredSession(None) | Reply::Lock(None))
                    if waits_ms.is_some_and(|ms| ms > 0) =>
                {
                    let (Some(answer), Some(wanted)) = (job.answer.take(), wanted(&job.command)) else {
                        continue;
                    };
                    let deadline_ms = tx.now_ms.saturating_add(waits_ms.unwrap_or(0));
                    match waiters.add(wanted, answer, deadline_ms) {
                        Ok(id) => round.parked.push((id, place)),
                        Err(answer) => {
                            let why = "too many requests are waiting already; ask again later".into();
                            round.served.push((answer, Err(StoreError::LimitExceeded(why))));
                        }
                    }
                }
                Ok(reply) => round.replies.push((place, Ok(reply))),
                Err(OpError::Refused(error)) => round.replies.push((place, Err(error))),
                Err(error) => return Err(command(error)),
            }
            serve(&mut tx, waiters, round).map_err(command)?;
        }
        for waiter in waiters.remove_due(tx.now_ms) {
            let none = waiter.none();
            round.served.push((waiter.answer, Ok(none)));
        }
        tx.commit().map_err(commit)
    }

    // Tells others what is on disk now.
    fn publish(&self, counted: Counters, answered: u64) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.registered_tasks += counted.registered_tasks;
        counters.acquired_nodes += counted.acquired_nodes;
        counters.committed_events += counted.committed_events;
        counters.heartbeats += counted.heartbeats;
        counters.completed_nodes += counted.completed_nodes;
        counters.failed_nodes += counted.failed_nodes;
        counters.timeout_rollbacks += counted.timeout_rollbacks;
        counters.commits += 1;
        counters.committed_changes += answered;
        counters.failed_since_commit = 0;
        drop(counters);
        let last_seq = self.live.as_ref().map_or(0, |live| live.last_seq);
        self.head
            .send_if_modified(|head| std::mem::replace(head, last_seq) != last_seq);
    }

    /// One step of the pruning under way, if there is one.
    fn prune(&mut self) {
        let Some((mut job, answer)) = self.prunings.pop_front() else {
            return;
        };
        let step = (|| -> OpResult<bool> {
            let conn = &self.database.conn;
            let live = match self.live.take() {
                Some(live) => live,
                None => Live::load(conn, self.options.clone())?,
            };
            let mut tx = Tx::begin(conn, self.live.insert(live))?;
            let done = tx.prune_step(&mut job)?;
            let (counted, _) = tx.commit()?;
            self.publish(counted, 0);
            Ok(done)
        })();
        let reply = match step {
            Ok(false) => {
                self.prunings.push_front((job, answer));
                return;
            }
            Ok(true) => Ok(Reply::Pruned(job.pruned)),
            Err(error) => {
                if !self.database.conn.is_autocommit() {
                    let _ = self.database.conn.execute_batch("ROLLBACK");
                }
                self.live = None;
                Err(error.into_store_error("prune"))
            }
        };
        if let Some(answer) = answer {
            let _ = answer.send(reply);
        }
    }

    fn restore(&mut self, params: &FileRef) -> StoreResult {
        let live = self.live.take();
        let restored =
            maintenance::restore(&self.database.conn, live, &self.options, Path::new(&params.path));
        // Everything may be different now.
        self.nothing_over_before_ms = i64::MIN;
        self.look_again = true;
        let (reply, last_seq) = restored.map_err(|error| {
            if !self.database.conn.is_autocommit() {
                let _ = self.database.conn.execute_batch("ROLLBACK");
            }
            error.into_store_error("restore")
        })?;
        self.head.send_replace(last_seq);
        self.resume_pruning();
        Ok(reply)
    }

    fn close(mut self) {
        for waiter in self.waiters.remove_all() {
            let none = waiter.none();
            let _ = waiter.answer.send(Ok(none));
        }
        for (_, answer) in self.prunings.drain(..) {
            if let Some(answer) = answer {
                let _ = answer.send(Err(StoreError::ShuttingDown));
            }
        }
        // Puts the log into the file. If that fails, the next start does it.
        if let Err(error) = self
            .database
            .conn
            .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        {
            tracing::warn!(%error, "the write-ahead log stays beside the database until the next start");
        }
    }
}

/// What comes of one transaction, to be told once it is on disk.
#[derive(Debug, Default)]
struct Round {
    // By the place of the command.
    replies: Vec<(usize, StoreResult)>,
    // For those who waited.
    served: Vec<Answer>,
    // Commands that wait now: their number in line, and their place.
    parked: Vec<(u64, usize)>,
    next_ms: i64,
}

fn execute(tx: &mut Tx<'_>, command: &Command) -> OpResult<Reply> {
    match command {
        Command::RegisterTask(params) => tx.register_task(params),
        Command::AddNodes(params) => tx.add_nodes(params),
        Command::AcquireNextNode(params) => tx.acquire_node(params),
        Command::CommitEvent(params) => tx.commit_event(params),
        Command::HeartbeatNode(params) => tx.heartbeat_node(params),
        Command::CompleteNode(params) => tx.complete_node(params),
        Command::FailNode(params) => tx.fail_node(params),
        Command::ReleaseNode(params) => tx.release_node(params),
        Command::CancelTask(params) => tx.cancel_task(params),
        Command::PauseTask(params) => tx.pause_task(params),
        Command::ResumeTask(params) => tx.resume_task(params),
        Command::RetryNodes(params) => tx.retry_nodes(params),
        Command::CreateSession(params) => tx.create_session(params),
        Command::AcquireSession(params) => tx.acquire_session(params, false),
        Command::ChangeSession(params) => tx.change_session(params),
        Command::RemoveSession(params) => tx.remove_session(params),
        Command::NumberHome(name) => tx.number_home(name),
        Command::AcquireResourceLock(params) => tx.acquire_lock(params),
        Command::HeartbeatResourceLock(params) => tx.heartbeat_lock(params),
        Command::ReleaseResourceLock(params) => tx.release_lock(params),
        // Each has its own way through the writer.
        Command::PruneTasks(_) | Command::RestoreDatabase(_) => {
            Err(StoreError::LimitExceeded("not a command of one transaction".into()).into())
        }
    }
}

// How long an acquire may wait; None for every other command.
fn wait_ms(command: &Command) -> Option<i64> {
    let secs = match command {
        Command::AcquireNextNode(params) => params.wait_secs,
        Command::AcquireSession(params) => params.acquire.wait_secs,
        Command::AcquireResourceLock(params) => params.wait_secs,
        _ => return None,
    };
    Some(i64::try_from(secs.unwrap_or(0).saturating_mul(1000)).unwrap_or(i64::MAX))
}

fn wanted(command: &Command) -> Option<Wanted> {
    match command {
        Command::AcquireNextNode(params) => Some(Wanted::Node(params.clone())),
        Command::AcquireSession(params) => {
            let mut params = params.clone();
            params.acquire.work_only = true;
            Some(Wanted::Session(params))
        }
        Command::AcquireResourceLock(params) => Some(Wanted::Lock(params.clone())),
        _ => None,
    }
}

/// Gives what has become free to those who wait for it.
fn serve(tx: &mut Tx<'_>, waiters: &mut Waiters, round: &mut Round) -> OpResult<()> {
    if waiters.is_empty() {
        tx.runnable.clear();
        tx.freed.clear();
        return Ok(());
    }
    let mut in_vain = HashSet::new();
    let mut ids: HashMap<i64, TaskId> = HashMap::new();
    for (task, requires) in std::mem::take(&mut tx.runnable) {
        if in_vain.contains(&(task, requires)) {
            continue;
        }
        let id = match ids.get(&task) {
            Some(id) => *id,
            None => {
                let id = tx.task_id(task)?;
                ids.insert(task, id);
                id
            }
        };
        let first = waiters.first_for_node(id, &tx.live.capability_sets, requires);
        let served = match first {
            Some(first) => serve_one(tx, waiters, first, round)?,
            None => false,
        };
        if !served {
            in_vain.insert((task, requires));
        }
    }
    for key in std::mem::take(&mut tx.freed) {
        if let Some(first) = waiters.first_for_lock(&key) {
            serve_one(tx, waiters, first, round)?;
        }
    }
    Ok(())
}

/// Tries what somebody waits for. True when they got it (or were refused) and left the line.
fn serve_one(tx: &mut Tx<'_>, waiters: &mut Waiters, id: u64, round: &mut Round) -> OpResult<bool> {
    let outcome = match waiters.wanted(id) {
        Some(Wanted::Node(params)) => tx.acquire_node(params),
        Some(Wanted::Session(params)) => tx.acquire_session(params, true),
        Some(Wanted::Lock(params)) => tx.acquire_lock(params),
        None => return Ok(false),
    };
    let reply = match outcome {
        Ok(Reply::Acquired(None) | Reply::AcquiredSession(None) | Reply::Lock(None)) => return Ok(false),
        Ok(reply) => Ok(reply),
        Err(OpError::Refused(error)) => Err(error),
        Err(error) => return Err(error),
    };
    if let Some(waiter) = waiters.remove(id) {
        round.served.push((waiter.answer, reply));
    }
    Ok(true)
}

/// Sends an answer. A grant that nobody receives is taken back.
fn deliver(taken_back: &mpsc::UnboundedSender<Undelivered>, answer: Option<Answer>) {
    let Some((answer, reply)) = answer else { return };
    if let Err(reply) = answer.send(reply)
        && let Some(grant) = crate::undelivered(&reply)
    {
        // Its receiver is the writer's own.
        let _ = taken_back.send(grant);
    }
}

fn storage(error: &Arc<rusqlite::Error>) -> StoreError {
    StoreError::Storage {
        doing: "write",
        source: Box::new(Arc::clone(error)),
    }
}

fn fail_all(jobs: &mut [Job], error: &Arc<rusqlite::Error>) {
    tracing::error!(%error, commands = jobs.len(), "the database could not be written; all of them are answered with the error");
    for job in jobs {
        if let Some(answer) = job.answer.take() {
            let _ = answer.send(Err(storage(error)));
        }
    }
}
