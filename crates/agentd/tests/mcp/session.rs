//! Inside a session: the agent's name, its own node, and a session that agrees with what became of it.

use crate::client::{BOTH, Client, Lifecycle};
use crate::support::{Daemon, TestEnvironment};
use serde_json::{Value, json};
use std::fs;

/// An agent that says when it is there, does nothing until it is told to, and ends so.
fn agent(name: &str, code: i32) -> String {
    let wait = r#"echo ready; until [ -e \"$AGENTD_RUN_DIR/go\" ]; do sleep 0.02; done"#;
    format!(
        "[[agents]]\nname = \"{name}\"\nruntime = \"process\"\nharness = \"custom\"\nprompt = \"p\"\n\
         command = [\"sh\", \"-c\", \"{wait}; exit {code}\"]\n"
    )
}

struct Begun {
    env: TestEnvironment,
    daemon: Daemon,
    task: Value,
    session: String,
}

/// A session at work on a node. Its lease is short, so that losing it would be noticed soon.
fn begun(code: i32) -> Begun {
    let mut env = TestEnvironment::new();
    env.set("AGENTD_NODE_TIMEOUT_SECS", "6");
    env.write(".agentd/agentd.toml", &agent("worker", code));
    let daemon = env.daemon();
    let mut wire = daemon.connect();
    let mut journal = daemon.connect();
    journal.call(
        "SubscribeJournal",
        json!({ "from_seq": 1, "action_types": ["SESSION_QUEUED"] }),
    );
    let work = json!({ "kind": "agent", "agent": "worker" });
    let id = "00000000-0000-4000-8000-000000000001";
    let task = wire.call(
        "RegisterTask",
        json!({ "goal": "g", "initial_nodes": [
            { "id": id, "name": "own", "work": work },
            { "name": "next", "dependencies": [id] },
        ]}),
    );
    let session = journal.line().unwrap()["session_id"].as_str().unwrap().to_owned();
    env.spawn(&["sessions", "logs", "-f", &session])
        .wait_stdout("ready");
    Begun {
        env,
        daemon,
        task: task["task_id"].clone(),
        session,
    }
}

impl Begun {
    fn client(&self, lifecycle: Lifecycle) -> Client {
        Client::with(
            self.env.command(&["mcp", "--session", &self.session]),
            "in-session",
            lifecycle,
        )
    }

    /// Lets the agent end, and gives its session.
    fn ended(&self) -> Value {
        let run = self.env.state().join("sessions").join(&self.session).join("run");
        fs::write(run.join("go"), "").unwrap();
        self.env.ok(&["sessions", "logs", "-f", &self.session]);
        // What is over needs no end; it is waited for all the same.
        self.env.json(&["sessions", "stop", &self.session])
    }

    /// The node as it stands.
    fn own(&self) -> Value {
        self.daemon
            .connect()
            .call("TaskStatus", json!({ "task_id": self.task }))["nodes"][0]
            .take()
    }
}

#[test]
fn an_agent_completes_its_own_node_and_its_session_agrees() {
    for (lifecycle, code) in [(Lifecycle::Legacy, 0), (Lifecycle::Modern, 3)] {
        let begun = begun(code);
        let mut client = begun.client(lifecycle);
        let me = client.call("whoami", json!({}));
        assert_eq!(
            (&me["owner"], &me["session_id"]),
            (&json!("worker"), &json!(begun.session))
        );
        assert_eq!(me["holds"][0]["session"], true);
        client.call("node_event", json!({ "payload": "half" }));
        client.call("node_heartbeat", json!({}));
        let refusal = client.refused("node_release", json!({}));
        assert_eq!(refusal["error"]["reason"], "own_node");
        let done = client.call("node_complete", json!({ "result": { "answer": 42 } }));
        assert!(done["next"].is_string());

        // What depends on it begins at once, while the agent goes on, until after its lease would have been
        // extended.
        let mut other = Client::start(&begun.env, "other", Lifecycle::Modern);
        let next = other.call("node_acquire", json!({ "task_id": begun.task }))["node"].take();
        assert_eq!(next["inputs"][0]["result"]["answer"], 42);
        other.call("lock_acquire", json!({ "key": "k" }));
        let held = client.call("lock_acquire", json!({ "key": "k", "wait_secs": 3 }));
        assert!(held["lock"].is_null());

        let session = begun.ended();
        let outcome = &session["outcome"];
        assert_eq!(outcome["reason"], "completed", "{session}");
        assert_eq!(outcome["exit_code"], code);
        assert_eq!(outcome["result"]["answer"], 42);
        assert_eq!(outcome["message"].is_string(), code != 0, "{outcome}");
        let own = begun.own();
        assert_eq!(
            (&own["status"], &own["result_payload"]["answer"]),
            (&json!("COMPLETED"), &json!(42))
        );
        // Once: there is one such entry.
        let entries = begun.daemon.connect().call(
            "ReadJournal",
            json!({ "node_id": own["id"], "action_types": ["COMPLETE_NODE", "FAIL_NODE"] }),
        );
        assert_eq!(entries["entries"].as_array().unwrap().len(), 1, "{entries}");
        assert!(session["stop_requested"].is_null());
    }
}

