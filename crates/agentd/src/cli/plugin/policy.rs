//! What patterns on tools' names do, and whether they can do anything at all.

use agentd_config::ToolPatterns;
use agentd_runner::session::tools::rules;
use mcp_transport::name::SEPARATOR;
use mcp_transport::policy::Pattern;

/// Why a tool is not there for agents; none when it is.
pub(crate) fn hidden(patterns: &ToolPatterns, own_name: &str) -> Option<String> {
    let denied = patterns
        .deny
        .iter()
        .find(|pattern| Pattern::new(pattern.as_str()).matches(own_name));
    if let Some(pattern) = denied {
        return Some(format!("denied by {pattern:?}"));
    }
    (!rules(patterns).allows(own_name)).then(|| "fits nothing in allow".to_owned())
}

/// True when `pattern` can fit the name of some tool of this plugin's, as agents see it.
pub(crate) fn can_fit(pattern: &str, plugin: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    // Where in the pattern one may be after what was read so far. A star may be left behind at any time.
    let mut at = vec![false; pattern.len() + 1];
    at[0] = true;
    let pass_stars = |at: &mut Vec<bool>| {
        for here in 0..pattern.len() {
            if at[here] && pattern[here] == '*' {
                at[here + 1] = true;
            }
        }
    };
    pass_stars(&mut at);
    for letter in plugin.chars().chain(SEPARATOR.chars()) {
        let mut next = vec![false; pattern.len() + 1];
        for here in (0..pattern.len()).filter(|here| at[*here]) {
            match pattern[here] {
                '*' => next[here] = true,
                '?' => next[here + 1] = true,
                wanted if wanted == letter => next[here + 1] = true,
                _ => {}
            }
        }
        at = next;
        pass_stars(&mut at);
    }
    // Whatever is left of the pattern fits something, and a tool has a name.
    at[..pattern.len()].contains(&true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(allow: &[&str], deny: &[&str]) -> ToolPatterns {
        let all = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        ToolPatterns {
            allow: all(allow),
            deny: all(deny),
        }
    }

    #[test]
    fn what_is_hidden_is_what_the_gateway_hides() {
        for (patterns, name, expected) in [
            (patterns(&[], &[]), "a", None),
            (patterns(&["issue_*"], &[]), "issue_read", None),
            (
                patterns(&["issue_*"], &[]),
                "file_read",
                Some("fits nothing in allow"),
            ),
            (
                patterns(&["*"], &["*_write"]),
                "x_write",
                Some("denied by \"*_write\""),
            ),
        ] {
            assert_eq!(hidden(&patterns, name).as_deref(), expected, "{name}");
            assert_eq!(rules(&patterns).allows(name), expected.is_none());
        }
    }

    #[test]
    fn patterns_that_can_fit_a_plugins_tools() {
        for yes in [
            "*", "forge__*", "forge__x", "f*", "*_write", "?orge__x", "forge*", "*__*", "for?e_*e",
        ] {
            assert!(can_fit(yes, "forge"), "{yes}");
        }
        for no in [
            "forge",
            "forge__",
            "forge_x",
            "notes__*",
            "issue_*",
            "?",
            "forge_",
            "forgejo__*",
        ] {
            assert!(!can_fit(no, "forge"), "{no}");
        }
    }
}
