//! What a plugin says on standard error, kept in files for people.

use crate::event::Redact;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

/// How large a file gets before it becomes the older of two, in bytes.
const FILE_BYTES_MAX: u64 = 128 * 1024;
/// A line is waited for until it has so many bytes.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// A plugin's log: `NAME.log`, and `NAME.log.old` with what was before. It never fails: what cannot be written is lost.
pub(crate) struct Log {
    path: PathBuf,
    redact: Arc<dyn Redact>,
    file: Option<File>,
    written: u64,
    /// What has no end of a line yet: half a secret is not known for one.
    open: Vec<u8>,
}

impl Log {
    pub(crate) fn new(path: PathBuf, redact: Arc<dyn Redact>) -> Self {
        Self {
            path,
            redact,
            file: None,
            written: 0,
            open: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.open.extend_from_slice(bytes);
        let whole = match memchr::memrchr(b'\n', &self.open) {
            Some(end) => end + 1,
            None if self.open.len() >= LINE_BYTES_MAX => self.open.len(),
            None => return,
        };
        let lines: Vec<u8> = self.open.drain(..whole).collect();
        self.put(&lines);
    }

    /// The plugin will say no more: what is no whole line is written, too.
    pub(crate) fn end(&mut self) {
        if !self.open.is_empty() {
            let mut line = std::mem::take(&mut self.open);
            line.push(b'\n');
            self.put(&line);
        }
    }

    fn put(&mut self, lines: &[u8]) {
        let text = self.redact.redact(&String::from_utf8_lossy(lines));
        // A disk that is full, or a directory that is gone, is no reason to stop a plugin.
        if self.write(text.as_bytes()).is_err() {
            self.file = None;
        }
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.written + text.len() as u64 > FILE_BYTES_MAX && self.written > 0 {
            self.file = None;
            fs::rename(&self.path, self.path.with_extension("log.old"))?;
        }
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                let mut options = OpenOptions::new();
                let file = options.append(true).create(true).mode(0o600).open(&self.path)?;
                self.written = file.metadata()?.len();
                file
            }
        };
        file.write_all(text)?;
        self.written += text.len() as u64;
        self.file = Some(file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_in_it_and_it_has_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.log");
        let redact = |text: &str| text.replace("sesame", "[redacted]");
        let mut log = Log::new(path.clone(), Arc::new(redact));
        log.push(b"one\nopen ses");
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
        log.push(b"ame");
        log.end();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\nopen [redacted]\n");
        for n in 0..50_000 {
            log.push(format!("line {n}\n").as_bytes());
        }
        log.push(&vec![b'x'; 100_000]);
        log.end();
        let sizes: Vec<u64> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|size| *size <= FILE_BYTES_MAX), "{sizes:?}");
        fs::remove_dir_all(dir.path()).unwrap();
        log.push(b"nowhere\n");
    }
}
