//! One session of a trivial command, from the request to its end, against the same without agentd.

use crate::measure::{histogram, percentiles};
use crate::podman::{IMAGE, Podman};
use crate::site::{Site, Told, agent};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a session of a process brings to disk besides the daemon's commits: its supervisor's
/// directory, transcript (a file and its directory) and three records.
const FSYNCS_BESIDE_COMMITS: f64 = 6.0;

fn timed(times: &mut Histogram<u64>, took: Duration) {
    times.saturating_record(took.as_nanos() as u64);
}

fn command(mut command: Command) -> Duration {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let begun = Instant::now();
    let status = command.status().unwrap();
    let took = begun.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    took
}

fn ratio(of: &Histogram<u64>, to: &Histogram<u64>, quantile: f64) -> f64 {
    let ratio = of.value_at_quantile(quantile) as f64 / to.value_at_quantile(quantile) as f64;
    (ratio * 1000.0).round() / 1000.0
}

/// What agentd gives a container, without agentd: the same isolation, the same mounts.
fn hardened(site: &Site) -> Vec<String> {
    let mut line: Vec<String> = "run --rm --pull=never --cap-drop=all --security-opt=no-new-privileges --read-only --systemd=false \
         --sdnotify=ignore --no-healthcheck --http-proxy=false --image-volume=tmpfs --workdir=/ \
         --tmpfs /tmp:rw,nosuid,nodev,mode=1777 --tmpfs /var/tmp:rw,nosuid,nodev,mode=1777 --network none --hostname a \
         --user 1000:1000 --passwd-entry agent:x:1000:1000:a:/home/a:/bin/sh"
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let mut add = |words: &[&str]| line.extend(words.iter().map(|&word| word.to_owned()));
    if nix::unistd::geteuid().is_root() {
        // An ordinary user's limits depend on the machine.
        add(&[
            "--memory",
            "2147483648",
            "--memory-swap",
            "2147483648",
            "--pids-limit",
            "512",
        ]);
        add(&["--uidmap", "0:1879048192:65536", "--gidmap", "0:1879048192:65536"]);
    } else {
        add(&["--userns=keep-id:uid=1000,gid=1000"]);
    }
    for (name, to) in [("home", "/home/a"), ("run", "/run/agentd")] {
        let from = site.env.path(name);
        fs::create_dir(&from).unwrap();
        let options = "bind-propagation=rprivate,nosuid,nodev,bind-nonrecursive";
        add(&[
            "--mount",
            &format!("type=bind,src={},dst={to},{options}", from.display()),
        ]);
    }
    add(&[IMAGE, "/bin/true"]);
    line
}

pub(crate) fn podman(quick: bool) -> Value {
    let site = Site::new(true);
    let engine: &Podman = site.podman.as_ref().unwrap();
    site.declare(&agent("a", "podman", &["/bin/true"], ""));
    let daemon = site.env.daemon();
    let mut told = Told::new(&daemon);
    let hardened = hardened(&site);
    let hardened: Vec<&str> = hardened.iter().map(String::as_str).collect();
    let plain = [
        "run",
        "--rm",
        "--pull=never",
        "--network",
        "none",
        IMAGE,
        "/bin/true",
    ];
    let [mut of_hardened, mut of_plain, mut of_run, mut of_socket] = [(); 4].map(|()| histogram());
    // The first of each finds nothing in memory.
    for round in 0..=if quick { 8 } else { 40 } {
        let took = [
            command(engine.command(&hardened)),
            told.whole("a"),
            command(engine.command(&plain)),
            command(site.env.command(&["run", "a"])),
        ];
        if round > 0 {
            for (times, took) in [&mut of_hardened, &mut of_socket, &mut of_plain, &mut of_run]
                .into_iter()
                .zip(took)
            {
                timed(times, took);
            }
        }
    }
    let report = json!({
        "podman_run_hardened": percentiles(&of_hardened),
        "podman_run_plain": percentiles(&of_plain),
        "agentd_run": percentiles(&of_run),
        "socket": percentiles(&of_socket),
        "agentd_run_to_hardened_p50": ratio(&of_run, &of_hardened, 0.5),
        "agentd_run_to_hardened_p95": ratio(&of_run, &of_hardened, 0.95),
        "socket_to_hardened_p50": ratio(&of_socket, &of_hardened, 0.5),
        "socket_to_hardened_p95": ratio(&of_socket, &of_hardened, 0.95),
        "agentd_run_to_plain_p50": ratio(&of_run, &of_plain, 0.5),
        "fdatasync": site.fsync_shown(),
    });
    daemon.stop();
    report
}

pub(crate) fn process(quick: bool) -> Value {
    let site = Site::new(false);
    site.declare(&agent("a", "process", &["/bin/true"], ""));
    let daemon = site.env.daemon();
    let mut told = Told::new(&daemon);
    let [mut of_plain, mut of_socket, mut of_run] = [(); 3].map(|()| histogram());
    let mut fsync = histogram();
    told.whole("a");
    let rounds = if quick { 30 } else { 200 };
    let before = told.commits();
    for round in 0..rounds {
        timed(&mut of_plain, command(Command::new("/bin/true")));
        timed(&mut of_socket, told.whole("a"));
        if round % 10 == 0 {
            fsync.add(site.fsync()).unwrap();
        }
    }
    let commits = (told.commits() - before) as f64 / f64::from(rounds);
    for _ in 0..rounds / 5 {
        timed(&mut of_run, command(site.env.command(&["run", "a"])));
    }
    let ms = |times: &Histogram<u64>| times.value_at_quantile(0.5) as f64 / 1e6;
    let over = ms(&of_socket) - ms(&of_plain);
    let report = json!({
        "fork_exec_wait": percentiles(&of_plain),
        "socket": percentiles(&of_socket),
        "agentd_run": percentiles(&of_run),
        "commits_per_session": commits,
        "fdatasync": percentiles(&fsync),
        "over_fork_exec_ms": over,
        "over_fork_exec_and_commits_ms": over - commits * ms(&fsync),
        "over_fork_exec_and_fsyncs_ms": over - (commits + FSYNCS_BESIDE_COMMITS) * ms(&fsync),
    });
    daemon.stop();
    report
}
