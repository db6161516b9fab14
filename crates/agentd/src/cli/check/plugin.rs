//! What plugins' declarations name on this machine, looked at as the start of one would.

use super::Finding;
use crate::cli::plugin::{policy, program};
use crate::settings::{Environment, Settings};
use agentd_config::{Agent, Config, Plugin, PluginSource, ToolPatterns};
use agentd_runner::session::error::StepError;
use agentd_runner::session::plugins;
use agentd_runner::session::secrets::{ReadSecret, SecretStore};
use agentd_runner::session::tools::OWN_PLUGIN;
use mcp_transport::name::SEPARATOR;
use std::path::Path;

/// The gateway's own tools, which every session has.
const GATEWAY: &str = "gateway";

/// All plugins.
pub(super) fn examine(settings: &Settings, environment: &Environment) -> Vec<Finding> {
    let store = SecretStore::new(settings.secret_dir.clone());
    let mut findings = Vec::new();
    for plugin in &settings.config.plugins {
        let mut found = Vec::new();
        match &plugin.source {
            PluginSource::Command { command, workdir, .. } => {
                if let Some(why) = workdir.as_deref().and_then(unusable) {
                    found.push(Finding::error("workdir", why));
                } else {
                    let path = program::path(plugin, environment.get("PATH"));
                    if let Err(why) = program::find(command, &path, workdir.as_deref()) {
                        found.push(Finding::error("command", why));
                    }
                }
            }
            PluginSource::Url { url, token } => {
                if let Some(name) = token {
                    secret(&mut found, "token", store.read(name));
                    found.extend(in_the_clear(url));
                }
            }
        }
        let user = plugins::user(plugin).and_then(|user| match user {
            Some(user) if !has_home_variable(plugin) => plugins::reaches_home(&settings.home, plugin, &user),
            _ => Ok(()),
        });
        if let Err(error) = user {
            found.push(Finding::error("user", error.to_string()));
        }
        for credential in &plugin.credentials {
            secret(&mut found, "credentials", store.read_for(credential));
        }
        found.extend(prefixed(plugin));
        findings.extend(found.into_iter().map(|finding| Finding {
            key: format!("plugins.{}.{}", plugin.name, finding.key),
            ..finding
        }));
    }
    findings
}

fn has_home_variable(plugin: &Plugin) -> bool {
    matches!(&plugin.source, PluginSource::Command { env, .. } if env.contains_key("HOME"))
}

/// An agent's patterns that fit no tool of its plugins, whatever tools those have.
pub(super) fn patterns_of(config: &Config, agent: &Agent) -> Vec<Finding> {
    let prefixes: Vec<&str> = agent
        .plugins
        .iter()
        .map(String::as_str)
        .chain([OWN_PLUGIN, GATEWAY])
        .collect();
    let useless = |(list, pattern): &(&'static str, &str)| {
        let fits = prefixes.iter().any(|plugin| policy::can_fit(pattern, plugin));
        (!fits).then(|| {
            let (known, hint) = match config
                .plugins
                .iter()
                .find(|plugin| policy::can_fit(pattern, &plugin.name))
            {
                Some(other) => (
                    true,
                    format!("it fits those of {:?}, which is not in its plugins", other.name),
                ),
                None => (false, format!("agents see a tool as PLUGIN{SEPARATOR}TOOL")),
            };
            let effect = match (*list, known) {
                ("deny", _) => "so it forbids nothing",
                _ => "so it allows nothing",
            };
            Finding::warning(
                "tools",
                format!("{list}: {pattern:?} can fit no tool that the agent has, {effect}; {hint}"),
            )
        })
    };
    each(&agent.tools).filter_map(|entry| useless(&entry)).collect()
}

fn each(tools: &ToolPatterns) -> impl Iterator<Item = (&'static str, &str)> {
    let allow = tools.allow.iter().map(|pattern| ("allow", pattern.as_str()));
    allow.chain(tools.deny.iter().map(|pattern| ("deny", pattern.as_str())))
}

/// A plugin's own patterns that are written as an agent's would be.
fn prefixed(plugin: &Plugin) -> Vec<Finding> {
    let prefix = format!("{}{SEPARATOR}", plugin.name);
    let wrong = |(list, pattern): (&'static str, &str)| {
        let own = pattern.strip_prefix(&prefix)?;
        let message = format!(
            "{list}: {pattern:?} begins with {prefix}, as agents see its tools; here patterns are on its own names: {own:?}"
        );
        Some(Finding::warning("tools", message))
    };
    each(&plugin.tools).filter_map(wrong).collect()
}

fn unusable(workdir: &Path) -> Option<String> {
    let error = workdir.read_dir().err()?;
    Some(format!(
        "{} is no directory that can be used: {error}",
        workdir.display()
    ))
}

/// It is read, and nothing of it is said.
fn secret(findings: &mut Vec<Finding>, key: &str, read: Result<ReadSecret, StepError>) {
    match read {
        Ok(read) => findings.extend(
            read.warnings
                .into_iter()
                .map(|warning| Finding::warning(key, warning)),
        ),
        Err(error) => findings.push(Finding::error(key, error.to_string())),
    }
}

/// A token that anybody on the way can read.
fn in_the_clear(url: &str) -> Option<Finding> {
    let rest = url.strip_prefix("http://")?;
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let is_here = host == "localhost"
        || host.ends_with(".localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    (!is_here).then(|| {
        let message =
            format!("the token goes to {host} in the clear, over http; use https if the server has it");
        Finding::warning("url", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_safe_on_this_machine_and_over_https() {
        for safe in [
            "https://a.example/mcp",
            "http://localhost:8080/mcp",
            "http://127.0.0.1/mcp",
            "http://[::1]:80/",
        ] {
            assert!(in_the_clear(safe).is_none(), "{safe}");
        }
        for open in [
            "http://a.example/mcp",
            "http://10.0.0.1:80",
            "http://localhost.example/",
        ] {
            assert!(in_the_clear(open).is_some(), "{open}");
        }
    }
}
