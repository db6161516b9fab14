//! The command lines, from a session's environment. Pure.
//!
//! *Architecture Invariant:* no prompt, no variable and no secret is in any of them: they are in the launch file and
//! in the secrets' directory, which the init reads inside.

use super::{
    BRIDGE_FILE, CONTEXT_DIR, Gvisor, INIT_FILE, Podman, RUN_DIR, SECRETS_DIR, SKILLS_DIR, container_name,
};
use crate::runtime::engine::{EngineError, Environment, Users};
use crate::runtime::mapped;
use crate::runtime::users::{AGENT_ID, RANGE_IDS};
use agentd_config::{Agent, Network};
use std::path::{Path, PathBuf};

/// `/tmp` may take half of the agent's memory, of which it is a part.
const TMP_OF_MEMORY: u64 = 2;

/// Of a file system in memory: nothing that the image has at its place is copied into it, which runc would do and gVisor
/// would not.
const FRESH: &str = "rw,nosuid,nodev,notmpcopyup";

/// How something of the host's is seen inside.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Write,
    Read,
    /// Writable, with what is mounted below it.
    Workspace,
}

/// The arguments after the engine's own: `run --detach …`.
pub(super) fn run(podman: &Podman, order: &Environment) -> Result<Vec<String>, EngineError> {
    let agent = &order.agent;
    let image = agent
        .image
        .as_deref()
        .ok_or_else(|| EngineError::Refused(format!("the agent {} names no image", agent.name)))?;
    let mut line: Vec<String> = Vec::with_capacity(100);
    let mut add = |words: &[&str]| line.extend(words.iter().map(|&word| word.to_owned()));
    add(&["run", "--detach", "--rm", "--pull=never"]);
    add(&["--name", &container_name(order.session)]);
    add(&[
        "--label",
        &format!("{}={}", super::LABEL_INSTANCE, order.instance),
    ]);
    add(&["--label", &format!("{}={}", super::LABEL_SESSION, order.session)]);
    add(&["--log-driver=k8s-file"]);
    add(&["--log-opt", &format!("path={}", text(&order.dir.log_fifo())?)]);
    add(&["--pidfile", text(&order.dir.pid_file())?]);
    add(&["--conmon-pidfile", text(&order.dir.monitor_pid_file())?]);
    add(&[
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "--read-only",
    ]);
    // What an image or the engine's configuration would add otherwise.
    add(&[
        "--systemd=false",
        "--sdnotify=ignore",
        "--no-healthcheck",
        "--http-proxy=false",
    ]);
    add(&["--image-volume=tmpfs", "--workdir=/"]);
    limits(podman, agent, &mut add);
    add(&["--network", network(&agent.network)]);
    if is_host_name(&order.home_name) {
        add(&["--hostname", &order.home_name]);
    }
    users(podman, order, &mut add)?;
    if let Some(path) = order.read.iter().find(|path| super::check::is_taken(path)) {
        return Err(EngineError::Refused(format!(
            "{} cannot be seen inside: the container has something of its own there",
            path.display()
        )));
    }
    for (from, to, access) in mounts(podman, order) {
        add(&["--mount", &mount(&from, &to, access)?]);
    }
    add(&["--entrypoint", INIT_FILE, image, RUN_DIR]);
    Ok(line)
}

/// The engine's own arguments for this agent, which come before its command.
pub(super) fn engine(gvisor: Option<&Gvisor>, agent: &Agent, rootless: bool) -> Vec<String> {
    let mut line = Vec::new();
    match (gvisor, &agent.oci_runtime) {
        (Some(Gvisor { program }), _) => {
            line.extend(["--runtime".into(), program.clone()]);
            // Its own network stack needs what its sandbox is not given here; `check` refuses what is neither.
            line.push(match agent.network {
                Network::Host => "--runtime-flag=network=host".into(),
                _ => "--runtime-flag=network=none".into(),
            });
            // Sockets in mounted directories can be connected to.
            line.push("--runtime-flag=host-uds=open".into());
            if rootless {
                line.push("--runtime-flag=ignore-cgroups".into());
            }
        }
        (None, Some(name)) => line.extend(["--runtime".into(), name.clone()]),
        (None, None) => {}
    }
    line
}

