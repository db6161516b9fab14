//! What is secret stays where it is.

use crate::support::{TestEnvironment, pipe};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const IN_ENVIRONMENT: &str = "sk-canary-from-the-environment-4711";
const IN_FILE: &str = "sk-canary-from-the-env-file-0815";

fn is_in(bytes: &[u8]) -> bool {
    [IN_ENVIRONMENT, IN_FILE].iter().any(|secret| {
        bytes
            .windows(secret.len())
            .any(|window| window == secret.as_bytes())
    })
}

fn files(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

/// Every command line on the machine, as everybody can read it.
fn command_lines() -> Vec<Vec<u8>> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
        .collect()
}

#[test]
fn keys_in_the_environment_show_up_nowhere() {
    let mut env = TestEnvironment::new();
    env.set("DEEPSEEK_API_KEY", IN_ENVIRONMENT);
    env.set("RUST_LOG", "trace");
    let file = env.write(
        ".agentd/.env",
        &format!("DEEPSEEK_API_KEY={IN_FILE}\nSOME_OTHER_TOKEN={IN_FILE}\n"),
    );
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(env.state(), fs::Permissions::from_mode(0o700)).unwrap();
    let daemon = env.daemon();
    let mut wire = daemon.connect();
    for method in [
        "DescribeInterface",
        "Health",
        "Metrics",
        "WhoAmI",
        "ListTasks",
        "ListResourceLocks",
        "CheckDatabase",
        "Nonsense",
        "RegisterTask",
        "$DEEPSEEK_API_KEY",
    ] {
        let response = wire.response(method, json!({}));
        assert!(!is_in(response.to_string().as_bytes()), "{method}");
    }
    // What asks to be expanded is not.
    let goal = "${DEEPSEEK_API_KEY} $DEEPSEEK_API_KEY {{ env.DEEPSEEK_API_KEY }} %DEEPSEEK_API_KEY%";
    let task = wire.call("RegisterTask", json!({ "goal": goal }))["task_id"].take();
    assert_eq!(
        wire.call("TaskStatus", json!({ "task_id": task }))["task"]["goal"],
        goal
    );

    // A command that runs under the daemon's lease has the environment; nobody sees it from outside.
    let (begun, go_on) = (env.path("begun"), env.path("go_on"));
    pipe(&begun);
    pipe(&go_on);
    let plan = env.write(
        "p.toml",
        "goal = \"g\"\n[[nodes]]\nname = \"n\"\nrun = 'test -n \"$DEEPSEEK_API_KEY\"; echo here > \"$HOME/begun\"; cat \"$HOME/go_on\"'\n",
    );
    let running = env.spawn(&["task", "run", plan.to_str().unwrap()]);
    assert_eq!(crate::support::read_pipe(&begun).trim(), "here");
    let lines = command_lines();
    assert!(
        lines
            .iter()
            .any(|line| line.windows(4).any(|part| part == b"task"))
    );
    for line in lines {
        assert!(!is_in(&line), "{}", String::from_utf8_lossy(&line));
    }
    fs::write(&go_on, "done\n").unwrap();
    let output = running.output();
    assert!(output.status.success(), "{}", crate::support::shown(&output));
    assert!(!is_in(&output.stdout) && !is_in(&output.stderr));

    // What it says of its settings.
    for args in [
        &["health"][..],
        &["metrics"],
        &["describe"],
        &["whoami"],
        &["journal"],
        &["task", "list"],
    ] {
        let output = env.run(args);
        assert!(!is_in(&output.stdout) && !is_in(&output.stderr), "{args:?}");
    }
    let journal = wire.call("ReadJournal", json!({ "limit": 10_000 }));
    assert!(journal["entries"].as_array().unwrap().len() > 3);
    assert!(!is_in(journal.to_string().as_bytes()));
    let log = daemon.stop();
    assert!(log.contains("stopped"), "{log}");
    assert!(!is_in(log.as_bytes()));
    let mut found = Vec::new();
    files(&env.home(), &mut found);
    assert!(found.iter().any(|path| path.ends_with("agent_state.db")));
    for path in found.iter().filter(|path| **path != file) {
        assert!(!is_in(&fs::read(path).unwrap()), "{}", path.display());
    }
}
