//! Fifty sessions at once: that all of them succeed, how long they take, and what they cost in memory.

use crate::site::{Site, Told, agent, pss_kib, status, supervisors};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

const SESSIONS: usize = 50;

pub(crate) fn podman(_quick: bool) -> Value {
    at_once("podman")
}

pub(crate) fn process(_quick: bool) -> Value {
    at_once("process")
}

fn begin_all(told: &mut Told, agent: &str) -> BTreeSet<String> {
    (0..SESSIONS).map(|_| told.begin(agent)).collect()
}

fn at_once(runtime: &str) -> Value {
    let site = Site::new(runtime == "podman");
    let many = format!("max_sessions = {SESSIONS}");
    site.declare(&agent("a", runtime, &["/bin/true"], &many));
    let daemon = site.env.daemon();
    let mut told = Told::new(&daemon);
    let alone_ms = {
        told.whole("a");
        told.whole("a").as_secs_f64() * 1000.0
    };
    let begun = Instant::now();
    let sessions = begin_all(&mut told, "a");
    let accepted_ms = begun.elapsed().as_secs_f64() * 1000.0;
    let ended = told.all_ended(&sessions);
    let last = ended.iter().max().unwrap();
    let mut outcomes = BTreeMap::<String, u64>::new();
    for session in &sessions {
        *outcomes.entry(told.outcome(session)).or_default() += 1;
    }
    let report = json!({
        "sessions": SESSIONS,
        "outcomes": outcomes,
        "failed": SESSIONS as u64 - outcomes.get("completed").copied().unwrap_or_default(),
        "accepted_ms": accepted_ms,
        "wall_ms": last.duration_since(begun).as_secs_f64() * 1000.0,
        "one_alone_ms": alone_ms,
        "daemon_peak_kib": status(daemon.pid().as_raw(), "VmHWM:"),
        "fdatasync": site.fsync_shown(),
    });
    daemon.stop();
    report
}

/// What the daemon and the supervisors have in use while fifty run, and afterwards.
pub(crate) fn memory(_quick: bool) -> Value {
    let site = Site::new(false);
    let many = format!("max_sessions = {SESSIONS}\ngrace_period = \"1s\"");
    let waiting = [
        agent("true", "process", &["/bin/true"], ""),
        agent("a", "process", &["/bin/sleep", "3600"], &many),
    ];
    site.declare(&waiting.concat());
    let daemon = site.env.daemon();
    let pid = daemon.pid().as_raw();
    let mut told = Told::new(&daemon);
    // What the first sessions bring into memory is not theirs.
    for _ in 0..10 {
        told.whole("true");
    }
    // Its own pages: supervisors run the same program, and each takes over a part of what is shared.
    let own = || status(pid, "RssAnon:");
    let (before, before_pss) = (own(), pss_kib(pid));
    let sessions = begin_all(&mut told, "a");
    told.all_running(&sessions);
    let (with, with_pss) = (own(), pss_kib(pid));
    let of_supervisors: Vec<u64> = supervisors(&site.env.state()).into_iter().map(pss_kib).collect();
    assert_eq!(of_supervisors.len(), SESSIONS);
    for session in &sessions {
        told.wire.call("StopSession", json!({ "session_id": session }));
    }
    told.all_ended(&sessions);
    let alone = told.begin("a");
    told.all_running(&BTreeSet::from([alone.clone()]));
    let supervisor_alone: Vec<u64> = supervisors(&site.env.state()).into_iter().map(pss_kib).collect();
    told.wire.call("StopSession", json!({ "session_id": alone }));
    told.all_ended(&BTreeSet::from([alone]));
    let report = json!({
        "daemon_own_without_kib": before,
        "daemon_own_with_50_kib": with,
        "daemon_own_after_kib": own(),
        "daemon_pss_without_kib": before_pss,
        "daemon_pss_with_50_kib": with_pss,
        "per_session_kib": (with as f64 - before as f64) / SESSIONS as f64,
        "supervisor_kib_mean": of_supervisors.iter().sum::<u64>() as f64 / SESSIONS as f64,
        "supervisor_kib_max": of_supervisors.iter().max(),
        // It shares its program with the daemon alone.
        "supervisor_alone_kib": supervisor_alone.first(),
    });
    daemon.stop();
    report
}
