//! Plugins without an agent: `agentd plugins`, `agentd plugin`, and what `agentd check` says of them.

use crate::support::{Running, TestEnvironment, pipe, read_pipe, shown};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

/// A server that writes its lines itself, in the revision that its argument names.
const SERVER: &str = r#"
import itertools, json, os, sys

modern = sys.argv[1] != "legacy"
# One that is slow to start finds two lines when it begins to read.
backlog = [sys.stdin.readline(), sys.stdin.readline()] if sys.argv[1] == "late" else []
NAMES = ["echo", "note_write", "count", "fails", "silent", "die", "picture"]
TOOLS = [
    {"name": name, "description": f"Does {name}. More of it.\nA second line.", "inputSchema": {"type": "object"}}
    for name in NAMES
]
ALL = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if modern else {}


def text(words, error=False):
    return ALL | {"content": [{"type": "text", "text": words}], "isError": error}


def call(name, arguments):
    if name == "echo" and "times" in arguments:
        return text("x" * arguments["times"])
    if name == "echo":
        return text(arguments.get("text", "nothing"))
    if name == "fails":
        print("the log says", os.environ.get("TOKEN"), file=sys.stderr, flush=True)
        return text("there is no such thing", True)
    if name == "die":
        print("my last words,", os.environ.get("TOKEN"), file=sys.stderr, flush=True)
        os._exit(3)
    if name == "picture":
        return ALL | {"content": [{"type": "image", "mimeType": "image/png", "data": "AAAA"}]}
    return None


for line in itertools.chain(backlog, sys.stdin):
    message = json.loads(line)
    method = message["method"]
    if "id" not in message:
        continue
    answer = {"error": {"code": -32601, "message": "no such method"}}
    if method == "server/discover" and modern:
        answer = {"result": ALL | {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
                                   "serverInfo": {"name": "x", "version": "1"}}}
    elif method == "initialize" and not modern:
        answer = {"result": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                             "serverInfo": {"name": "x", "version": "1"}}}
    elif method == "tools/list":
        answer = {"result": ALL | {"tools": TOOLS}}
    elif method == "tools/call":
        params = message["params"]
        if params["name"] == "silent":
            continue
        answer = {"result": call(params["name"], params.get("arguments") or {})}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"]} | answer), flush=True)
"#;

const TOKEN: &str = "t0ken-0f-the-tests";
const BOTH: [(&str, &str); 2] = [("legacy", "2025-11-25"), ("modern", "2026-07-28")];

fn environment(config: &str) -> TestEnvironment {
    let env = TestEnvironment::new();
    env.write("server.py", SERVER);
    env.write(".agentd/agentd.toml", config);
    let token = env.write(".agentd/secrets/TOKEN", TOKEN);
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(token.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
    env
}

/// The server of these tests, with more lines.
fn server(env: &TestEnvironment, revision: &str, more: &str) {
    let script = env.path("server.py");
    let config =
        format!("[[plugins]]\nname = \"notes\"\ncommand = [\"python3\", {script:?}, {revision:?}]\n{more}\n");
    env.write(".agentd/agentd.toml", &config);
}

/// A plugin that is this shell script.
fn script(env: &TestEnvironment, text: &str) {
    let path = env.write("plugin.sh", text);
    let config =
        format!("[[plugins]]\nname = \"p\"\ncommand = [\"sh\", {path:?}]\ncredentials = [\"TOKEN\"]\n");
    env.write(".agentd/agentd.toml", &config);
}

// ---- what is declared

#[test]
fn plugins_are_listed_without_a_daemon_and_without_starting_any() {
    let env = environment("");
    assert!(shown(&env.run(&["plugins"])).contains("no plugin is declared"));
    env.write(
        ".agentd/agentd.toml",
        "[[plugins]]\nname = 'forge'\ncommand = ['forgejo-mcp', '--read-only']\ncredentials = ['TOKEN']\n\
         env = { A = 'secret-ish' }\ntools = { allow = ['issue_*'], deny = ['*_write'] }\n\
         [[plugins]]\nname = 'far'\nurl = 'https://mcp.example/mcp'\ntoken = 'FAR_TOKEN'\n\
         [[agents]]\nname = 'a'\nruntime = 'process'\ncommand = ['true']\nplugins = ['forge']\n",
    );
    let table = env.ok(&["plugins"]);
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        lines,
        [
            "plugin from tools credentials agents",
            "forge forgejo-mcp --read-only issue_*; not *_write TOKEN a",
            "far https://mcp.example/mcp all FAR_TOKEN none",
        ]
    );
    let listed = env.json(&["plugins"]);
    let forge = &listed["plugins"][0];
    assert_eq!(forge["tools"], json!({"allow": ["issue_*"], "deny": ["*_write"]}));
    assert_eq!(forge["agents"], json!(["a"]));
    assert_eq!(forge["env"], json!(["A"]));
    assert_eq!(listed["plugins"][1]["credentials"], json!(["FAR_TOKEN"]));
    assert!(!listed.to_string().contains("secret-ish"));
}

