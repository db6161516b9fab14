//! One session's way through its phases, from its place in the queue to its end.
//!
//! ```text
//!   Fresh, Node ─▶ set up ─▶ start ─▶ follow ─┐
//!   Follow (found after a restart) ─▶ follow ─┼─▶ take down ─▶ the node's end ─▶ ENDED
//!   Finish (nothing to follow) ───────────────┘
//!   Rebuild ─▶ what is there is removed ─▶ QUEUED again
//!   GiveBack ─▶ what is there is removed, the node is released ─▶ ENDED
//! ```
//!
//! A driver may be killed between any two steps: each begins by looking at what is there, and the database says how far
//! the session was.

use super::agree::{self, NodeEnd};
use super::commands;
use super::manager::Inner;
use super::outcome::{self, Evidence};
use super::setup::{self, SetUpFailed};
use super::slots::Place;
use super::teardown::Said;
use super::toolcalls::ToolCalls;
use super::{teardown, toolcalls};
use agentd_config::Agent;
use agentd_protocol::journal::action;
use agentd_protocol::requests::{
    CompleteNode, FailNode, HeartbeatNode, JournalFilter, ReadJournal, ReleaseNode,
};
use agentd_protocol::results::{AcquiredNode, JournalPage};
use agentd_protocol::{
    Json, OutcomeReason, SessionId, SessionInfo, SessionOutcome, SessionPhase, TriggerKind,
};
use agentd_store::session::{ChangeSession, SessionEvent, SessionLease, SessionNote};
use agentd_store::{Command, Query, Reply, Store, StoreError, ask};
use agentd_supervisor::control::{Control, ControlError, News};
use agentd_supervisor::dir::SessionDir;
use agentd_supervisor::follow::{FollowError, Follower};
use agentd_supervisor::record::{Exited, Record, What};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// For how long the agent ran, as far as that is known.
fn ran_ms(info: &SessionInfo) -> u64 {
    match (info.started_at, info.exited_at) {
        (Some(from), Some(to)) => u64::try_from(to.unix_ms - from.unix_ms).unwrap_or(0),
        _ => 0,
    }
}

/// Between two attempts to write what the store could not take.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Warnings of a session that are looked at for what was said already.
const TOLD_ENTRIES_MAX: u32 = 100;

/// Between two attempts to reach a supervisor that is there and does not answer.
const UNANSWERED: Duration = Duration::from_secs(1);

/// Where a driver begins.
#[derive(Debug)]
pub(super) enum Entry {
    /// A place is there; nothing else.
    Fresh,
    /// The same, for a node that was leased with it.
    Node(Box<AcquiredNode>),
    /// An earlier daemon ended while it built the environment.
    Rebuild,
    /// A supervisor is at work.
    Follow,
    /// Nothing is left that could be followed.
    Finish(Exited),
    /// There is no place, or nobody who knows the node's context.
    GiveBack,
    /// It was stopped before it began.
    Cancelled,
    /// Too many wait.
    QueueFull,
    /// Its agent is not declared any more.
    Undeclared,
}

/// Somebody wants the session's end.
#[derive(Clone, Debug)]
pub(super) struct StopRequest {
    pub(super) reason: String,
    /// Between TERM and KILL, instead of what the agent's configuration says.
    pub(super) grace: Option<Duration>,
}

/// See the module.
pub(super) struct Driver {
    inner: Arc<Inner>,
    info: SessionInfo,
    lease: Option<SessionLease>,
    place: Option<Place>,
    stop: watch::Receiver<Option<StopRequest>>,
    dir: SessionDir,
    // Of the agent's output, once it has ended.
    output_bytes: u64,
    // Up to this record an earlier daemon wrote down what there was to be said.
    told: u64,
    // Its supervisor has said that nothing is left of it.
    runtime_is_clear: bool,
    calls: ToolCalls,
    // A lease that is being extended, for as long as this is there.
    heart: Option<Heart>,
}

