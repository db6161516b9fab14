//! agentd's front door: JSON Lines and HTTP on a Unix socket.
//!
//! # The life of a connection
//!
//! ```text
//! accept ─▶ who? ─▶ a slot? ─▶ first bytes ─┬─ "GET " … ─────▶ HTTP (hyper)
//!            │         │                    │
//!            │         └ no: told, closed   └─ anything else ─▶ JSON Lines
//!            └ SO_PEERCRED: observer,                             │
//!              worker or operator                                 ▼
//!   ┌──────────────────────────── one task, one loop ─────────────────────────────────┐
//!   │ input ─ line ─ parse ─ allowed? ─┬─ a change ─▶ Store::submit ─▶ in flight      │
//!   │   ▲                              │               (up to 128, not waited for)    │
//!   │   │                              └─ a question ─▶ held until nothing is in      │
//!   │   │                                               flight, then Store::query     │
//!   │ socket ◀─ outbox ◀─ answers, in the order of their requests ◀───────────────────│
//!   └─────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! **Coming in.** The kernel says who connected ([`RolePolicy`]); it is asked once. There is a bound on
//! connections, and one process may have three quarters of them. Whoever is above it is told so (`busy`) and
//! closed. Without file descriptors the accept loop neither spins nor ends: it tells newcomers with a
//! descriptor kept for that, and tries again when one of its connections ends.
//!
//! **Requests.** A connection's task parses what has arrived and submits changes to the store one after the
//! other, without waiting for their answers: the store puts whatever waits into one commit, and a client that
//! sends many requests at once pays for few. A question sees the changes before it, so it waits until they
//! are answered; so does everything behind an acquire that may wait, or a command that works for long.
//! Answers go out in the order of their requests, as many in one write as there are.
//!
//! **Bounds.** A line has at most 1 MiB, and an unfinished one is all that a slow sender costs. A client that
//! does not read has at most 256 KiB of answers in its outbox, or one that is larger by itself, before no more
//! of its requests are taken; large ones have a budget of their own, of which one process may have half. A
//! client that takes nothing for 30 seconds is disconnected. While a connection is idle it has no buffers: they
//! are lent by the thread that runs it (module `buffers`).
//!
//! **Leaving.** A client that closes its half is answered to the end. One that is gone altogether, while it
//! waits, takes its waiting acquires with it: their tickets are dropped, and the store takes back what they
//! would have got. What it asked for besides is done. A lease or lock whose answer could not be sent is given
//! back. A client that breaks the framing is answered, and what it still sends is read for a moment and thrown
//! away, so that it comes to read the answer.
//!
//! **Sessions.** What is asked about them goes to whoever runs them ([`Sessions`]), in the order of the requests and
//! one at a time, as questions do. A transcript that waits for output ends with its client, and with the server.
//!
//! **Subscriptions.** `SubscribeJournal` takes the connection over: one entry a line, read from the store a page
//! at a time and only when the last page was sent, woken by the store's head. A reader that blocks is told its
//! last entry and closed; it can go on from there.
//!
//! **The end.** [`Server::serve`] tells in which order it stops.
//!
//! *Architecture Invariant:* nothing here knows how anything is stored, or decides anything about tasks, nodes
//! or locks; and no request is answered here with a result that the store did not give.

mod buffers;
mod connection;
mod dispatch;
mod error;
mod http;
mod input;
mod linger;
mod options;
mod outbox;
mod roles;
mod server;
mod sessions;
mod shared;
mod slots;
mod sniff;
mod socket;
mod subscription;

pub use error::ServerError;
pub use options::{ServerOptions, Timeouts};
pub use roles::RolePolicy;
pub use server::Server;
pub use sessions::{Sessions, SessionsError, SessionsResult};
pub use socket::Claim;
