//! The first process of a container, run as a plain process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use agentd_runner::inside::{INIT, install_init, launch_file};
use agentd_runner::runtime::engine::Program;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use tempfile::TempDir;

/// Written once, before anything is started: a program that any process still has open for writing cannot be run, and
/// a process that another test starts meanwhile has what this one has open.
static INSTALLED: LazyLock<PathBuf> =
    LazyLock::new(|| install_init(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap());

struct Inside {
    dir: TempDir,
    init: PathBuf,
}

impl Inside {
    fn new(program: &Program) -> Self {
        let dir = TempDir::new().unwrap();
        let init = INSTALLED.clone();
        let secrets = dir.path().join("secrets");
        fs::create_dir(&secrets).unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        let content = launch_file(program, dir.path(), &secrets).unwrap();
        let inside = Self { dir, init };
        fs::write(inside.run("launch"), content).unwrap();
        inside
    }

    fn run(&self, name: &str) -> PathBuf {
        self.dir.path().join("run").join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.init);
        command
            .arg(self.dir.path().join("run"))
            .env_clear()
            .env("LEFT", "over");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn output(&self) -> Output {
        self.command().output().unwrap()
    }

    fn status(&self) -> Option<String> {
        fs::read_to_string(self.run("status")).ok()
    }
}

fn shell(text: &str) -> Program {
    Program {
        argv: ["sh", "-c", text].map(str::to_owned).to_vec(),
        env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        secret_env: BTreeMap::new(),
    }
}

fn said(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn it_needs_no_loader() {
    // An executable file's header says so: no entry of the type that names an interpreter.
    let word = |at: usize| u16::from_le_bytes([INIT[at], INIT[at + 1]]);
    assert_eq!(&INIT[..4], b"\x7fELF");
    let offset = usize::try_from(u64::from_le_bytes(INIT[32..40].try_into().unwrap())).unwrap();
    let (size, count) = (usize::from(word(54)), usize::from(word(56)));
    for index in 0..count {
        assert_ne!(word(offset + index * size), 3, "it names an interpreter");
    }
    assert!(INIT.len() < 2 * 1024 * 1024, "{} bytes", INIT.len());
}

#[test]
fn the_agent_gets_exactly_its_environment_and_no_input() {
    let mut program = shell("env | sort; pwd; cat; exit 3");
    program.env.insert("PLAIN".into(), "a b\nc=d".into());
    program.secret_env.insert("TOKEN".into(), "token".into());
    let inside = Inside::new(&program);
    fs::write(inside.dir.path().join("secrets/token"), "s3cret\n\n").unwrap();
    let output = inside.output();
    let dir = inside.dir.path().display().to_string();
    let expected = format!("PATH=/usr/bin:/bin\nPLAIN=a b\nPWD={dir}\nTOKEN=s3cret\nc=d\n{dir}\n");
    assert_eq!(said(&output.stdout), expected);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(inside.status().as_deref(), Some("exit 3\n"));
}

#[test]
fn it_ends_as_the_agent_does() {
    for (text, code, status) in [
        ("exit 0", 0, "exit 0\n"),
        ("exit 255", 255, "exit 255\n"),
        ("kill -KILL $$", 137, "signal 9\n"),
        ("kill -SEGV $$", 139, "signal 11\n"),
    ] {
        let inside = Inside::new(&shell(text));
        assert_eq!(inside.output().status.code(), Some(code), "{text}");
        assert_eq!(inside.status().as_deref(), Some(status), "{text}");
    }
}

fn ready(child: &mut Child) -> BufReader<std::process::ChildStdout> {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    output
}

#[test]
fn signals_reach_the_agent() {
    for signal in [
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        // `wait` is interrupted by a trap; a program in the foreground would not be.
        let name = signal.as_str().strip_prefix("SIG").unwrap();
        let text = format!("sleep 1000 & trap 'kill -9 $!; echo got; exit 5' {name}; echo ready; wait");
        let inside = Inside::new(&shell(&text));
        let mut child = inside.command().spawn().unwrap();
        let mut output = ready(&mut child);
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "got\n", "{signal}");
        assert_eq!(child.wait().unwrap().code(), Some(5), "{signal}");
    }
}

#[test]
fn the_agent_begins_with_no_signal_blocked_in_a_session_of_its_own() {
    let text = "grep SigBlk /proc/self/status; cut -d' ' -f1,5,6 /proc/$$/stat; cat /proc/self/oom_score_adj";
    let inside = Inside::new(&shell(text));
    let output = inside.output();
    let lines: Vec<&str> = said(&output.stdout).lines().collect();
    assert_eq!(lines[0], "SigBlk:\t0000000000000000");
    let numbers: Vec<&str> = lines[1].split(' ').collect();
    assert!(numbers.iter().all(|number| *number == numbers[0]), "{lines:?}");
    let own: i32 = fs::read_to_string("/proc/self/oom_score_adj")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert_eq!(lines[2].parse::<i32>().unwrap(), (own + 500).min(1000));
}

#[test]
fn what_cannot_be_started_is_said() {
    let begin = |change: fn(&mut Program)| {
        let mut program = shell("true");
        change(&mut program);
        Inside::new(&program)
    };
    let ends = |inside: &Inside, code: i32, text: &str| {
        let output = inside.output();
        assert_eq!(output.status.code(), Some(code));
        let sentence = said(&output.stderr);
        assert!(
            sentence.starts_with("agentd-init: ") && sentence.contains(text),
            "{sentence}"
        );
        assert_eq!(inside.status(), None);
    };
    ends(
        &begin(|program| program.argv[0] = "no-such-program".into()),
        127,
        "no-such-program",
    );
    ends(
        &begin(|program| program.argv[0] = "/etc/passwd".into()),
        126,
        "/etc/passwd",
    );
    ends(
        &begin(|program| program.argv.push("x".repeat(3 * 1024 * 1024))),
        126,
        "too long",
    );
    let secret = |program: &mut Program| {
        program.secret_env.insert("TOKEN".into(), "token".into());
    };
    ends(&begin(secret), 126, "secrets/token");
    for content in [b"s3cret\0x".to_vec(), vec![b'x'; 200_000]] {
        let inside = begin(secret);
        fs::write(inside.dir.path().join("secrets/token"), &content).unwrap();
        ends(&inside, 126, "secrets/token");
        assert!(!said(&inside.output().stderr).contains("s3cret"));
    }
    // A link would read another file, a FIFO would wait for ever.
    let inside = begin(secret);
    symlink("/etc/hostname", inside.dir.path().join("secrets/token")).unwrap();
    ends(&inside, 126, "secrets/token");
    let inside = begin(secret);
    nix::unistd::mkfifo(
        &inside.dir.path().join("secrets/token"),
        nix::sys::stat::Mode::S_IRWXU,
    )
    .unwrap();
    ends(&inside, 126, "not a regular file");
    let inside = begin(|_| {});
    fs::write(inside.run("launch"), b"agentd-launch 1\0").unwrap();
    ends(&inside, 126, "launch cannot be used");
    fs::remove_file(inside.run("launch")).unwrap();
    ends(&inside, 126, "cannot read");
}

#[test]
fn the_status_is_written_over_whatever_the_agent_put_there() {
    let inside = Inside::new(&shell(
        "ln -s victim run/status; ln -s victim run/.status.part; exit 4",
    ));
    let victim = inside.run("victim");
    fs::write(&victim, "untouched").unwrap();
    assert_eq!(inside.output().status.code(), Some(4));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert!(fs::symlink_metadata(inside.run("status")).unwrap().is_file());
    assert_eq!(inside.status().as_deref(), Some("exit 4\n"));
    // Where it cannot be written the end is the same.
    let inside = Inside::new(&shell("mkdir -p run/status/x; exit 4"));
    let output = inside.output();
    assert_eq!(output.status.code(), Some(4));
    assert!(said(&output.stderr).contains("cannot write the status"));
}

#[test]
fn orphans_of_the_agents_do_not_stay_as_zombies() {
    // As the first process of a namespace it is everybody's parent in the end.
    let inside = Inside::new(&shell(
        "for i in 1 2 3; do (sh -c 'exit 0' &); done
        left=1000
        while cat /proc/[0-9]*/stat | grep -q ') Z ' && [ $left -gt 0 ]; do left=$((left - 1)); done
        [ $left -gt 0 ] && exit 6",
    ));
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]);
    command.arg(&inside.init).arg(inside.dir.path().join("run"));
    let output = command.env_clear().env("PATH", "/usr/bin:/bin").output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", said(&output.stderr));
    assert_eq!(output.status.signal(), None);
    assert_eq!(inside.status().as_deref(), Some("exit 6\n"));
}
