//! The calls of tools, one a line, on their way into agentd's journal: files `tools/calls/1`, `2` … in the session's directory.
//! The supervisor writes them, agentd takes them and removes what it has taken. They are bounded, and apart from the
//! records, so that an agent that calls without end cannot push out what matters.

use crate::dir::SessionDir;
use mcp_transport::event::CallEvent;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

/// How long one file becomes, in bytes, before the next is begun.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// So many files wait to be taken; what comes then is counted, and lost.
const FILES_MAX: u64 = 16;
/// What is read at once, in bytes.
const READ_BYTES_MAX: u64 = 256 * 1024;

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Its number in the session, from 1 on.
    pub seq: u64,
    /// When it was answered, in Unix milliseconds.
    pub wall_ms: i64,
    /// What it was.
    #[serde(flatten)]
    pub event: CallEvent,
}

/// Writes calls.
#[derive(Debug)]
pub(crate) struct Writer {
    dir: PathBuf,
    file: Option<File>,
    number: u64,
    /// The length of the file without what a failed write may have left behind.
    good_bytes: u64,
    next_seq: u64,
}

impl Writer {
    pub(crate) fn new(dir: &SessionDir) -> Self {
        Self {
            dir: dir.calls(),
            file: None,
            number: 0,
            good_bytes: 0,
            next_seq: 1,
        }
    }

    /// Writes these, and gives how many were lost.
    pub(crate) fn write(&mut self, wall_ms: i64, events: Vec<CallEvent>) -> u64 {
        let count = events.len() as u64;
        let mut text = Vec::new();
        for (seq, event) in (self.next_seq..).zip(events) {
            let call = Call { seq, wall_ms, event };
            // Numbers and texts: there is nothing that JSON could not express.
            if serde_json::to_writer(&mut text, &call).is_ok() {
                text.push(b'\n');
            }
        }
        match self.append(&text) {
            Ok(true) => {
                self.next_seq += count;
                0
            }
            Ok(false) | Err(_) => count,
        }
    }

    fn append(&mut self, text: &[u8]) -> io::Result<bool> {
        if self.file.is_none() || self.good_bytes >= FILE_BYTES_MAX {
            if !self.begin_file()? {
                return Ok(false);
            }
            self.good_bytes = 0;
        }
        let Some(file) = &mut self.file else {
            return Ok(false);
        };
        if let Err(error) = file.write_all(text) {
            // The half of a line must not stand before a whole one.
            if file.set_len(self.good_bytes).is_err() {
                self.file = None;
            }
            return Err(error);
        }
        self.good_bytes += text.len() as u64;
        Ok(true)
    }

    fn begin_file(&mut self) -> io::Result<bool> {
        match self.number {
            0 => {
                let mut made = fs::DirBuilder::new();
                made.recursive(true).mode(0o700).create(&self.dir)?;
            }
            number if number >= FILES_MAX && fs::read_dir(&self.dir)?.count() as u64 >= FILES_MAX => {
                return Ok(false);
            }
            _ => {}
        }
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(self.dir.join((self.number + 1).to_string()))?;
        self.number += 1;
        self.file = Some(file);
        Ok(true)
    }
}

/// Takes calls, those that were taken before left out.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    /// Which file is read, and how far.
    at: Option<(u64, u64)>,
    taken: u64,
}

/// True when the session has, or had, calls that can be taken.
#[must_use]
pub fn are_there(dir: &SessionDir) -> bool {
    dir.calls().is_dir()
}

impl Reader {
    /// Begins after call number `taken`; 0 for all.
    #[must_use]
    pub fn new(dir: &SessionDir, taken: u64) -> Self {
        Self {
            dir: dir.calls(),
            at: None,
            taken,
        }
    }

