//! What is written down beside the program agrees with what the program says of itself.

use crate::files::{fenced, repository, text_of};
use crate::support::{TestEnvironment, finish, shown};
use agentd_protocol::Reason;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

// ---- the protocol

/// Every method as the daemon describes it.
fn methods(env: &TestEnvironment) -> BTreeMap<String, Value> {
    let interface = env.json(&["describe"]);
    let methods = interface["methods"].as_array().unwrap().iter();
    methods
        .map(|method| (method["method"].as_str().unwrap().to_owned(), method.clone()))
        .collect()
}

/// What stands between single backticks.
fn code_spans(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Words like this one: `RegisterTask`.
fn camel_words(text: &str) -> BTreeSet<&str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| {
            word.starts_with(|letter: char| letter.is_ascii_uppercase())
                && word.chars().all(|letter| letter.is_ascii_alphabetic())
                && word.chars().filter(char::is_ascii_uppercase).count() > 1
                && word.chars().any(|letter| letter.is_ascii_lowercase())
        })
        .collect()
}

/// The names of a JSON object's fields, through references and alternatives.
fn fields(schema: &Value) -> BTreeSet<String> {
    fn collect(schema: &Value, whole: &Value, names: &mut BTreeSet<String>) {
        if let Some(properties) = schema["properties"].as_object() {
            names.extend(properties.keys().cloned());
        }
        if let Some(name) = schema["$ref"]
            .as_str()
            .and_then(|path| path.strip_prefix("#/$defs/"))
        {
            collect(&whole["$defs"][name], whole, names);
        }
        for part in ["anyOf", "allOf", "oneOf"] {
            for schema in schema[part].as_array().into_iter().flatten() {
                collect(schema, whole, names);
            }
        }
    }
    let mut names = BTreeSet::new();
    collect(schema, schema, &mut names);
    names
}

/// Every reason there is, as it stands on the wire.
fn reasons() -> BTreeSet<String> {
    // The message of the type's own parser lists what it would have taken.
    let message = serde_json::from_str::<Reason>("\"?\"").unwrap_err().to_string();
    let (_, list) = message.split_once("expected").expect("a list");
    let names: BTreeSet<String> = code_spans(list).into_iter().map(str::to_owned).collect();
    for name in &names {
        assert!(serde_json::from_value::<Reason>(json!(name)).is_ok(), "{name}");
    }
    assert!(names.len() > 10, "{message}");
    names
}

#[test]
fn the_protocols_page_has_every_method_with_its_parameters() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let methods = methods(&env);
    let page = text_of("docs/protocol.md");
    let mut named = BTreeSet::new();
    for row in page.lines().filter(|line| {
        line.starts_with("| `") && camel_words(line).iter().any(|word| methods.contains_key(*word))
    }) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [names, role, about] = cells[..] else {
            panic!("three cells: {row}");
        };
        // A name in parentheses is another one of the same method.
        let names = names.split(" (").next().unwrap();
        for name in code_spans(names) {
            let method = methods
                .get(name)
                .unwrap_or_else(|| panic!("{name} is no method: {row}"));
            named.insert(name.to_owned());
            let wanted = match role {
                "o" => "observer",
                "w" => "worker",
                role => role,
            };
            assert_eq!(method["role"], wanted, "{name}");
            let (params, result) = about.split_once('→').unwrap_or((about, ""));
            let required = method["params_schema"]["required"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            for (side, text) in [("params_schema", params), ("result_schema", result)] {
                let known = fields(&method[side]);
                for field in code_spans(text) {
                    let (field, optional) = field
                        .strip_suffix('?')
                        .map_or((field, false), |field| (field, true));
                    assert!(known.contains(field), "{name}: {side} has no {field}: {row}");
                    if side == "params_schema" {
                        assert_eq!(
                            !optional,
                            required.contains(&json!(field)) || !params.contains('?'),
                            "{name}: {field}"
                        );
                    }
                }
            }
        }
    }
    assert_eq!(named, methods.keys().cloned().collect());
}

#[test]
fn the_protocols_page_has_every_reason() {
    let page = text_of("docs/protocol.md");
    let (_, rest) = page.split_once("`data.reason` is one of").expect("the list");
    let list = rest.split("\n\n").next().unwrap();
    let listed: BTreeSet<String> = code_spans(list).into_iter().map(str::to_owned).collect();
    assert_eq!(listed, reasons());
}

