//! The session's secrets: read once, redacted everywhere, removed at the end.

use crate::redact::{Redactor, VALUE_BYTES_MAX, trimmed};
use crate::tools::TOKEN_FILE;
use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// So many secrets a session may have.
const SECRETS_MAX: usize = 256;
/// The largest file, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What a session's agent, or its plugins, may know and nobody else. Without a directory there is nothing.
#[derive(Default)]
pub(super) struct Secrets {
    directory: Option<Directory>,
    values: BTreeMap<String, Vec<u8>>,
    /// Those of its plugins, which the agent itself does not get, and the token of the session's gateway.
    plugins: BTreeMap<String, Vec<u8>>,
    warnings: Vec<String>,
}

/// A directory, and no other that is given its name later.
struct Directory {
    path: PathBuf,
    /// As long as it is open, nothing else can be given its number.
    open: File,
}

impl Directory {
    fn open(path: &Path) -> io::Result<Self> {
        let open = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(path)?;
        Ok(Self {
            path: path.to_owned(),
            open,
        })
    }

    fn is(&self, other: &Metadata) -> io::Result<bool> {
        let own = self.open.metadata()?;
        Ok((own.dev(), own.ino()) == (other.dev(), other.ino()))
    }

    fn remove(&self) -> Result<(), String> {
        let path = &self.path;
        let failed = |error| format!("the secrets in {} are still there: {error}", path.display());
        match fs::symlink_metadata(path) {
            Ok(now) if self.is(&now).map_err(failed)? => {}
            Ok(_) => {
                return Err(format!(
                    "{} is another directory than at the session's start, and was not removed",
                    path.display()
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
        fs::remove_dir_all(path).map_err(failed)
    }
}

impl Secrets {
    /// Reads them.
    ///
    /// # Errors
    /// A sentence for people. An agent whose secrets could not be redacted must not begin.
    pub(super) fn read(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let mut secrets = Self::default();
        let (directory, values) = secrets.read_dir(path)?;
        secrets.directory = Some(directory);
        secrets.values = values;
        Ok(secrets)
    }

    /// Reads those of plugins as well. They are in nobody's way any more then: the directory is removed.
    ///
    /// # Errors
    /// As [`Secrets::read`].
    pub(super) fn read_plugins(&mut self, path: &Path) -> Result<(), String> {
        let (directory, values) = self.read_dir(path)?;
        self.plugins = values;
        directory.remove()
    }

    fn read_dir(&mut self, path: &Path) -> Result<(Directory, BTreeMap<String, Vec<u8>>), String> {
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |error: io::Error| format!("the secrets in {path} cannot be read: {error}")
        };
        if !path.is_absolute() {
            return Err(format!("{} is no absolute path of secrets", path.display()));
        }
        let directory = Directory::open(path).map_err(failed(path))?;
        let mut values = BTreeMap::new();
        for entry in fs::read_dir(path).map_err(failed(path))? {
            let entry = entry.map_err(failed(path))?;
            if !entry.file_type().map_err(failed(path))?.is_file() {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let content = read_file(&entry.path()).map_err(failed(&entry.path()))?;
            if content.len() > VALUE_BYTES_MAX {
                self.warnings.push(format!(
                    "the secret {name:?} is long: only its first {VALUE_BYTES_MAX} bytes are kept out of the transcript"
                ));
            }
            values.insert(name, content);
            if values.len() > SECRETS_MAX {
                return Err(format!("{} has more than {SECRETS_MAX} secrets", path.display()));
            }
        }
        Ok((directory, values))
    }

    /// What should be known about them.
    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    pub(super) fn redactor(&self) -> Redactor {
        let of_plugins = self.plugins.iter().filter(|(name, _)| *name != TOKEN_FILE);
        let secrets = self.values.values().chain(of_plugins.map(|(_, value)| value));
        Redactor::with(secrets.cloned(), self.plugins.get(TOKEN_FILE).cloned())
    }

    /// The secret of this name, without the newlines at its end.
    pub(super) fn value(&self, name: &str) -> Option<&[u8]> {
        let token = (name == TOKEN_FILE).then(|| self.plugins.get(name)).flatten();
        self.values.get(name).or(token).map(|value| trimmed(value))
    }

    /// The plugins' secret of this name, without the newlines at its end.
    pub(super) fn plugin_value(&self, name: &str) -> Option<&[u8]> {
        self.plugins.get(name).map(|value| trimmed(value))
    }

    /// The values are not needed any more.
    pub(super) fn forget(&mut self) {
        self.values.clear();
        self.plugins.clear();
    }

    /// Removes the directory with all that is in it. Links in it are removed, not followed.
    ///
    /// # Errors
    /// A sentence for people.
    pub(super) fn remove(&self) -> Result<(), String> {
        self.directory.as_ref().map_or(Ok(()), Directory::remove)
    }
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_directory_itself_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        let path = dir.path().join("secrets");
        let make = || {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("TOKEN"), "correct horse\n").unwrap();
            std::os::unix::fs::symlink(&kept, path.join("link")).unwrap();
        };
        make();
        let secrets = Secrets::read(Some(&path)).unwrap();
        assert_eq!(secrets.value("TOKEN").unwrap(), b"correct horse");
        assert_eq!(secrets.value("link"), None);
        secrets.remove().unwrap();
        assert!(!path.exists() && kept.join("file").exists());
        secrets.remove().unwrap();
        // Somebody else's now.
        std::os::unix::fs::symlink(&kept, &path).unwrap();
        secrets.remove().unwrap_err();
        assert!(kept.join("file").exists());
        assert!(Secrets::read(Some(&path)).is_err());
        assert!(Secrets::read(Some(&dir.path().join("none"))).is_err());
    }
}
