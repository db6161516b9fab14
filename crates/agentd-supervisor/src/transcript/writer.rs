//! Keeps the first and the last part of output that may never end, in files.

use super::{END_FILE, FRAME_BYTES_MAX, HEADER_BYTES, Header, segment_name};
use crate::spec::TranscriptLimits;
use agentd_protocol::OutputStream;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How large segments are when limits are.
const SEGMENT_BYTES_MAX: u64 = 1024 * 1024;
const SEGMENT_BYTES_MIN: u64 = 4 * 1024;
/// A chunk counts as at least so much, so that output in single bytes does not take many times what it may.
const CHUNK_BYTES_COUNTED_MIN: u64 = HEADER_BYTES as u64;
/// So much of a disk stays free when transcripts fill it, or this part of a smaller one: the daemon's database usually
/// lies there, too, and without it no session's end can be written down.
const RESERVE_BYTES_MAX: u64 = 8 * 1024 * 1024;
const RESERVE_PART: u64 = 16;
/// How often within the reserve's length the disk is looked at: many may write at once.
const LOOKS_PER_RESERVE: u64 = 32;
/// How long after a failed write nothing is tried: a full disk is not asked at every line.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// How much there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Bytes of output.
    pub output_bytes: u64,
    /// How many of them are not kept.
    pub missing_bytes: u64,
}

/// Writes a transcript. It never fails: what cannot be written is missing, and counted.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    limits: TranscriptLimits,
    segment_bytes: u64,
    totals: Totals,
    current: Option<Current>,
    /// Counted bytes of the head that are used.
    head_used: u64,
    /// Complete segments after the head, oldest first.
    tail: VecDeque<Segment>,
    tail_counted: u64,
    pub(super) retry_at: Option<Instant>,
    /// What may be written until the disk is looked at again, in bytes.
    unlooked: u64,
    error: Option<io::Error>,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    start: u64,
    bytes: u64,
    counted: u64,
}

#[derive(Debug)]
struct Current {
    file: File,
    segment: Segment,
    /// As it is without what a failed write may have left behind.
    file_bytes: u64,
    is_head: bool,
}

