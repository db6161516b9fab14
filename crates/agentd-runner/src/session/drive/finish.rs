//! The way from an agent's end, or from where no agent has begun, to the session's.

use super::Driver;
use crate::session::agree::{self, NodeEnd};
use crate::session::commands;
use crate::session::outcome::{self, Evidence};
use crate::session::teardown::{self, Said};
use crate::session::workspace::WorkspaceReport;
use agentd_config::OnUnmerged;
use agentd_protocol::journal::action;
use agentd_protocol::requests::{CompleteNode, FailNode, ReleaseNode};
use agentd_protocol::{Json, OutcomeReason, SessionInfo, SessionOutcome, SessionPhase};
use agentd_store::session::{SessionEvent, SessionLease};
use agentd_store::{Command, StoreError};
use agentd_supervisor::record::Exited;
use std::time::Instant;

/// For how long the agent ran, as far as that is known.
fn ran_ms(info: &SessionInfo) -> u64 {
    match (info.started_at, info.exited_at) {
        (Some(from), Some(to)) => u64::try_from(to.unix_ms - from.unix_ms).unwrap_or(0),
        _ => 0,
    }
}

impl Driver {
    /// Takes the environment down, ends the node, ends the session.
    pub(super) async fn finish(&mut self, exited: Exited) -> Result<(), StoreError> {
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
        let worktree = down.worktree;
        if let Some(report) = &worktree {
            self.note_worktree(report, &mut evidence);
        }
        for warning in &evidence.remarks {
            self.warn(warning);
        }
        if let Some(report) = worktree.as_ref().filter(|report| report.is_expected()) {
            evidence.remarks.push(report.message.clone());
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
        if let Some(report) = &worktree {
            outcome.result = outcome.result.map(|result| report.add_to(&result));
        }
        if let Some(end) = self.end_node(&outcome, &said, worktree.as_ref()).await? {
            outcome = agree::agreed(outcome, end);
        }
        self.inner.point("node");
        self.change(SessionEvent::End(outcome)).await?;
        self.inner.point("ended");
        Ok(())
    }

    // What was asked for is a step; what needs a person's attention is a warning, and may decide the outcome.
    fn note_worktree(&self, report: &WorkspaceReport, evidence: &mut Evidence) {
        if report.is_expected() {
            let step =
                serde_json::json!({ "phase": "teardown", "step": "worktree", "message": report.message });
            self.record(action::SESSION_STEP, Json::of(&step));
            return;
        }
        let declared = self
            .inner
            .agent(&self.info.agent)
            .and_then(|agent| agent.on_unmerged);
        let fails = match declared {
            Some(chosen) => chosen == OnUnmerged::Fail,
            // What depends on a node would go on with what lacks its work.
            None => self.lease.is_some(),
        };
        match &report.reason {
            Some(_) if fails => evidence.unmerged = Some(report.message.clone()),
            _ => evidence.remarks.push(report.message.clone()),
        }
    }

    // Ends the node that it works on. Says how the agent ended it, if the agent did.
    async fn end_node(
        &mut self,
        outcome: &SessionOutcome,
        said: &Said,
        worktree: Option<&WorkspaceReport>,
    ) -> Result<Option<NodeEnd>, StoreError> {
        let Some(lease) = self.lease else { return Ok(None) };
        let unmerged = worktree.is_some_and(|report| report.reason.is_some());
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
            let reason = match worktree.and_then(|report| report.reason.as_ref()) {
                Some(reason) => serde_json::json!(reason),
                None => serde_json::json!(outcome.reason),
            };
            let error = Json::of(&serde_json::json!({
                "reason": reason,
                "message": outcome::sentence(outcome),
                "stderr": said.stderr,
                "exit_code": outcome.exit_code,
                "signal": outcome.signal,
                "session_id": self.info.id,
                "result": outcome.result,
            }));
            Command::FailNode(FailNode {
                task_id: lease.task_id,
                node_id: lease.node_id,
                lease_id: lease.lease_id,
                error_payload: worktree.map_or_else(|| error.clone(), |report| report.add_to(&error)),
                // One that was stopped is not to begin again by itself; nor does what hindered a merge go away by itself.
                permanent: outcome.reason == OutcomeReason::Cancelled || unmerged,
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

    pub(super) async fn rebuild(mut self) -> Result<(), StoreError> {
        teardown::clear(&self.inner, &self.info, &self.dir).await;
        self.inner.point("cleared");
        self.change(SessionEvent::Requeue).await?;
        self.inner.point("requeued");
        self.inner.requeue(&self.info);
        Ok(())
    }

    pub(super) async fn give_back(mut self) -> Result<(), StoreError> {
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

    pub(super) async fn end_queued(
        &mut self,
        reason: OutcomeReason,
        message: Option<String>,
    ) -> Result<(), StoreError> {
        let outcome = SessionOutcome {
            reason,
            exit_code: None,
            signal: None,
            message,
            result: None,
        };
        // Its agent never began, and so has not ended anything.
        self.end_node(&outcome, &Said::default(), None).await?;
        self.change(SessionEvent::End(outcome)).await
    }
}
