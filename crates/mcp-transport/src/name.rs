//! Names under which agents see tools and prompts.
//!
//! A name is `<plugin>__<own name>`, always, so that it never changes when another plugin is added. What clients would
//! refuse (a character, the length) is replaced, and a hash of the true names keeps the result apart from others.

use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// The longest name that clients take, in characters.
pub const NAME_CHARS_MAX: usize = 64;
/// The least that names may be bounded to, in characters: something of the name has to stay beside the hash.
pub const NAME_CHARS_MIN: usize = 24;
/// The longest name of a plugin, in characters.
pub const PLUGIN_NAME_CHARS_MAX: usize = 32;
/// What stands between a plugin's name and its tool's.
pub const SEPARATOR: &str = "__";

const HASH_CHARS: usize = 8;

fn is_legal(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '-')
}

/// True for names that a plugin may have: letters, digits, `-` and `_`; `_` neither last nor twice in a row, so that it
/// is always clear where a plugin's name ends.
#[must_use]
pub fn is_plugin_name(name: &str) -> bool {
    (1..=PLUGIN_NAME_CHARS_MAX).contains(&name.len())
        && name.chars().all(is_legal)
        && !name.contains(SEPARATOR)
        && !name.ends_with('_')
        && !name.starts_with(['-', '_'])
}

/// The name of `own`, a tool or prompt of `plugin`; without the prefix when `plugin` is none. At most `chars_max`
/// characters, all of them legal. The same arguments give the same name for ever.
#[must_use]
pub fn exposed(plugin: Option<&str>, own: &str, chars_max: usize) -> String {
    build(plugin, own, chars_max, 0)
}

fn build(plugin: Option<&str>, own: &str, chars_max: usize, attempt: u32) -> String {
    let chars_max = chars_max.clamp(NAME_CHARS_MIN, NAME_CHARS_MAX);
    let full = match plugin {
        Some(plugin) => format!("{plugin}{SEPARATOR}{own}"),
        None => own.to_owned(),
    };
    if attempt == 0 && !own.is_empty() && full.len() <= chars_max && full.chars().all(is_legal) {
        return full;
    }
    let mut hash = Sha256::new();
    hash.update(plugin.unwrap_or_default());
    hash.update([0]);
    hash.update(own);
    hash.update(attempt.to_be_bytes());
    let digest = hash.finalize();
    let mut name: String = full
        .chars()
        .map(|character| if is_legal(character) { character } else { '_' })
        .take(chars_max - HASH_CHARS - 1)
        .collect();
    name.push('_');
    for byte in &digest[..HASH_CHARS / 2] {
        name.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        name.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
    }
    name
}

/// Gives names away, no name twice.
#[derive(Debug, Default)]
pub(crate) struct Names {
    taken: HashSet<String>,
}

impl Names {
    /// The name for `own`, and none when eight attempts have met a name that is taken.
    pub(crate) fn give(&mut self, plugin: Option<&str>, own: &str, chars_max: usize) -> Option<String> {
        let mut attempts = (0..8).map(|attempt| build(plugin, own, chars_max, attempt));
        attempts.find(|name| self.taken.insert(name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_names_stay() {
        assert_eq!(exposed(Some("forge"), "issue_read", 64), "forge__issue_read");
        assert_eq!(exposed(None, "issue_read", 64), "issue_read");
    }

    #[test]
    fn a_hash_is_for_ever() {
        // Written down, because agents' allow lists are.
        assert_eq!(exposed(Some("forge"), "a.b", 64), "forge__a_b_74c7104f");
        let mut names = Names::default();
        let all: Vec<_> = (0..3).filter_map(|_| names.give(Some("p"), "t", 64)).collect();
        assert_eq!(all.len(), 3);
        assert_eq!(all[0], "p__t");
    }

    #[test]
    fn names_of_plugins() {
        for good in ["a", "forge", "forge_2", "a-b"] {
            assert!(is_plugin_name(good), "{good}");
        }
        for bad in ["", "a__b", "a_", "_a", "-a", "a b", "ä", &"a".repeat(33)] {
            assert!(!is_plugin_name(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_name_is_legal_and_short(plugin in "[a-z]{1,32}", own in ".{0,200}", max in 0..200_usize) {
            let name = exposed(Some(&plugin), &own, max);
            prop_assert!(name.len() <= max.clamp(NAME_CHARS_MIN, NAME_CHARS_MAX));
            prop_assert!(!name.is_empty() && name.chars().all(is_legal));
            prop_assert_eq!(name, exposed(Some(&plugin), &own, max));
        }

        #[test]
        fn different_tools_have_different_names(
            a in ("[a-z]{1,4}(_[a-z]{1,4})?", "[a-z_]{1,80}"), b in ("[a-z]{1,4}(_[a-z]{1,4})?", "[a-z_]{1,80}"),
        ) {
            prop_assume!(a != b);
            prop_assert_ne!(exposed(Some(&a.0), &a.1, 40), exposed(Some(&b.0), &b.1, 40));
        }
    }
}
