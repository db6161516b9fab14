//! From what there is to what it means. Pure.

use super::facts::{Cgroups, Facts, Podman, PodmanInfo};
use agentd_config::size;
use serde::Serialize;

/// What a container with the users of a usual image needs.
const SUB_IDS_MIN: u64 = 65_536;
/// What a container may be allowed of open files, and of processes of its user: more than any agent needs, and what
/// kernels grant.
const FILES_MAX: u64 = 1 << 20;
const PROCESSES_MAX: u64 = 1 << 14;
const DISK_LOW_BYTES: u64 = 1 << 30;
const DISK_FULL_BYTES: u64 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Ok,
    /// Something works, and something does not.
    Degraded,
    Missing,
}

impl State {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
        }
    }
}

/// One part of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) what: &'static str,
    pub(super) state: State,
    /// What there is, and what that means for agents.
    pub(super) detail: String,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mend: Option<String>,
}

/// All of them, and what it comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Diagnosis {
    pub(super) findings: Vec<Finding>,
    /// Sessions can run in containers.
    pub(super) podman: bool,
    /// Sessions can run in containers under gVisor.
    pub(super) gvisor: bool,
    /// Sessions can run as processes.
    pub(super) process: bool,
}

pub(super) fn decide(facts: &Facts) -> Diagnosis {
    let doctor = Doctor { facts };
    let rootless = facts.uid != 0;
    let mut findings = Vec::new();
    if let Some(why) = &facts.unusable_settings {
        let first = why.lines().next().unwrap_or_default();
        findings.push(doctor.bad("settings", first).by("agentd check".into()));
    }
    findings.push(doctor.podman());
    findings.push(doctor.oci_runtime());
    findings.push(doctor.gvisor());
    findings.push(doctor.conmon());
    findings.extend(doctor.container());
    if rootless {
        findings.push(doctor.id_maps());
        findings.push(doctor.sub_ids());
        findings.push(doctor.rootless_network());
    }
    findings.push(doctor.storage());
    findings.push(doctor.limits());
    findings.push(doctor.git());
    findings.push(doctor.tmux());
    findings.push(doctor.systemd());
    findings.push(doctor.disk());
    findings.push(doctor.tmpfs());
    let missing = |what: &str| {
        let found = findings.iter().find(|finding| finding.what == what);
        found.is_some_and(|finding| finding.state == State::Missing)
    };
    let process = !missing("secrets");
    let engine = !["podman", "conmon", "container", "id maps", "subordinate ids"]
        .into_iter()
        .any(missing);
    let works = matches!(facts.podman, Podman::Works(_));
    Diagnosis {
        podman: process && engine && works && !missing("OCI runtime"),
        gvisor: process && engine && works && !missing("gVisor"),
        process,
        findings,
    }
}

impl Finding {
    fn by(self, mend: String) -> Self {
        Self {
            mend: Some(mend),
            ..self
        }
    }
}

struct Doctor<'a> {
    facts: &'a Facts,
}

