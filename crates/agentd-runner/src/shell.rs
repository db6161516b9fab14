//! Words for the commands that are shown to people.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// A text as a shell reads it as one word.
#[must_use]
pub fn word(text: impl AsRef<OsStr>) -> String {
    let text = text.as_ref();
    match shlex::bytes::try_quote(text.as_bytes()) {
        Ok(quoted) => String::from_utf8_lossy(&quoted).into_owned(),
        // A zero byte, which no argument can have.
        Err(_) => text.to_string_lossy().into_owned(),
    }
}
