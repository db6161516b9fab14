//! Who may call what: allow and deny lists of patterns on names.

use serde::{Deserialize, Serialize};

/// A pattern on a name: `*` stands for any characters, `?` for exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern.
    #[must_use]
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    /// True when it matches all of `name`. Takes at most the product of the two lengths in steps.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name): (Vec<char>, Vec<char>) = (self.0.chars().collect(), name.chars().collect());
        let (mut p, mut n) = (0, 0);
        // Where the last star was, and how much of the name it has taken.
        let mut star: Option<(usize, usize)> = None;
        while n < name.len() {
            match pattern.get(p) {
                Some('*') => {
                    star = Some((p, n));
                    p += 1;
                }
                Some(&wanted) if wanted == '?' || wanted == name[n] => {
                    p += 1;
                    n += 1;
                }
                _ => match star {
                    Some((at, taken)) => {
                        star = Some((at, taken + 1));
                        (p, n) = (at + 1, taken + 1);
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|&left| left == '*')
    }
}

/// An allow list and a deny list. What is denied is denied whatever is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// When there is one, nothing else is allowed; an empty one allows nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<Pattern>>,
    /// Never allowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Pattern>,
}

impl Rules {
    /// True when `name` may be seen and called.
    #[must_use]
    pub fn allows(&self, name: &str) -> bool {
        let listed = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(name));
        self.allow.as_deref().is_none_or(listed) && !listed(&self.deny)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(allow: Option<&[&str]>, deny: &[&str]) -> Rules {
        let all = |patterns: &[&str]| patterns.iter().map(|&pattern| Pattern::new(pattern)).collect();
        Rules {
            allow: allow.map(all),
            deny: all(deny),
        }
    }

    #[test]
    fn lists() {
        assert!(Rules::default().allows("anything"));
        assert!(!rules(Some(&[]), &[]).allows("anything"));
        let some = rules(Some(&["issue_*"]), &["*_write"]);
        assert!(some.allows("issue_read"));
        assert!(!some.allows("issue_write"));
        assert!(!some.allows("file_read"));
    }

    /// What a pattern means, said in the simplest way.
    fn by_definition(pattern: &[char], name: &[char]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), _) => {
                by_definition(rest, name)
                    || name.split_first().is_some_and(|(_, n)| by_definition(pattern, n))
            }
            (Some((p, rest)), Some((n, name))) => (*p == '?' || p == n) && by_definition(rest, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matches_as_defined(pattern in "[ab*?]{0,8}", name in "[ab]{0,8}") {
            let (p, n): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
            prop_assert_eq!(Pattern::new(pattern).matches(&name), by_definition(&p, &n));
        }

        #[test]
        fn denied_is_denied(name in "[a-z_]{1,20}") {
            prop_assert!(!rules(Some(&["*"]), &[&name]).allows(&name));
        }
    }
}
