//! A plugin that runs for as long as one command does, behind a gateway like a session's.

use super::{Terms, program};
use crate::cli::Context;
use crate::console::{Tone, one_line};
use crate::failure::{Exit, Failure};
use crate::guard::{Guarded, end_tree};
use agentd_config::{Plugin, PluginSource};
use agentd_runner::session::secrets::SecretStore;
use agentd_runner::session::tools;
use agentd_supervisor::redact::Redactor;
use agentd_supervisor::tools::{self as spec, plugin_options};
use mcp_transport::event::{ChannelSink, Event};
use mcp_transport::policy::Rules;
use mcp_transport::{Gateway, GatewayOptions, StartError, StartFault};
use std::collections::BTreeMap;
use std::os::unix::fs::chown;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::Receiver;

/// Far more than one list and one call tell.
const EVENTS_MAX: usize = 1024;

/// A plugin that is ready.
pub(super) struct Trial {
    pub(super) gateway: Gateway,
    redactor: Redactor,
    events: Receiver<Event>,
}

impl Trial {
    /// Without the plugin's secrets: for what is shown as an error.
    pub(super) fn redacted(&self, text: &str) -> String {
        self.redactor.redact_text(text)
    }

    /// What has been told since this was asked last.
    pub(super) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }
}

/// Starts a plugin, does something with it, and ends it. All of its tools are there: what its patterns hide is for the
/// caller to say.
///
/// # Errors
/// When it cannot be started, the work's own, and when a signal comes.
pub(super) async fn run<T>(
    context: &Context,
    plugin: &Plugin,
    terms: &Terms,
    work: impl AsyncFnOnce(&mut Trial) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let internal = |what: &str, error: std::io::Error| Failure::internal(format!("cannot {what}: {error}"));
    let mut signals = Signals::new().map_err(|error| internal("listen for signals", error))?;
    // Dropped after everything else here.
    let empty_dir = tempfile::Builder::new()
        .prefix("agentd-plugin-")
        .tempdir()
        .map_err(|error| internal("make an empty directory", error))?;
    look(context, plugin)?;
    let path = program::path(plugin, context.environment.get("PATH"));
    let start_max = terms.timeout.unwrap_or(tools::START_MAX);
    let spec = tools::plugin(plugin, &path, &context.settings.home, start_max, None)
        .map_err(|error| Failure::config(error.to_string()))?;
    let user = match &spec.source {
        spec::PluginSource::Process { user, .. } => user.clone(),
        spec::PluginSource::Remote { .. } => None,
    };
    if let Some(user) = &user {
        chown(empty_dir.path(), Some(user.uid), Some(user.gid))
            .map_err(|error| internal("give an empty directory to the plugin's user", error))?;
    }
    let values = secrets(context, plugin)?;
    let redactor = Redactor::new(values.values().cloned());
    let own_dir = |_: &str| Ok(empty_dir.path().to_owned());
    let mut options = plugin_options(&spec, &|name| values.get(name).cloned(), &own_dir)
        .map_err(|why| Failure::config(format!("plugin {:?}: {why}", plugin.name)))?;
    options.tools = Rules::default();
    // There is nobody to read on. What it may say in one message is the bound.
    options.limits.output_bytes_max = options.limits.line_bytes_max;
    if let Some(timeout) = terms.timeout {
        options.limits.call_max = timeout;
        options.limits.probe_max = options.limits.probe_max.min(timeout / 2);
    }
    let start_max = options.limits.start_max;
    let (sink, events) = ChannelSink::new(EVENTS_MAX);
    let mut options = GatewayOptions::new(vec![options]);
    options.events = Arc::new(sink);
    let redacts = redactor.clone();
    options.redact = Arc::new(move |text: &str| redacts.redact_text(text));
    options.spawn = Arc::new(Guarded { user });
    let _ended = EndTree;
    let gateway = tokio::select! {
        biased;
        () = signals.next() => return Err(interrupted()),
        started = Gateway::start(options) => started.map_err(|error| not_started(plugin, &error, start_max))?,
    };
    let mut trial = Trial {
        gateway,
        redactor,
        events,
    };
    let outcome = tokio::select! {
        biased;
        () = signals.next() => Err(interrupted()),
        outcome = work(&mut trial) => outcome,
    };
    let said = trial.gateway.stderr(&plugin.name).unwrap_or_default();
    trial.gateway.stop().await;
    if terms.log {
        for line in said.lines() {
            let line = format!("{}: {}", plugin.name, one_line(line));
            context
                .console
                .status(&context.console.toned_status(Tone::Faint, &line));
        }
    }
    outcome
}

