//! One lease: extended while its command runs, and given up before anybody else could have the node.
//!
//! ```text
//!   sent         heartbeat sent                        trusted until      expires for the daemon
//!    │───────────────│──────────────────────────────────────│──────margin──────│
//!    └ lease / 3 ────┘                                       └ the command is dead by here
//! ```
//!
//! Time is the monotonic clock, and counted from when a request was *sent*: the daemon cannot have granted
//! the lease earlier than that, so it cannot expire earlier than this side believes.

use super::pool::{Backoff, Pool, is_transient};
use crate::exec::Trust;
use agentd_client::ClientError;
use agentd_protocol::requests::HeartbeatNode;
use agentd_protocol::results::{AcquiredNode, Extended};
use agentd_protocol::{Method, Reason, RpcError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Why a lease is over.
#[derive(Debug)]
pub(crate) enum Loss {
    /// The task was cancelled: nobody else will get the node.
    Cancelled(String),
    /// The daemon says that the lease is not ours any more.
    Refused(String),
    /// The daemon could not be reached in time.
    Expired,
}

impl Loss {
    fn of(refusal: RpcError) -> Self {
        match refusal.reason() {
            Some(Reason::Cancelled) => Self::Cancelled(refusal.message),
            _ => Self::Refused(refusal.message),
        }
    }

    pub(crate) fn message(self) -> String {
        match self {
            Self::Cancelled(message) | Self::Refused(message) => message,
            Self::Expired => "agentd could not be reached for as long as the lease lasted".into(),
        }
    }
}

/// A lease of a node.
#[derive(Debug)]
pub(crate) struct Lease {
    heartbeat: HeartbeatNode,
    lasts: Duration,
    /// Until when the command may run; none before the first time is known.
    trust: watch::Sender<Trust>,
    next_beat: Instant,
}

impl Lease {
    /// A lease that was asked for at `sent`.
    pub(crate) fn new(node: &AcquiredNode, lease_secs: u64, sent: Instant) -> Self {
        let heartbeat = HeartbeatNode {
            task_id: node.task_id,
            node_id: node.node_id,
            lease_id: node.lease_id,
            lease_secs: Some(lease_secs),
        };
        let lasts = Duration::from_secs(lease_secs);
        let mut lease = Self {
            heartbeat,
            lasts,
            trust: watch::Sender::new(None),
            next_beat: sent,
        };
        // An acquire that waited was granted some time after it was sent: only a heartbeat can tell how long
        // the lease lasts.
        if sent.elapsed() < lasts / 10 {
            lease.extended(sent);
        }
        lease
    }

    /// To be told how long the command may run.
    pub(crate) fn trust(&self) -> watch::Receiver<Trust> {
        self.trust.subscribe()
    }

    fn extended(&mut self, sent: Instant) {
        self.trust.send_replace(Some(sent + self.lasts * 4 / 5));
        self.next_beat = sent + self.lasts / 3;
    }

    /// Finds out how long the lease lasts, if that is not known yet.
    pub(crate) async fn establish(&mut self, pool: &Pool) -> Result<(), Loss> {
        if self.trust.borrow().is_some() {
            return Ok(());
        }
        let enough = tokio::time::sleep(self.lasts);
        tokio::pin!(enough);
        let mut backoff = Backoff::reconnect();
        loop {
            let sent = Instant::now();
            let call = pool.call::<_, Extended>(Method::HeartbeatNode, &self.heartbeat);
            let answer = tokio::select! {
                biased;
                answer = call => answer,
                () = &mut enough => return Err(Loss::Expired),
            };
            match answer {
                Ok(_) => {
                    self.extended(sent);
                    return Ok(());
                }
                Err(ClientError::Rpc(refusal)) if !is_transient(&ClientError::Rpc(refusal.clone())) => {
                    return Err(Loss::of(refusal));
                }
                Err(_) => backoff.pause().await,
            }
        }
    }

    /// Extends the lease for as long as it can be, and tells why it cannot be any longer.
    pub(crate) async fn keep(&mut self, pool: &Pool) -> Loss {
        loop {
            tokio::time::sleep_until(self.next_beat.into()).await;
            let trusted_until = self.trust.borrow().unwrap_or(self.next_beat);
            let mut backoff = Backoff::reconnect();
            let beats = async {
                loop {
                    let sent = Instant::now();
                    match pool
                        .call::<_, Extended>(Method::HeartbeatNode, &self.heartbeat)
                        .await
                    {
                        Ok(_) => return Ok(sent),
                        Err(ClientError::Rpc(refusal))
                            if !is_transient(&ClientError::Rpc(refusal.clone())) =>
                        {
                            return Err(Loss::of(refusal));
                        }
                        Err(_) => backoff.pause().await,
                    }
                }
            };
            match tokio::time::timeout_at(trusted_until.into(), beats).await {
                Ok(Ok(sent)) => self.extended(sent),
                Ok(Err(loss)) => return loss,
                Err(_) => return Loss::Expired,
            }
        }
    }
}
