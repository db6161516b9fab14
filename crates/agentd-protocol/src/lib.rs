//! The vocabulary of the socket protocol `agentd-jsonl-v1`.
//!
//! These types parse the requests, make the answers and generate the JSON Schemas that `DescribeInterface`
//! shows: there is no second description of the wire format anywhere. The store speaks in them too, so that
//! a result goes from the database to the socket without being rebuilt on the way.
//!
//! *Architecture Invariant:* nothing here does input or output, looks at a clock or knows how anything is
//! stored.

pub mod envelope;
pub mod error;
mod ids;
pub mod journal;
mod json;
pub mod limits;
pub mod methods;
mod node;
pub mod requests;
pub mod results;
mod session;
mod time;

pub use error::{Reason, RpcError};
pub use ids::{EventId, InvalidId, LeaseId, NodeId, SessionId, TaskId};
pub use json::{Json, NESTING_MAX, nesting};
pub use methods::{Method, Request};
pub use node::{
    AgentWork, CommandWork, NodeAddress, NodeInfo, NodeSpec, NodeStatus, RetryPolicy, Seconds, StatusCounts,
    TaskInfo, TaskState, Work,
};
pub use results::Role;
pub use session::{
    AgentInfo, OutcomeReason, OutputStream, RuntimeCapabilities, SessionInfo, SessionOutcome, SessionPhase,
    TranscriptChunk, Trigger, TriggerKind,
};
pub use time::{Timestamp, secs_rounded_up};

/// The protocol's name, as `DescribeInterface` gives it.
pub const PROTOCOL: &str = "agentd-jsonl-v1";
