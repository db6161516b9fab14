//! A tree as an archive. The same tree gives the same bytes: owners are root, times are zero, the order is the tree's.

use super::tree::{Entry, Origin, Tree};
use crate::failure::{Exit, Failure};
use indicatif::ProgressBar;
use rustix::fs::{self as rfs, CWD, Mode, OFlags, ResolveFlags};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use tar::{Builder, EntryType, Header};

/// What was written.
#[derive(Debug)]
pub(super) struct Archived {
    /// As engines name the layer: `sha256:…`.
    pub(super) digest: String,
}

/// Writes the archive. `dir` is where the tree's own files are.
///
/// # Errors
/// When a file cannot be read, or is another one by now, or the archive cannot be written.
pub(super) fn write(
    tree: &Tree,
    dir: &Path,
    to: &mut File,
    bar: Option<&ProgressBar>,
) -> Result<Archived, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rfs::openat(CWD, dir, flags, Mode::empty())
        .map_err(|error| Failure::file("open", dir, &error.into()))?;
    let mut hashing = Hashing {
        to: BufWriter::with_capacity(256 * 1024, to),
        hash: Sha256::new(),
    };
    let mut builder = Builder::new(&mut hashing);
    let mut head = header(EntryType::Directory, 0o755, 0);
    builder
        .append_data(&mut head, "./", io::empty())
        .map_err(unwritable)?;
    for (path, entry) in &tree.entries {
        let written = match entry {
            Entry::Directory { mode } => {
                let mut header = header(EntryType::Directory, *mode, 0);
                builder.append_data(&mut header, path, io::empty())
            }
            Entry::Link { to } => {
                let mut header = header(EntryType::Symlink, 0o777, 0);
                builder.append_link(&mut header, path, to)
            }
            Entry::Same { path: other } => {
                let mut header = header(EntryType::Link, 0o644, 0);
                builder.append_link(&mut header, path, other)
            }
            Entry::File { mode, bytes, from } => {
                let (file, shown) = match from {
                    Origin::Directory => (open_below(&root, path), dir.join(path)),
                    Origin::Host(place) => (File::open(place), place.clone()),
                };
                let file = file.map_err(|error| Failure::file("read", &shown, &error))?;
                let changed = || {
                    Failure::bad_input(format!("{} changed while it was read", shown.display()))
                        .hint("the same command again, when nobody writes there")
                };
                let metadata = file
                    .metadata()
                    .map_err(|error| Failure::file("read", &shown, &error))?;
                if !metadata.is_file() || metadata.len() != *bytes {
                    return Err(changed());
                }
                let mut content = Counted {
                    from: file.take(*bytes),
                    bytes: 0,
                    failed: None,
                    bar,
                };
                let mut header = header(EntryType::Regular, *mode, *bytes);
                let written = builder.append_data(&mut header, path, &mut content);
                if let Some(error) = content.failed {
                    return Err(Failure::file("read", &shown, &error));
                }
                if content.bytes != *bytes {
                    return Err(changed());
                }
                written
            }
        };
        written.map_err(unwritable)?;
    }
    builder.finish().map_err(unwritable)?;
    drop(builder);
    hashing.flush().map_err(unwritable)?;
    let digest: Vec<String> = hashing
        .hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(Archived {
        digest: format!("sha256:{}", digest.concat()),
    })
}

fn unwritable(error: io::Error) -> Failure {
    let message = format!("cannot write the archive of the image: {error}");
    let failure = Failure::new(Exit::Failed, message);
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            failure.hint("make room, or let TMPDIR name a directory with more")
        }
        _ => failure,
    }
}

/// A file below `root`. No link is followed on the way: whoever can write there may have put one in its place.
fn open_below(root: &OwnedFd, path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened = rfs::openat2(root.as_fd(), path, flags, Mode::empty(), resolve)?;
    Ok(opened.into())
}

fn header(kind: EntryType, mode: u32, bytes: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes);
    header
}

/// Writes on, and hashes what it writes.
struct Hashing<W> {
    to: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A file's content, and how much of it came.
struct Counted<'a, R> {
    from: R,
    bytes: u64,
    // Told apart from what the archive's own file says.
    failed: Option<io::Error>,
    bar: Option<&'a ProgressBar>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.from.read(buffer) {
            Ok(count) => {
                self.bytes += count as u64;
                if let Some(bar) = self.bar {
                    bar.inc(count as u64);
                }
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                Err(kind.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn archive(dir: &Path) -> (String, Vec<u8>) {
        let tree = Tree::of(dir).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let done = write(&tree, dir, &mut file.reopen().unwrap(), None).unwrap();
        (done.digest, fs::read(file.path()).unwrap())
    }

    fn fill(dir: &Path, names: &[&str]) {
        for name in names {
            fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
            fs::write(dir.join(name), name).unwrap();
        }
        symlink("/etc/passwd", dir.join("link")).unwrap();
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let long = format!("{}/{}", "d".repeat(90), "f".repeat(200));
        fill(one.path(), &["b", "a/x", "a-b", &long]);
        fill(two.path(), &[&long, "a-b", "b", "a/x"]);
        // Times and owners are nobody's business.
        let file = File::options().write(true).open(two.path().join("b")).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let (digest, bytes) = archive(one.path());
        assert_eq!(archive(two.path()), (digest.clone(), bytes.clone()));
        fs::set_permissions(two.path().join("b"), fs::Permissions::from_mode(0o4755)).unwrap();
        assert_ne!(archive(two.path()).0, digest);

        let mut read = tar::Archive::new(&bytes[..]);
        let entries: Vec<_> = read.entries().unwrap().map(Result::unwrap).collect();
        let paths: Vec<_> = entries
            .iter()
            .map(|entry| entry.path().unwrap().into_owned())
            .collect();
        assert!(paths.iter().any(|path| path == Path::new(&long)), "{paths:?}");
        let link = entries
            .iter()
            .find(|entry| entry.path().unwrap() == Path::new("link"));
        let target = link.unwrap().link_name().unwrap().unwrap().into_owned();
        assert_eq!(target, Path::new("/etc/passwd"));
    }

    #[test]
    fn what_is_put_in_a_files_place_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/file"), "12345").unwrap();
        let tree = Tree::of(dir.path()).unwrap();
        let to = || tempfile::tempfile().unwrap();
        // A link on the way, to another place with a file of that name and size.
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("file"), "54321").unwrap();
        fs::rename(dir.path().join("d"), dir.path().join("e")).unwrap();
        symlink(other.path(), dir.path().join("d")).unwrap();
        assert!(write(&tree, dir.path(), &mut to(), None).is_err());
        fs::remove_file(dir.path().join("d")).unwrap();
        fs::rename(dir.path().join("e"), dir.path().join("d")).unwrap();
        assert!(write(&tree, dir.path(), &mut to(), None).is_ok());
        fs::write(dir.path().join("d/file"), "123").unwrap();
        let error = write(&tree, dir.path(), &mut to(), None).unwrap_err();
        assert!(error.message.contains("changed"), "{}", error.message);
    }
}
