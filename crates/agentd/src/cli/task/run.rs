//! `agentd task run`: a plan from beginning to end, or from where it stopped.
//!
//! ```text
//!   a daemon to talk to (the one that runs, or this process) ─▶ the plan's task (new, or unfinished)
//!     ─▶ a worker for its commands, its progress on stderr, both through the daemon's socket
//!     ─▶ each node's outcome, and the result
//! ```
//!
//! Nothing that matters is in this process's memory: whatever kills it, the same command goes on.

use super::super::Context;
use super::super::values::{self, shown_duration};
use super::super::worker::{remarkable, worker};
use super::merged;
use super::progress::{Display, Progress};
use super::reclaim::reclaim;
use super::register::{PlanArgs, Registered, Wish, register};
use super::report::{self, Outcome, node_pages, shown_counts, shown_error};
use crate::console::Tone;
use crate::daemon::process::{Signals, exit_number};
use crate::endpoint::{Host, Reconnect};
use crate::failure::{Exit, Failure};
use agentd_protocol::results::TaskStatusResult;
use agentd_protocol::{NodeStatus, Reason, TaskState};
use agentd_runner::plan::BoundPlan;
use agentd_runner::worker::output::NodeOutput;
use agentd_runner::worker::{Shutdown, WorkerEvent};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

/// Nodes that the table in the end shows; of larger plans only those that are not completed.
const ROWS_MAX: usize = 100;

/// Run a plan, or go on with it where it stopped
#[derive(Debug, Args)]
#[command(after_long_help = "\
The same plan with the same arguments goes on with the task that is unfinished: interrupted, killed, or with failed
nodes that may run again (--retry, or `agentd task retry`). No completed node runs twice. When that task is finished,
the same command starts afresh.

When the plan has changed, --retry keeps the results of finished nodes that did not change and need nothing that did, says
which those are, and runs the others. Comments and layout are no change.

The daemon that runs is used; when none runs, this process is the daemon for as long as the run takes, so that
`agentd task list` and the like work meanwhile.

Nodes for agents are run by the daemon, in sessions of their own; this command waits for them. With --agent that goes
for the plan's commands as well: they run in the agent's container, and go on there when this is interrupted.

Progress goes to stderr, the result to stdout. Ends with 0 when every node is completed, and with 1 when one has
failed. Ctrl-C stops the commands and gives their nodes back; once more stops at once.

Examples:
  agentd task run plans/survey.toml
  agentd task run plans/survey.toml ~/src/project
  agentd task run build.toml --arg target=release --slots 4
  agentd task run build.toml --agent sandbox")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    plan: PlanArgs,
    /// Start afresh, and cancel the unfinished task of the same plan and arguments
    #[arg(long)]
    new: bool,
    /// Go on with the run before: its failed nodes run again; when the plan has changed since, its finished nodes are kept
    /// where nothing changed
    #[arg(long, conflicts_with = "new")]
    retry: bool,
    /// How many commands at once [default: the number of processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    slots: Option<u16>,

    /// What this machine can do, for nodes that ask for it; may be repeated
    #[arg(long, value_name = "NAME")]
    capability: Vec<String>,
}

