//! Compiles the program that is the first process of a session's container: a static executable, which agentd
//! carries inside itself.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const SOURCE: &str = "src/inside/init.rs";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error=cannot build {SOURCE} as a static program: {error}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let variable = |name: &str| env::var_os(name).ok_or_else(|| format!("cargo has not set {name}"));
    let program = PathBuf::from(variable("OUT_DIR")?).join("agentd-init");
    let mut rustc = Command::new(variable("RUSTC")?);
    rustc
        .args([
            "--edition",
            "2024",
            "--crate-name",
            "agentd_init",
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
    rustc.arg("-o").arg(program).arg(SOURCE);
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
