//! Supervisors outlive the agentd that started them: an old one is found by a newer agentd, and after a step back a
//! newer one by an older.

use crate::crash_scene::{Scene, WAITS, over, processes_of, running, show};
use crate::support::wait_gone;
use serde_json::{Value, json};
use std::fs;

fn ended(scene: &Scene, id: &str, stdout: &str, reason: &str, case: &str) {
    let mut wire = scene.env.connect();
    let said = over(&mut wire, id);
    assert_eq!(String::from_utf8_lossy(&said.stdout), stdout, "{case}");
    let session = show(&mut wire, id);
    assert_eq!(session["outcome"]["reason"], reason, "{case}: {session}");
    assert!(
        session["started_at"].as_str() <= session["exited_at"].as_str(),
        "{case}"
    );
    scene.nothing_is_left(id, case);
}

#[test]
fn agentd_goes_on_with_supervisors_of_other_versions() {
    // The supervisor's newest and oldest version; with the second no agentd of this version has one in common.
    for versions in ["2 1", "9 2", "1 0"] {
        let scene = Scene::bare(false);
        scene.declare("", &[scene.agent("a", WAITS, "max_sessions = 3")]);
        let mut command = scene.env.command(&["daemon"]);
        command.env("AGENTD_TEST_SUPERVISOR_VERSIONS", versions);
        let daemon = scene.env.try_daemon(&mut command).unwrap();
        let mut ids = Vec::new();
        for _ in 0..3 {
            let _ = fs::remove_file(scene.env.state().join("homes/a/again"));
            let id = scene.run("a", "p");
            scene.printed(&id);
            running(&scene.env, &id);
            ids.push(id);
        }
        daemon.kill_9();
        // One ends while nobody is there.
        scene.go(&ids[0]);
        for pid in processes_of(&ids[0]) {
            wait_gone(pid);
        }
        let daemon = scene.env.daemon();
        ended(&scene, &ids[0], "ready\nafter\n", "failed", versions);
        // One ends under the eyes of an agentd of another version.
        scene.go(&ids[1]);
        ended(&scene, &ids[1], "ready\nafter\n", "failed", versions);
        // One is asked for its end.
        scene
            .env
            .connect()
            .call("StopSession", json!({ "session_id": ids[2] }));
        ended(&scene, &ids[2], "ready\n", "cancelled", versions);
        scene.close(daemon);
    }
}

#[test]
fn what_a_newer_supervisor_has_written_is_read_as_far_as_it_is_understood() {
    let scene = Scene::bare(false);
    scene.declare("", &[scene.agent("a", WAITS, "")]);
    let daemon = scene.env.daemon();
    let id = scene.run("a", "p");
    scene.printed(&id);
    daemon.kill_9();
    scene.go(&id);
    for pid in processes_of(&id) {
        wait_gone(pid);
    }
    let path = scene.env.state().join("sessions").join(&id).join("records.jsonl");
    let mut seq = 0;
    let mut written = String::new();
    for line in fs::read_to_string(&path).unwrap().lines() {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record["color"] = json!({ "of": ["the", "sky"] });
        if record["what"] == "intent" {
            record["version"] = 9.into();
        }
        for mut record in [
            json!({ "wall_ms": record["wall_ms"], "what": "danced", "with": [1, { "more": null }] }),
            record,
        ] {
            seq += 1;
            record["seq"] = seq.into();
            written += &format!("{record}\n");
        }
    }
    fs::write(&path, written).unwrap();
    let daemon = scene.env.daemon();
    ended(&scene, &id, "ready\nafter\n", "failed", "newer records");
    let session = show(&mut scene.env.connect(), &id);
    assert_eq!(session["outcome"]["exit_code"], 4, "{session}");
    scene.close(daemon);
}