/// How the work ended.
enum Ended {
    Finished,
    Interrupted(&'static str),
}

impl RunArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let began = Instant::now();
        let plan = self.plan.bind()?;
        let mut signals =
            Signals::new().map_err(|error| Failure::internal(format!("cannot handle signals: {error}")))?;
        let mut host = tokio::select! {
            host = Host::start(context) => host?,
            signal = signals.next() => return Ok(Exit::Passed(exit_number(signal))),
        };
        let outcome = self.with(context, &plan, &mut host, &mut signals, began).await;
        context.console.set_bar(None);
        // Somebody who is impatient by now loses nothing.
        tokio::select! {
            () = host.stop() => {}
            _ = signals.next() => {}
        }
        outcome
    }

    async fn with(
        &self,
        context: &Context,
        plan: &BoundPlan,
        host: &mut Host<'_>,
        signals: &mut Signals,
        began: Instant,
    ) -> Result<Exit, Failure> {
        let registered = tokio::select! {
            registered = self.registered(context, plan) => registered?,
            failure = host.keep() => return Err(failure),
            signal = signals.next() => return Ok(interrupted(context, signal)),
        };
        let lacking: Vec<&str> = plan
            .capabilities()
            .into_iter()
            .filter(|name| !self.capability.iter().any(|own| own == name))
            .collect();
        if !lacking.is_empty() {
            let names = lacking.join(" --capability ");
            context.console.status(&format!(
                "some nodes ask for what this run does not offer; they wait for `agentd worker --capability {names}`, \
                 or for this command with --capability {names}"
            ));
        }
        match self.work(context, &registered, host, signals).await? {
            Ended::Finished => {}
            Ended::Interrupted(signal) => return Ok(interrupted(context, signal)),
        }
        tokio::select! {
            exit = finish(context, &registered, began) => exit,
            failure = host.keep() => Err(failure),
        }
    }

    // Goes on until it is done: the caller sees to it that there is a daemon.
    async fn registered(&self, context: &Context, plan: &BoundPlan) -> Result<Registered, Failure> {
        let mut wish = match (self.new, self.retry) {
            (true, _) => Wish::Afresh,
            (false, true) => Wish::Retry,
            (false, false) => Wish::Continue,
        };
        loop {
            let mut client = Reconnect::quietly(context).client().await?;
            let attempt = async {
                super::agents::check(&mut client, plan).await?;
                let registered = register(context, &mut client, plan, &mut wish, false).await?;
                if registered.continued {
                    reclaim(context, &mut client, registered.task_id).await?;
                }
                Ok::<_, Failure>(registered)
            };
            match attempt.await {
                Err(failure) if passes(&failure) => {}
                other => return other,
            }
        }
    }

    async fn work(
        &self,
        context: &Context,
        registered: &Registered,
        host: &mut Host<'_>,
        signals: &mut Signals,
    ) -> Result<Ended, Failure> {
        let mut worker = worker(context, Some(registered.task_id), self.slots);
        worker
            .options
            .capabilities
            .extend(self.capability.iter().cloned());
        let (events, mut told) = tokio::sync::mpsc::channel::<WorkerEvent>(256);
        worker.options.on_event = Arc::new(move |event| {
            // For people only, and never worth waiting for.
            let _ = events.try_send(event);
        });
        let shutdown = Shutdown::default();
        let display = match &context.console {
            console if console.json => Display::Nothing,
            console if console.stderr_is_terminal => Display::Bar,
            _ => Display::StatusLines,
        };
        let mut progress = Progress::new(context, registered.task_id, display, true);
        let (watching, working) = (progress.until_finished(), worker.run(shutdown.clone()));
        // One future for the whole time: begun anew after each event, it might miss that the daemon changed.
        let keeping = host.keep();
        tokio::pin!(watching, working, keeping);
        let (mut finished, mut signalled) = (None, None);
        let outcome = loop {
            tokio::select! {
                // First: a task that is finished is not interrupted any more.
                biased;
                status = &mut watching, if finished.is_none() => {
                    finished = Some(status);
                    shutdown.soft.cancel();
                }
                ended = &mut working => break ended.map_err(Failure::from),
                Some(event) = told.recv() => {
                    if let Some(text) = remarkable(context, &event) {
                        context.console.status(&text);
                    }
                }
                failure = &mut keeping => {
                    shutdown.hard.cancel();
                    let _ = working.await;
                    break Err(failure);
                }
                signal = signals.next() => {
                    if signalled.replace(signal).is_none() {
                        context.console.status("stopping what runs; once more stops at once");
                        shutdown.soft.cancel();
                    } else {
                        // Dropping the worker kills its commands, through their supervisors.
                        shutdown.hard.cancel();
                        break Ok(());
                    }
                }
            }
        };
        context.console.set_bar(None);
        outcome?;
        match (finished, signalled) {
            (Some(status), _) => status.map(|_| Ended::Finished),
            (None, Some(signal)) => Ok(Ended::Interrupted(signal)),
            (None, None) => Err(Failure::internal("the worker ended by itself")),
        }
    }
}

fn passes(failure: &Failure) -> bool {
    failure.exit == Exit::Unreachable || matches!(failure.reason, Some(Reason::ShuttingDown | Reason::Busy))
}

fn interrupted(context: &Context, signal: &'static str) -> Exit {
    let text = "interrupted; the same command goes on where this stopped";
    context
        .console
        .status(&context.console.toned_status(Tone::Bad, text));
    Exit::Passed(exit_number(signal))
}

async fn finish(context: &Context, registered: &Registered, began: Instant) -> Result<Exit, Failure> {
    loop {
        let mut client = Reconnect::quietly(context).client().await?;
        let gathered = async {
            let mut status = node_pages(&mut client, registered.task_id, true, usize::MAX).await?;
            report::add_payloads(&mut client, &mut status).await?;
            let outcome = report::outcome(&mut client, &status).await?;
            Ok::<_, agentd_client::ClientError>((status, outcome))
        };
        match gathered.await {
            Ok((status, outcome)) => return show(context, registered, &status, outcome, began),
            Err(error) => Reconnect::worth_it(error)?,
        }
    }
}

