//! The disk is full, or fails, or may not be written: whoever asks is told so, and when it is well again all goes on.

use crate::chance::{Chance, rounds};
use crate::kills::clients;
use crate::load::{Heard, Style, Tasks};
use crate::record::Record;
use crate::support::{Daemon, TestEnvironment, finish, shown};
use crate::wire::{Ask, Peer};
use nix::unistd::Pid;
use serde_json::json;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Something that can be wrong with a disk, and right again.
trait Fault {
    fn begin(&self, daemon: Pid);
    fn end(&self, daemon: Pid);
}

/// No file may grow beyond what it is (EFBIG).
struct Limited;

impl Limited {
    fn set(daemon: Pid, bytes: Option<u64>) {
        let limit = rustix::process::Rlimit {
            current: bytes,
            maximum: None,
        };
        let pid = rustix::process::Pid::from_raw(daemon.as_raw());
        rustix::process::prlimit(pid, rustix::process::Resource::Fsize, limit).expect("our child's limits");
    }
}

impl Fault for Limited {
    fn begin(&self, daemon: Pid) {
        Self::set(daemon, Some(16 * 1024));
    }

    fn end(&self, daemon: Pid) {
        Self::set(daemon, None);
    }
}

/// What the library under the daemon makes fail: see `fault.c`.
struct Faked {
    flag: std::path::PathBuf,
    letter: &'static str,
}

impl Fault for Faked {
    fn begin(&self, _: Pid) {
        // Complete at once: half a flag would say nothing.
        let new = self.flag.with_extension("new");
        fs::write(&new, self.letter).unwrap();
        fs::rename(new, &self.flag).unwrap();
    }

    fn end(&self, _: Pid) {
        let _ = fs::remove_file(&self.flag);
    }
}

fn faked(env: &mut TestEnvironment, letter: &'static str) -> Faked {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/durability/fault.c");
    let library = env.path("fault.so");
    let mut cc = Command::new("cc");
    let output = finish(
        cc.args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(source)
            .arg("-ldl"),
    );
    assert!(output.status.success(), "{}", shown(&output));
    let flag = env.path("fault");
    env.set("LD_PRELOAD", library);
    env.set("AGENTD_TEST_FAULT", &flag);
    Faked { flag, letter }
}

const STYLE: Style = Style {
    short_leases: false,
    // Enough to pass checkpoints on the way.
    payload_bytes_max: 200_000,
};

/// Clients never stop; the disk does, again and again. In the end the daemon is killed, if asked for while it fails.
fn weather(what: &str, env: &TestEnvironment, fault: &dyn Fault, killed_in_it: bool) {
    let began = Instant::now();
    let mut chance = Chance::new(what);
    let mut clients = clients(&mut chance, STYLE);
    let (tasks, mut record) = (Tasks::default(), Record::default());
    let daemon = env.daemon();
    let socket = env.socket();
    let rounds = rounds(3);
    let (sender, receiver) = mpsc::channel();
    let mut daemon = Some(daemon);
    std::thread::scope(|scope| {
        for client in &mut clients {
            let (sender, socket, tasks) = (sender.clone(), &socket, &tasks);
            scope.spawn(move || client.work(socket, tasks, &sender));
        }
        drop(sender);
        let until = |wanted: Heard, mut times: usize| {
            while times > 0 {
                let heard = receiver
                    .recv_timeout(Duration::from_secs(60))
                    .expect("every request is answered");
                times -= usize::from(heard == wanted);
            }
        };
        for round in 0..rounds {
            let pid = daemon.as_ref().map(Daemon::pid).unwrap();
            until(Heard::Done, 100 + chance.below(300));
            fault.begin(pid);
            until(Heard::Storage, 30 + chance.below(60));
            // It is up, and can be asked.
            let mut peer = Peer::connect(&socket).unwrap();
            // Degraded, unless something small enough was written after the last failure.
            let health = peer.ask("Health", json!({})).done();
            assert!(["ok", "degraded"].contains(&health["status"].as_str().unwrap()));
            if killed_in_it && round + 1 == rounds {
                daemon.take().unwrap().kill_9();
            } else {
                fault.end(pid);
                // At once, without a restart.
                until(Heard::Done, 50);
            }
        }
        drop(receiver);
    });
    fault.end(Pid::this());
    if daemon.is_none() {
        daemon = Some(env.daemon());
    }
    let daemon = daemon.unwrap();
    let mut peer = Peer::connect(&socket).unwrap();
    assert_eq!(peer.ask("Health", json!({})).done()["status"], "ok");
    record.agrees_with_all_of(&mut peer);
    for client in &clients {
        client.facts.iter().for_each(|fact| record.holds(fact));
        if !killed_in_it {
            // What was answered with an error has not been done.
            for held in client.held() {
                let live = record.is_live(&held.node, held.fence, &held.task);
                assert!(live || record.is_cancelled(&held.task), "{held:?}");
            }
        }
    }
    drop(peer);
    daemon.stop();
    assert_eq!(env.json(&["db", "check"])["ok"], true);
    let sum = |of: fn(&crate::load::Client) -> usize| clients.iter().map(of).sum::<usize>();
    println!(
        "{what}: {rounds} times; {} acknowledged, {} answered with a storage error, {} repeated; {} entries; {:?}",
        sum(|client| client.acknowledged),
        sum(|client| client.storage),
        sum(|client| client.repeated),
        record.entries.len(),
        began.elapsed()
    );
}

