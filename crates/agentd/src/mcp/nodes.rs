//! Nodes: taking them, and what is done under their leases.

use super::Shared;
use super::answer::{Answer, Refusal, members};
use super::daemon::Again;
use super::held::{Lease, Thing};
use super::keeper::{beat, is_final, release_node};
use super::scope::Scope;
use super::tasks::NodeArgs;
use super::waits::{Call, Wanted};
use super::{shape, tasks};
use crate::cli::values::now_secs;
use agentd_protocol::limits::RESULT_BYTES_MAX;
use agentd_protocol::requests::{AcquireNextNode, CommitEvent, CompleteNode, FailNode};
use agentd_protocol::results::{AcquiredNode, Committed, Completed, Failed};
use agentd_protocol::{Json, Method, NodeId, TaskId};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Acquire {
    task_id: Option<TaskId>,
    capabilities: Option<Vec<String>>,
    wait_secs: Option<u64>,
    lease_secs: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Heartbeat {
    node_id: Option<NodeId>,
    lease_secs: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Event {
    node_id: Option<NodeId>,
    kind: Option<String>,
    payload: Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Complete {
    node_id: Option<NodeId>,
    result: Value,
    #[serde(default)]
    add_nodes: Vec<NodeArgs>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fail {
    node_id: Option<NodeId>,
    error: Value,
    #[serde(default)]
    permanent: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    node_id: Option<NodeId>,
}

impl Shared {
    pub(super) async fn acquire_node(&self, scope: &Scope, call: &Call, args: Acquire) -> Answer {
        let request = |wait_secs| AcquireNextNode {
            task_id: args.task_id,
            lease_owner: Some(scope.owner.clone()),
            capabilities: args.capabilities.clone(),
            work_only: false,
            wait_secs: Some(wait_secs),
            lease_secs: args.lease_secs,
        };
        let lease_of = |node: &AcquiredNode| {
            let mut lease = Lease::of_node(node, now_secs());
            if let Some(secs) = args.lease_secs {
                lease.length = Duration::from_secs(secs);
                lease.next_beat = Instant::now() + lease.length / 3;
            }
            lease
        };
        let wanted = Wanted {
            method: Method::AcquireNextNode,
            wait_secs: args.wait_secs,
            what: "a node".into(),
            params: request,
        };
        match self.acquire(call, wanted, lease_of).await? {
            Some(node) => Ok(members(json!({ "node": shape::acquired(&node) }))),
            None => Ok(members(json!({
                "node": null,
                "why": "nothing was runnable for you; task_status shows what is missing, wait_secs waits",
            }))),
        }
    }

    pub(super) async fn heartbeat_node(&self, args: Heartbeat) -> Answer {
        let (lease, ..) = self.held_node(args.node_id)?;
        let expires_at = self.under(&lease, beat(&self.daemon, &lease, args.lease_secs).await)?;
        self.held.extended(&lease, expires_at, args.lease_secs);
        Ok(members(json!({ "ok": true, "lease_expires_at": expires_at })))
    }

    pub(super) async fn note_event(&self, args: Event) -> Answer {
        let (lease, task_id, node_id) = self.held_node(args.node_id)?;
        let request = CommitEvent {
            task_id,
            node_id,
            lease_id: Some(lease.lease_id),
            action_type: args.kind,
            payload: args.payload.into(),
        };
        let asked = self.daemon.ask(Method::CommitEvent, &request, Again::No).await;
        let committed: Committed = self.under(&lease, asked)?;
        Ok(members(json!({ "event_id": committed.event_id })))
    }

    pub(super) async fn complete_node(&self, args: Complete) -> Answer {
        let (lease, task_id, node_id) = self.held_node(args.node_id)?;
        let result = Json::from(args.result);
        let bytes = result.text().len();
        if bytes > RESULT_BYTES_MAX {
            return Err(Refusal::new(
                "limit_exceeded",
                format!("the result has {bytes} bytes; at most {RESULT_BYTES_MAX} are taken"),
                "put large results into files and name them; you still hold the node",
            ));
        }
        // The same node and lease make the same ids: the request may have to be sent twice.
        let key = lease.lease_id.to_string();
        let request = CompleteNode {
            task_id,
            node_id,
            lease_id: lease.lease_id,
            result_payload: result,
            add_nodes: tasks::specs(args.add_nodes, &key, self.reach())?,
            idempotency_key: Some(key),
        };
        let asked = self.daemon.ask(Method::CompleteNode, &request, Again::Yes);
        let completed: Completed = self.ending(&lease, asked).await?;
        let mut shown = json!({ "completed": node_id, "event_id": completed.event_id });
        if !completed.node_ids.is_empty() {
            shown["added"] = shape::ids(&completed.node_ids);
        }
        if lease.is_own {
            shown["next"] = "your session's node is completed; finish what you are doing and exit".into();
        }
        Ok(members(shown))
    }

    pub(super) async fn fail_node(&self, args: Fail) -> Answer {
        let (lease, task_id, node_id) = self.held_node(args.node_id)?;
        let request = FailNode {
            task_id,
            node_id,
            lease_id: lease.lease_id,
            error_payload: args.error.into(),
            permanent: args.permanent,
            idempotency_key: Some(lease.lease_id.to_string()),
        };
        let asked = self.daemon.ask(Method::FailNode, &request, Again::Yes);
        let failed: Failed = self.ending(&lease, asked).await?;
        let mut shown = json!({ "failed": node_id, "event_id": failed.event_id });
        if let Some(at) = failed.retry_at {
            shown["retry_at"] = json!(at);
        }
        if lease.is_own {
            shown["next"] = "your session's node has failed; finish what you are doing and exit".into();
        }
        Ok(members(shown))
    }

    pub(super) async fn give_node_back(&self, args: Release) -> Answer {
        let (lease, task_id, node_id) = self.held_node(args.node_id)?;
        if lease.is_own {
            return Err(Refusal::new(
                "own_node",
                "your session works on this node; it cannot go on without it",
                "complete it or fail it",
            ));
        }
        let asked = release_node(&self.daemon, task_id, node_id, lease.lease_id);
        self.ending(&lease, asked).await?;
        Ok(members(json!({ "released": node_id })))
    }

    // The lease that is meant.
    fn held_node(&self, node_id: Option<NodeId>) -> Result<(Lease, TaskId, NodeId), Refusal> {
        let thing = match node_id {
            Some(id) => Thing::Node(id),
            None => self.default_node()?,
        };
        match (self.held.named(&thing), &thing) {
            (
                Some(
                    lease @ Lease {
                        task_id: Some(task_id),
                        ..
                    },
                ),
                Thing::Node(node_id),
            ) => Ok((lease, task_id, *node_id)),
            _ => Err(Refusal::new(
                "not_held",
                format!("you do not hold {thing}, or do not hold it any more"),
                "whoami lists what you hold; only leases acquired by node_acquire in this connection are yours",
            )),
        }
    }

    fn default_node(&self) -> Result<Thing, Refusal> {
        let leases = self.held.all();
        let nodes = || {
            leases
                .iter()
                .filter(|lease| matches!(lease.thing, Thing::Node(_)))
        };
        let chosen = nodes().find(|lease| lease.is_own).or_else(|| nodes().next());
        let Some(chosen) = chosen else {
            return Err(Refusal::new(
                "not_held",
                "you hold no node",
                "take one with node_acquire",
            ));
        };
        if !chosen.is_own && nodes().count() > 1 {
            let list: Vec<String> = nodes().take(16).map(|lease| lease.thing.to_string()).collect();
            return Err(Refusal::arguments(format!(
                "you hold several nodes: say which ({})",
                list.join(", ")
            )));
        }
        Ok(chosen.thing.clone())
    }

    /// What ends a lease, if it works.
    pub(super) async fn ending<T>(
        &self,
        lease: &Lease,
        asked: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        self.held.set_ending(lease, true);
        let outcome = asked.await;
        if outcome.as_ref().err().is_none_or(is_final) {
            self.held.over(lease);
        } else {
            self.held.set_ending(lease, false);
        }
        outcome
    }

    // What the daemon says of a lease that is over, it says for ever.
    fn under<T>(&self, lease: &Lease, asked: Result<T, Refusal>) -> Result<T, Refusal> {
        if let Err(refusal) = &asked
            && is_final(refusal)
        {
            self.held.over(lease);
        }
        asked
    }
}
