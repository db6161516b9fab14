//! The daemon, or the command that does it without one, is killed during a backup, a restore or a pruning.

use crate::chance::{Chance, a_moment, rounds};
use crate::kills::{clients, until_killed};
use crate::load::{Style, Tasks};
use crate::record::Record;
use crate::support::TestEnvironment;
use crate::wire::{Ask, Peer};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::time::Duration;

const STYLE: Style = Style {
    short_leases: false,
    payload_bytes_max: 200_000,
};

/// A home with some megabytes of work in it, and no daemon.
fn worked(chance: &mut Chance) -> TestEnvironment {
    let env = TestEnvironment::new();
    let mut clients = clients(chance, STYLE);
    until_killed(&env, env.daemon(), &mut clients, &Tasks::default(), 1500);
    env
}

fn record(env: &TestEnvironment) -> Record {
    let daemon = env.daemon();
    let mut peer = Peer::connect(&env.socket()).unwrap();
    let mut record = Record::default();
    record.agrees_with_all_of(&mut peer);
    drop(peer);
    daemon.stop();
    record
}

fn leftovers(env: &TestEnvironment) -> Vec<String> {
    let names = fs::read_dir(env.state()).unwrap().flatten();
    names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("restore"))
        .collect()
}

/// Runs `agentd db …` and kills it, or the daemon that does it, at some moment.
fn interrupted(env: &TestEnvironment, chance: &mut Chance, args: &[&str], most_us: u64) {
    let wait = Duration::from_micros(chance.next() % most_us);
    if chance.percent(60) {
        let daemon = env.daemon();
        let _asking = env.spawn(args);
        a_moment(wait);
        daemon.kill_9();
    } else {
        let mut alone = env.spawn(args);
        a_moment(wait);
        alone.kill_9();
    }
}

#[test]
fn a_backup_is_whole_or_not_there() {
    let mut chance = Chance::new("backups");
    let env = worked(&mut chance);
    let before = record(&env);
    let (rounds, mut whole) = (rounds(10), 0);
    for round in 0..rounds {
        let path = env.path(&format!("backup-{round}.db"));
        interrupted(
            &env,
            &mut chance,
            &["db", "backup", path.to_str().unwrap()],
            60_000,
        );
        if path.exists() {
            whole += 1;
            let copy = TestEnvironment::new();
            copy.ok(&["db", "restore", path.to_str().unwrap()]);
            assert_eq!(copy.json(&["db", "check"])["ok"], true);
        }
    }
    let after = record(&env);
    before.is_beginning_of(&after);
    println!("backups: {rounds} interrupted, {whole} of them whole, the others not there");
}

#[test]
fn a_restore_is_done_or_not() {
    let mut chance = Chance::new("restores");
    let env = worked(&mut chance);
    let backup = env.path("backup.db");
    env.ok(&["db", "backup", backup.to_str().unwrap()]);
    let kept = record(&env);
    let (rounds, mut restored) = (rounds(10), 0);
    for _ in 0..rounds {
        let mut more = clients(&mut chance, STYLE);
        until_killed(&env, env.daemon(), &mut more, &Tasks::default(), 100);
        let before = record(&env);
        interrupted(
            &env,
            &mut chance,
            &["db", "restore", backup.to_str().unwrap()],
            100_000,
        );
        let daemon = env.daemon();
        let mut peer = Peer::connect(&env.socket()).unwrap();
        assert_eq!(peer.ask("CheckDatabase", json!({})).done()["ok"], true);
        let mut after = Record::default();
        after.read_on(&mut peer);
        if after
            .entries
            .iter()
            .any(|entry| entry["action_type"] == "RESTORE_DATABASE")
            && after.last_seq() > before.last_seq()
        {
            restored += 1;
            // All of the backup, then the restoring, with a number above all before.
            kept.is_beginning_of(&after);
            assert_eq!(
                after.entries[kept.entries.len()]["action_type"],
                "RESTORE_DATABASE"
            );
            assert!(after.entries[kept.entries.len()]["seq"].as_i64().unwrap() > before.last_seq());
        } else {
            before.is_beginning_of(&after);
        }
        after.agrees_with_all_of(&mut peer);
        drop(peer);
        daemon.stop();
        assert!(leftovers(&env).is_empty(), "{:?}", leftovers(&env));
    }
    println!("restores: {rounds} interrupted, {restored} of them done");
}

