//! A daemon of our own, on a disk that is one, gone when it is dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(crate) struct Daemon {
    child: Child,
    folder: tempfile::TempDir,
}

impl Daemon {
    /// Starts the daemon with a new home, and waits until it says that it is ready.
    pub(crate) fn start(context_event_limit: u32) -> Self {
        // Beside the build and not in /tmp, which may be memory.
        let target = Path::new(env!("CARGO_BIN_EXE_agentd")).parent().unwrap();
        let folder = tempfile::Builder::new().prefix("b").tempdir_in(target).unwrap();
        let ready = std::os::unix::net::UnixDatagram::bind(folder.path().join("ready")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_agentd"))
            .env_clear()
            .env("HOME", folder.path())
            .env("AGENTD_HOME", folder.path())
            .env("AGENTD_CONTEXT_EVENT_LIMIT", context_event_limit.to_string())
            .env("NOTIFY_SOCKET", folder.path().join("ready"))
            .env("RUST_LOG", "agentd=warn")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut message = [0; 256];
        let length = ready.recv(&mut message).unwrap();
        assert!(message[..length].starts_with(b"READY=1"));
        Self { child, folder }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("agentd.sock")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Memory that the daemon has in use, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Processor time that the daemon has used, in milliseconds.
    pub(crate) fn cpu_ms(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        // In hundredths of a second: fields 14 and 15 of proc(5).
        (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10
    }

    /// Times that any thread of the daemon was put on a processor.
    pub(crate) fn wakeups(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        tasks
            .map(|task| {
                let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
                let switches = status.lines().filter(|line| line.contains("ctxt_switches"));
                switches
                    .map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap())
                    .sum::<u64>()
            })
            .sum()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
