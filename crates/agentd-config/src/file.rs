//! Files that a person wrote.

use rustix::fs::OFlags;
use std::borrow::Cow;
use std::fs::{Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is a directory, a pipe, a device.
    #[error("it is not a file")]
    NotAFile,
    /// It is too long.
    #[error("it has more than {bytes_max} bytes, which is the most that is read")]
    TooLong {
        /// The bound.
        bytes_max: u64,
    },
    /// It is no text.
    #[error("it is not UTF-8 text (byte {at} is not)")]
    NotText {
        /// Which byte, from 1 on.
        at: usize,
    },
}

/// A file's text, and whose it is. Never waits for a pipe's other end, and never reads more than `bytes_max`.
///
/// # Errors
/// See [`FileError`].
pub fn read_text(path: &Path, bytes_max: u64) -> Result<(String, Metadata), FileError> {
    let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path)?;
    // Of the file that is open: another one may stand at the path by now.
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile);
    }
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(FileError::TooLong { bytes_max });
    }
    let text = String::from_utf8(bytes).map_err(|error| FileError::NotText {
        at: error.utf8_error().valid_up_to() + 1,
    })?;
    Ok((text, metadata))
}

/// The text with a line feed at the end of each line, whichever system it was written on. A program that is given a text
/// from the file, a shell above all, would take a carriage return for a part of the line.
#[must_use]
pub fn with_line_feeds(text: &str) -> Cow<'_, str> {
    if text.contains('\r') {
        Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n"))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_ends_alike() {
        assert_eq!(with_line_feeds("a\r\nb\rc\n\r\n\r"), "a\nb\nc\n\n\n");
        assert!(matches!(with_line_feeds("a\nb"), Cow::Borrowed("a\nb")));
    }

    #[test]
    fn only_texts_of_a_bounded_length_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let write = |bytes: &[u8]| std::fs::write(&path, bytes).unwrap();
        write(b"12345678");
        assert_eq!(read_text(&path, 8).unwrap().0, "12345678");
        assert!(matches!(
            read_text(&path, 7),
            Err(FileError::TooLong { bytes_max: 7 })
        ));
        write(b"ab\xff");
        assert!(matches!(read_text(&path, 8), Err(FileError::NotText { at: 3 })));
        assert!(matches!(read_text(dir.path(), 8), Err(FileError::NotAFile)));
        assert!(matches!(
            read_text(&dir.path().join("none"), 8),
            Err(FileError::Io(_))
        ));
        // Nobody writes into this pipe.
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert!(matches!(read_text(&pipe, 8), Err(FileError::NotAFile)));
    }
}
