//! A daemon that is killed, its agents, and what may not be left of their sessions.

use crate::podman::{IMAGE, Podman};
use crate::support::{Daemon, TestEnvironment, Wire, shown, wait_gone};
use base64::Engine as _;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;

/// What every agent here prints to stdout, in its way to the end.
pub(crate) const PRINTED: &str = "first\nsecond\nno newline at the end";
/// And to stderr.
pub(crate) const COMPLAINED: &str = "a complaint\n";

/// Notes that it ran, leaves a process of its own behind, prints, and leaves a result. `$1` is the prompt.
const SCRIPT: &str = r#"
    echo "$1" >> "$HOME/runs"
    [ "$(cat "$CREDENTIALS_DIRECTORY/TOKEN")" = "a planted secret" ] || exit 9
    (setsid sleep 1000 > /dev/null 2>&1 &)
    echo first; echo a complaint >&2; echo second
    printf '{"of": "%s"}' "$1" > "$AGENTD_RUN_DIR/result.json"
    printf 'no newline at the end'"#;

/// Says that it is there, and goes on when the test says so. Begun once more it ends at once.
pub(crate) const WAITS: &str = r#"
    (setsid sleep 1000 > /dev/null 2>&1 &)
    [ -e "$HOME/again" ] && { echo again; exit 0; }
    : > "$HOME/again"; echo ready
    until [ -e "$AGENTD_RUN_DIR/go" ]; do sleep 0.02; done
    echo after; exit 4"#;

/// Whom a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// Somebody who asked for it.
    Hand,
    /// A node of a plan.
    Node,
}

/// What was asked for: a session, or a task of one node.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) agent: &'static str,
    pub(crate) prompt: String,
    pub(crate) of: For,
}

/// A home of agentd's with an agent that is called "a".
pub(crate) struct Scene {
    // Removed first, while its directory is there.
    pub(crate) podman: Option<Podman>,
    pub(crate) env: TestEnvironment,
    repository: Option<PathBuf>,
}

impl Scene {
    /// With the agent of [`SCRIPT`]. In a container it works in a worktree.
    pub(crate) fn new(in_podman: bool) -> Self {
        let mut scene = Self::bare(in_podman);
        let mut more = "credentials = [\"TOKEN\"]\n".to_owned();
        if in_podman {
            let path = scene.repository();
            more += &format!(
                "workspace = {}\nworkspace_mode = \"worktree\"\nworktree_policy = \"drop\"\n",
                json!(path)
            );
        }
        scene.env.write(".agentd/secrets/TOKEN", "a planted secret\n");
        // The other one's sessions are always processes.
        let process = table(
            "process",
            "runtime = \"process\"",
            SCRIPT,
            "credentials = [\"TOKEN\"]\nmax_sessions = 2",
        );
        scene.declare("", &[scene.agent("a", SCRIPT, &more), process]);
        scene
    }

    /// Without agents.
    pub(crate) fn bare(in_podman: bool) -> Self {
        let mut env = TestEnvironment::new();
        let podman = in_podman.then(|| Podman::new(&mut env));
        Self {
            podman,
            env,
            repository: None,
        }
    }

    /// The table of an agent that is a script of `sh`.
    pub(crate) fn agent(&self, name: &str, script: &str, more: &str) -> String {
        let runtime = match self.podman {
            Some(_) => format!("runtime = \"podman\"\nimage = \"{IMAGE}\""),
            None => "runtime = \"process\"".to_owned(),
        };
        table(name, &runtime, script, more)
    }

    pub(crate) fn declare(&self, settings: &str, agents: &[String]) {
        let podman = self.podman.as_ref().map(Podman::setting).unwrap_or_default();
        let secrets = json!(self.env.state().join("secrets"));
        let daemon = format!("[daemon]\nsecret_dir = {secrets}\n{podman}{settings}\n");
        self.env
            .write(".agentd/agentd.toml", &(daemon + &agents.concat()));
    }

