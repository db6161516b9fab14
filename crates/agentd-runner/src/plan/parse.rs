//! From the file's text to a [`Plan`].

use super::arguments::{Argument, ArgumentKind};
use super::template::Scope;
use super::{Action, PLAN_ARGS_MAX, PLAN_NODES_MAX, Plan, PlanNode, graph, links, template};
use agentd_config::reader::{Document, Located, Section};
use agentd_config::source::{Mistake, Source};
use agentd_protocol::{RetryPolicy, Seconds, limits};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest duration that a plan may name.
const DURATION_MAX: Duration = Duration::from_secs(limits::BACKOFF_SECS_MAX);

const ROOT_KEYS: [&str; 6] = ["goal", "result", "args", "defaults", "env", "nodes"];
const ARG_KEYS: [&str; 3] = ["help", "kind", "default"];
const DEFAULT_KEYS: [&str; 2] = ["timeout", "retry"];
const RETRY_KEYS: [&str; 3] = ["attempts", "backoff", "max_backoff"];
const NODE_KEYS: [&str; 13] = [
    "name",
    "needs",
    "command",
    "run",
    "agent",
    "prompt",
    "base",
    "cwd",
    "env",
    "timeout",
    "retry",
    "priority",
    "capabilities",
];

/// What a node or `[defaults]` says about failures.
#[derive(Clone, Copy, Default)]
struct Retry {
    attempts: Option<u32>,
    backoff: Option<Seconds>,
    max_backoff: Option<Seconds>,
}

pub(super) fn parse(shown: &Path, canonical: PathBuf, text: &str) -> Result<Plan, Mistake> {
    let source = Source { path: shown, text };
    let document = Document::parse(source, "a plan")?;
    let root = document.root();
    root.only(&ROOT_KEYS)?;

    let args = arguments(&root)?;
    let names: Vec<&str> = args.iter().map(|argument| argument.name.as_str()).collect();
    let goal = root
        .text("goal")?
        .ok_or_else(|| root.error("the plan has no goal; begin with goal = \"…\""))?;
    let start = Reader {
        source,
        args: &names,
        scope: Scope::Start,
    };
    template::check(source, "goal", &goal, &names, Scope::Start)?;
    let env = environment(&root, start)?;
    let defaults = root.section("defaults")?;
    let (mut default_timeout, mut default_retry) = (None, Retry::default());
    if let Some(defaults) = &defaults {
        defaults.only(&DEFAULT_KEYS)?;
        default_timeout = timeout(defaults)?;
        default_retry = retry(defaults)?;
    }

    let sections = root.sections("nodes")?;
    if sections.is_empty() {
        return Err(
            root.error("the plan has no nodes; write [[nodes]] with a name and a command or an agent")
        );
    }
    if sections.len() > PLAN_NODES_MAX {
        let message = format!(
            "the plan has {} nodes; at most {PLAN_NODES_MAX} are allowed",
            sections.len()
        );
        return Err(root.error(message));
    }
    let (sections, index) = names_of(sections)?;
    let mut nodes = Vec::with_capacity(sections.len());
    for (name, section) in &sections {
        section.only(&NODE_KEYS)?;
        let needs = links::needs(section, name, &index)?;
        let needed: Vec<&str> = needs
            .iter()
            .map(|&need| sections[need].0.value.as_str())
            .collect();
        let own = retry(section)?;
        nodes.push(PlanNode {
            name: name.value.clone(),
            span: name.span.clone(),
            action: action(section, start, &needed)?,
            needs,
            cwd: checked(section, "cwd", start)?,
            env: environment(section, start)?,
            timeout: timeout(section)?.or(default_timeout),
            retry: policy(section, own, default_retry)?,
            priority: i32::try_from(section.integer("priority", -1_000_000..1_000_001)?.unwrap_or(0))
                .unwrap_or(0),
            capabilities: capabilities(section)?,
        });
    }

    let needs: Vec<Vec<usize>> = nodes.iter().map(|node| node.needs.clone()).collect();
    if let Some(cycle) = graph::find_cycle(&needs) {
        let circle: Vec<&str> = cycle.iter().map(|&node| nodes[node].name.as_str()).collect();
        let message = format!("the nodes need each other in a circle: {}", circle.join(" → "));
        return Err(source.error(
            &nodes[cycle[0]].span,
            &format!("nodes.{}.needs", circle[0]),
            message,
        ));
    }
    let result = links::result(&root, &nodes, &needs, &index)?;
    Ok(Plan {
        path: canonical,
        goal,
        args,
        env,
        nodes,
        result,
        text: text.to_owned(),
    })
}

