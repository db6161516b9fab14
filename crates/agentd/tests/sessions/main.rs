//! Sessions of the real binary with real containers: what holds whatever dies, fails or is hostile.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod crash_chance;
mod crash_files;
mod crash_lease;
mod crash_parts;
mod crash_points;
mod crash_scene;
mod crash_stop;
mod crash_user;
mod crash_versions;
mod faults_agents;
mod faults_engine;
mod images;
mod isolation;
#[path = "../support/podman.rs"]
mod podman;
mod secrets;
mod site;
mod smoke;
#[path = "../support/mod.rs"]
mod support;
mod survey;
mod tools;
mod tools_crowd;
#[path = "../support/tools.rs"]
mod tools_support;
mod worktrees;
