//! Sessions of the real binary with real containers: what holds whatever dies, fails or is hostile.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod faults_agents;
mod faults_engine;
mod isolation;
#[path = "../support/podman.rs"]
mod podman;
mod secrets;
mod site;
mod smoke;
#[path = "../support/mod.rs"]
mod support;
