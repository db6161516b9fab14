//! What the agent leaves as its result, `result.json` in its run directory: copied, with every secret redacted, to where
//! the agent cannot reach it. What it says is not looked at here.

use crate::dir::SessionDir;
use crate::redact::Redactor;
use agentd_protocol::limits::RESULT_BYTES_MAX;
use mcp_transport::redacted::without_secrets;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

/// Its name in the run directory.
const NAME: &str = "result.json";

/// Copies it, if there is one. One that is too long is copied as far as shows that it is.
///
/// # Errors
/// A sentence for people: it is no file, or cannot be read or written.
pub(super) fn keep(dir: &SessionDir, redactor: &Redactor) -> Result<(), String> {
    let failed = |error: io::Error| format!("the result that the agent left cannot be kept: {error}");
    // The agent may have put anything there: a link to somebody's secret, a pipe that nobody writes to.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(dir.run().join(NAME));
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err("the result that the agent left is a symbolic link; it has to be a file".into());
        }
        Err(error) => return Err(failed(error)),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err("the result that the agent left is no file".into());
    }
    let mut content = Vec::new();
    let most = RESULT_BYTES_MAX as u64 + 1;
    file.take(most).read_to_end(&mut content).map_err(failed)?;
    let temporary = dir.root().join("result.json.new");
    // In whatever way its strings are written.
    if let Ok(text) = std::str::from_utf8(&content) {
        let redact = |text: &str| redactor.redact_text(text);
        content = without_secrets(text, &redact, usize::MAX).into_bytes();
    }
    fs::write(&temporary, redactor.redact(&content)).map_err(failed)?;
    fs::rename(&temporary, dir.result()).map_err(failed)
}
