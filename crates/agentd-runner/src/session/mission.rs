//! What an agent is to do, and why now: its prompt, and everything about its trigger in one file.

use super::error::StepError;
use super::state::RunDir;
use agentd_config::Agent;
use agentd_protocol::limits::PROMPT_BYTES_MAX;
use agentd_protocol::results::{AcquiredNode, CompletedDependency};
use agentd_protocol::{Json, SessionId, Trigger};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value};
use serde::Serialize;
use serde_json::{Map, json};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::{self as rfs, CWD, Mode, OFlags};

/// The mission's file in the run directory.
pub const MISSION_FILE: &str = "mission.json";
/// The prompt's file in the run directory.
pub const PROMPT_FILE: &str = "prompt.txt";
/// The longest prompt that is an argument, in bytes: one may have 128 KiB on Linux.
pub const PROMPT_ARGUMENT_BYTES_MAX: usize = 100 * 1024;
/// How many template instructions a prompt may take: enough for loops over all that a node can depend on.
const FUEL: u64 = 5_000_000;

/// What a session is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The agent.
    pub agent: &'a Agent,
    /// Its home, which is its own name.
    pub home_name: &'a str,
    /// Which replica it is.
    pub replica: u32,
    /// The session.
    pub session: SessionId,
    /// What began it.
    pub trigger: &'a Trigger,
    /// The node that it works on, with its lease. Results that were too large to come with it have been added by
    /// the caller; what it could not add is null.
    pub node: Option<&'a AcquiredNode>,
}

impl Subject<'_> {
    /// What a template can name.
    fn variables(&self) -> serde_json::Value {
        let mut trigger = match self.trigger.context.to_value() {
            serde_json::Value::Object(members) => members,
            _ => Map::new(),
        };
        trigger.insert("kind".into(), self.trigger.kind.as_str().into());
        let mut variables = json!({
            "trigger": trigger,
            "agent": { "name": self.agent.name, "home_name": self.home_name, "replica": self.replica },
            "session": { "id": self.session },
        });
        if let Some(node) = self.node {
            let context = &node.context;
            variables["task"] = json!({
                "id": context.task.id,
                "goal": context.task.goal,
                "context": context.task.context.to_value(),
            });
            variables["node"] = json!({
                "id": context.node.id,
                "name": context.node.name,
                "payload": context.node.payload_schema.to_value(),
                "attempt": node.attempt,
            });
            let inputs = named(&context.completed_dependencies)
                .into_iter()
                .map(|(name, result)| (name, result.map_or(serde_json::Value::Null, Json::to_value)));
            variables["inputs"] = serde_json::Value::Object(inputs.collect());
        }
        variables
    }
}

/// Results by their nodes' names; by its id when a node has none, or another's before it.
fn named(dependencies: &[CompletedDependency]) -> BTreeMap<String, Option<&Json>> {
    let mut taken = HashSet::new();
    let name = |dependency: &CompletedDependency| {
        let name = dependency.name.clone().filter(|name| taken.insert(name.clone()));
        name.unwrap_or_else(|| dependency.node_id.to_string())
    };
    let names: Vec<String> = dependencies.iter().map(name).collect();
    names
        .into_iter()
        .zip(
            dependencies
                .iter()
                .map(|dependency| dependency.result_payload.as_ref()),
        )
        .collect()
}

/// The session's prompt: `given` as it stands, else the agent's template, rendered. An agent may have none.
///
/// # Errors
/// When the template cannot be read or rendered, or what comes of it cannot be a prompt.
pub fn prompt(given: Option<&str>, subject: &Subject<'_>) -> Result<Option<String>, StepError> {
    let agent = subject.agent;
    let (prompt, source) = match (given, &agent.prompt_file, &agent.prompt) {
        (Some(given), _, _) => (given.to_owned(), "the prompt".to_owned()),
        (None, Some(file), _) => {
            let source = format!("the prompt of agent {} in {}", agent.name, file.display());
            (render(&read_template(file, &source)?, subject, &source)?, source)
        }
        (None, None, Some(template)) => {
            let source = format!("the prompt of agent {}", agent.name);
            (render(template, subject, &source)?, source)
        }
        (None, None, None) => return Ok(None),
    };
    if prompt.len() > PROMPT_BYTES_MAX {
        return Err(too_large(&source));
    }
    // It may become an argument, which ends at one.
    if prompt.contains('\0') {
        return Err(StepError::declaration(format!("{source} has a zero byte in it")));
    }
    Ok(Some(prompt))
}

