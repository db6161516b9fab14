//! The wall clock is set while a supervisor is at work.

use crate::support::{BINARY, Session, exited};
use agentd_supervisor::record::{Record, StopCause, What};
use agentd_supervisor::spawn::spawn;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const DAYS_MS: i64 = 400 * 24 * 3600 * 1000;

/// Starts a session whose supervisor's wall clock shows as many seconds more as the file `clock` says.
fn start(session: &Session) {
    let library = session.path("clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../agentd/tests/sessions/clock.c");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(source);
    assert!(cc.status().unwrap().success());
    fs::write(session.path("clock"), "0").unwrap();
    let variables = [
        ("LD_PRELOAD", library),
        ("AGENTD_TEST_CLOCK", session.path("clock")),
    ];
    let mut arguments: Vec<_> = variables
        .map(|(name, value)| format!("{name}={}", value.display()).into())
        .into();
    arguments.push(BINARY.into());
    session.write_spec();
    // It gives a supervisor no environment of its own.
    drop(spawn(Path::new("/usr/bin/env"), &arguments, &session.dir).unwrap());
}

#[tokio::test]
async fn a_clock_that_is_set_neither_ends_an_agent_nor_keeps_it() {
    // Ahead and back again, far more than any of its times.
    for (first, then) in [(400, -400), (-400, 400)] {
        // It is the agent that sets it, so it is set while it runs, and again while it is being ended.
        let set = |days: i64| format!("echo {} >clock.new; mv clock.new clock; ", days * 24 * 3600);
        let mut session = Session::sh(&format!(
            "{}trap '{}echo bye' TERM; while :; do sleep 0.05; done",
            set(first),
            set(then)
        ));
        session.spec.timeout_ms = Some(1000);
        session.spec.grace_ms = 500;
        let begun = Instant::now();
        start(&session);
        let records = session.ended().await;
        let took = begun.elapsed();
        assert!(
            took >= Duration::from_millis(1500) && took < Duration::from_secs(20),
            "{took:?}"
        );
        let end = exited(&records);
        assert_eq!((end.signal, end.stop), (Some(9), Some(StopCause::Timeout)));
        assert!(session.text().contains("bye"));
        // It did see another time.
        let wall = |meant: fn(&What) -> bool| {
            let found = records.iter().find(|record: &&Record| meant(&record.what));
            found.unwrap().wall_ms
        };
        let between =
            wall(|what| matches!(what, What::Exited(_))) - wall(|what| matches!(what, What::Stopping { .. }));
        assert!(between.abs() > DAYS_MS, "{between} ms");
    }
}
