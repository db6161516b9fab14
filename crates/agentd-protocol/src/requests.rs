//! The parameters of every method, with the bounds that they are held to.

mod journal;
mod locks;
mod nodes;
mod sessions;
mod tasks;

pub use self::journal::*;
pub use self::locks::*;
pub use self::nodes::*;
pub use self::sessions::*;
pub use self::tasks::*;

use crate::limits;
use crate::node::NodeSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Parameters that a client may have sent.
pub trait Params {
    /// Checks what types cannot say: lengths, ranges, counts.
    ///
    /// # Errors
    /// A sentence that names the field and the bound.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

fn length(field: &str, text: &str, bytes_max: usize) -> Result<(), String> {
    if text.len() > bytes_max {
        return Err(format!(
            "{field} has {} bytes; at most {bytes_max} are allowed",
            text.len()
        ));
    }
    Ok(())
}

fn name(field: &str, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("{field} is empty"));
    }
    length(field, text, limits::NAME_BYTES_MAX)
}

/// Checks an agent's name: it becomes the name of a directory and of a home.
///
/// # Errors
/// A sentence that says what a name may be.
pub fn agent_name(text: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if text.is_empty()
        || text.len() > limits::AGENT_NAME_BYTES_MAX
        || !text.chars().all(allowed)
        || !text.starts_with(|c: char| c.is_ascii_lowercase())
    {
        return Err(format!(
            "{text:?} cannot be an agent's name: 1 to {} of a-z, 0-9, - and _, beginning with a letter",
            limits::AGENT_NAME_BYTES_MAX
        ));
    }
    Ok(())
}

fn within(field: &str, value: Option<u64>, min: u64, max: u64) -> Result<(), String> {
    match value {
        Some(value) if !(min..=max).contains(&value) => {
            Err(format!("{field} is {value}; it must be between {min} and {max}"))
        }
        _ => Ok(()),
    }
}

fn lease_secs(field: &str, value: Option<u64>) -> Result<(), String> {
    within(field, value, limits::LEASE_SECS_MIN, limits::LEASE_SECS_MAX)
}

fn page(limit: Option<u32>) -> Result<(), String> {
    within("limit", limit.map(u64::from), 1, u64::from(limits::PAGE_MAX))
}

fn capabilities(names: &[String]) -> Result<(), String> {
    if names.len() > limits::CAPABILITIES_MAX {
        return Err(format!(
            "capabilities has {} names; at most {} are allowed",
            names.len(),
            limits::CAPABILITIES_MAX
        ));
    }
    for capability in names {
        name("a capability", capability)?;
        if capability.contains(|c: char| c.is_control() || c == ',') {
            return Err(format!(
                "the capability {capability:?} contains a comma or a control character"
            ));
        }
    }
    Ok(())
}

fn idempotency_key(key: Option<&String>) -> Result<(), String> {
    match key {
        Some(key) if key.is_empty() => Err("idempotency_key is empty".into()),
        Some(key) => length("idempotency_key", key, limits::IDEMPOTENCY_KEY_BYTES_MAX),
        None => Ok(()),
    }
}

fn nodes(field: &str, specs: &[NodeSpec]) -> Result<(), String> {
    if specs.len() > limits::NODES_PER_REQUEST_MAX {
        return Err(format!(
            "{field} has {} nodes; at most {} are allowed in one request (add the others with AddNodes)",
            specs.len(),
            limits::NODES_PER_REQUEST_MAX
        ));
    }
    for spec in specs {
        if let Some(text) = &spec.name {
            name("a node's name", text)?;
        }
        if let Some(text) = &spec.fingerprint {
            name("a node's fingerprint", text)?;
        }
        capabilities(&spec.capabilities)?;
        if let Some(retry) = spec.retry {
            within(
                "max_attempts",
                Some(retry.max_attempts.into()),
                1,
                limits::ATTEMPTS_MAX.into(),
            )?;
            let max_ms = limits::BACKOFF_SECS_MAX * 1000;
            if retry.backoff_secs.ms > max_ms || retry.backoff_max_secs.is_some_and(|secs| secs.ms > max_ms) {
                return Err(format!(
                    "a backoff is longer than {} seconds",
                    limits::BACKOFF_SECS_MAX
                ));
            }
        }
        let command = match &spec.work {
            Some(crate::node::Work::Command(command)) => Some(command),
            Some(crate::node::Work::Agent(work)) => work.command.as_ref(),
            None => None,
        };
        if let Some(crate::node::Work::Agent(work)) = &spec.work {
            if let Some(path) = work
                .read
                .iter()
                .find(|path| !path.starts_with('/') || path.contains('\0'))
            {
                return Err(format!(
                    "what a session is to read must be an absolute path, not {path:?}"
                ));
            }
            if let Some(agent) = &work.agent {
                agent_name(agent)?;
            }
            if let Some(base) = &work.base {
                name("a node's base", base)?;
            }
            length(
                "a node's prompt",
                work.prompt.as_deref().unwrap_or_default(),
                limits::PROMPT_BYTES_MAX,
            )?;
        }
        if let Some(command) = command {
            runnable(command)?;
        }
    }
    Ok(())
}

fn runnable(command: &crate::node::CommandWork) -> Result<(), String> {
    if command.argv.first().is_none_or(String::is_empty) {
        return Err("a command's argv names no program".into());
    }
    if !command.cwd.starts_with('/') {
        return Err(format!(
            "a command's cwd must be an absolute path, not {:?}",
            command.cwd
        ));
    }
    let texts = command
        .argv
        .iter()
        .chain(command.env.keys())
        .chain(command.env.values());
    if texts.chain([&command.cwd]).any(|text| text.contains('\0')) {
        return Err("a command's argv, cwd or env contains a NUL character".into());
    }
    if command.env.keys().any(|key| key.is_empty() || key.contains('=')) {
        return Err("a command's env has a name that is empty or contains '='".into());
    }
    Ok(())
}

/// A method without parameters. Whatever is sent is ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NoParams {}

impl Params for NoParams {}

/// Names a file on the daemon's machine.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FileRef {
    /// An absolute path.
    pub path: String,
}

impl Params for FileRef {
    fn check(&self) -> Result<(), String> {
        length("path", &self.path, 4096)?;
        if !self.path.starts_with('/') || self.path.contains('\0') {
            return Err(format!("path must be absolute, not {:?}", self.path));
        }
        Ok(())
    }
}
