//! Agents in containers, with scripts in the place of the engine: they write the log and leave a monitor behind as an
//! engine does. What a real engine does is tested with real engines.

use crate::support::{Session, appeared, died, exited, is_alive, kill, read_pid, within};
use agentd_supervisor::record::{Exited, Record, StopCause, What};
use agentd_supervisor::spec::{ContainerLaunch, Launch};
use std::fs;
use std::time::{Duration, Instant};

/// The engine: `engine run SCRIPT` starts a monitor, which runs the script as the container, writes its output in the
/// log's format, exits with its status, and "removes the container" before. `kill SIGNAL` and `rm` work on it.
const ENGINE: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
echo "$*" >>calls
case "$1" in
run)
  [ -e start-hangs ] && { echo hanging >&2; touch hangs; sleep 1000; }
  [ -e start-fails ] && { echo "Error: no such image; s3cr3t-value" >&2; exit 125; }
  : >container
  (setsid sh -c '
    exec 3>session/log.fifo
    sh -c "$1" </dev/null >out.pipe 2>&1 3>&- &
    echo $! >session/container.pid
    echo $$ >session/monitor.pid
    while IFS= read -r line; do printf "2026-01-01T00:00:00.0Z stdout F %s\n" "$line" >&3; done <out.pipe
    wait $!
    status=$?
    exec 3>&-
    while [ -e clean-up-hangs ]; do sleep 0.01; done
    rm -f container
    exit $status' monitor "$2" >/dev/null 2>&1 &)
  while ! [ -s session/monitor.pid ]; do sleep 0.01; done ;;
kill)
  [ -e kill-hangs ] && sleep 1000
  [ -e kill-fails ] && { echo "Error: nothing works" >&2; exit 125; }
  kill -s "$2" "$(cat session/container.pid)" ;;
rm)
  [ -e rm-fails ] && { rm rm-fails; echo "Error: busy" >&2; exit 1; }
  kill -s KILL "$(cat session/container.pid)" 2>/dev/null
  rm -f container; exit 0 ;;
esac
"#;

