//! What the tests of faults, secrets and isolation share: a daemon with declared agents, and a Podman of its own whose
//! commands can be made to fail.

use crate::podman::{IMAGE, Podman};
use crate::support::{Daemon, Running, TestEnvironment, pipe, read_pipe};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Waits until the test says so.
pub(crate) const WAIT: &str = r#"until [ -e "$AGENTD_RUN_DIR/go" ]; do sleep 0.02; done"#;

/// An agent's table: a script of `sh` in a container, to which the prompt is `$1`.
pub(crate) fn contained(name: &str, script: &str, more: &str) -> String {
    agent(name, "podman", script, &format!("image = \"{IMAGE}\"\n{more}"))
}

/// The same as a process.
pub(crate) fn plain(name: &str, script: &str, more: &str) -> String {
    agent(name, "process", script, more)
}

fn agent(name: &str, runtime: &str, script: &str, more: &str) -> String {
    // JSON's escapes are TOML's, too.
    let script = json!(script);
    format!(
        "[[agents]]\nname = \"{name}\"\nruntime = \"{runtime}\"\nharness = \"custom\"\nprompt = \"p\"\n\
         command = [\"/bin/sh\", \"-c\", {script}, \"agent\"]\n{more}\n\n"
    )
}

/// A daemon, its Podman, and where they are.
#[derive(Debug)]
pub(crate) struct Site {
    // In the order in which they have to end.
    pub(crate) daemon: Option<Daemon>,
    pub(crate) podman: Podman,
    pub(crate) env: TestEnvironment,
}

impl Site {
    /// Starts a daemon with these agents and more settings of `[daemon]`.
    pub(crate) fn new(settings: &str, agents: &[String]) -> Self {
        let mut env = TestEnvironment::new();
        let podman = Podman::new(&mut env);
        let mut site = Self {
            daemon: None,
            podman,
            env,
        };
        site.declare(settings, agents);
        site.start();
        site
    }

    /// Writes `agentd.toml`. The engine is reached through a script that looks first whether the test wants a command
    /// to go wrong: see [`Site::spoil`].
    pub(crate) fn declare(&self, settings: &str, agents: &[String]) {
        let spoilt = self.spoilt();
        fs::create_dir_all(&spoilt).expect("a directory");
        let (told, script) = (self.env.path("told"), self.env.path("engine"));
        if !told.exists() {
            pipe(&told);
        }
        // The first call with the word takes the file, and does what stands in it instead of, or before, its work.
        let text = format!(
            "#!/bin/sh\ntold() {{ echo \"$1\" > '{}'; }}\nfor word in \"$@\"; do\n\
             if [ -f '{dir}'/\"$word\" ] && mv '{dir}'/\"$word\" '{dir}'/\"taken.$$\" 2>/dev/null; then\n\
             . '{dir}'/\"taken.$$\"\nfi\ndone\nexec podman \"$@\"\n",
            told.display(),
            dir = spoilt.display()
        );
        fs::write(&script, text).expect("a script");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a mode");
        let podman = self
            .podman
            .setting()
            .replacen("\"podman\"", &json!(script).to_string(), 1);
        self.env.write(
            ".agentd/agentd.toml",
            &format!("[daemon]\n{podman}{settings}\n{}", agents.concat()),
        );
    }

    pub(crate) fn start(&mut self) {
        self.daemon = Some(self.env.daemon());
    }

    /// Ends the daemon and gives its log.
    pub(crate) fn stop(&mut self) -> String {
        self.daemon.take().expect("a daemon").stop()
    }

    fn spoilt(&self) -> PathBuf {
        self.env.path("spoilt")
    }

    /// The next command of the engine that has this word does what the script says. `told WORD` in it waits for
    /// [`Site::told`].
    pub(crate) fn spoil(&self, word: &str, script: &str) {
        let new = self.spoilt().join("new");
        fs::write(&new, script).expect("a file");
        fs::rename(new, self.spoilt().join(word)).expect("complete at once");
    }

