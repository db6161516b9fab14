//! Sessions with real supervisors.

#![allow(clippy::unwrap_used, reason = "tests")]

mod process;
mod support;
mod versions;
