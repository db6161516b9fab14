//! `[[plugins]]`, and which of their tools somebody gets.

use super::agent::{Declared, words};
use super::{Reading, env, not_empty, plain};
use crate::model::{Plugin, PluginSource, ToolPatterns};
use crate::reader::{Located, Section};
use crate::source::{did_you_mean, quoted};
use std::collections::HashSet;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

/// All keys of a plugin.
pub const KEYS: [&str; 12] = [
    "name",
    "command",
    "env",
    "workdir",
    "user",
    "url",
    "token",
    "credentials",
    "tools",
    "timeout",
    "max_output",
    "calls_per_minute",
];

/// Keys that say something about a program, and nothing about a server elsewhere.
const OF_COMMANDS: [&str; 5] = ["command", "env", "workdir", "user", "credentials"];
const OF_URLS: [&str; 1] = ["token"];
/// Of a tool's name, 64 bytes in all, the prefix leaves most to the tool.
const NAME_BYTES_MAX: usize = 24;
const URL_BYTES_MAX: usize = 2048;
const NAME_OF_USER_BYTES_MAX: usize = 256;
const PATTERNS_MAX: usize = 256;
const PATTERN_BYTES_MAX: usize = 128;
const PATTERN_KEYS: [&str; 2] = ["allow", "deny"];
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(24 * 3600);
const OUTPUT_BYTES: RangeInclusive<u64> = 1024..=16 * 1024 * 1024;
const CALLS_PER_MINUTE: Range<i64> = 1..1_000_001;
/// agentd's own tools have these prefixes: tasks and the like, and what the gateway itself offers.
const RESERVED_NAMES: [&str; 2] = ["agentd", "gateway"];

/// Reads one plugin; none when it has no name.
pub(super) fn read(reading: &mut Reading<'_>, section: Section<'_>) -> Option<(Plugin, Located<String>)> {
    let name = name(reading, &section);
    let section = match &name {
        Some(name) => section.named(format!("plugins.{}", name.value)),
        None => section,
    };
    reading.mistakes.extend(section.unknown_keys(&KEYS));
    let (source, credentials) = source(reading, &section);
    let plugin = Plugin {
        name: name.as_ref().map(|name| name.value.clone()).unwrap_or_default(),
        source,
        credentials,
        tools: patterns(reading, &section),
        timeout: reading
            .maybe(section.duration("timeout", TIMEOUT))
            .map_or(Plugin::TIMEOUT_DEFAULT, |timeout| timeout.value),
        output_bytes_max: reading
            .maybe(section.size("max_output", OUTPUT_BYTES))
            .unwrap_or(Plugin::OUTPUT_BYTES_DEFAULT),
        calls_per_minute: reading
            .maybe(section.integer("calls_per_minute", CALLS_PER_MINUTE))
            .and_then(|count| u32::try_from(count).ok()),
    };
    Some((plugin, name?))
}

