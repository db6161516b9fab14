//! The process that one session lives in.
//!
//! agentd may be stopped, upgraded or killed; sessions go on. Each has a supervisor of its own, which owns the
//! session's stdio, transcript, redaction, exit status and process tree, and tells whichever agentd comes.

pub mod dir;
mod events;
pub mod proc;
pub mod record;
pub mod redact;
pub mod spec;
pub mod transcript;
mod stub; pub use stub::*;
