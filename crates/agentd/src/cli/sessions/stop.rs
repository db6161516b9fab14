//! `agentd sessions stop` and `agentd sessions rm`.

use super::super::Context;
use super::{outcome, wait};
use crate::console::one_line;
use crate::endpoint::Reconnect;
use crate::failure::{Exit, Failure};
use agentd_protocol::requests::{SessionRef, StopSession};
use agentd_protocol::results::{Ok as Done, RemovedSession};
use agentd_protocol::{Method, SessionId};
use clap::Args;
use serde_json::json;

/// End a session, and wait until it is over
///
/// Its agent is sent TERM, and KILL when its grace period is over, with everything that it has started. A node that it
/// worked on fails.
#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// The session
    #[arg(value_name = "SESSION")]
    session: SessionId,
    /// KILL at once
    #[arg(long)]
    now: bool,
    /// Why; it is written to the journal
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not wait until it is over
    #[arg(long)]
    no_wait: bool,
}

impl StopArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = StopSession {
            session_id: self.session,
            reason: self.reason,
            grace_secs: self.now.then_some(0),
        };
        let mut client = context.connect().await?;
        let done: Done = client.call(Method::StopSession, &request).await?;
        if self.no_wait {
            if context.console.json {
                context.console.document(&done)?;
            } else {
                context
                    .console
                    .status(&format!("session {} is to end", self.session));
            }
            return Ok(Exit::Ok);
        }
        drop(client);
        let ended = wait::until_ended(&Reconnect::forever(context), self.session).await?;
        if context.console.json {
            context.console.document(&ended)?;
        } else {
            let verdict = ended
                .outcome
                .as_ref()
                .map_or_else(|| "is over".into(), outcome::verdict);
            context
                .console
                .status(&format!("session {} {verdict}", self.session));
        }
        Ok(Exit::Ok)
    }
}

/// Remove sessions that are over, with their transcripts
///
/// Of a kept worktree, changes that are not committed and commits that are not merged stay, and where is said.
#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// The sessions
    #[arg(value_name = "SESSION", required = true)]
    sessions: Vec<SessionId>,
}

impl RmArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let mut client = context.connect().await?;
        let (mut removed, mut refused) = (Vec::new(), None);
        for session_id in self.sessions {
            let answer = client
                .call::<_, RemovedSession>(Method::RemoveSession, &SessionRef { session_id })
                .await;
            match answer.map_err(Failure::from) {
                Ok(answer) => {
                    let but = answer.kept.map_or_else(String::new, |what| {
                        format!("; what is nowhere else stays: {}", one_line(&what))
                    });
                    context
                        .console
                        .status(&format!("session {session_id} is removed{but}"));
                    removed.push(session_id);
                }
                // The others may be removed all the same.
                Err(failure) if failure.exit == Exit::Failed => {
                    if let Some(earlier) = refused.replace(failure) {
                        context.console.failure(&earlier);
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        if context.console.json {
            context.console.document(&json!({ "removed": removed }))?;
        }
        refused.map_or(Ok(Exit::Ok), Err)
    }
}
