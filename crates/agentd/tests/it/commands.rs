//! The command line against a daemon that runs.

use crate::support::{TestEnvironment, code, shown};
use serde_json::{Value, json};

fn task(env: &TestEnvironment, nodes: &Value) -> String {
    let result = env.connect().call(
        "RegisterTask",
        json!({ "goal": "a goal", "initial_nodes": nodes }),
    );
    result["task_id"].as_str().unwrap().to_owned()
}

#[test]
fn without_a_daemon_it_says_what_to_do() {
    let env = TestEnvironment::new();
    for args in [
        &["health"][..],
        &["task", "list"],
        &["lock", "list"],
        &["journal"],
    ] {
        let stderr = env.fails(69, args);
        assert!(
            stderr.contains("no daemon runs") && stderr.contains("`agentd`"),
            "{stderr}"
        );
    }
    let output = env.run(&["--json", "health"]);
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["exit_code"], 69);
    // Asking changes nothing.
    assert!(!env.state().exists());
}

#[test]
fn wrong_usage_has_its_own_code() {
    let env = TestEnvironment::new();
    env.fails(64, &["no-such-command"]);
    env.fails(64, &["task", "status", "not-an-id"]);
    env.fails(64, &["lock", "acquire"]);
    assert!(env.ok(&["--help"]).contains("75"));
    assert!(env.ok(&["--version"]).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_and_man_pages_are_generated() {
    let env = TestEnvironment::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(env.ok(&["completions", shell]).contains("agentd"));
    }
    env.ok(&["man", "man1"]);
    let page = std::fs::read_to_string(env.path("man1/agentd-lock-run.1")).unwrap();
    assert!(page.contains("AGENTD_LOCK_FENCE"), "{page}");
    assert!(!env.path("man1/agentd-__supervise.1").exists());
}

#[test]
fn a_node_from_acquire_to_complete() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let task = task(&env, &json!([{ "name": "one" }]));
    let node = env.json(&["node", "acquire", "--task", &task, "--owner", "me"]);
    assert_eq!(node["lease_owner"], "me");
    let part = |name: &str| node[name].as_str().unwrap().to_owned();
    let (id, lease) = (part("node_id"), part("lease_id"));
    let leased = ["--task", &task, "--node", &id, "--lease", &lease];
    let with = |command: &str, rest: &[&str]| {
        let mut args = vec!["node", command];
        args.extend(leased);
        args.extend(rest);
        env.json(&args)
    };
    assert_eq!(with("heartbeat", &["--length", "1m"])["ok"], true);
    with("event", &["--action", "PROGRESS", "{\"percent\": 50}"]);
    with("complete", &["{\"answer\": 42}"]);
    let status = env.json(&["task", "status", &task]);
    assert_eq!(status["state"], "completed");
    assert_eq!(status["nodes"][0]["result_payload"]["answer"], 42);
    let journal = env.ok(&["--json", "journal", "--from", "0", "--task", &task]);
    let kinds: Vec<String> = journal
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["action_type"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(
        kinds,
        ["REGISTER_TASK", "ACQUIRE_NODE", "PROGRESS", "COMPLETE_NODE"]
    );
    let mut again = vec!["node", "complete"];
    again.extend(leased);
    let stderr = env.fails(1, &again);
    assert!(stderr.contains("completed"), "{stderr}");
    env.fails(75, &["node", "acquire", "--task", &task]);
}

#[test]
fn tasks_are_paused_cancelled_retried_and_pruned() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let task = task(&env, &json!([{ "name": "one" }, { "name": "two" }]));
    env.ok(&["task", "pause", &task]);
    env.fails(75, &["node", "acquire", "--task", &task]);
    env.ok(&["task", "resume", &task]);
    env.ok(&["task", "cancel", &task, "--reason", "enough"]);
    let shown = env.ok(&["task", "status", &task]);
    assert!(
        shown.contains("cancelled: enough") && shown.contains("two"),
        "{shown}"
    );
    assert!(!shown.contains('\x1b'), "{shown}");
    assert_eq!(
        env.json(&["task", "retry", &task, "two"])["node_ids"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let stderr = env.fails(1, &["task", "retry", &task, "three"]);
    assert!(stderr.contains("three"), "{stderr}");
    env.fails(124, &["task", "watch", &task, "--timeout", "50ms"]);
    env.ok(&["task", "cancel", &task]);
    let output = env.run(&["task", "watch", &task]);
    assert_eq!(code(output.status), 1, "{}", self::shown(&output));
    let list = env.json(&["task", "list", "--state", "cancelled"]);
    assert_eq!(list["tasks"].as_array().unwrap().len(), 1);
    assert_eq!(env.json(&["task", "prune", "--older-than", "0s"])["tasks"], 1);
    let stderr = env.fails(1, &["task", "status", &task]);
    assert!(stderr.contains("pruned"), "{stderr}");
}

#[test]
fn call_reads_parameters_from_everywhere() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let request = r#"{"goal":"from stdin"}"#;
    let output = env.run_with_input(&["call", "register_task", "-"], request);
    assert!(output.status.success(), "{}", shown(&output));
    let file = env.write("request.json", request);
    env.ok(&["call", "RegisterTask", "--file", file.to_str().unwrap()]);
    assert_eq!(
        env.json(&["call", "ListTasks"])["tasks"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let stderr = env.fails(64, &["call", "RegisterTasks"]);
    assert!(stderr.contains("RegisterTask?"), "{stderr}");
    env.fails(65, &["call", "Health", "{"]);
    env.fails(65, &["call", "RegisterTask", "{\"goal\":5}"]);
    assert!(env.ok(&["describe", "CompleteNode"]).contains("result_payload"));
    assert_eq!(env.json(&["whoami"])["role"], "operator");
    assert!(env.ok(&["metrics"]).contains("database.total_tasks"));
}

#[test]
fn the_journal_is_followed_through_a_restart() {
    let env = TestEnvironment::new();
    let daemon = env.daemon();
    let mut follow = env.spawn(&["journal", "--follow", "--from", "0"]);
    task(&env, &json!([]));
    follow.wait_stdout("REGISTER_TASK");
    daemon.kill_9();
    let _daemon = env.daemon();
    let second = task(&env, &json!([]));
    assert!(follow.wait_stdout(&second).contains("REGISTER_TASK"));
}

#[test]
fn backups_are_made_checked_and_restored_with_and_without_a_daemon() {
    let env = TestEnvironment::new();
    env.fails(65, &["db", "check"]);
    let daemon = env.daemon();
    let first = task(&env, &json!([{}]));
    env.ok(&["db", "backup", "a.db"]);
    env.fails(65, &["db", "backup", "a.db"]);
    let second = task(&env, &json!([{}]));
    assert_eq!(env.json(&["db", "check"])["ok"], true);
    daemon.stop();
    env.ok(&["db", "backup", "b.db"]);
    assert_eq!(env.json(&["db", "check"])["ok"], true);
    env.ok(&["db", "restore", "a.db"]);
    env.fails(65, &["db", "restore", "no-such.db"]);
    let daemon = env.daemon();
    env.ok(&["task", "status", &first]);
    env.fails(1, &["task", "status", &second]);
    env.ok(&["db", "restore", "b.db"]);
    env.ok(&["task", "status", &second]);
    daemon.stop();
}
