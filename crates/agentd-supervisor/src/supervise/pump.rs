//! Carries output from pipes to where it is kept.

use std::io;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// One read, in bytes: as much as a pipe holds.
const READ_BYTES: usize = 64 * 1024;
/// Reads after the end of the agent: as much as the largest pipe holds, should somebody else write on.
const READS_AFTER_END_MAX: usize = 64;

/// Reads until the pipe's end, or until the sender of `over` says that the agent is gone and has taken what is there.
pub(super) fn start(
    pipe: Receiver,
    mut over: watch::Receiver<bool>,
    mut sink: impl FnMut(&[u8]) + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            tokio::select! {
                biased;
                _ = over.wait_for(|over| *over) => break,
                ready = pipe.readable() => if ready.is_err() { return },
            }
            match pipe.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => sink(&buffer[..length]),
                Err(error) if is_temporary(&error) => {}
                Err(_) => return,
            }
        }
        for _ in 0..READS_AFTER_END_MAX {
            // Asked of the kernel itself: what the runtime knows of the pipe's readiness may be old.
            match nix::unistd::read(&pipe, &mut buffer) {
                Ok(length @ 1..) => sink(&buffer[..length]),
                Ok(0) | Err(_) => return,
            }
        }
    })
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
