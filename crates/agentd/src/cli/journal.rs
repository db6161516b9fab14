//! `agentd journal`: what happened, and what happens.

use super::Context;
use crate::console::{Tone, one_line, shortened};
use crate::endpoint::Reconnect;
use crate::failure::{Exit, Failure};
use agentd_protocol::journal::{JournalEntry, action};
use agentd_protocol::requests::{JournalFilter, ReadJournal, SubscribeJournal};
use agentd_protocol::results::JournalPage;
use agentd_protocol::{Method, NodeId, TaskId, limits};
use clap::Args;

/// Read the journal: every change of state, in the order in which it became true
#[derive(Debug, Args)]
#[command(after_long_help = "\
Without --from and --last it shows the newest 50 entries. With --follow it goes on until Ctrl-C, through restarts of
the daemon too.

Examples:
  agentd journal --last 200 --action FAIL_NODE --action ROLLBACK_NODE
  agentd journal --follow --task 0198…
  agentd --json journal --from 0 > journal.jsonl")]
pub(crate) struct JournalArgs {
    /// Go on with new entries as they are written
    #[arg(long, short)]
    follow: bool,
    /// From this number on; 0 is the beginning
    #[arg(long, value_name = "SEQ", conflicts_with = "last")]
    from: Option<i64>,
    /// The newest so many entries
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    last: Option<u32>,
    /// Only of this task
    #[arg(long, value_name = "ID")]
    task: Option<TaskId>,
    /// Only of this node
    #[arg(long, value_name = "ID")]
    node: Option<NodeId>,
    /// Only entries of this kind; may be repeated
    #[arg(long, value_name = "NAME")]
    action: Vec<String>,
}

impl JournalArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let filter = JournalFilter {
            session_id: None,
            task_id: self.task,
            node_id: self.node,
            action_types: self.action.clone(),
        };
        let mut next = self.history(context, &filter).await?;
        if !self.follow {
            return Ok(Exit::Ok);
        }
        // The history came over another connection: what was written in between is asked for by number.
        loop {
            let client = Reconnect::forever(context).client().await?;
            let request = SubscribeJournal {
                from_seq: Some(next),
                filter: filter.clone(),
            };
            let mut subscription = match client.subscribe(&request).await {
                Ok(subscription) => subscription,
                // Connected to a daemon that was on its way out.
                Err(error) => {
                    Reconnect::worth_it(error)?;
                    continue;
                }
            };
            let ended = loop {
                match subscription.next().await {
                    Ok(Some(entry)) => {
                        next = entry.seq + 1;
                        print(context, &entry)?;
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            if let Some(error) = ended {
                Reconnect::worth_it(error)?;
            }
        }
    }

    // Prints what there is and says where to go on.
    async fn history(&self, context: &Context, filter: &JournalFilter) -> Result<i64, Failure> {
        let mut client = context.connect().await?;
        let last = match (self.from, self.last) {
            (Some(_), _) => None,
            (None, None) => Some(50),
            // A page of nothing cannot be asked for; its end can.
            (None, Some(last)) => Some(last.max(1)),
        };
        let mut request = ReadJournal {
            from_seq: self.from,
            last,
            limit: last.is_none().then_some(limits::PAGE_DEFAULT),
            filter: filter.clone(),
        };
        loop {
            let page: JournalPage = client.call(Method::ReadJournal, &request).await?;
            if self.last != Some(0) {
                page.entries.iter().try_for_each(|entry| print(context, entry))?;
            }
            if page.next_seq > page.last_seq || last.is_some() {
                return Ok(page.next_seq);
            }
            request.from_seq = Some(page.next_seq);
        }
    }
}

fn print(context: &Context, entry: &JournalEntry) -> Result<(), Failure> {
    if context.console.json {
        return context.console.json_line(entry);
    }
    context.console.line(&readable(context, entry))
}

fn readable(context: &Context, entry: &JournalEntry) -> String {
    let tone = match entry.action_type.as_str() {
        action::FAIL_NODE | action::ROLLBACK_NODE | action::CANCEL_TASK | action::LOCK_EXPIRED => Tone::Bad,
        action::COMPLETE_NODE => Tone::Good,
        action::ACQUIRE_NODE | action::REGISTER_TASK => Tone::Active,
        _ => Tone::Plain,
    };
    let kind = context
        .console
        .toned(tone, &format!("{:<15}", one_line(&entry.action_type)));
    let mut line = format!("{:>7}  {}  {kind}", entry.seq, entry.timestamp);
    if let Some(task) = entry.task_id {
        line.push_str(&format!("  task {task}"));
    }
    if let Some(node) = entry.node_id {
        line.push_str(&format!("  node {node}"));
    }
    let payload = entry.payload.text();
    if payload != "{}" && payload != "null" {
        // Results can be a megabyte. Whoever wants them whole asks for --json.
        let room = context
            .console
            .columns()
            .map_or(200, |columns| columns.saturating_sub(60).max(40));
        line.push_str("  ");
        line.push_str(
            &context
                .console
                .toned(Tone::Faint, &shortened(&one_line(payload), room)),
        );
    }
    line
}
