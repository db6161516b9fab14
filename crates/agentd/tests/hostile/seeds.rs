//! The fuzz targets' entry points, without a fuzzer: their seeds and some mutations of these, the same in every run.

use crate::raw::Random;
use std::fs;
use std::path::Path;

#[path = "../../../../fuzz/src/entry.rs"]
mod entry;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/seeds")
        .join(target);
    let mut paths: Vec<_> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() > 3);
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

const PARTS: [&str; 24] = [
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "-1",
    "0",
    "1e309",
    "18446744073709551616",
    "\\u0000",
    "\\ud800",
    "\u{0}",
    "é",
    "\"",
    "\\",
    "{",
    "]",
    ",",
    ":",
    "\n",
    "$T1",
    "$N1",
    "$L2",
    "@ 100000\n",
];

/// A few changes of the kind that a fuzzer makes.
pub(crate) fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.pick(seeds).clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(24)).min(bytes.len());
        match random.below(7) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..at, random.pick(&PARTS).bytes())),
            2 => drop(bytes.splice(at..end, random.pick(&PARTS).bytes())),
            3 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap(),
            4 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            5 => {
                let part = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                drop(bytes.splice(to..to, part));
            }
            _ => {
                let other = random.pick(seeds);
                let from = random.below(other.len() + 1);
                let until = (from + random.below(200)).min(other.len());
                drop(bytes.splice(at..at, other[from..until].iter().copied()));
            }
        }
    }
    bytes
}

fn exercise(target: &str, mutations: usize, run: fn(&[u8])) {
    let seeds = seeds(target);
    for seed in &seeds {
        run(seed);
    }
    let mut random = Random(0x5eed);
    for number in 0..mutations {
        let bytes = mutate(&mut random, &seeds);
        let outcome = std::panic::catch_unwind(|| run(&bytes));
        assert!(
            outcome.is_ok(),
            "mutation {number} of {target}: {:?}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

#[test]
fn request_lines() {
    exercise("request_line", 20_000, entry::request_line);
}

#[test]
fn requests_in_a_store() {
    exercise("request_store", 150, entry::request_store);
}

#[test]
fn plans() {
    exercise("plan", 3_000, entry::plan);
}
