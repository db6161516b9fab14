//! From an agent's end to the moment at which everybody can know of it: it is in the journal, on disk, and told.

use crate::measure::{histogram, percentiles};
use crate::site::{Site, Told, agent};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Write;
use std::time::Instant;

/// Waits for a word, and ends: a shell that needs no other program for that. `mkfifo` is the shell's to find.
const WAITING: &str = "$1 mkfifo -m 666 $AGENTD_RUN_DIR/go && echo ready && read word < $AGENTD_RUN_DIR/go";

pub(crate) fn noticed(quick: bool) -> Value {
    let site = Site::new(true);
    let shell = |mkfifo: &'static str| ["/bin/sh", "-c", WAITING, "sh", mkfifo];
    let agents = [
        agent("podman", "podman", &shell("/bin/busybox"), ""),
        agent("process", "process", &shell("/usr/bin/env"), ""),
    ];
    site.declare(&agents.concat());
    let daemon = site.env.daemon();
    let mut told = Told::new(&daemon);
    let mut report = Map::new();
    for runtime in ["process", "podman"] {
        let [mut noticed, mut over] = [(); 2].map(|()| histogram());
        for _ in 0..if quick { 8 } else { 40 } {
            let session = told.begin(runtime);
            let read = serde_json::json!({ "session_id": session, "wait_secs": 30 });
            // Until it has printed something.
            while told.wire.call("ReadTranscript", read.clone())["chunks"]
                .as_array()
                .is_none_or(Vec::is_empty)
            {}
            let fifo = site.env.state().join("sessions").join(&session).join("run/go");
            // Opened before the clock starts: the agent's shell waits in its own call.
            let mut fifo = File::options().write(true).open(fifo).unwrap();
            let begun = Instant::now();
            fifo.write_all(b"go\n").unwrap();
            told.wait(&session, "SESSION_PHASE", Some("TEARDOWN"));
            noticed.saturating_record(begun.elapsed().as_nanos() as u64);
            told.wait(&session, "SESSION_ENDED", None);
            over.saturating_record(begun.elapsed().as_nanos() as u64);
            assert_eq!(told.outcome(&session), "completed");
        }
        report.insert(format!("{runtime}_told"), percentiles(&noticed));
        report.insert(format!("{runtime}_ended"), percentiles(&over));
    }
    report.insert("fdatasync".into(), site.fsync_shown());
    daemon.stop();
    report.into()
}
