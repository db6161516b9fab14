//! One call of one tool: policy, limits, the call itself, what is told of it.

use crate::answer::Answered;
use crate::catalog::Found;
use crate::client::Origin;
use crate::event::{CallEvent, Event, Outcome, Redact};
use crate::gateway::{Inner, OWN_NAME};
use crate::message::{Object, Raw, RpcError, raw};
use crate::paging::{Kind, Marker, cut, part};
use crate::plugin::CallError;
use serde_json::Value;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What is read on at once, in bytes, unless less is asked for.
const READ_MORE_BYTES: usize = 64 * 1024;
/// What of an error goes into the event, in bytes.
const ERROR_BYTES_MAX: usize = 2048;

/// A call that was answered, and is to be told of.
pub(crate) struct Call {
    plugin: String,
    tool: String,
    begun: Instant,
    took: Duration,
    outcome: Outcome,
    /// As much of them as is told, and how long they were.
    arguments: String,
    argument_bytes: usize,
    result_bytes: usize,
    error: Option<String>,
}

impl Call {
    fn new(inner: &Inner, name: &str, arguments: Option<&RawValue>) -> Self {
        let text = arguments.map_or("", RawValue::get);
        // Some more than is told, so that a secret at the end is still seen whole.
        let kept = cut(text, inner.options.event_arguments_bytes_max.saturating_add(4096));
        Self {
            plugin: String::new(),
            tool: name.to_owned(),
            begun: Instant::now(),
            took: Duration::ZERO,
            outcome: Outcome::Ok,
            arguments: kept.to_owned(),
            argument_bytes: text.len(),
            result_bytes: 0,
            error: None,
        }
    }

    fn ends(mut self, outcome: Outcome, error: Option<String>, answer: Result<Raw, Raw>) -> Answered {
        self.outcome = outcome;
        self.error = error;
        self.took = self.begun.elapsed();
        Answered {
            answer,
            call: Some(self),
        }
    }

    /// A failure that a model can do something about.
    fn fails(self, outcome: Outcome, message: String) -> Answered {
        let result = failure(&message);
        self.ends(outcome, Some(message), Ok(result))
    }

    /// Tells of it. Called when the answer is on its way.
    pub(crate) fn tell(self, inner: &Inner) {
        let options = &inner.options;
        let redact = |text: &str, bytes_max| {
            let mut text = options.redact.redact(text);
            text.truncate(cut(&text, bytes_max).len());
            text
        };
        options.events.take(Event::Call(CallEvent {
            arguments: redact(&self.arguments, options.event_arguments_bytes_max),
            error: self.error.map(|error| redact(&error, ERROR_BYTES_MAX)),
            plugin: self.plugin,
            tool: self.tool,
            duration_ms: u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            outcome: self.outcome,
            argument_bytes: self.argument_bytes,
            result_bytes: self.result_bytes,
        }));
    }
}

fn failure(message: &str) -> Raw {
    raw(&serde_json::json!({"content": [{"type": "text", "text": message}], "isError": true}))
}

/// The gateway's own tool, as it is listed.
pub(crate) fn read_more_definition() -> Raw {
    raw(&serde_json::json!({
        "name": format!("{OWN_NAME}__read_more"),
        "description": "Reads on in the output of an earlier tool call that was too large for one answer. \
                        The mark at the end of such an answer names the arguments.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "id": {"type": "string", "description": "The output's id, from the mark"},
                "offset": {"type": "integer", "minimum": 0, "description": "The byte to begin at, from the mark"},
            },
            "required": ["id", "offset"],
        },
        "annotations": {"readOnlyHint": true, "openWorldHint": false},
    }))
}

