//! The templates in a plan: what each may speak of, and what comes of them.

use agentd_config::reader::Located;
use agentd_config::source::{Mistake, Source, did_you_mean};
use agentd_config::template::{Fault, Name, Template, TemplateError, is_builtin};
use agentd_protocol::limits::LINE_BYTES_MAX;
use std::collections::BTreeMap;

/// The variable that stands for the results of what a node needs.
const INPUTS: &str = "inputs";

/// Renders a plan's strings.
pub(crate) struct Renderer {
    variables: serde_json::Value,
}

impl Renderer {
    /// A renderer that knows these arguments and the plan's directory.
    pub(crate) fn new(args: BTreeMap<String, String>, plan_dir: &str) -> Self {
        Self {
            variables: serde_json::json!({ "args": args, "plan": { "dir": plan_dir } }),
        }
    }

    /// Renders one string.
    pub(crate) fn render(
        &self,
        source: Source<'_>,
        key: &str,
        text: &Located<String>,
    ) -> Result<String, Mistake> {
        let rendered = Template::parse(&text.value)
            .and_then(|template| template.render(&self.variables, LINE_BYTES_MAX));
        rendered.map_err(|error| error.in_file(source, key, text))
    }
}

/// Where a template stands, and so what is known when it is rendered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scope<'a> {
    /// Rendered before anything runs.
    Start,
    /// The prompt of an agent's node, which may name the results of these nodes.
    Prompt(&'a [&'a str]),
}

/// Checks a string before any argument is known: that it is a template, and that it speaks of nothing but what will
/// be there.
pub(crate) fn check(
    source: Source<'_>,
    key: &str,
    text: &Located<String>,
    args: &[&str],
    scope: Scope<'_>,
) -> Result<(), Mistake> {
    let wrong = |error: TemplateError| error.in_file(source, key, text);
    let template = Template::parse(&text.value).map_err(wrong)?;
    for name in template.names() {
        if let Err(message) = known(&name, args, scope) {
            return Err(wrong(TemplateError::new(Fault::Unknown, name.offset, message)));
        }
    }
    Ok(())
}

fn known(name: &Name<'_>, args: &[&str], scope: Scope<'_>) -> Result<(), String> {
    let is_known = match (name.path.as_slice(), scope) {
        ([INPUTS, ..], Scope::Start) => {
            let node = name.path.get(1).unwrap_or(&"NAME");
            return Err(format!(
                "{} is the result of a node, and only the prompt of an agent's node can name it; a command reads \
                 \"$AGENTD_INPUTS/{node}.json\" or \"$AGENTD_INPUTS/{node}.out\"",
                name.dotted()
            ));
        }
        ([INPUTS, rest @ ..], Scope::Prompt(needs)) => return input(rest, name.is_open, needs),
        (["args"], _) => true,
        (["args", argument, ..], _) => args.contains(argument),
        (["plan", "dir", ..], _) => true,
        ([root], _) => is_builtin(root),
        _ => false,
    };
    if is_known {
        return Ok(());
    }
    let mut valid: Vec<String> = args.iter().map(|name| format!("args.{name}")).collect();
    valid.push("plan.dir".into());
    if let Scope::Prompt(needs) = scope {
        valid.extend(needs.iter().map(|need| written(need)));
    }
    let dotted = name.dotted();
    let hint = did_you_mean(&dotted, valid.iter().map(String::as_str));
    Err(format!(
        "there is nothing called {dotted:?}{hint} (known: {})",
        valid.join(", ")
    ))
}

fn input(rest: &[&str], is_open: bool, needs: &[&str]) -> Result<(), String> {
    let Some(node) = rest.first() else {
        return match is_open {
            true => Err("inputs[…] must name a node in quotes: inputs[\"NAME\"]".into()),
            false => Ok(()),
        };
    };
    if needs.contains(node) {
        return Ok(());
    }
    // `inputs.a-b` is `inputs.a` minus `b`, and `inputs.a.b` a member of the result of `a`.
    let longer = needs.iter().find(|need| {
        need.strip_prefix(node)
            .is_some_and(|rest| rest.starts_with(['-', '.']))
    });
    let hint = match longer {
        Some(need) => format!("; a name with - or . is written {}", written(need)),
        None => did_you_mean(node, needs.iter().copied()),
    };
    Err(format!(
        "inputs has no {node:?}: it has the results of the nodes in needs ({}){hint}",
        if needs.is_empty() {
            "none".into()
        } else {
            needs.join(", ")
        }
    ))
}

/// How a template names the result of a node.
fn written(node: &str) -> String {
    match node.contains(['-', '.']) || node.starts_with(|c: char| c.is_ascii_digit()) {
        true => format!("inputs[\"{node}\"]"),
        false => format!("inputs.{node}"),
    }
}

/// Checks a shell's text, which is no template: who writes results into it finds out here, and not from the shell.
pub(crate) fn check_shell(source: Source<'_>, key: &str, text: &Located<String>) -> Result<(), Mistake> {
    for (offset, _) in text.value.match_indices("{{") {
        let after = text.value[offset + 2..].trim_start();
        let names_inputs = after
            .strip_prefix(INPUTS)
            .is_some_and(|rest| rest.trim_start().starts_with(['.', '[', '}', '|']));
        // `${{ inputs.x }}` is what another program's files have in them.
        if names_inputs && !text.value[..offset].ends_with('$') {
            let message = "a shell's text is no template: it reads the result of a node from \
                           \"$AGENTD_INPUTS/NAME.json\" or \"$AGENTD_INPUTS/NAME.out\"";
            let error = TemplateError::new(Fault::Unknown, offset, message);
            return Err(error.in_file(source, key, text));
        }
    }
    Ok(())
}

/// What a prompt speaks of, as far as a run depends on it. What is no template speaks of nothing.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    /// The arguments by their names; none: all of them.
    pub(crate) args: Option<Vec<String>>,
    pub(crate) inputs: bool,
}

/// What a checked template speaks of.
pub(crate) fn uses(text: &str) -> Uses {
    let Ok(template) = Template::parse(text) else {
        return Uses::default();
    };
    let names = template.names();
    let args = names.iter().filter(|name| name.path[0] == "args");
    Uses {
        args: args
            .map(|name| name.path.get(1).map(ToString::to_string))
            .collect(),
        inputs: names.iter().any(|name| name.path[0] == INPUTS),
    }
}
