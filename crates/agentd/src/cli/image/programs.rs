//! Programs of this machine for an image, each with what it needs to begin: its shared libraries, its interpreter, and
//! the links by which it is found, all in the places that they have here.

use super::places;
use super::tree::{Entry, Origin, Tree};
use crate::failure::Failure;
use crate::settings::Environment;
use lddtree::DependencyAnalyzer;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

/// A link that leads to a link, and so on; as the kernel has it.
const LINKS_MAX: usize = 40;
/// The first line of a script; longer ones the kernel cuts.
const FIRST_LINE_BYTES_MAX: usize = 256;
/// Where a program is put that cannot be at its own place.
const BIN_ELSEWHERE: &str = "/usr/local/bin";
/// Where the loader finds libraries that are not in the usual places.
const LOADER_CACHE: &str = "/etc/ld.so.cache";

/// Adds programs of this machine to a tree. What the tree has already stays.
pub(super) struct Programs<'a> {
    pub(super) tree: &'a mut Tree,
    pub(super) environment: &'a Environment,
}

impl Programs<'_> {
    /// Adds a program, named by its path or as it is found in `PATH`.
    ///
    /// # Errors
    /// When it, or something that it needs, is not there.
    pub(super) fn add(&mut self, name: &str) -> Result<(), Failure> {
        let path = self.environment.program(name).ok_or_else(|| {
            Failure::bad_input(format!("there is no program {name} on this machine"))
                .hint("name one that is installed, or leave it out")
        })?;
        let path = std::path::absolute(&path).map_err(|error| Failure::file("find", &path, &error))?;
        if self.add_elsewhere(&path)? {
            return Ok(());
        }
        self.add_path(&path, 0)?;
        // Where /bin is a link to /usr/bin, a program has two paths, and scripts mostly name the other one.
        if let (Some(name), Some(dir)) = (path.file_name(), path.parent()) {
            for other in ["/bin", "/sbin"].map(Path::new) {
                if other != dir && other.is_symlink() && other.canonicalize().is_ok_and(|real| real == dir) {
                    self.adopt(&other.join(name))?;
                }
            }
        }
        Ok(())
    }

    /// Adds a program that no session would see at its own place: where programs usually are, or where a link of that
    /// name is. False for any other.
    fn add_elsewhere(&mut self, path: &Path) -> Result<bool, Failure> {
        let wrong = |error| Failure::file("read", path, &error);
        let real = path.canonicalize().map_err(wrong)?;
        let is_hidden = places::taken(path).is_some();
        let (Some(name), Some(dir)) = (path.file_name(), path.parent()) else {
            return Ok(false);
        };
        if !is_hidden && places::taken(&real).is_none() {
            return Ok(false);
        }
        let to = match is_hidden {
            true => Path::new(BIN_ELSEWHERE).join(name),
            false => dir.canonicalize().map_err(wrong)?.join(name),
        };
        let metadata = real.metadata().map_err(wrong)?;
        let entry = Entry::File {
            mode: metadata.mode() & 0o777,
            bytes: metadata.len(),
            from: Origin::Host(real.clone()),
        };
        let inside = to.strip_prefix("/").unwrap_or(&to);
        let added = self.tree.add(inside, entry);
        let moved = (path.to_owned(), to.clone());
        if is_hidden && added {
            self.tree.moved.push(moved);
        } else if is_hidden && !self.tree.moved.contains(&moved) {
            return Err(Failure::bad_input(format!(
                "{} would be {} in the image, where another file is",
                path.display(),
                to.display()
            ))
            .hint("give one of them another name"));
        }
        self.needs_of(&real, 0)?;
        Ok(true)
    }

    fn add_path(&mut self, path: &Path, depth: usize) -> Result<(), Failure> {
        let real = self.adopt(path)?;
        self.needs_of(&real, depth)
    }

    /// Adds what a program needs to begin.
    fn needs_of(&mut self, real: &Path, depth: usize) -> Result<(), Failure> {
        let mut start = Vec::new();
        File::open(real)
            .and_then(|file| file.take(FIRST_LINE_BYTES_MAX as u64).read_to_end(&mut start))
            .map_err(|error| Failure::file("read", real, &error))?;
        if let Some(line) = start.strip_prefix(b"#!") {
            let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let line = String::from_utf8_lossy(line);
            let mut words = line.split_ascii_whitespace();
            let Some(interpreter) = words.next().filter(|_| depth < 4) else {
                return Ok(());
            };
            self.add_path(Path::new(interpreter), depth + 1)?;
            // `#!/usr/bin/env python3` needs both.
            if Path::new(interpreter).ends_with("env")
                && let Some(program) = words.find(|word| !word.starts_with('-') && !word.contains('='))
                && let Some(path) = self.environment.program(program)
            {
                self.add_path(&path, depth + 1)?;
            }
            return Ok(());
        }
        if !start.starts_with(b"\x7fELF") {
            return Err(Failure::bad_input(format!(
                "{} is neither a program for Linux nor a script",
                real.display()
            )));
        }
        self.libraries(real)
    }

    fn libraries(&mut self, program: &Path) -> Result<(), Failure> {
        let unknown = |error: lddtree::Error| {
            Failure::bad_input(format!(
                "cannot find out what {} needs: {error}",
                program.display()
            ))
        };
        let found = DependencyAnalyzer::default().analyze(program).map_err(unknown)?;
        if let Some(interpreter) = &found.interpreter {
            self.adopt(Path::new(interpreter))?;
        }
        let mut libraries: Vec<_> = found.libraries.into_values().collect();
        libraries.sort_by(|a, b| a.name.cmp(&b.name));
        for library in &libraries {
            if !library.found() {
                return Err(Failure::bad_input(format!(
                    "{} needs the library {}, which is not on this machine",
                    program.display(),
                    library.name
                )));
            }
            self.adopt(&library.path)?;
        }
        let cache = Path::new(LOADER_CACHE);
        if !libraries.is_empty() && cache.is_file() {
            self.adopt(cache)?;
        }
        Ok(())
    }

    /// Adds a file of this machine at its own path, with all links on the way to it, and says where it is in the end.
    fn adopt(&mut self, path: &Path) -> Result<PathBuf, Failure> {
        let wrong = |error| Failure::file("read", path, &error);
        let mut left: Vec<PathBuf> = vec![path.to_owned()];
        // Where that is in the image, and on this machine: the same, unless the directory that the image is built
        // from has something else in place of one of our links.
        let (mut at, mut here) = (PathBuf::new(), PathBuf::from("/"));
        let mut links = 0;
        while let Some(next) = left.pop() {
            let mut parts = next.components();
            let Some(part) = parts.next() else { continue };
            left.push(parts.as_path().to_owned());
            match part {
                Component::RootDir | Component::Prefix(_) => {
                    at = PathBuf::new();
                    here = PathBuf::from("/");
                }
                Component::CurDir => {}
                Component::ParentDir => {
                    at.pop();
                    here.pop();
                }
                Component::Normal(name) => {
                    let (inside, outside) = (at.join(name), here.join(name));
                    let metadata = outside.symlink_metadata().map_err(wrong)?;
                    if metadata.is_symlink() {
                        let to = fs::read_link(&outside).map_err(wrong)?;
                        links += 1;
                        if links > LINKS_MAX {
                            return Err(wrong(std::io::Error::other("its links lead in a circle")));
                        }
                        self.tree.add(&inside, Entry::Link { to: to.clone() });
                        if self.tree.get(&inside) == Some(&Entry::Link { to: to.clone() }) {
                            left.push(to);
                            continue;
                        }
                        // The image has a directory or a file of its own there.
                        at = inside;
                        here = outside.canonicalize().map_err(wrong)?;
                    } else {
                        at = inside;
                        here = outside;
                    }
                }
            }
        }
        let metadata = here.metadata().map_err(wrong)?;
        if !metadata.is_file() {
            return Err(wrong(std::io::Error::other("it is not a file")));
        }
        let entry = Entry::File {
            mode: metadata.mode() & 0o777,
            bytes: metadata.len(),
            from: Origin::Host(here.clone()),
        };
        self.tree.add(&at, entry);
        Ok(here)
    }

    /// Adds a static busybox under all its names.
    ///
    /// # Errors
    /// When there is none that runs by itself.
    pub(super) fn busybox(&mut self) -> Result<(), Failure> {
        let missing = |why: &str| {
            Failure::bad_input(why.to_owned()).hint(
                "Debian: apt-get install busybox-static; or name the programs that you want with --program",
            )
        };
        let path = self
            .environment
            .program("busybox")
            .ok_or_else(|| missing("there is no busybox on this machine"))?;
        let needs = DependencyAnalyzer::default()
            .analyze(&path)
            .map_err(|error| missing(&format!("cannot read {}: {error}", path.display())))?;
        if needs.interpreter.is_some() || !needs.needed.is_empty() {
            let message = format!(
                "{} needs shared libraries; the image wants a static one",
                path.display()
            );
            return Err(missing(&message));
        }
        let listed = Command::new(&path)
            .arg("--list")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .map_err(|error| Failure::file("run", &path, &error))?;
        let real = path
            .canonicalize()
            .map_err(|error| Failure::file("find", &path, &error))?;
        let metadata = real
            .metadata()
            .map_err(|error| Failure::file("read", &real, &error))?;
        // Where /bin is a link, in /usr/bin.
        let bin = match self.tree.get(Path::new("bin")) {
            Some(Entry::Link { to }) if to == Path::new("usr/bin") || to == Path::new("/usr/bin") => {
                "usr/bin"
            }
            _ => "bin",
        };
        let bin = Path::new(bin);
        let entry = Entry::File {
            mode: 0o755,
            bytes: metadata.len(),
            from: Origin::Host(real),
        };
        self.tree.add(&bin.join("busybox"), entry);
        let names = listed
            .stdout
            .split(|byte| *byte == b'\n')
            .map(std::ffi::OsStr::from_bytes)
            .filter(|name| !name.is_empty() && !name.as_bytes().contains(&b'/') && *name != "busybox");
        for name in names {
            self.tree
                .add(&bin.join(name), Entry::Link { to: "busybox".into() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adopt(tree: &mut Tree, path: &Path) -> PathBuf {
        let environment = Environment::of(Path::new("/"), &[]);
        let mut programs = Programs {
            tree,
            environment: &environment,
        };
        programs.adopt(path).unwrap()
    }

    #[test]
    fn links_on_the_way_to_a_file_come_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::create_dir_all(dir.join("usr/bin")).unwrap();
        fs::write(dir.join("usr/bin/dash"), "x").unwrap();
        std::os::unix::fs::symlink("dash", dir.join("usr/bin/sh")).unwrap();
        std::os::unix::fs::symlink("usr/bin", dir.join("bin")).unwrap();
        let inside = |path: &str| dir.strip_prefix("/").unwrap().join(path);

        let mut tree = Tree::default();
        let real = adopt(&mut tree, &dir.join("bin/sh"));
        assert_eq!(real, dir.join("usr/bin/dash"));
        let link = |to: &str| Some(Entry::Link { to: to.into() });
        assert_eq!(tree.get(&inside("bin")), link("usr/bin").as_ref());
        assert_eq!(tree.get(&inside("usr/bin/sh")), link("dash").as_ref());
        assert!(matches!(
            tree.get(&inside("usr/bin/dash")),
            Some(Entry::File { .. })
        ));

        // A directory of the image's own stays one, and what is looked for there is there.
        let mut tree = Tree::default();
        tree.add(&inside("bin"), Entry::Directory { mode: 0o700 });
        adopt(&mut tree, &dir.join("bin/sh"));
        assert_eq!(tree.get(&inside("bin")), Some(&Entry::Directory { mode: 0o700 }));
        assert_eq!(tree.get(&inside("bin/sh")), link("dash").as_ref());
        assert!(matches!(tree.get(&inside("bin/dash")), Some(Entry::File { .. })));
    }
}