impl Driver {
    pub(super) fn new(
        inner: Arc<Inner>,
        info: SessionInfo,
        lease: Option<SessionLease>,
        place: Option<Place>,
        stop: watch::Receiver<Option<StopRequest>>,
    ) -> Self {
        let dir = inner.options.state.session(info.id);
        let heart = lease.map(|lease| Heart::begin(Arc::clone(&inner), info.id, lease));
        Self {
            inner,
            info,
            lease,
            place,
            stop,
            dir,
            output_bytes: 0,
            told: 0,
            runtime_is_clear: false,
            calls: ToolCalls::default(),
            heart,
        }
    }

    /// Goes on until the session is over, or waits in the queue again.
    ///
    /// # Errors
    /// The store's failure: the session is then as the database says, and the next daemon goes on with it.
    pub(super) async fn run(mut self, entry: Entry) -> Result<(), StoreError> {
        let exited = match entry {
            // Somebody asked for its end, and then agentd was killed.
            Entry::Fresh if self.info.stop_requested.is_some() => {
                let why = self.info.stop_requested.clone();
                return self.end_queued(OutcomeReason::Cancelled, why).await;
            }
            Entry::Fresh => self.execute(None).await?,
            Entry::Node(node) => self.execute(Some(*node)).await?,
            Entry::Follow => {
                self.told = told(self.inner.store(), self.info.id).await?;
                match self.follow_holding(None).await? {
                    Some(exited) => exited,
                    // What had looked like its supervisor was not one. Nobody has begun the agent, or will.
                    None if self.info.phase == SessionPhase::Starting => {
                        return match self.info.trigger.kind {
                            TriggerKind::Node => self.give_back().await,
                            _ => self.rebuild().await,
                        };
                    }
                    None => self.not_begun().await,
                }
            }
            Entry::Finish(exited) => exited,
            Entry::Rebuild => return self.rebuild().await,
            Entry::GiveBack => return self.give_back().await,
            Entry::Cancelled => {
                let why = self.info.stop_requested.clone();
                return self.end_queued(OutcomeReason::Cancelled, why).await;
            }
            Entry::QueueFull => {
                let why = "too many sessions wait already".to_owned();
                return self.end_queued(OutcomeReason::SetupFailed, Some(why)).await;
            }
            Entry::Undeclared => {
                let why = format!("no agent {:?} is declared any more", self.info.agent);
                return self.end_queued(OutcomeReason::SetupFailed, Some(why)).await;
            }
        };
        self.finish(exited).await
    }

    /// Set-up, start, and the agent's life.
    async fn execute(&mut self, node: Option<AcquiredNode>) -> Result<Exited, StoreError> {
        let refused = |message: String| Exited {
            start_error: Some(message),
            ..Exited::default()
        };
        let (Some(agent), Some(place)) = (self.inner.agent(&self.info.agent), self.place.clone()) else {
            return Ok(refused(format!("no agent {:?} is declared", self.info.agent)));
        };
        self.change(SessionEvent::SetUp {
            replica: place.replica,
            runtime: agent.runtime.as_str().into(),
        })
        .await?;
        self.inner.point("setup");
        let order = setup::Order {
            info: self.info.clone(),
            agent,
            replica: place.replica,
            node,
            dir: self.dir.clone(),
        };
        let under_way = setup::UnderWay::new();
        let built = setup::run(&self.inner, order, &under_way, |step, begun| {
            self.note_step("setup", step, begun, None);
        });
        let limit = self.inner.options.setup_timeout;
        let ready = match tokio::time::timeout(limit, built).await {
            Ok(Ok(ready)) => ready,
            Ok(Err(SetUpFailed::Store(error))) => return Err(error),
            Ok(Err(SetUpFailed::Step { step, message, begun })) => {
                self.note_step("setup", step, begun, Some(&message));
                return Ok(refused(format!("{step}: {message}")));
            }
            Err(_) => {
                let (step, begun) = under_way.now();
                let message = format!(
                    "it had not ended when the {} seconds were over that set-up may take (setup_timeout)",
                    limit.as_secs()
                );
                self.note_step("setup", step, begun, Some(&message));
                return Ok(refused(format!("{step}: {message}")));
            }
        };
        for warning in &ready.warnings {
            self.warn(warning);
        }
        if let Some(stop) = self.stop.borrow().clone() {
            return Ok(Exited {
                stop: Some(agentd_supervisor::record::StopCause::Request),
                start_error: Some(stop.reason),
                ..Exited::default()
            });
        }
        // Only so many at a time; the queue is in order.
        let inner = Arc::clone(&self.inner);
        let permit = inner.starting.acquire().await;
        self.change(SessionEvent::Start).await?;
        self.inner.point("starting");
        let spawned = ready.start(&self.inner).await;
        self.inner.point("spawned");
        if let Err(error) = spawned {
            return Ok(refused(format!("start: {error}")));
        }
        Ok(match self.follow_holding(permit.ok()).await? {
            Some(exited) => exited,
            None => self.not_begun().await,
        })
    }

