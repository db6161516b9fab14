//! Reading and writing `records.jsonl`.

use crate::dir::SessionDir;
use crate::record::{Exited, Record, What};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tokio::sync::watch;

/// The most that a session's records take, in bytes. A supervisor stays far below it.
pub const RECORDS_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// A longer message is cut, in bytes.
const MESSAGE_BYTES_MAX: usize = 4 * 1024;
/// So many warnings are recorded.
const WARNINGS_MAX: u32 = 200;

/// What a session's supervisor told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// In order.
    pub records: Vec<Record>,
    /// The last line is not whole: its writer died, or is writing.
    pub torn: bool,
    /// How many bytes the whole ones take.
    bytes: u64,
}

impl Records {
    /// True when the agent may have begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.records
            .iter()
            .any(|record| matches!(record.what, What::Intent { .. }))
    }

    /// How the agent ended, if that was told.
    #[must_use]
    pub fn exited(&self) -> Option<&Exited> {
        self.records.iter().find_map(|record| match &record.what {
            What::Exited(exited) => Some(exited),
            _ => None,
        })
    }

    /// True when everything was taken down.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.records
            .iter()
            .any(|record| matches!(record.what, What::End { .. }))
    }
}

/// What is recorded of a session. No file is no records.
///
/// # Errors
/// When the file cannot be read, or is longer than any that a supervisor writes.
pub fn read_records(dir: &SessionDir) -> io::Result<Records> {
    let mut file = match OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(dir.records())
    {
        Ok(file) => file.take(RECORDS_BYTES_MAX + 1),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Records::default()),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    if text.len() as u64 > RECORDS_BYTES_MAX {
        let message = format!("more than {RECORDS_BYTES_MAX} bytes: no supervisor wrote this");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut found = Records::default();
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        // After a power cut the end may be anything; nothing after it was acknowledged.
        let record = line
            .ends_with(b"\n")
            .then(|| serde_json::from_slice(line).ok())
            .flatten();
        let Some(record) = record else {
            found.torn = true;
            break;
        };
        found.records.push(record);
        found.bytes += line.len() as u64;
    }
    Ok(found)
}

/// How far what is written must have come before anything follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On disk.
    Disk,
    /// With the kernel: it survives the end of every process. A later record on disk takes an earlier one along.
    Kernel,
}

/// Writes records. What cannot be written is kept until it can; nobody is told before.
#[derive(Debug)]
pub(crate) struct Recorder {
    file: File,
    /// The length of the file without what a failed write may have left behind.
    good_bytes: u64,
    /// To be written.
    pending: Vec<u8>,
    pending_count: u64,
    /// Some of it must come to disk before it is told.
    pending_needs_disk: bool,
    /// Something written is not known to be on disk.
    unsynced: bool,
    next_seq: u64,
    warnings: u32,
    wall_ms: fn() -> i64,
    /// How many records are written and may be told.
    told: watch::Sender<u64>,
    /// The lines that may be told, as they are in the file.
    lines: Vec<std::sync::Arc<str>>,
}

