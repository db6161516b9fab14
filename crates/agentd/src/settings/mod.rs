//! Settings: flags, then the process environment, then the env file, then `agentd.toml`, then defaults.
//!
//! Everything is read here, once, and handed on as a [`Settings`] value: no other module looks at the
//! environment. The home directory comes first, because the env file, `agentd.toml` and the other defaults lie in it.

mod config_file;
mod env_file;
mod environment;

use agentd_supervisor::shell;
use config_file::ConfigFile;
pub(crate) use config_file::{ConfigSource, SettingsError};
pub(crate) use environment::Environment;

use agentd_config::Config;
use agentd_protocol::limits;
use agentd_protocol::results::Role;
use agentd_runner::runtime::users::ID_RANGE_START_DEFAULT;
use env_file::EnvFile;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Every variable of our own, so that a misspelled one in the env file can be told from these.
const KNOWN: [&str; 16] = [
    "AGENTD_AGENT_WORKERS",
    "AGENTD_ARTIFACT_DIR",
    "AGENTD_CONFIG",
    "AGENTD_CONTEXT_EVENT_LIMIT",
    "AGENTD_DATABASE_URL",
    "AGENTD_DEFAULT_ROLE",
    "AGENTD_ENV_FILE",
    "AGENTD_HOME",
    "AGENTD_MAX_CONNECTIONS",
    "AGENTD_MAX_SESSIONS",
    "AGENTD_NODE_TIMEOUT_SECS",
    "AGENTD_OPERATORS",
    "AGENTD_RETENTION_DAYS",
    "AGENTD_SECRET_DIR",
    "AGENTD_SOCKET_PATH",
    "AGENTD_WORKERS",
];

/// A path longer than this does not fit into the kernel's address of a Unix socket.
const SOCKET_PATH_BYTES_MAX: usize = 107;
const CONTEXT_EVENT_LIMIT_MAX: u64 = 10_000;
const MAX_CONNECTIONS_MAX: u64 = 1_000_000;
/// Each connection is compared with every name.
const PRINCIPALS_MAX: usize = 256;
const RETENTION_DAYS_MAX: u64 = 36_500;
const MAX_SESSIONS_MAX: u64 = 10_000;
const SECS_PER_DAY: u64 = 24 * 3600;
const SETUP_TIMEOUT_DEFAULT: Duration = Duration::from_secs(120);
const SESSION_RETENTION_DEFAULT: Duration = Duration::from_secs(30 * SECS_PER_DAY);
const TRANSCRIPT_QUOTA_BYTES_DEFAULT: u64 = 4 << 30;
const TRANSCRIPT_BYTES_DEFAULT: u64 = 32 << 20;

/// What the command line overrides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) home: Option<PathBuf>,
    pub(crate) env_file: Option<PathBuf>,
    pub(crate) config: Option<PathBuf>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) database_url: Option<String>,
    pub(crate) node_timeout_secs: Option<u64>,
    pub(crate) context_event_limit: Option<u64>,
    pub(crate) retention_days: Option<u64>,
    pub(crate) max_connections: Option<u64>,
}

