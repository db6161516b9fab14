//! A place of its own for each test: a cleared environment, a temporary home, a short socket path, the real binary.
//!
//! Nothing here sleeps: a daemon is ready when it says so on its notification socket, a program has got somewhere
//! when it has printed the line, and everything has a time limit after which the test fails with what was printed.

#![allow(dead_code, reason = "each test uses a part of it")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Nothing that a test waits for takes so long, on a busy machine either.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A home directory with an agentd of its own. Everything in it is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct TestEnvironment {
    dir: tempfile::TempDir,
    variables: Vec<(OsString, OsString)>,
}

impl TestEnvironment {
    pub(crate) fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// The same in a directory of the caller's choice: temporary ones may be memory.
    pub(crate) fn below(dir: &Path) -> Self {
        // The path of a socket has 107 bytes at most, and some temporary directories are long already.
        let dir = tempfile::Builder::new()
            .prefix("ad")
            .tempdir_in(dir)
            .expect("a temporary directory");
        fs::create_dir(dir.path().join("h")).expect("a home");
        Self {
            dir,
            variables: Vec::new(),
        }
    }

    /// Sets a variable for every program started from now on.
    pub(crate) fn set(&mut self, name: &str, value: impl AsRef<OsStr>) {
        self.variables.push((name.into(), value.as_ref().into()));
    }

    /// The user's home directory.
    pub(crate) fn home(&self) -> PathBuf {
        self.dir.path().join("h")
    }

    /// `~/.agentd`
    pub(crate) fn state(&self) -> PathBuf {
        self.home().join(".agentd")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.state().join("agentd.sock")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.state().join("agent_state.db")
    }

    /// A path in the home directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home().join(name)
    }

    /// Writes a file in the home directory, and its directories.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("its directories");
        fs::write(&path, text).expect("a file");
        path
    }

    /// The binary with these arguments, in this environment and in the home directory.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentd"));
        command.args(args);
        self.prepare(&mut command);
        command
    }

    /// Puts any program into this environment.
    pub(crate) fn prepare(&self, command: &mut Command) {
        command
            .env_clear()
            .env(
                "PATH",
                std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()),
            )
            .env("HOME", self.home())
            .env("USER", "tester")
            .env("LC_ALL", "C.UTF-8")
            .env("RUST_BACKTRACE", "1")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home())
            .stdin(Stdio::null());
    }

    /// Runs the binary to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        finish(self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// Runs the binary to its end with something on stdin.
    pub(crate) fn run_with_input<S: AsRef<OsStr>>(&self, args: &[S], input: &str) -> Output {
        let path = self.write(".stdin", input);
        let stdin = fs::File::open(path).expect("the input");
        finish(
            self.command(args)
                .stdin(stdin)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        )
    }

    /// Runs the binary, which must end with 0, and gives its stdout.
    #[track_caller]
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{}", shown(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs the binary with `--json`, which must end with 0, and gives its document.
    #[track_caller]
    pub(crate) fn json<S: AsRef<OsStr>>(&self, args: &[S]) -> Value {
        let mut all: Vec<&OsStr> = vec!["--json".as_ref()];
        all.extend(args.iter().map(AsRef::as_ref));
        let text = self.ok(&all);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Runs the binary, which must end with this code, and gives its stderr.
    #[track_caller]
    pub(crate) fn fails<S: AsRef<OsStr>>(&self, code: i32, args: &[S]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{}", shown(&output));
        String::from_utf8(output.stderr).expect("UTF-8")
    }

    /// Starts the binary and goes on.
    pub(crate) fn spawn<S: AsRef<OsStr>>(&self, args: &[S]) -> Running {
        Running::start(&mut self.command(args))
    }

    /// Starts a daemon and waits until it is ready.
    #[track_caller]
    pub(crate) fn daemon(&self) -> Daemon {
        self.daemon_with(&[])
    }

    /// Starts a daemon with flags and waits until it is ready.
    #[track_caller]
    pub(crate) fn daemon_with(&self, flags: &[&str]) -> Daemon {
        let mut args = vec!["daemon"];
        args.extend(flags);
        self.try_daemon(&mut self.command(&args))
            .unwrap_or_else(|output| panic!("{}", shown(&output)))
    }

    /// Starts a daemon, waits until it is ready, and gives what it said if it ends before that.
    pub(crate) fn try_daemon(&self, command: &mut Command) -> Result<Daemon, Output> {
        let notify = self.dir.path().join(format!("n{}", unique()));
        let socket = UnixDatagram::bind(&notify).expect("a notification socket");
        // The daemon may be another user's.
        fs::set_permissions(&notify, fs::Permissions::from_mode(0o666)).expect("its mode");
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("a time limit");
        let mut running = Running::start(command.env("NOTIFY_SOCKET", &notify));
        let began = Instant::now();
        let mut buffer = [0; 4096];
        loop {
            if let Ok(length) = socket.recv(&mut buffer)
                && String::from_utf8_lossy(&buffer[..length])
                    .lines()
                    .any(|line| line == "READY=1")
            {
                return Ok(Daemon {
                    running,
                    socket: self.socket(),
                    notifications: socket,
                });
            }
            if let Some(status) = running.child.try_wait().expect("a child") {
                return Err(Output {
                    status,
                    stdout: running.rest_of_stdout(),
                    stderr: running.rest_of_stderr(),
                });
            }
            assert!(
                began.elapsed() < PATIENCE,
                "the daemon does not become ready: {}",
                running.printed()
            );
        }
    }

    /// A connection to the daemon that speaks JSON Lines.
    #[track_caller]
    pub(crate) fn connect(&self) -> Wire {
        Wire::connect(&self.socket())
    }
}

