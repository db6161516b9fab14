//! The end of a connection whose client may still be sending.
//!
//! When a Unix socket is closed with something unread in it, its peer's next read or write fails, and many
//! clients then never get to the answer that tells them why. So the end that gives up first stops sending,
//! then reads on for a while and throws away what it reads.

use crate::options::LINGER_BYTES_MAX;
use std::io;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

enum Discarded {
    /// So many bytes, and there may be more later.
    Some(usize),
    /// The client has closed.
    All,
}

/// Until the client closes, or has had enough time or sent enough.
pub(crate) async fn until_quiet(stream: &mut UnixStream, patience: Duration) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let reading = async {
        let mut discarded_bytes = 0;
        while discarded_bytes < LINGER_BYTES_MAX && stream.readable().await.is_ok() {
            match discard(stream) {
                Discarded::Some(bytes) => discarded_bytes += bytes,
                Discarded::All => break,
            }
        }
    };
    // Running out of time is one of the ways in which this ends.
    let _ = tokio::time::timeout(patience, reading).await;
}

/// Only what is there already.
pub(crate) async fn briefly(stream: &mut UnixStream) {
    let _ = stream.shutdown().await;
    discard(stream);
}

/// Throws away what there is to read, up to a bound.
pub(crate) fn read_and_forget(stream: &UnixStream) -> bool {
    matches!(discard(stream), Discarded::Some(_))
}

fn discard(stream: &UnixStream) -> Discarded {
    let mut scratch = [0_u8; 16 * 1024];
    let mut bytes = 0;
    // Bounded, so that other connections get their turn.
    for _ in 0..64 {
        match stream.try_read(&mut scratch) {
            Ok(0) => return Discarded::All,
            Ok(read) => bytes += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => return Discarded::All,
        }
    }
    Discarded::Some(bytes)
}
