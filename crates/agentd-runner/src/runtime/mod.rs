//! Runtimes: the ways in which a session can be isolated.
//!
//! A [`engine::Engine`] is one kind whose sessions live under a supervisor process. Every kind declares what it can do;
//! nothing else is offered for its sessions anywhere.

pub mod engine;
mod mapped;
pub mod podman;
pub mod process;
mod sweep;
pub mod users;

use agentd_config::RuntimeKind;
use engine::Engine;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

/// The kinds of runtimes of one daemon.
#[derive(Clone, Debug, Default)]
pub struct Runtimes {
    engines: BTreeMap<&'static str, Arc<dyn Engine>>,
}

impl Runtimes {
    /// Adds a kind, or replaces it.
    #[must_use]
    pub fn with(mut self, kind: RuntimeKind, engine: Arc<dyn Engine>) -> Self {
        self.engines.insert(kind.as_str(), engine);
        self
    }

    /// The runtime of a kind, when this daemon has it.
    #[must_use]
    pub fn get(&self, kind: RuntimeKind) -> Option<&Arc<dyn Engine>> {
        self.named(kind.as_str())
    }

    /// The same by the kind's name, as sessions remember it.
    #[must_use]
    pub fn named(&self, kind: &str) -> Option<&Arc<dyn Engine>> {
        self.engines.get(kind)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Arc<dyn Engine>)> {
        self.engines.iter().map(|(name, engine)| (*name, engine))
    }
}

/// The first directory on the way to `path` that others cannot walk through.
#[must_use]
pub fn closed_above(path: &Path) -> Option<&Path> {
    path.ancestors()
        .skip(1)
        .find(|dir| fs::metadata(dir).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_directory_on_the_way_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o711)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(closed_above(&inner.join("file")), Some(dir.path()));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        assert_ne!(closed_above(&inner.join("file")), Some(dir.path()));
    }
}
