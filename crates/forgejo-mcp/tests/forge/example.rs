//! The tests' forge as a program: prints its address, and serves until its standard input is closed. Its token is
//! `s3cret-token-0123456789`.
//!
//! ```sh
//! cargo run -p forgejo-mcp --example fake-forge
//! ```

#![allow(clippy::unwrap_used, reason = "it is a part of the tests")]
#![allow(dead_code, reason = "faults are for the tests")]

mod fake;
mod routes;

use fake::{Flavour, Forge};
use std::io::{Read, Write};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let forge = Forge::start(Flavour::Forgejo).await;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", forge.url).unwrap();
    stdout.flush().unwrap();
    let closed = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    closed.await.unwrap().unwrap();
}
