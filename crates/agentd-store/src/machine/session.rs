//! The transitions of sessions.
//!
//! ```text
//!   create ─▶ QUEUED ── set up ─▶ SETUP ── start ─▶ STARTING ── run ─▶ RUNNING
//!               │  ▲                │ │                │                  │
//!               │  └── requeue ─────┴─│────────────────┤                  │
//!               │                     └── tear down ───┴── tear down ─────┤
//!               │                                                         ▼
//!               └────────────── end ────────────▶ ENDED ◀── end ── TEARDOWN
//! ```
//!
//! From STARTING there is a way back only for whoever knows that no supervisor has begun the agent: an agent that may have
//! begun is never begun again.

use crate::session::SessionEvent;
use agentd_protocol::SessionPhase;

/// Why something does not happen to a session: what would be needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongPhase(pub &'static str);

/// The phase that `event` brings a session to which is in `phase`.
///
/// Whoever crashed after an end or the beginning of a teardown says it again: `End` of a session that is ENDED
/// and `TearDown` of one in TEARDOWN are allowed, and change nothing.
///
/// # Errors
/// [`WrongPhase`]; the session is then as before.
pub fn decide_session(phase: SessionPhase, event: &SessionEvent) -> Result<SessionPhase, WrongPhase> {
    use SessionPhase::{Ended, Queued, Running, Setup, Starting, Teardown};
    match (event, phase) {
        (SessionEvent::SetUp { .. }, Queued) => Ok(Setup),
        (SessionEvent::SetUp { .. }, Setup | Starting | Running | Teardown | Ended) => {
            Err(WrongPhase("only a session that is QUEUED can be set up"))
        }
        // From STARTING by whoever knows that no supervisor began the agent, or will.
        (SessionEvent::Requeue, Setup | Starting) => Ok(Queued),
        (SessionEvent::Requeue, Queued | Running | Teardown | Ended) => Err(WrongPhase(
            "only a session whose agent has not begun can go back to the queue",
        )),
        (SessionEvent::Start, Setup) => Ok(Starting),
        (SessionEvent::Start, Queued | Starting | Running | Teardown | Ended) => {
            Err(WrongPhase("only a session in SETUP can be started"))
        }
        (SessionEvent::Run { .. }, Starting) => Ok(Running),
        (SessionEvent::Run { .. }, Queued | Setup | Running | Teardown | Ended) => {
            Err(WrongPhase("only a session that is STARTING can begin to run"))
        }
        (SessionEvent::TearDown { .. }, Setup | Starting | Running | Teardown) => Ok(Teardown),
        (SessionEvent::TearDown { .. }, Queued | Ended) => {
            Err(WrongPhase("there is nothing of it that could be torn down"))
        }
        (SessionEvent::End(_), Queued | Teardown | Ended) => Ok(Ended),
        (SessionEvent::End(_), Setup | Starting | Running) => {
            Err(WrongPhase("it has to be torn down before it is over"))
        }
        (SessionEvent::Stop { .. }, Queued | Setup | Starting | Running | Teardown) => Ok(phase),
        (SessionEvent::Stop { .. }, Ended) => Err(WrongPhase("it is over already")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_protocol::{OutcomeReason, SessionOutcome};

    // Rows: the events, as listed; columns: the phases, in their order. What is not listed is refused.
    #[test]
    fn every_event_in_every_phase() {
        use SessionPhase::{Ended, Queued, Running, Setup, Starting, Teardown};
        let end = SessionEvent::End(SessionOutcome {
            reason: OutcomeReason::Completed,
            exit_code: Some(0),
            signal: None,
            message: None,
            result: None,
        });
        let set_up = SessionEvent::SetUp {
            replica: 0,
            runtime: "process".into(),
        };
        let tear_down = SessionEvent::TearDown { exited_wall_ms: None };
        let stop = SessionEvent::Stop { reason: "x".into() };
        let table: [(SessionEvent, [Option<SessionPhase>; 6]); 7] = [
            (set_up, [Some(Setup), None, None, None, None, None]),
            (
                SessionEvent::Requeue,
                [None, Some(Queued), Some(Queued), None, None, None],
            ),
            (
                SessionEvent::Start,
                [None, Some(Starting), None, None, None, None],
            ),
            (
                SessionEvent::Run {
                    started_wall_ms: None,
                },
                [None, None, Some(Running), None, None, None],
            ),
            (
                tear_down,
                [
                    None,
                    Some(Teardown),
                    Some(Teardown),
                    Some(Teardown),
                    Some(Teardown),
                    None,
                ],
            ),
            (end, [Some(Ended), None, None, None, Some(Ended), Some(Ended)]),
            (
                stop,
                [
                    Some(Queued),
                    Some(Setup),
                    Some(Starting),
                    Some(Running),
                    Some(Teardown),
                    None,
                ],
            ),
        ];
        for (event, expected) in &table {
            for (phase, expected) in SessionPhase::ALL.into_iter().zip(expected) {
                assert_eq!(
                    decide_session(phase, event).ok(),
                    *expected,
                    "{event:?} in {phase}"
                );
            }
        }
    }
}