impl Doctor<'_> {
    fn finding(&self, what: &'static str, state: State, detail: impl Into<String>) -> Finding {
        Finding {
            what,
            state,
            detail: detail.into(),
            mend: None,
        }
    }

    fn ok(&self, what: &'static str, detail: impl Into<String>) -> Finding {
        self.finding(what, State::Ok, detail)
    }

    fn so_so(&self, what: &'static str, detail: impl Into<String>) -> Finding {
        self.finding(what, State::Degraded, detail)
    }

    fn bad(&self, what: &'static str, detail: impl Into<String>) -> Finding {
        self.finding(what, State::Missing, detail)
    }

    /// A command for an administrator.
    fn admin(&self, command: &str) -> String {
        if self.facts.uid == 0 {
            command.to_owned()
        } else {
            format!("sudo {command}")
        }
    }

    /// The same of a line for the shell.
    fn admin_shell(&self, line: &str) -> String {
        if self.facts.uid == 0 {
            line.to_owned()
        } else {
            format!("sudo sh -c '{}'", line.replace('\'', "'\\''"))
        }
    }

    fn install(&self, packages: &str) -> String {
        self.admin(&format!("apt-get install {packages}"))
    }

    fn tool(&self, name: &str) -> Option<&str> {
        self.facts.tools.get(name).map(String::as_str)
    }

    fn info(&self) -> Option<&PodmanInfo> {
        match &self.facts.podman {
            Podman::Works(info) => Some(info),
            Podman::Absent { .. } | Podman::Broken { .. } => None,
        }
    }

    fn podman(&self) -> Finding {
        let what = "podman";
        match &self.facts.podman {
            Podman::Absent { program } => {
                let packages = if self.facts.uid == 0 {
                    "podman runc conmon netavark aardvark-dns"
                } else {
                    "podman runc conmon netavark aardvark-dns uidmap slirp4netns fuse-overlayfs"
                };
                self.bad(
                    what,
                    format!("{program} is not there: no agent can have a container"),
                )
                .by(self.install(packages))
            }
            Podman::Broken { why } => self
                .so_so(what, format!("it is there and does not work: {why}"))
                .by("podman info".into()),
            Podman::Works(info) => {
                let who = if info.rootless { "rootless" } else { "as root" };
                self.ok(
                    what,
                    format!("{} {who}; agents can have containers", info.version),
                )
            }
        }
    }

    fn oci_runtime(&self) -> Finding {
        let what = "OCI runtime";
        let there: Vec<&str> = ["runc", "crun"]
            .into_iter()
            .filter(|name| self.tool(name).is_some())
            .collect();
        if there.is_empty() {
            return self
                .bad(what, "neither runc nor crun is there: no container can run")
                .by(self.install("runc"));
        }
        let default = self.info().map_or("", |info| info.oci_runtime.as_str());
        // crun refuses a version 1 with a version 2 beside it.
        let crun_fails = self.facts.cgroups == Cgroups::Hybrid;
        if crun_fails && there == ["crun"] {
            return self
                .bad(
                    what,
                    "crun does not work with this kernel's hybrid control groups: no container can run",
                )
                .by(self.install("runc"));
        }
        if crun_fails && default == "crun" {
            let detail = "Podman's default is crun, which does not work with this kernel's hybrid control groups: say \
                          oci_runtime = \"runc\" for each agent, or make runc Podman's default";
            let mend = "mkdir -p /etc/containers/containers.conf.d && printf '[engine]\\nruntime = \"runc\"\\n' > \
                        /etc/containers/containers.conf.d/runc.conf";
            return self.so_so(what, detail).by(self.admin_shell(mend));
        }
        let detail = match default {
            "" => there.join(", "),
            default => format!("{} (Podman's default: {default})", there.join(", ")),
        };
        self.ok(what, detail)
    }

    fn gvisor(&self) -> Finding {
        let what = "gVisor";
        match self.tool("runsc") {
            Some(version) => self.ok(
                what,
                format!(
                    "{}: oci_runtime = \"runsc\" works, with network \"none\" or \"host\"",
                    named(version, "runsc")
                ),
            ),
            None => self
                .bad(what, "runsc is not there: oci_runtime = \"runsc\" cannot be used")
                .by(self.install("runsc")),
        }
    }

    fn conmon(&self) -> Finding {
        match self.tool("conmon") {
            Some(version) => {
                let version = named(version, "conmon");
                self.ok("conmon", version.strip_prefix("conmon ").unwrap_or(&version))
            }
            None => self
                .bad("conmon", "it is not there: Podman starts no container without it")
                .by(self.install("conmon")),
        }
    }

    /// What Podman says when it is asked for a container.
    fn container(&self) -> Option<Finding> {
        let what = "container";
        let why = match self.facts.trial.as_ref()? {
            Ok(()) => return Some(self.ok(what, "an empty one was started, and is gone")),
            Err(why) => why,
        };
        let finding = self.bad(what, format!("Podman starts none: {why}"));
        if !why.contains("rlimit") {
            return Some(finding);
        }
        // The kernel lets nobody without CAP_SYS_RESOURCE raise them, and Podman asks for more than there is.
        let (files, processes) = self.facts.limits;
        let (files, processes) = (files.min(FILES_MAX), processes.min(PROCESSES_MAX));
        let mend = format!(
            "mkdir -p /etc/containers/containers.conf.d && printf '[containers]\\ndefault_ulimits = [\"nofile={files}:{files}\", \
             \"nproc={processes}:{processes}\"]\\n' > /etc/containers/containers.conf.d/ulimits.conf"
        );
        Some(finding.by(self.admin_shell(&mend)))
    }

    fn id_maps(&self) -> Finding {
        match self.tool("newuidmap") {
            Some(_) => self.ok(
                "id maps",
                "newuidmap is there: containers of this user have users of their own",
            ),
            None => self
                .bad(
                    "id maps",
                    "newuidmap is not there: Podman starts no container for this user",
                )
                .by(self.install("uidmap")),
        }
    }

    fn sub_ids(&self) -> Finding {
        let what = "subordinate ids";
        let (users, groups) = self.facts.sub_ids;
        let user = &self.facts.user;
        if users >= SUB_IDS_MIN && groups >= SUB_IDS_MIN {
            return self.ok(what, format!("{users} users and {groups} groups for {user}"));
        }
        let detail = format!(
            "{user} has {users} users in /etc/subuid and {groups} groups in /etc/subgid, and a container needs {SUB_IDS_MIN}"
        );
        let mut flags = String::new();
        for (count, flag) in [(users, "--add-subuids"), (groups, "--add-subgids")] {
            if count < SUB_IDS_MIN {
                flags += &format!(" {flag} 100000-165535");
            }
        }
        self.bad(what, detail).by(format!(
            "{} && podman system migrate",
            self.admin(&format!("usermod{flags} {user}"))
        ))
    }

    fn rootless_network(&self) -> Finding {
        let what = "rootless network";
        match ["pasta", "slirp4netns"]
            .into_iter()
            .find(|name| self.tool(name).is_some())
        {
            Some(name) => self.ok(what, format!("{name}: network = \"bridge\" works for this user")),
            None => self
                .so_so(
                    what,
                    "neither slirp4netns nor pasta is there: only network \"none\" and \"host\" work",
                )
                .by(self.install("slirp4netns")),
        }
    }

    fn storage(&self) -> Finding {
        let what = "image storage";
        match self.info().map(|info| info.storage.as_str()) {
            Some("vfs") => {
                let detail = "Podman copies whole images for each container (vfs): sessions begin slowly and need much disk";
                if self.tool("fuse-overlayfs").is_some() {
                    let detail =
                        format!("{detail}; fuse-overlayfs is there, so that /dev/fuse may be missing");
                    return self.so_so(what, detail);
                }
                let mend = self.install("fuse-overlayfs");
                self.so_so(what, detail).by(format!(
                    "{mend}, then `podman system reset`, which removes all images and containers of this user"
                ))
            }
            Some(storage) if !storage.is_empty() => self.ok(what, storage),
            Some(_) | None => self.so_so(what, "unknown: it is Podman that says it"),
        }
    }

    fn limits(&self) -> Finding {
        let what = "limits";
        let rootless = self.facts.uid != 0;
        let (version, works) = match self.facts.cgroups {
            Cgroups::V2 => ("version 2", true),
            Cgroups::Hybrid => ("version 1, hybrid", !rootless),
            Cgroups::V1 => ("version 1", !rootless),
            Cgroups::Absent => {
                return self.so_so(
                    what,
                    "no control groups are mounted: memory, pids and cpus are not limited",
                );
            }
        };
        if !works {
            return self
                .so_so(
                    what,
                    format!(
                        "control groups {version}: the kernel ignores memory, pids and cpus of an ordinary user's containers"
                    ),
                )
                .by("boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line".into());
        }
        let Some(info) = self.info() else {
            return self.ok(what, format!("control groups {version}"));
        };
        let wanted = ["memory", "pids", "cpu"];
        let lacking: Vec<&str> = wanted
            .into_iter()
            .filter(|name| !info.controllers.iter().any(|there| there == name))
            .collect();
        if lacking.is_empty() {
            return self.ok(
                what,
                format!("control groups {version}: memory, pids and cpus are kept to"),
            );
        }
        let finding = self.so_so(
            what,
            format!(
                "control groups {version}, without {} for this user: such limits are not kept to",
                lacking.join(", ")
            ),
        );
        if !rootless {
            return finding;
        }
        finding.by(
            "sudo sh -c 'mkdir -p /etc/systemd/system/user@.service.d && printf \"[Service]\\nDelegate=cpu memory pids\\n\" > \
             /etc/systemd/system/user@.service.d/delegate.conf && systemctl daemon-reload'"
                .into(),
        )
    }

    fn git(&self) -> Finding {
        match self.tool("git") {
            Some(version) => self.ok("git", named(version, "git")),
            None => self
                .so_so(
                    "git",
                    "it is not there: workspace_mode = \"worktree\" cannot be used",
                )
                .by(self.install("git")),
        }
    }

    fn tmux(&self) -> Finding {
        match self.tool("tmux") {
            Some(version) => self.ok(
                "tmux",
                format!("{}; nothing needs it yet", named(version, "tmux")),
            ),
            None => self.ok("tmux", "it is not there, and nothing needs it yet"),
        }
    }

    fn systemd(&self) -> Finding {
        if self.facts.systemd {
            return self.ok(
                "systemd",
                "agentd can be a service, with Type=notify; sessions outlive it with KillMode=process",
            );
        }
        self.ok("systemd", "it does not run here: start `agentd` in another way")
    }

    fn disk(&self) -> Finding {
        let what = "disk";
        let home = self.facts.home.display();
        match self.facts.home_free_bytes {
            None => self.so_so(what, format!("how much is free for {home} cannot be found out")),
            Some(free) if free < DISK_FULL_BYTES => self.so_so(
                what,
                format!(
                    "only {} free for {home}: what sessions print may be lost, and without any room none can begin or end",
                    mib(free)
                ),
            ),
            Some(free) if free < DISK_LOW_BYTES => self.so_so(
                what,
                format!(
                    "{} free for {home}: transcripts and homes will fill that",
                    mib(free)
                ),
            ),
            Some(free) => self.ok(what, format!("{} free for {home}", mib(free))),
        }
    }

    fn tmpfs(&self) -> Finding {
        match &self.facts.tmpfs {
            Some(dir) => self.ok("secrets", format!("{} is memory, where agents' credentials are put", dir.display())),
            None => self
                .bad(
                    "secrets",
                    "neither XDG_RUNTIME_DIR nor /dev/shm is a tmpfs that this user can write to: credentials would lie on a disk",
                )
                .by(self.admin("mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm")),
        }
    }
}

/// A version as the program says it, or at least which program it is.
fn named(version: &str, name: &str) -> String {
    if version.is_empty() {
        name.to_owned()
    } else {
        version.to_owned()
    }
}

fn mib(bytes: u64) -> String {
    let rounded = if bytes >= DISK_LOW_BYTES {
        bytes >> 30 << 30
    } else {
        bytes >> 20 << 20
    };
    size::shown(rounded)
}

#[cfg(test)]
mod tests;
