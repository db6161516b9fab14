//! What the daemon does with input and clients that mean it no good, or do not know better: the real binary over its
//! real socket. One crate, so that it is linked once; a module per subject.
//!
//! A clock that is set back is not here: the store's clocks are injected, and its conformance suite covers that.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod contract;
mod crowd;
mod ids;
mod lines;
mod parameters;
mod raw;
mod secrets;
mod seeds;
mod shapes;
mod storm;
