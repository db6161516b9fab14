//! Which tools a session's agent has called: from what its supervisor writes into the journal, each once.

use super::blocking;
use agentd_protocol::journal::action;
use agentd_protocol::requests::{JournalFilter, ReadJournal};
use agentd_protocol::results::JournalPage;
use agentd_protocol::{Json, SessionId};
use agentd_store::session::SessionNote;
use agentd_store::{Query, Store, StoreError, ask};
use agentd_supervisor::calls::{self, Call, Reader};
use agentd_supervisor::dir::SessionDir;
use std::future::pending;
use std::io;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Notes of one change.
pub(super) const NOTES_MAX: usize = 50;
/// How long calls are gathered before they are written down.
const GATHERED_FOR: Duration = Duration::from_millis(200);

/// How far they are written down.
#[derive(Default)]
pub(super) struct ToolCalls {
    reader: Option<Reader>,
    due: Option<Instant>,
}

impl ToolCalls {
    /// There are some.
    pub(super) fn written(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + GATHERED_FOR);
    }

    /// Waits until it is time to write them down.
    pub(super) async fn due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => pending().await,
        }
    }

    /// The next of them, as notes; what was given before is in the journal. An error in an error: they cannot be read.
    ///
    /// # Errors
    /// The store's failure.
    pub(super) async fn next(
        &mut self,
        store: &dyn Store,
        session: SessionId,
        dir: &SessionDir,
    ) -> Result<io::Result<Vec<SessionNote>>, StoreError> {
        self.due = None;
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None if !calls::are_there(dir) => return Ok(Ok(Vec::new())),
            None => Reader::new(dir, last_written(store, session).await?),
        };
        let (reader, calls) = blocking(move || {
            let calls = reader.take();
            (reader, calls)
        })
        .await;
        self.reader = Some(reader);
        Ok(calls.map(|calls| calls.into_iter().map(note).collect()))
    }
}

fn note(call: Call) -> SessionNote {
    SessionNote {
        action: action::SESSION_TOOL_CALL,
        payload: Json::of(&call),
    }
}

// The number of the last call that is in the journal: an earlier daemon may have written some.
async fn last_written(store: &dyn Store, session: SessionId) -> Result<u64, StoreError> {
    let read = ReadJournal {
        from_seq: None,
        last: Some(1),
        limit: None,
        filter: JournalFilter {
            session_id: Some(session),
            action_types: vec![action::SESSION_TOOL_CALL.into()],
            ..JournalFilter::default()
        },
    };
    let page: JournalPage = ask(store, Query::ReadJournal(read)).await?;
    #[derive(serde::Deserialize)]
    struct Numbered {
        seq: u64,
    }
    let last = page.entries.last();
    let number = last.and_then(|entry| serde_json::from_str::<Numbered>(entry.payload.text()).ok());
    Ok(number.map_or(0, |call| call.seq))
}
