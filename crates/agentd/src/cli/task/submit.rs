//! `agentd task submit`.

use super::super::{Context, values};
use super::register::{PlanArgs, Wish, register};
use crate::failure::{Exit, Failure};
use agentd_protocol::Method;
use agentd_protocol::requests::RegisterTask;
use agentd_protocol::results::RegisteredTask;
use clap::Args;
use serde_json::json;
use std::path::Path;

/// Register a task and leave it to the daemon: a plan, or a RegisterTask request in JSON
#[derive(Debug, Args)]
#[command(after_long_help = "\
Nodes for agents begin at once, in the daemon's sessions, and so do the commands with --agent. Other commands are run by
`agentd worker`, or by `agentd task run` with the same plan and arguments. With --paused nothing begins before
`agentd task resume TASK`.

A plan whose last task is unfinished is not registered again; its task is printed.

Examples:
  agentd task submit nightly.toml /srv/data
  agentd task submit nightly.toml /srv/data --paused
  agentd task submit request.json
  echo '{\"goal\": \"…\", \"initial_nodes\": [{}]}' | agentd task submit -")]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    plan: PlanArgs,
    /// Start afresh, and cancel the unfinished task of the same plan and arguments
    #[arg(long)]
    new: bool,
    /// Register it only: nothing begins before `agentd task resume TASK`
    #[arg(long)]
    paused: bool,
}

impl SubmitArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let source = &self.plan.plan;
        let (task_id, continued) =
            if source == Path::new("-") || source.extension().is_some_and(|extension| extension == "json") {
                let text = values::read_bounded(source)?;
                let mut request: RegisterTask = serde_json::from_str(&text).map_err(|error| {
                    Failure::bad_input(format!(
                        "{} is not a RegisterTask request: {error}",
                        source.display()
                    ))
                    .hint("`agentd describe RegisterTask` shows its shape")
                })?;
                request.paused |= self.paused;
                let done: RegisteredTask = context
                    .connect()
                    .await?
                    .call(Method::RegisterTask, &request)
                    .await?;
                (done.task_id, false)
            } else {
                let plan = self.plan.bind()?;
                let mut client = context.connect().await?;
                let mut wish = if self.new { Wish::Afresh } else { Wish::Continue };
                let registered = register(context, &mut client, &plan, &mut wish, self.paused).await?;
                (registered.task_id, registered.continued)
            };
        if self.paused && continued {
            context.console.status(&format!(
                "it was registered before and is left as it is; `agentd task pause {task_id}` hands out no more of it"
            ));
        } else if self.paused {
            context.console.status(&format!(
                "it is paused: `agentd task resume {task_id}` lets it go"
            ));
        }
        if context.console.json {
            context.console.document(&json!({ "task_id": task_id }))?;
        } else {
            context.console.line(&task_id.to_string())?;
        }
        Ok(Exit::Ok)
    }
}
