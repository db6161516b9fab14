//! `agentd check`: everything about a configuration that can be found out without starting anything.

mod agent;
mod plugin;

use super::Global;
use crate::console::{Console, Field, Tone, one_line};
use crate::daemon::sessions;
use crate::failure::{Exit, Failure};
use crate::settings::{Environment, Flags, Settings, SettingsError};
use agentd_config::duration::shown as shown_duration;
use agentd_config::size::shown as shown_size;
use agentd_config::{Agent, ConfigError, RuntimeKind};
use agentd_runner::runtime::Runtimes;
use agentd_runner::runtime::engine::Problem;
use agentd_store::sqlite::HomeNumbers;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Validate agentd.toml and all that it names, and start nothing
#[derive(Debug, Args)]
#[command(after_long_help = "\
Looks at the settings and at each agent: files and directories that it names, its workspace's owner, its credentials in the \
secret store, and what its runtime can do here; Podman is asked what it is and which images it has. Of each plugin it looks at the \
program, its directory, its credentials and its patterns (`agentd plugin tools NAME` starts one). Ends with 0 when sessions can begin, with 78 when something keeps them from it.

Examples:
  agentd check
  agentd --config new.toml check
  agentd --json check | jq '.problems[] | select(.level == \"error\")'")]
pub(crate) struct CheckArgs {}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// Something does not work.
    Error,
    /// It works, but people should know.
    Warning,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    level: Level,
    /// Where it stands, when it is about a place in a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<FilePlace>,
    /// The agent, when it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    /// The key in the configuration that it is about; empty when it is about none.
    key: String,
    /// What is wrong, and what would be right.
    message: String,
}

#[derive(Clone, Debug, Serialize)]
struct FilePlace {
    file: PathBuf,
    line: usize,
    column: usize,
}

impl Finding {
    fn error(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            level: Level::Error,
            place: None,
            agent: None,
            key: key.into(),
            message: message.into(),
        }
    }

    fn warning(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            level: Level::Warning,
            ..Self::error(key, message)
        }
    }

    fn of(self, agent: &Agent) -> Self {
        Self {
            agent: Some(agent.name.clone()),
            ..self
        }
    }

    /// Where to look, in a word.
    fn about(&self) -> String {
        match (&self.place, &self.agent) {
            (Some(place), _) => format!("line {}", place.line),
            (None, Some(agent)) if self.key.is_empty() => agent.clone(),
            (None, Some(agent)) => format!("{agent}.{}", self.key),
            (None, None) => self.key.clone(),
        }
    }
}

impl CheckArgs {
    pub(crate) async fn run(
        self,
        global: &Global,
        environment: &Environment,
        console: &Console,
    ) -> Result<Exit, Failure> {
        let flags = super::daemon::flags(global, None);
        let (path, settings, findings) = match Settings::load(&flags, environment) {
            Ok(settings) => {
                let findings = examine(&settings, environment).await;
                (settings.config_path.clone(), Some(settings), findings)
            }
            Err(error) => (named(&flags, environment), None, unusable(&error)),
        };
        report(console, path.as_deref(), settings.as_ref(), &findings)
    }
}

fn named(flags: &Flags, environment: &Environment) -> Option<PathBuf> {
    let (_, source) = Settings::locate(flags, environment).ok()?;
    Some(source.preferred().to_owned())
}

/// What keeps the settings from being settings.
fn unusable(error: &SettingsError) -> Vec<Finding> {
    let SettingsError::Config(ConfigError::Invalid(mistakes)) = error else {
        return vec![Finding::error("", error.to_string())];
    };
    let finding = |mistake: &agentd_config::source::Mistake| Finding {
        place: Some(FilePlace {
            file: mistake.path.clone(),
            line: mistake.line,
            column: mistake.column,
        }),
        ..Finding::error(&mistake.key, &mistake.message)
    };
    mistakes.list().iter().map(finding).collect()
}

