//! How agentd runs things: sessions of agents, and plans of commands.
//!
//! - [`session`] is one execution of an agent, from trigger to teardown. [`session::Sessions`] runs them, in the daemon.
//! - [`runtime`] is how they are isolated: an interface, and Podman and plain processes behind it.
//! - [`inside`] is what agentd puts into a container.
//!
//! What must go on while the daemon is not there is another crate's: `agentd-supervisor`.
//!
//! # Plans
//!
//! ```text
//!    plan.toml ──▶ plan ──RegisterTask──▶ daemon ◀──leases, heartbeats, results──┐
//!                                                                                │
//!                 worker (this crate, in `agentd task run` or `agentd worker`) ──┘
//!                   │ socket pair          │ socket pair
//!                   ▼                      ▼
//!                 supervisor             supervisor          `agentd __supervise`, one for each command
//!                   │ pipes                │ pipes
//!                   ▼                      ▼
//!                 command                command             a session of its own each
//!                   └─ whatever it starts, wherever that ends up
//! ```
//!
//! - [`plan`] reads plan files and turns them into the requests that register a task. It starts nothing.
//! - [`exec`] runs one command so that nothing of it outlives its purpose. It knows of no tasks, only of marks
//!   in environments.
//! - [`worker`] holds leases and keeps one promise above all: no command of ours runs when somebody else may
//!   have been given its node.
//!
//! # Who is killed, and what is left
//!
//! | killed with KILL | at once | later |
//! |---|---|---|
//! | the worker | its supervisors read the end of their sockets, kill their trees and exit | the leases run out, the nodes run again |
//! | a supervisor | its command dies; the worker kills what else carries the supervisor's mark | the attempt is reported as failed, reason `lost` |
//! | worker and supervisors | the commands die | before a second attempt, or when the task is run again, a sweep kills what else they left |
//! | the daemon | nothing | the worker connects again; a command whose lease cannot be extended in time is killed |
//! | the machine | everything | leases and results are in the daemon's database |
//!
//! *Architecture Invariant:* [`plan`], [`worker`] and [`exec`] know no store; all that they know of a task came over the
//! socket, from a daemon in this process or in another. [`session`] asks the daemon's store, because a session's row and
//! the lease of its node change in one transaction.

pub mod exec;
pub mod inside;
pub mod plan;
pub mod runtime;
pub mod session;
pub mod worker;
