//! The programs that come with the project, run as their users run them: another language, the real socket.

use crate::files::{block, files_with, repository, text_of};
use crate::support::{Running, TestEnvironment, code, finish, shown};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

/// What no output may show. Put together here, so that nobody who looks for keys finds one in this file.
const KEY: &str = concat!("sk-", "stub-0f1e2d3c4b5a69788796");
const WRONG_KEY: &str = concat!("sk-", "wrong-a1b2c3d4e5f60718");

/// A program of the repository, by its path in there, in this environment.
fn program(env: &TestEnvironment, interpreter: &str, path: &str, args: &[&str]) -> Command {
    let mut command = Command::new(interpreter);
    env.prepare(&mut command);
    // Nothing is written beside the scripts.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(repository().join(path)).args(args);
    command
}

/// Writes a text of the documentation to a file and runs it.
fn snippet(env: &TestEnvironment, interpreter: &str, text: &str) -> Output {
    let file = env.write("snippet", text);
    finish(&mut program(env, interpreter, file.to_str().unwrap(), &[]))
}

#[test]
fn the_python_client_finds_all_as_promised() {
    let env = TestEnvironment::new();
    let path = "client_test.py";
    // Without a daemon it says so.
    let output = finish(&mut program(&env, "python3", path, &[]));
    assert_eq!(code(output.status), 1, "{}", shown(&output));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("cannot reach agentd"),
        "{}",
        shown(&output)
    );
    let daemon = env.daemon();
    let output = finish(&mut program(&env, "python3", path, &[]));
    assert_eq!(code(output.status), 0, "{}", shown(&output));
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.ends_with("all as promised\n"), "{}", shown(&output));
    assert_eq!(env.json(&["lock", "list"])["locks"], json!([]));
    daemon.stop();
}

// ---- the loop of agents

/// A stub of the model's service, and its address.
struct Model {
    _running: Running,
    url: String,
    log: std::path::PathBuf,
}

impl Model {
    fn start(env: &TestEnvironment, fail: &[&str]) -> Self {
        let log = env.path("model.log");
        let mut command = program(env, "python3", "tests/fixtures/model_stub.py", &["--key", KEY]);
        command.args(["--retry-after", "0", "--log"]).arg(&log);
        for fail in fail {
            command.args(["--fail", fail]);
        }
        let mut running = Running::start(&mut command);
        let port: u16 = running.wait_stdout("").trim().parse().expect("a port");
        Self {
            _running: running,
            url: format!("http://127.0.0.1:{port}"),
            log,
        }
    }

    /// The requests that came, and how each was answered.
    fn requests(&self) -> Vec<Value> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        assert!(!log.contains(KEY) && !log.contains(WRONG_KEY));
        log.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn statuses(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for request in self.requests() {
            *counts
                .entry(request["status"].to_string().replace('"', ""))
                .or_default() += 1;
        }
        counts
    }
}

fn agent_loop(env: &TestEnvironment, model: &Model, args: &[&str]) -> Command {
    let mut command = program(env, "python3", "scripts/deepseek_agent_loop.py", args);
    command.env("DEEPSEEK_BASE_URL", &model.url);
    command
}

