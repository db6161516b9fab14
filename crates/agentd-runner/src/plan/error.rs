//! What can be wrong with a plan, said so that its author can put it right.

use agentd_config::source::Mistake;
use std::path::PathBuf;

/// A plan that cannot be used as it stands, or that was given the wrong arguments.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The file could not be read.
    #[error("cannot read the plan {}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is the matter.
        why: String,
    },
    /// The file says something that cannot be meant.
    #[error(transparent)]
    Invalid(#[from] Mistake),
    /// The plan is sound; what it was started with is not.
    #[error("{message}")]
    Argument {
        /// The argument, if it is about one.
        name: Option<String>,
        /// What is wrong and what would be right.
        message: String,
    },
}

impl PlanError {
    pub(crate) fn argument(name: Option<&str>, message: impl Into<String>) -> Self {
        Self::Argument {
            name: name.map(str::to_owned),
            message: message.into(),
        }
    }
}
