//! What cannot work, said before anything is started.

use super::{GVISOR_PIDS_MIN, Podman, RUN_DIR, SECRETS_DIR, arguments};
use crate::runtime::engine::{EngineError, Problem};
use agentd_config::{Agent, Network};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path};

/// The most of an image's name.
const IMAGE_BYTES_MAX: usize = 512;

struct Problems(Vec<Problem>);

impl Problems {
    fn fatal(&mut self, key: &'static str, message: impl Into<String>) {
        let message = message.into();
        self.0.push(Problem {
            key,
            message,
            fatal: true,
        });
    }

    fn note(&mut self, key: &'static str, message: impl Into<String>) {
        let message = message.into();
        self.0.push(Problem {
            key,
            message,
            fatal: false,
        });
    }
}

pub(super) fn check(podman: &Podman, agent: &Agent) -> Vec<Problem> {
    let mut problems = Problems(Vec::new());
    image(agent, &mut problems);
    workdir(agent, &mut problems);
    paths(agent, &mut problems);
    gvisor(podman, agent, &mut problems);
    engine(podman, agent, &mut problems);
    problems.0
}

fn image(agent: &Agent, problems: &mut Problems) {
    match agent.image.as_deref() {
        None => problems.fatal(
            "image",
            "a container needs an image; `agentd image build DIRECTORY NAME` makes one from a directory",
        ),
        Some(name) if !is_image_name(name) => {
            problems.fatal("image", format!("{name:?} cannot be an image's name"));
        }
        Some(_) => {}
    }
}

/// True for what can be handed to the engine as an image's name. Whether there is such an image is another matter.
pub(super) fn is_image_name(name: &str) -> bool {
    name.len() <= IMAGE_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte))
}

fn workdir(agent: &Agent, problems: &mut Problems) {
    let Some(workdir) = &agent.workdir else { return };
    if !workdir.is_absolute() {
        problems.fatal(
            "workdir",
            "it is a place in the container, and has to begin with /",
        );
    } else if is_taken(workdir) {
        problems.fatal(
            "workdir",
            format!("the container has something else at {}", workdir.display()),
        );
    }
}

/// Places of the container's own, which nothing may be mounted on.
pub(super) fn is_taken(workdir: &Path) -> bool {
    let below = ["/proc", "/sys", "/dev", RUN_DIR, SECRETS_DIR];
    let exactly = ["/", "/run", "/tmp", "/etc", "/home"];
    below.iter().any(|place| workdir.starts_with(place))
        || exactly.iter().any(|place| workdir == Path::new(place))
        || workdir.components().any(|part| part == Component::ParentDir)
}

fn paths(agent: &Agent, problems: &mut Problems) {
    let all = [
        ("workspace", agent.workspace.as_slice()),
        ("workdir", agent.workdir.as_slice()),
        ("context", &agent.context),
        ("skills", &agent.skills),
    ];
    for (key, paths) in all {
        for error in paths.iter().filter_map(|path| arguments::text(path).err()) {
            problems.fatal(key, error.to_string());
        }
    }
}

