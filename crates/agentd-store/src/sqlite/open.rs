//! Opening the file: the lock, the version, damage, the schema.

use super::tx::files_to_spare;
use super::{homes, maintenance};
use crate::StoreOptions;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Marks the file as agentd's (`agdt`): SQLite's application id.
pub(super) const APPLICATION_ID: i64 = 0x6167_6474;

/// Each entry takes the schema one version further. Entries are never edited once released.
const MIGRATIONS: &[&str] = &[
    include_str!("schema.sql"),
    include_str!("schema_2_sessions.sql"),
    include_str!("schema_3_fingerprints.sql"),
];

/// The newest schema that this program knows.
#[expect(clippy::cast_possible_truncation, reason = "a handful")]
pub(super) const LATEST_SCHEMA: u32 = MIGRATIONS.len() as u32;

/// Up to this size a database that was not closed cleanly is checked from end to end before it is used; that
/// takes about a second. Larger ones are left to `agentd db check`.
const CHECKED_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// How an existing or new database was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its schema, after any migration.
    pub schema_version: u32,
    /// The newest journal entry in it: the state is the one after that entry.
    pub last_seq: i64,
    /// True when there was none before.
    pub created: bool,
    /// What people should know: a migration, a recovery after a crash.
    pub notes: Vec<String>,
}

/// Why a database was not opened. It was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it open.
    #[error("{} is in use by process {pid}{}", path.display(), name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default())]
    Locked {
        /// The database.
        path: PathBuf,
        /// The process that holds it.
        pid: u32,
        /// Its program.
        name: Option<String>,
    },
    /// A newer version wrote it.
    #[error(
        "{} has schema {found}, and this agentd knows schemas up to {known}: it was written by a newer version. \
         Use that version, or restore a backup made by this one",
        path.display()
    )]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest one known here.
        known: u32,
    },
    /// It is not a database of agentd's.
    #[error("{} is not an agentd database ({why}); move it away or name another file", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// How that shows.
        why: String,
    },
    /// It is damaged.
    #[error(
        "{} is damaged: {what}. It was left as it is. Stop agentd, keep a copy of the file and its -wal, then put \
         back a backup with `agentd db restore BACKUP` or salvage it with sqlite3's .recover",
        path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The file system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// SQLite refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: rusqlite::Error,
    },
}

/// A database that this process alone writes to.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) conn: Connection,
    // Held as long as the connection is open, and after it.
    _lock: DatabaseLock,
}

/// An exclusive lock on a database: a file beside it, which the kernel unlocks when its holder is gone.
#[derive(Debug)]
struct DatabaseLock {
    _file: File,
}

impl DatabaseLock {
    fn take(database: &Path) -> Result<Self, OpenError> {
        let path = suffixed(database, ".lock");
        let io = |source| OpenError::Io {
            path: path.clone(),
            doing: "lock",
            source,
        };
        let mut options = File::options();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.take(64).read_to_string(&mut text);
                let pid = text.trim().parse().unwrap_or(0);
                let name = fs::read_to_string(format!("/proc/{pid}/comm"))
                    .ok()
                    .map(|comm| comm.trim().to_owned());
                return Err(OpenError::Locked {
                    path: database.into(),
                    pid,
                    name,
                });
            }
            Err(fs::TryLockError::Error(source)) => return Err(io(source)),
        }
        file.set_len(0).map_err(io)?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { _file: file })
    }
}

