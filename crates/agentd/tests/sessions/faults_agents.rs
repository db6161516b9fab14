//! Agents that take all they can get: processes, memory, disks, time, and whoever reads what they print.

use crate::site::{Disk, Site, WAIT, contained, memory_max_kib, outcome, plain, processes, supervisor};
use crate::support::{TestEnvironment, code, finish, shown, until};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a supervisor may need at most, whatever its agent prints. Of a program with debug information; its own figures
/// are measured elsewhere.
const SUPERVISOR_KIB_MAX: u64 = 24 * 1024;
/// How much the daemon may grow by what agents print.
const DAEMON_KIB_MORE_MAX: u64 = 24 * 1024;

const MANY: u64 = 100_000_000;

/// An agent that does not end by itself, with all of its tree deaf to TERM, one of them in a session of its own.
const STUBBORN: &str = "trap '' TERM; (trap '' TERM; exec sleep 98765.2) & \
     setsid sh -c \"trap '' TERM; exec sleep 98765.2\" & echo ready; while :; do sleep 98765.2; done";

#[test]
fn agents_that_take_all_they_can_get_end_as_they_should_and_others_go_on() {
    let bomb = "trap '' TERM; echo begun; f() { f | f & f | f & sleep 98765.3; }; f 2>/dev/null & while :; do :; done";
    let eats = "echo begun; x=0123456789abcdef; while :; do x=$x$x; done";
    let child = "(x=0123456789abcdef; while :; do x=$x$x; done); echo \"went on: $?\"; exit 3";
    let mut agents = vec![
        contained("keeps", &format!("echo ready; {WAIT}; echo went on"), ""),
        contained("eats", eats, "memory = \"48MiB\""),
        contained("copes", child, "memory = \"48MiB\""),
    ];
    for (kind, declare) in [("c", contained as fn(&str, &str, &str) -> String), ("p", plain)] {
        let limits = "timeout = \"3s\"\ngrace_period = \"1s\"\n";
        agents.push(declare(
            &format!("bomb-{kind}"),
            bomb,
            &format!("pids = 40\ncpus = 0.5\n{limits}"),
        ));
        agents.push(declare(&format!("deaf-{kind}"), STUBBORN, limits));
    }
    // A process has no limit of processors.
    let last = agents.len() - 2;
    agents[last] = agents[last].replace("cpus = 0.5\n", "");
    let site = Site::new("", &agents);
    let keeps = site.detached("keeps");
    let mut kept = site.follow(&keeps);
    kept.wait_stdout("ready");

    let began = Instant::now();
    let sessions = ["bomb-c", "bomb-p", "deaf-c", "deaf-p", "eats", "copes"].map(|name| {
        let id = site.detached(name);
        (name, id)
    });
    for (name, id) in &sessions {
        let session = site.ended(id);
        let (reason, how, message) = outcome(&session);
        let expected = match *name {
            "eats" => ("out_of_memory", json!(9)),
            "copes" => ("failed", json!(3)),
            _ => ("timed_out", json!(9)),
        };
        assert_eq!((&*reason, &how), (expected.0, &expected.1), "{name}: {message}");
        if *name == "eats" {
            assert!(message.contains("memory"), "{message}");
            let output = site.env.run(&["sessions", "show", id]);
            assert!(
                String::from_utf8_lossy(&output.stdout).contains("memory"),
                "{}",
                shown(&output)
            );
        }
        if *name == "copes" {
            assert_eq!(
                site.env.ok(&["sessions", "logs", "--stdout", id]),
                "went on: 137\n"
            );
        }
    }
    assert!(began.elapsed() >= Duration::from_secs(3));
    let left = processes(|line| line.ends_with(b"98765.2\0") || line.ends_with(b"98765.3\0"));
    assert_eq!(left, [0; 0]);

    // Exit codes, as `agentd run` tells them.
    let output = site.env.run(&["run", "eats"]);
    assert_eq!(code(output.status), 137, "{}", shown(&output));
    assert_eq!(output.stdout, b"begun\n");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("used more memory than it may"), "{stderr}");

    site.go(&keeps);
    assert_eq!(outcome(&site.ended(&keeps)).0, "completed");
    kept.wait_stdout("went on");
    site.assert_nothing_is_left();
}

/// Prints a hundred million bytes without a line's end, waits, and goes.
fn flood() -> String {
    format!("head -c {MANY} /dev/zero | tr '\\0' x; echo done >&2; {WAIT}; printf END; exit 4")
}