    /// True when a spoilt command has been met.
    pub(crate) fn is_spent(&self, word: &str) -> bool {
        !self.spoilt().join(word).exists()
    }

    /// Waits for what a spoilt command tells.
    #[track_caller]
    pub(crate) fn told(&self) -> String {
        read_pipe(&self.env.path("told")).trim().to_owned()
    }

    /// Starts a session that is left to the daemon, and gives its id.
    #[track_caller]
    pub(crate) fn detached(&self, agent: &str) -> String {
        self.env.ok(&["run", "--detach", agent]).trim().to_owned()
    }

    /// Follows a session's output.
    pub(crate) fn follow(&self, session: &str) -> Running {
        self.env.spawn(&["sessions", "logs", "-f", session])
    }

    #[track_caller]
    pub(crate) fn show(&self, session: &str) -> Value {
        self.env.json(&["sessions", "show", session])["session"].take()
    }

    /// Waits until a session is over, and gives it.
    #[track_caller]
    pub(crate) fn ended(&self, session: &str) -> Value {
        let mut wire = self.env.connect();
        // Its last entry in the journal comes with its end.
        wire.call(
            "SubscribeJournal",
            json!({ "from_seq": 1, "action_types": ["SESSION_ENDED"] }),
        );
        loop {
            let line = wire.line().expect("an entry of the journal");
            if line.to_string().contains(session) {
                return self.show(session);
            }
        }
    }

    /// A session's directory.
    pub(crate) fn dir(&self, session: &str) -> PathBuf {
        self.env.state().join("sessions").join(session)
    }

    /// Lets a script that says [`WAIT`] go on.
    pub(crate) fn go(&self, session: &str) {
        fs::write(self.dir(session).join("run/go"), "").expect("the session's run directory");
    }

    /// Nothing of any session is left, neither containers nor secrets nor what agents wrote to one another.
    #[track_caller]
    pub(crate) fn assert_nothing_is_left(&self) {
        assert_eq!(self.podman.containers(), [""; 0]);
        let active = self.env.json(&["sessions", "--active"]);
        assert_eq!(active["sessions"], json!([]), "{active}");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // It would begin what waits.
        drop(self.daemon.take());
        // What a failed test has left: agents go with their supervisors, containers with their Podman.
        let state = self.env.state().into_os_string().into_encoded_bytes();
        let ours = |line: &[u8]| {
            let mut words = line.split(|byte| *byte == 0);
            words.any(|word| word == b"__session") && words.any(|word| word.starts_with(&state))
        };
        for pid in processes(ours) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// `reason`, exit code or signal, and message of a session that is over.
#[track_caller]
pub(crate) fn outcome(session: &Value) -> (String, Value, String) {
    let outcome = &session["outcome"];
    let how = match &outcome["exit_code"] {
        Value::Null => &outcome["signal"],
        code => code,
    };
    (
        outcome["reason"].as_str().expect("a reason").to_owned(),
        how.clone(),
        outcome["message"].as_str().unwrap_or_default().to_owned(),
    )
}

/// The process that is started with the session's directory as its argument.
#[track_caller]
pub(crate) fn supervisor(session: &str) -> i32 {
    let of_session = |line: &[u8]| {
        let line = String::from_utf8_lossy(line);
        line.contains("__session") && line.contains(session)
    };
    let found = processes(of_session);
    *found.first().expect("a supervisor")
}

/// The processes of this machine whose command lines are meant.
pub(crate) fn processes(meant: impl Fn(&[u8]) -> bool) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter(|pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| meant(&line)))
        .collect()
}

/// The most memory that a process has had so far, in KiB.
#[track_caller]
pub(crate) fn memory_max_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("VmHWM")
}

/// A small file system of its own. It is taken away when this is dropped.
#[derive(Debug)]
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Mounts it with these options.
    #[track_caller]
    pub(crate) fn mount(path: &Path, options: &str) -> Self {
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "agentd-test"])
            .arg(path)
            .output()
            .expect("mount");
        assert!(
            mount.status.success(),
            "{}",
            String::from_utf8_lossy(&mount.stderr)
        );
        Self(path.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
