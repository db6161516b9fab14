//! `agentd task run` and `agentd worker`: plans from beginning to end, whatever is killed in between.

use crate::support::{TestEnvironment, code, is_alive, pipe, read_pipe, shown, wait_gone};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;

/// Three nodes; the second waits for a file. Each notes in `log` that it ran.
const STEPS: &str = r#"
goal = "three steps"
result = "third"

[[nodes]]
name = "first"
run = "echo first >> log; echo one"

[[nodes]]
name = "second"
needs = ["first"]
run = "echo second >> log; echo $$ > pid; until [ -e go ]; do sleep 0.02; done; cat $AGENTD_INPUTS/first.out; echo two"

[[nodes]]
name = "third"
needs = ["second"]
run = "echo third >> log; cat $AGENTD_INPUTS/second.out; echo three"
"#;

fn log(env: &TestEnvironment) -> String {
    fs::read_to_string(env.path("log"))
        .unwrap_or_default()
        .replace('\n', " ")
}

#[test]
fn without_a_daemon_it_is_its_own() {
    let env = TestEnvironment::new();
    env.write("plan.toml", STEPS);
    env.write("go", "");
    let output = env.run(&["task", "run", "plan.toml"]);
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "one\ntwo\nthree\n",
        "{}",
        shown(&output)
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("completed: 3 of 3 nodes done"), "{stderr}");
    assert!(!env.socket().exists());
    // A finished one is not continued.
    let document = env.json(&["task", "run", "plan.toml"]);
    assert_eq!(
        (&document["state"], &document["continued"]),
        (&json!("completed"), &json!(false))
    );
    assert_eq!(document["result"]["stdout"], "one\ntwo\nthree\n");
    assert_eq!(log(&env), "first second third first second third ");
    assert_eq!(env.json(&["db", "check"])["ok"], true);
}

#[test]
fn others_can_look_at_a_run() {
    let env = TestEnvironment::new();
    env.write("plan.toml", STEPS);
    let mut run = env.spawn(&["task", "run", "plan.toml"]);
    run.wait_stderr("start second");
    let tasks = env.json(&["task", "list"])["tasks"].clone();
    assert_eq!(tasks[0]["state"], "active");
    let mut watch = env.spawn(&["task", "watch", tasks[0]["task_id"].as_str().unwrap()]);
    watch.wait_stdout("1 of 3 nodes done");
    env.write("go", "");
    assert_eq!(code(run.wait()), 0, "{}", run.printed());
    watch.signal(Signal::SIGKILL);
}

#[test]
fn a_failure_is_shown_and_can_be_retried() {
    let env = TestEnvironment::new();
    env.write(
        "plan.toml",
        "goal = 'g'\nresult = 'after'\n[[nodes]]\nname = 'flaky'\nrun = 'test -e fixed || { echo no luck >&2; exit 3; }'\n\
         [[nodes]]\nname = 'after'\nneeds = ['flaky']\nrun = 'echo fine'\n",
    );
    let output = env.run(&["task", "run", "plan.toml"]);
    assert_eq!(code(output.status), 1, "{}", shown(&output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("no luck") && stderr.contains("blocked by flaky") && stderr.contains("--retry"),
        "{stderr}"
    );
    env.write("fixed", "");
    let document = env.json(&["task", "run", "plan.toml", "--retry"]);
    assert_eq!(
        (&document["state"], &document["continued"]),
        (&json!("completed"), &json!(true))
    );
}

#[test]
fn an_interrupted_run_goes_on() {
    let env = TestEnvironment::new();
    env.write("plan.toml", STEPS);
    let mut run = env.spawn(&["task", "run", "plan.toml"]);
    run.wait_stderr("start second");
    run.signal(Signal::SIGINT);
    assert_eq!(code(run.wait()), 130, "{}", run.printed());
    assert!(String::from_utf8_lossy(&run.output().stderr).contains("the same command goes on"));
    env.write("go", "");
    let output = env.run(&["task", "run", "plan.toml"]);
    assert!(output.status.success(), "{}", shown(&output));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("continuing task"),
        "{}",
        shown(&output)
    );
    assert_eq!(log(&env).matches("first").count(), 1);
    assert_eq!(log(&env).matches("third").count(), 1);
}

#[test]
fn a_killed_run_goes_on_at_once_and_leaves_nobody_behind() {
    let env = TestEnvironment::new();
    env.write("plan.toml", STEPS);
    pipe(&env.path("pid"));
    let mut run = env.spawn(&["task", "run", "plan.toml"]);
    let orphan = read_pipe(&env.path("pid")).trim().parse().unwrap();
    run.kill_9();
    fs::remove_file(env.path("pid")).unwrap();
    env.write("go", "");
    let output = env.run(&["task", "run", "plan.toml"]);
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "one\ntwo\nthree\n");
    assert_eq!(log(&env).matches("first").count(), 1);
    wait_gone(orphan);
    assert!(!is_alive(orphan));
}

