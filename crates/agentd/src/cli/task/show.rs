//! `agentd task list` and `agentd task status`.

use super::super::{Context, values};
use super::merged;
use super::report::{add_payloads, node_pages, shown_counts, state_tone, table};
use crate::console::{Field, Tone, one_line, shortened};
use crate::failure::{Exit, Failure};
use agentd_protocol::requests::ListTasks;
use agentd_protocol::results::TaskList;
use agentd_protocol::{Method, TaskId, TaskState};
use clap::{Args, ValueEnum};

/// Nodes that a person is shown of a large task.
const NODES_SHOWN_MAX: usize = 1000;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StateName {
    Active,
    Paused,
    Cancelled,
    Completed,
    Failed,
}

impl From<StateName> for TaskState {
    fn from(name: StateName) -> Self {
        match name {
            StateName::Active => Self::Active,
            StateName::Paused => Self::Paused,
            StateName::Cancelled => Self::Cancelled,
            StateName::Completed => Self::Completed,
            StateName::Failed => Self::Failed,
        }
    }
}

/// List tasks, newest first
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only tasks in this state
    #[arg(long)]
    state: Option<StateName>,
    /// At most so many
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Where to go on, as the page before said
    #[arg(long)]
    cursor: Option<String>,
}

impl ListArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = ListTasks {
            state: self.state.map(TaskState::from),
            idempotency_key_prefix: None,
            limit: Some(self.limit),
            cursor: self.cursor,
        };
        let list: TaskList = context.connect().await?.call(Method::ListTasks, &request).await?;
        if context.console.json {
            context.console.document(&list)?;
            return Ok(Exit::Ok);
        }
        if list.tasks.is_empty() {
            context.console.status(match self.state {
                Some(_) => "there is no such task; without --state all of them are listed",
                None => "there is no task; `agentd task run PLAN` makes one",
            });
            return Ok(Exit::Ok);
        }
        let rows = list
            .tasks
            .iter()
            .map(|task| {
                vec![
                    task.task_id.into(),
                    Field(task.state.to_string(), state_tone(task.state)),
                    format!("{}/{}", task.counts.completed, task.counts.total()).into(),
                    values::age(task.created_at).into(),
                    shortened(&one_line(&task.goal), 80).into(),
                ]
            })
            .collect();
        context
            .console
            .table(&["task", "state", "done", "age", "goal"], rows)?;
        if let Some(cursor) = list.next_cursor {
            context
                .console
                .status(&format!("there are more: --cursor {cursor}"));
        }
        Ok(Exit::Ok)
    }
}

/// Show a task and its nodes
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The task
    #[arg(value_name = "TASK")]
    task: TaskId,
}

impl StatusArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let mut client = context.connect().await?;
        if context.console.json {
            let status = node_pages(&mut client, self.task, false, usize::MAX).await?;
            context.console.document(&status)?;
            return Ok(Exit::Ok);
        }
        let mut status = node_pages(&mut client, self.task, true, NODES_SHOWN_MAX).await?;
        add_payloads(&mut client, &mut status).await?;
        context.console.fields(&[
            ("task", status.task.id.to_string()),
            ("goal", one_line(&status.task.goal)),
            (
                "state",
                context
                    .console
                    .toned(state_tone(status.state), status.state.as_str()),
            ),
            ("nodes", shown_counts(&status.counts)),
            ("created", status.task.created_at.to_string()),
        ])?;
        context.console.line("")?;
        table(&context.console, &status.nodes, values::now_secs())?;
        for line in merged::unmerged(&status.nodes) {
            context
                .console
                .line(&context.console.toned(Tone::Active, &line))?;
        }
        let left = status.counts.total().saturating_sub(status.nodes.len() as u64);
        if left > 0 {
            let more = values::count(left, "more node");
            context.console.status(&format!(
                "{more}: `agentd --json task status {}` shows all",
                self.task
            ));
        }
        match status.state {
            TaskState::Failed => context.console.status(&format!(
                "`agentd task retry {}` lets the failed nodes run again",
                self.task
            )),
            TaskState::Paused => context
                .console
                .status(&format!("`agentd task resume {}` goes on", self.task)),
            TaskState::Active | TaskState::Cancelled | TaskState::Completed => {}
        }
        Ok(Exit::Ok)
    }
}
