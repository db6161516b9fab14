//! Agents as processes: what their supervisors take from them, and that nothing of them stays.

use crate::support::{
    BINARY, DAEMON, DAEMON_UP, PATIENCE, Session, appeared, died, exited, is_alive, kill, read_pid, within,
};
use agentd_supervisor::follow::Follower;
use agentd_supervisor::record::{Exited, StopCause, What};
use agentd_supervisor::spawn::{SpawnError, SupervisorState, spawn, state};
use agentd_supervisor::spec::TranscriptLimits;
use agentd_supervisor::sweep::kill_session_processes;
use agentd_supervisor::wire::Doing;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

#[tokio::test]
async fn an_agents_end_is_told_as_it_was() {
    for (script, code, signal) in [
        ("echo out; echo err >&2; exit 7", Some(7), None),
        ("true", Some(0), None),
        ("kill -SEGV $$", None, Some(11)),
        ("kill -KILL $$", None, Some(9)),
    ] {
        let session = Session::sh(script);
        let records = session.run().await;
        assert_eq!(
            exited(&records),
            Exited {
                code,
                signal,
                ..Exited::default()
            },
            "{script}"
        );
        let kinds: Vec<_> = records.iter().map(|record| record.seq).collect();
        assert_eq!(kinds, [1, 2, 3, 4]);
        assert!(matches!(records[0].what, What::Intent { version: 1, .. }));
        assert!(matches!(records[1].what, What::Started { .. }));
    }
    let session = Session::sh("echo out; echo err >&2; exit 7");
    let records = session.run().await;
    let mut text = session.text();
    // Two pipes have no order between them.
    if text.starts_with("err") {
        text = "out\nerr\n".into();
    }
    assert_eq!(text, "out\nerr\n");
    let What::End {
        output_bytes,
        missing_bytes,
        ..
    } = records[3].what
    else {
        panic!("{records:?}")
    };
    assert_eq!((output_bytes, missing_bytes), (8, 0));
}

#[tokio::test]
async fn an_agent_gets_its_environment_and_nothing_else() {
    let mut session = Session::process(&["env"]);
    session.order().env = [("PATH", "/usr/bin:/bin"), ("A", "b\nc"), ("EMPTY", "")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    session.secret("KEY", "a long enough value\n\n");
    session.order().secret_env.insert("TOKEN".into(), "KEY".into());
    assert_eq!(session.run_exited().await.code, Some(0));
    let text = session.text();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        ["A=b", "EMPTY=", "PATH=/usr/bin:/bin", "TOKEN=[redacted]", "c"]
    );
    assert!(!session.path("secrets").exists());

    let session = Session::sh(
        "ls -l /proc/self/fd | sed 's/.* \\([0-9]* -> \\)/\\1/' >fds; umask; ulimit -c; pwd -P; \
         ps -o sid= -p $$ | tr -d ' '; echo $$; cat",
    );
    assert_eq!(session.run_exited().await.code, Some(0));
    let fds = fs::read_to_string(session.path("fds")).unwrap();
    let numbers: Vec<_> = fds
        .lines()
        .filter_map(|line| line.split(" -> ").next()?.parse::<i32>().ok())
        .collect();
    // 3 is the directory that ls reads.
    assert_eq!(numbers, [0, 1, 2, 3], "{fds}");
    assert!(
        fds.contains("0 -> /dev/null") && fds.contains("2 -> pipe:"),
        "{fds}"
    );
    let text = session.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[..3],
        [
            "0022",
            "0",
            session.cwd().canonicalize().unwrap().to_str().unwrap()
        ]
    );
    assert_eq!(lines[3], lines[4], "a session of its own");
}

#[tokio::test]
async fn an_agent_that_cannot_start_says_why() {
    let message = async |change: &dyn Fn(&mut Session)| {
        let mut session = Session::sh("true");
        change(&mut session);
        let end = session.run_exited().await;
        assert_eq!(end.code, None);
        end.start_error.unwrap()
    };
    let told = message(&|session| session.order().argv = vec!["no-such-program".into()]).await;
    assert!(told.contains("there is no such program"), "{told}");
    let told = message(&|session| session.order().cwd = "/no/such/place".into()).await;
    assert!(told.contains("/no/such/place"), "{told}");
    let told = message(&|session| session.order().argv.clear()).await;
    assert!(told.contains("no program"), "{told}");
    let told = message(&|session| {
        session
            .order()
            .secret_env
            .insert("TOKEN".into(), "../TOKEN".into());
    })
    .await;
    assert!(told.contains("TOKEN"), "{told}");
    let told = message(&|session| session.spec.secrets_dir = Some("/no/such/secrets".into())).await;
    assert!(told.contains("/no/such/secrets"), "{told}");
    let told = message(&|session| session.order().argv = vec!["/bin/true".into(), "x".repeat(200_000)]).await;
    assert!(told.contains("longer than the kernel takes"), "{told}");
}

