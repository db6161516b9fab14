//! Clients that are broken, or mean it.

use crate::client::{BOTH, Client, Lifecycle};
use crate::support::TestEnvironment;
use serde_json::{Value, json};

/// The code and the id of the refusal that comes next. An id that is missing is no `null`.
#[track_caller]
fn refused_line(client: &mut Client) -> (Value, Value) {
    let mut answer = client.wait(|message| message.get("error").is_some());
    let id = answer.get("id").expect("an id").clone();
    (answer["error"]["code"].take(), id)
}

#[test]
fn garbage_is_answered_and_nothing_else_suffers() {
    for lifecycle in BOTH {
        let env = TestEnvironment::new();
        let _daemon = env.daemon();
        let mut client = Client::raw(env.command(&["mcp"]), "broken", lifecycle);
        // Before there is a session.
        client.line("");
        client.line("not JSON");
        assert_eq!(refused_line(&mut client), (json!(-32700), Value::Null));
        client.line(
            "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":1}}",
        );
        client.line("{\"jsonrpc\":\"2.0\",\"id\":900,\"result\":{}}");
        client.line("{\"jsonrpc\":\"2.0\",\"id\":901,\"method\":\"tools/list\",\"params\":{}}");
        assert!(
            client.answer(901)["error"]["message"]
                .as_str()
                .unwrap()
                .contains("_meta")
        );
        if lifecycle == Lifecycle::Legacy {
            let id = client.send(
                "initialize",
                json!({ "protocolVersion": "1999-01-01", "capabilities": {},
                        "clientInfo": { "name": "broken", "version": "0" } }),
            );
            assert_eq!(client.answer(id)["result"]["protocolVersion"], "2025-11-25");
        }
        client.call("whoami", json!({}));

        // In the middle of one.
        for (line, code, id) in [
            ("[]", -32600, json!(null)),
            ("[1,2,3]", -32600, json!(null)),
            ("7", -32600, json!(null)),
            ("null", -32600, json!(null)),
            ("{}", -32600, json!(null)),
            ("{\"jsonrpc\":\"2.0\"}", -32600, json!(null)),
            ("{\"id\":905}", -32600, json!(905)),
            ("{\"jsonrpc\":\"2.0\",\"id\":\"x\"}", -32600, json!("x")),
            (
                "{\"jsonrpc\":\"1.0\",\"id\":902,\"method\":\"ping\"}",
                -32600,
                json!(902),
            ),
            (
                "{\"jsonrpc\":\"2.0\",\"id\":{\"a\":1},\"method\":\"ping\"}",
                -32600,
                json!(null),
            ),
            ("\u{0}", -32700, json!(null)),
            ("{\"id\":", -32700, json!(null)),
            (&"[".repeat(100_000), -32700, json!(null)),
        ] {
            client.line(line);
            assert_eq!(refused_line(&mut client), (json!(code), id), "{line:.80}");
        }
        // An envelope that is right, around what no method takes.
        client.line("{\"jsonrpc\":\"2.0\",\"id\":1.5,\"method\":\"ping\"}");
        assert_eq!(refused_line(&mut client), (json!(-32602), json!(1.5)));
        client.line(&"x".repeat(3 * 1024 * 1024));
        let long = client.wait(|message| message.to_string().contains("was not read"));
        assert_eq!(
            (&long["error"]["code"], long.get("id")),
            (&json!(-32600), Some(&Value::Null))
        );
        client.line(&format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":906,\"method\":\"ping\",\"params\":{{\"x\":\"{}\"}}}}",
            "x".repeat(3 * 1024 * 1024)
        ));
        assert_eq!(refused_line(&mut client), (json!(-32600), json!(906)));
        // An answer to nothing is not answered: two that err would not end.
        client.line("{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,\"message\":\"no\"}}");

        for (method, params) in [
            ("tools/call", json!({ "name": "rm_rf", "arguments": {} })),
            ("tools/call", json!({ "name": 7 })),
            ("tools/call", json!({ "name": "whoami", "arguments": "no" })),
            ("tools/call", json!({})),
            ("resources/read", json!({ "uri": "file:///etc/shadow" })),
            ("no/such/method", json!({})),
        ] {
            let answer = client.request(method, params.clone());
            assert!(answer["error"]["message"].is_string(), "{params}: {answer}");
        }
        for (tool, arguments) in [
            ("task_register", json!({})),
            ("task_register", json!({ "goal": 7 })),
            (
                "task_register",
                json!({ "goal": "g", "task_id": "00000000-0000-4000-8000-000000000000" }),
            ),
            (
                "task_register",
                json!({ "goal": "g", "nodes": [{ "after": ["nobody"] }] }),
            ),
            (
                "task_register",
                json!({ "goal": "g", "nodes": [{ "work": { "kind": "command" } }] }),
            ),
            ("task_status", json!({ "task_id": "7" })),
            (
                "task_status",
                json!({ "task_id": "00000000-0000-4000-8000-000000000000", "limit": -1 }),
            ),
            ("node_acquire", json!({ "wait_secs": "soon" })),
            ("node_acquire", json!({ "wait_secs": 1.5 })),
            ("node_acquire", json!({ "wait_secs": u64::MAX })),
            ("node_acquire", json!({ "lease_secs": 0 })),
            ("node_acquire", json!({ "surprise": true })),
            ("node_complete", json!({ "result": 1 })),
            ("lock_acquire", json!({})),
            ("lock_acquire", json!({ "key": "k", "file": "f" })),
            ("lock_acquire", json!({ "key": "" })),
            ("lock_acquire", json!({ "key": "k".repeat(10_000) })),
            (
                "lock_acquire",
                json!({ "key": "k", "metadata": { "x": "x".repeat(5000) } }),
            ),
            ("lock_acquire", json!({ "file": "no/such/directory/file" })),
        ] {
            client.refused(tool, arguments);
        }
        let large = client.refused(
            "task_register",
            json!({ "goal": "g", "context": "x".repeat(1_500_000) }),
        );
        assert_eq!(large["error"]["reason"], "limit_exceeded");
        assert_eq!(client.call("whoami", json!({}))["holds"], json!([]));
        assert!(client.close().success());
    }
}