#[test]
fn a_flood_without_a_line_is_bounded_everywhere() {
    let site = Site::new(
        "transcript_limit = \"1MiB\"\n",
        &[
            contained("c", &flood(), ""),
            plain("p", &flood(), ""),
            contained("keeps", &format!("echo ready; {WAIT}; echo went on"), ""),
        ],
    );
    let daemon = site.daemon.as_ref().unwrap().pid().as_raw();
    let before = memory_max_kib(daemon);
    let keeps = site.detached("keeps");
    site.follow(&keeps).wait_stdout("ready");
    // One is followed by nobody; the other by one that reads, and one that does not.
    let (c, p) = (site.detached("c"), site.detached("p"));
    let mut idle = site
        .env
        .command(&["sessions", "logs", "-f", &p])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let reader = site
        .env
        .command(&["sessions", "logs", "-f", &p])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut reader = reader.unwrap();
    let mut stdout = reader.stdout.take().unwrap();
    let counted = std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()).unwrap());

    for id in [&c, &p] {
        let mut done = site.env.spawn(&["sessions", "logs", "-f", "--stderr", id]);
        done.wait_stderr("done");
        let most = memory_max_kib(supervisor(id));
        assert!(most < SUPERVISOR_KIB_MAX, "its supervisor needs {most} KiB");
        // What was kept: first and last parts, and little more.
        let transcript = site.dir(id).join("transcript");
        let kept: u64 = sizes(&transcript);
        assert!(kept < 2 * 1024 * 1024, "{kept} bytes on disk");
        site.go(id);
        let session = site.ended(id);
        let (reason, how, message) = outcome(&session);
        assert_eq!((&*reason, how), ("failed", json!(4)), "{message}");
        let output = site.env.run(&["sessions", "logs", "--stdout", id]);
        assert!(output.stdout.ends_with(b"xEND"), "its end is there");
        let length = output.stdout.len();
        assert!((500_000..1_500_000).contains(&length), "{length} bytes are shown");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            stderr.contains("missing") || stderr.contains("not kept"),
            "{stderr}"
        );
        let journal = site.env.ok(&["sessions", "show", id]);
        assert!(journal.contains("bytes of its output were not kept"), "{journal}");
    }
    let most = memory_max_kib(daemon);
    assert!(
        most < before + DAEMON_KIB_MORE_MAX,
        "the daemon grew from {before} to {most} KiB"
    );
    assert!(counted.join().unwrap() > 500_000);
    assert!(reader.wait().unwrap().success());
    idle.kill().unwrap();
    idle.wait().unwrap();
    site.go(&keeps);
    assert_eq!(outcome(&site.ended(&keeps)).0, "completed");
    site.assert_nothing_is_left();
}

fn sizes(path: &std::path::Path) -> u64 {
    match fs::read_dir(path) {
        Ok(entries) => entries.map(|entry| sizes(&entry.unwrap().path())).sum(),
        Err(_) => fs::metadata(path).map_or(0, |of| of.len()),
    }
}

/// Every byte that there is, ends of lines apart, and ends of lines; 64 times on stdout and once on stderr.
const BINARY: &str = r#"
    all() { i=0; while [ $i -lt 256 ]; do printf "\\$(printf %03o $i)"; i=$((i+1)); done; }
    all > "$HOME/all"; i=0; while [ $i -lt 64 ]; do cat "$HOME/all"; i=$((i+1)); done
    printf '\377\376\0no utf-8 \303' ; cat "$HOME/all" >&2; printf '\0'"#;

#[test]
fn binary_output_is_what_was_printed() {
    let site = Site::new("", &[contained("c", BINARY, ""), plain("p", BINARY, "")]);
    let all: Vec<u8> = (0..=255).collect();
    let mut stdout = all.repeat(64);
    stdout.extend(b"\xff\xfe\0no utf-8 \xc3\0");
    for agent in ["c", "p"] {
        let output = site.env.run(&["run", agent]);
        assert_eq!(code(output.status), 0, "{}", shown(&output));
        assert!(output.stdout == stdout, "{agent}: {} bytes", output.stdout.len());
        let id = site.env.json(&["sessions", "--limit", "1"])["sessions"][0]["id"]
            .as_str()
            .unwrap()
            .to_owned();
        let output = site.env.run(&["sessions", "logs", &id]);
        assert!(output.stdout == stdout && output.stderr == all, "{agent}");
        // The answer of the API is JSON, and can be turned into the same.
        let page = site
            .env
            .connect()
            .call("ReadTranscript", json!({ "session_id": id }));
        let chunks = page["chunks"].as_array().unwrap();
        assert!(!chunks.is_empty(), "{page}");
        // What stands for a result that it did not leave is text.
        let result = &site.show(&id)["outcome"]["result"]["output"];
        assert!(result.as_str().unwrap().contains("no utf-8 \u{fffd}"), "{result}");
    }
}

