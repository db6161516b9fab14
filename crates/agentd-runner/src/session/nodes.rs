//! Nodes that are to be worked on by a session of an agent: each is leased together with the session's row.

use super::drive::Entry;
use super::manager::Inner;
use agentd_config::Agent;
use agentd_protocol::AgentWork;
use agentd_protocol::requests::AcquireNextNode;
use agentd_store::session::{AcquireSession, AcquiredSession, SessionLease};
use agentd_store::{Command, Reply, StoreError};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// How long one request waits before it is made again. Nothing depends on it.
const WAIT_SECS: u64 = 3600;

/// Takes nodes for one agent whenever it has a place, until `stop`.
pub(super) async fn dispatch(inner: Arc<Inner>, agent: Agent, stop: CancellationToken) {
    loop {
        // Told of every change from before the look on.
        let changed = inner.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if !inner.has_room(&agent.name) {
            tokio::select! {
                () = changed => continue,
                () = stop.cancelled() => return,
            }
        }
        let acquired = tokio::select! {
            acquired = acquire(&inner, &agent) => acquired,
            // The place may be taken by now. What was acquired in this very moment goes back by itself.
            () = changed => continue,
            () = stop.cancelled() => return,
        };
        match acquired {
            Ok(Some(acquired)) => begin(&inner, *acquired),
            Ok(None) => {}
            Err(StoreError::ShuttingDown) => return,
            Err(error) => {
                tracing::warn!(agent = agent.name, %error, "cannot take nodes");
                tokio::select! {
                    () = tokio::time::sleep(std::time::Duration::from_secs(5)) => {}
                    () = stop.cancelled() => return,
                }
            }
        }
    }
}

async fn acquire(inner: &Inner, agent: &Agent) -> Result<Option<Box<AcquiredSession>>, StoreError> {
    let mut capabilities = agent.capabilities.clone();
    capabilities.push(AgentWork::ANY.into());
    capabilities.push(AgentWork::capability_of(&agent.name));
    let acquire = AcquireNextNode {
        lease_owner: Some(agent.name.clone()),
        capabilities: Some(capabilities),
        work_only: true,
        lease_secs: Some(inner.options.lease_secs),
        wait_secs: Some(WAIT_SECS),
        ..AcquireNextNode::default()
    };
    let command = Command::AcquireSession(AcquireSession {
        agent: agent.name.clone(),
        acquire,
    });
    match inner.store().submit(command).await?.await? {
        Reply::AcquiredSession(acquired) => Ok(acquired),
        _ => Ok(None),
    }
}

fn begin(inner: &Arc<Inner>, acquired: AcquiredSession) {
    let AcquiredSession { session, node } = acquired;
    let lease = SessionLease {
        task_id: node.task_id,
        node_id: node.node_id,
        lease_id: node.lease_id,
    };
    inner.point("acquired");
    match inner.take_place(&session.agent) {
        Some(place) => inner.begin(session, Some(lease), Some(place), Entry::Node(Box::new(node))),
        // Another session was quicker.
        None => inner.begin(session, Some(lease), None, Entry::GiveBack),
    }
}