    async fn not_begun(&self) -> Exited {
        Exited {
            start_error: Some(teardown::ended_too_early(&self.dir).await),
            ..Exited::default()
        }
    }

    // Until the supervisor has said all that it has to say; nothing when that was not even that it begins. The permit
    // goes back when the agent runs.
    async fn follow_holding(
        &mut self,
        mut permit: Option<tokio::sync::SemaphorePermit<'_>>,
    ) -> Result<Option<Exited>, StoreError> {
        let mut tail = Tail::default();
        let mut damaged = None;
        let mut follower = Follower::new(self.dir.clone(), 1);
        loop {
            tokio::select! {
                () = self.calls.due() => self.journal_calls().await?,
                news = follower.news() => match news {
                    Ok(Some(News::Calls)) => self.calls.written(),
                    Ok(Some(News::Record(record))) => {
                        self.take(&mut tail, record).await?;
                        if tail.started {
                            permit = None;
                        }
                    }
                    Ok(None) => break,
                    Err(FollowError::Io(error)) if is_damaged(&error) => {
                        tail.begun = true;
                        damaged = Some(format!("its supervisor's records cannot be read: {error}"));
                        break;
                    }
                    Err(error) => {
                        // Suspended, say. Its lock is let go when it ends, and nothing else tells of that.
                        tracing::warn!(session = %self.info.id, %error, "its supervisor does not answer");
                        tokio::select! {
                            () = tokio::time::sleep(UNANSWERED) => {}
                            () = self.inner.closing.cancelled() => return Err(StoreError::ShuttingDown),
                        }
                    }
                },
                wanted = wanted(&mut self.stop) => self.ask_for_end(&wanted).await,
                () = self.inner.closing.cancelled() => return Err(StoreError::ShuttingDown),
            }
        }
        drop(permit);
        Ok(match tail.exited {
            Some(exited) => Some(exited),
            None if tail.begun => Some(Exited {
                lost: damaged.or_else(|| Some("its supervisor was killed, and the agent was ended".into())),
                ..Exited::default()
            }),
            None => None,
        })
    }

    // Writes down which tools were called, since that was done last.
    async fn journal_calls(&mut self) -> Result<(), StoreError> {
        loop {
            let next = self
                .calls
                .next(self.inner.store(), self.info.id, &self.dir)
                .await?;
            let notes = match next {
                Ok(notes) if notes.is_empty() => return Ok(()),
                Ok(notes) => notes,
                Err(error) => {
                    self.warn(&format!("calls of its tools cannot be read: {error}"));
                    return Ok(());
                }
            };
            for notes in notes.chunks(toolcalls::NOTES_MAX) {
                let change = ChangeSession {
                    session_id: self.info.id,
                    event: None,
                    notes: notes.to_vec(),
                };
                self.submit(Command::ChangeSession(change)).await?;
            }
        }
    }

