//! The Model Context Protocol: plugins on one side, agents on the other, a gateway between them.
//!
//! ```text
//!   client ──lines or HTTP──▶ Connection ─▶ begin ─▶ answer ─▶ Catalog (names, rules) ─▶ Plugin ──▶ process or server
//!                                 ▲                                                        │
//!                                 └────── answers, progress, questions, changes ───────────┘
//! ```
//!
//! - [`Gateway`] starts plugins and serves them; [`GatewayOptions`] and [`PluginOptions`] say how.
//! - [`policy`], [`name`] and [`limits`] are pure decisions.
//! - [`event`] is what is told of each call; [`process::Spawn`] lets an embedder start the processes itself.
//! - [`redacted`] takes secrets out of JSON.
//! - [`lines`] reads a peer's lines, and says what is answered to those that are no messages.
//! - [`bridge`] brings a gateway's sockets to where there is no network.
//!
//! Messages are routed as raw JSON: envelopes are read, ids and names exchanged, and everything else passes as it was
//! written. The SDK's types and constants say what the protocol is; its service layer, which reads every message into a
//! type and writes it anew, loses what it does not know, and is no router.
//!
//! *Architecture Invariant:* nothing here knows of sessions, containers or the journal, and no secret is in a message:
//! what plugins say and what they are called with passes [`event::Redact`] before it is told.
//!
//! *Architecture Invariant:* an answer never waits for an event, for another client, or for another plugin.

mod answer;
mod ask;
pub mod bridge;
mod call;
mod catalog;
mod client;
mod definition;
pub mod event;
mod fetch;
mod gateway;
mod greet;
mod headers;
mod http;
pub mod limits;
pub mod lines;
mod lists;
mod live;
mod log;
mod message;
mod mirror;
pub mod name;
mod paging;
mod plugin;
pub mod policy;
pub mod process;
pub mod redacted;
mod remote;
mod revision;
mod serve;
mod sse;

pub use gateway::{Gateway, GatewayOptions, StartError, StartFault, ToolInfo};
pub use message::RpcError;
pub use plugin::{Lifecycle, PluginOptions, Source};
pub use remote::RemoteOptions;
