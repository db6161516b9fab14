//! Where `agentd.toml` is, and whether it may be trusted.

use agentd_config::file::FileError;
use agentd_config::{Config, ConfigError, DaemonConfig};
use agentd_supervisor::shell;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file's name in the home directory.
pub(crate) const NAME: &str = "agentd.toml";
const SYSTEM_PATH: &str = "/etc/agentd/agentd.toml";

/// Where to look, and for whom.
#[derive(Clone, Debug)]
pub(crate) struct ConfigSource {
    /// What the user named; it has to be there.
    pub(super) asked_for: Option<PathBuf>,
    /// Otherwise the first of these that is there.
    pub(super) usual: Vec<PathBuf>,
    /// What `~` is in the file.
    pub(super) user_home: Option<PathBuf>,
    /// Whose files are trusted, besides root's.
    pub(super) uid: u32,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct ConfigFile {
    /// The file, if there is one.
    pub(crate) path: Option<PathBuf>,
    pub(crate) config: Arc<Config>,
    pub(crate) warnings: Vec<String>,
    /// What keeps it from being used; only with [`ConfigSource::find_for_client`].
    pub(crate) unusable: Option<SettingsError>,
}

/// Settings that cannot be used.
#[derive(Debug)]
pub(crate) enum SettingsError {
    /// `agentd.toml` cannot be read, or says what cannot be meant.
    Config(ConfigError),
    /// Anything else, in a sentence.
    Said(String),
}

impl std::fmt::Display for SettingsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Said(sentence) => f.write_str(sentence),
        }
    }
}

impl SettingsError {
    /// The first of what is wrong, in a line.
    pub(crate) fn first(&self) -> String {
        match self {
            Self::Config(ConfigError::Invalid(mistakes)) => {
                let first = mistakes
                    .list()
                    .first()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                match mistakes.list().len() {
                    0 | 1 => first,
                    count => format!("{first} (and {} more)", count - 1),
                }
            }
            other => other.to_string(),
        }
    }
}

impl From<String> for SettingsError {
    fn from(sentence: String) -> Self {
        Self::Said(sentence)
    }
}

impl ConfigSource {
    pub(super) fn new(asked_for: Option<PathBuf>, home: &Path, user_home: Option<&Path>, uid: u32) -> Self {
        Self {
            asked_for,
            usual: vec![home.join(NAME), SYSTEM_PATH.into()],
            user_home: user_home.map(Path::to_owned),
            uid,
        }
    }

    /// Where the file is to be, if there is none yet.
    pub(crate) fn preferred(&self) -> &Path {
        self.asked_for.as_deref().unwrap_or(&self.usual[0])
    }

    /// Reads the file, if there is one.
    pub(super) fn find(&self) -> Result<ConfigFile, SettingsError> {
        if let Some(path) = &self.asked_for {
            return self.read(path);
        }
        for path in &self.usual {
            match self.read(path) {
                Err(SettingsError::Config(ConfigError::Read { source, .. }))
                    if is(&source, io::ErrorKind::NotFound) => {}
                // Somebody else's: a client does without it, and the daemon's own user can read it.
                Err(SettingsError::Config(error @ ConfigError::Read { .. })) if is_forbidden(&error) => {
                    return Ok(ConfigFile {
                        warnings: vec![error.to_string()],
                        ..ConfigFile::default()
                    });
                }
                outcome => return outcome,
            }
        }
        Ok(ConfigFile::default())
    }

    /// The same for those who need no more of it than where the daemon's socket is: a file that says what cannot be
    /// meant, or that may not be trusted, does not keep them from talking to the daemon.
    ///
    /// # Errors
    /// When the user named a file that cannot be read.
    pub(super) fn find_for_client(&self) -> Result<ConfigFile, SettingsError> {
        let error = match self.find() {
            Ok(found) => return Ok(found),
            Err(error @ SettingsError::Config(ConfigError::Read { .. })) if self.asked_for.is_some() => {
                return Err(error);
            }
            Err(error) => error,
        };
        let socket = match &error {
            SettingsError::Config(ConfigError::Invalid(mistakes)) => mistakes
                .socket()
                .filter(|_| {
                    mistakes
                        .list()
                        .first()
                        .is_some_and(|first| self.trusts(&first.path))
                })
                .map(Path::to_owned),
            _ => None,
        };
        let daemon = DaemonConfig {
            socket,
            ..DaemonConfig::default()
        };
        Ok(ConfigFile {
            config: Arc::new(Config {
                daemon,
                ..Config::default()
            }),
            unusable: Some(error),
            ..ConfigFile::default()
        })
    }

