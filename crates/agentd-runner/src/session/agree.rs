//! When an agent has ended its own node, with its session's lease, before the session was over.
//!
//! The node's end is durable, and what depends on it has begun: it is the truth, and the session agrees with it. A node
//! that is completed was worked on by a session that completed, whatever the program did afterwards; how it ended
//! stands beside it.

use super::manager::Inner;
use super::outcome;
use agentd_protocol::journal::action;
use agentd_protocol::limits::RESULT_BYTES_MAX;
use agentd_protocol::requests::{JournalFilter, ReadJournal};
use agentd_protocol::results::JournalPage;
use agentd_protocol::{Json, OutcomeReason, SessionId, SessionOutcome};
use agentd_store::session::SessionLease;
use agentd_store::{Query, StoreError, ask};
use serde::Deserialize;

/// How the agent ended its node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum NodeEnd {
    Completed(Json),
    /// For this time, or for good.
    Failed,
}

/// Finds out whether a node whose lease is over was ended with it. The journal knows in whose name it was.
pub(super) async fn node_end(
    inner: &Inner,
    session: SessionId,
    lease: &SessionLease,
) -> Result<Option<NodeEnd>, StoreError> {
    let query = Query::ReadJournal(ReadJournal {
        last: Some(1),
        filter: JournalFilter {
            node_id: Some(lease.node_id),
            session_id: Some(session),
            action_types: vec![action::COMPLETE_NODE.into(), action::FAIL_NODE.into()],
            ..JournalFilter::default()
        },
        ..ReadJournal::default()
    });
    let page: JournalPage = ask(inner.store(), query).await?;
    Ok(page.entries.last().map(|entry| {
        #[derive(Deserialize)]
        struct Completed {
            result: Json,
        }
        if entry.action_type == action::FAIL_NODE {
            return NodeEnd::Failed;
        }
        let result = serde_json::from_str::<Completed>(entry.payload.text());
        NodeEnd::Completed(result.map_or_else(|_| Json::null(), |completed| completed.result))
    }))
}

/// The outcome that goes with the node's end.
pub(super) fn agreed(mut outcome: SessionOutcome, end: NodeEnd) -> SessionOutcome {
    let how = outcome::sentence(&outcome);
    match (end, outcome.reason) {
        (NodeEnd::Completed(result), reason) => {
            let mut remarks = Vec::new();
            if reason == OutcomeReason::Completed {
                remarks.extend(outcome.message.take());
            } else {
                remarks.push(format!("the agent completed its node itself; then: {how}"));
            }
            outcome.reason = OutcomeReason::Completed;
            outcome.result = Some(result).filter(|result| {
                let bytes = result.text().len();
                if bytes > RESULT_BYTES_MAX {
                    remarks.push(format!("its result has {bytes} bytes: it is the node's"));
                }
                bytes <= RESULT_BYTES_MAX
            });
            outcome.message = (!remarks.is_empty()).then(|| remarks.join("; "));
        }
        (NodeEnd::Failed, OutcomeReason::Completed) => {
            outcome.reason = OutcomeReason::Failed;
            outcome.result = None;
            outcome.message = Some(format!("the agent failed its node itself; then: {how}"));
        }
        // Nobody says anything else.
        (NodeEnd::Failed, _) => {}
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(reason: OutcomeReason, exit_code: i32) -> SessionOutcome {
        SessionOutcome {
            reason,
            exit_code: Some(exit_code),
            signal: None,
            message: None,
            result: None,
        }
    }

    #[test]
    fn a_session_agrees_with_its_node() {
        let result = Json::of(&7);
        let completed = NodeEnd::Completed(result.clone());
        let well = agreed(ended(OutcomeReason::Completed, 0), completed.clone());
        assert_eq!(
            (well.reason, well.result.as_ref(), well.message),
            (OutcomeReason::Completed, Some(&result), None)
        );
        for reason in [
            OutcomeReason::Failed,
            OutcomeReason::TimedOut,
            OutcomeReason::Cancelled,
        ] {
            let outcome = agreed(ended(reason, 3), completed.clone());
            assert_eq!(outcome.reason, OutcomeReason::Completed);
            assert_eq!(
                (outcome.exit_code, outcome.result.as_ref()),
                (Some(3), Some(&result))
            );
            assert!(outcome.message.unwrap().contains("completed its node itself"));
        }
        let failed = agreed(ended(OutcomeReason::Completed, 0), NodeEnd::Failed);
        assert_eq!(failed.reason, OutcomeReason::Failed);
        assert!(failed.message.unwrap().contains("failed its node itself"));
        let late = agreed(ended(OutcomeReason::TimedOut, 0), NodeEnd::Failed);
        assert_eq!(late, ended(OutcomeReason::TimedOut, 0));
    }

    #[test]
    fn a_result_that_is_too_large_for_a_session_stays_with_the_node() {
        let large = Json::of(&"x".repeat(RESULT_BYTES_MAX));
        let outcome = agreed(ended(OutcomeReason::Completed, 0), NodeEnd::Completed(large));
        assert_eq!((outcome.reason, outcome.result), (OutcomeReason::Completed, None));
        assert!(outcome.message.unwrap().contains("the node's"));
    }
}
