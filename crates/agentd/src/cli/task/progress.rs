//! A task as it goes on: the journal's entries, one by one, and where it stands after each.
//!
//! It subscribes first and asks for the status afterwards, so that nothing falls in between, and asks again after
//! entries came, at most ten times a second: the counts are the daemon's own and not a second bookkeeping.

use super::super::Context;
use super::super::values::shown_duration;
use super::merged::{self, Work};
use super::report::{node_name, node_pages, shown_counts, shown_error};
use crate::console::{Tone, one_line, shortened};
use crate::endpoint::Reconnect;
use crate::failure::Failure;
use agentd_client::{Client, ClientError, Subscription};
use agentd_protocol::journal::{JournalEntry, action};
use agentd_protocol::requests::{JournalFilter, SubscribeJournal, TaskStatus};
use agentd_protocol::results::TaskStatusResult;
use agentd_protocol::{Method, NodeId, NodeStatus, TaskId, Timestamp};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Nodes whose names are fetched beforehand; those of larger tasks go by their ids.
const NAMES_MAX: usize = 10_000;
/// Between two questions about where the task stands.
const REFRESH: Duration = Duration::from_millis(100);

/// Where what happens is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Display {
    /// A bar on stderr, what is remarkable above it.
    Bar,
    /// A line each on stderr.
    StatusLines,
    /// A line each on stdout.
    DataLines,
    /// The journal's entries on stdout, as JSON lines.
    Entries,
    /// Nowhere.
    Nothing,
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{spinner} [{elapsed}] {bar:24} {pos}/{len} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    // Only while there is something to wait for, and a person who waits for it.
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Follows one task.
#[derive(Debug)]
pub(super) struct Progress<'a> {
    context: &'a Context,
    task_id: TaskId,
    display: Display,
    bar: Option<ProgressBar>,
    /// The run itself sees to the daemon's return, and says so.
    quiet: bool,
    names: HashMap<NodeId, String>,
    running: BTreeMap<NodeId, Timestamp>,
    next_seq: Option<i64>,
    seen: Option<TaskStatusResult>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(context: &'a Context, task_id: TaskId, display: Display, quiet: bool) -> Self {
        Self {
            context,
            task_id,
            display,
            bar: None,
            quiet,
            names: HashMap::new(),
            running: BTreeMap::new(),
            next_seq: None,
            seen: None,
        }
    }

    /// Follows the task until it is finished, and gives how it stands then, without its nodes. Goes on through
    /// restarts of the daemon.
    ///
    /// # Errors
    /// When the daemon refuses, or stdout takes no more.
    pub(super) async fn until_finished(&mut self) -> Result<TaskStatusResult, Failure> {
        if self.display == Display::Bar {
            let bar = new_bar();
            self.bar = Some(bar.clone());
            self.context.console.set_bar(Some(bar));
        }
        let outcome = loop {
            match self.session().await {
                Ok(status) => break Ok(status),
                Err(End::Failure(failure)) => break Err(failure),
                Err(End::Connection(error)) => {
                    if let Err(failure) = Reconnect::worth_it(error) {
                        break Err(failure);
                    }
                }
            }
        };
        // What follows stands alone.
        self.context.console.set_bar(None);
        outcome
    }

    async fn client(&self) -> Result<Client, Failure> {
        let reconnect = if self.quiet {
            Reconnect::quietly(self.context)
        } else {
            Reconnect::forever(self.context)
        };
        reconnect.client().await
    }

    // As long as one connection lasts.
    async fn session(&mut self) -> Result<TaskStatusResult, End> {
        let filter = JournalFilter {
            task_id: Some(self.task_id),
            ..JournalFilter::default()
        };
        let request = SubscribeJournal {
            from_seq: self.next_seq,
            filter,
        };
        let mut subscription = self.client().await?.subscribe(&request).await?;
        let mut client = self.client().await?;
        if self.names.is_empty() {
            self.learn_names(&mut client).await?;
        }
        let mut refreshed = Instant::now();
        let mut status = self.refresh(&mut client).await?;
        let mut stale = false;
        while !status.state.is_finished() {
            tokio::select! {
                entry = next(&mut subscription) => {
                    let entry = entry?;
                    self.next_seq = Some(entry.seq + 1);
                    if entry.action_type == action::ADD_NODES {
                        self.learn_names(&mut client).await?;
                    }
                    self.show(&entry)?;
                    stale = true;
                }
                () = sleep_until(refreshed + REFRESH), if stale => {
                    status = self.refresh(&mut client).await?;
                    (stale, refreshed) = (false, Instant::now());
                }
            }
        }
        // What was written before it finished and has not been shown yet.
        while let Ok(Ok(entry)) =
            tokio::time::timeout(Duration::from_millis(20), next(&mut subscription)).await
        {
            self.next_seq = Some(entry.seq + 1);
            self.show(&entry)?;
        }
        Ok(status)
    }

    async fn learn_names(&mut self, client: &mut Client) -> Result<(), ClientError> {
        let status = node_pages(client, self.task_id, true, NAMES_MAX).await?;
        for node in &status.nodes {
            self.names.insert(node.id, node_name(node));
            if node.status == NodeStatus::Running {
                let unix_ms = node.acquired_at.unwrap_or_default().saturating_mul(1000);
                self.running.insert(node.id, Timestamp { unix_ms });
            }
        }
        Ok(())
    }

    async fn refresh(&mut self, client: &mut Client) -> Result<TaskStatusResult, ClientError> {
        let task_id = self.task_id;
        let request = TaskStatus {
            task_id,
            status: None,
            limit: Some(1),
            cursor: None,
            omit_payloads: true,
        };
        let status: TaskStatusResult = client.call(Method::TaskStatus, &request).await?;
        if let Some(bar) = &self.bar {
            bar.set_length(status.counts.total());
            bar.set_position(status.counts.completed + status.counts.failed);
            let names: Vec<&str> = self.running.keys().map(|node| self.name(node)).collect();
            // The bar cuts it to what the terminal has room for.
            let running = shortened(&names.join(", "), 200);
            let mut message = String::new();
            if status.state == agentd_protocol::TaskState::Paused {
                message.push_str("paused ");
            }
            if status.counts.failed > 0 {
                message.push_str(&format!("({} failed) ", status.counts.failed));
            }
            bar.set_message(message + &running);
        }
        if self.seen.is_none() && matches!(self.display, Display::StatusLines | Display::DataLines) {
            self.line(&format!(
                "{}: {}",
                one_line(&status.task.goal),
                shown_counts(&status.counts)
            ));
        }
        self.seen = Some(status.clone());
        Ok(status)
    }

    fn name(&self, node: &NodeId) -> &str {
        self.names.get(node).map_or("a node", String::as_str)
    }

    fn line(&self, text: &str) {
        match &self.display {
            Display::Bar | Display::StatusLines => self.context.console.status(text),
            Display::DataLines => {
                // Watching goes on when nobody reads any more; its exit code says how the task ended.
                let _ = self.context.console.line(text);
            }
            Display::Entries | Display::Nothing => {}
        }
    }

    fn show(&mut self, entry: &JournalEntry) -> Result<(), End> {
        if matches!(self.display, Display::Entries) {
            return Ok(self.context.console.json_line(entry)?);
        }
        let text = self.sentence(entry);
        // A bar shows what runs; above it stands what went wrong.
        let remarkable = match entry.action_type.as_str() {
            action::ACQUIRE_NODE => false,
            action::COMPLETE_NODE => unmerged(entry).is_some(),
            _ => true,
        };
        if let Some(text) = text
            && (remarkable || self.display != Display::Bar)
        {
            self.line(&text);
        }
        Ok(())
    }

    fn sentence(&mut self, entry: &JournalEntry) -> Option<String> {
        let console = &self.context.console;
        let toned = |tone, text: &str| match self.display {
            Display::DataLines => console.toned(tone, text),
            _ => console.toned_status(tone, text),
        };
        let Some(node) = entry.node_id else {
            return match entry.action_type.as_str() {
                action::CANCEL_TASK => Some(toned(Tone::Bad, "the task was cancelled")),
                action::PAUSE_TASK => Some("the task is paused".into()),
                action::RESUME_TASK => Some("the task goes on".into()),
                _ => None,
            };
        };
        let name = self.name(&node).to_owned();
        let took = self.running.get(&node).map_or_else(String::new, |began| {
            let ms = entry.timestamp.unix_ms.saturating_sub(began.unix_ms);
            format!(" ({})", shown_duration(u64::try_from(ms).unwrap_or(0)))
        });
        let payload = || entry.payload.to_value();
        let sentence = match entry.action_type.as_str() {
            action::ACQUIRE_NODE => {
                let by = entry.session_id.map(|id| {
                    let agent = entry.agent.as_deref().map_or_else(|| "?".into(), one_line);
                    format!(": agent {agent}, session {id}")
                });
                format!(
                    "{} {name}{}",
                    toned(Tone::Active, "start"),
                    by.unwrap_or_default()
                )
            }
            action::COMPLETE_NODE => {
                let unmerged = unmerged(entry).map(|work| format!(": {}", work.note(false)));
                format!(
                    "{}  {name}{took}{}",
                    toned(Tone::Good, "done"),
                    unmerged.unwrap_or_default()
                )
            }
            action::FAIL_NODE => {
                let payload = payload();
                let why = shown_error(&payload["error"]);
                let again = payload["retry_at"]
                    .as_str()
                    .map(|at| format!("; next attempt at {at}"));
                format!(
                    "{} {name}{took}: {why}{}",
                    toned(Tone::Bad, "fail"),
                    again.unwrap_or_default()
                )
            }
            action::ROLLBACK_NODE => format!("{} {name}{took}: its lease ran out", toned(Tone::Bad, "lost")),
            action::RELEASE_NODE => format!("{}  {name}: given back", toned(Tone::Faint, "back")),
            // What became of it is said of the node.
            action::SESSION_PHASE
            | action::SESSION_STEP
            | action::SESSION_ENDED
            | action::SESSION_REMOVED => {
                return None;
            }
            action::RETRY_NODE => format!("{} {name}", toned(Tone::Active, "again")),
            other => format!(
                "{} {name}: {}",
                one_line(other),
                shortened(&one_line(entry.payload.text()), 200)
            ),
        };
        match entry.action_type.as_str() {
            action::ACQUIRE_NODE => {
                self.running.insert(node, entry.timestamp);
            }
            action::COMPLETE_NODE | action::FAIL_NODE | action::ROLLBACK_NODE | action::RELEASE_NODE => {
                self.running.remove(&node);
            }
            _ => {}
        }
        Some(sentence)
    }
}

/// The work of a completed node that is not merged.
fn unmerged(entry: &JournalEntry) -> Option<Work> {
    merged::work_of(&entry.payload.to_value()["result"]).filter(|work| !work.is_merged)
}

async fn next(subscription: &mut Subscription) -> Result<JournalEntry, ClientError> {
    subscription.next().await?.ok_or(ClientError::Closed)
}

enum End {
    Connection(ClientError),
    Failure(Failure),
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> Self {
        Self::Connection(error)
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}