/// True for names that may stand in a path: of a node's files, say.
fn is_node_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        && !name.starts_with(['.', '-'])
}

type Named<'a> = (Vec<(Located<String>, Section<'a>)>, HashMap<String, usize>);

fn names_of(sections: Vec<Section<'_>>) -> Result<Named<'_>, Mistake> {
    let mut index = HashMap::with_capacity(sections.len());
    let mut named = Vec::with_capacity(sections.len());
    for section in sections {
        // A misspelt `name` is told as such, before it is missed.
        section.only(&NODE_KEYS)?;
        let name = section
            .text("name")?
            .ok_or_else(|| section.error("this node has no name; add name = \"…\""))?;
        if !is_node_name(&name.value) {
            let message = format!(
                "{:?} cannot be a node's name: 1 to 64 of A-Z a-z 0-9 _ . - and not beginning with . or -",
                name.value
            );
            return Err(section.error_at(&name.span, "name", message));
        }
        if index.insert(name.value.clone(), named.len()).is_some() {
            let message = format!(
                "there is another node called {:?}; names must be unique",
                name.value
            );
            return Err(section.error_at(&name.span, "name", message));
        }
        let section = section.named(format!("nodes.{}", name.value));
        named.push((name, section));
    }
    Ok((named, index))
}

fn arguments(root: &Section<'_>) -> Result<Vec<Argument>, Mistake> {
    let Some(section) = root.section("args")? else {
        return Ok(Vec::new());
    };
    let keys = section.keys();
    if keys.len() > PLAN_ARGS_MAX {
        return Err(section.error(format!(
            "the plan has {} arguments; at most {PLAN_ARGS_MAX} are allowed",
            keys.len()
        )));
    }
    let mut args: Vec<Argument> = Vec::with_capacity(keys.len());
    for Located { value: name, span } in keys {
        let valid = (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !name.starts_with(|c: char| c.is_ascii_digit());
        if !valid {
            let message =
                format!("{name:?} cannot be an argument's name: letters, digits and _ only, no digit first");
            return Err(section.error_at(&span, &name, message));
        }
        if let Some(other) = args.iter().find(|other| other.name.eq_ignore_ascii_case(&name)) {
            let message = format!(
                "{name:?} and {:?} would both be AGENTD_ARG_{}",
                other.name,
                name.to_uppercase()
            );
            return Err(section.error_at(&span, &name, message));
        }
        let Some(declaration) = section.section(&name)? else {
            continue;
        };
        declaration.only(&ARG_KEYS)?;
        let kind = declaration.choice("kind", &ArgumentKind::ALL)?;
        args.push(Argument {
            name,
            help: declaration.text("help")?.map(|help| help.value),
            kind: kind.map_or(ArgumentKind::Text, |kind| kind.value),
            default: declaration.text("default")?.map(|default| default.value),
        });
    }
    Ok(args)
}

/// What templates are checked against.
#[derive(Clone, Copy)]
struct Reader<'a> {
    source: Source<'a>,
    args: &'a [&'a str],
    scope: Scope<'a>,
}

