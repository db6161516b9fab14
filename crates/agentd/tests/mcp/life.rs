//! A task's whole life by two clients that want the same.

use crate::client::{BOTH, Client, Lifecycle};
use crate::support::TestEnvironment;
use serde_json::{Value, json};

#[test]
fn two_clients_share_a_task_and_a_lock() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let mut a = Client::start(&env, "alpha", Lifecycle::Legacy);
    let mut b = Client::start(&env, "beta", Lifecycle::Modern);
    let task = a.call(
        "task_register",
        json!({
            "goal": "Ship 1.2",
            "context": { "branch": "main" },
            "nodes": [
                { "name": "build", "payload": { "do": "cargo build" } },
                { "name": "test", "after": ["build"], "retry": { "max_attempts": 3 } },
            ],
            "idempotency_key": "ship",
        }),
    );
    let task_id = &task["task_id"];
    let again = b.call(
        "task_register",
        json!({
            "goal": "Ship 1.2",
            "context": { "branch": "main" },
            "nodes": [
                { "name": "build", "payload": { "do": "cargo build" } },
                { "name": "test", "after": ["build"], "retry": { "max_attempts": 3 } },
            ],
            "idempotency_key": "ship",
        }),
    );
    assert_eq!(again["task_id"], *task_id);

    let build = a.call("node_acquire", json!({ "task_id": task_id }))["node"].take();
    assert_eq!(
        (&build["name"], &build["goal"], &build["payload"]["do"]),
        (&json!("build"), &json!("Ship 1.2"), &json!("cargo build"))
    );
    assert_eq!(build["node_id"], task["by_name"]["build"]);
    let none = b.call("node_acquire", json!({ "task_id": task_id }));
    assert!(none["node"].is_null() && none["why"].is_string(), "{none}");

    // Who holds what.
    let owner = format!("mcp-alpha-{}", a.pid());
    let status = b.call("task_status", json!({ "task_id": task_id }));
    assert_eq!(status["nodes"][0]["lease_owner"], *owner);
    assert!(status["nodes"][0].get("yours").is_none());
    let status = a.call("task_status", json!({ "task_id": task_id, "status": "RUNNING" }));
    assert_eq!(status["nodes"][0]["yours"], true);
    let me = a.call("whoami", json!({}));
    assert_eq!(me["owner"], *owner);
    assert_eq!(me["holds"][0]["node_id"], build["node_id"]);
    assert_eq!(me["daemon"]["role"], "operator");

    // The wait of the one ends with the work of the other.
    let waiting = b.begin_wait("node_acquire", json!({ "task_id": task_id, "wait_secs": 60 }));
    a.call(
        "node_event",
        json!({ "kind": "FOUND_BUG", "payload": { "line": 7 } }),
    );
    let beat = a.call("node_heartbeat", json!({}));
    assert!(beat["lease_expires_at"].is_i64());
    a.call(
        "node_complete",
        json!({ "result": { "binary": "target/a" }, "add_nodes": [{ "name": "lint" }] }),
    );
    let test = b.done(waiting)["node"].take();
    // Registered with the completion, or before it: both are runnable now.
    assert!(["test", "lint"].contains(&test["name"].as_str().unwrap()));
    let mut names = vec![test["name"].clone()];
    let inputs = |node: &Value| {
        if node["name"] == "test" {
            assert_eq!(node["inputs"][0]["name"], "build");
            assert_eq!(node["inputs"][0]["result"]["binary"], "target/a");
        }
        assert!(node["events"].to_string().contains("FOUND_BUG"), "{node}");
    };
    inputs(&test);
    let refusal = a.refused(
        "node_complete",
        json!({ "node_id": test["node_id"], "result": 1 }),
    );
    assert_eq!(refusal["error"]["reason"], "not_held");
    if test["name"] == "test" {
        let failed = b.call("node_fail", json!({ "error": "flaky" }));
        assert!(failed["retry_at"].is_string(), "{failed}");
        names.clear();
    } else {
        b.call("node_complete", json!({ "result": null }));
    }
    while names.len() < 2 {
        let node = a.call("node_acquire", json!({ "task_id": task_id, "wait_secs": 60 }))["node"].take();
        inputs(&node);
        names.push(node["name"].clone());
        a.call(
            "node_complete",
            json!({ "node_id": node["node_id"], "result": "done" }),
        );
    }
    let status = b.call("task_status", json!({ "task_id": task_id }));
    assert_eq!(
        (&status["state"], &status["counts"]["COMPLETED"]),
        (&json!("completed"), &json!(3))
    );
    let whole = b.call(
        "task_status",
        json!({ "task_id": task_id, "node_id": build["node_id"] }),
    );
    assert_eq!(whole["result"]["binary"], "target/a");
    let list = b.call("tasks_list", json!({ "state": "completed" }));
    assert_eq!(list["tasks"][0]["task_id"], *task_id);

    // One lock, two clients.
    let lock = a.call(
        "lock_acquire",
        json!({ "file": "lib.rs", "metadata": { "why": "rename" } }),
    )["lock"]
        .take();
    let key = lock["key"].as_str().unwrap();
    assert!(key.starts_with("file:/") && key.ends_with("/lib.rs"), "{key}");
    let held = b.call("lock_acquire", json!({ "key": key }));
    assert!(held["lock"].is_null(), "{held}");
    assert_eq!(held["held_by"]["owner"], *owner);
    assert_eq!(held["held_by"]["metadata"]["why"], "rename");
    let twice = a.refused("lock_acquire", json!({ "key": key, "wait_secs": 60 }));
    assert_eq!(twice["error"]["reason"], "already_held");
    let waiting = b.begin_wait("lock_acquire", json!({ "key": key, "wait_secs": 60 }));
    a.call("lock_release", json!({ "key": key }));
    let second = b.done(waiting)["lock"].take();
    assert!(second["fence"].as_i64() > lock["fence"].as_i64());
    let locks = a.call("locks_list", json!({ "prefix": "file:" }));
    assert_eq!(locks["locks"].as_array().unwrap().len(), 1);
    b.call("lock_release", json!({ "key": key }));
    let refusal = b.refused("lock_release", json!({ "key": key }));
    assert_eq!(refusal["error"]["reason"], "not_held");
    assert!(a.close().success() && b.close().success());
}

