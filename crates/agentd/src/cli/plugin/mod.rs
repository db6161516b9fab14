//! `agentd plugins` and `agentd plugin`: which servers of tools are declared, and what they do without an agent.
//!
//! ```text
//!   agentd plugin ─▶ Gateway, as in a session ─stdio─▶ guard ─▶ the plugin      (its own environment, cwd, group)
//! ```
//!
//! No daemon is needed: the plugin runs as the caller, and ends with the command, whatever becomes of either.

mod call;
mod list;
pub(crate) mod policy;
pub(crate) mod program;
mod tools;
mod trial;

pub(crate) use list::PluginsArgs;

use super::{Context, values};
use crate::failure::{Exit, Failure};
use agentd_config::Plugin;
use agentd_config::source::did_you_mean;
use clap::{Args, Subcommand};
use std::time::Duration;

/// Try a plugin without an agent: list its tools, call one
#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    Tools(tools::ToolsArgs),
    Call(call::CallArgs),
}

impl PluginCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Tools(args) => args.run(context).await,
            Self::Call(args) => args.run(context).await,
        }
    }
}

/// How a plugin is tried.
#[derive(Debug, Args)]
struct Terms {
    /// How long the plugin may take until it is ready, and then the call until it is answered [default: 30s, and the
    /// plugin's own timeout]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    timeout: Option<Duration>,
    /// Show what the plugin says on its standard error, too
    #[arg(long)]
    log: bool,
}

/// The plugin of this name.
///
/// # Errors
/// When none is declared.
fn find<'a>(context: &'a Context, name: &str) -> Result<&'a Plugin, Failure> {
    let config = &context.settings.config;
    config.plugin(name).ok_or_else(|| {
        let names = config.plugins.iter().map(|plugin| plugin.name.as_str());
        let file = match &context.settings.config_path {
            Some(path) => path.display().to_string(),
            None => "agentd.toml, which is not there".into(),
        };
        let message = format!(
            "no plugin {name:?} is declared in {file}{}",
            did_you_mean(name, names)
        );
        Failure::new(Exit::Failed, message)
            .hint("`agentd plugins` lists those that are; docs/plugins.md shows how one is declared")
    })
}