#[test]
fn only_so_many_calls_are_under_way() {
    for lifecycle in BOTH {
        let env = TestEnvironment::new();
        let daemon = env.daemon();
        daemon
            .connect()
            .call("AcquireResourceLock", json!({ "resource_key": "k" }));
        let mut client = Client::start(&env, "greedy", lifecycle);
        let ids: Vec<i64> = (0..80)
            .map(|_| client.send_call("lock_acquire", json!({ "key": "k", "wait_secs": 600 })))
            .collect();
        for id in &ids[64..] {
            let answer = client.answer(*id);
            assert!(
                answer["error"]["message"].as_str().unwrap().contains("in flight"),
                "{answer}"
            );
        }
        // The same id twice.
        let again = json!({ "jsonrpc": "2.0", "id": ids[0], "method": "ping" });
        client.line(&again.to_string());
        assert!(client.answer(ids[0])["error"].is_object());
        for id in &ids[..64] {
            client.cancel(*id);
        }
        client.call("whoami", json!({}));
        assert!(client.close().success());
    }
}

/// Requests whose answers nobody would want to keep.
const MANY: i64 = 20_000;

/// There is room in the pipe, or will be soon.
fn is_writable(pipe: &std::process::ChildStdin) -> bool {
    let mut polled = [nix::poll::PollFd::new(
        std::os::fd::AsFd::as_fd(pipe),
        nix::poll::PollFlags::POLLOUT,
    )];
    nix::poll::poll(&mut polled, nix::poll::PollTimeout::from(1000_u16)).unwrap() > 0
}

#[test]
fn a_client_that_does_not_read_stops_itself_only() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    // Nobody reads its stdout.
    let mut command = env.command(&["mcp"]);
    let mut child = command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let request = |id: i64| {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let request: Value = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/list",
            "params": { "_meta": meta } });
        format!("{request}\n")
    };
    // Far less than it would take to hold all the answers, and then it reads no more.
    let mut sent = 0;
    while sent < MANY && is_writable(&stdin) {
        std::io::Write::write_all(&mut stdin, request(sent).as_bytes()).unwrap();
        sent += 1;
    }
    assert!(sent < MANY, "{sent} requests were read, and no answer");
    drop(stdin);
    child.kill().unwrap();
    child.wait().unwrap();
}
