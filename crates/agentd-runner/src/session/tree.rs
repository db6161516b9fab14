//! Trees that an agent has filled: removing them, giving them to another user, measuring them.
//!
//! An agent may leave anything in a directory of its own: symbolic links, pipes, hard links, names that are no text,
//! directories that nobody may read, a hundred thousand of them one in the other, a million side by side. So a walk
//! goes by descriptors and never by paths, follows no link, stays on one mount, holds a fixed number of descriptors
//! and no directory's list in memory, and does a bounded number of entries at a time.
//!
//! `std::fs::remove_dir_all` follows no links either, but it holds a descriptor and a stack frame for each level, goes
//! through mount points, and gives up at a directory without permissions.

use super::error::StepError;
use rustix::fs::{self as rfs, AtFlags, CWD, Dir, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Directories that a walk holds open; those above are found again by their `..`.
const OPEN_MAX: usize = 32;
/// Files with several names that are remembered while a tree is given away or measured.
const LINKED_MAX: usize = 1_000_000;
/// How often a tree is gone through again because something in it was skipped.
const PASSES_MAX: u32 = 16;

/// More entries than any tree of ours is meant to have; so many are removed in one go.
pub const ENTRIES_MAX: u64 = 10_000_000;

/// How many entries of trees may still be touched in this step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// So many.
    pub entries: u64,
}

impl Budget {
    /// So many entries.
    #[must_use]
    pub fn entries(entries: u64) -> Self {
        Self { entries }
    }

    fn spend(&mut self) -> bool {
        let left = self.entries.checked_sub(1);
        self.entries = left.unwrap_or(0);
        left.is_some()
    }
}

/// Whether a step did all that there was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// All of it.
    Done,
    /// The budget ran out; the same again goes on from here.
    More,
}

/// What something in a tree is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) kind: FileType,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    links: u32,
    bytes: u64,
    blocks: u64,
    /// Of its file system and in it.
    id: (u64, u64),
    mount: u64,
}

impl Found {
    /// What a descriptor, or a name in a directory, stands for. Links are not followed.
    pub(crate) fn at(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        let stat = rfs::statx(dir, name, flags, mask)?;
        let device = u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor);
        // A mount has a number of its own since Linux 5.8; before, the file system's must do, which does not tell
        // a bind mount from its source.
        let numbered = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        Ok(Self {
            kind: FileType::from_raw_mode(stat.stx_mode.into()),
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            links: stat.stx_nlink,
            bytes: stat.stx_size,
            blocks: stat.stx_blocks,
            id: (device, stat.stx_ino),
            mount: if numbered { stat.stx_mnt_id } else { device },
        })
    }

    /// What a descriptor stands for.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Self::at(fd, c"")
    }

    /// What it takes on the disk, in bytes. Small files may lie in their inode and have no block.
    fn disk_bytes(&self) -> u64 {
        match self.blocks {
            0 => self.bytes.min(4096),
            blocks => blocks.saturating_mul(512),
        }
    }
}

/// Whether a walk goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Go {
    On,
    Stop,
}

/// What is done with a tree's entries.
trait Visitor {
    /// A directory, before it is read; `fd` is good for nothing but naming it.
    fn enter(&mut self, fd: BorrowedFd<'_>, found: &Found) -> io::Result<Go>;
    /// Anything else.
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Go>;
    /// A directory, after all that is in it.
    fn leave(&mut self, above: BorrowedFd<'_>, name: &CStr, dir: BorrowedFd<'_>) -> io::Result<Go>;
}

/// What went wrong first, with what. The walk goes on.
#[derive(Default)]
struct Trouble {
    first: Option<(CString, io::Error)>,
    count: u64,
}

impl Trouble {
    fn note(&mut self, name: &CStr, error: io::Error) {
        self.count += 1;
        self.first.get_or_insert_with(|| (name.to_owned(), error));
    }