fn limits(podman: &Podman, agent: &Agent, add: &mut impl FnMut(&[&str])) {
    let memory = agent.memory_bytes.unwrap_or(Agent::MEMORY_BYTES_DEFAULT);
    // The agent's own (`U`), since runc gives a mount the mode of the image's directory, and the init sets it right.
    let tmp = format!("{FRESH},mode=1777,U,size={}", (memory / TMP_OF_MEMORY).max(4096));
    add(&[
        "--read-only-tmpfs=false",
        "--tmpfs",
        &format!("/run:{FRESH},mode=755"),
    ]);
    add(&[
        "--tmpfs",
        &format!("/tmp:{tmp}"),
        "--tmpfs",
        &format!("/var/tmp:{tmp}"),
    ]);
    // A limit that the machine cannot set makes the engine refuse, or complain into its error output.
    if podman.limits("memory") {
        // The same number for both: no swap on top.
        add(&[
            "--memory",
            &memory.to_string(),
            "--memory-swap",
            &memory.to_string(),
        ]);
    }
    if podman.limits("pids") {
        add(&[
            "--pids-limit",
            &agent.pids.unwrap_or(Agent::PIDS_DEFAULT).to_string(),
        ]);
    }
    if let Some(cpus) = agent.cpus.filter(|_| podman.limits("cpu")) {
        add(&["--cpus", &cpus.to_string()]);
    }
}

fn network(network: &Network) -> &str {
    match network {
        Network::None => "none",
        Network::Host => "host",
        Network::Bridge => "bridge",
        Network::Named(name) => name,
    }
}

fn users(podman: &Podman, order: &Environment, add: &mut impl FnMut(&[&str])) -> Result<(), EngineError> {
    let users = order.users;
    let (uid, gid) = (users.inside_uid, users.inside_gid);
    add(&["--user", &format!("{uid}:{gid}")]);
    // For programs that ask who they are. The name is of letters, digits, `.`, `-` and `_`: see agentd-config.
    let name = &order.home_name;
    let entry = format!("agent:x:{uid}:{gid}:{name}:/home/{name}:/bin/sh");
    add(&["--passwd-entry", &entry]);
    match users.range_start {
        None if podman.keeps_ids_as() => add(&[&format!("--userns=keep-id:uid={uid},gid={gid}")]),
        None => add(&["--userns=keep-id"]),
        // gVisor with the host's network: see `Podman::users`.
        Some(_) if is_unmapped(&users) => {}
        Some(start) => {
            for (option, host) in [("--uidmap", users.host_uid), ("--gidmap", users.host_gid)] {
                for (inside, outside, count) in id_map(start, host)? {
                    add(&[option, &format!("{inside}:{outside}:{count}")]);
                }
            }
        }
    }
    Ok(())
}

/// True when users are the same inside and outside.
pub(super) fn is_unmapped(users: &Users) -> bool {
    users.range_start.is_some() && users.inside_uid == users.host_uid
}

/// The whole range of a home, with the agent's own id wherever it is.
fn id_map(start: u32, host: u32) -> Result<Vec<(u32, u32, u32)>, EngineError> {
    if start.checked_add(AGENT_ID) == Some(host) {
        // One piece: engines can then show an image's files under other ids without copying them.
        return Ok(vec![(0, start, RANGE_IDS)]);
    }
    if (start..start.saturating_add(RANGE_IDS)).contains(&host) {
        return Err(EngineError::Refused(format!(
            "the workspace's owner {host} is one of the ids that agentd gives to containers; it belongs to another \
             session's files"
        )));
    }
    Ok(vec![
        (0, start, AGENT_ID),
        (AGENT_ID, host, 1),
        (AGENT_ID + 1, start + AGENT_ID + 1, RANGE_IDS - AGENT_ID - 1),
    ])
}

