//! `[[agents]]`

use super::runtime::{self, Isolation};
use super::{Reading, env, not_empty, plain, plugin};
use crate::model::{Agent, OnUnmerged, Uncommitted, WorkspaceMode, WorktreePolicy};
use crate::reader::{Located, Section};
use crate::source::quoted;
use crate::template::Template;
use agentd_protocol::{Work, limits, requests};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// All keys of an agent.
pub const KEYS: [&str; 31] = [
    "name",
    "runtime",
    "image",
    "oci_runtime",
    "harness",
    "command",
    "prompt",
    "prompt_file",
    "workspace",
    "workspace_mode",
    "worktree_policy",
    "uncommitted",
    "on_unmerged",
    "workdir",
    "allow_root_workspace",
    "credentials",
    "context",
    "skills",
    "network",
    "memory",
    "pids",
    "cpus",
    "timeout",
    "grace_period",
    "replicas",
    "capabilities",
    "max_sessions",
    "home_quota",
    "env",
    "plugins",
    "tools",
];

const HARNESSES_LATER: [&str; 4] = ["claude-code", "codex", "gemini-cli", "opencode"];
const COMMAND_WORDS_MAX: usize = 256;
/// Linux gives a program no longer one.
const WORD_BYTES_MAX: usize = 128 * 1024 - 1;
const PATHS_MAX: usize = 64;
const PLUGINS_MAX: usize = 32;
/// A worker also has a capability for each of its agents' names, and one for any agent.
const CAPABILITIES_MAX: usize = limits::CAPABILITIES_MAX - 2;
const REPLICAS_MAX: i64 = 1000;
const SESSIONS_MAX: i64 = 1000;
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
const GRACE_PERIOD_MAX: Duration = Duration::from_secs(3600);
const HOME_QUOTA: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 50;

/// An agent with its place in the file.
pub(super) struct Declared<'a> {
    pub(super) agent: Agent,
    pub(super) section: Section<'a>,
    pub(super) name_span: Range<usize>,
}

/// Reads one agent; none when it has no name.
pub(super) fn read<'a>(reading: &mut Reading<'_>, section: Section<'a>) -> Option<Declared<'a>> {
    let (name, section) = match name(reading, &section) {
        Some(name) => {
            let section = section.named(format!("agents.{}", name.value));
            (Some(name), section)
        }
        None => (None, section),
    };
    reading.mistakes.extend(section.unknown_keys(&KEYS));
    let Isolation {
        runtime,
        image,
        oci_runtime,
        network,
        memory_bytes,
        cpus,
    } = runtime::read(reading, &section);
    harness(reading, &section);
    let workspace = Workspace::read(reading, &section, runtime);
    let (env, credentials) = env::read(reading, &section);
    let replicas = count(reading, &section, "replicas", 1..REPLICAS_MAX + 1).unwrap_or(1);
    let agent = Agent {
        name: name.as_ref().map(|name| name.value.clone()).unwrap_or_default(),
        runtime,
        image,
        oci_runtime,
        harness: "custom".into(),
        command: command(reading, &section),
        prompt: prompt(reading, &section),
        prompt_file: reading.path(&section, "prompt_file").map(|path| path.value),
        workspace: workspace.path,
        workspace_mode: workspace.mode,
        worktree_policy: workspace.policy,
        uncommitted: workspace.uncommitted,
        on_unmerged: workspace.on_unmerged,
        workdir: workspace.workdir,
        allow_root_workspace: runtime::allow_root_workspace(reading, &section, runtime),
        credentials,
        context: shared(reading, &section, "context"),
        skills: shared(reading, &section, "skills"),
        network,
        memory_bytes,
        pids: count(reading, &section, "pids", 4..4_194_305),
        cpus,
        timeout: reading
            .maybe(section.duration("timeout", TIMEOUT_MIN..=TIMEOUT_MAX))
            .map(|timeout| timeout.value),
        grace_period: reading
            .maybe(section.duration("grace_period", Duration::ZERO..=GRACE_PERIOD_MAX))
            .map_or(Agent::GRACE_PERIOD_DEFAULT, |grace| grace.value),
        replicas,
        capabilities: capabilities(reading, &section),
        // One for each home, so that no two sessions meet in one unless somebody wants it.
        max_sessions: count(reading, &section, "max_sessions", 1..SESSIONS_MAX + 1).unwrap_or(replicas),
        home_quota_bytes: reading.maybe(section.size("home_quota", HOME_QUOTA)),
        env,
        plugins: plugins(reading, &section),
        tools: plugin::patterns(reading, &section),
    };
    Some(Declared {
        agent,
        section,
        name_span: name?.span,
    })
}

