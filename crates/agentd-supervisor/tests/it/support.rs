//! Sessions whose supervisors are the real program.

use agentd_protocol::SessionId;
use agentd_supervisor::control::Control;
use agentd_supervisor::dir::SessionDir;
use agentd_supervisor::follow::Follower;
use agentd_supervisor::proc;
use agentd_supervisor::record::{Exited, Record, What};
use agentd_supervisor::records::{Records, read_records};
use agentd_supervisor::spawn::{SupervisorState, spawn, state};
use agentd_supervisor::spec::{Launch, PROTOCOL_VERSION, ProcessLaunch, Spec, TranscriptLimits};
use agentd_supervisor::transcript::Reader;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_agentd-session-supervisor");
/// What a broken test is ended by; nothing waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Starts a sleeper in a session of its own, twice removed, and writes its number into the file `pid`. Nothing holds on
/// to it but the kernel.
pub(crate) const DAEMON: &str =
    "(setsid sh -c 'echo $$ >pid.new; mv pid.new pid; exec sleep 1000' >/dev/null 2>&1 </dev/null &); ";
/// Waits for that file.
pub(crate) const DAEMON_UP: &str = "while ! [ -e pid ]; do sleep 0.01; done; ";

pub(crate) struct Session {
    pub(crate) temporary: TempDir,
    pub(crate) dir: SessionDir,
    pub(crate) spec: Spec,
}

impl Session {
    pub(crate) fn new(launch: Launch) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("session");
        fs::create_dir(&root).unwrap();
        Self {
            temporary,
            dir: SessionDir::new(root),
            spec: Spec {
                version: PROTOCOL_VERSION,
                session_id: SessionId(uuid::Uuid::new_v4()),
                launch,
                timeout_ms: None,
                grace_ms: 20_000,
                start_timeout_ms: 20_000,
                secrets_dir: None,
                transcript: TranscriptLimits::default(),
                tools: None,
            },
        }
    }

    /// A shell script as a process.
    pub(crate) fn sh(script: &str) -> Self {
        Self::process(&["/bin/sh", "-c", script])
    }

    pub(crate) fn process(argv: &[&str]) -> Self {
        let mut session = Self::new(Launch::Process(ProcessLaunch {
            argv: argv.iter().map(|&text| text.to_owned()).collect(),
            env: BTreeMap::new(),
            secret_env: BTreeMap::new(),
            cwd: PathBuf::new(),
            user: None,
            pids: None,
        }));
        let (cwd, id) = (session.cwd(), session.spec.session_id.to_string());
        let order = session.order();
        order.cwd = cwd;
        order.env.insert("PATH".into(), "/usr/bin:/bin".into());
        order.env.insert("AGENTD_SESSION_ID".into(), id);
        session
    }

    pub(crate) fn order(&mut self) -> &mut ProcessLaunch {
        match &mut self.spec.launch {
            Launch::Process(order) => order,
            Launch::Container(_) => panic!("a container"),
        }
    }

    /// Where the agent runs.
    pub(crate) fn cwd(&self) -> PathBuf {
        self.temporary.path().to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    pub(crate) fn secret(&mut self, name: &str, value: &str) {
        let dir = self.path("secrets");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name), value).unwrap();
        self.spec.secrets_dir = Some(dir);
    }

    pub(crate) fn write_spec(&self) {
        fs::write(self.dir.spec(), serde_json::to_vec(&self.spec).unwrap()).unwrap();
    }

    /// The task waits for its end.
    pub(crate) fn start(&self) -> tokio::task::JoinHandle<()> {
        self.start_as(&[])
    }

    pub(crate) fn start_as(&self, arguments: &[&str]) -> tokio::task::JoinHandle<()> {
        self.write_spec();
        let arguments: Vec<_> = arguments.iter().map(Into::into).collect();
        tokio::spawn(spawn(Path::new(BINARY), &arguments, &self.dir).unwrap().reaped())
    }

    pub(crate) async fn control(&self) -> Control {
        Control::connect(&self.dir).await.unwrap()
    }

    /// Starts it, and waits until all is over.
    pub(crate) async fn run(&self) -> Vec<Record> {
        self.start();
        self.ended().await
    }

    pub(crate) async fn run_exited(&self) -> Exited {
        exited(&self.run().await)
    }

    /// Waits for its end, and for its supervisor's.
    pub(crate) async fn ended(&self) -> Vec<Record> {
        let records = within(async {
            let mut follower = Follower::new(self.dir.clone(), 1);
            let mut records = Vec::new();
            while let Some(record) = follower.next().await.unwrap() {
                records.push(record);
            }
            records
        })
        .await;
        assert!(
            matches!(records.last().unwrap().what, What::End { .. }),
            "{records:?}"
        );
        self.gone().await;
        assert_eq!(read_records(&self.dir).unwrap().records, records);
        assert_eq!(self.log(), "");
        records
    }

    /// Waits until something of the kind is recorded.
    pub(crate) async fn recorded(&self, is_it: impl Fn(&What) -> bool) -> What {
        let mut follower = Follower::new(self.dir.clone(), 1);
        within(async {
            while let Some(record) = follower.next().await.unwrap() {
                if is_it(&record.what) {
                    return record.what;
                }
            }
            panic!("it ended without");
        })
        .await
    }

    /// Waits until the agent runs, and gives its process number.
    pub(crate) async fn started(&self) -> i32 {
        match self.recorded(|what| matches!(what, What::Started { .. })).await {
            What::Started { pid } => pid,
            _ => unreachable!(),
        }
    }

    /// Waits until no supervisor is there, and gives what it left.
    pub(crate) async fn gone(&self) -> Records {
        let begun = Instant::now();
        loop {
            if let SupervisorState::Gone(records) = state(&self.dir).unwrap() {
                return records;
            }
            assert!(begun.elapsed() < PATIENCE, "the supervisor does not end");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.supervisor_log()).unwrap()
    }

    /// All output that was kept, of both streams.
    pub(crate) fn output(&self) -> Vec<u8> {
        self.chunks().concat()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output()).into_owned()
    }

    fn chunks(&self) -> Vec<Vec<u8>> {
        let mut reader = Reader::new(&self.dir.transcript());
        let page = reader.read(0, usize::MAX).unwrap();
        page.chunks.into_iter().map(|chunk| chunk.bytes).collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A failed test leaves nothing behind.
        for stat in proc::all() {
            let line = fs::read(format!("/proc/{}/cmdline", stat.process.pid)).unwrap_or_default();
            let dir = self.dir.root().as_os_str().as_encoded_bytes();
            if line.windows(dir.len()).any(|window| window == dir) {
                stat.process.signal(nix::sys::signal::Signal::SIGKILL);
            }
        }
        let _ = agentd_supervisor::sweep::kill_session_processes(self.spec.session_id, None);
    }
}