async fn examine(settings: &Settings, environment: &Environment) -> Vec<Finding> {
    let mut findings: Vec<Finding> = settings
        .warnings
        .iter()
        .map(|warning| Finding::warning("", warning))
        .collect();
    findings.extend(daemon(settings));
    findings.extend(plugin::examine(settings, environment));
    let runtimes = match sessions::runtimes(settings, environment, "check", None) {
        Ok(runtimes) => runtimes,
        Err(error) => {
            findings.push(Finding::error("", error.to_string()));
            return findings;
        }
    };
    let mut engines = Engines {
        runtimes: &runtimes,
        usable: BTreeMap::new(),
        asked: HashMap::new(),
    };
    let mut homes = home_numbers(settings, &mut findings);
    for agent in &settings.config.agents {
        findings.extend(engines.get_ready(settings, environment, agent.runtime).await);
        let engine = engines.runtimes.get(agent.runtime).map(|engine| &**engine);
        let mut found = agent::examine(settings, environment, engine, &mut homes, agent);
        found.extend(plugin::patterns_of(&settings.config, agent));
        findings.extend(found.into_iter().map(|finding| finding.of(agent)));
        let problems = engine.map(|engine| engine.check(agent)).unwrap_or_default();
        let missing = engines.missing(agent).await;
        let problems = problems.into_iter().chain(missing);
        findings.extend(problems.map(|problem| {
            let level = if problem.fatal {
                Level::Error
            } else {
                Level::Warning
            };
            Finding {
                level,
                ..Finding::error(problem.key, problem.message)
            }
            .of(agent)
        }));
    }
    findings
}

/// The numbers that homes have, or are to have. They say which users the agents of a root daemon are.
fn home_numbers(settings: &Settings, findings: &mut Vec<Finding>) -> HomeNumbers {
    if !nix::unistd::geteuid().is_root() {
        return HomeNumbers::default();
    }
    HomeNumbers::read(&settings.database).unwrap_or_else(|error| {
        let message = format!("the users of agents are taken for those of a new database: {error}");
        findings.push(Finding::warning("daemon.database_url", message));
        HomeNumbers::default()
    })
}

/// The runtimes, each asked once about itself and about each image.
struct Engines<'a> {
    runtimes: &'a Runtimes,
    usable: BTreeMap<&'static str, bool>,
    asked: HashMap<(&'static str, Option<String>), Vec<Problem>>,
}

impl Engines<'_> {
    /// Lets a runtime look at the machine, and gives what keeps all sessions from it.
    async fn get_ready(
        &mut self,
        settings: &Settings,
        environment: &Environment,
        kind: RuntimeKind,
    ) -> Option<Finding> {
        if self.usable.contains_key(kind.as_str()) {
            return None;
        }
        let key = format!("daemon.{}", kind.as_str());
        let program = settings.podman.first().map_or("podman", String::as_str);
        let finding = match self.runtimes.get(kind) {
            None => Some(Finding::error(key, "this agentd does not have it")),
            Some(_) if kind == RuntimeKind::Podman && environment.program(program).is_none() => {
                let message = format!(
                    "{program} is not installed, and agents have runtime = \"podman\"; `agentd doctor` says more"
                );
                Some(Finding::error(key, message))
            }
            Some(engine) => engine.ready().await.err().map(|error| {
                Finding::error(
                    key,
                    format!("it cannot be used: {error}; `agentd doctor` says more"),
                )
            }),
        };
        self.usable.insert(kind.as_str(), finding.is_none());
        finding
    }

    async fn missing(&mut self, agent: &Agent) -> Vec<Problem> {
        let kind = agent.runtime.as_str();
        let Some(engine) = self.runtimes.get(agent.runtime) else {
            return Vec::new();
        };
        if self.usable.get(kind) != Some(&true) {
            return Vec::new();
        }
        let what = (kind, agent.image.clone());
        if let Some(known) = self.asked.get(&what) {
            return known.clone();
        }
        let problems = engine.missing(agent).await.unwrap_or_else(|error| {
            vec![Problem {
                key: "runtime",
                message: error.to_string(),
                fatal: true,
            }]
        });
        self.asked.insert(what, problems.clone());
        problems
    }
}

