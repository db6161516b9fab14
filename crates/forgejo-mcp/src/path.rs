//! Paths of the API, made of names that a model chose.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::ToolError;

/// All but RFC 3986's unreserved characters are escaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A path below the root of the API, with everything in it escaped.
///
/// *Invariant:* it has no segment `.` or `..`. A URL's parser would resolve those, escaped or not, and a name could
/// lead out of its repository.
#[derive(Debug, Clone)]
pub(crate) struct ApiPath(String);

impl ApiPath {
    /// A path that begins with our own words, such as `user/repos`.
    pub(crate) fn of(words: &'static str) -> Self {
        Self(words.to_owned())
    }

    /// Our own words, as they are.
    pub(crate) fn then(mut self, words: &'static str) -> Self {
        self.0.push('/');
        self.0.push_str(words);
        self
    }

    /// A number, and perhaps our own suffix such as `.diff`.
    pub(crate) fn number(mut self, number: u64, suffix: &'static str) -> Self {
        self.0.push_str(&format!("/{number}{suffix}"));
        self
    }

    /// A name in one segment: a slash in it is escaped.
    pub(crate) fn name(mut self, argument: &'static str, name: &str) -> Result<Self, ToolError> {
        check(argument, name, name)?;
        self.0.push('/');
        self.0.extend(utf8_percent_encode(name, ESCAPED));
        Ok(self)
    }

    /// A path in as many segments as it has, for those places where the forges take a slash as it is (files, branches).
    pub(crate) fn path(mut self, argument: &'static str, path: &str) -> Result<Self, ToolError> {
        for segment in path.split('/') {
            check(argument, path, segment)?;
            self.0.push('/');
            self.0.extend(utf8_percent_encode(segment, ESCAPED));
        }
        Ok(self)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(argument: &'static str, whole: &str, segment: &str) -> Result<(), ToolError> {
    let wrong = if segment.is_empty() {
        "has an empty part"
    } else if matches!(segment, "." | "..") {
        "has a part . or .."
    } else if segment.chars().any(char::is_control) {
        "has a control character"
    } else if whole.len() > 1024 {
        "is longer than 1024 bytes"
    } else {
        return Ok(());
    };
    Err(ToolError::argument(argument, wrong))
}

/// The query of a request: pairs in the order of their making, none for an absent value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(&'static str, String)>);

impl Query {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn with(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.0.push((name, value.to_string()));
        }
        self
    }

    pub(crate) fn pairs(&self) -> &[(&'static str, String)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_stay_where_they_are() {
        let path = ApiPath::of("repos")
            .name("owner", "a b")
            .unwrap()
            .name("repo", "c/ä?#%2e")
            .unwrap();
        assert_eq!(path.as_str(), "repos/a%20b/c%2F%C3%A4%3F%23%252e");
        let path = ApiPath::of("x")
            .path("path", "src/a b/ü.rs")
            .unwrap()
            .number(7, ".diff");
        assert_eq!(path.as_str(), "x/src/a%20b/%C3%BC.rs/7.diff");
        for bad in ["", ".", "..", "a\nb"] {
            assert!(ApiPath::of("x").name("owner", bad).is_err(), "{bad:?}");
        }
        for bad in ["", "/a", "a//b", "a/../b", "a/", "./a"] {
            assert!(ApiPath::of("x").path("path", bad).is_err(), "{bad:?}");
        }
    }
}
