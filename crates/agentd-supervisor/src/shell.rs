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

/// Several texts as as many words.
#[must_use]
pub fn words<T: AsRef<OsStr>>(texts: &[T]) -> String {
    let words: Vec<String> = texts.iter().map(word).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_one_word_to_a_shell() {
        for text in [
            "plain/path-1.2",
            "with blank",
            "it's",
            "$HOME `x` \"y\"",
            "a\nb",
            "",
        ] {
            let script = format!("printf %s {}", word(text));
            let output = std::process::Command::new("/bin/sh")
                .args(["-c", &script])
                .output();
            assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), text);
        }
        assert_eq!(words(&["a b", "c"]), "'a b' c");
    }
}
