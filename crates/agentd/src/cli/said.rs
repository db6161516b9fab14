//! What a program says on a pipe, in memory of bounded size.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Reads a stream to its end and gives its first `bytes_max` bytes. Nothing is what no stream says.
///
/// # Errors
/// When it cannot be read.
pub(super) async fn beginning(stream: Option<impl AsyncRead + Unpin>, bytes_max: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        (&mut stream).take(bytes_max).read_to_end(&mut bytes).await?;
        // What is longer is read away, so that the program can end.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