    async fn ask_for_end(&self, wanted: &StopRequest) {
        let declared = || self.inner.agent(&self.info.agent).map(|agent| agent.grace_period);
        let grace = wanted
            .grace
            .or_else(declared)
            .unwrap_or(Agent::GRACE_PERIOD_DEFAULT);
        let asked = async { Control::connect(&self.dir).await?.stop(grace).await };
        let dir = self.dir.clone();
        let asked = match asked.await {
            // There are no words that both know, but for a signal.
            Err(ControlError::Version { .. }) => {
                super::blocking(move || agentd_supervisor::spawn::terminate(&dir).map(|_| ()))
                    .await
                    .map_err(ControlError::from)
            }
            asked => asked,
        };
        if let Err(error) = asked {
            tracing::warn!(session = %self.info.id, %error, "its supervisor could not be asked for its end");
        }
    }

    // Writes down what a record says, once.
    async fn take(&mut self, tail: &mut Tail, record: Record) -> Result<(), StoreError> {
        match record.what {
            What::Intent { .. } => tail.begun = true,
            What::Started { .. } => {
                tail.started = true;
                if self.info.phase == SessionPhase::Starting {
                    self.inner.point("started");
                    self.change(SessionEvent::Run {
                        started_wall_ms: Some(record.wall_ms),
                    })
                    .await?;
                    self.inner.point("running");
                }
            }
            // The engine cleans up for longer than others should have to wait for the news.
            What::ContainerEnded if self.info.phase == SessionPhase::Running => {
                let exited_wall_ms = Some(record.wall_ms);
                self.change(SessionEvent::TearDown { exited_wall_ms }).await?;
            }
            What::Exited(mut exited) => {
                tail.started = true;
                if let Some(why) = &mut exited.start_error {
                    why.insert_str(0, "start: ");
                }
                self.inner.point("exited");
                if self.info.phase != SessionPhase::Teardown {
                    self.change(SessionEvent::TearDown {
                        exited_wall_ms: Some(record.wall_ms),
                    })
                    .await?;
                }
                self.inner.point("teardown");
                tail.exited = Some(exited);
            }
            What::End {
                teardown_ms,
                missing_bytes,
                output_bytes,
            } => {
                self.output_bytes = output_bytes;
                self.runtime_is_clear = true;
                if record.seq > self.told {
                    if missing_bytes > 0 {
                        let message = format!("{missing_bytes} bytes of its output were not kept");
                        self.warn_of(record.seq, &message);
                    }
                    self.note("teardown", "runtime", Some(teardown_ms), None);
                }
            }
            What::Warning { message } if record.seq > self.told => self.warn_of(record.seq, &message),
            _ => {}
        }
        Ok(())
    }

