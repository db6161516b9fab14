//! `agentd run`, `agentd sessions`, `agentd agents` and `agentd reload`, with agents that are shell scripts, and plans
//! whose nodes are theirs.
//!
//! An agent may have a user of its own, who sees nothing of the test's directory: what an agent is to wait for is put
//! into its run directory.

use crate::support::{Daemon, Running, TestEnvironment, code, shown, until, wait_gone};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

/// Waits until the test says so.
const WAIT: &str = r#"until [ -e "$AGENTD_RUN_DIR/go" ]; do sleep 0.02; done"#;

/// An agent's table: a script of `sh`, to which the prompt is `$1`.
pub(crate) fn agent(name: &str, script: &str, more: &str) -> String {
    let script = toml_text(script);
    format!(
        "[[agents]]\nname = \"{name}\"\nruntime = \"process\"\nharness = \"custom\"\nprompt = \"as declared\"\n\
         command = [\"sh\", \"-c\", {script}, \"agent\"]\n{more}\n\n"
    )
}

pub(crate) fn toml_text(text: &str) -> String {
    // JSON's escapes are TOML's, too.
    json!(text).to_string()
}

pub(crate) fn declare(env: &TestEnvironment, agents: &[String]) {
    env.write(".agentd/agentd.toml", &agents.concat());
}

pub(crate) fn with(agents: &[String]) -> (TestEnvironment, Daemon) {
    let env = TestEnvironment::new();
    declare(&env, agents);
    let daemon = env.daemon();
    (env, daemon)
}

fn run_dir(env: &TestEnvironment, session: &str) -> PathBuf {
    env.state().join("sessions").join(session).join("run")
}

fn go(env: &TestEnvironment, session: &str) {
    fs::write(run_dir(env, session).join("go"), "").expect("the session's run directory");
}

/// Starts a session that is left to the daemon, and gives its id.
#[track_caller]
fn detached(env: &TestEnvironment, args: &[&str]) -> String {
    let mut all = vec!["run", "--detach"];
    all.extend(args);
    env.ok(&all).trim().to_owned()
}

/// The session of an `agentd run --json` that has just begun.
#[track_caller]
pub(crate) fn id_of(running: &mut Running) -> String {
    let line: Value = serde_json::from_str(&running.wait_stdout("session_id")).unwrap();
    line["session_id"].as_str().unwrap().to_owned()
}

#[track_caller]
pub(crate) fn show(env: &TestEnvironment, session: &str) -> Value {
    env.json(&["sessions", "show", session])["session"].take()
}

/// Waits until a session is over: its log ends then.
#[track_caller]
fn ended(env: &TestEnvironment, session: &str) -> Value {
    env.ok(&["sessions", "logs", "-f", session]);
    // What is over needs no end; it is waited for all the same.
    env.json(&["sessions", "stop", session])
}

