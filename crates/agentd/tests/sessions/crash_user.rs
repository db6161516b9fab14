//! agentd of an ordinary user, with that user's Podman: nobody here has root's rights.

use crate::crash_scene::{over, processes_of, running, show, table};
use crate::podman::IMAGE;
use crate::support::{Daemon, TestEnvironment, is_alive, shown, wait_gone};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Made by `scripts/setup.sh test`, with subordinate ids.
const USER: &str = "agentd-test";

const WAITS: &str = r#"
    (setsid sleep 1000 > /dev/null 2>&1 &)
    echo run >> "$HOME/runs"; echo ready
    until [ -e "$AGENTD_RUN_DIR/go" ]; do sleep 0.02; done
    echo after; exit 4"#;

/// Double-forked, in a session of its own, and without the environment by which it could be known. Says its number.
const ESCAPES: &str = r#"
    setsid sh -c 'env -i sh -c "echo \$\$ > $HOME/escaped; exec sleep 1000" > /dev/null 2>&1 &'
    until [ -s "$HOME/escaped" ]; do sleep 0.02; done
    cat "$HOME/escaped""#;

pub(crate) struct User {
    pub(crate) env: TestEnvironment,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    program: PathBuf,
    podman: Vec<String>,
}

impl User {
    pub(crate) fn new() -> Self {
        let user = nix::unistd::User::from_name(USER).unwrap();
        let user = user.expect("the user agentd-test is missing: run scripts/setup.sh test");
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        let mut env = TestEnvironment::new();
        let home = env.home();
        let own = |path: &Path, mode: u32| {
            chown(path, Some(uid), Some(gid)).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        fs::set_permissions(home.parent().unwrap(), fs::Permissions::from_mode(0o711)).unwrap();
        own(&home, 0o700);
        for name in ["run", "podman"] {
            fs::create_dir(env.path(name)).unwrap();
            own(&env.path(name), 0o700);
        }
        // Where this user may execute it.
        let program = home.parent().unwrap().join("agentd");
        fs::copy(env!("CARGO_BIN_EXE_agentd"), &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        env.write(
            "podman/containers.conf",
            "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
             [network]\nnetwork_backend = \"netavark\"\n",
        );
        env.set("CONTAINERS_CONF", env.path("podman/containers.conf"));
        env.set("XDG_RUNTIME_DIR", env.path("run"));
        // By this name Podman looks for the subordinate ids.
        env.set("USER", USER);
        let text = |name: &str| env.path(name).to_str().unwrap().to_owned();
        let podman = [
            "podman",
            "--root",
            &text("podman/root"),
            "--runroot",
            &text("podman/run"),
        ]
        .map(str::to_owned)
        .to_vec();
        Self {
            env,
            uid,
            gid,
            program,
            podman,
        }
    }

    /// A command of this user's.
    pub(crate) fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        let (uid, gid) = (self.uid.to_string(), self.gid.to_string());
        command.args(["--reuid", &uid, "--regid", &gid, "--clear-groups", "--"]);
        command.args(line);
        self.env.prepare(&mut command);
        command
    }

    #[track_caller]
    fn podman(&self, args: &[&str]) -> String {
        let line: Vec<&str> = self
            .podman
            .iter()
            .map(|word| &**word)
            .chain(args.iter().copied())
            .collect();
        let output = self.command(&line).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", shown(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn import(&self) {
        let tar = self.env.path("podman/image.tar");
        crate::podman::image(&self.env.path("podman"), &tar);
        fs::set_permissions(&tar, fs::Permissions::from_mode(0o644)).unwrap();
        self.podman(&["import", tar.to_str().unwrap(), IMAGE]);
    }

    /// Gives a path in the home directory, and all below it, to this user.
    pub(crate) fn give(&self, path: &Path) {
        let owner = format!("{}:{}", self.uid, self.gid);
        let output = Command::new("chown")
            .args(["-R", &owner])
            .arg(path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", shown(&output));
    }

    #[track_caller]
    pub(crate) fn daemon(&self) -> Daemon {
        let mut command = self.command(&[self.program.to_str().unwrap(), "daemon"]);
        self.env
            .try_daemon(&mut command)
            .unwrap_or_else(|output| panic!("{}", shown(&output)))
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let line: Vec<&str> = self
            .podman
            .iter()
            .map(|word| &**word)
            .chain(["rm", "--force", "--all", "--time", "0"])
            .collect();
        let _ = self.command(&line).output();
    }
}

#[test]
fn an_ordinary_users_sessions_outlive_agentd() {
    let user = User::new();
    user.import();
    let podman = json!(user.podman);
    let agent =
        |name: &str, runtime: &str, script: &str| table(name, runtime, script, "credentials = [\"TOKEN\"]");
    let in_podman = format!("runtime = \"podman\"\nimage = \"{IMAGE}\"");
    let secrets = user.env.state().join("secrets");
    let text = [
        format!("[daemon]\nsecret_dir = {}\npodman = {podman}\n\n", json!(secrets)),
        agent("contained", &in_podman, WAITS),
        agent("process", "runtime = \"process\"", WAITS),
        agent("escapes", "runtime = \"process\"", ESCAPES),
    ];
    user.env.write(".agentd/secrets/TOKEN", "a planted secret\n");
    user.env.write(".agentd/agentd.toml", &text.concat());
    for path in [
        ".agentd",
        ".agentd/secrets",
        ".agentd/secrets/TOKEN",
        ".agentd/agentd.toml",
    ] {
        chown(user.env.path(path), Some(user.uid), Some(user.gid)).unwrap();
    }
    let daemon = user.daemon();
    let run = |agent: &str| {
        let queued = user.env.connect().call("RunAgent", json!({ "agent": agent }));
        queued["session_id"].as_str().unwrap().to_owned()
    };
    let ids = ["contained", "process"].map(run);
    for id in &ids {
        let params = json!({ "session_id": id, "from_offset": 0, "wait_secs": 25 });
        let page = user.env.connect().call("ReadTranscript", params);
        let session = show(&mut user.env.connect(), id);
        assert_ne!(page["chunks"], json!([]), "{session}");
    }
    for id in &ids {
        running(&user.env, id);
    }
    let others: Vec<i32> = processes_of(&ids[1]);
    assert!(
        others.len() >= 3,
        "a supervisor, an agent and what it left: {others:?}"
    );
    for pid in others {
        assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), user.uid);
    }
    daemon.kill_9();
    let go = |id: &str| {
        let path = user.env.state().join("sessions").join(id).join("run/go");
        fs::write(path, "").unwrap();
    };
    // The container ends while nobody is there.
    go(&ids[0]);
    for pid in processes_of(&ids[0]) {
        wait_gone(pid);
    }
    let daemon = user.daemon();
    go(&ids[1]);
    let mut wire = user.env.connect();
    for (id, home) in ids.iter().zip(["contained", "process"]) {
        assert_eq!(over(&mut wire, id).stdout, b"ready\nafter\n");
        let session = show(&mut wire, id);
        let outcome = &session["outcome"];
        assert_eq!(
            (&outcome["reason"], &outcome["exit_code"]),
            (&json!("failed"), &json!(4)),
            "{session}"
        );
        let runs = user.env.state().join("homes").join(home).join("runs");
        assert_eq!(fs::read_to_string(runs).unwrap(), "run\n");
        for pid in processes_of(id) {
            wait_gone(pid);
        }
        assert!(!user.env.state().join("sessions").join(id).join("run").exists());
        let secrets = Command::new("find")
            .arg("/dev/shm")
            .arg(user.env.path("run"))
            .args(["-name", id])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&secrets.stdout), "");
    }
    assert_eq!(user.podman(&["ps", "--all", "--quiet"]), "");

    let id = run("escapes");
    let said = over(&mut wire, &id);
    let pid: i32 = String::from_utf8(said.stdout).unwrap().trim().parse().unwrap();
    assert_eq!(show(&mut wire, &id)["outcome"]["reason"], "completed");
    assert!(!is_alive(pid), "process {pid} has outlived its session");
    daemon.stop();
}
