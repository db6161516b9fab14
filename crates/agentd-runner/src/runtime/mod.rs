//! Runtimes: the ways in which a session can be isolated.

pub mod engine;
