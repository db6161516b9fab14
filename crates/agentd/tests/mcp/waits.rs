//! Waits that are called off: nothing is acquired that nobody knows of.

use crate::client::{BOTH, Client};
use crate::support::TestEnvironment;
use serde_json::json;

#[test]
fn a_wait_that_is_cancelled_acquires_nothing() {
    for lifecycle in BOTH {
        let env = TestEnvironment::new();
        let daemon = env.daemon();
        let mut holder = daemon.connect();
        let lock = holder.call("AcquireResourceLock", json!({ "resource_key": "k" }));
        let mut client = Client::start(&env, "waiter", lifecycle);
        let id = client.begin_wait("lock_acquire", json!({ "key": "k", "wait_secs": 600 }));
        client.cancel(id);
        holder.call(
            "ReleaseResourceLock",
            json!({ "resource_key": "k", "lease_id": lock["lease_id"] }),
        );
        // Granted to somebody who waits honestly, at the latest when the other's grant was given back.
        let lock = holder.call(
            "AcquireResourceLock",
            json!({ "resource_key": "k", "wait_secs": 30, "owner": "second" }),
        );
        assert_eq!(lock["owner"], "second");
        assert_eq!(client.call("whoami", json!({}))["holds"], json!([]));
        let held = client.call("lock_acquire", json!({ "key": "k" }));
        assert_eq!(held["held_by"]["owner"], "second");
        assert!(client.said_only_messages());
    }
}

#[test]
fn a_grant_that_meets_its_cancellation_is_given_back() {
    for lifecycle in BOTH {
        let env = TestEnvironment::new();
        let daemon = env.daemon();
        let mut other = daemon.connect();
        let mut client = Client::start(&env, "waiter", lifecycle);
        let task = client.call("task_register", json!({ "goal": "g" }))["task_id"].take();
        for round in 0..24 {
            let lock = other.call("AcquireResourceLock", json!({ "resource_key": "k" }));
            let lock_wait = client.begin_wait("lock_acquire", json!({ "key": "k", "wait_secs": 600 }));
            let node_wait = client.begin_wait("node_acquire", json!({ "task_id": task, "wait_secs": 600 }));
            let release = json!({ "resource_key": "k", "lease_id": lock["lease_id"] });
            let add = json!({ "task_id": task, "nodes": [{}] });
            if round % 2 == 0 {
                client.cancel(lock_wait);
                client.cancel(node_wait);
            }
            other.call("ReleaseResourceLock", release);
            other.call("AddNodes", add);
            if round % 2 == 1 {
                // The answers are on their way by now, or are not.
                client.cancel(lock_wait);
                client.cancel(node_wait);
            }
            let lock = other.call(
                "AcquireResourceLock",
                json!({ "resource_key": "k", "wait_secs": 30 }),
            );
            assert!(lock["lease_id"].is_string(), "round {round}: {lock}");
            other.call(
                "ReleaseResourceLock",
                json!({ "resource_key": "k", "lease_id": lock["lease_id"] }),
            );
            let node = other.call("AcquireNextNode", json!({ "task_id": task, "wait_secs": 30 }));
            assert!(node["lease_id"].is_string(), "round {round}: {node}");
            other.call(
                "CompleteNode",
                json!({ "task_id": task, "node_id": node["node_id"], "lease_id": node["lease_id"],
                        "result_payload": 1 }),
            );
        }
        assert_eq!(client.call("whoami", json!({}))["holds"], json!([]));
        assert_eq!(other.call("ListResourceLocks", json!({}))["locks"], json!([]));
    }
}

#[test]
fn a_wait_goes_on_through_a_restart_of_the_daemon() {
    for lifecycle in BOTH {
        let env = TestEnvironment::new();
        let daemon = env.daemon();
        let mut client = Client::start(&env, "waiter", lifecycle);
        let lock = daemon
            .connect()
            .call("AcquireResourceLock", json!({ "resource_key": "k" }));
        client.call("task_register", json!({ "goal": "g", "nodes": [{}] }));
        client.call("node_acquire", json!({}));
        let id = client.begin_wait("lock_acquire", json!({ "key": "k", "wait_secs": 600 }));
        daemon.kill_9();
        let daemon = env.daemon();
        daemon.connect().call(
            "ReleaseResourceLock",
            json!({ "resource_key": "k", "lease_id": lock["lease_id"] }),
        );
        assert_eq!(client.done(id)["lock"]["key"], "k");
        // And so do other calls, and the leases.
        daemon.kill_9();
        let _daemon = env.daemon();
        client.call("node_event", json!({ "payload": "still here" }));
        client.call("node_complete", json!({ "result": 1 }));
        client.call("lock_release", json!({ "key": "k" }));
    }
}

#[test]
fn without_a_daemon_it_is_said() {
    let env = TestEnvironment::new();
    let mut client = Client::start(&env, "early", BOTH[0]);
    let me = client.call("whoami", json!({}));
    assert_eq!(me["daemon"]["answers"], false);
    assert!(
        me["daemon"]["message"].as_str().unwrap().contains("not running"),
        "{me}"
    );
    let refusal = client.refused("task_register", json!({ "goal": "g" }));
    assert_eq!(refusal["error"]["reason"], "no_daemon");
    assert!(refusal["error"]["next"].as_str().unwrap().contains("`agentd`"));
    // One that comes is found.
    let _daemon = env.daemon();
    client.call("task_register", json!({ "goal": "g" }));
    assert_eq!(client.call("whoami", json!({}))["daemon"]["answers"], true);
}
