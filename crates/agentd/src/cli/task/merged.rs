//! What became of the work of nodes whose sessions have a worktree: merged, or on a branch that waits for a person.

use super::report::node_name;
use crate::console::{one_line, shortened};
use agentd_protocol::{AgentWork, NodeInfo};
use serde_json::Value;

/// Nodes that the summary names.
const SHOWN_MAX: usize = 20;
/// What is shown of a reason, in characters.
const REASON_CHARS_MAX: usize = 200;

/// What a result, or an error, says of a node's branch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Branch {
    pub(super) name: String,
    pub(super) is_merged: bool,
    /// Why it is not merged.
    pub(super) reason: Option<String>,
}

impl Branch {
    /// As a sentence's part: `branch agentd/review/ab12: it conflicts with main`.
    pub(super) fn shown(&self) -> String {
        match &self.reason {
            Some(reason) => format!("branch {}: {reason}", self.name),
            None => format!("branch {}", self.name),
        }
    }
}

/// The branch that a node's result or error speaks of.
pub(super) fn branch_of(payload: &Value) -> Option<Branch> {
    let text = |member: &str| payload[member].as_str().map(one_line);
    // An error's reason may be the one word that programs read; people are told by its message.
    let reason = text("reason").filter(|reason| reason.contains(' '));
    let reason = reason.or_else(|| text("message")).or_else(|| text("reason"));
    Some(Branch {
        name: text("branch")?,
        is_merged: payload["merged"].as_bool()?,
        reason: reason.map(|reason| shortened(&reason, REASON_CHARS_MAX)),
    })
}

/// True when a node's session may have a worktree.
pub(super) fn may_have_branch(node: &NodeInfo) -> bool {
    node.capabilities
        .iter()
        .any(|name| name.starts_with(AgentWork::ANY))
}

/// What a summary says of work that is not merged; nothing when all is.
pub(super) fn unmerged(nodes: &[NodeInfo]) -> Vec<String> {
    let branch = |node: &NodeInfo| {
        let branch = branch_of(&node.result_payload.as_ref()?.to_value())?;
        (!branch.is_merged).then(|| format!("{}: {}", node_name(node), branch.shown()))
    };
    let found: Vec<String> = nodes.iter().filter_map(branch).collect();
    match found.as_slice() {
        [] => Vec::new(),
        [one] => vec![format!("1 node's work is not merged: {one}")],
        several => {
            let mut lines = vec![format!("{} nodes' work is not merged:", several.len())];
            lines.extend(several.iter().take(SHOWN_MAX).map(|line| format!("  {line}")));
            if several.len() > SHOWN_MAX {
                lines.push(format!("  and {} more", several.len() - SHOWN_MAX));
            }
            lines
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_branch_is_read_from_results_and_errors() {
        let left = json!({"branch": "agentd/a/1", "merged": false, "reason": "it conflicts\nwith main"});
        let branch = branch_of(&left).unwrap();
        assert_eq!(branch.shown(), "branch agentd/a/1: it conflicts with main");
        let error = json!({"branch": "b", "merged": false, "reason": "failed", "message": "it conflicts"});
        assert_eq!(branch_of(&error).unwrap().shown(), "branch b: it conflicts");
        assert!(
            branch_of(&json!({"branch": "b", "merged": true}))
                .unwrap()
                .is_merged
        );
        for other in [
            json!("text"),
            json!({"branch": "b"}),
            json!({"merged": false}),
            json!([1]),
        ] {
            assert_eq!(branch_of(&other), None);
        }
    }
}
