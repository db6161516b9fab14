//! Lines that are no requests.

use crate::raw::{answers, connect, exchange, line, planted};
use serde_json::json;
use std::io::{Read, Write};
use std::net::Shutdown;

const LINE_BYTES_MAX: usize = 1024 * 1024;
const HEALTH: &str = "{\"id\":\"after\",\"method\":\"Health\"}\n";

/// Each bad line is answered with its code, and the connection goes on.
#[test]
fn what_is_no_request_is_answered_and_the_next_line_is_read() {
    let (env, daemon, planted) = planted();
    let open = "[".repeat(100_000);
    let objects = "{\"a\":".repeat(100_000);
    let closed = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let in_params = format!("{{\"method\":\"CommitEvent\",\"params\":{{\"payload\":{closed}}}}}");
    let in_id = format!("{{\"id\":{closed},\"method\":\"Health\"}}");
    let hidden = format!(
        "{{\"method\":\"Health\",\"method2\":\"\\\"{}\"",
        "[".repeat(100_000)
    );
    let bad: Vec<(&[u8], i64)> = vec![
        (b"hello", -32700),
        (b"{", -32700),
        (b"}", -32700),
        (b"{\"id\":1,\"method\":\"Health\"", -32700),
        (b"{'id':1}", -32700),
        (b"{\"id\":1,}", -32700),
        (b"{\"id\":NaN,\"method\":\"Health\"}", -32700),
        (b"{\"id\":01,\"method\":\"Health\"}", -32700),
        (b"{\"method\":\"Health\"} trailing", -32700),
        (b"{\"method\":\"Health\"}{\"method\":\"Health\"}", -32700),
        (b"\xff\xfe", -32700),
        (b"{\"method\":\"\xff\"}", -32700),
        (b"{\"method\":\"Health\",\"params\":{\"a\":\"\xc3\x28\"}}", -32700),
        (b"{\"id\":\"\xed\xa0\x80\",\"method\":\"Health\"}", -32700),
        (b"\xef\xbb\xbf{\"method\":\"Health\"}", -32700),
        (b"\0", -32700),
        (b"{\"method\":\"Health\"}\0", -32700),
        (b"{\"method\":\"Hea\0lth\"}", -32700),
        (b"\0\0\0\0{\"method\":\"Health\"}", -32700),
        (b"{\"method\":\"\\ud800\"}", -32600),
        (b"[{\"method\":\"Health\"}]", -32600),
        (b"42", -32600),
        (b"null", -32600),
        (b"\"Health\"", -32600),
        (b"{}", -32600),
        (b"{\"method\":null}", -32600),
        (b"{\"method\":[\"Health\"]}", -32600),
        (b"{\"method\":\"health\\u0000\"}", -32601),
        (b"{\"method\":\"HEALTH\"}", -32601),
        (b"{\"method\":\"Health \"}", -32601),
        (open.as_bytes(), -32700),
        (objects.as_bytes(), -32700),
        (closed.as_bytes(), -32700),
        (in_params.as_bytes(), -32700),
        (in_id.as_bytes(), -32700),
        (hidden.as_bytes(), -32700),
    ];
    for (bytes, code) in bad {
        let mut sent = bytes.to_vec();
        sent.push(b'\n');
        sent.extend_from_slice(HEALTH.as_bytes());
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        let all = answers(&env.socket(), &sent);
        assert_eq!(all.len(), 2, "{shown}: {all:?}");
        assert_eq!(all[0]["error"]["code"], code, "{shown}: {}", all[0]);
        let message = all[0]["error"]["message"].as_str().unwrap();
        assert!(message.len() > 10 && message.len() < 1000, "{shown}: {message}");
        assert_eq!(all[1]["result"]["status"], "ok", "{shown}");
    }
    planted.check(&daemon);
}

#[test]
fn names_twice_in_one_object_are_refused_or_mean_one_thing() {
    let (env, daemon, planted) = planted();
    for line in [
        "{\"id\":1,\"id\":2,\"method\":\"Health\"}\n",
        "{\"method\":\"Health\",\"method\":\"Metrics\"}\n",
        "{\"method\":\"RegisterTask\",\"params\":{\"goal\":\"a\",\"goal\":\"b\"}}\n",
        "{\"method\":\"CompleteNode\",\"params\":{\"payload\":1,\"result_payload\":2}}\n",
    ] {
        let all = answers(&env.socket(), line.as_bytes());
        assert_eq!(all.len(), 1);
        assert!(all[0].get("error").is_some(), "{line}: {}", all[0]);
    }
    planted.check(&daemon);
}

