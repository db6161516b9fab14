//! A thousand declared agents: what they add to a start, and that they cost nothing afterwards.

use crate::site::{Site, agent, pss_kib};
use crate::support::Daemon;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const AGENTS: usize = 1000;
const IDLE: Duration = Duration::from_secs(5);

fn agents(count: usize) -> String {
    let table = |number| {
        let name = format!("agent-{number}");
        let more = "prompt = \"Review {{ trigger.ref }} of {{ trigger.repository }}\"\ncontext = [\"/etc/hostname\"]\n\
                    credentials = [\"TOKEN\"]\ncapabilities = [\"review\", \"test\"]\ntimeout = \"2h\"\n[agents.env]\n\
                    LANG = \"C.UTF-8\"";
        agent(&name, "process", &["/bin/true"], more)
    };
    (0..count).map(table).collect()
}

fn start(site: &Site) -> (Duration, Daemon) {
    let begun = Instant::now();
    let daemon = site.env.daemon();
    (begun.elapsed(), daemon)
}

fn median_ms(times: &mut [Duration]) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

/// Processor time in ticks, and how often a thread was put on a processor.
fn used(pid: i32) -> (u64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let switches = tasks.map(|task| {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        lines
            .map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap())
            .sum::<u64>()
    });
    (ticks, switches.sum())
}

/// Lets a daemon alone for a while.
fn idle(pid: i32) -> (u64, u64) {
    // Nothing comes.
    let (_nobody, never) = std::sync::mpsc::channel::<()>();
    let _ = never.recv_timeout(Duration::from_secs(1));
    let before = used(pid);
    let _ = never.recv_timeout(IDLE);
    let after = used(pid);
    (after.0 - before.0, after.1 - before.1)
}

pub(crate) fn thousand(quick: bool) -> Value {
    let site = Site::new(false);
    let (mut of_one, mut of_all) = (Vec::new(), Vec::new());
    for _ in 0..if quick { 5 } else { 15 } {
        for (count, times) in [(1, &mut of_one), (AGENTS, &mut of_all)] {
            site.declare(&agents(count));
            let (took, daemon) = start(&site);
            times.push(took);
            daemon.stop();
        }
    }
    let (_, daemon) = start(&site);
    let pid = daemon.pid().as_raw();
    let (ticks, switches) = idle(pid);
    let with_kib = pss_kib(pid);
    let begun = Instant::now();
    daemon.connect().call("Reload", json!({}));
    let reload_ms = begun.elapsed().as_secs_f64() * 1000.0;
    daemon.stop();
    let (one, all) = (median_ms(&mut of_one), median_ms(&mut of_all));
    json!({
        "ready_with_1_ms": one,
        "ready_with_1000_ms": all,
        "thousand_add_ms": all - one,
        "reload_ms": reload_ms,
        "idle_secs": IDLE.as_secs(),
        "idle_cpu_ticks": ticks,
        "idle_context_switches": switches,
        "daemon_kib": with_kib,
    })
}
