//! What every store must do, whatever database is behind it. A further backend adds a factory below and runs
//! the same suite.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod locks;
mod model;
mod nodes;
mod sessions;
mod support;
mod tasks;
mod waiting;