#[test]
fn when_the_daemon_is_killed_the_run_takes_its_place() {
    let env = TestEnvironment::new();
    env.write("plan.toml", STEPS);
    let daemon = env.daemon();
    let mut run = env.spawn(&["task", "run", "plan.toml"]);
    run.wait_stderr("start second");
    daemon.kill_9();
    run.wait_stderr("goes on as its own daemon");
    env.write("go", "");
    let output = run.output();
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "one\ntwo\nthree\n");
    // Its command ran on meanwhile.
    assert_eq!(log(&env), "first second third ");
}

#[test]
fn a_daemon_that_comes_back_is_used_again() {
    let env = TestEnvironment::new();
    env.write("plan.toml", STEPS);
    let daemon = env.daemon();
    let mut run = env.spawn(&["task", "run", "plan.toml"]);
    run.wait_stderr("start second");
    daemon.stop();
    let daemon = env.daemon();
    run.wait_stderr("it is there");
    env.write("go", "");
    assert!(run.output().status.success());
    assert_eq!(log(&env), "first second third ");
    daemon.stop();
}

#[test]
fn a_daemon_that_starts_takes_the_place_of_a_run() {
    let env = TestEnvironment::new();
    env.write("plan.toml", STEPS);
    let mut run = env.spawn(&["task", "run", "plan.toml"]);
    run.wait_stderr("start second");
    // Where it cannot be asked for its place, it is told what holds the database and what to do.
    let socket = env.path("other.sock");
    let stderr = env.fails(75, &["--socket", socket.to_str().unwrap(), "daemon"]);
    assert!(
        stderr.contains("`agentd task run`") && stderr.contains(&format!("kill -INT {}", run.pid())),
        "{stderr}"
    );
    let daemon = env.daemon();
    run.wait_stderr("made way");
    run.wait_stderr("it is there");
    assert_eq!(env.json(&["health"])["pid"], daemon.pid().as_raw());
    // It makes way for nobody.
    let stderr = env.fails(1, &["call", "StepAside"]);
    assert!(stderr.contains("stop it first"), "{stderr}");
    env.write("go", "");
    let output = run.output();
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "one\ntwo\nthree\n");
    assert_eq!(log(&env), "first second third ");
    daemon.stop();
}

#[test]
fn two_runs_of_one_plan_share_its_task() {
    let env = TestEnvironment::new();
    env.write("plan.toml", STEPS);
    let mut first = env.spawn(&["task", "run", "plan.toml"]);
    first.wait_stderr("start second");
    let mut second = env.spawn(&["task", "run", "plan.toml"]);
    second.wait_stderr("continuing task");
    // The first is the daemon of both. The second goes on without it.
    first.kill_9();
    second.wait_stderr("goes on as its own daemon");
    env.write("go", "");
    let output = second.output();
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(log(&env).matches("first").count(), 1);
}

#[test]
fn a_new_run_cancels_the_unfinished_one() {
    let env = TestEnvironment::new();
    env.write("plan.toml", STEPS);
    let daemon = env.daemon();
    let mut run = env.spawn(&["task", "run", "plan.toml"]);
    run.wait_stderr("start second");
    let mut again = env.spawn(&["task", "run", "plan.toml", "--new"]);
    again.wait_stderr("is cancelled");
    let output = run.output();
    assert_eq!(code(output.status), 1, "{}", shown(&output));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("a new run of the same plan"),
        "{}",
        shown(&output)
    );
    again.wait_stderr("start second");
    env.write("go", "");
    assert_eq!(code(again.wait()), 0, "{}", again.printed());
    daemon.stop();
}

#[test]
fn mistakes_in_a_plan_or_its_arguments_are_named() {
    let env = TestEnvironment::new();
    env.write(
        "plan.toml",
        "goal = 'g'\n[args.dir]\nkind = 'directory'\n[[nodes]]\nname = 'a'\nrun = 'true'\n",
    );
    env.write("bad.toml", "goal = 'g'\n[[nodes]]\nname = 'a'\nrunn = 'true'\n");
    let stderr = env.fails(64, &["task", "run", "plan.toml"]);
    assert!(stderr.contains("dir"), "{stderr}");
    env.fails(64, &["task", "run", "plan.toml", "/no/such/directory"]);
    let stderr = env.fails(65, &["task", "run", "bad.toml"]);
    assert!(
        stderr.contains("bad.toml:") && stderr.contains("runn"),
        "{stderr}"
    );
    env.fails(65, &["task", "run", "missing.toml"]);
    // Nothing was begun.
    assert!(!env.state().exists());
}

#[test]
fn a_worker_runs_what_was_submitted() {
    let env = TestEnvironment::new();
    env.write("plan.toml", STEPS);
    env.write("go", "");
    env.fails(69, &["worker"]);
    let daemon = env.daemon();
    let task = env.ok(&["task", "submit", "plan.toml"]);
    let task = task.trim();
    let mut worker = env.spawn(&["--json", "worker", "--slots", "2"]);
    env.ok(&["task", "watch", task]);
    worker.wait_stdout("completed");
    worker.signal(Signal::SIGTERM);
    assert_eq!(code(worker.wait()), 0, "{}", worker.printed());
    let status: Value = env.json(&["task", "status", task]);
    assert_eq!(status["state"], "completed");
    daemon.stop();
}