    fn into_error(self, doing: &'static str, path: &Path) -> Option<StepError> {
        let (name, error) = self.first?;
        let kind = error.kind();
        let others = match self.count {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        let message = format!("{:?} in it: {error}{others}", name.to_string_lossy());
        Some(StepError::io(doing, path)(io::Error::new(kind, message)))
    }
}

struct Level {
    /// Closed when too many are open.
    dir: Option<Dir>,
    id: (u64, u64),
    name: CString,
    /// Where reading goes on when it is opened again.
    offset: i64,
}

enum Entered {
    Directory(Level),
    Other,
    Stop,
}

fn enter(above: BorrowedFd<'_>, name: &CStr, mount: u64, visitor: &mut impl Visitor) -> io::Result<Entered> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = match rfs::openat(above, name, flags, Mode::empty()) {
        Ok(handle) => handle,
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Entered::Other),
        Err(error) => return Err(error.into()),
    };
    let found = Found::of(handle.as_fd())?;
    if mount != found.mount {
        return Err(io::Error::other("something is mounted there; unmount it first"));
    }
    if visitor.enter(handle.as_fd(), &found)? == Go::Stop {
        return Ok(Entered::Stop);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = Dir::new(rfs::openat(&handle, c".", flags, Mode::empty())?)?;
    Ok(Entered::Directory(Level {
        dir: Some(dir),
        id: found.id,
        name: name.to_owned(),
        offset: 0,
    }))
}

/// Goes through the tree at `name`, directories after what is in them, on one mount alone.
fn walk(
    above: BorrowedFd<'_>,
    name: &CStr,
    mount: u64,
    budget: &mut Budget,
    trouble: &mut Trouble,
    visitor: &mut impl Visitor,
) -> io::Result<Progress> {
    let mut levels = match enter(above, name, mount, visitor)? {
        Entered::Directory(level) => vec![level],
        Entered::Other => return Err(io::ErrorKind::NotADirectory.into()),
        Entered::Stop => return Ok(Progress::Done),
    };
    while let Some(level) = levels.last_mut() {
        let Some(dir) = &mut level.dir else {
            return Err(io::Error::other("a directory was closed too early"));
        };
        let Some(entry) = dir.read() else {
            if leave(above, &mut levels, trouble, visitor)? == Go::Stop {
                return Ok(Progress::Done);
            }
            continue;
        };
        let entry = entry?;
        level.offset = entry.offset();
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if !budget.spend() {
            return Ok(Progress::More);
        }
        let fd = dir.fd()?;
        let entered = match entry.file_type() {
            FileType::Directory | FileType::Unknown => enter(fd, name, mount, visitor),
            _ => Ok(Entered::Other),
        };
        let entered = match entered {
            Ok(Entered::Other) => visitor.entry(fd, name).map(|go| match go {
                Go::On => Entered::Other,
                Go::Stop => Entered::Stop,
            }),
            entered => entered,
        };
        match entered {
            Ok(Entered::Directory(below)) => {
                if let Some(far) = levels.len().checked_sub(OPEN_MAX - 1) {
                    levels[far].dir = None;
                }
                levels.push(below);
            }
            Ok(Entered::Other) => {}
            Ok(Entered::Stop) => return Ok(Progress::Done),
            // It is gone: somebody else was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => trouble.note(name, error),
        }
    }
    Ok(Progress::Done)
}

/// Goes up by one directory.
fn leave(
    above: BorrowedFd<'_>,
    levels: &mut Vec<Level>,
    trouble: &mut Trouble,
    visitor: &mut impl Visitor,
) -> io::Result<Go> {
    let Some(Level {
        dir: Some(dir), name, ..
    }) = levels.pop()
    else {
        return Err(io::Error::other("a directory was closed too early"));
    };
    let left = match levels.last_mut() {
        None => visitor.leave(above, &name, dir.fd()?),
        Some(up) => {
            let up_dir = match up.dir.take() {
                Some(open) => open,
                None => reopen(dir.fd()?, up)?,
            };
            let left = visitor.leave(up_dir.fd()?, &name, dir.fd()?);
            up.dir = Some(up_dir);
            left
        }
    };
    match left {
        Ok(go) => Ok(go),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Go::On),
        Err(error) => {
            trouble.note(&name, error);
            Ok(Go::On)
        }
    }
}

