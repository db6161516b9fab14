//! How sessions ended: in words, and as `agentd run`'s exit code.

use crate::console::{Tone, one_line};
use crate::failure::Exit;
use agentd_protocol::{
    AgentInfo, OutcomeReason, RuntimeCapabilities, SessionInfo, SessionOutcome, SessionPhase,
};

/// The exit code of `agentd run`: the agent's own where it has one.
pub(in crate::cli) fn exit(outcome: &SessionOutcome) -> Exit {
    let number = |number: i32| u8::try_from(number).ok().filter(|number| *number > 0);
    match outcome.reason {
        OutcomeReason::Completed => Exit::Ok,
        // Its result may say that it failed although its exit code does not.
        OutcomeReason::Failed => outcome
            .exit_code
            .and_then(number)
            .map_or(Exit::Failed, Exit::Passed),
        OutcomeReason::TimedOut => Exit::Timeout,
        OutcomeReason::Cancelled => Exit::Interrupted,
        OutcomeReason::Crashed => {
            let signal = outcome.signal.and_then(|signal| number(128 + signal));
            signal
                .or_else(|| outcome.exit_code.and_then(number))
                .map_or(Exit::Failed, Exit::Passed)
        }
        // SIGKILL, as a shell shows it.
        OutcomeReason::OutOfMemory => Exit::Passed(137),
        OutcomeReason::SetupFailed | OutcomeReason::Lost => Exit::NoSession,
    }
}

/// How it ended, in a few words and its own message.
pub(in crate::cli) fn verdict(outcome: &SessionOutcome) -> String {
    let text = match (outcome.reason, outcome.exit_code, outcome.signal) {
        (OutcomeReason::Completed, ..) => "completed".into(),
        (OutcomeReason::Failed, Some(code), _) if code != 0 => format!("failed with exit code {code}"),
        (OutcomeReason::Failed, ..) => "failed, as its result says".into(),
        (OutcomeReason::TimedOut, ..) => "timed out".into(),
        (OutcomeReason::Cancelled, ..) => "was cancelled".into(),
        (OutcomeReason::Crashed, _, Some(signal)) => format!("crashed by signal {signal}"),
        (OutcomeReason::Crashed, ..) => "crashed".into(),
        (OutcomeReason::SetupFailed, ..) => "did not begin: its set-up failed".into(),
        (OutcomeReason::OutOfMemory, ..) => "used more memory than it may, and was ended".into(),
        (OutcomeReason::Lost, ..) => "was lost: how it ended cannot be known".into(),
    };
    match &outcome.message {
        Some(message) if !message.is_empty() => format!("{text}: {}", one_line(message)),
        _ => text,
    }
}

/// The next step, where its own message names none: an engine that starts no container says only that.
pub(in crate::cli) fn hint(session: &SessionInfo) -> Option<&'static str> {
    let ended = session.outcome.as_ref()?;
    let begins = |phase: &str| {
        ended
            .message
            .as_deref()
            .is_some_and(|message| message.starts_with(phase))
    };
    let engine = session.runtime.as_deref() == Some("podman") && (begins("start: ") || begins("runtime: "));
    (ended.reason == OutcomeReason::SetupFailed && engine)
        .then_some("`agentd doctor` tries a container on this machine, and says what mends it")
}

/// Where a session stands, in one word, and how that is to look.
pub(in crate::cli) fn state(session: &SessionInfo) -> (String, Tone) {
    match (&session.outcome, session.phase) {
        (Some(outcome), SessionPhase::Ended) => {
            let tone = match outcome.reason {
                OutcomeReason::Completed => Tone::Good,
                OutcomeReason::Cancelled => Tone::Plain,
                _ => Tone::Bad,
            };
            (outcome.reason.to_string(), tone)
        }
        (_, phase) => {
            let tone = match phase {
                SessionPhase::Queued | SessionPhase::Ended => Tone::Faint,
                _ => Tone::Active,
            };
            (phase.to_string(), tone)
        }
    }
}

/// Which isolation is in effect, said plainly.
pub(in crate::cli) fn isolation(runtime: &str, capabilities: RuntimeCapabilities, root: bool) -> String {
    match (capabilities.isolation, runtime) {
        (true, "podman") => "podman container".into(),
        (true, other) => format!("isolated by {}", one_line(other)),
        (false, _) if root => "no isolation: a process on this machine".into(),
        (false, _) => "no isolation: runs as your user".into(),
    }
}

/// The names of what a runtime can do.
pub(in crate::cli) fn capabilities(agent: &AgentInfo) -> Vec<&'static str> {
    let can = &agent.runtime_capabilities;
    [
        (can.isolation, "isolation"),
        (can.network_policy, "network_policy"),
        (can.limits, "limits"),
        (can.logs, "logs"),
        (can.stop, "stop"),
        (can.adopt, "adopt"),
        (can.attach, "attach"),
        (can.exec, "exec"),
        (can.files, "files"),
        (can.resume, "resume"),
    ]
    .into_iter()
    .filter_map(|(has, name)| has.then_some(name))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(reason: OutcomeReason, exit_code: Option<i32>, signal: Option<i32>) -> SessionOutcome {
        SessionOutcome {
            reason,
            exit_code,
            signal,
            message: None,
            result: None,
        }
    }

    #[test]
    fn every_outcome_has_its_exit_code() {
        use OutcomeReason as R;
        for (reason, code, signal, expected) in [
            (R::Completed, Some(0), None, 0),
            (R::Completed, Some(3), None, 0),
            (R::Failed, Some(3), None, 3),
            (R::Failed, Some(255), None, 255),
            (R::Failed, Some(0), None, 1),
            (R::Failed, None, None, 1),
            (R::Failed, Some(256), None, 1),
            (R::TimedOut, Some(0), Some(15), 124),
            (R::Cancelled, Some(143), None, 130),
            (R::Crashed, None, Some(11), 139),
            (R::Crashed, Some(139), None, 139),
            (R::Crashed, None, None, 1),
            (R::OutOfMemory, None, Some(9), 137),
            (R::SetupFailed, None, None, 125),
            (R::Lost, None, None, 125),
        ] {
            let number = exit(&outcome(reason, code, signal)).number();
            assert_eq!(number, expected, "{reason} {code:?} {signal:?}");
        }
        for reason in R::ALL {
            let completed = exit(&outcome(reason, None, None)) == Exit::Ok;
            assert_eq!(completed, reason == R::Completed);
        }
    }

    #[test]
    fn verdicts_are_said_with_their_message() {
        let mut failed = outcome(OutcomeReason::Failed, Some(3), None);
        assert_eq!(verdict(&failed), "failed with exit code 3");
        failed.exit_code = Some(0);
        failed.message = Some("no\x1b tests\nhere".into());
        assert_eq!(
            verdict(&failed),
            "failed, as its result says: no\u{fffd} tests here"
        );
        assert_eq!(
            verdict(&outcome(OutcomeReason::Crashed, None, Some(11))),
            "crashed by signal 11"
        );
    }

    #[test]
    fn isolation_is_said_plainly() {
        let none = RuntimeCapabilities::default();
        let some = RuntimeCapabilities {
            isolation: true,
            ..none
        };
        assert_eq!(isolation("podman", some, false), "podman container");
        assert_eq!(isolation("vm", some, false), "isolated by vm");
        assert_eq!(
            isolation("process", none, false),
            "no isolation: runs as your user"
        );
        assert!(isolation("process", none, true).starts_with("no isolation"));
    }
}