fn environment(section: &Section<'_>, reader: Reader<'_>) -> Result<Vec<(String, Located<String>)>, Mistake> {
    let Some(env) = section.section("env")? else {
        return Ok(Vec::new());
    };
    let mut variables = Vec::new();
    for Located { value: name, span } in env.keys() {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(env.error_at(&span, &name, format!("{name:?} cannot be a variable's name")));
        }
        if name.starts_with("AGENTD_") {
            let message = format!("{name} cannot be set: names that begin with AGENTD_ are agentd's own");
            return Err(env.error_at(&span, &name, message));
        }
        if let Some(value) = checked(&env, &name, reader)? {
            variables.push((name, value));
        }
    }
    Ok(variables)
}

/// A string that is a template.
fn checked(section: &Section<'_>, key: &str, reader: Reader<'_>) -> Result<Option<Located<String>>, Mistake> {
    let text = section.text(key)?;
    if let Some(text) = &text {
        no_nul(section, key, text)?;
        let Reader { source, args, scope } = reader;
        template::check(source, &section.path(key), text, args, scope)?;
    }
    Ok(text)
}

fn no_nul(section: &Section<'_>, key: &str, text: &Located<String>) -> Result<(), Mistake> {
    if text.value.contains('\0') {
        let message = format!(
            "{} contains a NUL character, which no program can be given",
            section.path(key)
        );
        return Err(section.error_at(&text.span, key, message));
    }
    Ok(())
}

fn action(section: &Section<'_>, reader: Reader<'_>, needed: &[&str]) -> Result<Action, Mistake> {
    let Reader { source, args, scope } = reader;
    for own in ["command", "run"] {
        if section.span_of(own).is_some() {
            for key in ["agent", "prompt", "base"] {
                if let Some(place) = section.span_of(key) {
                    let message = match key {
                        "base" => {
                            "base is for nodes that an agent works on: its worktree begins there".into()
                        }
                        _ => format!("a node has either {own} or an agent that is given a prompt, not both"),
                    };
                    return Err(section.error_at(&place, key, message));
                }
            }
        }
    }
    match (section.texts("command")?, section.text("run")?) {
        (Some(command), None) => {
            if command
                .value
                .first()
                .is_none_or(|program| program.value.is_empty())
            {
                let message = format!("{} names no program", section.path("command"));
                return Err(section.error_at(&command.span, "command", message));
            }
            for word in &command.value {
                no_nul(section, "command", word)?;
                template::check(source, &section.path("command"), word, args, scope)?;
            }
            Ok(Action::Command(command.value))
        }
        (None, Some(run)) => {
            no_nul(section, "run", &run)?;
            template::check_shell(source, &section.path("run"), &run)?;
            Ok(Action::Run(run.value))
        }
        (Some(_), Some(run)) => {
            Err(section.error_at(&run.span, "run", "a node has either a command or run, not both"))
        }
        (None, None) => agent(section, reader, needed),
    }
}

/// What an agent is to do, and who that is.
fn agent(section: &Section<'_>, reader: Reader<'_>, needed: &[&str]) -> Result<Action, Mistake> {
    let scope = Scope::Prompt(needed);
    let prompt = checked(section, "prompt", Reader { scope, ..reader })?;
    let agent = section.text("agent")?;
    let node = section.path("");
    let node = node.trim_end_matches('.');
    match (&agent, &prompt) {
        (None, None) => {
            return Err(section.error(format!(
                "{node} does nothing; give it command = [\"program\", \"argument\"], run = \"shell text\" or \
                 agent = \"NAME\" with a prompt"
            )));
        }
        (None, Some(prompt))
            if section
                .texts("capabilities")?
                .is_none_or(|names| names.value.is_empty()) =>
        {
            let message = format!(
                "{node} has a prompt, but whose is it? Name an agent (agent = \"NAME\"), or say what one must be \
                 able to do (capabilities = [\"review\"])"
            );
            return Err(section.error_at(&prompt.span, "prompt", message));
        }
        (Some(agent), _) => {
            if let Err(why) = agentd_protocol::requests::agent_name(&agent.value) {
                return Err(section.error_at(&agent.span, "agent", why));
            }
        }
        (None, Some(_)) => {}
    }
    for (key, instead) in [
        (
            "cwd",
            "works in the workspace that agentd.toml gives it; say in the prompt where in it",
        ),
        ("env", "has the variables that agentd.toml gives it"),
    ] {
        if let Some(place) = section.span_of(key) {
            let message = format!("{node} cannot have {key}: an agent {instead}");
            return Err(section.error_at(&place, key, message));
        }
    }
    Ok(Action::Agent {
        agent,
        prompt,
        base: links::base(section, needed)?,
    })
}

