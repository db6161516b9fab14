//! Secrets: read from the host's store, and put before one session.

use super::error::StepError;
use super::state::{self, StateDirs};
use super::tree::{self, Budget, Found, Progress};
use crate::runtime::engine::Users;
use agentd_config::Credential;
use agentd_protocol::SessionId;
use agentd_supervisor::shell;
use rustix::fs::{self as rfs, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A secret, in bytes.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;
/// What is shorter occurs in ordinary text, so it is not looked for in transcripts.
pub const REDACTED_BYTES_MIN: usize = 8;
/// Names that are listed.
const NAMES_MAX: usize = 10_000;

/// A secret's value. Overwritten in memory when it is dropped, and never shown.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The value itself.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The host's store: a directory with one file for each secret, whose name is the secret's. A file may be a link, as
/// where NixOS and systemd put secrets. Hidden files and directories are no secrets.
#[derive(Clone, Debug)]
pub struct SecretStore {
    dir: PathBuf,
}

/// What was read, and what people should know about it.
#[derive(Debug)]
pub struct ReadSecret {
    /// The value, without the newlines at its end.
    pub secret: Secret,
    /// What about it is not as it should be.
    pub warnings: Vec<String>,
}

impl SecretStore {
    /// The store at `dir`, which need not exist: then it holds nothing.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The names of the secrets in it.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn names(&self) -> Result<Vec<String>, StepError> {
        let mut names = state::list(&self.dir)?;
        // Where links lead counts: a link to a directory is a directory.
        names.retain(|name| state::is_plain_name(name) && self.dir.join(name).is_file());
        names.truncate(NAMES_MAX);
        Ok(names)
    }

    /// What about the store itself is not as it should be.
    ///
    /// # Errors
    /// When anybody may write there: then anybody chooses what agents are given, and which of agentd's files is read.
    pub fn check(&self) -> Result<Vec<String>, StepError> {
        let shown = self.dir.display();
        let Ok(path) = self.dir.canonicalize() else {
            return Ok(Vec::new());
        };
        let found = Found::at(CWD, &state::c_path(&path)).map_err(StepError::io("look at", &self.dir))?;
        if found.kind != FileType::Directory {
            return Err(StepError::machine(format!(
                "the secret store {shown} is not a directory"
            )));
        }
        if found.mode & 0o002 != 0 {
            return Err(StepError::machine(format!(
                "every user may write to the secret store {shown}; `chmod 700 {}`",
                shell::word(&path)
            )));
        }
        Ok(match found.mode & 0o020 {
            0 => Vec::new(),
            _ => vec![format!(
                "the group {} may write to the secret store {shown}; `chmod 700 {}`",
                found.gid,
                shell::word(&path)
            )],
        })
    }

    /// Reads one.
    ///
    /// # Errors
    /// When there is none of that name, or it is no file, or too large.
    pub fn read(&self, name: &str) -> Result<ReadSecret, StepError> {
        if !state::is_plain_name(name) {
            return Err(StepError::declaration(format!(
                "{name:?} cannot be a secret's name"
            )));
        }
        let path = self.dir.join(name);
        let shown = path.display();
        // A pipe does not block us, a terminal does not become ours.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = match rfs::openat(CWD, &path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                let (dir, file) = (shell::word(&self.dir), shell::word(&path));
                return Err(StepError::machine(format!(
                    "there is no secret {name}: {shown} does not exist. Make it with: install -d -m 700 {dir} && \
                     (umask 077 && cat > {file}), then type or paste the value and press Ctrl-D"
                )));
            }
            Err(Errno::ACCESS) => {
                return Err(StepError::machine(format!(
                    "the secret {name} cannot be read: {shown} is not readable by agentd's user"
                )));
            }
            Err(error) => return Err(StepError::io("open the secret", &path)(error)),
        };
        let found = Found::of(fd.as_fd()).map_err(StepError::io("look at", &path))?;
        if found.kind != FileType::RegularFile {
            return Err(StepError::machine(format!(
                "the secret {name} is not an ordinary file: {shown}"
            )));
        }
        // Of its final size at once: a buffer that grows leaves copies behind.
        let mut value = Zeroizing::new(vec![0; SECRET_BYTES_MAX + 1]);
        let length =
            fill(&mut File::from(fd), &mut value).map_err(StepError::io("read the secret", &path))?;
        if length > SECRET_BYTES_MAX {
            return Err(StepError::machine(format!(
                "the secret {name} is larger than {SECRET_BYTES_MAX} bytes: {shown}"
            )));
        }
        let length = trimmed(&value[..length]);
        value.truncate(length);
        let mut warnings = Vec::new();
        if length < REDACTED_BYTES_MIN {
            warnings.push(format!(
                "the secret {name} has {length} bytes; what is shorter than {REDACTED_BYTES_MIN} cannot be kept out \
                 of transcripts"
            ));
        }
        if found.mode & 0o004 != 0 {
            warnings.push(format!(
                "every user can read the secret {name}; `chmod 600 {}`",
                shell::word(&path)
            ));
        }
        Ok(ReadSecret {
            secret: Secret(value),
            warnings,
        })
    }

    /// Reads what a credential names, which must be what it is declared to be.
    ///
    /// # Errors
    /// As [`SecretStore::read`]; and when it is to be a variable that cannot hold it.
    pub fn read_for(&self, credential: &Credential) -> Result<ReadSecret, StepError> {
        let name = &credential.name;
        let read = self.read(name)?;
        if credential.env.is_some() && read.secret.expose().contains(&0) {
            return Err(StepError::declaration(format!(
                "the secret {name} has a zero byte in it, which no variable can hold; declare it without env, it \
                 is a file then"
            )));
        }
        Ok(read)
    }
}

