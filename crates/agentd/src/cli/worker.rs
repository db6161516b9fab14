//! `agentd worker`: runs the command nodes of any task.

use super::{Context, values};
use crate::console::{Tone, one_line};
use crate::daemon::process::Signals;
use crate::failure::{Exit, Failure};
use agentd_client::Client;
use agentd_protocol::TaskId;
use agentd_runner::worker::{Connect, NodeRef, Shutdown, Worker, WorkerError, WorkerEvent, WorkerOptions};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;

/// How long a worker's leases last without a heartbeat. Long enough that commands run on while a daemon that went
/// away comes back or is replaced, short enough that the nodes of a worker that vanished are soon somebody else's.
pub(super) const LEASE_SECS: u64 = 10;

/// Run the command nodes of any task, by capability, until it is told to stop
#[derive(Debug, Args)]
#[command(after_long_help = "\
Ctrl-C or SIGTERM: no new nodes, what runs is stopped and given back. Once more: at once.

Example:
  agentd worker --capability gpu --slots 2")]
pub(crate) struct WorkerArgs {
    /// What this worker can do; may be repeated. A node that asks for more is left to others
    #[arg(long, value_name = "NAME")]
    capability: Vec<String>,
    /// How many commands at once [default: the number of processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    slots: Option<u16>,
}

impl WorkerArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        // Without a daemon a worker waits for one only after it has seen one: a wrong socket is said at once.
        drop(context.connect().await?);
        let mut signals =
            Signals::new().map_err(|error| Failure::internal(format!("cannot handle signals: {error}")))?;
        let mut worker = worker(context, None, self.slots);
        worker.options.capabilities = self.capability;
        let console = context.console.clone();
        worker.options.on_event = Arc::new(move |event| {
            if console.json {
                // Nobody reads it any more: the worker goes on.
                let _ = console.json_line(&event_json(&event));
            } else {
                console.status(&sentence(&event));
            }
        });
        let shutdown = Shutdown::default();
        let running = worker.run(shutdown.clone());
        tokio::pin!(running);
        context.console.status("waiting for nodes (Ctrl-C ends this)");
        let mut stopped = None;
        loop {
            tokio::select! {
                ended = &mut running => {
                    ended?;
                    return Ok(stopped.map_or(Exit::Ok, |signal| match signal {
                        "SIGINT" => Exit::Interrupted,
                        _ => Exit::Ok,
                    }));
                }
                signal = signals.next() => {
                    if stopped.replace(signal).is_some() {
                        shutdown.hard.cancel();
                    } else {
                        context.console.status("stopping; once more stops at once");
                        shutdown.soft.cancel();
                    }
                }
            }
        }
    }
}

impl From<WorkerError> for Failure {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::Refused(error) => error.into(),
            WorkerError::Unreachable { source, .. } => source.into(),
            WorkerError::RuntimeDir { .. } => Self::config(error.to_string()),
            WorkerError::Options(message) => Self::usage(message),
            error => Self::internal(error.to_string()),
        }
    }
}

/// A worker for this machine, of one task or of any.
pub(super) fn worker(context: &Context, task_id: Option<TaskId>, slots: Option<u16>) -> Worker {
    let settings = &context.settings;
    let socket: PathBuf = settings.socket.clone();
    let connect: Connect = Arc::new(move || {
        let socket = socket.clone();
        Box::pin(async move { Client::connect(&socket).await })
    });
    let mut options = WorkerOptions::new(
        super::owner::of_this_process(context),
        settings.socket.clone(),
        settings.artifact_dir.clone(),
        settings.home.join("run"),
    );
    options.task_id = task_id;
    options.lease_secs = LEASE_SECS;
    if let Some(slots) = slots {
        options.slots = slots.into();
    }
    Worker { connect, options }
}

fn name(node: &NodeRef) -> String {
    let name = node
        .name
        .as_deref()
        .map_or_else(|| node.node_id.to_string(), one_line);
    if node.attempt > 1 {
        format!("{name} (attempt {})", node.attempt)
    } else {
        name
    }
}

fn sentence(event: &WorkerEvent) -> String {
    match event {
        WorkerEvent::Disconnected { why } => format!("the daemon is gone ({why}); trying again"),
        WorkerEvent::Reconnected => "the daemon is back".into(),
        WorkerEvent::Started { node } => format!("start {}", name(node)),
        WorkerEvent::Completed { node, duration } => {
            let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            format!("done  {} ({})", name(node), values::shown_duration(ms))
        }
        WorkerEvent::Failed {
            node,
            message,
            retry_at,
            ..
        } => {
            let again = retry_at
                .map(|at| format!("; next attempt at {at}"))
                .unwrap_or_default();
            format!("fail  {}: {}{again}", name(node), one_line(message))
        }
        WorkerEvent::Lost { node, why } => format!("lost  {}: {}", name(node), one_line(why)),
        WorkerEvent::Released { node } => format!("back  {}: given back", name(node)),
        WorkerEvent::NotOurs { node } => format!("back  {}: it is no command", name(node)),
        WorkerEvent::Swept { killed } => {
            format!(
                "{} of an earlier run ended",
                values::count((*killed).into(), "process that was left")
            )
        }
        other => format!("{other:?}"),
    }
}

fn event_json(event: &WorkerEvent) -> serde_json::Value {
    let (kind, node) = match event {
        WorkerEvent::Disconnected { .. } => ("disconnected", None),
        WorkerEvent::Reconnected => ("reconnected", None),
        WorkerEvent::Started { node } => ("started", Some(node)),
        WorkerEvent::Completed { node, .. } => ("completed", Some(node)),
        WorkerEvent::Failed { node, .. } => ("failed", Some(node)),
        WorkerEvent::Lost { node, .. } => ("lost", Some(node)),
        WorkerEvent::Released { node } => ("released", Some(node)),
        WorkerEvent::NotOurs { node } => ("not_ours", Some(node)),
        WorkerEvent::Swept { .. } => ("swept", None),
        _ => ("other", None),
    };
    let mut json = serde_json::json!({ "event": kind, "text": sentence(event) });
    if let Some(node) = node {
        json["task_id"] = serde_json::json!(node.task_id);
        json["node_id"] = serde_json::json!(node.node_id);
        json["name"] = serde_json::json!(node.name);
        json["attempt"] = serde_json::json!(node.attempt);
    }
    json
}

/// For messages about what a run does, in the colours of the rest.
pub(super) fn remarkable(context: &Context, event: &WorkerEvent) -> Option<String> {
    match event {
        WorkerEvent::Swept { .. } | WorkerEvent::NotOurs { .. } | WorkerEvent::Lost { .. } => {
            Some(context.console.toned_status(Tone::Faint, &sentence(event)))
        }
        _ => None,
    }
}
