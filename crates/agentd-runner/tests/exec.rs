//! Commands under their supervisor: what is taken from them, and that nothing of them stays.

#![allow(clippy::unwrap_used, reason = "tests")]

use agentd_protocol::{LeaseId, TaskId};
use agentd_runner::exec::{
    CaptureLimits, CommandSpec, Control, ExecError, Finished, Outcome, SupervisorCommand, SweepFilter, run,
    sweep,
};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::watch;

const BINARY: &str = env!("CARGO_BIN_EXE_agentd-supervisor");
const LIMITS: CaptureLimits = CaptureLimits {
    head_bytes_max: 1024,
    tail_bytes_max: 1024,
};
/// What a broken test is ended by; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts a sleeper in a session of its own, twice removed, and writes its number into the file `pid`. Nothing
/// holds on to it but the kernel.
const DAEMON: &str =
    "(setsid sh -c 'echo $$ >pid.new; mv pid.new pid; exec sleep 1000' >/dev/null 2>&1 </dev/null &); ";
/// Waits for that file.
const DAEMON_UP: &str = "while ! [ -e pid ]; do sleep 0.01; done; ";

fn supervisor() -> SupervisorCommand {
    SupervisorCommand {
        program: BINARY.into(),
        args: vec!["__supervise".into()],
    }
}

fn spec(dir: &Path, script: &str) -> CommandSpec {
    CommandSpec {
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        cwd: dir.to_owned(),
        env: BTreeMap::new(),
        timeout: None,
        grace: Duration::from_secs(20),
        stdout: LIMITS,
        stderr: LIMITS,
    }
}

async fn finished(spec: &CommandSpec, control: Control) -> Finished {
    let supervisor = supervisor();
    let run = run(&supervisor, spec, control);
    tokio::time::timeout(PATIENCE, run)
        .await
        .expect("the command ends")
        .expect("the supervisor reports")
}

async fn sh(script: &str) -> Finished {
    let dir = tempfile::tempdir().unwrap();
    finished(&spec(dir.path(), script), Control::default()).await
}

