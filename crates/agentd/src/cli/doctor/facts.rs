//! What there is on this machine. Every look is bounded in time and in length.

use crate::cli::said::beginning;
use crate::settings::Environment;
use agentd_runner::inside::install_init;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, Uid, User, access};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::Command;

/// How long a program may take to say its version.
const VERSION_MAX: Duration = Duration::from_secs(5);
/// The first `podman info` of a user makes that user's storage.
const PODMAN_MAX: Duration = Duration::from_secs(20);
/// A container that does nothing.
const TRIAL_MAX: Duration = Duration::from_secs(20);
const OUTPUT_BYTES_MAX: u64 = 1024 * 1024;

/// The programs that are looked for, and how each says its version.
const TOOLS: [(&str, &str); 10] = [
    ("conmon", "--version"),
    ("crun", "--version"),
    ("fuse-overlayfs", "--version"),
    ("git", "--version"),
    ("newuidmap", ""),
    ("pasta", "--version"),
    ("runc", "--version"),
    ("runsc", "--version"),
    ("slirp4netns", "--version"),
    ("tmux", "-V"),
];

/// Where to look.
pub(super) struct Where<'a> {
    pub(super) environment: &'a Environment,
    pub(super) home: &'a Path,
    pub(super) podman: &'a [String],
    /// What is wrong with the settings.
    pub(super) unusable: Option<String>,
}

/// All that is known.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) uid: u32,
    pub(super) user: String,
    pub(super) unusable_settings: Option<String>,
    pub(super) podman: Podman,
    /// Whether Podman starts a container here, and else what it says; nothing when that could not be tried.
    pub(super) trial: Option<Result<(), String>>,
    /// How many open files and processes this process may be allowed: the hard limits.
    pub(super) limits: (u64, u64),
    /// Name → the first line about its version, which may be empty.
    pub(super) tools: BTreeMap<&'static str, String>,
    /// How many subordinate ids the user has: users, groups.
    pub(super) sub_ids: (u64, u64),
    pub(super) cgroups: Cgroups,
    pub(super) systemd: bool,
    pub(super) home: PathBuf,
    /// Of the file system that the home is on, or will be.
    pub(super) home_free_bytes: Option<u64>,
    /// A tmpfs that this user can write to.
    pub(super) tmpfs: Option<PathBuf>,
}

/// Podman, as it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Podman {
    Absent {
        program: String,
    },
    /// It is there, and `podman info` fails, with this reason.
    Broken {
        why: String,
    },
    Works(PodmanInfo),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PodmanInfo {
    pub(super) version: String,
    pub(super) rootless: bool,
    pub(super) oci_runtime: String,
    pub(super) storage: String,
    pub(super) controllers: Vec<String>,
}

/// How the kernel's control groups are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cgroups {
    V2,
    /// Version 1 with an empty version 2 beside it.
    Hybrid,
    V1,
    Absent,
}

pub(super) async fn gather(place: Where<'_>) -> Facts {
    let environment = place.environment;
    let uid = environment.uid;
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let user = user.map_or_else(|| uid.to_string(), |user| user.name);
    let podman = podman(environment, place.podman);
    let (podman, tools) = tokio::join!(podman, tools(environment));
    let cgroups = cgroups(Path::new("/sys/fs/cgroup"));
    let trial = match &podman {
        Podman::Works(info) => {
            // What cannot work is a finding of its own.
            let other =
                cgroups == Cgroups::Hybrid && info.oci_runtime == "crun" && tools.contains_key("runc");
            trial(environment, place.podman, other.then_some("runc")).await
        }
        Podman::Absent { .. } | Podman::Broken { .. } => None,
    };
    let hard = |resource| getrlimit(resource).map_or(u64::MAX, |(_, hard)| hard);
    let runtime_dir = environment.get("XDG_RUNTIME_DIR").map(PathBuf::from);
    let tmpfs = runtime_dir.into_iter().chain(["/dev/shm".into()]);
    Facts {
        uid,
        sub_ids: (
            sub_ids(Path::new("/etc/subuid"), &user, uid),
            sub_ids(Path::new("/etc/subgid"), &user, uid),
        ),
        user,
        unusable_settings: place.unusable,
        podman,
        trial,
        limits: (hard(Resource::RLIMIT_NOFILE), hard(Resource::RLIMIT_NPROC)),
        tools,
        cgroups,
        systemd: Path::new("/run/systemd/system").is_dir(),
        home_free_bytes: free_bytes(place.home),
        home: place.home.to_owned(),
        tmpfs: tmpfs.into_iter().find(|dir| is_tmpfs(dir)),
    }
}