    /// Takes the environment down, ends the node, ends the session.
    async fn finish(&mut self, exited: Exited) -> Result<(), StoreError> {
        self.journal_calls().await?;
        if self.info.phase == SessionPhase::Queued {
            let why = exited.start_error;
            return self.end_queued(OutcomeReason::SetupFailed, why).await;
        }
        if self.info.phase != SessionPhase::Teardown {
            self.change(SessionEvent::TearDown { exited_wall_ms: None })
                .await?;
            self.inner.point("teardown");
        }
        let stop_requested = match &self.info.stop_requested {
            Some(reason) => Some(reason.clone()),
            None => self.stop.borrow().as_ref().map(|stop| stop.reason.clone()),
        };
        let mut evidence = Evidence {
            exited,
            stop_requested,
            ..Evidence::default()
        };
        let begun = Instant::now();
        let down = teardown::run(
            &self.inner,
            &self.info,
            &self.dir,
            &evidence,
            self.runtime_is_clear,
        )
        .await;
        evidence.result = down.result;
        evidence.remarks = down.remarks;
        for warning in &evidence.remarks {
            self.warn(warning);
        }
        if let Some(message) = down.worktree {
            let step = serde_json::json!({ "phase": "teardown", "step": "worktree", "message": message });
            self.record(action::SESSION_STEP, Json::of(&step));
            evidence.remarks.push(message);
        }
        self.note_step("teardown", "environment", begun, None);
        let mut outcome = outcome::decide(&evidence);
        let command = match self.lease {
            Some(lease) => commands::is_of(&self.inner, lease).await?,
            None => false,
        };
        let kept = match command {
            true => teardown::COMMAND_OUTPUT_BYTES_MAX,
            false => teardown::OUTPUT_BYTES_MAX,
        };
        let said = match self.lease {
            None if outcome.reason != OutcomeReason::Completed => Said::default(),
            _ => teardown::last_said(&self.dir, self.output_bytes, kept).await,
        };
        if command && outcome.reason == OutcomeReason::Completed {
            outcome.result = Some(commands::result(&outcome, &said, ran_ms(&self.info)));
        }
        if outcome.result.is_none() && outcome.reason == OutcomeReason::Completed {
            outcome.result = Some(said.as_result(self.info.id, &outcome));
        }
        if let Some(end) = self.end_node(&outcome, &said).await? {
            outcome = agree::agreed(outcome, end);
        }
        self.inner.point("node");
        self.change(SessionEvent::End(outcome)).await?;
        self.inner.point("ended");
        Ok(())
    }

    // Ends the node that it works on. Says how the agent ended it, if the agent did.
    async fn end_node(
        &mut self,
        outcome: &SessionOutcome,
        said: &Said,
    ) -> Result<Option<NodeEnd>, StoreError> {
        let Some(lease) = self.lease else { return Ok(None) };
        let command = if outcome.reason == OutcomeReason::Completed {
            Command::CompleteNode(CompleteNode {
                task_id: lease.task_id,
                node_id: lease.node_id,
                lease_id: lease.lease_id,
                result_payload: outcome.result.clone().unwrap_or_else(Json::null),
                idempotency_key: Some(format!("session {}", self.info.id)),
                add_nodes: Vec::new(),
            })
        } else {
            Command::FailNode(FailNode {
                task_id: lease.task_id,
                node_id: lease.node_id,
                lease_id: lease.lease_id,
                error_payload: Json::of(&serde_json::json!({
                    "reason": outcome.reason,
                    "message": outcome::sentence(outcome),
                    "stderr": said.stderr,
                    "exit_code": outcome.exit_code,
                    "signal": outcome.signal,
                    "session_id": self.info.id,
                    "result": outcome.result,
                })),
                // Whoever stopped it does not want it to begin again by itself.
                permanent: outcome.reason == OutcomeReason::Cancelled,
                idempotency_key: Some(format!("session {}", self.info.id)),
            })
        };
        let end = match self.submit(command).await {
            Ok(_) => None,
            Err(StoreError::ShuttingDown) => return Err(StoreError::ShuttingDown),
            // We did, before we were killed, and with another result than now.
            Err(StoreError::IdempotencyConflict { .. }) => None,
            // The agent ended the node itself; or its task was cancelled, or somebody else has it.
            Err(error) => {
                tracing::debug!(session = %self.info.id, %error, "its node had ended");
                self.look_for_end(&lease).await?
            }
        };
        self.heart = None;
        Ok(end)
    }

    async fn look_for_end(&self, lease: &SessionLease) -> Result<Option<NodeEnd>, StoreError> {
        let look = || agree::node_end(&self.inner, self.info.id, lease);
        match self.until_stored(look).await {
            Err(StoreError::ShuttingDown) => Err(StoreError::ShuttingDown),
            // A task that is gone has no journal.
            answer => Ok(answer.unwrap_or_default()),
        }
    }

    async fn rebuild(mut self) -> Result<(), StoreError> {
        teardown::clear(&self.inner, &self.info, &self.dir).await;
        self.inner.point("cleared");
        self.change(SessionEvent::Requeue).await?;
        self.inner.point("requeued");
        self.inner.requeue(&self.info);
        Ok(())
    }

