//! A Podman of a test's own, for the daemon of a [`TestEnvironment`]: its own storage, its own configuration, an image
//! made on the spot. The machine's own is left alone.

#![allow(dead_code, reason = "each test uses a part of it")]

use crate::support::{TestEnvironment, shown};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Holds a static busybox, and nothing else.
pub(crate) const IMAGE: &str = "localhost/agent:1";

/// What busybox is called in the image.
const NAMES: &[&str] = &[
    "base64", "cat", "cut", "dd", "df", "env", "find", "grep", "head", "id", "kill", "ls", "mkdir", "mkfifo",
    "mount", "mv", "nc", "printf", "ps", "rm", "seq", "setsid", "sh", "sleep", "stat", "tail", "touch", "tr",
    "true", "wc", "yes",
];

/// Its containers are removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Podman {
    dir: PathBuf,
    environment: Vec<(&'static str, PathBuf)>,
    line: Vec<String>,
}

impl Podman {
    /// Makes it, with [`IMAGE`], and tells the environment's programs where its configuration is. The daemon's settings
    /// need [`Podman::table`], too.
    pub(crate) fn new(env: &mut TestEnvironment) -> Self {
        let dir = env.path("podman");
        fs::create_dir(&dir).expect("a directory");
        let path = |name: &str| dir.join(name);
        fs::write(
            path("containers.conf"),
            // The limits: what Podman asks for by itself needs a right that not every root has.
            "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
             [network]\nnetwork_backend = \"netavark\"\n\
             [containers]\ndefault_ulimits = [\"nofile=4096:4096\", \"nproc=4096:4096\"]\n",
        )
        .expect("a file");
        env.set("CONTAINERS_CONF", path("containers.conf"));
        let text = |name: &str| path(name).into_os_string().into_string().expect("UTF-8");
        let mut line = vec!["podman".to_owned()];
        for (flag, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            line.extend([flag.to_owned(), text(name)]);
        }
        let podman = Self {
            environment: vec![("HOME", env.home()), ("CONTAINERS_CONF", path("containers.conf"))],
            dir,
            line,
        };
        podman.import();
        podman
    }

    /// `podman = [...]`, for `[daemon]` in `agentd.toml`.
    pub(crate) fn setting(&self) -> String {
        format!("podman = {}\n", json!(self.line))
    }

    /// A directory for the front of `PATH`, in which `podman` is this one: for scripts that call it.
    pub(crate) fn shim(&self, env: &TestEnvironment) -> PathBuf {
        let words: Vec<String> = self.line[1..].iter().map(|word| format!("'{word}'")).collect();
        let text = format!(
            "#!/bin/sh\nPATH=${{PATH#*:}}\nexec podman {} \"$@\"\n",
            words.join(" ")
        );
        let file = env.write("shim/podman", &text);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("a mode");
        env.path("shim")
    }

    /// A command of this Podman.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.line[0]);
        command
            .args(&self.line[1..])
            .args(args)
            .env_clear()
            .env(
                "PATH",
                std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()),
            )
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of this Podman, which must succeed, and gives its stdout.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.command(args).output().expect("podman");
        assert!(output.status.success(), "podman {args:?}: {}", shown(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// The ids of all containers that there are, running or not.
    #[track_caller]
    pub(crate) fn containers(&self) -> Vec<String> {
        let all = self.ok(&["ps", "--all", "--quiet", "--no-trunc"]);
        all.lines().map(str::to_owned).collect()
    }

    fn import(&self) {
        let tar = self.dir.join("image.tar");
        image(&self.dir, &tar);
        succeed(self.command(&["import"]).arg(&tar).arg(IMAGE));
    }
}

/// Makes the archive that [`IMAGE`] is imported from.
#[track_caller]
pub(crate) fn image(dir: &Path, tar: &Path) {
    let image = dir.join("image");
    let bin = image.join("bin");
    fs::create_dir_all(&bin).expect("directories");
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    let busybox = busybox.iter().find(|path| path.exists());
    let busybox = busybox.expect("busybox-static is missing: run scripts/setup.sh test");
    fs::copy(busybox, bin.join("busybox")).expect("a copy");
    for name in NAMES {
        symlink("busybox", bin.join(name)).expect("a link");
    }
    succeed(
        Command::new("tar")
            .arg("-C")
            .arg(&image)
            .arg("-cf")
            .arg(tar)
            .arg("."),
    );
}

#[track_caller]
fn succeed(command: &mut Command) {
    let output: Output = command.output().expect("a program");
    assert!(output.status.success(), "{command:?}: {}", shown(&output));
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Whatever a failed test has left.
        let _ = self.command(&["rm", "--force", "--all", "--time", "0"]).output();
        // Its storage, and what a daemon that was killed has mounted.
        let home = self.dir.parent().unwrap_or(&self.dir);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let places = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(Path::new);
        for place in places.filter(|place| place.starts_with(home)) {
            let _ = nix::mount::umount2(place, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}
