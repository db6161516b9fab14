//! Why a step of a session's set-up or teardown did not work.

use std::io;
use std::path::{Path, PathBuf};

/// Who has to do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Whoever wrote the configuration: an agent's declaration asks for what is not there, or cannot be.
    Declaration,
    /// Whoever keeps the machine: a directory, a permission, a program.
    Machine,
    /// The agent: of what it left, something is in the way.
    Agent,
}

/// A step that did not work. Never holds a secret's value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// Something was refused; the message says what, and what to do.
    #[error("{message}")]
    Refused {
        /// Who has to do something about it.
        fault: Fault,
        /// For people.
        message: String,
    },
    /// The file system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Git refused.
    #[error("git {command} failed in {}: {message}", path.display())]
    Git {
        /// Which of its commands.
        command: String,
        /// Where.
        path: PathBuf,
        /// What it said.
        message: String,
    },
}

impl StepError {
    /// Whoever wrote the configuration has to do something.
    pub(crate) fn declaration(message: impl Into<String>) -> Self {
        Self::Refused {
            fault: Fault::Declaration,
            message: message.into(),
        }
    }

    /// Whoever keeps the machine has to do something.
    pub(crate) fn machine(message: impl Into<String>) -> Self {
        Self::Refused {
            fault: Fault::Machine,
            message: message.into(),
        }
    }

    /// The agent left something in the way.
    pub(crate) fn agent(message: impl Into<String>) -> Self {
        Self::Refused {
            fault: Fault::Agent,
            message: message.into(),
        }
    }

    /// Who has to do something about it.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Refused { fault, .. } => *fault,
            Self::Io { .. } | Self::Git { .. } => Fault::Machine,
        }
    }

    /// For `map_err` on what the file system answers.
    pub(crate) fn io<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            doing,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}
