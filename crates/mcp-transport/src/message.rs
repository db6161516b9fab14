//! JSON-RPC as a router sees it: envelopes are read, what they carry is passed on as it was written.

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// Raw JSON that outlives its message.
pub(crate) type Raw = Box<RawValue>;

/// The most of an `id`, in bytes. Ours are numbers; theirs are numbers or short strings.
const ID_BYTES_MAX: usize = 256;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    jsonrpc: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// One message.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    Request {
        id: &'a RawValue,
        method: Cow<'a, str>,
        params: Option<&'a RawValue>,
    },
    Notification {
        method: Cow<'a, str>,
        params: Option<&'a RawValue>,
    },
    Response {
        /// None for an answer to what could not be read.
        id: Option<&'a RawValue>,
        answer: Result<&'a RawValue, &'a RawValue>,
    },
}

/// Why something is no message.
#[derive(Debug)]
pub(crate) struct Malformed {
    /// -32700 or -32600.
    pub(crate) code: i32,
    pub(crate) why: String,
    /// As far as it could be seen.
    pub(crate) id: Option<Raw>,
    /// It has a method: it is no answer.
    pub(crate) asks: bool,
}

/// Reads a message.
pub(crate) fn parse(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let malformed = |code, why: String, id: Option<&RawValue>, asks| Malformed {
        code,
        why,
        id: id.map(ToOwned::to_owned),
        asks,
    };
    let Ok(text) = std::str::from_utf8(bytes) else {
        // Whose it is can be read nevertheless: somebody waits for it.
        let text = String::from_utf8_lossy(bytes);
        let envelope = serde_json::from_str::<Envelope<'_>>(&text).ok();
        let id = envelope.as_ref().and_then(|envelope| envelope.id);
        let asks = envelope
            .as_ref()
            .is_some_and(|envelope| envelope.method.is_some());
        let why = "a message is not UTF-8".into();
        return Err(malformed(code::PARSE_ERROR, why, id.filter(|id| is_id(id)), asks));
    };
    let no_envelope = |why: String| {
        // Only the whole of it says whether it is JSON.
        let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
        let code = if is_json {
            code::INVALID_REQUEST
        } else {
            code::PARSE_ERROR
        };
        malformed(code, format!("not a JSON-RPC message: {why}"), None, false)
    };
    // A list could be read as the members in their order.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(no_envelope("a message is one JSON object".into()));
    }
    let envelope: Envelope<'_> =
        serde_json::from_str(text).map_err(|error| no_envelope(error.to_string()))?;
    // What is no id is not sent back either.
    let (id, is_id) = match envelope.id {
        Some(id) if !is_id(id) => (None, false),
        id => (id, true),
    };
    let asks = envelope.method.is_some();
    if envelope.jsonrpc.as_deref() != Some("2.0") {
        let why = "\"jsonrpc\" is not \"2.0\"".into();
        return Err(malformed(code::INVALID_REQUEST, why, id, asks));
    }
    if !is_id {
        let why = format!("an id is a number or a string of at most {ID_BYTES_MAX} bytes");
        return Err(malformed(code::INVALID_REQUEST, why, None, asks));
    }
    match (envelope.method, id, envelope.result, envelope.error) {
        (Some(method), Some(id), None, None) => Ok(Message::Request {
            id,
            method,
            params: envelope.params,
        }),
        (Some(method), None, None, None) => Ok(Message::Notification {
            method,
            params: envelope.params,
        }),
        (None, id, Some(result), None) => Ok(Message::Response {
            id,
            answer: Ok(result),
        }),
        (None, id, None, Some(error)) => Ok(Message::Response {
            id,
            answer: Err(error),
        }),
        (_, id, _, _) => {
            let why = "neither a request, nor a notification, nor an answer".into();
            Err(malformed(code::INVALID_REQUEST, why, id, asks))
        }
    }
}

fn is_id(id: &RawValue) -> bool {
    let text = id.get();
    text.len() <= ID_BYTES_MAX && matches!(text.as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9'))
}

/// JSON-RPC's and MCP's error codes, as the SDK has them.
pub(crate) mod code {
    use rmcp::model::ErrorCode;
    pub(crate) const PARSE_ERROR: i32 = ErrorCode::PARSE_ERROR.0;
    pub(crate) const INVALID_REQUEST: i32 = ErrorCode::INVALID_REQUEST.0;
    pub(crate) const METHOD_NOT_FOUND: i32 = ErrorCode::METHOD_NOT_FOUND.0;
    pub(crate) const INVALID_PARAMS: i32 = ErrorCode::INVALID_PARAMS.0;
    pub(crate) const INTERNAL_ERROR: i32 = ErrorCode::INTERNAL_ERROR.0;
    pub(crate) const UNSUPPORTED_VERSION: i32 = ErrorCode::UNSUPPORTED_PROTOCOL_VERSION.0;
    pub(crate) const HEADER_MISMATCH: i32 = ErrorCode::HEADER_MISMATCH.0;
    pub(crate) const RESOURCE_NOT_FOUND: i32 = ErrorCode::RESOURCE_NOT_FOUND.0;
}

/// An error as JSON-RPC has it.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct RpcError {
    /// For programs.
    pub code: i32,
    /// For people and models.
    pub message: String,
    /// Whatever else there is to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
}

impl RpcError {
    pub(crate) fn new(code: i32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            data: None,
        }
    }

    pub(crate) fn method_not_found(method: &str) -> Self {
        Self::new(code::METHOD_NOT_FOUND, format!("Method not found: {method}"))
    }

    pub(crate) fn params(message: impl Into<String>) -> Self {
        Self::new(code::INVALID_PARAMS, message)
    }

    pub(crate) fn raw(&self) -> Raw {
        raw(self)
    }
}

