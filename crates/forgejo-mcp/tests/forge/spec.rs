//! The forges' published specifications, to which requests and answers are held.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::fake::Exchange;

/// The variable that names the folder of `forgejo-swagger.json` and `gitea-swagger.json`.
const VARIABLE: &str = "FORGE_SPECS_DIR";

/// A specification.
pub(crate) struct Spec {
    name: &'static str,
    document: Value,
    validators: BTreeMap<String, jsonschema::Validator>,
    /// The operations that were met.
    pub(crate) met: BTreeSet<String>,
}

impl Spec {
    /// `None`, said aloud, if no specifications are given.
    pub(crate) fn load(name: &'static str) -> Option<Self> {
        let Some(folder) = std::env::var_os(VARIABLE) else {
            // Past the harness, which keeps what is printed by tests that pass.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("{VARIABLE} is not set: NOT checked against the specification of {name}\n")
                    .as_bytes(),
            );
            return None;
        };
        let file = std::path::Path::new(&folder).join(format!("{name}-swagger.json"));
        let text =
            std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let text = without_slots(&text);
        let mut document: Value = serde_json::from_str(&text).unwrap();
        let definitions = document["definitions"].as_object_mut().unwrap();
        definitions.values_mut().for_each(close);
        Some(Self {
            name,
            document,
            validators: BTreeMap::new(),
            met: BTreeSet::new(),
        })
    }

    /// What is wrong with an exchange, in words; nothing, if it is as the specification says.
    pub(crate) fn check(&mut self, exchange: &Exchange) -> Vec<String> {
        let mut wrong = Vec::new();
        let method = exchange.method.to_lowercase();
        let Some((template, operation)) = self.operation(&method, &exchange.path) else {
            return vec![format!(
                "{}: no operation {} {}",
                self.name, exchange.method, exchange.path
            )];
        };
        self.met.insert(format!("{} {template}", exchange.method));
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        for (name, value) in &exchange.query {
            match parameters
                .iter()
                .find(|it| it["in"] == "query" && it["name"] == *name)
            {
                None => wrong.push(format!("unknown query parameter {name}")),
                Some(parameter) => wrong.extend(mismatch(parameter, value)),
            }
        }
        let body = parameters.iter().find(|it| it["in"] == "body");
        match (&exchange.body, body) {
            (Some(value), Some(parameter)) => wrong.extend(self.validate(&parameter["schema"], value)),
            (Some(_), None) => wrong.push("a body that is not asked for".to_owned()),
            (None, Some(parameter)) if parameter["required"] == true => wrong.push("no body".to_owned()),
            (None, _) => {}
        }
        if !exchange.fault && exchange.status != 401 {
            let response = &operation["responses"][exchange.status.to_string()];
            let response = match response["$ref"].as_str() {
                Some(reference) => self
                    .document
                    .pointer(reference.trim_start_matches('#'))
                    .unwrap()
                    .clone(),
                None => response.clone(),
            };
            if response.is_null() {
                wrong.push(format!("status {} is not among its answers", exchange.status));
            }
            let mut schema = response["schema"].clone();
            // Both write only of files here, and list a directory all the same.
            if template.ends_with("/contents/{filepath}") && exchange.answer.starts_with(b"[") {
                schema = json!({ "type": "array", "items": schema });
            }
            let text = schema["type"] == "string" || schema["type"] == "file";
            if schema.is_object() && !text {
                match serde_json::from_slice(&exchange.answer) {
                    Ok(answer) => wrong.extend(self.validate(&schema, &answer)),
                    Err(error) => wrong.push(format!("the answer is no JSON: {error}")),
                }
            }
        }
        let at = format!("{}: {} {template}: ", self.name, exchange.method);
        wrong.into_iter().map(|why| format!("{at}{why}")).collect()
    }

    fn operation(&self, method: &str, path: &str) -> Option<(String, Value)> {
        let paths = self.document["paths"].as_object().unwrap();
        let mut found: Vec<_> = paths
            .iter()
            .filter(|(template, methods)| methods.get(method).is_some() && fits(template, path))
            // The one with most fixed words is meant.
            .map(|(template, methods)| {
                // A diff's path is also that of a thing whose name ends so.
                let diff = template.ends_with(".{diffType}");
                let slots = template.matches('{').count() - usize::from(diff);
                ((slots, !diff), template.clone(), methods[method].clone())
            })
            .collect();
        found.sort_by_key(|(slots, ..)| *slots);
        found
            .into_iter()
            .next()
            .map(|(_, template, operation)| (template, operation))
    }

    fn validate(&mut self, schema: &Value, value: &Value) -> Vec<String> {
        let key = schema.to_string();
        if !self.validators.contains_key(&key) {
            let mut root = schema.clone();
            root["definitions"] = self.document["definitions"].clone();
            let validator = jsonschema::options()
                .with_draft(jsonschema::Draft::Draft4)
                .build(&root)
                .unwrap();
            self.validators.insert(key.clone(), validator);
        }
        self.validators[&key]
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect()
    }
}

/// Gitea's has `{{…}}` where its build writes something.
fn without_slots(text: &str) -> String {
    let mut parts = text.split("{{");
    let mut made = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        made.push_str(part.split_once("}}").map_or("", |(_, rest)| rest));
    }
    made
}

/// Whether a path is one of a template's. Branches and files may have slashes.
fn fits(template: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (template.split('/').peekable(), path.split('/').peekable());
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some("{filepath}" | "{branch}"), Some(_)) if wanted.peek().is_none() => return true,
            (Some(slot), Some(part)) => {
                let ok = match slot.split_once('{') {
                    None => slot == part,
                    Some(_) if slot == "{index}.{diffType}" || slot == "{sha}.{diffType}" => {
                        part.ends_with(".diff")
                    }
                    Some(_) => {
                        let number = matches!(slot, "{index}" | "{id}");
                        !part.is_empty() && (!number || part.parse::<u64>().is_ok())
                    }
                };
                if !ok {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

fn mismatch(parameter: &Value, value: &str) -> Option<String> {
    let sound = match parameter["type"].as_str() {
        Some("integer") => value.parse::<i64>().is_ok(),
        Some("boolean") => matches!(value, "true" | "false"),
        _ => parameter["enum"]
            .as_array()
            .is_none_or(|values| values.iter().any(|it| it == value)),
    };
    (!sound).then(|| format!("query parameter {} cannot be {value:?}", parameter["name"]))
}

/// An object may have no field that the specification does not know: a misspelt one would pass otherwise.
fn close(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    // In Swagger 2.0 what stands beside a reference is a comment.
    if fields.contains_key("$ref") {
        fields.retain(|name, _| name == "$ref");
        return;
    }
    fields.retain(|name, _| !name.starts_with("x-") && name != "example" && name != "format");
    if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(close);
        fields.entry("additionalProperties").or_insert(json!(false));
    }
    if let Some(items) = fields.get_mut("items") {
        close(items);
    }
    if let Some(all) = fields.get_mut("allOf").and_then(Value::as_array_mut) {
        all.iter_mut().for_each(|part| {
            close(part);
            if let Some(part) = part.as_object_mut() {
                part.remove("additionalProperties");
            }
        });
    }
}

/// The fields of an object.
pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => panic!("an object is wanted, not {other}"),
    }
}
