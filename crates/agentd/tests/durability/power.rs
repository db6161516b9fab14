//! The power fails: what was written last is cut off, or comes back wrong.
//!
//! The state of a killed daemon (database and write-ahead log) is copied, cut or changed, and opened: in this process
//! for speed, by the real daemon for some. What opens must be the state after some entry of the journal, which is the
//! order in which everything was acknowledged.

use crate::chance::{Chance, rounds};
use crate::kills::{clients, until_killed};
use crate::load::{Style, Tasks};
use crate::record::Record;
use crate::support::{TestEnvironment, shown};
use crate::wire::{Answer, Ask, Opened, Peer};
use agentd_store::sqlite::{OpenError, SqliteStore};
use agentd_store::{Store, StoreOptions};
use serde_json::json;
use std::fs;
use std::path::Path;

/// What is on the disk: the database and its write-ahead log.
#[derive(Clone, Debug)]
struct Disk {
    database: Vec<u8>,
    log: Vec<u8>,
}

impl Disk {
    fn of(database: &Path) -> Self {
        Self {
            database: fs::read(database).unwrap(),
            log: fs::read(beside(database)).unwrap_or_default(),
        }
    }

    fn put(&self, database: &Path) {
        fs::write(database, &self.database).unwrap();
        let _ = fs::remove_file(beside(database));
        if !self.log.is_empty() {
            fs::write(beside(database), &self.log).unwrap();
        }
    }
}

fn beside(database: &Path) -> std::path::PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// A state in which a daemon was killed, and its whole journal.
struct Scene {
    what: &'static str,
    disk: Disk,
    whole: Record,
}

const STYLE: Style = Style {
    // What expires is written when a copy is opened, which is right and would only make it harder to compare.
    short_leases: false,
    payload_bytes_max: 3000,
};

/// `lives`: the answers until the daemon ends, and how it ends; the last time it is always killed.
fn scene(what: &'static str, chance: &mut Chance, lives: &[(usize, End)]) -> Scene {
    let env = TestEnvironment::new();
    let mut clients = clients(chance, STYLE);
    let tasks = Tasks::default();
    for (answers, end) in lives {
        let daemon = env.daemon();
        if *end == End::Overwritten {
            checkpoint(&env);
        }
        until_killed(&env, daemon, &mut clients, &tasks, *answers);
        match end {
            End::Killed | End::Overwritten => {}
            End::Closed => drop(env.daemon().stop()),
            End::Checkpointed => checkpoint(&env),
        }
    }
    let disk = Disk::of(&env.database());
    let (whole, _) = open(&disk, None).unwrap();
    for client in &clients {
        client.facts.iter().for_each(|fact| whole.holds(fact));
    }
    assert!(whole.last_seq() > 20);
    Scene { what, disk, whole }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Killed,
    /// Killed; the next one closes the database in order.
    Closed,
    /// Killed; then all of the log is copied into the database.
    Checkpointed,
    /// As it starts all of the log is copied into the database, so that it begins the log again over the old one.
    /// Killed in the end.
    Overwritten,
}

/// Copies the log into the database, and leaves the log.
fn checkpoint(env: &TestEnvironment) {
    let conn = rusqlite::Connection::open(env.database()).unwrap();
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .unwrap();
    let (busy, frames, copied): (i64, i64, i64) = conn
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    assert!(busy == 0 && frames == copied, "{busy} {frames} {copied}");
}

fn scenes(chance: &mut Chance) -> Vec<Scene> {
    let some = |chance: &mut Chance| 100 + chance.below(400);
    let (one, two, three) = (some(chance), some(chance), some(chance));
    vec![
        scene("all in the log", chance, &[(one, End::Killed)]),
        scene(
            "a database and a new log",
            chance,
            &[(two, End::Closed), (one, End::Killed)],
        ),
        scene(
            "a log begun again over an older one",
            chance,
            &[(two + three, End::Killed), (one.min(150), End::Overwritten)],
        ),
    ]
}