#[test]
fn the_skill_names_what_there_is() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let methods = methods(&env);
    let skill = text_of("skills/agentd/SKILL.md");
    let (front, body) = skill
        .strip_prefix("---\n")
        .and_then(|rest| rest.split_once("\n---\n"))
        .expect("front matter");
    let front: BTreeMap<&str, &str> = front
        .lines()
        .map(|line| line.split_once(": ").expect("a key and a value"))
        .collect();
    assert_eq!(front["name"], "agentd");
    // What the format allows.
    assert!((40..=1024).contains(&front["description"].chars().count()));

    let others = ["MiB", "OpenBSD", "RuntimeError"];
    for word in camel_words(body) {
        assert!(
            methods.contains_key(word) || others.contains(&word),
            "{word} is no method"
        );
    }
    for call in ["call(\"", "\"method\":\""] {
        for (at, _) in body.match_indices(call) {
            let name = body[at + call.len()..].split('"').next().unwrap();
            assert!(methods.contains_key(name), "{name} is no method");
        }
    }
    // The first column of its table of refusals.
    let known = reasons();
    let (_, table) = body.split_once("| reason |").expect("the table");
    let mut found = 0;
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        for reason in code_spans(row.split(" | ").next().unwrap()) {
            assert!(known.contains(reason), "{reason} is no reason");
            found += 1;
        }
    }
    assert!(found > 10);
}

/// A line's words as a shell would have them that knows single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (at, part) in line.split('\'').enumerate() {
        let mut pieces = if at % 2 == 1 {
            vec![part]
        } else {
            part.split(' ').collect()
        }
        .into_iter();
        words.last_mut().unwrap().push_str(pieces.next().unwrap());
        words.extend(pieces.map(str::to_owned));
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn other_pages_name_methods_and_commands_that_there_are() {
    let env = TestEnvironment::new();
    let _daemon = env.daemon();
    let methods = methods(&env);
    let mut commands = BTreeSet::new();
    let mut pages = vec!["README.md".to_owned(), "examples/two-agents/README.md".to_owned()];
    pages.extend(
        fs::read_dir(repository().join("docs"))
            .unwrap()
            .map(|entry| format!("docs/{}", entry.unwrap().file_name().to_str().unwrap()))
            .filter(|name| name.ends_with(".md")),
    );
    for page in &pages {
        let text = text_of(page);
        for span in code_spans(&text.replace("```", "")) {
            if camel_words(span).len() == 1 && camel_words(span).contains(span) {
                assert!(
                    methods.contains_key(span) || span == "GetTaskStatus",
                    "{page}: {span} is no method"
                );
            }
        }
        for block in fenced(&text, "sh") {
            for line in block.lines().filter_map(|line| line.strip_prefix("agentd ")) {
                commands.insert(line.to_owned());
            }
        }
    }
    assert!(commands.len() > 5, "{commands:?}");
    for line in commands {
        let line = line.split(" #").next().unwrap().split(" -- ").next().unwrap();
        let words = words(line);
        let mut args: Vec<&str> = words
            .iter()
            .map(String::as_str)
            .take_while(|word| !["&", "|"].contains(word))
            .map(|word| match word {
                "TASK" | "SESSION" => "00000000-0000-4000-8000-000000000000",
                word => word,
            })
            .collect();
        // Read after all the others, so that an unknown one among them is an error.
        args.push("--help");
        env.ok(&args);
    }
}

// ---- settings

