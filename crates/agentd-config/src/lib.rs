//! What agentd is told to do: agents and settings.
//!
//! [`model`] says what can be declared, whatever it was written in; [`mod@parse`] reads `agentd.toml`. The strict reader below
//! it, [`reader`], serves other files as well: plans.

pub mod duration;
pub mod file;
pub mod model;
pub mod parse;
pub mod path;
pub mod reader;
pub mod size;
pub mod source;
pub mod template;

pub use model::{
    Agent, Config, Credential, DaemonConfig, Network, OnUnmerged, Plugin, PluginSource, RuntimeKind,
    ToolPatterns, Uncommitted, WorkspaceMode, WorktreePolicy,
};
pub use parse::{ConfigError, Mistakes, Place, load, parse};
