//! `agentd task run` is killed at any moment: the same command goes on, runs nothing that was completed a second time,
//! and leaves nobody behind.

use crate::chance::{Chance, a_moment, rounds};
use crate::record::Record;
use crate::support::{Running, TestEnvironment, shown};
use crate::wire::Peer;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

/// Two levels of fan-out and a join. Every command notes its beginning under its fence, that it was alone, and its end;
/// the middle ones take a while and leave processes behind, one of them in a session of its own.
const PLAN: &str = r#"
goal = "marks"
result = "join"

[env]
MARK_OF_THE_TEST = "@"

[[nodes]]
name = "root"
run = ". ./begin.sh; end"
[[nodes]]
name = "left"
needs = ["root"]
run = ". ./begin.sh; sleep 600 & setsid sleep 600 & sleep 0.3; end"
[[nodes]]
name = "right"
needs = ["root"]
run = ". ./begin.sh; sleep 0.1; end"
[[nodes]]
name = "last"
needs = ["left"]
run = ". ./begin.sh; sleep 600 & end"
[[nodes]]
name = "join"
needs = ["last", "right"]
run = ". ./begin.sh; end"
"#;

/// What runs in the background inherits the lock: it is somebody, too.
const BEGIN: &str = r#"
exec 9>"alone-$AGENTD_NODE_NAME"
flock -n 9 || echo "$AGENTD_NODE_NAME" >> together
echo "$AGENTD_NODE_NAME $AGENTD_FENCE" >> begun
end() { echo "$AGENTD_NODE_NAME $AGENTD_FENCE" >> ended; echo done; }
"#;

const RUN: [&str; 3] = ["task", "run", "plan.toml"];

fn environment(mark: &str) -> TestEnvironment {
    let env = TestEnvironment::new();
    env.write("plan.toml", &PLAN.replace('@', mark));
    env.write("begin.sh", BEGIN);
    env
}

/// Processes that carry the mark in their environment.
fn marked(mark: &str) -> Vec<i32> {
    let wanted = format!("MARK_OF_THE_TEST={mark}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environ
            .split(|byte| *byte == 0)
            .any(|one| one == wanted.as_bytes())
        {
            found.push(pid);
        }
    }
    found
}

/// Of all its threads: a process is the child of the one that started it.
fn children(of: Pid) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{of}/task"))
        .into_iter()
        .flatten()
        .flatten();
    threads
        .flat_map(|thread| {
            let listed = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let pids: Vec<i32> = listed
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect();
            pids
        })
        .map(Pid::from_raw)
        .collect()
}

fn pairs(env: &TestEnvironment, file: &str) -> Vec<(String, i64)> {
    let text = fs::read_to_string(env.path(file)).unwrap_or_default();
    text.lines()
        .map(|line| {
            let (name, fence) = line.split_once(' ').unwrap();
            (name.to_owned(), fence.parse().unwrap())
        })
        .collect()
}

/// What must hold when the last run has ended well.
#[track_caller]
fn nothing_twice(env: &TestEnvironment, mark: &str) {
    let began = Instant::now();
    while !marked(mark).is_empty() {
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "left behind: {:?}",
            marked(mark)
        );
        a_moment(Duration::from_millis(10));
    }
    assert!(
        !env.path("together").exists(),
        "two at once: {}",
        fs::read_to_string(env.path("together")).unwrap()
    );
    // The journal: every transition is checked as it is read, so that nothing completes twice or runs afterwards.
    let daemon = env.daemon();
    let mut peer = Peer::connect(&env.socket()).unwrap();
    let mut record = Record::default();
    record.agrees_with(&mut peer);
    drop(peer);
    daemon.stop();
    assert!(record.tasks() > 0);
    assert_eq!(record.completed(), 5 * record.tasks());
    let mut granted: HashMap<i64, bool> = HashMap::new();
    let mut holders: HashMap<&str, i64> = HashMap::new();
    for entry in &record.entries {
        let seq = entry["seq"].as_i64().unwrap();
        match (entry["action_type"].as_str().unwrap(), entry["node_id"].as_str()) {
            ("ACQUIRE_NODE", Some(node)) => {
                granted.insert(seq, false);
                holders.insert(node, seq);
            }
            ("COMPLETE_NODE", Some(node)) => drop(granted.insert(holders[node], true)),
            _ => {}
        }
    }
    // The commands: each run had a lease of its own, and every completed one has run to its end.
    let mut seen = HashSet::new();
    for (name, fence) in pairs(env, "begun") {
        assert!(seen.insert(fence), "{name} began twice with fence {fence}");
        assert!(
            granted.contains_key(&fence),
            "{name} began without a lease: {fence}"
        );
    }
    let ended: HashSet<i64> = pairs(env, "ended").into_iter().map(|(_, fence)| fence).collect();
    for (fence, completed) in granted {
        assert!(
            !completed || ended.contains(&fence),
            "completed and not run: {fence}"
        );
    }
}

