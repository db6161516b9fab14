//! Ids that name nothing, something else, or somebody else's.

use crate::raw::{Planted, planted};
use serde_json::{Value, json};

fn unknown() -> Value {
    json!(uuid::Uuid::new_v4())
}

#[test]
fn unknown_ids_are_refused_by_every_method_that_takes_one() {
    let (_env, daemon, planted) = planted();
    let mut wire = daemon.connect();
    let (task, nodes, lease) = (&planted.task_id, &planted.nodes, &planted.lease_id);
    for (method, more) in [
        ("HeartbeatNode", json!({})),
        ("CompleteNode", json!({ "result_payload": 1 })),
        ("FailNode", json!({ "error_payload": 1 })),
        ("ReleaseNode", json!({})),
        ("CommitEvent", json!({ "payload": 1 })),
    ] {
        let mut with = |task: &Value, node: &Value, lease: &Value| {
            let mut params = more.clone();
            params["task_id"] = task.clone();
            params["node_id"] = node.clone();
            params["lease_id"] = lease.clone();
            let error = wire.error(method, params);
            assert_eq!(error["code"], -32000, "{method}: {error}");
            error["data"]["reason"].as_str().unwrap().to_owned()
        };
        assert_eq!(with(&unknown(), &nodes[1], lease), "task_not_found", "{method}");
        assert_eq!(with(task, &unknown(), lease), "node_not_found", "{method}");
        assert_eq!(with(task, &nodes[1], &unknown()), "stale_lease", "{method}");
        // Another node of the task, with the running one's lease.
        for other in [&nodes[0], &nodes[2], &nodes[3]] {
            let reason = with(task, other, lease);
            assert!(
                ["stale_lease", "wrong_status"].contains(&reason.as_str()),
                "{method}: {reason}"
            );
        }
    }
    for (method, params) in [
        ("TaskStatus", json!({ "task_id": unknown() })),
        ("AcquireNextNode", json!({ "task_id": unknown() })),
        (
            "AcquireNextNode",
            json!({ "task_id": unknown(), "wait_secs": 600 }),
        ),
        ("AddNodes", json!({ "task_id": unknown(), "nodes": [{}] })),
        ("CancelTask", json!({ "task_id": unknown() })),
        ("PauseTask", json!({ "task_id": unknown() })),
        ("ResumeTask", json!({ "task_id": unknown() })),
        ("RetryNodes", json!({ "task_id": unknown() })),
        ("GetNode", json!({ "task_id": unknown(), "node_id": nodes[0] })),
        ("GetNode", json!({ "task_id": task, "node_id": unknown() })),
        ("RetryNodes", json!({ "task_id": task, "node_ids": [unknown()] })),
        (
            "RetryNodes",
            json!({ "task_id": task, "node_ids": [nodes[3], unknown()] }),
        ),
        (
            "HeartbeatResourceLock",
            json!({ "resource_key": "none", "lease_id": unknown() }),
        ),
        (
            "ReleaseResourceLock",
            json!({ "resource_key": "none", "lease_id": unknown() }),
        ),
    ] {
        let error = wire.error(method, params.clone());
        assert_eq!(error["code"], -32000, "{method} {params}: {error}");
    }
    planted.check(&daemon);
}

#[test]
fn ids_of_another_task_are_not_found_and_never_taken_over() {
    let (_env, daemon, planted) = planted();
    let mut wire = daemon.connect();
    let victim = &planted.nodes;
    let other = Planted::new(&mut wire);
    for (method, more) in [
        ("GetNode", json!({})),
        ("HeartbeatNode", json!({})),
        ("CompleteNode", json!({ "result_payload": 1 })),
        ("FailNode", json!({ "error_payload": 1 })),
        ("ReleaseNode", json!({})),
        ("CommitEvent", json!({ "payload": 1 })),
    ] {
        // The victim's node and its very lease, under the other task's id.
        let mut params = more;
        params["task_id"] = other.task_id.clone();
        params["node_id"] = victim[1].clone();
        params["lease_id"] = planted.lease_id.clone();
        let error = wire.error(method, params);
        assert_eq!(error["data"]["reason"], "node_not_found", "{method}: {error}");
    }
    let error = wire.error(
        "RetryNodes",
        json!({ "task_id": other.task_id, "node_ids": [victim[3]] }),
    );
    assert_eq!(error["data"]["reason"], "node_not_found", "{error}");
    // Registering an id that another task has, or depending on one.
    let fresh = unknown();
    for (reason, nodes) in [
        ("duplicate_node", json!([{}, { "id": victim[0] }])),
        ("duplicate_node", json!([{ "id": fresh }, { "id": fresh }])),
        ("unknown_dependency", json!([{}, { "dependencies": [victim[2]] }])),
        ("unknown_dependency", json!([{ "dependencies": [unknown()] }])),
    ] {
        let lease =
            json!({ "task_id": other.task_id, "node_id": other.nodes[1], "lease_id": other.lease_id });
        let mut complete = lease.clone();
        complete["result_payload"] = json!(1);
        complete["add_nodes"] = nodes.clone();
        for (method, params) in [
            ("RegisterTask", json!({ "goal": "bad", "initial_nodes": nodes })),
            ("AddNodes", json!({ "task_id": other.task_id, "nodes": nodes })),
            ("CompleteNode", complete),
        ] {
            let error = wire.error(method, params);
            assert_eq!(error["data"]["reason"], reason, "{method}: {error}");
        }
    }
    for nodes in [
        json!([{ "id": fresh, "dependencies": [fresh] }]),
        json!([{ "id": fresh, "dependencies": [other.task_id] }, { "id": other.task_id, "dependencies": [fresh] }]),
    ] {
        let error = wire.error("RegisterTask", json!({ "goal": "bad", "initial_nodes": nodes }));
        let reason = &error["data"]["reason"];
        assert!(
            reason == "dependency_cycle" || reason == "unknown_dependency",
            "{error}"
        );
    }
    // Nothing of all that was written.
    let tasks = wire.call("ListTasks", json!({}));
    assert_eq!(tasks["tasks"].as_array().unwrap().len(), 2);
    other.check(&daemon);
    planted.check(&daemon);
}

#[test]
fn a_lease_of_one_thing_opens_no_other() {
    let (_env, daemon, planted) = planted();
    let mut wire = daemon.connect();
    let one = wire.call("AcquireResourceLock", json!({ "resource_key": "one" }));
    let two = wire.call("AcquireResourceLock", json!({ "resource_key": "two" }));
    for lease in [&two["lease_id"], &planted.lease_id] {
        for method in ["HeartbeatResourceLock", "ReleaseResourceLock"] {
            let error = wire.error(method, json!({ "resource_key": "one", "lease_id": lease }));
            assert_eq!(error["data"]["reason"], "stale_lock", "{method}: {error}");
        }
    }
    let params =
        json!({ "task_id": planted.task_id, "node_id": planted.nodes[1], "lease_id": one["lease_id"] });
    assert_eq!(
        wire.error("HeartbeatNode", params)["data"]["reason"],
        "stale_lease"
    );
    assert_eq!(
        wire.call("ListResourceLocks", json!({}))["locks"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    planted.check(&daemon);
}