/// Makes a named pipe, by which a script can tell the test something: `echo $$ > pipe`.
pub(crate) fn pipe(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a named pipe");
}

/// Waits for what a script writes into a named pipe.
#[track_caller]
pub(crate) fn read_pipe(path: &Path) -> String {
    let (sender, receiver) = mpsc::channel();
    let path = path.to_owned();
    // Opening waits for the writer.
    std::thread::spawn(move || sender.send(fs::read_to_string(path)));
    receiver
        .recv_timeout(PATIENCE)
        .expect("something in time")
        .expect("text")
}

/// A different number each time.
pub(crate) fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Everything that a program had to say.
pub(crate) fn shown(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs a program to its end, within the time limit.
pub(crate) fn finish(command: &mut Command) -> Output {
    let mut running = Running::start(command);
    let status = running.wait();
    Output {
        status,
        stdout: running.rest_of_stdout(),
        stderr: running.rest_of_stderr(),
    }
}

/// A program that runs. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    seen_stderr: Vec<u8>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let stdout = lines(child.stdout.take().expect("a pipe"));
        let stderr = lines(child.stderr.take().expect("a pipe"));
        Self {
            child,
            stdout,
            stderr,
            seen: Vec::new(),
            seen_stderr: Vec::new(),
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("a process of ours");
    }

    /// Kills it as a crash would, and waits until it is gone.
    pub(crate) fn kill_9(&mut self) {
        self.child.kill().expect("a process of ours");
        self.child.wait().expect("a child");
    }

    /// Waits for a line on stdout that contains `text`.
    #[track_caller]
    pub(crate) fn wait_stdout(&mut self, text: &str) -> String {
        wait_line(&self.stdout, &mut self.seen, text)
    }

    /// Waits for a line on stderr that contains `text`.
    #[track_caller]
    pub(crate) fn wait_stderr(&mut self, text: &str) -> String {
        wait_line(&self.stderr, &mut self.seen_stderr, text)
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        // A handle that becomes readable when the process ends would need more than the standard library has;
        // the end of its output is the end of the program, unless it left somebody behind who holds it.
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            match self.stderr.recv_timeout(Duration::from_millis(20)) {
                Ok(line) => self.seen_stderr.extend(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    // Closed its stderr: it is about to end.
                    std::thread::yield_now();
                }
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.printed());
        }
    }

    /// Waits for its end and gives all that it printed and was not waited for.
    #[track_caller]
    pub(crate) fn output(mut self) -> Output {
        let status = self.wait();
        Output {
            status,
            stdout: self.rest_of_stdout(),
            stderr: self.rest_of_stderr(),
        }
    }

    /// What it printed so far.
    pub(crate) fn printed(&mut self) -> String {
        self.seen.extend(self.stdout.try_iter().flatten());
        self.seen_stderr.extend(self.stderr.try_iter().flatten());
        format!(
            "--- stdout\n{}\n--- stderr\n{}",
            String::from_utf8_lossy(&self.seen),
            String::from_utf8_lossy(&self.seen_stderr)
        )
    }

    fn rest_of_stdout(&mut self) -> Vec<u8> {
        drain(&self.stdout, &mut self.seen)
    }

    fn rest_of_stderr(&mut self) -> Vec<u8> {
        drain(&self.stderr, &mut self.seen_stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        loop {
            let mut line = Vec::new();
            match reader.read_until(b'\n', &mut line) {
                Ok(length) if length > 0 && sender.send(line).is_ok() => {}
                _ => return,
            }
        }
    });
    receiver
}

