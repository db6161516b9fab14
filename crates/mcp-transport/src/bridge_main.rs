//! The bridge as a program of its own: compiled by itself, without any crate.

#[path = "bridge.rs"]
mod bridge;

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let run_dir = std::env::var_os("AGENTD_RUN_DIR").map_or_else(|| PathBuf::from("/run/agentd"), PathBuf::from);
    match bridge::run(&arguments, &run_dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("agentd mcp bridge: {sentence}");
            ExitCode::FAILURE
        }
    }
}
