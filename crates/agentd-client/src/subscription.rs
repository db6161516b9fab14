//! A connection that carries the journal.

use crate::{ClientError, Lines};
use agentd_protocol::RpcError;
use agentd_protocol::journal::JournalEntry;
use agentd_protocol::results::Subscribed;
use serde::Deserialize;

/// The journal from some entry on, as it is written.
#[derive(Debug)]
pub struct Subscription {
    lines: Lines,
    from_seq: i64,
    last_seq: i64,
}

#[derive(Deserialize)]
struct Farewell {
    error: RpcError,
}

impl Subscription {
    pub(crate) fn new(lines: Lines, subscribed: &Subscribed) -> Self {
        Self {
            lines,
            from_seq: subscribed.from_seq,
            last_seq: subscribed.last_seq,
        }
    }

    /// Where it began: the first entry has this `seq` or a larger one.
    #[must_use]
    pub fn from_seq(&self) -> i64 {
        self.from_seq
    }

    /// The newest entry that there was when it began.
    #[must_use]
    pub fn last_seq(&self) -> i64 {
        self.last_seq
    }

    /// Waits for the next entry. None when the daemon closed the connection without saying why. A dropped
    /// future loses no entry.
    ///
    /// # Errors
    /// [`ClientError::Rpc`] is how the daemon ends a subscription: with reason `slow_reader` when this program
    /// fell behind, with `shutting_down` when the daemon stops. Its `data.last_seq` is the last entry that was
    /// sent: go on with a new subscription from the one after it.
    pub async fn next(&mut self) -> Result<Option<JournalEntry>, ClientError> {
        let Some(line) = self.lines.next().await? else {
            return Ok(None);
        };
        serde_json::from_slice(line).map(Some).map_err(|error| {
            match serde_json::from_slice::<Farewell>(line) {
                Ok(farewell) => ClientError::Rpc(farewell.error),
                Err(_) => ClientError::Protocol(format!("a line of the journal is not an entry: {error}")),
            }
        })
    }
}