#[test]
fn files_that_may_not_grow() {
    let env = TestEnvironment::new();
    weather("file size limit", &env, &Limited, false);
}

#[test]
fn a_full_disk_and_room_again() {
    let mut env = TestEnvironment::new();
    let fault = faked(&mut env, "w");
    weather("no space", &env, &fault, false);
}

#[test]
fn a_full_disk_and_a_kill() {
    let mut env = TestEnvironment::new();
    let fault = faked(&mut env, "w");
    weather("no space, and killed", &env, &fault, true);
}

#[test]
fn a_disk_that_does_not_sync() {
    let mut env = TestEnvironment::new();
    let fault = faked(&mut env, "s");
    weather("no sync", &env, &fault, false);
}

#[test]
fn a_disk_that_does_not_sync_and_a_kill() {
    let mut env = TestEnvironment::new();
    let fault = faked(&mut env, "s");
    weather("no sync, and killed", &env, &fault, true);
}

#[test]
fn an_error_of_the_disk_says_whose_fault_it_is() {
    let mut env = TestEnvironment::new();
    let fault = faked(&mut env, "w");
    let daemon = env.daemon();
    let mut wire = env.connect();
    fault.begin(daemon.pid());
    for method in ["RegisterTask", "AcquireResourceLock"] {
        let error = wire.error(method, json!({ "goal": "g", "resource_key": "k" }));
        assert_eq!(
            (&error["code"], &error["data"]["reason"]),
            (&json!(-32603), &json!("storage"))
        );
        assert!(error["message"].as_str().unwrap().contains("full"), "{error}");
    }
    fault.end(daemon.pid());
    wire.call("RegisterTask", json!({ "goal": "g" }));
    assert_eq!(env.json(&["db", "check"])["tasks"], 1);
    let log = daemon.stop();
    assert!(log.contains("could not be written"), "{log}");
}

#[test]
fn a_database_that_may_not_be_written() {
    let env = TestEnvironment::new();
    env.daemon().stop();
    // Whoever runs the tests as root may write everything; an ordinary user may not.
    let somebody = nix::unistd::geteuid().is_root().then_some(65_534);
    let program = env.path("agentd");
    if let Some(uid) = somebody {
        fs::copy(env!("CARGO_BIN_EXE_agentd"), &program).unwrap();
        for path in [
            env.home().parent().unwrap().to_owned(),
            env.home(),
            env.state(),
            env.database(),
            env.state().join("agent_state.db.lock"),
        ] {
            chown(path, Some(uid), Some(uid)).unwrap();
        }
        // Where the socket was claimed.
        for entry in fs::read_dir(env.state()).unwrap() {
            chown(entry.unwrap().path(), Some(uid), Some(uid)).unwrap();
        }
    } else {
        fs::copy(env!("CARGO_BIN_EXE_agentd"), &program).unwrap();
    }
    let before = fs::read(env.database()).unwrap();
    for (file, directory) in [(0o400, 0o500), (0o400, 0o700)] {
        fs::set_permissions(env.database(), fs::Permissions::from_mode(file)).unwrap();
        fs::set_permissions(env.state(), fs::Permissions::from_mode(directory)).unwrap();
        let mut command = Command::new(&program);
        command.arg("daemon");
        env.prepare(&mut command);
        if let Some(uid) = somebody {
            command.uid(uid).gid(uid);
        }
        let output = env.try_daemon(&mut command).unwrap_err();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            matches!(output.status.code(), Some(2 | 77 | 78)),
            "{}",
            shown(&output)
        );
        assert!(
            text.contains(".agentd") && text.contains("permission"),
            "{}",
            shown(&output)
        );
        assert_eq!(fs::read(env.database()).unwrap(), before);
    }
    fs::set_permissions(env.state(), fs::Permissions::from_mode(0o700)).unwrap();
}
