//! An MCP server for Forgejo and Gitea, over stdin and stdout.
//!
//! ```text
//!   client ──JSON-RPC, one message a line──▶ server ──▶ tools (a table) ──▶ client ──HTTP──▶ forge
//! ```
//!
//! - `tools` is the table of what there is, and a module for each group of tools.
//! - `client` makes requests; `path` builds their addresses; `error` says what went wrong, from what the forge
//!   `said`.
//! - `shape` trims the forge's records; `page` cuts what is long and says how to go on.
//!
//! *Architecture Invariant:* the forge's fields are looked up in JSON values. No type models a forge's record, so that a
//! field that is new, gone or null in one version of one forge breaks nothing.

mod client;
mod config;
mod error;
mod page;
mod path;
mod said;
mod server;
mod shape;
mod tools;

use std::process::ExitCode;

use clap::Parser;
use rmcp::ServiceExt;
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::transport::io::stdio_pipes;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use client::Forge;
use config::Flags;
use server::{Server, offered};

/// The longest message that a client may send: a file of the size that can be written, and what is around it.
const LINE_BYTES_MAX: usize = 12 * 1024 * 1024;

/// The exit status for a wrong command line or environment, as in sysexits.h.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let flags = Flags::parse();
    if flags.print_tools {
        return match serde_json::to_string_pretty(&offered(&flags.offer())) {
            Ok(tools) => {
                println!("{tools}");
                ExitCode::SUCCESS
            }
            Err(_) => ExitCode::FAILURE,
        };
    }
    let filter =
        EnvFilter::try_from_env("FORGEJO_LOG").unwrap_or_else(|_| EnvFilter::new("warn,forgejo_mcp=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let server = match server(flags) {
        Ok(server) => server,
        Err(why) => {
            eprintln!("forgejo-mcp: {why}");
            return ExitCode::from(USAGE);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("forgejo-mcp: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(serve(server));
    // A read of a terminal or file in a thread of its own would hold the end up.
    runtime.shutdown_background();
    code
}

fn server(flags: Flags) -> Result<Server, Box<dyn std::error::Error>> {
    let config = flags.config(|name| std::env::var(name).ok())?;
    if config.token.is_none() {
        tracing::warn!("there is no token (FORGEJO_TOKEN): only what is public can be read");
    } else if config.api.scheme() == "http" && !is_loopback(&config.api) {
        tracing::warn!(
            "the token goes over http to {}: anyone between can read it",
            config.api.host_str().unwrap_or("?")
        );
    }
    // Whichever library asks for the process's own: ring needs no C compiler's newest tricks and has a plain licence.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let offer = config.offer.clone();
    Ok(Server::new(Forge::new(config)?, offer))
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Serves until the client closes stdin, or a signal says to end.
async fn serve(server: Server) -> ExitCode {
    let (read, write) = stdio_pipes();
    let transport = AsyncRwTransport::new_server(read, write).with_max_line_length(LINE_BYTES_MAX);
    let (mut term, mut interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(term), Ok(interrupt)) => (term, interrupt),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "signals cannot be waited for");
            return ExitCode::FAILURE;
        }
    };
    let session = async {
        match server.serve(transport).await {
            Ok(running) => running
                .waiting()
                .await
                .map(drop)
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    };
    tokio::select! {
        ended = session => match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::warn!(error, "the session ended early");
                ExitCode::FAILURE
            }
        },
        _ = term.recv() => ExitCode::SUCCESS,
        _ = interrupt.recv() => ExitCode::SUCCESS,
    }
}
