//! The whole protocol as existing clients use it: the fourteen methods to the letter.

use crate::raw::{answers, exchange};
use crate::shapes::{Schemas, fits, result_shape};
use crate::support::{TestEnvironment, finish, shown};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const FOURTEEN: [(&str, &str); 14] = [
    ("DescribeInterface", "describe_interface"),
    ("Health", "health"),
    ("Metrics", "metrics"),
    ("RegisterTask", "register_task"),
    ("AcquireNextNode", "acquire_next_node"),
    ("CommitEvent", "commit_event"),
    ("HeartbeatNode", "heartbeat_node"),
    ("CompleteNode", "complete_node"),
    ("FailNode", "fail_node"),
    ("TaskStatus", "task_status"),
    ("AcquireResourceLock", "acquire_resource_lock"),
    ("HeartbeatResourceLock", "heartbeat_resource_lock"),
    ("ReleaseResourceLock", "release_resource_lock"),
    ("ListResourceLocks", "list_resource_locks"),
];

/// An existing client: a new connection for each request, a line, half-close, everything until the end.
struct Existing {
    socket: PathBuf,
    schemas: Schemas,
    calls: u64,
}

impl Existing {
    fn new(socket: PathBuf) -> Self {
        let interface = one(&socket, &json!({ "method": "DescribeInterface" }))["result"].take();
        Self {
            schemas: Schemas::new(interface),
            socket,
            calls: 0,
        }
    }

    /// Sends a request in one of the two spellings, and checks both the request and the answer against both
    /// descriptions.
    #[track_caller]
    fn call(&mut self, method: &str, params: &Value) -> Value {
        let canonical = if method == "GetTaskStatus" {
            "TaskStatus"
        } else {
            method
        };
        self.calls += 1;
        let snake = FOURTEEN.iter().find(|(camel, _)| *camel == method);
        let spelled = match snake {
            Some((_, snake)) if self.calls.is_multiple_of(2) => snake,
            _ => method,
        };
        self.schemas.check_params(canonical, params);
        let mut answer = one(
            &self.socket,
            &json!({ "id": self.calls, "method": spelled, "params": params }),
        );
        assert_eq!(answer["id"], self.calls);
        assert_eq!(answer.as_object().unwrap().len(), 2, "{answer}");
        assert!(answer.get("result").is_some(), "{method} {params}: {answer}");
        let result = answer["result"].take();
        self.schemas.check_result(canonical, &result);
        if !result.is_null() {
            fits(&result, &result_shape(canonical));
        }
        result
    }

    /// A request that must be refused, with this code.
    #[track_caller]
    fn refused(&self, code: i64, method: &str, params: &Value) -> String {
        let answer = one(
            &self.socket,
            &json!({ "id": "r", "method": method, "params": params }),
        );
        assert_eq!(answer["id"], "r");
        assert!(answer.get("result").is_none(), "{answer}");
        assert_eq!(answer["error"]["code"], code, "{method} {params}: {answer}");
        answer["error"]["message"].as_str().unwrap().to_owned()
    }
}

#[track_caller]
fn one(socket: &Path, request: &Value) -> Value {
    let mut all = answers(socket, format!("{request}\n").as_bytes());
    assert_eq!(all.len(), 1, "{all:?}");
    all.swap_remove(0)
}

