//! What a program printed, as its result says it: byte for byte, or with how much is missing.

use crate::exec::Captured;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::borrow::Cow;

/// What stands beside the exact bytes for people, in bytes of JSON.
const TEXT_BESIDE_BYTES_MAX: usize = 16 * 1024;

/// A stream in a result.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Printed {
    /// The whole of it when that is text; else what can be shown of it.
    pub(crate) text: String,
    /// The whole of it, when it is no text that JSON can hold.
    pub(crate) base64: Option<String>,
    /// What is in neither, in bytes.
    pub(crate) omitted_bytes: u64,
}

/// Says a stream in a text of at most `json_bytes_max` bytes, or in base64 when that would change its bytes.
pub(crate) fn printed(captured: &Captured, json_bytes_max: usize) -> Printed {
    let (text, omitted_bytes) = captured.text(json_bytes_max);
    if captured.omitted_bytes > 0 {
        return Printed {
            text,
            base64: None,
            omitted_bytes,
        };
    }
    let whole = [&captured.head[..], &captured.tail].concat();
    if omitted_bytes == 0 && text.as_bytes() == whole {
        return Printed {
            text,
            ..Printed::default()
        };
    }
    Printed {
        text: captured.text(TEXT_BESIDE_BYTES_MAX).0,
        base64: Some(STANDARD.encode(whole)),
        omitted_bytes: 0,
    }
}

/// What a result says of what was printed: a command's, or that of an agent which left no result of its own.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    stdout: Option<String>,
    stdout_base64: Option<String>,
    stdout_omitted_bytes: u64,
    session_id: Option<String>,
    output: Option<String>,
    output_base64: Option<String>,
    omitted_bytes: u64,
}

/// What a node printed, as far as its result has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOutput {
    /// The bytes; when some are missing, the first and the last ones as text with a line between that says so.
    pub bytes: Vec<u8>,
    /// How many bytes are missing.
    pub omitted_bytes: u64,
}

/// What a node printed according to its result; none when the result does not say.
#[must_use]
pub fn of_result(result: &str) -> Option<NodeOutput> {
    // An array would be read as the fields in their order.
    if !result.trim_start().starts_with('{') {
        return None;
    }
    let said: Said = serde_json::from_str(result).ok()?;
    let agents = said.session_id.is_some();
    let (text, base64) = match said.stdout {
        Some(stdout) => (stdout, said.stdout_base64),
        None => (said.output.filter(|_| agents)?, said.output_base64),
    };
    let bytes: Cow<'_, [u8]> = match base64 {
        Some(base64) => STANDARD.decode(base64).ok()?.into(),
        None => text.as_bytes().into(),
    };
    Some(NodeOutput {
        bytes: bytes.into_owned(),
        omitted_bytes: said.stdout_omitted_bytes.max(said.omitted_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(head: &[u8], tail: &[u8]) -> Captured {
        Captured {
            head: head.to_vec(),
            tail: tail.to_vec(),
            omitted_bytes: 0,
        }
    }

    fn back(printed: &Printed) -> NodeOutput {
        let result = serde_json::json!({
            "stdout": printed.text,
            "stdout_base64": printed.base64,
            "stdout_omitted_bytes": printed.omitted_bytes,
        });
        of_result(&result.to_string()).unwrap()
    }

    #[test]
    fn what_was_kept_whole_comes_back_byte_for_byte() {
        let noise: Vec<u8> = (0..100_000u32).map(|n| (n * 7 % 256) as u8).collect();
        for bytes in [
            &b"text\0\r\n"[..],
            b"",
            b"\xff",
            "\u{e9}".as_bytes(),
            &noise,
            &[1; 90_000],
        ] {
            for cut in [0, bytes.len() / 2, bytes.len()] {
                let printed = printed(&whole(&bytes[..cut], &bytes[cut..]), 320 * 1024);
                let again = back(&printed);
                assert_eq!((again.bytes.as_slice(), again.omitted_bytes), (bytes, 0));
                assert_eq!(
                    printed.base64.is_none(),
                    bytes.len() < 90_000 && std::str::from_utf8(bytes).is_ok()
                );
            }
        }
    }

    #[test]
    fn what_is_missing_is_counted() {
        let captured = Captured {
            omitted_bytes: 5,
            ..whole(b"a\xff", b"b")
        };
        let printed = printed(&captured, 1000);
        assert_eq!((printed.omitted_bytes, &printed.base64), (5, &None));
        assert_eq!(back(&printed).omitted_bytes, 5);
    }

    #[test]
    fn results_of_other_shapes_say_nothing() {
        for other in [
            "1",
            "[\"a\"]",
            "{\"stdout\":5}",
            "{\"output\":\"x\"}",
            "{\"stdout\":\"\",\"stdout_base64\":\"%\"}",
        ] {
            assert_eq!(of_result(other), None, "{other}");
        }
        let agent = r#"{"session_id":"s","output":"x","output_base64":"/w==","omitted_bytes":3}"#;
        let output = of_result(agent).unwrap();
        assert_eq!((output.bytes.as_slice(), output.omitted_bytes), (&b"\xff"[..], 3));
    }
}