/// How this agentd is to run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where everything lies that has no place of its own.
    pub(crate) home: PathBuf,
    /// The env file that was read, or would have been.
    pub(crate) env_file: PathBuf,
    /// The database file.
    pub(crate) database: PathBuf,
    /// The socket.
    pub(crate) socket: PathBuf,
    /// Where the artifacts of tasks are kept.
    pub(crate) artifact_dir: PathBuf,
    /// How long a lease lasts that names no length of its own.
    pub(crate) node_timeout_secs: u64,
    /// How many events a node's context shows.
    pub(crate) context_event_limit: u32,
    /// What is logged, when RUST_LOG says so.
    pub(crate) log_filter: Option<String>,
    /// Operators besides the daemon's own user and root: users, user ids, `%` and groups.
    pub(crate) operators: Vec<String>,
    /// Workers.
    pub(crate) workers: Vec<String>,
    /// What everybody else who can connect may do.
    pub(crate) default_role: Role,
    /// How many connections at once; the server's own default when absent.
    pub(crate) max_connections: Option<usize>,
    /// How long finished tasks are kept; 0: for ever.
    pub(crate) retention_days: u64,
    /// The configuration's file, when there is one.
    pub(crate) config_path: Option<PathBuf>,
    /// What it declares.
    pub(crate) config: Arc<Config>,
    config_source: ConfigSource,
    /// The secret store.
    pub(crate) secret_dir: PathBuf,
    /// The container engine, and the arguments before its command.
    pub(crate) podman: Vec<String>,
    /// How many sessions at once, all agents together.
    pub(crate) max_sessions: u32,
    /// How long the set-up of a session may take.
    pub(crate) setup_timeout: Duration,
    /// How long sessions that are over are kept; zero: for ever.
    pub(crate) session_retention: Duration,
    /// How many bytes the transcripts of all sessions that are over may have together.
    pub(crate) transcript_quota_bytes: u64,
    /// How many bytes of one transcript are kept.
    pub(crate) transcript_bytes: u64,
    /// The first user id that a root daemon gives to its agents.
    pub(crate) id_range_start: u32,
    /// What should be said, but does not keep anybody from going on.
    pub(crate) warnings: Vec<String>,
    /// What is wrong with `agentd.toml`. No daemon runs on such settings; a client may use them, since they name the
    /// socket. Its first part in a line, and all of it.
    pub(crate) unusable: Option<(String, String)>,
}

impl Settings {
    /// Finds out the settings. Reads the env file and `agentd.toml`, and changes nothing.
    ///
    /// # Errors
    /// Which setting cannot be used, and why.
    pub(crate) fn load(flags: &Flags, environment: &Environment) -> Result<Self, SettingsError> {
        Sources::read(flags, environment)?.settings(flags, ConfigSource::find)
    }

    /// The same for whoever needs nothing but the daemon's socket: see [`Settings::unusable`].
    ///
    /// # Errors
    /// Which setting cannot be used, and why; not when it is one of `agentd.toml`.
    pub(crate) fn load_for_client(flags: &Flags, environment: &Environment) -> Result<Self, SettingsError> {
        Sources::read(flags, environment)?.settings(flags, ConfigSource::find_for_client)
    }

    /// Where `agentd.toml` is looked for, and the home directory, whatever the file says.
    ///
    /// # Errors
    /// Which setting cannot be used, and why.
    pub(crate) fn locate(
        flags: &Flags,
        environment: &Environment,
    ) -> Result<(PathBuf, ConfigSource), String> {
        let sources = Sources::read(flags, environment)?;
        let home = sources.home(flags)?;
        let config = sources.config_source(flags, &home)?;
        Ok((home, config))
    }

    /// Reads `agentd.toml` again. Nothing else of the settings changes while a daemon runs.
    ///
    /// # Errors
    /// Why it cannot be used; also when there was one, and is none any more. What was read before stays then.
    pub(crate) fn reload_config(&self) -> Result<Arc<Config>, SettingsError> {
        let found = self.config_source.find()?;
        match &self.config_path {
            Some(path) if found.path.as_ref() != Some(path) => Err(SettingsError::Said(format!(
                "{} is not there any more (or cannot be read); an empty file would declare no agents",
                path.display()
            ))),
            _ => Ok(found.config),
        }
    }

    /// Makes the home directory, for the owner alone, unless it is there.
    ///
    /// # Errors
    /// When it cannot be made, is not a directory, or others could put things into it.
    pub(crate) fn prepare_home(&self) -> Result<(), String> {
        let home = self.home.display();
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.home);
        made.map_err(|error| format!("cannot make the directory {home}: {error}"))?;
        let metadata = self
            .home
            .metadata()
            .map_err(|error| format!("cannot look at {home}: {error}"))?;
        if metadata.permissions().mode() & 0o002 != 0 && metadata.mode() & 0o1000 == 0 {
            return Err(format!(
                "{home} can be written by everybody, who could replace the database; `chmod o-w {}`",
                shell::word(&self.home)
            ));
        }
        Ok(())
    }
}