    fn trusts(&self, path: &Path) -> bool {
        let metadata = path.metadata();
        metadata.is_ok_and(|metadata| trusted(path, metadata.uid(), metadata.mode(), self.uid).is_ok())
    }

    fn read(&self, path: &Path) -> Result<ConfigFile, SettingsError> {
        let (config, metadata) =
            agentd_config::load(path, self.user_home.as_deref()).map_err(SettingsError::Config)?;
        let warning = trusted(path, metadata.uid(), metadata.mode(), self.uid)?;
        Ok(ConfigFile {
            path: Some(path.to_owned()),
            config: Arc::new(config),
            warnings: warning.into_iter().collect(),
            unusable: None,
        })
    }
}

/// Refuses what others could have written: it says which programs run as the daemon's user. Gives what should be said
/// about it otherwise.
fn trusted(path: &Path, owner: u32, mode: u32, uid: u32) -> Result<Option<String>, String> {
    let (path, word) = (path.display(), shell::word(path));
    if owner != 0 && owner != uid {
        return Err(format!(
            "{path} belongs to another user (uid {owner}), who could have agentd run anything; `chown` it to this user \
             (uid {uid}) or to root"
        ));
    }
    if mode & 0o002 != 0 {
        return Err(format!(
            "{path} can be written by everybody, who could have agentd run anything; `chmod o-w {word}`"
        ));
    }
    Ok((mode & 0o020 != 0).then(|| {
        format!(
            "{path} can be written by its group, who could have agentd run anything; `chmod g-w {word}` unless you want \
             that"
        )
    }))
}

fn is(error: &FileError, kind: io::ErrorKind) -> bool {
    matches!(error, FileError::Io(error) if error.kind() == kind)
}

fn is_forbidden(error: &ConfigError) -> bool {
    matches!(error, ConfigError::Read { source, .. } if is(source, io::ErrorKind::PermissionDenied))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_nobody_else_writes_are_trusted() {
        let trusted = |owner, mode| trusted(Path::new("/c"), owner, mode, 1000);
        assert_eq!(trusted(1000, 0o600), Ok(None));
        // Others may read it: there are no secrets in it.
        assert_eq!(trusted(0, 0o644), Ok(None));
        assert!(trusted(1000, 0o664).unwrap().unwrap().contains("chmod g-w /c"));
        assert!(trusted(1000, 0o602).unwrap_err().contains("chmod o-w /c"));
        assert!(trusted(1001, 0o600).unwrap_err().contains("uid 1001"));
    }

    #[test]
    fn the_first_that_is_there_is_read_and_one_that_was_named_has_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        let source = |asked_for: Option<&str>| ConfigSource {
            asked_for: asked_for.map(|name| dir.path().join(name)),
            usual: vec![dir.path().join("home.toml"), dir.path().join("etc.toml")],
            user_home: None,
            uid,
        };
        assert_eq!(source(None).find().unwrap().path, None);
        std::fs::write(dir.path().join("etc.toml"), "[daemon]\nmax_sessions = 2\n").unwrap();
        let found = source(None).find().unwrap();
        assert_eq!(found.path, Some(dir.path().join("etc.toml")));
        assert_eq!(found.config.daemon.max_sessions, Some(2));
        std::fs::write(dir.path().join("home.toml"), "").unwrap();
        assert_eq!(
            source(None).find().unwrap().path,
            Some(dir.path().join("home.toml"))
        );
        let missing = source(Some("no.toml")).find().unwrap_err().to_string();
        assert!(missing.contains("no.toml: No such file"), "{missing}");
        // One that is wrong is not passed over.
        std::fs::write(dir.path().join("home.toml"), "x").unwrap();
        assert!(matches!(
            source(None).find(),
            Err(SettingsError::Config(ConfigError::Invalid(_)))
        ));
    }
}
