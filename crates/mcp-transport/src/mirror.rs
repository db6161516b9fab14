//! Arguments that HTTP has in headers, too: what `x-mcp-header` in a tool's schema asks for in the newer revision.

use crate::catalog::{Catalog, Found};
use crate::headers::{decoded, encoded, one};
use crate::message::{Object, RpcError, code};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::HashSet;

const MARK: &str = "x-mcp-header";
const PREFIX: &str = "mcp-param-";

/// An argument that is in a header, too.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mirrored {
    /// Where it stands in the arguments.
    path: Vec<String>,
    header: HeaderName,
}

/// What a tool's definition wants to have in headers. An error says why clients may not use it over HTTP.
pub(crate) fn of_tool(definition: &RawValue) -> Result<Vec<Mirrored>, String> {
    // Hardly any tool has this, and schemas are large.
    if memchr::memmem::find(definition.get().as_bytes(), MARK.as_bytes()).is_none() {
        return Ok(Vec::new());
    }
    let definition: Value = serde_json::from_str(definition.get()).unwrap_or_default();
    let mut found = Vec::new();
    search(&definition["inputSchema"], Some(&mut Vec::new()), &mut found)?;
    let mut names = HashSet::new();
    match found.iter().find(|mirrored| !names.insert(&mirrored.header)) {
        Some(twice) => Err(format!("two arguments want the header {}", twice.header)),
        None => Ok(found),
    }
}

/// Looks through a schema. With no path, this part of it is of no one place in the arguments.
fn search(schema: &Value, path: Option<&mut Vec<String>>, found: &mut Vec<Mirrored>) -> Result<(), String> {
    let Some(schema) = schema.as_object() else {
        return Ok(());
    };
    if let Some(name) = schema.get(MARK) {
        let path = path.as_ref().filter(|path| !path.is_empty());
        let path = path.ok_or_else(|| format!("{MARK} stands where no single argument is meant"))?;
        found.push(mirrored(name, schema.get("type"), path)?);
    }
    let mut path = path;
    for (key, part) in schema {
        match (key.as_str(), part) {
            // Values, not schemas.
            ("default" | "const" | "enum" | "examples", _) => {}
            ("properties", Value::Object(properties)) => {
                for (name, property) in properties {
                    if let Some(path) = path.as_deref_mut() {
                        path.push(name.clone());
                        search(property, Some(path), found)?;
                        path.pop();
                    } else {
                        search(property, None, found)?;
                    }
                }
            }
            ("$defs" | "definitions" | "dependentSchemas" | "patternProperties", Value::Object(named)) => {
                for part in named.values() {
                    search(part, None, found)?;
                }
            }
            (_, Value::Array(parts)) => {
                for part in parts {
                    search(part, None, found)?;
                }
            }
            (_, part) => search(part, None, found)?,
        }
    }
    Ok(())
}

fn mirrored(name: &Value, kind: Option<&Value>, path: &[String]) -> Result<Mirrored, String> {
    let name = name.as_str().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| format!("{MARK} names no header"))?;
    let header = HeaderName::try_from(format!("{PREFIX}{name}"))
        .map_err(|_| format!("{MARK} names {name:?}, which no header can be called"))?;
    match kind.and_then(Value::as_str) {
        Some("string" | "integer" | "boolean") => Ok(Mirrored {
            path: path.to_vec(),
            header,
        }),
        _ => Err(format!(
            "{MARK} {name:?} is on what is no string, integer or boolean"
        )),
    }
}

/// The arguments of a call, as far as headers name them. None for those that are null or not there.
fn values<'a>(
    all: &'a [Mirrored],
    params: &Object<'_>,
) -> impl Iterator<Item = (&'a HeaderName, Option<String>)> + use<'a> {
    let arguments = params.get("arguments").map_or("null", RawValue::get);
    let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
    all.iter().map(move |mirrored| {
        let mut path = mirrored.path.iter();
        let value = path.try_fold(&arguments, |value, key| value.get(key));
        let text = match value {
            Some(Value::String(text)) => Some(text.clone()),
            Some(value @ (Value::Bool(_) | Value::Number(_))) => Some(value.to_string()),
            _ => None,
        };
        (&mirrored.header, text)
    })
}

/// Puts them into the headers of a call.
pub(crate) fn put(headers: &mut HeaderMap, all: &[Mirrored], params: &Object<'_>) {
    for (header, text) in values(all, params) {
        // Encoded, any text is fit for a header.
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(&encoded(&text)).ok()) {
            headers.insert(header, value);
        }
    }
}

