//! Secrets taken out of JSON: of what its strings mean, however they are written, of names and of numbers.
//!
//! It goes by the text and reads no values of it: what a strict reader refuses (half a surrogate pair, a thousand levels) or
//! throws away (a name that is there twice) is gone through as well, and all the rest stays as it was written.

use crate::event::Redact;
use crate::message::raw;
use serde_json::Number;
use std::borrow::Cow;

/// What stands between strings, numbers and words.
const BETWEEN: &[u8] = b"{}[]:, \t\r\n";

/// The JSON without secrets, or its beginning when that has `bytes_max`.
#[must_use]
pub fn without_secrets(json: &str, redact: &dyn Redact, bytes_max: usize) -> String {
    let mut out = String::with_capacity(json.len().min(bytes_max));
    let mut rest = json;
    while !rest.is_empty() && out.len() < bytes_max {
        let (token, after) = rest.split_at(token_bytes(rest.as_bytes()));
        match shown(token, redact) {
            Some(shown) => out.push_str(raw(&shown).get()),
            None => out.push_str(token),
        }
        rest = after;
    }
    out
}

/// How long the token is that the text begins with.
fn token_bytes(text: &[u8]) -> usize {
    let is_between = |byte: &u8| BETWEEN.contains(byte);
    match text.first() {
        Some(b'"') => {
            let mut at = 1;
            while at < text.len() {
                match text[at] {
                    b'"' => return at + 1,
                    b'\\' => at += 2,
                    _ => at += 1,
                }
            }
            text.len()
        }
        Some(first) => {
            let between = is_between(first);
            let ends = |byte: &u8| *byte == b'"' || is_between(byte) != between;
            text.iter().position(ends).unwrap_or(text.len())
        }
        None => 0,
    }
}

/// What is shown instead of a token. None when there is no secret in it.
fn shown(token: &str, redact: &dyn Redact) -> Option<String> {
    let hide = |text: &str| Some(redact.redact(text)).filter(|shown| shown != text);
    if token.starts_with('"') {
        let meant: Cow<'_, str> = match serde_json::from_str::<String>(token) {
            Ok(meant) => meant.into(),
            Err(_) => token.trim_matches('"').into(),
        };
        return hide(&meant);
    }
    if BETWEEN.contains(token.as_bytes().first()?) {
        return None;
    }
    hide(token).or_else(|| {
        let number: Number = serde_json::from_str(token).ok()?;
        hide(&number.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redact(text: &str) -> String {
        text.replace("se+same", "[redacted]")
            .replace("12345678", "[redacted]")
    }

    #[test]
    fn secrets_are_taken_out_of_whatever_they_stand_in() {
        for (given, expected) in [
            (
                r#"{"a" : ["open \u0073e\u002Bsame", 7, 123456789, null]}"#,
                r#"{"a" : ["open [redacted]", 7, "[redacted]9", null]}"#,
            ),
            (
                r#"{"se\u002bsame":{"b":true},"c":"\"se+same\""}"#,
                r#"{"[redacted]":{"b":true},"c":"\"[redacted]\""}"#,
            ),
            // What a reader of values would not see.
            (
                r#"{"a":"s\u0065+same","a":1.2345678e7}"#,
                r#"{"a":"[redacted]","a":"[redacted].0"}"#,
            ),
            (r#"["\ud800 se+same"]"#, r#"["\\ud800 [redacted]"]"#),
            // What has none is as it was.
            (
                r#"{"b":1.50,"a":"\u00e9\/","":[]}"#,
                r#"{"b":1.50,"a":"\u00e9\/","":[]}"#,
            ),
            ("\"se+same", "\"[redacted]\""),
            ("\"\\", "\"\\"),
            ("", ""),
        ] {
            assert_eq!(without_secrets(given, &redact, usize::MAX), expected, "{given}");
        }
        let deep = format!("{}\"s\\u0065+same\"{}", "[".repeat(5000), "]".repeat(5000));
        assert!(without_secrets(&deep, &redact, usize::MAX).contains("[\"[redacted]\"]"));
        assert_eq!(
            without_secrets("[1,\"se+same\",2]", &redact, 4),
            "[1,\"[redacted]\""
        );
    }
}
