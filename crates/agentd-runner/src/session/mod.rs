//! Sessions: what their set-up and teardown are made of.
//!
//! Every part is synchronous, and to be called where blocking is allowed. What a part puts up, it takes down again,
//! also when it was only half there, and however often it is asked.

pub mod error;
pub mod git;
pub mod home;
pub mod materials;
mod merge;
pub mod mission;
pub mod secrets;
pub mod state;
pub mod tree;
pub mod upkeep;
pub mod workspace;
pub mod worktree;