#[test]
fn a_full_disk_in_the_home_is_the_agents_own_trouble() {
    let fills = r#"dd if=/dev/zero of="$HOME/big" bs=64k count=48 || { echo "full, $?"; exit 5; }"#;
    let mut site = Site::new(
        "",
        &[
            contained("c", fills, ""),
            plain("p", fills, ""),
            plain(
                "other",
                r#"head -c 3000000 /dev/zero > "$HOME/big" && echo fine"#,
                "",
            ),
            contained("first", "true", ""),
        ],
    );
    // The homes are there after the first session.
    site.env.run(&["run", "c"]);
    site.env.run(&["run", "p"]);
    let disks = ["c", "p"].map(|name| {
        let home = site.env.state().join("homes").join(name);
        let of = fs::metadata(&home).unwrap();
        let options = format!("size=1m,mode=700,uid={},gid={}", of.uid(), of.gid());
        Disk::mount(&home, &options)
    });
    for agent in ["c", "p"] {
        let output = site.env.run(&["run", agent]);
        assert_eq!(code(output.status), 5, "{}", shown(&output));
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("full, 1"),
            "{}",
            shown(&output)
        );
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("No space left"),
            "{}",
            shown(&output)
        );
        // There is no room for anything now, and the next one is told by its own program.
        let output = site.env.run(&["run", agent]);
        assert_eq!(code(output.status), 5, "{}", shown(&output));
    }
    assert_eq!(site.env.ok(&["run", "other"]), "fine\n");
    assert!(site.env.json(&["task", "list"])["tasks"].is_array());
    site.assert_nothing_is_left();
    site.stop();
    drop(disks);
}

#[test]
fn transcripts_leave_the_database_room_and_health_says_when_there_is_none() {
    let env = TestEnvironment::new();
    let state = env.state();
    fs::create_dir_all(&state).unwrap();
    let disk = Disk::mount(&state, "size=32m,mode=700");
    let prints = format!("head -c 50000000 /dev/zero | tr '\\0' x; {WAIT}; exit 6");
    env.write(".agentd/agentd.toml", &plain("prints", &prints, ""));
    let daemon = env.daemon();
    let id = env.ok(&["run", "--detach", "prints"]).trim().to_owned();
    let warned = || {
        let history = env.ok(&["sessions", "show", &id]);
        history.matches("No space left").count()
    };
    until("its disk is full", || warned() == 1);
    // The next daemon reads all of its supervisor's records again, and writes down nothing twice.
    daemon.stop();
    let daemon = env.daemon();
    fs::write(state.join("sessions").join(&id).join("run/go"), "").unwrap();
    env.ok(&["sessions", "logs", "-f", &id]);
    assert_eq!(env.json(&["sessions", "stop", &id])["outcome"]["exit_code"], 6);
    assert_eq!(warned(), 1);
    let shown_text = env.ok(&["sessions", "show", &id]);
    assert!(
        shown_text.contains("No space left but 2048 KiB") && shown_text.contains("were not kept"),
        "{shown_text}"
    );
    // The rest goes, too, to somebody else.
    fs::write(state.join("filler"), vec![0; 4 << 20]).unwrap_err();
    let mut wire = env.connect();
    let large = json!({ "goal": "x".repeat(1000), "context": { "large": "x".repeat(500_000) }, "initial_nodes": [{}] });
    let reason = wire.error("RegisterTask", large.clone())["data"]["reason"].take();
    assert_eq!(reason, "storage");
    let health = env.run(&["health"]);
    let text = String::from_utf8_lossy(&health.stdout);
    assert_eq!(health.status.code(), Some(2), "{}", shown(&health));
    assert!(
        text.contains("degraded") && text.contains("is its disk full?"),
        "{text}"
    );
    fs::remove_file(state.join("filler")).unwrap();
    wire.call("RegisterTask", large);
    assert_eq!(env.json(&["health"])["status"], "ok");
    daemon.stop();
    drop(disk);
}