fn gvisor(podman: &Podman, agent: &Agent, problems: &mut Problems) {
    match podman.gvisor(agent) {
        Ok(None) => return,
        Err(EngineError::Refused(message)) => return problems.fatal("oci_runtime", message),
        Err(error) => return problems.fatal("oci_runtime", error.to_string()),
        Ok(Some(_)) => {}
    }
    match &agent.network {
        Network::Bridge | Network::Named(_) => problems.fatal(
            "network",
            "gVisor is run without a network stack of its own here: choose \"none\", or \"host\", or another \
             oci_runtime",
        ),
        Network::Host if !podman.is_root() => problems.fatal(
            "network",
            "gVisor cannot have the host's network and a user namespace, and an ordinary user's containers need \
             the latter: choose \"none\", or another oci_runtime",
        ),
        Network::Host | Network::None => {}
    }
    if agent.pids.is_some_and(|pids| pids < GVISOR_PIDS_MIN) {
        problems.note(
            "pids",
            format!(
                "gVisor's own threads count, too: with fewer than {GVISOR_PIDS_MIN} its sandbox may not begin"
            ),
        );
    }
    if !podman.is_root() {
        problems.note(
            "oci_runtime",
            "an ordinary user's gVisor has no limits on memory, processes and processors",
        );
        return;
    }
    // Its file server has given up root's rights when it opens what is mounted.
    let ours = [
        ("oci_runtime", &podman.init),
        ("oci_runtime", &podman.settings.mounts),
    ];
    let theirs = agent.context.iter().map(|path| ("context", path));
    let theirs = theirs.chain(agent.skills.iter().map(|path| ("skills", path)));
    for (key, path) in ours.into_iter().chain(theirs) {
        if let Some(dir) = closed_above(path) {
            problems.fatal(
                key,
                format!(
                    "gVisor cannot reach {}: other users may not walk through {}; `chmod o+x` lets them",
                    path.display(),
                    dir.display()
                ),
            );
        }
    }
}

fn engine(podman: &Podman, agent: &Agent, problems: &mut Problems) {
    let facts = match podman.facts() {
        Ok(facts) => facts,
        Err(why) => {
            return problems.fatal("runtime", format!("{} cannot be used: {why}", podman.program()));
        }
    };
    if !facts.subordinate_ids {
        problems.fatal(
            "runtime",
            format!(
                "user {} has no subordinate ids, without which a container has only one user; as root: \
                 `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`, then `podman system migrate`",
                podman.settings.euid
            ),
        );
    }
    match &agent.network {
        Network::Named(name) if !facts.networks.contains(name) => problems.fatal(
            "network",
            format!("there is no network {name:?}; `podman network create {name}` makes one"),
        ),
        Network::Bridge | Network::Named(_) if facts.rootless && !can_make_tunnels() => problems.fatal(
            "network",
            "an ordinary user's containers reach a network through /dev/net/tun, which cannot be opened: choose \
             \"none\" or \"host\"",
        ),
        _ => {}
    }
    for (key, controller, wanted) in [
        ("memory", "memory", true),
        ("pids", "pids", true),
        ("cpus", "cpu", agent.cpus.is_some()),
    ] {
        if wanted && !podman.limits(controller) {
            problems.note(
                key,
                "this machine gives an ordinary user no such limit (it takes control groups of version 2, delegated \
                 to the user): it has no effect",
            );
        }
    }
}

fn can_make_tunnels() -> bool {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .is_ok()
}

/// The first directory on the way to `path` that others cannot walk through.
pub(super) fn closed_above(path: &Path) -> Option<&Path> {
    path.ancestors()
        .skip(1)
        .find(|dir| fs::metadata(dir).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_no_images() {
        for good in ["localhost/agent:1", "a", "docker.io/library/x@sha256:0f", "0f1e"] {
            assert!(is_image_name(good), "{good}");
        }
        for bad in [
            "",
            "-v",
            "--privileged",
            "a b",
            "a\n",
            "/x",
            ":1",
            &"a".repeat(600),
        ] {
            assert!(!is_image_name(bad), "{bad}");
        }
    }

    #[test]
    fn nothing_is_mounted_over_what_the_container_needs() {
        for taken in [
            "/",
            "/run",
            "/run/agentd/x",
            "/run/secrets",
            "/proc/1",
            "/home",
            "/a/../proc",
        ] {
            assert!(is_taken(Path::new(taken)), "{taken}");
        }
        for free in [
            "/workspace",
            "/home/reviewer/repo",
            "/srv/repo",
            "/tmp/x",
            "/running",
        ] {
            assert!(!is_taken(Path::new(free)), "{free}");
        }
    }

    #[test]
    fn a_closed_directory_on_the_way_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o711)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(closed_above(&inner.join("file")), Some(dir.path()));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        assert_ne!(closed_above(&inner.join("file")), Some(dir.path()));
    }
}
