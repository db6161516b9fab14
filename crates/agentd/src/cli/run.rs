//! `agentd run`: one session of an agent, now.
//!
//! ```text
//!   a daemon to talk to (the one that runs, or this process) ─▶ the session, durable
//!     ─▶ its output as it is printed ─▶ its end ─▶ the agent's own exit code
//! ```
//!
//! The session does not depend on this process: whatever kills it, the session goes on, and `agentd sessions logs -f`
//! takes over where this stopped.

use super::sessions::transcript::{Look, Reader, Writer, say_missing};
use super::sessions::wait::{pause_after, stop, until_ended};
use super::sessions::{outcome, transcript};
use super::{Context, values};
use crate::console::Tone;
use crate::daemon::process::{Signals, exit_number};
use crate::endpoint::{Host, Reconnect};
use crate::failure::{Exit, Failure};
use agentd_client::{Client, ClientError};
use agentd_protocol::requests::{NoParams, RunAgent, StopSession};
use agentd_protocol::results::{AgentList, QueuedSession};
use agentd_protocol::{AgentInfo, Json, Method, SessionId, SessionInfo};
use clap::Args;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// Run a session of an agent now, and show what it prints
#[derive(Debug, Args)]
#[command(after_long_help = "\
What the agent prints goes to standard output and standard error as it came, as far as its transcript keeps it
(transcript_limit): standard error says how much is missing. Ends with the agent's own exit code:

  0        completed
  1 …      failed: the agent's exit code (1 when it exited with 0 and its result says that it failed)
  124      timed out
  125      agentd could not run the session, or cannot know how it ended; standard error says why
  130      cancelled
  137      ended for using more memory than it may
  128 + N  crashed by signal N

The daemon that runs is used; when none runs, this process is the daemon for as long as the session takes. Ctrl-C asks
for the session's end and waits for it; once more leaves it to end alone.

Examples:
  agentd run reviewer --prompt 'Review the last commit'
  git diff | agentd run reviewer -
  agentd run reviewer --set ref=main --set strict=true
  id=$(agentd run reviewer --detach); agentd sessions logs -f \"$id\"")]
pub(crate) struct RunArgs {
    /// The agent, as agentd.toml declares it
    #[arg(value_name = "AGENT")]
    agent: String,
    /// -: what it is to do is read from standard input
    #[arg(value_name = "-", value_parser = ["-"], conflicts_with_all = ["prompt", "prompt_file"])]
    stdin: Option<String>,
    /// What it is to do, instead of what its configuration says
    #[arg(long, short, value_name = "TEXT", conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// The same from a file
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// An object whose members the agent's own prompt can name: {{ trigger.ref }}; or - for stdin
    #[arg(long, value_name = "JSON")]
    context: Option<String>,
    /// One such member, a text; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = member)]
    set: Vec<(String, String)>,
    /// Print the session's id and leave it to the daemon
    #[arg(long, short)]
    detach: bool,
    /// The same key again is the same session, and begins no other
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

fn member(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".into()),
    }
}

/// A session that is durable.
#[derive(Clone, Debug)]
struct Begun {
    id: SessionId,
    /// `reviewer, podman container`
    what: String,
}

impl RunArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = self.request()?;
        let outcome = if self.detach {
            detached(context, &request).await
        } else {
            attached(context, &request).await
        };
        // 1 is the agent's.
        outcome.map_err(|mut failure| {
            if failure.exit == Exit::Failed {
                failure.exit = Exit::NoSession;
            }
            failure
        })
    }

    fn request(&self) -> Result<RunAgent, Failure> {
        let stdin = self.stdin.is_some() || self.prompt.as_deref() == Some("-");
        if stdin && self.context.as_deref() == Some("-") {
            return Err(Failure::usage(
                "standard input is either the prompt or the context, not both",
            ));
        }
        let prompt = match (&self.prompt, &self.prompt_file) {
            _ if stdin => Some(values::read_bounded(Path::new("-"))?),
            (Some(text), _) => Some(text.clone()),
            (None, Some(file)) => Some(values::read_bounded(file)?),
            (None, None) => None,
        };
        let key = self.idempotency_key.clone();
        Ok(RunAgent {
            agent: self.agent.clone(),
            prompt,
            context: self.trigger()?,
            // An answer may be lost on its way; asked again under the same key it is the same session.
            idempotency_key: key.or_else(|| Some(format!("run:{}", uuid::Uuid::new_v4()))),
        })
    }

    fn trigger(&self) -> Result<Json, Failure> {
        let given = values::json(self.context.as_deref(), None)?;
        if self.set.is_empty() {
            return Ok(given.unwrap_or_else(Json::empty_object));
        }
        let mut members = match given.map(|json| json.to_value()) {
            None => Map::new(),
            Some(Value::Object(members)) => members,
            Some(_) => return Err(Failure::bad_input("the context is not a JSON object")),
        };
        members.extend(
            self.set
                .iter()
                .map(|(key, value)| (key.clone(), value.clone().into())),
        );
        Ok(Json::from(Value::Object(members)))
    }
}

