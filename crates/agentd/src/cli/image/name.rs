//! What an image may be called.

use std::fmt;
use std::str::FromStr;

/// The most of an image's name.
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// A whole name: `localhost/agent:1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImageName(String);

impl ImageName {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ImageName {
    type Err = String;

    /// Completes what is left out: `agent` is `localhost/agent:latest`.
    fn from_str(text: &str) -> Result<Self, String> {
        let last = text.rfind('/').map_or(0, |slash| slash + 1);
        let (path, tag) = match text[last..].find(':') {
            Some(colon) => (&text[..last + colon], &text[last + colon + 1..]),
            None => (text, "latest"),
        };
        if text.len() > NAME_BYTES_MAX || !path.split('/').enumerate().all(is_part) || !is_tag(tag) {
            return Err(
                "it has small letters, digits and between them . _ -, in parts separated by /, and perhaps a tag: \
                 agent, localhost/agent:1"
                    .into(),
            );
        }
        let host = if path.contains('/') { "" } else { "localhost/" };
        Ok(Self(format!("{host}{path}:{tag}")))
    }
}

fn is_part((index, part): (usize, &str)) -> bool {
    // The first of several may be a machine with a port.
    let part = match part.split_once(':') {
        Some((host, port)) if index == 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => part,
    };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut run = 0;
    part.bytes().next().is_some_and(plain)
        && part.bytes().next_back().is_some_and(plain)
        && part.bytes().all(|byte| {
            run = if plain(byte) { 0 } else { run + 1 };
            plain(byte) || (b"._-".contains(&byte) && run < 2)
        })
}

fn is_tag(tag: &str) -> bool {
    (1..=TAG_BYTES_MAX).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_or_refused() {
        let whole = |text: &str| text.parse::<ImageName>().map(|name| name.0);
        for (short, name) in [
            ("agent", "localhost/agent:latest"),
            ("agent:1", "localhost/agent:1"),
            ("localhost/agent:1", "localhost/agent:1"),
            ("host:5000/a/b-c", "host:5000/a/b-c:latest"),
        ] {
            assert_eq!(whole(short).as_deref(), Ok(name));
        }
        for bad in [
            "", "A", "-v", "--all", "a b", "a:", "a:-x", "/a", "a/", "a//b", "a..b", "a@b", "é", "a:b:c",
            "a\n",
        ] {
            assert!(whole(bad).is_err(), "{bad:?}");
        }
        assert!(whole(&"a".repeat(300)).is_err());
    }
}
