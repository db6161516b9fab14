//! What a plan is started with.

use super::error::PlanError;
use agentd_config::source::did_you_mean;
use std::path::{Path, PathBuf};

/// The longest value, in bytes.
const VALUE_BYTES_MAX: usize = 16 * 1024;

/// What an argument stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgumentKind {
    /// Any text.
    Text,
    /// A directory that exists; made absolute and canonical.
    Directory,
    /// A file that exists; made absolute and canonical.
    File,
    /// A path that need not exist; made absolute.
    Path,
}

impl ArgumentKind {
    pub(crate) const ALL: [(&'static str, Self); 4] = [
        ("text", Self::Text),
        ("directory", Self::Directory),
        ("file", Self::File),
        ("path", Self::Path),
    ];
}

/// One argument as the plan declares it.
#[derive(Clone, Debug)]
pub struct Argument {
    /// Its name: letters, digits and `_`.
    pub name: String,
    /// What it is for, in the author's words.
    pub help: Option<String>,
    /// What its value must be.
    pub kind: ArgumentKind,
    /// Its value when none is given; without one it must be given.
    pub default: Option<String>,
}

/// The arguments that a plan is started with.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    /// Values in the order of declaration.
    pub positional: Vec<String>,
    /// Values by name; no argument may be given both ways, or twice.
    pub named: Vec<(String, String)>,
    /// Relative paths, defaults included, start here: the caller's working directory.
    pub current_dir: PathBuf,
}

/// Every argument with its value, in the order of declaration.
pub(crate) struct Resolved {
    pub(crate) args: Vec<(String, String)>,
    /// The names of those that were given, and not left to their defaults.
    pub(crate) given: Vec<String>,
    /// Where defaults that are relative paths begin, when there are any.
    pub(crate) defaults_from: Option<PathBuf>,
}

/// Gives every declared argument its value.
pub(crate) fn resolve(declared: &[Argument], given: &Arguments) -> Result<Resolved, PlanError> {
    let names = || declared.iter().map(|argument| argument.name.as_str());
    if let Some(extra) = given.positional.get(declared.len()) {
        let list = if declared.is_empty() {
            "none".into()
        } else {
            names().collect::<Vec<_>>().join(", ")
        };
        let message = format!(
            "{extra:?} is one argument too many: the plan takes {} ({list})",
            declared.len()
        );
        return Err(PlanError::argument(None, message));
    }
    let mut values: Vec<Option<&str>> = vec![None; declared.len()];
    for (slot, value) in values.iter_mut().zip(&given.positional) {
        *slot = Some(value);
    }
    for (name, value) in &given.named {
        let Some(index) = declared.iter().position(|argument| argument.name == *name) else {
            let hint = did_you_mean(name, names());
            let message = format!(
                "the plan has no argument {name:?}{hint} ({})",
                names().collect::<Vec<_>>().join(", ")
            );
            return Err(PlanError::argument(Some(name), message));
        };
        if values[index].replace(value).is_some() {
            return Err(PlanError::argument(
                Some(name),
                format!("the argument {name:?} is given twice"),
            ));
        }
    }
    let mut args = Vec::with_capacity(declared.len());
    let mut names_given = Vec::new();
    let mut is_relative = false;
    for (argument, value) in declared.iter().zip(values) {
        match &argument.default {
            _ if value.is_some() => names_given.push(argument.name.clone()),
            Some(default) => {
                is_relative |= argument.kind != ArgumentKind::Text && Path::new(default).is_relative();
            }
            None => {}
        }
        let Some(value) = value.or(argument.default.as_deref()) else {
            let help = argument
                .help
                .as_ref()
                .map(|help| format!(" ({help})"))
                .unwrap_or_default();
            let message = format!(
                "the plan needs the argument {:?}{help}: give it with --arg {}=VALUE",
                argument.name, argument.name
            );
            return Err(PlanError::argument(Some(&argument.name), message));
        };
        args.push((argument.name.clone(), check(argument, value, &given.current_dir)?));
    }
    Ok(Resolved {
        args,
        given: names_given,
        defaults_from: is_relative.then(|| given.current_dir.clone()),
    })
}

fn check(argument: &Argument, value: &str, current_dir: &Path) -> Result<String, PlanError> {
    let name = &argument.name;
    let wrong = |why: String| PlanError::argument(Some(name), format!("the argument {name:?} {why}"));
    if value.len() > VALUE_BYTES_MAX {
        return Err(wrong(format!(
            "has {} bytes; at most {VALUE_BYTES_MAX} are allowed",
            value.len()
        )));
    }
    if value.contains('\0') {
        return Err(wrong("contains a NUL character".into()));
    }
    if argument.kind == ArgumentKind::Text {
        return Ok(value.to_owned());
    }
    if value.is_empty() {
        return Err(wrong("is empty; it must be a path".into()));
    }
    let path = current_dir.join(value);
    let path = match argument.kind {
        ArgumentKind::Text | ArgumentKind::Path => std::path::absolute(&path),
        ArgumentKind::Directory | ArgumentKind::File => path.canonicalize(),
    };
    let path = path.map_err(|error| wrong(format!("is {value:?}, which cannot be used: {error}")))?;
    match argument.kind {
        ArgumentKind::Directory if !path.is_dir() => {
            return Err(wrong(format!("is {value:?}, which is no directory")));
        }
        ArgumentKind::File if !path.is_file() => {
            return Err(wrong(format!("is {value:?}, which is no file")));
        }
        _ => {}
    }
    path.into_os_string()
        .into_string()
        .map_err(|path| wrong(format!("leads to {path:?}, which is not UTF-8")))
}
