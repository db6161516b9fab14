//! What went wrong, in words that a model can act on: what happened, whose fault it is, what to do.

use std::time::Duration;

/// Why a tool has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// The call itself is wrong; nothing was sent.
    #[error("{0}")]
    Arguments(String),
    #[error(transparent)]
    Forge(#[from] ForgeError),
}

impl ToolError {
    /// Something is wrong with one argument.
    pub(crate) fn argument(name: &str, wrong: impl std::fmt::Display) -> Self {
        Self::Arguments(format!("argument {name}: {wrong}"))
    }
}

/// Why the forge gave no answer that could be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForgeError {
    #[error("{}{}", told(*.status, .message), hint(*.status, *.anonymous, *.write))]
    Status {
        status: u16,
        message: String,
        anonymous: bool,
        write: bool,
    },
    #[error("the forge limits the rate of requests (429){}", when(*.retry_after))]
    RateLimited { retry_after: Option<Duration> },
    #[error(
        "the forge could not be reached ({reason}): nothing was done. Try once more; if it stays so, the forge is down or FORGEJO_URL is wrong"
    )]
    Unreachable { reason: String },
    #[error("the forge did not answer within {seconds} s{}", outcome(*.write))]
    Timeout { seconds: u64, write: bool },
    #[error("the forge's answer broke off ({reason}){}", outcome(*.write))]
    BrokenOff { reason: String, write: bool },
    #[error("the forge's answer is larger than {bytes_max} bytes: ask for less, with a smaller limit or a narrower filter{}", done(*.write))]
    TooLarge { bytes_max: usize, write: bool },
    #[error("the forge's answer is not what its API promises ({reason}){}: is FORGEJO_URL a Forgejo or Gitea?", done(*.write))]
    Unintelligible { reason: String, write: bool },
    #[error("the forge points to another place, {to}, where the token is not sent: {hint}")]
    Redirected { to: String, hint: &'static str },
}

impl ForgeError {
    /// Whether the forge says that the thing does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status: 404, .. })
    }

    /// Whether a read may be tried again at once: the fault is likely to pass.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 502..=504),
            Self::Unreachable { .. } | Self::BrokenOff { .. } => true,
            Self::RateLimited { .. }
            | Self::Timeout { .. }
            | Self::TooLarge { .. }
            | Self::Unintelligible { .. }
            | Self::Redirected { .. } => false,
        }
    }
}

fn told(status: u16, message: &str) -> String {
    // More is said after it.
    let message = message.trim_end_matches(['.', ' ']);
    if message.is_empty() {
        format!("the forge refused ({status})")
    } else {
        format!("the forge refused ({status}): {message}")
    }
}

fn hint(status: u16, anonymous: bool, write: bool) -> &'static str {
    match status {
        401 | 403 | 404 if anonymous => {
            ". This server has no token (FORGEJO_TOKEN): only what is public can be seen, and nothing written"
        }
        401 => ". The token is wrong or has expired: only who runs this server can change that",
        403 => ". The token may not do this: it lacks the permission on the repository or the scope",
        404 => {
            ". It does not exist, or the token may not see it: check owner, repo and the number or name, with a list or a search"
        }
        405 if !write => {
            ". What answers there does not let this be read, which every Forgejo and Gitea does: is FORGEJO_URL one, with the whole path to it? Only who runs this server can change that"
        }
        405 => {
            ". The forge does not allow this now (a pull request that is a draft, has conflicts or lacks approvals or checks): read it before you try again"
        }
        409 => ". It exists already, or changed meanwhile: read it again, then decide",
        412 => ". A condition is not met: read it again, then decide",
        413 => ". It is too large, or a quota is used up",
        422 => ". A value is not acceptable: change it",
        423 => ". The repository is archived or locked: nothing can be written there",
        500..=599 => ". The fault is the forge's: try later",
        _ => "",
    }
}

fn when(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(after) => {
            let seconds = after.as_secs().max(1);
            let at = jiff::Timestamp::now()
                .checked_add(jiff::SignedDuration::from_secs(
                    i64::try_from(seconds).unwrap_or(i64::MAX),
                ))
                .map(|at| format!(", at {}", at.strftime("%H:%M:%S UTC")))
                .unwrap_or_default();
            format!(". Nothing was done; try again in {seconds} s{at}, not before")
        }
        None => {
            ". Nothing was done; it does not say until when: wait a minute before you try again".to_owned()
        }
    }
}

fn outcome(write: bool) -> &'static str {
    if write {
        ". Whether the change was made is not known: read before you try again"
    } else {
        ". Nothing was changed: try again, or ask for less"
    }
}

fn done(write: bool) -> &'static str {
    if write {
        " (the change was made; do not repeat it)"
    } else {
        ""
    }
}