struct Sources<'a> {
    environment: &'a Environment,
    file: EnvFile,
    env_file: PathBuf,
    /// The home directory, unless the env file names another one.
    first_home: PathBuf,
}

impl<'a> Sources<'a> {
    fn read(flags: &Flags, environment: &'a Environment) -> Result<Self, String> {
        let first_home = match (&flags.home, environment.get("AGENTD_HOME")) {
            (Some(home), _) => absolute("--home", &home.to_string_lossy(), environment)?,
            (None, Some(home)) => absolute("AGENTD_HOME", utf8("AGENTD_HOME", home)?, environment)?,
            (None, None) => environment.expand("~/.agentd")?,
        };
        let asked_for = match &flags.env_file {
            Some(path) => Some(absolute("--env-file", &path.to_string_lossy(), environment)?),
            None => environment
                .get("AGENTD_ENV_FILE")
                .map(|path| absolute("AGENTD_ENV_FILE", utf8("AGENTD_ENV_FILE", path)?, environment))
                .transpose()?,
        };
        let env_file = asked_for.clone().unwrap_or_else(|| first_home.join(".env"));
        let read = env_file::read(&env_file)?;
        if read.is_none() && asked_for.is_some() {
            return Err(format!("the env file {} does not exist", env_file.display()));
        }
        Ok(Self {
            environment,
            file: read.unwrap_or_default(),
            env_file,
            first_home,
        })
    }

    fn home(&self, flags: &Flags) -> Result<PathBuf, String> {
        let home = match flags.home {
            Some(_) => self.first_home.clone(),
            None => self.path("AGENTD_HOME", None, || self.first_home.clone())?,
        };
        if home.to_string_lossy().contains(',') {
            return Err(format!(
                "agentd's home {} has a comma in its path, which separates Podman's options; choose another directory with \
                 AGENTD_HOME or --home",
                home.display()
            ));
        }
        Ok(home)
    }

    fn config_source(&self, flags: &Flags, home: &Path) -> Result<ConfigSource, String> {
        let asked_for = match (&flags.config, self.get("AGENTD_CONFIG")?) {
            (Some(path), _) => Some(absolute("--config", &path.to_string_lossy(), self.environment)?),
            (None, Some(path)) => Some(absolute("AGENTD_CONFIG", path, self.environment)?),
            (None, None) => None,
        };
        let user_home = self.environment.user_home.as_deref();
        Ok(ConfigSource::new(
            asked_for,
            home,
            user_home,
            self.environment.uid,
        ))
    }

    fn get(&self, name: &str) -> Result<Option<&str>, String> {
        match self.environment.get(name) {
            Some(value) => utf8(name, value).map(Some),
            None => Ok(self
                .file
                .variables
                .get(name)
                .map(String::as_str)
                .filter(|value| !value.is_empty())),
        }
    }

    fn path(
        &self,
        name: &str,
        configured: Option<&PathBuf>,
        default: impl FnOnce() -> PathBuf,
    ) -> Result<PathBuf, String> {
        match (self.get(name)?, configured) {
            (Some(path), _) => absolute(name, path, self.environment),
            (None, Some(path)) => Ok(path.clone()),
            (None, None) => Ok(default()),
        }
    }

    /// `default` is what the configuration says, or the default.
    fn number(&self, flag: Option<u64>, name: &str, default: u64, min: u64, max: u64) -> Result<u64, String> {
        let number = match (flag, self.get(name)?) {
            (Some(number), _) => number,
            (None, Some(text)) => text
                .trim()
                .parse()
                .map_err(|_| format!("{name} is {text:?}, which is not a whole number"))?,
            (None, None) => default,
        };
        if !(min..=max).contains(&number) {
            return Err(format!("{name} is {number}; it must be between {min} and {max}"));
        }
        Ok(number)
    }