impl Writer {
    /// A transcript in `dir`, which is made.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn create(dir: &Path, limits: TranscriptLimits) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        Ok(Self::new(dir, limits))
    }

    /// A transcript in a directory that is there already, or is not: then nothing can be kept.
    #[must_use]
    pub fn new(dir: &Path, limits: TranscriptLimits) -> Self {
        Self {
            dir: dir.to_owned(),
            limits,
            segment_bytes: (limits.head_bytes.max(limits.tail_bytes) / 16)
                .clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX),
            totals: Totals::default(),
            current: None,
            head_used: 0,
            tail: VecDeque::new(),
            tail_counted: 0,
            retry_at: None,
            unlooked: 0,
            error: None,
        }
    }

    /// How much there was so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// What went wrong since this was asked last, if something did.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    /// Takes output in.
    pub fn push(&mut self, stream: OutputStream, wall_ms: i64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let head_left = self.limits.head_bytes.saturating_sub(self.head_used);
            let mut length = bytes.len().min(FRAME_BYTES_MAX);
            if head_left > 0 {
                length = length.min(usize::try_from(head_left).unwrap_or(usize::MAX));
            }
            let (chunk, rest) = bytes.split_at(length);
            self.push_chunk(stream, wall_ms, chunk, head_left > 0);
            bytes = rest;
        }
    }

    fn push_chunk(&mut self, stream: OutputStream, wall_ms: i64, chunk: &[u8], is_head: bool) {
        let length = chunk.len() as u64;
        let counted = length.max(CHUNK_BYTES_COUNTED_MIN);
        if self.current.as_ref().is_some_and(|current| {
            current.is_head != is_head || current.segment.counted >= self.segment_bytes
        }) {
            self.close();
        }
        let header = Header {
            stream,
            length: chunk.len(),
            wall_ms,
        };
        let kept = self.write(&header.encode(), chunk, is_head);
        self.totals.output_bytes += length;
        if is_head {
            self.head_used += counted;
        }
        if kept && let Some(current) = &mut self.current {
            current.segment.bytes += length;
            current.segment.counted += counted;
            if !is_head {
                self.tail_counted += counted;
                self.forget();
            }
        } else {
            self.totals.missing_bytes += length;
        }
    }

    /// One frame, in full or not at all.
    fn write(&mut self, header: &[u8], chunk: &[u8], is_head: bool) -> bool {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        let length = (header.len() + chunk.len()) as u64;
        let written = self
            .leave_room(length)
            .and_then(|()| self.open(is_head))
            .and_then(|current| {
                let result = write_all(&mut current.file, header, chunk);
                match result {
                    Ok(()) => current.file_bytes += length,
                    // The half of a frame must not stand before a whole one. If even this fails, nothing comes after it:
                    // the segment is closed.
                    Err(_) => _ = current.file.set_len(current.file_bytes),
                }
                result
            });
        match written {
            Ok(()) => {
                self.retry_at = None;
                true
            }
            Err(error) => {
                // What comes next has another offset than the end of this segment: it needs one of its own.
                self.close();
                self.retry_at = Instant::now().checked_add(RETRY_AFTER);
                self.error.get_or_insert(error);
                false
            }
        }
    }

    /// Looks every now and then whether the disk has more than its reserve.
    fn leave_room(&mut self, length: u64) -> io::Result<()> {
        if let Some(rest) = self.unlooked.checked_sub(length) {
            self.unlooked = rest;
            return Ok(());
        }
        // Without an answer writing decides.
        let Ok(disk) = rustix::fs::statvfs(&self.dir) else {
            return Ok(());
        };
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        let reserve = (bytes(disk.f_blocks) / RESERVE_PART).min(RESERVE_BYTES_MAX);
        // A file system without a size says zero, and has no reserve.
        if disk.f_blocks > 0 && bytes(disk.f_bavail) < reserve.saturating_add(length) {
            self.unlooked = 0;
            let why = format!(
                "No space left but {} KiB, which are kept for agentd itself",
                reserve / 1024
            );
            return Err(io::Error::new(io::ErrorKind::StorageFull, why));
        }
        self.unlooked = reserve / LOOKS_PER_RESERVE;
        Ok(())
    }

    fn open(&mut self, is_head: bool) -> io::Result<&mut Current> {
        let current = match self.current.take() {
            Some(current) => current,
            None => Current {
                file: create(&self.dir.join(segment_name(self.totals.output_bytes)))?,
                segment: Segment {
                    start: self.totals.output_bytes,
                    bytes: 0,
                    counted: 0,
                },
                file_bytes: 0,
                is_head,
            },
        };
        Ok(self.current.insert(current))
    }

    pub(super) fn close(&mut self) {
        let Some(current) = self.current.take() else {
            return;
        };
        if current.file_bytes == 0 {
            // Nothing could be written; its name would say that something is there.
            let _ = fs::remove_file(self.dir.join(segment_name(current.segment.start)));
        } else if !current.is_head {
            self.tail.push_back(current.segment);
        }
    }

    /// Deletes what is neither the beginning nor the end any more.
    fn forget(&mut self) {
        while let Some(oldest) = self.tail.front()
            && self.tail_counted - oldest.counted >= self.limits.tail_bytes
        {
            // If it cannot be deleted it takes up room, and goes with the whole directory.
            let _ = fs::remove_file(self.dir.join(segment_name(oldest.start)));
            self.tail_counted -= oldest.counted;
            self.totals.missing_bytes += oldest.bytes;
            self.tail.pop_front();
        }
    }

    /// Nothing more comes: says so to readers, and returns when all is on disk.
    ///
    /// # Errors
    /// When that is not certain. The totals stand all the same.
    pub fn finish(&mut self) -> io::Result<Totals> {
        self.close();
        let totals = self.totals;
        let end = self.dir.join(END_FILE);
        let temporary = self.dir.join(".end");
        let mut file = create(&temporary)?;
        file.write_all(&serde_json::to_vec(&totals)?)?;
        fs::rename(&temporary, &end)?;
        for entry in fs::read_dir(&self.dir)? {
            File::open(entry?.path())?.sync_data()?;
        }
        File::open(&self.dir)?.sync_all()?;
        Ok(totals)
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

fn write_all(file: &mut File, header: &[u8], chunk: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while written < header.len() + chunk.len() {
        let (header, chunk) = if written < header.len() {
            (&header[written..], chunk)
        } else {
            (&[][..], &chunk[written - header.len()..])
        };
        match file.write_vectored(&[IoSlice::new(header), IoSlice::new(chunk)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => written += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
