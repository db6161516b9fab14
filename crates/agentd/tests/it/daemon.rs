//! The daemon's life.

use crate::support::{TestEnvironment, shown};
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

#[test]
fn it_starts_answers_and_stops() {
    let env = TestEnvironment::new();
    let daemon = env.daemon();
    // Agents of root's daemon have ids of their own, and walk through to what is theirs; nobody reads it.
    let walked_through = if nix::unistd::geteuid().is_root() {
        0o711
    } else {
        0o700
    };
    assert_eq!(env.state().metadata().unwrap().mode() & 0o777, walked_through);
    assert_eq!(env.database().metadata().unwrap().mode() & 0o777, 0o600);
    assert_eq!(env.socket().metadata().unwrap().mode() & 0o777, 0o660);
    let health = env.connect().call("Health", json!({}));
    assert_eq!(health["status"], "ok");
    assert_eq!(
        (&health["running_timeout_secs"], &health["context_event_limit"]),
        (&json!(300), &json!(50))
    );
    assert_eq!(health["pid"], daemon.pid().as_raw());
    let log = daemon.stop();
    assert!(
        log.contains("ready") && log.contains("agentd.sock") && log.contains("stopped"),
        "{log}"
    );
    assert!(!env.socket().exists());
    env.fails(69, &["health"]);
}

#[test]
fn the_service_manager_is_told() {
    let env = TestEnvironment::new();
    let mut daemon = env.daemon();
    daemon.signal(Signal::SIGTERM);
    daemon.wait();
    assert!(daemon.notifications().iter().any(|line| line == "STOPPING=1"));
}

#[test]
fn a_second_daemon_says_who_is_first() {
    let env = TestEnvironment::new();
    let first = env.daemon();
    let output = env.try_daemon(&mut env.command(&["daemon"])).unwrap_err();
    assert_eq!(output.status.code(), Some(75), "{}", shown(&output));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(&first.pid().to_string()), "{stderr}");
    // On another socket it is the database that is taken.
    let socket = env.path("other.sock");
    let output = env
        .try_daemon(&mut env.command(&["--socket", socket.to_str().unwrap(), "daemon"]))
        .unwrap_err();
    assert_eq!(output.status.code(), Some(75), "{}", shown(&output));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains(&first.pid().to_string()),
        "{}",
        shown(&output)
    );
    assert_eq!(env.json(&["health"])["status"], "ok");
}

#[test]
fn a_dead_daemons_socket_is_replaced_and_other_files_are_not() {
    let env = TestEnvironment::new();
    env.daemon().kill_9();
    assert!(env.socket().exists());
    let daemon = env.daemon();
    assert_eq!(env.json(&["health"])["status"], "ok");
    daemon.stop();
    fs::write(env.socket(), "not a socket").unwrap();
    let output = env.try_daemon(&mut env.command(&["daemon"])).unwrap_err();
    assert_eq!(output.status.code(), Some(78), "{}", shown(&output));
    assert_eq!(fs::read_to_string(env.socket()).unwrap(), "not a socket");
}

#[test]
fn what_was_acknowledged_survives_a_crash() {
    let env = TestEnvironment::new();
    let daemon = env.daemon();
    let task = env
        .connect()
        .call("RegisterTask", json!({ "goal": "g", "initial_nodes": [{}] }))["task_id"]
        .clone();
    daemon.kill_9();
    let _daemon = env.daemon();
    let status = env.connect().call("TaskStatus", json!({ "task_id": task }));
    assert_eq!(status["counts"]["PENDING"], 1);
}

#[test]
fn a_waiting_acquire_does_not_hold_up_the_end() {
    let env = TestEnvironment::new();
    let daemon = env.daemon();
    let mut wire = env.connect();
    wire.send(b"{\"id\":7,\"method\":\"AcquireNextNode\",\"params\":{\"wait_secs\":600}}\n");
    // Answered on another connection: the first request has been taken by then, or will be refused; both end well.
    env.connect().call("Health", json!({}));
    daemon.stop();
    let response = wire.line().expect("an answer");
    assert_eq!(response["id"], 7);
}

#[test]
fn settings_come_from_the_env_file_and_its_openness_is_warned_of() {
    let env = TestEnvironment::new();
    let file = env.write(
        ".agentd/.env",
        "AGENTD_NODE_TIMEOUT_SECS=17\nAGENTD_CONTEXT_EVENT_LIMIT=3\n",
    );
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let daemon = env.daemon_with(&["--context-event-limit", "4"]);
    let health = env.json(&["health"]);
    assert_eq!(
        (&health["running_timeout_secs"], &health["context_event_limit"]),
        (&json!(17), &json!(4))
    );
    let log = daemon.stop();
    assert!(log.contains("chmod 600"), "{log}");
}

#[test]
fn a_wrong_setting_is_named() {
    let mut env = TestEnvironment::new();
    env.set("AGENTD_DATABASE_URL", "postgres://ada:secret@db/agentd");
    let stderr = env.fails(78, &["daemon"]);
    assert!(
        stderr.contains("AGENTD_DATABASE_URL") && !stderr.contains("secret"),
        "{stderr}"
    );
    assert!(!env.state().exists());
}

#[test]
fn a_home_that_podman_cannot_be_told_of_is_refused() {
    let mut env = TestEnvironment::new();
    env.set("AGENTD_HOME", env.path("a,b"));
    let stderr = env.fails(78, &["daemon"]);
    assert!(stderr.contains("comma"), "{stderr}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let env = TestEnvironment::new();
    let mut daemon = env.daemon();
    daemon.signal(Signal::SIGTERM);
    daemon.signal(Signal::SIGINT);
    let status = daemon.wait();
    // The first may have been enough.
    assert!(
        [Some(0), Some(130), Some(143)].contains(&status.code()),
        "{status}"
    );
}