/// Opens it in a directory of its own; compares everything with the journal it was, if that is known.
fn open(disk: &Disk, whole: Option<&Record>) -> Result<(Record, Vec<String>), OpenError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent_state.db");
    disk.put(&path);
    let (store, opened) = match SqliteStore::open(&path, StoreOptions::default()) {
        Ok(opened) => opened,
        Err(error) => {
            assert_eq!(
                fs::read(&path).unwrap(),
                disk.database,
                "{error}, and the file was changed"
            );
            assert_eq!(
                fs::read(beside(&path)).unwrap_or_default(),
                disk.log,
                "{error}, and the log was changed"
            );
            return Err(error);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut asked = Opened {
        store: &store,
        runtime: &runtime,
    };
    let mut record = Record::default();
    record.read_on(&mut asked);
    assert_eq!(record.last_seq(), opened.last_seq);
    if let Some(whole) = whole {
        record.is_beginning_of(whole);
    }
    record.agrees_with_all_of(&mut asked);
    runtime.block_on(store.close());
    Ok((record, opened.notes))
}

#[test]
fn a_log_cut_anywhere_opens_to_what_was_acknowledged_first() {
    let mut chance = Chance::new("cuts");
    let (mut cuts, mut least, mut torn) = (0, i64::MAX, 0);
    for scene in scenes(&mut chance) {
        for round in 0..rounds(35) {
            let mut disk = scene.disk.clone();
            let cut = match round {
                0 => 0,
                1 => chance.below(100),
                _ => chance.below(disk.log.len()),
            };
            disk.log.truncate(cut);
            let (record, notes) = open(&disk, Some(&scene.whole))
                .unwrap_or_else(|error| panic!("{} cut at {cut}: {error}", scene.what));
            cuts += 1;
            least = least.min(record.last_seq());
            torn += usize::from(notes.iter().any(|note| note.contains("in the middle")));
            let says = format!("journal entry {}", record.last_seq());
            assert!(
                cut == 0 || record.last_seq() == 0 || notes.iter().any(|note| note.contains(&says)),
                "{cut}: {notes:?}"
            );
        }
    }
    println!(
        "cuts: {cuts}, of which {torn} in the middle of a page; the earliest state is that after entry {least}"
    );
}

#[test]
fn the_daemon_goes_on_from_a_cut_log_and_says_from_where() {
    let mut chance = Chance::new("cuts, with the daemon");
    for scene in scenes(&mut chance) {
        let env = TestEnvironment::new();
        fs::create_dir(env.state()).unwrap();
        let mut disk = scene.disk.clone();
        let length = disk.log.len();
        disk.log.truncate(length / 2 + chance.below(length / 2 - 1));
        disk.put(&env.database());
        let mut daemon = env.daemon();
        let mut peer = Peer::connect(&env.socket()).unwrap();
        let mut record = Record::default();
        record.read_on(&mut peer);
        daemon.wait_log(&format!(
            "recovered everything up to journal entry {}",
            record.last_seq()
        ));
        record.is_beginning_of(&scene.whole);
        record.agrees_with_all_of(&mut peer);
        // And it works.
        let mut clients = clients(&mut chance, STYLE);
        until_killed(&env, daemon, &mut clients, &Tasks::default(), 200);
        let daemon = env.daemon();
        let mut peer = Peer::connect(&env.socket()).unwrap();
        record.agrees_with_all_of(&mut peer);
        for client in &clients {
            client.facts.iter().for_each(|fact| record.holds(fact));
        }
        drop(peer);
        daemon.stop();
    }
}

#[test]
fn a_log_with_a_wrong_bit_opens_to_what_was_acknowledged_first() {
    let mut chance = Chance::new("bits of the log");
    let mut flips = 0;
    for scene in scenes(&mut chance) {
        for round in 0..rounds(12) {
            let mut disk = scene.disk.clone();
            let at = if round < 2 {
                chance.below(32)
            } else {
                chance.below(disk.log.len())
            };
            disk.log[at] ^= 1 << chance.below(8);
            open(&disk, Some(&scene.whole)).unwrap_or_else(|error| panic!("{} at {at}: {error}", scene.what));
            flips += 1;
        }
    }
    println!("bits of the log: {flips} flips");
}

#[test]
fn a_log_cut_behind_what_is_in_the_database_is_noticed() {
    // No power failure does this, since the log is on disk before the database is touched; a careless copy does.
    let mut chance = Chance::new("cuts after a checkpoint");
    let scene = scene(
        "checkpointed",
        &mut chance,
        &[(900, End::Closed), (300, End::Checkpointed)],
    );
    let (mut whole, mut refused) = (0, 0);
    for _ in 0..rounds(25) {
        let mut disk = scene.disk.clone();
        let cut = chance.below(disk.log.len());
        disk.log.truncate(cut);
        match open(&disk, Some(&scene.whole)) {
            Ok((record, _)) => {
                assert_eq!(record.last_seq(), scene.whole.last_seq());
                whole += 1;
            }
            Err(OpenError::Damaged { .. }) => refused += 1,
            Err(error) => panic!("{cut}: {error}"),
        }
    }
    println!("cuts after a checkpoint: {whole} whole, {refused} refused as damaged");
}

/// Opens what may be damaged: whether it opened, whether a check of it finds nothing, whether the journal is the same.
fn look(disk: &Disk, whole: &Record) -> Result<(bool, bool), OpenError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent_state.db");
    disk.put(&path);
    let opened = SqliteStore::open(&path, StoreOptions::default());
    let Ok((store, _)) = opened else {
        assert_eq!(
            fs::read(&path).unwrap(),
            disk.database,
            "refused, and the file was changed"
        );
        return Err(opened.unwrap_err());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut asked = Opened {
        store: &store,
        runtime: &runtime,
    };
    let sound = match asked.ask("CheckDatabase", json!({})) {
        Answer::Done(checked) => checked["ok"] == true,
        _ => false,
    };
    let mut same = false;
    if sound {
        let mut from = 1;
        let mut entries = Vec::new();
        while let Answer::Done(page) = asked.ask("ReadJournal", json!({ "from_seq": from, "limit": 500 })) {
            let page = page["entries"].as_array().unwrap().clone();
            let Some(last) = page.last() else { break };
            from = last["seq"].as_i64().unwrap() + 1;
            entries.extend(page);
        }
        same = entries == whole.entries;
    }
    runtime.block_on(store.close());
    Ok((sound, same))
}

#[test]
fn a_damaged_database_is_left_alone() {
    let mut chance = Chance::new("bits of the database");
    let scene = scene("closed", &mut chance, &[(500, End::Closed)]);
    assert!(scene.disk.log.is_empty());
    let (mut refused, mut found, mut silent, mut harmless) = (0, 0, 0, 0);
    for _ in 0..rounds(40) {
        let mut disk = scene.disk.clone();
        let at = if chance.percent(20) {
            chance.below(200)
        } else {
            chance.below(disk.database.len())
        };
        disk.database[at] ^= 1 << chance.below(8);
        match look(&disk, &scene.whole) {
            Err(error) => {
                refused += 1;
                let text = error.to_string();
                assert!(
                    ["left as it is", "move it away", "newer version"]
                        .iter()
                        .any(|what| text.contains(what)),
                    "{at}: {text}"
                );
            }
            Ok((false, _)) => found += 1,
            // SQLite has no checksums of pages: a changed letter is a letter.
            Ok((true, false)) => silent += 1,
            Ok((true, true)) => harmless += 1,
        }
    }
    println!(
        "bits of the database: {refused} refused, {found} found by a check, {silent} changed a value, {harmless} changed nothing seen"
    );
    for _ in 0..rounds(8) {
        let mut disk = scene.disk.clone();
        let length = 1 + chance.below(disk.database.len() - 1);
        disk.database.truncate(length);
        let looked = look(&disk, &scene.whole);
        assert!(
            matches!(looked, Err(OpenError::Damaged { .. } | OpenError::NotOurs { .. })),
            "cut to {length}: {looked:?}"
        );
    }
}

/// The daemon refuses to start with this, says something like it, and changes no byte.
#[track_caller]
fn refused(disk: &Disk, code: i32, says: &str) {
    let env = TestEnvironment::new();
    fs::create_dir(env.state()).unwrap();
    disk.put(&env.database());
    let output = env.try_daemon(&mut env.command(&["daemon"])).unwrap_err();
    assert_eq!(output.status.code(), Some(code), "{}", shown(&output));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains(says),
        "{}",
        shown(&output)
    );
    let after = Disk::of(&env.database());
    assert!(
        after.database == disk.database && after.log == disk.log,
        "it was changed"
    );
}

