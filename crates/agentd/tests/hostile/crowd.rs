//! Many clients at once.

use crate::raw::{Planted, connect, line, planted};
use crate::support::{TestEnvironment, shown, until};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Command;

/// As many open files as this process may have, of which these tests need some thousands.
fn raise_file_limit() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(
        hard >= 9000,
        "these tests open 7,000 connections and more, and only {hard} files may be open here: raise the hard limit (ulimit -Hn)"
    );
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    }
}

fn connections(wire: &mut crate::support::Wire) -> u64 {
    wire.call("Metrics", json!({}))["runtime"]["connections"]
        .as_u64()
        .unwrap()
}

#[test]
fn five_thousand_connections_of_one_process_leave_room_for_others() {
    raise_file_limit();
    let (env, daemon, planted) = planted();
    let mut early = daemon.connect();
    let mut crowd: Vec<UnixStream> = Vec::new();
    for _ in 0..5000 {
        crowd.push(connect(&env.socket()));
    }
    // Three quarters of 4,096 for one process, less the one from before. Who comes later is told why, at once.
    let (inside, outside) = crowd.split_at(3071);
    for stream in outside {
        let refusal = line(stream).expect("a reason");
        assert_eq!(refusal["error"]["code"], -32000, "{refusal}");
        assert_eq!(refusal["error"]["data"]["reason"], "busy");
        assert!(
            refusal["error"]["message"].as_str().unwrap().contains("3072"),
            "{refusal}"
        );
    }
    for stream in inside.iter().step_by(50) {
        let mut writer = stream;
        writer.write_all(b"{\"id\":1,\"method\":\"Health\"}\n").unwrap();
        assert_eq!(line(stream).unwrap()["result"]["status"], "ok");
    }
    // Another process.
    assert_eq!(env.json(&["health"])["status"], "ok");
    assert_eq!(early.call("Health", json!({}))["status"], "ok");
    assert_eq!(connections(&mut early), 3072);
    drop(crowd);
    until("connections stay behind", || connections(&mut early) == 1);
    planted.check(&daemon);
}

