//! `plans/survey.toml`, the plan that ships with the project, on two prepared directories whose figures are known.

use crate::files::{files_with, repository, text_of};
use crate::support::{TestEnvironment, finish, is_alive, pipe, read_pipe, shown, wait_gone};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const NODES: usize = 12;

/// What the fixtures plant: put together here, so that nobody who looks for secrets finds one in this file.
const SECRETS_A: [&str; 1] = [concat!("R4nd0mL00king", "ButMadeUp")];
const SECRETS_B: [&str; 2] = [concat!("tr0ub4", "dor&3x"), concat!("MC4CAQAw", "BQYDK2Vw")];

/// Prepares one of the two directories in the home directory. Whatever the script lacks, it fails, and so does the test.
#[track_caller]
fn fixture(env: &TestEnvironment, which: &str) -> PathBuf {
    let dir = env.path("code").join(which);
    let mut command = Command::new("sh");
    env.prepare(&mut command);
    let script = repository().join(format!("tests/fixtures/make-repo-{which}.sh"));
    let output = finish(command.arg(script).arg(&dir));
    assert!(output.status.success(), "{}", shown(&output));
    dir
}

fn environment() -> TestEnvironment {
    let mut env = TestEnvironment::new();
    // Wherever the temporary directory lies: git looks no further up than here.
    let home = env.home();
    env.set("GIT_CEILING_DIRECTORIES", home.join("code"));
    env
}

fn plan() -> String {
    repository()
        .join("plans/survey.toml")
        .to_str()
        .unwrap()
        .to_owned()
}

