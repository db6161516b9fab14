//! Files that no session would see, because it has something of its own at their places.

use super::tree::{Entry, Origin, Tree};
use crate::failure::Failure;
use agentd_runner::runtime::podman::PLACES;
use std::path::Path;

/// The places that the kernel fills. A copy of a whole system has links and empty files there.
const KERNELS: [&str; 3] = ["/dev", "/proc", "/sys"];

/// The session's own place that a path of the image lies in, with or without a slash at its beginning.
pub(super) fn taken(path: &Path) -> Option<&'static str> {
    let path = Path::new("/").join(path);
    PLACES.into_iter().find(|place| path.starts_with(place))
}

/// Leaves out what the kernel has in every container, and refuses what an agent would look for in vain. `dir` is where the
/// tree's own files are.
///
/// # Errors
/// With the first of them.
pub(super) fn check(tree: &mut Tree, dir: &Path) -> Result<(), Failure> {
    let is_hidden = |entry: &Entry| !matches!(entry, Entry::Directory { .. });
    let mut left_out = Vec::new();
    for (path, entry) in &tree.entries {
        let Some(place) = taken(path).filter(|_| is_hidden(entry)) else {
            continue;
        };
        if KERNELS.contains(&place) {
            left_out.push(path.clone());
            continue;
        }
        let inside = Path::new("/").join(path);
        let source = match entry {
            Entry::File {
                from: Origin::Host(file),
                ..
            } => file.clone(),
            _ => dir.join(path),
        };
        let message = format!(
            "{} would be {} in the image, and no agent would see it: a session has a {place} of its own",
            source.display(),
            inside.display()
        );
        return Err(Failure::bad_input(message).hint(
            "put it into another place of the directory, such as opt; of a program, what it needs has to be elsewhere, too",
        ));
    }
    for path in left_out {
        tree.entries.remove(&path);
        tree.skip(&dir.join(path), "where a container has the kernel's files");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_whole_names() {
        assert_eq!(taken(Path::new("tmp/x")), Some("/tmp"));
        assert_eq!(taken(Path::new("/var/tmp/x")), Some("/var/tmp"));
        assert_eq!(taken(Path::new("home/me/bin/x")), Some("/home"));
        assert_eq!(taken(Path::new("workspace/x")), Some("/workspace"));
        for free in ["tmpfiles/x", "var/lib/x", "opt/tmp/x", "running"] {
            assert_eq!(taken(Path::new(free)), None, "{free}");
        }
    }
}