    /// The next calls; none when all that are written were taken. Whoever asks has kept what he was given before: what
    /// was read to its end is removed.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn take(&mut self) -> io::Result<Vec<Call>> {
        loop {
            let Some((number, offset)) = self.at.or(self.first()?.map(|number| (number, 0))) else {
                return Ok(Vec::new());
            };
            // Before it is read: nothing is written to a file any more after the next one is there.
            let is_whole = fs::symlink_metadata(self.path(number + 1)).is_ok();
            let (calls, bytes) = self.read(number, offset)?;
            self.at = Some((number, offset + bytes));
            if let Some(last) = calls.last() {
                self.taken = self.taken.max(last.seq);
                return Ok(calls);
            }
            if bytes > 0 {
                continue;
            }
            if !is_whole {
                return Ok(Vec::new());
            }
            fs::remove_file(self.path(number))?;
            self.at = Some((number + 1, 0));
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(number.to_string())
    }

    fn first(&self) -> io::Result<Option<u64>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let numbers = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(numbers.min())
    }

    // Whole lines, and how many bytes they take.
    fn read(&self, number: u64, offset: u64) -> io::Result<(Vec<Call>, u64)> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(self.path(number))?;
        file.seek(SeekFrom::Start(offset))?;
        let mut text = Vec::new();
        file.take(READ_BYTES_MAX).read_to_end(&mut text)?;
        let whole = text
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        let lines = text[..whole].split(|&byte| byte == b'\n');
        let calls = lines.filter_map(|line| serde_json::from_slice::<Call>(line).ok());
        Ok((calls.filter(|call| call.seq > self.taken).collect(), whole as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mcp_transport::event::Outcome;

    fn event(arguments: &str) -> CallEvent {
        CallEvent {
            plugin: "p".into(),
            tool: "t".into(),
            duration_ms: 1,
            outcome: Outcome::Ok,
            argument_bytes: arguments.len(),
            result_bytes: 2,
            arguments: arguments.into(),
            error: None,
        }
    }

    fn all(reader: &mut Reader) -> Vec<u64> {
        let mut found = Vec::new();
        loop {
            let calls = reader.take().unwrap();
            if calls.is_empty() {
                return found;
            }
            found.extend(calls.iter().map(|call| call.seq));
        }
    }

    #[test]
    fn each_call_is_taken_once_whoever_takes_it() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = SessionDir::new(temporary.path().to_owned());
        let mut reader = Reader::new(&dir, 0);
        assert_eq!(all(&mut reader), [0; 0]);
        let mut writer = Writer::new(&dir);
        assert_eq!(writer.write(7, vec![event("{}"), event("{}")]), 0);
        assert_eq!(all(&mut reader), [1, 2]);
        assert_eq!(writer.write(7, vec![event("{}")]), 0);
        assert_eq!(all(&mut reader), [3]);
        assert_eq!(all(&mut Reader::new(&dir, 2)), [3]);
        assert_eq!(all(&mut Reader::new(&dir, 0)), [1, 2, 3]);
        // A writer that died in the middle of a line.
        let mut torn = OpenOptions::new()
            .append(true)
            .open(dir.calls().join("1"))
            .unwrap();
        torn.write_all(b"{\"seq\":4,").unwrap();
        assert_eq!(all(&mut Reader::new(&dir, 3)), [0; 0]);
    }

    #[test]
    fn what_nobody_takes_has_a_bound_and_what_is_taken_makes_room() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = SessionDir::new(temporary.path().to_owned());
        let mut writer = Writer::new(&dir);
        let large = "x".repeat(4000);
        let batch = || vec![event(&large); 100];
        let mut written = 0;
        while writer.write(7, batch()) == 0 {
            written += 100;
        }
        assert_eq!(fs::read_dir(dir.calls()).unwrap().count() as u64, FILES_MAX);
        let mut reader = Reader::new(&dir, 0);
        assert_eq!(all(&mut reader), (1..=written).collect::<Vec<u64>>());
        assert_eq!(fs::read_dir(dir.calls()).unwrap().count(), 1);
        assert_eq!(writer.write(7, batch()), 0);
        assert_eq!(all(&mut reader).len(), 100);
    }
}