/// Reads until the buffer is full or nothing more comes.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// How long a value is without the newlines at its end.
fn trimmed(mut value: &[u8]) -> usize {
    while let Some(line) = value.strip_suffix(b"\n") {
        value = line.strip_suffix(b"\r").unwrap_or(line);
    }
    value.len()
}

/// Secrets that are before a session.
#[derive(Debug, Default)]
pub struct Delivered {
    /// Their directory; absent when the agent has none.
    pub dir: Option<PathBuf>,
    /// Variables that are to hold secrets: variable → the secret's name.
    pub variables: BTreeMap<String, String>,
    /// What people should know.
    pub warnings: Vec<String>,
}

/// Puts the secrets that an agent declares, and no other, before a session: files that only the agent reads, on a
/// tmpfs. What an earlier set-up left there goes first.
///
/// # Errors
/// When one is not there or cannot be what it is declared to be. Then nothing of them is left.
pub fn deliver(
    store: &SecretStore,
    credentials: &[Credential],
    users: &Users,
    dirs: &StateDirs,
    session: SessionId,
) -> Result<Delivered, StepError> {
    let path = dirs.secrets(session);
    state::remove_all(&path)?;
    if credentials.is_empty() {
        return Ok(Delivered::default());
    }
    let delivered = write(store, credentials, users, &path);
    if delivered.is_err()
        && let Err(error) = state::remove_all(&path)
    {
        tracing::warn!(%error, "secrets of a set-up that failed are left");
    }
    delivered
}

fn write(
    store: &SecretStore,
    credentials: &[Credential],
    users: &Users,
    path: &Path,
) -> Result<Delivered, StepError> {
    let owner = (users.host_uid, users.host_gid);
    let mut delivered = Delivered {
        warnings: store.check()?,
        ..Delivered::default()
    };
    let dir = state::make(path, 0o700, None)?;
    let mut written: Vec<&str> = Vec::new();
    for credential in credentials {
        let Credential { name, env } = credential;
        let ReadSecret { secret, warnings } = store.read_for(credential)?;
        // The same secret may be asked for again, for a second variable.
        if !written.contains(&name.as_str()) {
            state::write_new(dir.as_fd(), path, name, secret.expose(), 0o400, Some(owner))?;
            delivered.warnings.extend(warnings);
            written.push(name);
        }
        if let Some(variable) = env {
            delivered.variables.insert(variable.clone(), name.clone());
        }
    }
    // The directory last: until then, whoever gets in is agentd.
    state::own(dir.as_fd(), path, owner)?;
    delivered.dir = Some(path.to_owned());
    Ok(delivered)
}

/// Removes what a session and its plugins were given.
///
/// # Errors
/// When something of it cannot be removed.
pub fn take_down(dirs: &StateDirs, session: SessionId) -> Result<Progress, StepError> {
    let mut budget = Budget::entries(100_000);
    match tree::remove(&dirs.secrets(session), &mut budget)? {
        Progress::Done => tree::remove(&dirs.plugin_secrets(session), &mut budget),
        Progress::More => Ok(Progress::More),
    }
}