#[tokio::test]
async fn whatever_an_agent_leaves_behind_is_ended() {
    let session = Session::sh(&format!("{DAEMON}{DAEMON_UP}exit 3"));
    let end = session.run_exited().await;
    assert_eq!((end.code, end.survivors), (Some(3), 0));
    // The program that gave the file its name may be about to end.
    assert!((1..=2).contains(&end.leftovers), "{}", end.leftovers);
    assert!(!is_alive(read_pid(&session.path("pid"))));
}

#[tokio::test]
async fn a_fork_bomb_is_ended() {
    let session = Session::sh(
        "bomb() { bomb & bomb & }; for n in 1 2 3 4 5 6 7 8; do (setsid sleep 1000 &) ; done; \
         i=0; while [ $i -lt 300 ]; do (sleep 500 & ) ; i=$((i+1)); done; (while :; do (sleep 100 &); done) & exit 4",
    );
    let end = session.run_exited().await;
    assert_eq!((end.code, end.survivors), (Some(4), 0));
    assert!(end.leftovers > 300, "{}", end.leftovers);
}

#[tokio::test]
async fn time_that_is_over_ends_an_agent() {
    let mut session = Session::sh("trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done");
    session.spec.timeout_ms = Some(300);
    let begun = Instant::now();
    let records = session.run().await;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let end = exited(&records);
    assert_eq!((end.code, end.stop), (Some(9), Some(StopCause::Timeout)));
    let text = session.text();
    assert!(text.starts_with("up\n") && text.contains("bye\n"), "{text}");
    assert!(records.iter().any(|record| record.what
        == What::Stopping {
            cause: StopCause::Timeout
        }));
}

#[tokio::test]
async fn who_ignores_the_end_is_killed() {
    let mut session =
        Session::sh("trap '' TERM; echo up; (trap '' TERM; sleep 1000) & while :; do sleep 1; done");
    session.spec.timeout_ms = Some(100);
    session.spec.grace_ms = 200;
    let end = session.run_exited().await;
    assert_eq!((end.signal, end.stop), (Some(9), Some(StopCause::Timeout)));
    assert_eq!(end.survivors, 0);

    // A second request that is more urgent.
    let session = Session::sh("trap '' TERM; echo up >up; while :; do sleep 1; done");
    session.start();
    appeared(&session.path("up")).await;
    let mut control = session.control().await;
    control.stop(Duration::from_secs(1000)).await.unwrap();
    session
        .recorded(|what| matches!(what, What::Stopping { .. }))
        .await;
    assert_eq!(control.status().await.unwrap().doing, Doing::Stopping);
    control.stop(Duration::ZERO).await.unwrap();
    let end = exited(&session.ended().await);
    assert_eq!((end.signal, end.stop), (Some(9), Some(StopCause::Request)));
}

#[tokio::test]
async fn a_stop_reaches_the_whole_tree_and_lets_it_finish() {
    // The leader ends at once; what it waits for has the grace.
    let session = Session::sh(
        "sh -c 'trap \"sleep 0.3; echo done >finished; exit 0\" TERM; echo up >up; while :; do sleep 0.01; done' & wait",
    );
    session.start();
    appeared(&session.path("up")).await;
    session
        .control()
        .await
        .stop(Duration::from_secs(20))
        .await
        .unwrap();
    let end = exited(&session.ended().await);
    assert_eq!((end.signal, end.stop), (Some(15), Some(StopCause::Request)));
    assert!(session.path("finished").exists());
}

#[tokio::test]
async fn term_to_the_supervisor_is_a_request_and_other_signals_are_nothing() {
    let session = Session::sh("trap 'exit 5' TERM; echo up; while :; do sleep 0.02; done");
    session.start();
    session.started().await;
    let supervisor = agentd_supervisor::proc::stat(session.control().await.hello().pid)
        .unwrap()
        .process;
    use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    for signal in [SIGHUP, SIGINT, SIGQUIT] {
        supervisor.signal(signal);
    }
    assert_eq!(
        session.control().await.status().await.unwrap().doing,
        Doing::Running
    );
    supervisor.signal(SIGTERM);
    let end = exited(&session.ended().await);
    assert_eq!(end.stop, Some(StopCause::Request));
    assert!(end.code == Some(5) || end.signal == Some(15), "{end:?}");
}

