//! What the daemon answers, as an agent is shown it: without what is empty, and without what is too large to be read by a
//! model at once. Nothing is left out without a word: `omitted_bytes` says how much, and `task_status` reads it piece by
//! piece.

use super::answer::{Members, members, shorten};
use agentd_protocol::results::{AcquiredNode, ResourceLock, TaskSummary};
use agentd_protocol::{Json, NodeInfo, NodeStatus};
use serde::Serialize;
use serde_json::{Value, json};

/// One payload that is shown whole, in bytes.
const PAYLOAD_BYTES_MAX: usize = 16 * 1024;
/// All results of dependencies that are shown with a node, in bytes.
const INPUTS_BYTES_MAX: usize = 24 * 1024;
/// Events that are shown with a node, the newest ones, and the size of one, in bytes.
const EVENTS_MAX: usize = 10;
const EVENT_BYTES_MAX: usize = 1024;
/// Entries of a list inside of something: dependencies, capabilities.
const ENTRIES_MAX: usize = 16;
/// A goal in a list, in bytes.
const GOAL_BYTES_MAX: usize = 2 * 1024;
/// A piece of a large value, in bytes.
const PIECE_BYTES_MAX: usize = 24 * 1024;

/// A payload, or how large it is.
pub(super) fn payload(json: &Json, bytes_max: usize) -> Value {
    match json.text().len() {
        bytes if bytes > bytes_max => json!({ "omitted_bytes": bytes }),
        _ => json.to_value(),
    }
}

fn goal(goal: &str, bytes_max: usize) -> String {
    let mut goal = goal.to_owned();
    shorten(&mut goal, bytes_max);
    goal
}

// The first of many, and how many there are.
fn put_some<T: Serialize>(shown: &mut Value, key: &str, all: &[T]) {
    if all.is_empty() {
        return;
    }
    shown[key] = json!(all[..all.len().min(ENTRIES_MAX)]);
    if all.len() > ENTRIES_MAX {
        shown[format!("{key}_total")] = all.len().into();
    }
}

/// A node in a list, or by itself with its payloads.
pub(super) fn node(node: &NodeInfo, whole: bool, is_mine: bool) -> Value {
    let mut shown = json!({ "node_id": node.id, "status": node.status });
    if let Some(name) = &node.name {
        shown["name"] = name.as_str().into();
    }
    put_some(&mut shown, "after", &node.dependencies);
    put_some(&mut shown, "blocked_by", &node.blocked_by);
    put_some(&mut shown, "capabilities", &node.capabilities);
    if let Some(owner) = &node.lease_owner {
        shown["lease_owner"] = owner.as_str().into();
        shown["lease_expires_at"] = json!(node.lease_expires_at);
    }
    if is_mine {
        shown["yours"] = true.into();
    }
    if node.attempt > 1 || node.status == NodeStatus::Failed {
        shown["attempt"] = node.attempt.into();
    }
    if node.priority != 0 {
        shown["priority"] = node.priority.into();
    }
    if let Some(at) = node.not_before {
        shown["not_before"] = json!(at);
    }
    if whole {
        shown["payload"] = payload(&node.payload_schema, PAYLOAD_BYTES_MAX);
        if let Some(result) = &node.result_payload {
            shown["result"] = payload(result, PAYLOAD_BYTES_MAX);
        }
        if let Some(retry) = &node.retry {
            shown["retry"] = json!(retry);
        }
        if let Some(agentd_protocol::Work::Agent(work)) = &node.work {
            shown["agent"] = json!(work.agent);
        }
    }
    shown
}