#[test]
fn the_tools_are_the_same_in_both_revisions_and_few() {
    let env = TestEnvironment::new();
    // Nobody runs: what there is can be listed all the same.
    let lists = BOTH.map(|lifecycle| {
        let mut client = Client::start(&env, "lister", lifecycle);
        let mut answer = client.request("tools/list", json!({}));
        let result = &answer["result"];
        assert_eq!(
            result.get("ttlMs").is_some(),
            lifecycle == Lifecycle::Modern,
            "{result}"
        );
        assert!(result.get("nextCursor").is_none());
        answer["result"]["tools"].take()
    });
    assert_eq!(lists[0], lists[1]);
    let tools = lists[0].as_array().unwrap();
    let bytes = lists[0].to_string().len();
    assert!(
        tools.len() <= 14 && bytes <= 8 * 1024,
        "{} tools, {bytes} bytes",
        tools.len()
    );
    for tool in tools {
        assert_eq!(tool["inputSchema"]["type"], "object");
        assert!(tool["annotations"]["openWorldHint"] == false, "{tool}");
        jsonschema::validator_for(&tool["inputSchema"]).expect("a schema");
    }
    let mut modern = Client::start(&env, "prober", Lifecycle::Modern);
    let found = modern.request("server/discover", json!({}));
    let versions = found["result"]["supportedVersions"].to_string();
    assert!(versions.contains("2026-07-28"), "{found}");
    assert!(found["result"]["capabilities"]["tools"].is_object());
    assert!(modern.close().success());
}

#[test]
fn large_values_are_read_piece_by_piece() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let mut client = Client::start(&env, "reader", Lifecycle::Modern);
    let large = "ä€".repeat(60_000);
    let task = client.call(
        "task_register",
        json!({ "goal": "g", "nodes": [{ "name": "a" }, { "name": "b", "after": ["a"] }] }),
    );
    let a = client.call("node_acquire", json!({}))["node"].take();
    client.call("node_complete", json!({ "result": large }));
    let b = client.call("node_acquire", json!({}))["node"].take();
    let bytes = serde_json::to_string(&large).unwrap().len();
    assert_eq!(b["inputs"][0]["result"]["omitted_bytes"], bytes);
    let mut text = String::new();
    let mut offset = json!(0);
    while !offset.is_null() {
        let mut piece = client.call(
            "task_status",
            json!({ "task_id": task["task_id"], "node_id": a["node_id"], "part": "result", "offset": offset }),
        );
        assert_eq!(piece["total_bytes"], bytes);
        text.push_str(piece["text"].as_str().unwrap());
        offset = piece["next_offset"].take();
    }
    assert_eq!(serde_json::from_str::<String>(&text).unwrap(), large);

    // Pages, whatever the nodes look like.
    let nodes: Vec<Value> = (0..300)
        .map(|number| json!({ "name": format!("{number}{}", "n".repeat(240)) }))
        .collect();
    let many = client.call("task_register", json!({ "goal": "many", "nodes": nodes }));
    assert_eq!(many["node_ids"]["total"], 300);
    let (mut seen, mut cursor) = (0, Value::Null);
    loop {
        let mut page = client.call(
            "task_status",
            json!({ "task_id": many["task_id"], "limit": 200, "cursor": cursor }),
        );
        assert!(page.to_string().len() < 70 * 1024);
        seen += page["nodes"].as_array().unwrap().len();
        cursor = page["next_cursor"].take();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!(seen, 300);
}