pub(crate) fn exited(records: &[Record]) -> Exited {
    let mut all = records.iter().filter_map(|record| match &record.what {
        What::Exited(exited) => Some(exited.clone()),
        _ => None,
    });
    let exited = all.next().expect("an exit is recorded");
    assert!(all.next().is_none(), "more than one exit: {records:?}");
    exited
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it takes too long")
}

pub(crate) fn read_pid(path: &Path) -> i32 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

pub(crate) fn is_alive(pid: i32) -> bool {
    proc::stat(pid).is_some_and(|stat| !stat.ended)
}

/// Waits for a file that somebody else makes.
pub(crate) async fn appeared(path: &Path) {
    let begun = Instant::now();
    while !path.exists() {
        assert!(begun.elapsed() < PATIENCE, "{} does not appear", path.display());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits for a process that is nobody's child here to end.
pub(crate) async fn died(pid: i32) {
    let Some(handle) = proc::stat(pid).and_then(|stat| stat.process.open()) else {
        return;
    };
    within(tokio::task::spawn_blocking(move || {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let timeout = PollTimeout::try_from(PATIENCE).unwrap();
        poll(&mut [PollFd::new(handle.as_fd(), PollFlags::POLLIN)], timeout).unwrap();
    }))
    .await
    .unwrap();
}

pub(crate) fn kill(pid: i32) {
    proc::stat(pid)
        .unwrap()
        .process
        .signal(nix::sys::signal::Signal::SIGKILL);
}
