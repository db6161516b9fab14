//! What the forge says beside its records: headers, and why it refuses.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;

/// How much of an explanation is passed on.
pub(crate) const MESSAGE_CHARS_MAX: usize = 500;

/// The words in an error's body: of its JSON, or the beginning of a text.
pub(crate) fn explanation(bytes: &[u8]) -> String {
    let value: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
    let mut words = Vec::new();
    words.extend(value["message"].as_str().filter(|message| !message.is_empty()));
    words.extend(
        value["errors"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str),
    );
    let text = String::from_utf8_lossy(bytes);
    if words.is_empty() && !value.is_object() && !text.contains('<') {
        words.push(text.trim());
    }
    words
        .join("; ")
        .chars()
        .filter(|c| !c.is_control())
        .take(MESSAGE_CHARS_MAX)
        .collect()
}

/// A header that is a number.
pub(crate) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Whether a `Link` leads to a next page.
pub(crate) fn names_next(link: &str) -> bool {
    link.contains("rel=\"next\"") || link.contains("rel=next")
}

/// `Retry-After`: seconds, or a date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(Duration::from_secs(u64::from(seconds)));
    }
    let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(jiff::Timestamp::now())).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explanations_are_short_and_without_controls() {
        assert_eq!(
            explanation(br#"{"message":"no such branch","errors":["a","b"]}"#),
            "no such branch; a; b"
        );
        assert_eq!(explanation(b"plain words\n"), "plain words");
        assert_eq!(explanation(b"<html>a page of a proxy</html>"), "");
        assert_eq!(explanation(br#"{"other":1}"#), "");
        let long = explanation(&b"x\x1b[31m".repeat(1000));
        assert!(long.chars().count() == MESSAGE_CHARS_MAX && !long.contains('\x1b'));
    }

    #[test]
    fn when_to_try_again() {
        let after = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(after("17"), Some(Duration::from_secs(17)));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(after("Wed, 21 Oct 2099 07:28:00 GMT").unwrap() > Duration::from_secs(1_000_000));
        assert_eq!(after("soon"), None);
    }
}
