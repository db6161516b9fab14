//! `agentd sessions show`.

use super::super::{Context, values};
use super::{outcome, wait};
use crate::console::{Field, Tone, one_line, shortened};
use crate::failure::{Exit, Failure};
use agentd_client::Client;
use agentd_protocol::journal::{JournalEntry, action};
use agentd_protocol::requests::{JournalFilter, ReadJournal};
use agentd_protocol::results::JournalPage;
use agentd_protocol::{Method, SessionId, SessionInfo, Timestamp, TriggerKind};
use clap::Args;
use serde_json::{Value, json};

/// Entries that a session's history is shown of; more are in `agentd journal`.
const ENTRIES_MAX: u32 = 1000;
/// What is shown of a result or a prompt, in characters; all of it is in --json.
const SHOWN_CHARS: usize = 400;

/// Show one session: what began it, its phases and steps, and how it ended
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The session
    #[arg(value_name = "SESSION")]
    session: SessionId,
}

impl ShowArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let mut client = context.connect().await?;
        let session = wait::get(&mut client, self.session).await?;
        let history = history(&mut client, self.session).await?;
        if context.console.json {
            context
                .console
                .document(&json!({ "session": session, "journal": history }))?;
            return Ok(Exit::Ok);
        }
        context.console.fields(&fields(context, &session))?;
        context.console.line("")?;
        let phases = phases(&session, values::now_secs().saturating_mul(1000));
        context.console.table(&["phase", "began", "duration"], phases)?;
        let steps: Vec<_> = history.iter().filter_map(step).collect();
        if !steps.is_empty() {
            context.console.line("")?;
            context.console.table(&["at", "", "duration", "step"], steps)?;
        }
        Ok(Exit::Ok)
    }
}

async fn history(client: &mut Client, session_id: SessionId) -> Result<Vec<JournalEntry>, Failure> {
    let request = ReadJournal {
        from_seq: Some(0),
        last: None,
        limit: Some(ENTRIES_MAX),
        filter: JournalFilter {
            session_id: Some(session_id),
            ..JournalFilter::default()
        },
    };
    let page: JournalPage = client.call(Method::ReadJournal, &request).await?;
    Ok(page.entries)
}

fn fields(context: &Context, session: &SessionInfo) -> Vec<(&'static str, String)> {
    let shown = |text: &str| shortened(&one_line(text), SHOWN_CHARS);
    let (state, tone) = outcome::state(session);
    let trigger = match (session.trigger.kind, session.node_id, session.task_id) {
        (TriggerKind::Node, Some(node), Some(task)) => format!("node {node} of task {task}"),
        (kind, ..) => kind.as_str().to_owned(),
    };
    let because = match session.trigger.context.text() {
        "{}" => String::new(),
        text => shown(text),
    };
    let ended = session.outcome.as_ref();
    let optional = |text: Option<&str>| text.map(shown).unwrap_or_default();
    vec![
        ("session", session.id.to_string()),
        ("agent", one_line(&session.agent)),
        (
            "replica",
            session
                .replica
                .map(|replica| replica.to_string())
                .unwrap_or_default(),
        ),
        ("runtime", optional(session.runtime.as_deref())),
        ("state", context.console.toned(tone, &state)),
        ("trigger", trigger),
        ("context", because),
        ("prompt", optional(session.prompt.as_deref())),
        ("stop asked for", optional(session.stop_requested.as_deref())),
        ("outcome", ended.map(outcome::verdict).unwrap_or_default()),
        (
            "result",
            optional(
                ended
                    .and_then(|ended| ended.result.as_ref())
                    .map(agentd_protocol::Json::text),
            ),
        ),
    ]
}

// Each phase that has begun, with how long it took or has been going on.
fn phases(session: &SessionInfo, now_ms: i64) -> Vec<Vec<Field>> {
    let began = [
        ("queued", Some(session.created_at)),
        ("set-up", session.setup_at),
        ("running", session.started_at),
        ("teardown", session.exited_at),
        ("ended", session.ended_at),
    ];
    let mut rows = Vec::new();
    for (index, (name, at)) in began.iter().enumerate() {
        let Some(at) = at else { continue };
        let next = began[index + 1..].iter().find_map(|(_, at)| *at);
        let duration = match (next, session.ended_at) {
            (Some(next), _) => took(*at, next.unix_ms),
            (None, None) => format!("{} so far", took(*at, now_ms)),
            (None, Some(_)) => took(session.created_at, at.unix_ms) + " in all",
        };
        rows.push(vec![(*name).into(), at.into(), duration.into()]);
    }
    rows
}

