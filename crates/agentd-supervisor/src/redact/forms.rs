//! The forms in which a secret turns up in output: as it is, and as programs encode what they print.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Shorter values are words that turn up by chance; they are not looked for.
pub const VALUE_BYTES_MIN: usize = 8;
/// Of a longer value only so many bytes are looked for, at its beginning.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;
/// A line of a value that has several is looked for by itself when it has so many bytes.
pub(super) const LINE_BYTES_MIN: usize = 16;

/// All forms of a secret file's content. None for what is too short.
pub(super) fn forms(content: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut forms = BTreeSet::new();
    let mut value = trimmed(content);
    value = &value[..value.len().min(VALUE_BYTES_MAX)];
    if value.len() >= VALUE_BYTES_MIN {
        add(value, &mut forms);
    }
    let mut lines = value.split(|&byte| byte == b'\n').peekable();
    if lines.next().is_some() && lines.peek().is_some() {
        for line in value.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii) {
            // What stands around a key is in everybody's keys.
            let frame = line.starts_with(b"-----") && line.ends_with(b"-----");
            if line.len() >= LINE_BYTES_MIN && !frame {
                add(line, &mut forms);
            }
        }
    }
    forms
}

/// A secret without the newlines at its end, which editors leave there.
#[must_use]
pub fn trimmed(content: &[u8]) -> &[u8] {
    let end = content.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r'));
    &content[..end.map_or(0, |last| last + 1)]
}

fn add(value: &[u8], forms: &mut BTreeSet<Vec<u8>>) {
    forms.insert(value.to_vec());
    base64_forms(value, forms);
    percent_forms(value, forms);
    // Bytes that are no text are no JSON either.
    if let Ok(text) = std::str::from_utf8(value) {
        json_forms(text, forms);
    }
}

/// In base64 a value looks different by what stands before it: three bytes make four characters, so there are three
/// ways. Only the characters that the value alone decides can be looked for.
fn base64_forms(value: &[u8], forms: &mut BTreeSet<Vec<u8>>) {
    for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
        for (before, skip) in [(0, 0), (1, 2), (2, 3)] {
            let mut bytes = vec![0; before];
            bytes.extend_from_slice(value);
            let text = engine.encode(&bytes).into_bytes();
            let decided = bytes.len() * 8 / 6;
            forms.insert(text[skip..decided].to_vec());
            // The same where nothing follows: the last character and the padding go as well.
            forms.insert(text[skip..].to_vec());
        }
    }
    for engine in [STANDARD, URL_SAFE] {
        for (before, skip) in [(0, 0), (1, 2), (2, 3)] {
            let mut bytes = vec![0; before];
            bytes.extend_from_slice(value);
            forms.insert(engine.encode(&bytes).into_bytes()[skip..].to_vec());
        }
    }
    // As base64(1) and openssl break it.
    let text = STANDARD.encode(value).into_bytes();
    for width in [64, 76] {
        if text.len() > width {
            forms.insert(text.chunks(width).collect::<Vec<_>>().join(&b'\n'));
        }
    }
}

/// Encoders of URLs differ in what they leave as it is.
fn percent_forms(value: &[u8], forms: &mut BTreeSet<Vec<u8>>) {
    // RFC 3986; the same in paths; the same with spaces as in forms; encodeURIComponent; forms; encodeURI.
    for (kept, plus) in [
        ("-_.~", false),
        ("-_.~/", false),
        ("-_.~", true),
        ("-_.!~*'()", false),
        ("*-._", true),
        ("-_.!~*'();/?:@&=+$,#", false),
    ] {
        for upper in [true, false] {
            let mut text = String::new();
            for &byte in value {
                if byte.is_ascii_alphanumeric() || kept.as_bytes().contains(&byte) {
                    text.push(char::from(byte));
                } else if byte == b' ' && plus {
                    text.push('+');
                } else if upper {
                    let _ = write!(text, "%{byte:02X}");
                } else {
                    let _ = write!(text, "%{byte:02x}");
                }
            }
            forms.insert(text.into_bytes());
        }
    }
}

/// What encoders of JSON write as numbers so that it stands in HTML: none of it; Go; Flask and Django; Gson; .NET.
const HIDDEN: [&str; 5] = ["", "<>&", "<>&'", "<>&='", "\"&'+<>`"];

/// How an encoder of JSON writes what it has a choice about.
#[derive(Clone, Copy)]
struct Style {
    /// `/` as `\/`.
    slash: bool,
    /// What is not ASCII as `\uXXXX`.
    ascii: bool,
    /// These as `\u003c` and so on: one of [`HIDDEN`].
    hidden: &'static str,
    /// Control characters as `\u000a`, never as `\n`.
    control: bool,
    /// `\uABCD`, not `\uabcd`.
    upper: bool,
}

fn json_forms(text: &str, forms: &mut BTreeSet<Vec<u8>>) {
    let differs = |hidden: &&str| hidden.is_empty() || text.contains(|c| hidden.contains(c));
    for hidden in HIDDEN.into_iter().filter(differs) {
        for bits in 0..16_u8 {
            let has = |bit: u8| bits >> bit & 1 == 1;
            let style = Style {
                slash: has(0),
                ascii: has(1),
                hidden,
                control: has(2),
                upper: has(3),
            };
            let once = json(text, style);
            // JSON in a string of JSON is what harnesses print of their tools' answers.
            if hidden.is_empty() && !style.control {
                forms.insert(json(&once, style).into_bytes());
            }
            forms.insert(once.into_bytes());
        }
    }
}

fn json(text: &str, style: Style) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        let short = match c {
            '\n' => "\\n",
            '\r' => "\\r",
            '\t' => "\\t",
            '\u{8}' => "\\b",
            '\u{c}' => "\\f",
            _ => "",
        };
        match c {
            '"' | '\\' if !style.hidden.contains(c) => out.extend(['\\', c]),
            '/' if style.slash => out.push_str("\\/"),
            _ if !short.is_empty() && !style.control => out.push_str(short),
            _ if c < ' ' || (style.ascii && c > '~') || style.hidden.contains(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = if style.upper {
                        write!(out, "\\u{unit:04X}")
                    } else {
                        write!(out, "\\u{unit:04x}")
                    };
                }
            }
            _ => out.push(c),
        }
    }
    out
}
