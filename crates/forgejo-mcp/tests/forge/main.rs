//! The binary, driven over stdio by a client, against a forge of our own on loopback.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod fake;
mod faults;
mod mcp;
mod parts;
mod routes;
mod spec;
mod stdio;
mod work;