async fn tools(environment: &Environment) -> BTreeMap<&'static str, String> {
    let mut asked = tokio::task::JoinSet::new();
    let mut tools = BTreeMap::new();
    for (name, flag) in TOOLS {
        let Some(path) = environment.program(name) else {
            continue;
        };
        tools.insert(name, String::new());
        if !flag.is_empty() {
            let mut command = Command::new(path);
            command.arg(flag);
            asked.spawn(async move { (name, answer(command, VERSION_MAX).await) });
        }
    }
    while let Some(answered) = asked.join_next().await {
        if let Ok((name, Ok(text))) = answered {
            let first = text.lines().next().unwrap_or_default();
            tools.insert(name, first.chars().take(100).collect());
        }
    }
    tools
}

async fn podman(environment: &Environment, words: &[String]) -> Podman {
    let program = words.first().map_or("podman", String::as_str);
    let Some(path) = environment.program(program) else {
        return Podman::Absent {
            program: program.to_owned(),
        };
    };
    let mut command = Command::new(path);
    command
        .args(words.iter().skip(1))
        .args(["info", "--format", "json"]);
    match answer(command, PODMAN_MAX).await {
        Ok(text) => podman_info(&text),
        Err(why) => Podman::Broken { why },
    }
}

/// Starts a container of nothing but our own first process, which has nothing to do there and ends at once.
async fn trial(
    environment: &Environment,
    words: &[String],
    runtime: Option<&str>,
) -> Option<Result<(), String>> {
    let program = environment.program(words.first().map_or("podman", String::as_str))?;
    let dir = tempfile::tempdir().ok()?;
    let root = dir.path().join("root");
    let init = install_init(&root).ok()?;
    let init = Path::new("/").join(init.file_name()?);
    let name = format!("agentd-doctor-{}", std::process::id());
    let podman = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(words.iter().skip(1)).args(args);
        command
    };
    let mut run = podman(&[]);
    if let Some(runtime) = runtime {
        run.args(["--runtime", runtime]);
    }
    let none = ["--network", "none", "--log-driver", "none"];
    run.args(["run", "--rm", "--name", &name]).args(none);
    run.arg("--rootfs").arg(&root).arg(init);
    let tried = match finished(run, TRIAL_MAX).await {
        // It complains that it finds nothing to do: so it has run.
        Ok((_, _, err)) if err.contains("agentd-init: ") => Ok(()),
        Ok((status, _, err)) => Err(complaint(&err, status)),
        Err(why) => {
            let _ = finished(podman(&["rm", "--force", &name]), VERSION_MAX).await;
            Err(why)
        }
    };
    Some(tried)
}

fn podman_info(text: &str) -> Podman {
    let Ok(info) = serde_json::from_str::<Value>(text) else {
        return Podman::Broken {
            why: "what `podman info` says is no JSON".into(),
        };
    };
    let text = |path: &str| {
        let text = info.pointer(path).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let controllers = info.pointer("/host/cgroupControllers").and_then(Value::as_array);
    Podman::Works(PodmanInfo {
        version: text("/version/Version"),
        rootless: info.pointer("/host/security/rootless") == Some(&Value::Bool(true)),
        oci_runtime: text("/host/ociRuntime/name"),
        storage: text("/store/graphDriverName"),
        controllers: controllers
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect(),
    })
}

/// What a program says on stdout. The error is its last line on stderr.
async fn answer(command: Command, patience: Duration) -> Result<String, String> {
    match finished(command, patience).await? {
        (status, out, _) if status.success() => Ok(out),
        (status, _, err) => Err(complaint(&err, status)),
    }
}

/// The last line of what a program complains of.
fn complaint(err: &str, status: ExitStatus) -> String {
    let last = err.lines().rev().find(|line| !line.trim().is_empty());
    last.map_or_else(|| status.to_string(), |line| line.chars().take(300).collect())
}

/// How a program ends, and what it says on stdout and stderr.
async fn finished(mut command: Command, patience: Duration) -> Result<(ExitStatus, String, String), String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // It is no service, and not this one.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("INVOCATION_ID")
        .kill_on_drop(true);
    let talk = async {
        let mut child = command.spawn()?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (out, err, status) = tokio::try_join!(
            beginning(out, OUTPUT_BYTES_MAX),
            beginning(err, OUTPUT_BYTES_MAX),
            child.wait()
        )?;
        Ok::<_, io::Error>((status, out, err))
    };
    match tokio::time::timeout(patience, talk).await {
        Err(_) => Err(format!("no answer within {} s", patience.as_secs())),
        Ok(ended) => ended.map_err(|error| error.to_string()),
    }
}

