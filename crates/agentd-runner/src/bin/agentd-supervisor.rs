//! The supervisor as a program of its own, for the tests and for looking at it by hand:
//! `agentd-supervisor run PROGRAM ARGUMENT…` runs a command under itself and prints what became of it.

use agentd_runner::exec::{self, CaptureLimits, CommandSpec, Control, GRACE_DEFAULT, SupervisorCommand};
use std::collections::BTreeMap;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("__supervise") => exec::supervise_main(),
        Some("run") => match run(args.collect()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("agentd-supervisor: {error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: agentd-supervisor run PROGRAM [ARGUMENT…]");
            ExitCode::from(64)
        }
    }
}

fn run(argv: Vec<String>) -> Result<(), Box<dyn std::error::Error>> {
    let limits = CaptureLimits {
        head_bytes_max: 64 * 1024,
        tail_bytes_max: 64 * 1024,
    };
    let spec = CommandSpec {
        argv,
        cwd: std::env::current_dir()?,
        env: BTreeMap::new(),
        timeout: None,
        grace: GRACE_DEFAULT,
        stdout: limits,
        stderr: limits,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let finished = runtime.block_on(exec::run(
        &SupervisorCommand::default(),
        &spec,
        Control::default(),
    ))?;
    println!(
        "{:?} after {:?}, {} left behind",
        finished.outcome, finished.duration, finished.leftovers
    );
    print!("{}", finished.stdout.text(usize::MAX).0);
    eprint!("{}", finished.stderr.text(usize::MAX).0);
    Ok(())
}
