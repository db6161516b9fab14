//! `agentd task`: goals, and the graphs of nodes that lead to them.

mod agents;
mod change;
mod keep;
mod merged;
mod progress;
mod reclaim;
mod register;
mod report;
mod run;
mod show;
mod submit;
mod watch;

use super::Context;
use crate::failure::{Exit, Failure};
use clap::Subcommand;

/// Run plans and look after tasks: run, submit, list, status, watch, cancel, pause, resume, retry, prune
#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    Run(run::RunArgs),
    Submit(submit::SubmitArgs),
    List(show::ListArgs),
    Status(show::StatusArgs),
    Watch(watch::WatchArgs),
    Cancel(change::CancelArgs),
    Pause(change::PauseArgs),
    Resume(change::ResumeArgs),
    Retry(change::RetryArgs),
    Prune(change::PruneArgs),
}

impl TaskCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            // Much larger than the others: kept out of their futures.
            Self::Run(args) => Box::pin(args.run(context)).await,
            Self::Submit(args) => args.run(context).await,
            Self::List(args) => args.run(context).await,
            Self::Status(args) => args.run(context).await,
            Self::Watch(args) => args.run(context).await,
            Self::Cancel(args) => args.run(context).await,
            Self::Pause(args) => args.run(context).await,
            Self::Resume(args) => args.run(context).await,
            Self::Retry(args) => args.run(context).await,
            Self::Prune(args) => args.run(context).await,
        }
    }
}
