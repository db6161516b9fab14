//! Heartbeats: a model that thinks cannot send them in time, so this server does, for what was acquired through it.

use super::answer::Refusal;
use super::daemon::{Again, Daemon};
use super::held::{Held, Lease, Thing};
use agentd_protocol::requests::{
    CommitEvent, FailNode, HeartbeatNode, HeartbeatResourceLock, ReleaseNode, ReleaseResourceLock,
};
use agentd_protocol::results::{Committed, Extended, Failed, Ok as Done};
use agentd_protocol::{Json, LeaseId, Method, NodeId, TaskId};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::time::{sleep_until, timeout};

/// What the journal calls the end of an agent that held a node.
pub(super) const ENDED_EVENT: &str = "MCP_SESSION_ENDED";
/// Between two attempts to extend a lease while no daemon answers.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long everything that is held may take to be given back.
const GIVE_BACK_MAX: Duration = Duration::from_secs(5);

/// Extends what is held, for ever.
pub(super) async fn keep(daemon: &Daemon, held: &Held, silence_max: Duration) {
    loop {
        let changed = held.changed.notified();
        let (due, next) = held.due(Instant::now());
        for lease in &due {
            if held.silent_for(silence_max) {
                let why = format!(
                    "you called no tool for {}, so its heartbeats were ended",
                    crate::cli::values::shown_duration(
                        u64::try_from(silence_max.as_millis()).unwrap_or(u64::MAX)
                    )
                );
                held.lost(lease, &why);
                continue;
            }
            beat_or_lose(daemon, held, lease).await;
        }
        if !due.is_empty() {
            continue;
        }
        tokio::select! {
            () = changed => {}
            () = async {
                match next {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            } => {}
        }
    }
}

/// Asks the daemon of everything that is held whether it still is.
pub(super) async fn look(daemon: &Daemon, held: &Held) {
    for lease in held.all() {
        beat_or_lose(daemon, held, &lease).await;
    }
}

async fn beat_or_lose(daemon: &Daemon, held: &Held, lease: &Lease) {
    match beat(daemon, lease, None).await {
        Ok(expires_at) => held.extended(lease, expires_at, None),
        Err(refusal) if is_final(&refusal) => held.lost(lease, &refusal.message),
        // The daemon is gone, busy, or its disk is full. The lease may live on: it is for the daemon to say.
        Err(_) => held.postpone(lease, (lease.length / 10).min(PAUSE_MAX)),
    }
}

/// True when the daemon has said that the lease is over.
pub(super) fn is_final(refusal: &Refusal) -> bool {
    matches!(
        refusal.reason.as_str(),
        "stale_lease"
            | "stale_lock"
            | "cancelled"
            | "wrong_status"
            | "wrong_state"
            | "task_not_found"
            | "task_pruned"
            | "node_not_found"
    )
}

/// Extends one lease. Gives its new end in Unix seconds.
pub(super) async fn beat(daemon: &Daemon, lease: &Lease, secs: Option<u64>) -> Result<i64, Refusal> {
    let extended: Extended = match (&lease.thing, lease.task_id) {
        (Thing::Node(node_id), Some(task_id)) => {
            let request = HeartbeatNode {
                task_id,
                node_id: *node_id,
                lease_id: lease.lease_id,
                lease_secs: secs,
            };
            daemon.ask(Method::HeartbeatNode, &request, Again::Yes).await?
        }
        (Thing::Lock(key), _) => {
            let request = HeartbeatResourceLock {
                resource_key: key.clone(),
                lease_id: lease.lease_id,
                ttl_secs: secs,
            };
            daemon
                .ask(Method::HeartbeatResourceLock, &request, Again::Yes)
                .await?
        }
        (Thing::Node(_), None) => return Ok(lease.expires_at),
    };
    Ok(extended.lease_expires_at)
}

/// Gives a node back undone: the attempt does not count.
pub(super) async fn release_node(
    daemon: &Daemon,
    task_id: TaskId,
    node_id: NodeId,
    lease_id: LeaseId,
) -> Result<(), Refusal> {
    let request = ReleaseNode {
        task_id,
        node_id,
        lease_id,
    };
    daemon
        .ask::<_, Done>(Method::ReleaseNode, &request, Again::Yes)
        .await
        .map(drop)
}

pub(super) async fn release_lock(daemon: &Daemon, key: &str, lease_id: LeaseId) -> Result<(), Refusal> {
    let request = ReleaseResourceLock {
        resource_key: key.to_owned(),
        lease_id,
    };
    daemon
        .ask::<_, Done>(Method::ReleaseResourceLock, &request, Again::Yes)
        .await
        .map(drop)
}

/// Undoes a grant that the agent never learnt of.
pub(super) async fn undo(daemon: &Daemon, lease: &Lease) {
    // What cannot be given back ends by itself.
    let _ = match (&lease.thing, lease.task_id) {
        (Thing::Node(node_id), Some(task_id)) => {
            release_node(daemon, task_id, *node_id, lease.lease_id).await
        }
        (Thing::Lock(key), _) => release_lock(daemon, key, lease.lease_id).await,
        (Thing::Node(_), None) => Ok(()),
    };
}

/// Does to all of them what their expiry would do, only at once: a node whose retry policy counts attempts has had
/// one, any other is runnable again, and locks are free.
pub(super) async fn give_back(daemon: &Daemon, leases: Vec<Lease>, owner: &str) {
    let all = async {
        // Whoever waits for a lock waits for a person or a program; whoever waits for a node waits for work.
        let (locks, nodes): (Vec<_>, Vec<_>) = leases
            .iter()
            .partition(|lease| matches!(lease.thing, Thing::Lock(_)));
        for lock in locks {
            undo(daemon, lock).await;
        }
        for node in nodes {
            give_node_back(daemon, node, owner).await;
        }
    };
    // What cannot be given back ends by itself.
    let _ = timeout(GIVE_BACK_MAX, all).await;
}

async fn give_node_back(daemon: &Daemon, lease: &Lease, owner: &str) {
    let (Thing::Node(node_id), Some(task_id)) = (&lease.thing, lease.task_id) else {
        return;
    };
    let (node_id, lease_id) = (*node_id, lease.lease_id);
    let payload = Json::of(&json!({
        "reason": "mcp_session_ended",
        "message": format!("the MCP session of {owner} ended while it held the node"),
    }));
    if lease.counts_attempts {
        let request = FailNode {
            task_id,
            node_id,
            lease_id,
            error_payload: payload,
            permanent: false,
            idempotency_key: Some(lease_id.to_string()),
        };
        let _ = daemon
            .ask::<_, Failed>(Method::FailNode, &request, Again::Yes)
            .await;
        return;
    }
    let event = CommitEvent {
        task_id,
        node_id,
        lease_id: Some(lease_id),
        action_type: Some(ENDED_EVENT.into()),
        payload,
    };
    let _ = daemon
        .ask::<_, Committed>(Method::CommitEvent, &event, Again::No)
        .await;
    let _ = release_node(daemon, task_id, node_id, lease_id).await;
}
