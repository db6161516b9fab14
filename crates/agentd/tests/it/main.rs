//! The real binary, from the outside. One crate, so that it is linked once; a module per subject.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tools.rs"]
mod tools_support;

mod commands;
mod config;
mod daemon;
mod documents;
mod fakes;
mod files;
mod flood;
mod forge;
mod locks;
mod plans;
mod plugins;
mod programs;
mod remote;
mod runs;
// Needs a daemon that runs sessions.
mod sessions;
mod starts;
mod survey;
mod tools;
mod users;
