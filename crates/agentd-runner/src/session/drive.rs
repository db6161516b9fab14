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

mod finish;
mod follow;
mod heart;
mod written;

use self::heart::Heart;
use super::manager::Inner;
use super::setup::{self, SetUpFailed};
use super::slots::Place;
use super::toolcalls::ToolCalls;
use agentd_protocol::results::AcquiredNode;
use agentd_protocol::{OutcomeReason, SessionInfo, SessionPhase, TriggerKind};
use agentd_store::StoreError;
use agentd_store::session::{SessionEvent, SessionLease};
use agentd_supervisor::dir::SessionDir;
use agentd_supervisor::record::Exited;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

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
                self.told = written::told(self.inner.store(), self.info.id).await?;
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
}