pub(super) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opens, checks, migrates.
pub(super) fn open(path: &Path, options: &StoreOptions) -> Result<(Database, Opened), OpenError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| OpenError::Io {
                path: folder.into(),
                doing: "make the directory",
                source,
            })?;
    }
    let lock = DatabaseLock::take(path)?;
    // Of a restore that was killed.
    maintenance::remove_restore_copy(&maintenance::restore_copy_of(path));
    let created = inspect_header(path)?;
    let mut notes = Vec::new();
    let torn = torn_log_bytes(path);
    let crashed = suffixed(path, "-wal").metadata().is_ok_and(|log| log.len() > 0);
    if created {
        // SQLite would make it readable to all that the umask lets in.
        let mut file = File::options();
        file.write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|source| OpenError::Io {
                path: path.into(),
                doing: "create",
                source,
            })?;
    }
    let conn = connect(path)?;
    let sqlite = |doing| move |source| classify(path, doing, source);
    let found: u32 = conn
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(sqlite("read"))?;
    if found > LATEST_SCHEMA {
        return Err(OpenError::TooNew {
            path: path.into(),
            found,
            known: LATEST_SCHEMA,
        });
    }
    // An application's database that never set a version looks like a new one of ours, but for what is in it.
    if found == 0 {
        let tables: i64 = conn
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(sqlite("read"))?;
        if tables > 0 {
            return Err(OpenError::NotOurs {
                path: path.into(),
                why: "it has tables, and they are not agentd's".into(),
            });
        }
    }
    if crashed && path.metadata().is_ok_and(|file| file.len() <= CHECKED_BYTES_MAX) {
        let verdict: String = conn
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(sqlite("check"))?;
        if verdict != "ok" {
            return Err(OpenError::Damaged {
                path: path.into(),
                what: verdict,
            });
        }
    }
    if found > 0 {
        let (last_seq, newest) = numbers(&conn).map_err(sqlite("read"))?;
        let what = match last_seq_without_log(path).filter(|_| crashed) {
            _ if newest > last_seq => format!("the journal goes to entry {newest}, its count to {last_seq}"),
            // What is in the file was in the log first. The log has been cut since, or belongs to an older copy:
            // together they would be a mixture of two states.
            Some(copied) if copied > last_seq => format!(
                "its write-ahead log ends at journal entry {last_seq}, but had been copied into it up to entry {copied}"
            ),
            _ => String::new(),
        };
        if !what.is_empty() {
            return Err(OpenError::Damaged {
                path: path.into(),
                what,
            });
        }
    }
    // From here on the file may be written.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
        .map_err(sqlite("configure"))?;
    let mode: String = conn
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(sqlite("set the write-ahead log of"))?;
    if mode != "wal" {
        let source = io::Error::other(format!("its file system allows no write-ahead log (mode {mode})"));
        return Err(OpenError::Io {
            path: path.into(),
            doing: "use",
            source,
        });
    }
    migrate(&conn, found).map_err(sqlite("migrate"))?;
    if !created && found < LATEST_SCHEMA {
        notes.push(format!(
            "migrated the database from schema {found} to {LATEST_SCHEMA}"
        ));
    }
    let (last_seq, _) = numbers(&conn).map_err(sqlite("read"))?;
    if crashed && !created {
        notes.push(format!(
            "agentd was not stopped cleanly the last time; recovered everything up to journal entry {last_seq}"
        ));
    }
    if let Some(bytes) = torn {
        notes.push(format!(
            "the write-ahead log ended in the middle of a page ({bytes} bytes of it): what was being written then \
             was not acknowledged, or the file was cut. The state is the one after journal entry {last_seq}"
        ));
    }
    re_anchor(&conn, options).map_err(sqlite("update the leases of"))?;
    homes::name_instance(&conn, options.ids.random()).map_err(sqlite("name"))?;
    Ok((
        Database { conn, _lock: lock },
        Opened {
            schema_version: LATEST_SCHEMA,
            last_seq,
            created,
            notes,
        },
    ))
}

/// A connection that may write, with its durability set.
pub(super) fn connect(path: &Path) -> Result<Connection, OpenError> {
    let sqlite = |doing| move |source| classify(path, doing, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(sqlite("open"))?;
    // Until it is known to be ours to write, closing must not move the log into the file.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(sqlite("configure"))?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)
        .map_err(sqlite("configure"))?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)
        .map_err(sqlite("configure"))?;
    // Plans do not depend on the values bound: otherwise SQLite compiles a statement that uses one of the partial
    // indexes anew whenever a value changes, which takes longer than running it.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map_err(sqlite("configure"))?;
    for (name, value) in [
        // Every commit is on disk before it counts.
        ("synchronous", "FULL"),
        ("temp_store", "MEMORY"),
        ("cell_size_check", "ON"),
        ("foreign_keys", "OFF"),
        // Negative: KiB. Pages are taken as they are needed.
        ("cache_size", "-65536"),
        // In pages: a checkpoint each 16 MiB of log. More often costs writes, less often costs disk and the
        // time that a start after a crash takes.
        ("wal_autocheckpoint", "4096"),
        ("journal_size_limit", "67108864"),
    ] {
        conn.pragma_update(None, name, value)
            .map_err(sqlite("configure"))?;
    }
    conn.set_prepared_statement_cache_capacity(128);
    Ok(conn)
}

