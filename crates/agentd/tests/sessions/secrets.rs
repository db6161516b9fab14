//! A planted secret is looked for everywhere, in all forms that are promised; one that was declared as nothing is found
//! in the same places, so that looking is known to work.

use crate::site::{Site, WAIT, contained, outcome, plain, processes, supervisor};
use crate::support::shown;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use uuid::Uuid;

/// Different each time: what an earlier run has left is not this one's.
static IN_FILE: LazyLock<String> = LazyLock::new(|| format!("pl4nted/F1le+Value \"of\" {}", Uuid::new_v4()));
static IN_VARIABLE: LazyLock<String> =
    LazyLock::new(|| format!("pl4nted/Var1able?of=7&all+{}", Uuid::new_v4()));
/// Nobody has said that it is one.
const CONTROL: &str = "c0ntrol/Value+with \"all\" of it";
const SHORT: &str = "sh0rt";

/// Shows all that it knows in every way, leaves it as its result, waits, and exits as it is told.
const LEAKS: &str = r#"
type sed >/dev/null 2>&1 || sed() { /bin/busybox sed "$@"; }
b64() { base64 | tr -d '\n'; }
escaped() { printf %s "$1" | sed 's,\\,\\\\,g; s,",\\",g'; }
s=$(cat "$CREDENTIALS_DIRECTORY/FILE"); v=$VARIABLE
for x in "$s" "$v" 'CONTROL'; do
  echo "once: $x"; echo "once: $x" >&2
  printf 'letters: '; rest=$x
  while [ -n "$rest" ]; do next=${rest#?}; printf %s "${rest%"$next"}"; rest=$next; done; echo
  printf 'paused: '; printf %s "$x" | { dd bs=1 count=7 2>/dev/null; sleep 0.2; cat; }; echo
  for before in '' x xx; do echo "base64: $(printf %s "$before$x and more" | b64)"; done
  echo "base64: $(printf %s "$x" | b64)"
  printf 'url: '; printf %s "$x" | sed 's,%,%25,g; s,/,%2F,g; s,+,%2B,g; s, ,%20,g; s,",%22,g; s,&,%26,g; s,?,%3F,g; s,=,%3D,g'; echo
  echo "json: \"$(escaped "$x")\""
done
echo "short: $(cat "$CREDENTIALS_DIRECTORY/SHORT")"
printf '{"token": "%s", "other": ["%s", "%s"]}' "$(escaped "$s")" "$(printf %s "$v" | b64)" "$(escaped 'CONTROL')" \
  > "$AGENTD_RUN_DIR/result.new"
mv "$AGENTD_RUN_DIR/result.new" "$AGENTD_RUN_DIR/result.json"
echo "core: $(ulimit -c)"
echo ready
"#;

/// A value in the forms in which it must not be found; made by other means than agentd's.
fn forms(value: &str) -> Vec<String> {
    let mut url = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            let _ = write!(url, "%{byte:02X}");
        }
    }
    let json = json!(value).to_string();
    let mut forms = vec![value.to_owned(), url, json[1..json.len() - 1].to_owned()];
    // What stands before it shifts it by none, one or two bytes; its first and last characters may be others' as well.
    for before in 0..3 {
        let text = STANDARD_NO_PAD.encode([&b"xx"[..before], value.as_bytes()].concat());
        forms.push(text[4..text.len() - 2].to_owned());
    }
    forms.push(STANDARD.encode(value));
    forms.sort();
    forms.dedup();
    forms
}

fn found(bytes: &[u8], value: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    forms(value)
        .into_iter()
        .filter(|form| text.contains(&**form))
        .collect()
}

#[track_caller]
fn clean(what: &str, bytes: &[u8]) {
    for value in [&*IN_FILE, &IN_VARIABLE] {
        let found = found(bytes, value);
        assert!(
            found.is_empty(),
            "{what}: {found:?} in\n{}",
            String::from_utf8_lossy(bytes)
        );
    }
}

