//! Acquiring, with or without waiting: the one place where something comes to be held.

use super::Shared;
use super::answer::Refusal;
use super::daemon::Waited;
use super::held::{LEASES_MAX, Lease};
use super::keeper;
use agentd_protocol::Method;
use agentd_protocol::limits::WAIT_SECS_MAX;
use rmcp::model::{ProgressNotificationParam, ProgressToken, RequestId};
use rmcp::{Peer, RoleServer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Between two words about a wait that goes on.
const PROGRESS_PERIOD: Duration = Duration::from_secs(5);

/// One call of a tool.
pub(super) struct Call {
    pub(super) id: RequestId,
    pub(super) cancelled: CancellationToken,
    pub(super) peer: Peer<RoleServer>,
    /// When the client wants to be told how it goes on.
    pub(super) progress: Option<ProgressToken>,
}

/// A request that is granted something.
pub(super) struct Wanted<P> {
    pub(super) method: Method,
    pub(super) wait_secs: Option<u64>,
    /// For the person who waits: `node`, or the lock's key.
    pub(super) what: String,
    /// The request that waits for so many seconds.
    pub(super) params: P,
}

impl Shared {
    /// Acquires something, and holds it.
    pub(super) async fn acquire<P, R, F>(
        &self,
        call: &Call,
        wanted: Wanted<F>,
        lease_of: impl Fn(&R) -> Lease,
    ) -> Result<Option<R>, Refusal>
    where
        P: Serialize + Sync,
        R: DeserializeOwned,
        F: Fn(u64) -> P,
    {
        let wait_secs = wanted.wait_secs.unwrap_or(0);
        if wait_secs > WAIT_SECS_MAX {
            return Err(Refusal::arguments(format!(
                "wait_secs is {wait_secs}; at most {WAIT_SECS_MAX} are waited at once"
            )));
        }
        if self.held.is_full() {
            return Err(Refusal::new(
                "limit_exceeded",
                format!("you hold {LEASES_MAX} nodes and locks already"),
                "end or release some first",
            ));
        }
        let off = async {
            tokio::select! {
                () = call.cancelled.cancelled() => {}
                () = self.gone.cancelled() => {}
            }
        };
        let wait = Duration::from_secs(wait_secs);
        let waiting = self.daemon.wait::<P, R>(wanted.method, wait, wanted.params, off);
        let waited = if wanted.wait_secs.is_some() && call.progress.is_some() {
            tokio::select! {
                waited = waiting => waited,
                () = tell_progress(call, wait, &wanted.what) => Err(Refusal::cancelled()),
            }
        } else {
            waiting.await
        };
        match waited? {
            Waited::Granted(granted) => {
                let mut lease = lease_of(&granted);
                lease.granted_by = Some(call.id.clone());
                // In this order: whoever cancels from now on finds it among what is held.
                let is_held = self.held.add(lease.clone());
                if is_held && !call.cancelled.is_cancelled() {
                    return Ok(Some(granted));
                }
                if !is_held || self.held.over(&lease) {
                    keeper::undo(&self.daemon, &lease).await;
                }
                Err(Refusal::cancelled())
            }
            Waited::Nothing => Ok(None),
            Waited::CalledOff(granted) => {
                if let Some(granted) = granted {
                    keeper::undo(&self.daemon, &lease_of(&granted)).await;
                }
                Err(Refusal::cancelled())
            }
        }
    }
}

// Until it is dropped.
async fn tell_progress(call: &Call, wait: Duration, what: &str) {
    let began = Instant::now();
    while let Some(token) = &call.progress {
        let mut progress = ProgressNotificationParam::new(token.clone(), began.elapsed().as_secs_f64());
        progress.total = Some(wait.as_secs_f64());
        progress.message = Some(format!("waiting for {what}"));
        if call.peer.notify_progress(progress).await.is_err() {
            // The client does not read any more. The end of the wait is the end of it.
            break;
        }
        tokio::time::sleep(PROGRESS_PERIOD).await;
    }
    std::future::pending::<()>().await;
}
