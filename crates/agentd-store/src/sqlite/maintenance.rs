//! Backups, checks and restoring.

use super::open::{self, APPLICATION_ID, LATEST_SCHEMA, OpenError};
use super::rows::{NODE_ROW, NodeRow};
use super::sessions::OpenSessions;
use super::tx::{Live, OpResult, Tx};
use crate::machine::{NodeEvent, decide};
use crate::{Reply, StoreError, StoreOptions};
use agentd_protocol::journal::action;
use agentd_protocol::requests::FileRef;
use agentd_protocol::results::{BackedUp, Checked, Restored};
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Findings that a check reports. More would not be read.
const FINDINGS_MAX: usize = 100;

/// Every table that a backup replaces, in an order in which each can be filled. Not among them: `homes`, to which it
/// adds, and `instance`.
const TABLES: [&str; 14] = [
    "tasks",
    "capability_sets",
    "nodes",
    "node_specs",
    "node_results",
    "dependencies",
    "locks",
    "events",
    "idempotency",
    "sessions",
    "session_specs",
    "session_results",
    "sessions_removed",
    "totals",
];

fn bad_file(path: &Path, why: impl Into<String>) -> StoreError {
    StoreError::BadFile {
        path: path.into(),
        why: why.into(),
    }
}

/// Writes a copy of the state as it is now to a new file.
pub(super) fn backup(database: &Path, params: &FileRef) -> OpResult<Reply> {
    let target = Path::new(&params.path);
    if target.symlink_metadata().is_ok() {
        return Err(bad_file(
            target,
            "it exists already; a backup is only written to a new file",
        )
        .into());
    }
    let (Some(folder), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(bad_file(target, "it names no file").into());
    };
    // Under another name until it is whole and on disk: whoever sees the file can rely on it.
    let mut partial = name.to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    let partial: PathBuf = folder.join(partial);
    let written = write_backup(database, &partial, target, folder);
    if written.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    written
}

fn write_backup(database: &Path, partial: &Path, target: &Path, folder: &Path) -> OpResult<Reply> {
    let io = |error: std::io::Error| bad_file(target, error.to_string());
    let file = File::options()
        .write(true)
        .create_new(true)
        .open(partial)
        .map_err(io)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
        .map_err(io)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(database, flags)?;
    let name = partial
        .to_str()
        .ok_or_else(|| bad_file(target, "its name is not UTF-8"))?;
    conn.execute("VACUUM INTO ?1", [name])?;
    file.sync_all().map_err(io)?;
    // Not over a file that somebody else made meanwhile.
    std::fs::hard_link(partial, target).map_err(io)?;
    std::fs::remove_file(partial).map_err(io)?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io)?;
    let copy = Connection::open_with_flags(target, flags)?;
    let last_seq = copy.query_row("SELECT last_seq FROM totals", [], |row| row.get(0))?;
    let size_bytes = target.metadata().map_err(io)?.len();
    Ok(Reply::BackedUp(BackedUp {
        path: target.display().to_string(),
        size_bytes,
        last_seq,
    }))
}

/// Looks for damage, and for rows that disagree with each other.
pub(super) fn check(conn: &Connection) -> OpResult<Reply> {
    let mut findings = Vec::new();
    let mut integrity = conn.prepare(&format!("PRAGMA integrity_check({FINDINGS_MAX})"))?;
    for line in integrity.query_map([], |row| row.get::<_, String>(0))? {
        let line = line?;
        if line != "ok" {
            findings.push(format!("damaged: {line}"));
        }
    }
    for (what, sql) in CHECKS {
        if findings.len() >= FINDINGS_MAX {
            break;
        }
        let wrong: i64 = conn.query_row(sql, [], |row| row.get(0))?;
        if wrong > 0 {
            findings.push(format!("{wrong} {what}"));
        }
    }
    let count = |table: &str| conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0));
    Ok(Reply::Checked(Checked {
        ok: findings.is_empty(),
        findings,
        tasks: count("tasks")?,
        nodes: count("nodes")?,
        events: count("events")?,
    }))
}

