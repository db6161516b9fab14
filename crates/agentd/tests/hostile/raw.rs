//! A client that sends bytes, and a task that must come through unharmed.

use crate::support::{Daemon, PATIENCE, TestEnvironment, Wire};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A connection, without any manners.
pub(crate) fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap_or_else(|error| panic!("{}: {error}", socket.display()));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends bytes on a new connection, closes its own half, and gives everything that comes back until the daemon
/// closes the other. It reads while it sends, so that neither side waits for the other.
pub(crate) fn exchange(socket: &Path, bytes: &[u8]) -> Vec<u8> {
    let stream = connect(socket);
    let mut reader = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let mut got = Vec::new();
            // A daemon that gave up on us may reset the connection; what came before that counts.
            let _ = reader.read_to_end(&mut got);
            got
        });
        let mut writer = &stream;
        if writer.write_all(bytes).is_ok() {
            let _ = stream.shutdown(Shutdown::Write);
        }
        reading.join().unwrap()
    })
}

/// As [`exchange`], for answers that are lines of JSON.
#[track_caller]
pub(crate) fn answers(socket: &Path, bytes: &[u8]) -> Vec<Value> {
    let got = exchange(socket, bytes);
    assert!(
        got.is_empty() || got.ends_with(b"\n"),
        "an answer is cut: {}",
        String::from_utf8_lossy(&got)
    );
    got.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            serde_json::from_slice(line)
                .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(line)))
        })
        .collect()
}

/// Reads one line from a stream; none at its end.
#[track_caller]
pub(crate) fn line(stream: &UnixStream) -> Option<Value> {
    let mut text = String::new();
    BufReader::new(stream)
        .read_line(&mut text)
        .expect("a line in time");
    (!text.is_empty()).then(|| serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// The resident memory of a process, in bytes.
pub(crate) fn resident_bytes(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// A task with a node in every status, which nothing that a test does may change.
#[derive(Debug)]
pub(crate) struct Planted {
    pub(crate) task_id: Value,
    /// PENDING, RUNNING, COMPLETED, FAILED.
    pub(crate) nodes: Vec<Value>,
    pub(crate) lease_id: Value,
    before: Value,
}

impl Planted {
    /// Registers it. The running node's lease lasts for a day.
    pub(crate) fn new(wire: &mut Wire) -> Self {
        let specs = json!([{}, {}, {}, { "name": "later", "capabilities": ["nobody-has-this"] }]);
        let params = json!({ "goal": "planted", "context": { "keep": "me" }, "initial_nodes": specs });
        let task_id = wire.call("RegisterTask", params)["task_id"].take();
        let mut nodes = Vec::new();
        let mut leases = Vec::new();
        for _ in 0..3 {
            let params = json!({ "task_id": task_id, "lease_owner": "planter", "capabilities": [], "lease_secs": 86_400 });
            let mut node = wire.call("AcquireNextNode", params);
            nodes.push(node["node_id"].take());
            leases.push(node["lease_id"].take());
        }
        let params = |index: usize| json!({ "task_id": task_id, "node_id": nodes[index], "lease_id": leases[index], "payload": { "kept": index } });
        wire.call("CompleteNode", params(1));
        wire.call("FailNode", params(2));
        let before = wire.call("TaskStatus", json!({ "task_id": task_id }));
        let pending = before["nodes"][3]["id"].clone();
        nodes.insert(0, pending);
        Self {
            task_id,
            nodes,
            lease_id: leases.swap_remove(0),
            before,
        }
    }

    /// The task is as it was, the database is sound, and the daemon is the one that was started.
    #[track_caller]
    pub(crate) fn check(&self, daemon: &Daemon) {
        let mut wire = daemon.connect();
        assert_eq!(
            wire.call("TaskStatus", json!({ "task_id": self.task_id })),
            self.before
        );
        let checked = wire.call("CheckDatabase", json!({}));
        assert_eq!(checked["ok"], true, "{checked:#}");
        let health = wire.call("Health", json!({}));
        assert_eq!(health["pid"], daemon.pid().as_raw());
    }
}

/// A daemon with a planted task.
pub(crate) fn planted() -> (TestEnvironment, Daemon, Planted) {
    let env = TestEnvironment::new();
    let daemon = env.daemon();
    let planted = Planted::new(&mut daemon.connect());
    (env, daemon, planted)
}

/// Numbers that are the same in every run: SplitMix64.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