impl Recorder {
    /// # Errors
    /// When the file cannot be opened, or another supervisor has already begun this session.
    pub(crate) fn open(dir: &SessionDir, wall_ms: fn() -> i64) -> io::Result<Self> {
        let found = read_records(dir)?;
        if !found.records.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a supervisor has had this session before; no agent is begun twice",
            ));
        }
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(dir.records())?;
        file.set_len(0)?;
        sync_dir(dir.root())?;
        Ok(Self {
            file,
            good_bytes: 0,
            pending: Vec::new(),
            pending_count: 0,
            pending_needs_disk: false,
            unsynced: false,
            next_seq: 1,
            warnings: 0,
            wall_ms,
            told: watch::Sender::new(0),
            lines: Vec::new(),
        })
    }

    /// Tells how many records may be told.
    pub(crate) fn told(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    /// The line of the record with this number, if it may be told.
    pub(crate) fn line(&self, seq: u64) -> Option<std::sync::Arc<str>> {
        let index = usize::try_from(seq.checked_sub(1)?).ok()?;
        (seq <= *self.told.borrow()).then(|| self.lines.get(index).cloned())?
    }

    /// Records. False when it is not as durable as asked for: it is kept, and [`Recorder::flush`] tries again.
    pub(crate) fn record(&mut self, mut what: What, durability: Durability) -> bool {
        match &mut what {
            What::Warning { message } => {
                self.warnings += 1;
                if self.warnings > WARNINGS_MAX {
                    return true;
                }
                cut(message);
            }
            What::Exited(exited) => {
                exited.start_error.as_mut().map(cut);
                exited.lost.as_mut().map(cut);
            }
            _ => {}
        }
        let record = Record {
            seq: self.next_seq,
            wall_ms: (self.wall_ms)(),
            what,
        };
        // Numbers, and texts that are UTF-8: there is nothing that JSON could not express.
        let Ok(mut line) = serde_json::to_string(&record) else {
            return false;
        };
        line.push('\n');
        self.next_seq += 1;
        self.pending.extend_from_slice(line.as_bytes());
        self.pending_count += 1;
        self.pending_needs_disk |= durability == Durability::Disk;
        self.lines.push(line.into());
        self.flush(durability)
    }

    /// Takes back what is not written.
    pub(crate) fn discard_pending(&mut self) {
        self.next_seq -= self.pending_count;
        let kept = self.lines.len() - usize::try_from(self.pending_count).unwrap_or(0);
        self.lines.truncate(kept);
        self.pending.clear();
        self.pending_count = 0;
        self.pending_needs_disk = false;
    }

    /// Writes what is not written yet. True when all is.
    pub(crate) fn flush(&mut self, durability: Durability) -> bool {
        let result = self.try_flush(durability);
        if result.is_err() {
            // The half of a line must not stand before a whole one. If this fails as well, a later attempt begins here.
            let _ = self.file.set_len(self.good_bytes);
        }
        result.is_ok()
    }

    fn try_flush(&mut self, durability: Durability) -> io::Result<()> {
        if !self.pending.is_empty() {
            if self.file.metadata()?.len() != self.good_bytes {
                self.file.set_len(self.good_bytes)?;
            }
            self.file.write_all(&self.pending)?;
            self.unsynced = true;
        }
        if (durability == Durability::Disk || self.pending_needs_disk) && self.unsynced {
            self.file.sync_data()?;
            self.unsynced = false;
        }
        self.good_bytes += self.pending.len() as u64;
        self.pending.clear();
        self.told.send_modify(|told| *told += self.pending_count);
        self.pending_count = 0;
        self.pending_needs_disk = false;
        Ok(())
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn cut(message: &mut String) {
    let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
    message.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::StopCause;

    fn warning(message: &str) -> What {
        What::Warning {
            message: message.into(),
        }
    }

    #[test]
    fn what_is_recorded_is_read_back_and_a_torn_line_does_not_count() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = SessionDir::new(temporary.path().to_owned());
        assert_eq!(read_records(&dir).unwrap(), Records::default());
        let mut recorder = Recorder::open(&dir, || 7).unwrap();
        assert!(recorder.record(What::Intent { version: 1, pid: 2 }, Durability::Disk));
        assert!(recorder.record(
            What::Stopping {
                cause: StopCause::Request
            },
            Durability::Kernel
        ));
        assert!(recorder.record(
            What::Exited(Exited {
                code: Some(3),
                ..Exited::default()
            }),
            Durability::Disk
        ));
        let text = std::fs::read(dir.records()).unwrap();
        assert_eq!(
            recorder.line(3).unwrap().as_bytes(),
            text.split_inclusive(|&b| b == b'\n').next_back().unwrap()
        );
        assert_eq!(recorder.line(4), None);
        for cut in 0..=text.len() {
            std::fs::write(dir.records(), &text[..cut]).unwrap();
            let found = read_records(&dir).unwrap();
            let whole = text[..cut].iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(found.records.len(), whole);
            assert_eq!(found.torn, found.bytes != cut as u64);
            assert_eq!(
                (found.has_begun(), found.exited().is_some()),
                (whole > 0, whole > 2)
            );
        }
        assert_eq!(
            Recorder::open(&dir, || 7).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        // Half an intent is none.
        std::fs::write(dir.records(), &text[..20]).unwrap();
        let mut recorder = Recorder::open(&dir, || 7).unwrap();
        assert!(recorder.record(warning("first"), Durability::Disk));
        assert_eq!(read_records(&dir).unwrap().records[0].seq, 1);
    }

    #[test]
    fn what_a_newer_supervisor_tells_is_read_as_far_as_it_is_understood() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = SessionDir::new(temporary.path().to_owned());
        let text = concat!(
            r#"{"seq":1,"wall_ms":1,"what":"intent","version":9,"pid":4,"color":"blue"}"#,
            "\n",
            r#"{"seq":2,"wall_ms":2,"what":"danced","with":{"whom":[1,2]}}"#,
            "\n",
            r#"{"seq":3,"wall_ms":3,"what":"exited","code":0,"mood":"good"}"#,
            "\n"
        );
        std::fs::write(dir.records(), text).unwrap();
        let found = read_records(&dir).unwrap();
        assert_eq!(found.records[1].what, What::Unknown);
        assert_eq!(found.exited().unwrap().code, Some(0));
        assert!(!found.torn && found.has_begun() && !found.has_ended());
    }

    #[test]
    fn messages_and_warnings_have_a_bound() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = SessionDir::new(temporary.path().to_owned());
        let mut recorder = Recorder::open(&dir, || 7).unwrap();
        for _ in 0..1000 {
            assert!(recorder.record(warning(&"ä".repeat(10_000)), Durability::Kernel));
        }
        let found = read_records(&dir).unwrap();
        assert_eq!(found.records.len(), 200);
        assert!(found.bytes < RECORDS_BYTES_MAX);
    }
}
