//! An agent that calls what it may not, with what it should not, as fast as it can: it is told so, takes what it may take of
//! memory and disk, and nobody else notices.

use crate::support::{PATIENCE, TestEnvironment};
use crate::tools_support::{SECRET, plugin};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MIB: usize = 1024 * 1024;

/// A client on a session's socket.
struct Client {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Client {
    fn connect(run_dir: &Path) -> Self {
        let writer = UnixStream::connect(run_dir.join("mcp.sock")).unwrap();
        writer.set_read_timeout(Some(PATIENCE)).unwrap();
        writer.set_write_timeout(Some(PATIENCE)).unwrap();
        let reader = BufReader::new(writer.try_clone().unwrap());
        Self { reader, writer }
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn call(&mut self, id: u64, tool: &str, arguments: &Value) -> Value {
        self.writer.write_all(&call(id, tool, arguments)).unwrap();
        self.answer()
    }
}

fn call(id: u64, tool: &str, arguments: &Value) -> Vec<u8> {
    let params = json!({ "name": tool, "arguments": arguments });
    let request = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params });
    format!("{request}\n").into_bytes()
}

/// What is wrong with a call, in its answer: an error of the protocol, or a failed result.
fn complaint(answer: &Value) -> String {
    match answer["error"]["message"].as_str() {
        Some(message) => message.to_owned(),
        None if answer["result"]["isError"] == true => answer["result"]["content"][0]["text"].to_string(),
        None => panic!("no error: {answer}"),
    }
}

/// The most memory that a session's supervisor has had, in KiB.
fn supervisor_max_kib(session: &str) -> u64 {
    let is_it = |entry: &fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("__session") && line.contains(session)
    };
    let entry = fs::read_dir("/proc").unwrap().flatten().find(is_it).unwrap();
    max_kib(&entry.path())
}