#[test]
fn an_agent_fails_its_own_node_and_its_session_agrees() {
    let begun = begun(0);
    let mut client = begun.client(Lifecycle::Modern);
    client.call("node_fail", json!({ "error": "no such file", "permanent": true }));
    let session = begun.ended();
    assert_eq!(session["outcome"]["reason"], "failed", "{session}");
    assert_eq!(session["outcome"]["exit_code"], 0);
    assert!(
        session["outcome"]["message"]
            .as_str()
            .unwrap()
            .contains("failed its node itself")
    );
    let own = begun.own();
    assert_eq!(
        (&own["status"], &own["result_payload"]),
        (&json!("FAILED"), &json!("no such file"))
    );
}

#[test]
fn in_a_session_only_its_own_leases_are_its_own() {
    for lifecycle in BOTH {
        let begun = begun(0);
        let mut other = Client::start(&begun.env, "other", Lifecycle::Legacy);
        let theirs = other.call("task_register", json!({ "goal": "theirs", "nodes": [{}] }));
        let node = other.call("node_acquire", json!({ "task_id": theirs["task_id"] }))["node"].take();
        let mut client = begun.client(lifecycle);
        let refusal = client.refused(
            "node_complete",
            json!({ "node_id": node["node_id"], "result": 1 }),
        );
        assert_eq!(refusal["error"]["reason"], "not_held");
        let unknown = client.request(
            "tools/call",
            json!({ "name": "task_control", "arguments": { "task_id": theirs["task_id"], "action": "cancel" } }),
        );
        assert!(unknown["error"].is_object(), "{unknown}");
        for nodes in [json!([{ "agent": "worker" }]), json!([{ "prompt": "do it" }])] {
            let refusal = client.refused("task_register", json!({ "goal": "g", "nodes": nodes }));
            assert_eq!(refusal["error"]["reason"], "forbidden");
        }
        client.refused("lock_acquire", json!({ "file": "lib.rs" }));

        // What it acquires besides is its own, and goes back when its tools end; its node does not.
        let more = client.call(
            "task_register",
            json!({ "goal": "more", "nodes": [{ "name": "extra" }] }),
        );
        let extra = client.call("node_acquire", json!({ "task_id": more["task_id"] }))["node"].take();
        assert_eq!(extra["name"], "extra");
        client.call("lock_acquire", json!({ "key": "k" }));
        let held = other.call("lock_acquire", json!({ "key": "k" }))["held_by"].take();
        assert_eq!(
            (&held["owner"], &held["metadata"]["session_id"]),
            (&json!("worker"), &json!(begun.session))
        );
        assert!(client.close().success());
        assert!(other.call("lock_acquire", json!({ "key": "k" }))["lock"].is_object());
        let again = other.call("node_acquire", json!({ "task_id": more["task_id"] }))["node"].take();
        assert_eq!(again["node_id"], extra["node_id"]);
        assert_eq!(begun.own()["status"], "RUNNING");
        let session = begun.ended();
        assert_eq!(session["outcome"]["reason"], "completed");
        // It is over: nobody acts for it any more.
        let mut late = begun.client(lifecycle);
        assert!(
            late.call("whoami", json!({}))["problem"]
                .as_str()
                .unwrap()
                .contains("is over")
        );
        late.refused("lock_acquire", json!({ "key": "k" }));
    }
}

#[test]
fn a_session_that_nobody_knows_is_refused_at_once() {
    let mut env = TestEnvironment::new();
    let session = "00000000-0000-4000-8000-000000000009";
    // A daemon that does not run yet may know it later.
    let mut early = Client::with(
        env.command(&["mcp", "--session", session]),
        "early",
        Lifecycle::Modern,
    );
    assert_eq!(early.call("whoami", json!({}))["daemon"]["answers"], false);
    let _daemon = env.daemon();
    let told = env.fails(64, &["mcp", "--session", session]);
    assert!(
        told.contains(session) && told.contains("agentd sessions"),
        "{told}"
    );
    env.set("AGENTD_SESSION_ID", session);
    env.fails(64, &["mcp"]);
    assert!(early.close().success());
}
