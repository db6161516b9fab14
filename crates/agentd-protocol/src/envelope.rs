//! One request line, one response line.

use crate::error::{Reason, RpcError, code};
use crate::json::{Json, NESTING_MAX, nesting};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A request, taken apart just far enough to be dispatched.
#[derive(Debug)]
pub struct RequestLine {
    /// The client's own mark, echoed. Absent and null are different: only what was sent is echoed.
    pub id: Option<Json>,
    /// The method, as it was spelled.
    pub method: String,
    /// The parameters; `{}` when absent or null.
    pub params: Box<RawValue>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default, borrow, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(default, borrow)]
    method: Option<&'a RawValue>,
    #[serde(default)]
    params: Option<Box<RawValue>>,
}

// Keeps `"id": null` apart from no id at all.
fn present<'de: 'a, 'a, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&'a RawValue>::deserialize(deserializer).map(Some)
}

impl RequestLine {
    /// Parses a line without its newline.
    ///
    /// # Errors
    /// The answer to give, and the id to give it under if one could be made out.
    pub fn parse(line: &[u8]) -> Result<Self, (Option<Json>, RpcError)> {
        let depth = nesting(line);
        if depth > NESTING_MAX {
            let message = format!("the request is nested {depth} deep; at most {NESTING_MAX} is read");
            return Err((None, RpcError::new(code::PARSE, Reason::BadRequest, message)));
        }
        let envelope: Envelope<'_> = serde_json::from_slice(line).map_err(|error| {
            // Valid JSON of another shape is another mistake, with another code.
            if error.is_data() && serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok() {
                let message = format!("not a request object {{\"id\":…,\"method\":…,\"params\":…}}: {error}");
                (
                    None,
                    RpcError::new(code::INVALID_REQUEST, Reason::BadRequest, message),
                )
            } else {
                let message = format!("not JSON (one request a line, in UTF-8): {error}");
                (None, RpcError::new(code::PARSE, Reason::BadRequest, message))
            }
        })?;
        let id = envelope.id.map(Json::of);
        let method = envelope
            .method
            .and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        let Some(method) = method else {
            let message = "the request has no \"method\" that is a string";
            return Err((
                id,
                RpcError::new(code::INVALID_REQUEST, Reason::BadRequest, message),
            ));
        };
        let params = envelope.params.filter(|raw| raw.get() != "null");
        let params = params.unwrap_or_else(|| RawValue::NULL.to_owned());
        Ok(Self { id, method, params })
    }
}

/// A response, as the client reads it.
#[derive(Debug, Deserialize)]
pub struct ResponseLine {
    /// The request's mark.
    #[serde(default)]
    pub id: Option<Json>,
    /// Null is a result too.
    #[serde(default)]
    pub result: Option<Json>,
    /// Instead of a result.
    #[serde(default)]
    pub error: Option<RpcError>,
}

/// Appends a response line with a result, newline included.
///
/// # Errors
/// When `result` cannot be JSON; `out` is then as it was.
pub fn write_result<T: Serialize + ?Sized>(
    out: &mut Vec<u8>,
    id: Option<&Json>,
    result: &T,
) -> Result<(), serde_json::Error> {
    let begin = out.len();
    write_id(out, id);
    out.extend_from_slice(b"\"result\":");
    if let Err(error) = serde_json::to_writer(&mut *out, result) {
        out.truncate(begin);
        return Err(error);
    }
    out.extend_from_slice(b"}\n");
    Ok(())
}

/// Appends a response line with an error, newline included.
pub fn write_error(out: &mut Vec<u8>, id: Option<&Json>, error: &RpcError) {
    write_id(out, id);
    out.extend_from_slice(b"\"error\":");
    // Writing strings and numbers to memory does not fail.
    let _ = serde_json::to_writer(&mut *out, error);
    out.extend_from_slice(b"}\n");
}

fn write_id(out: &mut Vec<u8>, id: Option<&Json>) {
    out.push(b'{');
    if let Some(id) = id {
        out.extend_from_slice(b"\"id\":");
        out.extend_from_slice(id.text().as_bytes());
        out.push(b',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(line: &[u8]) -> i32 {
        RequestLine::parse(line).unwrap_err().1.code
    }

    #[test]
    fn ids_are_echoed_only_when_there_was_one() {
        let request = RequestLine::parse(br#"{"id":null,"method":"Health"}"#).unwrap();
        assert_eq!(request.id.unwrap().text(), "null");
        let request = RequestLine::parse(br#"{"method":"Health","params":null}"#).unwrap();
        assert!(request.id.is_none());
        assert_eq!(request.params.get(), "null");
    }

    #[test]
    fn what_is_not_a_request_says_why() {
        assert_eq!(code_of(b"hello"), code::PARSE);
        assert_eq!(code_of(b"{\"method\":\"Hea"), code::PARSE);
        assert_eq!(code_of(b"{\"method\":\"\xff\"}"), code::PARSE);
        assert_eq!(code_of("[".repeat(100_000).as_bytes()), code::PARSE);
        assert_eq!(code_of(b"[1]"), code::INVALID_REQUEST);
        assert_eq!(code_of(b"42"), code::INVALID_REQUEST);
        assert_eq!(code_of(b"{\"id\":7}"), code::INVALID_REQUEST);
        let (id, error) = RequestLine::parse(b"{\"id\":7,\"method\":5}").unwrap_err();
        assert_eq!((id.unwrap().text(), error.code), ("7", code::INVALID_REQUEST));
    }
}