fn mounts(podman: &Podman, order: &Environment) -> Vec<(PathBuf, PathBuf, Access)> {
    let mut mounts = vec![
        (order.home.clone(), home(order), Access::Write),
        (order.dir.run(), RUN_DIR.into(), Access::Write),
        (podman.init.clone(), INIT_FILE.into(), Access::Read),
        (podman.settings.bridge.clone(), BRIDGE_FILE.into(), Access::Read),
    ];
    if let Some(secrets) = &order.secrets {
        mounts.push((secrets.clone(), SECRETS_DIR.into(), Access::Read));
    }
    for (parent, entries) in [(CONTEXT_DIR, &order.context), (SKILLS_DIR, &order.skills)] {
        let entries = entries.iter();
        mounts.extend(entries.map(|(name, from)| (from.clone(), Path::new(parent).join(name), Access::Read)));
    }
    let read = order.read.iter();
    mounts.extend(read.map(|path| (path.clone(), path.clone(), Access::Read)));
    let shared = shared(order);
    for (index, (from, to, access)) in shared.into_iter().enumerate() {
        let from = match order.users.shown_as_agent {
            Some(_) => mapped::place(&podman.mounts_of(order.session), index),
            None => from.to_owned(),
        };
        mounts.push((from, to, access));
    }
    mounts
}

/// What belongs to the owner of the workspace: place on the host, place inside, what may be done there.
pub(super) fn shared(order: &Environment) -> Vec<(&Path, PathBuf, Access)> {
    let workspace = order
        .workspace
        .iter()
        .map(|from| (&**from, workdir(&order.agent), Access::Workspace));
    let also = order.also.iter().map(|also| {
        let access = if also.writable {
            Access::Workspace
        } else {
            Access::Read
        };
        (&*also.path, also.path.clone(), access)
    });
    workspace.chain(also).collect()
}

pub(super) fn home(order: &Environment) -> PathBuf {
    Path::new("/home").join(&order.home_name)
}

pub(super) fn workdir(agent: &Agent) -> PathBuf {
    agent
        .workdir
        .clone()
        .unwrap_or_else(|| PathBuf::from(super::WORKDIR_DEFAULT))
}

fn mount(from: &Path, to: &Path, access: Access) -> Result<String, EngineError> {
    let (from, to) = (text(from)?, text(to)?);
    let mut words = vec![
        "type=bind".to_owned(),
        field("src", from),
        field("dst", to),
        "bind-propagation=rprivate".to_owned(),
    ];
    match access {
        Access::Write => words.extend(["nosuid", "nodev", "bind-nonrecursive"].map(str::to_owned)),
        // Mounts below it would not be read-only.
        Access::Read => words.extend(["ro", "nosuid", "nodev", "bind-nonrecursive"].map(str::to_owned)),
        Access::Workspace => words.extend(["nosuid", "nodev"].map(str::to_owned)),
    }
    Ok(words.join(","))
}

/// One field of what the engine reads as a line of comma-separated values.
fn field(key: &str, value: &str) -> String {
    if value.contains([',', '"']) {
        format!("\"{key}={}\"", value.replace('"', "\"\""))
    } else {
        format!("{key}={value}")
    }
}

/// A path as an argument.
pub(super) fn text(path: &Path) -> Result<&str, EngineError> {
    match path.to_str() {
        Some(text) if !text.contains(char::is_control) => Ok(text),
        _ => Err(EngineError::Refused(format!(
            "the path {path:?} cannot be given to a container: it holds a line break, another control character or \
             bytes that are no UTF-8"
        ))),
    }
}

fn is_host_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_own_id_is_cut_out_of_its_range_only_where_it_must_be() {
        assert_eq!(id_map(200_000, 201_000).unwrap(), [(0, 200_000, 65_536)]);
        let map = id_map(200_000, 1234).unwrap();
        assert_eq!(
            map,
            [(0, 200_000, 1000), (1000, 1234, 1), (1001, 201_001, 64_535)]
        );
        assert_eq!(map.iter().map(|piece| piece.2).sum::<u32>(), RANGE_IDS);
        assert!(id_map(200_000, 200_001).is_err());
    }

    #[test]
    fn paths_are_given_as_they_are_or_refused() {
        let mount = |from: &str| mount(Path::new(from), Path::new("/c"), Access::Read);
        assert!(mount("/a:b c").unwrap().contains("src=/a:b c,"));
        assert!(mount("/a,b\"c").unwrap().contains(r#""src=/a,b""c","#));
        assert!(mount("/a\nb").is_err());
    }

    #[test]
    fn only_host_names_become_host_names() {
        assert!(is_host_name("reviewer-0"));
        for other in ["", "a_b", "-a", &"a".repeat(64)] {
            assert!(!is_host_name(other), "{other}");
        }
    }
}