    pub(crate) fn repository(&mut self) -> PathBuf {
        let path = self.env.path("repository");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("file"), "content\n").unwrap();
        // Of nobody whom anything else belongs to.
        let owner = nix::unistd::Uid::from_raw(1234);
        std::os::unix::fs::chown(&path, Some(1234), Some(1234)).unwrap();
        std::os::unix::fs::chown(path.join("file"), Some(1234), Some(1234)).unwrap();
        for args in [
            &["init", "--quiet", "--initial-branch=main"][..],
            &["add", "file"],
            &["commit", "--quiet", "--message=first"],
        ] {
            let mut git = Command::new("git");
            self.env.prepare(&mut git);
            git.args(["-c", "user.name=n", "-c", "user.email=e@example.org"])
                .args(args)
                .current_dir(&path)
                .env("HOME", "/nonexistent");
            std::os::unix::process::CommandExt::uid(&mut git, owner.as_raw());
            std::os::unix::process::CommandExt::gid(&mut git, 1234);
            let output = git.output().unwrap();
            assert!(output.status.success(), "{}", shown(&output));
        }
        self.repository = Some(path.clone());
        path
    }

    /// Starts a daemon that kills itself at a point, asks it for something, and waits for its death.
    #[track_caller]
    pub(crate) fn dies_at(&self, point: &str, and: impl FnOnce(&Scene)) {
        let mut command = self.env.command(&["daemon"]);
        command.env("AGENTD_TEST_DIE_AT", point);
        let status = match self.env.try_daemon(&mut command) {
            // It was ready and is asked.
            Ok(mut daemon) => {
                and(self);
                daemon.wait()
            }
            // It came by on its own.
            Err(output) => output.status,
        };
        assert_eq!(status.signal(), Some(9), "it did not come by {point}: {status}");
    }

    /// Asks for it, once more if need be: it is the same then. None when the daemon died meanwhile.
    pub(crate) fn ask(&self, asked: &Asked) -> Option<Value> {
        let Asked { agent, prompt, of } = asked;
        let request = match of {
            For::Hand => json!({ "id": 1, "method": "RunAgent", "params": {
                "agent": agent, "prompt": prompt, "idempotency_key": prompt } }),
            For::Node => json!({ "id": 1, "method": "RegisterTask", "params": {
                "goal": "g", "idempotency_key": prompt,
                "initial_nodes": [{ "work": { "kind": "agent", "agent": agent, "prompt": prompt } }] } }),
        };
        let mut stream = UnixStream::connect(self.env.socket()).ok()?;
        stream.write_all(format!("{request}\n").as_bytes()).ok()?;
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stream), &mut line).ok()?;
        let mut answer: Value = serde_json::from_str(&line).ok()?;
        assert!(answer.get("error").is_none(), "{answer}");
        Some(answer["result"].take())
    }

    /// Asks for a session by hand, and gives its id.
    #[track_caller]
    pub(crate) fn run(&self, agent: &str, prompt: &str) -> String {
        let params = json!({ "agent": agent, "prompt": prompt });
        let queued = self.env.connect().call("RunAgent", params);
        queued["session_id"].as_str().unwrap().to_owned()
    }

    /// Lets an agent that [`WAITS`] go on.
    pub(crate) fn go(&self, id: &str) {
        fs::write(self.env.state().join("sessions").join(id).join("run/go"), "").unwrap();
    }

    /// Waits until an agent has printed something.
    #[track_caller]
    pub(crate) fn printed(&self, id: &str) {
        let params = json!({ "session_id": id, "from_offset": 0, "wait_secs": 20 });
        let page = self.env.connect().call("ReadTranscript", params);
        assert_ne!(page["chunks"], json!([]), "{page}");
    }

    /// How often an agent with this prompt has begun, in its home.
    pub(crate) fn runs(&self, agent: &str, prompt: &str) -> usize {
        let path = self.env.state().join("homes").join(agent).join("runs");
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().filter(|line| *line == prompt).count()
    }

    /// Waits until it is over, under a daemon that lives, and checks that all is as if nothing had happened.
    #[track_caller]
    pub(crate) fn completes(&self, asked: &Asked, case: &str) {
        let answer = self.ask(asked).expect("a daemon that lives");
        let mut wire = self.env.connect();
        let sessions = match asked.of {
            For::Hand => vec![answer["session_id"].as_str().unwrap().to_owned()],
            For::Node => node_ended(&self.env, &answer, asked, case),
        };
        let mut completed = 0;
        for id in &sessions {
            let said = over(&mut wire, id);
            let session = show(&mut wire, id);
            let reason = &session["outcome"]["reason"];
            if asked.of == For::Node && *reason == "cancelled" && session.get("started_at").is_none() {
                assert_eq!(said, Said::default(), "{case}: {session}");
            } else {
                assert_eq!(
                    (
                        reason,
                        &session["outcome"]["exit_code"],
                        &session["outcome"]["result"]
                    ),
                    (&json!("completed"), &json!(0), &json!({ "of": asked.prompt })),
                    "{case}: {session}"
                );
                assert_eq!(said.stdout, PRINTED.as_bytes(), "{case}");
                assert_eq!(said.stderr, COMPLAINED.as_bytes(), "{case}");
                in_order(&session, case);
                completed += 1;
            }
            self.nothing_is_left(id, case);
        }
        assert_eq!(
            (completed, self.runs(asked.agent, &asked.prompt)),
            (1, 1),
            "{case}: {sessions:?}"
        );
    }

    /// Checks that nothing is left of a session that is over, but what is to be kept.
    #[track_caller]
    pub(crate) fn nothing_is_left(&self, id: &str, case: &str) {
        // Its supervisor may be about to end.
        for pid in processes_of(id) {
            wait_gone(pid);
        }
        for instance in fs::read_dir("/dev/shm/agentd-0").into_iter().flatten().flatten() {
            assert!(
                !instance.path().join(id).exists(),
                "{case}: secrets of {id} are left"
            );
        }
        let dir = self.env.state().join("sessions").join(id);
        for name in ["run", "worktree", "worktree.json", "view"] {
            assert!(!dir.join(name).exists(), "{case}: {name} of {id} is left");
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(id), "{case}: a mount of {id} is left");
        if self.podman.is_some() {
            for list in ["containers.json", "volatile-containers.json"] {
                let list = self.env.path("podman/root/overlay-containers").join(list);
                let list = fs::read_to_string(list).unwrap_or_default();
                assert!(!list.contains(id), "{case}: a container of {id} is left");
            }
        }
        if let Some(repository) = &self.repository {
            let git = repository.join(".git");
            // What git calls a worktree is the name of its directory, and a number.
            let worktrees = fs::read_dir(git.join("worktrees"))
                .into_iter()
                .flatten()
                .flatten();
            for worktree in worktrees {
                let place = fs::read_to_string(worktree.path().join("gitdir")).unwrap_or_default();
                assert!(!place.contains(id), "{case}: a worktree of {id} is left");
            }
            let branches = Command::new("find")
                .arg(git.join("refs"))
                .arg("-name")
                .arg(format!("*{}", &id[id.len() - 12..]))
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&branches.stdout), "", "{case}");
        }
    }

    /// Checks that Podman itself knows of no container, and kills the daemon.
    #[track_caller]
    pub(crate) fn close(self, daemon: Daemon) {
        if let Some(podman) = &self.podman {
            assert_eq!(podman.containers(), Vec::<String>::new());
        }
        daemon.stop();
    }
}