#[test]
fn a_lease_from_before_a_restore_is_over() {
    let env = TestEnvironment::new();
    let daemon = env.daemon();
    let mut wire = env.connect();
    wire.call("RegisterTask", json!({ "goal": "g", "initial_nodes": [{}] }));
    let held = wire.call("AcquireNextNode", json!({ "lease_secs": 3600 }));
    let lock = wire.call(
        "AcquireResourceLock",
        json!({ "resource_key": "k", "ttl_secs": 3600 }),
    );
    let backup = env.path("backup.db");
    let of = |path: &Path| json!({ "path": path });
    wire.call("BackupDatabase", of(&backup));
    let complete = json!({ "task_id": held["task_id"], "node_id": held["node_id"], "lease_id": held["lease_id"],
        "result_payload": 1 });
    wire.call("CompleteNode", complete.clone());
    wire.call("RestoreDatabase", of(&backup));
    let error = wire.error("CompleteNode", complete);
    assert_eq!(error["data"]["reason"], "stale_lease", "{error}");
    let again = wire.call("AcquireNextNode", json!({ "wait_secs": 10 }));
    assert!(again["fence"].as_i64() > held["fence"].as_i64());
    let error = wire.error(
        "HeartbeatResourceLock",
        json!({ "resource_key": "k", "lease_id": lock["lease_id"] }),
    );
    assert_eq!(error["data"]["reason"], "stale_lock", "{error}");
    let next = wire.call("AcquireResourceLock", json!({ "resource_key": "k" }));
    assert!(next["fence"].as_i64() > lock["fence"].as_i64());
    let mut peer = Peer::connect(&env.socket()).unwrap();
    Record::default().agrees_with_all_of(&mut peer);
    drop((peer, wire));
    daemon.stop();
}

#[test]
fn a_pruning_goes_on_where_it_stopped() {
    let mut chance = Chance::new("prunings");
    let rounds = rounds(5);
    for _ in 0..rounds {
        let env = TestEnvironment::new();
        let daemon = env.daemon();
        let mut wire = env.connect();
        let mut tasks = Vec::new();
        for _ in 0..6 {
            let nodes = vec![json!({}); 1200];
            let task =
                wire.call("RegisterTask", json!({ "goal": "g", "initial_nodes": nodes }))["task_id"].take();
            tasks.push(task);
        }
        // The last one stays.
        for task in &tasks[..5] {
            wire.call("CancelTask", json!({ "task_id": task }));
        }
        let mut asking = Peer::connect(&env.socket()).unwrap();
        let pruning = std::thread::spawn(move || asking.ask("PruneTasks", json!({ "older_than_secs": 0 })));
        a_moment(Duration::from_micros(chance.next() % 150_000));
        daemon.kill_9();
        let _ = pruning.join().unwrap();
        // A task is there with everything, or is gone.
        let daemon = env.daemon();
        let mut peer = Peer::connect(&env.socket()).unwrap();
        assert_eq!(peer.ask("CheckDatabase", json!({})).done()["ok"], true);
        for (at, task) in tasks.iter().enumerate() {
            let status = peer.ask("TaskStatus", json!({ "task_id": task, "limit": 1 }));
            match status.reason() {
                Some("task_pruned") => assert!(at < 5),
                _ => assert_eq!(
                    status.done()["counts"][if at < 5 { "FAILED" } else { "PENDING" }],
                    1200
                ),
            }
        }
        peer.ask("PruneTasks", json!({ "older_than_secs": 0 })).done();
        let checked = peer.ask("CheckDatabase", json!({})).done();
        assert_eq!(
            (&checked["ok"], &checked["tasks"], &checked["nodes"]),
            (&json!(true), &json!(6), &json!(1200)),
            "{checked}"
        );
        drop((peer, wire));
        daemon.stop();
    }
    println!("prunings: {rounds} interrupted");
}
