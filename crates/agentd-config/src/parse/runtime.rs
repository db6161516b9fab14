//! How an agent is isolated. What a runtime cannot do is refused here, where its author can see it, and not ignored.

use super::Reading;
use super::agent::this;
use crate::model::{Network, RuntimeKind, is_gvisor};
use crate::reader::Section;
use crate::source::quoted;
use std::path::{Component, Path, PathBuf};

const RUNTIMES_LATER: [&str; 2] = ["tmux", "native"];
const IMAGE_BYTES_MAX: usize = 512;
const NETWORK_BYTES_MAX: usize = 128;
const MEMORY_BYTES: std::ops::RangeInclusive<u64> = 4 << 20..=1 << 50;
const CPUS: std::ops::RangeInclusive<f64> = 0.01..=4096.0;
/// What agentd and the engine put into a container themselves.
const TAKEN: [&str; 7] = ["/run", "/proc", "/sys", "/dev", "/tmp", "/var/tmp", "/home"];
/// Words that Podman takes for ways of networking, and not for a network's name.
const ENGINE_MODES: [&str; 6] = ["private", "slirp4netns", "pasta", "container", "ns", "default"];

pub(super) struct Isolation {
    pub(super) runtime: RuntimeKind,
    pub(super) image: Option<String>,
    pub(super) oci_runtime: Option<String>,
    pub(super) network: Network,
    pub(super) memory_bytes: Option<u64>,
    pub(super) cpus: Option<f64>,
}

pub(super) fn read(reading: &mut Reading<'_>, section: &Section<'_>) -> Isolation {
    let runtime = kind(reading, section);
    let image = reading.maybe(section.read("image", image));
    let oci_runtime = reading.maybe(section.read("oci_runtime", oci_runtime));
    let network = reading.maybe(section.read("network", network));
    let isolation = Isolation {
        runtime: runtime.unwrap_or(RuntimeKind::Podman),
        image: image.map(|image| image.value),
        oci_runtime: oci_runtime.map(|name| name.value),
        network: network
            .as_ref()
            .map_or_else(|| default_network(runtime), |network| network.value.clone()),
        memory_bytes: reading.maybe(section.size("memory", MEMORY_BYTES)),
        cpus: reading.maybe(section.number("cpus", CPUS)),
    };
    match runtime {
        Some(RuntimeKind::Podman) => podman(reading, section, &isolation),
        Some(RuntimeKind::Process) => process(reading, section, &isolation),
        // It is told already what is wrong with the runtime; what fits it cannot be said.
        None => {}
    }
    isolation
}

/// Absent: `podman`. None: wrong.
fn kind(reading: &mut Reading<'_>, section: &Section<'_>) -> Option<RuntimeKind> {
    let key = "runtime";
    if section.span_of(key).is_none() {
        return Some(RuntimeKind::Podman);
    }
    if let Ok(Some(runtime)) = section.text(key)
        && RUNTIMES_LATER.contains(&runtime.value.as_str())
    {
        let message = format!(
            "the runtime {:?} is not in this version, which has \"podman\" and \"process\"",
            runtime.value
        );
        reading.wrong(section.error_at(&runtime.span, key, message));
        return None;
    }
    let kinds = [RuntimeKind::Podman, RuntimeKind::Process].map(|kind| (kind.as_str(), kind));
    reading.maybe(section.choice(key, &kinds)).map(|kind| kind.value)
}

/// An agent gets what its declaration says; a process has its user's network, whatever one says.
fn default_network(runtime: Option<RuntimeKind>) -> Network {
    match runtime {
        Some(RuntimeKind::Process) => Network::Host,
        Some(RuntimeKind::Podman) | None => Network::None,
    }
}

fn podman(reading: &mut Reading<'_>, section: &Section<'_>, isolation: &Isolation) {
    if section.span_of("image").is_none() {
        let message = format!(
            "{} has no image, and runtime = \"podman\" needs one; add image = \"localhost/agent:1\", or say runtime = \
             \"process\" for a process without isolation",
            this(section)
        );
        reading.wrong(section.error(message));
    }
    if is_gvisor(isolation.oci_runtime.as_deref())
        && matches!(isolation.network, Network::Bridge | Network::Named(_))
    {
        let span = section.span_of("network").unwrap_or_default();
        let message = format!(
            "{}: oci_runtime = \"runsc\" (gVisor) brings no network of its own here and cannot join the engine's; \"none\" \
             and \"host\" work with it",
            section.path("network")
        );
        reading.wrong(section.error_at(&span, "network", message));
    }
}