#[test]
fn text_of_every_kind_comes_back_as_it_went_in() {
    let (_env, daemon, planted) = planted();
    let mut wire = daemon.connect();
    for goal in [
        "",
        "\u{0}",
        "a\u{0}b\u{1}\u{1f}\u{7f}\u{80}\u{9f}",
        "\u{feff}\u{202e}\u{2028}\u{2029}",
        "\u{fffd}\u{ffff}\u{10ffff}",
        "'; DROP TABLE tasks; --",
        "%s%n{}{{}}",
        "\r\n\t\\\"/",
        "../../etc/passwd",
        &"\u{1f600}".repeat(16 * 1024),
    ] {
        let params = json!({ "goal": goal, "context": { goal.chars().take(50).collect::<String>(): goal } });
        let task = wire.call("RegisterTask", params.clone())["task_id"].take();
        let status = wire.call("TaskStatus", json!({ "task_id": task }));
        assert_eq!(status["task"]["goal"], goal);
        assert_eq!(status["task"]["context"], params["context"]);
    }
    planted.check(&daemon);
}

#[test]
fn a_line_over_the_bound_is_answered_and_ends_its_connection_alone() {
    let (env, daemon, planted) = planted();
    let mut other = daemon.connect();
    other.call("Health", json!({}));
    for length in [LINE_BYTES_MAX + 1, 3 * LINE_BYTES_MAX, 20 * LINE_BYTES_MAX] {
        for ending in ["\n", ""] {
            let mut sent = b"{\"id\":1,\"method\":\"Health\"}\n".to_vec();
            sent.extend(std::iter::repeat_n(b'x', length));
            sent.extend_from_slice(ending.as_bytes());
            if !ending.is_empty() {
                sent.extend_from_slice(HEALTH.as_bytes());
            }
            let all = answers(&env.socket(), &sent);
            assert_eq!(all.len(), 2, "{length}: {all:?}");
            assert_eq!(all[0]["id"], 1);
            assert_eq!(all[1]["error"]["code"], -32001);
            assert!(
                all[1]["error"]["message"].as_str().unwrap().contains("1048576"),
                "{}",
                all[1]
            );
            assert_eq!(other.call("Health", json!({}))["status"], "ok");
        }
    }
    // Never ended, never read: whoever only sends is cut off.
    let flood = connect(&env.socket());
    let block = vec![b'{'; 1 << 20];
    let mut sent = 0;
    while sent < 512 && (&flood).write_all(&block).is_ok() {
        sent += 1;
    }
    assert!(sent < 512, "{sent} MiB of one line were taken");
    planted.check(&daemon);
}

#[test]
fn the_longest_line_is_read_and_its_content_kept() {
    let (_env, daemon, planted) = planted();
    let mut wire = daemon.connect();
    let task = wire.call("RegisterTask", json!({ "goal": "g", "initial_nodes": [{}] }))["task_id"].take();
    let node = wire.call("AcquireNextNode", json!({ "task_id": task }));
    let head = format!(
        "{{\"id\":1,\"method\":\"CompleteNode\",\"params\":{{\"task_id\":{task},\"node_id\":{},\"lease_id\":{},\"result_payload\":\"",
        node["node_id"], node["lease_id"]
    );
    let text = "y".repeat(LINE_BYTES_MAX - head.len() - 3);
    wire.send(format!("{head}{text}\"}}}}x\n").as_bytes());
    let error = wire.line().unwrap();
    assert_eq!(error["error"]["code"], -32001, "{error}");
    assert!(wire.line().is_none());
    let mut wire = daemon.connect();
    wire.send(format!("{head}{text}\"}}}}\n").as_bytes());
    let answer = wire.line().unwrap();
    assert!(answer["result"]["event_id"].is_string(), "{answer}");
    let status = wire.call("TaskStatus", json!({ "task_id": task }));
    assert_eq!(status["nodes"][0]["result_payload"], text);
    planted.check(&daemon);
}

