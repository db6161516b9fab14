//! How the nodes of a plan hang together: what each needs, where a worktree begins, whose result is the plan's.

use super::{PlanNode, graph};
use agentd_config::reader::{Located, Section};
use agentd_config::source::{Mistake, did_you_mean};
use std::collections::HashMap;

/// What a node needs, each once.
pub(super) fn needs(
    section: &Section<'_>,
    name: &Located<String>,
    index: &HashMap<String, usize>,
) -> Result<Vec<usize>, Mistake> {
    let mut needs = Vec::new();
    for need in section
        .texts("needs")?
        .map(|needs| needs.value)
        .unwrap_or_default()
    {
        let Some(&node) = index.get(&need.value) else {
            let hint = did_you_mean(&need.value, index.keys().map(String::as_str));
            let message = format!(
                "{:?} needs {:?}, and there is no such node{hint}",
                name.value, need.value
            );
            return Err(section.error_at(&need.span, "needs", message));
        };
        needs.push((node, need.span));
    }
    let mut sorted: Vec<usize> = needs.iter().map(|(node, _)| *node).collect();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        let span = needs
            .iter()
            .rev()
            .find(|(node, _)| *node == twice[0])
            .map_or(0..0, |(_, span)| span.clone());
        return Err(section.error_at(
            &span,
            "needs",
            format!("{:?} needs the same node twice", name.value),
        ));
    }
    Ok(needs.into_iter().map(|(node, _)| node).collect())
}

/// The node at whose branch an agent's worktree begins: one of those that it needs.
pub(super) fn base(section: &Section<'_>, needed: &[&str]) -> Result<Option<String>, Mistake> {
    let Some(base) = section.text("base")? else {
        return Ok(None);
    };
    if needed.contains(&base.value.as_str()) {
        return Ok(Some(base.value));
    }
    let hint = did_you_mean(&base.value, needed.iter().copied());
    let message = format!(
        "{} is {:?}, which is not among the node's needs ({}){hint}",
        section.path("base"),
        base.value,
        if needed.is_empty() {
            "none".into()
        } else {
            needed.join(", ")
        }
    );
    Err(section.error_at(&base.span, "base", message))
}

/// The node whose result is the plan's.
pub(super) fn result(
    root: &Section<'_>,
    nodes: &[PlanNode],
    needs: &[Vec<usize>],
    index: &HashMap<String, usize>,
) -> Result<usize, Mistake> {
    if let Some(result) = root.text("result")? {
        return index.get(&result.value).copied().ok_or_else(|| {
            let hint = did_you_mean(&result.value, index.keys().map(String::as_str));
            let message = format!("result is {:?}, and there is no such node{hint}", result.value);
            root.error_at(&result.span, "result", message)
        });
    }
    let leaves = graph::leaves(needs);
    match leaves[..] {
        [leaf] => Ok(leaf),
        _ => {
            let names: Vec<&str> = leaves
                .iter()
                .take(8)
                .map(|&leaf| nodes[leaf].name.as_str())
                .collect();
            let more = if leaves.len() > 8 { ", …" } else { "" };
            let message = format!(
                "{} nodes are needed by no other ({}{more}): say whose result is the plan's with result = {:?}",
                leaves.len(),
                names.join(", "),
                names.last().unwrap_or(&"NAME"),
            );
            Err(root.error(message))
        }
    }
}
