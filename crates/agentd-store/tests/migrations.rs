//! Databases of other versions.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use agentd_protocol::requests::*;
use agentd_protocol::results::*;
use agentd_protocol::{NodeStatus, Trigger, TriggerKind};
use agentd_store::session::{HomeNumber, InstanceId, NewSession};
use agentd_store::sqlite::{HomeNumbers, OpenError, SqliteStore};
use agentd_store::{Command, Query, Store, StoreOptions, ask, execute};
use std::path::{Path, PathBuf};

/// A database as the first version left it.
fn first_version(folder: &Path) -> PathBuf {
    let path = folder.join("v1.db");
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute_batch(include_str!("fixtures/schema_1.sql")).unwrap();
    path
}

// What the first version had made, and what is new.
async fn goes_on(store: &SqliteStore) {
    let tasks: TaskList = ask(store, Query::ListTasks(ListTasks::default())).await.unwrap();
    let counts = tasks.tasks[0].counts;
    assert_eq!((counts.total(), counts.completed), (4, 1));
    let journal: JournalPage = ask(store, Query::ReadJournal(ReadJournal::default()))
        .await
        .unwrap();
    assert_eq!(journal.entries[0].action_type, "REGISTER_TASK");
    let acquire = AcquireNextNode {
        capabilities: Some(vec!["work:command".into()]),
        work_only: true,
        ..AcquireNextNode::default()
    };
    let acquired: Option<Box<AcquiredNode>> =
        execute(store, Command::AcquireNextNode(acquire)).await.unwrap();
    assert_eq!(acquired.unwrap().context.node.status, NodeStatus::Running);
    let new = NewSession {
        agent: "a".into(),
        trigger: Trigger {
            kind: TriggerKind::Manual,
            context: Default::default(),
        },
        prompt: None,
        idempotency_key: None,
    };
    let _: QueuedSession = execute(store, Command::CreateSession(new)).await.unwrap();
    let home: HomeNumber = execute(store, Command::NumberHome("a".into())).await.unwrap();
    assert_eq!(home.number, 0);
    let name: InstanceId = ask(store, Query::InstanceId(NoParams {})).await.unwrap();
    assert_eq!(name.id.len(), 32);
    let checked: Checked = ask(store, Query::CheckDatabase(NoParams {})).await.unwrap();
    assert!(checked.ok, "{:?}", checked.findings);
}

fn shape(path: &Path) -> Vec<String> {
    let conn = rusqlite::Connection::open(path).unwrap();
    let mut all = conn
        .prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY sql")
        .unwrap();
    all.query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

#[tokio::test]
async fn a_database_of_the_first_version_is_migrated() {
    let folder = tempfile::tempdir().unwrap();
    let path = first_version(folder.path());
    let (store, opened) = SqliteStore::open(&path, StoreOptions::default()).unwrap();
    assert_eq!(
        (opened.schema_version, opened.last_seq, opened.created),
        (3, 5, false)
    );
    assert_eq!(opened.notes, ["migrated the database from schema 1 to 3"]);
    goes_on(&store).await;
    store.close().await;
    let (store, opened) = SqliteStore::open(&path, StoreOptions::default()).unwrap();
    assert!(opened.notes.is_empty(), "{:?}", opened.notes);
    store.close().await;
    let new = folder.path().join("new.db");
    let (store, _) = SqliteStore::open(&new, StoreOptions::default()).unwrap();
    store.close().await;
    assert_eq!(shape(&path), shape(&new), "it is as a new one is made");
}

#[tokio::test]
async fn numbers_of_homes_are_read_beside_a_store_and_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let read = |path: &Path| HomeNumbers::read(path).unwrap();
    let number = async |store: &SqliteStore, name: &str| -> u32 {
        let home: HomeNumber = execute(store, Command::NumberHome(name.into())).await.unwrap();
        home.number
    };
    // One that is not there is not made, and one of before there were homes has none.
    let path = folder.path().join("a ?#b.db");
    assert_eq!(read(&path).number("a"), 0);
    assert!(!path.exists());
    assert_eq!(read(&first_version(folder.path())).number("a"), 0);
    let (store, _) = SqliteStore::open(&path, StoreOptions::default()).unwrap();
    for (name, expected) in [("a", 0), ("b", 1)] {
        let foretold = read(&path).number(name);
        assert_eq!((foretold, number(&store, name).await), (expected, expected));
    }
    let mut numbers = read(&path);
    assert_eq!(
        ["c", "b", "d", "c", "a"].map(|name| numbers.number(name)),
        [2, 1, 3, 2, 0]
    );
    store.close().await;
    let files = |folder: &Path| folder.read_dir().unwrap().count();
    let before = files(folder.path());
    assert_eq!(["c", "b"].map(|name| read(&path).number(name)), [2, 1]);
    assert_eq!(files(folder.path()), before, "nothing is written");
    std::fs::write(
        &path,
        "no database at all, and longer than a header of one would have to be",
    )
    .unwrap();
    HomeNumbers::read(&path).unwrap_err();
}

#[tokio::test]
async fn a_backup_of_the_first_version_can_be_restored() {
    let folder = tempfile::tempdir().unwrap();
    let backup = first_version(folder.path());
    let (store, _) = SqliteStore::open(&folder.path().join("state.db"), StoreOptions::default()).unwrap();
    let before: InstanceId = ask(&store, Query::InstanceId(NoParams {})).await.unwrap();
    let file = FileRef {
        path: backup.display().to_string(),
    };
    let restored: Restored = execute(&store, Command::RestoreDatabase(file)).await.unwrap();
    assert_eq!(restored.backup_last_seq, 5);
    let after: InstanceId = ask(&store, Query::InstanceId(NoParams {})).await.unwrap();
    assert_eq!(before, after);
    goes_on(&store).await;
    store.close().await;
}

#[tokio::test]
async fn what_a_newer_version_wrote_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let (store, opened) = SqliteStore::open(&path, StoreOptions::default()).unwrap();
    store.close().await;
    let newer = opened.schema_version + 1;
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", newer).unwrap();
    drop(conn);
    let before = std::fs::read(&path).unwrap();
    match SqliteStore::open(&path, StoreOptions::default()) {
        Err(OpenError::TooNew { found, known, .. }) => {
            assert_eq!((found, known), (newer, opened.schema_version));
        }
        other => panic!("{other:?}"),
    }
    assert!(std::fs::read(&path).unwrap() == before, "it was changed");
    let (store, _) = SqliteStore::open(&folder.path().join("other.db"), StoreOptions::default()).unwrap();
    let file = FileRef {
        path: path.display().to_string(),
    };
    let refused = execute::<Restored>(&store, Command::RestoreDatabase(file)).await;
    assert!(refused.unwrap_err().to_string().contains("knows schemas up to"));
    store.close().await;
}
