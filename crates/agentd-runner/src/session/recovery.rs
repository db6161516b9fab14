//! What a daemon does with a session that an earlier one left open: decided from the session's row and from what
//! its supervisor wrote, and from nothing else.

use agentd_protocol::SessionPhase;
use agentd_supervisor::record::Exited;
use agentd_supervisor::spawn::SupervisorState;

/// How to go on with a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// It waits for its turn, as before.
    Queue,
    /// Its agent never began: what is there of its environment is removed, and it begins anew.
    Rebuild,
    /// Its supervisor goes on, or has told all that it had to tell: both are taken up from the first record.
    Follow,
    /// There is nothing to be followed.
    Finish(Exited),
}

/// Decides it.
pub(crate) fn decide(phase: SessionPhase, supervisor: &SupervisorState) -> Resume {
    match (phase, supervisor) {
        (SessionPhase::Queued | SessionPhase::Ended, _) => Resume::Queue,
        // Nobody starts a supervisor before STARTING is durable.
        (SessionPhase::Setup, _) => Resume::Rebuild,
        // It may still be on its way to its first record.
        (_, SupervisorState::Alive) => Resume::Follow,
        (
            SessionPhase::Starting | SessionPhase::Running | SessionPhase::Teardown,
            SupervisorState::Gone(records),
        ) => match phase {
            _ if !records.records.is_empty() => Resume::Follow,
            // Without a supervisor and without its first record, nobody has begun the agent or will.
            SessionPhase::Starting => Resume::Rebuild,
            // It told of the agent's begin.
            SessionPhase::Running => Resume::Finish(Exited {
                lost: Some("its supervisor's records are gone".into()),
                ..Exited::default()
            }),
            _ => Resume::Finish(Exited {
                start_error: Some(
                    "agentd ended while it took down what set-up had built; the journal says which step failed".into(),
                ),
                ..Exited::default()
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_supervisor::record::{Record, What};
    use agentd_supervisor::records::Records;

    fn gone(told: &[What]) -> SupervisorState {
        let mut found = Records::default();
        found
            .records
            .extend(told.iter().zip(1..).map(|(what, seq)| Record {
                seq,
                wall_ms: 0,
                what: what.clone(),
            }));
        SupervisorState::Gone(found)
    }

    const INTENT: What = What::Intent { version: 1, pid: 1 };

    #[test]
    fn an_agent_that_may_have_begun_is_never_begun_again() {
        let over = [INTENT, What::Exited(Exited::default())];
        for phase in SessionPhase::ALL {
            let open = phase >= SessionPhase::Starting && phase != SessionPhase::Ended;
            for state in [SupervisorState::Alive, gone(&[INTENT]), gone(&over)] {
                let again = matches!(decide(phase, &state), Resume::Queue | Resume::Rebuild);
                assert!(!(open && again), "{phase} {state:?}");
            }
        }
    }

    #[test]
    fn what_the_supervisor_saw_is_believed() {
        let exited = Exited {
            code: Some(7),
            ..Exited::default()
        };
        let over = gone(&[INTENT, What::Exited(exited)]);
        for phase in [
            SessionPhase::Starting,
            SessionPhase::Running,
            SessionPhase::Teardown,
        ] {
            assert_eq!(decide(phase, &over), Resume::Follow);
            assert_eq!(decide(phase, &gone(&[INTENT])), Resume::Follow);
        }
        assert_eq!(decide(SessionPhase::Starting, &gone(&[])), Resume::Rebuild);
        let Resume::Finish(exited) = decide(SessionPhase::Running, &gone(&[])) else {
            panic!("it did run");
        };
        assert!(exited.lost.is_some() && exited.start_error.is_none());
    }
}
