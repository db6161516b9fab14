//! What cannot work, said before anything is started.

use super::{GVISOR_PIDS_MIN, Podman, RUN_DIR, SECRETS_DIR, arguments};
use crate::runtime::engine::{EngineError, Problem};
use crate::runtime::{closed_above, opening, single_user};
use agentd_config::{Agent, Network};
use std::fs::File;
use std::path::{Component, Path};

/// The most of an image's name.
const IMAGE_BYTES_MAX: usize = 512;

/// Where the engine looks for what runs its containers, besides `PATH`.
const OCI_RUNTIME_DIRS: [&str; 6] = [
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/sbin",
    "/bin",
];

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
    oci_runtime(podman, agent, &mut problems);
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
    let exactly = ["/", "/run", "/tmp", "/var/tmp", "/etc", "/home"];
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
    // Its file server has given up root's rights when it opens what is mounted: it is the first user of a home's range.
    let server = single_user(podman.settings.id_range_start);
    let ours = [
        Some(("oci_runtime", podman.init.as_path())),
        // It and what it lies in are made as they have to be when a daemon starts.
        (podman.settings.mounts.parent()).map(|dir| ("oci_runtime", dir)),
    ];
    let ours = ours.into_iter().flatten();
    let theirs = agent.context.iter().map(|path| ("context", path.as_path()));
    let theirs = theirs.chain(agent.skills.iter().map(|path| ("skills", path.as_path())));
    for (key, path) in ours.chain(theirs) {
        let closed = closed_above(path, &server);
        if let Some(dir) = closed.first() {
            problems.fatal(
                key,
                format!(
                    "gVisor cannot reach {}: other users may not walk through {}; `{}` lets them",
                    path.display(),
                    dir.display(),
                    opening(&closed)
                ),
            );
        }
    }
}

/// One that is not gVisor: the engine finds it by rules of its own, too.
fn oci_runtime(podman: &Podman, agent: &Agent, problems: &mut Problems) {
    let Some(name) = agent
        .oci_runtime
        .as_deref()
        .filter(|name| !super::is_gvisor(name))
    else {
        return;
    };
    if podman.program_named(name, &OCI_RUNTIME_DIRS).is_some() {
        return;
    }
    if name.starts_with('/') {
        problems.fatal("oci_runtime", format!("{name} is no program that can be run"));
    } else {
        problems.note(
            "oci_runtime",
            format!("{name} is in none of the usual places: sessions begin only if containers.conf says where it is"),
        );
    }
}

/// What the engine does not have, and would have to fetch: sessions fetch nothing.
pub(super) async fn missing(podman: &Podman, agent: &Agent) -> Result<Vec<Problem>, EngineError> {
    let mut problems = Problems(Vec::new());
    if let Some(name) = agent.image.as_deref().filter(|name| is_image_name(name)) {
        let called = podman.called(&["image", "exists", name]).await?;
        match called.status.code() {
            Some(0) => {}
            Some(1) => problems.fatal(
                "image",
                format!(
                    "there is no image {name} here, and sessions fetch none: `{program} pull {name}` fetches it, \
                     `agentd image build DIRECTORY {name}` makes it of a directory, `{program} images` lists what there \
                     is",
                    program = podman.program()
                ),
            ),
            _ => {
                called.success(&format!("{} image exists", podman.program()))?;
            }
        }
    }
    Ok(problems.0)
}

fn engine(podman: &Podman, agent: &Agent, problems: &mut Problems) {
    let Ok(facts) = podman.facts() else { return };
    let runs = agent.oci_runtime.as_deref().unwrap_or(&facts.oci_runtime);
    if facts.hybrid_cgroups && Path::new(runs).file_name().is_some_and(|name| name == "crun") {
        problems.note(
            "oci_runtime",
            "crun refuses this kernel's hybrid control groups as a rule: say oci_runtime = \"runc\"; `agentd doctor` says \
             more",
        );
    }
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
            "/var/tmp",
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
}
