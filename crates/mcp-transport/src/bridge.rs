//! The bridge: bytes copied between what a program inside a session speaks and the gateway's sockets outside.
//!
//! Standard library alone, and in one file, so that it can be compiled by itself into a small static executable that
//! works in an image that holds nothing else (see `bridge_main.rs`). No async runtime: a thread for each direction.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The longest address of a socket, in bytes.
const ADDRESS_BYTES_MAX: usize = 107;
/// What is copied at once, in bytes.
const COPY_BYTES: usize = 16 * 1024;
/// A thread does nothing but copy.
const STACK_BYTES: usize = 64 * 1024;
/// Connections at once. Those beyond are closed.
const CONNECTIONS_MAX: usize = 64;

/// Copies until the end of `from`, each piece as soon as it is there.
fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = [0; COPY_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                to.write_all(&buffer[..length])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Connects to a socket whose path may be longer than a socket's address.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    match (socket.parent(), socket.file_name()) {
        (Some(above), Some(name)) if socket.as_os_str().len() > ADDRESS_BYTES_MAX => {
            let above = File::open(above)?;
            let short = format!("/proc/self/fd/{}", above.as_raw_fd());
            UnixStream::connect(Path::new(&short).join(name))
        }
        _ => UnixStream::connect(socket),
    }
}

/// Connects a program's two streams with the gateway's socket, until the gateway has ended the connection. When
/// `input` ends the gateway is told, and what it still answers is passed on.
///
/// # Errors
/// The socket cannot be connected to, or writing failed.
pub fn stdio<R, W>(socket: &Path, input: R, output: W) -> io::Result<()>
where
    R: Read + Send + 'static,
    W: Write,
{
    let stream = connect(socket)?;
    let writer = stream.try_clone()?;
    thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        // A gateway that has gone ends the other direction, too.
        let _ = copy(input, &writer);
        let _ = writer.shutdown(Shutdown::Write);
    })?;
    copy(&stream, output)
}

/// Accepts connections, and connects each with the gateway's HTTP socket, for ever. The token is the gateway's to
/// check: this copies bytes. At most 64 at once.
///
/// # Errors
/// The listener is broken.
pub fn serve_http(listener: &TcpListener, socket: PathBuf) -> io::Result<()> {
    let socket: Arc<Path> = socket.into();
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let inside = match listener.accept() {
            Ok((inside, _)) => inside,
            // A client that has gone already.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                ) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (socket, counted) = (Arc::clone(&socket), Arc::clone(&open));
        let started = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            // There is nobody to tell: the client sees that its connection has ended.
            let _ = join(&inside, &socket);
            counted.fetch_sub(1, Ordering::Relaxed);
        });
        if started.is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn join(inside: &TcpStream, socket: &Path) -> io::Result<()> {
    // Small messages in both directions: without it, each waits for the other's acknowledgement.
    inside.set_nodelay(true)?;
    let outside = connect(socket)?;
    let (inside_too, outside_too) = (inside.try_clone()?, outside.try_clone()?);
    thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        let _ = copy(&inside_too, &outside_too);
        let _ = outside_too.shutdown(Shutdown::Write);
    })?;
    let copied = copy(&outside, inside);
    // Ends the other direction, too: HTTP has nothing to say to a server that has gone.
    let _ = inside.shutdown(Shutdown::Both);
    copied
}

/// The whole program: `mcp [SOCKET]` connects standard input and output with the gateway;
/// `mcp --http ADDRESS [SOCKET]` serves HTTP on a loopback address. The sockets' usual places are in
/// `$AGENTD_RUN_DIR`, or `/run/agentd`: `mcp.sock` and `mcp-http.sock`.
///
/// # Errors
/// A sentence for people.
pub fn run(arguments: &[String], run_dir: &Path) -> Result<(), String> {
    let (http, rest) = match arguments {
        [flag, address, rest @ ..] if flag == "--http" => (Some(address), rest),
        rest => (None, rest),
    };
    let name = if http.is_some() {
        "mcp-http.sock"
    } else {
        "mcp.sock"
    };
    let socket = match rest {
        [] => run_dir.join(name),
        [socket] if !socket.starts_with("--") => PathBuf::from(socket),
        _ => return Err("usage: mcp [SOCKET] | mcp --http ADDRESS [SOCKET]".into()),
    };
    match http {
        None => stdio(&socket, io::stdin(), io::stdout().lock())
            .map_err(|error| format!("cannot talk to the gateway on {}: {error}", socket.display())),
        Some(address) => {
            let listener =
                TcpListener::bind(address).map_err(|error| format!("cannot listen on {address}: {error}"))?;
            let is_local = listener
                .local_addr()
                .is_ok_and(|address| address.ip().is_loopback());
            if !is_local {
                return Err(format!("{address} is not a loopback address"));
            }
            serve_http(&listener, socket).map_err(|error| format!("cannot listen on {address}: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_socket_may_be_deep_below() {
        let temporary = tempfile::tempdir().unwrap();
        let above = temporary.path().join("a".repeat(120));
        std::fs::create_dir(&above).unwrap();
        let dir = File::open(&above).unwrap();
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/mcp.sock", dir.as_raw_fd())).unwrap();
        let mut stream = connect(&above.join("mcp.sock")).unwrap();
        stream.write_all(b"x").unwrap();
        let mut byte = [0];
        listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }
}