    fn names(&self, name: &str, configured: Option<&Vec<String>>) -> Result<Vec<String>, String> {
        let Some(list) = self.get(name)? else {
            return Ok(configured.cloned().unwrap_or_default());
        };
        let list = list.split(',').map(str::trim).filter(|name| !name.is_empty());
        let names: Vec<String> = list.map(str::to_owned).collect();
        if names.len() > PRINCIPALS_MAX {
            return Err(format!(
                "{name} has {} names; at most {PRINCIPALS_MAX} are allowed",
                names.len()
            ));
        }
        Ok(names)
    }

    fn settings(
        &self,
        flags: &Flags,
        find: impl Fn(&ConfigSource) -> Result<ConfigFile, SettingsError>,
    ) -> Result<Settings, SettingsError> {
        let home = self.home(flags)?;
        let config_source = self.config_source(flags, &home)?;
        let found = find(&config_source)?;
        let config = &found.config.daemon;
        let database = match (
            &flags.database_url,
            self.get("AGENTD_DATABASE_URL")?,
            &config.database_url,
        ) {
            (Some(url), ..) => database_path("--database-url", url, self.environment)?,
            (None, Some(url), _) => database_path("AGENTD_DATABASE_URL", url, self.environment)?,
            (None, None, Some(url)) => {
                let path = found.path.as_deref().unwrap_or(Path::new(config_file::NAME));
                let name = format!("daemon.database_url in {}", path.display());
                database_path(&name, url, self.environment)?
            }
            (None, None, None) => home.join("agent_state.db"),
        };
        let socket = match &flags.socket {
            Some(path) => absolute("--socket", &path.to_string_lossy(), self.environment)?,
            None => self.path("AGENTD_SOCKET_PATH", config.socket.as_ref(), || {
                home.join("agentd.sock")
            })?,
        };
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(format!(
                "the socket's path has {} bytes, and the kernel takes {SOCKET_PATH_BYTES_MAX}: {}; choose a shorter \
                 one with AGENTD_SOCKET_PATH or --socket",
                socket.as_os_str().len(),
                socket.display()
            )
            .into());
        }
        let default_role = match self
            .get("AGENTD_DEFAULT_ROLE")?
            .or(config.default_role.as_deref())
        {
            None | Some("observer") => Role::Observer,
            Some("worker") => Role::Worker,
            Some(other) => {
                return Err(format!(
                    "AGENTD_DEFAULT_ROLE is {other:?}; it can be observer or worker (operators are named one by one, \
                     in AGENTD_OPERATORS)"
                )
                .into());
            }
        };
        let timeout = self.number(
            flags.node_timeout_secs,
            "AGENTD_NODE_TIMEOUT_SECS",
            config.node_timeout.map_or(300, |timeout| timeout.as_secs()),
            limits::LEASE_SECS_MIN,
            limits::LEASE_SECS_MAX,
        )?;
        let events = self.number(
            flags.context_event_limit,
            "AGENTD_CONTEXT_EVENT_LIMIT",
            config.context_event_limit.map_or(50, u64::from),
            0,
            CONTEXT_EVENT_LIMIT_MAX,
        )?;
        let days = self.number(
            flags.retention_days,
            "AGENTD_RETENTION_DAYS",
            config
                .retention
                .map_or(90, |retention| retention.as_secs() / SECS_PER_DAY),
            0,
            RETENTION_DAYS_MAX,
        )?;
        let connections = self.number(
            flags.max_connections,
            "AGENTD_MAX_CONNECTIONS",
            config.max_connections.map_or(0, |most| most as u64),
            0,
            MAX_CONNECTIONS_MAX,
        )?;
        let sessions = self.number(
            None,
            "AGENTD_MAX_SESSIONS",
            config.max_sessions.map_or(16, u64::from),
            1,
            MAX_SESSIONS_MAX,
        )?;
        let mut warnings = self.file.warnings.clone();
        warnings.extend(found.warnings.iter().cloned());
        if self.file.variables.contains_key("AGENTD_ENV_FILE") {
            warnings.push(format!(
                "AGENTD_ENV_FILE in {} has no effect: that file is being read already",
                self.env_file.display()
            ));
        }
        Ok(Settings {
            artifact_dir: self.path("AGENTD_ARTIFACT_DIR", config.artifact_dir.as_ref(), || {
                home.join("artifacts")
            })?,
            secret_dir: self.path("AGENTD_SECRET_DIR", config.secret_dir.as_ref(), || {
                home.join("secrets")
            })?,
            database,
            socket,
            node_timeout_secs: timeout,
            context_event_limit: u32::try_from(events).unwrap_or(u32::MAX),
            log_filter: self.get("RUST_LOG")?.map(str::to_owned),
            operators: self.names("AGENTD_OPERATORS", config.operators.as_ref())?,
            workers: self.names("AGENTD_WORKERS", config.workers.as_ref())?,
            default_role,
            max_connections: usize::try_from(connections)
                .ok()
                .filter(|connections| *connections > 0),
            retention_days: days,
            podman: config.podman.clone().unwrap_or_else(|| vec!["podman".into()]),
            max_sessions: u32::try_from(sessions).unwrap_or(u32::MAX),
            setup_timeout: config.setup_timeout.unwrap_or(SETUP_TIMEOUT_DEFAULT),
            session_retention: config.session_retention.unwrap_or(SESSION_RETENTION_DEFAULT),
            transcript_quota_bytes: config
                .transcript_quota_bytes
                .unwrap_or(TRANSCRIPT_QUOTA_BYTES_DEFAULT),
            transcript_bytes: config.transcript_bytes.unwrap_or(TRANSCRIPT_BYTES_DEFAULT),
            id_range_start: config.id_range_start.unwrap_or(ID_RANGE_START_DEFAULT),
            warnings,
            unusable: found.unusable.map(|error| (error.first(), error.to_string())),
            home,
            env_file: self.env_file.clone(),
            config_path: found.path,
            config: found.config,
            config_source,
        })
    }
}

