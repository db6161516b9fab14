//! Sessions with real supervisors.

#![allow(clippy::unwrap_used, reason = "tests")]

mod clock;
mod container;
mod process;
mod support;
mod versions;
