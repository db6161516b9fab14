//! What a task came to, for people and for programs.

use super::super::values::{count, shown_duration};
use super::merged;
use crate::console::{Console, Field, Tone, one_line, shortened};
use crate::failure::Failure;
use agentd_client::Client;
use agentd_protocol::requests::{GetNode, TaskStatus};
use agentd_protocol::results::{GetNodeResult, TaskStatusResult};
use agentd_protocol::{
    AgentWork, Json, Method, NodeId, NodeInfo, NodeStatus, StatusCounts, TaskId, TaskState, Work,
};
use agentd_runner::worker::output::{self, NodeOutput};
use serde_json::Value;
use std::collections::HashMap;

/// Nodes in one page.
const PAGE: u32 = 500;
/// Failed nodes whose errors are fetched to be shown.
const ERRORS_SHOWN_MAX: usize = 20;
/// Nodes of agents whose results are fetched to see whether their work is merged.
const BRANCHES_LOOKED_AT_MAX: usize = 1000;

/// A task with its nodes, fetched page by page, up to `nodes_max` of them.
///
/// # Errors
/// As the calls.
pub(super) async fn node_pages(
    client: &mut Client,
    task_id: TaskId,
    omit_payloads: bool,
    nodes_max: usize,
) -> Result<TaskStatusResult, agentd_client::ClientError> {
    let mut request = TaskStatus {
        task_id,
        status: None,
        limit: Some(PAGE),
        cursor: None,
        omit_payloads,
    };
    let mut whole: TaskStatusResult = client.call(Method::TaskStatus, &request).await?;
    while let Some(cursor) = whole.next_cursor.take() {
        if whole.nodes.len() >= nodes_max {
            whole.next_cursor = Some(cursor);
            break;
        }
        request.cursor = Some(cursor);
        let page: TaskStatusResult = client.call(Method::TaskStatus, &request).await?;
        whole.nodes.extend(page.nodes);
        (whole.state, whole.counts, whole.next_cursor) = (page.state, page.counts, page.next_cursor);
    }
    Ok(whole)
}

/// A node whole.
///
/// # Errors
/// As the call.
pub(super) async fn whole_node(
    client: &mut Client,
    task_id: TaskId,
    node_id: NodeId,
) -> Result<NodeInfo, agentd_client::ClientError> {
    let found: GetNodeResult = client
        .call(Method::GetNode, &GetNode { task_id, node_id })
        .await?;
    Ok(found.node)
}

/// Puts the errors of the first few failed nodes, what the completed ones of a small task came to, and what became of
/// agents' work into a status that was fetched without.
///
/// # Errors
/// As the calls.
pub(super) async fn add_payloads(
    client: &mut Client,
    status: &mut TaskStatusResult,
) -> Result<(), agentd_client::ClientError> {
    let (mut errors, mut branches) = (0, 0);
    let small = status.nodes.len() <= 50;
    let task = status.task.id;
    for node in &mut status.nodes {
        let ended = matches!(node.status, NodeStatus::Completed | NodeStatus::Failed);
        branches += usize::from(ended && merged::may_have_branch(node));
        let has_branch = merged::may_have_branch(node) && branches <= BRANCHES_LOOKED_AT_MAX;
        let wanted = match node.status {
            NodeStatus::Failed => {
                errors += 1;
                errors <= ERRORS_SHOWN_MAX || has_branch
            }
            NodeStatus::Completed => small || has_branch,
            NodeStatus::Pending | NodeStatus::Running => false,
        };
        if wanted {
            node.result_payload = whole_node(client, task, node.id).await?.result_payload;
        }
    }
    Ok(())
}

pub(super) fn state_tone(state: TaskState) -> Tone {
    match state {
        TaskState::Active => Tone::Active,
        TaskState::Completed => Tone::Good,
        TaskState::Failed | TaskState::Cancelled => Tone::Bad,
        TaskState::Paused => Tone::Plain,
    }
}

fn status_tone(status: NodeStatus) -> Tone {
    match status {
        NodeStatus::Pending => Tone::Faint,
        NodeStatus::Running => Tone::Active,
        NodeStatus::Completed => Tone::Good,
        NodeStatus::Failed => Tone::Bad,
    }
}

/// `3 of 9 nodes done, 1 failed, 2 running`
pub(super) fn shown_counts(counts: &StatusCounts) -> String {
    let mut text = format!("{} of {} done", counts.completed, count(counts.total(), "node"));
    for (number, what) in [(counts.failed, "failed"), (counts.running, "running")] {
        if number > 0 {
            text.push_str(&format!(", {number} {what}"));
        }
    }
    text
}