// Reads the file's first page without SQLite, which would begin a recovery. Says whether there is no database yet.
fn inspect_header(path: &Path) -> Result<bool, OpenError> {
    let io = |source| OpenError::Io {
        path: path.into(),
        doing: "read",
        source,
    };
    let mut header = [0u8; 100];
    match File::open(path) {
        Ok(file) => {
            let kind = file.metadata().map_err(io)?;
            if !kind.is_file() {
                return Err(OpenError::NotOurs {
                    path: path.into(),
                    why: "it is not a regular file".into(),
                });
            }
            let mut read = 0;
            let mut file = file.take(100);
            while read < header.len() {
                match file.read(&mut header[read..]).map_err(io)? {
                    0 => break,
                    n => read += n,
                }
            }
            if read == 0 {
                // Made by us and killed before the first commit, or by `touch`.
                return Ok(true);
            }
            if read < header.len() || !header.starts_with(b"SQLite format 3\0") {
                return Err(OpenError::NotOurs {
                    path: path.into(),
                    why: "it is not an SQLite file".into(),
                });
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(io(error)),
    }
    // https://sqlite.org/fileformat2.html#the_database_header: write and read version at 18 and 19, then
    // big-endian: user version at 60, application id at 68.
    //
    // SQLite takes a write version that it does not know for a file that may only be read, which would sound like
    // a lack of permission.
    if header[18..20].iter().any(|version| !(1..=2).contains(version)) {
        return Err(OpenError::Damaged {
            path: path.into(),
            what: format!(
                "its header asks for file format {}/{}, which does not exist",
                header[18], header[19]
            ),
        });
    }
    let field = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (version, application) = (field(60), field(68));
    if i64::from(application) != APPLICATION_ID && !(application == 0 && version == 0) {
        let why = format!("its application id is {application:#x}");
        return Err(OpenError::NotOurs {
            path: path.into(),
            why,
        });
    }
    if version > LATEST_SCHEMA {
        return Err(OpenError::TooNew {
            path: path.into(),
            found: version,
            known: LATEST_SCHEMA,
        });
    }
    Ok(false)
}

// The newest number given in the journal, and the newest one in it.
fn numbers(conn: &Connection) -> rusqlite::Result<(i64, i64)> {
    conn.query_row(
        "SELECT last_seq, (SELECT coalesce(max(seq), 0) FROM events) FROM totals",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// A path as SQLite's URI, with a parameter.
pub(super) fn uri_of(path: &Path, parameter: &str) -> String {
    use std::os::unix::ffi::OsStrExt;
    // https://sqlite.org/uri.html
    let bytes = path.as_os_str().as_bytes().iter();
    let bytes: String = bytes.map(|byte| format!("%{byte:02X}")).collect();
    format!("file:{bytes}?{parameter}")
}

// The newest number given in the journal, as the database file alone has it. None when that cannot be read without
// the log, which is no fault: a checkpoint may have been under way.
fn last_seq_without_log(path: &Path) -> Option<i64> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(uri_of(path, "immutable=1"), flags).ok()?;
    conn.query_row("SELECT last_seq FROM totals", [], |row| row.get(0))
        .ok()
}

// https://sqlite.org/fileformat2.html#the_write_ahead_log: a header of 32 bytes, then frames of 24 bytes and a
// page. A rest of a frame means that a write, or the file, was cut.
fn torn_log_bytes(path: &Path) -> Option<u64> {
    let mut log = File::open(suffixed(path, "-wal")).ok()?;
    let length = log.metadata().ok()?.len();
    if length == 0 {
        return None;
    }
    if length < 32 {
        return Some(length);
    }
    let mut header = [0u8; 12];
    log.read_exact(&mut header).ok()?;
    let page = u64::from(u32::from_be_bytes([header[8], header[9], header[10], header[11]]));
    let rest = (length - 32) % (24 + page.max(512));
    (rest > 0).then_some(rest)
}

/// Brings another database, which nobody else uses, to the present schema.
pub(super) fn migrate_file(conn: &Connection) -> rusqlite::Result<()> {
    let found: u32 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    migrate(conn, found)
}

fn migrate(conn: &Connection, found: u32) -> rusqlite::Result<()> {
    if found == LATEST_SCHEMA {
        return Ok(());
    }
    conn.execute_batch("BEGIN IMMEDIATE")?;
    let run = || {
        for step in &MIGRATIONS[found as usize..] {
            conn.execute_batch(step)?;
        }
        conn.pragma_update(None, "application_id", APPLICATION_ID)?;
        conn.pragma_update(None, "user_version", LATEST_SCHEMA)?;
        conn.execute_batch("COMMIT")
    };
    run().inspect_err(|_| {
        let _ = conn.execute_batch("ROLLBACK");
    })
}

// The lease clock begins anew with each process, near the wall clock. When that was put back in between, leases
// would last longer than they were granted for: they begin anew as well, at their full length. Those of sessions that
// are not over always do, also when they ran out: this is before anything is ended or handed out.
fn re_anchor(conn: &Connection, options: &StoreOptions) -> rusqlite::Result<()> {
    let now_ms = options.clock.lease_ms();
    conn.execute(
        "UPDATE nodes SET lease_expires_ms = ?1 + lease_length_ms
         WHERE status = 'RUNNING' AND lease_expires_ms > ?1 + lease_length_ms",
        [now_ms],
    )?;
    conn.execute(
        "UPDATE locks SET expires_ms = ?1 + length_ms WHERE expires_ms > ?1 + length_ms",
        [now_ms],
    )?;
    conn.execute(
        "UPDATE nodes SET not_before_ms = ?1 + coalesce(backoff_max_ms, 3600000)
         WHERE not_before_ms > ?1 + coalesce(backoff_max_ms, 3600000)",
        [now_ms],
    )?;
    // A session goes on without agentd, but nobody could extend its lease meanwhile.
    conn.execute(
        "UPDATE nodes SET lease_expires_ms = ?1 + lease_length_ms
         WHERE status = 'RUNNING' AND (uuid, lease_id) IN (
             SELECT node, lease FROM sessions INDEXED BY sessions_open WHERE phase <> 'ENDED' AND node IS NOT NULL)",
        [now_ms],
    )?;
    Ok(())
}

pub(super) fn classify(path: &Path, doing: &'static str, source: rusqlite::Error) -> OpenError {
    use rusqlite::ErrorCode::{CannotOpen, DatabaseCorrupt, NotADatabase, ReadOnly};
    match source.sqlite_error_code() {
        Some(DatabaseCorrupt) => OpenError::Damaged {
            path: path.into(),
            what: source.to_string(),
        },
        // Numbers in its first page that no version of SQLite writes: it began as a database of ours.
        _ if source.to_string().contains("unsupported file format") => OpenError::Damaged {
            path: path.into(),
            what: source.to_string(),
        },
        Some(ReadOnly) => OpenError::Io {
            path: path.into(),
            doing: "write to",
            source: io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{source}; this user needs write permission for the file and its directory"),
            ),
        },
        Some(NotADatabase) => OpenError::NotOurs {
            path: path.into(),
            why: source.to_string(),
        },
        Some(CannotOpen) if let Err(source) = files_to_spare() => OpenError::Io {
            path: path.into(),
            doing,
            source,
        },
        _ => OpenError::Sqlite {
            path: path.into(),
            doing,
            source,
        },
    }
}
