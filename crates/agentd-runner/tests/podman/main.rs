//! Sessions in real containers: as root and as an ordinary user, with runc and with gVisor.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "../support/agent.rs"]
mod agent;
mod clearing;
mod gvisor;
mod isolation;
mod sessions;
mod support;
