//! Random bytes and broken requests at the real daemon. Whatever comes: each line has its answer, which is a line of
//! JSON; the daemon goes on; and what others have is as it was.

use crate::raw::{Random, answers, connect, planted};
use crate::seeds::mutate;
use crate::support::{Wire, until};
use serde_json::{Value, json};
use std::io::Write;

/// How many answers a connection gets for these bytes: one for each line that is not blank.
fn lines_in(bytes: &[u8]) -> usize {
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.trim_ascii().is_empty())
        .count()
}

/// Bytes that would turn the connection into another kind, or make files, are not for this test.
fn is_ordinary(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    // Whatever the escapes: these methods have names with these letters in a row.
    let special = ["ubscribe", "ackup", "estore", "\\u00"];
    !special.iter().any(|part| text.contains(part))
        && ![
            "GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS ", "PATCH ", "TRACE ", "CONNECT ", "PRI ",
        ]
        .iter()
        .any(|method| text.trim_start().starts_with(method))
}

/// One good request of each method, in terms of tasks that the storm may do with as it likes.
fn good(wire: &mut Wire) -> Vec<Vec<u8>> {
    let params = json!({ "goal": "storm", "initial_nodes": [{}, {}, { "retry": { "max_attempts": 3 } }] });
    let task = wire.call("RegisterTask", params)["task_id"].take();
    let node = wire.call("AcquireNextNode", json!({ "task_id": task }));
    let lock = wire.call("AcquireResourceLock", json!({ "resource_key": "storm" }));
    let lease = json!({ "task_id": task, "node_id": node["node_id"], "lease_id": node["lease_id"] });
    let with = |more: Value| {
        let mut params = lease.clone();
        params
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        params
    };
    let key = json!({ "resource_key": "storm", "lease_id": lock["lease_id"], "ttl_secs": 60 });
    [
        ("DescribeInterface", json!(null)),
        ("Health", json!({})),
        ("Metrics", json!({})),
        ("WhoAmI", json!({})),
        ("RegisterTask", json!({ "goal": "more", "context": { "a": [1, 2.5, null] }, "initial_nodes": [{ "name": "n", "capabilities": ["c"], "priority": 3 }] })),
        ("AddNodes", json!({ "task_id": task, "nodes": [{ "dependencies": [node["node_id"]] }] })),
        ("AcquireNextNode", json!({ "task_id": task, "lease_owner": "storm", "lease_secs": 1 })),
        ("CommitEvent", with(json!({ "action_type": "NOTE", "payload": { "text": "é\u{1f600}\"\\\n" } }))),
        ("HeartbeatNode", with(json!({ "lease_secs": 60 }))),
        ("CompleteNode", with(json!({ "result_payload": [1], "add_nodes": [{}], "idempotency_key": "k" }))),
        ("FailNode", with(json!({ "error_payload": null, "permanent": false }))),
        ("ReleaseNode", lease.clone()),
        ("TaskStatus", json!({ "task_id": task, "status": "PENDING", "limit": 10, "cursor": "0", "omit_payloads": true })),
        ("GetNode", json!({ "task_id": task, "node_id": node["node_id"] })),
        ("ListTasks", json!({ "state": "active", "idempotency_key_prefix": "k", "limit": 3 })),
        ("CancelTask", json!({ "task_id": task, "reason": "storm" })),
        ("PauseTask", json!({ "task_id": task })),
        ("ResumeTask", json!({ "task_id": task })),
        ("RetryNodes", json!({ "task_id": task, "node_ids": [node["node_id"]] })),
        ("AcquireResourceLock", json!({ "resource_key": "storm2", "owner": "o", "provider": "p", "ttl_secs": 5, "metadata": { "m": 1 } })),
        ("HeartbeatResourceLock", key.clone()),
        ("ReleaseResourceLock", key),
        ("ListResourceLocks", json!({ "prefix": "s", "limit": 5 })),
        ("ReadJournal", json!({ "from_seq": 1, "limit": 5, "action_types": ["COMPLETE_NODE"], "task_id": task })),
        ("CheckDatabase", json!({})),
    ]
    .into_iter()
    .enumerate()
    .map(|(id, (method, params))| json!({ "id": id, "method": method, "params": params }).to_string().into_bytes())
    .collect()
}

