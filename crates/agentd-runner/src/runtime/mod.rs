//! Runtimes: the ways in which a session can be isolated.
//!
//! A [`engine::Engine`] is one kind whose sessions live under a supervisor process. Every kind declares what it can do;
//! nothing else is offered for its sessions anywhere.

pub mod engine;
mod mapped;
pub mod podman;
pub mod process;
pub mod users;

use agentd_config::RuntimeKind;
use engine::Engine;
use std::collections::BTreeMap;
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