async fn detached(context: &Context, request: &RunAgent) -> Result<Exit, Failure> {
    let mut client = context.connect().await.map_err(|failure| {
        if failure.exit == Exit::Unreachable {
            failure.hint(
                "start the daemon with `agentd`: without one nobody would look after a detached session",
            )
        } else {
            failure
        }
    })?;
    let queued: QueuedSession = client.call(Method::RunAgent, request).await?;
    if context.console.json {
        context.console.document(&queued)?;
    } else {
        context.console.line(&queued.session_id.to_string())?;
    }
    Ok(Exit::Ok)
}

async fn attached(context: &Context, request: &RunAgent) -> Result<Exit, Failure> {
    let mut signals =
        Signals::new().map_err(|error| Failure::internal(format!("cannot handle signals: {error}")))?;
    let mut host = tokio::select! {
        host = Host::start(context) => host?,
        signal = signals.next() => return Ok(Exit::Passed(exit_number(signal))),
    };
    let outcome = watch_over(context, request, &mut host, &mut signals).await;
    // Somebody who is impatient by now loses nothing: sessions do not end with the daemon.
    tokio::select! {
        () = host.stop() => {}
        _ = signals.next() => {}
    }
    outcome
}

async fn watch_over(
    context: &Context,
    request: &RunAgent,
    host: &mut Host<'_>,
    signals: &mut Signals,
) -> Result<Exit, Failure> {
    let (known, id) = watch::channel(None);
    let needs = match host.is_embedded() {
        true => ", once a daemon runs (`agentd`)",
        false => "",
    };
    let mut running = Box::pin(running(context, request, &known, needs));
    // One future for the whole time: begun anew after each signal, it might miss that the daemon changed.
    let mut keeping = Box::pin(host.keep());
    let mut stopping = Box::pin(stop_when_known(context, id.clone()));
    let mut signalled = None;
    let mut asked = false;
    loop {
        tokio::select! {
            biased;
            ended = &mut running => return ended,
            failure = &mut keeping => return Err(failure),
            stopped = &mut stopping, if signalled.is_some() && !asked => {
                asked = true;
                if let Err(failure) = stopped {
                    context.console.failure(&failure);
                }
            }
            signal = signals.next() => {
                if signalled.replace(signal).is_none() {
                    context.console.status("asking for the session's end; once more leaves it to end alone");
                    continue;
                }
                let text = match *id.borrow() {
                    Some(id) => format!(
                        "session {id} goes on ending; `agentd sessions show {id}` says how it stands{needs}"
                    ),
                    None => format!("nobody has answered yet; `agentd sessions` shows whether a session has begun{needs}"),
                };
                context.console.status(&text);
                return Ok(Exit::Passed(exit_number(signal)));
            }
        }
    }
}

async fn stop_when_known(
    context: &Context,
    mut id: watch::Receiver<Option<SessionId>>,
) -> Result<(), Failure> {
    let session_id = match id.wait_for(Option::is_some).await {
        Ok(known) => *known,
        Err(_) => None,
    };
    let Some(session_id) = session_id else {
        return Ok(());
    };
    let request = StopSession {
        session_id,
        reason: Some("interrupted (agentd run)".into()),
        grace_secs: None,
    };
    stop(&Reconnect::quietly(context), &request).await
}

// From the request to the exit code.
async fn running(
    context: &Context,
    request: &RunAgent,
    known: &watch::Sender<Option<SessionId>>,
    needs: &str,
) -> Result<Exit, Failure> {
    let begun = begin(context, request).await?;
    known.send_replace(Some(begun.id));
    let console = &context.console;
    if console.json {
        console.json_line(&json!({ "session_id": begun.id, "agent": request.agent }))?;
    } else if console.stderr_is_terminal {
        console.status(&format!("session {} ({})", begun.id, begun.what));
    }
    let printed = print(context, begun.id).await;
    if let Err(failure) = printed {
        let id = begun.id;
        console.status(&format!(
            "session {id} goes on; `agentd sessions stop {id}` ends it{needs}"
        ));
        return Err(failure);
    }
    let ended = until_ended(&Reconnect::quietly(context), begun.id).await?;
    if console.json {
        console.json_line(&json!({ "ended": ended }))?;
    }
    conclude(context, &begun, &ended)
}

fn conclude(context: &Context, begun: &Begun, ended: &SessionInfo) -> Result<Exit, Failure> {
    let Some(how) = &ended.outcome else {
        return Err(Failure::internal(format!(
            "session {} is over, and nobody says how it ended",
            begun.id
        )));
    };
    let exit = outcome::exit(how);
    // What is said of a session that went well is what became of its worktree.
    if exit != Exit::Ok || how.message.is_some() {
        context.console.status(&format!(
            "session {} ({}) {}",
            begun.id,
            begun.what,
            outcome::verdict(how)
        ));
        if let Some(hint) = outcome::hint(ended) {
            context.console.status(&format!(
                "{} {hint}",
                context.console.toned_status(Tone::Active, "hint:")
            ));
        }
    }
    Ok(exit)
}

