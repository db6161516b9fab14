//! From the text of `agentd.toml` to a [`Config`].
//!
//! Whatever is wrong is told at once, with its place, as far as it can be told without guessing: a value that is
//! missing or wrong is taken for absent, and the rest is looked at.

mod agent;
mod daemon;
mod env;
mod names;
mod plugin;
mod runtime;

pub use agent::KEYS as AGENT_KEYS;
pub use daemon::KEYS as DAEMON_KEYS;
pub use env::is_reserved;
pub use plugin::KEYS as PLUGIN_KEYS;

use crate::file::{self, FileError};
use crate::model::Config;
use crate::path::resolve;
use crate::reader::{Document, Located, Section};
use crate::source::{Mistake, Source};
use std::fmt;
use std::fs::Metadata;
use std::path::{Path, PathBuf};

/// The most bytes that the file may have.
pub const CONFIG_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// The most agents that may be declared.
pub const AGENTS_MAX: usize = 10_000;
/// The most plugins that may be declared.
pub const PLUGINS_MAX: usize = 1_000;
/// After so many mistakes no more are looked for: their author has enough to do.
pub const MISTAKES_MAX: usize = 50;

const ROOT_KEYS: [&str; 3] = ["daemon", "agents", "plugins"];

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is the matter.
        source: FileError,
    },
    /// It says what cannot be meant.
    #[error(transparent)]
    Invalid(#[from] Mistakes),
}

/// What is wrong in a file, in the order of the file. There is at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes {
    list: Vec<Mistake>,
    socket: Option<PathBuf>,
}

impl Mistakes {
    /// Each of them.
    #[must_use]
    pub fn list(&self) -> &[Mistake] {
        &self.list
    }

    /// The daemon's socket, when the file names one in spite of all: clients need nothing else.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{mistake}")?;
        }
        if self.list.len() >= MISTAKES_MAX {
            write!(f, "\nand perhaps more")?;
        }
        Ok(())
    }
}

/// What paths in a file are relative to.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The file, as messages call it.
    pub path: &'a Path,
    /// Its directory, absolute.
    pub dir: &'a Path,
    /// What `~` is, when it is known.
    pub user_home: Option<&'a Path>,
}

impl Place<'_> {
    fn resolve(&self, path: &str) -> Result<PathBuf, String> {
        resolve(path, self.dir, self.user_home)
    }
}

/// Reads the file at an absolute path. Gives whose it is, too.
///
/// # Errors
/// See [`ConfigError`].
pub fn load(path: &Path, user_home: Option<&Path>) -> Result<(Config, Metadata), ConfigError> {
    let (text, metadata) = file::read_text(path, CONFIG_BYTES_MAX).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    let place = Place { path, dir, user_home };
    Ok((parse(&text, place)?, metadata))
}

/// Reads the text of a file.
///
/// # Errors
/// All that is wrong with it.
pub fn parse(text: &str, place: Place<'_>) -> Result<Config, Mistakes> {
    let text = file::with_line_feeds(text);
    let source = Source {
        path: place.path,
        text: &text,
    };
    let document = Document::parse(source, "agentd.toml").map_err(|mistake| Mistakes {
        list: vec![mistake],
        socket: None,
    })?;
    let root = document.root();
    let mut reading = Reading {
        place,
        mistakes: root.unknown_keys(&ROOT_KEYS),
    };
    let daemon = reading.section(&root, "daemon");
    let daemon = daemon.map_or_else(Default::default, |section| daemon::read(&mut reading, &section));
    let agents = tables(&mut reading, &root, "agents", AGENTS_MAX, agent::read);
    let plugins = tables(&mut reading, &root, "plugins", PLUGINS_MAX, plugin::read);
    names::check(&mut reading, &agents);
    plugin::check(&mut reading, &root, &plugins, &agents);
    let mut mistakes = reading.mistakes;
    if mistakes.is_empty() {
        let agents = agents.into_iter().map(|declared| declared.agent).collect();
        let plugins = plugins.into_iter().map(|(plugin, _)| plugin).collect();
        return Ok(Config {
            daemon,
            agents,
            plugins,
        });
    }
    mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
    mistakes.truncate(MISTAKES_MAX);
    Err(Mistakes {
        list: mistakes,
        socket: daemon.socket,
    })
}

/// Reads each table of an array, but not more than `most`.
fn tables<'s, T>(
    reading: &mut Reading<'_>,
    root: &Section<'s>,
    key: &str,
    most: usize,
    read: impl Fn(&mut Reading<'_>, Section<'s>) -> Option<T>,
) -> Vec<T> {
    let sections = reading.take(root.sections(key)).unwrap_or_default();
    if let Some(first_too_many) = sections.get(most) {
        let message = format!(
            "{} {key} are declared; at most {most} are allowed",
            sections.len()
        );
        reading.wrong(first_too_many.error(message));
        return Vec::new();
    }
    let mut all = Vec::with_capacity(sections.len());
    for section in sections {
        if reading.is_full() {
            break;
        }
        all.extend(read(reading, section));
    }
    all
}

/// What has been found wrong so far.
struct Reading<'a> {
    place: Place<'a>,
    mistakes: Vec<Mistake>,
}

impl Reading<'_> {
    fn wrong(&mut self, mistake: Mistake) {
        if !self.is_full() {
            self.mistakes.push(mistake);
        }
    }

    fn is_full(&self) -> bool {
        self.mistakes.len() >= MISTAKES_MAX
    }

    fn take<T>(&mut self, result: Result<T, Mistake>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(mistake) => {
                self.wrong(mistake);
                None
            }
        }
    }

    /// A value that may be absent. A wrong one is told, and absent.
    fn maybe<T>(&mut self, result: Result<Option<T>, Mistake>) -> Option<T> {
        self.take(result).flatten()
    }

    fn section<'s>(&mut self, section: &Section<'s>, key: &str) -> Option<Section<'s>> {
        self.maybe(section.section(key))
    }

    fn text(&mut self, section: &Section<'_>, key: &str, bytes_max: usize) -> Option<Located<String>> {
        self.maybe(section.read(key, |text| {
            plain(text, bytes_max)?;
            Ok(text.to_owned())
        }))
    }

    fn path(&mut self, section: &Section<'_>, key: &str) -> Option<Located<PathBuf>> {
        let place = self.place;
        self.maybe(section.read(key, |text| place.resolve(text)))
    }

    /// A list of strings of which each is fine, and none is there twice.
    fn list(
        &mut self,
        section: &Section<'_>,
        key: &str,
        items_max: usize,
        fine: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Vec<Located<String>>> {
        let texts = self.maybe(section.texts(key))?;
        if texts.value.len() > items_max {
            let message = format!(
                "{} has {} items; at most {items_max} are allowed",
                section.path(key),
                texts.value.len()
            );
            self.wrong(section.error_at(&texts.span, key, message));
            return None;
        }
        for item in &texts.value {
            if let Err(why) = fine(&item.value) {
                let message = format!("{}: {why}", section.path(key));
                self.wrong(section.error_at(&item.span, key, message));
            }
        }
        Some(texts.value)
    }
}

/// A text that every program can be given.
fn plain(text: &str, bytes_max: usize) -> Result<(), String> {
    if text.contains('\0') {
        return Err("a NUL character is in it, which no program can be given".into());
    }
    if text.len() > bytes_max {
        return Err(format!(
            "it has {} bytes; at most {bytes_max} are allowed",
            text.len()
        ));
    }
    Ok(())
}

fn not_empty(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    Ok(())
}