/// The name that people gave a node, or its id.
pub(super) fn node_name(node: &NodeInfo) -> String {
    node.name.as_deref().map_or_else(|| node.id.to_string(), one_line)
}

fn duration(node: &NodeInfo, now_secs: i64) -> String {
    let own = node
        .result_payload
        .as_ref()
        .and_then(|result| result.to_value()["duration_ms"].as_u64());
    if let Some(ms) = own {
        return shown_duration(ms);
    }
    let Some(began) = node.acquired_at else {
        return "-".into();
    };
    let ended = match node.status {
        NodeStatus::Running => now_secs,
        NodeStatus::Completed | NodeStatus::Failed => node.updated_at,
        NodeStatus::Pending => return "-".into(),
    };
    // Nodes' own times are in whole seconds.
    match ended.saturating_sub(began) {
        ..1 => "< 1 s".into(),
        secs => format!("~ {}", shown_duration(secs.unsigned_abs() * 1000)),
    }
}

fn note(node: &NodeInfo, names: &HashMap<NodeId, String>) -> String {
    if !node.blocked_by.is_empty() {
        let blockers: Vec<&str> = node
            .blocked_by
            .iter()
            .map(|id| names.get(id).map_or("another node", String::as_str))
            .collect();
        return format!("blocked by {}", blockers.join(", "));
    }
    match (node.status, node.not_before) {
        (NodeStatus::Pending, Some(at)) => format!("next attempt at {at}"),
        (NodeStatus::Running, _) => {
            let owner = one_line(node.lease_owner.as_deref().unwrap_or("nobody"));
            // After the process's number comes what only programs need.
            let short = match owner.rsplit_once("/run/") {
                Some((user, process)) => {
                    format!("{user}/run/{}", process.split('.').next().unwrap_or_default())
                }
                None => shortened(&owner, 60),
            };
            match &node.work {
                // Whoever holds its lease is agentd itself.
                Some(Work::Agent(AgentWork { agent, .. })) => {
                    let name = agent.as_deref().map_or_else(|| short, one_line);
                    format!("agent {name}")
                }
                _ => format!("by {short}"),
            }
        }
        (NodeStatus::Completed | NodeStatus::Failed, _) => ended_note(node),
        _ => String::new(),
    }
}

fn ended_note(node: &NodeInfo) -> String {
    let payload = node.result_payload.as_ref().map(Json::to_value);
    let work = payload.as_ref().and_then(merged::work_of);
    let mut parts = Vec::new();
    // Nothing else is completed without an attempt.
    if node.status == NodeStatus::Completed && node.attempt == 0 {
        parts.push("kept from the run before".to_owned());
    }
    if node.status == NodeStatus::Failed {
        parts.extend(payload.as_ref().map(shown_error));
    }
    parts.extend(work.map(|work| work.note(node.status == NodeStatus::Failed)));
    parts.join("; ")
}

/// An error payload in one sentence.
pub(super) fn shown_error(error: &Value) -> String {
    let text = if let Some(cancelled) = error.get("cancelled") {
        let reason = cancelled["reason"].as_str().map(|reason| format!(": {reason}"));
        format!("cancelled{}", reason.unwrap_or_default())
    } else if let Some(message) = error["message"].as_str().or_else(|| error["error"].as_str()) {
        // The last line of stderr mostly says it.
        let last = error["stderr"]
            .as_str()
            .and_then(|text| text.lines().rev().find(|line| !line.trim().is_empty()));
        last.map_or_else(
            || message.to_owned(),
            |line| format!("{message}: {}", line.trim()),
        )
    } else {
        error.as_str().map_or_else(|| error.to_string(), str::to_owned)
    };
    shortened(&one_line(&text), 160)
}

/// The table of a task's nodes, with how each stands.
///
/// # Errors
/// When stdout takes no more.
pub(super) fn table(console: &Console, nodes: &[NodeInfo], now_secs: i64) -> Result<(), Failure> {
    console.table(&HEADER, rows(nodes, now_secs))
}

/// The same as status.
pub(super) fn status_table(console: &Console, nodes: &[NodeInfo], now_secs: i64) {
    console.status_table(&HEADER, rows(nodes, now_secs));
}

const HEADER: [&str; 5] = ["node", "status", "attempt", "duration", ""];