/// A duration as the protocol has it.
fn seconds(section: &Section<'_>, key: &str) -> Result<Option<Located<Seconds>>, Mistake> {
    let seconds = |duration: Duration| Seconds {
        ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
    };
    let duration = section.duration(key, Duration::ZERO..=DURATION_MAX)?;
    Ok(duration.map(|duration| duration.map(seconds)))
}

fn timeout(section: &Section<'_>) -> Result<Option<Seconds>, Mistake> {
    let Some(timeout) = seconds(section, "timeout")? else {
        return Ok(None);
    };
    if timeout.value.ms == 0 {
        return Err(section.error_at(
            &timeout.span,
            "timeout",
            "a timeout of nothing would end every attempt at once",
        ));
    }
    Ok(Some(timeout.value))
}

fn retry(section: &Section<'_>) -> Result<Retry, Mistake> {
    let Some(retry) = section.section("retry")? else {
        return Ok(Retry::default());
    };
    retry.only(&RETRY_KEYS)?;
    let attempts = retry.integer("attempts", 1..i64::from(limits::ATTEMPTS_MAX) + 1)?;
    Ok(Retry {
        attempts: attempts.and_then(|attempts| u32::try_from(attempts).ok()),
        backoff: seconds(&retry, "backoff")?.map(|backoff| backoff.value),
        max_backoff: seconds(&retry, "max_backoff")?.map(|backoff| backoff.value),
    })
}

fn policy(section: &Section<'_>, own: Retry, defaults: Retry) -> Result<Option<RetryPolicy>, Mistake> {
    let backoff = own.backoff.or(defaults.backoff);
    let Some(max_attempts) = own.attempts.or(defaults.attempts) else {
        if own.backoff.is_some() || own.max_backoff.is_some() {
            let section = section.section("retry")?.unwrap_or_else(|| section.clone());
            let message = format!(
                "{} says no attempts: how often may it be tried?",
                section.path("").trim_end_matches('.')
            );
            return Err(section.error(message));
        }
        return Ok(None);
    };
    let backoff_max_secs = own.max_backoff.or(defaults.max_backoff);
    Ok(Some(RetryPolicy {
        max_attempts,
        backoff_secs: backoff.unwrap_or_default(),
        backoff_max_secs,
    }))
}

fn capabilities(section: &Section<'_>) -> Result<Vec<String>, Mistake> {
    let Some(names) = section.texts("capabilities")? else {
        return Ok(Vec::new());
    };
    // One place is for the capability that every node asks for besides its own: of a command, or of an agent.
    if names.value.len() >= limits::CAPABILITIES_MAX {
        let message = format!("more than {} capabilities", limits::CAPABILITIES_MAX - 1);
        return Err(section.error_at(&names.span, "capabilities", message));
    }
    for name in &names.value {
        let text = &name.value;
        if text.is_empty()
            || text.len() > limits::NAME_BYTES_MAX
            || text.contains(|c: char| c.is_control() || c == ',')
        {
            let message =
                format!("{text:?} cannot be a capability: 1 to 256 bytes, no comma, no control character");
            return Err(section.error_at(&name.span, "capabilities", message));
        }
    }
    Ok(names.value.into_iter().map(|name| name.value).collect())
}
