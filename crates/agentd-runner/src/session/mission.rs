//! What an agent is to do, and why now: its prompt, and everything about its trigger in one file.

use super::error::StepError;
use super::state::RunDir;
use agentd_config::Agent;
use agentd_config::file::with_line_feeds;
use agentd_config::template::{Fault, Template, TemplateError};
use agentd_protocol::limits::PROMPT_BYTES_MAX;
use agentd_protocol::results::{AcquiredNode, CompletedDependency};
use agentd_protocol::{Json, SessionId, Trigger, Work};
use serde::Serialize;
use serde_json::{Map, json};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{self as rfs, CWD, Mode, OFlags};

/// The mission's file in the run directory.
pub const MISSION_FILE: &str = "mission.json";
/// The prompt's file in the run directory.
pub const PROMPT_FILE: &str = "prompt.txt";
/// The longest prompt that is an argument, in bytes: one may have 128 KiB on Linux.
pub const PROMPT_ARGUMENT_BYTES_MAX: usize = 100 * 1024;

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

    /// What the prompt of a plan's node can name besides: what the plan was started with.
    fn of_plan(&self) -> serde_json::Value {
        let mut variables = self.variables();
        let mut context = variables["task"]["context"].clone();
        for name in ["args", "plan"] {
            variables[name] = match context[name].take() {
                serde_json::Value::Object(members) => members.into(),
                _ => Map::new().into(),
            };
        }
        variables
    }

    /// True when the node's own prompt is a template.
    fn is_given_a_template(&self) -> bool {
        let work = self.node.and_then(|node| node.context.node.work.as_ref());
        matches!(work, Some(Work::Agent(work)) if work.prompt.is_some() && work.prompt_is_template)
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

/// The session's prompt: `given` as it stands unless it is a node's that is marked as a template, else the agent's
/// template, rendered. An agent may have none.
///
/// # Errors
/// When the template cannot be read or rendered, or what comes of it cannot be a prompt.
pub fn prompt(given: Option<&str>, subject: &Subject<'_>) -> Result<Option<String>, StepError> {
    let agent = subject.agent;
    let (prompt, source) = match (given, &agent.prompt_file, &agent.prompt) {
        (Some(given), _, _) if subject.is_given_a_template() => {
            let source = "the node's prompt".to_owned();
            (render(given, &subject.of_plan(), &source)?, source)
        }
        (Some(given), _, _) => (given.to_owned(), "the prompt".to_owned()),
        (None, Some(file), _) => {
            let source = format!("the prompt of agent {} in {}", agent.name, file.display());
            let template = read_template(file, &source)?;
            (render(&template, &subject.variables(), &source)?, source)
        }
        (None, None, Some(template)) => {
            let source = format!("the prompt of agent {}", agent.name);
            (render(template, &subject.variables(), &source)?, source)
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
    if let Err(error) = Template::parse(&template) {
        return Err(StepError::declaration(format!(
            "{source}: {}",
            error.in_text(&template)
        )));
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
    let text =
        String::from_utf8(bytes).map_err(|_| StepError::declaration(format!("{source} is not UTF-8")))?;
    Ok(with_line_feeds(&text).into_owned())
}

fn render(template: &str, variables: &serde_json::Value, source: &str) -> Result<String, StepError> {
    let wrong = |error: &TemplateError, more: &str| {
        StepError::declaration(format!("{source}: {}{more}", error.in_text(template)))
    };
    let compiled = Template::parse(template).map_err(|error| wrong(&error, ""))?;
    compiled
        .render(variables, PROMPT_BYTES_MAX)
        .map_err(|error| match error.fault {
            Fault::TooLarge => too_large(source),
            Fault::Unknown => {
                let given = match error.message.contains(" trigger.") {
                    true => "; `agentd run --set KEY=VALUE` gives trigger.KEY",
                    false => "",
                };
                wrong(&error, &format!(" (known: {}){given}", known(variables)))
            }
            Fault::Syntax | Fault::Value => wrong(&error, ""),
        })
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