fn too_large(source: &str) -> StepError {
    StepError::declaration(format!(
        "{source} is larger than {PROMPT_BYTES_MAX} bytes; put the long part into a file and name it under context"
    ))
}

/// Reads and compiles what `prompt_file` names, without rendering it: what that takes is known when a session begins.
///
/// # Errors
/// When it cannot be read, or is no template, or has what no prompt can have.
pub fn check_file(agent: &Agent) -> Result<(), StepError> {
    let Some(file) = &agent.prompt_file else {
        return Ok(());
    };
    let source = format!("the prompt of agent {} in {}", agent.name, file.display());
    let template = read_template(file, &source)?;
    if let Err(why) = agentd_config::parse::check_template(&template) {
        return Err(StepError::declaration(format!("{source}: {why}")));
    }
    if template.contains('\0') {
        return Err(StepError::declaration(format!("{source} has a zero byte in it")));
    }
    Ok(())
}

fn read_template(path: &Path, source: &str) -> Result<String, StepError> {
    let unreadable = |error: io::Error| StepError::declaration(format!("{source} cannot be read: {error}"));
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rfs::openat(CWD, path, flags, Mode::empty()).map_err(|error| unreadable(error.into()))?;
    let file = File::from(fd);
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(StepError::declaration(format!(
            "{source} is not an ordinary file"
        )));
    }
    let mut bytes = Vec::new();
    let mut file = file.take(PROMPT_BYTES_MAX as u64 + 1);
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > PROMPT_BYTES_MAX {
        return Err(too_large(source));
    }
    String::from_utf8(bytes).map_err(|_| StepError::declaration(format!("{source} is not UTF-8")))
}

/// Takes so much and no more.
struct Bounded {
    text: Vec<u8>,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > PROMPT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn render(template: &str, subject: &Subject<'_>, source: &str) -> Result<String, StepError> {
    if template.len() > PROMPT_BYTES_MAX {
        return Err(too_large(source));
    }
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
        environment.set_syntax(syntax);
    }
    let wrong = |what: String| StepError::declaration(format!("{source}: {what}"));
    let compiled = environment
        .template_from_str(template)
        .map_err(|error| wrong(format!("not a template: {}", describe(&error))))?;
    let variables = subject.variables();
    let mut out = Bounded { text: Vec::new() };
    if let Err(error) = compiled.render_captured_to(Value::from(Serde(&variables)), &mut out) {
        return Err(match error.kind() {
            ErrorKind::UndefinedError => {
                let mut names: Vec<String> = compiled.undeclared_variables(true).into_iter().collect();
                names.retain(|name| !resolves(&variables, name));
                names.sort();
                let given = match names.iter().any(|name| name.starts_with("trigger")) {
                    true => "; `agentd run --set KEY=VALUE` gives trigger.KEY",
                    false => "",
                };
                let missing = match names.as_slice() {
                    [] => describe(&error),
                    names => format!("there is nothing called {}", names.join(", ")),
                };
                wrong(format!("{missing} (known: {}){given}", known(&variables)))
            }
            ErrorKind::OutOfFuel => wrong("takes too long to render; is there a loop without need?".into()),
            ErrorKind::WriteFailure => too_large(source),
            _ => wrong(format!("the template fails: {}", describe(&error))),
        });
    }
    String::from_utf8(out.text).map_err(|_| wrong("came out as something that is not UTF-8".into()))
}

