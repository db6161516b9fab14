//! Load on the real daemon, over its socket: `cargo bench --bench load [-- --quick] [-- --only NAME]`.
//!
//! Prints one JSON document: for every workload its rate and, per method, the 50th, 95th and 99th percentile of
//! the time from request to answer, and beside each the same percentiles of an `fdatasync` of 16 KiB on the same
//! disk at that time. Machines and disks differ from minute to minute: read the ratios.
//!
//! The daemon runs with its normal durability. The load program shares the processors with it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a load program that cannot go on ends"
)]

mod daemon;
mod measure;
mod peer;
mod workloads;

use measure::brief;
use serde_json::{Map, json};
use std::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let quick = args.iter().any(|arg| arg == "--quick");
    let only = args
        .iter()
        .position(|arg| arg == "--only")
        .and_then(|at| args.get(at + 1))
        .cloned();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut report = Map::new();
    let scale = if quick { 1 } else { 10 };
    for (name, workload) in workloads::ALL {
        if only.as_deref().is_some_and(|only| !name.contains(only)) {
            continue;
        }
        eprintln!("{name} …");
        let begun = Instant::now();
        let result = runtime.block_on(workload(scale));
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
