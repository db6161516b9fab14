//! One call of one tool: policy, limits, the call itself, what is told of it.

use crate::answer::Answered;
use crate::catalog::Found;
use crate::client::Origin;
use crate::event::{CallEvent, Event, Outcome};
use crate::gateway::{Inner, OWN_NAME};
use crate::message::{Object, Raw, RpcError, raw, raw_text};
use crate::name::SEPARATOR;
use crate::paging::{Kind, Marker, cut, part};
use crate::plugin::{CallError, Plugin, Status};
use crate::redacted::without_secrets;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What is read on at once, in bytes, unless less is asked for.
const READ_MORE_BYTES: usize = 64 * 1024;
/// What of a tool's name goes into the event, in bytes.
const NAME_BYTES_MAX: usize = 256;
/// What of an error goes into the event, in bytes.
const ERROR_BYTES_MAX: usize = 2048;
/// What is kept of what may have secrets in it, beyond what is told, so that one at the end is seen whole.
const AHEAD_BYTES: usize = 512 * 1024;

/// A call that was answered, and is to be told of.
pub(crate) struct Call {
    plugin: String,
    tool: String,
    begun: Instant,
    took: Duration,
    outcome: Outcome,
    /// All of them: what is told is known once their secrets are out.
    arguments: String,
    result_bytes: usize,
    error: Option<String>,
}

impl Call {
    fn new(name: &str, arguments: Option<&RawValue>) -> Self {
        Self {
            plugin: String::new(),
            tool: name.to_owned(),
            begun: Instant::now(),
            took: Duration::ZERO,
            outcome: Outcome::Ok,
            arguments: arguments.map_or("", RawValue::get).to_owned(),
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
        let arguments_max = options.event_arguments_bytes_max;
        let arguments = without_secrets(&self.arguments, &*options.redact, arguments_max + AHEAD_BYTES);
        options.events.take(Event::Call(CallEvent {
            // Once more, for what begins in one string and ends in another.
            arguments: redact(&arguments, arguments_max),
            argument_bytes: self.arguments.len(),
            error: self.error.map(|error| redact(&error, ERROR_BYTES_MAX)),
            plugin: self.plugin,
            tool: redact(&self.tool, NAME_BYTES_MAX),
            duration_ms: u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            outcome: self.outcome,
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
        let mut call = Call::new(&name, params.get("arguments"));
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
                if let Some((plugin, own)) = self.given_up(&name) {
                    call.plugin.clone_from(&plugin.options.name);
                    call.tool = own.to_owned();
                    let error = plugin.ready(Duration::ZERO).await.err();
                    return self.failed(call, &name, plugin, &error.unwrap_or(CallError::Cancelled));
                }
                let why = format!("Unknown tool: {}", cut(&name, NAME_BYTES_MAX));
                let error = RpcError::params(why.as_str()).raw();
                let why = format!("Unknown tool: {name}");
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
                let (outcome, error) = match said(&result) {
                    Ok(None) => (Outcome::Ok, None),
                    Ok(Some(error)) => (Outcome::ToolError, Some(error)),
                    Err(why) => {
                        let error = CallError::Failed(format!("its answer is malformed: {why}"));
                        return self.failed(call, &name, plugin, &error);
                    }
                };
                match self.bounded(plugin, Some(Kind::ToolCall), result, tool.is_structured) {
                    Ok(result) => call.ends(outcome, error, Ok(result)),
                    Err(error) => call.fails(Outcome::PluginFailed, error.message),
                }
            }
            Ok(Err(error)) => {
                let text = without_secrets(error.get(), &*self.options.redact, AHEAD_BYTES);
                call.ends(Outcome::RpcError, Some(text), Err(error))
            }
            Err(error) => self.failed(call, &name, plugin, &error),
        }
    }

    /// A call that its plugin has not answered.
    fn failed(&self, call: Call, name: &str, plugin: &Plugin, error: &CallError) -> Answered {
        let (outcome, tail) = match error {
            CallError::TimedOut(_) => (Outcome::TimedOut, plugin.said.tail()),
            CallError::Cancelled => (Outcome::Cancelled, String::new()),
            CallError::Failed(_) => (Outcome::PluginFailed, String::new()),
        };
        let plugin = &plugin.options.name;
        let message = format!("The tool {name:?} failed, plugin {plugin:?}: {error}{tail}");
        call.fails(outcome, self.options.redact.redact(&message))
    }

    /// The plugin that a tool was of, by its name, when its tools are withdrawn; and the tool's name there.
    fn given_up<'a>(&self, name: &'a str) -> Option<(&Plugin, &'a str)> {
        let (plugin, own) = name.split_once(SEPARATOR)?;
        let known = |known: &&Arc<Plugin>| known.options.prefixed && known.options.name == plugin;
        let plugin = self.plugins.iter().find(known)?;
        matches!(*plugin.status.borrow(), Status::GivenUp(_)).then_some((plugin, own))
    }

    /// Arguments without secrets, when there are any in them.
    fn redacted(&self, arguments: &RawValue) -> Option<Raw> {
        let text = without_secrets(arguments.get(), &*self.options.redact, usize::MAX);
        (text != arguments.get()).then(|| raw_text(text))
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

/// What a result says of a failure: of the first text in it as much as is kept, and nothing when it is none.
///
/// # Errors
/// A clause for people, of what is no result.
fn said(result: &RawValue) -> Result<Option<String>, &'static str> {
    let result = Object::parse(result).ok_or("a result is an object")?;
    let content = result.get("content").map(|content| {
        let parts: Vec<&RawValue> = serde_json::from_str(content.get()).ok()?;
        let is_object = |part: &&RawValue| part.get().starts_with('{');
        parts.iter().all(is_object).then_some(parts)
    });
    let parts = content.map_or(Some(Vec::new()), |parts| parts);
    let parts = parts.ok_or("its content is no list of objects")?;
    if !result.is_true("isError") {
        return Ok(None);
    }
    let text = parts
        .into_iter()
        .find_map(|part| Object::parse(part)?.text("text"));
    let text = text.unwrap_or_else(|| "it does not say why".to_owned());
    Ok(Some(cut(&text, AHEAD_BYTES).to_owned()))
}

fn is_read_more(name: &str) -> bool {
    name.strip_prefix(OWN_NAME)
        .is_some_and(|rest| rest == "__read_more")
}
