//! What a driver writes down.

use super::Driver;
use agentd_protocol::journal::action;
use agentd_protocol::requests::{JournalFilter, ReadJournal};
use agentd_protocol::results::JournalPage;
use agentd_protocol::{Json, SessionId};
use agentd_store::session::{ChangeSession, SessionEvent, SessionNote};
use agentd_store::{Command, Query, Reply, Store, StoreError, ask};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two attempts to write what the store could not take.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Warnings of a session that are looked at for what was said already.
const TOLD_ENTRIES_MAX: u32 = 100;

impl Driver {
    // A change that must be written before anything follows from it.
    pub(super) async fn change(&mut self, event: SessionEvent) -> Result<(), StoreError> {
        let change = ChangeSession {
            session_id: self.info.id,
            event: Some(event),
            notes: Vec::new(),
        };
        if let Reply::Session(info) = self.submit(Command::ChangeSession(change)).await? {
            self.info = *info;
        }
        self.inner.phases.notify_waiters();
        Ok(())
    }

    pub(super) async fn submit(&self, command: Command) -> Result<Reply, StoreError> {
        self.until_stored(|| answered(self.inner.store(), command.clone()))
            .await
    }

    // A full disk is no reason to lose a session: it is tried again until it works, or agentd is stopped.
    pub(super) async fn until_stored<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut pause = Duration::from_millis(100);
        loop {
            match attempt().await {
                Err(error @ StoreError::Storage { .. }) => {
                    tracing::warn!(session = %self.info.id, %error, "will try again");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.inner.closing.cancelled() => return Err(StoreError::ShuttingDown),
                    }
                    pause = (pause * 2).min(RETRY_MAX);
                }
                answer => return answer,
            }
        }
    }

    pub(super) fn warn(&self, message: &str) {
        let payload = Json::of(&serde_json::json!({ "message": message }));
        self.record(action::SESSION_WARNING, payload);
    }

    /// With the number of the record that says so.
    pub(super) fn warn_of(&self, record: u64, message: &str) {
        let payload = Json::of(&serde_json::json!({ "message": message, "record": record }));
        self.record(action::SESSION_WARNING, payload);
    }

    pub(super) fn note_step(&self, phase: &str, step: &str, begun: Instant, error: Option<&str>) {
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.note(phase, step, Some(took), error);
        self.inner.point(&format!("{phase}.{step}"));
    }

    pub(super) fn note(&self, phase: &str, step: &str, duration_ms: Option<u64>, error: Option<&str>) {
        let mut payload = serde_json::json!({ "phase": phase, "step": step });
        if let Some(duration_ms) = duration_ms {
            payload["duration_ms"] = duration_ms.into();
        }
        if let Some(error) = error {
            payload["error"] = error.into();
        }
        self.record(action::SESSION_STEP, Json::of(&payload));
    }

    // For the journal, in order with the changes and without waiting for the disk: the next change does.
    pub(super) fn record(&self, action: &'static str, payload: Json) {
        let inner = Arc::clone(&self.inner);
        let change = ChangeSession {
            session_id: self.info.id,
            event: None,
            notes: vec![SessionNote { action, payload }],
        };
        let id = self.info.id;
        let submitted = async move { inner.store().submit(Command::ChangeSession(change)).await };
        // The queue takes it at once unless it is full, and then order matters less than going on.
        let mut submitted = Box::pin(submitted);
        let waker = std::task::Waker::noop();
        let mut context = std::task::Context::from_waker(waker);
        match std::future::Future::poll(submitted.as_mut(), &mut context) {
            std::task::Poll::Ready(Ok(_)) => {}
            std::task::Poll::Ready(Err(error)) => {
                tracing::warn!(session = %id, action, %error, "a note was not written");
            }
            std::task::Poll::Pending => {
                tokio::spawn(submitted);
            }
        }
    }
}

/// The last record of a session's supervisor of which the journal has a warning.
pub(super) async fn told(store: &dyn Store, session_id: SessionId) -> Result<u64, StoreError> {
    let request = ReadJournal {
        from_seq: None,
        last: Some(TOLD_ENTRIES_MAX),
        limit: None,
        filter: JournalFilter {
            session_id: Some(session_id),
            action_types: vec![action::SESSION_WARNING.into()],
            ..JournalFilter::default()
        },
    };
    let page: JournalPage = ask(store, Query::ReadJournal(request)).await?;
    let records = page
        .entries
        .iter()
        .filter_map(|entry| entry.payload.to_value()["record"].as_u64());
    Ok(records.max().unwrap_or(0))
}

pub(super) async fn answered(store: &dyn Store, command: Command) -> Result<Reply, StoreError> {
    store.submit(command).await?.await
}
