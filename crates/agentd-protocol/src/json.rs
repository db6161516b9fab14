//! JSON that the daemon carries without looking inside.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// One well-formed JSON value, kept as the text that the client sent: payloads are stored, handed on and
/// answered without ever being taken apart, so numbers keep their digits and objects their key order.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json(Box<RawValue>);

impl Json {
    /// Checks that `text` is one JSON value.
    ///
    /// # Errors
    /// The parser's error when it is not.
    pub fn from_text(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(Self)
    }

    /// Any serialisable value as JSON.
    ///
    /// # Panics
    /// When `value` cannot be JSON at all (a map with keys that are not strings), which is a mistake in the
    /// calling code and not in any input.
    #[must_use]
    #[expect(clippy::expect_used, reason = "documented: a mistake in the calling code")]
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Self {
        Self(serde_json::value::to_raw_value(value).expect("a value of ours is JSON"))
    }

    /// `{}`
    #[must_use]
    pub fn empty_object() -> Self {
        Self::of(&serde_json::Map::new())
    }

    /// `null`
    #[must_use]
    pub fn null() -> Self {
        Self::of(&())
    }

    /// The text, exactly as it came in.
    #[must_use]
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// Takes the value apart.
    #[must_use]
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::from_str(self.text()).unwrap_or_default()
    }

    /// True for `{}`, however it is spaced.
    #[must_use]
    pub fn is_empty_object(&self) -> bool {
        let text = self.text();
        text == "{}"
            || (text.starts_with('{') && text.ends_with('}') && text[1..text.len() - 1].trim().is_empty())
    }
}

impl Default for Json {
    fn default() -> Self {
        Self::empty_object()
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Json {}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl From<serde_json::Value> for Json {
    fn from(value: serde_json::Value) -> Self {
        Self::of(&value)
    }
}

impl JsonSchema for Json {
    fn schema_name() -> Cow<'static, str> {
        "Json".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "description": "any JSON value" })
    }
}

/// How deeply arrays and objects may nest in one request. Most JSON parsers of other languages give up, or
/// overflow their stack, a little above this: what we took beyond it, our readers could not read.
pub const NESTING_MAX: usize = 128;

/// The depth of the most deeply nested array or object in `text`, in one pass and without recursion. `text`
/// need not be valid JSON.
#[must_use]
pub fn nesting(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0usize, false, false);
    for &byte in text {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
        } else {
            match byte {
                b'"' => in_string = true,
                b'{' | b'[' => {
                    depth += 1;
                    deepest = deepest.max(depth);
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_counts_brackets_outside_strings_only() {
        assert_eq!(nesting(br#"{"a":[1,{"b":"[[[[\"[["}]}"#), 3);
        assert_eq!(nesting(b"1"), 0);
        assert_eq!(nesting("[".repeat(100_000).as_bytes()), 100_000);
    }

    #[test]
    fn text_is_kept_to_the_letter() {
        let json: Json = serde_json::from_str(r#"{"b":1.50, "a":12345678901234567890123}"#).unwrap();
        assert_eq!(json.text(), r#"{"b":1.50, "a":12345678901234567890123}"#);
        assert!(Json::from_text("{ }".into()).unwrap().is_empty_object());
        assert!(Json::from_text("{".into()).is_err());
    }
}
