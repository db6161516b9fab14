//! The gateway between real plugin processes and real clients.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod clients;
mod failures;
mod hostile;
mod http;
mod support;
mod tools;
