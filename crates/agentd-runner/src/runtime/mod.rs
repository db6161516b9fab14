//! Runtimes: the ways in which a session can be isolated.
//!
//! A [`engine::Engine`] is one kind whose sessions live under a supervisor process. Every kind declares what it can do;
//! nothing else is offered for its sessions anywhere.

pub mod engine;
pub(crate) mod grant;
mod mapped;
pub mod podman;
pub mod process;
mod sweep;
pub mod users;

use agentd_config::RuntimeKind;
use agentd_supervisor::access::{self, Want};
use agentd_supervisor::shell;
use agentd_supervisor::tools::ProcessUser;
use engine::Engine;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
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

/// The directories on the way to `path` that a user cannot walk through, from the top. What is not there yet is made as
/// it has to be.
#[must_use]
pub fn closed_above(path: &Path, user: &ProcessUser) -> Vec<PathBuf> {
    let above = path.ancestors().skip(1).find(|dir| dir.is_dir());
    let denied = above.and_then(|dir| access::ask(dir, Some(user), Want::Enter).err());
    denied.map_or_else(Vec::new, |denied| denied.all_closed())
}

/// A user that has one group, of the same number: as agents of a root daemon have it.
#[must_use]
pub fn single_user(id: u32) -> ProcessUser {
    ProcessUser {
        uid: id,
        gid: id,
        groups: Vec::new(),
    }
}

/// The command that lets every user walk through closed directories.
#[must_use]
pub fn opening(closed: &[PathBuf]) -> String {
    format!("chmod a+x {}", shell::words(closed))
}
