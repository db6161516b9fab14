//! `agentd mcp`, the real program, against a real daemon: by a client written by hand, which knows nothing of the SDK,
//! and by the SDK's own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "../support/mod.rs"]
mod support;

mod client;
mod endings;
mod hostile;
mod life;
mod roles;
mod sdk;
mod session;
mod waits;
