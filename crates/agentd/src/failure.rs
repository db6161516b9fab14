//! How a command ends: the one table of exit codes, and the error that a person or a program reads.

use agentd_client::ClientError;
use agentd_protocol::error::code;
use agentd_protocol::{Reason, RpcError};
use std::fmt;
use std::path::Path;

/// What the program ends with. The numbers from 64 on are those of `sysexits.h`, of `timeout(1)` and of the
/// shells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It worked.
    Ok,
    /// It was refused, or what was run has failed.
    Failed,
    /// agentd's own fault, or its database's.
    Internal,
    /// The command line makes no sense.
    Usage,
    /// A file or an argument that was given cannot be used: a plan, a piece of JSON.
    BadInput,
    /// No daemon answers.
    Unreachable,
    /// Not now: a lock is held, nothing is runnable, the daemon is busy; the same again later may work.
    TryAgain,
    /// The caller's role, or the file system, forbids it.
    NotPermitted,
    /// The settings cannot be used.
    Config,
    /// The time that was given is over.
    Timeout,
    /// `agentd run` could not run a session, or nobody can know how it ended.
    NoSession,
    /// Ctrl-C.
    Interrupted,
    /// Another program's exit code, passed on.
    Passed(u8),
}

impl Exit {
    /// The table as `--help` shows it.
    pub(crate) const HELP: &str = "\
Exit codes:
  0    it worked
  1    refused, or what was run has failed
  2    agentd's own fault, or its database's
  64   wrong usage
  65   a plan, a piece of JSON or another input cannot be used
  69   no daemon answers
  75   not now: a lock is held (or was lost), no node is runnable, the daemon is busy; try again
  77   not permitted
  78   the settings cannot be used
  124  the time given is over
  125  `run` could not run the session, or it cannot be known how it ended
  130  interrupted
`run` passes on its agent's exit code, and `lock run` its command's (128 + N for signal N, 126 and 127 when the command
cannot be run).";

    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Internal => 2,
            Self::Usage => 64,
            Self::BadInput => 65,
            Self::Unreachable => 69,
            Self::TryAgain => 75,
            Self::NotPermitted => 77,
            Self::Config => 78,
            Self::Timeout => 124,
            Self::NoSession => 125,
            Self::Interrupted => 130,
            Self::Passed(number) => number,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.number().into()
    }
}

/// What went wrong, what to do about it, and the exit code.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    /// The next step.
    pub(crate) hint: Option<String>,
    /// The daemon's reason, for programs.
    pub(crate) reason: Option<Reason>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
            reason: None,
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn bad_input(message: impl Into<String>) -> Self {
        Self::new(Exit::BadInput, message)
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(Exit::Config, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Exit::Internal, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A file could not be read or written.
    pub(crate) fn file(doing: &str, path: &Path, error: &std::io::Error) -> Self {
        let exit = match error.kind() {
            std::io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            _ => Exit::BadInput,
        };
        Self::new(exit, format!("cannot {doing} {}: {error}", path.display()))
    }

    /// For programs: one JSON object.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let mut error = serde_json::json!({ "exit_code": self.exit.number(), "message": self.message });
        if let Some(hint) = &self.hint {
            error["hint"] = hint.as_str().into();
        }
        if let Some(reason) = self.reason {
            error["reason"] = serde_json::json!(reason);
        }
        serde_json::json!({ "error": error })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        let reason = error.reason();
        let exit = match (reason, error.code) {
            (Some(Reason::Forbidden), _) => Exit::NotPermitted,
            (Some(Reason::Busy | Reason::ShuttingDown), _) => Exit::TryAgain,
            (Some(Reason::Storage), _) | (_, code::INTERNAL) => Exit::Internal,
            (Some(Reason::BadFile), _) => Exit::BadInput,
            (_, code::PARSE | code::INVALID_REQUEST | code::BAD_PARAMS | code::LINE_TOO_LONG) => {
                Exit::BadInput
            }
            (_, code::UNKNOWN_METHOD) => Exit::Usage,
            _ => Exit::Failed,
        };
        let hint = match reason {
            Some(Reason::Forbidden) => Some("`agentd whoami` says what you may do, and why"),
            Some(Reason::TaskNotFound) => Some("`agentd task list` shows the tasks there are"),
            Some(Reason::NodeNotFound) => Some("`agentd task status TASK` shows its nodes"),
            Some(Reason::SessionNotFound) => Some("`agentd sessions` lists the sessions there are"),
            Some(Reason::AgentNotFound) => Some("`agentd agents` lists the agents that are declared"),
            Some(Reason::Storage) => Some(
                "make room if the disk is full; the daemon's log says more, and `agentd db check` looks for damage",
            ),
            _ => None,
        };
        Self {
            exit,
            message: error.message,
            hint: hint.map(str::to_owned),
            reason,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Rpc(error) => error.into(),
            ClientError::Connect { path, source } => unreachable(&path, &source),
            error @ (ClientError::Io(_) | ClientError::Closed) => Self::new(
                Exit::Unreachable,
                format!("the daemon went away in the middle: {error}"),
            )
            .hint("what it had acknowledged is safe; try again when it is back"),
            error => Self::internal(error.to_string()),
        }
    }
}

