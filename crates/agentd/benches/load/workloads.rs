//! What is measured.

use crate::daemon::Daemon;
use crate::measure::{fsync_probe, histogram, percentiles};
use crate::peer::{Peer, complete_line, leased};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;

type Workload = fn(u64) -> Pin<Box<dyn Future<Output = Value>>>;

/// Each takes a scale: 1 is quick, 10 is for figures.
pub(crate) const ALL: &[(&str, Workload)] = &[
    ("independent_64_without_context", |scale| {
        Box::pin(independent(64, 0, 20_000 * scale, false))
    }),
    ("independent_64_without_context_pipelined", |scale| {
        Box::pin(independent(64, 0, 20_000 * scale, true))
    }),
    ("independent_64_with_50_events", |scale| {
        Box::pin(independent(64, 50, 8_000 * scale, false))
    }),
    ("independent_1", |scale| {
        Box::pin(independent(1, 50, 300 * scale, false))
    }),
    ("register_in_bulk", |scale| Box::pin(register(30_000 * scale))),
    ("shapes_at_1_connection", |scale| Box::pin(shapes(1, 200 * scale))),
    ("shapes_at_64_connections", |scale| {
        Box::pin(shapes(64, 4_000 * scale))
    }),
    ("acquire_beside_finished_nodes", |scale| {
        Box::pin(beside_finished(100_000 * scale))
    }),
    ("wake_up", |scale| Box::pin(wake_up(100 * scale))),
    ("memory", |scale| Box::pin(memory(scale))),
];

async fn task(peer: &mut Peer) -> String {
    let answer = peer
        .call_json("{\"method\":\"RegisterTask\",\"params\":{\"goal\":\"load\"}}\n")
        .await;
    answer["result"]["task_id"].as_str().unwrap().to_owned()
}

/// Adds nodes in requests of ten thousand.
async fn add_plain(peer: &mut Peer, task: &str, nodes: u64, times: &mut Histogram<u64>) {
    let mut left = nodes;
    while left > 0 {
        let batch = left.min(10_000);
        let list = vec!["{}"; batch as usize].join(",");
        let line =
            format!("{{\"method\":\"AddNodes\",\"params\":{{\"task_id\":\"{task}\",\"nodes\":[{list}]}}}}\n");
        peer.call(&line, times).await;
        left -= batch;
    }
}

fn rate(count: u64, took: Duration) -> u64 {
    (count as f64 / took.as_secs_f64()) as u64
}

/// Workers that acquire and complete until the task's nodes are used up. Gives the time that it took.
async fn work_off(
    daemon: &Daemon,
    task: &str,
    nodes: u64,
    workers: u64,
    pipelined: bool,
    times: &Times,
) -> Duration {
    let left = Rc::new(Cell::new(nodes));
    let local = LocalSet::new();
    let mut peers = Vec::new();
    for _ in 0..workers {
        peers.push(Peer::connect(&daemon.socket()).await);
    }
    let begun = Instant::now();
    for mut peer in peers {
        let (left, task, times) = (Rc::clone(&left), task.to_owned(), times.clone());
        local.spawn_local(async move {
            let (mut acquire, mut complete) = (histogram(), histogram());
            let take = || {
                let some = left.get() > 0;
                left.set(left.get().saturating_sub(1));
                some
            };
            if pipelined {
                let line =
                    format!("{{\"method\":\"AcquireNextNode\",\"params\":{{\"task_id\":\"{task}\"}}}}\n");
                let mut node = None;
                let mut more = take();
                while more || node.is_some() {
                    let mut lines = node
                        .as_ref()
                        .map(|node| complete_line(&task, node))
                        .unwrap_or_default();
                    if more {
                        lines.push_str(&line);
                    }
                    let begun = Instant::now();
                    peer.send(&lines).await;
                    if node.take().is_some() {
                        peer.answer().await;
                        complete.saturating_record(begun.elapsed().as_nanos() as u64);
                    }
                    if more {
                        node = leased(peer.answer().await);
                        assert!(node.is_some());
                        acquire.saturating_record(begun.elapsed().as_nanos() as u64);
                        more = take();
                    }
                }
            } else {
                while take() {
                    let node = peer
                        .acquire(&task, 60, &mut acquire)
                        .await
                        .expect("a node in a minute");
                    peer.complete(&task, &node, &mut complete).await;
                }
            }
            times.add(&acquire, &complete);
        });
    }
    local.await;
    begun.elapsed()
}

