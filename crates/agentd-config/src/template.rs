//! The templates of plans and prompts: text in which `{{ … }}` stands for a value, and nothing else means anything.
//!
//! ```text
//!   text ── Template::parse ──▶ Template ── names() ──▶ what it speaks of, before anything is known
//!           syntax and bounds          └── render(variables) ──▶ text
//! ```
//!
//! `{%` and `{#` are text. A value that is a string is put in as it is, every other value as JSON. What is put in is
//! data: it is never looked at for templates again.

mod scan;

use crate::reader::Located;
use crate::source::{Mistake, Source};
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind, Expression, UndefinedBehavior};
use scan::{Scanned, Token};
use std::collections::HashSet;
use std::sync::LazyLock;

/// The most bytes between the braces.
pub const EXPRESSION_BYTES_MAX: usize = 4096;
/// The most names, values and signs between the braces. A chain of them nests as deeply as it is long when it is
/// compiled, and what nests without end ends the process.
pub const EXPRESSION_TOKENS_MAX: usize = 256;
/// How deeply brackets may nest between the braces.
pub const EXPRESSION_NESTING_MAX: usize = 32;
/// The most `{{ … }}` in one text.
pub const EXPRESSIONS_MAX: usize = 10_000;
/// How many instructions one expression may take.
const FUEL: u64 = 20_000;
/// What an error shows of an expression, in characters.
const SHOWN_CHARS_MAX: usize = 60;

/// Building one costs more than checking a prompt, and a file may have thousands.
static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment
});

/// What is wrong with a template, and where in its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TemplateError {
    /// Where, in bytes of the text.
    pub offset: usize,
    /// What is wrong.
    pub message: String,
    /// What kind of mistake it is.
    pub fault: Fault,
}

/// Kinds of mistakes in templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is no template. The braces may have been meant as text: then how to write them is worth saying.
    Syntax,
    /// It names what there is not.
    Unknown,
    /// More came of it than is allowed.
    TooLarge,
    /// It failed when it was rendered.
    Value,
}

impl TemplateError {
    /// An error at a place in the text.
    pub fn new(fault: Fault, offset: usize, message: impl Into<String>) -> Self {
        Self {
            offset,
            message: message.into(),
            fault,
        }
    }

    /// The error in a string of a TOML file: with the file, the line, and how its braces are written as text there.
    #[must_use]
    pub fn in_file(&self, source: Source<'_>, key: &str, text: &Located<String>) -> Mistake {
        let raw = source.text.get(text.span.clone()).unwrap_or_default();
        // A string in single quotes can have none in it.
        let quote = if raw.starts_with('\'') { '"' } else { '\'' };
        let message = format!("{key}: {}{}", self.message, self.hint(quote));
        // The same braces in the file, where escapes may stand before them.
        let before = text.value[..self.offset].matches("{{").count();
        let start = raw.match_indices("{{").nth(before).map_or(0, |(at, _)| at);
        let at = text.span.start + start;
        source.error(&(at..at), key, message)
    }

    /// The error in a text of its own, with the line and the column.
    #[must_use]
    pub fn in_text(&self, text: &str) -> String {
        let before = &text[..self.offset];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        format!(
            "line {}, column {}: {}{}",
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
            self.message,
            self.hint('"')
        )
    }

    fn hint(&self, quote: char) -> String {
        if self.fault != Fault::Syntax {
            return String::new();
        }
        format!("; to have the characters {{{{ as text, write {{{{ {quote}{{{{{quote} }}}}")
    }
}

/// Something that a template speaks of: `args.dir` is `["args", "dir"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name<'t> {
    /// The variable, and the members that are named in the text.
    pub path: Vec<&'t str>,
    /// True when a member follows that only a value names: `args[x]`.
    pub is_open: bool,
    /// Where its expression begins, in bytes of the template's text.
    pub offset: usize,
}

impl Name<'_> {
    /// The name as it is written with dots.
    #[must_use]
    pub fn dotted(&self) -> String {
        self.path.join(".")
    }
}

/// A text that was found to be a template.
#[derive(Debug)]
pub struct Template<'t> {
    parts: Vec<Part<'t>>,
}

#[derive(Debug)]
enum Part<'t> {
    Text(&'t str),
    Value {
        offset: usize,
        shown: String,
        tokens: Vec<Token<'t>>,
        expression: Expression<'static, 'static>,
    },
}

impl<'t> Template<'t> {
    /// Takes a text apart and compiles what stands between braces. Bounded, whatever the text is.
    ///
    /// # Errors
    /// Where it is no template.
    pub fn parse(text: &'t str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let (mut from, mut expressions, mut trim) = (0, 0, false);
        while let Some(found) = text[from..].find("{{") {
            let offset = from + found;
            expressions += 1;
            if expressions > EXPRESSIONS_MAX {
                let message = format!("more than {EXPRESSIONS_MAX} {{{{ … }}}} in one text");
                return Err(TemplateError::new(Fault::TooLarge, offset, message));
            }
            let scanned = scan::expression(text, offset)?;
            let before = trimmed(&text[from..offset], trim, scanned.trims_before);
            parts.push(Part::Text(before));
            (from, trim) = (scanned.after, scanned.trims_after);
            parts.push(compile(text, offset, scanned)?);
        }
        parts.push(Part::Text(trimmed(&text[from..], trim, false)));
        Ok(Self { parts })
    }

