//! What every git of a session finds as its machine-wide settings, below the repository's own and the agent's.

use crate::runtime::engine::Inside;
use std::path::Path;

/// Its file, in the run directory.
pub(super) const GIT_CONFIG_FILE: &str = "gitconfig";
/// The variable that names the file to git (2.32 and later).
pub(super) const GIT_CONFIG_VARIABLE: &str = "GIT_CONFIG_SYSTEM";

/// An identity for commits, at an address that is nobody's (RFC 2606 reserves `.invalid`), unless the repository, the
/// agent or the machine has one. Commits are not signed unless the agent's own settings say so: the machine's say it of
/// keys that the agent does not have. A workspace of another user's is one that git may look at.
pub(super) fn text(home_name: &str, inside: &Inside) -> String {
    let directory = quoted(&inside.workdir);
    format!(
        "[user]\n\tname = {home_name}\n\temail = {home_name}@agentd.invalid\n[include]\n\tpath = /etc/gitconfig\n\
         [commit]\n\tgpgSign = false\n[tag]\n\tgpgSign = false\n\tforceSignAnnotated = false\n\
         [safe]\n\tdirectory = {directory}\n"
    )
}

fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", path.replace('\n', "\\n"))
}
