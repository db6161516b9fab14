//! What the load programs share: percentiles, and what the disk costs.

use serde_json::{Value, json};
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

/// The numbers of a result, in a line.
pub(crate) fn brief(result: &Value) -> String {
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