/// What a worker needs to know.
pub(super) fn acquired(node: &AcquiredNode) -> Members {
    let context = &node.context;
    let mut shown = json!({
        "task_id": node.task_id,
        "node_id": node.node_id,
        "lease_id": node.lease_id,
        "fence": node.fence,
        "attempt": node.attempt,
        "lease_expires_at": node.lease_expires_at,
        "goal": goal(&context.task.goal, PAYLOAD_BYTES_MAX / 2),
    });
    if let Some(name) = &context.node.name {
        shown["name"] = name.as_str().into();
    }
    for (key, json) in [
        ("context", &context.task.context),
        ("payload", &context.node.payload_schema),
    ] {
        if !json.is_empty_object() {
            shown[key] = payload(json, PAYLOAD_BYTES_MAX / 2);
        }
    }
    let mut left = INPUTS_BYTES_MAX;
    let mut inputs = Vec::new();
    for dependency in context.completed_dependencies.iter().take(ENTRIES_MAX * 4) {
        let mut input = json!({ "node_id": dependency.node_id });
        if let Some(name) = &dependency.name {
            input["name"] = name.as_str().into();
        }
        match (&dependency.result_payload, dependency.result_omitted_bytes) {
            (_, Some(bytes)) => input["result"] = json!({ "omitted_bytes": bytes }),
            (Some(result), None) => {
                input["result"] = payload(result, left);
                left = left.saturating_sub(result.text().len());
            }
            (None, None) => {}
        }
        inputs.push(input);
    }
    if !inputs.is_empty() {
        let total = context.completed_dependencies.len();
        if total > inputs.len() {
            shown["inputs_total"] = total.into();
        }
        shown["inputs"] = inputs.into();
    }
    let events = &context.event_journal;
    let newest = &events[events.len().saturating_sub(EVENTS_MAX)..];
    let newest: Vec<Value> = newest
        .iter()
        .map(|event| {
            let mut shown = json!({ "kind": event.action_type, "at": event.timestamp });
            if event.node_id.is_some_and(|id| id != node.node_id) {
                shown["node_id"] = json!(event.node_id);
            }
            match (&event.payload, event.payload_omitted_bytes) {
                (_, Some(bytes)) => shown["payload"] = json!({ "omitted_bytes": bytes }),
                (Some(json), None) if !json.is_empty_object() => {
                    shown["payload"] = payload(json, EVENT_BYTES_MAX);
                }
                _ => {}
            }
            shown
        })
        .collect();
    if !newest.is_empty() {
        shown["events"] = newest.into();
    }
    members(shown)
}

pub(super) fn task(task: &TaskSummary) -> Value {
    let mut shown = json!({
        "task_id": task.task_id,
        "goal": task.goal,
        "state": task.state,
        "counts": task.counts,
        "created_at": task.created_at,
    });
    if let Some(at) = task.finished_at {
        shown["finished_at"] = json!(at);
    }
    if let Some(key) = &task.idempotency_key {
        shown["idempotency_key"] = key.as_str().into();
    }
    shown
}

/// Ids that are shown of many.
pub(super) const IDS_MAX: usize = 200;

/// Ids, or as many of them as are of use, and how many there are.
pub(super) fn ids<T: Serialize>(ids: &[T]) -> Value {
    if ids.len() <= IDS_MAX {
        return json!(ids);
    }
    json!({ "first": ids[..IDS_MAX], "total": ids.len() })
}

/// The beginning of a goal.
pub(super) fn short_goal(text: &str) -> String {
    goal(text, GOAL_BYTES_MAX)
}

pub(super) fn short_payload(json: &Json) -> Value {
    payload(json, PAYLOAD_BYTES_MAX)
}

pub(super) fn lock(lock: &ResourceLock, is_mine: bool) -> Value {
    let mut shown = json!({
        "key": lock.resource_key,
        "owner": lock.owner,
        "acquired_at": lock.acquired_at,
        "lease_expires_at": lock.lease_expires_at,
        "fence": lock.fence,
    });
    if !lock.metadata.is_empty_object() {
        shown["metadata"] = lock.metadata.to_value();
    }
    if let Some(node_id) = lock.node_id {
        shown["node_id"] = json!(node_id);
    }
    if is_mine {
        shown["yours"] = true.into();
    }
    shown
}

/// A piece of a value's text, from `offset` on.
pub(super) fn piece(text: &str, offset: usize) -> Members {
    let from = text.floor_char_boundary(offset.min(text.len()));
    let to = text.floor_char_boundary((from + PIECE_BYTES_MAX).min(text.len()));
    let mut shown = json!({ "text": text[from..to], "offset": from, "total_bytes": text.len() });
    if to < text.len() {
        shown["next_offset"] = to.into();
    }
    members(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_to_the_whole() {
        let text = "aä€😀".repeat(20_000);
        let mut joined = String::new();
        let mut offset = 0;
        loop {
            let piece = piece(&text, offset);
            joined.push_str(piece["text"].as_str().unwrap());
            match piece.get("next_offset").and_then(Value::as_u64) {
                Some(next) => offset = usize::try_from(next).unwrap(),
                None => break,
            }
        }
        assert_eq!(joined, text);
        assert_eq!(piece("abc", 100)["text"], "");
    }

    #[test]
    fn what_is_large_is_given_by_its_size() {
        let json = Json::of(&"x".repeat(100));
        assert_eq!(payload(&json, 50), json!({ "omitted_bytes": 102 }));
        assert_eq!(payload(&json, 102), json!("x".repeat(100)));
    }
}
