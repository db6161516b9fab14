//! Tools: from what is declared of plugins to what a session's supervisor starts.

use super::error::StepError;
use super::plugins;
use super::secrets::SecretStore;
use super::state::{self, StateDirs};
use agentd_config::{Agent, Config, Credential, Plugin, PluginSource, ToolPatterns};
use agentd_protocol::SessionId;
use agentd_supervisor::sweep::SESSION_VARIABLE;
use agentd_supervisor::tools::{self as spec, PluginSpec, TOKEN_FILE, ToolsSpec};
use mcp_transport::policy::{Pattern, Rules};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The plugin that every session has: agentd itself.
pub const OWN_PLUGIN: &str = "agentd";
/// The bridge, in a session's run directory.
pub const BRIDGE_FILE: &str = "mcp";
/// What MCP clients are configured with, in a session's run directory.
pub const CLIENT_FILE: &str = "mcp.json";
/// How long a plugin may take from its start to its first list of tools, when nothing else is said.
pub const START_MAX: Duration = Duration::from_secs(30);

/// What the tools of sessions need to know of their daemon.
#[derive(Clone, Debug, Default)]
pub struct ToolsOptions {
    /// The program that is `agentd`, and its arguments before `mcp`. Without one, sessions do not have its tools.
    pub agentd: Vec<String>,
    /// The daemon's socket.
    pub socket: PathBuf,
    /// Where plugins' programs without a `/` are looked for, and their `PATH`.
    pub path: String,
    /// Where [`crate::inside::install_bridge`] has put the bridge.
    pub bridge: PathBuf,
}

/// Patterns as the gateway reads them.
#[must_use]
pub fn rules(patterns: &ToolPatterns) -> Rules {
    let all = |patterns: &[String]| patterns.iter().map(Pattern::new).collect::<Vec<_>>();
    Rules {
        allow: (!patterns.allow.is_empty()).then(|| all(&patterns.allow)),
        deny: all(&patterns.deny),
    }
}

/// A declared plugin as a gateway starts it. `path` is its `PATH`, unless its own variables say otherwise; its home is
/// made below `root`; `session` marks its processes.
///
/// # Errors
/// When it has no home, or the user that it is to run as is not to be had.
pub fn plugin(
    plugin: &Plugin,
    path: &str,
    root: &Path,
    start_max: Duration,
    session: Option<SessionId>,
) -> Result<PluginSpec, StepError> {
    let user = plugins::user(plugin)?;
    let home = plugins::home(root, plugin, user.as_ref())?;
    let home = home.map(|home| {
        let text = home.into_os_string().into_string();
        text.map_err(|home| StepError::machine(format!("{:?} is not UTF-8", home.to_string_lossy())))
    });
    let home = home.transpose()?;
    let source = match &plugin.source {
        PluginSource::Command {
            command,
            env,
            workdir,
            user: _,
        } => {
            let mut all = BTreeMap::from([("PATH".to_owned(), path.to_owned())]);
            all.extend(home.map(|home| (plugins::HOME.to_owned(), home)));
            all.extend(env.clone());
            all.extend(session.map(|id| (SESSION_VARIABLE.to_owned(), id.to_string())));
            spec::PluginSource::Process {
                argv: command.clone(),
                env: all,
                secret_env: plugin.credentials.iter().map(variable).collect(),
                cwd: workdir.clone(),
                user,
            }
        }
        PluginSource::Url { url, token } => spec::PluginSource::Remote {
            url: url.clone(),
            token: token.clone(),
        },
    };
    Ok(PluginSpec {
        name: plugin.name.clone(),
        source,
        tools: rules(&plugin.tools),
        timeout_ms: millis(plugin.timeout),
        output_bytes_max: plugin.output_bytes_max,
        calls_per_minute: plugin.calls_per_minute,
        start_timeout_ms: millis(start_max),
        lazy: false,
        redacted: false,
    })
}

fn variable(credential: &Credential) -> (String, String) {
    let Credential { name, env } = credential;
    (env.as_ref().unwrap_or(name).clone(), name.clone())
}

/// The secrets that a plugin gets, by name.
pub fn secrets(plugin: &Plugin) -> impl Iterator<Item = &str> {
    let token = match &plugin.source {
        PluginSource::Url { token, .. } => token.as_deref(),
        PluginSource::Command { .. } => None,
    };
    let credentials = plugin.credentials.iter();
    credentials
        .map(|credential| credential.name.as_str())
        .chain(token)
}