/// Refuses a call whose headers say something else than its arguments: somebody on the way may have gone by them.
pub(crate) fn call_agrees(
    headers: &HeaderMap,
    catalog: &Catalog,
    method: &str,
    params: Option<&RawValue>,
) -> Result<(), RpcError> {
    let params = Object::of(params).unwrap_or_default();
    let name = match method {
        "tools/call" => params.text("name"),
        _ => None,
    };
    match name.map(|name| catalog.tool(&name)) {
        Some(Found::Tool(tool)) => agree(headers, &tool.mirrored, &params),
        // Such a call is refused for another reason, or is of no tool with arguments.
        _ => Ok(()),
    }
}

fn agree(headers: &HeaderMap, all: &[Mirrored], params: &Object<'_>) -> Result<(), RpcError> {
    if all.is_empty() {
        return Ok(());
    }
    for (header, text) in values(all, params) {
        let why = match (one(headers, header.as_str())?, text) {
            (None, None) => continue,
            (None, Some(_)) => format!("the header {header} is missing"),
            (Some(said), Some(text)) => match decoded(said) {
                Some(said) if is_same(&said, &text) => continue,
                Some(said) => format!("the header {header} says {said:?}, and the message {text:?}"),
                None => format!("the header {header} cannot be decoded"),
            },
            (Some(_), None) => format!("the header {header} is there, and its argument is not"),
        };
        return Err(RpcError::new(code::HEADER_MISMATCH, why));
    }
    Ok(())
}

/// Numbers are the same however they are written.
fn is_same(said: &str, text: &str) -> bool {
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
    said == text || number(said).is_some_and(|said| Some(said) == number(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Raw, raw};
    use serde_json::json;

    fn tool(properties: Value) -> Raw {
        raw(&json!({"name": "t", "inputSchema": {"type": "object", "properties": properties}}))
    }

    #[test]
    fn what_is_asked_for() {
        let definition = tool(json!({
            "region": {"type": "string", "x-mcp-header": "Region"}, "other": {"type": "string"},
            "deep": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
            "gone": {"type": "boolean", "x-mcp-header": "Gone"},
        }));
        let all = of_tool(&definition).unwrap();
        let params =
            raw(&json!({"arguments": {"region": " ä", "other": "x", "deep": {"n": 42}, "gone": null}}));
        let params = Object::parse(&params).unwrap();
        let mut headers = HeaderMap::new();
        put(&mut headers, &all, &params);
        assert_eq!(headers.len(), 2, "{headers:?}");
        assert_eq!(headers["mcp-param-region"], "=?base64?IMOk?=");
        agree(&headers, &all, &params).unwrap();
        headers.insert("mcp-param-n", HeaderValue::from_static("42.0"));
        agree(&headers, &all, &params).unwrap();
        for (header, wrong) in [
            ("mcp-param-n", "43"),
            ("mcp-param-region", "ä"),
            ("mcp-param-region", "=?base64?IMOk"),
            ("mcp-param-gone", "true"),
        ] {
            let mut headers = headers.clone();
            headers.insert(header, HeaderValue::from_str(wrong).unwrap());
            assert!(agree(&headers, &all, &params).is_err(), "{header}: {wrong}");
        }
        headers.remove("mcp-param-n");
        assert!(agree(&headers, &all, &params).is_err());
    }

    #[test]
    fn what_may_not_be_asked_for() {
        let string = |name: &str| json!({"type": "string", "x-mcp-header": name});
        for wrong in [
            json!({"a": string("")}),
            json!({"a": string("a b")}),
            json!({"a": string("é")}),
            json!({"a": {"type": "string", "x-mcp-header": 7}}),
            json!({"a": {"type": "number", "x-mcp-header": "A"}}),
            json!({"a": {"type": "array", "items": string("A")}}),
            json!({"a": {"anyOf": [string("A")]}}),
            json!({"a": string("A"), "b": string("a")}),
        ] {
            assert!(of_tool(&tool(wrong.clone())).is_err(), "{wrong}");
        }
        let harmless =
            json!({"a": {"type": "string", "default": {"x-mcp-header": 1}, "description": "x-mcp-header"}});
        assert_eq!(of_tool(&tool(harmless)), Ok(Vec::new()));
    }
}