#[test]
fn the_interface_describes_every_method_with_schemas_that_are_schemas() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    // `new` compiles them all.
    let client = Existing::new(env.socket());
    let interface = &client.schemas.interface;
    fits(interface, &result_shape("DescribeInterface"));
    client.schemas.check_result("DescribeInterface", interface);
    assert_eq!(interface["protocol"], "agentd-jsonl-v1");
    assert_eq!(interface["transport"], "unix-domain-socket");
    let listed: Vec<&str> = client
        .schemas
        .methods()
        .iter()
        .map(|method| method["method"].as_str().unwrap())
        .collect();
    for (camel, _) in FOURTEEN {
        assert!(listed.contains(&camel), "{camel}");
    }
    // Every method that is described is there, and every spelling of it.
    for name in listed {
        for spelled in [name.to_owned(), snake(name)] {
            let answer = one(&env.socket(), &json!({ "method": spelled, "params": [] }));
            assert_eq!(answer["error"]["code"], -32602, "{spelled}: {answer}");
        }
    }
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[test]
fn tasks_go_through_their_whole_life() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let mut client = Existing::new(env.socket());
    let health = client.call("Health", &json!({}));
    assert_eq!(
        (&health["status"], &health["database"]),
        (&json!("ok"), &json!("ok"))
    );

    let empty = client.call("RegisterTask", &json!({ "goal": "nothing to do yet" }))["task_id"].take();
    assert_eq!(
        client.call("AcquireNextNode", &json!({ "task_id": empty })),
        Value::Null
    );
    let status = client.call("TaskStatus", &json!({ "task_id": empty }));
    assert_eq!(
        (&status["task"]["context"], &status["nodes"]),
        (&json!({}), &json!([]))
    );

    let ids: Vec<String> = (0..4).map(|_| uuid::Uuid::new_v4().to_string()).collect();
    let nodes = json!([
        { "id": ids[0], "payload_schema": { "step": 1 } },
        { "id": ids[1], "dependencies": [ids[0]] },
        { "id": ids[2], "dependencies": [ids[0]], "payload_schema": {} },
        { "id": ids[3], "dependencies": [ids[1], ids[2]] },
    ]);
    let params =
        json!({ "goal": "g", "context": { "repo": "r", "n": [1, 2.5, null] }, "initial_nodes": nodes });
    let task = client.call("RegisterTask", &params)["task_id"].take();

    let owned = client.call(
        "AcquireNextNode",
        &json!({ "task_id": task, "lease_owner": "worker-1" }),
    );
    assert_eq!(
        (&owned["node_id"], &owned["lease_owner"]),
        (&json!(ids[0]), &json!("worker-1"))
    );
    let context = &owned["context"];
    assert_eq!(context["task"]["context"], params["context"]);
    assert_eq!(context["node"]["status"], "RUNNING");
    assert_eq!(context["node"]["lease_id"], owned["lease_id"]);
    assert_eq!(context["event_journal_limit"], 50);
    assert_eq!(
        client.call("AcquireNextNode", &json!({ "task_id": task })),
        Value::Null
    );

    let lease =
        |node: &Value| json!({ "task_id": task, "node_id": node["node_id"], "lease_id": node["lease_id"] });
    let with = |node: &Value, name: &str, payload: Value| {
        let mut params = lease(node);
        params[name] = payload;
        params
    };
    client.call("HeartbeatNode", &lease(&owned));
    client.call("CommitEvent", &with(&owned, "payload", json!({ "note": 1 })));
    let aliased = one(
        &env.socket(),
        &json!({ "method": "CommitEvent", "params": with(&owned, "event_payload", json!("as it was called")) }),
    );
    fits(&aliased["result"], &result_shape("CommitEvent"));
    let mut named = with(&owned, "payload", json!(null));
    named["action_type"] = json!("THOUGHT");
    client.call("CommitEvent", &named);
    // Without the lease, while it runs; and as what only the daemon writes.
    client.refused(
        -32000,
        "CommitEvent",
        &json!({ "task_id": task, "node_id": ids[0], "payload": 1 }),
    );
    client.refused(
        -32602,
        "CommitEvent",
        &json!({ "task_id": task, "node_id": ids[0] }),
    );
    client.call(
        "CompleteNode",
        &with(&owned, "result_payload", json!({ "answer": 42 })),
    );
    client.refused(-32000, "HeartbeatNode", &lease(&owned));
    client.refused(-32000, "CompleteNode", &with(&owned, "result_payload", json!(1)));
    client.refused(-32000, "FailNode", &with(&owned, "error_payload", json!(1)));
    client.call(
        "CommitEvent",
        &json!({ "task_id": task, "node_id": ids[0], "payload": "afterwards" }),
    );

    // In the order in which they were registered; what they depend on is handed to them.
    let second = client.call("AcquireNextNode", &json!({ "task_id": task }));
    assert_eq!(
        (&second["node_id"], &second["lease_owner"]),
        (&json!(ids[1]), &json!("anonymous"))
    );
    assert_eq!(
        second["context"]["completed_dependencies"],
        json!([{ "node_id": ids[0], "result_payload": { "answer": 42 } }])
    );
    let kinds: Vec<&str> = second["context"]["event_journal"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["action_type"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "COMMIT_EVENT",
            "COMMIT_EVENT",
            "THOUGHT",
            "COMPLETE_NODE",
            "COMMIT_EVENT"
        ]
    );
    assert_eq!(
        second["context"]["event_journal"][3]["payload"],
        json!({ "result": { "answer": 42 } })
    );
    let third = client.call("AcquireNextNode", &json!({ "task_id": task }));
    assert_eq!(third["node_id"], json!(ids[2]));
    let aliased = one(
        &env.socket(),
        &json!({ "method": "complete_node", "params": with(&second, "payload", json!([])) }),
    );
    fits(&aliased["result"], &result_shape("CompleteNode"));
    client.call("FailNode", &with(&third, "error_payload", json!({ "why": "no" })));

    let status = client.call("GetTaskStatus", &json!({ "task_id": task }));
    assert_eq!(
        status["counts"],
        json!({ "PENDING": 1, "RUNNING": 0, "COMPLETED": 2, "FAILED": 1 })
    );
    assert_eq!(status["nodes"][2]["result_payload"], json!({ "why": "no" }));
    assert_eq!(status["nodes"][3]["dependencies"], json!([ids[1], ids[2]]));
    assert_eq!(client.call("TaskStatus", &json!({ "task_id": task })), status);
    assert_eq!(
        client.call("AcquireNextNode", &json!({ "task_id": task })),
        Value::Null
    );

    let metrics = client.call("Metrics", &json!({}));
    let runtime = &metrics["runtime"];
    assert_eq!(
        (
            &runtime["acquired_nodes"],
            &runtime["completed_nodes"],
            &runtime["failed_nodes"]
        ),
        (&json!(3), &json!(2), &json!(1))
    );
    assert_eq!(
        (
            &runtime["committed_events"],
            &runtime["heartbeats"],
            &runtime["registered_tasks"]
        ),
        (&json!(4), &json!(1), &json!(2))
    );
}

