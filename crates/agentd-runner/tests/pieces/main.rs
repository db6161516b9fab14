//! The parts of a session's set-up and teardown, with real directories, users and repositories. As root, what takes
//! root is tested as well; each test says where that begins.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong is a failure")]

#[path = "../support/agent.rs"]
mod agent;
mod git;
mod git_work;
mod home;
mod mission;
mod own;
mod secrets;
mod state;
mod support;
mod tree;
mod upkeep;
