//! Going on from a run whose plan has changed since: what still stands is kept, and said before anything starts.

use super::super::Context;
use super::super::values::count;
use super::report::node_pages;
use crate::failure::{Exit, Failure};
use agentd_client::{Client, ClientError};
use agentd_protocol::results::TaskSummary;
use agentd_protocol::{NodeStatus, Reason, TaskId};
use agentd_runner::plan::{BoundPlan, EarlierNode, EarlierRun, Standing};

/// Names in one line of the summary.
const NAMES_SHOWN_MAX: usize = 20;

/// What a task has taken over from an earlier one.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) from: TaskId,
    /// The nodes' names, in the order of the plan.
    pub(super) nodes: Vec<String>,
}

/// The nodes of an earlier run, as far as they can be compared.
///
/// # Errors
/// As the calls.
pub(super) async fn earlier(client: &mut Client, task_id: TaskId) -> Result<EarlierRun, ClientError> {
    let status = node_pages(client, task_id, true, usize::MAX).await?;
    let context = status.task.context.to_value();
    let artifacts = context["artifacts"].as_str().and_then(|id| id.parse().ok());
    let nodes = status.nodes.into_iter().filter_map(|node| {
        let earlier = EarlierNode {
            node_id: node.id,
            is_completed: node.status == NodeStatus::Completed,
        };
        Some((node.fingerprint?, earlier))
    });
    Ok(EarlierRun {
        task_id,
        artifacts: artifacts.unwrap_or(task_id),
        nodes: nodes.collect(),
    })
}

/// The run that a task whose registration was interrupted goes on from; none when it goes on from none.
///
/// # Errors
/// When that run is gone: what it had finished cannot be told any more. Else as the calls.
pub(super) async fn earlier_of(client: &mut Client, task_id: TaskId) -> Result<Option<EarlierRun>, Failure> {
    let status = node_pages(client, task_id, true, 1).await?;
    let context = status.task.context.to_value();
    let Some(from) = context["kept_from"].as_str().and_then(|id| id.parse().ok()) else {
        return Ok(None);
    };
    match earlier(client, from).await {
        Ok(run) => Ok(Some(run)),
        Err(ClientError::Rpc(error)) if error.reason() == Some(Reason::TaskNotFound) => {
            let message = format!(
                "the registration of task {task_id} was interrupted, and task {from}, whose results it was to keep, is gone"
            );
            Err(Failure::new(Exit::Failed, message).hint("--new begins afresh"))
        }
        Err(error) => Err(error.into()),
    }
}

/// Says what of an earlier run is kept, and what runs, and gives the names of what is kept.
pub(super) fn summary(context: &Context, plan: &BoundPlan, earlier: &EarlierRun) -> Kept {
    let (mut kept, mut others) = (Vec::new(), Vec::new());
    for (name, standing) in plan.standings(earlier) {
        match standing {
            Standing::Kept => kept.push(name.to_owned()),
            Standing::Changed => others.push(format!("{name} (changed)")),
            Standing::NeedsChanged => others.push(format!("{name} (needs a node that changed)")),
            Standing::Unfinished => others.push(format!("{name} (not finished)")),
        }
    }
    context.console.status(&format!(
        "the plan has changed since task {}, whose finished nodes are kept where nothing changed:",
        earlier.task_id
    ));
    for (what, names) in [("kept", &kept), ("to run", &others)] {
        let mut line = format!("  {what}: {}", count(names.len() as u64, "node"));
        if !names.is_empty() {
            let shown = &names[..names.len().min(NAMES_SHOWN_MAX)];
            line += &format!(": {}", shown.join(", "));
        }
        if names.len() > NAMES_SHOWN_MAX {
            line += &format!(", and {} more", names.len() - NAMES_SHOWN_MAX);
        }
        context.console.status(&line);
    }
    Kept {
        from: earlier.task_id,
        nodes: kept,
    }
}

/// Says that there is a run that could have been gone on with.
pub(super) fn say_changed(context: &Context, before: &TaskSummary) {
    let then = match before.state.is_finished() {
        true => "keeps what still stands of it",
        false => "cancels that one, which is unfinished, and keeps what still stands of it",
    };
    context.console.status(&format!(
        "the plan has changed since task {} ({} of {} done); all nodes run, and `agentd task run --retry` {then}",
        before.task_id,
        before.counts.completed,
        count(before.counts.total(), "node")
    ));
}
