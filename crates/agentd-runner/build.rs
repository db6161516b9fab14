//! Compiles the programs that agentd puts into sessions, and carries inside itself: static executables. One is the first
//! process of a container, the other brings an agent to its tools.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Source, what else it is made of, and the program's name.
const PROGRAMS: [(&str, &[&str], &str); 2] = [
    (
        "src/inside/init.rs",
        &["../agentd-supervisor/src/start_error/cause.rs"],
        "agentd-init",
    ),
    (
        "../mcp-transport/src/bridge_main.rs",
        &["../mcp-transport/src/bridge.rs"],
        "agentd-mcp",
    ),
];

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    for (source, parts, program) in PROGRAMS {
        for file in [&[source], parts].concat() {
            println!("cargo::rerun-if-changed={file}");
        }
        if let Err(error) = build(source, program) {
            println!("cargo::error=cannot build {source} as a static program: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn build(source: &str, program: &str) -> Result<(), String> {
    let variable = |name: &str| env::var_os(name).ok_or_else(|| format!("cargo has not set {name}"));
    let crate_name = program.replace('-', "_");
    let program = PathBuf::from(variable("OUT_DIR")?).join(program);
    let mut rustc = Command::new(variable("RUSTC")?);
    rustc
        .args([
            "--edition",
            "2024",
            "--crate-name",
            &crate_name,
            "--crate-type",
            "bin",
        ])
        .arg("--target")
        .arg(variable("TARGET")?)
        // Without these it would need a loader and libraries that an image may not have.
        .args([
            "-C",
            "target-feature=+crt-static",
            "-C",
            "relocation-model=static",
        ])
        .args([
            "-C",
            "panic=abort",
            "-C",
            "opt-level=z",
            "-C",
            "lto=fat",
            "-C",
            "codegen-units=1",
        ])
        .args(["-C", "strip=symbols", "-D", "warnings"]);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc.arg("-C").arg({
            let mut option = std::ffi::OsString::from("linker=");
            option.push(linker);
            option
        });
    }
    rustc.arg("-o").arg(program).arg(source);
    let output = rustc
        .output()
        .map_err(|error| format!("{} cannot be run: {error}", rustc.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(());
    }
    for line in said.lines().take(200) {
        println!("cargo::warning={line}");
    }
    Err(format!(
        "{}; a C library for static linking is needed (Debian: libc6-dev; others: glibc-static)",
        output.status
    ))
}
