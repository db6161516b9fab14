//! The templates in a plan.

use agentd_config::reader::Located;
use agentd_config::source::{Mistake, Source, did_you_mean};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use std::collections::BTreeMap;

/// How many template instructions one string may take: far more than any path needs, and an end to a loop.
const FUEL: u64 = 100_000;

/// Renders a plan's strings.
pub(crate) struct Renderer {
    environment: Environment<'static>,
    context: Value,
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    // An argument's last newline is the author's.
    if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
        environment.set_syntax(syntax);
    }
    environment
}

impl Renderer {
    /// A renderer that knows these arguments and the plan's directory.
    pub(crate) fn new(args: BTreeMap<String, String>, plan_dir: &str) -> Self {
        let plan = BTreeMap::from([("dir", plan_dir.to_owned())]);
        let context = context! { args => Value::from(args), plan => Value::from(plan) };
        Self {
            environment: environment(),
            context,
        }
    }

    /// Renders one string.
    pub(crate) fn render(
        &self,
        source: Source<'_>,
        key: &str,
        text: &Located<String>,
    ) -> Result<String, Mistake> {
        if !text.value.contains("{{") && !text.value.contains("{%") && !text.value.contains("{#") {
            return Ok(text.value.clone());
        }
        let rendered = self.environment.render_str(&text.value, &self.context);
        rendered.map_err(|error| source.error(&text.span, key, format!("{key}: the template fails: {error}")))
    }
}

/// Checks a string before any argument is known: that it is a template, and that it speaks of nothing but
/// the arguments that are declared and the plan.
pub(crate) fn check(
    source: Source<'_>,
    key: &str,
    text: &Located<String>,
    args: &[&str],
) -> Result<(), Mistake> {
    let environment = environment();
    let template = environment
        .template_from_str(&text.value)
        .map_err(|error| source.error(&text.span, key, format!("{key}: not a template: {error}")))?;
    let globals: Vec<&str> = environment.globals().map(|(name, _)| name).collect();
    let mut names: Vec<String> = template.undeclared_variables(true).into_iter().collect();
    names.sort();
    for name in names {
        let known = match name.split_once('.') {
            Some(("args", argument)) => args.contains(&argument.split('.').next().unwrap_or(argument)),
            Some(("plan", field)) => field == "dir",
            _ => name == "args" || globals.contains(&name.as_str()),
        };
        if !known {
            let mut valid: Vec<String> = args.iter().map(|name| format!("args.{name}")).collect();
            valid.push("plan.dir".into());
            let hint = did_you_mean(&name, valid.iter().map(String::as_str));
            let valid = valid.join(", ");
            let message = format!("{key}: there is nothing called {name:?}{hint} (known: {valid})");
            return Err(source.error(&text.span, key, message));
        }
    }
    Ok(())
}
