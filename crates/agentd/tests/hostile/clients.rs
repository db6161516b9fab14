//! Single clients that do not do their part.

use crate::raw::{connect, exchange, line, planted, resident_bytes};
use crate::support::Wire;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const MIB: u64 = 1024 * 1024;

/// A task of which the status is an answer of several megabytes.
fn large_task(wire: &mut Wire) -> Value {
    let text = "z".repeat(400);
    let nodes: Vec<Value> = (0..1500)
        .map(|_| json!({ "payload_schema": { "text": text } }))
        .collect();
    let task =
        wire.call("RegisterTask", json!({ "goal": "large", "initial_nodes": nodes }))["task_id"].take();
    for _ in 0..4 {
        wire.call("AddNodes", json!({ "task_id": task, "nodes": nodes }));
    }
    let status = wire.call("TaskStatus", json!({ "task_id": task }));
    assert!(status.to_string().len() > 5_000_000);
    task
}

/// Sends as much as the daemon takes.
fn stuff(stream: &UnixStream, bytes: &[u8]) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while sent < bytes.len() {
        match (&*stream).write(&bytes[sent..]) {
            Ok(length) => sent += length,
            Err(_) => break,
        }
    }
    stream.set_nonblocking(false).unwrap();
    sent
}

#[test]
fn clients_that_never_read_cost_a_bounded_amount_of_memory() {
    let (env, daemon, planted) = planted();
    let mut wire = daemon.connect();
    let task = large_task(&mut wire);
    let status = format!(
        "{}\n",
        json!({ "method": "TaskStatus", "params": { "task_id": task } })
    );
    let mut deaf = Vec::new();
    for _ in 0..24 {
        let stream = connect(&env.socket());
        stuff(&stream, status.repeat(1000).as_bytes());
        deaf.push(stream);
    }
    for _ in 0..20 {
        let stream = connect(&env.socket());
        stuff(
            &stream,
            "{\"method\":\"DescribeInterface\"}\n".repeat(100_000).as_bytes(),
        );
        deaf.push(stream);
    }
    // Others are served meanwhile. What these ask for is 130 GB; one answer of each may be there.
    let mut most = 0;
    for _ in 0..12 {
        wire.call("Health", json!({}));
        wire.call("RegisterTask", json!({ "goal": "others" }));
        most = most.max(resident_bytes(&daemon));
    }
    println!("{} MiB with 44 deaf clients", most / MIB);
    assert!(most < 400 * MIB, "{} MiB", most / MIB);
    drop(deaf);
    planted.check(&daemon);
}

#[test]
fn a_subscriber_that_never_reads_costs_little_and_others_get_everything() {
    let (env, daemon, planted) = planted();
    let mut wire = daemon.connect();
    let deaf: Vec<UnixStream> = (0..50)
        .map(|_| {
            let stream = connect(&env.socket());
            (&stream)
                .write_all(b"{\"method\":\"SubscribeJournal\",\"params\":{\"from_seq\":0}}\n")
                .unwrap();
            stream
        })
        .collect();
    let mut reader = daemon.connect();
    reader.send(b"{\"method\":\"SubscribeJournal\"}\n");
    let mut last = reader.line().unwrap()["result"]["last_seq"].as_i64().unwrap();
    let text = "t".repeat(64 * 1024);
    let params = json!({ "task_id": planted.task_id, "node_id": planted.nodes[2], "payload": text });
    for _ in 0..300 {
        wire.call("CommitEvent", params.clone());
        let entry = reader.line().unwrap();
        assert!(entry["seq"].as_i64().unwrap() > last);
        last = entry["seq"].as_i64().unwrap();
        assert_eq!(entry["payload"], text);
    }
    let resident = resident_bytes(&daemon);
    // What has been written meanwhile is 20 MiB; fifty times that would be 1,000.
    println!("{} MiB with 50 deaf subscribers", resident / MIB);
    assert!(resident < 200 * MIB, "{} MiB", resident / MIB);
    drop(deaf);
    let checked = wire.call("CheckDatabase", json!({}));
    assert_eq!(checked["ok"], true, "{checked}");
}