    /// What it speaks of, in the order of the text.
    #[must_use]
    pub fn names(&self) -> Vec<Name<'t>> {
        let mut names = Vec::new();
        for part in &self.parts {
            if let Part::Value {
                offset,
                tokens,
                expression,
                ..
            } = part
            {
                let roots = expression.undeclared_variables(false);
                names.extend(names_in(tokens, &roots).into_iter().map(|(path, is_open)| Name {
                    path,
                    is_open,
                    offset: *offset,
                }));
            }
        }
        names
    }

    /// Puts the values in; `variables` is an object.
    ///
    /// # Errors
    /// When there is no such value, when an expression fails, or when more than `bytes_max` bytes come of it.
    pub fn render(&self, variables: &serde_json::Value, bytes_max: usize) -> Result<String, TemplateError> {
        let mut context = None;
        let mut out = String::new();
        for part in &self.parts {
            let (text, at) = match part {
                Part::Text(text) => (std::borrow::Cow::Borrowed(*text), 0),
                Part::Value {
                    offset,
                    shown,
                    tokens,
                    expression,
                } => {
                    let context = context.get_or_insert_with(|| Value::from(Serde(variables)));
                    let value = evaluate(expression, context, shown, *offset)?;
                    if value.is_undefined() {
                        return Err(missing(*offset, shown, tokens, expression, variables));
                    }
                    (as_text(&value, shown, *offset)?.into(), *offset)
                }
            };
            if out.len() + text.len() > bytes_max {
                let message = format!("what comes of the template is larger than {bytes_max} bytes");
                return Err(TemplateError::new(Fault::TooLarge, at, message));
            }
            out.push_str(&text);
        }
        Ok(out)
    }
}

/// True for the names that every template has without being given them.
#[must_use]
pub fn is_builtin(name: &str) -> bool {
    ENVIRONMENT.globals().any(|(known, _)| known == name)
}

fn trimmed(text: &str, at_start: bool, at_end: bool) -> &str {
    let text = if at_start { text.trim_start() } else { text };
    if at_end { text.trim_end() } else { text }
}

fn compile<'t>(text: &'t str, offset: usize, scanned: Scanned<'t>) -> Result<Part<'t>, TemplateError> {
    let shown = shown(&text[offset..scanned.after]);
    let compiled = ENVIRONMENT.compile_expression_owned(scanned.source.to_owned());
    let expression = compiled.map_err(|error| {
        let message = format!("{shown} is not a template: {}", what(&error));
        TemplateError::new(Fault::Syntax, offset, message)
    })?;
    Ok(Part::Value {
        offset,
        shown,
        tokens: scanned.tokens,
        expression,
    })
}

/// The beginning of a text, on one line and in quotes that TOML does not have.
fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(SHOWN_CHARS_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("`{shown}`")
}

fn what(error: &minijinja::Error) -> String {
    let kind = error.kind();
    match (kind, error.detail()) {
        (ErrorKind::SyntaxError, Some(detail)) => detail.to_owned(),
        (_, Some(detail)) => format!("{kind}: {detail}"),
        (_, None) => kind.to_string(),
    }
}

fn evaluate(
    expression: &Expression<'_, '_>,
    context: &Value,
    shown: &str,
    offset: usize,
) -> Result<Value, TemplateError> {
    expression.eval(context.clone()).or_else(|error| {
        let message = match error.kind() {
            // Told by its name.
            ErrorKind::UndefinedError => return Ok(Value::UNDEFINED),
            ErrorKind::OutOfFuel => format!("{shown} takes too long to work out"),
            _ => format!("{shown} fails: {}", what(&error)),
        };
        Err(TemplateError::new(Fault::Value, offset, message))
    })
}

fn as_text(value: &Value, shown: &str, offset: usize) -> Result<String, TemplateError> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    serde_json::to_string(value).map_err(|error| {
        TemplateError::new(
            Fault::Value,
            offset,
            format!("{shown} is no value that can be shown: {error}"),
        )
    })
}

fn missing(
    offset: usize,
    shown: &str,
    tokens: &[Token<'_>],
    expression: &Expression<'_, '_>,
    variables: &serde_json::Value,
) -> TemplateError {
    let roots = expression.undeclared_variables(false);
    let unknown: Vec<String> = names_in(tokens, &roots)
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| !leads_somewhere(variables, path) && !is_builtin(path[0]))
        .map(|path| path.join("."))
        .collect();
    let message = match unknown.as_slice() {
        [] => format!("{shown} has no value"),
        names => format!("there is nothing called {}", names.join(", ")),
    };
    TemplateError::new(Fault::Unknown, offset, message)
}

fn leads_somewhere(variables: &serde_json::Value, path: &[&str]) -> bool {
    let mut parts = path.iter();
    parts.try_fold(variables, |value, part| value.get(part)).is_some()
}

/// The paths that begin with one of `roots`, each with whether it goes on in a way that the text does not say.
fn names_in<'t>(tokens: &[Token<'t>], roots: &HashSet<String>) -> Vec<(Vec<&'t str>, bool)> {
    let mut names = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Token::Word(word) = token else { continue };
        let before = at.checked_sub(1).map(|before| tokens[before]);
        if !roots.contains(*word) || matches!(before, Some(Token::Sign('.' | '|'))) {
            continue;
        }
        let (mut path, mut rest, mut is_open) = (vec![*word], &tokens[at + 1..], false);
        loop {
            rest = match rest {
                [Token::Sign('.'), Token::Word(member), rest @ ..] => {
                    path.push(member);
                    rest
                }
                [Token::Sign('['), Token::Text(member), Token::Sign(']'), rest @ ..] => {
                    path.push(member);
                    rest
                }
                [Token::Sign('['), ..] => {
                    is_open = true;
                    break;
                }
                _ => break,
            };
        }
        names.push((path, is_open));
    }
    names
}

#[cfg(test)]
mod tests;
