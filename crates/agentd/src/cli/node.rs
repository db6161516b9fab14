//! `agentd node`: what a worker does, from a shell.

use super::{Context, values};
use crate::failure::{Exit, Failure};
use agentd_protocol::requests::{
    AcquireNextNode, CommitEvent, CompleteNode, FailNode, HeartbeatNode, ReleaseNode,
};
use agentd_protocol::results::{AcquiredNode, Committed, Completed, Extended, Failed, Ok as Done};
use agentd_protocol::{Json, LeaseId, Method, NodeId, TaskId};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Work on nodes: acquire, heartbeat, complete, fail, event, release
#[derive(Debug, Subcommand)]
#[command(after_long_help = "\
The commands of a plan find AGENTD_TASK_ID, AGENTD_NODE_ID and AGENTD_LEASE_ID in their environment, so inside one
`agentd node event '{\"progress\": 50}'` is enough.")]
pub(crate) enum NodeCommand {
    Acquire(AcquireArgs),
    Heartbeat(HeartbeatArgs),
    Complete(CompleteArgs),
    Fail(FailArgs),
    Event(EventArgs),
    Release(ReleaseArgs),
}

impl NodeCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Acquire(args) => args.run(context).await,
            Self::Heartbeat(args) => args.run(context).await,
            Self::Complete(args) => args.run(context).await,
            Self::Fail(args) => args.run(context).await,
            Self::Event(args) => args.run(context).await,
            Self::Release(args) => args.run(context).await,
        }
    }
}

/// Which lease.
#[derive(Debug, Args)]
struct Leased {
    /// The task
    #[arg(long, value_name = "ID", env = "AGENTD_TASK_ID")]
    task: TaskId,
    /// The node
    #[arg(long, value_name = "ID", env = "AGENTD_NODE_ID")]
    node: NodeId,
    /// The lease
    #[arg(long, value_name = "ID", env = "AGENTD_LEASE_ID", hide_env_values = true)]
    lease: LeaseId,
}

/// What is told.
#[derive(Debug, Args)]
struct Payload {
    /// JSON, or - for stdin
    #[arg(value_name = "JSON")]
    payload: Option<String>,
    /// Read the JSON from this file
    #[arg(long, value_name = "PATH", conflicts_with = "payload")]
    file: Option<PathBuf>,
}

impl Payload {
    fn read(&self) -> Result<Json, Failure> {
        Ok(values::json(self.payload.as_deref(), self.file.as_deref())?.unwrap_or_else(Json::null))
    }
}

fn answer<T: Serialize>(context: &Context, result: &T, sentence: &str) -> Result<Exit, Failure> {
    if context.console.json {
        context.console.document(result)?;
    } else {
        context.console.status(sentence);
    }
    Ok(Exit::Ok)
}

/// Lease the next runnable node, and print it with its context
#[derive(Debug, Args)]
#[command(after_long_help = "\
Ends with 75 when no node is runnable.

Examples:
  agentd node acquire --task 0198…
  agentd --json node acquire --wait 5m --capability gpu | jq -r .lease_id")]
pub(crate) struct AcquireArgs {
    /// Only of this task; without it, of any
    #[arg(long, value_name = "ID")]
    task: Option<TaskId>,
    /// Wait so long for a node to become runnable: 30s, 5m, forever
    #[arg(long, value_name = "DURATION", value_parser = values::wait)]
    wait: Option<Duration>,
    /// How long the lease lasts without a heartbeat [default: the daemon's node timeout]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    lease: Option<Duration>,
    /// What you can do; may be repeated
    #[arg(long, value_name = "NAME")]
    capability: Vec<String>,
    /// Who you are [default: user, program and process]
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
}

impl AcquireArgs {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let until = Instant::now() + self.wait.unwrap_or_default();
        let owner = self.owner.unwrap_or_else(|| context.owner("node"));
        let mut client = context.connect().await?;
        let acquired: AcquiredNode = loop {
            let left = until.saturating_duration_since(Instant::now());
            let request = AcquireNextNode {
                task_id: self.task,
                lease_owner: Some(owner.clone()),
                capabilities: (!self.capability.is_empty()).then(|| self.capability.clone()),
                work_only: false,
                wait_secs: Some(values::wait_secs(left)),
                lease_secs: self.lease.map(values::whole_secs),
            };
            match client
                .call::<_, Option<AcquiredNode>>(Method::AcquireNextNode, &request)
                .await?
            {
                Some(acquired) => break acquired,
                None if Instant::now() < until => {}
                None => {
                    if context.console.json {
                        context.console.document(&Json::null())?;
                    }
                    let failure = Failure::new(Exit::TryAgain, "no node is runnable");
                    return Err(failure.hint("wait for one with --wait 5m"));
                }
            }
        };
        if context.console.json {
            context.console.document(&acquired)?;
            return Ok(Exit::Ok);
        }
        context.console.fields(&[
            ("task", acquired.task_id.to_string()),
            ("node", acquired.node_id.to_string()),
            ("name", acquired.context.node.name.clone().unwrap_or_default()),
            ("lease", acquired.lease_id.to_string()),
            ("fence", acquired.fence.to_string()),
            ("attempt", acquired.attempt.to_string()),
            ("expires", shown_unix(acquired.lease_expires_at)),
            ("goal", acquired.context.task.goal.clone()),
        ])?;
        let shown = serde_json::to_string_pretty(&Json::of(&acquired.context).to_value()).unwrap_or_default();
        context.console.line(&format!("context  {shown}"))?;
        Ok(Exit::Ok)
    }
}

