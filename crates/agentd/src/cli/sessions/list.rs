//! `agentd sessions list`.

use super::super::{Context, values};
use super::outcome;
use crate::console::{Field, one_line};
use crate::failure::{Exit, Failure};
use agentd_protocol::requests::ListSessions;
use agentd_protocol::results::SessionList;
use agentd_protocol::{Method, SessionInfo, TaskId, TriggerKind};
use clap::Args;

/// List sessions, newest first
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only of this agent
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Only those that are not over
    #[arg(long, conflicts_with = "ended")]
    active: bool,
    /// Only those that are over
    #[arg(long)]
    ended: bool,
    /// Only those that worked on nodes of this task
    #[arg(long, value_name = "ID")]
    task: Option<TaskId>,
    /// At most so many
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Where to go on, as the page before said
    #[arg(long)]
    cursor: Option<String>,
}

impl ListArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let chosen = self.agent.is_some() || self.active || self.ended || self.task.is_some();
        let request = ListSessions {
            agent: self.agent,
            ended: match (self.active, self.ended) {
                (true, _) => Some(false),
                (_, true) => Some(true),
                (false, false) => None,
            },
            task_id: self.task,
            limit: Some(self.limit),
            cursor: self.cursor,
        };
        let list: SessionList = context
            .connect()
            .await?
            .call(Method::ListSessions, &request)
            .await?;
        if context.console.json {
            context.console.document(&list)?;
            return Ok(Exit::Ok);
        }
        if list.sessions.is_empty() {
            context.console.status(if chosen {
                "there is no such session; `agentd sessions` lists all of them"
            } else {
                "there is no session; `agentd run AGENT` makes one, and `agentd agents` lists the agents"
            });
            return Ok(Exit::Ok);
        }
        let rows = list.sessions.iter().map(row).collect();
        context.console.table(&HEADER, rows)?;
        if let Some(cursor) = list.next_cursor {
            context
                .console
                .status(&format!("there are more: --cursor {cursor}"));
        }
        Ok(Exit::Ok)
    }
}

const HEADER: [&str; 6] = ["session", "state", "age", "duration", "agent", "trigger"];

fn row(session: &SessionInfo) -> Vec<Field> {
    let (state, tone) = outcome::state(session);
    let duration = session.started_at.map_or_else(
        || "-".into(),
        |began| {
            let ended_ms = session
                .exited_at
                .map_or_else(|| values::now_secs().saturating_mul(1000), |at| at.unix_ms);
            let ms = ended_ms.saturating_sub(began.unix_ms);
            values::shown_duration(u64::try_from(ms).unwrap_or(0))
        },
    );
    let agent = match session.replica {
        Some(replica) if replica > 0 => format!("{} ({replica})", one_line(&session.agent)),
        _ => one_line(&session.agent),
    };
    let trigger = match (session.trigger.kind, session.task_id) {
        (TriggerKind::Node, Some(task)) => format!("node of task {task}"),
        (kind, _) => kind.as_str().to_owned(),
    };
    vec![
        session.id.into(),
        Field(state, tone),
        values::age(session.created_at).into(),
        duration.into(),
        agent.into(),
        trigger.into(),
    ]
}
