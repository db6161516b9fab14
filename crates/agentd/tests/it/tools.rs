//! Tools in sessions: plugins behind the session's gateway, and agentd itself, called by agents that are shell scripts.

use crate::sessions::{id_of, show};
use crate::support::{Daemon, TestEnvironment, code, shown, wait_gone};
use crate::tools_support::{CLIENT, SECRET, plugin};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

fn agent(name: &str, script: &str, more: &str) -> String {
    let script = json!(format!("{CLIENT}{script}"));
    format!(
        "[[agents]]\nname = \"{name}\"\nruntime = \"process\"\nharness = \"custom\"\nprompt = \"p\"\n\
         command = [\"sh\", \"-c\", {script}, \"agent\"]\n{more}\n\n"
    )
}

const HAS: &str = "plugins = [\"t\"]\n";

fn secret(env: &TestEnvironment) {
    let path = env.write(".agentd/secrets/TOKEN", SECRET);
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn with(agents: &[String]) -> (TestEnvironment, Daemon) {
    let env = TestEnvironment::new();
    secret(&env);
    let plugin = plugin(&env.path("plugin"), "");
    env.write(".agentd/agentd.toml", &format!("{plugin}{}", agents.concat()));
    let daemon = env.daemon();
    (env, daemon)
}

fn dir(env: &TestEnvironment, session: &str) -> PathBuf {
    env.state().join("sessions").join(session)
}

#[track_caller]
fn only(env: &TestEnvironment) -> String {
    let all = env.json(&["sessions"]);
    all["sessions"][0]["id"].as_str().unwrap().to_owned()
}

/// The payloads of the journal's entries of a kind.
#[track_caller]
fn journal(env: &TestEnvironment, action: &str) -> Vec<Value> {
    let mut wire = env.connect();
    let page = wire.call("ReadJournal", json!({ "action_types": [action] }));
    let entries = page["entries"].as_array().unwrap().clone();
    entries
        .into_iter()
        .map(|mut entry| entry["payload"].take())
        .collect()
}

/// The plugin's process.
#[track_caller]
fn plugin_pid(env: &TestEnvironment, session: &str) -> i32 {
    let text = fs::read_to_string(dir(env, session).join("tools/plugins/t/pid")).unwrap();
    text.trim().parse().unwrap()
}

/// What makes a plugin leave a process behind that has nothing of it: no parent, no session, no environment. Its number is in
/// this file.
fn leaving(file: &str) -> String {
    format!(
        "(setsid env -i \"$(command -v sh)\" -c 'echo $$ >{file}; exec sleep 1000' >/dev/null 2>&1 </dev/null &) ; \
         until [ -s {file} ]; do sleep 0.01; done"
    )
}

#[test]
fn an_agent_calls_tools_and_each_call_is_in_the_journal() {
    let script = "ask tools/list '{}'; tool t__say '{\"with\":\"open-sesame-1234\"}'; tool t__hidden '{}'; \
                  tool agentd__whoami '{}'; env | grep -c TOKEN";
    let (env, daemon) = with(&[agent("a", script, HAS)]);
    let output = env.run(&["run", "a"]);
    assert!(output.status.success(), "{}", shown(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    let tools: Value = serde_json::from_str(lines[0]).unwrap();
    let tools = tools["result"]["tools"].as_array().unwrap();
    let names: Vec<&str> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names[..3], ["t__say", "t__wait", "t__die"]);
    assert!(
        names.contains(&"agentd__whoami") && !names.contains(&"t__hidden"),
        "{names:?}"
    );
    // The plugin has it, the agent does not, and what the agent says of it is not shown.
    let home = env.state().join("plugins/t");
    let told = format!("the token is [redacted], home is <{}>", home.display());
    assert!(lines[1].contains(&told), "{said}");
    assert_eq!(fs::metadata(&home).unwrap().permissions().mode() & 0o7777, 0o700);
    assert!(!said.contains(SECRET), "{said}");
    assert!(
        lines[2].contains("\"error\"") || lines[2].contains("isError"),
        "{said}"
    );
    assert!(
        lines[3].contains("\"owner\\\":\\\"a\\\"") || lines[3].contains("\"owner\":\"a\""),
        "{said}"
    );
    // Its own: that of the gateway.
    assert_eq!(lines[4], "1");
    let calls = journal(&env, "SESSION_TOOL_CALL");
    let told: Vec<(&str, &str, &str)> = calls
        .iter()
        .map(|call| {
            let text = |key: &str| call[key].as_str().unwrap();
            (text("plugin"), text("tool"), text("outcome"))
        })
        .collect();
    assert_eq!(told[0], ("t", "say", "ok"));
    assert_eq!(told[1], ("t", "hidden", "denied"));
    assert_eq!(told[2], ("agentd", "whoami", "ok"));
    assert_eq!(calls[0]["arguments"], "{\"with\":\"[redacted]\"}");
    assert_eq!(calls[2]["seq"], 3);
    let session = only(&env);
    assert!(!dir(&env, &session).join("tools").exists());
    daemon.stop();
}

#[test]
fn a_client_finds_its_tools_by_a_configuration_of_the_usual_form() {
    // A client that starts its servers with what its configuration says, and with nothing else.
    let client = r#"
import json, os, subprocess
config = os.environ["AGENTD_MCP_CONFIG"]
print("mode %o" % (os.stat(config).st_mode & 0o7777))
[(name, server)] = json.load(open(config))["mcpServers"].items()
hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25",
         "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}}
tools = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
done = subprocess.Popen([server["command"], *server["args"]], env=server["env"], text=True,
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
for message in hello, tools:
    print(json.dumps(message), file=done.stdin, flush=True)
    answer = done.stdout.readline()
print(name, "t__say" in answer, os.environ["AGENTD_MCP_TOKEN"] in open(config).read())
"#;
    let (env, daemon) = with(&[]);
    let script = env.write("client.py", client);
    let declared = fs::read_to_string(env.path(".agentd/agentd.toml")).unwrap();
    let agent = format!(
        "[[agents]]\nname = \"a\"\nruntime = \"process\"\ncommand = [\"python3\", {script:?}]\nprompt = \"p\"\n{HAS}"
    );
    env.write(".agentd/agentd.toml", &format!("{declared}{agent}"));
    env.ok(&["reload"]);
    let said = env.ok(&["run", "a"]);
    assert_eq!(said, "mode 600\nagentd True False\n");
    daemon.stop();
}

#[test]
fn a_plugin_that_does_not_start_fails_the_set_up() {
    let (env, daemon) = with(&[agent("a", "echo never", HAS)]);
    env.write("plugin.start", "echo \"no server at $TOKEN\" >&2; exit 3");
    let output = env.run(&["run", "a"]);
    let said = shown(&output);
    assert_eq!(code(output.status), 125, "{said}");
    let outcome = show(&env, &only(&env))["outcome"].take();
    assert_eq!(outcome["reason"], "setup_failed");
    let message = outcome["message"].as_str().unwrap();
    assert!(
        message.starts_with("start: plugins: t: ") && message.contains("(exit status 3)"),
        "{message}"
    );
    assert!(message.contains("no server at [redacted]"), "{message}");
    daemon.stop();
}

#[test]
fn a_plugin_that_dies_is_started_again() {
    let (env, daemon) = with(&[agent("a", "tool t__die '{}'; tool t__say '{}'", HAS)]);
    let output = env.run(&["run", "a"]);
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0].contains("exit status 3") && lines[0].contains("last words"),
        "{said}"
    );
    assert!(lines[1].contains("the token is"), "{said}");
    let warnings = journal(&env, "SESSION_WARNING");
    let warned = warnings.iter().any(|warning| {
        let message = warning["message"].as_str().unwrap();
        message.contains("(exit status 3)") && message.contains("started again in 200 ms")
    });
    assert!(warned, "{warnings:?}");
    assert_eq!(journal(&env, "SESSION_TOOL_CALL")[0]["outcome"], "plugin_failed");
    daemon.stop();
}

#[test]
fn a_call_is_answered_whatever_becomes_of_agentd() {
    let (env, daemon) = with(&[agent("a", "echo begun; tool t__wait '{}'; tool t__say '{}'", HAS)]);
    let mut running = env.spawn(&["--json", "run", "a"]);
    let id = id_of(&mut running);
    running.wait_stdout("begun");
    daemon.kill_9();
    fs::write(dir(&env, &id).join("tools/plugins/t/go"), "").unwrap();
    let daemon = env.daemon();
    let said = env.ok(&["sessions", "logs", "-f", &id]);
    assert!(
        said.contains("waited") && said.contains("the token is [redacted]"),
        "{said}"
    );
    // It is over when that is in the journal.
    env.json(&["sessions", "stop", &id]);
    let calls = journal(&env, "SESSION_TOOL_CALL");
    let seqs: Vec<u64> = calls.iter().map(|call| call["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [1, 2]);
    daemon.stop();
}

#[test]
fn no_plugin_outlives_a_supervisor_that_is_killed() {
    let (env, daemon) = with(&[agent("a", "echo begun; tool t__wait '{}'", HAS)]);
    env.write("plugin.start", &leaving("left"));
    let mut running = env.spawn(&["--json", "run", "a"]);
    let id = id_of(&mut running);
    running.wait_stdout("begun");
    let plugin = plugin_pid(&env, &id);
    let left = fs::read_to_string(dir(&env, &id).join("tools/plugins/t/left")).unwrap();
    kill(Pid::from_raw(supervisor(&id)), Signal::SIGKILL).unwrap();
    running.output();
    assert_eq!(show(&env, &id)["outcome"]["reason"], "lost");
    wait_gone(plugin);
    wait_gone(left.trim().parse().unwrap());
    assert!(!dir(&env, &id).join("tools").exists());
    daemon.stop();
}

#[test]
fn what_a_plugin_leaves_ends_with_its_session() {
    let (env, daemon) = with(&[agent("a", "true", HAS)]);
    let left = env.path("left");
    env.write("plugin.start", &leaving(left.to_str().unwrap()));
    env.run(&["run", "a"]);
    wait_gone(fs::read_to_string(&left).unwrap().trim().parse().unwrap());
    daemon.stop();
}

#[test]
fn what_a_dead_plugin_leaves_ends_with_it() {
    let (env, daemon) = with(&[agent("a", "echo begun; tool t__die '{}'; tool t__wait '{}'", HAS)]);
    let left = env.path("left");
    let first = format!(
        "[ -e {0} ] || {{ {1}; }}",
        left.display(),
        leaving(left.to_str().unwrap())
    );
    env.write("plugin.start", &first);
    let mut running = env.spawn(&["--json", "run", "a"]);
    let id = id_of(&mut running);
    running.wait_stdout("last words");
    wait_gone(fs::read_to_string(&left).unwrap().trim().parse().unwrap());
    fs::write(dir(&env, &id).join("tools/plugins/t/go"), "").unwrap();
    running.output();
    daemon.stop();
}

#[test]
fn a_plugin_has_a_home_that_stays() {
    let (env, daemon) = with(&[agent("a", "true", HAS)]);
    env.write("plugin.start", "env >>\"$HOME/env\"");
    env.run(&["run", "a"]);
    env.run(&["run", "a"]);
    // The same from the command line.
    env.ok(&["plugin", "tools", "t"]);
    let home = env.state().join("plugins/t");
    let told = fs::read_to_string(home.join("env")).unwrap();
    let count = |begin: &str| told.lines().filter(|line| line.starts_with(begin)).count();
    assert_eq!(
        (count(&format!("HOME={}", home.display())), count("TOKEN=")),
        (3, 3)
    );
    assert_eq!(count("AGENTD_SESSION_ID="), 2);
    let names: std::collections::BTreeSet<&str> = told
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0))
        .collect();
    let own = ["AGENTD_SESSION_ID", "HOME", "PATH", "START_AS", "TOKEN"];
    // What a shell sets by itself.
    let others: Vec<_> = names
        .iter()
        .filter(|name| !own.contains(name) && !["PWD", "OLDPWD", "SHLVL", "_"].contains(name))
        .collect();
    assert!(others.is_empty(), "{others:?}");
    daemon.stop();
}

#[test]
fn a_plugin_runs_as_the_user_that_is_named() {
    let env = TestEnvironment::new();
    secret(&env);
    let declared = plugin(&env.path("plugin"), "user = \"nobody\"");
    let config = format!("{declared}{}", agent("a", "tool t__say '{}'", HAS));
    env.write(".agentd/agentd.toml", &config);
    // Only root can be another user.
    if !nix::unistd::geteuid().is_root() {
        let told = env.run(&["check"]);
        assert_eq!(code(told.status), 78);
        assert!(
            shown(&told).contains("only a daemon of root's"),
            "{}",
            shown(&told)
        );
        return;
    }
    let nobody = nix::unistd::User::from_name("nobody")
        .unwrap()
        .expect("a user nobody");
    env.write(
        "plugin.start",
        &format!(
            "{{ id -u; id -G; cat /proc/self/status; }} >\"$HOME/who\"; {}",
            leaving("left")
        ),
    );
    let daemon = env.daemon();
    fs::set_permissions(env.home(), fs::Permissions::from_mode(0o700)).unwrap();
    let refused = shown(&env.run(&["plugin", "tools", "t"]));
    assert!(refused.contains("cannot get to its home"), "{refused}");
    // What is printed opens the way there.
    let remedy = refused.split('`').nth(1).expect("a command");
    let opened = std::process::Command::new("sh").args(["-c", remedy]).status();
    assert!(opened.unwrap().success(), "{remedy}");
    let opened = shown(&env.run(&["plugin", "tools", "t"]));
    assert!(!opened.contains("cannot get to its home"), "{opened}");
    for path in [
        env.home().parent().unwrap().to_owned(),
        env.home(),
        env.path("plugin.start"),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let said = shown(&env.run(&["run", "a"]));
    assert!(said.contains("the token is [redacted]"), "{said}");
    let home = env.state().join("plugins/t");
    let who = fs::read_to_string(home.join("who")).unwrap();
    let mut lines = who.lines();
    assert_eq!(lines.next(), Some(nobody.uid.to_string().as_str()));
    assert!(
        !lines.next().unwrap().split(' ').any(|group| group == "0"),
        "{who}"
    );
    assert!(who.contains("CapEff:\t0000000000000000"), "{who}");
    let metadata = fs::metadata(&home).unwrap();
    assert_eq!(
        (metadata.uid(), metadata.mode() & 0o7777),
        (nobody.uid.as_raw(), 0o700)
    );
    fs::remove_file(home.join("who")).unwrap();
    env.ok(&["plugin", "tools", "t"]);
    assert!(
        fs::read_to_string(home.join("who"))
            .unwrap()
            .starts_with(&nobody.uid.to_string())
    );
    let unknown = config.replace("\"nobody\"", "\"nobody-of-that-name\"");
    env.write(".agentd/agentd.toml", &unknown);
    let told = env.run(&["check"]);
    assert_eq!(code(told.status), 78);
    assert!(shown(&told).contains("does not exist"), "{}", shown(&told));
    daemon.stop();
}

#[test]
fn http_is_for_those_who_have_the_token() {
    let script = "printf %s \"$AGENTD_MCP_TOKEN\" >\"$AGENTD_RUN_DIR/token\"; echo token: $AGENTD_MCP_TOKEN; tool t__wait '{}'";
    let (env, daemon) = with(&[agent("a", script, HAS)]);
    let mut running = env.spawn(&["--json", "run", "a"]);
    let id = id_of(&mut running);
    running.wait_stdout("token: [redacted]");
    let run = dir(&env, &id).join("run");
    let token = fs::read_to_string(run.join("token")).unwrap();
    let ask = |authorization: &str| {
        let body = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{\"protocolVersion\":\
                    \"2025-11-25\",\"capabilities\":{},\"clientInfo\":{\"name\":\"t\",\"version\":\"1\"}}}";
        let mut stream = UnixStream::connect(run.join("mcp-http.sock")).unwrap();
        write!(
            stream,
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\n{authorization}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("").starts_with("HTTP/1.1 401"));
    assert!(ask("Authorization: Bearer other\r\n").starts_with("HTTP/1.1 401"));
    let answer = ask(&format!("Authorization: Bearer {token}\r\n"));
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("serverInfo"),
        "{answer}"
    );
    fs::write(dir(&env, &id).join("tools/plugins/t/go"), "").unwrap();
    running.output();
    daemon.stop();
}

/// Registers a task whose only node is the agent's, and waits until its session has completed it.
#[track_caller]
fn completed_by_its_agent(env: &TestEnvironment) -> Value {
    let mut wire = env.connect();
    let task = wire.call(
        "RegisterTask",
        json!({ "goal": "g", "initial_nodes": [{ "name": "own", "work": { "kind": "agent", "agent": "a" } }] }),
    );
    wire.call(
        "SubscribeJournal",
        json!({ "from_seq": 1, "action_types": ["SESSION_ENDED"] }),
    );
    let ended = wire.line().unwrap();
    assert!(ended.to_string().contains("completed"), "{ended}");
    task
}

#[test]
fn an_agent_completes_its_node_by_its_tools() {
    let script = "tool agentd__node_complete '{\"result\":{\"by\":\"tools\"}}'";
    let (env, daemon) = with(&[agent("a", script, "")]);
    let task = completed_by_its_agent(&env);
    let id = task["task_id"].as_str().unwrap();
    let status = env.connect().call("GetTaskStatus", json!({ "task_id": id }));
    assert!(status.to_string().contains("COMPLETED"), "{status}");
    assert!(status.to_string().contains("by"), "{status}");
    let calls = journal(&env, "SESSION_TOOL_CALL");
    assert_eq!(calls[0]["tool"], "node_complete");
    daemon.stop();
}

#[test]
fn what_an_agent_tells_agentd_is_kept_without_its_secrets() {
    // As it is; as base64, by a shell; and written in JSON's escapes.
    let script = "S=$(cat \"$CREDENTIALS_DIRECTORY/TOKEN\"); B=$(printf %s \"$S\" | base64); \
                  tool agentd__node_event \"{\\\"payload\\\":{\\\"found\\\":\\\"it is $S, or $B\\\"}}\"; \
                  tool agentd__task_register \"{\\\"goal\\\":\\\"use $S\\\"}\"; \
                  tool agentd__node_complete \"{\\\"result\\\":{\\\"$S\\\":[\\\"$B\\\",\\\"\\\\u006fpen-sesame-1234\\\"]}}\"";
    let (env, daemon) = with(&[agent("a", script, "credentials = [\"TOKEN\"]\n")]);
    let task = completed_by_its_agent(&env);
    let mut wire = env.connect();
    let status = wire.call("TaskStatus", json!({ "task_id": task["task_id"] }));
    let result = &status["nodes"][0]["result_payload"];
    assert_eq!(*result, json!({ "[redacted]": ["[redacted]", "[redacted]"] }));
    let entries = wire.call("ReadJournal", json!({ "limit": 1000 })).to_string();
    assert!(entries.contains("it is [redacted], or [redacted]"), "{entries}");
    let tasks = wire.call("ListTasks", json!({})).to_string();
    assert!(tasks.contains("use [redacted]"), "{tasks}");
    let encoded = "b3Blbi1zZXNhbWUtMTIzNA";
    for text in [&entries, &tasks, &status.to_string()] {
        assert!(!text.contains(SECRET) && !text.contains(encoded), "{text}");
    }
    daemon.stop();
}

/// The process that is started with the session's directory as its argument.
fn supervisor(session: &str) -> i32 {
    let mut found = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let entry = entry.ok()?;
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (line.contains("__session") && line.contains(session)).then_some(pid)
    });
    found.next().expect("a supervisor")
}