// ---- a plugin that works

#[test]
fn tools_are_listed_as_agents_see_them() {
    let env = environment("");
    for (lifecycle, revision) in BOTH {
        server(
            &env,
            lifecycle,
            "tools = { allow = [\"*e*\", \"silent\"], deny = [\"*_write\"] }",
        );
        let output = env.run(&["plugin", "tools", "notes"]);
        assert!(output.status.success(), "{}", shown(&output));
        let table = String::from_utf8(output.stdout.clone()).unwrap();
        let names: Vec<&str> = table
            .lines()
            .skip(1)
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        // In the plugin's own order.
        let seen = ["notes__echo", "notes__silent", "notes__die", "notes__picture"];
        assert_eq!(names, seen);
        assert!(
            table.contains("Does echo.") && !table.contains("More of it"),
            "{table}"
        );
        let said = shown(&output);
        assert!(said.contains("notes: 4 tools in "), "{said}");
        assert!(
            said.contains("3 hidden by its patterns (--all shows them)"),
            "{said}"
        );
        assert!(said.contains(&format!("it speaks MCP {revision}")), "{said}");

        let all = env.ok(&["plugin", "tools", "notes", "--all"]);
        let hidden = |name: &str| all.lines().find(|line| line.contains(name)).unwrap().to_owned();
        assert!(
            hidden("notes__note_write").contains("denied by \"*_write\""),
            "{all}"
        );
        assert!(hidden("notes__count").contains("fits nothing in allow"), "{all}");

        let listed = env.json(&["plugin", "tools", "notes", "--all"]);
        assert_eq!(listed["revision"], revision);
        let tools = listed["tools"].as_array().unwrap();
        assert_eq!((tools.len(), listed["hidden"].as_u64()), (7, Some(3)));
        let bytes = |tool: &Value| serde_json::to_string(&tool["definition"]).unwrap().len();
        assert_eq!(tools[0]["bytes"], bytes(&tools[0]));
        assert_eq!(tools[0]["definition"]["name"], "notes__echo");
        assert_eq!(tools[0]["definition"]["inputSchema"]["type"], "object");
        let of_seen: usize = tools
            .iter()
            .filter(|tool| tool["hidden"].is_null())
            .map(bytes)
            .sum();
        assert_eq!(listed["bytes"], of_seen);
    }
}

#[test]
fn a_plugin_of_the_newer_revision_may_be_slow_to_start() {
    let env = environment("");
    server(&env, "late", "");
    let listed = env.json(&["plugin", "tools", "notes"]);
    assert_eq!(listed["revision"], "2026-07-28");
    assert_eq!(env.ok(&["plugin", "call", "notes", "echo"]), "nothing\n");
}