/// All ordinary files below a directory, but for what is an image's or too large to be text.
fn files(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&path, all),
            Ok(kind) if kind.is_file() && entry.metadata().is_ok_and(|of| of.len() < 1_500_000) => {
                all.push(path);
            }
            _ => {}
        }
    }
}

fn files_with(dirs: &[PathBuf], value: &str) -> BTreeSet<PathBuf> {
    let mut all = Vec::new();
    for dir in dirs {
        files(dir, &mut all);
    }
    all.retain(|path| fs::read(path).is_ok_and(|bytes| !found(&bytes, value).is_empty()));
    all.into_iter().collect()
}

fn read_process(pid: i32, file: &str) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

fn secrets(site: &Site) {
    let dir = site.env.path("vault");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    let nul = format!("{}\0{}", *IN_FILE, *IN_VARIABLE);
    for (name, value) in [
        ("FILE", &**IN_FILE),
        ("VARIABLE", &IN_VARIABLE),
        ("SHORT", SHORT),
        ("NUL", &nul),
    ] {
        fs::write(dir.join(name), format!("{value}\n")).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn a_planted_secret_is_nowhere_and_a_control_is_found() {
    let credentials = "credentials = [\"FILE\", { name = \"VARIABLE\", env = \"VARIABLE\" }, \"SHORT\"]\n\
                       max_sessions = 2\n";
    let script = format!("{LEAKS}{WAIT}; exit $1").replace("CONTROL", CONTROL);
    let agents = [
        contained("c", &script, credentials),
        plain("p", &script, credentials),
        contained("fails", "true", credentials),
        plain("nothing", "true", credentials).replace("/bin/sh", "/nowhere/program"),
        plain("nul", "true", "credentials = [{ name = \"NUL\", env = \"NUL\" }]"),
    ];
    let mut site = Site::new("", &[]);
    site.stop();
    secrets(&site);
    site.declare("secret_dir = \"~/vault\"\n", &agents);
    site.env.set("RUST_LOG", "trace");
    site.start();
    let dirs = |site: &Site| -> Vec<PathBuf> {
        vec![
            site.env.state(),
            site.env.path("podman"),
            "/run".into(),
            "/dev/shm".into(),
            "/tmp/agentd".into(),
        ]
    };

    // Nodes of a task, two that are done and two that fail.
    let plan = |node: &str, agent: &str, code: &str| {
        format!("[[nodes]]\nname = '{node}'\nagent = '{agent}'\nprompt = '{code}'\n")
    };
    let nodes = [
        plan("c0", "c", "0"),
        plan("p0", "p", "0"),
        plan("c7", "c", "7"),
        plan("p7", "p", "7"),
    ];
    site.env.write(
        "plan.toml",
        &format!("goal = 'leak'\nresult = 'p7'\n{}", nodes.concat()),
    );
    let mut task = site.env.spawn(&["task", "run", "plan.toml"]);
    let mut wire = site.env.connect();
    wire.call(
        "SubscribeJournal",
        json!({ "from_seq": 1, "action_types": ["SESSION_QUEUED"] }),
    );
    for _ in 0..4 {
        wire.line().unwrap();
    }
    let sessions = site.env.json(&["sessions", "--active"]);
    let sessions: Vec<String> = sessions["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| session["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(sessions.len(), 4);
    for id in &sessions {
        site.follow(id).wait_stdout("ready");
    }
    while_it_runs(&site, &sessions);
    // In memory alone, and nobody's but the agent's: one file for each session.
    for (value, name) in [(&*IN_FILE, "FILE"), (&IN_VARIABLE, "VARIABLE")] {
        let mut with = files_with(&dirs(&site), value);
        // What the agent itself writes into its own directory, which goes with the session.
        with.retain(|path| !path.ends_with("run/result.json"));
        let of_sessions: BTreeSet<&str> = with
            .iter()
            .map(|path| path.parent().unwrap().file_name().unwrap().to_str().unwrap())
            .collect();
        assert_eq!(of_sessions, sessions.iter().map(|id| &**id).collect(), "{with:?}");
        for path in with {
            assert!(path.ends_with(name) && path.starts_with("/dev/shm"), "{path:?}");
            let of = fs::metadata(&path).unwrap();
            assert_eq!(of.permissions().mode() & 0o777, 0o400, "{path:?}");
            assert_ne!(of.uid(), 0, "{path:?}");
        }
    }

    for id in &sessions {
        site.go(id);
    }
    let status = task.wait();
    let said = task.printed();
    assert!(!status.success(), "{said}");
    clean("what the task printed", said.as_bytes());
    let nowhere = site.env.run(&["run", "nothing"]);
    clean("a program that is missing", shown(&nowhere).as_bytes());
    let nul = site.env.run(&["run", "nul"]);
    assert!(shown(&nul).contains("zero byte"), "{}", shown(&nul));
    clean("a secret that can be no variable", shown(&nul).as_bytes());
    // An engine that prints what it should not know.
    site.spoil(
        "run",
        &format!("cat '{}'/* >&2; exit 125", site.env.path("vault").display()),
    );
    let engine = site.env.run(&["run", "fails"]);
    assert!(shown(&engine).contains("[redacted]"), "{}", shown(&engine));
    clean("an engine that says too much", shown(&engine).as_bytes());

    afterwards(&site, &sessions);
    for value in [&*IN_FILE, &IN_VARIABLE] {
        assert_eq!(files_with(&dirs(&site), value), BTreeSet::new());
    }
    let log = site.stop();
    clean("the log", log.as_bytes());
    let database = fs::read(site.env.database()).unwrap();
    clean("the database", &database);
    // Looking finds what is there: on disk, in answers, in all forms.
    assert!(!found(&database, CONTROL).is_empty());
    let with = files_with(&[site.env.state().join("sessions")], CONTROL);
    for id in &sessions {
        let of = |part: &str| with.iter().any(|path| path.starts_with(site.dir(id).join(part)));
        assert!(of("transcript") && of("result.json"), "{with:?}");
    }
}

/// Nothing that can be seen of running processes has it.
fn while_it_runs(site: &Site, sessions: &[String]) {
    let daemon = site.daemon.as_ref().unwrap().pid().as_raw();
    let mut others = Vec::new();
    let mut agents = 0;
    for pid in processes(|_| true) {
        clean("a command line", &read_process(pid, "cmdline"));
        let environment = read_process(pid, "environ");
        // An agent has it, and its programs; nobody else.
        let is_agent = sessions.iter().any(|id| {
            environment
                .split(|byte| *byte == 0)
                .any(|word| word == format!("AGENTD_SESSION_ID={id}").as_bytes())
        });
        if is_agent {
            agents += usize::from(!found(&environment, &IN_VARIABLE).is_empty());
            assert!(found(&environment, &IN_FILE).is_empty());
        } else {
            others.push(pid);
            clean("an environment", &environment);
        }
    }
    assert!(agents >= sessions.len(), "{agents} agents were looked at");
    let no_core = |pid: i32| {
        let limits = String::from_utf8(read_process(pid, "limits")).unwrap();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .unwrap();
        line.split_whitespace().filter(|word| *word == "0").count() == 2
    };
    for pid in sessions.iter().map(|id| supervisor(id)).chain([daemon]) {
        assert!(
            others.contains(&pid) && no_core(pid),
            "{pid} may leave a core file"
        );
    }
    // The init has read variables' values: it leaves no core, and its agent cannot look into it.
    let inits: Vec<i32> = processes(|line| line.starts_with(b"/run/agentd/init\0"))
        .into_iter()
        .filter(|pid| {
            let cgroup = String::from_utf8(read_process(*pid, "cgroup")).unwrap();
            let ours = site.podman.containers();
            ours.iter().any(|id| cgroup.contains(id.as_str()))
        })
        .collect();
    assert_eq!(inits.len(), 2, "two containers");
    for init in inits {
        assert!(no_core(init), "the init may leave a core file");
        // Neither the agent nor anybody like it owns what tells of it.
        let agent = fs::metadata(format!("/proc/{init}/root/home/c")).unwrap().uid();
        assert_ne!(
            fs::metadata(format!("/proc/{init}/environ")).unwrap().uid(),
            agent
        );
    }
    for id in site.podman.containers() {
        clean("podman inspect", site.podman.ok(&["inspect", &id]).as_bytes());
        clean(
            "podman logs",
            &site.podman.command(&["logs", &id]).output().unwrap().stdout,
        );
    }
    assert_eq!(site.podman.containers().len(), 2);
}

/// No answer has it, while the control is in them.
fn afterwards(site: &Site, sessions: &[String]) {
    let mut wire = site.env.connect();
    let mut answers: Vec<(String, Value)> = Vec::new();
    for method in [
        "DescribeInterface",
        "Metrics",
        "ListAgents",
        "ListSessions",
        "ListTasks",
    ] {
        answers.push((method.into(), wire.call(method, json!({}))));
    }
    let list = wire.call("ListSessions", json!({}));
    let task = list["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|one| one["task_id"].as_str());
    let task = json!({ "task_id": task.unwrap() });
    answers.push(("TaskStatus".into(), wire.call("TaskStatus", task.clone())));
    let journal = wire.call("ReadJournal", json!({ "limit": 1000 }));
    answers.push(("ReadJournal".into(), journal));
    let (mut reasons, mut warned) = (Vec::new(), 0);
    for id in sessions {
        let of = json!({ "session_id": id });
        let mut session = wire.call("GetSession", of.clone());
        let info = if session["session"].is_object() {
            session["session"].take()
        } else {
            session
        };
        reasons.push(outcome(&info).0);
        let node = json!({ "task_id": info["task_id"], "node_id": info["node_id"] });
        answers.push(("GetSession".into(), info));
        answers.push(("GetNode".into(), wire.call("GetNode", node)));
        answers.push(("ReadTranscript".into(), wire.call("ReadTranscript", of)));
        let log = site.env.run(&["sessions", "logs", id]);
        clean("agentd sessions logs", &[&log.stdout[..], &log.stderr].concat());
        let log = String::from_utf8(log.stdout).unwrap();
        for step in ["once: ", "letters: ", "paused: ", "url: ", "json: \""] {
            let redacted = log.matches(&format!("{step}[redacted]")).count();
            assert_eq!(redacted, 2, "{step}: {log}");
        }
        assert!(
            log.contains(&format!("short: {SHORT}")) && log.contains("core: 0\n"),
            "{log}"
        );
        assert!(forms(CONTROL).iter().all(|form| log.contains(&**form)), "{log}");
        let show = site.env.ok(&["sessions", "show", id]);
        clean("agentd sessions show", show.as_bytes());
        warned += usize::from(show.contains("SHORT has 5 bytes"));
    }
    reasons.sort();
    assert_eq!(reasons, ["completed", "completed", "failed", "failed"]);
    assert_eq!(warned, sessions.len());
    for (method, answer) in &answers {
        clean(method, answer.to_string().as_bytes());
    }
    let with_control: BTreeSet<&str> = answers
        .iter()
        // An answer in JSON has everything escaped once more.
        .filter(|(_, answer)| answer.to_string().contains("c0ntrol/Value+with"))
        .map(|(method, _)| &**method)
        .collect();
    for method in ["GetSession", "GetNode", "ReadJournal"] {
        assert!(with_control.contains(method), "{method}: {with_control:?}");
    }
    // A node's error says what the agent said.
    let failed = answers
        .iter()
        .filter(|(method, answer)| method == "GetNode" && answer.to_string().contains("once: [redacted]"));
    assert_eq!(failed.count(), 2);
}
