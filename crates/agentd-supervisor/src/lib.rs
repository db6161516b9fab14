//! The process that one session lives in.
//!
//! agentd may be stopped, upgraded or killed; sessions go on. Each has a supervisor of its own, which owns the
//! session's stdio, transcript, redaction, exit status and process tree, and tells whichever agentd comes.
//!
//! ```text
//!   agentd ──spawn──▶ supervisor (agentd __session DIR)     fd 3: lock, fd 4: socket
//!     │ Control          │   ├─ pipes, or the container's log ──▶ redact ──▶ DIR/transcript
//!     │                  │   ├─ the gateway and its plugins ──▶ DIR/tools/calls
//!     └──DIR/socket──────┘   ├─ what happens ──▶ DIR/records.jsonl
//!                            └─ the agent and all that it starts, or the container's monitor
//! ```
//!
//! - [`spec`], [`tools`], [`record`] and [`dir`] are the contract: what a supervisor is told, what it tells, and where.
//! - [`spawn`], [`control`], [`follow`], [`records`], [`calls`], [`transcript`] and [`sweep`] are for agentd.
//! - [`access`] and [`start_error`] say what a user may do with files, and why a program could not be started.
//! - [`supervisor_main`] is the process. [`guard`]s stand between it and its plugins: its program must come to
//!   [`guard::plugin_main`] when it is started with [`guard::PLUGIN_COMMAND`].
//!
//! *Architecture Invariant:* a supervisor needs no agentd for anything. It is told everything before it starts; what it
//! tells is in files.

pub mod access;
pub mod calls;
pub mod control;
pub mod dir;
mod events;
pub mod follow;
pub mod guard;
mod lines;
pub mod proc;
pub mod record;
pub mod records;
pub mod redact;
pub mod shell;
pub mod spawn;
pub mod spec;
pub mod start_error;
mod supervise;
pub mod sweep;
pub mod tools;
pub mod transcript;
pub mod wire;

pub use supervise::{supervisor_main, supervisor_main_as};
