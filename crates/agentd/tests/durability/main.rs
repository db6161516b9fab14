//! What must be there after anything has been killed, cut, or refused by the disk. The real binary, from the outside,
//! against a record of everything that was acknowledged.
//!
//! `AGENTD_TEST_ROUNDS=N` makes every test here go N times as far; `AGENTD_TEST_SEED=N` repeats a run's choices (which
//! are then the same, though the processes' timing is not).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "../support/mod.rs"]
mod support;

mod chance;
mod disk;
mod kills;
mod load;
mod power;
mod record;
mod runs;
mod upkeep;
mod wire;