#[test]
fn waiters_that_leave_are_forgotten() {
    raise_file_limit();
    let (env, daemon, planted) = planted();
    let mut wire = daemon.connect();
    let task = wire.call("RegisterTask", json!({ "goal": "empty" }))["task_id"].take();
    let held = wire.call(
        "AcquireResourceLock",
        json!({ "resource_key": "k", "owner": "first" }),
    );
    let node = format!(
        "{}\n",
        json!({ "id": 1, "method": "AcquireNextNode", "params": { "task_id": task, "wait_secs": 3600 } })
    );
    let any = format!(
        "{}\n",
        json!({ "id": 1, "method": "AcquireNextNode", "params": { "capabilities": ["c"], "wait_secs": 3600 } })
    );
    let lock = format!(
        "{}\n",
        json!({ "id": 1, "method": "AcquireResourceLock", "params": { "resource_key": "k", "wait_secs": 3600 } })
    );
    let mut crowd = Vec::new();
    for index in 0..2400 {
        let stream = connect(&env.socket());
        let request = [&node, &any, &lock][index % 3];
        (&stream).write_all(request.as_bytes()).unwrap();
        crowd.push(stream);
    }
    // Those who stay came last, behind all the others.
    let stay: Vec<UnixStream> = [&node, &any, &lock]
        .into_iter()
        .map(|request| {
            let stream = connect(&env.socket());
            (&stream).write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    drop(crowd);
    until("waiters stay behind", || connections(&mut wire) == 4);
    let began = std::time::Instant::now();
    let added = wire.call(
        "AddNodes",
        json!({ "task_id": task, "nodes": [{}, { "capabilities": ["c"] }] }),
    );
    assert_eq!(line(&stay[0]).unwrap()["result"]["node_id"], added["node_ids"][0]);
    assert_eq!(line(&stay[1]).unwrap()["result"]["node_id"], added["node_ids"][1]);
    wire.call(
        "ReleaseResourceLock",
        json!({ "resource_key": "k", "lease_id": held["lease_id"] }),
    );
    let granted = line(&stay[2]).unwrap();
    assert_eq!(granted["result"]["resource_key"], "k", "{granted}");
    println!(
        "three waits ended {:?} after what they waited for",
        began.elapsed()
    );
    // Nothing was handed to somebody who had left.
    let status = wire.call("TaskStatus", json!({ "task_id": task }));
    assert_eq!(status["counts"]["RUNNING"], 2, "{status}");
    let nodes = status["nodes"].as_array().unwrap();
    assert!(nodes.iter().all(|node| node["attempt"] == 1), "{status}");
    planted.check(&daemon);
}

#[test]
fn lock_waiters_are_served_in_the_order_in_which_they_came() {
    let (env, daemon, planted) = planted();
    let mut wire = daemon.connect();
    let mut lease = wire.call("AcquireResourceLock", json!({ "resource_key": "q" }))["lease_id"].take();
    let mut waiters = Vec::new();
    for index in 0..60 {
        let stream = connect(&env.socket());
        let params = json!({ "resource_key": "q", "owner": index.to_string(), "wait_secs": 3600 });
        let request = json!({ "id": index, "method": "AcquireResourceLock", "params": params });
        // Submitted before the next one is: whatever is behind it on its connection would wait, so another
        // connection asks.
        (&stream).write_all(format!("{request}\n").as_bytes()).unwrap();
        until("the wait has begun", || {
            wire.call("Metrics", json!({}))["runtime"]["connections"] == json!(index + 2)
        });
        waiters.push(stream);
    }
    // One after the other, and every third leaves when its turn is next.
    let mut fence = 0;
    let mut served = Vec::new();
    for (index, stream) in waiters.into_iter().enumerate() {
        if index % 3 == 2 {
            drop(stream);
            continue;
        }
        let params = json!({ "resource_key": "q", "lease_id": lease });
        wire.call("ReleaseResourceLock", params);
        let granted = line(&stream).expect("the lock");
        served.push(granted["id"].as_u64().unwrap());
        let number = granted["result"]["fence"].as_i64().unwrap();
        assert!(number > fence);
        fence = number;
        lease = granted["result"]["lease_id"].clone();
    }
    let expected: Vec<u64> = (0..60).filter(|index| index % 3 != 2).collect();
    assert_eq!(served, expected);
    planted.check(&daemon);
}

/// A daemon that may open so few files.
fn starved(env: &TestEnvironment, files: u32) -> Result<crate::support::Daemon, std::process::Output> {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -n {files}; exec \"$0\" daemon")])
        .arg(env!("CARGO_BIN_EXE_agentd"));
    env.prepare(&mut command);
    env.try_daemon(&mut command)
}

#[test]
fn without_file_descriptors_newcomers_are_told_and_nothing_else_happens() {
    raise_file_limit();
    let env = TestEnvironment::new();
    let daemon = starved(&env, 64).unwrap_or_else(|output| panic!("{}", shown(&output)));
    let mut early = daemon.connect();
    let planted = Planted::new(&mut early);
    for _ in 0..3 {
        let crowd: Vec<UnixStream> = (0..400).map(|_| connect(&env.socket())).collect();
        let mut told = 0;
        for stream in &crowd {
            // Either answered, or told why not.
            let mut writer = stream;
            let _ = writer.write_all(b"{\"id\":1,\"method\":\"Metrics\"}\n");
            let answer = line(stream).expect("a word");
            if answer["error"]["data"]["reason"] == "busy" {
                told += 1;
            } else {
                assert!(answer["result"]["uptime_secs"].is_u64(), "{answer}");
            }
        }
        assert!(told > 300, "{told}");
        // Who was there before can do everything.
        let task =
            early.call("RegisterTask", json!({ "goal": "g", "initial_nodes": [{}] }))["task_id"].take();
        let node = early.call("AcquireNextNode", json!({ "task_id": task }));
        assert!(node["node_id"].is_string());
        assert_eq!(early.call("CheckDatabase", json!({}))["ok"], true);
        assert_eq!(env.json(&["health"])["status"], "ok");
        drop(crowd);
        until("connections stay behind", || connections(&mut early) == 1);
    }
    planted.check(&daemon);
}

/// With hopelessly few it says so and ends; it neither hangs nor panics.
#[test]
fn with_too_few_files_to_live_the_daemon_says_so() {
    for files in 8..=16 {
        let env = TestEnvironment::new();
        let output = starved(&env, files).expect_err("that few files are not enough");
        let stderr = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code();
        assert!(
            code.is_some_and(|code| code != 0 && code != 101),
            "{files}: {}",
            shown(&output)
        );
        assert!(stderr.contains("Too many open files"), "{files}: {stderr}");
    }
}