#[test]
fn leases_are_extended_without_the_agent() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let mut a = Client::start(&env, "alpha", Lifecycle::Legacy);
    let mut b = Client::start(&env, "beta", Lifecycle::Modern);
    a.call("task_register", json!({ "goal": "g", "nodes": [{}] }));
    a.call("node_acquire", json!({ "lease_secs": 3 }));
    a.call("lock_acquire", json!({ "key": "k", "ttl_secs": 3 }));
    // Longer than both leases.
    let node = b.send_call("node_acquire", json!({ "wait_secs": 5 }));
    let lock = b.send_call("lock_acquire", json!({ "key": "k", "wait_secs": 5 }));
    assert!(b.done(node)["node"].is_null());
    assert!(b.done(lock)["lock"].is_null());
    let done = a.call("node_complete", json!({ "result": 1 }));
    assert!(done.get("notices").is_none(), "{done}");
    a.call("lock_release", json!({ "key": "k" }));
}

#[test]
fn an_agent_that_is_silent_for_too_long_is_not_waited_for() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let mut a = Client::with(
        env.command(&["mcp", "--silence", "1s", "--owner", "sleeper"]),
        "alpha",
        Lifecycle::Legacy,
    );
    let mut b = Client::start(&env, "beta", Lifecycle::Modern);
    a.call("task_register", json!({ "goal": "g", "nodes": [{}] }));
    a.call("node_acquire", json!({ "lease_secs": 2 }));
    let node = b.call("node_acquire", json!({ "wait_secs": 60 }))["node"].take();
    assert!(node["node_id"].is_string());
    let me = a.call("whoami", json!({}));
    assert_eq!(me["owner"], "sleeper");
    let notice = me["notices"][0].as_str().unwrap();
    assert!(
        notice.contains("you lost the node") && notice.contains("no tool for"),
        "{notice}"
    );
    assert!(a.call("whoami", json!({})).get("notices").is_none());
    b.call("node_complete", json!({ "result": 1 }));
}

#[test]
fn what_was_lost_is_told_at_the_next_call() {
    let env = TestEnvironment::new();
    let daemon = env.daemon();
    let mut a = Client::start(&env, "alpha", Lifecycle::Modern);
    let task = a.call("task_register", json!({ "goal": "g", "nodes": [{}] }));
    a.call("node_acquire", json!({ "lease_secs": 3 }));
    let mut other = daemon.connect();
    other.call("AcquireResourceLock", json!({ "resource_key": "k" }));
    other.call(
        "CancelTask",
        json!({ "task_id": task["task_id"], "reason": "not needed" }),
    );
    // Longer than a third of the lease.
    let held = a.call("lock_acquire", json!({ "key": "k", "wait_secs": 4 }));
    let notice = held["notices"][0].as_str().unwrap();
    assert!(notice.contains("not needed"), "{notice}");
    let refusal = a.refused("node_complete", json!({ "result": 1 }));
    assert_eq!(refusal["error"]["reason"], "not_held");
}

#[test]
fn what_is_finished_is_not_paused() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let mut client = Client::start(&env, "pauser", Lifecycle::Modern);
    let task = client.call("task_register", json!({ "goal": "g", "nodes": [{}] }))["task_id"].take();
    let control = |action: &str| json!({ "task_id": task, "action": action });
    client.call("task_control", control("pause"));
    client.call("task_control", control("resume"));
    client.call("node_acquire", json!({ "task_id": task }));
    client.call("node_complete", json!({ "result": 1 }));
    let refusal = client.refused("task_control", control("pause"));
    assert_eq!(refusal["error"]["reason"], "wrong_state");
    assert!(
        refusal["error"]["message"]
            .as_str()
            .unwrap()
            .contains("finished (completed)")
    );
    let status = client.call("task_status", json!({ "task_id": task }));
    assert_eq!(status["state"], "completed");
    let refusal = client.refused("task_control", json!({ "task_id": "7", "action": "pause" }));
    let message = refusal["error"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("task_id: not an id: ids are UUIDs, like "),
        "{message}"
    );
}