/// What must be zero: a name for what is wrong, and the query that counts it.
const CHECKS: &[(&str, &str)] = &[
    (
        "nodes whose number of open dependencies is wrong",
        "SELECT count(*) FROM nodes n WHERE blockers <> (
             SELECT count(*) FROM dependencies d JOIN nodes o ON o.id = d.dependency
             WHERE d.node = n.id AND o.status <> 'COMPLETED')",
    ),
    (
        "nodes of tasks that do not exist",
        "SELECT count(*) FROM nodes WHERE task NOT IN (SELECT id FROM tasks)",
    ),
    (
        "dependencies on nodes that do not exist",
        "SELECT count(*) FROM dependencies WHERE dependency NOT IN (SELECT id FROM nodes)
             OR node NOT IN (SELECT id FROM nodes)",
    ),
    (
        "ended nodes without a result, or others with one",
        "SELECT count(*) FROM nodes n LEFT JOIN node_results r ON r.node = n.id
         WHERE (n.status IN ('COMPLETED', 'FAILED')) <> (r.node IS NOT NULL)",
    ),
    (
        "tasks whose counts disagree with their nodes",
        "SELECT count(*) FROM tasks t WHERE state <> 'PRUNED' AND (pending, running, completed, failed) <> (
             SELECT count(*) FILTER (WHERE status = 'PENDING'), count(*) FILTER (WHERE status = 'RUNNING'),
                 count(*) FILTER (WHERE status = 'COMPLETED'), count(*) FILTER (WHERE status = 'FAILED')
             FROM nodes n WHERE n.task = t.id)",
    ),
    (
        "totals that disagree with what they count",
        "SELECT count(*) FROM totals WHERE (tasks, pending, running, completed, failed, events) <> (
             (SELECT count(*) FROM tasks WHERE state <> 'PRUNED'),
             (SELECT count(*) FROM nodes WHERE status = 'PENDING'),
             (SELECT count(*) FROM nodes WHERE status = 'RUNNING'),
             (SELECT count(*) FROM nodes WHERE status = 'COMPLETED'),
             (SELECT count(*) FROM nodes WHERE status = 'FAILED'),
             (SELECT count(*) FROM events))",
    ),
    (
        "numbers given later than the newest is said to be",
        "SELECT count(*) FROM totals WHERE last_seq < (SELECT coalesce(max(seq), 0) FROM events)
             OR last_node < (SELECT coalesce(max(id), 0) FROM nodes)",
    ),
    (
        "leases or locks whose fencing number is not their journal entry's",
        "SELECT (SELECT count(*) FROM nodes n LEFT JOIN events e ON e.seq = n.fence
                 WHERE n.status = 'RUNNING' AND (e.action IS NOT 'ACQUIRE_NODE' OR e.node IS NOT n.uuid))
             + (SELECT count(*) FROM locks l LEFT JOIN events e ON e.seq = l.fence
                 WHERE e.action IS NOT NULL AND e.action <> 'LOCK_GRANTED')",
    ),
    (
        "completed nodes of which the journal has no COMPLETE_NODE",
        "SELECT count(*) FROM (
             SELECT uuid FROM nodes WHERE status = 'COMPLETED'
             EXCEPT SELECT node FROM events WHERE action = 'COMPLETE_NODE')",
    ),
    (
        "nodes completed more than once in the journal",
        "SELECT count(*) FROM (
             SELECT node FROM events WHERE action = 'COMPLETE_NODE' GROUP BY node HAVING count(*) > 1)",
    ),
    (
        "nodes that the journal completes and the state does not",
        "SELECT count(*) FROM events e JOIN nodes n ON n.uuid = e.node
         WHERE e.action = 'COMPLETE_NODE' AND n.status <> 'COMPLETED'",
    ),
    (
        "sessions whose phase is not the one that the journal brought them to",
        "SELECT count(*) FROM sessions s WHERE phase IS NOT (
             SELECT CASE e.action WHEN 'SESSION_QUEUED' THEN 'QUEUED' WHEN 'SESSION_ENDED' THEN 'ENDED'
                 ELSE json_extract(e.payload, '$.to') END
             FROM events e INDEXED BY events_by_session
             WHERE e.session = s.uuid AND e.action IN ('SESSION_QUEUED', 'SESSION_PHASE', 'SESSION_ENDED')
             ORDER BY e.seq DESC LIMIT 1)",
    ),
    (
        "sessions that ended more than once in the journal",
        "SELECT count(*) FROM (
             SELECT session FROM events INDEXED BY events_by_session
             WHERE session IS NOT NULL AND action = 'SESSION_ENDED' GROUP BY session HAVING count(*) > 1)",
    ),
    (
        "sessions without what they are to do, or the other way round, or with a result before their end",
        "SELECT (SELECT count(*) FROM sessions WHERE id NOT IN (SELECT session FROM session_specs))
             + (SELECT count(*) FROM session_specs WHERE session NOT IN (SELECT id FROM sessions))
             + (SELECT count(*) FROM session_results
                 WHERE session NOT IN (SELECT id FROM sessions WHERE phase = 'ENDED'))",
    ),
    (
        "leases that more than one session holds",
        "SELECT count(*) FROM (
             SELECT lease FROM sessions WHERE lease IS NOT NULL GROUP BY lease HAVING count(*) > 1)",
    ),
    (
        "removed sessions that are still there",
        "SELECT count(*) FROM sessions WHERE uuid IN (SELECT uuid FROM sessions_removed)",
    ),
];

