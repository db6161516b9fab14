//! What agentd is told to do: agents and settings.
//!
//! [`model`] says what can be declared, whatever it was written in.

pub mod model;

pub use model::{
    Agent, Config, Credential, DaemonConfig, Network, RuntimeKind, WorkspaceMode, WorktreePolicy,
};