#[test]
fn failing_takes_its_payload_under_both_names() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let mut client = Existing::new(env.socket());
    let task = client.call("RegisterTask", &json!({ "goal": "g", "initial_nodes": [{}] }))["task_id"].take();
    let node = client.call("AcquireNextNode", &json!({ "task_id": task }));
    let params =
        json!({ "task_id": task, "node_id": node["node_id"], "lease_id": node["lease_id"], "payload": "x" });
    let answer = one(&env.socket(), &json!({ "method": "FailNode", "params": params }));
    fits(&answer["result"], &result_shape("FailNode"));
}

#[test]
fn locks_go_through_their_whole_life() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let mut client = Existing::new(env.socket());
    let locks = client.call("ListResourceLocks", &json!({}));
    assert_eq!(locks["locks"], json!([]));
    let key = "file:/srv/repo/src/ünï cødé \u{1f600}.rs";
    let granted = client.call(
        "AcquireResourceLock",
        &json!({ "resource_key": key, "owner": "a", "provider": "p", "ttl_secs": 60, "metadata": { "why": "edit" } }),
    );
    assert_eq!(
        (
            &granted["owner"],
            &granted["provider"],
            &granted["metadata"],
            &granted["task_id"]
        ),
        (&json!("a"), &json!("p"), &json!({ "why": "edit" }), &Value::Null)
    );
    assert_eq!(
        client.call("AcquireResourceLock", &json!({ "resource_key": key })),
        Value::Null
    );
    let other = client.call("AcquireResourceLock", &json!({ "resource_key": "k" }));
    assert_eq!(
        (&other["owner"], &other["provider"], &other["metadata"]),
        (&json!("anonymous"), &Value::Null, &json!({}))
    );
    let lease = json!({ "resource_key": key, "lease_id": granted["lease_id"] });
    client.call("HeartbeatResourceLock", &lease);
    let mut longer = lease.clone();
    longer["ttl_secs"] = json!(600);
    client.call("HeartbeatResourceLock", &longer);
    let locks = client.call("ListResourceLocks", &json!({}));
    assert_eq!(locks["locks"].as_array().unwrap().len(), 2);
    let foreign = json!({ "resource_key": key, "lease_id": other["lease_id"] });
    client.refused(-32000, "HeartbeatResourceLock", &foreign);
    client.refused(-32000, "ReleaseResourceLock", &foreign);
    client.call("ReleaseResourceLock", &lease);
    client.refused(-32000, "ReleaseResourceLock", &lease);
    let again = client.call(
        "AcquireResourceLock",
        &json!({ "resource_key": key, "owner": "b" }),
    );
    assert!(again["fence"].as_i64() > granted["fence"].as_i64());
}