#[test]
fn what_is_not_ours_or_too_new_is_refused_untouched() {
    let env = TestEnvironment::new();
    env.daemon().stop();
    let ours = Disk::of(&env.database());
    let mut newer = ours.clone();
    newer.database[60..64].copy_from_slice(&1000_u32.to_be_bytes());
    refused(&newer, 78, "newer version");

    // The newer version did not close it: its number is in the log alone.
    let conn = rusqlite::Connection::open(env.database()).unwrap();
    conn.pragma_update(None, "user_version", 1000).unwrap();
    let newer = Disk::of(&env.database());
    assert!(!newer.log.is_empty() && newer.database[60..64] == ours.database[60..64]);
    refused(&newer, 78, "newer version");

    let mut damaged = ours.clone();
    damaged.database.truncate(ours.database.len() / 2);
    refused(&damaged, 2, "is damaged");

    let text = Disk {
        database: b"dear diary".repeat(50),
        log: Vec::new(),
    };
    refused(&text, 78, "not an agentd database");

    let other = env.path("other.db");
    rusqlite::Connection::open(&other)
        .unwrap()
        .execute_batch("CREATE TABLE songs (name TEXT); INSERT INTO songs VALUES ('x')")
        .unwrap();
    refused(&Disk::of(&other), 78, "not an agentd database");
}

#[test]
fn an_empty_file_becomes_a_database() {
    let env = TestEnvironment::new();
    env.write(".agentd/agent_state.db", "");
    let daemon = env.daemon();
    let task = env.connect().call("RegisterTask", json!({ "goal": "g" }));
    assert!(task["task_id"].is_string());
    daemon.stop();
    assert_eq!(env.json(&["db", "check"])["tasks"], 1);
}
