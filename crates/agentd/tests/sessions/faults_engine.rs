//! Podman hangs, fails, and talks nonsense.

use crate::site::{Site, WAIT, contained, outcome, plain, processes};
use crate::support::{code, shown};
use serde_json::json;
use std::fs;

/// An agent that can be told from all others on the machine.
const SLEEPS: &str = "echo ready; exec sleep 98765.1";

#[test]
fn an_engine_that_hangs_is_given_up_and_others_go_on() {
    let site = Site::new(
        "setup_timeout = \"8s\"\n",
        &[
            contained(
                "keeps",
                &format!("echo ready; {WAIT}; echo went on"),
                "max_sessions = 2",
            ),
            contained("hangs", SLEEPS, "max_sessions = 2"),
            contained(
                "stops",
                "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.1; done",
                "grace_period = \"3s\"",
            ),
            contained(
                "stubborn",
                "trap '' TERM; echo ready; while :; do sleep 0.1; done",
                "",
            ),
            plain("other", "echo fine", ""),
        ],
    );
    let keeps = site.detached("keeps");
    let stops = site.detached("stops");
    let stubborn = site.detached("stubborn");
    let mut outputs = [&keeps, &stops, &stubborn].map(|id| site.follow(id));
    for output in &mut outputs {
        output.wait_stdout("ready");
    }

    // A removal that does not come back holds up its own session, and no other.
    let released = site.env.path("released");
    let hang = format!(
        "told rm; until [ -e '{}' ]; do sleep 0.1; done",
        released.display()
    );
    site.spoil("rm", &hang);
    site.env
        .ok(&["sessions", "stop", "--now", "--no-wait", &stubborn]);
    assert_eq!(site.told(), "rm");
    assert_eq!(site.show(&stubborn)["phase"], "TEARDOWN");

    // Neither does one that is asked to start something, before it has and after it has.
    site.spoil("run", "told before; exec sleep 600");
    let before = site.detached("hangs");
    assert_eq!(site.told(), "before");
    site.spoil("run", "podman \"$@\"; told after; exec sleep 600");
    let after = site.detached("hangs");
    assert_eq!(site.told(), "after");

    // What the engine does not pass on is sent all the same.
    site.spoil("kill", "told kill; exec sleep 600");
    site.env.ok(&["sessions", "stop", "--no-wait", &stops]);
    assert_eq!(site.told(), "kill");

    // Meanwhile.
    assert_eq!(site.env.ok(&["run", "other"]), "fine\n");
    let second = site.detached("keeps");
    site.follow(&second).wait_stdout("ready");
    site.go(&second);
    assert_eq!(outcome(&site.ended(&second)).0, "completed");

    let (reason, _, message) = outcome(&site.ended(&stops));
    assert_eq!((&*reason, &*message), ("cancelled", "somebody asked for it"));
    outputs[1].wait_stdout("bye");
    for id in [&before, &after] {
        let (reason, _, message) = outcome(&site.ended(id));
        assert_eq!(reason, "setup_failed", "{message}");
        assert!(
            message.contains(" run ") && message.contains("8 seconds"),
            "{message}"
        );
        let logs = site.env.ok(&["sessions", "logs", id]);
        assert!(logs.is_empty() || id == &after, "{logs}");
    }
    let sleepers = || processes(|line| line == b"sleep\0" as &[u8] || line.ends_with(b"98765.1\0"));
    assert_eq!(
        sleepers(),
        [0; 0],
        "the agent of a start that was given up runs on"
    );
    fs::write(released, "").unwrap();
    assert_eq!(outcome(&site.ended(&stubborn)).0, "cancelled");
    site.go(&keeps);
    assert_eq!(outcome(&site.ended(&keeps)).0, "completed");
    outputs[0].wait_stdout("went on");
    site.assert_nothing_is_left();
}

