//! `agentd task cancel`, `pause`, `resume`, `retry` and `prune`.

use super::super::{Context, values};
use super::report::node_pages;
use crate::failure::{Exit, Failure};
use agentd_client::Client;
use agentd_protocol::requests::{CancelTask, PruneTasks, RetryNodes, TaskRef};
use agentd_protocol::results::{CancelledTask, NodeIds, Ok as Done, Pruned};
use agentd_protocol::{Method, NodeId, TaskId};
use clap::Args;
use serde::Serialize;
use std::time::Duration;

fn answer<T: Serialize>(context: &Context, result: &T, sentence: &str) -> Result<Exit, Failure> {
    if context.console.json {
        context.console.document(result)?;
    } else {
        context.console.status(sentence);
    }
    Ok(Exit::Ok)
}

/// End a task: what has not ended is failed, and whoever works on it is told to stop
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The task
    #[arg(value_name = "TASK")]
    task: TaskId,
    /// Why; those who work on it are told
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl CancelArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = CancelTask {
            task_id: self.task,
            reason: self.reason,
        };
        let done: CancelledTask = context
            .connect()
            .await?
            .call(Method::CancelTask, &request)
            .await?;
        let nodes = values::count(done.cancelled_nodes, "node");
        answer(
            context,
            &done,
            &format!("task {} is cancelled; {nodes} had not ended", self.task),
        )
    }
}

/// Hand out no more nodes of a task; what runs goes on
#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// The task
    #[arg(value_name = "TASK")]
    task: TaskId,
}

impl PauseArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = TaskRef { task_id: self.task };
        let done: Done = context.connect().await?.call(Method::PauseTask, &request).await?;
        answer(
            context,
            &done,
            &format!("task {0} is paused; `agentd task resume {0}` goes on", self.task),
        )
    }
}

/// Hand out nodes of a paused task again
#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// The task
    #[arg(value_name = "TASK")]
    task: TaskId,
}

impl ResumeArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = TaskRef { task_id: self.task };
        let done: Done = context
            .connect()
            .await?
            .call(Method::ResumeTask, &request)
            .await?;
        answer(context, &done, &format!("task {} goes on", self.task))
    }
}

/// Make failed nodes PENDING again, with all their attempts before them
#[derive(Debug, Args)]
#[command(after_long_help = "\
A cancelled task comes back to life. A task that came from a plan goes on with the `agentd task run` that began it.

Examples:
  agentd task retry 0198…
  agentd task retry 0198… build test")]
pub(crate) struct RetryArgs {
    /// The task
    #[arg(value_name = "TASK")]
    task: TaskId,
    /// Only these nodes, by name or id [default: all that have failed]
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
}

impl RetryArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let mut client = context.connect().await?;
        let node_ids = find_nodes(&mut client, self.task, &self.nodes).await?;
        let request = RetryNodes {
            task_id: self.task,
            node_ids,
        };
        let done: NodeIds = client.call(Method::RetryNodes, &request).await?;
        if done.node_ids.is_empty() && !context.console.json {
            context.console.status("no node has failed; nothing to retry");
            return Ok(Exit::Ok);
        }
        let count = values::count(done.node_ids.len() as u64, "node");
        answer(
            context,
            &done,
            &format!("{count} of task {} can run again", self.task),
        )
    }
}

async fn find_nodes(client: &mut Client, task: TaskId, wanted: &[String]) -> Result<Vec<NodeId>, Failure> {
    let mut found: Vec<Option<NodeId>> = wanted.iter().map(|text| text.parse().ok()).collect();
    if found.iter().any(Option::is_none) {
        let status = node_pages(client, task, true, usize::MAX).await?;
        for (slot, name) in found.iter_mut().zip(wanted).filter(|(slot, _)| slot.is_none()) {
            let mut named = status
                .nodes
                .iter()
                .filter(|node| node.name.as_deref() == Some(name));
            *slot = match (named.next(), named.next()) {
                (Some(node), None) => Some(node.id),
                (None, _) => {
                    let failure =
                        Failure::new(Exit::Failed, format!("task {task} has no node named {name:?}"));
                    return Err(failure.hint(format!("`agentd task status {task}` shows its nodes")));
                }
                (Some(_), Some(_)) => {
                    let message =
                        format!("task {task} has several nodes named {name:?}; name the one by its id");
                    return Err(Failure::usage(message));
                }
            };
        }
    }
    Ok(found.into_iter().flatten().collect())
}

/// Remove finished tasks with their nodes and journal entries; tombstones stay
#[derive(Debug, Args)]
#[command(after_long_help = "\
The daemon does this by itself for what is older than AGENTD_RETENTION_DAYS.

Examples:
  agentd task prune --older-than 30d
  agentd task prune --task 0198…")]
#[group(required = true, multiple = true)]
pub(crate) struct PruneArgs {
    /// Only what finished at least so long ago
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    older_than: Option<Duration>,
    /// Only this task
    #[arg(long, value_name = "ID")]
    task: Option<TaskId>,
}

impl PruneArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let older_than_secs = self.older_than.map(values::whole_secs).unwrap_or_default();
        let request = PruneTasks {
            older_than_secs,
            task_id: self.task,
        };
        let done: Pruned = context
            .connect()
            .await?
            .call(Method::PruneTasks, &request)
            .await?;
        let (tasks, nodes) = (
            values::count(done.tasks, "task"),
            values::count(done.nodes, "node"),
        );
        answer(
            context,
            &done,
            &format!(
                "removed {tasks} with {nodes} and {} of the journal's entries",
                done.events
            ),
        )
    }
}