/// Unix seconds for people.
pub(crate) fn shown_unix(secs: i64) -> String {
    agentd_protocol::Timestamp {
        unix_ms: secs.saturating_mul(1000),
    }
    .to_string()
    .replace(".000Z", "Z")
}

/// Extend a lease
#[derive(Debug, Args)]
pub(crate) struct HeartbeatArgs {
    #[command(flatten)]
    leased: Leased,
    /// How long it lasts from now on [default: as long as it was granted for]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    length: Option<Duration>,
}

impl HeartbeatArgs {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = HeartbeatNode {
            task_id: self.leased.task,
            node_id: self.leased.node,
            lease_id: self.leased.lease,
            lease_secs: self.length.map(values::whole_secs),
        };
        let done: Extended = context
            .connect()
            .await?
            .call(Method::HeartbeatNode, &request)
            .await?;
        answer(
            context,
            &done,
            &format!("the lease lasts until {}", shown_unix(done.lease_expires_at)),
        )
    }
}

/// Complete a leased node with its result
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  agentd node complete --task T --node N --lease L '{\"answer\": 42}'
  agentd node complete --task T --node N --lease L --file result.json")]
pub(crate) struct CompleteArgs {
    #[command(flatten)]
    leased: Leased,
    #[command(flatten)]
    result: Payload,
    /// The same key with the same result again changes nothing
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl CompleteArgs {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = CompleteNode {
            task_id: self.leased.task,
            node_id: self.leased.node,
            lease_id: self.leased.lease,
            result_payload: self.result.read()?,
            add_nodes: Vec::new(),
            idempotency_key: self.idempotency_key,
        };
        let done: Completed = context
            .connect()
            .await?
            .call(Method::CompleteNode, &request)
            .await?;
        answer(context, &done, &format!("node {} is completed", self.leased.node))
    }
}

/// Fail a leased node
#[derive(Debug, Args)]
pub(crate) struct FailArgs {
    #[command(flatten)]
    leased: Leased,
    #[command(flatten)]
    error: Payload,
    /// Another attempt would be pointless, whatever the retry policy says
    #[arg(long)]
    permanent: bool,
    /// The same key with the same error again changes nothing
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl FailArgs {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = FailNode {
            task_id: self.leased.task,
            node_id: self.leased.node,
            lease_id: self.leased.lease,
            error_payload: self.error.read()?,
            permanent: self.permanent,
            idempotency_key: self.idempotency_key,
        };
        let done: Failed = context.connect().await?.call(Method::FailNode, &request).await?;
        let sentence = match done.retry_at {
            Some(at) => format!(
                "node {} has failed and is tried again from {at} on",
                self.leased.node
            ),
            None => format!("node {} has failed", self.leased.node),
        };
        answer(context, &done, &sentence)
    }
}

/// Write an event about a node into the journal
#[derive(Debug, Args)]
pub(crate) struct EventArgs {
    /// The task
    #[arg(long, value_name = "ID", env = "AGENTD_TASK_ID")]
    task: TaskId,
    /// The node
    #[arg(long, value_name = "ID", env = "AGENTD_NODE_ID")]
    node: NodeId,
    /// The lease, while the node is RUNNING
    #[arg(long, value_name = "ID", env = "AGENTD_LEASE_ID", hide_env_values = true)]
    lease: Option<LeaseId>,
    /// What kind of event [default: COMMIT_EVENT]
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
    #[command(flatten)]
    event: Payload,
}

impl EventArgs {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = CommitEvent {
            task_id: self.task,
            node_id: self.node,
            lease_id: self.lease,
            action_type: self.action,
            payload: self.event.read()?,
        };
        let done: Committed = context
            .connect()
            .await?
            .call(Method::CommitEvent, &request)
            .await?;
        answer(
            context,
            &done,
            &format!("event {} is in the journal", done.event_id),
        )
    }
}

/// Give a leased node back undone; the attempt does not count
#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    #[command(flatten)]
    leased: Leased,
}

impl ReleaseArgs {
    async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = ReleaseNode {
            task_id: self.leased.task,
            node_id: self.leased.node,
            lease_id: self.leased.lease,
        };
        let done: Done = context
            .connect()
            .await?
            .call(Method::ReleaseNode, &request)
            .await?;
        answer(
            context,
            &done,
            &format!("node {} is given back", self.leased.node),
        )
    }
}
