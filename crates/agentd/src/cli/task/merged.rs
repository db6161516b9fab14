//! What became of the work of nodes whose sessions have a worktree: merged, or on a branch that waits for a person.

use super::report::node_name;
use crate::console::{one_line, shortened};
use agentd_protocol::{AgentWork, NodeInfo};
use serde_json::Value;

/// Nodes that the summary names.
const SHOWN_MAX: usize = 20;
/// What is shown of a reason, in characters.
const REASON_CHARS_MAX: usize = 200;

/// What a result, or an error, says of what became of a node's work.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Work {
    /// The branch that it is on; one that is merged may be gone.
    pub(super) branch: Option<String>,
    pub(super) is_merged: bool,
    /// Why it is not merged, when it was to be.
    pub(super) reason: Option<String>,
}

impl Work {
    /// Where it is and why: `branch agentd/review/ab12: it conflicts with main`.
    pub(super) fn place(&self) -> String {
        let branch = self.branch.as_ref().map(|branch| format!("branch {branch}"));
        let parts: Vec<String> = branch.into_iter().chain(self.reason.clone()).collect();
        parts.join(": ")
    }

    /// The same in a node's line; an error has said why.
    pub(super) fn note(&self, is_error: bool) -> String {
        match (&self.branch, self.is_merged) {
            (Some(branch), true) => format!("branch {branch} is merged"),
            (None, true) => "merged".into(),
            (Some(branch), false) if is_error => format!("branch {branch} is not merged"),
            (None, false) if is_error => "not merged".into(),
            (_, false) => format!("not merged: {}", self.place()),
        }
    }
}

/// What a node's result or error says of its work, when it says anything.
pub(super) fn work_of(payload: &Value) -> Option<Work> {
    let text = |member: &str| payload[member].as_str().map(one_line);
    let is_merged = payload["merged"].as_bool()?;
    let branch = text("branch");
    // An error's reason may be the one word that programs read; people are told by its message.
    let reason = text("reason").map(|reason| match reason.contains(' ') {
        true => reason,
        false => text("message").unwrap_or(reason),
    });
    // Without either it is a member of the agent's own.
    let is_said = is_merged || branch.is_some() || reason.is_some();
    is_said.then(|| Work {
        branch,
        is_merged,
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
    let line = |node: &NodeInfo| {
        let work = work_of(&node.result_payload.as_ref()?.to_value())?;
        (!work.is_merged).then(|| format!("{}: {}", node_name(node), work.place()))
    };
    let found: Vec<String> = nodes.iter().filter_map(line).collect();
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
    fn what_became_of_work_is_read_from_results_and_errors() {
        let place = |payload: Value| work_of(&payload).unwrap().place();
        let left = json!({"branch": "agentd/a/1", "merged": false, "reason": "it conflicts\nwith main"});
        assert_eq!(place(left), "branch agentd/a/1: it conflicts with main");
        let error = json!({"branch": "b", "merged": false, "reason": "failed", "message": "it conflicts"});
        assert_eq!(place(error), "branch b: it conflicts");
        // Kept because that was asked for; what else the agent says is its own.
        let kept = json!({"branch": "b", "merged": false, "message": "I wrote it"});
        assert_eq!(place(kept), "branch b");
        assert_eq!(
            place(json!({"merged": false, "reason": "main has changes"})),
            "main has changes"
        );
        let merged = work_of(&json!({"merged": true})).unwrap();
        assert_eq!((merged.is_merged, merged.note(false).as_str()), (true, "merged"));
        for other in [
            json!("text"),
            json!({"branch": "b"}),
            json!({"merged": false}),
            json!([1]),
        ] {
            assert_eq!(work_of(&other), None);
        }
    }
}
