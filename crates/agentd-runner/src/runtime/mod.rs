//! Runtimes: the ways in which a session can be isolated.

pub mod engine;
mod mapped;
pub mod podman;
pub mod process;
pub mod users;
