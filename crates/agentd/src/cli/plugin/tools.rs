//! `agentd plugin tools`: what a plugin lists, and what it costs.

use super::trial::{self, Trial};
use super::{Terms, find, policy};
use crate::cli::Context;
use crate::cli::values::count;
use crate::console::{Field, Tone, one_line, shortened};
use crate::failure::{Exit, Failure};
use agentd_config::Plugin;
use clap::Args;
use mcp_transport::event::Event;
use serde::Serialize;
use serde_json::{Value, json};

/// What of a description is shown in a line.
const DESCRIPTION_CHARS_MAX: usize = 100;

/// Start a plugin and list its tools
///
/// It is started as a session would start it: with a cleared environment and its own credentials, and as you. It ends with this
/// command.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Names are those that agents see and call. Bytes are what a tool costs in front of the model, in every turn: its name, description and
schema as JSON.

Ends with 124 when the plugin was not ready in time.

Examples:
  agentd plugin tools forge
  agentd plugin tools forge --all                 # with what its `tools` patterns hide, and why
  agentd --json plugin tools forge | jq '.tools[].definition.inputSchema'")]
pub(crate) struct ToolsArgs {
    /// The plugin, as agentd.toml calls it
    #[arg(value_name = "NAME")]
    plugin: String,
    /// Show what the plugin's `tools` patterns hide, too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    terms: Terms,
}

/// A tool, for programs.
#[derive(Debug, Serialize)]
struct Listed {
    /// As agents call it.
    name: String,
    /// As the plugin calls it.
    own_name: String,
    bytes: usize,
    /// Why agents do not see it.
    hidden: Option<String>,
    definition: Value,
}

impl ToolsArgs {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let plugin = find(context, &self.plugin)?;
        let (tools, events) = trial::run(context, plugin, &self.terms, async |trial: &mut Trial| {
            Ok((listed(plugin, trial), trial.events()))
        })
        .await?;
        self.show(context, plugin, tools, &events)?;
        Ok(Exit::Ok)
    }

    fn show(
        &self,
        context: &Context,
        plugin: &Plugin,
        tools: Vec<Listed>,
        events: &[Event],
    ) -> Result<(), Failure> {
        let console = &context.console;
        let (mut bytes, mut hidden, mut seen) = (0, 0, 0);
        for tool in &tools {
            if tool.hidden.is_some() {
                hidden += 1;
            } else {
                bytes += tool.bytes;
                seen += 1;
            }
        }
        let revision = events.iter().find_map(|event| match event {
            Event::PluginReady { revision, .. } => Some(revision.as_str()),
            _ => None,
        });
        let warnings = events.iter().filter_map(|event| match event {
            Event::Warning { message, .. } => Some(message.as_str()),
            _ => None,
        });
        let shown: Vec<&Listed> = tools
            .iter()
            .filter(|tool| self.all || tool.hidden.is_none())
            .collect();
        if console.json {
            return console.document(&json!({
                "plugin": plugin.name,
                "revision": revision,
                "tools": shown,
                "bytes": bytes,
                "hidden": hidden,
                "warnings": warnings.collect::<Vec<_>>(),
            }));
        }
        if !shown.is_empty() {
            let mut header = vec!["tool", "bytes", "what it does"];
            if self.all {
                header.push("hidden");
            }
            console.table(&header, shown.iter().map(|tool| self.row(tool)).collect())?;
        }
        for warning in warnings {
            console.status(&console.toned_status(Tone::Bad, &format!("warning: {}", one_line(warning))));
        }
        let more = match (hidden, self.all) {
            (0, _) => String::new(),
            (_, true) => format!(", and {hidden} hidden by its patterns"),
            (_, false) => format!(", and {hidden} hidden by its patterns (--all shows them)"),
        };
        console.status(&format!(
            "{}: {} in {bytes} bytes{more}; it speaks MCP {}",
            plugin.name,
            count(seen, "tool"),
            revision.unwrap_or("of an unknown revision"),
        ));
        Ok(())
    }

    fn row(&self, tool: &Listed) -> Vec<Field> {
        let tone = if tool.hidden.is_some() {
            Tone::Faint
        } else {
            Tone::Plain
        };
        let mut row = vec![
            Field(one_line(&tool.name), tone),
            Field(tool.bytes.to_string(), tone),
            Field(summary(&tool.definition), tone),
        ];
        if self.all {
            row.push(Field(
                one_line(tool.hidden.as_deref().unwrap_or("")),
                Tone::Active,
            ));
        }
        row
    }
}

fn listed(plugin: &Plugin, trial: &Trial) -> Vec<Listed> {
    let tools = trial.gateway.tools().into_iter();
    tools
        .map(|tool| Listed {
            bytes: serde_json::to_string(&tool.definition).map_or(0, |text| text.len()),
            hidden: policy::hidden(&plugin.tools, &tool.own_name),
            name: tool.name,
            own_name: tool.own_name,
            definition: tool.definition,
        })
        .collect()
}

/// The first sentence of what a tool says of itself.
fn summary(definition: &Value) -> String {
    let text = definition["description"].as_str().unwrap_or_default().trim();
    let line = text.lines().next().unwrap_or_default();
    let sentence = line.split_inclusive(". ").next().unwrap_or_default().trim_end();
    shortened(&one_line(sentence), DESCRIPTION_CHARS_MAX)
}