/// agentd's own tools, for the agent of this session.
fn own(options: &ToolsOptions, whose: &Whose<'_>) -> Option<PluginSpec> {
    if options.agentd.is_empty() {
        return None;
    }
    let session = whose.session.to_string();
    let mut argv = options.agentd.clone();
    argv.extend(["mcp".into(), "--session".into(), session.clone()]);
    let env = [
        ("PATH", options.path.clone()),
        (
            "AGENTD_SOCKET_PATH",
            options.socket.to_string_lossy().into_owned(),
        ),
        ("AGENT_NAME", whose.home_name.to_owned()),
        (SESSION_VARIABLE, session),
    ];
    Some(PluginSpec {
        name: OWN_PLUGIN.into(),
        source: spec::PluginSource::Process {
            argv,
            env: env.map(|(name, value)| (name.to_owned(), value)).into(),
            secret_env: BTreeMap::new(),
            cwd: Some(PathBuf::from("/")),
            user: None,
        },
        tools: Rules::default(),
        // It waits for locks and nodes, as long as its agent says.
        timeout_ms: millis(Duration::from_secs(24 * 3600)),
        output_bytes_max: Plugin::OUTPUT_BYTES_DEFAULT,
        calls_per_minute: None,
        start_timeout_ms: millis(START_MAX),
        lazy: true,
        // Results, events and errors of nodes are in the database for good, and for others to read.
        redacted: true,
    })
}

/// The session's tools as a server in the form that most MCP clients read, for an agent that sees its run directory as
/// `run_dir`. No secret is in it: the bridge needs none.
#[must_use]
pub fn client_config(run_dir: &str) -> Vec<u8> {
    let config = serde_json::json!({"mcpServers": {OWN_PLUGIN: {
        "command": format!("{run_dir}/{BRIDGE_FILE}"),
        "args": [],
        // Some clients start their servers with no other variables.
        "env": {"AGENTD_RUN_DIR": run_dir},
    }}});
    format!("{config:#}\n").into_bytes()
}

/// Whose tools they are.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    /// Its declaration.
    pub agent: &'a Agent,
    /// Its own name: that of its home.
    pub home_name: &'a str,
    /// The session.
    pub session: SessionId,
    /// Whom the gateway's sockets belong to, when that is not agentd's user.
    pub owner: Option<(u32, u32)>,
    /// How long its plugins may take to start.
    pub start_max: Duration,
}

/// What a session's gateway is made of, and what it needs.
#[derive(Debug)]
pub struct Equipment {
    /// For the supervisor.
    pub spec: ToolsSpec,
    /// What clients over HTTP show.
    pub token: Token,
    /// What people should know.
    pub warnings: Vec<String>,
}

/// A session's token. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    fn new() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Puts what the session's gateway needs where only agentd's user can read it: the secrets that its plugins declare, and no
/// other, and a token. What an earlier set-up left there goes first.
///
/// # Errors
/// When a plugin or one of its secrets is not there. Then nothing of them is left.
pub fn equip(
    config: &Config,
    options: &ToolsOptions,
    store: &SecretStore,
    dirs: &StateDirs,
    whose: &Whose<'_>,
) -> Result<Equipment, StepError> {
    let agent = whose.agent;
    let declared = agent.plugins.iter().map(|name| {
        config.plugin(name).ok_or_else(|| {
            StepError::declaration(format!(
                "agent {} is to have the plugin {name:?}, and none of that name is declared",
                agent.name
            ))
        })
    });
    let declared = declared.collect::<Result<Vec<&Plugin>, _>>()?;
    // First, as what they need may be missing.
    let specs = declared.iter().map(|declared| {
        let session = Some(whose.session);
        plugin(declared, &options.path, dirs.root(), whose.start_max, session)
    });
    let mut plugins = specs.collect::<Result<Vec<_>, _>>()?;
    let path = dirs.plugin_secrets(whose.session);
    state::remove_all(&path)?;
    let equipped = deliver(&declared, store, &path);
    let (token, warnings) = match equipped {
        Ok(equipped) => equipped,
        Err(error) => {
            if let Err(error) = state::remove_all(&path) {
                tracing::warn!(%error, "secrets of a set-up that failed are left");
            }
            return Err(error);
        }
    };
    plugins.extend(own(options, whose));
    Ok(Equipment {
        spec: ToolsSpec {
            plugins,
            tools: rules(&agent.tools),
            secrets_dir: path,
            owner: whose.owner,
        },
        token,
        warnings,
    })
}

fn deliver(
    declared: &[&Plugin],
    store: &SecretStore,
    path: &Path,
) -> Result<(Token, Vec<String>), StepError> {
    let dir = state::make(path, 0o700, None)?;
    let token = Token::new();
    state::write_new(
        dir.as_fd(),
        path,
        TOKEN_FILE,
        token.expose().as_bytes(),
        0o400,
        None,
    )?;
    let mut warnings = Vec::new();
    let mut written = BTreeSet::new();
    for plugin in declared {
        for name in secrets(plugin) {
            // Two plugins may have the same.
            if !written.insert(name) {
                continue;
            }
            if written.len() == 1 {
                warnings.extend(store.check()?);
            }
            let read = store.read(name).map_err(|error| {
                let name = &plugin.name;
                StepError::machine(format!("plugin {name:?}: {error}"))
            })?;
            state::write_new(dir.as_fd(), path, name, read.secret.expose(), 0o400, None)?;
            warnings.extend(read.warnings);
        }
    }
    Ok((token, warnings))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
