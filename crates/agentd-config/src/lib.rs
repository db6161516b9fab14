//! What agentd is told to do: agents and settings.
//!
//! [`model`] says what can be declared, whatever it was written in.

pub mod duration;
pub mod model;
pub mod path;
pub mod reader;
pub mod size;
pub mod source;

pub use model::{
    Agent, Config, Credential, DaemonConfig, Network, RuntimeKind, WorkspaceMode, WorktreePolicy,
};
