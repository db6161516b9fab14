//! How agentd runs things: plans, commands, and the worker that runs the commands of nodes under lease.
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
//! *Architecture Invariant:* this crate opens no database and knows no SQL; all that it knows of a task came
//! over the socket, from a daemon in this process or in another.

pub mod exec;
pub mod inside;
pub mod plan;
pub mod runtime;
pub mod session;
pub mod worker;