/// Of two methods, from several connections.
#[derive(Clone)]
struct Times(Rc<std::cell::RefCell<(Histogram<u64>, Histogram<u64>)>>);

impl Times {
    fn new() -> Self {
        Self(Rc::new(std::cell::RefCell::new((histogram(), histogram()))))
    }

    fn add(&self, acquire: &Histogram<u64>, complete: &Histogram<u64>) {
        let mut both = self.0.borrow_mut();
        both.0.add(acquire).unwrap();
        both.1.add(complete).unwrap();
    }

    fn report(&self) -> Value {
        let both = self.0.borrow();
        json!({ "AcquireNextNode": percentiles(&both.0), "CompleteNode": percentiles(&both.1) })
    }
}

async fn independent(workers: u64, context_event_limit: u32, nodes: u64, pipelined: bool) -> Value {
    let daemon = Daemon::start(context_event_limit);
    let probe = fsync_probe(daemon.folder());
    let mut peer = Peer::connect(&daemon.socket()).await;
    let task = task(&mut peer).await;
    add_plain(&mut peer, &task, nodes + 1_000, &mut histogram()).await;
    // The context is full, and the daemon warm, before it counts.
    work_off(&daemon, &task, 1_000, workers, pipelined, &Times::new()).await;
    let times = Times::new();
    let cpu_ms = daemon.cpu_ms();
    let took = work_off(&daemon, &task, nodes, workers, pipelined, &times).await;
    let metrics = peer.call_json("{\"method\":\"Metrics\"}\n").await;
    let commits = &metrics["result"]["runtime"]["commits"];
    let p50_us = probe.value_at_quantile(0.5) as f64 / 1000.0;
    let median = |at: usize| {
        let both = times.0.borrow();
        [&both.0, &both.1][at].value_at_quantile(0.5) as f64 / 1000.0
    };
    json!({
        "nodes_per_sec": rate(nodes, took),
        "nodes": nodes,
        "connections": workers,
        "context_event_limit": context_event_limit,
        "daemon_cpu_us_per_node": (daemon.cpu_ms() - cpu_ms) as f64 * 1000.0 / nodes as f64,
        "commits": commits,
        "acquire_p50_in_fsyncs": median(0) / p50_us,
        "complete_p50_in_fsyncs": median(1) / p50_us,
        "methods": times.report(),
        "fdatasync_16_kib": percentiles(&probe),
    })
}

async fn register(nodes: u64) -> Value {
    let daemon = Daemon::start(0);
    let probe = fsync_probe(daemon.folder());
    let mut peer = Peer::connect(&daemon.socket()).await;
    let task = task(&mut peer).await;
    let mut times = histogram();
    let begun = Instant::now();
    add_plain(&mut peer, &task, nodes, &mut times).await;
    let plain = begun.elapsed();
    // With ids and dependencies of the client's own: a chain.
    let ids: Vec<String> = (0..nodes / 3).map(|_| uuid::Uuid::now_v7().to_string()).collect();
    let task = self::task(&mut peer).await;
    let begun = Instant::now();
    for (batch, some) in ids.chunks(5_000).enumerate() {
        let list: Vec<String> = some
            .iter()
            .enumerate()
            .map(|(n, id)| match (batch * 5_000 + n).checked_sub(1) {
                Some(before) => format!("{{\"id\":\"{id}\",\"dependencies\":[\"{}\"]}}", ids[before]),
                None => format!("{{\"id\":\"{id}\"}}"),
            })
            .collect();
        let list = list.join(",");
        let line =
            format!("{{\"method\":\"AddNodes\",\"params\":{{\"task_id\":\"{task}\",\"nodes\":[{list}]}}}}\n");
        peer.call(&line, &mut histogram()).await;
    }
    json!({
        "nodes_per_sec": rate(nodes, plain),
        "chained_nodes_per_sec": rate(ids.len() as u64, begun.elapsed()),
        "nodes": nodes,
        "methods": { "AddNodes": percentiles(&times) },
        "fdatasync_16_kib": percentiles(&probe),
    })
}