fn process(reading: &mut Reading<'_>, section: &Section<'_>, isolation: &Isolation) {
    let refused = [
        ("image", "it runs the programs of this machine"),
        ("oci_runtime", "it is no container"),
        ("memory", "its memory is not limited"),
        ("cpus", "its processors are not limited"),
    ];
    for (key, why) in refused {
        if let Some(span) = section.span_of(key) {
            let message = format!(
                "{} cannot be honoured: runtime = \"process\" has no isolation ({why}); take it away, or use \"podman\"",
                section.path(key)
            );
            reading.wrong(section.error_at(&span, key, message));
        }
    }
    if isolation.network != Network::Host {
        let span = section.span_of("network").unwrap_or_default();
        let message = format!(
            "{} cannot be honoured: runtime = \"process\" has no isolation (it has its user's network, which is \"host\"); \
             take it away, or use \"podman\"",
            section.path("network")
        );
        reading.wrong(section.error_at(&span, "network", message));
    }
}

/// Whether a container may be given a workspace of root's. A process has a user of its own and gains nothing by it.
pub(super) fn allow_root_workspace(
    reading: &mut Reading<'_>,
    section: &Section<'_>,
    runtime: RuntimeKind,
) -> bool {
    let key = "allow_root_workspace";
    let allowed = reading.maybe(section.boolean(key)).unwrap_or_default();
    if allowed
        && runtime == RuntimeKind::Process
        && let Some(span) = section.span_of(key)
    {
        let message = format!(
            "{} cannot be honoured: with runtime = \"process\" the agent never acts as root, and needs a workspace that \
             its own user may write; take it away (`agentd check` says how to let that user write), or use \"podman\"",
            section.path(key)
        );
        reading.wrong(section.error_at(&span, key, message));
    }
    allowed
}

/// Where the workspace is in the container.
pub(super) fn workdir(
    reading: &mut Reading<'_>,
    section: &Section<'_>,
    runtime: RuntimeKind,
) -> Option<PathBuf> {
    let key = "workdir";
    let workdir = reading.maybe(section.read(key, inside))?;
    if runtime == RuntimeKind::Process {
        let message = format!(
            "{} cannot be honoured: runtime = \"process\" has its workspace where it is; take it away, or use \"podman\"",
            section.path(key)
        );
        reading.wrong(section.error_at(&workdir.span, key, message));
    }
    Some(workdir.value)
}

fn inside(text: &str) -> Result<PathBuf, String> {
    let path = crate::path::resolve(text, Path::new(""), None)?;
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain || path.parent().is_none() {
        return Err(format!(
            "{} is no absolute path in the container (such as \"/workspace\")",
            quoted(text)
        ));
    }
    let taken = TAKEN.iter().find(|taken| match **taken {
        // A directory below somebody's home is nobody else's.
        "/home" => path.components().count() <= 3 && path.starts_with("/home"),
        taken => path.starts_with(taken),
    });
    match taken {
        Some(taken) => Err(format!(
            "{} cannot be where the workspace is: {taken} is made for each session",
            quoted(text)
        )),
        None => Ok(path),
    }
}

fn image(text: &str) -> Result<String, String> {
    let valid = (1..=IMAGE_BYTES_MAX).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !valid {
        return Err(format!(
            "{} cannot be an image's name (such as \"localhost/agent:1\")",
            quoted(text)
        ));
    }
    Ok(text.to_owned())
}

fn oci_runtime(text: &str) -> Result<String, String> {
    let name = text.rsplit('/').next().unwrap_or(text);
    let valid =
        is_name(name) && (name.len() == text.len() || (text.starts_with('/') && !text.contains('\0')));
    if !valid {
        return Err(format!(
            "{} is neither a runtime's name (such as \"runc\", \"crun\", \"runsc\") nor the absolute path of one",
            quoted(text)
        ));
    }
    Ok(text.to_owned())
}

fn network(text: &str) -> Result<Network, String> {
    match text {
        "none" => return Ok(Network::None),
        "host" => return Ok(Network::Host),
        "bridge" => return Ok(Network::Bridge),
        _ => {}
    }
    let mode = text.split(':').next().unwrap_or(text);
    if ENGINE_MODES.contains(&mode) {
        return Err(format!(
            "{} is a mode of the engine's own; say \"none\", \"host\", \"bridge\", or the name of a network",
            quoted(text)
        ));
    }
    if !is_name(text) {
        return Err(format!(
            "{} is neither \"none\", \"host\" or \"bridge\" nor a network's name (A-Z, a-z, 0-9, _ . -)",
            quoted(text)
        ));
    }
    Ok(Network::Named(text.to_owned()))
}

fn is_name(text: &str) -> bool {
    (1..=NETWORK_BYTES_MAX).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}