/// Refuses what no two plugins may share, and agents' plugins that are not there.
pub(super) fn check(
    reading: &mut Reading<'_>,
    root: &Section<'_>,
    plugins: &[(Plugin, Located<String>)],
    agents: &[Declared<'_>],
) {
    let mut names = HashSet::with_capacity(plugins.len());
    for (plugin, place) in plugins {
        if !names.insert(plugin.name.as_str()) {
            let message = format!(
                "there is another plugin called {:?}; names must be unique",
                plugin.name
            );
            reading.wrong(root.error_at(&place.span, "plugins", message));
        }
    }
    for declared in agents {
        for name in &declared.agent.plugins {
            if names.contains(name.as_str()) {
                continue;
            }
            let hint = did_you_mean(name, names.iter().copied());
            let message = format!(
                "{}: there is no plugin {}{hint}; declare it: [[plugins]] name = {}",
                declared.section.path("plugins"),
                quoted(name),
                quoted(name)
            );
            let span = declared.section.span_of("plugins").unwrap_or_default();
            reading.wrong(declared.section.error_at(&span, "plugins", message));
        }
    }
}

/// `tools = { allow = […], deny = […] }`
pub(super) fn patterns(reading: &mut Reading<'_>, section: &Section<'_>) -> ToolPatterns {
    let Some(tools) = reading.section(section, "tools") else {
        return ToolPatterns::default();
    };
    reading.mistakes.extend(tools.unknown_keys(&PATTERN_KEYS));
    let mut list = |key: &str| {
        let texts = reading.list(&tools, key, PATTERNS_MAX, pattern);
        texts
            .unwrap_or_default()
            .into_iter()
            .map(|text| text.value)
            .collect()
    };
    ToolPatterns {
        allow: list("allow"),
        deny: list("deny"),
    }
}

fn pattern(text: &str) -> Result<(), String> {
    let valid = (1..=PATTERN_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-./*?".contains(&byte));
    if valid {
        return Ok(());
    }
    Err(format!(
        "{} cannot fit a tool: 1 to {PATTERN_BYTES_MAX} of A-Z, a-z, 0-9, _ - . /, with * for any text and ? for any character",
        quoted(text)
    ))
}

fn name(reading: &mut Reading<'_>, section: &Section<'_>) -> Option<Located<String>> {
    let Some(name) = reading.maybe(section.text("name")) else {
        if section.span_of("name").is_none() {
            reading.wrong(section.error("this plugin has no name; add name = \"…\""));
        }
        return None;
    };
    let valid = (1..=NAME_BYTES_MAX).contains(&name.value.len())
        && name
            .value
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte))
        && name.value.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.value.ends_with('_')
        && !name.value.contains("__");
    let why = if !valid {
        format!(
            "{} cannot be a plugin's name: 1 to {NAME_BYTES_MAX} of a-z, 0-9, - and _, beginning with a letter, without __ and \
             without _ at the end, since its tools are called NAME__TOOL",
            quoted(&name.value)
        )
    } else if RESERVED_NAMES.contains(&name.value.as_str()) {
        format!(
            "the plugin {:?} is agentd's own, and every session has it; choose another name",
            name.value
        )
    } else {
        return Some(name);
    };
    reading.wrong(section.error_at(&name.span, "name", why));
    None
}

fn source(reading: &mut Reading<'_>, section: &Section<'_>) -> (PluginSource, Vec<crate::Credential>) {
    let has = |key: &str| section.span_of(key).is_some();
    let useless: &[&str] = match (has("command"), has("url")) {
        (true, true) => {
            let message = format!(
                "{} has a command and a url; a plugin is a program here or a server elsewhere",
                section.name()
            );
            reading.wrong(section.error(message));
            &[]
        }
        (false, false) => {
            let message = format!(
                "{} has neither a command nor a url; add command = [\"program\", \"argument\"]",
                section.name()
            );
            reading.wrong(section.error(message));
            &[]
        }
        (true, false) => &OF_URLS,
        (false, true) => &OF_COMMANDS,
    };
    for key in useless {
        if let Some(span) = section.span_of(key) {
            let message = format!("{} has no effect here; take it away", section.path(key));
            reading.wrong(section.error_at(&span, key, message));
        }
    }
    if !has("command") && has("url") {
        let url = reading.maybe(section.read("url", url)).map(|url| url.value);
        let token = reading.maybe(section.read("token", |name| {
            env::credential_name(name)?;
            Ok(name.to_owned())
        }));
        let source = PluginSource::Url {
            url: url.unwrap_or_default(),
            token: token.map(|token| token.value),
        };
        return (source, Vec::new());
    }
    let (env, credentials) = env::read_plugin(reading, section);
    let source = PluginSource::Command {
        command: words(reading, section),
        env,
        workdir: reading.path(section, "workdir").map(|path| path.value),
        user: reading.maybe(section.read("user", user)).map(|user| user.value),
    };
    (source, credentials)
}

fn user(text: &str) -> Result<String, String> {
    plain(text, NAME_OF_USER_BYTES_MAX)?;
    not_empty(text)?;
    Ok(text.to_owned())
}

fn url(text: &str) -> Result<String, String> {
    plain(text, URL_BYTES_MAX)?;
    not_empty(text)?;
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if !["http", "https"].contains(&scheme) || host.is_empty() || text.contains(char::is_whitespace) {
        return Err(format!("{} is not a URL: http://… or https://…", quoted(text)));
    }
    if host.contains('@') {
        return Err("a URL with a password in it: put the secret into the secret store, and name it: token = \"NAME\"".into());
    }
    Ok(text.to_owned())
}