fn rows(nodes: &[NodeInfo], now_secs: i64) -> Vec<Vec<Field>> {
    let names = nodes.iter().map(|node| (node.id, node_name(node))).collect();
    nodes
        .iter()
        .map(|node| {
            vec![
                node_name(node).into(),
                Field(node.status.to_string(), status_tone(node.status)),
                node.attempt.into(),
                duration(node, now_secs).into(),
                note(node, &names).into(),
            ]
        })
        .collect()
}

/// What a task has to show in the end: the result of the node that its plan names.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) node: String,
    /// What its command wrote as its value, if it did.
    pub(super) value: Option<Value>,
    /// What its command printed.
    pub(super) output: Option<NodeOutput>,
    /// The whole, as the node was completed with it.
    pub(super) payload: Json,
}

/// Finds the plan's result, if the task came from a plan and that node is completed.
///
/// # Errors
/// As the call.
pub(super) async fn outcome(
    client: &mut Client,
    status: &TaskStatusResult,
) -> Result<Option<Outcome>, agentd_client::ClientError> {
    let context = status.task.context.to_value();
    let Some(name) = context["result"].as_str() else {
        return Ok(None);
    };
    let completed =
        |node: &&NodeInfo| node.name.as_deref() == Some(name) && node.status == NodeStatus::Completed;
    let Some(node) = status.nodes.iter().find(completed) else {
        return Ok(None);
    };
    let whole = whole_node(client, status.task.id, node.id).await?;
    let name = name.to_owned();
    Ok(whole
        .result_payload
        .map(|payload| outcome_of(name, whole.work.as_ref(), payload)))
}

fn outcome_of(node: String, work: Option<&Work>, payload: Json) -> Outcome {
    let mut fields = payload.to_value();
    let is_agents = matches!(work, Some(Work::Agent(AgentWork { command: None, .. })));
    // What the agent left is the result as a whole; if it left nothing, there is what it printed.
    let is_own = is_agents && !(fields["session_id"].is_string() && fields["output"].is_string());
    let (value, output) = if is_own {
        (Some(fields), None)
    } else {
        let value = match is_agents {
            true => None,
            false => fields.get_mut("value").map(Value::take),
        };
        (value, output::of_result(payload.text()))
    };
    Outcome {
        node,
        value,
        output,
        payload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn errors_are_one_sentence() {
        let error =
            json!({ "reason": "exit_code", "message": "exit code 2", "stderr": "a\nno such file\n\n" });
        assert_eq!(shown_error(&error), "exit code 2: no such file");
        assert_eq!(
            shown_error(&json!({ "cancelled": { "reason": "enough" } })),
            "cancelled: enough"
        );
        assert_eq!(
            shown_error(&json!({ "cancelled": { "reason": null } })),
            "cancelled"
        );
        assert_eq!(shown_error(&json!("plain")), "plain");
        assert_eq!(shown_error(&json!({ "a": 1 })), "{\"a\":1}");
    }

    #[test]
    fn what_is_shown_of_a_result_follows_from_who_made_it() {
        let agent = Work::Agent(AgentWork {
            agent: None,
            prompt: None,
            timeout_secs: None,
            ..AgentWork::default()
        });
        let shown = |work: Option<&Work>, payload: Value| {
            let outcome = outcome_of("n".into(), work, payload.into());
            let printed = outcome
                .output
                .map(|output| String::from_utf8(output.bytes).unwrap());
            (outcome.value, printed)
        };
        let command = json!({ "exit_code": 0, "stdout": "o", "value": [1] });
        assert_eq!(
            shown(None, command.clone()),
            (Some(json!([1])), Some("o".to_owned()))
        );
        assert_eq!(shown(None, json!("text")), (None, None));
        // An agent's own result may look like anything.
        assert_eq!(shown(Some(&agent), command.clone()), (Some(command), None));
        assert_eq!(
            shown(Some(&agent), json!(["a", 1])),
            (Some(json!(["a", 1])), None)
        );
        let stands_for_it = json!({ "session_id": "s", "exit_code": 0, "output": "said" });
        assert_eq!(
            shown(Some(&agent), stands_for_it),
            (None, Some("said".to_owned()))
        );
    }

    #[test]
    fn counts_are_a_phrase() {
        let counts = StatusCounts {
            pending: 5,
            running: 0,
            completed: 3,
            failed: 1,
        };
        assert_eq!(shown_counts(&counts), "3 of 9 nodes done, 1 failed");
    }
}