fn daemon_pid(dir: &TempDir) -> i32 {
    std::fs::read_to_string(dir.path().join("pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

fn is_alive(pid: i32) -> bool {
    // A process that has ended but was not reaped yet (by whoever runs the test) is not alive.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next())
        .is_some_and(|state| state != 'Z' && state != 'X')
}

/// Waits for a file that somebody else makes.
async fn appeared(path: &Path) {
    let begun = Instant::now();
    while !path.exists() {
        assert!(begun.elapsed() < PATIENCE, "{} does not appear", path.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for a process that is nobody's child here to end.
async fn ended(pid: i32) {
    let begun = Instant::now();
    while is_alive(pid) {
        assert!(begun.elapsed() < PATIENCE, "process {pid} does not end");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn what_a_command_says_comes_back() {
    let done = sh("echo out; echo err >&2; exit 3").await;
    assert_eq!(done.outcome, Outcome::Exited { code: 3 });
    assert_eq!(
        (&done.stdout.head[..], &done.stderr.head[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!((done.leftovers, done.survivors), (0, 0));
    let done = sh("kill -SEGV $$").await;
    assert_eq!(done.outcome, Outcome::Signalled { signal: 11 });
    let done = sh("printf '\\377\\000\\001'").await;
    assert_eq!(done.stdout.head, b"\xff\x00\x01");
    let done = sh("cat; [ ! -t 0 ] && ps -o sid= -p $$ | tr -d ' ' | grep -qx $$ && echo own session").await;
    assert_eq!(done.stdout.head, b"own session\n");
}

#[tokio::test]
async fn variables_are_added_to_the_parents() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(
        dir.path(),
        "echo \"$GREETING ${PATH:+path}\"; pwd -P; echo ${AGENTD_SUPERVISOR%%:*} $PPID",
    );
    spec.env.insert("GREETING".into(), "hello\nthere".into());
    let done = finished(&spec, Control::default()).await;
    let text = done.stdout.text(10_000).0;
    let dir = dir.path().canonicalize().unwrap();
    assert!(
        text.starts_with(&format!("hello\nthere path\n{}\n", dir.display())),
        "{text}"
    );
    let pids: Vec<&str> = text.lines().last().unwrap().split(' ').collect();
    assert_eq!(pids[0], pids[1]);
}

#[tokio::test]
async fn a_command_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let message = async |change: &dyn Fn(&mut CommandSpec)| {
        let mut spec = spec(dir.path(), "true");
        change(&mut spec);
        match finished(&spec, Control::default()).await.outcome {
            Outcome::NotStarted { message } => message,
            other => panic!("{other:?}"),
        }
    };
    assert!(
        message(&|spec| spec.argv = vec!["no-such-program-here".into()])
            .await
            .contains("no such program")
    );
    assert!(
        message(&|spec| spec.cwd.push("nowhere"))
            .await
            .contains("working directory")
    );
    std::fs::write(dir.path().join("file"), "text").unwrap();
    assert!(
        message(&|spec| spec.cwd.push("file"))
            .await
            .contains("not a directory")
    );
    assert!(
        message(&|spec| spec.argv = vec!["./file".into()])
            .await
            .contains("not executable")
    );
}

#[tokio::test]
async fn endless_output_takes_bounded_memory() {
    // 100 MB without a newline, and the supervisor's own size at its end.
    let script = "head -c 100000000 /dev/zero | tr '\\0' x; grep VmHWM /proc/$PPID/status >&2";
    let done = sh(script).await;
    assert_eq!(done.outcome, Outcome::Exited { code: 0 });
    assert_eq!(done.stdout.omitted_bytes, 100_000_000 - 2048);
    assert_eq!((done.stdout.head.len(), done.stdout.tail.len()), (1024, 1024));
    let text = done.stderr.text(1000).0;
    let size_kib: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(size_kib < 16 * 1024, "{text}");
}

#[tokio::test]
async fn a_timeout_ends_the_tree_with_grace() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("trap 'echo bye; exit 0' TERM; {DAEMON}{DAEMON_UP}while :; do sleep 0.01; done");
    let mut spec = spec(dir.path(), &script);
    spec.timeout = Some(Duration::from_millis(800));
    let done = finished(&spec, Control::default()).await;
    assert_eq!(done.outcome, Outcome::TimedOut);
    assert_eq!(done.stdout.head, b"bye\n");
    assert!(!is_alive(daemon_pid(&dir)));
}

#[tokio::test]
async fn who_ignores_term_is_killed_after_the_grace_period() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(dir.path(), "trap '' TERM; touch up; while :; do sleep 0.01; done");
    spec.grace = Duration::from_millis(300);
    let control = Control::default();
    let stop = control.stop.clone();
    let (done, took) = tokio::join!(finished(&spec, control), async {
        appeared(&dir.path().join("up")).await;
        stop.cancel();
        Instant::now()
    });
    assert_eq!(done.outcome, Outcome::Stopped);
    assert!(took.elapsed() >= Duration::from_millis(300));
    assert_eq!(done.survivors, 0);
}

#[tokio::test]
async fn a_second_signal_means_now() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(
        dir.path(),
        "trap 'touch termed' TERM; touch up; while :; do sleep 0.01; done",
    );
    let control = Control::default();
    let (stop, kill) = (control.stop.clone(), control.kill.clone());
    let (done, ()) = tokio::join!(finished(&spec, control), async {
        appeared(&dir.path().join("up")).await;
        stop.cancel();
        appeared(&dir.path().join("termed")).await;
        kill.cancel();
    });
    assert_eq!(done.outcome, Outcome::Stopped);
    // Long before the grace period of 20 s.
    assert!(done.duration < Duration::from_secs(15));
}

#[tokio::test]
async fn what_is_left_in_the_background_is_killed_and_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    // One that holds the output open, and one that holds nothing.
    let script = format!("sleep 1000 & {DAEMON}{DAEMON_UP}echo done");
    let done = finished(&spec(dir.path(), &script), Control::default()).await;
    assert_eq!(done.outcome, Outcome::Exited { code: 0 });
    assert_eq!(done.stdout.head, b"done\n");
    assert_eq!((done.leftovers, done.survivors), (2, 0));
    assert!(!is_alive(daemon_pid(&dir)));
}

#[tokio::test]
async fn trust_that_nobody_extends_ends_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let (extend, trust) = watch::channel(Some(Instant::now() + Duration::from_millis(100)));
    let control = Control {
        trust: Some(trust),
        ..Control::default()
    };
    let begun = Instant::now();
    let spec = spec(
        dir.path(),
        &format!("trap '' TERM; {DAEMON}while :; do sleep 0.01; done"),
    );
    let last = begun + Duration::from_millis(600);
    let (done, ()) = tokio::join!(finished(&spec, control), async {
        extend.send_replace(Some(last));
    });
    assert_eq!(done.outcome, Outcome::TrustOver);
    assert!(Instant::now() >= last);
    assert!(begun.elapsed() < PATIENCE / 2);
}

#[tokio::test]
async fn dropping_the_future_ends_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path(), &format!("{DAEMON}{DAEMON_UP}touch up; sleep 1000"));
    let supervisor = supervisor();
    let up = dir.path().join("up");
    tokio::select! {
        _ = run(&supervisor, &spec, Control::default()) => panic!("it cannot end by itself"),
        () = appeared(&up) => {}
    }
    ended(daemon_pid(&dir)).await;
}

#[tokio::test]
async fn killing_the_parent_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "{DAEMON}{DAEMON_UP}echo $$ $PPID >tree; trap '' TERM; touch up; sleep 1000 & wait; sleep 1000"
    );
    let mut parent = Command::new(BINARY)
        .args(["run", "/bin/sh", "-c", &script])
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    appeared(&dir.path().join("up")).await;
    let tree = std::fs::read_to_string(dir.path().join("tree")).unwrap();
    let mut pids: Vec<i32> = tree.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    pids.push(daemon_pid(&dir));
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    let begun = Instant::now();
    parent.kill().unwrap();
    assert_eq!(parent.wait().unwrap().signal(), Some(9));
    for pid in pids {
        ended(pid).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let mut text = String::new();
    parent.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
}

#[tokio::test]
async fn killing_the_supervisor_is_noticed_and_swept() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(
        dir.path(),
        &format!("{DAEMON}{DAEMON_UP}echo $$ $PPID >tree; touch up; sleep 1000"),
    );
    let supervisor = supervisor();
    let (lost, command) = tokio::join!(run(&supervisor, &spec, Control::default()), async {
        appeared(&dir.path().join("up")).await;
        let tree = std::fs::read_to_string(dir.path().join("tree")).unwrap();
        let pids: Vec<i32> = tree.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        assert!(
            Command::new("kill")
                .args(["-9", &pids[1].to_string()])
                .status()
                .unwrap()
                .success()
        );
        pids[0]
    });
    let Err(ExecError::Lost { killed, .. }) = lost else {
        panic!("{lost:?}")
    };
    assert!(killed >= 1);
    assert!(!is_alive(daemon_pid(&dir)));
    ended(command).await;
}