impl Inner {
    pub(crate) async fn call_tool(
        &self,
        origin: &Arc<Origin>,
        mut params: Object<'_>,
        _raw: Option<&RawValue>,
        cancel: &CancellationToken,
    ) -> Answered {
        let Some(name) = params.text("name") else {
            return Err(RpcError::params("name is missing")).into();
        };
        let mut call = Call::new(self, &name, params.get("arguments"));
        let catalog = self.catalog();
        let tool = match catalog.tool(&name) {
            Found::Tool(tool) => tool,
            Found::Denied { plugin, own } => {
                call.plugin.clone_from(&self.plugins[plugin].options.name);
                call.tool = own.to_owned();
                let why =
                    format!("The tool {name:?} may not be called here: the operator's rules do not allow it");
                let error = RpcError::params(why.as_str()).raw();
                return call.ends(Outcome::Denied, Some(why), Err(error));
            }
            Found::Nothing if self.spool.is_some() && is_read_more(&name) => {
                call.plugin = OWN_NAME.to_owned();
                call.tool = "read_more".to_owned();
                return self.read_more(call, &params);
            }
            Found::Nothing => {
                call.tool = cut(&name, 256).to_owned();
                let why = format!("Unknown tool: {}", call.tool);
                let error = RpcError::params(why.as_str()).raw();
                return call.ends(Outcome::Denied, Some(why), Err(error));
            }
        };
        let plugin = &self.plugins[tool.plugin];
        call.plugin.clone_from(&plugin.options.name);
        call.tool.clone_from(&tool.own);
        if let Err(wait) = self.admit().and_then(|()| plugin.admit()) {
            let message = format!(
                "Too many calls of tools: try again in {} ms",
                wait.as_millis() + 1
            );
            return call.fails(Outcome::RateLimited, message);
        }
        params.set("name", raw(&tool.own));
        if plugin.options.redacted
            && let Some(arguments) = params
                .get("arguments")
                .and_then(|arguments| self.redacted(arguments))
        {
            params.set("arguments", arguments);
        }
        let answer = self.ask(plugin, origin, "tools/call", params, cancel).await;
        match answer {
            Ok(Ok(result)) => {
                call.result_bytes = result.get().len();
                let is_error = Object::parse(&result).is_some_and(|result| result.is_true("isError"));
                let outcome = if is_error { Outcome::ToolError } else { Outcome::Ok };
                match self.bounded(plugin, Some(Kind::ToolCall), result, tool.is_structured) {
                    Ok(result) => call.ends(outcome, None, Ok(result)),
                    Err(error) => call.fails(Outcome::PluginFailed, error.message),
                }
            }
            Ok(Err(error)) => {
                let text = cut(error.get(), ERROR_BYTES_MAX).to_owned();
                call.ends(Outcome::RpcError, Some(text), Err(error))
            }
            Err(error) => {
                let outcome = match error {
                    CallError::TimedOut(_) => Outcome::TimedOut,
                    CallError::Cancelled => Outcome::Cancelled,
                    CallError::Failed(_) => Outcome::PluginFailed,
                };
                let tail = if outcome == Outcome::TimedOut {
                    plugin.said.tail()
                } else {
                    String::new()
                };
                let message = format!(
                    "The tool {name:?} failed, plugin {:?}: {error}{tail}",
                    plugin.options.name
                );
                let message = self.options.redact.redact(&message);
                call.fails(outcome, message)
            }
        }
    }

    /// Arguments without secrets, when there are any in them: in what strings mean, however they are written, in names and in
    /// numbers.
    fn redacted(&self, arguments: &RawValue) -> Option<Raw> {
        let mut value: Value = serde_json::from_str(arguments.get()).ok()?;
        redact_value(&mut value, &*self.options.redact).then(|| raw(&value))
    }

    fn read_more(&self, call: Call, params: &Object<'_>) -> Answered {
        #[derive(serde::Deserialize)]
        struct Arguments {
            id: String,
            offset: u64,
        }
        let arguments = params.get("arguments").map_or("{}", RawValue::get);
        let Arguments { id, offset } = match serde_json::from_str(arguments) {
            Ok(arguments) => arguments,
            Err(error) => {
                return call.fails(
                    Outcome::ToolError,
                    format!("The arguments cannot be understood: {error}"),
                );
            }
        };
        let Some(spool) = &self.spool else {
            return call.fails(Outcome::ToolError, "Nothing is kept here".into());
        };
        let (text, whole) = match spool.read(&id, offset, READ_MORE_BYTES) {
            Ok(read) => read,
            Err(why) => return call.fails(Outcome::ToolError, why),
        };
        let name = format!("{OWN_NAME}__read_more");
        let marker = Marker {
            tool: &name,
            id: Ok(&id),
        };
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let text = part(&text, size(offset), size(whole), READ_MORE_BYTES, &marker);
        let mut call = call;
        let result = raw(&serde_json::json!({"content": [{"type": "text", "text": text}]}));
        call.result_bytes = result.get().len();
        call.ends(Outcome::Ok, None, Ok(result))
    }
}

/// True when there was something to take out.
fn redact_value(value: &mut Value, redact: &dyn Redact) -> bool {
    let hide = |text: &str| Some(redact.redact(text)).filter(|shown| shown != text);
    match value {
        Value::String(text) => match hide(text) {
            Some(shown) => *text = shown,
            None => return false,
        },
        Value::Number(number) => match hide(&number.to_string()) {
            Some(shown) => *value = shown.into(),
            None => return false,
        },
        Value::Array(items) => {
            return items
                .iter_mut()
                .fold(false, |any, item| redact_value(item, redact) | any);
        }
        Value::Object(members) => {
            let mut any = false;
            *members = std::mem::take(members)
                .into_iter()
                .map(|(name, mut value)| {
                    any |= redact_value(&mut value, redact);
                    let shown = hide(&name);
                    any |= shown.is_some();
                    (shown.unwrap_or(name), value)
                })
                .collect();
            return any;
        }
        Value::Null | Value::Bool(_) => return false,
    }
    true
}

fn is_read_more(name: &str) -> bool {
    name.strip_prefix(OWN_NAME)
        .is_some_and(|rest| rest == "__read_more")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_taken_out_of_whatever_they_stand_in() {
        let redact = |text: &str| {
            text.replace("sesame", "[redacted]")
                .replace("12345678", "[redacted]")
        };
        let mut value: Value = serde_json::from_str(
            r#"{"a": ["open \u0073esame", 7, 123456789, null], "sesame": {"b": true}, "c": "\"sesame\""}"#,
        )
        .unwrap();
        assert!(redact_value(&mut value, &redact));
        let expected = json!({
            "a": ["open [redacted]", 7, "[redacted]9", null],
            "[redacted]": {"b": true},
            "c": "\"[redacted]\"",
        });
        assert_eq!(value, expected);
        assert!(!redact_value(&mut json!({"a": [1, "b", {"c": 1.5}]}), &redact));
    }
}