    async fn give_back(mut self) -> Result<(), StoreError> {
        teardown::clear(&self.inner, &self.info, &self.dir).await;
        self.inner.point("cleared");
        // Whoever stopped it does not want its node to begin again by itself: then it fails, below.
        let stopped = self.info.stop_requested.clone();
        if let Some(lease) = self.lease
            && stopped.is_none()
        {
            let release = Command::ReleaseNode(ReleaseNode {
                task_id: lease.task_id,
                node_id: lease.node_id,
                lease_id: lease.lease_id,
            });
            match self.submit(release).await {
                Err(StoreError::ShuttingDown) => return Err(StoreError::ShuttingDown),
                // Its task was cancelled meanwhile.
                Ok(_) | Err(_) => self.heart = None,
            }
        }
        self.inner.point("released");
        let why =
            "the node was given back before the agent began: agentd ended, or there was no place for it";
        // Should agentd be killed before the next change, this is seen to be the same again.
        if matches!(self.info.phase, SessionPhase::Setup | SessionPhase::Starting) {
            self.change(SessionEvent::Requeue).await?;
            self.inner.point("unqueued");
        }
        let why = stopped.unwrap_or_else(|| why.into());
        self.end_queued(OutcomeReason::Cancelled, Some(why)).await
    }

    async fn end_queued(&mut self, reason: OutcomeReason, message: Option<String>) -> Result<(), StoreError> {
        let outcome = SessionOutcome {
            reason,
            exit_code: None,
            signal: None,
            message,
            result: None,
        };
        // Its agent never began, and so has not ended anything.
        self.end_node(&outcome, &Said::default()).await?;
        self.change(SessionEvent::End(outcome)).await
    }

    // A change that must be written before anything follows from it.
    async fn change(&mut self, event: SessionEvent) -> Result<(), StoreError> {
        let change = ChangeSession {
            session_id: self.info.id,
            event: Some(event),
            notes: Vec::new(),
        };
        if let Reply::Session(info) = self.submit(Command::ChangeSession(change)).await? {
            self.info = *info;
        }
        self.inner.phases.notify_waiters();
        Ok(())
    }

    async fn submit(&self, command: Command) -> Result<Reply, StoreError> {
        self.until_stored(|| answered(self.inner.store(), command.clone()))
            .await
    }

    // A full disk is no reason to lose a session: it is tried again until it works, or agentd is stopped.
    async fn until_stored<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut pause = Duration::from_millis(100);
        loop {
            match attempt().await {
                Err(error @ StoreError::Storage { .. }) => {
                    tracing::warn!(session = %self.info.id, %error, "will try again");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.inner.closing.cancelled() => return Err(StoreError::ShuttingDown),
                    }
                    pause = (pause * 2).min(RETRY_MAX);
                }
                answer => return answer,
            }
        }
    }

    fn warn(&self, message: &str) {
        let payload = Json::of(&serde_json::json!({ "message": message }));
        self.record(action::SESSION_WARNING, payload);
    }

    // With the number of the record that says so.
    fn warn_of(&self, record: u64, message: &str) {
        let payload = Json::of(&serde_json::json!({ "message": message, "record": record }));
        self.record(action::SESSION_WARNING, payload);
    }

    fn note_step(&self, phase: &str, step: &str, begun: Instant, error: Option<&str>) {
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.note(phase, step, Some(took), error);
        self.inner.point(&format!("{phase}.{step}"));
    }

    fn note(&self, phase: &str, step: &str, duration_ms: Option<u64>, error: Option<&str>) {
        let mut payload = serde_json::json!({ "phase": phase, "step": step });
        if let Some(duration_ms) = duration_ms {
            payload["duration_ms"] = duration_ms.into();
        }
        if let Some(error) = error {
            payload["error"] = error.into();
        }
        self.record(action::SESSION_STEP, Json::of(&payload));
    }

    // For the journal, in order with the changes and without waiting for the disk: the next change does.
    fn record(&self, action: &'static str, payload: Json) {
        let inner = Arc::clone(&self.inner);
        let change = ChangeSession {
            session_id: self.info.id,
            event: None,
            notes: vec![SessionNote { action, payload }],
        };
        let id = self.info.id;
        let submitted = async move { inner.store().submit(Command::ChangeSession(change)).await };
        // The queue takes it at once unless it is full, and then order matters less than going on.
        let mut submitted = Box::pin(submitted);
        let waker = std::task::Waker::noop();
        let mut context = std::task::Context::from_waker(waker);
        match std::future::Future::poll(submitted.as_mut(), &mut context) {
            std::task::Poll::Ready(Ok(_)) => {}
            std::task::Poll::Ready(Err(error)) => {
                tracing::warn!(session = %id, action, %error, "a note was not written");
            }
            std::task::Poll::Pending => {
                tokio::spawn(submitted);
            }
        }
    }
}

