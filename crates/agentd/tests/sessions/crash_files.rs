//! A session's files are found half-written, as after the machine went down, or are gone.

use crate::crash_scene::{Asked, For, Scene, WAITS, over, running, show, supervisor};
use crate::support::wait_gone;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;

/// What is done to the session's directory, with agentd dead and the supervisor killed; the outcome, and what its
/// message says.
type Case = (&'static str, fn(&Path), &'static str, &'static str);

fn append(dir: &Path, bytes: &[u8]) {
    let mut text = fs::read(dir.join("records.jsonl")).unwrap();
    text.extend(bytes);
    fs::write(dir.join("records.jsonl"), text).unwrap();
}

const CASES: &[Case] = &[
    (
        "a torn record",
        |dir| append(dir, br#"{"seq":3,"wall_ms":1,"what":"exi"#),
        "lost",
        "was killed",
    ),
    (
        "zeroes, as file systems leave them",
        |dir| append(dir, &[0; 4096]),
        "lost",
        "was killed",
    ),
    (
        "no end after the exit",
        |dir| {
            append(
                dir,
                b"{\"seq\":3,\"wall_ms\":99999999999999,\"what\":\"exited\",\"code\":7}\n{\"seq\":4,",
            );
        },
        "failed",
        "",
    ),
    (
        "no records",
        |dir| fs::remove_file(dir.join("records.jsonl")).unwrap(),
        "lost",
        "records are gone",
    ),
    (
        "records that are none",
        |dir| fs::write(dir.join("records.jsonl"), vec![b'\n'; 5 << 20]).unwrap(),
        "lost",
        "cannot be read",
    ),
    (
        "a directory instead of records",
        |dir| {
            fs::remove_file(dir.join("records.jsonl")).unwrap();
            fs::create_dir(dir.join("records.jsonl")).unwrap();
        },
        "lost",
        "cannot be read",
    ),
    (
        "half of its orders, and a transcript that is none",
        |dir| {
            fs::write(dir.join("spec.json"), "{\"version\":1,\"sess").unwrap();
            for entry in fs::read_dir(dir.join("transcript")).unwrap() {
                let path = entry.unwrap().path();
                let text = fs::read(&path).unwrap();
                fs::write(path, &text[..text.len() / 2]).unwrap();
            }
        },
        "lost",
        "was killed",
    ),
    (
        "nothing at all",
        |dir| fs::remove_dir_all(dir).unwrap(),
        "lost",
        "records are gone",
    ),
];

#[test]
fn half_written_files_have_a_clear_outcome() {
    let scene = Scene::bare(false);
    scene.declare("", &[scene.agent("a", WAITS, "")]);
    for (case, damage, reason, message) in CASES {
        let _ = fs::remove_file(scene.env.state().join("homes/a/again"));
        let daemon = scene.env.daemon();
        let id = scene.run("a", "p");
        scene.printed(&id);
        // Before that, what has no records has not begun.
        running(&scene.env, &id);
        daemon.kill_9();
        let pid = supervisor(&id);
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        wait_gone(pid);
        damage(&scene.env.state().join("sessions").join(&id));
        let daemon = scene.env.daemon();
        let mut wire = scene.env.connect();
        over(&mut wire, &id);
        let session = show(&mut wire, &id);
        let outcome = &session["outcome"];
        assert_eq!(outcome["reason"], *reason, "{case}: {session}");
        let said = outcome["message"].as_str().unwrap_or_default();
        assert!(said.contains(message), "{case}: {session}");
        scene.nothing_is_left(&id, case);
        let log = daemon.stop();
        assert!(!log.contains("panicked"), "{case}: {log}");
    }
}

#[test]
fn orders_that_were_not_wholly_written_are_written_anew() {
    let scene = Scene::new(false);
    for (number, of) in [For::Hand, For::Node].into_iter().enumerate() {
        let asked = Asked {
            agent: "a",
            prompt: format!("orders {number}"),
            of,
        };
        scene.dies_at("starting", |scene| _ = scene.ask(&asked));
        for entry in fs::read_dir(scene.env.state().join("sessions")).unwrap() {
            let spec = entry.unwrap().path().join("spec.json");
            if let Ok(text) = fs::read(&spec) {
                fs::write(&spec, &text[..text.len() / 2]).unwrap();
            }
        }
        let daemon = scene.env.daemon();
        scene.completes(&asked, "half of its orders");
        daemon.stop();
    }
}
