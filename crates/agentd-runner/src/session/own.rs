//! agentd's own files: its configuration, socket, secrets and other agents' homes. An agent in a container is shown none of
//! them, since with them it could read what others have, and declare agents that are in no container.

use super::error::StepError;
use agentd_config::{Agent, RuntimeKind, WorkspaceMode};
use std::path::Path;

/// Looks at all that an agent declares to be mounted; the key with each that would show agentd's own files, which are in
/// `own`. Nothing for an agent that is no container: it sees what its user may.
#[must_use]
pub fn examine(agent: &Agent, own: &[&Path]) -> Vec<(&'static str, StepError)> {
    if agent.runtime != RuntimeKind::Podman {
        return Vec::new();
    }
    // A worktree has only what is in the repository.
    let workspace = agent
        .workspace
        .iter()
        .filter(|_| agent.workspace_mode == WorkspaceMode::Directory)
        .map(|path| ("workspace", path));
    let context = agent.context.iter().map(|path| ("context", path));
    let skills = agent.skills.iter().map(|path| ("skills", path));
    workspace
        .chain(context)
        .chain(skills)
        .filter_map(|(key, path)| {
            // What is not there is told by whoever uses it.
            let real = path.canonicalize().ok()?;
            Some((key, refuse(path, &real, own).err()?))
        })
        .collect()
}

/// # Errors
/// When `path`, which really is `real`, is, holds or is in a directory of `own`.
pub(super) fn refuse(path: &Path, real: &Path, own: &[&Path]) -> Result<(), StepError> {
    for own in own {
        let own = own.canonicalize().unwrap_or_else(|_| own.to_path_buf());
        if own.starts_with(real) || real.starts_with(&own) {
            return Err(StepError::declaration(format!(
                "{} cannot be seen inside: agentd's own files are in {}",
                path.display(),
                own.display()
            )));
        }
    }
    Ok(())
}