/// Replaces the whole state by a backup's, in one transaction. The journal goes on above every number that was
/// given before, so that fencing numbers only grow.
pub(super) fn restore(
    conn: &Connection,
    live: Option<Live>,
    options: &StoreOptions,
    path: &Path,
) -> OpResult<(Reply, i64)> {
    let live = match live {
        Some(live) => live,
        None => Live::load(conn, options.clone())?,
    };
    // A private copy: checked and brought to the present schema without touching the backup. Its name is always
    // the same, so that one that a crash left behind is found.
    let Some(copy) = conn.path().map(|database| restore_copy_of(Path::new(database))) else {
        return Err(bad_file(path, "this database is not in a file").into());
    };
    remove_restore_copy(&copy);
    let result = restore_copy(conn, live, path, &copy);
    remove_restore_copy(&copy);
    result
}

/// Where a backup is copied to while it is restored.
pub(super) fn restore_copy_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".restore");
    name.into()
}

/// Removes it, if it is there, with what SQLite may have put beside it: a log of another copy would be taken for
/// the next one's.
pub(super) fn remove_restore_copy(copy: &Path) {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut name = copy.as_os_str().to_owned();
        name.push(suffix);
        let _ = std::fs::remove_file(name);
    }
}

fn restore_copy(conn: &Connection, mut live: Live, path: &Path, copy: &Path) -> OpResult<(Reply, i64)> {
    let source = path
        .metadata()
        .map_err(|error| bad_file(path, error.to_string()))?;
    if !source.is_file() {
        return Err(bad_file(path, "it is not a regular file").into());
    }
    std::fs::copy(path, copy).map_err(|error| bad_file(path, error.to_string()))?;
    let backup = open::connect(copy).map_err(|error| not_a_backup(path, &error))?;
    let header: rusqlite::Result<(i64, u32)> = (|| {
        Ok((
            backup.pragma_query_value(None, "application_id", |row| row.get(0))?,
            backup.pragma_query_value(None, "user_version", |row| row.get(0))?,
        ))
    })();
    match header {
        Ok((APPLICATION_ID, version)) if version <= LATEST_SCHEMA => {}
        Ok((APPLICATION_ID, version)) => {
            let why = format!("it has schema {version}; this agentd knows schemas up to {LATEST_SCHEMA}");
            return Err(bad_file(path, why).into());
        }
        Ok(_) => return Err(bad_file(path, "it is not a backup of an agentd database").into()),
        Err(error) => return Err(bad_file(path, error.to_string()).into()),
    }
    open::migrate_file(&backup).map_err(|error| bad_file(path, error.to_string()))?;
    let checked = check(&backup).map_err(|error| {
        bad_file(
            path,
            format!("it is damaged: {}", error.into_store_error("check")),
        )
    })?;
    let Reply::Checked(checked) = checked else {
        return Err(bad_file(path, "it cannot be checked").into());
    };
    if let Some(finding) = checked.findings.first() {
        return Err(bad_file(path, format!("it is damaged: {finding}")).into());
    }
    drop(backup);
    let name = copy
        .to_str()
        .ok_or_else(|| bad_file(path, "its directory's name is not UTF-8"))?;
    conn.execute("ATTACH DATABASE ?1 AS backup", [name])?;
    let result = replace_all(conn, &mut live, path);
    if result.is_err() && !conn.is_autocommit() {
        let _ = conn.execute_batch("ROLLBACK");
    }
    conn.execute_batch("DETACH DATABASE backup")?;
    result
}

