//! Time and randomness, as values that are passed in.

use agentd_protocol::{EventId, LeaseId, NodeId, SessionId, TaskId};
use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Two clocks that a machine has, and one way to wait.
///
/// Leases are measured on a clock that nobody can set: when the wall clock is put back an hour, a lease of
/// five minutes still ends after five minutes, and when it jumps ahead, no lease is lost. What people read
/// (`created_at`, the journal's `timestamp`) comes from the wall clock.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Milliseconds on the lease clock: near the Unix epoch's when the clock was made, and from then on never
    /// back and never in jumps.
    fn lease_ms(&self) -> i64;

    /// Milliseconds since the Unix epoch, as the machine's wall clock has it.
    fn wall_ms(&self) -> i64;

    /// How long to sleep until the lease clock shows `deadline_ms`.
    fn until(&self, deadline_ms: i64) -> Duration {
        Duration::from_millis(u64::try_from(deadline_ms.saturating_sub(self.lease_ms())).unwrap_or(0))
    }
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    began: Instant,
    began_wall_ms: i64,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            began_wall_ms: wall_ms(),
        }
    }
}

impl Clock for SystemClock {
    fn lease_ms(&self) -> i64 {
        self.began_wall_ms
            .saturating_add(i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX))
    }

    fn wall_ms(&self) -> i64 {
        wall_ms()
    }
}

fn wall_ms() -> i64 {
    // A clock before 1970 shows 1970: nothing here can be wrong by that.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Where new ids come from.
pub trait Ids: Debug + Send + Sync + 'static {
    /// An id whose text grows with time, so that an index over such ids grows at its end only.
    fn sequential(&self) -> Uuid;
    /// An id that nobody can guess.
    fn random(&self) -> Uuid;

    /// A new task's id.
    fn task(&self) -> TaskId {
        TaskId(self.sequential())
    }
    /// A new node's id.
    fn node(&self) -> NodeId {
        NodeId(self.sequential())
    }
    /// A new session's id.
    fn session(&self) -> SessionId {
        SessionId(self.sequential())
    }
    /// A new journal entry's id.
    fn event(&self) -> EventId {
        EventId(self.sequential())
    }
    /// A new lease's id.
    fn lease(&self) -> LeaseId {
        LeaseId(self.random())
    }
}

/// UUIDs of version 7 and version 4.
#[derive(Debug, Default)]
pub struct SystemIds;

impl Ids for SystemIds {
    fn sequential(&self) -> Uuid {
        Uuid::now_v7()
    }

    fn random(&self) -> Uuid {
        Uuid::new_v4()
    }
}
