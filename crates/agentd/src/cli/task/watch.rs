//! `agentd task watch`.

use super::super::{Context, values};
use super::progress::{Display, Progress};
use super::report::shown_counts;
use crate::failure::{Exit, Failure};
use agentd_protocol::{TaskId, TaskState};
use clap::Args;
use std::time::Duration;

/// Watch a task until it is finished
#[derive(Debug, Args)]
#[command(after_long_help = "\
Ends with 0 when the task is completed, and with 1 when it has failed or was cancelled. With --json it prints the
journal's entries of the task.")]
pub(crate) struct WatchArgs {
    /// The task
    #[arg(value_name = "TASK")]
    task: TaskId,
    /// Give up watching after so long, with 124; the task goes on
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    timeout: Option<Duration>,
}

impl WatchArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        // Without a daemon there is nothing to watch: said at once, and not after waiting for one.
        drop(context.connect().await?);
        let display = match &context.console {
            console if console.json => Display::Entries,
            console if console.stderr_is_terminal => Display::Bar,
            _ => Display::DataLines,
        };
        let mut progress = Progress::new(context, self.task, display, false);
        let patience = self.timeout.map(|timeout| tokio::time::Instant::now() + timeout);
        let status = tokio::select! {
            status = progress.until_finished() => status?,
            () = async { tokio::time::sleep_until(patience.unwrap_or_else(tokio::time::Instant::now)).await },
                if patience.is_some() =>
            {
                context.console.set_bar(None);
                let message = format!("task {} is not finished yet", self.task);
                return Err(Failure::new(Exit::Timeout, message).hint("it goes on; watch it longer"));
            }
        };
        context
            .console
            .status(&format!("{}: {}", status.state, shown_counts(&status.counts)));
        Ok(if status.state == TaskState::Completed {
            Exit::Ok
        } else {
            Exit::Failed
        })
    }
}