fn not_a_backup(path: &Path, error: &OpenError) -> StoreError {
    bad_file(
        path,
        format!("it is not a backup of an agentd database ({error})"),
    )
}

fn replace_all(conn: &Connection, live: &mut Live, path: &Path) -> OpResult<(Reply, i64)> {
    let before = live.last_seq;
    let mut tx = Tx::begin(conn, live)?;
    for table in TABLES {
        conn.execute_batch(&format!(
            "DELETE FROM main.{table}; INSERT INTO main.{table} SELECT * FROM backup.{table}"
        ))?;
    }
    // Their files are on this machine: what has a number here keeps it, and no number gets a second name.
    conn.execute_batch("INSERT OR IGNORE INTO main.homes SELECT * FROM backup.homes ORDER BY number")?;
    tx.live.sessions = OpenSessions::load(conn)?;
    let backup_last_seq: i64 = conn.query_row("SELECT last_seq FROM main.totals", [], |row| row.get(0))?;
    let last_node: i64 = conn.query_row("SELECT last_node FROM main.totals", [], |row| row.get(0))?;
    tx.live.last_node = last_node.max(tx.live.last_node);
    tx.live.last_seq = before.max(backup_last_seq);
    let payload = serde_json::json!({ "backup_last_seq": backup_last_seq, "replaced_last_seq": before });
    tx.journal(action::RESTORE_DATABASE, None, None, false, &payload.to_string())?;
    give_everything_back(&mut tx)?;
    let seq = tx.live.last_seq;
    tx.commit()?;
    let restored = Restored {
        path: path.display().to_string(),
        backup_last_seq,
        next_seq: seq + 1,
    };
    Ok((Reply::Restored(restored), seq))
}

// Whoever held a node or a lock when the backup was made has gone on since, or is gone: nobody holds anything now.
// Nodes are given back as undone, so that no attempt is lost. Sessions are lost: what runs of them, if anything
// does, has nothing to do with what the backup knows.
fn give_everything_back(tx: &mut Tx<'_>) -> OpResult<()> {
    let mut find = tx
        .conn
        .prepare(&format!("SELECT {NODE_ROW} FROM nodes WHERE status = 'RUNNING'"))?;
    let running: Vec<NodeRow> = find
        .query_map([], NodeRow::read)?
        .collect::<rusqlite::Result<_>>()?;
    for node in &running {
        let mut state = node.state;
        let Some(lease) = state.lease.as_mut() else {
            continue;
        };
        // Whether it has run out since makes no difference.
        lease.expires_ms = i64::MAX;
        let id = lease.id;
        if let Ok(next) = decide(&state, NodeEvent::Release(id), tx.now_ms) {
            let holder = tx.live.sessions.holder(node);
            tx.journal_of(
                holder.as_ref(),
                action::RELEASE_NODE,
                Some(node.task),
                Some(node.uuid),
                false,
                "{}",
            )?;
            tx.write_state(node, &next)?;
        }
    }
    let mut find = tx.conn.prepare("SELECT key FROM locks ORDER BY key")?;
    let keys: Vec<String> = find
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for key in &keys {
        tx.end_lock(action::LOCK_RELEASED, key)?;
    }
    tx.lose_open_sessions()
}
