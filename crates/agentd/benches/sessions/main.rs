//! What sessions cost, with the real daemon: `cargo bench -p agentd --bench sessions [-- --quick] [-- --only NAME]`.
//!
//! Prints one JSON document. What is compared runs side by side, in turns, so that whatever else the machine does meets both:
//! read the ratios. Beside the figures stands what an `fdatasync` of 16 KiB took on the same disk. Needs Podman with
//! runc, and a static busybox for its image; as root, or as a user who can run containers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a load program that cannot go on ends"
)]

mod crowd;
mod declared;
mod exits;
#[path = "../load/measure.rs"]
mod measure;
#[path = "../../tests/support/podman.rs"]
mod podman;
mod site;
#[path = "../../tests/support/mod.rs"]
mod support;
mod walls;

use measure::brief;
use serde_json::{Map, Value, json};
use std::time::Instant;

/// It is told whether it is to be quick.
type Workload = fn(bool) -> Value;

const ALL: &[(&str, Workload)] = &[
    ("wall_time_podman", walls::podman),
    ("wall_time_process", walls::process),
    ("fifty_at_once_podman", crowd::podman),
    ("fifty_at_once_process", crowd::process),
    ("memory", crowd::memory),
    ("exit_noticed", exits::noticed),
    ("thousand_agents", declared::thousand),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let quick = args.iter().any(|arg| arg == "--quick");
    let only = args.iter().position(|arg| arg == "--only");
    let only = only.and_then(|at| args.get(at + 1));
    let mut report = Map::new();
    for (name, workload) in ALL {
        if only.is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        eprintln!("{name} …");
        let begun = Instant::now();
        let result = workload(quick);
        eprintln!(
            "{name}: {:.1} s  {}",
            begun.elapsed().as_secs_f64(),
            brief(&result)
        );
        report.insert((*name).to_owned(), result);
    }
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{:#}",
        json!({ "agentd": env!("CARGO_PKG_VERSION"), "cores": cores, "quick": quick, "workloads": report })
    );
}