/// How many ids `/etc/subuid` or `/etc/subgid` give a user.
fn sub_ids(path: &Path, user: &str, uid: u32) -> u64 {
    let text = agentd_config::file::read_text(path, OUTPUT_BYTES_MAX)
        .map_or_else(|_| String::new(), |(text, _)| text);
    count_sub_ids(&text, user, uid)
}

fn count_sub_ids(text: &str, user: &str, uid: u32) -> u64 {
    let ids = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let whose = fields.next()?;
        let count = fields.nth(1)?.parse::<u64>().ok()?;
        (whose == user || whose == uid.to_string()).then_some(count)
    });
    ids.fold(0, u64::saturating_add)
}

fn cgroups(root: &Path) -> Cgroups {
    if root.join("cgroup.controllers").exists() {
        Cgroups::V2
    } else if root.join("unified").is_dir() {
        Cgroups::Hybrid
    } else if root.join("memory").is_dir() || root.join("pids").is_dir() {
        Cgroups::V1
    } else {
        Cgroups::Absent
    }
}

/// Of the nearest directory that is there.
fn free_bytes(dir: &Path) -> Option<u64> {
    let there = dir.ancestors().find(|dir| fs::metadata(dir).is_ok())?;
    let facts = statvfs(there).ok()?;
    Some(facts.blocks_available().saturating_mul(facts.fragment_size()))
}

fn is_tmpfs(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|facts| facts.filesystem_type() == TMPFS_MAGIC)
        && access(dir, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_podman_says() {
        let text = r#"{"host":{"security":{"rootless":true},"ociRuntime":{"name":"crun"},
            "cgroupControllers":["memory","pids"]},"store":{"graphDriverName":"overlay"},"version":{"Version":"5.4.2"}}"#;
        let expected = PodmanInfo {
            version: "5.4.2".into(),
            rootless: true,
            oci_runtime: "crun".into(),
            storage: "overlay".into(),
            controllers: vec!["memory".into(), "pids".into()],
        };
        assert_eq!(podman_info(text), Podman::Works(expected));
        assert!(matches!(podman_info("{"), Podman::Broken { .. }));
    }

    #[test]
    fn subordinate_ids_are_added_up() {
        let text = "bob:1:5\nada:100000:65536\n1000:300000:10\nada:x\n\nada:1:-3\n";
        assert_eq!(count_sub_ids(text, "ada", 1000), 65_546);
        assert_eq!(count_sub_ids(text, "eve", 7), 0);
    }

    #[test]
    fn kinds_of_control_groups() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(cgroups(dir.path()), Cgroups::Absent);
        fs::create_dir(dir.path().join("memory")).unwrap();
        assert_eq!(cgroups(dir.path()), Cgroups::V1);
        fs::create_dir(dir.path().join("unified")).unwrap();
        assert_eq!(cgroups(dir.path()), Cgroups::Hybrid);
        fs::write(dir.path().join("cgroup.controllers"), "").unwrap();
        assert_eq!(cgroups(dir.path()), Cgroups::V2);
    }

    #[tokio::test]
    async fn a_program_that_does_not_answer_is_not_waited_for() {
        let shell = |text: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", text]);
            command
        };
        let answer = |text: &str| answer(shell(text), Duration::from_millis(500));
        assert_eq!(answer("echo hi").await, Ok("hi\n".into()));
        assert_eq!(
            answer("echo first >&2; echo no >&2; exit 3").await,
            Err("no".into())
        );
        let error = answer("exec tail -f /dev/null").await.unwrap_err();
        assert!(error.contains("no answer within"), "{error}");
        let long = super::answer(shell("head -c 3000000 /dev/zero"), VERSION_MAX)
            .await
            .unwrap();
        assert_eq!(long.len() as u64, OUTPUT_BYTES_MAX);
    }
}