/// An agent's table.
pub(crate) fn table(name: &str, runtime: &str, script: &str, more: &str) -> String {
    // JSON's escapes are TOML's, too.
    let script = json!(script);
    format!(
        "[[agents]]\nname = \"{name}\"\n{runtime}\nharness = \"custom\"\nprompt = \"p\"\n\
         command = [\"sh\", \"-c\", {script}, \"agent\"]\n{more}\n\n"
    )
}

/// What an agent printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) missing: u64,
}

/// Waits until a session is over, and gives all that it printed.
#[track_caller]
pub(crate) fn over(wire: &mut Wire, id: &str) -> Said {
    let mut said = Said::default();
    let mut from = 0;
    loop {
        let params =
            json!({ "session_id": id, "from_offset": from, "wait_secs": 20, "limit_bytes": 1_000_000 });
        let page = wire.call("ReadTranscript", params);
        for chunk in page["chunks"].as_array().unwrap() {
            let bytes = match chunk["text"].as_str() {
                Some(text) => text.as_bytes().to_vec(),
                None => base64::engine::general_purpose::STANDARD
                    .decode(chunk["base64"].as_str().unwrap())
                    .unwrap(),
            };
            match chunk["stream"].as_str() {
                Some("stdout") => said.stdout.extend(bytes),
                _ => said.stderr.extend(bytes),
            }
        }
        said.missing += page["missing_bytes"].as_u64().unwrap_or(0);
        from = page["next_offset"].as_u64().unwrap();
        if page["ended"] == true {
            return said;
        }
    }
}