#[test]
fn an_id_comes_back_as_it_was_sent_and_only_then() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    for id in [
        "1",
        "-7",
        "1.50",
        "1e3",
        "12345678901234567890123",
        "null",
        "true",
        "\"a b\"",
        "\"\\u0000\"",
        "[1,[]]",
        "{\"b\":1, \"a\":2}",
        "\"\"",
    ] {
        for rest in [
            "\"method\":\"Health\"",
            "\"method\":\"Nope\"",
            "\"method\":\"TaskStatus\",\"params\":{}",
            "\"x\":1",
        ] {
            let got = exchange(&env.socket(), format!("{{\"id\":{id},{rest}}}\n").as_bytes());
            let got = String::from_utf8(got).unwrap();
            // To the letter: an id is the client's, not ours to rewrite.
            assert!(got.starts_with(&format!("{{\"id\":{id},")), "{id} {rest}: {got}");
        }
    }
    for line in [
        "{\"method\":\"Health\"}",
        "{\"method\":\"Nope\"}",
        "{}",
        "nonsense",
        "[]",
    ] {
        let all = answers(&env.socket(), format!("{line}\n").as_bytes());
        assert!(all.len() == 1 && all[0].get("id").is_none(), "{line}: {all:?}");
    }
}

#[test]
fn each_mistake_has_its_code() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let nil = uuid::Uuid::nil();
    for (code, line) in [
        (-32700, "not json".to_owned()),
        (-32700, "{\"method\":\"Health\"".to_owned()),
        (-32601, "{\"method\":\"NoSuchMethod\"}".to_owned()),
        (-32601, "{\"method\":\"\"}".to_owned()),
        (-32602, "{\"method\":\"RegisterTask\"}".to_owned()),
        (-32602, "{\"method\":\"RegisterTask\",\"params\":7}".to_owned()),
        (
            -32602,
            "{\"method\":\"TaskStatus\",\"params\":{\"task_id\":\"x\"}}".to_owned(),
        ),
        (
            -32000,
            format!("{{\"method\":\"TaskStatus\",\"params\":{{\"task_id\":\"{nil}\"}}}}"),
        ),
    ] {
        let all = answers(&env.socket(), format!("{line}\n").as_bytes());
        assert_eq!(all.len(), 1);
        let error = &all[0]["error"];
        assert_eq!(error["code"], code, "{line}: {error}");
        assert!(error["message"].as_str().unwrap().len() > 10, "{error}");
        assert!(error["data"]["reason"].is_string(), "{error}");
    }
}

#[test]
fn blank_lines_are_skipped_and_the_rest_is_answered_in_order() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let sent = b"\n  \n\r\n{\"id\":1,\"method\":\"Health\"}\r\n\t\n {\"id\":2,\"method\":\"health\",\"params\":null} \n{\"id\":3,\"method\":\"Metrics\"}";
    let ids: Vec<Value> = answers(&env.socket(), sent)
        .iter()
        .map(|answer| answer["id"].clone())
        .collect();
    assert_eq!(ids, [1, 2, 3]);
}

#[test]
fn netcat_is_a_client() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let script = "command -v nc >/dev/null || { echo 'nc is missing: install netcat-openbsd' >&2; exit 127; }
        nc -h 2>&1 | grep -q -- '-U' || { echo 'this nc has no -U: install netcat-openbsd' >&2; exit 127; }
        printf '%s\\n' '{\"id\":1,\"method\":\"RegisterTask\",\"params\":{\"goal\":\"from a shell\",\"initial_nodes\":[{}]}}' \
            '{\"id\":2,\"method\":\"Health\"}' | nc -N -U \"$1\"
        printf 'GET /v1/health HTTP/1.1\\r\\nhost: agentd\\r\\nconnection: close\\r\\n\\r\\n' | nc -N -U \"$1\"";
    let mut command = Command::new("sh");
    command.args(["-eu", "-c", script, "sh"]).arg(env.socket());
    env.prepare(&mut command);
    let output = finish(&mut command);
    assert!(output.status.success(), "{}", shown(&output));
    let stdout = String::from_utf8(output.stdout).unwrap();
    let mut lines = stdout.lines();
    let first: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    fits(&first["result"], &result_shape("RegisterTask"));
    let second: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(second["result"]["status"], "ok");
    assert!(lines.next().unwrap().starts_with("HTTP/1.1 200"), "{stdout}");
}

#[test]
fn the_python_client_finds_everything_as_promised() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../client_test.py");
    assert!(script.is_file(), "{} is part of the project", script.display());
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    // Not what a version manager puts before it: that one needs its user's own home directory.
    let python = ["/usr/bin/python3", "/usr/local/bin/python3"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or("python3");
    let mut command = Command::new(python);
    command.arg(script);
    env.prepare(&mut command);
    command.env("AGENTD_SOCKET_PATH", env.socket());
    let output = finish(&mut command);
    assert!(output.status.success(), "{}", shown(&output));
}