#[tokio::test]
async fn long_output_is_complete_or_its_middle_is_missing() {
    let session = Session::sh(
        "i=0; while [ $i -lt 100 ]; do head -c 104857 /dev/zero | tr '\\0' a; echo; i=$((i+1)); done",
    );
    let records = session.run().await;
    assert_eq!(exited(&records).code, Some(0));
    assert_eq!(session.output().len(), 104_858 * 100);

    let mut session = Session::sh("printf start; head -c 100000000 /dev/zero; printf end >&1");
    session.spec.transcript = TranscriptLimits {
        head_bytes: 1_000_000,
        tail_bytes: 1_000_000,
    };
    let records = session.run().await;
    let What::End {
        output_bytes,
        missing_bytes,
        ..
    } = records.last().unwrap().what
    else {
        panic!("{records:?}")
    };
    let output = session.output();
    assert_eq!(output_bytes, 100_000_008);
    assert_eq!(output.len() as u64, output_bytes - missing_bytes);
    assert!(output.starts_with(b"start\0") && output.ends_with(b"\0end"));
    assert!((2_000_000..2_300_000).contains(&output.len()));
    let disk: u64 = fs::read_dir(session.dir.transcript())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(disk < 2_300_000, "{disk}");
}

#[tokio::test]
async fn binary_output_is_kept_as_it_is() {
    let session =
        Session::sh("i=0; while [ $i -lt 256 ]; do printf \"\\\\$(printf %o $i)\"; i=$((i+1)); done");
    session.run().await;
    assert_eq!(session.output(), (0..=255).collect::<Vec<u8>>());
}

#[tokio::test]
async fn secrets_are_redacted_across_writes() {
    let mut session = Session::sh(
        "printf 'a s3cr3t-'; sleep 0.1; printf 'v4l/ue'; sleep 0.1; echo ' b'; \
         printf czNjcjN0; sleep 0.1; echo LXY0bC91ZQ==; echo 's3cr3t-v4l\\/ue s3cr3t-v4l%2Fue' >&2; printf s3cr3t-v4",
    );
    session.secret("TOKEN", "s3cr3t-v4l/ue\n");
    session.run().await;
    let text = session.text();
    assert!(text.contains("a [redacted] b\n[redacted]\n"), "{text}");
    assert!(text.contains("[redacted] [redacted]\n"), "{text}");
    // What is no secret in the end is there.
    assert!(text.ends_with("s3cr3t-v4"), "{text}");
    for entry in fs::read_dir(session.dir.root()).unwrap() {
        let path = entry.unwrap().path();
        // The script itself has it.
        if path.is_file() && path != session.dir.spec() {
            let bytes = fs::read(&path).unwrap();
            assert!(
                !String::from_utf8_lossy(&bytes).contains("s3cr3t-v4l"),
                "{}",
                path.display()
            );
        }
    }
}

#[tokio::test]
async fn a_killed_supervisor_takes_its_agent_along_and_the_rest_is_found() {
    let session = Session::sh(&format!("{DAEMON}{DAEMON_UP}echo >up; exec sleep 1000"));
    session.start();
    let agent = session.started().await;
    appeared(&session.path("up")).await;
    let daemon = read_pid(&session.path("pid"));
    let mut follower = Follower::new(session.dir.clone(), 1);
    for _ in 0..2 {
        within(follower.next()).await.unwrap().unwrap();
    }
    kill(session.control().await.hello().pid);
    assert_eq!(within(follower.next()).await.unwrap(), None);
    let records = session.gone().await;
    assert!(records.has_begun() && !records.has_ended() && records.exited().is_none());
    died(agent).await;
    assert!(is_alive(daemon));
    let id = session.spec.session_id;
    let killed = tokio::task::spawn_blocking(move || kill_session_processes(id, None))
        .await
        .unwrap();
    assert_eq!((killed.killed, killed.survivors), (1, 0));
    assert!(!is_alive(daemon));
    assert_eq!(kill_session_processes(id, None).killed, 0);
    // No agent is begun twice.
    session.start();
    session.gone().await;
    assert!(
        session.log().contains("no agent is begun twice"),
        "{}",
        session.log()
    );
    assert_eq!(session.gone().await.records, records.records);
}

