//! `agentd lock`, and above all `lock run`.

use crate::support::{TestEnvironment, code, is_alive, shown, wait_gone};
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs;

#[test]
fn one_holds_it_and_the_other_is_told_who() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    env.write("src/lib.rs", "");
    let lock = env.json(&[
        "lock",
        "acquire",
        "--file",
        "src/lib.rs",
        "--owner",
        "ada",
        "--provider",
        "acme",
    ]);
    let key = lock["resource_key"].as_str().unwrap().to_owned();
    assert!(key.starts_with("file:/") && key.ends_with("/src/lib.rs"), "{key}");
    let stderr = env.fails(75, &["lock", "acquire", &key]);
    assert!(stderr.contains("ada") && stderr.contains("--wait"), "{stderr}");
    assert!(env.ok(&["lock", "list"]).contains("acme"));
    let lease = lock["lease_id"].as_str().unwrap();
    env.ok(&["lock", "heartbeat", &key, "--lease", lease, "--ttl", "1h"]);
    env.ok(&["lock", "release", "--file", "src/../src/lib.rs", "--lease", lease]);
    assert_eq!(env.json(&["lock", "list"])["locks"], json!([]));
}

#[test]
fn a_command_runs_under_the_lock_and_its_code_is_passed_on() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let script =
        "agentd=$1; $agentd --json lock list; echo key=$AGENTD_LOCK_KEY fence=$AGENTD_LOCK_FENCE; exit 7";
    let binary = env!("CARGO_BIN_EXE_agentd");
    let output = env.run(&["lock", "run", "k", "--", "sh", "-c", script, "sh", binary]);
    assert_eq!(code(output.status), 7, "{}", shown(&output));
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(
        stdout.contains("\"resource_key\":\"k\"") && stdout.contains("key=k fence="),
        "{stdout}"
    );
    assert_eq!(env.json(&["lock", "list"])["locks"], json!([]));
    assert_eq!(
        code(
            env.run(&["lock", "run", "k", "--", "sh", "-c", "kill -9 $$"])
                .status
        ),
        137
    );
    assert_eq!(
        code(env.run(&["lock", "run", "k", "--", "/no/such/program"]).status),
        127
    );
    assert_eq!(
        code(env.run(&["lock", "run", "k", "--", "/etc/passwd"]).status),
        126
    );
    let input = env.run_with_input(&["lock", "run", "k", "--", "cat"], "through\n");
    assert_eq!(input.stdout, b"through\n", "{}", shown(&input));
}

#[test]
fn the_second_waits_for_the_first() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let mut first = env.spawn(&["lock", "run", "k", "--", "sh", "-c", "echo in; exec sleep 600"]);
    first.wait_stdout("in");
    env.fails(75, &["lock", "run", "k", "--", "true"]);
    let second = env.spawn(&["lock", "run", "k", "--wait", "1m", "--", "echo", "second"]);
    first.signal(Signal::SIGTERM);
    assert_eq!(code(first.wait()), 143);
    let output = second.output();
    assert!(
        output.status.success() && output.stdout == b"second\n",
        "{}",
        shown(&output)
    );
}

// What the script leaves in the background is found by its process ids.
const FAMILY: &str = "trap '' TERM; echo $$ > child; \
                      sh -c 'trap \"\" TERM; echo $$ > grandchild; echo up; exec sleep 600' & \
                      wait; sleep 600";

fn pid(env: &TestEnvironment, name: &str) -> i32 {
    fs::read_to_string(env.path(name))
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

#[test]
fn a_restart_of_the_daemon_is_survived() {
    let env = TestEnvironment::new();
    let daemon = env.daemon();
    env.write("go", "");
    let script = "echo in; until [ -e done ]; do sleep 0.02; done";
    let mut run = env.spawn(&["lock", "run", "k", "--ttl", "4s", "--", "sh", "-c", script]);
    run.wait_stdout("in");
    let before = env.json(&["lock", "list"])["locks"][0].clone();
    daemon.kill_9();
    let _daemon = env.daemon();
    // A heartbeat has come through when the lock ends later than it did.
    let mut wire = env.connect();
    wire.call("SubscribeJournal", json!({}));
    let until = |lock: &serde_json::Value| lock["lease_expires_at"].as_i64().unwrap();
    loop {
        let now = env.json(&["lock", "list"])["locks"][0].clone();
        assert_eq!(now["lease_id"], before["lease_id"], "the lock is still ours");
        if until(&now) > until(&before) {
            break;
        }
    }
    env.write("done", "");
    assert_eq!(code(run.wait()), 0);
}

#[test]
fn a_lost_lock_ends_the_whole_family_before_it_expires() {
    let env = TestEnvironment::new();
    let daemon = env.daemon();
    let mut run = env.spawn(&["lock", "run", "k", "--ttl", "2s", "--", "sh", "-c", FAMILY]);
    run.wait_stdout("up");
    let (child, grandchild) = (pid(&env, "child"), pid(&env, "grandchild"));
    daemon.kill_9();
    assert_eq!(code(run.wait()), 75, "{}", run.printed());
    assert!(!is_alive(child) && !is_alive(grandchild));
    // The database knows when the lock would have ended: not yet.
    let _daemon = env.daemon();
    let stderr = String::from_utf8_lossy(&run.output().stderr).into_owned();
    assert!(
        stderr.contains("was lost") && stderr.contains("before anybody else"),
        "{stderr}"
    );
}

#[test]
fn a_lock_that_is_taken_away_ends_it_too() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let mut run = env.spawn(&["lock", "run", "k", "--ttl", "3s", "--", "sh", "-c", FAMILY]);
    run.wait_stdout("up");
    let lock = env.json(&["lock", "list"])["locks"][0].clone();
    let released = json!({ "resource_key": "k", "lease_id": lock["lease_id"] });
    env.connect().call("ReleaseResourceLock", released);
    assert_eq!(code(run.wait()), 75, "{}", run.printed());
    assert!(!is_alive(pid(&env, "child")) && !is_alive(pid(&env, "grandchild")));
}

#[test]
fn killing_any_of_them_leaves_nobody_behind() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    // The program itself, as a crash would.
    let mut run = env.spawn(&["lock", "run", "a", "--", "sh", "-c", FAMILY]);
    run.wait_stdout("up");
    let (child, grandchild) = (pid(&env, "child"), pid(&env, "grandchild"));
    run.kill_9();
    wait_gone(child);
    wait_gone(grandchild);
    // Its guard.
    let mut run = env.spawn(&["lock", "run", "b", "--", "sh", "-c", FAMILY]);
    run.wait_stdout("up");
    let (child, grandchild) = (pid(&env, "child"), pid(&env, "grandchild"));
    let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap();
    let guard: i32 = stat
        .rsplit_once(") ")
        .unwrap()
        .1
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    assert_ne!(guard, run.pid().as_raw());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(guard), Signal::SIGKILL).unwrap();
    assert_eq!(code(run.wait()), 2, "{}", run.printed());
    assert!(!is_alive(child) && !is_alive(grandchild));
}

#[test]
fn what_the_command_leaves_running_ends_with_it() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let script = "(setsid sleep 600 > /dev/null 2>&1 & echo $! > left); sleep 0.05; exit 3";
    let output = env.run(&["lock", "run", "k", "--", "sh", "-c", script]);
    assert_eq!(code(output.status), 3, "{}", shown(&output));
    assert!(!is_alive(pid(&env, "left")));
}