/// Finds a directory again from one that is in it. Whoever moves directories about meanwhile does not lead us away.
fn reopen(below: BorrowedFd<'_>, level: &Level) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rfs::openat(below, c"..", flags, Mode::empty())?;
    if Found::of(fd.as_fd())?.id != level.id {
        return Err(io::Error::other(
            "a directory was moved while the tree was gone through",
        ));
    }
    let mut dir = Dir::new(fd)?;
    dir.seek(level.offset)?;
    Ok(dir)
}

/// A path's directory, opened, and its last part. The directory and those above it are ours.
pub(crate) fn split(path: &Path) -> Result<(OwnedFd, CString), StepError> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(StepError::io("use", path)(io::Error::from(
            io::ErrorKind::InvalidInput,
        )));
    };
    let above = if above.as_os_str().is_empty() {
        Path::new(".")
    } else {
        above
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rfs::openat(CWD, above, flags, Mode::empty()).map_err(StepError::io("open", above))?;
    let name = CString::new(name.as_bytes()).map_err(StepError::io("use", path))?;
    Ok((dir, name))
}

/// Changes the mode of what a descriptor stands for that was opened as a path.
pub(crate) fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // The kernel takes no such descriptor for this, but the name that it has in /proc.
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rfs::chmod(path, Mode::from_raw_mode(mode))?)
}

struct Remover {
    removed: u64,
}

impl Visitor for Remover {
    fn enter(&mut self, fd: BorrowedFd<'_>, found: &Found) -> io::Result<Go> {
        if found.mode & 0o700 != 0o700 {
            set_mode(fd, found.mode | 0o700)?;
        }
        Ok(Go::On)
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Go> {
        rfs::unlinkat(dir, name, AtFlags::empty())?;
        self.removed += 1;
        Ok(Go::On)
    }

    fn leave(&mut self, above: BorrowedFd<'_>, name: &CStr, _: BorrowedFd<'_>) -> io::Result<Go> {
        rfs::unlinkat(above, name, AtFlags::REMOVEDIR)?;
        self.removed += 1;
        Ok(Go::On)
    }
}

/// Removes whatever is at `path`, a tree or not. Of nothing, nothing is removed. Whatever can be removed is, also
/// when something else cannot.
///
/// # Errors
/// When something cannot be removed: it belongs to somebody else, or something is mounted there.
pub fn remove(path: &Path, budget: &mut Budget) -> Result<Progress, StepError> {
    let (above, name) = match split(path) {
        Ok(parts) => parts,
        Err(StepError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(Progress::Done);
        }
        Err(error) => return Err(error),
    };
    let mount = Found::of(above.as_fd())
        .map_err(StepError::io("look at", path))?
        .mount;
    // Where a place in a directory is only a number, removing moves the entries after it, and some are skipped.
    for _ in 0..PASSES_MAX {
        match rfs::unlinkat(&above, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(Progress::Done),
            Err(Errno::ISDIR) => {}
            Err(error) => return Err(StepError::io("remove", path)(error)),
        }
        let mut remover = Remover { removed: 0 };
        let mut trouble = Trouble::default();
        let walked = walk(above.as_fd(), &name, mount, budget, &mut trouble, &mut remover);
        match walked {
            Ok(Progress::More) => return Ok(Progress::More),
            Ok(Progress::Done) if trouble.first.is_none() => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(Progress::Done) if remover.removed == 0 => {
                return trouble.into_error("remove", path).map_or(Ok(Progress::Done), Err);
            }
            Ok(Progress::Done) => {}
            Err(error) => return Err(StepError::io("remove", path)(error)),
        }
    }
    match Found::at(above.as_fd(), &name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Progress::Done),
        _ => Ok(Progress::More),
    }
}

struct Opener {
    owner: u32,
}

