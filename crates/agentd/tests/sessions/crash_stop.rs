//! Whoever asked for a session's end was told that it would come. It does, also when agentd is killed in between.

use crate::crash_scene::{Scene, over, show};
use serde_json::json;
use std::io::Write;
use std::os::unix::net::UnixStream;

fn stop(scene: &Scene, id: &str) {
    let request = json!({ "method": "StopSession", "params": { "session_id": id, "reason": "enough" } });
    let mut stream = UnixStream::connect(scene.env.socket()).unwrap();
    writeln!(stream, "{request}").unwrap();
    // The answer does not come.
    let _ = std::io::Read::read(&mut stream, &mut [0; 1]);
}

#[test]
fn a_stop_that_was_written_down_is_carried_out() {
    let scene = Scene::bare(false);
    let waits = "echo ready; exec sleep 1000";
    scene.declare("", &[scene.agent("a", waits, "max_sessions = 1")]);
    let ids = std::cell::RefCell::default();
    // One that runs, and one that waits for its place.
    scene.dies_at("stop", |scene| {
        let running = scene.run("a", "p");
        scene.printed(&running);
        let queued = scene.run("a", "p");
        stop(scene, &running);
        *ids.borrow_mut() = vec![running, queued];
    });
    let ids = ids.into_inner();
    scene.dies_at("stop", |scene| stop(scene, &ids[1]));
    let daemon = scene.env.daemon();
    let mut wire = scene.env.connect();
    for (id, began) in ids.iter().zip([true, false]) {
        over(&mut wire, id);
        let session = show(&mut wire, id);
        let outcome = &session["outcome"];
        assert_eq!(
            (&outcome["reason"], &outcome["message"]),
            (&json!("cancelled"), &json!("enough")),
            "{session}"
        );
        assert_eq!(session.get("started_at").is_some(), began, "{session}");
        scene.nothing_is_left(id, "stopped");
    }
    scene.close(daemon);
}

#[test]
fn a_stopped_session_does_not_begin_anew_and_its_node_fails() {
    let scene = Scene::bare(false);
    scene.declare("", &[scene.agent("a", "echo ready; exec sleep 1000", "")]);
    let work = json!({ "kind": "agent", "agent": "a" });
    let nodes = json!([{ "work": work, "retry": { "max_attempts": 3 } }]);
    let task = json!({ "goal": "g", "idempotency_key": "k", "initial_nodes": nodes });
    let id = std::cell::RefCell::default();
    scene.dies_at("stop", |scene| {
        let mut wire = scene.env.connect();
        wire.call("RegisterTask", task.clone());
        let mut journal = scene.env.connect();
        journal.call(
            "SubscribeJournal",
            json!({ "from_seq": 1, "action_types": ["SESSION_QUEUED"] }),
        );
        journal.line().unwrap();
        let sessions = wire.call("ListSessions", json!({}));
        *id.borrow_mut() = sessions["sessions"][0]["id"].as_str().unwrap().to_owned();
        scene.printed(&id.borrow());
        stop(scene, &id.borrow());
    });
    let daemon = scene.env.daemon();
    let mut wire = scene.env.connect();
    over(&mut wire, &id.borrow());
    let task_id = wire.call("RegisterTask", task)["task_id"].take();
    let status = wire.call("TaskStatus", json!({ "task_id": task_id }));
    assert_eq!(status["nodes"][0]["status"], "FAILED", "{status}");
    let sessions = wire.call("ListSessions", json!({}));
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 1, "{sessions}");
    scene.nothing_is_left(&id.borrow(), "stopped");
    scene.close(daemon);
}