#[test]
fn broken_requests_are_each_answered_once() {
    let (env, daemon, planted) = planted();
    let requests = good(&mut daemon.connect());
    let mut random = Random(0xbad5_eed5);
    let mut sent = 0;
    for _ in 0..150 {
        let mut bytes = Vec::new();
        for _ in 0..25 {
            let line = mutate(&mut random, &requests);
            // The planted task is found by acquires that name no task; those are for its own test.
            if !is_ordinary(&line) || (contains(&line, b"cquire") && !contains(&line, b"storm2")) {
                continue;
            }
            bytes.extend_from_slice(&line);
            bytes.push(b'\n');
        }
        // The first bytes decide about HTTP, so they are always the same.
        let bytes = [b"{\"id\":\"first\",\"method\":\"Health\"}\n", bytes.as_slice()].concat();
        let all = answers(&env.socket(), &bytes);
        assert_eq!(all.len(), lines_in(&bytes), "{}", String::from_utf8_lossy(&bytes));
        for answer in &all {
            check(answer);
        }
        sent += all.len();
    }
    assert!(sent > 2000, "{sent}");
    planted.check(&daemon);
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[track_caller]
fn check(answer: &Value) {
    let answer = answer.as_object().unwrap();
    assert!(
        answer.contains_key("result") != answer.contains_key("error"),
        "{answer:?}"
    );
    assert!(
        answer
            .keys()
            .all(|key| ["id", "result", "error"].contains(&key.as_str())),
        "{answer:?}"
    );
    if let Some(error) = answer.get("error") {
        // -32603 would be the daemon's own fault.
        let codes = [-32700, -32600, -32601, -32602, -32000];
        assert!(
            error["code"].as_i64().is_some_and(|code| codes.contains(&code)),
            "{error}"
        );
        assert!(error["message"].as_str().unwrap().len() > 10, "{error}");
        assert!(error["data"]["reason"].is_string(), "{error}");
    }
}

#[test]
fn random_bytes_are_each_answered_once() {
    let (env, daemon, planted) = planted();
    let mut random = Random(0x0ff5_eed0);
    for round in 0..400 {
        let length = 1 + random.below(2000);
        let mut bytes: Vec<u8> = (0..length)
            .map(|_| u8::try_from(random.next() & 0xff).unwrap())
            .collect();
        match round % 4 {
            // Text of brackets, quotes and commas, which parsers like best.
            0 => {
                for byte in &mut bytes {
                    *byte = b"{}[]\",:\\0 \nnulltrue-.eE"[usize::from(*byte) % 23];
                }
            }
            1 => bytes.iter_mut().for_each(|byte| *byte &= 0x7f),
            _ => {}
        }
        if !is_ordinary(&bytes) {
            continue;
        }
        let bytes = [b"{}\n", bytes.as_slice()].concat();
        let all = answers(&env.socket(), &bytes);
        assert_eq!(
            all.len(),
            lines_in(&bytes),
            "{:?}",
            String::from_utf8_lossy(&bytes)
        );
        all.iter().for_each(check);
    }
    planted.check(&daemon);
}

/// Acquires of anything, waits and subscriptions among them, cut off at random places.
#[test]
fn clients_that_vanish_at_any_byte_leave_nothing_behind() {
    let (env, daemon, planted) = planted();
    let mut wire = daemon.connect();
    let mut requests = good(&mut wire);
    for params in [
        json!({ "wait_secs": 3600 }),
        json!({ "wait_secs": 3600, "capabilities": ["c"] }),
    ] {
        requests.push(
            json!({ "method": "AcquireNextNode", "params": params })
                .to_string()
                .into_bytes(),
        );
    }
    let subscribe = json!({ "method": "SubscribeJournal", "params": { "from_seq": 1 } });
    requests.push(subscribe.to_string().into_bytes());
    // Its worker has given nothing that anybody may take: the storm gets what it wants from tasks of its own.
    wire.call("PauseTask", json!({ "task_id": planted.task_id }));
    let mut random = Random(0x90_0d);
    for _ in 0..600 {
        let mut bytes = Vec::new();
        for _ in 0..=random.below(6) {
            bytes.extend_from_slice(random.pick(&requests[..]).as_slice());
            bytes.push(b'\n');
        }
        bytes.truncate(1 + random.below(bytes.len()));
        let _ = connect(&env.socket()).write_all(&bytes);
    }
    until("connections stay behind", || {
        wire.call("Metrics", json!({}))["runtime"]["connections"] == json!(1)
    });
    wire.call("ResumeTask", json!({ "task_id": planted.task_id }));
    let checked = wire.call("CheckDatabase", json!({}));
    assert_eq!(checked["ok"], true, "{checked:#}");
    // A lease whose answer nobody got has been given back: the only one left is the planter's, and what was
    // answered into a socket whose owner was just leaving ends by itself.
    let status = wire.call("TaskStatus", json!({ "task_id": planted.task_id }));
    assert_eq!(
        status["counts"],
        json!({ "PENDING": 1, "RUNNING": 1, "COMPLETED": 1, "FAILED": 1 })
    );
}
