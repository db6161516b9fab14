//! All that is known here of MCP.

pub mod bridge;
mod call;
mod catalog;
mod client;
pub mod event;
mod gateway;
mod headers;
mod http;
pub mod limits;
mod lines;
mod live;
mod message;
pub mod name;
mod paging;
mod plugin;
pub mod policy;
pub mod process;
mod remote;
mod revision;
mod serve;

pub use gateway::{Gateway, GatewayOptions, StartError, ToolInfo};
pub use message::RpcError;
pub use plugin::{Lifecycle, PluginOptions, Source};
pub use remote::RemoteOptions;