/// Graphs of different shapes against as many nodes without any dependency.
async fn shapes(workers: u64, nodes: u64) -> Value {
    let daemon = Daemon::start(0);
    let probe = fsync_probe(daemon.folder());
    let mut peer = Peer::connect(&daemon.socket()).await;
    let ids: Vec<String> = (0..nodes).map(|_| uuid::Uuid::now_v7().to_string()).collect();
    let nodes = nodes as usize;
    let layer = 16;
    // Which nodes a node waits for.
    let shape = |name: &str, n: usize| -> Vec<usize> {
        match name {
            "chain" if n > 0 => vec![n - 1],
            "fan_out" if n > 0 => vec![0],
            // As wide as fits in a request line.
            "fan_in" if n == nodes - 1 => (0..n.min(10_000)).collect(),
            "layers" if n >= layer => {
                let begin = (n / layer - 1) * layer;
                vec![begin + n % layer, begin + (n + 1) % layer]
            }
            _ => Vec::new(),
        }
    };
    let mut report = serde_json::Map::new();
    let mut base = 0.0;
    for name in ["independent", "chain", "fan_out", "fan_in", "layers"] {
        // A chain gives work to one at a time, however many wait.
        let task = self::task(&mut peer).await;
        let fresh: Vec<String> = ids.iter().map(|_| uuid::Uuid::now_v7().to_string()).collect();
        for begin in (0..nodes).step_by(5_000) {
            let list: Vec<String> = (begin..nodes.min(begin + 5_000))
                .map(|n| {
                    let needs: Vec<String> = shape(name, n)
                        .into_iter()
                        .map(|before| format!("\"{}\"", fresh[before]))
                        .collect();
                    format!(
                        "{{\"id\":\"{}\",\"dependencies\":[{}]}}",
                        fresh[n],
                        needs.join(",")
                    )
                })
                .collect();
            let list = list.join(",");
            let line = format!(
                "{{\"method\":\"AddNodes\",\"params\":{{\"task_id\":\"{task}\",\"nodes\":[{list}]}}}}\n"
            );
            peer.call(&line, &mut histogram()).await;
        }
        let times = Times::new();
        let took = work_off(&daemon, &task, nodes as u64, workers, false, &times).await;
        let per_node_us = took.as_secs_f64() * 1e6 / nodes as f64;
        if name == "independent" {
            base = per_node_us;
        }
        report.insert(
            name.to_owned(),
            json!({ "us_per_node": per_node_us, "times_independent": per_node_us / base, "methods": times.report() }),
        );
    }
    json!({ "connections": workers, "nodes": nodes, "shapes": report, "fdatasync_16_kib": percentiles(&probe) })
}

/// Acquiring from one connection, in an empty database and beside very many finished nodes.
async fn beside_finished(finished: u64) -> Value {
    let daemon = Daemon::start(50);
    let probe = fsync_probe(daemon.folder());
    let mut peer = Peer::connect(&daemon.socket()).await;
    let mut medians = Vec::new();
    let mut report = serde_json::Map::new();
    let mut done = 0;
    for name in ["empty", "beside_finished"] {
        // Alternating, so that both see the same disk.
        let task = self::task(&mut peer).await;
        add_plain(&mut peer, &task, 3_000, &mut histogram()).await;
        let times = Times::new();
        work_off(&daemon, &task, 2_000, 1, false, &times).await;
        medians.push(times.0.borrow().0.value_at_quantile(0.5) as f64);
        report.insert(name.to_owned(), times.report());
        if name == "empty" {
            while done < finished {
                let some = (finished - done).min(500_000);
                let old = self::task(&mut peer).await;
                add_plain(&mut peer, &old, some, &mut histogram()).await;
                work_off(&daemon, &old, some, 64, true, &Times::new()).await;
                done += some;
            }
        }
    }
    json!({
        "finished_nodes": done,
        "acquire_p50_ratio": medians[1] / medians[0],
        "methods": report,
        "fdatasync_16_kib": percentiles(&probe),
        "fdatasync_16_kib_afterwards": percentiles(&fsync_probe(daemon.folder())),
    })
}

