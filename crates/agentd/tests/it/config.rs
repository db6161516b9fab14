//! `agentd.toml`, and the commands about it: `init`, `check`, `doctor`.

use crate::support::{TestEnvironment, finish, shown};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn close(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// An agent that works everywhere, with more lines.
fn agent(more: &str) -> String {
    format!("[[agents]]\nname = \"a\"\nruntime = \"process\"\ncommand = [\"true\"]\n{more}\n")
}

/// What `agentd --json check` says; its exit code is that of what it found.
#[track_caller]
fn check(env: &TestEnvironment, flags: &[&str]) -> Value {
    let output = env.run(&[&["--json"], flags, &["check"]].concat());
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", shown(&output)));
    let expected = if report["ok"] == true { 0 } else { 78 };
    assert_eq!(output.status.code(), Some(expected), "{}", shown(&output));
    report
}

/// Level, agent, key and message of each problem.
fn problems(report: &Value) -> Vec<(String, String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let problems = report["problems"].as_array().unwrap().iter();
    problems
        .map(|problem| {
            (
                text(&problem["level"]),
                text(&problem["agent"]),
                text(&problem["key"]),
                text(&problem["message"]),
            )
        })
        .collect()
}

/// The one problem of this agent's.
#[track_caller]
fn problem(env: &TestEnvironment, more: &str) -> (String, String, String) {
    env.write(".agentd/agentd.toml", &agent(more));
    let report = check(env, &[]);
    let mut found = problems(&report);
    assert_eq!(found.len(), 1, "{more}: {report}");
    let (level, agent, key, message) = found.remove(0);
    assert_eq!(agent, "a");
    (level, key, message)
}

// ---- settings

#[test]
fn flags_environment_env_file_configuration_default() {
    let mut env = TestEnvironment::new();
    let timeout = |env: &TestEnvironment, flags: &[&str]| {
        let daemon = env.daemon_with(flags);
        let health = env.json(&["health"]);
        daemon.stop();
        health["running_timeout_secs"].as_u64().unwrap()
    };
    assert_eq!(timeout(&env, &[]), 300);
    env.write(".agentd/agentd.toml", "[daemon]\nnode_timeout = '10s'\n");
    assert_eq!(timeout(&env, &[]), 10);
    let file = env.write(".agentd/.env", "AGENTD_NODE_TIMEOUT_SECS=20\n");
    close(&file);
    assert_eq!(timeout(&env, &[]), 20);
    env.set("AGENTD_NODE_TIMEOUT_SECS", "30");
    assert_eq!(timeout(&env, &[]), 30);
    assert_eq!(timeout(&env, &["--node-timeout-secs", "40"]), 40);
}

#[test]
fn a_client_finds_the_socket_that_the_configuration_names() {
    let env = TestEnvironment::new();
    env.write(".agentd/agentd.toml", "[daemon]\nsocket = 's/other.sock'\n");
    fs::create_dir(env.state().join("s")).unwrap();
    let daemon = env.daemon();
    assert_eq!(env.json(&["health"])["status"], "ok");
    assert!(env.state().join("s/other.sock").exists() && !env.socket().exists());
    daemon.stop();
}

#[test]
fn a_configuration_can_be_named_and_then_has_to_be_there() {
    let mut env = TestEnvironment::new();
    let named = env.write("elsewhere/a.toml", &agent(""));
    env.write(".agentd/agentd.toml", "");
    let agents = |env: &TestEnvironment, flags: &[&str]| check(env, flags)["agents"].clone();
    assert_eq!(agents(&env, &[]), json!([]));
    assert_eq!(agents(&env, &["--config", named.to_str().unwrap()]), json!(["a"]));
    env.set("AGENTD_CONFIG", &named);
    assert_eq!(agents(&env, &[]), json!(["a"]));
    assert_eq!(
        agents(
            &env,
            &["--config", env.state().join("agentd.toml").to_str().unwrap()]
        ),
        json!([])
    );
    for command in ["health", "check", "daemon"] {
        let said = env.run(&["--config", "none.toml", command]);
        assert_eq!(said.status.code(), Some(78), "{}", shown(&said));
        assert!(
            shown(&said).contains("none.toml: No such file"),
            "{}",
            shown(&said)
        );
    }
}

#[test]
fn a_wrong_configuration_keeps_the_daemon_from_starting_and_says_all_that_is_wrong() {
    let env = TestEnvironment::new();
    let path = env.write(
        ".agentd/agentd.toml",
        &format!(
            "[daemon]\nsockt = '/x'\n{}",
            agent("memory = '2GiB'\ntiemout = '1h'")
        ),
    );
    let message = env.fails(78, &["daemon"]);
    let path = path.display();
    for part in [
        format!("{path}:2:1: unknown key \"sockt\" in daemon; did you mean \"socket\"?"),
        format!("{path}:7:10: agents.a.memory cannot be honoured"),
        format!("{path}:8:1: unknown key \"tiemout\" in agents.a; did you mean \"timeout\"?"),
    ] {
        assert!(message.contains(&part), "{message}");
    }
    assert!(!env.database().exists());
    // The same for programs, each with its place.
    let report = check(&env, &[]);
    let places: Vec<&Value> = report["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| &problem["place"]["line"])
        .collect();
    assert_eq!(places, [2, 7, 8]);
    assert_eq!(report["config"], path.to_string());
    // And for people.
    let output = env.run(&["check"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("line 8") && table.contains("\"timeout\""),
        "{table}"
    );
}

#[test]
fn a_configuration_that_others_can_write_is_refused() {
    let env = TestEnvironment::new();
    let path = env.write(".agentd/agentd.toml", &agent(""));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o646)).unwrap();
    let message = env.fails(78, &["daemon"]);
    assert!(message.contains("chmod o-w"), "{message}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
    let report = check(&env, &[]);
    let [(level, _, _, message)] = &problems(&report)[..] else {
        panic!("{report}")
    };
    assert!(level == "warning" && message.contains("chmod g-w"), "{report}");
    // Reading is another matter: there are no secrets in it.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(check(&env, &[])["problems"], json!([]));
}

// ---- init

#[test]
fn what_init_writes_is_found_good_by_check() {
    let env = TestEnvironment::new();
    let path = env.state().join("agentd.toml");
    let output = env.run(&["init"]);
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        path.to_str().unwrap()
    );
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("agentd check"),
        "{}",
        shown(&output)
    );
    assert_eq!((mode(&path), mode(&env.state())), (0o600, 0o700));
    let report = check(&env, &[]);
    assert_eq!(
        (&report["agents"], &report["problems"]),
        (&json!(["hello"]), &json!([]))
    );
    // Nothing of the writing is left beside it.
    assert_eq!(fs::read_dir(env.state()).unwrap().count(), 1);
}