/// The daemon's own settings, as far as nobody has looked at them yet.
fn daemon(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    if settings.config_path.is_none() {
        let message = "there is no agentd.toml, so that no agents are declared; `agentd init` writes one";
        findings.push(Finding::warning("", message));
    }
    for (key, names) in [
        ("daemon.operators", &settings.operators),
        ("daemon.workers", &settings.workers),
    ] {
        let unknown = names.iter().filter(|name| !is_principal(name));
        findings.extend(unknown.map(|name| {
            let message =
                format!("{name:?} is no user, user id or %group on this machine; the daemon would not start");
            Finding::error(key, message)
        }));
    }
    findings.extend(agent::store(settings));
    findings
}

fn is_principal(name: &str) -> bool {
    use nix::unistd::{Group, User};
    match name.strip_prefix('%') {
        Some(group) => Group::from_name(group).is_ok_and(|group| group.is_some()),
        None => name.parse::<u32>().is_ok() || User::from_name(name).is_ok_and(|user| user.is_some()),
    }
}

fn report(
    console: &Console,
    path: Option<&Path>,
    settings: Option<&Settings>,
    findings: &[Finding],
) -> Result<Exit, Failure> {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    let exit = if errors == 0 { Exit::Ok } else { Exit::Config };
    let agents = settings.map_or(0, |settings| settings.config.agents.len());
    if console.json {
        console.document(&json!({
            "ok": errors == 0,
            "config": path,
            "agents": settings.map(|settings| {
                let names = settings.config.agents.iter().map(|agent| agent.name.as_str());
                names.collect::<Vec<_>>()
            }),
            "plugins": settings.map(|settings| {
                let names = settings.config.plugins.iter().map(|plugin| plugin.name.as_str());
                names.collect::<Vec<_>>()
            }),
            "settings": settings.map(shown),
            "problems": findings,
        }))?;
        return Ok(exit);
    }
    if !findings.is_empty() {
        let rows = findings.iter().map(|finding| {
            let (word, tone) = match finding.level {
                Level::Error => ("error", Tone::Bad),
                Level::Warning => ("warning", Tone::Active),
            };
            vec![
                Field(word.into(), tone),
                one_line(&finding.about()).into(),
                one_line(&finding.message).into(),
            ]
        });
        console.table(&["level", "where", "what"], rows.collect())?;
    }
    let file = path.map_or_else(|| "no agentd.toml".to_owned(), |path| path.display().to_string());
    let many = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    console.status(&format!(
        "{file}: {}, {}, {}",
        many(agents, "agent"),
        many(errors, "error"),
        many(warnings, "warning")
    ));
    Ok(exit)
}

/// The settings as they came out, whatever they came from.
fn shown(settings: &Settings) -> Value {
    json!({
        "home": settings.home,
        "env_file": settings.env_file,
        "database": settings.database,
        "socket": settings.socket,
        "artifact_dir": settings.artifact_dir,
        "secret_dir": settings.secret_dir,
        "node_timeout_secs": settings.node_timeout_secs,
        "context_event_limit": settings.context_event_limit,
        "retention_days": settings.retention_days,
        "max_connections": settings.max_connections,
        "operators": settings.operators,
        "workers": settings.workers,
        "default_role": settings.default_role,
        "podman": settings.podman,
        "max_sessions": settings.max_sessions,
        "setup_timeout": shown_duration(settings.setup_timeout),
        "session_retention": shown_duration(settings.session_retention),
        "transcript_quota": shown_size(settings.transcript_quota_bytes),
        "transcript_limit": shown_size(settings.transcript_bytes),
        "id_range_start": settings.id_range_start,
    })
}