fn show(
    context: &Context,
    registered: &Registered,
    status: &TaskStatusResult,
    outcome: Option<Outcome>,
    began: Instant,
) -> Result<Exit, Failure> {
    let completed = status.state == TaskState::Completed;
    let exit = if completed { Exit::Ok } else { Exit::Failed };
    if context.console.json {
        context
            .console
            .document(&document(registered, status, outcome.as_ref()))?;
        return Ok(exit);
    }
    let shown: Vec<_> = if status.nodes.len() <= ROWS_MAX {
        status.nodes.clone()
    } else {
        let open = status
            .nodes
            .iter()
            .filter(|node| node.status != NodeStatus::Completed);
        open.take(ROWS_MAX).cloned().collect()
    };
    if !shown.is_empty() {
        context.console.status("");
        report::status_table(&context.console, &shown, values::now_secs());
        context.console.status("");
    }
    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let verdict = context
        .console
        .toned_status(report::state_tone(status.state), status.state.as_str());
    context.console.status(&format!(
        "{verdict}: {} in {}",
        shown_counts(&status.counts),
        shown_duration(ms)
    ));
    for line in merged::unmerged(&status.nodes) {
        context
            .console
            .status(&context.console.toned_status(Tone::Active, &line));
    }
    if let Some(outcome) = &outcome {
        show_result(context, outcome)?;
    }
    if status.state == TaskState::Failed {
        context.console.status(
            "the same command with --retry lets the failed nodes run again; without, it starts afresh",
        );
    }
    Ok(exit)
}

fn show_result(context: &Context, outcome: &Outcome) -> Result<(), Failure> {
    context.console.status(&format!("result of {}:", outcome.node));
    let text = match &outcome.value {
        Some(Value::String(text)) => text.clone(),
        Some(value) if !value.is_null() => serde_json::to_string_pretty(value).unwrap_or_default(),
        _ => match &outcome.output {
            Some(output) => return show_output(context, output),
            None => outcome.payload.text().to_owned(),
        },
    };
    context.console.raw(&text)?;
    if !text.is_empty() && !text.ends_with('\n') {
        context.console.raw("\n")?;
    }
    Ok(())
}

// Byte for byte: it may be what another program reads. Only a text's last line is given its end.
fn show_output(context: &Context, output: &NodeOutput) -> Result<(), Failure> {
    context.console.raw(&output.bytes)?;
    let ends = output.bytes.last().is_none_or(|&byte| byte == b'\n');
    if !ends && std::str::from_utf8(&output.bytes).is_ok() {
        context.console.raw("\n")?;
    }
    if output.omitted_bytes > 0 {
        context.console.status(&format!(
            "{} bytes of it were not kept; what is large belongs in a file in $AGENTD_ARTIFACTS",
            output.omitted_bytes
        ));
    }
    Ok(())
}

fn document(registered: &Registered, status: &TaskStatusResult, outcome: Option<&Outcome>) -> Value {
    let nodes: Vec<Value> = status
        .nodes
        .iter()
        .map(|node| {
            let payload = node
                .result_payload
                .as_ref()
                .map(agentd_protocol::Json::to_value)
                .unwrap_or_default();
            let error = (node.status == NodeStatus::Failed).then(|| shown_error(&payload));
            let mut shown = json!({
                "id": node.id,
                "name": node.name,
                "status": node.status,
                "attempt": node.attempt,
                "duration_ms": payload["duration_ms"],
                "error": error,
                "blocked_by": node.blocked_by,
            });
            if let Some(work) = merged::work_of(&payload) {
                shown["branch"] = work.branch.into();
                shown["merged"] = work.is_merged.into();
                shown["reason"] = work.reason.into();
            }
            shown
        })
        .collect();
    let result = outcome.map(|outcome| {
        let mut result = json!({ "node": outcome.node, "value": outcome.value, "stdout": null });
        if let Some(output) = &outcome.output {
            result["stdout"] = String::from_utf8_lossy(&output.bytes).into();
            if std::str::from_utf8(&output.bytes).is_err() {
                result["stdout_base64"] = STANDARD.encode(&output.bytes).into();
            }
            if output.omitted_bytes > 0 {
                result["stdout_omitted_bytes"] = output.omitted_bytes.into();
            }
        }
        result
    });
    json!({
        "task_id": registered.task_id,
        "state": status.state,
        "continued": registered.continued,
        "kept_from": registered.kept.as_ref().map(|kept| kept.from),
        "kept": registered.kept.as_ref().map(|kept| &kept.nodes),
        "counts": status.counts,
        "nodes": nodes,
        "result": result,
    })
}