#[test]
fn a_full_disk_under_the_sessions_loses_output_and_nothing_else() {
    let env = TestEnvironment::new();
    let state = env.state();
    fs::create_dir_all(state.join("sessions")).unwrap();
    let disk = Disk::mount(&state.join("sessions"), "size=700k,mode=711");
    let prints = "head -c 2000000 /dev/zero | tr '\\0' x; exit 6";
    env.write(
        ".agentd/agentd.toml",
        &[
            plain("prints", prints, ""),
            plain("quiet", &format!("{WAIT}; exit 7"), ""),
            plain("small", "echo fine", ""),
        ]
        .concat(),
    );
    let daemon = env.daemon();
    let mut wire = env.connect();
    let quiet = env.ok(&["run", "--detach", "quiet"]).trim().to_owned();
    until("the agent runs", || {
        env.json(&["sessions", "show", &quiet])["session"]["phase"] == "RUNNING"
    });
    let output = env.run(&["run", "prints"]);
    assert_eq!(
        code(output.status),
        6,
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.stdout.len() < 700 * 1024);
    let list = env.json(&["sessions", "--limit", "1"]);
    let prints = list["sessions"][0]["id"].as_str().unwrap().to_owned();
    let shown_text = env.ok(&["sessions", "show", &prints]);
    assert!(shown_text.contains("No space left"), "{shown_text}");
    assert!(
        shown_text.contains("bytes of its output were not kept"),
        "{shown_text}"
    );

    // The rest of it goes, too: nothing more can begin here, and that is said.
    fs::write(state.join("sessions/.filler"), vec![0; 700 * 1024]).unwrap_err();
    let stderr = env.fails(125, &["run", "small"]);
    assert!(
        stderr.contains("set-up failed") && stderr.contains("No space left"),
        "{stderr}"
    );
    // The daemon and its database go on; a session that runs does, too, and its end is kept until there is room.
    let answer: Value = wire.call("ListSessions", json!({}));
    assert_eq!(answer["sessions"].as_array().unwrap().len(), 3);
    fs::remove_file(state.join("sessions/.filler")).unwrap();
    env.ok(&["sessions", "rm", &prints]);
    fs::write(state.join("sessions").join(&quiet).join("run/go"), "").unwrap();
    env.ok(&["sessions", "logs", "-f", &quiet]);
    assert_eq!(env.json(&["sessions", "stop", &quiet])["outcome"]["exit_code"], 7);
    assert_eq!(env.ok(&["run", "small"]), "fine\n");
    daemon.stop();
    drop(disk);
}

/// Makes a library by which a program's wall clock shows as many seconds more as a file says.
fn clock(env: &mut TestEnvironment) -> std::path::PathBuf {
    let library = env.path("clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sessions/clock.c");
    let mut cc = Command::new("cc");
    let output = finish(
        cc.args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(source)
            .arg("-ldl"),
    );
    assert!(output.status.success(), "{}", shown(&output));
    let more = env.write("clock", "0");
    env.set("LD_PRELOAD", library);
    env.set("AGENTD_TEST_CLOCK", &more);
    more
}

#[test]
fn a_clock_that_is_set_ends_nothing_and_keeps_nothing_from_ending() {
    let mut env = TestEnvironment::new();
    let more = clock(&mut env);
    let set = |secs: i64| {
        let new = more.with_extension("new");
        fs::write(&new, secs.to_string()).unwrap();
        fs::rename(new, &more).unwrap();
    };
    env.write(
        ".agentd/agentd.toml",
        &[
            plain(
                "keeps",
                &format!("echo ready; {WAIT}; echo went on"),
                "timeout = \"1h\"",
            ),
            plain("slow", "echo ready; sleep 600", "timeout = \"3s\""),
        ]
        .concat(),
    );
    // A lease that is extended every second.
    let _daemon = env.daemon_with(&["--node-timeout-secs", "5"]);
    env.write(
        "plan.toml",
        "goal = 'g'\n[[nodes]]\nname = 'n'\nagent = 'keeps'\n",
    );
    let mut task = env.spawn(&["task", "run", "plan.toml"]);
    until("the node's session runs", || {
        env.json(&["sessions", "--active"])["sessions"][0]["phase"] == "RUNNING"
    });
    let keeps = env.json(&["sessions", "--active"])["sessions"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    for secs in [400 * 86_400, -400 * 86_400, 0] {
        set(secs);
        let began = Instant::now();
        let session = env.ok(&["run", "--detach", "slow"]).trim().to_owned();
        // The clock is another one while it runs.
        env.spawn(&["sessions", "logs", "-f", &session])
            .wait_stdout("ready");
        set(-secs);
        env.ok(&["sessions", "logs", "-f", &session]);
        let ended = env.json(&["sessions", "stop", &session]);
        assert_eq!(ended["outcome"]["reason"], "timed_out", "{ended}");
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(3), "{took:?}");
        let still = env.json(&["sessions", "show", &keeps]);
        assert_eq!(still["session"]["phase"], "RUNNING", "{still}");
    }
    set(86_400);
    fs::write(env.state().join("sessions").join(&keeps).join("run/go"), "").unwrap();
    assert!(task.wait().success(), "{}", task.printed());
    let list = env.json(&["sessions"]);
    let of_node = list["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["agent"] == "keeps");
    // It was never taken from it, and never begun again.
    assert_eq!(of_node.count(), 1, "{list}");
}
