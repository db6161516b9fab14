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
mod peer;
mod workloads;

use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::time::Instant;

/// Percentiles of a duration, in microseconds.
pub(crate) fn percentiles(histogram: &hdrhistogram::Histogram<u64>) -> Value {
    let us = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    json!({ "count": histogram.len(), "p50_us": us(0.50), "p95_us": us(0.95), "p99_us": us(0.99), "max_us": us(1.0) })
}

pub(crate) fn histogram() -> hdrhistogram::Histogram<u64> {
    hdrhistogram::Histogram::new_with_bounds(1, 600_000_000_000, 3).unwrap()
}

/// How long the disk under `folder` takes to make 16 KiB durable.
pub(crate) fn fsync_probe(folder: &Path) -> hdrhistogram::Histogram<u64> {
    let path = folder.join("probe");
    let mut file = File::create(&path).unwrap();
    file.write_all(&vec![0; 4 << 20]).unwrap();
    file.sync_all().unwrap();
    let mut times = histogram();
    for n in 0..200u64 {
        file.seek(std::io::SeekFrom::Start((n % 256) * 16_384)).unwrap();
        file.write_all(&[n as u8; 16_384]).unwrap();
        let begun = Instant::now();
        nix::unistd::fdatasync(&file).unwrap();
        times.saturating_record(begun.elapsed().as_nanos() as u64);
    }
    std::fs::remove_file(path).unwrap();
    times
}

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

fn brief(result: &Value) -> String {
    let shown = result
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| value.is_number());
    shown
        .map(|(name, value)| format!("{name}={value}"))
        .collect::<Vec<_>>()
        .join("  ")
}