/// A value as raw JSON.
pub(crate) fn raw<T: Serialize + ?Sized>(value: &T) -> Raw {
    // Only maps with keys that are no strings cannot be written, and there are none here.
    serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// Text that is known to be JSON as raw JSON.
pub(crate) fn raw_text(text: String) -> Raw {
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The line of an answer.
pub(crate) fn answer_line(id: &RawValue, answer: Result<&RawValue, &RawValue>) -> bytes::Bytes {
    let (key, value) = match answer {
        Ok(result) => ("result", result),
        Err(error) => ("error", error),
    };
    let mut line = String::with_capacity(value.get().len() + id.get().len() + 48);
    line.push_str(r#"{"jsonrpc":"2.0","id":"#);
    line.push_str(id.get());
    line.push_str(",\"");
    line.push_str(key);
    line.push_str("\":");
    line.push_str(value.get());
    line.push_str("}\n");
    line.into()
}

/// The line of a request, or of a notification when there is no id.
pub(crate) fn method_line(id: Option<&str>, method: &str, params: Option<&str>) -> bytes::Bytes {
    let mut line = String::with_capacity(params.map_or(0, str::len) + method.len() + 80);
    line.push_str(r#"{"jsonrpc":"2.0""#);
    if let Some(id) = id {
        let _ = write!(line, ",\"id\":{id}");
    }
    line.push_str(",\"method\":");
    line.push_str(raw(method).get());
    if let Some(params) = params {
        line.push_str(",\"params\":");
        line.push_str(params);
    }
    line.push_str("}\n");
    line.into()
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// A JSON object whose order and unknown members stay as they are.
#[derive(Debug, Default)]
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

impl<'a> Object<'a> {
    /// None when it is no object.
    pub(crate) fn parse(raw: &'a RawValue) -> Option<Self> {
        serde_json::from_str(raw.get()).ok()
    }

    /// An empty one for nothing, none for what is no object.
    pub(crate) fn of(raw: Option<&'a RawValue>) -> Option<Self> {
        raw.map_or_else(|| Some(Self::default()), Self::parse)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&RawValue> {
        let found = self.0.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| &**value)
    }

    pub(crate) fn text(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.get(key)?.get()).ok()
    }

    pub(crate) fn is_true(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value.get() == "true")
    }

    pub(crate) fn set(&mut self, key: &'a str, value: Raw) {
        match self.0.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = Cow::Owned(value),
            None => self.0.push((Cow::Borrowed(key), Cow::Owned(value))),
        }
    }

    pub(crate) fn remove(&mut self, key: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(name, _)| name != key);
        self.0.len() != before
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    pub(crate) fn to_text(&self) -> String {
        let bytes: usize = self.0.iter().map(|(k, v)| k.len() + v.get().len() + 4).sum();
        let mut text = String::with_capacity(bytes + 2);
        text.push('{');
        for (at, (key, value)) in self.0.iter().enumerate() {
            if at > 0 {
                text.push(',');
            }
            text.push_str(raw(&**key).get());
            text.push(':');
            text.push_str(value.get());
        }
        text.push('}');
        text
    }

    pub(crate) fn to_raw(&self) -> Raw {
        raw_text(self.to_text())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Members<'a> {
            type Value = Object<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(Cow<'a, str>, Cow<'a, RawValue>)> = Vec::new();
                while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    // As JavaScript reads it: the last of several wins. Both sides must see the same one.
                    members.retain(|(name, _)| *name != key);
                    members.push((key, Cow::Borrowed(value)));
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members(std::marker::PhantomData))
    }
}

/// JSON that came with line breaks in it, made fit for one line. A raw line break is in no JSON string.
pub(crate) fn one_line(bytes: &mut [u8]) {
    for byte in bytes {
        if matches!(*byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_messages() {
        assert!(matches!(
            parse(br#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#),
            Ok(Message::Request { .. })
        ));
        assert!(matches!(
            parse(br#"{"jsonrpc":"2.0","method":"x","params":{}}"#),
            Ok(Message::Notification { .. })
        ));
        assert!(matches!(
            parse(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
            Ok(Message::Response { answer: Ok(_), .. })
        ));
        for (bytes, expected) in [
            (&b"garbage"[..], code::PARSE_ERROR),
            (b"\xff", code::PARSE_ERROR),
            (b"[]", code::INVALID_REQUEST),
            (br#"{"jsonrpc":"2.0"}"#, code::INVALID_REQUEST),
            (br#"{"jsonrpc":"1.0","id":1,"method":"x"}"#, code::INVALID_REQUEST),
            (
                br#"{"jsonrpc":"2.0","id":{},"method":"x"}"#,
                code::INVALID_REQUEST,
            ),
            (
                br#"{"jsonrpc":"2.0","id":1,"method":"x","result":{}}"#,
                code::INVALID_REQUEST,
            ),
        ] {
            let malformed = parse(bytes).unwrap_err();
            assert_eq!(malformed.code, expected, "{malformed:?}");
        }
    }

    #[test]
    fn objects_keep_what_they_do_not_know() {
        let text = r#"{"b":1.50,"a":{"x":"\u00e9"},"name":"n"}"#;
        let given: Raw = raw_text(text.into());
        let mut object = Object::parse(&given).unwrap();
        assert_eq!(object.to_text(), text);
        object.set("name", raw("m"));
        assert!(object.remove("a"));
        assert_eq!(object.to_text(), r#"{"b":1.50,"name":"m"}"#);
        let twice = raw_text(r#"{"name":"safe","name":"other"}"#.into());
        assert_eq!(Object::parse(&twice).unwrap().to_text(), r#"{"name":"other"}"#);
    }
}
