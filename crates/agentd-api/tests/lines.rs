//! JSON Lines: framing, order, bounds, and clients that leave.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use serde_json::{Value, json};
use support::{ID, Raw, Running, reason};

fn register(id: usize, goal: &str) -> String {
    format!("{{\"id\":{id},\"method\":\"RegisterTask\",\"params\":{{\"goal\":\"{goal}\"}}}}\n")
}

fn status(id: usize) -> String {
    format!("{{\"id\":{id},\"method\":\"TaskStatus\",\"params\":{{\"task_id\":\"{ID}\"}}}}\n")
}

#[tokio::test]
async fn every_line_is_answered_under_its_id() {
    let server = Running::start();
    let mut client = server.connect().await;
    let answer = client.call("hello").await;
    assert_eq!(
        (answer["error"]["code"].as_i64(), answer.get("id")),
        (Some(-32700), None)
    );
    let answer = client
        .call("\n \r\n{\"id\":[1,{\"a\":null}],\"method\":\"health\"}\r")
        .await;
    assert_eq!(answer["id"], json!([1, {"a": null}]));
    assert_eq!(answer["result"]["database"], "ok");
    let answer = client.call(r#"{"method":"Health"}"#).await;
    assert!(answer.get("id").is_none() && answer["result"]["status"] == "ok");
    let answer = client.call(r#"{"id":null,"method":"Nonsense"}"#).await;
    assert_eq!(
        (answer.get("id"), answer["error"]["code"].as_i64()),
        (Some(&Value::Null), Some(-32601))
    );
    let answer = client
        .call(r#"{"id":1,"method":"RegisterTask","params":{"goal":1}}"#)
        .await;
    assert_eq!(answer["error"]["code"], -32602);
    let answer = client.call(r#"{"id":1,"method":"AcquireNextNode"}"#).await;
    assert_eq!(answer, json!({"id": 1, "result": null}));
    client.send(b"{\"method\":\"\xff\"}\n").await;
    assert_eq!(client.line().await.unwrap()["error"]["code"], -32700);
    let deep = "[".repeat(100_000);
    assert_eq!(client.call(&deep).await["error"]["code"], -32700);
    let answer = client.call(r#"{"id":9,"method":"WhoAmI"}"#).await;
    assert_eq!(answer["result"]["role"], "operator");
    let answer = client.call(r#"{"id":9,"method":"DescribeInterface"}"#).await;
    assert_eq!(answer["result"]["protocol"], "agentd-jsonl-v1");
    let answer = client.call(r#"{"id":9,"method":"Metrics"}"#).await;
    assert_eq!(answer["result"]["runtime"]["acquire_attempts"], 1);
    assert_eq!(answer["result"]["runtime"]["connections"], 1);
    assert_eq!(answer["result"]["runtime"]["acquired_nodes"], 7);
    assert_eq!(answer["result"]["runtime"]["refused_requests"], 5);
    server.stop().await;
}

#[tokio::test]
async fn a_request_may_come_in_pieces() {
    let server = Running::start();
    let mut client = server.connect().await;
    for byte in register(1, "slow").bytes() {
        client.send([byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.line().await.unwrap()["id"], 1);
}

#[tokio::test]
async fn a_client_that_closes_its_half_is_answered_to_the_end() {
    let server = Running::start();
    let mut client = server.connect().await;
    client.send(register(1, "hold")).await;
    client.send(r#"{"id":2,"method":"Health"}"#).await;
    client.half_close().await;
    server.double.until_noted("RegisterTask hold").await;
    server.double.let_go();
    assert_eq!(client.line().await.unwrap()["id"], 1);
    assert_eq!(client.line().await.unwrap()["id"], 2);
    assert!(client.line().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_in_the_order_of_the_requests() {
    let server = Running::start();
    let (reader, mut writer) = server.connect().await.stream.into_split();
    let sending = tokio::spawn(async move {
        for id in 0..3000 {
            let request = if id % 7 == 0 {
                status(id)
            } else {
                register(id, &format!("g{id}"))
            };
            tokio::io::AsyncWriteExt::write_all(&mut writer, request.as_bytes())
                .await
                .unwrap();
        }
        writer
    });
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(reader));
    for id in 0..3000 {
        let line = support::soon(lines.next_line()).await.unwrap().unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["id"], id);
        assert_eq!(answer["result"]["task"].is_object(), id % 7 == 0);
    }
    drop(sending.await.unwrap());
    let registered: Vec<String> = server
        .double
        .log()
        .into_iter()
        .filter(|line| line.starts_with("RegisterTask"))
        .collect();
    let expected: Vec<String> = (0..3000)
        .filter(|id| id % 7 != 0)
        .map(|id| format!("RegisterTask g{id}"))
        .collect();
    assert_eq!(registered, expected);
}

#[tokio::test]
async fn a_question_waits_for_the_changes_before_it() {
    let server = Running::start();
    let mut client = server.connect().await;
    client
        .send(
            register(1, "one")
                + &register(2, "hold")
                + &register(3, "three")
                + &status(4)
                + &register(5, "five"),
        )
        .await;
    // Changes are submitted without waiting for each other.
    server.double.until_noted("RegisterTask three").await;
    server.connect().await.call(r#"{"method":"Health"}"#).await;
    let asked = ["TaskStatus", "RegisterTask five"];
    assert!(
        !server
            .double
            .log()
            .iter()
            .any(|line| asked.contains(&line.as_str())),
        "{:?}",
        server.double.log()
    );
    assert_eq!(client.line().await.unwrap()["id"], 1);
    server.double.let_go();
    for id in 2..=5 {
        assert_eq!(client.line().await.unwrap()["id"], id);
    }
}

#[tokio::test]
async fn a_waiting_request_occupies_its_connection() {
    let server = Running::start();
    let mut client = server.connect().await;
    client
        .send("{\"id\":1,\"method\":\"AcquireNextNode\",\"params\":{\"wait_secs\":9}}\n")
        .await;
    client.send(register(2, "after")).await;
    server.double.until_noted("AcquireNextNode waits").await;
    server.connect().await.call(r#"{"method":"Health"}"#).await;
    assert!(!server.double.log().contains(&"RegisterTask after".to_owned()));
    server.double.let_go();
    assert_eq!(client.line().await.unwrap()["result"]["node_id"], ID.to_string());
    assert_eq!(client.line().await.unwrap()["id"], 2);
}

#[tokio::test]
async fn a_line_that_is_too_long_is_answered_and_ends_the_connection() {
    let server = Running::start();
    let mut client = server.connect().await;
    client.send(register(1, "before")).await;
    // Without reading in between, and far more than a socket holds.
    client.send("x".repeat(3 * 1024 * 1024)).await;
    client.send(register(2, "behind")).await;
    assert_eq!(client.line().await.unwrap()["id"], 1);
    let answer = client.line().await.unwrap();
    assert_eq!(
        (answer["error"]["code"].as_i64(), reason(&answer)),
        (Some(-32001), "limit_exceeded")
    );
    assert!(client.line().await.is_none());
    assert!(!server.double.log().contains(&"RegisterTask behind".to_owned()));
    // The longest line that is read.
    let mut client = server.connect().await;
    let request = format!(
        "{{\"method\":\"Health\",\"params\":{{\"x\":\"{}\"}}}}",
        "x".repeat(1024 * 1024 - 37)
    );
    assert_eq!(request.len(), 1024 * 1024);
    assert_eq!(client.call(&request).await["result"]["status"], "ok");
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_an_error_and_the_connection_goes_on() {
    let server = Running::start();
    let mut client = server.connect().await;
    server.double.answer_bytes(16 * 1024 * 1024 + 1);
    client.send(status(1)).await;
    assert_eq!(reason(&client.line().await.unwrap()), "answer_too_large");
    server.double.answer_bytes(15 * 1024 * 1024);
    client.send(status(2)).await;
    let answer = client.line().await.unwrap();
    assert_eq!(
        answer["result"]["task"]["goal"].as_str().unwrap().len(),
        15 * 1024 * 1024
    );
}

#[tokio::test]
async fn what_a_client_asked_for_before_it_left_is_done() {
    let server = Running::start();
    let mut client = server.connect().await;
    for number in 0..1000 {
        let params = json!({"task_id": ID, "node_id": ID, "payload": number});
        client
            .send(format!(
                "{}\n",
                json!({"method": "CommitEvent", "params": params})
            ))
            .await;
    }
    drop(client);
    server.double.until(|log| log.len() == 1000).await;
    assert_eq!(server.double.log()[999], "CommitEvent 999");
}

#[tokio::test]
async fn a_wait_ends_with_its_client_but_not_with_half_of_it() {
    let server = Running::start();
    let wait = "{\"id\":1,\"method\":\"AcquireNextNode\",\"params\":{\"wait_secs\":9}}\n";
    // Gone at once, gone with more requests behind it, gone after closing its half first.
    let waits = |log: &[String]| log.iter().filter(|line| *line == "AcquireNextNode waits").count();
    let mut begun = 0;
    for behind in ["", "{\"method\":\"Health\"}\n"] {
        for half_close in [false, true] {
            let mut client = server.connect().await;
            client.send(format!("{wait}{behind}")).await;
            if half_close {
                client.half_close().await;
            }
            begun += 1;
            server.double.until(|log| waits(log) == begun).await;
            drop(client);
            server.double.until_given_up().await;
        }
    }
    let mut client = server.connect().await;
    client.send(wait).await;
    client.half_close().await;
    server
        .double
        .until(|log| log.iter().filter(|line| *line == "AcquireNextNode waits").count() == 5)
        .await;
    server.connect().await.call(r#"{"method":"Health"}"#).await;
    server.double.let_go();
    assert_eq!(client.line().await.unwrap()["result"]["node_id"], ID.to_string());
    assert!(client.line().await.is_none());
}

#[tokio::test]
async fn a_grant_that_could_not_be_sent_is_given_back() {
    let server = Running::start();
    server.double.answer_bytes(250 * 1024);
    let mut client = server.connect().await;
    // The answer to the first is more than the socket takes, so the grant stays behind it.
    client.send(status(1)).await;
    client
        .send("{\"id\":2,\"method\":\"AcquireNextNode\",\"params\":{\"lease_owner\":\"grant\"}}\n")
        .await;
    server.double.until_noted("AcquireNextNode").await;
    drop(client);
    server.double.until_noted("ReleaseNode").await;
}

#[tokio::test]
async fn one_connections_mistake_is_not_the_others() {
    let server = Running::start();
    let (mut one, mut two) = (server.connect().await, server.connect().await);
    two.call(r#"{"method":"Health"}"#).await;
    one.send(register(1, "panic")).await;
    assert!(one.line().await.is_none());
    assert_eq!(two.call(r#"{"id":3,"method":"Health"}"#).await["id"], 3);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_is_disconnected_and_disturbs_nobody() {
    let server = Running::start();
    server.double.answer_bytes(1024 * 1024);
    let mut client = server.connect().await;
    for id in 0..64 {
        client.send(status(id)).await;
    }
    let mut other = server.connect().await;
    assert_eq!(
        other.call(r#"{"method":"Health"}"#).await["result"]["status"],
        "ok"
    );
    let asked = |log: &[String]| log.iter().filter(|line| *line == "TaskStatus").count();
    server.double.until(|log| asked(log) >= 1).await;
    tokio::time::sleep(std::time::Duration::from_secs(40)).await;
    let answered = asked(&server.double.log());
    assert!(
        answered < 4,
        "{answered} answers were made for a client that reads none"
    );
    // Cut off in the middle of an answer.
    let mut got = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut got).await;
    assert!(got.len() < 1024 * 1024);
    let metrics = other.call(r#"{"method":"Metrics"}"#).await;
    assert_eq!(metrics["result"]["runtime"]["connections"], 1);
}

#[tokio::test]
async fn a_process_with_too_many_connections_is_told_and_leaves_room() {
    let server = Running::start_with(|options| options.connections_max = 8);
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = server.connect().await;
        client.call(r#"{"method":"Health"}"#).await;
        clients.push(client);
    }
    for _ in 0..20 {
        let mut client = server.connect().await;
        let answer = client.line().await.unwrap();
        assert_eq!(reason(&answer), "busy");
        assert!(
            answer["error"]["message"]
                .as_str()
                .unwrap()
                .contains("this process has 6 connections open")
        );
        assert!(client.line().await.is_none());
    }
    let mut first = clients.remove(0);
    first.half_close().await;
    assert!(first.line().await.is_none());
    // The place is free as soon as the server's task has ended, which is just after its end of the socket.
    let mut answer = json!({});
    while answer["result"]["status"] != "ok" {
        let mut client = server.connect().await;
        client.send("{\"method\":\"Health\"}\n").await;
        answer = client.line().await.unwrap();
    }
}

#[tokio::test]
async fn stopping_answers_what_is_in_flight_and_refuses_the_rest() {
    let server = Running::start();
    let (mut waiting, mut held, mut idle, mut silent) = (
        server.connect().await,
        server.connect().await,
        server.connect().await,
        server.connect().await,
    );
    idle.call(r#"{"method":"Health"}"#).await;
    waiting
        .send("{\"id\":1,\"method\":\"AcquireNextNode\",\"params\":{\"wait_secs\":9}}\n")
        .await;
    waiting.send(register(2, "behind")).await;
    server.double.until_noted("AcquireNextNode waits").await;
    held.send(register(3, "hold")).await;
    server.double.until_noted("RegisterTask hold").await;
    let mut half = Raw::connect(&server.path).await;
    half.send("{\"method\":").await;
    server.connect().await.call(r#"{"method":"Health"}"#).await;
    let double = server.double.clone();
    server.stop().await;
    assert_eq!(waiting.line().await.unwrap(), json!({"id": 1, "result": null}));
    assert_eq!(reason(&waiting.line().await.unwrap()), "shutting_down");
    assert!(waiting.line().await.is_none());
    assert_eq!(held.line().await.unwrap()["result"]["task_id"], ID.to_string());
    assert!(held.line().await.is_none());
    assert!(idle.line().await.is_none() && silent.line().await.is_none() && half.line().await.is_none());
    assert!(!double.log().contains(&"RegisterTask behind".to_owned()));
}
