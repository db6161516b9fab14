//! What a session came to: from how its agent ended, what it left as its result, and what was asked of us together.
//! Never from the exit status alone: programs exit with 0 when they are interrupted, and with 137 when they please.

use agentd_protocol::{Json, OutcomeReason, SessionOutcome};
use agentd_supervisor::record::{Exited, StopCause};

/// Everything that there is to go by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    /// How the agent ended.
    pub(crate) exited: Exited,
    /// What it left as its result; an error when that cannot be used.
    pub(crate) result: Option<Result<Json, String>>,
    /// Why its end was asked for, if it was.
    pub(crate) stop_requested: Option<String>,
    /// Why its work was not merged, when that is a failure.
    pub(crate) unmerged: Option<String>,
    /// Things that went wrong and did not decide the outcome.
    pub(crate) remarks: Vec<String>,
}

/// The outcome, without what stands for a result that the agent did not leave.
pub(crate) fn decide(evidence: &Evidence) -> SessionOutcome {
    let exited = &evidence.exited;
    let mut remarks = evidence.remarks.clone();
    let (reason, message) = reason(evidence);
    if exited.survivors > 0 {
        remarks.push(format!(
            "{} of its processes could not be ended; they wait for a device and end when it answers",
            exited.survivors
        ));
    }
    let message: Vec<String> = message.into_iter().chain(remarks).collect();
    SessionOutcome {
        reason,
        exit_code: exited.code,
        signal: exited.signal,
        message: (!message.is_empty()).then(|| message.join("; ")),
        result: evidence.result.clone().and_then(Result::ok),
    }
}

fn reason(evidence: &Evidence) -> (OutcomeReason, Option<String>) {
    let exited = &evidence.exited;
    let killed = exited.signal == Some(9) || exited.code == Some(137);
    if let Some(why) = &exited.start_error {
        return match exited.stop {
            Some(StopCause::Request) => (OutcomeReason::Cancelled, evidence.stop_requested.clone()),
            _ => (OutcomeReason::SetupFailed, Some(why.clone())),
        };
    }
    if let Some(why) = &exited.lost {
        return (OutcomeReason::Lost, Some(why.clone()));
    }
    // The kernel counts every process that it kills for memory. One that the agent outlived did not decide how it
    // ended.
    if exited.oom_kills > 0 && killed && exited.stop.is_none() {
        return (
            OutcomeReason::OutOfMemory,
            Some("it used more memory than it may".into()),
        );
    }
    // An agent that finished its work at the very moment in which it was asked to stop has finished it.
    let well = exited.code == Some(0) && !matches!(evidence.result, Some(Err(_)));
    match exited.stop {
        Some(StopCause::Timeout) => return (OutcomeReason::TimedOut, None),
        Some(StopCause::Request) => return (OutcomeReason::Cancelled, evidence.stop_requested.clone()),
        None => {}
    }
    if let Some(signal) = exited.signal {
        return (
            OutcomeReason::Crashed,
            Some(format!(
                "ended by signal {signal}, which did not come from agentd"
            )),
        );
    }
    match &evidence.result {
        Some(Err(why)) => (OutcomeReason::Failed, Some(why.clone())),
        _ if evidence.unmerged.is_some() => (OutcomeReason::Failed, evidence.unmerged.clone()),
        _ if well => (OutcomeReason::Completed, None),
        _ => (OutcomeReason::Failed, None),
    }
}

/// The same in a sentence.
pub(crate) fn sentence(outcome: &SessionOutcome) -> String {
    let how = match (outcome.exit_code, outcome.signal) {
        (_, Some(signal)) => format!(" (signal {signal})"),
        (Some(code), None) => format!(" (exit status {code})"),
        (None, None) => String::new(),
    };
    let what = match outcome.reason {
        OutcomeReason::Completed => "the session completed",
        // Its program ended well: what it was for did not happen.
        OutcomeReason::Failed if outcome.exit_code == Some(0) => "the session failed",
        OutcomeReason::Failed => "the agent failed",
        OutcomeReason::TimedOut => "the agent took longer than it may",
        OutcomeReason::Cancelled => "the session was stopped",
        OutcomeReason::Crashed => "the agent crashed",
        OutcomeReason::SetupFailed => "the agent did not begin",
        OutcomeReason::OutOfMemory => "the agent ran out of memory",
        OutcomeReason::Lost => "the session was lost",
    };
    let more = outcome.message.as_ref().map(|message| format!(": {message}"));
    format!("{what}{how}{}", more.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(exited: Exited) -> Evidence {
        Evidence {
            exited,
            ..Evidence::default()
        }
    }

    fn code(code: i32) -> Exited {
        Exited {
            code: Some(code),
            ..Exited::default()
        }
    }

    fn signal(signal: i32) -> Exited {
        Exited {
            signal: Some(signal),
            ..Exited::default()
        }
    }

    #[test]
    fn the_reason_follows_from_all_that_is_known() {
        use OutcomeReason as R;
        let stopped = |exited: Exited, stop| Exited {
            stop: Some(stop),
            ..exited
        };
        let oom = |exited: Exited| Exited {
            oom_kills: 1,
            ..exited
        };
        for (exited, expected) in [
            (code(0), R::Completed),
            (code(1), R::Failed),
            (code(137), R::Failed),
            (signal(11), R::Crashed),
            (signal(9), R::Crashed),
            (oom(signal(9)), R::OutOfMemory),
            (oom(code(137)), R::OutOfMemory),
            // A child was killed for memory, and the agent coped.
            (oom(code(0)), R::Completed),
            (oom(code(1)), R::Failed),
            // Programs that catch TERM and exit with 0 were stopped all the same.
            (stopped(code(0), StopCause::Timeout), R::TimedOut),
            (stopped(code(143), StopCause::Request), R::Cancelled),
            (stopped(signal(9), StopCause::Request), R::Cancelled),
            (oom(stopped(signal(9), StopCause::Timeout)), R::TimedOut),
            (
                Exited {
                    start_error: Some("no such image".into()),
                    ..Exited::default()
                },
                R::SetupFailed,
            ),
            (
                Exited {
                    lost: Some("its monitor was killed".into()),
                    ..Exited::default()
                },
                R::Lost,
            ),
        ] {
            assert_eq!(decide(&ended(exited.clone())).reason, expected, "{exited:?}");
        }
    }

    #[test]
    fn a_result_that_cannot_be_used_is_a_failure() {
        let mut evidence = ended(code(0));
        evidence.result = Some(Err("result.json is not JSON".into()));
        let outcome = decide(&evidence);
        assert_eq!(outcome.reason, OutcomeReason::Failed);
        assert!(outcome.message.unwrap().contains("not JSON"));
        evidence.result = Some(Ok(Json::empty_object()));
        assert_eq!(decide(&evidence).reason, OutcomeReason::Completed);
        // The agent did its part, and what was wanted did not happen.
        evidence.unmerged = Some("not merged: main has changes".into());
        let outcome = decide(&evidence);
        assert_eq!(outcome.reason, OutcomeReason::Failed);
        assert!(outcome.message.unwrap().contains("not merged"));
    }
}
