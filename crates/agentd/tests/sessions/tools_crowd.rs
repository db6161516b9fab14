//! Two hundred agents at once, each with three plugins of its own, and what is left of them: nothing.

use crate::site::{Site, plain};
use crate::support::{Wire, shown, wait_gone};
use crate::tools_support::CLIENT;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const SESSIONS: usize = 200;
const PLUGINS: [&str; 3] = ["one", "two", "three"];

/// Calls every plugin, and waits until the test says so.
const AGENT: &str = r#"
mkfifo "$AGENTD_RUN_DIR/go"
exec 5<>"$AGENTD_RUN_DIR/go"
for plugin in one two three; do
  case $(tool "${plugin}__echo" "{\"text\":\"$AGENTD_SESSION_ID\"}") in
    *"\"$plugin: $AGENTD_SESSION_ID\""*) ;;
    *) echo "$plugin answered something else"; exit 3;;
  esac
done
read -r _ <&5
"#;

/// Compiles the plugin, with the compiler beside the cargo of this build.
fn small_plugin(dir: &Path) -> PathBuf {
    let program = dir.join("small-plugin");
    let rustc = Path::new(env!("CARGO")).with_file_name("rustc");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/small_plugin.rs");
    let output = Command::new(rustc)
        .args(["--edition", "2024", "-O", "-o"])
        .args([&program, Path::new(source)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    program
}

/// What a process costs in memory, in KiB: what it shares counts in part.
fn pss_kib(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

/// What runs for one of these sessions, and its command line.
fn programs(sessions: &BTreeSet<String>) -> BTreeMap<i32, String> {
    let mut all = BTreeMap::new();
    let numbers = fs::read_dir("/proc").unwrap().flatten();
    for pid in numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        let text = |file: &str| {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let (line, environ) = (text("cmdline"), text("environ"));
        // A supervisor has its session in its arguments, everything else has it in its environment.
        let named = |text: &str| {
            text.split([' ', '=', '/', '\n'])
                .any(|word| sessions.contains(word))
        };
        if named(&line) || named(&environ) {
            all.insert(pid, line);
        }
    }
    all
}

#[test]
fn two_hundred_sessions_with_three_plugins_each() {
    let mut site = Site::new("", &[]);
    site.stop();
    let program = json!(small_plugin(&site.env.home()));
    let plugins =
        PLUGINS.map(|name| format!("[[plugins]]\nname = \"{name}\"\ncommand = [{program}, \"{name}\"]\n\n"));
    let more = format!("max_sessions = {SESSIONS}\nplugins = {}\n", json!(PLUGINS));
    let agent = plain("a", &format!("{CLIENT}{AGENT}"), &more);
    let settings = format!("max_sessions = {SESSIONS}\n");
    site.declare(&settings, &[plugins.concat(), agent]);
    site.start();
    let daemon = site.daemon.as_ref().unwrap().pid().as_raw();
    let mut journal = site.env.connect();
    journal.call(
        "SubscribeJournal",
        json!({ "from_seq": 1, "action_types": ["SESSION_TOOL_CALL", "SESSION_ENDED"] }),
    );
    let begun = Instant::now();
    let mut wire = site.env.connect();
    let sessions: BTreeSet<String> = (0..SESSIONS)
        .map(|_| {
            let queued = wire.call("RunAgent", json!({ "agent": "a" }));
            queued["session_id"].as_str().unwrap().to_owned()
        })
        .collect();

    let mut calls = BTreeSet::new();
    while calls.len() < SESSIONS * PLUGINS.len() {
        let entry = journal.line().unwrap();
        if entry["action_type"] != "SESSION_TOOL_CALL" {
            let id = entry["session_id"].as_str().unwrap();
            panic!("{entry}\n{}", shown(&site.env.run(&["sessions", "logs", id])));
        }
        assert_eq!(entry["payload"]["outcome"], "ok", "{entry}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        calls.insert((text(&entry["session_id"]), text(&entry["payload"]["plugin"])));
    }
    // All of them are there together.
    let running = programs(&sessions);
    let count = |what: &str| running.values().filter(|line| line.contains(what)).count();
    assert_eq!(count("small-plugin"), SESSIONS * PLUGINS.len());
    assert_eq!(count("__session"), SESSIONS);
    let kib = |what: &str| -> u64 {
        let meant = running.iter().filter(|(_, line)| line.contains(what));
        meant.map(|(pid, _)| pss_kib(*pid)).sum()
    };
    let (all, supervisors) = (kib(""), kib("__session"));
    println!(
        "{SESSIONS} sessions called {} plugins after {:?}: {} processes with {all} KiB, of which supervisors {supervisors} KiB; \
         the daemon {} KiB",
        calls.len(),
        begun.elapsed(),
        running.len(),
        pss_kib(daemon)
    );
    assert!(supervisors < SESSIONS as u64 * 5 * 1024, "{supervisors} KiB");
    assert!(pss_kib(daemon) < 150 * 1024, "{} KiB", pss_kib(daemon));

    for id in &sessions {
        let go = site.dir(id).join("run/go");
        let mut go = fs::File::options().write(true).open(go).unwrap();
        go.write_all(b"go\n").unwrap();
    }
    assert_eq!(
        ended(&mut journal, &sessions),
        BTreeMap::from([("completed".to_owned(), SESSIONS)])
    );
    for pid in running.keys() {
        wait_gone(*pid);
    }
    assert_eq!(programs(&sessions), BTreeMap::new());
    site.assert_nothing_is_left();
    site.stop();
}

/// How often each outcome was, once all are over.
fn ended(journal: &mut Wire, sessions: &BTreeSet<String>) -> BTreeMap<String, usize> {
    let mut left = sessions.clone();
    let mut outcomes = BTreeMap::new();
    while !left.is_empty() {
        let entry = journal.line().unwrap();
        assert_eq!(entry["action_type"], "SESSION_ENDED", "{entry}");
        if left.remove(entry["session_id"].as_str().unwrap()) {
            let reason = entry["payload"]["reason"].as_str().map(str::to_owned);
            *outcomes
                .entry(reason.unwrap_or_else(|| entry.to_string()))
                .or_default() += 1;
        }
    }
    outcomes
}