/// What the plugin has left behind ends with it, whatever made this end.
struct EndTree;

impl Drop for EndTree {
    fn drop(&mut self) {
        end_tree();
    }
}

/// The plugin's secrets, by name.
fn secrets(context: &Context, plugin: &Plugin) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    let store = SecretStore::new(context.settings.secret_dir.clone());
    tools::secrets(plugin)
        .map(|name| match store.read(name) {
            Ok(read) => Ok((name.to_owned(), read.secret.expose().to_vec())),
            Err(error) => Err(Failure::config(format!("plugin {:?}: {error}", plugin.name))),
        })
        .collect()
}

/// What would make starting it fail with less to say.
fn look(context: &Context, plugin: &Plugin) -> Result<(), Failure> {
    let PluginSource::Command { command, workdir, .. } = &plugin.source else {
        return Ok(());
    };
    let name = &plugin.name;
    if let Some(workdir) = workdir
        && let Err(error) = workdir.read_dir()
    {
        let message = format!("plugin {name:?}: its workdir {}: {error}", workdir.display());
        return Err(Failure::config(message));
    }
    let path = program::path(plugin, context.environment.get("PATH"));
    program::find(command, &path, workdir.as_deref())
        .map(drop)
        .map_err(|why| Failure::config(format!("plugin {name:?} cannot be started: {why}")))
}

fn interrupted() -> Failure {
    Failure::new(Exit::Interrupted, "interrupted; the plugin was ended")
}

fn not_started(plugin: &Plugin, error: &StartError, start_max: Duration) -> Failure {
    let why = error.to_string();
    let shown: Vec<String> = why.lines().map(one_line).collect();
    let exit = match error {
        StartError::Plugin { fault, .. } if *fault == StartFault::Silent => Exit::Timeout,
        _ => Exit::Failed,
    };
    let failure = Failure::new(exit, shown.join("\n  "));
    let StartError::Plugin { fault, .. } = error else {
        return failure;
    };
    let PluginSource::Command { command, env, .. } = &plugin.source else {
        return failure.hint("does its url lead to an MCP server (streamable HTTP), and is its token right?");
    };
    let command = one_line(&command.join(" "));
    if *fault == StartFault::NoMessages {
        return failure.hint(format!(
            "on its standard output there may be nothing but messages of MCP. Is `{command}` an MCP server, or does it need an \
             argument to be one? Its log belongs on standard error"
        ));
    }
    if *fault == StartFault::Silent {
        return failure.hint(format!(
            "it says nothing on its standard output: does `{command}` speak MCP over stdio? One that is slow gets more time with \
             --timeout; it has had {} s",
            start_max.as_secs_f64()
        ));
    }
    if env.is_empty() && tools::secrets(plugin).next().is_none() {
        return failure.hint(format!(
            "it ran `{command}` with PATH and a HOME of its own, and no other variables: those that it needs are declared in its env \
             and credentials"
        ));
    }
    failure.hint(format!(
        "it ran `{command}` with PATH, a HOME of its own, its own env and its credentials, and no other variables: is one missing?"
    ))
}

/// What ends a command from outside.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hang_up] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    }
}