// The program has ended; its readers need a moment for what is still in the pipes. A process that it left behind
// may hold them open for longer.
fn drain(receiver: &Receiver<Vec<u8>>, seen: &mut Vec<u8>) -> Vec<u8> {
    while let Ok(line) = receiver.recv_timeout(Duration::from_secs(1)) {
        seen.extend(line);
    }
    std::mem::take(seen)
}

#[track_caller]
fn wait_line(receiver: &Receiver<Vec<u8>>, seen: &mut Vec<u8>, text: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left) {
            Ok(line) => {
                seen.extend(&line);
                let line = String::from_utf8_lossy(&line).into_owned();
                if line.contains(text) {
                    return line;
                }
            }
            Err(error) => panic!(
                "no line with {text:?} ({error}): {}",
                String::from_utf8_lossy(seen)
            ),
        }
    }
}

/// A daemon that is ready. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    running: Running,
    socket: PathBuf,
    notifications: UnixDatagram,
}

impl Daemon {
    pub(crate) fn pid(&self) -> Pid {
        self.running.pid()
    }

    /// Kills it as a crash would.
    pub(crate) fn kill_9(mut self) {
        self.running.kill_9();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Ends it with SIGTERM, waits, and gives its log.
    #[track_caller]
    pub(crate) fn stop(mut self) -> String {
        self.signal(Signal::SIGTERM);
        let status = self.running.wait();
        let log = String::from_utf8_lossy(&self.running.rest_of_stderr()).into_owned();
        assert!(status.success(), "{status}: {log}");
        log
    }

    /// Waits for its end, whatever ends it.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.running.wait()
    }

    /// Waits for a line of the log.
    #[track_caller]
    pub(crate) fn wait_log(&mut self, text: &str) -> String {
        self.running.wait_stderr(text)
    }

    /// The notifications that came since it was ready.
    pub(crate) fn notifications(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let mut all = Vec::new();
        while let Ok(length) = self.notifications.recv(&mut buffer) {
            all.extend(
                String::from_utf8_lossy(&buffer[..length])
                    .lines()
                    .map(str::to_owned),
            );
        }
        all
    }

    pub(crate) fn connect(&self) -> Wire {
        Wire::connect(&self.socket)
    }
}

/// A connection that speaks JSON Lines, as any client in any language would.
#[derive(Debug)]
pub(crate) struct Wire {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Wire {
    #[track_caller]
    pub(crate) fn connect(socket: &Path) -> Self {
        let writer =
            UnixStream::connect(socket).unwrap_or_else(|error| panic!("{}: {error}", socket.display()));
        writer.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        let reader = BufReader::new(writer.try_clone().expect("a second handle"));
        Self { reader, writer }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).expect("the daemon reads");
    }

    /// The next line; none when the daemon closed the connection.
    #[track_caller]
    pub(crate) fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line in time");
        if line.is_empty() {
            return None;
        }
        Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }

    /// A request and its whole response.
    #[track_caller]
    pub(crate) fn response(&mut self, method: &str, params: Value) -> Value {
        let mut line = json!({ "id": 1, "method": method, "params": params }).to_string();
        line.push('\n');
        self.send(line.as_bytes());
        self.line().expect("a response")
    }

    /// A request that must be answered with a result.
    #[track_caller]
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        let mut response = self.response(method, params);
        assert!(response.get("error").is_none(), "{method}: {response}");
        response["result"].take()
    }

    /// A request that must be answered with an error.
    #[track_caller]
    pub(crate) fn error(&mut self, method: &str, params: Value) -> Value {
        let mut response = self.response(method, params);
        assert!(response.get("result").is_none(), "{method}: {response}");
        response["error"].take()
    }
}

/// True while a process runs, as opposed to being gone or only waiting to be reaped.
pub(crate) fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
    })
}

/// Waits until a process is gone.
#[track_caller]
pub(crate) fn wait_gone(pid: i32) {
    let Some(pid) = rustix_pid(pid) else { return };
    let Ok(handle) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
        return;
    };
    let mut polled = [nix::poll::PollFd::new(
        std::os::fd::AsFd::as_fd(&handle),
        nix::poll::PollFlags::POLLIN,
    )];
    let timeout = nix::poll::PollTimeout::try_from(PATIENCE).expect("a time limit");
    assert!(
        nix::poll::poll(&mut polled, timeout).expect("poll") > 0,
        "process {pid:?} does not end"
    );
}

fn rustix_pid(pid: i32) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(pid)
}

/// Asks again and again until something holds. Only for what tells nobody that it has changed.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// How a program ended, as a shell shows it.
pub(crate) fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}