fn max_kib(process: &Path) -> u64 {
    let status = fs::read_to_string(process.join("status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// What the files of a session take, in bytes.
fn disk_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(of) if of.is_dir() => disk_bytes(&entry.path()),
        Ok(of) => of.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(size).sum()
}

#[test]
fn an_agent_that_calls_what_it_may_not_harms_itself_alone() {
    let env = TestEnvironment::new();
    let token = env.write(".agentd/secrets/TOKEN", SECRET);
    fs::set_permissions(token, fs::Permissions::from_mode(0o600)).unwrap();
    let plugin = plugin(&env.path("plugin"), "");
    let agent = |name: &str| {
        let script = json!("until [ -e \"$AGENTD_RUN_DIR/go\" ]; do sleep 0.02; done");
        format!(
            "[[agents]]\nname = \"{name}\"\nruntime = \"process\"\nharness = \"custom\"\nprompt = \"p\"\n\
             command = [\"sh\", \"-c\", {script}, \"agent\"]\nplugins = [\"t\"]\n\n"
        )
    };
    env.write(
        ".agentd/agentd.toml",
        &format!("{plugin}{}{}", agent("greedy"), agent("quiet")),
    );
    let daemon = env.daemon();
    let ids = ["greedy", "quiet"].map(|name| env.ok(&["run", "--detach", name]).trim().to_owned());
    let mut journal = env.connect();
    journal.call(
        "SubscribeJournal",
        json!({ "from_seq": 1, "action_types": ["SESSION_PHASE"] }),
    );
    let mut running = 0;
    while running < 2 {
        running += usize::from(journal.line().unwrap()["payload"]["to"] == "RUNNING");
    }
    let dirs = ids.clone().map(|id| env.state().join("sessions").join(id));
    let run_dirs: [PathBuf; 2] = dirs.clone().map(|dir| dir.join("run"));
    let before_kib = supervisor_max_kib(&ids[0]);

    // Each is wrong in a way of its own, and the answer says in which.
    let mut client = Client::connect(&run_dirs[0]);
    let large = "x".repeat(MIB);
    for (tool, arguments, said) in [
        (
            "t__hidden",
            json!({ "with": format!("{large}{SECRET}") }),
            "may not be called",
        ),
        (&*format!("t__{}", &large[..200_000]), json!({}), "Unknown tool"),
        ("no__such", json!({ "a": SECRET }), "Unknown tool"),
    ] {
        let answer = client.call(1, tool, &arguments);
        let complaint = complaint(&answer);
        assert!(complaint.contains(said), "{tool:.20}: {complaint:.300}");
        assert!(
            complaint.len() < 2000,
            "{tool:.20}: an error of {} bytes",
            complaint.len()
        );
    }
    let answer = client.call(1, "t__say", &json!({ "with": "x".repeat(5 * MIB) }));
    assert!(complaint(&answer).contains("are allowed"), "{answer}");

    // More at once than it may hold: the plugin answers none of them.
    let mut hoards = Client::connect(&run_dirs[0]);
    let hoard = call(0, "t__wait", &json!({ "with": large }));
    let hoard = String::from_utf8(hoard).unwrap();
    let mut told = 0;
    for id in 0..200 {
        let line = hoard.replacen("\"id\":0", &format!("\"id\":{id}"), 1);
        hoards.writer.write_all(line.as_bytes()).unwrap();
    }
    while told < 100 {
        let complaint = complaint(&hoards.answer());
        assert!(complaint.contains("at once"), "{complaint}");
        told += 1;
    }

    // Small ones and large ones, each answered; meanwhile the other agent's calls and the daemon's clients are served.
    let is_over = AtomicBool::new(false);
    let (calls, slowest, rate) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let large = "x".repeat(300_000);
            let began = Instant::now();
            let (mut bytes, mut id) = (0, 0);
            while bytes < 64 * MIB {
                let mut batch = Vec::new();
                for _ in 0..30 {
                    id += 1;
                    batch.extend(call(id, "t__hidden", &json!({ "n": id })));
                }
                id += 1;
                batch.extend(call(id, "no__such", &json!({ "with": large })));
                batch.extend(b"no message\n");
                bytes += batch.len();
                client.writer.write_all(&batch).unwrap();
                for _ in 0..32 {
                    complaint(&client.answer());
                }
            }
            is_over.store(true, Ordering::SeqCst);
            bytes as f64 / MIB as f64 / began.elapsed().as_secs_f64()
        });
        let mut quiet = Client::connect(&run_dirs[1]);
        let mut wire = env.connect();
        let (mut calls, mut slowest) = (0, Duration::ZERO);
        while !is_over.load(Ordering::SeqCst) || calls < 20 {
            let began = Instant::now();
            let answer = quiet.call(calls, "t__say", &json!({}));
            assert!(answer.to_string().contains("the token is"), "{answer}");
            assert_eq!(wire.call("Health", json!({}))["status"], "ok");
            slowest = slowest.max(began.elapsed());
            calls += 1;
        }
        (calls, slowest, flood.join().unwrap())
    });
    let supervisor = (supervisor_max_kib(&ids[0]), supervisor_max_kib(&ids[1]));
    let of_daemon = max_kib(&Path::new("/proc").join(daemon.pid().to_string()));
    println!(
        "{rate:.1} MiB/s; {calls} calls of the other agent's, the slowest with {slowest:?}; at most {before_kib} KiB before, \
         {supervisor:?} KiB in the supervisors, {of_daemon} KiB in the daemon"
    );
    assert!(rate > 1.0, "{rate} MiB/s are no flood");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    assert!(supervisor.0 < 200 * 1024, "{supervisor:?} KiB");
    assert!(supervisor.1 < before_kib + 8 * 1024, "{supervisor:?} KiB");
    assert!(of_daemon < 150 * 1024, "{of_daemon} KiB");
    let disk = disk_bytes(&dirs[0]);
    assert!(disk < 40 * MIB as u64, "{disk} bytes");

    for dir in &run_dirs {
        fs::write(dir.join("go"), "").unwrap();
    }
    for id in &ids {
        env.ok(&["sessions", "logs", "-f", id]);
    }
    let mut wire = env.connect();
    let page = wire.call(
        "ReadJournal",
        json!({ "session_id": ids[0], "action_types": ["SESSION_TOOL_CALL"], "limit": 10 }),
    );
    let entries = page["entries"].as_array().unwrap();
    assert_eq!(entries[0]["payload"]["outcome"], "denied", "{page}");
    for entry in entries {
        assert!(
            entry.to_string().len() < 10_000,
            "an entry of {} bytes",
            entry.to_string().len()
        );
        assert!(!entry.to_string().contains(SECRET), "{entry}");
    }
    daemon.stop();
}
