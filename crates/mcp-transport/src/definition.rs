//! Whether clients can read a tool's definition.

use crate::message::Object;
use serde_json::value::RawValue;

/// Clients that read tools into types refuse the whole list for one that does not fit: no agent would have any tools then.
///
/// # Errors
/// A clause for people.
pub(crate) fn check_tool(tool: &Object<'_>) -> Result<(), String> {
    let is_object = |value: &RawValue| value.get().starts_with('{');
    let schema = tool.get("inputSchema").and_then(Object::parse);
    if schema.and_then(|schema| schema.text("type")).as_deref() != Some("object") {
        return Err("its inputSchema is no JSON Schema with \"type\": \"object\"".into());
    }
    for key in ["outputSchema", "annotations", "_meta"] {
        if tool.get(key).is_some_and(|value| !is_object(value)) {
            return Err(format!("its {key} is no object"));
        }
    }
    for key in ["title", "description"] {
        if tool.get(key).is_some() && tool.text(key).is_none() {
            return Err(format!("its {key} is no text"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::raw;
    use serde_json::json;

    #[test]
    fn what_clients_refuse_is_refused() {
        let schema = json!({"type": "object"});
        for (tool, key) in [
            (json!({}), "inputSchema"),
            (json!({"inputSchema": null}), "inputSchema"),
            (json!({"inputSchema": []}), "inputSchema"),
            (json!({"inputSchema": {}}), "inputSchema"),
            (json!({"inputSchema": {"type": ["object"]}}), "inputSchema"),
            (
                json!({"inputSchema": schema, "outputSchema": null}),
                "outputSchema",
            ),
            (json!({"inputSchema": schema, "annotations": 7}), "annotations"),
            (json!({"inputSchema": schema, "description": null}), "description"),
        ] {
            let why = check_tool(&Object::parse(&raw(&tool)).unwrap()).unwrap_err();
            assert!(why.starts_with(&format!("its {key} is no ")), "{why}");
        }
        let all = json!({"inputSchema": schema, "outputSchema": schema, "annotations": {}, "title": "t", "else": 1});
        assert_eq!(check_tool(&Object::parse(&raw(&all)).unwrap()), Ok(()));
    }
}
