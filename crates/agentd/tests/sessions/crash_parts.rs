//! Whatever a session consists of besides agentd is killed: its supervisor, its container's monitor, its container.

use crate::crash_scene::{Scene, WAITS, over, show, supervisor};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Supervisor,
    Monitor,
    Container,
}

impl Part {
    fn kill(self, scene: &Scene, id: &str) {
        match self {
            Self::Supervisor => kill(Pid::from_raw(supervisor(id)), Signal::SIGKILL).unwrap(),
            Self::Monitor => {
                let file = scene.env.state().join("sessions").join(id).join("monitor.pid");
                let pid = fs::read_to_string(file).unwrap().trim().parse().unwrap();
                kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            }
            Self::Container => {
                let podman = scene.podman.as_ref().unwrap();
                let ours = format!("label=agentd.session={id}");
                let found = podman.ok(&["ps", "--quiet", "--filter", &ours]);
                let found = if found.is_empty() {
                    podman.ok(&["ps", "--quiet", "--filter", &format!("name={id}")])
                } else {
                    found
                };
                podman.ok(&["rm", "--force", "--time", "0", found.trim()]);
            }
        }
    }

    /// How such a session ends.
    fn outcome(self) -> &'static str {
        match self {
            Self::Supervisor | Self::Monitor => "lost",
            // Podman kills what is in it, and that is what happened.
            Self::Container => "crashed",
        }
    }
}

/// The part of a session of a node's is killed while another session runs; the node gets its second attempt.
fn killed(scene: &Scene, part: Part, while_dead: bool) {
    let case = format!("{part:?}, agentd dead: {while_dead}");
    let _ = fs::remove_file(scene.env.state().join("homes/a/again"));
    let _ = fs::remove_file(scene.env.state().join("homes/b/again"));
    let mut daemon = scene.env.daemon();
    let mut wire = scene.env.connect();
    let other = scene.run("b", "p");
    scene.printed(&other);
    let node = json!({ "work": { "kind": "agent", "agent": "a" }, "retry": { "max_attempts": 2 } });
    let mut journal = scene.env.connect();
    journal.call("SubscribeJournal", json!({ "action_types": ["SESSION_QUEUED"] }));
    let task = wire.call("RegisterTask", json!({ "goal": case, "initial_nodes": [node] }));
    journal.line().unwrap();
    let sessions = |wire: &mut crate::support::Wire| -> Vec<Value> {
        let list = wire.call("ListSessions", json!({ "task_id": task["task_id"] }));
        list["sessions"].as_array().unwrap().clone()
    };
    let first = sessions(&mut wire)[0]["id"].as_str().unwrap().to_owned();
    scene.printed(&first);
    if while_dead {
        daemon.kill_9();
        part.kill(scene, &first);
        daemon = scene.env.daemon();
        wire = scene.env.connect();
    } else {
        part.kill(scene, &first);
    }
    let ended = json!({ "from_seq": 1, "task_id": task["task_id"], "action_types": ["COMPLETE_NODE"] });
    let mut journal = scene.env.connect();
    journal.call("SubscribeJournal", ended);
    journal.line().unwrap();
    for session in sessions(&mut wire) {
        over(&mut wire, session["id"].as_str().unwrap());
        scene.nothing_is_left(session["id"].as_str().unwrap(), &case);
    }
    let reasons: Vec<_> = sessions(&mut wire)
        .iter()
        .map(|session| session["outcome"]["reason"].clone())
        .collect();
    assert_eq!(reasons, ["completed", part.outcome()], "{case}");
    assert_eq!(over(&mut wire, &first).stdout, b"ready\n", "{case}");
    // Nothing has happened to the other one.
    assert_eq!(show(&mut wire, &other)["phase"], "RUNNING", "{case}");
    scene.go(&other);
    assert_eq!(over(&mut wire, &other).stdout, b"ready\nafter\n", "{case}");
    let outcome = &show(&mut wire, &other)["outcome"];
    assert_eq!(
        (&outcome["reason"], &outcome["exit_code"]),
        (&json!("failed"), &json!(4))
    );
    scene.nothing_is_left(&other, &case);
    daemon.stop();
}

fn each(in_podman: bool, parts: &[Part]) {
    let scene = Scene::bare(in_podman);
    scene.declare("", &[scene.agent("a", WAITS, ""), scene.agent("b", WAITS, "")]);
    for part in parts {
        for while_dead in [false, true] {
            killed(&scene, *part, while_dead);
        }
    }
    let daemon = scene.env.daemon();
    scene.close(daemon);
}

#[test]
fn a_process_whose_supervisor_is_killed_is_lost_and_others_go_on() {
    each(false, &[Part::Supervisor]);
}

#[test]
fn a_container_whose_parts_are_killed_has_a_clear_outcome_and_others_go_on() {
    each(true, &[Part::Supervisor, Part::Monitor, Part::Container]);
}
