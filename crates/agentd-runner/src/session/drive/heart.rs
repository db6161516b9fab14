//! Extends the lease of the node that a session works on.

use super::written::answered;
use crate::session::agree;
use crate::session::manager::Inner;
use agentd_protocol::SessionId;
use agentd_protocol::requests::HeartbeatNode;
use agentd_store::session::SessionLease;
use agentd_store::{Command, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Extends a lease for as long as it lives.
pub(super) struct Heart {
    stop: CancellationToken,
}

impl Heart {
    pub(super) fn begin(inner: Arc<Inner>, session: SessionId, lease: SessionLease) -> Self {
        let stop = inner.closing.child_token();
        let stopped = stop.clone();
        tokio::spawn(async move {
            // Twice missed is still in time.
            let period = Duration::from_millis(inner.options.lease_secs * 1000 / 3);
            loop {
                tokio::select! {
                    () = tokio::time::sleep(period) => {}
                    () = stopped.cancelled() => return,
                }
                let beat = Command::HeartbeatNode(HeartbeatNode {
                    task_id: lease.task_id,
                    node_id: lease.node_id,
                    lease_id: lease.lease_id,
                    lease_secs: Some(inner.options.lease_secs),
                });
                match answered(inner.store(), beat).await {
                    Ok(_) | Err(StoreError::Storage { .. }) => {}
                    Err(StoreError::ShuttingDown) => return,
                    // The agent has ended its node and finishes; or its task was cancelled; or it was suspended for so long
                    // that somebody else has the node.
                    Err(error) => {
                        match agree::node_end(&inner, session, &lease).await {
                            Ok(Some(_)) | Err(StoreError::ShuttingDown) => return,
                            Err(StoreError::Storage { .. }) => continue,
                            Ok(None) | Err(_) => {}
                        }
                        inner.request_stop(session, format!("its node is no longer its own: {error}"), None);
                        return;
                    }
                }
            }
        });
        Self { stop }
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
