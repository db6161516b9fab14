//! How a user is let into a workspace that belongs to another: as a command that can be run as it is printed.

use agentd_supervisor::access::{Denied, Want};
use agentd_supervisor::shell;
use rustix::io::Errno;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What gives `user` what it was denied, to read or to write, or another way out where no right would help. `path`: where
/// programs are looked for.
pub(crate) fn advice(denied: &Denied, place: &Path, user: u32, want: Want, path: &str) -> String {
    const PODMAN: &str = "choose the runtime podman, which works as the workspace's owner";
    if denied.own.is_some() && !denied.lacks_right() {
        return format!("no right would let it in there: choose another workspace, or {PODMAN}");
    }
    let mut commands = Vec::new();
    let mut uses_lists = false;
    let closed = &denied.closed;
    if !closed.is_empty() {
        if closed.iter().all(|dir| has_access_lists(dir)) {
            uses_lists = true;
            commands.push(format!("setfacl -m u:{user}:x {}", shell::words(closed)));
        } else {
            commands.push(super::opening(closed));
        }
    }
    let word = shell::word(place);
    if denied.own.is_some() {
        let rights = if want == Want::Write { "rwX" } else { "rX" };
        if has_access_lists(place) {
            uses_lists = true;
            let owner = owner_keeps(place, want);
            commands.push(format!(
                "setfacl -R -m u:{user}:{rights} -m d:u:{user}:{rights}{owner} {word}"
            ));
        } else if want == Want::Write {
            commands.push(format!("chown -R {user}:{user} {word}"));
        } else {
            commands.push(format!("chmod -R a+rX {word}"));
        }
    }
    let missing = match uses_lists && !is_installed("setfacl", path) {
        true => " (setfacl is not installed: it is in the package acl)",
        false => "",
    };
    format!("`{}` lets it{missing}, or {PODMAN}", commands.join(" && "))
}

/// What lets the owner go on writing to what the other user makes there; root needs nothing.
fn owner_keeps(place: &Path, want: Want) -> String {
    let owner = place.metadata().map_or(0, |found| found.uid());
    match want {
        Want::Write if owner != 0 => format!(" -m d:u:{owner}:rwX"),
        _ => String::new(),
    }
}

/// Whether the file system keeps access lists.
fn has_access_lists(path: &Path) -> bool {
    let list = rustix::fs::getxattr(path, "system.posix_acl_access", &mut [0_u8; 0][..]);
    !matches!(list, Err(Errno::OPNOTSUPP))
}

fn is_installed(program: &str, path: &str) -> bool {
    std::env::split_paths(path).any(|dir| dir.join(program).is_file())
}