/// What a template's error says, with its line.
fn describe(error: &minijinja::Error) -> String {
    let kind = error.kind();
    let what = error
        .detail()
        .map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}"));
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

/// True when a dotted name leads to something.
fn resolves(variables: &serde_json::Value, name: &str) -> bool {
    let mut parts = name.split('.');
    parts.try_fold(variables, |value, part| value.get(part)).is_some()
}

/// What there is to be named, two levels deep; of many, the first.
fn known(variables: &serde_json::Value) -> String {
    const SHOWN_MAX: usize = 40;
    let mut names = Vec::new();
    for (name, value) in variables.as_object().into_iter().flatten() {
        let members = value.as_object().into_iter().flatten();
        names.extend(members.map(|(member, _)| format!("{name}.{member}")));
    }
    let more = names.len() > SHOWN_MAX;
    names.truncate(SHOWN_MAX);
    names.join(", ") + if more { ", …" } else { "" }
}

/// Everything about why a session is, as the agent reads it.
#[derive(Debug, Serialize)]
struct Mission<'a> {
    session: MissionSession,
    agent: MissionAgent<'a>,
    trigger: &'a Trigger,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<&'a agentd_protocol::TaskInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a agentd_protocol::NodeInfo>,
    /// By name, as a template names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    dependencies: Option<BTreeMap<String, Option<&'a Json>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<&'a [agentd_protocol::results::ContextEvent]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<MissionLease>,
}

#[derive(Debug, Serialize)]
struct MissionSession {
    id: SessionId,
}

#[derive(Debug, Serialize)]
struct MissionAgent<'a> {
    name: &'a str,
    home_name: &'a str,
    replica: u32,
}

#[derive(Debug, Serialize)]
struct MissionLease {
    task_id: agentd_protocol::TaskId,
    node_id: agentd_protocol::NodeId,
    lease_id: agentd_protocol::LeaseId,
    fence: i64,
    attempt: u32,
    /// When it would have ended without a heartbeat, at the time of writing: Unix seconds. agentd renews it.
    expires_at: i64,
}

/// Writes the mission, and the prompt when there is one, into a run directory.
///
/// # Errors
/// When they cannot be written.
pub fn write(run: &RunDir, subject: &Subject<'_>, prompt: Option<&str>) -> Result<(), StepError> {
    let node = subject.node;
    let mission = Mission {
        session: MissionSession { id: subject.session },
        agent: MissionAgent {
            name: &subject.agent.name,
            home_name: subject.home_name,
            replica: subject.replica,
        },
        trigger: subject.trigger,
        prompt,
        task: node.map(|node| &node.context.task),
        node: node.map(|node| &node.context.node),
        dependencies: node.map(|node| named(&node.context.completed_dependencies)),
        events: node.map(|node| node.context.event_journal.as_slice()),
        lease: node.map(|node| MissionLease {
            task_id: node.task_id,
            node_id: node.node_id,
            lease_id: node.lease_id,
            fence: node.fence,
            attempt: node.attempt,
            expires_at: node.lease_expires_at,
        }),
    };
    let mut text = serde_json::to_vec_pretty(&mission)
        .map_err(|error| StepError::io("write", run.path())(io::Error::from(error)))?;
    text.push(b'\n');
    run.write(MISSION_FILE, &text, 0o600)?;
    match prompt {
        Some(prompt) => run.write(PROMPT_FILE, prompt.as_bytes(), 0o600),
        None => Ok(()),
    }
}

/// The argument that gives an agent its prompt: the prompt itself, or, when no argument can be so long, where it is.
#[must_use]
pub fn prompt_argument(prompt: &str, run_dir_inside: &Path) -> String {
    if prompt.len() <= PROMPT_ARGUMENT_BYTES_MAX {
        return prompt.to_owned();
    }
    format!(
        "Your task is in the file {} ({} bytes). Read all of it, then do what it says.",
        run_dir_inside.join(PROMPT_FILE).display(),
        prompt.len()
    )
}
