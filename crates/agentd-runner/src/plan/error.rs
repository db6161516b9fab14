//! What can be wrong with a plan, said so that its author can put it right.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// A plan that cannot be used as it stands, or that was given the wrong arguments.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The file could not be read.
    #[error("cannot read the plan {}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is the matter.
        why: String,
    },
    /// The file says something that cannot be meant.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where, from 1 on.
        line: usize,
        /// Where in the line, in characters from 1 on.
        column: usize,
        /// The key that it is about, with the tables that it is in: `nodes.build.timeout`.
        key: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// The plan is sound; what it was started with is not.
    #[error("{message}")]
    Argument {
        /// The argument, if it is about one.
        name: Option<String>,
        /// What is wrong and what would be right.
        message: String,
    },
}

impl PlanError {
    pub(crate) fn argument(name: Option<&str>, message: impl Into<String>) -> Self {
        Self::Argument {
            name: name.map(str::to_owned),
            message: message.into(),
        }
    }
}

/// The plan's text with its name: turns byte ranges into places that a person can find.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) path: &'a Path,
    pub(crate) text: &'a str,
}

impl Source<'_> {
    pub(crate) fn error(&self, span: &Range<usize>, key: &str, message: impl Into<String>) -> PlanError {
        let at = (0..=span.start.min(self.text.len()))
            .rev()
            .find(|&at| self.text.is_char_boundary(at));
        let before = &self.text[..at.unwrap_or(0)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        PlanError::Invalid {
            path: self.path.to_owned(),
            line: before.bytes().filter(|&byte| byte == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key: key.to_owned(),
            message: message.into(),
        }
    }
}

/// The valid name that was probably meant, if one is near enough.
pub(crate) fn nearest<'a>(wrong: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = valid
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name));
    scored
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len().max(wrong.len()) / 3)
        .map(|(_, name)| name)
}

/// `; did you mean "x"?`, or nothing.
pub(crate) fn did_you_mean<'a>(wrong: &str, valid: impl IntoIterator<Item = &'a str>) -> String {
    nearest(wrong, valid)
        .map(|name| format!("; did you mean {name:?}?"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_near() {
        let keys = ["timeout", "retry", "needs"];
        assert_eq!(nearest("tiemout", keys), Some("timeout"));
        assert_eq!(nearest("need", keys), Some("needs"));
        assert_eq!(nearest("banana", keys), None);
    }

    #[test]
    fn places_are_counted_in_characters() {
        let source = Source {
            path: Path::new("p.toml"),
            text: "a = 1\nö = 2\n",
        };
        let start = source.text.find('2').unwrap();
        assert_eq!(
            source.error(&(start..start + 1), "ö", "no").to_string(),
            "p.toml:2:5: no"
        );
    }
}