#[test]
fn ten_thousand_requests_at_once_are_answered_in_order() {
    let (env, daemon, planted) = planted();
    let mut sent = String::new();
    for id in 0..10_000 {
        let line = match id % 5 {
            0 => {
                json!({ "id": id, "method": "RegisterTask", "params": { "goal": "p", "initial_nodes": [{}] } })
            }
            1 => json!({ "id": id, "method": "AcquireNextNode", "params": { "lease_owner": "pipe" } }),
            2 => json!({ "id": id, "method": "Health" }),
            3 => json!({ "id": id, "method": "Nonsense" }),
            _ => json!({ "id": id, "method": "TaskStatus", "params": { "task_id": planted.task_id } }),
        };
        sent.push_str(&line.to_string());
        sent.push('\n');
    }
    let got = exchange(&env.socket(), sent.as_bytes());
    let mut count = 0;
    for (index, line) in got.lines().enumerate() {
        let answer: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(answer["id"], index);
        match index % 5 {
            3 => assert_eq!(answer["error"]["code"], -32601),
            // What the line before registered.
            1 => assert!(answer["result"]["node_id"].is_string(), "{answer}"),
            _ => assert!(answer.get("error").is_none(), "{answer}"),
        }
        count += 1;
    }
    assert_eq!(count, 10_000);
    planted.check(&daemon);
}

#[test]
fn slow_senders_are_waited_for_and_nobody_waits_for_them() {
    let (env, daemon, planted) = planted();
    let before = resident_bytes(&daemon);
    let began = Instant::now();
    let heads: Vec<UnixStream> = (0..100).map(|_| connect(&env.socket())).collect();
    let lines: Vec<UnixStream> = (0..100).map(|_| connect(&env.socket())).collect();
    let (mut head, mut request) = (
        b"GET /v1/health HTTP/1.1\r\nx: y".iter(),
        b"{\"id\":1,\"method\":\"He".iter(),
    );
    let mut wire = daemon.connect();
    // A byte each at a time, and a request of somebody else's after each round.
    loop {
        let (head_byte, line_byte) = (head.next(), request.next());
        if head_byte.is_none() && line_byte.is_none() {
            break;
        }
        for (streams, byte) in [(&heads, head_byte), (&lines, line_byte)] {
            for mut stream in streams {
                if let Some(byte) = byte {
                    stream.write_all(&[*byte]).unwrap();
                }
            }
        }
        assert_eq!(wire.call("Health", json!({}))["status"], "ok");
    }
    assert!(resident_bytes(&daemon) < before + 32 * MIB);
    // A line may take as long as its sender likes: an idle connection costs no timer either.
    for mut stream in &lines {
        stream.write_all(b"alth\"}\n").unwrap();
        assert_eq!(line(stream).unwrap()["result"]["status"], "ok");
    }
    // A head may not.
    for mut stream in &heads {
        let mut got = Vec::new();
        stream
            .read_to_end(&mut got)
            .expect("closed before our own patience ends");
    }
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    planted.check(&daemon);
}

#[test]
fn answers_are_whole_for_whoever_reads_slowly() {
    let (env, daemon, planted) = planted();
    let mut wire = daemon.connect();
    let task = large_task(&mut wire);
    let expected = wire.call("TaskStatus", json!({ "task_id": task }));
    let stream = connect(&env.socket());
    let request = format!(
        "{}\n",
        json!({ "id": 1, "method": "TaskStatus", "params": { "task_id": task } })
    );
    (&stream).write_all(request.repeat(3).as_bytes()).unwrap();
    // Three bytes, then a while of other people's work, then the rest in small pieces.
    let mut begin = [0; 3];
    (&stream).read_exact(&mut begin).unwrap();
    for _ in 0..20 {
        wire.call("TaskStatus", json!({ "task_id": planted.task_id }));
    }
    let mut reader = BufReader::with_capacity(777, &stream);
    for round in 0..3 {
        let mut text = if round == 0 { begin.to_vec() } else { Vec::new() };
        reader.read_until(b'\n', &mut text).unwrap();
        let answer: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(answer["result"], expected);
    }
    planted.check(&daemon);
}
