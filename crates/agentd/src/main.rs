//! agentd: one program that is the daemon, its command line and its helpers.
//!
//! `main` is the whole life: read the command line, read the surroundings once, run one thing, end with its exit
//! code. What the settings mean is in `settings`, what the commands do in `cli`, what the daemon does in `daemon`.

mod cli;
mod console;
mod daemon;
mod endpoint;
mod failure;
mod guard;
mod mcp;
mod settings;

use agentd_supervisor::guard::{PLUGIN_COMMAND, plugin_main};
use clap::Parser;
use clap::error::ErrorKind;
use cli::{Cli, Command, Context};
use console::Console;
use failure::{Exit, Failure};
use settings::Environment;
use std::process::ExitCode;
use tokio::runtime::{Builder, Runtime};

/// Threads for connections. The store's writer is a thread of its own and needs a processor, too: on small
/// machines one thread for all connections is faster than two that hand them to each other.
const WORKER_THREADS_MAX: usize = 4;

fn main() -> ExitCode {
    // A session's supervisor lives as long as the session, and there are many: it touches nothing of the rest.
    let mut args = std::env::args_os().skip(1);
    if args
        .next()
        .is_some_and(|first| first == daemon::sessions::SUPERVISOR_COMMAND)
        && let Some(dir) = args.next_back()
    {
        return match daemon::sessions::other_versions(args) {
            Some(versions) => agentd_supervisor::supervisor_main_as(dir.as_ref(), versions),
            None => agentd_supervisor::supervisor_main(dir.as_ref()),
        };
    }
    // As long, and as many.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == PLUGIN_COMMAND) {
        return plugin_main(&args.collect::<Vec<_>>());
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody may be there to read it.
            let _ = error.print();
            let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked_for { Exit::Ok } else { Exit::Usage }.into();
        }
    };
    let environment = Environment::of_process();
    let no_color = environment.get("NO_COLOR").is_some();
    let console = Console::new(cli.global.json, cli.global.color, no_color);
    let outcome =
        match cli.command {
            Some(Command::Supervise) => return agentd_runner::exec::supervise_main(),
            Some(Command::Guard(args)) => return guard::guard_main(args.fd, &args.command),
            // These say what is wrong with the settings, and do not need them to be right.
            Some(Command::Init(args)) => args.run(&cli.global, &environment, &console),
            Some(Command::Check(args)) => one_thread()
                .and_then(|runtime| runtime.block_on(args.run(&cli.global, &environment, &console))),
            Some(Command::Doctor(args)) => one_thread()
                .and_then(|runtime| runtime.block_on(args.run(&cli.global, &environment, &console))),
            Some(Command::Completions(args)) => args.run(),
            Some(Command::Man(args)) => args.run(),
            None => run_daemon(
                &cli.global,
                &cli::daemon::DaemonArgs::default(),
                environment,
                console.clone(),
            ),
            Some(Command::Daemon(args)) => run_daemon(&cli.global, &args, environment, console.clone()),
            Some(command) => run_command(&cli.global, command, environment, console.clone()),
        };
    outcome
        .unwrap_or_else(|failure| {
            console.failure(&failure);
            failure.exit
        })
        .into()
}

fn run_daemon(
    global: &cli::Global,
    args: &cli::daemon::DaemonArgs,
    environment: Environment,
    console: Console,
) -> Result<Exit, Failure> {
    // While there is one thread.
    let refused = daemon::process::prepare();
    let journal_stream = environment
        .get("JOURNAL_STREAM")
        .and_then(|stream| stream.to_str())
        .map(str::to_owned);
    let context = Context::new(&cli::daemon::flags(global, Some(args)), environment, console)?;
    let filter = context.settings.log_filter.as_deref();
    daemon::logging::begin(filter, "agentd=info", journal_stream.as_deref())?;
    refused.iter().for_each(|what| tracing::warn!("{what}"));
    let runtime = many_threads()?;
    let outcome = runtime.block_on(daemon::run(&context));
    // What is still running then is a read that nobody waits for.
    runtime.shutdown_background();
    outcome
}

fn run_command(
    global: &cli::Global,
    command: Command,
    environment: Environment,
    console: Console,
) -> Result<Exit, Failure> {
    let flags = cli::daemon::flags(global, None);
    let context = if command.needs_config() {
        Context::new(&flags, environment, console)?
    } else {
        // A run that has to be the daemon itself says it, and fails.
        let says = !matches!(command, Command::Run(_));
        Context::for_client(&flags, environment, console, says)?
    };
    let runtime = if command.is_heavy() {
        daemon::process::ignore_file_size_signal();
        daemon::process::raise_open_files();
        match context.settings.log_filter.as_deref() {
            // Whoever asks for a log gets one.
            Some(filter) => daemon::logging::begin(Some(filter), "agentd=warn", None)?,
            None => daemon::logging::begin_for_command(&context.console)?,
        }
        many_threads()?
    } else {
        one_thread()?
    };
    let outcome = runtime.block_on(command.run(&context));
    runtime.shutdown_background();
    outcome
}

fn many_threads() -> Result<Runtime, Failure> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    built(
        Builder::new_multi_thread()
            .worker_threads((cores / 2).clamp(1, WORKER_THREADS_MAX))
            .enable_all()
            .build(),
    )
}

fn one_thread() -> Result<Runtime, Failure> {
    built(Builder::new_current_thread().enable_all().build())
}

fn built(runtime: std::io::Result<Runtime>) -> Result<Runtime, Failure> {
    runtime.map_err(|error| Failure::internal(format!("cannot start: {error}")))
}