#[track_caller]
fn ends_well(run: Running, within: Duration) -> Duration {
    let began = Instant::now();
    let output = run.output();
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(output.stdout, b"done\n", "{}", shown(&output));
    assert!(
        began.elapsed() < within,
        "{:?}\n{}",
        began.elapsed(),
        shown(&output)
    );
    began.elapsed()
}

#[test]
fn a_run_killed_at_any_moment_goes_on() {
    let mut chance = Chance::new("runs");
    let mark = format!("runs-{:x}", chance.next());
    let env = environment(&mark);
    let (tasks, mut kills, mut with_supervisors, mut slowest) = (rounds(6), 0, 0, Duration::ZERO);
    for _ in 0..tasks {
        for _ in 0..8 {
            let mut run = env.spawn(&RUN);
            let most_us = if chance.percent(85) { 300_000 } else { 800_000 };
            a_moment(Duration::from_micros(chance.next() % most_us));
            if chance.percent(25) {
                // With whoever would have cleaned up after it.
                for child in children(run.pid()) {
                    with_supervisors += 1;
                    let _ = kill(child, Signal::SIGKILL);
                }
            }
            run.kill_9();
            kills += 1;
            if pairs(&env, "ended").iter().any(|(name, _)| name == "join") {
                // Perhaps completed; another one would start afresh.
                break;
            }
        }
        slowest = slowest.max(ends_well(env.spawn(&RUN), Duration::from_secs(20)));
        nothing_twice(&env, &mark);
        for name in ["begun", "ended"] {
            let _ = fs::remove_file(env.path(name));
        }
        fs::remove_dir_all(env.state()).unwrap();
    }
    println!(
        "runs: {kills} kills of {tasks} tasks, {with_supervisors} supervisors with them; the slowest continuation took {slowest:?}"
    );
}

#[test]
fn a_run_goes_on_when_its_daemon_is_killed() {
    let mut chance = Chance::new("daemon of a run");
    let mark = format!("daemon-{:x}", chance.next());
    let (tasks, mut restarted) = (rounds(3), 0);
    for _ in 0..tasks {
        let env = environment(&mark);
        let daemon = env.daemon();
        let run = env.spawn(&RUN);
        a_moment(Duration::from_micros(chance.next() % 400_000));
        daemon.kill_9();
        let daemon = chance.percent(50).then(|| {
            restarted += 1;
            env.try_daemon(&mut env.command(&["daemon"]))
        });
        ends_well(run, Duration::from_secs(20));
        if let Some(Ok(daemon)) = daemon {
            daemon.stop();
        }
        nothing_twice(&env, &mark);
    }
    println!("daemon of a run: {tasks} kills, {restarted} restarts");
}

#[test]
fn of_two_runs_the_other_goes_on() {
    let mut chance = Chance::new("two runs");
    let mark = format!("two-{:x}", chance.next());
    let (tasks, mut slowest) = (rounds(2), Duration::ZERO);
    for _ in 0..tasks {
        let env = environment(&mark);
        let mut first = env.spawn(&RUN);
        first.wait_stderr("start root");
        let second = env.spawn(&RUN);
        a_moment(Duration::from_micros(chance.next() % 300_000));
        first.kill_9();
        slowest = slowest.max(ends_well(second, Duration::from_secs(30)));
        nothing_twice(&env, &mark);
    }
    println!("two runs: {tasks} kills of the one that is the daemon; the slowest end came {slowest:?} later");
}
