//! What a tool call is answered with: a result, or a refusal that a model can act on. Both bounded, both as structured
//! content and as the same JSON in a text for clients that show only text.

use agentd_client::ClientError;
use agentd_protocol::{Reason, RpcError};
use rmcp::model::{CallToolResult, ContentBlock};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// The members of a result.
pub(super) type Members = Map<String, Value>;

/// A tool's outcome.
pub(super) type Answer = Result<Members, Refusal>;

/// What a result may have, in bytes of JSON: a quarter of what careful clients let a tool say at once.
pub(super) const RESULT_BYTES_MAX: usize = 64 * 1024;
/// A message from elsewhere, in bytes.
const MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// Why not, and what now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// For programs: the daemon's `data.reason`, or one of our own.
    pub(super) reason: String,
    /// What happened.
    pub(super) message: String,
    /// What to do.
    pub(super) next: &'static str,
}

impl Refusal {
    pub(super) fn new(reason: &str, message: impl Into<String>, next: &'static str) -> Self {
        let mut message = message.into();
        shorten(&mut message, MESSAGE_BYTES_MAX);
        Self {
            reason: reason.into(),
            message,
            next,
        }
    }

    /// The arguments do not fit.
    pub(super) fn arguments(message: impl Into<String>) -> Self {
        Self::new(
            "bad_arguments",
            message,
            "correct the arguments; nothing was done",
        )
    }

    /// The call was cancelled, or the client is leaving.
    pub(super) fn cancelled() -> Self {
        Self::new("cancelled_call", "the call was cancelled", "nothing was acquired")
    }
}

impl From<RpcError> for Refusal {
    fn from(error: RpcError) -> Self {
        let reason = error.reason();
        let name = reason
            .and_then(|reason| serde_json::to_value(reason).ok())
            .and_then(|name| name.as_str().map(str::to_owned));
        Self::new(
            name.as_deref().unwrap_or("refused"),
            error.message,
            next_step(reason),
        )
    }
}

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Rpc(error) => error.into(),
            error @ ClientError::Connect { .. } if crate::endpoint::nobody_listens(&error) => Self::new(
                "no_daemon",
                error.to_string(),
                "tell the person that agentd does not run; `agentd` in a terminal starts it. Call again afterwards: \
                 nothing else needs to be started again",
            ),
            error @ ClientError::Connect { .. } => Self::new(
                "no_connection",
                error.to_string(),
                "tell the person; calling again does not help",
            ),
            error @ (ClientError::Io(_) | ClientError::Closed) => Self::new(
                "connection_lost",
                error.to_string(),
                "look with task_status or locks_list whether it was done before you do it again",
            ),
            error => Self::new("protocol", error.to_string(), "tell the person"),
        }
    }
}

fn next_step(reason: Option<Reason>) -> &'static str {
    match reason {
        Some(Reason::StaleLease) => {
            "stop working on it and drop the result: somebody else may have it. Acquire again"
        }
        Some(Reason::Cancelled) => "stop; do not try again",
        Some(Reason::StaleLock) => {
            "do not write what it protects; acquire it again, then read again what it protects"
        }
        Some(Reason::WrongStatus | Reason::WrongState) => "look at task_status to see where it stands",
        Some(Reason::DuplicateNode | Reason::UnknownDependency | Reason::DependencyCycle) => {
            "nothing was registered; correct the nodes and send all of them again"
        }
        Some(Reason::IdempotencyConflict) => "use another idempotency_key for another request",
        Some(Reason::TaskNotFound | Reason::NodeNotFound | Reason::TaskPruned) => {
            "check the id; tasks_list shows the tasks there are"
        }
        Some(Reason::LimitExceeded | Reason::AnswerTooLarge) => {
            "send or ask for less at a time, or put large data into a file and name it"
        }
        Some(Reason::Forbidden) => {
            "ask the person, not the daemon: whoami says what you may do, and the daemon's owner can change it"
        }
        Some(Reason::Busy | Reason::ShuttingDown | Reason::SlowReader) => "call again in a moment",
        Some(Reason::Storage) => "nothing was changed; tell the person to look at the daemon's log",
        Some(Reason::BadRequest) => "correct the arguments; nothing was done",
        _ => "read the message; tell the person if it does not help",
    }
}

/// Reads a tool's arguments.
pub(super) fn parse<T: DeserializeOwned>(arguments: Members) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(Value::Object(arguments)).map_err(|error| {
        let path = error.path();
        // Of something that is missing in the whole there is none.
        let message = match path.iter().next() {
            Some(_) => format!("{path}: {}", error.inner()),
            None => error.inner().to_string(),
        };
        Refusal::arguments(message)
    })
}

/// What the client is sent. `notices` are what the agent has to know besides: leases that it lost.
pub(super) fn tool_result(answer: Answer, notices: Vec<String>) -> CallToolResult {
    let failed = answer.is_err();
    let mut members = match answer {
        Ok(members) => members,
        Err(refusal) => {
            let error = json!({
                "reason": refusal.reason,
                "message": refusal.message,
                "next": refusal.next,
            });
            Map::from_iter([("error".to_owned(), error)])
        }
    };
    if !notices.is_empty() {
        members.insert("notices".into(), notices.into());
    }
    let structured = Value::Object(members);
    let text = vec![ContentBlock::text(structured.to_string())];
    let mut result = if failed {
        CallToolResult::error(text)
    } else {
        CallToolResult::success(text)
    };
    result.structured_content = Some(structured);
    result
}

/// Cuts a message for people, and says so in it.
pub(super) fn shorten(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        let total = text.len();
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push_str(&format!("… ({total} bytes in all)"));
    }
}

/// The members of a JSON object.
pub(super) fn members(value: Value) -> Members {
    match value {
        Value::Object(members) => members,
        value => Map::from_iter([("result".to_owned(), value)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_a_reason_and_a_next_step() {
        let refusal = Refusal::from(RpcError::refused(Reason::StaleLease, "gone"));
        assert_eq!(refusal.reason, "stale_lease");
        let result = tool_result(Err(refusal), vec!["lost".into()]);
        assert_eq!(result.is_error, Some(true));
        let structured = result.structured_content.unwrap();
        assert!(
            structured["error"]["next"]
                .as_str()
                .unwrap()
                .contains("drop the result")
        );
        assert_eq!(structured["notices"], json!(["lost"]));
    }

    #[test]
    fn arguments_that_do_not_fit_are_named() {
        #[derive(Debug, serde::Deserialize)]
        struct Args {
            #[allow(dead_code)]
            task_id: agentd_protocol::TaskId,
        }
        let refusal = |value| parse::<Args>(members(value)).unwrap_err().message;
        let bad = refusal(json!({ "task_id": "7" }));
        assert!(
            bad.starts_with("task_id: ") && bad.contains("ids are UUIDs, like "),
            "{bad}"
        );
        let number = refusal(json!({ "task_id": 7 }));
        assert!(number.contains("expected an id: a UUID, like "), "{number}");
        assert_eq!(refusal(json!({})), "missing field `task_id`");
    }

    #[test]
    fn long_messages_say_that_they_were_cut() {
        let mut text = "ä".repeat(10);
        shorten(&mut text, 5);
        assert_eq!(text, "ää… (20 bytes in all)");
        let mut short = "abc".to_owned();
        shorten(&mut short, 5);
        assert_eq!(short, "abc");
    }
}