fn took(from: Timestamp, to_ms: i64) -> String {
    values::shown_duration(u64::try_from(to_ms.saturating_sub(from.unix_ms)).unwrap_or(0))
}

// Phases have a table of their own.
fn step(entry: &JournalEntry) -> Option<Vec<Field>> {
    let payload = entry.payload.to_value();
    let failed = payload.get("error").is_some_and(|error| !error.is_null());
    let (word, tone) = match entry.action_type.as_str() {
        action::SESSION_STEP if failed => ("failed", Tone::Bad),
        action::SESSION_STEP => ("done", Tone::Good),
        action::SESSION_WARNING => ("warning", Tone::Bad),
        action::SESSION_STOP => ("stop", Tone::Plain),
        _ => return None,
    };
    let ms = payload["duration_ms"].as_u64();
    Some(vec![
        entry.timestamp.into(),
        Field(word.into(), tone),
        ms.map(values::shown_duration).unwrap_or_default().into(),
        Field(described(&payload), Tone::Plain),
    ])
}

// The members that say something, whichever of them there are.
fn described(payload: &Value) -> String {
    let texts = ["step", "message", "reason", "error"].map(|key| payload[key].as_str());
    let texts: Vec<&str> = texts.into_iter().flatten().collect();
    let text = if texts.is_empty() {
        payload.to_string()
    } else {
        texts.join(": ")
    };
    shortened(&one_line(&text), SHOWN_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_protocol::{SessionPhase, Trigger};

    fn session() -> SessionInfo {
        let id = "01234567-89ab-4cde-8f01-23456789abcd".parse().unwrap();
        let at = |unix_ms| Some(Timestamp { unix_ms });
        SessionInfo {
            id,
            agent: "a".into(),
            replica: Some(0),
            runtime: Some("process".into()),
            phase: SessionPhase::Running,
            trigger: Trigger {
                kind: TriggerKind::Manual,
                context: agentd_protocol::Json::empty_object(),
            },
            prompt: None,
            task_id: None,
            node_id: None,
            created_at: Timestamp { unix_ms: 0 },
            setup_at: at(10),
            started_at: at(2010),
            exited_at: None,
            ended_at: None,
            stop_requested: None,
            outcome: None,
        }
    }

    fn shown(rows: &[Vec<Field>]) -> Vec<(&str, &str)> {
        rows.iter()
            .map(|row| (row[0].0.as_str(), row[2].0.as_str()))
            .collect()
    }

    #[test]
    fn phases_have_their_durations() {
        let mut session = session();
        let rows = phases(&session, 5010);
        assert_eq!(
            shown(&rows),
            [
                ("queued", "10 ms"),
                ("set-up", "2.0 s"),
                ("running", "3.0 s so far")
            ]
        );
        session.exited_at = Some(Timestamp { unix_ms: 3010 });
        session.ended_at = Some(Timestamp { unix_ms: 3020 });
        let rows = phases(&session, 9999);
        assert_eq!(
            shown(&rows)[2..],
            [
                ("running", "1.0 s"),
                ("teardown", "10 ms"),
                ("ended", "3.0 s in all")
            ]
        );
        // What was cancelled while it was queued has only two.
        (session.setup_at, session.started_at, session.exited_at) = (None, None, None);
        let rows = phases(&session, 9999);
        assert_eq!(shown(&rows), [("queued", "3.0 s"), ("ended", "3.0 s in all")]);
    }

    #[test]
    fn steps_say_what_there_is_to_say() {
        assert_eq!(
            described(&json!({ "step": "home", "error": "no\nroom" })),
            "home: no room"
        );
        assert_eq!(described(&json!({ "other": 1 })), "{\"other\":1}");
    }
}