#[track_caller]
pub(crate) fn show(wire: &mut Wire, id: &str) -> Value {
    let mut answer = wire.call("GetSession", json!({ "session_id": id }));
    match answer.get("session") {
        Some(_) => answer["session"].take(),
        None => answer,
    }
}

/// Waits until the node has ended, which it may do once; gives the sessions that worked on it.
#[track_caller]
fn node_ended(env: &TestEnvironment, registered: &Value, asked: &Asked, case: &str) -> Vec<String> {
    let task = &registered["task_id"];
    let (mut wire, mut journal) = (env.connect(), env.connect());
    let kinds = json!(["COMPLETE_NODE", "FAIL_NODE"]);
    let filter = json!({ "from_seq": 1, "task_id": task, "action_types": kinds });
    journal.call("SubscribeJournal", filter);
    let entry = journal.line().unwrap();
    assert!(entry.to_string().contains("COMPLETE_NODE"), "{case}: {entry}");
    let status = wire.call("TaskStatus", json!({ "task_id": task }));
    let node = &status["nodes"][0];
    assert_eq!(
        (&node["status"], &node["result_payload"]),
        (&json!("COMPLETED"), &json!({ "of": asked.prompt })),
        "{case}: {node}"
    );
    let ended = wire.call(
        "ReadJournal",
        json!({ "from_seq": 1, "task_id": task, "action_types": kinds }),
    );
    assert_eq!(ended["entries"].as_array().unwrap().len(), 1, "{case}: {ended}");
    let list = wire.call("ListSessions", json!({ "task_id": task }));
    let sessions = list["sessions"].as_array().unwrap().iter();
    sessions
        .map(|session| session["id"].as_str().unwrap().to_owned())
        .collect()
}

#[track_caller]
fn in_order(session: &Value, case: &str) {
    let times: Vec<_> = ["created_at", "setup_at", "started_at", "exited_at", "ended_at"]
        .iter()
        .filter_map(|name| session[*name].as_str())
        .collect();
    assert!(times.len() >= 4 && times.is_sorted(), "{case}: {session}");
}

/// Waits until agentd says of a session that it runs.
#[track_caller]
pub(crate) fn running(env: &TestEnvironment, id: &str) {
    let mut journal = env.connect();
    let kinds = json!(["SESSION_PHASE"]);
    journal.call(
        "SubscribeJournal",
        json!({ "from_seq": 1, "session_id": id, "action_types": kinds }),
    );
    while !journal.line().unwrap().to_string().contains("RUNNING") {}
}

/// The session's supervisor: it is started with the session's directory as its last argument.
#[track_caller]
pub(crate) fn supervisor(id: &str) -> i32 {
    let mut found = processes_of(id).into_iter().filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|&byte| byte == 0);
        words.next() == Some(b"agentd") && words.next() == Some(b"__session")
    });
    found.next().expect("a supervisor")
}

/// The processes that name a session, in their arguments or in their environment.
pub(crate) fn processes_of(id: &str) -> Vec<i32> {
    let names = |pid: i32| {
        ["cmdline", "environ"].iter().any(|file| {
            let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            text.windows(id.len()).any(|part| part == id.as_bytes())
        })
    };
    let own = i32::try_from(std::process::id()).unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| pid != own && names(pid))
        .collect()
}
