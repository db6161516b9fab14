//! The gateway between real plugin processes and real clients.

mod clients;
mod failures;
mod hostile;
mod http;
mod support;
mod tools;