/// Runs the survey to its end and gives what it printed.
#[track_caller]
fn survey(env: &TestEnvironment, dir: &Path) -> String {
    let output = env.run(&["task", "run", &plan(), dir.to_str().unwrap()]);
    assert!(output.status.success(), "{}", shown(&output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("completed: 12 of 12 nodes done"), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// The report and the directory that it is kept in, from what was printed.
#[track_caller]
fn parts(printed: &str) -> (&str, PathBuf) {
    let (report, rest) = printed
        .rsplit_once("\nThis report is kept in ")
        .unwrap_or_else(|| panic!("no path at the end: {printed}"));
    let path = PathBuf::from(rest.strip_suffix(".\n").unwrap());
    assert_eq!(path.file_name().unwrap(), "report.md");
    (report, path.parent().unwrap().to_owned())
}

fn collapsed(line: &str) -> String {
    line.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// The facts that a report does not have, and the texts that it should not have: see the head of the `.expected` files.
fn missing(report: &str, which: &str) -> (usize, Vec<String>) {
    let expected = text_of(&format!("tests/fixtures/repo-{which}.expected"));
    let lines: BTreeSet<String> = report.lines().map(collapsed).collect();
    let facts: Vec<&str> = expected
        .lines()
        .filter(|line| !line.starts_with("# ") && !line.is_empty())
        .collect();
    let wrong = facts.iter().filter(|fact| match fact.strip_prefix('!') {
        Some(text) => report.contains(text),
        None => !lines.contains(&collapsed(fact)),
    });
    (facts.len(), wrong.map(|fact| (*fact).to_owned()).collect())
}

/// Everything about a directory tree that reading leaves alone.
fn state_of(dir: &Path) -> BTreeMap<PathBuf, (u32, u64, i64, i64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let state = (
            metadata.mode(),
            metadata.size(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        );
        found.insert(path, state);
    }
    found
}

/// The processes that were started in this environment and run still.
fn processes(env: &TestEnvironment) -> Vec<i32> {
    let home = env.home();
    let mark = home.to_str().unwrap().as_bytes();
    let numbers = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|environ| environ.windows(mark.len()).any(|part| part == mark))
        })
        .filter(|pid| is_alive(*pid))
        .collect()
}

/// A journal's entries as text, a line each.
fn journal(env: &TestEnvironment, filters: &[&str]) -> String {
    let mut args = vec!["--json", "journal", "--from", "0"];
    args.extend(filters);
    env.ok(&args)
}

#[test]
fn what_it_finds_in_a_repository_is_right() {
    let env = environment();
    let dir = fixture(&env, "a");
    let before = state_of(&dir);
    assert!(before.contains_key(&dir.join(".git/HEAD")));
    let printed = survey(&env, &dir);
    assert_eq!(before, state_of(&dir), "the directory was changed");

    let (report, artifacts) = parts(&printed);
    assert_eq!(report, fs::read_to_string(artifacts.join("report.md")).unwrap());
    assert!(artifacts.starts_with(env.state().join("artifacts")));
    let (_, wrong) = missing(report, "a");
    assert!(wrong.is_empty(), "wrong: {wrong:#?}\n{report}");
    let (facts, wrong) = missing(report, "b");
    assert!(
        wrong.len() * 2 > facts,
        "this is what the other's report says:\n{report}"
    );

    let json: Value =
        serde_json::from_str(&fs::read_to_string(artifacts.join("report.json")).unwrap()).unwrap();
    assert_eq!((&json["files"], &json["high"]), (&14.into(), &1.into()), "{json}");

    let daemon = env.daemon();
    let journal = journal(&env, &[]);
    assert_eq!(journal.matches(r#""action_type":"COMPLETE_NODE""#).count(), NODES);
    // Where the secret is: that is kept, and found where it is kept.
    assert!(files_with(&env, "settings.yml").contains(&env.database()));
    for secret in SECRETS_A {
        assert!(
            fs::read_to_string(dir.join("settings.yml"))
                .unwrap()
                .contains(secret)
        );
        assert!(!printed.contains(secret) && !journal.contains(secret));
        assert_eq!(files_with(&env, secret), Vec::<PathBuf>::new());
    }
    daemon.stop();
}

#[test]
fn what_it_finds_in_a_plain_directory_is_right() {
    let mut env = environment();
    env.set("RUST_LOG", "trace");
    let dir = fixture(&env, "b");
    let before = state_of(&dir);
    let daemon = env.daemon();
    // This one goes through a daemon, and writes its report to a file besides.
    let copy = env.path("survey.md");
    let output = env.run(&[
        "task",
        "run",
        &plan(),
        dir.to_str().unwrap(),
        copy.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(before, state_of(&dir), "the directory was changed");

    let printed = String::from_utf8(output.stdout.clone()).unwrap();
    let (report, artifacts) = parts(&printed);
    let kept = artifacts.join("report.md");
    assert_eq!(report, fs::read_to_string(&kept).unwrap());
    assert_eq!(report, fs::read_to_string(&copy).unwrap());
    // It says where secrets are.
    assert_eq!(kept.metadata().unwrap().mode() & 0o077, 0);
    let (_, wrong) = missing(report, "b");
    assert!(wrong.is_empty(), "wrong: {wrong:#?}\n{report}");
    let (facts, wrong) = missing(report, "a");
    assert!(
        wrong.len() * 2 > facts,
        "this is what the other's report says:\n{report}"
    );

    let journal = journal(&env, &[]);
    let log = daemon.stop();
    assert!(log.contains("ready"));
    assert!(files_with(&env, "key.pem").contains(&env.database()));
    for secret in SECRETS_B {
        for text in [&shown(&output), &journal, &log] {
            assert!(!text.contains(secret), "{text}");
        }
        assert_eq!(files_with(&env, secret), Vec::<PathBuf>::new());
    }
}

#[test]
fn killed_again_and_again_it_comes_to_the_same_report() {
    let mut env = environment();
    let dir = fixture(&env, "a");
    // Every node runs awk. This one stops in the node that it is told to stop in, after it has said so.
    let (here, gate) = (env.path("here"), env.path("gate"));
    pipe(&here);
    pipe(&gate);
    let home = env.home();
    let shim = env.write(
        "bin/awk",
        &format!(
            "#!/bin/sh\nif [ \"$AGENTD_NODE_NAME\" = \"$(cat '{home}/stop')\" ]; then\n    echo $$ >'{here}'\n    \
             read -r line <'{gate}'\nfi\nPATH=${{PATH#*:}}\nexec awk \"$@\"\n",
            home = home.display(),
            here = here.display(),
            gate = gate.display()
        ),
    );
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    env.set("PATH", format!("{}:{path}", home.join("bin").display()));

    let plan = plan();
    let command = ["task", "run", plan.as_str(), dir.to_str().unwrap()];
    let mut orphans = Vec::new();
    // The same node more often than it may fail, too: it did not fail, it was interrupted.
    for node in [
        "inventory",
        "credentials",
        "credentials",
        "credentials",
        "hotspots",
        "report",
    ] {
        env.write("stop", node);
        let mut run = env.spawn(&command);
        let orphan: i32 = read_pipe(&here).trim().parse().unwrap();
        assert!(processes(&env).contains(&orphan));
        run.kill_9();
        orphans.push(orphan);
    }
    env.write("stop", "");
    let output = env.run(&command);
    assert!(output.status.success(), "{}", shown(&output));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("continuing task"),
        "{}",
        shown(&output)
    );
    for orphan in orphans {
        assert!(
            !is_alive(orphan),
            "a command of a run that was killed outlived the next one"
        );
    }

    let printed = String::from_utf8(output.stdout).unwrap();
    let (report, artifacts) = parts(&printed);
    assert_eq!(report, fs::read_to_string(artifacts.join("report.md")).unwrap());
    let (_, wrong) = missing(report, "a");
    assert!(wrong.is_empty(), "wrong: {wrong:#?}\n{report}");
    // The day may have changed in between.
    let without_day = |report: &str| -> Vec<String> {
        report
            .lines()
            .filter(|line| !line.contains(", surveyed on "))
            .map(str::to_owned)
            .collect()
    };
    let afresh = survey(&env, &dir);
    assert_eq!(without_day(report), without_day(parts(&afresh).0));
    // Half-written files are not left in the place of whole ones.
    let names = |dir: &Path| -> BTreeSet<_> {
        fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect()
    };
    let extra: Vec<_> = names(&artifacts)
        .difference(&names(&parts(&afresh).1))
        .cloned()
        .collect();
    assert!(
        extra.iter().all(|name| name.to_string_lossy().starts_with('.')),
        "{extra:?}"
    );

    for pid in processes(&env) {
        wait_gone(pid);
    }
    let daemon = env.daemon();
    let task = artifacts.file_name().unwrap().to_str().unwrap();
    let ended = journal(&env, &["--task", task, "--action", "COMPLETE_NODE"]);
    let nodes: Vec<Value> = ended
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["node_id"].clone())
        .collect();
    let different: BTreeSet<&str> = nodes.iter().map(|node| node.as_str().unwrap()).collect();
    assert_eq!((nodes.len(), different.len()), (NODES, NODES), "{nodes:?}");
    assert_eq!(env.json(&["db", "check"])["ok"], true);
    daemon.stop();
}

#[test]
fn its_tools_are_there() {
    // The survey copes without git, and the test of a repository would then test something else.
    let env = environment();
    for tool in ["sh", "awk", "git", "find", "sort", "sha256sum"] {
        let mut command = Command::new("sh");
        env.prepare(&mut command);
        let found = command
            .args(["-c", "command -v \"$1\"", "sh", tool])
            .stdout(Stdio::null());
        assert!(found.status().unwrap().success(), "{tool} is not installed");
    }
}
