//! Takes back the nodes that an earlier run held when it was killed, so that its leases need not run out first.
//!
//! A node is given back only when the process that held it is certainly gone and nothing of its command is left.

use super::super::{Context, owner, values::count};
use crate::failure::Failure;
use agentd_client::{Client, ClientError};
use agentd_protocol::requests::{ReleaseNode, TaskStatus};
use agentd_protocol::results::{Ok as Done, TaskStatusResult};
use agentd_protocol::{LeaseId, Method, NodeStatus, TaskId};
use agentd_runner::exec::{SweepFilter, sweep};
use std::time::{Duration, Instant};

/// More commands than one run has at once.
const RUNNING_MAX: u32 = 2000;
/// How long the supervisors of a killed run may take to end their commands; what takes longer ends with its lease.
const SUPERVISORS_MAX: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// Gives back what nobody works on any more.
///
/// # Errors
/// As the calls.
pub(super) async fn reclaim(context: &Context, client: &mut Client, task_id: TaskId) -> Result<(), Failure> {
    let request = TaskStatus {
        task_id,
        status: Some(NodeStatus::Running),
        limit: Some(RUNNING_MAX),
        cursor: None,
        omit_payloads: true,
    };
    let running: TaskStatusResult = client.call(Method::TaskStatus, &request).await?;
    let mut reclaimed = 0;
    for node in running.nodes {
        let (Some(lease_id), Some(holder)) = (node.lease_id, &node.lease_owner) else {
            continue;
        };
        if !owner::is_gone(holder) || !nothing_left(lease_id).await {
            continue;
        }
        let request = ReleaseNode {
            task_id,
            node_id: node.id,
            lease_id,
        };
        match client.call::<_, Done>(Method::ReleaseNode, &request).await {
            Ok(_) => reclaimed += 1,
            // The lease has ended meanwhile.
            Err(ClientError::Rpc(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if reclaimed > 0 {
        context.console.status(&format!(
            "{} that the run before held when it was killed can run again",
            count(reclaimed, "node")
        ));
    }
    Ok(())
}

// Ends what is left of a lease's command. A supervisor that still lives is ending it.
async fn nothing_left(lease_id: LeaseId) -> bool {
    let deadline = Instant::now() + SUPERVISORS_MAX;
    loop {
        let filter = SweepFilter::Lease(lease_id);
        let Ok(swept) = tokio::task::spawn_blocking(move || sweep(&filter)).await else {
            return false;
        };
        if swept.supervised == 0 {
            return swept.survivors == 0;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
