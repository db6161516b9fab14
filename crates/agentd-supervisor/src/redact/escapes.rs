//! What a text means that stands in a string of JSON.

/// The text without its escapes; those that JSON does not know stay. None when there is none.
pub(super) fn unescaped(text: &str) -> Option<String> {
    let mut rest = text;
    let mut out = String::new();
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let (meant, bytes) = escape(&rest[at..]).unwrap_or(('\\', 1));
        out.push(meant);
        rest = &rest[at + bytes..];
    }
    if rest.len() == text.len() {
        return None;
    }
    out.push_str(rest);
    Some(out)
}

/// What the escape means that the text begins with, and how long it is.
fn escape(text: &str) -> Option<(char, usize)> {
    let short = match text.as_bytes().get(1)? {
        same @ (b'"' | b'\\' | b'/') => char::from(*same),
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'u' => return numbered(text),
        _ => return None,
    };
    Some((short, 2))
}

fn numbered(text: &str) -> Option<(char, usize)> {
    let unit = |from: usize| {
        let digits = text.get(from..)?.strip_prefix("\\u")?.get(..4)?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u16::from_str_radix(digits, 16).ok())?
    };
    let first = unit(0)?;
    if let Some(character) = char::from_u32(first.into()) {
        return Some((character, 6));
    }
    let pair = char::decode_utf16([first, unit(6)?]).next()?.ok()?;
    Some((pair, 12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_mean_what_json_says() {
        let all = "pä\"\\/\n\r\t\u{8}\u{c}\u{1f600}+=";
        let json = serde_json::to_string(all).unwrap();
        assert_eq!(
            unescaped(json.trim_matches('"')).as_deref(),
            Some(all.trim_matches('"'))
        );
        assert_eq!(
            unescaped("\\ud83d\\uDE00\\u002B\\u002b").as_deref(),
            Some("\u{1f600}++")
        );
        for strange in [
            "\\",
            "\\x",
            "\\u+123",
            "\\u12",
            "\\ud800",
            "\\ud800\\u0041",
            "\\ü",
        ] {
            assert!(unescaped(strange).unwrap().starts_with('\\'), "{strange}");
        }
        assert_eq!(unescaped("none"), None);
    }
}