#[test]
fn an_engine_that_says_nothing_of_itself_holds_up_its_own_sessions_alone() {
    let mut site = Site::new(
        "setup_timeout = \"1s\"\n",
        &[contained("a", "echo fine", ""), plain("other", "echo fine", "")],
    );
    site.spoil("info", "told info; exec sleep 600");
    let waits = site.detached("a");
    assert_eq!(site.told(), "info");
    assert_eq!(site.env.ok(&["run", "other"]), "fine\n");
    let session = site.ended(&waits);
    let (reason, _, message) = outcome(&session);
    assert_eq!(reason, "setup_failed");
    // Which step it was, and how long it was waited for.
    assert!(
        message.contains("runtime") && message.contains("1 seconds"),
        "{message}"
    );
    // It is asked again.
    site.stop();
    site.declare("", &[contained("a", "echo fine", "")]);
    site.start();
    assert_eq!(site.env.ok(&["run", "a"]), "fine\n");
    site.assert_nothing_is_left();
}

#[test]
fn an_engine_that_fails_or_raves_gives_a_clear_outcome() {
    let site = Site::new(
        "",
        &[
            contained("a", "echo begun", ""),
            contained("missing", "true", "").replace("agent:1", "nothing:1"),
            contained("waits", &format!("echo ready; {WAIT}"), ""),
        ],
    );
    let refuse = "echo 'warning: something' >&2; echo 'Error: the storage is broken' >&2; exit 125";
    for (word, script, said) in [
        ("info", refuse, "the storage is broken"),
        ("info", "head -c 5000000 /dev/zero; exit 0", "4194304 bytes"),
        (
            "info",
            "head -c 1000 /dev/urandom; exit 0",
            "cannot be understood",
        ),
        ("info", "echo '{\"host\": 7}'; exit 0", "cannot be understood"),
        ("info", "kill -9 $$", "signal: 9"),
    ] {
        site.spoil(word, script);
        let output = site.env.run(&["run", "a"]);
        assert_eq!(code(output.status), 125, "{script}: {}", shown(&output));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(site.is_spent(word), "{script}");
        assert!(
            stderr.contains("set-up failed") && stderr.contains(said),
            "{script}: {stderr}"
        );
        assert!(stderr.len() < 2000, "{script}: {stderr}");
    }

    let waits = site.detached("waits");
    site.follow(&waits).wait_stdout("ready");
    for (word, script, said) in [
        ("run", refuse, "the storage is broken"),
        ("run", "head -c 5000000 /dev/urandom >&2; exit 125", "failed"),
        ("run", "exit 0", "did not say which processes it started"),
        ("run", "echo no-such-word-2; kill -9 $$", "signal 9"),
    ] {
        site.spoil(word, script);
        // What is asked afterwards goes wrong as well, once.
        site.spoil("ps", "head -c 100000 /dev/urandom; echo 'a|b|c'; exit 0");
        let output = site.env.run(&["run", "a"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(code(output.status), 125, "{script}: {stderr}");
        assert!(site.is_spent(word), "{script}");
        assert!(stderr.contains(said), "{script}: {stderr}");
        assert!(
            !stderr.contains("begun") && output.stdout.is_empty(),
            "{}",
            shown(&output)
        );
        assert!(stderr.len() < 5000, "{script}: {stderr}");
    }
    // Nothing can be asked of it when it is over: that is told, and is the outcome of nothing.
    site.spoil("run", "exit 1");
    site.spoil("ps", refuse);
    let stderr = site.env.fails(125, &["run", "a"]);
    assert!(
        stderr.contains("may still be there") && stderr.contains("storage is broken"),
        "{stderr}"
    );

    let output = site.env.run(&["run", "missing"]);
    assert_eq!(code(output.status), 125);
    let stderr = String::from_utf8_lossy(&output.stderr);
    for part in ["localhost/nothing:1", "image not known", "set-up failed"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }

    assert_eq!(site.env.ok(&["run", "a"]), "begun\n");
    site.go(&waits);
    assert_eq!(
        outcome(&site.ended(&waits)),
        ("completed".into(), json!(0), String::new())
    );
    site.assert_nothing_is_left();
}