/// The variables of `.env.example`, with the values that it shows as defaults.
fn example() -> BTreeMap<String, String> {
    text_of(".env.example")
        .lines()
        .filter_map(|line| line.strip_prefix('#')?.split_once('='))
        .filter(|(name, _)| {
            !name.is_empty()
                && name
                    .chars()
                    .all(|letter| letter.is_ascii_uppercase() || letter == '_')
        })
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The variables and defaults of the README's table.
fn readme_table() -> BTreeMap<String, String> {
    let readme = text_of("README.md");
    let mut table = BTreeMap::new();
    for row in readme.lines().filter(|line| {
        line.starts_with("| `")
            && code_spans(line)[0]
                .chars()
                .all(|letter| letter.is_ascii_uppercase() || letter == '_')
    }) {
        let cells: Vec<&str> = row.split(" |").collect();
        for name in code_spans(cells[0]) {
            let default = code_spans(cells[1]).first().copied().unwrap_or_default();
            table.insert(name.to_owned(), default.to_owned());
        }
    }
    table
}

/// Starts a daemon with this env file; gives its health and its log without what changes every time.
#[track_caller]
fn daemon_with(text: &str) -> (Value, String) {
    let env = TestEnvironment::new();
    let file = env.write(".agentd/.env", text);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let daemon = env.daemon();
    assert!(env.socket().exists() && env.database().exists());
    let mut health = env.json(&["health"]);
    health["pid"].take();
    let log = daemon.stop();
    let home = env.home();
    let mut log: Vec<String> = log
        .lines()
        .map(|line| line.replace(home.to_str().unwrap(), "~"))
        .map(|line| {
            line.split_once(' ')
                .map_or(line.clone(), |(_, rest)| rest.trim_start().to_owned())
        })
        .filter(|line| line.contains("WARN") || line.contains("ready") || line.contains("listens"))
        .collect();
    // Several threads write it.
    log.sort_unstable();
    (health, log.join("\n"))
}

#[test]
fn the_example_of_the_env_file_shows_the_defaults() {
    let example_text = text_of(".env.example");
    let variables = example();
    // As it is, it changes nothing; and with each line taken at its word, neither.
    let (health, log) = daemon_with("");
    assert_eq!(
        (&health["running_timeout_secs"], &health["context_event_limit"]),
        (&json!(300), &json!(50))
    );
    assert!(
        log.contains("socket=~/.agentd/agentd.sock")
            && log.contains("database=~/.agentd/agent_state.db")
            && log.contains("env_file=~/.agentd/.env")
            && !log.contains("WARN"),
        "{log}"
    );
    assert_eq!(daemon_with(&example_text), (health.clone(), log.clone()));
    let spelled_out: String = variables
        .iter()
        // In the file itself the one has no effect, and that is warned of; what the other names has to be there.
        .filter(|(name, _)| !["AGENTD_ENV_FILE", "AGENTD_CONFIG"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    assert_eq!(daemon_with(&spelled_out), (health, log));
    // Which a misspelled one would be, too.
    let (_, log) = daemon_with("AGENTD_NODE_TIMEOUT=300\n");
    assert!(
        log.contains("WARN") && log.contains("AGENTD_NODE_TIMEOUT"),
        "{log}"
    );
}

#[test]
fn defaults_are_what_they_have_always_been() {
    let variables = example();
    let defaults = [
        ("AGENTD_ENV_FILE", "~/.agentd/.env"),
        ("AGENTD_HOME", "~/.agentd"),
        ("AGENTD_DATABASE_URL", "sqlite://~/.agentd/agent_state.db"),
        ("AGENTD_SOCKET_PATH", "~/.agentd/agentd.sock"),
        ("AGENTD_NODE_TIMEOUT_SECS", "300"),
        ("AGENTD_CONTEXT_EVENT_LIMIT", "50"),
        ("RUST_LOG", "agentd=info"),
        ("DEEPSEEK_API_KEY", ""),
        ("DEEPSEEK_BASE_URL", "https://api.deepseek.com"),
        ("DEEPSEEK_MODEL", "deepseek-v4-flash"),
        ("DEEPSEEK_MAX_TOKENS", "120"),
        ("DEEPSEEK_TEMPERATURE", "0.2"),
        ("AGENTD_AGENT_WORKERS", "2"),
        ("AGENTD_ARTIFACT_DIR", "~/.agentd/artifacts"),
        ("AGENTD_CONFIG", "~/.agentd/agentd.toml"),
        ("AGENTD_SECRET_DIR", "~/.agentd/secrets"),
        ("AGENTD_MAX_SESSIONS", "16"),
    ];
    for (name, default) in defaults {
        assert_eq!(
            variables.get(name).map(String::as_str),
            Some(default),
            "{name} in .env.example"
        );
    }
    // The README's table has all of agentd's own.
    let table = readme_table();
    let own: BTreeMap<String, String> = variables
        .into_iter()
        .filter(|(name, _)| !name.starts_with("DEEPSEEK_") && name != "AGENTD_AGENT_WORKERS")
        .collect();
    assert_eq!(table, own);
}

#[test]
fn the_agent_loop_has_the_same_defaults() {
    let env = TestEnvironment::new();
    let settings = |text: &str| {
        env.write(".agentd/.env", &format!("{text}DEEPSEEK_API_KEY=k\n"));
        let mut python = Command::new("python3");
        env.prepare(&mut python);
        let program = "import json, os, sys; sys.path.insert(0, sys.argv[1])\n\
             from deepseek_agent_loop import Settings\n\
             s = Settings(os.environ)\n\
             print(json.dumps({k: v for k, v in vars(s).items() if k != 'sources'}, sort_keys=True))";
        let output = finish(
            python
                .args(["-B", "-c", program])
                .arg(repository().join("scripts")),
        );
        assert!(output.status.success(), "{}", shown(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let plain = settings("");
    assert_eq!(
        plain,
        json!({
            "api_key": "k",
            "artifact_dir": env.state().join("artifacts"),
            "base_url": "https://api.deepseek.com",
            "env_file": env.state().join(".env"),
            "max_tokens": 120,
            "model": "deepseek-v4-flash",
            "socket_path": env.socket(),
            "temperature": 0.2,
            "workers": 2,
        })
    );
    let spelled_out: String = example()
        .iter()
        .filter(|(name, _)| *name != "DEEPSEEK_API_KEY")
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    assert_eq!(settings(&spelled_out), plain);
}
