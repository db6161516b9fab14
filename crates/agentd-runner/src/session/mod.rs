//! Sessions: executions of agents, from trigger to teardown.
//!
//! ```text
//!   request, ready node ─▶ row (QUEUED) ─▶ place ─▶ setup ─▶ supervisor ─▶ follow ─▶ teardown ─▶ ENDED
//!                           agentd-store    slots    setup    agentd-       drive     teardown
//!                                                             supervisor
//! ```
//!
//! [`Sessions`] is the whole of it for a daemon. `drive` takes one session through its phases; `recovery` says how a
//! session is gone on with that an earlier daemon left open; `outcome` what it came to. What set-up and teardown are made
//! of is in `state`, `secrets`, `home`, `mission`, `materials`, `workspace`: each synchronous, to be called where blocking
//! is allowed, and what one of them puts up, it takes down again, also when it was only half there.
//!
//! # Who is killed, and what follows
//!
//! | killed with KILL | at once | later |
//! |---|---|---|
//! | agentd | nothing: supervisors, agents and their output go on | the next agentd extends the leases of its sessions as it opens the database, before anybody can acquire; it reads what the supervisors wrote, and goes on |
//! | agentd during set-up | nothing runs yet | what was built is removed, and the session waits in the queue again; a node is given back |
//! | a supervisor | a process dies with it, a container goes on without its output | agentd notices that its lock is free, removes what is left; the outcome is `lost` |
//! | the agent | the supervisor records how | its outcome follows |
//! | the machine | everything | the same as for a supervisor |
//!
//! *Architecture Invariant:* an agent that may have begun is never begun again. STARTING is durable before its supervisor
//! is started, and the supervisor's first record is on disk before the agent is.

mod agree;
mod commands;
mod drive;
pub mod error;
pub mod git;
mod gitconfig;
pub mod home;
pub mod manager;
pub mod materials;
mod merge;
pub mod mission;
mod nodes;
mod outcome;
pub mod own;
pub mod plugins;
pub mod points;
mod recovery;
mod requests;
mod retention;
pub mod secrets;
mod setup;
mod slots;
pub mod state;
mod teardown;
mod toolcalls;
pub mod tools;
mod transcripts;
pub mod tree;
pub mod upkeep;
pub mod workspace;
pub mod worktree;

pub use manager::{Reread, Sessions, SessionsOptions, SupervisorProgram};

use agentd_store::StoreError;

/// Why something that was asked about sessions was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// No agent of that name is declared.
    #[error("no agent {name:?} is declared in {config}")]
    AgentNotFound {
        /// The name.
        name: String,
        /// Those that are declared.
        declared: Vec<String>,
        /// Where agents are declared.
        config: String,
    },
    /// The runtime does not declare it.
    #[error("the runtime {runtime:?} of agent {agent:?} cannot do that: it declares no {capability:?}")]
    Unsupported {
        /// The agent.
        agent: String,
        /// The runtime.
        runtime: String,
        /// What it would have to declare.
        capability: &'static str,
    },
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// Files cannot be read or written.
    #[error("{0}")]
    Files(String),
    /// The store refused, or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SessionError {
    fn unsupported(agent: &str, runtime: &str, capability: &'static str) -> Self {
        Self::Unsupported {
            agent: agent.to_owned(),
            runtime: runtime.to_owned(),
            capability,
        }
    }

    fn files(error: impl std::fmt::Display) -> Self {
        Self::Files(error.to_string())
    }
}

impl From<error::StepError> for SessionError {
    fn from(error: error::StepError) -> Self {
        Self::files(error)
    }
}

/// Runs something that blocks where that is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and this with it.
            Err(_) => std::future::pending().await,
        },
    }
}