fn name(reading: &mut Reading<'_>, section: &Section<'_>) -> Option<Located<String>> {
    match section.text("name") {
        Ok(Some(name)) => match requests::agent_name(&name.value) {
            Ok(()) => Some(name),
            Err(why) => {
                // The sentence quotes the name, which may be as long as the file.
                let why = if name.value.len() > 2 * limits::AGENT_NAME_BYTES_MAX {
                    format!(
                        "{} cannot be an agent's name: it has more than {} bytes",
                        quoted(&name.value),
                        limits::AGENT_NAME_BYTES_MAX
                    )
                } else {
                    why
                };
                reading.wrong(section.error_at(&name.span, "name", why));
                None
            }
        },
        Ok(None) => {
            reading.wrong(section.error("this agent has no name; add name = \"…\""));
            None
        }
        Err(mistake) => {
            reading.wrong(mistake);
            None
        }
    }
}

fn harness(reading: &mut Reading<'_>, section: &Section<'_>) {
    let key = "harness";
    if let Ok(Some(harness)) = section.text(key)
        && HARNESSES_LATER.contains(&harness.value.as_str())
    {
        let message = format!(
            "the harness {:?} is not in this version, which has \"custom\" only: give the command yourself, as command = \
             [\"program\", \"argument\"]; the prompt comes after it",
            harness.value
        );
        reading.wrong(section.error_at(&harness.span, key, message));
        return;
    }
    reading.maybe(section.choice(key, &[("custom", ())]));
}

/// Their names; whether there are such plugins is looked at when all are read.
fn plugins(reading: &mut Reading<'_>, section: &Section<'_>) -> Vec<String> {
    let key = "plugins";
    let names = reading
        .list(section, key, PLUGINS_MAX, not_empty)
        .unwrap_or_default();
    let mut seen: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        if seen.contains(&name.value) {
            let message = format!("{} names {} twice", section.path(key), quoted(&name.value));
            reading.wrong(section.error_at(&name.span, key, message));
        } else {
            seen.push(name.value);
        }
    }
    seen
}

fn command(reading: &mut Reading<'_>, section: &Section<'_>) -> Vec<String> {
    if section.span_of("command").is_none() {
        let message = format!(
            "{} has no command; add command = [\"program\", \"argument\"]; the prompt comes after it",
            this(section)
        );
        reading.wrong(section.error(message));
        return Vec::new();
    }
    words(reading, section)
}

/// `command`, which is there.
pub(super) fn words(reading: &mut Reading<'_>, section: &Section<'_>) -> Vec<String> {
    let key = "command";
    let Some(span) = section.span_of(key) else {
        return Vec::new();
    };
    let words = reading.list(section, key, COMMAND_WORDS_MAX, |word| {
        plain(word, WORD_BYTES_MAX)
    });
    let words = words.unwrap_or_default();
    match words.first() {
        Some(program) if program.value.is_empty() => {
            let message = format!("{} names no program", section.path(key));
            reading.wrong(section.error_at(&program.span, key, message));
        }
        Some(_) => {}
        // When it is something else than a list, that is told already.
        None if section
            .texts(key)
            .is_ok_and(|texts| texts.is_some_and(|texts| texts.value.is_empty())) =>
        {
            let message = format!("{} names no program", section.path(key));
            reading.wrong(section.error_at(&span, key, message));
        }
        None => {}
    }
    values(words)
}

fn prompt(reading: &mut Reading<'_>, section: &Section<'_>) -> Option<String> {
    let key = "prompt";
    let prompt = reading.text(section, key, limits::PROMPT_BYTES_MAX)?;
    if let Err(error) = Template::parse(&prompt.value) {
        reading.wrong(error.in_file(section.source(), &section.path(key), &prompt));
    }
    Some(prompt.value)
}

struct Workspace {
    path: Option<PathBuf>,
    mode: WorkspaceMode,
    policy: WorktreePolicy,
    uncommitted: Uncommitted,
    on_unmerged: Option<OnUnmerged>,
    workdir: Option<PathBuf>,
}