fn utf8<'a>(name: &str, value: &'a std::ffi::OsStr) -> Result<&'a str, String> {
    value.to_str().ok_or_else(|| format!("{name} is not UTF-8"))
}

fn absolute(name: &str, path: &str, environment: &Environment) -> Result<PathBuf, String> {
    let path = environment.expand(path).map_err(|why| format!("{name}: {why}"))?;
    std::path::absolute(&path).map_err(|error: io::Error| format!("{name}: {}: {error}", path.display()))
}

/// `sqlite://~/dir/file` and `sqlite:///dir/file`; everything else is refused, so that a typing mistake does
/// not make a new, empty database somewhere.
fn database_path(name: &str, url: &str, environment: &Environment) -> Result<PathBuf, String> {
    let forms = "sqlite:///absolute/path.db or sqlite://~/path.db";
    let Some(path) = url.strip_prefix("sqlite://") else {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        return Err(match scheme {
            // Such an address may carry a password: it is not repeated.
            Some(scheme) => format!("{name} begins with {scheme}://; only SQLite is supported: {forms}"),
            None => format!("{name} is not a database URL; write {forms}"),
        });
    };
    if let Some((_, options)) = path.split_once('?') {
        return Err(format!(
            "{name} has options ({options:?}), and none are known; write {forms}"
        ));
    }
    if path.ends_with('/') || !(path.starts_with('/') || path.starts_with("~/")) {
        return Err(format!(
            "{name} is {url:?}, which names no absolute path of a file; write {forms}"
        ));
    }
    environment.expand(path).map_err(|why| format!("{name}: {why}"))
}

#[cfg(test)]
mod tests;