#[test]
fn init_replaces_nothing_unless_it_is_told_to() {
    let env = TestEnvironment::new();
    let path = env.write(".agentd/agentd.toml", "this is [not TOML");
    let message = env.fails(1, &["init"]);
    assert!(
        message.contains("is there already") && message.contains("--force"),
        "{message}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "this is [not TOML");
    // Even a wrong one is no hindrance.
    env.ok(&["init", "--force"]);
    assert_eq!(check(&env, &[])["ok"], true);
    assert_eq!(mode(&path), 0o600);
    // A link is replaced, not what it leads to.
    let target = env.write("target", "mine");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    env.fails(1, &["init"]);
    env.ok(&["init", "--force"]);
    assert_eq!(fs::read_to_string(&target).unwrap(), "mine");
    let written = env.json(&["init", "--path", "here.toml"]);
    assert_eq!(written["path"], env.path("here.toml").to_str().unwrap());
    env.fails(65, &["init", "--path", "no/such/dir/x.toml"]);
}

#[test]
fn init_knows_what_there_is() {
    let mut env = TestEnvironment::new();
    let programs = env.path("bin");
    fs::create_dir(&programs).unwrap();
    env.set("PATH", &programs);
    let text = |env: &TestEnvironment| {
        env.ok(&["init", "--force"]);
        fs::read_to_string(env.state().join("agentd.toml")).unwrap()
    };
    assert!(text(&env).contains("Podman is not installed here"));
    for name in ["podman", "runsc"] {
        let path = env.write(&format!("bin/{name}"), "#!/bin/sh\n");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let text = text(&env);
    assert!(
        text.contains("Podman is installed here") && text.contains("which is installed here"),
        "{text}"
    );
}

// ---- check

#[test]
fn check_without_a_configuration_says_how_to_get_one() {
    let env = TestEnvironment::new();
    let report = check(&env, &[]);
    let [(level, _, _, message)] = &problems(&report)[..] else {
        panic!("{report}")
    };
    assert!(level == "warning" && message.contains("agentd init"), "{report}");
    // What the settings came out as.
    assert_eq!(
        report["settings"]["secret_dir"],
        env.state().join("secrets").to_str().unwrap()
    );
    assert_eq!(report["settings"]["transcript_limit"], "32MiB");
    assert_eq!(report["settings"]["session_retention"], "30d");
    assert_eq!(report["settings"]["id_range_start"], 1_879_048_192u64);
    // It changes nothing.
    assert!(!env.state().exists());
}

#[test]
fn check_looks_at_files_and_directories() {
    let env = TestEnvironment::new();
    env.write("good/SKILL.md", "do it well");
    env.write("bare/other", "");
    env.write("p.txt", "{{ trigger.ref }}");
    env.write("bad.txt", "one\n{{ trigger.ref }\n");
    env.write(
        ".agentd/agentd.toml",
        &agent("prompt_file = '~/p.txt'\ncontext = ['~/p.txt', '~/bare']\nskills = ['~/good']"),
    );
    assert_eq!(check(&env, &[])["problems"], json!([]));
    for (more, level, key, part) in [
        (
            "prompt_file = 'none.txt'",
            "error",
            "prompt_file",
            ".agentd/none.txt cannot be read",
        ),
        (
            "prompt_file = '~/bad.txt'",
            "error",
            "prompt_file",
            "not a template",
        ),
        (
            "prompt_file = '~/good'",
            "error",
            "prompt_file",
            "not an ordinary file",
        ),
        (
            "context = ['/nonexistent/docs']",
            "error",
            "context",
            "/nonexistent/docs cannot be found",
        ),
        (
            "context = ['/dev/null']",
            "error",
            "context",
            "neither a directory nor an ordinary file",
        ),
        ("skills = ['~/bare']", "warning", "skills", "no SKILL.md"),
        ("skills = ['~/p.txt']", "error", "skills", "is not a directory"),
        (
            "workspace = '/nonexistent/repo'",
            "error",
            "workspace",
            "/nonexistent/repo of agent a cannot be found",
        ),
        ("workspace = '~/p.txt'", "error", "workspace", "not a directory"),
    ] {
        let (found_level, found_key, message) = problem(&env, more);
        assert_eq!(
            (found_level.as_str(), found_key.as_str()),
            (level, key),
            "{message}"
        );
        assert!(message.contains(part), "{more}: {message}");
    }
}

#[test]
fn check_looks_at_programs() {
    let env = TestEnvironment::new();
    env.write(
        ".agentd/agentd.toml",
        &agent("").replace("\"true\"", "\"no-such-program\""),
    );
    let report = check(&env, &[]);
    let [(level, _, key, message)] = &problems(&report)[..] else {
        panic!("{report}")
    };
    assert_eq!((level.as_str(), key.as_str()), ("error", "command"));
    assert!(message.contains("no-such-program"), "{message}");
    // A container has its own programs; but it needs Podman.
    let podman =
        "[daemon]\npodman = ['no-such-podman']\n[[agents]]\nname = 'a'\nimage = 'i'\ncommand = ['x']\n";
    env.write(".agentd/agentd.toml", podman);
    let report = check(&env, &[]);
    let found = problems(&report);
    assert!(
        found.iter().any(|(level, _, key, message)| level == "error"
            && key == "daemon.podman"
            && message.contains("no-such-podman is not installed")),
        "{report}"
    );
}

#[test]
fn check_looks_at_the_workspace() {
    let env = TestEnvironment::new();
    let dir = env.path("w");
    fs::create_dir(&dir).unwrap();
    let is_root = nix::unistd::geteuid().is_root();
    // An ordinary user's own directory is fine. Root's agents are users of their own, who may not write there.
    if is_root {
        let (level, key, message) = problem(&env, "workspace = '~/w'");
        assert_eq!((level.as_str(), key.as_str()), ("error", "workspace"));
        assert!(message.contains("cannot write to"), "{message}");
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let allowed = "workspace = '~/w'\n";
    env.write(".agentd/agentd.toml", &agent(allowed));
    assert_eq!(check(&env, &[])["problems"], json!([]));
    let worktree = format!("{allowed}workspace_mode = 'worktree'");
    let (level, key, message) = problem(&env, &worktree);
    assert_eq!((level.as_str(), key.as_str()), ("error", "workspace_mode"));
    assert!(message.contains("git init"), "{message}");
    let made = finish(Command::new("git").args(["init", "-q"]).arg(&dir));
    assert!(made.status.success(), "{}", shown(&made));
    let (level, key, message) = problem(&env, &worktree);
    assert_eq!((level.as_str(), key.as_str()), ("error", "workspace_mode"));
    assert!(message.contains("no commit yet"), "{message}");
    let first = [
        "-c",
        "user.name=n",
        "-c",
        "user.email=e",
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "first",
    ];
    let made = finish(Command::new("git").arg("-C").arg(&dir).args(first));
    assert!(made.status.success(), "{}", shown(&made));
    env.write(".agentd/agentd.toml", &agent(&worktree));
    assert_eq!(check(&env, &[])["problems"], json!([]));
}

#[test]
fn check_looks_at_credentials_and_shows_none() {
    let env = TestEnvironment::new();
    let with = "credentials = ['TOKEN', { name = 'KEY', env = 'KEY' }]";
    env.write(".agentd/agentd.toml", &agent(with));
    let found = problems(&check(&env, &[]));
    assert_eq!(found.len(), 2, "{found:?}");
    for ((level, _, key, message), name) in found.iter().zip(["TOKEN", "KEY"]) {
        assert_eq!((level.as_str(), key.as_str()), ("error", "credentials"));
        let path = env.state().join("secrets").join(name);
        assert!(message.contains(path.to_str().unwrap()), "{message}");
    }
    let token = env.write(".agentd/secrets/TOKEN", "planted-secret-value\n\n");
    let key = env.write(".agentd/secrets/KEY", "1234567\r\n");
    close(&token);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(env.state().join("secrets"), fs::Permissions::from_mode(0o700)).unwrap();
    let output = env.run(&["check"]);
    assert!(output.status.success(), "{}", shown(&output));
    let said = shown(&output);
    assert!(!said.contains("planted") && !said.contains("1234567"), "{said}");
    assert!(
        said.contains("KEY has 7 bytes") && said.contains("chmod 600"),
        "{said}"
    );
    assert!(said.contains("1 agent, 0 errors, 2 warnings"), "{said}");
    // A directory that others can write: they choose what agents get.
    fs::set_permissions(env.state().join("secrets"), fs::Permissions::from_mode(0o777)).unwrap();
    let found = problems(&check(&env, &[]));
    assert!(
        found
            .iter()
            .any(|(level, _, key, _)| level == "error" && key == "daemon.secret_dir"),
        "{found:?}"
    );
    // What is no file is no secret.
    fs::remove_file(&token).unwrap();
    fs::create_dir(&token).unwrap();
    let found = problems(&check(&env, &[]));
    assert!(
        found
            .iter()
            .any(|(.., message)| message.contains("not an ordinary file")),
        "{found:?}"
    );
}

/// A Podman that says of itself what the test wants, and has one image.
fn fake_podman(env: &TestEnvironment, info: &str) {
    let script = format!(
        "#!/bin/sh\ncase \"$1 $2 $3\" in\n'info '*) cat <<'END'\n{info}\nEND\n;;\n'network ls '*) echo lab ;;\n\
         'image exists localhost/there:1') ;;\n'image exists '*) exit 1 ;;\n*) echo \"$*\" >&2; exit 125 ;;\nesac\n"
    );
    let path = env.write("bin/fake-podman", &script);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

const PODMAN_INFO: &str = r#"{"host": {"cgroupVersion": "v2", "cgroupControllers": ["cpu", "memory", "pids"],
"idMappings": {"uidmap": [{"size": 65536}]}, "ociRuntime": {"name": "runc"}, "security": {"rootless": false}},
"version": {"Version": "5.0.0"}}"#;

#[test]
fn check_asks_the_runtimes_what_a_session_would_be_told() {
    let env = TestEnvironment::new();
    let program = env.path("bin/fake-podman");
    let declared = |more: &str| {
        let program = program.display();
        env.write(
            ".agentd/agentd.toml",
            &format!(
                "[daemon]\npodman = [\"{program}\"]\n[[agents]]\nname = 'a'\nimage = 'localhost/there:1'\ncommand = \
                 ['x']\n{more}\n"
            ),
        );
        problems(&check(&env, &[]))
    };
    fake_podman(&env, PODMAN_INFO);
    assert_eq!(declared(""), []);
    for (more, level, key, part) in [
        ("network = 'none-such'", "error", "network", "network create"),
        ("oci_runtime = '/none/such'", "error", "oci_runtime", "no program"),
        (
            "oci_runtime = 'none-such'",
            "warning",
            "oci_runtime",
            "containers.conf",
        ),
    ] {
        let found = declared(more);
        let [(found_level, agent, found_key, message)] = &found[..] else {
            panic!("{more}: {found:?}")
        };
        assert_eq!(
            (found_level.as_str(), agent.as_str(), found_key.as_str()),
            (level, "a", key)
        );
        assert!(message.contains(part), "{more}: {message}");
    }
    // Two agents without their image: each is told.
    let other = "[[agents]]\nname = 'b'\nimage = 'localhost/gone:1'\ncommand = ['x']\n[[agents]]\nname = 'c'\nimage = \
                 'localhost/gone:1'\ncommand = ['x']";
    let found = declared(other);
    let agents: Vec<_> = found
        .iter()
        .map(|(level, agent, key, _)| (level.as_str(), agent.as_str(), key.as_str()))
        .collect();
    assert_eq!(agents, [("error", "b", "image"), ("error", "c", "image")]);
    assert!(found[0].3.contains("localhost/gone:1"), "{found:?}");
    // One that cannot be used is told once.
    fake_podman(&env, "nonsense");
    let found = declared(other);
    let [(level, agent, key, message)] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(
        (level.as_str(), agent.as_str(), key.as_str()),
        ("error", "", "daemon.podman")
    );
    assert!(message.contains("cannot be used"), "{message}");
}

// ---- a file that cannot be used

#[test]
fn clients_go_on_without_a_configuration_that_cannot_be_used() {
    let env = TestEnvironment::new();
    let path = env.write(".agentd/agentd.toml", &agent(""));
    let mut daemon = env.daemon();
    let ready = daemon.wait_log("ready");
    assert!(ready.contains(path.to_str().unwrap()), "{ready}");
    let broken = agent("tiemout = '1h'\nnonsense = 1");
    env.write(".agentd/agentd.toml", &broken);
    assert_eq!(env.json(&["health"])["status"], "ok");
    let said = env.run(&["health"]);
    assert!(said.status.success(), "{}", shown(&said));
    let warning = String::from_utf8(said.stderr).unwrap();
    assert!(
        warning.contains(&format!("{}:5:1", path.display()))
            && warning.contains("tiemout")
            && warning.contains("and 1 more"),
        "{warning}"
    );
    env.ok(&["task", "list"]);
    // What runs goes on as it was; by request and by signal.
    let refused = env.run(&["reload"]);
    let text = shown(&refused);
    assert!(!refused.status.success(), "{text}");
    assert!(
        text.contains("tiemout") && text.contains("nothing was changed"),
        "{text}"
    );
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    let line = daemon.wait_log("stays as it was");
    assert!(line.contains("tiemout"), "{line}");
    let agents = env.json(&["agents"]);
    assert_eq!(agents["agents"][0]["name"], "a", "{agents}");
    // What needs more than the socket refuses.
    for args in [&["check"][..], &["daemon"], &["worker"], &["db", "check"]] {
        let said = env.run(args);
        assert_eq!(said.status.code(), Some(78), "{args:?}: {}", shown(&said));
    }
    daemon.stop();
    let said = env.fails(78, &["run", "a"]);
    assert!(said.contains("tiemout"), "{said}");
    assert!(!env.socket().exists());
}

#[test]
fn a_configuration_that_cannot_be_used_still_names_the_socket() {
    let env = TestEnvironment::new();
    let named = env.write(
        "elsewhere/a.toml",
        "[daemon]\nsocket = 's.sock'\nmax_sessions = 'many'\n",
    );
    let there = env.path("elsewhere/s.sock");
    let daemon = env.daemon_with(&["--socket", there.to_str().unwrap()]);
    let args = ["--config", named.to_str().unwrap(), "--json", "health"];
    assert!(env.ok(&args).contains("\"ok\""));
    // Somebody else could send clients anywhere: nothing of it is believed.
    fs::set_permissions(&named, fs::Permissions::from_mode(0o606)).unwrap();
    let said = env.fails(69, &args);
    assert!(said.contains(env.socket().to_str().unwrap()), "{said}");
    // One that is not even TOML.
    fs::set_permissions(&named, fs::Permissions::from_mode(0o600)).unwrap();
    env.write("elsewhere/a.toml", "[daemon\n");
    env.fails(69, &args);
    env.ok(&[&["--socket", there.to_str().unwrap()], &args[..]].concat());
    daemon.stop();
}

#[test]
fn init_declares_no_agent_where_agents_could_not_run() {
    if !nix::unistd::geteuid().is_root() {
        // An ordinary user's agents are that user.
        return;
    }
    let env = TestEnvironment::new();
    fs::set_permissions(env.home(), fs::Permissions::from_mode(0o700)).unwrap();
    let output = env.run(&["init"]);
    assert!(output.status.success(), "{}", shown(&output));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("chmod a+x"),
        "{}",
        shown(&output)
    );
    let report = check(&env, &[]);
    assert_eq!((&report["agents"], &report["problems"]), (&json!([]), &json!([])));
    // And when one is declared all the same, it is said.
    env.write(".agentd/agentd.toml", &agent(""));
    let found = problems(&check(&env, &[]));
    assert!(found[0].3.contains("may not walk through"), "{found:?}");
}

// ---- doctor

#[test]
fn doctor_says_what_there_is_and_what_mends_it() {
    let mut env = TestEnvironment::new();
    // Podman makes its storage where it is told to, and mounts nothing.
    let [root, runroot] = ["p/root", "p/run"].map(|name| env.path(name));
    let podman = [
        "podman",
        "--root",
        root.to_str().unwrap(),
        "--runroot",
        runroot.to_str().unwrap(),
        "--storage-driver",
        "vfs",
    ];
    let config = env.write("elsewhere.toml", &format!("[daemon]\npodman = {podman:?}\n"));
    env.set("AGENTD_CONFIG", &config);
    let report = env.json(&["doctor"]);
    assert_eq!(report["can_run"]["process"], true);
    let findings = report["findings"].as_array().unwrap();
    let of = |what: &str| {
        let found = findings.iter().find(|finding| finding["what"] == what);
        found.unwrap_or_else(|| panic!("nothing about {what}: {report}"))
    };
    for what in [
        "podman",
        "OCI runtime",
        "gVisor",
        "conmon",
        "limits",
        "git",
        "disk",
        "secrets",
    ] {
        let state = of(what)["state"].as_str().unwrap();
        assert!(["ok", "degraded", "missing"].contains(&state), "{report}");
    }
    // It was tried, and says what Podman says.
    let container = of("container");
    let said = container["detail"].as_str().unwrap();
    match container["state"].as_str().unwrap() {
        "ok" => assert!(said.contains("is gone"), "{container}"),
        _ => assert!(said.contains("Podman starts none: Error"), "{container}"),
    }
    assert_eq!(
        report["can_run"]["podman"],
        container["state"] == "ok",
        "{report}"
    );
    // The tests need it.
    assert_eq!(of("git")["state"], "ok");
    // It makes nothing of agentd's own.
    assert!(!env.state().exists());
    let text = env.ok(&["doctor"]);
    assert!(text.contains("sessions in podman: "), "{text}");
}

#[test]
fn doctor_on_a_machine_that_has_nothing() {
    let mut env = TestEnvironment::new();
    let programs = env.path("bin");
    fs::create_dir(&programs).unwrap();
    env.set("PATH", &programs);
    // Nothing is found there either, and what is broken is a finding.
    env.write(".agentd/agentd.toml", "[daemon]\npodman = ['no-such-podman']\n");
    let report = env.json(&["doctor"]);
    assert_eq!(
        report["can_run"],
        json!({ "podman": false, "gvisor": false, "process": true })
    );
    let podman = &report["findings"][0];
    assert_eq!(
        (&podman["what"], &podman["state"]),
        (&json!("podman"), &json!("missing"))
    );
    assert!(
        podman["mend"]
            .as_str()
            .unwrap()
            .contains("apt-get install podman"),
        "{podman}"
    );
    // One that answers nonsense, and one that says no.
    let path = env.write("bin/fake", "#!/bin/sh\necho nonsense\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    env.write(
        ".agentd/agentd.toml",
        "[daemon]\npodman = ['fake', '--root', '/x']\n",
    );
    assert_eq!(env.json(&["doctor"])["findings"][0]["state"], "degraded");
    env.write("bin/fake", "#!/bin/sh\necho \"$*\" >&2\nexit 3\n");
    let report = env.json(&["doctor"]);
    let detail = report["findings"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("--root /x info --format json"), "{detail}");
    env.write(".agentd/agentd.toml", "nonsense");
    let report = env.json(&["doctor"]);
    assert_eq!(report["findings"][0]["what"], "settings");
    assert_eq!(report["can_run"]["process"], true);
}