fn unreachable(path: &Path, source: &std::io::Error) -> Failure {
    use std::io::ErrorKind;
    let shown = path.display();
    match source.kind() {
        ErrorKind::NotFound => {
            Failure::new(Exit::Unreachable, format!("no daemon runs: there is no {shown}"))
                .hint("start one with `agentd`, or name its socket with --socket or AGENTD_SOCKET_PATH")
        }
        ErrorKind::ConnectionRefused => Failure::new(
            Exit::Unreachable,
            format!("no daemon runs: nobody listens on {shown}"),
        )
        .hint("start one with `agentd`"),
        ErrorKind::PermissionDenied => {
            Failure::new(Exit::NotPermitted, format!("you may not connect to {shown}"))
                .hint("its owner can let you in through the file's group and directory")
        }
        _ => Failure::new(Exit::Unreachable, format!("cannot connect to {shown}: {source}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_code() {
        let all = [
            Exit::Ok,
            Exit::Failed,
            Exit::Internal,
            Exit::Usage,
            Exit::BadInput,
            Exit::Unreachable,
            Exit::TryAgain,
            Exit::NotPermitted,
            Exit::Config,
            Exit::Timeout,
            Exit::NoSession,
            Exit::Interrupted,
        ];
        for exit in all {
            let line = format!("\n  {:<3}  ", exit.number());
            assert!(Exit::HELP.contains(&line), "{exit:?} is missing from the table");
        }
    }

    #[test]
    fn refusals_have_the_code_of_whose_fault_they_are() {
        let exit = |error: RpcError| Failure::from(error).exit;
        assert_eq!(exit(RpcError::refused(Reason::StaleLease, "")), Exit::Failed);
        assert_eq!(exit(RpcError::refused(Reason::Forbidden, "")), Exit::NotPermitted);
        assert_eq!(exit(RpcError::refused(Reason::Busy, "")), Exit::TryAgain);
        assert_eq!(
            exit(RpcError::new(code::INTERNAL, Reason::Storage, "")),
            Exit::Internal
        );
        assert_eq!(exit(RpcError::bad_params("")), Exit::BadInput);
        assert_eq!(
            exit(RpcError::new(code::UNKNOWN_METHOD, Reason::BadRequest, "")),
            Exit::Usage
        );
    }

    #[test]
    fn no_daemon_is_said_with_the_next_step() {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        let failure = Failure::from(ClientError::Connect {
            path: "/run/a.sock".into(),
            source,
        });
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(failure.message.contains("/run/a.sock"));
        assert!(failure.hint.unwrap().contains("`agentd`"));
    }
}
