//! `agentd sessions`: what agents did, and do.

mod list;
mod logs;
pub(super) mod outcome;
mod show;
mod stop;
pub(super) mod transcript;
pub(super) mod wait;

use super::Context;
use crate::failure::{Exit, Failure};
use clap::{Args, Subcommand};

/// Look at sessions and end them: list, show, logs, stop, rm
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_long_help = "\
Without a command it lists them.

Examples:
  agentd sessions --active
  agentd sessions logs -f 01a1fd67-6c0a-7771-abbc-37bf84455dd4
  agentd sessions stop --now 01a1fd67-6c0a-7771-abbc-37bf84455dd4"
)]
pub(crate) struct SessionsArgs {
    #[command(subcommand)]
    command: Option<SessionsCommand>,
    #[command(flatten)]
    list: list::ListArgs,
}

#[derive(Debug, Subcommand)]
enum SessionsCommand {
    List(list::ListArgs),
    Show(show::ShowArgs),
    Logs(logs::LogsArgs),
    Stop(stop::StopArgs),
    Rm(stop::RmArgs),
}

impl SessionsArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self.command {
            None => self.list.run(context).await,
            Some(SessionsCommand::List(args)) => args.run(context).await,
            Some(SessionsCommand::Show(args)) => args.run(context).await,
            Some(SessionsCommand::Logs(args)) => args.run(context).await,
            Some(SessionsCommand::Stop(args)) => args.run(context).await,
            Some(SessionsCommand::Rm(args)) => args.run(context).await,
        }
    }
}