#[tokio::test]
async fn an_agent_of_its_own_user_is_swept_whatever_it_did_to_its_environment() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "root alone can give an agent another user"
    );
    let uid = 54_321;
    let mut session = Session::sh(
        "id -u; id -G; sed -n \"s/Max processes *//p\" /proc/self/limits; (setsid env -i sh -c 'echo $$ >pid.new; mv pid.new pid; exec sleep 1000' \
         >/dev/null 2>&1 &); while ! [ -e pid ]; do sleep 0.01; done; echo >up; exec sleep 1000",
    );
    session.order().user = Some((uid, uid + 1));
    session.order().pids = Some(50);
    std::os::unix::fs::chown(session.cwd(), Some(uid), Some(uid)).unwrap();
    session.start();
    let agent = session.started().await;
    appeared(&session.path("up")).await;
    kill(session.control().await.hello().pid);
    session.gone().await;
    died(agent).await;
    let daemon = read_pid(&session.path("pid"));
    let id = session.spec.session_id;
    assert_eq!(kill_session_processes(id, None).killed, 0);
    let killed = kill_session_processes(id, Some(uid));
    assert_eq!((killed.killed, killed.survivors), (1, 0));
    assert!(!is_alive(daemon));
    assert!(
        session.text().starts_with("54321\n54322\n50 "),
        "{}",
        session.text()
    );
}

#[tokio::test]
async fn agentd_may_come_and_go() {
    let session =
        Session::sh("echo up; while ! [ -e go ]; do sleep 0.01; done; head -c 3000000 /dev/zero; exit 6");
    session.start();
    session.started().await;
    assert_eq!(state(&session.dir).unwrap(), SupervisorState::Alive);
    assert!(matches!(
        spawn(Path::new(BINARY), &[], &session.dir),
        Err(SpawnError::Running)
    ));
    // Many of them, none of which says good-bye.
    for _ in 0..40 {
        drop(session.control().await);
    }
    let status = session.control().await.status().await.unwrap();
    assert_eq!((status.doing, status.last_seq), (Doing::Running, 2));
    fs::write(session.path("go"), "").unwrap();
    // Nobody is there at the end.
    let records = session.gone().await;
    assert!(records.has_ended() && !records.torn);
    assert_eq!(exited(&records.records).code, Some(6));
    assert_eq!(session.output().len(), 3_000_003);
}