#[tokio::test]
async fn a_sweep_spares_whom_somebody_supervises() {
    let dir = tempfile::tempdir().unwrap();
    let task = TaskId(uuid::Uuid::new_v4());
    let lease = LeaseId(uuid::Uuid::new_v4());
    let mut spec = spec(
        dir.path(),
        "touch up; while ! [ -e go ]; do sleep 0.01; done; echo spared",
    );
    spec.env.insert("AGENTD_TASK_ID".into(), task.to_string());
    spec.env.insert("AGENTD_LEASE_ID".into(), lease.to_string());
    let (done, ()) = tokio::join!(finished(&spec, Control::default()), async {
        appeared(&dir.path().join("up")).await;
        for filter in [SweepFilter::Task(task), SweepFilter::Lease(lease)] {
            let swept = tokio::task::spawn_blocking(move || sweep(&filter)).await.unwrap();
            assert!(swept.killed == 0 && swept.supervised >= 1, "{swept:?}");
        }
        let other = SweepFilter::Task(TaskId(uuid::Uuid::new_v4()));
        assert_eq!(sweep(&other).supervised, 0);
        std::fs::write(dir.path().join("go"), "").unwrap();
    });
    assert_eq!(done.stdout.head, b"spared\n");
}

#[tokio::test]
async fn a_sweep_finds_what_a_dead_supervisor_left() {
    let dir = tempfile::tempdir().unwrap();
    let task = TaskId(uuid::Uuid::new_v4());
    // What a supervisor that was killed together with its parent leaves: marked, and nobody's.
    let mut orphan = Command::new("/bin/sh")
        .args(["-c", "env -i /bin/sleep 1000 & : >up; wait"])
        .current_dir(dir.path())
        .env("AGENTD_TASK_ID", task.to_string())
        .env(
            "AGENTD_SUPERVISOR",
            format!("{}:1:{}", i32::MAX, {
                use std::os::unix::fs::MetadataExt;
                std::fs::metadata("/proc/self/ns/pid").unwrap().ino()
            }),
        )
        .spawn()
        .unwrap();
    appeared(&dir.path().join("up")).await;
    let swept = sweep(&SweepFilter::Task(task));
    assert_eq!((swept.killed, swept.survivors), (2, 0));
    assert_eq!(orphan.wait().unwrap().signal(), Some(9));
}

#[tokio::test]
async fn a_supervisor_that_is_none_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path(), "true");
    let missing = SupervisorCommand {
        program: "/no/such/agentd".into(),
        args: Vec::new(),
    };
    assert!(matches!(
        run(&missing, &spec, Control::default()).await,
        Err(ExecError::Start { .. })
    ));
    let mute = SupervisorCommand {
        program: "/bin/true".into(),
        args: Vec::new(),
    };
    assert!(matches!(
        run(&mute, &spec, Control::default()).await,
        Err(ExecError::Lost { .. })
    ));
}