/// From the answer of the completion (its commit is on disk) to the answer of the acquire that waited for it.
async fn wake_up(rounds: u64) -> Value {
    let daemon = Daemon::start(50);
    let probe = fsync_probe(daemon.folder());
    let mut peer = Peer::connect(&daemon.socket()).await;
    let mut waiting = Peer::connect(&daemon.socket()).await;
    let (mut after_commit, mut whole) = (histogram(), histogram());
    for _ in 0..rounds {
        let (a, b) = (uuid::Uuid::now_v7(), uuid::Uuid::now_v7());
        let line = format!(
            "{{\"method\":\"RegisterTask\",\"params\":{{\"goal\":\"load\",\"initial_nodes\":[{{\"id\":\"{a}\"}},\
             {{\"id\":\"{b}\",\"dependencies\":[\"{a}\"]}}]}}}}\n"
        );
        let task = peer.call_json(&line).await["result"]["task_id"]
            .as_str()
            .unwrap()
            .to_owned();
        let first = peer.acquire(&task, 0, &mut histogram()).await.unwrap();
        let wait = format!(
            "{{\"method\":\"AcquireNextNode\",\"params\":{{\"task_id\":\"{task}\",\"wait_secs\":60}}}}\n"
        );
        waiting.send(&wait).await;
        // Until the wait is known to be in line: a request behind it in the store's queue has been answered.
        peer.call_json("{\"method\":\"RegisterTask\",\"params\":{\"goal\":\"marker\"}}\n")
            .await;
        let begun = Instant::now();
        let line = complete_line(&task, &first);
        peer.send(&line).await;
        let committed = async {
            peer.answer().await;
            Instant::now()
        };
        let woken = async {
            assert!(leased(waiting.answer().await).is_some());
            Instant::now()
        };
        let (committed, woken) = tokio::join!(committed, woken);
        whole.saturating_record((woken - begun).as_nanos() as u64);
        after_commit.saturating_record(woken.saturating_duration_since(committed).as_nanos().max(1) as u64);
    }
    json!({
        "after_the_commit": percentiles(&after_commit),
        "from_the_request": percentiles(&whole),
        "fdatasync_16_kib": percentiles(&probe),
    })
}

async fn memory(scale: u64) -> Value {
    let daemon = Daemon::start(50);
    let idle_kib = daemon.resident_kib();
    let (cpu_ms, wakeups) = (daemon.cpu_ms(), daemon.wakeups());
    tokio::time::sleep(Duration::from_secs(scale)).await;
    let idle = json!({
        "secs": scale,
        "cpu_ms": daemon.cpu_ms() - cpu_ms,
        "wakeups": daemon.wakeups() - wakeups,
    });
    let mut idlers = Vec::new();
    for _ in 0..2_000 {
        let mut peer = Peer::connect(&daemon.socket()).await;
        peer.call_json("{\"method\":\"Health\"}\n").await;
        idlers.push(peer);
    }
    let connected_kib = daemon.resident_kib();
    drop(idlers);
    let mut peer = Peer::connect(&daemon.socket()).await;
    let mut samples = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(6 * scale) {
        let task = self::task(&mut peer).await;
        add_plain(&mut peer, &task, 5_000, &mut histogram()).await;
        work_off(&daemon, &task, 5_000, 64, false, &Times::new()).await;
        samples.push((begun.elapsed().as_secs_f64(), daemon.resident_kib() as f64));
    }
    // The slope of the second half: the first fills caches that have a bound.
    let half = &samples[samples.len() / 2..];
    let count = half.len() as f64;
    let (x, y) = (
        half.iter().map(|s| s.0).sum::<f64>() / count,
        half.iter().map(|s| s.1).sum::<f64>() / count,
    );
    let over = half.iter().map(|s| (s.0 - x) * (s.1 - y)).sum::<f64>();
    let under = half.iter().map(|s| (s.0 - x).powi(2)).sum::<f64>().max(1e-9);
    json!({
        "idle_kib": idle_kib,
        "with_2000_idle_connections_kib": connected_kib,
        "idle": idle,
        "under_load_kib": samples.last().map(|s| s.1),
        "under_load_slope_kib_per_min": over / under * 60.0,
        "under_load_secs": begun.elapsed().as_secs_f64(),
    })
}