#[tokio::test]
async fn a_supervisor_has_nothing_of_whoever_started_it() {
    let session = Session::sh("while ! [ -e go ]; do sleep 0.01; done");
    let reaped = session.start();
    session.started().await;
    let pid = session.control().await.hello().pid;
    assert_eq!(
        nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid)))
            .unwrap()
            .as_raw(),
        pid
    );
    // Secrets are in its memory: nobody looks into it but root, not even its own user.
    let environment = fs::read(format!("/proc/{pid}/environ"));
    if nix::unistd::geteuid().is_root() {
        assert_eq!(environment.unwrap(), b"");
        let root = session.dir.root().display().to_string();
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
            let open = fs::read_link(entry.unwrap().path())
                .unwrap()
                .display()
                .to_string();
            let is_known = ["anon_inode", "pipe:", "socket:", "/dev/null", &root]
                .iter()
                .any(|known| open.starts_with(known));
            assert!(is_known, "{open}");
        }
    } else {
        assert_eq!(
            environment.unwrap_err().kind(),
            std::io::ErrorKind::PermissionDenied
        );
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    assert!(limits.lines().any(|line| {
        line.split_whitespace()
            .eq("Max core file size 0 0 bytes".split(' '))
    }));
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    fs::write(session.path("go"), "").unwrap();
    session.ended().await;
    reaped.await.unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn a_program_that_is_no_supervisor_is_an_error() {
    let session = Session::sh("true");
    session.write_spec();
    let error = spawn(Path::new("/no/such/program"), &[], &session.dir).unwrap_err();
    assert!(matches!(error, SpawnError::Start { .. }), "{error}");
    assert_eq!(session.gone().await.records, []);
    drop(spawn(Path::new("/bin/true"), &[], &session.dir).unwrap());
    assert_eq!(session.gone().await.records, []);
    // By hand, without what agentd hands over.
    let output = std::process::Command::new(BINARY)
        .arg(session.dir.root())
        .output()
        .unwrap();
    assert!(!output.status.success());
    session.run().await;
}

#[tokio::test]
async fn paths_may_be_longer_than_a_sockets_address() {
    let mut session = Session::sh("echo long; while ! [ -e go ]; do sleep 0.01; done");
    let mut root = session.path(&"d".repeat(200));
    root.push("e".repeat(100));
    fs::create_dir_all(&root).unwrap();
    session.dir = agentd_supervisor::dir::SessionDir::new(root);
    session.start();
    session.control().await;
    fs::write(session.path("go"), "").unwrap();
    session.ended().await;
    assert_eq!(session.text(), "long\n");
}

#[tokio::test]
async fn a_full_disk_loses_output_but_not_the_end() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "root alone can mount a small disk"
    );
    let mut session =
        Session::sh("while ! [ -e go ]; do sleep 0.01; done; head -c 2000000 /dev/zero; exit 8");
    let disk = Disk::mount(&session.path("disk"));
    session.dir = agentd_supervisor::dir::SessionDir::new(disk.0.join("session"));
    fs::create_dir(session.dir.root()).unwrap();
    session.start();
    session.started().await;
    // Somebody else takes all the room that there is.
    let filler = disk.0.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while std::io::Write::write(&mut file, &[1; 4096]).is_ok_and(|length| length > 0) {}
    fs::write(session.path("go"), "").unwrap();
    let records = session.ended().await;
    assert_eq!(exited(&records).code, Some(8));
    let What::End {
        output_bytes,
        missing_bytes,
        ..
    } = records.last().unwrap().what
    else {
        panic!("{records:?}")
    };
    assert_eq!(output_bytes, 2_000_000);
    assert!(missing_bytes > 0);
    assert_eq!(session.output().len() as u64, output_bytes - missing_bytes);
    assert!(
        records
            .iter()
            .any(|record| matches!(&record.what, What::Warning { message } if message.contains("No space")))
    );
}

#[tokio::test]
async fn an_exit_status_that_cannot_be_recorded_is_kept_until_it_can() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let session = Session::sh("while ! [ -e go ]; do sleep 0.01; done; echo lost; exit 8");
    session.start();
    session.started().await;
    let mut control = session.control().await;
    let supervisor = Pid::from_raw(control.hello().pid);
    // No file grows any more. It is a full disk that hits the records, whatever room there is in their last block.
    let limit = |bytes| Rlimit {
        current: bytes,
        maximum: None,
    };
    let length = fs::metadata(session.dir.records()).unwrap().len();
    prlimit(supervisor, Resource::Fsize, limit(Some(length))).unwrap();
    fs::write(session.path("go"), "").unwrap();
    within(async {
        while control.status().await.unwrap().doing != Doing::TearingDown {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // It knows, it tells nobody, and it stays.
    let SupervisorState::Alive = state(&session.dir).unwrap() else {
        panic!("the exit status is lost")
    };
    assert_eq!(control.status().await.unwrap().last_seq, 2);
    let records = agentd_supervisor::records::read_records(&session.dir).unwrap();
    assert_eq!(records.records.len(), 2);
    prlimit(supervisor, Resource::Fsize, limit(None)).unwrap();
    let records = session.ended().await;
    assert_eq!(exited(&records).code, Some(8));
}

/// A disk of half a megabyte.
struct Disk(std::path::PathBuf);

impl Disk {
    fn mount(path: &Path) -> Self {
        fs::create_dir(path).unwrap();
        let done = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=512k", "agentd-test"])
            .arg(path)
            .status()
            .unwrap();
        assert!(done.success());
        Self(path.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("--lazy")
            .arg(&self.0)
            .status();
    }
}

#[tokio::test]
async fn an_end_is_noticed_at_once() {
    // Not a measurement: a machine that is busy takes its time. But far below what polling would need.
    let mut best = PATIENCE;
    for _ in 0..5 {
        let session = Session::sh("while ! [ -e go ]; do sleep 0.01; done; exec sleep 1000");
        session.start();
        let agent = session.started().await;
        let mut watch = session.control().await.watch(3).await.unwrap();
        let begun = Instant::now();
        kill(agent);
        within(watch.next()).await.unwrap();
        best = best.min(begun.elapsed());
        session.ended().await;
    }
    assert!(best < Duration::from_millis(50), "{best:?}");
}
