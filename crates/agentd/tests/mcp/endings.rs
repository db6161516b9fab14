//! The client goes away: what it held goes back at once.

use crate::client::{BOTH, Client};
use crate::support::TestEnvironment;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn holding(env: &TestEnvironment, client: &mut Client) -> Value {
    let task = client.call(
        "task_register",
        json!({ "goal": "g", "nodes": [
            { "name": "plain", "priority": 2 },
            { "name": "counted", "priority": 1, "retry": { "max_attempts": 2 } },
            { "name": "last", "priority": 1, "retry": { "max_attempts": 1 } },
        ]}),
    );
    for _ in 0..3 {
        let node = client.call("node_acquire", json!({}));
        assert_eq!(node["node"]["attempt"], 1);
    }
    client.call("lock_acquire", json!({ "key": "k" }));
    let counts = env
        .connect()
        .call("TaskStatus", json!({ "task_id": task["task_id"] }))["counts"]
        .take();
    assert_eq!(counts["RUNNING"], 3);
    task["task_id"].clone()
}

#[track_caller]
fn all_is_back(env: &TestEnvironment, task: &Value) {
    let mut wire = env.connect();
    let status = wire.call("TaskStatus", json!({ "task_id": task }));
    assert_eq!(
        (&status["counts"]["PENDING"], &status["counts"]["FAILED"]),
        (&json!(2), &json!(1)),
        "{status}"
    );
    assert_eq!(wire.call("ListResourceLocks", json!({}))["locks"], json!([]));
    // As if the leases had run out: what counts attempts has had one, what does not has not.
    let plain = wire.call("AcquireNextNode", json!({ "task_id": task }));
    assert_eq!(
        (&plain["context"]["node"]["name"], &plain["attempt"]),
        (&json!("plain"), &json!(1))
    );
    let events = plain["context"]["event_journal"].to_string();
    assert!(events.contains("MCP_SESSION_ENDED"), "{events}");
    let counted = wire.call("AcquireNextNode", json!({ "task_id": task }));
    assert_eq!(
        (&counted["context"]["node"]["name"], &counted["attempt"]),
        (&json!("counted"), &json!(2))
    );
}

#[test]
fn a_closed_stdin_gives_everything_back() {
    for lifecycle in BOTH {
        let env = TestEnvironment::new();
        let _daemon = env.daemon();
        let mut client = Client::start(&env, "leaver", lifecycle);
        let task = holding(&env, &mut client);
        // A wait that is under way ends, too.
        let other = json!({ "resource_key": "other" });
        let mut wire = env.connect();
        let lock = wire.call("AcquireResourceLock", other);
        client.begin_wait("lock_acquire", json!({ "key": "other", "wait_secs": 600 }));
        assert!(client.close().success());
        wire.call(
            "ReleaseResourceLock",
            json!({ "resource_key": "other", "lease_id": lock["lease_id"] }),
        );
        all_is_back(&env, &task);
    }
}

#[test]
fn so_do_the_signals_that_end_programs() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let env = TestEnvironment::new();
        let _daemon = env.daemon();
        let mut client = Client::start(&env, "leaver", BOTH[1]);
        let task = holding(&env, &mut client);
        client.signal(signal);
        assert!(client.ended().success());
        all_is_back(&env, &task);
    }
}

#[test]
fn a_server_that_is_killed_leaves_leases_that_end_by_themselves() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let mut client = Client::start(&env, "leaver", BOTH[0]);
    client.call("lock_acquire", json!({ "key": "k", "ttl_secs": 1 }));
    client.signal(Signal::SIGKILL);
    assert!(!client.ended().success());
    let lock = env.connect().call(
        "AcquireResourceLock",
        json!({ "resource_key": "k", "wait_secs": 30 }),
    );
    assert!(lock["lease_id"].is_string());
}

#[test]
fn what_was_asked_before_the_end_is_answered() {
    let env = TestEnvironment::new();
    let daemon = env.daemon();
    let mut client = Client::start(&env, "brief", BOTH[1]);
    let id = client.send_call("task_register", json!({ "goal": "g" }));
    let lock = client.send_call("lock_acquire", json!({ "key": "k" }));
    client.shut();
    assert!(client.done(id)["task_id"].is_string());
    client.answer(lock);
    assert!(client.ended().success());
    assert_eq!(
        daemon.connect().call("ListResourceLocks", json!({}))["locks"],
        json!([])
    );
}