#[test]
fn a_request_cut_in_the_middle_is_refused_or_forgotten() {
    let (env, daemon, planted) = planted();
    let whole = format!(
        "{{\"id\":5,\"method\":\"CancelTask\",\"params\":{{\"task_id\":{},\"reason\":\"é\"}}}}",
        planted.task_id
    );
    for cut in 1..whole.len() {
        // Half-closed: what there is makes a line, and is no request.
        let all = answers(&env.socket(), &whole.as_bytes()[..cut]);
        assert_eq!(all.len(), 1, "{cut}");
        assert_eq!(all[0]["error"]["code"], -32700, "{cut}: {}", all[0]);
        // Closed altogether.
        connect(&env.socket())
            .write_all(&whole.as_bytes()[..cut])
            .unwrap();
    }
    planted.check(&daemon);
    // In as many pieces as there are bytes it is a request all the same.
    let stream = connect(&env.socket());
    for byte in b"{\"id\":\"\xc3\xa9\",\"method\":\"Health\"}\n" {
        (&stream).write_all(&[*byte]).unwrap();
    }
    assert_eq!(line(&stream).unwrap()["id"], "é");
    planted.check(&daemon);
}

#[test]
fn http_that_is_none_is_answered_or_closed() {
    let (env, daemon, planted) = planted();
    let long_head = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
    let many_heads = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(2000));
    let cases: [(&[u8], &str); 14] = [
        (b"GET /v1/health HTTP/1.1\r\nhost: a\r\n\r\n", "HTTP/1.1 200"),
        (b"GET /v1/health HTTP/1.0\r\n\r\n", "HTTP/1.0 200"),
        (b"HEAD /v1/health HTTP/1.1\r\nhost: a\r\n\r\n", "HTTP/1.1 200"),
        (
            b"POST /v1/health HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
            "HTTP/1.1 405",
        ),
        (
            b"GET /../../etc/passwd HTTP/1.1\r\nhost: a\r\n\r\n",
            "HTTP/1.1 404",
        ),
        (b"GET /%00%ff HTTP/1.1\r\nhost: a\r\n\r\n", "HTTP/1.1 404"),
        (b"GET nonsense\r\n\r\n", "HTTP/1.1 400"),
        (b"GET / HTTP/9.9\r\n\r\n", "HTTP/1.1 400"),
        (b"GET / HTTP/1.1\r\n\0\0: \xff\r\n\r\n", "HTTP/1.1 400"),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", "HTTP/1.1 400"),
        (
            b"POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 4",
        ),
        (long_head.as_bytes(), "HTTP/1.1 4"),
        (many_heads.as_bytes(), "HTTP/1.1 4"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 "),
    ];
    for (sent, expected) in cases {
        let got = exchange(&env.socket(), sent);
        let got = String::from_utf8_lossy(&got);
        let shown = String::from_utf8_lossy(&sent[..sent.len().min(60)]).into_owned();
        assert!(
            got.starts_with(expected) || (got.is_empty() && shown.starts_with("PRI")),
            "{shown:?}: {got}"
        );
    }
    // JSON on a connection that began as HTTP, and the other way round.
    let got = exchange(
        &env.socket(),
        b"GET /v1/health HTTP/1.1\r\nhost: a\r\n\r\n{\"method\":\"Health\"}\n",
    );
    assert!(String::from_utf8_lossy(&got).starts_with("HTTP/1.1 200"));
    let all = answers(
        &env.socket(),
        b"{\"id\":1,\"method\":\"Health\"}\nGET /v1/health HTTP/1.1\r\n\r\n",
    );
    assert_eq!(
        (&all[0]["id"], &all[1]["error"]["code"]),
        (&json!(1), &json!(-32700))
    );
    planted.check(&daemon);
}

#[test]
fn closing_in_the_middle_of_anything_disturbs_nobody() {
    let (env, daemon, planted) = planted();
    for round in 0..300 {
        let stream = connect(&env.socket());
        match round % 6 {
            0 => {}
            1 => stream.shutdown(Shutdown::Both).unwrap(),
            2 => (&stream).write_all(b"{\"id\":1,\"method\":\"TaskSt").unwrap(),
            3 => (&stream).write_all(HEALTH.as_bytes()).unwrap(),
            4 => (&stream)
                .write_all(b"{\"method\":\"SubscribeJournal\",\"params\":{\"from_seq\":0}}\n")
                .unwrap(),
            _ => {
                (&stream).write_all(HEALTH.as_bytes()).unwrap();
                let _ = (&stream).read(&mut [0; 3]).unwrap();
            }
        }
    }
    let mut wire = daemon.connect();
    crate::support::until("connections stay behind", || {
        wire.call("Metrics", json!({}))["runtime"]["connections"] == json!(1)
    });
    planted.check(&daemon);
}