impl Workspace {
    fn read(reading: &mut Reading<'_>, section: &Section<'_>, runtime: crate::RuntimeKind) -> Self {
        let path = reading.path(section, "workspace").map(|path| path.value);
        let modes = [
            ("directory", WorkspaceMode::Directory),
            ("worktree", WorkspaceMode::Worktree),
        ];
        let mode = reading.maybe(section.choice("workspace_mode", &modes));
        let policies = [
            ("keep", WorktreePolicy::Keep),
            ("merge", WorktreePolicy::Merge),
            ("drop", WorktreePolicy::Drop),
        ];
        let policy = reading.maybe(section.choice("worktree_policy", &policies));
        let choices = [("keep", Uncommitted::Keep), ("commit", Uncommitted::Commit)];
        let uncommitted = reading.maybe(section.choice("uncommitted", &choices));
        let choices = [("fail", OnUnmerged::Fail), ("warn", OnUnmerged::Warn)];
        let on_unmerged = reading.maybe(section.choice("on_unmerged", &choices));
        if section.span_of("workspace").is_none() {
            for key in [
                "workspace_mode",
                "worktree_policy",
                "uncommitted",
                "on_unmerged",
                "workdir",
                "allow_root_workspace",
            ] {
                if let Some(span) = section.span_of(key) {
                    let message = format!(
                        "{} has no effect: there is no workspace; add workspace = \"/path\", or take it away",
                        section.path(key)
                    );
                    reading.wrong(section.error_at(&span, key, message));
                }
            }
        }
        let mode = mode.map(|mode| mode.value).unwrap_or_default();
        for key in ["worktree_policy", "uncommitted", "on_unmerged"] {
            if let Some(span) = section.span_of(key)
                && mode == WorkspaceMode::Directory
                && section.span_of("workspace").is_some()
            {
                let message = format!(
                    "{} has no effect: it is about worktrees; add workspace_mode = \"worktree\", or take it away",
                    section.path(key)
                );
                reading.wrong(section.error_at(&span, key, message));
            }
        }
        let policy = policy.map(|policy| policy.value).unwrap_or_default();
        if let Some(chosen) = &on_unmerged
            && policy != WorktreePolicy::Merge
            && mode == WorkspaceMode::Worktree
        {
            let message = format!(
                "{} has no effect: nothing is merged; add worktree_policy = \"merge\", or take it away",
                section.path("on_unmerged")
            );
            reading.wrong(section.error_at(&chosen.span, "on_unmerged", message));
        }
        Self {
            path,
            mode,
            policy,
            uncommitted: uncommitted.map(|chosen| chosen.value).unwrap_or_default(),
            on_unmerged: on_unmerged.map(|chosen| chosen.value),
            workdir: runtime::workdir(reading, section, runtime),
        }
    }
}

/// Files and directories that the agent sees side by side, each under its own last name.
fn shared(reading: &mut Reading<'_>, section: &Section<'_>, key: &str) -> Vec<PathBuf> {
    let place = reading.place;
    let fine = |path: &str| place.resolve(path).map(|_| ());
    let texts = reading.list(section, key, PATHS_MAX, fine).unwrap_or_default();
    let mut paths: Vec<PathBuf> = Vec::with_capacity(texts.len());
    for text in texts {
        let Ok(path) = place.resolve(&text.value) else {
            continue;
        };
        let Some(name) = path.file_name() else {
            let message = format!("{}: {:?} has no name of its own", section.path(key), text.value);
            reading.wrong(section.error_at(&text.span, key, message));
            continue;
        };
        if let Some(other) = paths.iter().find(|other| other.file_name() == Some(name)) {
            let message = format!(
                "{}: {} and {} would both be {:?} for the agent",
                section.path(key),
                other.display(),
                path.display(),
                name
            );
            reading.wrong(section.error_at(&text.span, key, message));
            continue;
        }
        paths.push(path);
    }
    paths
}

fn capabilities(reading: &mut Reading<'_>, section: &Section<'_>) -> Vec<String> {
    let fine = |name: &str| {
        not_empty(name)?;
        if name.len() > limits::NAME_BYTES_MAX || name.contains(|c: char| c.is_control() || c == ',') {
            return Err(format!(
                "{} cannot be a capability: 1 to {} bytes, no comma, no control character",
                quoted(name),
                limits::NAME_BYTES_MAX
            ));
        }
        if name.starts_with(Work::CAPABILITY_PREFIX) {
            return Err(format!(
                "{name:?} cannot be a capability of your own: what begins with {:?} is agentd's",
                Work::CAPABILITY_PREFIX
            ));
        }
        Ok(())
    };
    values(
        reading
            .list(section, "capabilities", CAPABILITIES_MAX, fine)
            .unwrap_or_default(),
    )
}

fn count(reading: &mut Reading<'_>, section: &Section<'_>, key: &str, bounds: Range<i64>) -> Option<u32> {
    reading
        .maybe(section.integer(key, bounds))
        .and_then(|count| u32::try_from(count).ok())
}

/// What to call an agent in a sentence: it may have no name yet.
pub(super) fn this<'s>(section: &'s Section<'_>) -> &'s str {
    match section.name() {
        "agents" => "this agent",
        name => name,
    }
}

fn values(located: Vec<Located<String>>) -> Vec<String> {
    located.into_iter().map(|text| text.value).collect()
}