impl Visitor for Opener {
    fn enter(&mut self, fd: BorrowedFd<'_>, found: &Found) -> io::Result<Go> {
        if found.uid == self.owner && found.mode & 0o700 != 0o700 {
            set_mode(fd, found.mode | 0o700)?;
        }
        Ok(Go::On)
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Go> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rfs::openat(dir, name, flags, Mode::empty())?;
        let found = Found::of(fd.as_fd())?;
        let closed = found.kind == FileType::RegularFile && found.mode & 0o400 == 0;
        if closed && found.uid == self.owner {
            set_mode(fd.as_fd(), found.mode | 0o400)?;
        }
        Ok(Go::On)
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &CStr, _: BorrowedFd<'_>) -> io::Result<Go> {
        Ok(Go::On)
    }
}

/// Lets a tree's owner read all that is the owner's in it, and change its directories.
///
/// # Errors
/// When a part of it cannot be looked at or changed, or it has too many entries.
pub(crate) fn open_up(path: &Path, owner: u32, budget: &mut Budget) -> Result<(), StepError> {
    let doing = "make readable";
    let (above, name) = split(path)?;
    let mount = Found::at(above.as_fd(), &name)
        .map_err(StepError::io(doing, path))?
        .mount;
    let mut trouble = Trouble::default();
    let walked = walk(
        above.as_fd(),
        &name,
        mount,
        budget,
        &mut trouble,
        &mut Opener { owner },
    );
    if walked.map_err(StepError::io(doing, path))? == Progress::More {
        return Err(StepError::agent(format!(
            "{} has too many files to be looked at",
            path.display()
        )));
    }
    trouble.into_error(doing, path).map_or(Ok(()), Err)
}

/// Which files have all their names in the tree.
struct Links {
    owner: u32,
    seen: HashMap<(u64, u64), (u32, u32)>,
}