fn container(script: &str) -> Session {
    let mut session = Session::new(Launch::Container(ContainerLaunch {
        start: vec![],
        remove: vec![],
        terminate: vec![],
        kill: vec![],
        env: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
        log_fifo: "".into(),
        pid_file: "".into(),
        monitor_pid_file: "".into(),
        status_file: "".into(),
    }));
    let engine = session.path("engine");
    fs::write(&engine, ENGINE).unwrap();
    nix::unistd::mkfifo(&session.path("out.pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let command = |arguments: &[&str]| {
        let mut argv = vec!["/bin/sh".to_owned(), engine.display().to_string()];
        argv.extend(arguments.iter().map(|&argument| argument.to_owned()));
        argv
    };
    let dir = session.dir.clone();
    let status_file = session.path("status");
    if let Launch::Container(order) = &mut session.spec.launch {
        order.start = command(&["run", script]);
        order.remove = command(&["rm"]);
        order.terminate = command(&["kill", "TERM"]);
        order.kill = command(&["kill", "KILL"]);
        order.log_fifo = dir.log_fifo();
        order.pid_file = dir.pid_file();
        order.monitor_pid_file = dir.monitor_pid_file();
        order.status_file = status_file;
    }
    session
}

fn flag(session: &Session, name: &str) {
    fs::write(session.path(name), "").unwrap();
}

fn calls(session: &Session) -> Vec<String> {
    let text = fs::read_to_string(session.path("calls")).unwrap();
    text.lines()
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect()
}

fn warnings(records: &[Record]) -> Vec<&str> {
    records
        .iter()
        .filter_map(|record| match &record.what {
            What::Warning { message } => Some(&message[..]),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn a_containers_end_is_its_monitors() {
    for (script, status, code, signal) in [
        ("echo hello; echo there; exit 7", "", Some(7), None),
        ("exit 0", "exit 0\n", Some(0), None),
        ("exit 137", "exit 137\n", Some(137), None),
        ("exit 137", "", None, Some(9)),
        ("exit 139", "signal 11\n", None, Some(11)),
        // An agent that lies to its own file.
        ("exit 7", "exit 0\n", Some(7), None),
    ] {
        let session = container(script);
        fs::write(session.path("status"), status).unwrap();
        let records = session.run().await;
        let expected = Exited {
            code,
            signal,
            ..Exited::default()
        };
        assert_eq!(exited(&records), expected, "{script} {status}");
        // The news of its end may have been overtaken by what it was.
        let others = records
            .iter()
            .filter(|record| record.what != What::ContainerEnded);
        assert_eq!(others.count(), 4, "{records:?}");
        // The engine has removed it by itself.
        assert_eq!(calls(&session).len(), 1);
        assert!(!session.path("container").exists());
    }
    let session = container("echo hello; printf '\\377 there\\n'; echo s3cr3t-value");
    session.run().await;
    assert_eq!(session.output(), b"hello\n\xff there\ns3cr3t-value\n");
}

#[tokio::test]
async fn what_it_prints_is_redacted_and_all_there() {
    let mut session =
        container("i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; echo a s3cr3t-value b");
    session.secret("TOKEN", "s3cr3t-value\n");
    session.run().await;
    let mut expected: String = (0..2000).map(|number| format!("line {number}\n")).collect();
    expected += "a [redacted] b\n";
    assert_eq!(session.text(), expected);
    assert!(!session.path("secrets").exists());
}

#[tokio::test]
async fn a_start_that_fails_says_why_and_leaves_nothing() {
    let mut session = container("true");
    session.secret("TOKEN", "s3cr3t-value");
    flag(&session, "start-fails");
    let end = session.run_exited().await;
    let message = end.start_error.unwrap();
    assert!(
        message.contains("status 125: Error: no such image; [redacted]"),
        "{message}"
    );
    assert!(calls(&session).ends_with(&["rm".to_owned()]));
    assert!(!session.path("secrets").exists());

    let mut session = container("true");
    session.spec.start_timeout_ms = 300;
    flag(&session, "start-hangs");
    let end = session.run_exited().await;
    let message = end.start_error.unwrap();
    assert!(
        message.contains("did not end within 0.3 seconds") && message.contains("hanging"),
        "{message}"
    );
}

#[tokio::test]
async fn a_stop_reaches_a_start_as_well() {
    let session = container("true");
    flag(&session, "start-hangs");
    session.start();
    appeared(&session.path("hangs")).await;
    session
        .control()
        .await
        .stop(Duration::from_secs(20))
        .await
        .unwrap();
    let end = exited(&session.ended().await);
    assert_eq!(end.stop, Some(StopCause::Request));
    assert!(end.start_error.unwrap().contains("stopped while"));
    assert!(calls(&session).ends_with(&["rm".to_owned()]));
}

#[tokio::test]
async fn a_stop_is_the_engines_work() {
    let session = container("trap 'echo bye; exit 3' TERM; echo >up; while :; do sleep 0.02; done");
    session.start();
    session.started().await;
    appeared(&session.path("up")).await;
    session
        .control()
        .await
        .stop(Duration::from_secs(20))
        .await
        .unwrap();
    let records = session.ended().await;
    let end = exited(&records);
    assert_eq!((end.code, end.stop), (Some(3), Some(StopCause::Request)));
    assert_eq!(warnings(&records), [""; 0]);
    assert_eq!(calls(&session)[1..], ["kill TERM"]);

    // One that does not listen.
    let mut session = container("trap '' TERM; echo >up; while :; do sleep 0.02; done");
    session.spec.timeout_ms = Some(400);
    session.spec.grace_ms = 300;
    session.start();
    let end = exited(&session.ended().await);
    assert_eq!((end.signal, end.stop), (Some(9), Some(StopCause::Timeout)));
    assert_eq!(calls(&session)[1..], ["kill TERM", "kill KILL", "rm"]);
}

#[tokio::test]
async fn an_engine_that_does_not_work_is_gone_around() {
    let session = container("trap 'exit 3' TERM; echo >up; while :; do sleep 0.02; done");
    flag(&session, "kill-fails");
    session.start();
    session.started().await;
    appeared(&session.path("up")).await;
    session
        .control()
        .await
        .stop(Duration::from_secs(20))
        .await
        .unwrap();
    let records = session.ended().await;
    assert_eq!(exited(&records).code, Some(3));
    assert!(
        warnings(&records)[0].contains("nothing works; SIGTERM was sent directly"),
        "{records:?}"
    );

    let session = container("trap '' TERM; echo >up; while :; do sleep 0.02; done");
    flag(&session, "kill-hangs");
    flag(&session, "rm-fails");
    session.start();
    session.started().await;
    appeared(&session.path("up")).await;
    session.control().await.stop(Duration::ZERO).await.unwrap();
    let records = session.ended().await;
    let end = exited(&records);
    assert_eq!((end.signal, end.stop), (Some(9), Some(StopCause::Request)));
    // Once in vain.
    assert!(calls(&session).ends_with(&["rm".to_owned(), "rm".to_owned()]));
}

#[tokio::test]
async fn a_killed_monitor_loses_the_status_but_leaves_nothing() {
    let session = container("echo >up; exec sleep 1000");
    session.start();
    let agent = session.started().await;
    appeared(&session.path("up")).await;
    kill(read_pid(&session.dir.monitor_pid_file()));
    let records = session.ended().await;
    let end = exited(&records);
    assert!(end.lost.unwrap().contains("signal 9"));
    died(agent).await;
    assert!(!is_alive(agent));
    assert!(calls(&session).ends_with(&["rm".to_owned()]));
    assert!(!session.path("container").exists());
}

#[tokio::test]
async fn a_container_goes_on_when_its_supervisor_is_killed() {
    let session = container("echo >up; exec sleep 1000");
    session.start();
    let agent = session.started().await;
    appeared(&session.path("up")).await;
    kill(session.control().await.hello().pid);
    let records = session.gone().await;
    assert!(records.has_begun() && !records.has_ended());
    // The engine's part: it is told to, by agentd.
    assert!(is_alive(agent));
    kill(agent);
    died(agent).await;
}

#[tokio::test]
async fn an_end_is_told_at_once_and_its_status_when_the_monitor_has_cleaned_up() {
    let session = container("exit 5");
    flag(&session, "clean-up-hangs");
    session.start();
    session.started().await;
    let mut watch = session.control().await.watch(3).await.unwrap();
    let monitor = read_pid(&session.dir.monitor_pid_file());
    let record = within(watch.next()).await.unwrap().unwrap();
    assert_eq!(record.what, What::ContainerEnded);
    assert!(is_alive(monitor));
    fs::remove_file(session.path("clean-up-hangs")).unwrap();
    died(monitor).await;
    let begun = Instant::now();
    let record = within(watch.next()).await.unwrap().unwrap();
    assert!(matches!(record.what, What::Exited(Exited { code: Some(5), .. })));
    assert!(begun.elapsed() < Duration::from_millis(500));
    session.ended().await;
}
