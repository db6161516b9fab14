//! The tools of a session: which plugins its gateway starts, and for whom. It holds no secret: values are in files.

use mcp_transport::limits::{Limits, Rate};
use mcp_transport::policy::Rules;
use mcp_transport::process::ProcessOptions;
use mcp_transport::{GatewayOptions, PluginOptions, RemoteOptions, Source};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

/// The file, in [`ToolsSpec::secrets_dir`], with the token that clients over HTTP show. No secret can have this name.
pub const TOKEN_FILE: &str = ".mcp-token";
/// The variable in which the agent has that token.
pub const TOKEN_VARIABLE: &str = "AGENTD_MCP_TOKEN";

/// What the gateway of a session is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolsSpec {
    /// In the order in which their tools are listed.
    pub plugins: Vec<PluginSpec>,
    /// Which tools the agent may use, by the names that it sees.
    pub tools: Rules,
    /// The directory, on a tmpfs and readable for nobody else, of the plugins' secrets and [`TOKEN_FILE`]. It is removed
    /// once it was read.
    pub secrets_dir: PathBuf,
    /// Whom the gateway's sockets belong to, when that is somebody else than the supervisor's user: the agent.
    pub owner: Option<(u32, u32)>,
}

/// One plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginSpec {
    /// Its name.
    pub name: String,
    /// What it is.
    pub source: PluginSource,
    /// Which of its tools there are, by their own names.
    pub tools: Rules,
    /// How long one call may take, in milliseconds.
    pub timeout_ms: u64,
    /// How much of a result an agent gets in one piece, in bytes.
    pub output_bytes_max: u64,
    /// How many calls a minute: so many at once, and on average.
    pub calls_per_minute: Option<u32>,
    /// How long it may take from its start to its first list of tools, in milliseconds.
    pub start_timeout_ms: u64,
    /// It is started when the first client connects, and not before.
    #[serde(default)]
    pub lazy: bool,
    /// What agents tell it comes to it without the session's secrets.
    #[serde(default)]
    pub redacted: bool,
}

/// What a plugin is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PluginSource {
    /// A program that is started.
    Process {
        /// The program, looked up in `env`'s `PATH` when it has no `/`, and its arguments.
        argv: Vec<String>,
        /// Its whole environment, but for what `secret_env` adds.
        env: BTreeMap<String, String>,
        /// Variables whose values are secrets: variable → name of the secret.
        secret_env: BTreeMap<String, String>,
        /// Where it runs; in a directory of its own when absent.
        cwd: Option<PathBuf>,
        /// The user that it runs as; the supervisor's own when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<ProcessUser>,
    },
    /// A server elsewhere.
    Remote {
        /// Its address.
        url: String,
        /// The name of the secret that it is shown as a bearer token.
        token: Option<String>,
    },
}

/// A user, by numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessUser {
    /// The user's.
    pub uid: u32,
    /// The first group's.
    pub gid: u32,
    /// All of the groups.
    pub groups: Vec<u32>,
}

/// A gateway of these plugins. `secret` knows the values of secrets, `own_dir` makes the directories of those plugins that
/// have none. Where events, processes and large output go is the caller's to add.
///
/// # Errors
/// A sentence for people that names the plugin: a secret is not there or cannot be what it is to be, or a directory
/// cannot be made.
pub fn gateway_options(
    spec: &ToolsSpec,
    secret: &dyn Fn(&str) -> Option<Vec<u8>>,
    own_dir: &dyn Fn(&str) -> std::io::Result<PathBuf>,
) -> Result<GatewayOptions, String> {
    let plugins = spec.plugins.iter().map(|plugin| {
        plugin_options(plugin, secret, own_dir).map_err(|why| format!("plugin {:?}: {why}", plugin.name))
    });
    let mut options = GatewayOptions::new(plugins.collect::<Result<_, _>>()?);
    options.tools = spec.tools.clone();
    Ok(options)
}

/// See [`gateway_options`].
///
/// # Errors
/// As there, without the plugin's name.
pub fn plugin_options(
    spec: &PluginSpec,
    secret: &dyn Fn(&str) -> Option<Vec<u8>>,
    own_dir: &dyn Fn(&str) -> std::io::Result<PathBuf>,
) -> Result<PluginOptions, String> {
    let value = |name: &str, of: &str| {
        let value =
            secret(name).ok_or_else(|| format!("there is no secret {name:?}, which {of} is to be"))?;
        match value.contains(&0) {
            true => Err(format!(
                "the secret {name:?} has a zero byte in it, and cannot be {of}"
            )),
            false => Ok(value),
        }
    };
    let source = match &spec.source {
        PluginSource::Process {
            argv,
            env,
            secret_env,
            cwd,
            user: _,
        } => {
            let mut all: Vec<(OsString, OsString)> = env
                .iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect();
            for (variable, name) in secret_env {
                let value = value(name, &format!("its variable {variable}"))?;
                all.push((variable.into(), OsString::from_vec(value)));
            }
            Source::Process(ProcessOptions {
                argv: argv.iter().map(OsString::from).collect(),
                env: all,
                cwd: match cwd {
                    Some(cwd) => cwd.clone(),
                    None => own_dir(&spec.name)
                        .map_err(|error| format!("its directory cannot be made: {error}"))?,
                },
            })
        }
        PluginSource::Remote { url, token } => {
            let bearer = token.as_ref().map(|name| {
                String::from_utf8(value(name, "its token")?)
                    .map_err(|_| format!("the secret {name:?} is no text, and cannot be its token"))
            });
            Source::Remote(RemoteOptions {
                url: url.clone(),
                bearer: bearer.transpose()?,
            })
        }
    };
    let mut options = PluginOptions::new(&spec.name, source);
    options.tools = spec.tools.clone();
    options.lazy = spec.lazy;
    options.redacted = spec.redacted;
    options.limits = Limits {
        rate: spec.calls_per_minute.map(|calls| Rate {
            per_sec: f64::from(calls) / 60.0,
            burst: calls,
        }),
        call_max: Duration::from_millis(spec.timeout_ms),
        start_max: Duration::from_millis(spec.start_timeout_ms),
        output_bytes_max: usize::try_from(spec.output_bytes_max).unwrap_or(usize::MAX),
        ..Limits::default()
    };
    Ok(options)
}