impl Visitor for Links {
    fn enter(&mut self, _: BorrowedFd<'_>, _: &Found) -> io::Result<Go> {
        Ok(Go::On)
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Go> {
        let found = Found::at(dir, name)?;
        if found.links > 1 && found.uid == self.owner {
            if self.seen.len() >= LINKED_MAX {
                return Err(io::Error::other("too many files with several names"));
            }
            let (seen, links) = self.seen.entry(found.id).or_insert((0, found.links));
            *seen += 1;
            *links = found.links;
        }
        Ok(Go::On)
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &CStr, _: BorrowedFd<'_>) -> io::Result<Go> {
        Ok(Go::On)
    }
}

struct Giver {
    links: Links,
    to: (u32, u32),
    kept: u64,
}

impl Giver {
    fn give(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let (uid, gid) = (rfs::Uid::from_raw(self.to.0), rfs::Gid::from_raw(self.to.1));
        Ok(rfs::chownat(fd, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
    }
}

impl Visitor for Giver {
    fn enter(&mut self, _: BorrowedFd<'_>, _: &Found) -> io::Result<Go> {
        Ok(Go::On)
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Go> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rfs::openat(dir, name, flags, Mode::empty())?;
        let found = Found::of(fd.as_fd())?;
        let ours = found.uid == self.links.owner;
        let whole = found.links == 1
            || matches!(self.links.seen.get(&found.id), Some((seen, links)) if seen == links && *links == found.links);
        match (ours, whole) {
            (true, true) => self.give(fd.as_fd())?,
            (true, false) => self.kept += 1,
            (false, _) => {}
        }
        Ok(Go::On)
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &CStr, dir: BorrowedFd<'_>) -> io::Result<Go> {
        if Found::of(dir)?.uid == self.links.owner {
            self.give(dir)?;
        }
        Ok(Go::On)
    }
}

/// Gives a tree's entries that belong to `from` to another user and group; the tree's own directory comes last, so
/// that its owner tells whether all of it was given. Gives the number of files that stayed as they were because
/// they have names outside the tree as well: they may be somebody's own.
///
/// # Errors
/// When not all of it could be given; the same again goes on from there.
pub(crate) fn give(path: &Path, from: u32, to: (u32, u32), mut budget: Budget) -> Result<u64, StepError> {
    let (above, name) = split(path)?;
    let doing = "change the owner of";
    let failed = || StepError::io(doing, path);
    let too_large = || {
        StepError::agent(format!(
            "{} has more files than can be given to another user",
            path.display()
        ))
    };
    let mount = Found::at(above.as_fd(), &name).map_err(failed())?.mount;
    let mut trouble = Trouble::default();
    let mut links = Links {
        owner: from,
        seen: HashMap::new(),
    };
    let mut first = budget;
    let walked = walk(above.as_fd(), &name, mount, &mut first, &mut trouble, &mut links).map_err(failed())?;
    if walked == Progress::More {
        return Err(too_large());
    }
    let mut giver = Giver { links, to, kept: 0 };
    let walked = walk(above.as_fd(), &name, mount, &mut budget, &mut trouble, &mut giver).map_err(failed())?;
    if walked == Progress::More {
        return Err(too_large());
    }
    trouble.into_error(doing, path).map_or(Ok(giver.kept), Err)
}

/// What a tree takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// On the disk, in bytes; a file with several names counts once.
    pub bytes: u64,
    /// Files and directories.
    pub entries: u64,
    /// False: it is more than was looked at.
    pub complete: bool,
}

struct Measure {
    usage: Usage,
    bytes_max: u64,
    seen: HashMap<(u64, u64), ()>,
}

impl Measure {
    fn add(&mut self, found: &Found) -> Go {
        self.usage.entries += 1;
        let linked = found.links > 1 && found.kind != FileType::Directory;
        let counted = linked && self.seen.len() < LINKED_MAX && self.seen.insert(found.id, ()).is_some();
        if !counted {
            self.usage.bytes = self.usage.bytes.saturating_add(found.disk_bytes());
        }
        self.usage.complete = self.usage.bytes <= self.bytes_max;
        if self.usage.complete { Go::On } else { Go::Stop }
    }
}

impl Visitor for Measure {
    fn enter(&mut self, _: BorrowedFd<'_>, found: &Found) -> io::Result<Go> {
        Ok(self.add(found))
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Go> {
        Ok(self.add(&Found::at(dir, name)?))
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &CStr, _: BorrowedFd<'_>) -> io::Result<Go> {
        Ok(Go::On)
    }
}

/// Measures a tree, until it has more than `bytes_max` or the budget is spent.
///
/// # Errors
/// When a part of it cannot be looked at: what cannot be measured is not taken for small.
pub fn usage(path: &Path, bytes_max: u64, budget: &mut Budget) -> Result<Usage, StepError> {
    let (above, name) = split(path)?;
    let mount = Found::at(above.as_fd(), &name)
        .map_err(StepError::io("measure", path))?
        .mount;
    let mut trouble = Trouble::default();
    let mut measure = Measure {
        usage: Usage::default(),
        bytes_max,
        seen: HashMap::new(),
    };
    let walked = walk(above.as_fd(), &name, mount, budget, &mut trouble, &mut measure);
    if walked.map_err(StepError::io("measure", path))? == Progress::More {
        measure.usage.complete = false;
    }
    trouble.into_error("measure", path).map_or(Ok(measure.usage), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn opened(path: &Path) -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rfs::openat(CWD, path, flags, Mode::empty()).unwrap()
    }

    /// A directory was listed, and is a link by the time that it is entered.
    #[test]
    fn a_link_in_a_directorys_place_is_not_entered() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("outside")).unwrap();
        symlink("outside", place.path().join("dir")).unwrap();
        let above = opened(place.path());
        let mount = Found::of(above.as_fd()).unwrap().mount;
        let entered = enter(above.as_fd(), c"dir", mount, &mut Remover { removed: 0 }).unwrap();
        assert!(matches!(entered, Entered::Other));
    }

    /// A directory is moved out of its tree while we are in it.
    #[test]
    fn the_way_up_leads_to_where_we_came_from_or_nowhere() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("tree/in")).unwrap();
        fs::create_dir(place.path().join("outside")).unwrap();
        let above = opened(&place.path().join("tree"));
        let level = Level {
            dir: None,
            id: Found::of(above.as_fd()).unwrap().id,
            name: c"tree".into(),
            offset: 0,
        };
        let below = opened(&place.path().join("tree/in"));
        reopen(below.as_fd(), &level).unwrap();
        fs::rename(place.path().join("tree/in"), place.path().join("outside/in")).unwrap();
        assert!(reopen(below.as_fd(), &level).is_err());
    }
}
