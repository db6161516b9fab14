//! Reads a transcript, also while it is written.

use super::{END_FILE, HEADER_BYTES, Header, Totals, segment_name, segment_start};
use crate::events;
use agentd_protocol::OutputStream;
use rustix::fs::inotify;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// How often a page is begun again because its segment was deleted meanwhile.
const ATTEMPTS_MAX: u32 = 16;
/// The most of the file of totals that is read, in bytes.
const END_BYTES_MAX: u64 = 4096;
/// How often is looked when the kernel gives no more watches to this user.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// How many bytes of output came before it, of both streams.
    pub offset: u64,
    /// When it was written, in Unix milliseconds.
    pub wall_ms: i64,
    /// To where.
    pub stream: OutputStream,
    /// What.
    pub bytes: Vec<u8>,
}

/// Some output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In order. Where one does not begin at the other's end, the bytes between were not kept.
    pub chunks: Vec<Chunk>,
    /// Where to go on.
    pub next_offset: u64,
    /// How many bytes from the page's offset to `next_offset` were not kept.
    pub missing_bytes: u64,
    /// Nothing comes after it, ever: the agent is gone and this is the end. Never true when the writer was killed.
    pub ended: bool,
}

/// Reads a session's transcript.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    /// Where the last page ended.
    place: Option<Place>,
    watch: Option<AsyncFd<OwnedFd>>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    segment: u64,
    /// Of a frame's header in the file.
    position: u64,
    /// Of that frame's first byte in the output.
    offset: u64,
}

impl Reader {
    /// Reads the transcript in `dir`, which need not be there yet.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            place: None,
            watch: None,
        }
    }

    /// At most `limit_bytes` bytes of output from `from_offset` on, as far as there are. A page without chunks is no
    /// error: nothing is there yet. Reads files: call it where that may block.
    ///
    /// # Errors
    /// When files cannot be read.
    pub fn read(&mut self, from_offset: u64, limit_bytes: usize) -> io::Result<Page> {
        for _ in 0..ATTEMPTS_MAX {
            match self.try_read(from_offset, limit_bytes) {
                // Deleted, since it is the middle now: what is left is to be found anew.
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.place = None,
                other => return other,
            }
        }
        Err(io::Error::other(
            "the transcript is rewritten faster than it can be read",
        ))
    }

    fn try_read(&mut self, from: u64, limit: usize) -> io::Result<Page> {
        // Before the segments: what is there when there is an end is all.
        let end = self.totals()?;
        let segments = self.segments()?;
        let mut page = Page {
            next_offset: from,
            ..Page::default()
        };
        let mut left = limit;
        let first = segments.partition_point(|&start| start <= from).saturating_sub(1);
        let mut complete = true;
        for (at, &start) in segments.iter().enumerate().skip(first) {
            if left == 0 {
                complete = false;
                break;
            }
            if start > page.next_offset {
                page.missing_bytes += start - page.next_offset;
                page.next_offset = start;
            }
            let next = segments.get(at + 1).copied();
            if next.is_some_and(|next| next <= page.next_offset) {
                continue;
            }
            self.read_segment(start, &mut page, &mut left)?;
        }
        if let Some(end) = end
            && complete
            && left > 0
        {
            // Of the last bytes nothing may be left to see.
            page.missing_bytes += end.output_bytes.saturating_sub(page.next_offset);
            page.next_offset = page.next_offset.max(end.output_bytes);
        }
        page.ended = end.is_some_and(|end| page.next_offset >= end.output_bytes);
        Ok(page)
    }

    fn read_segment(&mut self, start: u64, page: &mut Page, left: &mut usize) -> io::Result<()> {
        let mut file = BufReader::with_capacity(128 * 1024, open(&self.dir.join(segment_name(start)))?);
        let mut place = self
            .place
            .filter(|place| place.segment == start && place.offset <= page.next_offset)
            .unwrap_or(Place {
                segment: start,
                position: 0,
                offset: start,
            });
        file.seek(SeekFrom::Start(place.position))?;
        let size = file.get_ref().metadata()?.len();
        while *left > 0 {
            let mut header = [0; HEADER_BYTES];
            if place.position + HEADER_BYTES as u64 > size {
                break;
            }
            file.read_exact(&mut header)?;
            let Some(header) = Header::decode(header) else {
                break;
            };
            let length = header.length as u64;
            let next = place.position + HEADER_BYTES as u64 + length;
            if next > size {
                break;
            }
            if place.offset + length <= page.next_offset {
                file.seek_relative(i64::try_from(length).unwrap_or(i64::MAX))?;
            } else {
                let mut bytes = vec![0; header.length];
                file.read_exact(&mut bytes)?;
                let skipped = usize::try_from(page.next_offset - place.offset).unwrap_or(usize::MAX);
                bytes.drain(..skipped.min(header.length));
                let is_cut = bytes.len() > *left;
                bytes.truncate(*left);
                *left -= bytes.len();
                let offset = page.next_offset;
                page.next_offset += bytes.len() as u64;
                page.chunks.push(Chunk {
                    offset,
                    wall_ms: header.wall_ms,
                    stream: header.stream,
                    bytes,
                });
                if is_cut {
                    break;
                }
            }
            place.position = next;
            place.offset += length;
        }
        self.place = Some(place);
        Ok(())
    }

    /// Totals, when nothing more comes.
    fn totals(&self) -> io::Result<Option<Totals>> {
        let mut text = Vec::new();
        match open(&self.dir.join(END_FILE)) {
            Ok(file) => file.take(END_BYTES_MAX).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(serde_json::from_slice(&text).ok())
    }

    /// Where segments begin, in order.
    fn segments(&self) -> io::Result<Vec<u64>> {
        let mut segments = Vec::new();
        match fs::read_dir(&self.dir) {
            Ok(entries) => {
                for entry in entries {
                    segments.extend(entry?.file_name().to_str().and_then(segment_start));
                }
            }
            // Not begun yet; a session without a transcript has an empty one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        segments.sort_unstable();
        Ok(segments)
    }

    /// Waits until something may have been written since the last call, and at most for so long. The first call returns
    /// at once, and any may return without a reason: read, and wait when there was nothing.
    ///
    /// # Errors
    /// When the directory cannot be watched: it is gone.
    pub async fn wait(&mut self, at_most: Duration) -> io::Result<()> {
        let Some(watch) = &self.watch else {
            match self.start_watch() {
                Ok(watch) => self.watch = Some(watch),
                // The user's watches or descriptors are used up.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EMFILE | libc::ENFILE | libc::ENOSPC)
                    ) =>
                {
                    tokio::time::sleep(at_most.min(LOOK_EVERY)).await;
                }
                Err(error) => return Err(error),
            }
            return Ok(());
        };
        match tokio::time::timeout(at_most, events::drained(watch)).await {
            Ok(result) => result,
            Err(_) => Ok(()),
        }
    }

    fn start_watch(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let inotify = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(
            &inotify,
            &self.dir,
            inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO,
        )?;
        events::register(inotify)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}