async fn begin(context: &Context, request: &RunAgent) -> Result<Begun, Failure> {
    let reconnect = Reconnect::quietly(context);
    loop {
        let mut client = reconnect.client().await?;
        let list = match client
            .call::<_, AgentList>(Method::ListAgents, &NoParams {})
            .await
        {
            Ok(list) => list,
            Err(error) => {
                pause_after(error).await?;
                continue;
            }
        };
        let agent = list.agents.into_iter().find(|agent| agent.name == request.agent);
        if let Some(agent) = &agent {
            can_be_watched(agent)?;
        }
        // One that is not declared is refused by the daemon, with the nearest that is.
        match queue(&mut client, request).await {
            Ok(id) => {
                let what = described(context, request, agent.as_ref());
                return Ok(Begun { id, what });
            }
            Err(error) => pause_after(error).await?,
        }
    }
}

async fn queue(client: &mut Client, request: &RunAgent) -> Result<SessionId, ClientError> {
    let queued: QueuedSession = client.call(Method::RunAgent, request).await?;
    Ok(queued.session_id)
}

fn described(context: &Context, request: &RunAgent, agent: Option<&AgentInfo>) -> String {
    match agent {
        Some(agent) => {
            let root = context.environment.uid == 0;
            let isolation = outcome::isolation(&agent.runtime, agent.runtime_capabilities, root);
            format!("{}, {isolation}", request.agent)
        }
        None => request.agent.clone(),
    }
}

fn can_be_watched(agent: &AgentInfo) -> Result<(), Failure> {
    if agent.runtime_capabilities.logs {
        return Ok(());
    }
    let message = format!(
        "the runtime {:?} of agent {:?} keeps no output that could be shown: it declares no \"logs\"",
        agent.runtime, agent.name
    );
    Err(Failure::new(Exit::NoSession, message)
        .hint("run it with --detach; `agentd sessions show` then says how it ends"))
}

async fn print(context: &Context, id: SessionId) -> Result<(), Failure> {
    let mut reader = Reader::new(Reconnect::quietly(context), id, true);
    let mut writer: Writer<_, _> = transcript::Writer::new(Look::default());
    loop {
        let page = reader.next().await?;
        say_missing(context, &page);
        for chunk in &page.chunks {
            if context.console.json {
                context.console.json_line(&json!({ "output": chunk }))?;
            } else {
                writer.write(chunk).await?;
            }
        }
        if page.ended {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_protocol::RuntimeCapabilities;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: RunArgs,
    }

    fn request(words: &[&str]) -> Result<RunAgent, Failure> {
        let line = Line::try_parse_from(["run"].iter().chain(words)).expect("a command line");
        line.args.request()
    }

    #[test]
    fn what_is_asked_follows_from_the_command_line() {
        let plain = request(&["reviewer"]).unwrap();
        assert_eq!((plain.prompt, plain.context.text()), (None, "{}"));
        let again = request(&["reviewer"]).unwrap();
        assert_ne!(plain.idempotency_key, again.idempotency_key);

        let words = [
            "reviewer",
            "-p",
            "do {{ it }}",
            "--context",
            r#"{"a":1,"b":2}"#,
            "--set",
            "b=x=y",
            "--idempotency-key",
            "k",
        ];
        let whole = request(&words).unwrap();
        assert_eq!(whole.prompt.as_deref(), Some("do {{ it }}"));
        assert_eq!(whole.context.to_value(), json!({ "a": 1, "b": "x=y" }));
        assert_eq!(whole.idempotency_key.as_deref(), Some("k"));

        let failure = request(&["reviewer", "--context", "[]", "--set", "a=b"]).unwrap_err();
        assert_eq!(failure.exit, Exit::BadInput);
        assert_eq!(
            request(&["reviewer", "-", "--context", "-"]).unwrap_err().exit,
            Exit::Usage
        );
        for words in [
            &["reviewer", "text"][..],
            &["reviewer", "-", "--prompt", "x"],
            &["reviewer", "--prompt", "x", "--prompt-file", "y"],
            &["reviewer", "--set", "x"],
            &["reviewer", "--set", "=x"],
        ] {
            assert!(
                Line::try_parse_from(["run"].iter().chain(words)).is_err(),
                "{words:?}"
            );
        }
    }

    #[test]
    fn a_runtime_that_keeps_no_output_is_refused() {
        let mut agent = AgentInfo {
            name: "a".into(),
            runtime: "fake".into(),
            runtime_capabilities: RuntimeCapabilities::default(),
            harness: "custom".into(),
            replicas: 1,
            max_sessions: 1,
            capabilities: Vec::new(),
            running: 0,
            queued: 0,
        };
        let failure = can_be_watched(&agent).unwrap_err();
        assert_eq!(failure.exit.number(), 125);
        assert!(
            failure.message.contains("\"logs\"") && failure.hint.unwrap().contains("--detach"),
            "{}",
            failure.message
        );
        agent.runtime_capabilities.logs = true;
        assert!(can_be_watched(&agent).is_ok());
    }
}
