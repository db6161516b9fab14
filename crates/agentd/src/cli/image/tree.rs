//! What an image is to hold: the entries of a directory, and what is added to them. Looks and decides; nothing is read
//! or written yet.

use crate::failure::Failure;
use std::collections::btree_map::Entry as Place;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// More than any image has; bounds the memory that is needed.
const ENTRIES_MAX: usize = 2_000_000;
/// Warnings about single files that are shown; of more there is the number.
const SKIPPED_SHOWN_MAX: usize = 20;

/// One entry of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Directory {
        mode: u32,
    },
    File {
        mode: u32,
        bytes: u64,
        from: Origin,
    },
    Link {
        to: PathBuf,
    },
    /// The same file as another entry, which comes before it.
    Same {
        path: PathBuf,
    },
}

/// Where a file's content comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The directory, at the entry's own path.
    Directory,
    /// Somewhere on this machine.
    Host(PathBuf),
}

/// Everything that an image is to hold, by its path without a slash at the beginning. Parents come before what is in
/// them, and the order is the same every time.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) entries: BTreeMap<PathBuf, Entry>,
    /// Files whose kind no image can hold, by their paths; as many as are worth showing.
    pub(super) skipped: Vec<String>,
    pub(super) skipped_count: u64,
    /// Programs that are elsewhere in the image than on this machine: from where, and to where.
    pub(super) moved: Vec<(PathBuf, PathBuf)>,
}

impl Tree {
    /// Looks at a directory. Links are kept as they are, and not followed.
    ///
    /// # Errors
    /// When it, or something in it, cannot be looked at.
    pub(super) fn of(dir: &Path) -> Result<Self, Failure> {
        let mut tree = Self::default();
        // Of files with several names: which was the first.
        let mut first: HashMap<(u64, u64), PathBuf> = HashMap::new();
        let mut left = vec![PathBuf::new()];
        while let Some(relative) = left.pop() {
            let path = dir.join(&relative);
            let wrong = |error| Failure::file("read", &path, &error);
            let mut names: Vec<_> = fs::read_dir(&path)
                .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
                .map_err(wrong)?;
            names.sort_unstable();
            for name in names {
                let relative = relative.join(name);
                let path = dir.join(&relative);
                let metadata = match path.symlink_metadata() {
                    Ok(metadata) => metadata,
                    // It was there a moment ago.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(Failure::file("read", &path, &error)),
                };
                let kind = metadata.file_type();
                let mode = metadata.mode() & 0o7777;
                let entry = if kind.is_dir() {
                    left.push(relative.clone());
                    Entry::Directory { mode }
                } else if kind.is_symlink() {
                    let to = fs::read_link(&path).map_err(|error| Failure::file("read", &path, &error))?;
                    Entry::Link { to }
                } else if kind.is_file() {
                    let id = (metadata.dev(), metadata.ino());
                    // Whichever comes first in the image is not known before all have been seen: see `settle`.
                    if metadata.nlink() > 1
                        && let Some(other) = first.get(&id)
                    {
                        Entry::Same { path: other.clone() }
                    } else {
                        if metadata.nlink() > 1 {
                            first.insert(id, relative.clone());
                        }
                        let (bytes, from) = (metadata.len(), Origin::Directory);
                        Entry::File { mode, bytes, from }
                    }
                } else {
                    let what = if kind.is_socket() {
                        "a socket"
                    } else if kind.is_fifo() {
                        "a named pipe"
                    } else {
                        "a device"
                    };
                    tree.skip(&path, what);
                    continue;
                };
                if tree.entries.len() >= ENTRIES_MAX {
                    let message = format!("{} holds more than {ENTRIES_MAX} files", dir.display());
                    return Err(Failure::bad_input(message));
                }
                tree.entries.insert(relative, entry);
            }
        }
        tree.settle();
        Ok(tree)
    }

    /// A file with several names stands under the first of them, and the others refer to it.
    fn settle(&mut self) {
        let mut names: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
        for (path, entry) in &self.entries {
            if let Entry::Same { path: other } = entry {
                let first = names.entry(other.clone()).or_insert_with(|| other.clone());
                if path < first {
                    *first = path.clone();
                }
            }
        }
        for (found, first) in &names {
            if found != first
                && let Some(file) = self.entries.remove(found)
            {
                let same = Entry::Same { path: first.clone() };
                self.entries.insert(found.clone(), same);
                self.entries.insert(first.clone(), file);
            }
        }
        for entry in self.entries.values_mut() {
            if let Entry::Same { path } = entry
                && let Some(first) = names.get(path)
            {
                *path = first.clone();
            }
        }
    }

    pub(super) fn skip(&mut self, path: &Path, what: &str) {
        self.skipped_count += 1;
        if self.skipped.len() < SKIPPED_SHOWN_MAX {
            self.skipped.push(format!("{} is {what}", path.display()));
        }
    }

    pub(super) fn get(&self, path: &Path) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// Adds an entry and the directories that it is in. What is there already stays; true when it was added.
    pub(super) fn add(&mut self, path: &Path, entry: Entry) -> bool {
        let above: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .filter(|dir| !dir.as_os_str().is_empty())
            .collect();
        for dir in above.into_iter().rev() {
            self.entries
                .entry(dir.to_owned())
                .or_insert(Entry::Directory { mode: 0o755 });
        }
        match self.entries.entry(path.to_owned()) {
            Place::Vacant(place) => {
                place.insert(entry);
                true
            }
            Place::Occupied(_) => false,
        }
    }

    /// The content of all files, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        let sizes = self.entries.values().map(|entry| match entry {
            Entry::File { bytes, .. } => *bytes,
            _ => 0,
        });
        sizes.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_with_several_names_stand_under_the_first() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        // Found first, since a directory's own files are looked at before those of the directories in it.
        fs::write(dir.path().join("z"), "text").unwrap();
        fs::hard_link(dir.path().join("z"), dir.path().join("a/x")).unwrap();
        fs::hard_link(dir.path().join("z"), dir.path().join("zz")).unwrap();
        let tree = Tree::of(dir.path()).unwrap();
        let path = PathBuf::from("a/x");
        assert!(matches!(tree.get(&path), Some(Entry::File { bytes: 4, .. })));
        for other in ["z", "zz"] {
            assert_eq!(
                tree.get(Path::new(other)),
                Some(&Entry::Same { path: path.clone() })
            );
        }
        assert_eq!(tree.bytes(), 4);
    }
}
