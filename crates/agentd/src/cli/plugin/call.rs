//! `agentd plugin call`: one call of one tool.

use super::trial::{self, Trial};
use super::{Terms, find, policy};
use crate::cli::{Context, values};
use crate::console::{Console, Tone, one_line};
use crate::failure::{Exit, Failure};
use agentd_config::Plugin;
use agentd_config::source::did_you_mean;
use clap::Args;
use mcp_transport::ToolInfo;
use mcp_transport::event::{Event, Outcome};
use serde_json::Value;

/// Call one tool of a plugin and print its answer
///
/// The plugin is started as a session would start it, and ends with this command. The answer is printed whole, up to the 16 MiB that
/// a message may have; an agent gets one larger than max_output in parts.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Ends with 0 when the tool did it, with 1 when it says that it failed (what it says is printed) or the call was refused, and with 124
when there was no answer in time.

Examples:
  agentd plugin call notes find_notes '{\"query\": \"word\"}'
  echo '{\"query\": \"word\"}' | agentd plugin call notes find_notes -
  agentd --json plugin call notes find_notes '{\"query\": \"word\"}' | jq .structuredContent")]
pub(crate) struct CallArgs {
    /// The plugin, as agentd.toml calls it
    #[arg(value_name = "NAME")]
    plugin: String,
    /// The tool: its own name, or NAME__TOOL
    tool: String,
    /// Its arguments: a JSON object; - reads it from stdin [default: {}]
    #[arg(value_name = "JSON")]
    arguments: Option<String>,
    #[command(flatten)]
    terms: Terms,
}

impl CallArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let plugin = find(context, &self.plugin)?;
        let arguments = self.arguments()?;
        let (result, outcome) = trial::run(context, plugin, &self.terms, async |trial: &mut Trial| {
            let name = tool(plugin, &self.tool, &trial.gateway.tools())?;
            let answer = trial.gateway.call(&name, arguments).await;
            let result = answer.map_err(|error| refused(&self.tool, &trial.redacted(&error.to_string())))?;
            let outcome = trial.events().into_iter().find_map(|event| match event {
                Event::Call(call) => Some(call.outcome),
                _ => None,
            });
            Ok((result, outcome))
        })
        .await?;
        let (bytes, part) = (result.to_string().len(), plugin.output_bytes_max);
        if bytes as u64 > part {
            let line = format!(
                "this is the whole of {bytes} bytes; an agent gets the first {part} of them, and reads on"
            );
            context
                .console
                .status(&context.console.toned_status(Tone::Faint, &line));
        }
        let exit = match outcome {
            Some(Outcome::TimedOut) => return Err(failed(Exit::Timeout, &result)),
            Some(Outcome::PluginFailed | Outcome::RateLimited) => return Err(failed(Exit::Failed, &result)),
            _ if result["isError"] == true => Exit::Failed,
            _ => Exit::Ok,
        };
        if context.console.json {
            context.console.document(&result)?;
        } else {
            print(&context.console, &result)?;
        }
        Ok(exit)
    }

    fn arguments(&self) -> Result<Value, Failure> {
        let given = values::json(self.arguments.as_deref(), None)?;
        let value = given.map_or_else(|| Value::Object(serde_json::Map::new()), |json| json.to_value());
        if value.is_object() {
            return Ok(value);
        }
        let message = "a tool's arguments are a JSON object, such as {\"query\": \"word\"}";
        Err(Failure::bad_input(message))
    }
}

/// The name by which agents call what was asked for.
fn tool(plugin: &Plugin, wanted: &str, tools: &[ToolInfo]) -> Result<String, Failure> {
    let by = |name: &dyn Fn(&ToolInfo) -> &str| tools.iter().find(|tool| name(tool) == wanted);
    let found = by(&|tool| &tool.own_name).or_else(|| by(&|tool| &tool.name));
    let Some(found) = found else {
        let names = tools.iter().map(|tool| tool.own_name.as_str());
        let message = format!(
            "plugin {:?} has no tool {wanted:?}{}",
            plugin.name,
            did_you_mean(wanted, names)
        );
        let hint = format!(
            "`agentd plugin tools {} --all` lists those that it has",
            plugin.name
        );
        return Err(Failure::new(Exit::Failed, message).hint(hint));
    };
    match policy::hidden(&plugin.tools, &found.own_name) {
        None => Ok(found.name.clone()),
        Some(why) => {
            let message = format!(
                "the tool {} may not be called: it is hidden by plugins.{}.tools ({why})",
                one_line(&found.own_name),
                plugin.name
            );
            let hint =
                "agents may not call it either; change `tools` of the plugin in agentd.toml to allow it";
            Err(Failure::new(Exit::Failed, message).hint(hint))
        }
    }
}

fn refused(tool: &str, why: &str) -> Failure {
    let message = format!("{}: {}", one_line(tool), one_line(why));
    Failure::new(Exit::Failed, message)
        .hint("the call did not reach the tool, or it does not take these arguments; `agentd --json plugin tools` shows its schema")
}

/// The gateway's own words about a call that has no answer of the tool's.
fn failed(exit: Exit, result: &Value) -> Failure {
    let text: Vec<String> = texts(result).join("\n").lines().map(one_line).collect();
    let failure = Failure::new(exit, text.join("\n  "));
    match exit {
        Exit::Timeout => failure.hint("--timeout gives it longer; nobody knows how far it has got"),
        _ => failure,
    }
}

fn print(console: &Console, result: &Value) -> Result<(), Failure> {
    let mut texts = texts(result);
    if texts.is_empty() && !result["structuredContent"].is_null() {
        return console.document(&result["structuredContent"]);
    }
    if console.columns().is_some() {
        // It comes from outside, and must not steer the terminal.
        for text in &mut texts {
            *text = text.lines().map(one_line).collect::<Vec<_>>().join("\n");
        }
    }
    texts.iter().try_for_each(|text| console.line(text))
}

/// What of an answer can be read, a text for each part of it.
fn texts(result: &Value) -> Vec<String> {
    let parts = result["content"].as_array().map_or(&[][..], Vec::as_slice);
    parts.iter().map(text).collect()
}

fn text(part: &Value) -> String {
    let of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let data = |value: &Value| {
        format!(
            "[{}, {} bytes of base64; --json shows it]",
            value["mimeType"].as_str().unwrap_or("data"),
            value
                .get("data")
                .or(value.get("blob"))
                .map_or(0, |data| of(data).len())
        )
    };
    match part["type"].as_str() {
        Some("text") => of(&part["text"]),
        Some("resource") if part["resource"]["text"].is_string() => of(&part["resource"]["text"]),
        Some("resource") => data(&part["resource"]),
        Some("resource_link") => of(&part["uri"]),
        _ => data(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_part_of_an_answer_is_said() {
        let result = json!({"content": [
            {"type": "text", "text": "a\nb"},
            {"type": "image", "mimeType": "image/png", "data": "AAAA"},
            {"type": "resource", "resource": {"uri": "x:1", "text": "inside"}},
            {"type": "resource", "resource": {"uri": "x:2", "mimeType": "a/b", "blob": "AA"}},
            {"type": "resource_link", "uri": "x:3"},
        ]});
        let expected = [
            "a\nb",
            "[image/png, 4 bytes of base64; --json shows it]",
            "inside",
            "[a/b, 2 bytes of base64; --json shows it]",
            "x:3",
        ];
        assert_eq!(texts(&result), expected);
        assert!(texts(&json!({})).is_empty());
    }
}
