//! agentd is dead for longer than a node's lease lasts, while the session that works on the node prints much and ends.

use crate::crash_scene::{Scene, over, processes_of, show};
use crate::support::{Wire, wait_gone};
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

const LINES: u32 = 1_450_000;

/// Ten megabytes, and then longer than the lease.
const SCRIPT: &str = r#"
    echo run >> "$HOME/runs"; echo ready
    until [ -e "$AGENTD_RUN_DIR/go" ]; do sleep 0.02; done
    seq 1 1450000; sleep 1.5"#;

/// Somebody else who could do the work, from the very moment at which there is a socket.
fn competes(socket: &Path, over: &AtomicBool) -> Vec<Value> {
    while UnixStream::connect(socket).is_err() && !over.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
    let mut wire = Wire::connect(socket);
    let mut got = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let params = json!({
            "lease_owner": "another", "capabilities": ["work:agent", "work:agent:a"], "wait_secs": 1,
        });
        let node = wire.call("AcquireNextNode", params);
        got.extend(Some(node).filter(|node| !node["node_id"].is_null() || !node["node"].is_null()));
    }
    got
}

fn the_lease_is_renewed(in_podman: bool) {
    let mut scene = Scene::bare(in_podman);
    scene.env.set("AGENTD_NODE_TIMEOUT_SECS", "1");
    scene.declare("", &[scene.agent("a", SCRIPT, "max_sessions = 2")]);
    let daemon = scene.env.daemon();
    let mut wire = scene.env.connect();
    let task = json!({ "goal": "g", "initial_nodes": [{ "work": { "kind": "agent", "agent": "a" } }] });
    let task = wire.call("RegisterTask", task)["task_id"].take();
    let mut journal = scene.env.connect();
    journal.call(
        "SubscribeJournal",
        json!({ "from_seq": 1, "action_types": ["SESSION_QUEUED"] }),
    );
    journal.line().unwrap();
    let sessions = wire.call("ListSessions", json!({}));
    let id = sessions["sessions"][0]["id"].as_str().unwrap().to_owned();
    scene.printed(&id);
    daemon.kill_9();
    scene.go(&id);
    // It ends with nobody there to see it.
    for pid in processes_of(&id) {
        wait_gone(pid);
    }

    let finished = AtomicBool::new(false);
    let socket = scene.env.socket();
    let (daemon, got) = std::thread::scope(|scope| {
        let other = scope.spawn(|| competes(&socket, &finished));
        let daemon = scene.env.daemon();
        let mut wire = scene.env.connect();
        let said = over(&mut wire, &id);
        let expected: String = std::iter::once("ready\n".to_owned())
            .chain((1..=LINES).map(|number| format!("{number}\n")))
            .collect();
        assert!(expected.len() > 10_000_000);
        // Not with `assert_eq`, which would print them.
        assert!(said.stdout == expected.as_bytes(), "{} bytes", said.stdout.len());
        assert_eq!((said.stderr.len(), said.missing), (0, 0));
        let session = show(&mut wire, &id);
        assert_eq!(session["outcome"]["reason"], "completed", "{session}");
        let status = wire.call("TaskStatus", json!({ "task_id": task }));
        let node = &status["nodes"][0];
        assert_eq!(node["status"], "COMPLETED", "{node}");
        // What stands for the result that it did not leave is the end of what it said.
        let output = node["result_payload"]["output"].as_str().unwrap();
        assert!(
            expected.ends_with(output) && output.len() == 32 * 1024,
            "{}",
            output.len()
        );
        finished.store(true, Ordering::Relaxed);
        (daemon, other.join().unwrap())
    });
    assert_eq!(got, Vec::<Value>::new());
    let sessions = scene.env.connect().call("ListSessions", json!({}));
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 1, "{sessions}");
    assert_eq!(scene.runs("a", "run"), 1);
    scene.nothing_is_left(&id, "late");
    scene.close(daemon);
}

#[test]
fn a_process_keeps_its_lease_while_agentd_is_dead() {
    the_lease_is_renewed(false);
}

#[test]
fn a_container_keeps_its_lease_while_agentd_is_dead() {
    the_lease_is_renewed(true);
}