/// The last record of a session's supervisor of which the journal has a warning.
async fn told(store: &dyn Store, session_id: SessionId) -> Result<u64, StoreError> {
    let request = ReadJournal {
        from_seq: None,
        last: Some(TOLD_ENTRIES_MAX),
        limit: None,
        filter: JournalFilter {
            session_id: Some(session_id),
            action_types: vec![action::SESSION_WARNING.into()],
            ..JournalFilter::default()
        },
    };
    let page: JournalPage = ask(store, Query::ReadJournal(request)).await?;
    let records = page
        .entries
        .iter()
        .filter_map(|entry| entry.payload.to_value()["record"].as_u64());
    Ok(records.max().unwrap_or(0))
}

#[derive(Default)]
struct Tail {
    begun: bool,
    started: bool,
    exited: Option<Exited>,
}

// It will not be better the next time. Only when its supervisor is gone is the file looked at.
fn is_damaged(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, IsADirectory, NotADirectory};
    matches!(error.kind(), InvalidData | IsADirectory | NotADirectory)
}

// The next wish for the session's end.
async fn wanted(stop: &mut watch::Receiver<Option<StopRequest>>) -> StopRequest {
    loop {
        if stop.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if let Some(request) = stop.borrow().clone() {
            return request;
        }
    }
}

async fn answered(store: &dyn Store, command: Command) -> Result<Reply, StoreError> {
    store.submit(command).await?.await
}

/// Extends a lease for as long as it lives.
struct Heart {
    stop: CancellationToken,
}

impl Heart {
    fn begin(inner: Arc<Inner>, session: SessionId, lease: SessionLease) -> Self {
        let stop = inner.closing.child_token();
        let stopped = stop.clone();
        tokio::spawn(async move {
            // Twice missed is still in time.
            let period = Duration::from_millis(inner.options.lease_secs * 1000 / 3);
            loop {
                tokio::select! {
                    () = tokio::time::sleep(period) => {}
                    () = stopped.cancelled() => return,
                }
                let beat = Command::HeartbeatNode(HeartbeatNode {
                    task_id: lease.task_id,
                    node_id: lease.node_id,
                    lease_id: lease.lease_id,
                    lease_secs: Some(inner.options.lease_secs),
                });
                match answered(inner.store(), beat).await {
                    Ok(_) | Err(StoreError::Storage { .. }) => {}
                    Err(StoreError::ShuttingDown) => return,
                    // The agent has ended its node and finishes; or its task was cancelled; or it was suspended for so long
                    // that somebody else has the node.
                    Err(error) => {
                        match agree::node_end(&inner, session, &lease).await {
                            Ok(Some(_)) | Err(StoreError::ShuttingDown) => return,
                            Err(StoreError::Storage { .. }) => continue,
                            Ok(None) | Err(_) => {}
                        }
                        inner.request_stop(session, format!("its node is no longer its own: {error}"), None);
                        return;
                    }
                }
            }
        });
        Self { stop }
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
