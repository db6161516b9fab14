//! `agentd plugins`: what is declared.

use crate::cli::Context;
use crate::console::{Field, Tone, one_line};
use crate::failure::{Exit, Failure};
use agentd_config::{Plugin, PluginSource, ToolPatterns};
use agentd_runner::session::tools::secrets;
use clap::Args;
use serde_json::{Value, json};

/// List the plugins that agentd.toml declares, and the agents that have them
#[derive(Debug, Args)]
#[command(after_long_help = "\
Nothing is started. `agentd plugin tools NAME` starts one and lists its tools, `agentd check` validates them all, and docs/plugins.md
shows how one is written and declared.

Examples:
  agentd plugins
  agentd --json plugins | jq -r '.plugins[].name'")]
pub(crate) struct PluginsArgs {}

impl PluginsArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit, Failure> {
        let config = &context.settings.config;
        let users = |plugin: &Plugin| -> Vec<&str> {
            let agents = config.agents.iter();
            agents
                .filter(|agent| agent.plugins.contains(&plugin.name))
                .map(|agent| agent.name.as_str())
                .collect()
        };
        if context.console.json {
            let plugins: Vec<Value> = config
                .plugins
                .iter()
                .map(|plugin| document(plugin, &users(plugin)))
                .collect();
            context.console.document(&json!({ "plugins": plugins }))?;
            return Ok(Exit::Ok);
        }
        if config.plugins.is_empty() {
            context.console.status(
                "no plugin is declared; docs/plugins.md shows how, and `agentd init` writes an example into a new agentd.toml",
            );
            return Ok(Exit::Ok);
        }
        let rows = config.plugins.iter().map(|plugin| row(plugin, &users(plugin)));
        let header = ["plugin", "from", "tools", "credentials", "agents"];
        context.console.table(&header, rows.collect())?;
        Ok(Exit::Ok)
    }
}

/// Names of secrets, never their values; of variables their names.
fn document(plugin: &Plugin, agents: &[&str]) -> Value {
    let mut shown = json!({
        "name": plugin.name,
        "tools": {"allow": plugin.tools.allow, "deny": plugin.tools.deny},
        "credentials": secrets(plugin).collect::<Vec<_>>(),
        "agents": agents,
        "timeout_ms": u64::try_from(plugin.timeout.as_millis()).unwrap_or(u64::MAX),
        "max_output_bytes": plugin.output_bytes_max,
        "calls_per_minute": plugin.calls_per_minute,
    });
    match &plugin.source {
        PluginSource::Command {
            command,
            env,
            workdir,
            user,
        } => {
            shown["command"] = json!(command);
            shown["env"] = json!(env.keys().collect::<Vec<_>>());
            shown["workdir"] = json!(workdir);
            shown["user"] = json!(user);
        }
        PluginSource::Url { url, .. } => shown["url"] = json!(url),
    }
    shown
}

fn row(plugin: &Plugin, agents: &[&str]) -> Vec<Field> {
    let from = match &plugin.source {
        PluginSource::Command { command, .. } => command.join(" "),
        PluginSource::Url { url, .. } => url.clone(),
    };
    let agents = if agents.is_empty() {
        Field("none".into(), Tone::Faint)
    } else {
        one_line(&agents.join(", ")).into()
    };
    vec![
        one_line(&plugin.name).into(),
        one_line(&from).into(),
        patterns(&plugin.tools).into(),
        one_line(&secrets(plugin).collect::<Vec<_>>().join(", ")).into(),
        agents,
    ]
}

fn patterns(tools: &ToolPatterns) -> String {
    let allowed = match tools.allow.as_slice() {
        [] => "all".to_owned(),
        some => some.join(", "),
    };
    match tools.deny.as_slice() {
        [] => allowed,
        some => format!("{allowed}; not {}", some.join(", ")),
    }
}