#[test]
fn a_tool_is_called() {
    let env = environment("");
    for (lifecycle, _) in BOTH {
        server(&env, lifecycle, "");
        let call = |args: &[&str]| env.ok(&[&["plugin", "call", "notes"], args].concat());
        assert_eq!(call(&["echo", r#"{"text": "a\nword"}"#]), "a\nword\n");
        assert_eq!(call(&["notes__echo"]), "nothing\n");
        assert!(call(&["picture"]).contains("[image/png, 4 bytes of base64"));
        let piped = env.run_with_input(&["plugin", "call", "notes", "echo", "-"], r#"{"text": "piped"}"#);
        assert_eq!(String::from_utf8(piped.stdout).unwrap(), "piped\n");
        let document = env.json(&["plugin", "call", "notes", "echo", r#"{"text": "x"}"#]);
        assert_eq!(document["content"], json!([{"type": "text", "text": "x"}]));

        let failed = env.run(&["plugin", "call", "notes", "fails"]);
        assert_eq!(failed.status.code(), Some(1), "{}", shown(&failed));
        assert_eq!(
            String::from_utf8(failed.stdout).unwrap(),
            "there is no such thing\n"
        );
        assert_eq!(failed.stderr, b"");
    }
}

#[test]
fn what_a_plugin_is_started_with() {
    let mut env = environment("");
    env.set("IN_THE_CALLERS_ENVIRONMENT", "1");
    // What the shell was started with: what Python finds may be another program's additions.
    let (seen, server) = (env.path("seen"), env.path("server.py"));
    let path = env.write(
        "plugin.sh",
        &format!("{{ tr '\\0' '\\n' < /proc/$$/environ; ls -A; id -u; }} > {seen:?}\nexec python3 {server:?} legacy\n"),
    );
    let config = format!(
        "[[plugins]]\nname = \"notes\"\ncommand = [\"sh\", {path:?}]\nenv = {{ MODE = \"quick\" }}\n\
         credentials = [\"TOKEN\", {{ name = \"TOKEN2\", env = \"OTHER\" }}]\n"
    );
    env.write(".agentd/agentd.toml", &config);
    let second = env.write(".agentd/secrets/TOKEN2", "another-t0ken\n");
    fs::set_permissions(&second, fs::Permissions::from_mode(0o600)).unwrap();
    env.ok(&["plugin", "call", "notes", "echo"]);
    let text = fs::read_to_string(&seen).unwrap();
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("PATH=")).collect();
    assert_eq!(lines.len() + 1, text.lines().count(), "one PATH");
    lines.sort_unstable();
    let uid = nix::unistd::getuid().to_string();
    let home = format!("HOME={}", env.state().join("plugins/notes").display());
    // Of files in its directory there is none.
    let mut expected = [
        home.as_str(),
        "MODE=quick",
        "OTHER=another-t0ken",
        &format!("TOKEN={TOKEN}"),
        uid.as_str(),
    ];
    expected.sort_unstable();
    assert_eq!(lines, expected);
    // Its log is there to be seen, but not its secrets.
    let logged = env.run(&["plugin", "call", "notes", "fails", "--log"]);
    let said = shown(&logged);
    assert!(
        said.contains("notes: the log says [redacted]") && !said.contains(TOKEN),
        "{said}"
    );
}

#[test]
fn a_plugin_may_have_any_home_and_any_path() {
    let env = environment("");
    script(&env, "env >&2; exit 1");
    let path = format!("/nowhere:{}", std::env::var("PATH").unwrap());
    let own = [
        ("HOME", "/a/home"),
        ("XDG_CACHE_HOME", "/a/cache"),
        ("USER", "somebody"),
        ("LD_LIBRARY_PATH", "/a/lib"),
        ("PATH", &path),
    ];
    let table: Vec<String> = own
        .iter()
        .map(|(name, value)| format!("{name} = {value:?}"))
        .collect();
    let file = env.path(".agentd/agentd.toml");
    let config = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{config}env = {{ {} }}\n", table.join(", "))).unwrap();
    let said = env.fails(1, &["plugin", "tools", "p", "--log"]);
    for (name, value) in own {
        assert!(said.contains(&format!("{name}={value}")), "{name}: {said}");
    }
    assert!(!env.state().join("plugins/p").exists());
    // By this one its processes are found.
    fs::write(&file, format!("{config}env = {{ AGENTD_SESSION_ID = 'x' }}\n")).unwrap();
    let said = env.fails(78, &["plugin", "tools", "p"]);
    assert!(
        said.contains("AGENTD_SESSION_ID is set by agentd itself (as is what begins with AGENTD_)"),
        "{said}"
    );
}

#[test]
fn a_large_answer_is_printed_whole() {
    let env = environment("");
    server(&env, "modern", "max_output = \"1KiB\"");
    let output = env.run(&["plugin", "call", "notes", "echo", "{\"times\": 700000}"]);
    assert!(output.status.success());
    assert_eq!(output.stdout.len(), 700_001);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("an agent gets the first 1024 of them"), "{said}");
    // There is an end to it.
    let said = env.fails(1, &["plugin", "call", "notes", "echo", "{\"times\": 17000000}"]);
    assert!(said.contains("a message of 17000"), "{said}");
}

#[test]
fn calls_that_cannot_be() {
    let env = environment("");
    server(
        &env,
        "legacy",
        "tools = { deny = [\"*_write\"] }\ncredentials = [\"TOKEN\"]",
    );
    for (code, args, words) in [
        (1, &["note", "echo"][..], "no plugin \"note\" is declared"),
        (1, &["note", "echo"], "did you mean \"notes\"?"),
        (
            1,
            &["notes", "ehco"],
            "has no tool \"ehco\"; did you mean \"echo\"?",
        ),
        (
            1,
            &["notes", "note_write"],
            "hidden by plugins.notes.tools (denied by \"*_write\")",
        ),
        (65, &["notes", "echo", "[1]"], "arguments are a JSON object"),
        (65, &["notes", "echo", "{"], "is not JSON"),
        (64, &["notes"], "TOOL"),
    ] {
        let said = env.fails(code, &[&["plugin", "call"], args].concat());
        assert!(said.contains(words), "{args:?}: {said}");
    }
    let late = env.fails(124, &["plugin", "call", "notes", "silent", "--timeout", "3s"]);
    assert!(late.contains("did not answer within 3 seconds"), "{late}");
    assert!(late.contains("--timeout gives it longer"), "{late}");
    let died = env.fails(1, &["plugin", "call", "notes", "die"]);
    assert!(died.contains("exit status 3"), "{died}");
    assert!(
        died.contains("my last words, [redacted]") && !died.contains(TOKEN),
        "{died}"
    );
}

// ---- plugins that cannot be used

#[test]
fn a_plugin_that_cannot_be_started_says_why() {
    let env = environment("");
    let plain = env.write("plain", "no program");
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    let tools = |more: &str| {
        env.write(
            ".agentd/agentd.toml",
            &format!("[[plugins]]\nname = \"p\"\n{more}\n"),
        );
        env.fails(78, &["plugin", "tools", "p"])
    };
    let said = tools("command = [\"no-such-mcp\"]");
    assert!(said.contains("there is no program no-such-mcp in PATH"), "{said}");
    let said = tools(&format!("command = [{plain:?}]"));
    assert!(said.contains("is not executable; `chmod a+rx"), "{said}");
    let said = tools("command = [\"true\"]\nworkdir = \"/no/such/dir\"");
    assert!(said.contains("its workdir /no/such/dir"), "{said}");
    let said = tools("command = [\"true\"]\ncredentials = [\"ABSENT\"]");
    assert!(
        said.contains("there is no secret ABSENT") && said.contains("Make it with"),
        "{said}"
    );
    let unusable = env.fails(78, &["--config", "none.toml", "plugins"]);
    assert!(unusable.contains("none.toml"), "{unusable}");
}

#[test]
fn a_plugin_that_dies_at_its_start_is_quoted() {
    let env = environment("");
    script(
        &env,
        "echo 'reading the settings' >&2\necho \"no forge at $TOKEN\" >&2\nexit 3\n",
    );
    let said = env.fails(1, &["plugin", "tools", "p"]);
    for words in [
        "exit status 3",
        "reading the settings",
        "no forge at [redacted]",
        "hint: it ran `sh ",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains(TOKEN), "{said}");
    assert_eq!(said.matches("reading the settings").count(), 1, "{said}");
    // A signal, and nothing said at all.
    script(&env, "kill -KILL $$\n");
    let said = env.fails(1, &["plugin", "tools", "p"]);
    assert!(said.contains("SIGKILL"), "{said}");
}

#[test]
fn a_plugin_that_says_nothing_is_not_waited_for_for_ever() {
    let env = environment("");
    script(&env, "while read -r line; do :; done\n");
    let said = env.fails(124, &["plugin", "tools", "p", "--timeout", "500ms"]);
    assert!(said.contains("was not ready within 0.5 seconds"), "{said}");
    let said = env.fails(124, &["plugin", "call", "p", "any", "--timeout", "1s"]);
    assert!(
        said.contains("was not ready within 1 second") && !said.contains("1 seconds"),
        "{said}"
    );
    assert!(
        said.contains("hint: it says nothing on its standard output"),
        "{said}"
    );
    script(&env, "exec >&-\nexec cat > /dev/null\n");
    let said = env.fails(1, &["plugin", "tools", "p", "--timeout", "1h"]);
    assert!(said.contains("has closed its standard output"), "{said}");
}

#[test]
fn what_is_no_server_at_all_is_told_from_one() {
    let env = environment("");
    script(
        &env,
        "while read -r line; do printf 'Welcome to \\033[2Jthe shell!\\n'; done\n",
    );
    let said = env.fails(1, &["plugin", "tools", "p", "--timeout", "1s"]);
    assert!(said.contains("Welcome to ") && !said.contains('\u{1b}'), "{said}");
    assert!(said.contains("nothing but messages of MCP"), "{said}");
    let json: Value =
        serde_json::from_str(&env.fails(1, &["--json", "plugin", "tools", "p", "--timeout", "1s"])).unwrap();
    assert_eq!(json["error"]["exit_code"], 1);
}

// ---- nothing is left

/// Ends when nobody holds the pipe any more.
fn all_gone(path: &Path) -> thread::JoinHandle<String> {
    let path = path.to_owned();
    thread::spawn(move || read_pipe(&path))
}

/// A plugin that never answers but to the probe, with processes below it that do not care for signals or for who started them. Each holds
/// the pipe `alive` for as long as it lives.
fn stubborn(env: &TestEnvironment) -> (Running, i32, thread::JoinHandle<String>) {
    for name in ["alive", "ready"] {
        let _ = fs::remove_file(env.path(name));
        pipe(&env.path(name));
    }
    let (alive, ready) = (env.path("alive"), env.path("ready"));
    script(
        env,
        &format!(
            "trap '' TERM INT HUP\nexec 3> {alive:?}\nsetsid sleep 1000 &\nsleep 1000 &\n(sleep 1000 &)\n\
             read -r probe\n\
             echo '{{\"jsonrpc\": \"2.0\", \"id\": 1, \"error\": {{\"code\": -32601, \"message\": \"no\"}}}}'\n\
             read -r initialize\necho $PPID > {ready:?}\nwhile :; do sleep 1000; done\n"
        ),
    );
    let gone = all_gone(&alive);
    let running = env.spawn(&["plugin", "tools", "p", "--timeout", "1h"]);
    let guard = read_pipe(&ready).trim().parse().unwrap();
    (running, guard, gone)
}

#[test]
fn no_process_is_left_behind_whatever_ends_the_command() {
    let env = environment("");
    let (running, _, gone) = stubborn(&env);
    running.signal(Signal::SIGINT);
    let output = running.output();
    assert_eq!(output.status.code(), Some(130), "{}", shown(&output));
    gone.join().unwrap();

    let (mut running, _, gone) = stubborn(&env);
    running.kill_9();
    gone.join().unwrap();

    // What stands between the two is killed, which takes the plugin with it.
    let (running, guard, gone) = stubborn(&env);
    kill(Pid::from_raw(guard), Signal::SIGKILL).unwrap();
    let output = running.output();
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    assert!(shown(&output).contains("it was killed"), "{}", shown(&output));
    gone.join().unwrap();
}

#[test]
fn what_a_plugin_that_works_leaves_running_ends_with_it() {
    let env = environment("");
    pipe(&env.path("alive"));
    let (alive, server) = (env.path("alive"), env.path("server.py"));
    script(
        &env,
        &format!("exec 3> {alive:?}\nsetsid sleep 1000 &\nsleep 1000 &\nexec python3 {server:?} modern\n"),
    );
    let gone = all_gone(&alive);
    assert_eq!(env.ok(&["plugin", "call", "p", "echo"]), "nothing\n");
    gone.join().unwrap();
}

// ---- `agentd check`

#[test]
fn check_looks_at_plugins() {
    let env = environment("");
    let check = |config: &str, ok: bool| -> Vec<(String, String, String)> {
        env.write(".agentd/agentd.toml", config);
        let output = env.run(&["--json", "check"]);
        assert_eq!(
            output.status.code(),
            Some(if ok { 0 } else { 78 }),
            "{}",
            shown(&output)
        );
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let problems = report["problems"].as_array().unwrap().iter();
        problems
            .map(|problem| {
                let agent = text(&problem["agent"]);
                let key = text(&problem["key"]);
                let about = if agent.is_empty() {
                    key
                } else {
                    format!("{agent}.{key}")
                };
                (text(&problem["level"]), about, text(&problem["message"]))
            })
            .collect()
    };
    let good = "[[plugins]]\nname = 'sound'\ncommand = ['sh']\ncredentials = ['TOKEN']\nworkdir = '/'\n\
                [[plugins]]\nname = 'far'\nurl = 'https://mcp.example/mcp'\ntoken = 'TOKEN'\n\
                [[agents]]\nname = 'a'\nruntime = 'process'\ncommand = ['true']\nplugins = ['sound', 'far']\n\
                tools = { allow = ['sound__*', 'agentd__*', '*_read'], deny = ['far__write'] }\n";
    assert_eq!(check(good, true), []);

    let bad = "[[plugins]]\nname = 'p1'\ncommand = ['no-such-mcp']\ncredentials = ['ABSENT']\n\
               [[plugins]]\nname = 'p2'\ncommand = ['sh']\nworkdir = '/no/such'\n\
               [[plugins]]\nname = 'p3'\nurl = 'http://mcp.example/mcp'\ntoken = 'ABSENT'\n\
               [[plugins]]\nname = 'p4'\ncommand = ['./server']\n";
    let found = check(bad, false);
    for (level, about, words) in [
        ("error", "plugins.p1.command", "there is no program no-such-mcp"),
        ("error", "plugins.p1.credentials", "there is no secret ABSENT"),
        (
            "error",
            "plugins.p2.workdir",
            "/no/such is no directory that can be used",
        ),
        ("error", "plugins.p3.token", "there is no secret ABSENT"),
        ("warning", "plugins.p3.url", "in the clear"),
        ("error", "plugins.p4.command", "relative path"),
    ] {
        let is_it = |(l, a, m): &(String, String, String)| l == level && a == about && m.contains(words);
        assert!(found.iter().any(is_it), "{about}: {found:?}");
    }
    assert_eq!(found.len(), 6, "{found:?}");

    let odd = "[[plugins]]\nname = 'forge'\ncommand = ['sh']\ntools = { allow = ['forge__issue_*'] }\n\
               [[plugins]]\nname = 'notes'\ncommand = ['sh']\n\
               [[agents]]\nname = 'a'\nruntime = 'process'\ncommand = ['true']\nplugins = ['forge']\n\
               tools = { allow = ['issue_read', 'forge__*'], deny = ['notes__*'] }\n";
    let found = check(odd, true);
    for (about, words) in [
        (
            "plugins.forge.tools",
            "patterns are on its own names: \"issue_*\"",
        ),
        (
            "a.tools",
            "allow: \"issue_read\" can fit no tool that the agent has, so it allows nothing; agents see a tool as",
        ),
        (
            "a.tools",
            "deny: \"notes__*\" can fit no tool that the agent has, so it forbids nothing; it fits those of \"notes\"",
        ),
    ] {
        assert!(
            found
                .iter()
                .any(|(l, a, m)| l == "warning" && a == about && m.contains(words)),
            "{about}: {found:?}"
        );
    }
    assert_eq!(found.len(), 3, "{found:?}");
}