#[test]
fn a_run_ends_as_its_agent_does() {
    let (env, _daemon) = with(&[
        agent("well", "echo out; echo err >&2", ""),
        agent("failing", "echo half; exit 7", ""),
        agent("crashing", "kill -SEGV $$", ""),
        agent("slow", "echo begun; sleep 600", "timeout = \"1s\""),
        agent(
            "stubborn",
            "trap '' TERM; echo begun; sleep 600 & wait; wait",
            "timeout = \"1s\"\ngrace_period = \"1s\"",
        ),
        "[[agents]]\nname = \"missing\"\nruntime = \"process\"\nharness = \"custom\"\nprompt = \"p\"\n\
         command = [\"/nowhere/program\"]\n"
            .to_owned(),
    ]);
    let output = env.run(&["run", "well"]);
    assert_eq!(code(output.status), 0, "{}", shown(&output));
    assert_eq!(
        (&output.stdout[..], &output.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );

    for (name, expected, printed, said) in [
        ("failing", 7, "half\n", "failed with exit code 7"),
        ("crashing", 139, "", "crashed by signal 11"),
        ("slow", 124, "begun\n", "timed out"),
        ("stubborn", 124, "begun\n", "timed out"),
        ("missing", 125, "", "set-up failed"),
    ] {
        let output = env.run(&["run", name]);
        assert_eq!(code(output.status), expected, "{name}: {}", shown(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout), printed, "{name}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr.lines().count(), 1, "{name}: {stderr}");
        for part in [said, "session ", name, "no isolation"] {
            assert!(stderr.contains(part), "{name}: {stderr}");
        }
    }
    let list = env.json(&["sessions"]);
    let reasons: Vec<_> = list["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| session["outcome"]["reason"].as_str().unwrap())
        .collect();
    let newest_first = [
        "setup_failed",
        "timed_out",
        "timed_out",
        "crashed",
        "failed",
        "completed",
    ];
    assert_eq!(reasons, newest_first);
}

#[test]
fn an_agent_that_is_not_declared_is_refused_with_the_nearest() {
    let (env, _daemon) = with(&[agent("reviewer", "true", "")]);
    let stderr = env.fails(125, &["run", "reviwer"]);
    assert!(stderr.contains("did you mean \"reviewer\"?"), "{stderr}");
    let stderr = env.fails(125, &["--json", "run", "--detach", "reviwer"]);
    let error: Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(error["error"]["reason"], "agent_not_found");
    env.fails(65, &["run", "Not A Name"]);
    env.fails(64, &["run"]);
    assert_eq!(env.json(&["sessions"])["sessions"], json!([]));
}

#[test]
fn output_comes_as_it_is_printed_and_as_it_was() {
    let script = format!(r"printf 'first\n'; {WAIT}; printf 'a\377\0b\n'; printf 'no end'; printf e >&2");
    let (env, _daemon) = with(&[agent("a", &script, "")]);
    let mut running = env.spawn(&["--json", "run", "a"]);
    let id = id_of(&mut running);
    running.wait_stdout("first");
    go(&env, &id);
    let output = running.output();
    assert!(output.status.success(), "{}", shown(&output));
    let last: Value = serde_json::from_slice(
        output
            .stdout
            .split(|byte| *byte == b'\n')
            .rfind(|line| !line.is_empty())
            .unwrap(),
    )
    .unwrap();
    assert_eq!(last["ended"]["id"], *id);
    assert_eq!(last["ended"]["outcome"]["reason"], "completed");

    let logs = |args: &[&str]| {
        let mut all = vec!["sessions", "logs", &id];
        all.extend(args);
        let output = env.run(&all);
        assert!(output.status.success(), "{}", shown(&output));
        (output.stdout, output.stderr)
    };
    let whole = b"first\na\xff\0b\nno end".to_vec();
    assert_eq!(logs(&[]), (whole.clone(), b"e".to_vec()));
    assert_eq!(logs(&["-f"]), (whole.clone(), b"e".to_vec()));
    assert_eq!(logs(&["--stdout"]), (whole, Vec::new()));
    assert_eq!(logs(&["--stderr"]), (Vec::new(), b"e".to_vec()));
    assert_eq!(logs(&["--stdout", "--tail", "2"]).0, b"a\xff\0b\nno end".to_vec());
    let (stamped, _) = logs(&["--timestamps", "--stdout"]);
    assert!(stamped.starts_with(b"20") && stamped.windows(9).any(|part| part == b"Z  first\n"));
}

#[test]
fn ten_megabytes_arrive_whole() {
    let script =
        "i=0; while [ $i -lt 160 ]; do head -c 65536 /dev/zero | tr '\\0' 'x'; i=$((i + 1)); done; exit 3";
    let (env, _daemon) = with(&[agent("big", script, "")]);
    let output = env.run(&["run", "big"]);
    assert_eq!(
        code(output.status),
        3,
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.stdout.len(), 160 * 65_536);
    assert!(output.stdout.iter().all(|byte| *byte == b'x'));
}

#[test]
fn an_interrupt_asks_for_the_end_and_shows_what_comes_until_then() {
    let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 600 & wait $!; done";
    let (env, _daemon) = with(&[agent("a", script, "")]);
    let mut running = env.spawn(&["run", "a"]);
    running.wait_stdout("ready");
    running.signal(Signal::SIGINT);
    running.wait_stdout("bye");
    let output = running.output();
    assert_eq!(code(output.status), 130, "{}", shown(&output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("once more") && stderr.contains("was cancelled"),
        "{stderr}"
    );
    let session = &env.json(&["sessions"])["sessions"][0];
    assert_eq!(session["outcome"]["reason"], "cancelled");
    assert!(session["stop_requested"].as_str().unwrap().contains("agentd run"));
}

#[test]
fn a_second_interrupt_leaves_the_session_to_end_alone() {
    let script = "trap '' TERM; echo ready; while :; do sleep 600 & wait $!; done";
    let (env, _daemon) = with(&[agent("a", script, "grace_period = \"10m\"")]);
    let mut running = env.spawn(&["run", "a"]);
    running.wait_stdout("ready");
    running.signal(Signal::SIGINT);
    running.wait_stderr("once more");
    running.signal(Signal::SIGINT);
    running.wait_stderr("goes on ending");
    assert_eq!(code(running.wait()), 130);
    let active = env.json(&["sessions", "--active"]);
    let id = active["sessions"][0]["id"].as_str().unwrap();
    let stopped = env.json(&["sessions", "stop", "--now", "--reason", "enough", id]);
    assert_eq!(stopped["outcome"]["reason"], "cancelled");
    assert_eq!(env.json(&["sessions", "--active"])["sessions"], json!([]));
}

#[test]
fn a_daemon_that_comes_back_is_waited_for() {
    let script = format!("echo before; {WAIT}; echo after; exit 4");
    let (env, daemon) = with(&[agent("a", &script, "")]);
    let id = detached(&env, &["a"]);
    let mut following = env.spawn(&["sessions", "logs", "-f", &id]);
    following.wait_stdout("before");
    daemon.kill_9();
    go(&env, &id);
    let _daemon = env.daemon();
    let output = following.output();
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(env.ok(&["sessions", "logs", &id]), "before\nafter\n");
    let session = ended(&env, &id);
    assert_eq!(
        (&session["outcome"]["reason"], &session["outcome"]["exit_code"]),
        (&json!("failed"), &json!(4))
    );
}

#[test]
fn a_run_outlives_its_daemon() {
    let script = format!("echo before; {WAIT}; echo after; exit 4");
    let (env, daemon) = with(&[agent("a", &script, "")]);
    let mut running = env.spawn(&["--json", "run", "a"]);
    let id = id_of(&mut running);
    running.wait_stdout("before");
    daemon.kill_9();
    go(&env, &id);
    // Another daemon, or the run itself: either will do.
    let output = running.output();
    assert_eq!(code(output.status), 4, "{}", shown(&output));
    let text: String = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|line| line["output"]["text"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(text, "before\nafter\n");
}

#[test]
fn without_a_daemon_a_run_is_its_own() {
    let env = TestEnvironment::new();
    declare(&env, &[agent("a", "echo hello; exit 5", "")]);
    let output = env.run(&["run", "a"]);
    assert_eq!(code(output.status), 5, "{}", shown(&output));
    assert_eq!(output.stdout, b"hello\n");
    assert!(!env.socket().exists());
    let stderr = env.fails(69, &["run", "--detach", "a"]);
    assert!(stderr.contains("detached"), "{stderr}");
    let _daemon = env.daemon();
    assert_eq!(env.json(&["sessions"])["sessions"][0]["outcome"]["exit_code"], 5);
}

#[test]
fn a_daemon_that_starts_takes_the_place_of_a_run() {
    let env = TestEnvironment::new();
    declare(
        &env,
        &[agent(
            "a",
            &format!("echo before; {WAIT}; echo after; exit 4"),
            "",
        )],
    );
    let mut running = env.spawn(&["--json", "run", "a"]);
    let id = id_of(&mut running);
    running.wait_stdout("before");
    let daemon = env.daemon();
    assert_eq!(env.json(&["health"])["pid"], daemon.pid().as_raw());
    go(&env, &id);
    let output = running.output();
    assert_eq!(code(output.status), 4, "{}", shown(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("after"));
    assert_eq!(ended(&env, &id)["outcome"]["exit_code"], 4);
}

#[test]
fn a_daemon_that_ends_leaves_no_place_for_secrets() {
    let (env, daemon) = with(&[agent("a", "true", "")]);
    env.ok(&["run", "a"]);
    let user = nix::unistd::geteuid();
    let place = PathBuf::from(format!("/dev/shm/agentd-{user}")).join(instance(&env));
    assert!(place.is_dir(), "{place:?}");
    daemon.stop();
    assert!(!place.exists());
}

/// The name that the database gave its agentd.
fn instance(env: &TestEnvironment) -> String {
    let conn = rusqlite::Connection::open(env.database()).unwrap();
    conn.query_row("SELECT id FROM instance", [], |row| row.get(0))
        .unwrap()
}

#[test]
fn a_supervisor_that_is_killed_loses_its_session_and_says_so() {
    let (env, _daemon) = with(&[agent("a", &format!("echo $$; {WAIT}"), "")]);
    let mut running = env.spawn(&["--json", "run", "a"]);
    let id = id_of(&mut running);
    let line: Value = serde_json::from_str(&running.wait_stdout("output")).unwrap();
    let agent: i32 = line["output"]["text"].as_str().unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(supervisor(&id)), Signal::SIGKILL).unwrap();
    let output = running.output();
    assert_eq!(code(output.status), 125, "{}", shown(&output));
    let session = show(&env, &id);
    assert_eq!(session["outcome"]["reason"], "lost");
    wait_gone(agent);
}

/// The process that is started with the session's directory as its argument.
fn supervisor(session: &str) -> i32 {
    let mut found = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let entry = entry.ok()?;
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        (line.contains("__session") && line.contains(session)).then_some(pid)
    });
    found.next().expect("a supervisor")
}

#[test]
fn prompts_come_from_everywhere() {
    let (env, _daemon) = with(&[agent("a", r#"printf '%s' "$1""#, ""), {
        let script = r#"printf '%s' "$1""#;
        agent("templated", script, "").replace("as declared", "see {{ trigger.ref }} of {{ trigger.n }}")
    }]);
    assert_eq!(env.ok(&["run", "a"]), "as declared");
    // What is given is no template, and reaches the agent through no shell.
    let text = "$(rm) {{ trigger.x }} \"'`\n\u{e9}";
    assert_eq!(env.ok(&["run", "a", "--prompt", text]), text);
    let file = env.write("prompt.txt", text);
    assert_eq!(
        env.ok(&["run", "a", "--prompt-file", file.to_str().unwrap()]),
        text
    );
    let output = env.run_with_input(&["run", "a", "-"], text);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        text,
        "{}",
        shown(&output)
    );
    let templated = [
        "run",
        "templated",
        "--context",
        r#"{"n":2,"ref":"x"}"#,
        "--set",
        "ref=main",
    ];
    assert_eq!(env.ok(&templated), "see main of 2");
    let stderr = env.fails(65, &["run", "a", "--context", "[1]"]);
    assert!(stderr.contains("object"), "{stderr}");
    let nul = env.write("nul.txt", "a\0b");
    let stderr = env.fails(65, &["run", "a", "--prompt-file", nul.to_str().unwrap()]);
    assert!(stderr.contains("NUL byte, after 1 others"), "{stderr}");
    let long = env.write("long.txt", &"x".repeat(800_000));
    let stderr = env.fails(65, &["run", "a", "--prompt-file", long.to_str().unwrap()]);
    assert!(stderr.contains("786432"), "{stderr}");
    let session = &env.json(&["sessions", "--limit", "1", "--agent", "templated"])["sessions"][0];
    assert_eq!(
        session["trigger"],
        json!({ "kind": "manual", "context": { "n": 2, "ref": "main" } })
    );
    let stderr = env.fails(125, &["run", "templated"]);
    assert!(stderr.contains("--set KEY=VALUE"), "{stderr}");
}

#[test]
fn the_same_key_is_the_same_session() {
    let (env, _daemon) = with(&[agent("a", "echo once; exit 6", "")]);
    let first = detached(&env, &["a", "--idempotency-key", "k"]);
    assert_eq!(detached(&env, &["a", "--idempotency-key", "k"]), first);
    // Attached, too: what it printed and how it ended are the first one's.
    let output = env.run(&["run", "a", "--idempotency-key", "k"]);
    assert_eq!(
        (code(output.status), &output.stdout[..]),
        (6, &b"once\n"[..]),
        "{}",
        shown(&output)
    );
    let stderr = env.fails(125, &["run", "a", "--prompt", "other", "--idempotency-key", "k"]);
    assert!(stderr.contains("\"k\""), "{stderr}");
    assert_eq!(
        env.json(&["sessions"])["sessions"].as_array().map(Vec::len),
        Some(1)
    );
}

#[test]
fn sessions_are_listed_shown_stopped_and_removed() {
    let (env, _daemon) = with(&[
        agent("waits", &format!("echo ready; {WAIT}"), "max_sessions = 1"),
        agent(
            "leaves",
            r#"printf '{"n": 1.50}' > "$AGENTD_RUN_DIR/result.json""#,
            "",
        ),
    ]);
    let running = detached(&env, &["waits"]);
    let mut following = env.spawn(&["sessions", "logs", "-f", &running]);
    following.wait_stdout("ready");
    let queued = detached(&env, &["waits"]);
    let agents = env.json(&["agents"]);
    let waits = agents["agents"]
        .as_array()
        .unwrap()
        .iter()
        .find(|agent| agent["name"] == "waits")
        .unwrap();
    assert_eq!(
        (&waits["running"], &waits["queued"], &waits["max_sessions"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert_eq!(
        (&waits["runtime"], &waits["runtime_capabilities"]["isolation"]),
        (&json!("process"), &json!(false))
    );
    assert!(env.ok(&["agents"]).contains("process"));

    let shown_running = show(&env, &running);
    assert_eq!(
        (
            &shown_running["phase"],
            &shown_running["runtime"],
            &shown_running["replica"]
        ),
        (&json!("RUNNING"), &json!("process"), &json!(0))
    );
    assert_eq!(show(&env, &queued)["phase"], "QUEUED");
    // What runs cannot be removed; what waits can be stopped before it has begun.
    let stderr = env.fails(1, &["sessions", "rm", &running]);
    assert!(stderr.contains(&running), "{stderr}");
    let stopped = env.json(&["sessions", "stop", &queued, "--reason", "not needed"]);
    assert_eq!(stopped["outcome"]["reason"], "cancelled");
    assert!(stopped.get("started_at").is_none());
    env.ok(&["sessions", "stop", "--no-wait", &running]);
    assert!(following.wait().success());
    let stopped = ended(&env, &running);
    assert_eq!(stopped["outcome"]["reason"], "cancelled");

    let done = detached(&env, &["leaves"]);
    let session = ended(&env, &done);
    assert_eq!(session["outcome"]["result"], json!({ "n": 1.5 }));
    let document = env.json(&["sessions", "show", &done]);
    let kinds: Vec<_> = document["journal"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["action_type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds.first(), Some(&"SESSION_QUEUED"));
    assert_eq!(kinds.last(), Some(&"SESSION_ENDED"));
    assert!(
        kinds.contains(&"SESSION_STEP") && kinds.contains(&"SESSION_PHASE"),
        "{kinds:?}"
    );
    let text = env.ok(&["sessions", "show", &done]);
    for part in [
        "leaves",
        "completed",
        "manual",
        "set-up",
        "running",
        "teardown",
        "in all",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    let ids = |args: &[&str]| {
        let mut all = vec!["sessions", "list"];
        all.extend(args);
        let list = env.json(&all);
        let sessions = list["sessions"].as_array().unwrap();
        sessions
            .iter()
            .map(|session| session["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&[]), [&*done, &queued, &running]);
    assert_eq!(ids(&["--agent", "waits", "--ended"]), [&*queued, &running]);
    assert!(ids(&["--active"]).is_empty());
    assert_eq!(ids(&["--limit", "1"]), [&*done]);
    env.ok(&["sessions", "rm", &queued, &done]);
    assert_eq!(ids(&[]), [&*running]);
    let stderr = env.fails(1, &["sessions", "logs", &done]);
    assert!(stderr.contains("agentd sessions"), "{stderr}");
    // One that is not there does not keep the others.
    env.fails(1, &["sessions", "rm", &done, &running]);
    assert!(ids(&[]).is_empty() && !env.state().join("sessions").join(&running).exists());
}

#[test]
fn a_reader_that_goes_away_does_not_end_the_session() {
    let (env, _daemon) = with(&[agent("a", &format!("echo one; {WAIT}; echo two"), "")]);
    let mut command = env.command(&["run", "a"]);
    let mut running = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 4];
    std::io::Read::read_exact(running.stdout.as_mut().unwrap(), &mut line).unwrap();
    drop(running.stdout.take());
    let id = env.json(&["sessions"])["sessions"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    go(&env, &id);
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141), "{:?}", output.status.signal());
    assert!(String::from_utf8_lossy(&output.stderr).contains("goes on"));
    assert_eq!(ended(&env, &id)["outcome"]["reason"], "completed");
    assert_eq!(env.ok(&["sessions", "logs", &id]), "one\ntwo\n");
}

#[test]
fn the_configuration_is_read_again() {
    let (env, _daemon) = with(&[agent("a", "true", ""), agent("b", "true", "")]);
    declare(&env, &[agent("b", "false", ""), agent("c", "echo c", "")]);
    let reloaded = env.json(&["reload"]);
    assert_eq!(
        (&reloaded["added"], &reloaded["changed"], &reloaded["removed"]),
        (&json!(["c"]), &json!(["b"]), &json!(["a"]))
    );
    assert_eq!(
        (&reloaded["plugins"], &reloaded["need_restart"]),
        (&json!([]), &json!([]))
    );
    assert_eq!(env.ok(&["run", "c"]), "c\n");
    let declared = [agent("b", "false", ""), agent("c", "echo c", "")].concat();
    let plugin = "[[plugins]]\nname = \"p\"\ncommand = [\"true\"]\n";
    env.write(
        ".agentd/agentd.toml",
        &format!("[daemon]\nmax_sessions = 3\nsetup_timeout = \"9s\"\n{declared}{plugin}"),
    );
    let reloaded = env.json(&["reload"]);
    assert_eq!(
        (&reloaded["plugins"], &reloaded["need_restart"]),
        (
            &json!(["p"]),
            &json!(["daemon.max_sessions", "daemon.setup_timeout"])
        )
    );
    // Put back, it needs nothing.
    env.write(".agentd/agentd.toml", &declared);
    assert_eq!(env.json(&["reload"])["need_restart"], json!([]));
    env.fails(125, &["run", "a"]);
    env.write(".agentd/agentd.toml", "[[agents]]\nnmae = \"x\"\n");
    let stderr = env.fails(78, &["reload"]);
    assert!(stderr.contains(":2:") && stderr.contains("name"), "{stderr}");
    // The daemon goes on with what it read before.
    let agents = env.connect().call("ListAgents", json!({}));
    assert_eq!(agents["agents"].as_array().unwrap().len(), 2);
}

#[test]
fn nodes_of_a_plan_are_worked_on_by_agents() {
    let reviewer = r#"
        [ -e "$HOME/again" ] || { touch "$HOME/again"; echo not yet >&2; exit 1; }
        cat "$AGENTD_MISSION"; printf '{"verdict": "fine", "of": "%s"}' "$1" > "$AGENTD_RUN_DIR/result.json""#;
    let (env, _daemon) = with(&[
        agent("reviewer", reviewer, ""),
        agent("writer", "echo written", "capabilities = [\"write\"]"),
    ]);
    env.write(
        "plan.toml",
        r#"
goal = "Review {{ args.what }}"
[args.what]
default = "it"
[[nodes]]
name = "list"
run = "echo material"
[[nodes]]
name = "review"
needs = ["list"]
agent = "reviewer"
prompt = "Review {{ args.what }}"
retry = { attempts = 2 }
[[nodes]]
name = "write"
needs = ["list"]
prompt = "Write"
capabilities = ["write"]
[[nodes]]
name = "end"
needs = ["review", "write"]
run = 'cat "$AGENTD_INPUTS/review.json" "$AGENTD_INPUTS/write.out"'
"#,
    );
    let output = env.run(&["task", "run", "plan.toml"]);
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "{\"verdict\": \"fine\", \"of\": \"Review it\"}written\n"
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("agent reviewer") && stderr.contains("not yet"),
        "{stderr}"
    );

    // Two attempts are two sessions, each a node's; the mission told what came before.
    let list = env.json(&["sessions", "--agent", "reviewer"]);
    let sessions = list["sessions"].as_array().unwrap();
    let reasons: Vec<_> = sessions
        .iter()
        .map(|session| &session["outcome"]["reason"])
        .collect();
    assert_eq!(reasons, ["completed", "failed"]);
    assert!(
        sessions
            .iter()
            .all(|session| session["trigger"]["kind"] == "node" && session["task_id"].is_string())
    );
    assert!(stderr.contains(sessions[0]["id"].as_str().unwrap()), "{stderr}");
    let mission: Value = serde_json::from_str(&env.ok(&[
        "sessions",
        "logs",
        "--stdout",
        sessions[0]["id"].as_str().unwrap(),
    ]))
    .unwrap();
    assert!(mission.to_string().contains("material"), "{mission}");
}

#[test]
fn a_plan_that_no_agent_can_take_is_refused_at_once() {
    let (env, _daemon) = with(&[agent("reviewer", "true", "")]);
    for (who, said) in [
        ("agent = 'reviwer'", "\"reviwer\""),
        ("prompt = 'p'\ncapabilities = ['gpu']", "\"gpu\""),
        ("agent = 'reviewer'\ncapabilities = ['gpu']", "\"gpu\""),
    ] {
        env.write(
            "plan.toml",
            &format!("goal = 'g'\n[[nodes]]\nname = 'a'\n{who}\n"),
        );
        let stderr = env.fails(65, &["task", "run", "plan.toml"]);
        assert!(
            stderr.contains(said) && stderr.contains("agentd reload"),
            "{stderr}"
        );
    }
    assert_eq!(env.json(&["task", "list"])["tasks"], json!([]));
}

#[test]
fn a_cancelled_task_ends_its_session() {
    let (env, _daemon) = with(&[agent("a", "echo ready; sleep 600", "")]);
    env.write("plan.toml", "goal = 'g'\n[[nodes]]\nname = 'n'\nagent = 'a'\n");
    let mut running = env.spawn(&["task", "run", "plan.toml"]);
    let mut journal = env.connect();
    journal.call(
        "SubscribeJournal",
        json!({ "from_seq": 1, "action_types": ["SESSION_QUEUED"] }),
    );
    journal.line().unwrap();
    let session = env.json(&["sessions", "--active"])["sessions"][0].take();
    let (id, task) = (
        session["id"].as_str().unwrap(),
        session["task_id"].as_str().unwrap(),
    );
    let mut following = env.spawn(&["sessions", "logs", "-f", id]);
    following.wait_stdout("ready");
    env.ok(&["task", "cancel", task]);
    assert_eq!(code(running.wait()), 1);
    assert!(following.wait().success());
    assert_eq!(ended(&env, id)["outcome"]["reason"], "cancelled");
}

#[test]
fn an_agent_that_completes_its_node_itself_has_completed_it() {
    let mut env = TestEnvironment::new();
    env.set("AGENTD_DEFAULT_ROLE", "worker");
    // A process agent has a user of its own when agentd is root's: what it uses is put where everybody gets to.
    let program = env.path("agentd");
    fs::copy(env!("CARGO_BIN_EXE_agentd"), &program).unwrap();
    let request = json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {
            "name": "node_complete",
            "arguments": { "result": { "answer": 42 }, "add_nodes": [{ "name": "found" }] },
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    });
    let file = env.write("request", &format!("{request}\n"));
    let script = format!(
        "{WAIT}; {} mcp --socket {} < {}; echo '{{\"other\": 1}}' > $AGENTD_RUN_DIR/result.json; exit $1",
        program.display(),
        env.socket().display(),
        file.display()
    );
    let outcomes = [("well", 0), ("badly", 4)];
    declare(&env, &outcomes.map(|(name, _)| agent(name, &script, "")));
    let daemon = env.daemon();
    for path in [env.home().parent().unwrap(), &env.home(), &env.state(), &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(env.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    for (name, exit_code) in outcomes {
        let mut wire = daemon.connect();
        let mut journal = daemon.connect();
        let seen = wire.call("ReadJournal", json!({ "last": 1 }))["last_seq"]
            .as_i64()
            .unwrap();
        let work = json!({ "kind": "agent", "agent": name, "prompt": exit_code.to_string() });
        let task = wire.call(
            "RegisterTask",
            json!({ "goal": "g", "initial_nodes": [{ "work": work }] }),
        )["task_id"]
            .take();
        journal.call(
            "SubscribeJournal",
            json!({ "from_seq": seen + 1, "action_types": ["SESSION_PHASE"] }),
        );
        let id = loop {
            let entry = journal.line().unwrap();
            if entry["payload"].to_string().contains("RUNNING") {
                break entry["session_id"].as_str().unwrap().to_owned();
            }
        };
        go(&env, &id);
        let session = ended(&env, &id);
        let outcome = &session["outcome"];
        let logs = env.ok(&["sessions", "logs", &id]);
        assert_eq!(
            (
                &outcome["reason"],
                &outcome["exit_code"],
                &outcome["result"]["answer"]
            ),
            (&json!("completed"), &json!(exit_code), &json!(42)),
            "{session}: {logs}"
        );
        let status = wire.call("TaskStatus", json!({ "task_id": task }));
        assert_eq!(
            status["counts"],
            json!({ "PENDING": 1, "RUNNING": 0, "COMPLETED": 1, "FAILED": 0 })
        );
        assert_eq!(status["nodes"][0]["result_payload"]["answer"], 42);
        let ends = wire.call(
            "ReadJournal",
            json!({ "task_id": task, "action_types": ["COMPLETE_NODE", "FAIL_NODE"] }),
        );
        assert_eq!(ends["entries"].as_array().unwrap().len(), 1);
    }
}

/// A daemon that starts looks at what it need not keep any more.
#[test]
fn sessions_that_are_over_are_kept_for_as_long_and_as_large_as_the_settings_say() {
    let env = TestEnvironment::new();
    let prints = agent("prints", "head -c 900000 /dev/zero | tr '\\0' x", "");
    let lasts = agent("lasts", "exec sleep 1", "");
    let declare = |settings: &str| {
        let settings = format!("[daemon]\n{settings}\n\n");
        declare(&env, &[settings, prints.clone(), lasts.clone()]);
    };
    declare("");
    let daemon = env.daemon();
    let run = || {
        let session = detached(&env, &["prints"]);
        ended(&env, &session);
        session
    };
    let (older, newer) = (run(), run());
    daemon.stop();
    let dir = |session: &str| env.state().join("sessions").join(session);
    let is_kept = |session: &str| dir(session).join("transcript").exists();
    assert!(is_kept(&older) && is_kept(&newer));

    declare("transcript_quota = \"1MiB\"");
    let daemon = env.daemon();
    until("the older one's transcript goes", || !is_kept(&older));
    assert!(is_kept(&newer));
    let lasts = detached(&env, &["lasts"]);
    ended(&env, &lasts);
    daemon.stop();

    declare("session_retention = \"1s\"");
    let _daemon = env.daemon();
    let left = |session: &str| {
        env.json(&["sessions", "list"])["sessions"]
            .to_string()
            .contains(session)
    };
    until("what is older than a second goes", || {
        !left(&older) && !left(&newer)
    });
    assert!(!dir(&older).exists() && !dir(&newer).exists());
}
