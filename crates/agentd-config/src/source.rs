//! Places in a file that a person wrote, and what is wrong there.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// Longer names have no near ones: nobody misspells them, and comparing costs the product of the lengths.
const COMPARED_BYTES_MAX: usize = 64;
/// What is kept of a wrong key, in characters.
const KEY_CHARS_MAX: usize = 512;
/// What is quoted of a wrong value, in characters.
const QUOTED_CHARS_MAX: usize = 80;

/// Something in a file that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}:{column}: {message}", path.display())]
pub struct Mistake {
    /// The file.
    pub path: PathBuf,
    /// Where, from 1 on.
    pub line: usize,
    /// Where in the line, in characters from 1 on.
    pub column: usize,
    /// The key that it is about, with the tables that it is in: `nodes.build.timeout`.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// A file's text with its name: turns byte ranges into places that a person can find.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The file, as the person called it.
    pub path: &'a Path,
    /// What it says.
    pub text: &'a str,
}

impl Source<'_> {
    /// Says what is wrong at a place. Looks at the text up to there.
    pub fn error(&self, span: &Range<usize>, key: &str, message: impl Into<String>) -> Mistake {
        let at = (0..=span.start.min(self.text.len()))
            .rev()
            .find(|&at| self.text.is_char_boundary(at));
        let before = &self.text[..at.unwrap_or(0)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Mistake {
            path: self.path.to_owned(),
            line: before.bytes().filter(|&byte| byte == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key: key.chars().take(KEY_CHARS_MAX).collect(),
            message: message.into(),
        }
    }
}

/// The valid name that was probably meant, if one is near enough.
pub fn nearest<'a>(wrong: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if wrong.len() > COMPARED_BYTES_MAX {
        return None;
    }
    let scored = valid
        .into_iter()
        .filter(|name| name.len() <= COMPARED_BYTES_MAX)
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name));
    scored
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len().max(wrong.len()) / 3)
        .map(|(_, name)| name)
}

/// `; did you mean "x"?`, or nothing.
pub fn did_you_mean<'a>(wrong: &str, valid: impl IntoIterator<Item = &'a str>) -> String {
    nearest(wrong, valid)
        .map(|name| format!("; did you mean {name:?}?"))
        .unwrap_or_default()
}

/// A wrong value in quotes, or its beginning when it is long.
#[must_use]
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
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
        assert_eq!(nearest(&"timeout".repeat(100_000), keys), None);
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

    #[test]
    fn long_values_are_quoted_in_part() {
        assert_eq!(quoted("a\"b"), "\"a\\\"b\"");
        assert!(quoted(&"ö".repeat(10_000)).chars().count() < 100);
    }
}