/// The env file, closed to others, with the right key in it.
fn env_file(env: &TestEnvironment) -> std::path::PathBuf {
    let file = env.write(".agentd/.env", &format!("DEEPSEEK_API_KEY={KEY}\n"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

/// The statuses of the loop's nodes by their part, and its task's id.
#[track_caller]
fn parts(env: &TestEnvironment) -> (String, BTreeMap<String, Value>) {
    let tasks = env.json(&["task", "list"])["tasks"].clone();
    assert_eq!(tasks.as_array().unwrap().len(), 1, "{tasks}");
    let task = tasks[0]["task_id"].as_str().unwrap().to_owned();
    let status = env.connect().call("TaskStatus", json!({ "task_id": task }));
    let nodes = status["nodes"].as_array().unwrap().iter();
    let parts = nodes
        .map(|node| {
            let part = node["payload_schema"]["role"].as_str().unwrap().to_owned();
            (part, node["status"].clone())
        })
        .collect();
    (task, parts)
}

#[track_caller]
fn assert_all_done(env: &TestEnvironment, output: &Output) {
    assert_eq!(code(output.status), 0, "{}", shown(output));
    let (task, parts) = parts(env);
    let done = json!({ "script": "COMPLETED", "contract": "COMPLETED", "review": "COMPLETED", "synthesis": "COMPLETED" });
    assert_eq!(json!(parts), done);
    let directory = env.state().join("artifacts").join(task);
    let artifact = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    assert_eq!(
        artifact("worker.py"),
        "import socket\n\n\ndef main():\n    print(socket.AF_UNIX)\n\n\nmain()\n"
    );
    assert!(artifact("contract.md").contains("One JSON request a line"));
    assert!(artifact("review.md").contains("loses its lease"));
    assert!(artifact("synthesis.md").contains("First: send heartbeats"));
    // Nothing unfinished beside them.
    assert_eq!(fs::read_dir(directory).unwrap().count(), 4);
}

/// Neither output nor anything that agentd keeps shows a key.
#[track_caller]
fn assert_secret(env: &TestEnvironment, key: &str, texts: &[String]) {
    for text in texts {
        assert!(!text.contains(key), "{text}");
    }
    let mut files = files_with(env, key);
    files.retain(|path| *path != env.state().join(".env"));
    assert!(files.is_empty(), "{files:?}");
}

#[test]
fn the_agent_loop_completes_its_four_nodes() {
    let mut env = TestEnvironment::new();
    env.set("RUST_LOG", "trace");
    env_file(&env);
    let daemon = env.daemon();
    let model = Model::start(&env, &[]);
    let output = finish(&mut agent_loop(&env, &model, &[]));
    assert_all_done(&env, &output);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        stdout.contains("4 nodes, 2 workers, model deepseek-v4-flash"),
        "{stdout}"
    );

    let requests = model.requests();
    assert_eq!(requests.len(), 4);
    for request in &requests {
        let body = &request["body"];
        assert_eq!(
            (
                &body["model"],
                &body["max_tokens"],
                &body["temperature"],
                &body["stream"]
            ),
            (
                &json!("deepseek-v4-flash"),
                &json!(120),
                &json!(0.2),
                &json!(false)
            )
        );
        assert_eq!(
            (&request["path"], &request["authorized"]),
            (&json!("/chat/completions"), &json!(true))
        );
    }
    // The reviewer has seen both, and the last one the review.
    let prompt = |index: usize| {
        requests[index]["body"]["messages"][1]["content"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(prompt(2).contains("socket.AF_UNIX") && prompt(2).contains("One JSON request a line"));
    assert!(prompt(3).contains("A worker that dies loses its lease"));

    let journal = env.ok(&["--json", "journal", "--from", "0"]);
    assert_eq!(journal.matches(r#""action_type":"COMPLETE_NODE""#).count(), 4);
    assert_eq!(journal.matches(r#""action_type":"MODEL_REQUEST""#).count(), 4);
    let log = daemon.stop();
    assert_secret(&env, KEY, &[shown(&output), journal, log]);
}

#[test]
fn the_agent_loop_survives_a_service_that_stumbles() {
    let env = TestEnvironment::new();
    env_file(&env);
    let daemon = env.daemon();
    let model = Model::start(&env, &["429:1", "500:1", "drop:1", "garbage:1"]);
    let output = finish(&mut agent_loop(&env, &model, &["--backoff-secs", "0.05"]));
    assert_all_done(&env, &output);
    let statuses = model.statuses();
    let wanted = [("200", 4), ("429", 1), ("500", 1), ("drop", 1), ("garbage", 1)];
    assert_eq!(
        statuses,
        wanted.map(|(name, count)| (name.to_owned(), count)).into()
    );
    let journal = env.ok(&["--json", "journal", "--from", "0"]);
    let log = daemon.stop();
    assert_secret(&env, KEY, &[shown(&output), journal, log]);
}

#[test]
fn a_wrong_key_is_named_and_not_shown() {
    let mut env = TestEnvironment::new();
    env.set("RUST_LOG", "trace");
    let daemon = env.daemon();
    let model = Model::start(&env, &[]);
    // None at all: nothing is begun.
    let output = finish(&mut agent_loop(&env, &model, &[]));
    assert_eq!(code(output.status), 2, "{}", shown(&output));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("DEEPSEEK_API_KEY is not set"),
        "{}",
        shown(&output)
    );
    assert_eq!(env.json(&["task", "list"])["tasks"], json!([]));

    let output = finish(agent_loop(&env, &model, &[]).env("DEEPSEEK_API_KEY", WRONG_KEY));
    assert_eq!(code(output.status), 1, "{}", shown(&output));
    let said = shown(&output);
    assert!(
        said.contains("HTTP 401") && said.contains("DEEPSEEK_API_KEY right?"),
        "{said}"
    );
    let (_, parts) = parts(&env);
    assert_eq!(
        json!(parts),
        json!({ "script": "FAILED", "contract": "FAILED", "review": "PENDING", "synthesis": "PENDING" })
    );
    // It is not asked again: a wrong key does not become right.
    assert_eq!(model.statuses(), [("401".to_owned(), 2)].into());
    let journal = env.ok(&["--json", "journal", "--from", "0"]);
    assert!(
        journal.contains("HTTP 401") && journal.contains("****"),
        "{journal}"
    );
    let log = daemon.stop();
    assert_secret(&env, WRONG_KEY, &[said, journal, log]);
}

#[test]
fn an_agent_loop_that_was_killed_goes_on() {
    let env = TestEnvironment::new();
    env_file(&env);
    let daemon = env.daemon_with(&["--node-timeout-secs", "1"]);
    let model = Model::start(&env, &["hang:2"]);
    let options = ["--request-timeout-secs", "1", "--backoff-secs", "0.05"];
    let mut run = Running::start(&mut agent_loop(&env, &model, &options));
    run.wait_stdout("asks deepseek-v4-flash");
    run.kill_9();
    let (task, _) = parts(&env);
    let options = [options.as_slice(), &["--task", task.as_str()]].concat();
    let output = finish(&mut agent_loop(&env, &model, &options));
    assert_all_done(&env, &output);
    let ended = env.ok(&["--json", "journal", "--from", "0", "--action", "COMPLETE_NODE"]);
    assert_eq!(ended.lines().count(), 4);
    daemon.stop();
}

// ---- two agents, one file

#[test]
fn two_agents_both_get_their_edit_in() {
    let mut env = TestEnvironment::new();
    env.set("THINKING_SECS", "0.2");
    let run = |file: &str| finish(&mut program(&env, "sh", "examples/two-agents/run.sh", &[file]));
    let output = run("notes.md");
    assert_eq!(code(output.status), 1, "{}", shown(&output));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("start agentd first"),
        "{}",
        shown(&output)
    );
    let daemon = env.daemon();
    // A name that needs care, in a shell, in JSON and in sed.
    for name in ["notes.md", "it's a \"file\" & more.md"] {
        let output = run(name);
        assert_eq!(code(output.status), 0, "{}", shown(&output));
        let text = fs::read_to_string(env.path(name)).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.remove(0), "# Notes");
        lines.sort_unstable();
        assert_eq!(lines, ["- claude was here", "- codex was here"]);
    }
    assert_eq!(env.json(&["lock", "list"])["locks"], json!([]));
    daemon.stop();
}

// ---- what the documentation shows

#[test]
fn the_readmes_worker_says_hello() {
    let env = TestEnvironment::new();
    let daemon = env.daemon();
    let output = snippet(
        &env,
        "python3",
        &block(&text_of("README.md"), "python", "\"say hello\""),
    );
    assert_eq!(code(output.status), 0, "{}", shown(&output));
    let counts = String::from_utf8(output.stdout).unwrap().replace('\'', "\"");
    let counts: Value = serde_json::from_str(&counts).unwrap();
    assert_eq!((&counts["COMPLETED"], &counts["PENDING"]), (&json!(1), &json!(0)));
    daemon.stop();
}

#[test]
fn the_readmes_plan_counts_files() {
    let env = TestEnvironment::new();
    env.write("check.toml", &block(&text_of("README.md"), "toml", "[[nodes]]"));
    for file in ["src/a", "src/b/c", "src/b/d"] {
        env.write(file, "");
    }
    let commands = block(&text_of("README.md"), "sh", "check.toml");
    assert!(
        commands.starts_with("agentd task run check.toml src "),
        "{commands}"
    );
    assert_eq!(env.ok(&["task", "run", "check.toml", "src"]).trim(), "3");
    let document = env.json(&["task", "run", "check.toml", "src/b"]);
    assert_eq!(document["result"]["stdout"], "2\n");
}

#[test]
fn the_readmes_shell_lines_work() {
    let mut env = TestEnvironment::new();
    let bin = env.path("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_agentd"), bin.join("agentd")).unwrap();
    env.set(
        "PATH",
        format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()),
    );
    let readme = text_of("README.md");
    let daemon = env.daemon();

    // The daemon runs already.
    let lines = block(&readme, "sh", "lock claude-1 anthropic 0").replace("agentd & sleep 1\n", "");
    assert!(!lines.contains('&'), "{lines}");
    let output = snippet(&env, "sh", &lines);
    assert_eq!(code(output.status), 0, "{}", shown(&output));
    let stdout = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> = stdout
        .lines()
        .take(2)
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let key = format!("file:{}", env.path("notes.md").canonicalize().unwrap().display());
    assert_eq!(
        (
            &answers[0]["result"]["resource_key"],
            &answers[0]["result"]["fence"]
        ),
        (&json!(key), &json!(1))
    );
    assert_eq!(answers[1], json!({ "id": 1, "result": null }));
    assert!(stdout.contains("claude-1"), "{stdout}");

    let lines = block(&readme, "sh", "client_test.py").replace(
        "python3 client_test.py",
        &format!("python3 -B '{}'", repository().join("client_test.py").display()),
    );
    assert!(lines.starts_with("printf ") && lines.contains("| nc -N -U "));
    let output = snippet(&env, "sh", &format!("set -e\n{lines}"));
    assert_eq!(code(output.status), 0, "{}", shown(&output));
    let stdout = String::from_utf8(output.stdout).unwrap();
    let first: Value = serde_json::from_str(stdout.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["id"], &first["result"]["status"]),
        (&json!(1), &json!("ok"))
    );
    assert!(stdout.contains("all as promised") && stdout.contains(r#""tasks":["#));
    daemon.stop();
}

#[test]
fn the_skills_python_works() {
    let env = TestEnvironment::new();
    let daemon = env.daemon();
    let skill = text_of("skills/agentd/SKILL.md");
    let part = |words: &str| block(&skill, "python", words);
    let hand_back = part("\"CompleteNode\"");
    let (complete, others) = hand_back.split_once("agentd.call(\"FailNode\"").unwrap();
    // Its parts in the order in which an agent needs them; a node is handed back in one way, so another is acquired for
    // each of the others.
    let mut text = part("class Agentd")
        + "agentd, beat = Agentd(), Agentd()\n"
        + &part("import uuid")
        + "TASK = task\n"
        + &part("wait_secs=60)\n# None")
        + &part("beat.call")
        + complete;
    for other in format!("agentd.call(\"FailNode\"{others}")
        .split("agentd.call(")
        .skip(1)
    {
        text += "TASK = agentd.call('RegisterTask', goal='another', initial_nodes=[{}])['task_id']\n";
        text += &part("wait_secs=60)\n# None");
        text += "agentd.call(";
        text += other;
    }
    text += &part("key = \"file:\"");
    text += "print(agentd.call('TaskStatus', task_id=task)['counts'])\n";
    let output = snippet(&env, "python3", &text);
    assert_eq!(code(output.status), 0, "{}", shown(&output));
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("'COMPLETED': 1"), "{stdout}");
    let actions = env.ok(&["--json", "journal", "--from", "0"]);
    for action in ["FOUND_BUG", "COMPLETE_NODE", "FAIL_NODE", "RELEASE_NODE"] {
        assert!(
            actions.contains(&format!("\"action_type\":\"{action}\"")),
            "{action}: {actions}"
        );
    }
    assert_eq!(env.json(&["lock", "list"])["locks"], json!([]));

    let output = snippet(
        &env,
        "sh",
        &fenced_shell(&skill).replace("agentd lock run", ": agentd lock run"),
    );
    assert_eq!(code(output.status), 0, "{}", shown(&output));
    assert_eq!(env.json(&["lock", "list"])["locks"], json!([]));
    daemon.stop();
}

/// The skill's shell texts, one after the other, in a directory with the file that they speak of.
fn fenced_shell(skill: &str) -> String {
    let mut text = "set -eu\nmkdir -p src\ntouch src/lib.rs\nAGENTD_RUN_DIR=$PWD\n".to_owned();
    for block in crate::files::fenced(skill, "sh") {
        text += &block;
    }
    text + "test -n \"$lease\"\ngrep -q summary result.json\n"
}
